"""Input for the decoders: valid batches, and mutations of them."""

import re
from pathlib import Path
from random import Random
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
"""Inputs that are kept, one folder per target. Every run starts with them."""

BUILD: Final = Path(__file__).parents[2] / "build/fuzz"
"""Output folder of the runs."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s"\[\]{},:]+|\s+')

_NUMBERS: Final = (
    b"0 -0 1 -1 1.0 -0.0 1.50 1e3 1E+2 1e-2 1e400 -1e999999999 0.1000000000000000055511151231257827"
    b" 99999 100000 9007199254740991 9007199254740993 123456789012345678901234567890"
).split()
_STRINGS: Final = [
    rb'""',
    rb'"a"',
    rb'"caf\u00e9"',
    rb'"\n\r\t\b\f\"\\\/\u0000\u007f"',
    rb'"\ud83d\ude00"',
    '"é漢😀"'.encode(),
    '"\u2028\u2029\u0085\ufeff\ufffe\ufffd"'.encode(),
    b'"]}"',
    b'"\x7f"',
    rb'"{\"seqNum\":1}"',
]
_WORDS: Final = [b"null", b"true", b"false"]
_NAMES: Final = [b'"id"', b'""', b'"seqNum"', b'"data"', rb'"seq\u004eum"', b'"x"', '"é"'.encode()]
_ODD: Final = [
    *_NUMBERS,
    *_STRINGS,
    *_WORDS,
    *_NAMES,
    *(b"NaN Infinity -Infinity nan inf -NaN tru nul None".split()),
    *(b"+1 .5 1. 01 -01 0x1 1_000 1e 1e+ -".split()),
    *(b"// /**/ # ' \\ \" \\u \\ud800 \\x41".split(b" ")),
    rb'"\ud800"',
    rb'"\udc00\ud800"',
    rb'{"\udfff":1}',
    rb'"\ud83d\u0041"',
    rb'"\x41"',
    rb'"\u12"',
    rb'"\u 123"',
    b'"\n"',
    b'"\x00"',
    b'"\x1f"',
    b"'a'",
    b"9" * 4_299,
    b"9" * 4_301,
    b"-" + b"8" * 5_000,
    b"[]",
    b"{}",
    b"[" * 20,
    b"]" * 20,
    b"[[[[]]]]",
    b'"seqNum":1',
    b'"data":[1]',
    b",",
    b":",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"\xed\xa0\x80"',
    b'"\xc0\xaf"',
    b'"\xff"',
    b'"\xf4\x90\x80\x80"',
    b"\x00",
    b"\x0b",
    b"\x0c",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"\x1e",
    b"\n",
    b"\r",
    b"\t",
]
_SPACES: Final = [b"", b"", b"", b"", b" ", b"\n", b"\r\n", b"\t", b"  \r"]
_ENCODINGS: Final = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig"]
_DEPTHS: Final = [400, 490, 497, 498, 499, 505, 900, 990, 1_000, 1_100, 20_000]


def value(chance: Random, depth: int = 0) -> bytes:
    kind = chance.randrange(7 if depth < 4 else 4)
    if kind < 2:
        return chance.choice(_NUMBERS)
    if kind < 4:
        return chance.choice(_STRINGS if kind == 2 else _WORDS)
    items = [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 4:
        return b"[" + _joined(chance, items) + b"]"
    return b"{" + _joined(chance, [chance.choice(_NAMES) + b":" + item for item in items]) + b"}"


def _joined(chance: Random, items: list[bytes]) -> bytes:
    space = chance.choice(_SPACES)
    return space + (space + b"," + space).join(items) + space


def batch(chance: Random) -> bytes:
    records = [value(chance) for _ in range(chance.randrange(1, 5))]
    members = [
        b'"seqNum":%d' % chance.choice([0, 1, 7, 99_999]),
        b'"data":[' + _joined(chance, records) + b"]",
    ]
    if chance.random() < 0.2:
        members.append(chance.choice(_NAMES) + b":" + value(chance))
    if chance.random() < 0.3:
        chance.shuffle(members)
    space = chance.choice(_SPACES)
    return space + b"{" + _joined(chance, members) + b"}" + space


def document(chance: Random) -> bytes:
    """A valid batch, a mutated one, or noise."""
    kind = chance.random()
    if kind < 0.001:
        depth = chance.choice(_DEPTHS)
        pair = chance.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
        inner = pair[0] * depth + (b"" if pair[0] == b"[" else b"1") + pair[1] * depth
        return b'{"seqNum":1,"data":[' + inner + b"]}"
    if kind < 0.02:
        return chance.randbytes(chance.randrange(40))
    if kind < 0.03:
        # In UTF-16, characters beyond the BMP are surrogate pairs.
        return batch(chance).decode().encode(chance.choice(_ENCODINGS))
    found = batch(chance)
    for _ in range(chance.choice([0, 0, 1, 1, 1, 3])):
        found = mutated(found, chance)
    return found


def mutated(content: bytes, chance: Random) -> bytes:
    """``content`` with one change, of a token or of a byte."""
    return (_with_a_token_changed if chance.random() < 0.7 else _with_a_byte_changed)(
        content, chance
    )


def _with_a_token_changed(content: bytes, chance: Random) -> bytes:
    tokens: list[bytes] = _TOKEN.findall(content) or [b"0"]
    at = chance.randrange(len(tokens))
    other = chance.randrange(len(tokens))
    match chance.randrange(8):
        case 0:
            del tokens[at]
        case 1:
            tokens.insert(at, tokens[other])
        case 2:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        case 3:
            tokens.insert(at, chance.choice(_ODD))
        case _:
            # Replace a scalar by a scalar, so that the result is usually still JSON.
            scalars = [i for i, token in enumerate(tokens) if token[0] not in b"[]{},: \t\r\n"]
            tokens[chance.choice(scalars or [at])] = (
                chance.choice(_ODD) if chance.random() < 0.5 else value(chance)
            )
    return b"".join(tokens)


def _with_a_byte_changed(content: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    match chance.randrange(4):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[at + 1 :]
        case 2:
            return content[:at] + chance.randbytes(1) + content[at:]
        case _:
            return content[:at] + chance.randbytes(1) + content[at + 1 :]
