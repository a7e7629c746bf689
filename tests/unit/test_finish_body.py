"""The body of a finish."""

import pytest

from tests.unit.bodies import LARGEST, NOT_AN_INTEGER, PLAIN_DIGITS, Error, refusal
from uploads import errors
from uploads.decode.finish import read_finish_request
from uploads.session import Totals


@pytest.mark.parametrize(
    ("body", "records", "batches"),
    [
        ("", None, None),
        ("{}", None, None),
        ('{"totalRecord":0}', 0, None),
        (f'{{"totalRecord":{LARGEST}}}', LARGEST, None),
        ('{"batches":0}', None, 0),
        ('{"batches":100000}', None, 100_000),
        (' {"batches" : 2 ,\r\n"comment":[-0], "totalRecord":5 } ', 5, 2),
        ('{"totalRecord":null,"batches":null}', None, None),
        (r'{"total\u0052ecord":5}', 5, None),
    ],
)
def test_what_a_finish_says(body: str, records: int | None, batches: int | None) -> None:
    assert read_finish_request(body.encode()) == Totals(records, batches)


@pytest.mark.parametrize("other", ["", ',"totalRecord":1', ',"batches":1'])
@pytest.mark.parametrize("value", NOT_AN_INTEGER, ids=lambda at: at[:30])
@pytest.mark.parametrize(
    ("member", "error", "too_large"),
    [
        ("totalRecord", errors.InvalidTotalRecordError, LARGEST + 1),
        ("batches", errors.InvalidBatchesError, 100_001),
    ],
)
def test_a_number_that_is_none(
    member: str, error: Error, too_large: int, value: str, other: str
) -> None:
    if member in other:
        other = ',"x":1'
    for given in (value, str(too_large)):
        body = f'{{"{member}":{given}{other}}}'.encode()
        found = refusal(error, lambda: read_finish_request(body))  # noqa: B023
        assert found.members == {"member": member}
        assert f"from 0 to {too_large - 1}" in found.detail
        assert PLAIN_DIGITS in found.detail


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("null", errors.NotAnObjectError),
        ("[]", errors.NotAnObjectError),
        ("7", errors.NotAnObjectError),
        ('"{}"', errors.NotAnObjectError),
        (" ", errors.TruncatedJsonError),
        ('{"totalRecord":1', errors.TruncatedJsonError),
        ('{"totalRecord":1}}', errors.TrailingTextError),
        ('{"totalRecord":01}', errors.MalformedJsonError),
        ('{"batches":NaN}', errors.NotANumberError),
        ('{"batches":1,"batches":1}', errors.RepeatedMemberError),
        ('{"totalRecord":null,"totalRecord":1}', errors.RepeatedMemberError),
        (r'{"totalRecord":1,"\u0074otalRecord":2}', errors.RepeatedMemberError),
        ('{"x":1,"x":1}', errors.RepeatedMemberError),
        ('{"x":' + "[" * 200_000, errors.TooDeeplyNestedError),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else value.__name__,
)
def test_malformed_finishes(body: str, expected: Error) -> None:
    assert refusal(expected, lambda: read_finish_request(body.encode())).status == 400
