"""Helpers: read a request's body, and expect a refusal."""

import base64
from collections.abc import Callable
from typing import TypeVar

import pytest

from uploads import errors
from uploads.decode.body import read_body as read_any

MIB = 2**20
LARGEST = 2**53 - 1
Error = type[errors.GaplessError]
Raised = TypeVar("Raised", bound=errors.GaplessError)

PLAIN_DIGITS = "written as plain digits"

NOT_AN_INTEGER = {
    '"0"': "string",
    '""': "empty string",
    "0.5": "half",
    "1.0": "float",
    "-0.0": "float of negative zero",
    "1e3": "exponent",
    "1E2": "big exponent",
    "0e0": "exponent of nothing",
    "1e400": "float beyond a double",
    "1e-400": "float below a double",
    "true": "true",
    "false": "false",
    "-0": "negative zero",
    "-1": "minus one",
    "[]": "array",
    "[0]": "array of one",
    "{}": "object",
    "9" * 20: "20 digits",
    "9" * 30: "30 digits",
    "9" * 5_000: "5,000 digits",
    "-" + "9" * 30: "minus 30 digits",
    str(2**63): "2**63",
    str(2**64): "2**64",
    str(-(2**63) - 1): "-2**63 - 1",
}

WHOLE = (
    '{"seqNum": 0, "data": [{"a": [1, 2.5, -1e-3]}, "b\\n\\u00e9\\ud83d\\ude00c", true, false,'
    ' null, "é", {}, []], "x": 0}'
)


def read_body(body: bytes, **headers: str) -> bytes:
    text = base64.b64encode(body).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_any(text, is_base64=True, headers=named).content


def read_text(body: str, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_any(body, is_base64=False, headers=named).content


def batch(data: str, seq_num: str = "0") -> bytes:
    return f'{{"seqNum":{seq_num},"data":{data}}}'.encode()


def refusal(error: type[Raised], call: Callable[[], object]) -> Raised:
    """The error that ``call`` raises, which must be exactly of this class and have a code."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert len(caught.value.detail) > 20
    assert caught.value.problem()["code"] == error.code
    return caught.value
