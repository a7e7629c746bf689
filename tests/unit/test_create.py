"""The body that opens a session."""

import pytest

from tests.unit.bodies import LARGEST, NOT_AN_INTEGER, PLAIN_DIGITS, Error, refusal
from uploads import errors
from uploads.decode.create import SessionRequest, read_session_request


@pytest.mark.parametrize(
    ("body", "total_record", "batch_size"),
    [
        ('{"totalRecord":0}', 0, None),
        ('{"totalRecord":1}', 1, None),
        (f'{{"totalRecord":{LARGEST - 1}}}', LARGEST - 1, None),
        (f'{{"totalRecord":{LARGEST}}}', LARGEST, None),
        ('{"totalRecord":0,"batchSize":1}', 0, 1),
        ('{"totalRecord":5,"batchSize":2}', 5, 2),
        ('{"batchSize":2,"totalRecord":5}', 5, 2),
        (f'{{"totalRecord":5,"batchSize":{LARGEST}}}', 5, LARGEST),
        ('{"totalRecord":5,"batchSize":null}', 5, None),
        (' {\n"totalRecord" :\t5 ,\r\n"comment" : "ignored" } ', 5, None),
        (r'{"total\u0052ecord":5}', 5, None),
        ('{"totalRecord":5,"x":[-0,1e400,{"a":1,"a":2}]}', 5, None),
    ],
)
def test_session_requests(body: str, total_record: int, batch_size: int | None) -> None:
    assert read_session_request(body.encode()) == SessionRequest(total_record, batch_size)


@pytest.mark.parametrize(
    "value", ["null", str(LARGEST + 1), str(LARGEST + 2), *NOT_AN_INTEGER], ids=lambda at: at[:30]
)
@pytest.mark.parametrize(
    "form",
    [
        '{{"totalRecord":{}}}',
        '{{"totalRecord":{},"batchSize":1}}',
        '{{"x":1, "totalRecord" : {} }}',
    ],
)
def test_invalid_total_record(form: str, value: str) -> None:
    error = refusal(
        errors.InvalidTotalRecordError, lambda: read_session_request(form.format(value).encode())
    )
    assert f"from 0 to {LARGEST}" in error.detail
    assert PLAIN_DIGITS in error.detail
    assert error.members == {"member": "totalRecord"}


@pytest.mark.parametrize(
    "value", ["0", str(LARGEST + 1), *NOT_AN_INTEGER], ids=lambda value: value[:30]
)
@pytest.mark.parametrize(
    "form", ['{{"totalRecord":1,"batchSize":{}}}', '{{"batchSize":{},"totalRecord":1}}']
)
def test_invalid_batch_size(form: str, value: str) -> None:
    error = refusal(
        errors.InvalidBatchSizeError, lambda: read_session_request(form.format(value).encode())
    )
    assert f"from 1 to {LARGEST}, or left out" in error.detail
    assert error.members == {"member": "batchSize"}


@pytest.mark.parametrize("body", ["{}", '{"batchSize":1}', '{"totalrecord":1}', '{"data":[1]}'])
def test_missing_total_record(body: str) -> None:
    error = refusal(errors.MissingMemberError, lambda: read_session_request(body.encode()))
    assert error.members == {"member": "totalRecord"}
    assert "'totalRecord'" in error.detail
    assert PLAIN_DIGITS in error.detail


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ('{"totalRecord":1,"totalRecord":1}', "totalRecord"),
        ('{"totalRecord":1,"totalRecord":2}', "totalRecord"),
        (r'{"totalRecord":1,"\u0074otalRecord":2}', "totalRecord"),
        ('{"batchSize":1,"totalRecord":1,"batchSize":null}', "batchSize"),
        ('{"batchSize":null,"totalRecord":1,"batchSize":1}', "batchSize"),
        ('{"x":1,"totalRecord":1,"x":1}', "x"),
        ('{"":1,"totalRecord":1,"":1}', ""),
    ],
)
def test_session_members_given_twice(body: str, member: str) -> None:
    error = refusal(errors.RepeatedMemberError, lambda: read_session_request(body.encode()))
    assert error.members == {"member": member}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"totalRecord":1', errors.TruncatedJsonError),
        ('{"totalRecord":', errors.TruncatedJsonError),
        ('{"totalRecord":1}}', errors.TrailingTextError),
        ('{"totalRecord":1,}', errors.MalformedJsonError),
        ('{"totalRecord":01}', errors.MalformedJsonError),
        ('{"totalRecord":NaN}', errors.NotANumberError),
        ('{"totalRecord":1,"x":"\n"}', errors.ControlCharacterError),
        (r'{"totalRecord":1,"x":"\ud800"}', errors.LoneSurrogateError),
        ('{"totalRecord":1,"x":' + "[" * 200_000, errors.TooDeeplyNestedError),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else value.__name__,
)
def test_malformed_session_requests(body: str, expected: Error) -> None:
    assert refusal(expected, lambda: read_session_request(body.encode())).status == 400
