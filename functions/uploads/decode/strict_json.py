"""Decoding JSON: no member twice, integers as plain digits, errors that say where. Pure.

msgspec refuses such a body with a reason and the offset of a byte. Only the bytes around that one
are looked at: no object is made of what the client sent, so that to refuse a body costs no more
than to accept it.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import Raw

from uploads import errors, limits

_SCANNER: Final = msgspec.json.Decoder(Raw)
"""Checks every byte and makes nothing of them."""

_BEHIND: Final = b" " * 8
"""Put behind a body, it tells one that was cut off from one that is wrong near its end: msgspec
looks as far ahead as an escaped surrogate is long, and calls both truncated."""

_REASON: Final = re.compile(r"JSON is malformed: (.*) \(byte ([0-9]+)\)")
_TRUNCATED: Final = ""
_NO_NAME: Final = "expected '\"'"
_FALSE_PAIR: Final = "invalid utf-16 surrogate pair"
_SURROGATES: Final = {_FALSE_PAIR, "unexpected end of hex escape"}
_HIGH_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB]")
_ESCAPE_BYTES: Final = len(rb"\ud83d")
_LITERALS: Final = (b"true", b"false", b"null")
_CONSTANT: Final = re.compile(rb"NaN|-?Infinity")
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
"""The bytes of UTF-8 that begin no character."""


class Member(NamedTuple):
    """What a member of an object must be, for the error of one that is not."""

    error: type[errors.GaplessError]
    rule: str
    is_integer: bool = False
    is_object: bool = False
    """Its own members are given once, too."""


Members = Mapping[str, Member]

_LONGEST_NAME_KEPT: Final = 100

_Request = TypeVar("_Request")


def decode(decoder: "msgspec.json.Decoder[_Request]", body: bytes, members: Members) -> _Request:
    """The object in ``body``, which is UTF-8. Raises a GaplessError of status 400."""
    if not body:
        raise errors.EmptyBodyError("Send a JSON object as the request's body.")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse_member(str(error), members)
    except msgspec.DecodeError:
        raise explain(body) from None
    except RecursionError:
        raise too_deeply_nested() from None


class _Name:
    """A member's name as a key that equals no other, so that none hides another."""

    def __init__(self, name: str) -> None:
        self.name = name[:_LONGEST_NAME_KEPT]


def check_members(body: bytes, members: Members) -> None:
    """Refuse a member that is given twice, and an integer that is not plain digits (``-0``).

    ``body`` is an object.
    """
    seen: set[str | bytes] = set()

    def see(name_type: type[_Name], name: str) -> _Name:
        # A name may be as long as the body: one at a time is held, and of the others a digest.
        key = name if len(name) <= _LONGEST_NAME_KEPT else hashlib.sha256(name.encode()).digest()
        if key in seen:
            raise errors.RepeatedMemberError(
                f"The member {name[:100]!r} is given twice. Give every member once.",
                member=name[:100],
            )
        seen.add(key)
        if len(seen) > limits.MAX_MEMBERS:
            raise errors.TooManyValuesError(
                f"The body has more than {limits.MAX_MEMBERS} members. Send records in data.",
                limit=limits.MAX_MEMBERS,
            )
        return name_type(name)

    for given, value in msgspec.json.decode(body, type=dict[_Name, Raw], dec_hook=see).items():
        member = members.get(given.name)
        if member and member.is_integer and bytes(value) == b"-0":
            _refuse_member(f"Expected plain digits, got -0 - at `$.{given.name}`", members)
        if member and member.is_object:
            check_members(bytes(value), {})


def _refuse_member(reason: str, members: Members) -> NoReturn:
    """Turn msgspec's reason, which ends in the member's path, into the error of that member."""
    if missing := re.search(r"missing required field `(\w+)`", reason):
        raise errors.MissingMemberError(
            f"The body needs the member {missing[1]!r}: {members[missing[1]].rule}.",
            member=missing[1],
        )
    if path := re.match(r"(.*) - at `\$\.(\w+)(?:\[\.\.\.\])?`", reason):
        member = members[path[2]]
        raise member.error(f"{member.rule}. {path[1].replace('`', '')}.", member=path[2])
    raise errors.NotAnObjectError(f"The body must be a JSON object. {reason.replace('`', '')}.")


def explain(body: bytes) -> errors.GaplessError:
    """The error of ``body``, which is UTF-8 and was refused by msgspec as malformed."""
    try:
        return _explain(body)
    except RecursionError:
        # What msgspec followed to its end may be too deep from here, a few calls further down.
        return too_deeply_nested()


def _explain(body: bytes) -> errors.GaplessError:
    reason, at = _scan([body, _BEHIND])
    if reason == "trailing characters":
        return _error(errors.TrailingTextError, body, at - 1, "There is text after the JSON,")
    if reason == _TRUNCATED or at >= len(body):
        return _truncated(body)
    if reason in _SURROGATES:
        return _lone_surrogate(body, reason, at)
    if reason == "invalid character":
        return _invalid_character(body, at)
    words = "expected a name in double quotes" if reason == _NO_NAME else reason
    words = words[0].upper() + words[1:]
    return _error(errors.MalformedJsonError, body, at, words)


def too_deeply_nested() -> errors.GaplessError:
    """The error of a body whose nesting msgspec does not follow to its end."""
    return errors.TooDeeplyNestedError(
        "The JSON is nested too deeply. 500 levels are always accepted."
    )


def _scan(pieces: list[bytes | memoryview]) -> tuple[str, int]:
    """Why msgspec refuses the JSON in ``pieces``, and at which byte. Raises RecursionError."""
    try:
        _SCANNER.decode(b"".join(pieces))
    except msgspec.DecodeError as error:
        if found := _REASON.fullmatch(str(error)):
            return found[1], int(found[2])
    return _TRUNCATED, 0


def _invalid_character(body: bytes, at: int) -> errors.GaplessError:
    """The error of a character that msgspec says nothing more about: in a string, or no value."""
    if body[at] < ord(" ") and _is_in_string(body, at):
        return _error(errors.ControlCharacterError, body, at, "Raw control character in a string")
    # Of a literal, and of a negative number, msgspec names the second byte.
    start = at - 1 if body[at - 1 : at] in {b"t", b"f", b"n", b"-"} else at
    value = body[start : start + len(b"-Infinity")]
    if any(literal.startswith(value) for literal in _LITERALS):
        return _truncated(body)
    if constant := _CONSTANT.match(value):
        words = f"{constant[0].decode()} is not JSON. Send null, or a string. It stands"
        return _error(errors.NotANumberError, body, start, words)
    if value.startswith("\ufeff".encode()):
        words = "JSON begins without a byte order mark. Got one"
    else:
        words = "Expected a value"
    return _error(errors.MalformedJsonError, body, start, words)


def _is_in_string(body: bytes, at: int) -> bool:
    """Whether byte ``at``, the first that is wrong, is in a string: an escape would be right."""
    reason, _ = _scan([memoryview(body)[:at], rb"\n"])
    return reason == _TRUNCATED


def _lone_surrogate(body: bytes, reason: str, at: int) -> errors.GaplessError:
    """The error of an escaped surrogate that ends, or whose false other half ends, at ``at``."""
    if body[at:] == b"\\":
        return _truncated(body)
    start = at - _ESCAPE_BYTES
    if reason == _FALSE_PAIR and _HIGH_SURROGATE.match(body, start - _ESCAPE_BYTES):
        start -= _ESCAPE_BYTES
    return _error(
        errors.LoneSurrogateError,
        body,
        start,
        "A string holds a \\ud800 … \\udfff escape without its other half, which is no character"
        " and cannot be stored as UTF-8. Send the pair, or U+FFFD. It stands",
    )


def _truncated(body: bytes) -> errors.GaplessError:
    return _error(errors.TruncatedJsonError, body, len(body), "The JSON ends too early,")


def _error(
    kind: type[errors.GaplessError], body: bytes, at: int, words: str
) -> errors.GaplessError:
    """An error that says where byte ``at`` is: line and column, in characters, from 1."""
    line = body.count(b"\n", 0, at) + 1
    start = body.rfind(b"\n", 0, at) + 1
    column = len(body[start:at].translate(None, _CONTINUATION)) + 1
    return kind(f"{words} at line {line}, column {column}.", line=line, column=column)
