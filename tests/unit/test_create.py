"""The body of a create."""

import json

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
        ('{"totalRecord":null}', None, None),
        ('{"totalRecord":null,"batchSize":null}', None, None),
        (' {\n"totalRecord" :\t5 ,\r\n"comment" : "ignored" } ', 5, None),
        (r'{"total\u0052ecord":5}', 5, None),
        ('{"totalRecord":5,"x":[-0,1e400,{"a":1,"a":2}]}', 5, None),
    ],
)
def test_session_requests(body: str, total_record: int | None, batch_size: int | None) -> None:
    assert read_session_request(body.encode()) == SessionRequest(total_record, batch_size)


@pytest.mark.parametrize(
    "value", [str(LARGEST + 1), str(LARGEST + 2), *NOT_AN_INTEGER], ids=lambda at: at[:30]
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


@pytest.mark.parametrize(
    "body", ['{"totalRecord":null,"batchSize":1}', '{"batchSize":9,"totalRecord":null}']
)
def test_a_batch_size_of_an_open_ended_session(body: str) -> None:
    error = refusal(errors.InvalidBatchSizeError, lambda: read_session_request(body.encode()))
    assert "leave batchSize out" in error.detail
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


# --- Metadata ---


def read_metadata(metadata: str) -> dict[str, str]:
    return read_session_request(f'{{"totalRecord":1,"metadata":{metadata}}}'.encode()).metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"name": "orders.ndjson"},
        {"a-b_9": "", "_": " ", "-": "~"},
        {"name": "Größe 1.ndjson", "note": "日本語 \U0001f469\u200d\U0001f4bb क्\u200dष \xa0"},
        {"n" * 64: "x" * 1_984},
        {f"{n:02}": "é" * 63 for n in range(16)},
    ],
    ids=lambda metadata: str(metadata)[:20],
)
def test_metadata_is_kept_as_it_is(metadata: dict[str, str]) -> None:
    assert read_metadata(json.dumps(metadata)) == metadata
    assert read_metadata(json.dumps(metadata, ensure_ascii=False)) == metadata


SECRET = "s3cr3t-v4lue"
NOT_PRINTABLE = [
    *(0x00, 0x09, 0x0A, 0x0D, 0x1F, 0x7F, 0x80, 0x85, 0x9F),
    *(0x2028, 0x2029, 0x202A, 0x202E, 0x2066, 0x2069, 0xFFFE, 0xFFFF),
]


@pytest.mark.parametrize("code", NOT_PRINTABLE, ids=hex)
@pytest.mark.parametrize("form", ["{}", "a{}", "{}a"])
def test_metadata_is_printable(form: str, code: int) -> None:
    value = form.format(f"{SECRET}\\u{code:04x}")
    error = refusal(errors.InvalidMetadataError, lambda: read_metadata(f'{{"note":"{value}"}}'))
    assert error.members == {"member": "metadata", "name": "note"}
    assert "printable" in error.detail
    assert SECRET not in str(error.problem())


@pytest.mark.parametrize(
    ("metadata", "rule"),
    [
        *((value, "an object") for value in ("null", "[]", '"x"', "1", "true", '["a"]')),
        *(
            (f'{{"a":"1","b":{value}}}', "values are strings")
            for value in ("null", "1", "1.5", "true", "[]", "{}", '["x"]', "9" * 5_000)
        ),
        *(
            (json.dumps({name: SECRET}), "1 to 64 characters")
            for name in ("", "A", "a b", "a.b", "é", "a\n", "n" * 65, SECRET.upper(), "\u0661")
        ),
        (json.dumps({f"{n:02}": SECRET for n in range(17)}), "at most 16 members"),
        (json.dumps({f"{n:05}": SECRET for n in range(3_000)}), "at most 16 members"),
        (json.dumps({"n" * 64: "x" * 1_985}), "at most 2048 bytes"),
        (json.dumps({"a": "é" * 1_024}), "at most 2048 bytes"),
        (json.dumps({f"{n:02}": "x" * 127 for n in range(16)}), "at most 2048 bytes"),
    ],
    ids=lambda value: value[:20],
)
def test_metadata_that_is_not_what_it_can_be(metadata: str, rule: str) -> None:
    error = refusal(errors.InvalidMetadataError, lambda: read_metadata(metadata))
    assert error.status == 400
    assert rule in error.detail
    assert error.members["member"] == "metadata"
    assert SECRET not in str(error.problem())
    assert len(str(error.problem())) < 500


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ('{"name":"a","name":"a"}', errors.RepeatedMemberError),
        ('{"a":"1","name":"a","na\\u006de":"b"}', errors.RepeatedMemberError),
        (r'{"name":"\ud800"}', errors.LoneSurrogateError),
        (r'{"\udfff":"a"}', errors.LoneSurrogateError),
        ('{"name":"\n"}', errors.ControlCharacterError),
        ('{"name":"a"', errors.TruncatedJsonError),
    ],
)
def test_metadata_is_json_as_the_rest(metadata: str, expected: Error) -> None:
    assert refusal(expected, lambda: read_metadata(metadata)).status == 400
