"""Strict JSON: no repeated members, integers in plain digits, errors with a position. Pure.

msgspec refuses an invalid body with a reason and a byte offset. ``explain`` looks only at the bytes
around that offset and makes no objects, so refusing a body costs no more than accepting it.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import Raw

from uploads import errors, limits

_SCANNER: Final = msgspec.json.Decoder(Raw)
"""Checks every byte and makes no objects."""

_BEHIND: Final = b" " * 8
"""Appended to a body, it distinguishes truncated bodies from those that are wrong near their end:
msgspec looks ahead by the length of an escaped surrogate, and calls both truncated."""

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
"""The bytes of UTF-8 that do not begin a character."""


class Member(NamedTuple):
    """What a member of an object must be, and the error if it is not."""

    error: type[errors.GaplessError]
    rule: str
    is_integer: bool = False
    is_object: bool = False
    """Its own members must not be repeated either."""


Members = Mapping[str, Member]

_LONGEST_NAME_KEPT: Final = 100

_Request = TypeVar("_Request")


def decode(decoder: "msgspec.json.Decoder[_Request]", body: bytes, members: Members) -> _Request:
    """Decode the object in ``body``, which is UTF-8. Raises a GaplessError of status 400."""
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
    """A member's name as a dictionary key that equals no other: repeated members are all kept."""

    def __init__(self, name: str) -> None:
        self.name = name[:_LONGEST_NAME_KEPT]


def check_members(body: bytes, members: Members) -> None:
    """Refuse repeated members of the object in ``body``, and the integer ``-0``.

    Raises RepeatedMemberError, TooManyValuesError, or the error of the integer's member.
    """
    seen: set[str | bytes] = set()

    def see(name_type: type[_Name], name: str) -> _Name:
        # A name may be as long as the body, so long ones are replaced by a digest.
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
    """Raise the error of the member that msgspec's ``reason`` names."""
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
    """The error of ``body``, which is UTF-8 and which msgspec refused as malformed."""
    try:
        return _explain(body)
    except RecursionError:
        # The stack is a few calls deeper here than when msgspec decoded the body.
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
    """The error of a body that is nested too deeply for msgspec."""
    return errors.TooDeeplyNestedError(
        "The JSON is nested too deeply. 500 levels are always accepted."
    )


def _scan(pieces: list[bytes | memoryview]) -> tuple[str, int]:
    """The reason and byte offset with which msgspec refuses the JSON in ``pieces``.

    The reason is ``_TRUNCATED`` if there is no offset. Raises RecursionError.
    """
    try:
        _SCANNER.decode(b"".join(pieces))
    except msgspec.DecodeError as error:
        if found := _REASON.fullmatch(str(error)):
            return found[1], int(found[2])
    return _TRUNCATED, 0


def _invalid_character(body: bytes, at: int) -> errors.GaplessError:
    """The error of msgspec's "invalid character": in a string, or instead of a value."""
    if body[at] < ord(" ") and _is_in_string(body, at):
        return _error(errors.ControlCharacterError, body, at, "Raw control character in a string")
    # For a literal or a negative number, msgspec reports the second byte.
    start = at - 1 if body[at - 1 : at] in {b"t", b"f", b"n", b"-"} else at
    value = body[start : start + len(b"-Infinity")]
    if any(literal.startswith(value) for literal in _LITERALS):
        return _truncated(body)
    if constant := _CONSTANT.match(value):
        words = f"{constant[0].decode()} is not JSON. Send null, or a string. It stands"
        return _error(errors.NotANumberError, body, start, words)
    if value.startswith("\ufeff".encode()):
        words = "JSON must not begin with a byte order mark. Got one"
    else:
        words = "Expected a value"
    return _error(errors.MalformedJsonError, body, start, words)


def _is_in_string(body: bytes, at: int) -> bool:
    """Whether byte ``at``, the first wrong one, is in a string: an escape would be right there."""
    reason, _ = _scan([memoryview(body)[:at], rb"\n"])
    return reason == _TRUNCATED


def _lone_surrogate(body: bytes, reason: str, at: int) -> errors.GaplessError:
    """The error of half an escaped surrogate pair; ``at`` follows it, or a wrong other half."""
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
    """An error with the position of byte ``at``: line and column, in characters, from 1."""
    line = body.count(b"\n", 0, at) + 1
    start = body.rfind(b"\n", 0, at) + 1
    column = len(body[start:at].translate(None, _CONTINUATION)) + 1
    return kind(f"{words} at line {line}, column {column}.", line=line, column=column)
