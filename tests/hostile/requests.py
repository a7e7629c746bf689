"""The hostile requests: body, headers, target session, expected answer and expected calls."""

import base64
import gzip
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tests.hostile import deflate
from tests.hostile.deflate import MIB, packed

MOST_INFLATED: Final = 64 * MIB
MOST_SENT: Final = 4_500_000
MOST_VALUES: Final = 5_000_000
MOST_TO_CREATE: Final = 128 * 1024

BEGIN: Final = b'{"seqNum":0,"data":['
END: Final = b"]}"
BYTES: Final = {"content-type": "application/vnd.gapless.batch+json"}
GZIP: Final = BYTES | {"content-encoding": "gzip"}
TEXT: Final = {"content-type": "application/json"}
READ: Final = {"GetItem": 1}
READ_TWICE: Final = {"GetItem": 2}
"""The session is read before the body, and again if the body is refused: it may have closed."""
STORED: Final = {"GetItem": 2, "PutObject": 1}


@dataclass(frozen=True)
class Hostile:
    body: Callable[[], bytes]
    """The body to send, or the JSON to send as gzip."""
    answer: str
    """Code of the expected problem, or the status."""
    headers: Mapping[str, str] = field(default_factory=lambda: GZIP)
    calls: Mapping[str, int] = field(default_factory=lambda: READ_TWICE)
    to: str = "own"
    """The kind of session, or the operation, that it is sent to (`Lab.session`)."""
    inflated: int | None = None
    """Bytes the body inflates to, if it is compressed already."""
    as_lines: bool = False
    """Send it to the route for NDJSON."""


def filled(begin: bytes, again: bytes, end: bytes, size: int = MOST_INFLATED) -> bytes:
    """``begin``, as many ``again`` as fit into ``size``, and ``end``."""
    return begin + again * ((size - len(begin) - len(end)) // len(again)) + end


def values(again: bytes, end: bytes) -> bytes:
    """A batch with the maximum number of values; each but the last is ``again``.

    Values are counted by commas, one of which follows ``seqNum``.
    """
    return BEGIN + again * (MOST_VALUES - 1) + end


def nests(opening: bytes, closing: bytes, depth: int, end: bytes) -> bytes:
    """As many records as fit, each nested ``depth`` levels deep, and an end."""
    return filled(BEGIN, opening * depth + b"1" + closing * depth + b",", end)


LONE: Final = rb'"\ud800"' + END
OPENED: Final = b'"'

JSON_OF_64_MIB: Final[dict[str, Hostile]] = {
    "nested arrays, lone surrogate": Hostile(lambda: nests(b"[", b"]", 8, LONE), "lone_surrogate"),
    "nested objects, lone surrogate": Hostile(
        lambda: nests(b'{"a":', b"}", 4, LONE), "lone_surrogate"
    ),
    "arrays 400 deep, trailing comma": Hostile(
        lambda: nests(b"[", b"]", 400, END), "malformed_json"
    ),
    "nesting without end, arrays": Hostile(lambda: filled(BEGIN, b"[", b""), "too_deeply_nested"),
    "nesting without end, objects": Hostile(
        lambda: filled(BEGIN, b'{"":', b""), "too_deeply_nested"
    ),
    "one digit each, NaN at the end": Hostile(lambda: values(b"0,", b"NaN]}"), "not_a_number"),
    "empty objects, cut off": Hostile(lambda: values(b"{},", b""), "truncated_json"),
    "one value too many": Hostile(lambda: values(b"0,", b"0,0]}"), "too_many_values"),
    "wrong length, 5 million records": Hostile(
        lambda: values(b"0,", b"0]}"), "wrong_batch_length", to="strict"
    ),
    "seqNum -0, 5 million records": Hostile(
        lambda: values(b"0,", b"0]}").replace(b":0", b":-0", 1), "invalid_seq_num"
    ),
    "1,001 members": Hostile(
        lambda: (
            BEGIN + b"1]" + b"".join(b',"%d":"%s"' % (n, b"x" * 65_000) for n in range(999)) + b"}"
        ),
        "too_many_values",
    ),
    "millions of members": Hostile(
        lambda: BEGIN + b"1]" + b',"":0' * (MOST_VALUES - 10) + b"}", "repeated_member"
    ),
    "a long member, twice": Hostile(
        lambda: BEGIN + b"1]" + (b',"' + b"n" * 33_000_000 + b'":0') * 2 + b"}", "repeated_member"
    ),
    "a string, cut off": Hostile(lambda: filled(BEGIN + OPENED, b"x", b""), "truncated_json"),
    "a string with a raw control character": Hostile(
        lambda: filled(BEGIN + OPENED, b"x", b'\x01"]}'), "control_character"
    ),
    "escapes, and one unknown": Hostile(
        lambda: filled(BEGIN + OPENED, rb"\n", rb'\x"]}'), "malformed_json"
    ),
    "escaped quotes, cut off": Hostile(
        lambda: filled(BEGIN + OPENED, rb"\"", b""), "truncated_json"
    ),
    "4-byte characters, comma missing": Hostile(
        lambda: filled(BEGIN + OPENED, "😀".encode(), b'"1]}'), "malformed_json"
    ),
    "4-byte characters, invalid UTF-8": Hostile(
        lambda: filled(BEGIN + OPENED, "😀".encode(), b'\xff"]}'), "invalid_utf8"
    ),
    "4-byte characters, cut in one": Hostile(
        lambda: filled(BEGIN + OPENED, "😀".encode(), b"\xf0\x9f"), "invalid_utf8"
    ),
    "only space": Hostile(lambda: b" " * MOST_INFLATED, "truncated_json"),
    "space, then text": Hostile(
        lambda: filled(BEGIN + b"1]}", b" ", b"x"),
        "trailing_text",
    ),
    "line ends, then text": Hostile(lambda: filled(BEGIN, b"\n", b"x]}"), "malformed_json"),
    "empty data, spread": Hostile(lambda: filled(BEGIN, b"\n", END), "empty_data"),
    "a seqNum of 64 MiB": Hostile(
        lambda: filled(b'{"seqNum":', b"9", b',"data":[1]}'), "invalid_seq_num"
    ),
    "a fraction of 64 MiB": Hostile(
        lambda: filled(b'{"seqNum":1.', b"9", b',"data":[1]}'), "invalid_seq_num"
    ),
    "an exponent of 64 MiB": Hostile(
        lambda: filled(b'{"seqNum":1e', b"9", b',"data":[1]}'), "invalid_seq_num"
    ),
    "a seqNum that is a string": Hostile(
        lambda: filled(b'{"seqNum":"', rb"\u00e9", b'","data":[1]}'), "invalid_seq_num"
    ),
    "data is a string": Hostile(
        lambda: filled(b'{"seqNum":0,"data":"', b"x", b'"}'), "invalid_data"
    ),
    "data is missing": Hostile(
        lambda: filled(b'{"seqNum":0,"dato":[', b"[" * 300 + b"]" * 300 + b",", b"1]}"),
        "missing_member",
    ),
    "tiny records over two lines, then text": Hostile(
        lambda: values(b"[\n],", b"[\n]]}x"), "trailing_text"
    ),
    "an array": Hostile(lambda: filled(b"[", b"[],", b"[]]", 15_000_000), "not_an_object"),
    "byte order mark": Hostile(
        lambda: filled(b"\xef\xbb\xbf" + BEGIN + OPENED, b"x", b'"]}'), "malformed_json"
    ),
    "UTF-16": Hostile(
        lambda: (
            filled(BEGIN + OPENED, b"x", b'"]}', MOST_INFLATED // 2 - 1).decode().encode("utf-16")
        ),
        "invalid_utf8",
    ),
}
"""All but a few have the maximum inflated size."""

ACCEPTED: dict[str, Hostile] = {
    name: Hostile(body, "204", calls=STORED)
    for name, body in {
        "objects of 1 KB": lambda: filled(BEGIN, b'{"a":"' + b"x" * 1_000 + b'"},', b"1]}"),
        "one digit each, and a long record": lambda: (
            values(b"0,", OPENED) + b"x" * (MOST_INFLATED - 2 * MOST_VALUES - 100) + b'"]}'
        ),
        "one digit each, and a long member": lambda: (
            BEGIN
            + b"0," * (MOST_VALUES - 2)
            + b'0],"'
            + b"n" * (MOST_INFLATED - 2 * MOST_VALUES - 100)
            + '😀":0}'.encode()
        ),
        "tiny records, each over two lines": lambda: values(b"[\n],", b"[\n]]}"),
        "tiny records, every second one over two lines": lambda: (
            BEGIN + b"[\n],[ ]," * (MOST_VALUES // 2 - 1) + b"[\n]]}"
        ),
        "short records, each over two lines": lambda: (
            BEGIN + b"[\n1234567]," * (MOST_VALUES - 1) + b"[\n]]}"
        ),
        "objects, indented": lambda: filled(
            BEGIN, b'\n    {\n      "id": 12,\n      "name": "abc"\n    },', b"\n    1\n  ]\n}"
        ),
        "one record over millions of lines": lambda: filled(
            BEGIN, b"[\n" * 300 + b"1" + b"\n]" * 300 + b",", b"1]}"
        ),
        "an integer of 64 MiB": lambda: filled(BEGIN, b"9", END),
        "escapes": lambda: filled(BEGIN + OPENED, rb"\u0041", b'"]}'),
        "an escaped name of 64 MiB": lambda: filled(BEGIN + b'1],"', rb"\n", b'":0}'),
        "4-byte characters": lambda: filled(BEGIN + OPENED, "😀".encode(), b'"]}'),
        "space between records": lambda: filled(BEGIN, b"1, \t\n\r          ", b"1]}"),
    }.items()
}


def with_name(name: int) -> bytes:
    """A gzip member that holds a batch and a file name of ``name`` bytes."""
    whole = packed(BEGIN + b"1]}")
    return whole[:3] + b"\x08" + whole[4:10] + b"n" * name + b"\0" + whole[10:]


GZIPPED: Final[dict[str, Hostile]] = {
    "bomb of 900 MiB": Hostile(lambda: deflate.bomb(900), "inflated_too_large", inflated=64 * MIB),
    "bomb of 15 members": Hostile(
        lambda: deflate.bomb(60) * 15, "inflated_too_large", inflated=64 * MIB
    ),
    "225,000 empty members": Hostile(
        lambda: gzip.compress(b"", mtime=0) * 225_000, "invalid_gzip", inflated=0
    ),
    "140,000 members of 400 spaces": Hostile(
        lambda: packed(b" " * 400) * 140_000, "truncated_json", inflated=56_000_000
    ),
    "a file name of 4 MB": Hostile(lambda: with_name(4_000_000), "invalid_gzip", inflated=30),
    "a million stored blocks": Hostile(
        lambda: deflate.HEADER + b"\0\0\0\xff\xff" * 890_000, "invalid_gzip", inflated=0
    ),
    "fixed blocks without content": Hostile(
        lambda: deflate.fixed_blocks(MOST_SENT - 100), "invalid_gzip", inflated=0
    ),
    "fixed blocks of 10 bytes": Hostile(
        lambda: deflate.fixed_blocks(MOST_SENT - 100, b" " * 10), "truncated_gzip", inflated=0
    ),
    "Huffman tables without content": Hostile(
        lambda: deflate.dynamic_blocks(MOST_SENT - 100), "invalid_gzip", inflated=0
    ),
    "64 MiB, then something else": Hostile(
        lambda: deflate.bomb(64) + b"x", "invalid_gzip", inflated=64 * MIB
    ),
    "64 MiB, checksum wrong": Hostile(
        lambda: deflate.bomb(64)[:-8] + b"wrong sum", "invalid_gzip", inflated=64 * MIB
    ),
    "64 MiB, cut off": Hostile(
        lambda: deflate.bomb(64)[:-4], "truncated_gzip", inflated=64 * MIB
    ),
    "not gzip": Hostile(lambda: b"\0" * MOST_SENT, "invalid_gzip", inflated=0),
}  # fmt: skip


def _digest(header: str) -> dict[str, str]:
    return GZIP | {"content-digest": header}


WRONG_DIGEST: Final = f"sha-256=:{base64.b64encode(hashlib.sha256(b'').digest()).decode()}:"

HEADERS: Final[dict[str, Hostile]] = {
    "wrong digest of a bomb": Hostile(
        lambda: deflate.bomb(900), "digest_mismatch", _digest(WRONG_DIGEST), inflated=0
    ),
    "a digest of 8 KB of space": Hostile(
        lambda: deflate.bomb(900), "invalid_content_digest", _digest("," + " " * 8_000), inflated=0
    ),
    "a digest of 8 KB of commas": Hostile(
        lambda: deflate.bomb(900),
        "invalid_content_digest",
        _digest("sha-256=:" + ",sha-256=:" * 800),
        inflated=0,
    ),
    "unknown encoding": Hostile(
        lambda: deflate.bomb(900),
        "unsupported_encoding",
        BYTES | {"content-encoding": "gzip, " * 1_000},
        inflated=0,
    ),
    "gzip as text": Hostile(
        lambda: b"\x1f\x8b\x08" + b"\xff" * 1_400_000,
        "gzip_as_text",
        TEXT | {"content-encoding": "gzip"},
        inflated=0,
    ),
    "text that is not UTF-8": Hostile(lambda: b"\xff" * 1_400_000, "invalid_utf8", TEXT),
    "text, nested, lone surrogate": Hostile(
        lambda: filled(BEGIN, b"[" * 8 + b"1" + b"]" * 8 + b",", LONE, MOST_SENT),
        "lone_surrogate",
        TEXT,
    ),
    "a byte too many": Hostile(lambda: b" " * (MOST_SENT + 1), "body_too_large", BYTES),
    "text of a byte too many": Hostile(lambda: b" " * (MOST_SENT + 1), "body_too_large", TEXT),
}

WHO: Final[dict[str, Hostile]] = {
    "bomb to an unknown id": Hostile(
        lambda: deflate.bomb(900), "session_not_found", calls=READ, to="unknown", inflated=0
    ),
    "bomb to a malformed id": Hostile(
        lambda: deflate.bomb(900), "session_not_found", calls={}, to="no id", inflated=0
    ),
    "bomb to a finished session": Hostile(
        lambda: deflate.bomb(900), "session_finished", calls=READ, to="finished", inflated=0
    ),
    "bomb to an aborted session": Hostile(
        lambda: deflate.bomb(900), "session_aborted", calls=READ, to="aborted", inflated=0
    ),
    "bomb to an expired session": Hostile(
        lambda: deflate.bomb(900), "session_expired", calls=READ, to="expired", inflated=0
    ),
    "finish with 4.5 MB": Hostile(
        lambda: nests(b"[", b"]", 8, LONE)[:MOST_SENT],
        "body_too_large",
        BYTES,
        calls={},
        to="finish a finished",
    ),
    "finish: bomb of 100 MiB": Hostile(
        lambda: deflate.bomb(100),
        "inflated_too_large",
        calls={},
        to="finish a finished",
        inflated=128 * 1024,
    ),
    "finish: 128 KB of members": Hostile(
        lambda: filled(b'{"totalRecord":0', b',"a":0', b"}", MOST_TO_CREATE),
        "repeated_member",
        TEXT,
        calls={},
        to="finish a finished",
    ),
    "finish: 128 KB of space": Hostile(
        lambda: filled(b'{"totalRecord":0', b" ", b"}", MOST_TO_CREATE),
        "200",
        TEXT,
        calls={"UpdateItem": 1},
        to="finish a finished",
    ),
}

MOST_LINES: Final = MOST_VALUES
"""Maximum lines of a body."""


def lines(again: bytes, end: bytes = b"") -> bytes:
    """As many lines as are allowed, each ``again``, and an end."""
    return again * MOST_LINES + end


LINES: Final[dict[str, Hostile]] = {
    f"lines: {name}": Hostile(body, answer, headers, calls, as_lines=True)
    for answer, headers, calls, requests in (
        (
            "204",
            GZIP,
            STORED,
            {
                "one digit each": lambda: lines(b"1\n"),
                "one digit and a space each": lambda: lines(b"1 \n"),
                "one digit each, CR LF": lambda: lines(b"1\r\n"),
                "objects of 1 KB": lambda: filled(b"", b'{"a":"' + b"x" * 1_000 + b'"}\n', b"1"),
                "tiny records, each with a carriage return": lambda: lines(b"[\r]\n"),
                "short records, each with a carriage return": lambda: lines(b"[\r1234567]\n"),
                "tiny records, every second with a carriage return": lambda: (
                    b"[\r]\n[ ]\n" * (MOST_LINES // 2)
                ),
                "one digit each, and one in 30 with a carriage return": lambda: (
                    (b"[\r]\n" + b"0\n" * 29) * (MOST_LINES // 30)
                ),
                "blank lines and one record": lambda: lines(b"\n", b"1"),
                "every second line blank": lambda: b"1\n\n" * (MOST_LINES // 2),
                "space and one record": lambda: filled(b"", b" ", b"1"),
                "carriage returns and one record": lambda: filled(b"", b"\r", b"1"),
                "a line of 64 MiB": lambda: filled(OPENED, b"x", b'"'),
                "long lines, each with a space": lambda: filled(
                    b"", b'"' + b"x" * 70_000 + b'" \n', b"1"
                ),
                "4-byte characters": lambda: filled(OPENED, "😀".encode(), b'"'),
                "nested": lambda: filled(b"", b"[" * 400 + b"]" * 400 + b"\n", b"1"),
            },
        ),
        (
            "trailing_text",
            GZIP,
            READ_TWICE,
            {
                "two on the last": lambda: lines(b"1\n")[:-2] + b"1 1",
                "two on the last, spaced": lambda: lines(b"1 \n")[:-3] + b"1 1",
                "values without end on one line": lambda: filled(b"", b"{}", b""),
                "two on each": lambda: lines(b"1 1\n"),
                "many on each": lambda: filled(b"", b'""' * 18 + b"1\n", b""),
            },
        ),
        (
            "truncated_json",
            GZIP,
            READ_TWICE,
            {
                "the last is cut off": lambda: lines(b"1\n")[:-2] + b"[",
                "a string of 64 MiB, cut off": lambda: filled(OPENED, b"x", b""),
                "one record over all": lambda: b"[\n" + b"1,\n" * (MOST_LINES - 2) + b"1]",
            },
        ),
        ("too_many_values", GZIP, READ_TWICE, {"one too many": lambda: lines(b"1\n", b"1\n")}),
        ("too_deeply_nested", GZIP, READ_TWICE, {"no end": lambda: filled(b"1\n", b"[", b"")}),
        ("empty_data", GZIP, READ_TWICE, {"all blank": lambda: lines(b"\n")}),
        ("empty_data", GZIP, READ_TWICE, {"only space": lambda: b" " * MOST_INFLATED}),
        ("empty_data", GZIP, READ_TWICE, {"only CR": lambda: b"\r" * MOST_INFLATED}),
        (
            "lone_surrogate",
            GZIP,
            READ_TWICE,
            {"surrogate on the last": lambda: lines(b"[[]]\n")[:-5] + rb'"\ud800"'},
        ),
        ("invalid_utf8", TEXT, READ_TWICE, {"text, not UTF-8": lambda: b"\xff" * 1_400_000}),
        ("body_too_large", BYTES, READ_TWICE, {"too long": lambda: b"1" * (MOST_SENT + 1)}),
    )
    for name, body in requests.items()
}
"""Bodies of the NDJSON route; the accepted ones are in ``ACCEPTED`` by these names."""
ACCEPTED |= {name: one for name, one in LINES.items() if one.answer == "204"}

ACCEPTED["text that compresses little"] = Hostile(
    lambda: BEGIN + b'"' + random.Random(1).randbytes(4_000_000).hex().encode() + b'"]}',
    "204",
    calls=STORED,
)
ACCEPTED |= {f"{name}; compressed": replace(one, to="compressed") for name, one in ACCEPTED.items()}
"""The same in sessions of the format ndjson.gz, where a batch is compressed, or stored as sent."""


def no_checksum() -> bytes:
    """The largest content, flushed; only its checksum is wrong, so it is inflated twice."""
    sent = packed(filled(b"", b"1\n", b""))
    return sent[:-8] + bytes([sent[-8] ^ 1]) + sent[-7:]


def only_tables() -> bytes:
    """Blocks without content that seem to be flushed, and claim to be large."""
    claim = bytes(4) + (MOST_INFLATED // 2).to_bytes(4, "little")
    return deflate.dynamic_blocks(MOST_SENT - 100) + b"\0\0\xff\xff\x03\0" + claim


FLUSHED: Final = {
    f"lines: {name}; compressed": Hostile(
        body, answer, GZIP, READ_TWICE, "compressed", inflated, as_lines=True
    )
    for name, answer, inflated, body in (
        ("flushed, wrong checksum", "invalid_gzip", MOST_INFLATED, no_checksum),
        ("flushed, tables without content", "invalid_gzip", 0, only_tables),
    )
}


def tree(depth: int, leaf: bytes) -> bytes:
    """An expression of the schema ``tree``, with ``depth`` operators, and a line end."""
    return b'{"op":"and","args":[' * depth + leaf + b"]}" * depth + b"\n"


SCHEMAS: Final[dict[str, Hostile]] = {
    f"schema {schema}: {name}": Hostile(
        body, answer, GZIP, calls, f"schema {schema}", as_lines=True
    )
    for answer, calls, schema, requests in (
        (
            "204",
            STORED,
            "tree",
            {
                "one digit each": lambda: lines(b"1\n"),
                "198 deep": lambda: filled(b"", tree(99, b"1"), b""),
                "integers of 3,500 digits": lambda: filled(b"", b"9" * 3_500 + b"\n", b"", 2 * MIB),
                "numbers of 40 digits": lambda: filled(b"", b"0." + b"1234567890" * 4 + b"\n", b""),
            },
        ),
        (
            "invalid_records",
            READ_TWICE,
            "tree",
            {
                "5 million that are none": lambda: lines(b"[]\n"),
                "198 deep, wrong at the end": lambda: filled(b"", tree(99, b'"x"'), b""),
                "4 deep, wrong at the end": lambda: filled(b"", tree(2, b'"x"'), b""),
                "450 arrays deep": lambda: filled(
                    b"", b"[" * 450 + b'"' + b"x" * 900 + b'"' + b"]" * 450 + b"\n", b""
                ),
                "an integer of 64 MiB": lambda: filled(b"", b"9", b""),
                "a fraction of 64 MiB": lambda: filled(b"0.", b"9", b""),
                "32 million values": lambda: filled(b"[", b"1,", b"1]"),
                "a string of 64 MiB": lambda: filled(OPENED, b"x", b'"'),
                "an escaped colon each": lambda: filled(b"", rb'{"\u003a":100}' + b"\n", b""),
            },
        ),
        (
            "check_too_long",
            READ_TWICE,
            "tree",
            # Three times what it may take.
            {"exponents without end": lambda: lines(b"1e9999\n")},
        ),
        (
            "204",
            STORED,
            "rows",
            {
                "190,000 items, each once": lambda: filled(
                    b"", b"[%s]\n" % b",".join(b"%d" % n for n in range(190_000)), b"", 8 * MIB
                ),
            },
        ),
        (
            "invalid_records",
            READ_TWICE,
            "rows",
            {
                "60,000 objects, one twice": lambda: filled(
                    b"",
                    b"[%s]\n" % b",".join(b'{"a":%d}' % (n % 59_999) for n in range(60_000)),
                    b"",
                    8 * MIB,
                ),
                "a pattern against 64 MiB": lambda: filled(OPENED, b"a", b'b"'),
                "60,000 names": lambda: filled(
                    b"",
                    b"{%s}\n" % b",".join(b'"ab%d":true' % n for n in range(60_000)),
                    b"",
                    8 * MIB,
                ),
            },
        ),
    )
    for name, body in requests.items()
}
"""Bodies that are expensive to check against the schemas in ``tests/schemas``."""
ACCEPTED |= {name: one for name, one in SCHEMAS.items() if one.answer == "204"}

SESSIONS: Final[dict[str, Hostile]] = {
    "create: nested, 4.5 MB": Hostile(
        lambda: filled(b'{"totalRecord":1,"x":[', b"[[[[1]]]],", LONE, MOST_SENT),
        "body_too_large",
        TEXT,
        calls={},
        to="create",
    ),
    "create: nested, lone surrogate, 128 KB": Hostile(
        lambda: filled(b'{"totalRecord":1,"x":[', b"[[[[1]]]],", LONE, MOST_TO_CREATE),
        "lone_surrogate",
        TEXT,
        calls={},
        to="create",
    ),
    "create: bomb of 100 MiB": Hostile(
        lambda: deflate.bomb(100), "inflated_too_large", calls={}, to="create", inflated=128 * 1024
    ),
    "create: bomb of 900 MiB": Hostile(
        lambda: deflate.bomb(900), "body_too_large", calls={}, to="create", inflated=0
    ),
    "create: 128 KB of members": Hostile(
        lambda: filled(b'{"totalRecord":1', b',"a":0', b"}", MOST_TO_CREATE),
        "repeated_member",
        TEXT,
        calls={},
        to="create",
    ),
    "create: a number of 128 KB": Hostile(
        lambda: filled(b'{"totalRecord":', b"9", b"}", MOST_TO_CREATE),
        "invalid_total_record",
        TEXT,
        calls={},
        to="create",
    ),
    "create: 128 KB of space": Hostile(
        lambda: filled(b'{"totalRecord":1', b" ", b"}", MOST_TO_CREATE),
        "201",
        TEXT,
        calls={"PutItem": 1},
        to="create",
    ),
}

HOSTILE: Final = (
    JSON_OF_64_MIB | GZIPPED | HEADERS | LINES | FLUSHED | SCHEMAS | WHO | SESSIONS | ACCEPTED
)
