"""Reading the header Idempotency-Key."""

import pytest

from tests.unit.bodies import refusal
from uploads import errors
from uploads.decode.idempotency_key import read_key

UUID = "8e03978e-40d5-43dd-bc93-6894a57f9324"


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("a", "a"),
        (UUID, UUID),
        (f'"{UUID}"', UUID),
        (f' "{UUID}"\t', UUID),
        ("!~;=", "!~;="),
        ('"!~,;="', "!~,;="),
        ('a"b\\c', 'a"b\\c'),
        (r'"a\"b\\c"', 'a"b\\c'),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
        (r'"\""', '"'),
    ],
)
def test_a_key_is_the_same_with_quotes_and_without(header: str, key: str) -> None:
    assert read_key(header, is_secret=False) == key


@pytest.mark.parametrize(
    "header",
    [
        *("", " ", '""', "a b", "a\tb", "a\nb", "a\x00", "a\x7f", "é", "\xa0", "\ud800", "キー"),
        *("x" * 256, "x" * 100_000, '"' + "x" * 256 + '"'),
        *("a,a", "a,b", "a, b", ",", "x" * 22 + "," + "x" * 22),
        *('"a', '"', '"a"b', '"a";b=1', r'"a\b"', r'"a\"', '"a" "b"', '"a b"', '"é"', '"a","b"'),
    ],
    ids=lambda header: repr(header)[:20],
)
def test_an_invalid_key_gets_an_error_with_the_rule(header: str) -> None:
    error = refusal(errors.InvalidIdempotencyKeyError, lambda: read_key(header, is_secret=False))
    assert error.status == 400
    assert "1 to 255 visible ASCII" in error.detail or "double quote" in error.detail
    assert len(error.detail) < 300


@pytest.mark.parametrize("length", [1, 21, 22, 255, 256])
@pytest.mark.parametrize("form", ["{}", '"{}"'])
def test_a_key_that_is_a_secret_cannot_be_guessed(form: str, length: int) -> None:
    header = form.format("k" * length)
    if 22 <= length <= 255:
        assert read_key(header, is_secret=True) == "k" * length
        return
    error = refusal(errors.InvalidIdempotencyKeyError, lambda: read_key(header, is_secret=True))
    assert "22 to 255 visible ASCII" in error.detail
    assert error.members == {"minimum": 22, "limit": 255}
