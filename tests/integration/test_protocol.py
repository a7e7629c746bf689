"""The contract as clients see it, over every transport; results are read from S3.

The client's conformance checks have what is visible from outside; it is not repeated here.
"""

import base64
import gzip
import hashlib
import json
import random
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api import GZIP, Answer, Api
from tests.conftest import Stack
from uploads import limits


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def test_create(any_api: Api) -> None:
    answer = any_api.request("POST", Api.ROOT, b'{"totalRecord": 100000}')
    assert answer.status == 201
    created = answer.json
    assert answer.headers["location"] == f"{Api.ROOT}/{created['sessionId']}"
    assert created["limits"] == {
        "maxBodyBytes": limits.MAX_BODY_BYTES,
        "maxInflatedBytes": limits.MAX_INFLATED_BYTES,
        "maxSeqNum": limits.MAX_SEQ_NUM,
    }
    status = any_api.status(created["sessionId"])
    assert status.status == 200
    assert status.json == {
        "sessionId": created["sessionId"],
        "state": "OPEN",
        "totalRecord": 100000,
        "batchSize": None,
        "format": "ndjson",
        "metadata": {},
        "schema": None,
        "createdAt": status.json["createdAt"],
        "expiresAt": created["expiresAt"],
        "fileDeletedAt": None,
        "batches": 0,
        "missing": [],
        "merge": None,
        "finish": None,
    }


@pytest.mark.parametrize("batch_size", [None, 2], ids=["flexible", "strict"])
def test_batches_in_any_order_become_one_object(
    any_api: Api, stack: Stack, batch_size: int | None
) -> None:
    session_id = any_api.create(5, batch_size)
    batches: dict[int, list[object]] = {2: [5], 0: ["a", {"b": 2}], 1: [None, [4]]}
    for seq_num, data in batches.items():
        answer = any_api.batch(session_id, seq_num, data)
        assert (answer.status, answer.body) == (204, b"")
    finished = any_api.finish(session_id)
    expected = lines("a", {"b": 2}, None, [4], 5)
    assert finished.status == 200
    assert finished.json == {
        "sessionId": session_id,
        "validationResult": "Success",
        "totalRecord": 5,
        "receivedRecord": 5,
        "batches": 3,
        "bytes": len(expected),
        "key": f"{session_id}.ndjson",
        "manifest": f"{session_id}.manifest.json",
        "checksum": {
            "algorithm": "CRC32",
            "type": "FULL_OBJECT",
            "value": base64.b64encode(zlib.crc32(expected).to_bytes(4, "big")).decode(),
        },
    }
    assert stack.merged(session_id) == expected
    assert any_api.finish(session_id).json == finished.json
    status = any_api.status(session_id).json
    assert (status["state"], status["batches"], status["missing"]) == ("FINISHED", 3, [])
    assert status["finish"] == finished.json


def test_gaps_of_a_strict_session_include_the_tail(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(99, 10)
    for seq_num in (0, 3, 4, 8):
        assert any_api.batch(session_id, seq_num, [seq_num] * 10).status == 204
    failed = any_api.finish(session_id).json
    missing = [{"from": 1, "to": 2}, {"from": 5, "to": 7}, {"from": 9, "to": 9}]
    assert failed == {
        "sessionId": session_id,
        "validationResult": "Failed",
        "reason": "missing_batches",
        "detail": failed["detail"],
        "missing": missing,
        "totalRecord": 99,
        "batches": 4,
    }
    status = any_api.status(session_id).json
    assert (status["state"], status["missing"], status["finish"]) == ("OPEN", missing, failed)
    assert not stack.has_merged(session_id)
    for seq_num in (1, 2, 5, 6, 7, 9):
        assert (
            any_api.batch(session_id, seq_num, [seq_num] * (9 if seq_num == 9 else 10)).status
            == 204
        )
    assert any_api.finish(session_id).json["validationResult"] == "Success"
    assert stack.merged(session_id) == lines(*[n // 10 for n in range(99)])


def test_gaps_of_a_flexible_session_are_holes_then_a_count(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(4)
    assert any_api.finish(session_id).json | {"detail": ""} == {
        "sessionId": session_id,
        "validationResult": "Failed",
        "reason": "record_count",
        "detail": "",
        "missing": [],
        "totalRecord": 4,
        "receivedRecord": 0,
        "batches": 0,
    }
    any_api.batch(session_id, 2, [3])
    holes = any_api.finish(session_id).json
    assert (holes["reason"], holes["missing"]) == ("missing_batches", [{"from": 0, "to": 1}])
    any_api.batch(session_id, 0, [1])
    any_api.batch(session_id, 1, [2])
    count = any_api.finish(session_id).json
    assert (count["reason"], count["missing"], count["receivedRecord"]) == ("record_count", [], 3)
    assert "from seqNum 3" in count["detail"]
    any_api.batch(session_id, 3, [4])
    assert any_api.finish(session_id).json["validationResult"] == "Success"
    assert stack.merged(session_id) == lines(1, 2, 3, 4)


def test_too_many_records_are_final(any_api: Api) -> None:
    session_id = any_api.create(1)
    any_api.batch(session_id, 0, [1, 2, 3])
    failed = any_api.finish(session_id).json
    assert (failed["reason"], failed["receivedRecord"]) == ("record_count", 3)
    assert "start a new one" in failed["detail"]


def test_abort(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(2)
    any_api.batch(session_id, 0, [1])
    assert any_api.abort(session_id).status == 204
    assert any_api.abort(session_id).status == 204
    assert stack.cleaned_up(session_id) == (0, 0)
    status = any_api.status(session_id).json
    assert (status["state"], status["batches"]) == ("ABORTED", 0)
    assert any_api.batch(session_id, 0, [1]).code == "session_aborted"
    assert any_api.finish(session_id).code == "session_aborted"
    file = any_api.file(session_id)
    assert file.code == "session_not_finished"
    # The file will never exist, so no Retry-After.
    assert "aborted" in file.json["detail"]


def test_file(any_api: Api, download: Callable[[str], bytes]) -> None:
    session_id = any_api.create(1)
    assert any_api.file(session_id).code == "session_not_finished"
    any_api.batch(session_id, 0, ["x"])
    any_api.finish(session_id)
    redirect = any_api.file(session_id)
    assert (redirect.status, redirect.body) == (307, b"")
    link = any_api.file(session_id, {"accept": "application/json"})
    assert link.status == 200
    assert set(link.json) == {"url", "expiresAt"}
    for answer in (redirect, link):
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
    assert any_api.manifest(session_id).headers["vary"] == "Accept"
    refused = any_api.file(session_id, {"accept": "application/json;q=0, */*"})
    assert (refused.status, refused.body) == (307, b"")
    for url in (redirect.headers["location"], link.json["url"]):
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
        assert "X-Amz-Expires=900" in url
        assert download(url) == b'"x"\n'


@pytest.mark.parametrize("form", ["ndjson", "ndjson.gz"])
def test_the_file_is_deleted_for_good(
    any_api: Api, stack: Stack, download: Callable[[str], bytes], form: str
) -> None:
    session_id = any_api.create(2, format=form)
    any_api.batch(session_id, 0, ["x"])
    assert any_api.delete_file(session_id).code == "session_not_finished"
    # An attempt that validated never knew of a later decision.
    assert any_api.finish(session_id).json["validationResult"] == "Failed"
    any_api.batch(session_id, 1, ["y"])
    result = any_api.finish(session_id).json
    before = any_api.status(session_id).json
    assert before["fileDeletedAt"] is None
    link = any_api.file(session_id, {"accept": "application/json"}).json["url"]
    assert download(link)
    for _ in range(2):
        deleted = any_api.delete_file(session_id)
        assert (deleted.status, deleted.body) == (204, b"")
        for get in (any_api.file, any_api.manifest):
            gone = get(session_id)
            assert (gone.status, gone.code) == (410, "file_deleted")
        assert not stack.has_merged(session_id)
    after = any_api.status(session_id).json
    assert gone.json["fileDeletedAt"] == after["fileDeletedAt"] > before["createdAt"][:10]
    assert after == before | {"fileDeletedAt": after["fileDeletedAt"]}
    assert any_api.finish(session_id).json == result
    assert any_api.abort(session_id).code == "session_finished"
    assert any_api.batch(session_id, 2, [1]).code == "session_finished"


def test_an_aborted_session_has_no_file_to_delete(any_api: Api) -> None:
    session_id = any_api.create(1)
    any_api.abort(session_id)
    answer = any_api.delete_file(session_id)
    assert (answer.status, answer.code) == (409, "session_not_finished")
    assert "aborted" in answer.json["detail"]


def test_a_file_that_a_slow_attempt_could_publish_again(any_api: Api, stack: Stack) -> None:
    session_id = any_api.filled([[1]])
    any_api.finish(session_id)
    for age in (300, 0):
        now = int(time.time())
        # Another attempt sealed meanwhile, and may have read the decision.
        stack.change(session_id, attempt=2, finishedAt=now - age)
        answer = any_api.delete_file(session_id)
        assert (answer.status, answer.code) == (409, "file_settling")
        passed = int(time.time()) - now
        assert 600 - age - passed <= answer.json["retryAfter"] <= 600 - age
        assert answer.headers["retry-after"] == str(answer.json["retryAfter"])
        assert any_api.status(session_id).json["fileDeletedAt"] is None
        assert any_api.file(session_id).status == 307
    stack.change(session_id, finishedAt=now - 600)
    assert any_api.delete_file(session_id).status == 204
    assert not stack.has_merged(session_id)


def test_a_compressed_session(any_api: Api, stack: Stack, download: Callable[[str], bytes]) -> None:
    session_id = any_api.create(3, 2, format="ndjson.gz")
    assert any_api.status(session_id).json["format"] == "ndjson.gz"
    for seq_num, data in ((1, ["é"]), (0, [1, {"b": 2}])):
        for _ in range(2):
            assert any_api.batch(session_id, seq_num, data).status == 204
    assert any_api.batch(session_id, 1, ["e"]).code == "batch_conflict"
    result = any_api.finish(session_id).json
    merged = stack.merged(session_id, "ndjson.gz")
    content = lines(1, {"b": 2}, "é")
    assert zlib.decompress(merged, 31) == content
    assert (result["bytes"], result["content"]["bytes"]) == (len(merged), len(content))
    for found, of in ((result, merged), (result["content"], content)):
        crc32 = base64.b64encode(zlib.crc32(of).to_bytes(4, "big")).decode()
        assert found["checksum"] == {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc32}
    for accepted, expected in (("gzip", content), ("identity", merged)):
        headers = {"accept": "application/json", "accept-encoding": accepted}
        assert download(any_api.file(session_id, headers).json["url"]) == expected


ROUTES = [
    ("POST", "", b'{"seqNum":0,"data":[1]}'),
    ("POST", "/finish", b""),
    ("GET", "", b""),
    ("GET", "/file", b""),
    ("GET", "/manifest", b""),
    ("DELETE", "", b""),
    ("DELETE", "/file", b""),
]


@pytest.mark.parametrize(("method", "suffix", "body"), ROUTES)
@pytest.mark.parametrize(
    "session_id",
    [
        "0" * 32,
        "nope",
        "A" * 32,
        "f" * 600,
        "%00",
        "%F0%9F%98%80",
        pytest.param("..%2e", marks=pytest.mark.needs("odd paths")),
        pytest.param("0" * 31 + "%0a", marks=pytest.mark.needs("odd paths")),
    ],
)
def test_an_unknown_id_is_a_404_on_every_route(
    any_api: Api, session_id: str, method: str, suffix: str, body: bytes
) -> None:
    answer = any_api.request(method, f"{Api.ROOT}/{session_id}{suffix}", body)
    assert (answer.status, answer.code) == (404, "session_not_found")


@pytest.mark.needs("unknown routes")
@pytest.mark.parametrize("path", ["/", "/api/upload", f"{Api.ROOT}/a/b/c", f"{Api.ROOT}/..%2Fx"])
def test_an_unknown_route_is_answered_by_the_gateway(any_api: Api, path: str) -> None:
    answer = any_api.request("GET", path)
    assert (answer.status, answer.json) == (404, {"message": "Not Found"})


@pytest.mark.parametrize(("method", "suffix", "body"), ROUTES)
@pytest.mark.parametrize("finished", [False, True], ids=["open", "finished"])
def test_an_expired_session_is_gone(
    any_api: Api, stack: Stack, method: str, suffix: str, body: bytes, *, finished: bool
) -> None:
    session_id = any_api.create(1)
    any_api.batch(session_id, 0, [1])
    if finished:
        any_api.finish(session_id)
    # The time to live deletes an item only some time later.
    over = {"expiresAt": int(time.time()) - 1}
    stack.change(session_id, batchesUntil=1_000_000_000, **over)
    if finished:
        stack.change(session_id, keptUntil=over["expiresAt"])
    answer = any_api.request(method, f"{Api.ROOT}/{session_id}{suffix}", body)
    assert (answer.status, answer.code) == (410, "session_expired")


@pytest.mark.needs("binary bodies")
def test_gzip_with_a_digest(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(2)
    body = gzip.compress(b'{"seqNum":0,"data":["\xc3\xa9",1.0]}')
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    headers = {**GZIP, "content-digest": f"sha-256=:{digest}:"}
    assert any_api.raw_batch(session_id, body + b"x", headers).code == "digest_mismatch"
    assert any_api.raw_batch(session_id, body, headers).status == 204
    assert stack.stored(session_id, 0) == b'"\xc3\xa9"\n1.0\n'


# --- NDJSON ---------------------------------------------------------------------------------------

NDJSON = b'{"a": 1.0}\n"\xc3\xa9"\n'
AS_JSON = b'{"seqNum":0,"data":[{"a": 1.0},"\xc3\xa9"]}'


@pytest.mark.parametrize("lines_first", [True, False])
def test_lines_and_json_are_the_same_batch(any_api: Api, stack: Stack, lines_first: bool) -> None:  # noqa: FBT001
    session_id = any_api.create(2)
    by_lines = any_api.lines(session_id, 0, NDJSON) if lines_first else None
    assert any_api.raw_batch(session_id, AS_JSON).status == 204
    by_lines = by_lines or any_api.lines(session_id, 0, NDJSON)
    assert (by_lines.status, by_lines.body) == (204, b"")
    assert any_api.lines(session_id, 0, b"\n" + NDJSON.replace(b"\n", b" \r\n")).status == 204
    assert stack.stored(session_id, 0) == NDJSON
    conflict = any_api.lines(session_id, 0, NDJSON.replace(b"1.0", b"1"))
    assert (conflict.status, conflict.code) == (409, "batch_conflict")
    assert conflict.json["storedDigest"] == hashlib.sha256(NDJSON).hexdigest()
    assert stack.stored(session_id, 0) == NDJSON


@pytest.mark.parametrize("batch_size", [None, 2], ids=["flexible", "strict"])
def test_lines_and_json_become_one_object(
    any_api: Api, stack: Stack, batch_size: int | None
) -> None:
    session_id = any_api.create(5, batch_size)
    assert any_api.lines(session_id, 2, b"5").status == 204
    assert any_api.batch(session_id, 1, [3, 4]).status == 204
    assert any_api.finish(session_id).json["validationResult"] == "Failed"
    assert any_api.lines(session_id, 0, b"1\n2\n").status == 204
    assert any_api.finish(session_id).json["validationResult"] == "Success"
    assert stack.merged(session_id) == b"1\n2\n3\n4\n5\n"
    assert any_api.lines(session_id, 0, b"1\n2\n").code == "session_finished"


def test_lines_are_the_same_batch_in_a_compressed_session(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(4, 2, format="ndjson.gz")
    assert any_api.lines(session_id, 0, NDJSON).status == 204
    assert any_api.raw_batch(session_id, AS_JSON).status == 204
    assert any_api.raw_batch(session_id, AS_JSON.replace(b":0", b":1", 1)).status == 204
    assert any_api.lines(session_id, 1, NDJSON.replace(b"\n", b"\r\n")).status == 204
    conflict = any_api.lines(session_id, 1, b"1\n2\n")
    assert conflict.json["storedDigest"] == hashlib.sha256(NDJSON).hexdigest()
    result = any_api.finish(session_id).json
    assert (result["validationResult"], result["content"]["bytes"]) == ("Success", 2 * len(NDJSON))
    assert gzip.decompress(stack.merged(session_id, "ndjson.gz")) == 2 * NDJSON


@pytest.mark.needs("binary bodies")
@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/gzip", ""])
def test_lines_as_gzip_with_a_digest(any_api: Api, stack: Stack, media_type: str) -> None:
    session_id = any_api.create(2)
    body = gzip.compress(NDJSON)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    headers = {
        "content-type": media_type,
        "content-encoding": "gzip",
        "content-digest": f"sha-256=:{digest}:",
    }
    assert any_api.lines(session_id, 0, body + b"x", headers).code == "digest_mismatch"
    assert any_api.lines(session_id, 0, body, headers).status == 204
    assert stack.stored(session_id, 0) == NDJSON


@pytest.mark.parametrize(
    "media_type",
    [
        *("application/x-ndjson; charset=utf-8", "application/json", "text/plain", "text/csv"),
        *("application/octet-stream", "application/x-www-form-urlencoded", "nonsense", ""),
    ],
)
def test_plain_lines_are_read_whatever_their_type(
    any_api: Api, stack: Stack, media_type: str
) -> None:
    session_id = any_api.create(2)
    assert any_api.lines(session_id, 0, NDJSON, {"content-type": media_type}).status == 204
    assert stack.stored(session_id, 0) == NDJSON


@pytest.mark.parametrize("seq_num", ["00", "01", "-0", "-1", "%2B1", "1e3", "1.0", "100000", "x"])
def test_a_seq_num_in_the_path_is_plain_digits(any_api: Api, seq_num: str) -> None:
    answer = any_api.lines(any_api.create(2), seq_num, NDJSON)
    assert (answer.status, answer.code) == (400, "invalid_seq_num")
    assert answer.json["member"] == "seqNum"


@pytest.mark.parametrize(
    ("seq_num", "records", "code"),
    [
        (0, 3, 204),
        (2, 1, 204),
        (0, 2, "wrong_batch_length"),
        (2, 3, "wrong_batch_length"),
        (3, 3, "seq_num_out_of_range"),
    ],
)
def test_a_strict_session_checks_each_batch_of_lines(
    any_api: Api, seq_num: int, records: int, code: object
) -> None:
    answer = any_api.lines(any_api.create(7, 3), seq_num, b"1\n" * records)
    assert (answer.status if answer.status == 204 else answer.code) == code


TEXT = {"content-type": "text/plain"}
LINES_GZIP = {"content-encoding": "gzip"}
WRONG_LINES: list[tuple[str, bytes, dict[str, str], int, str, int | None]] = [
    ("empty", b"", {}, 400, "empty_data", None),
    ("blank", b" \n\r\n\n", {}, 400, "empty_data", None),
    ("over two lines", b'1\n{"a":\n1}\n', {}, 400, "truncated_json", 2),
    ("two on a line", b"1\n\n2 3\n", {}, 400, "trailing_text", 3),
    ("one over two lines and two on one", b"[1\n2]\n3,4\n", {}, 400, "truncated_json", 1),
    ("malformed", b"1\n2\n{'a':1}\n", {}, 400, "malformed_json", 3),
    ("NaN", b"1\nNaN\n", {}, 400, "not_a_number", 2),
    ("control character", b'"\t"\n', {}, 400, "control_character", 1),
    ("surrogate", b'1\n"\\ud800"', {}, 400, "lone_surrogate", 2),
    ("byte order mark", b"\xef\xbb\xbf1\n", {}, 400, "malformed_json", 1),
    ("deep", b"1\n" + b"[" * 200_000, {}, 400, "too_deeply_nested", 2),
    ("latin-1", b'1\n"\xe9"\n', {}, 400, "invalid_utf8", None),
    ("latin-1 text", b'1\n"\xe9"\n', TEXT, 400, "invalid_utf8", None),
    ("not gzip", b"1\n", LINES_GZIP, 400, "invalid_gzip", None),
    ("half gzip", gzip.compress(b"1\n")[:-4], LINES_GZIP, 400, "truncated_gzip", None),
    ("empty gzip", gzip.compress(b""), LINES_GZIP, 400, "empty_data", None),
    ("wrong in gzip", gzip.compress(b"1\n2,\n"), LINES_GZIP, 400, "trailing_text", 2),
    ("gzip as text", gzip.compress(b"1\n"), TEXT | LINES_GZIP, 415, "gzip_as_text", None),
    ("brotli", b"x", {"content-encoding": "br"}, 415, "unsupported_encoding", None),
    ("bomb", gzip.compress(bytes(70 * 2**20), 1), LINES_GZIP, 413, "inflated_too_large", None),
    ("large", b"1\n" * (limits.MAX_BODY_BYTES // 2 + 1), {}, 413, "body_too_large", None),
    ("digest", b"1", {"content-digest": "sha-256=x"}, 400, "invalid_content_digest", None),
]
BINARY_LINES = {
    *("latin-1", "latin-1 text", "not gzip", "half gzip", "empty gzip", "wrong in gzip"),
    *("gzip as text", "bomb"),
}


def _needs(name: str) -> list[pytest.MarkDecorator]:
    if name == "large":  # in base64 it is as large as an event may be
        return [pytest.mark.needs("gateway limits")]
    return [pytest.mark.needs("binary bodies")] * (name in BINARY_LINES)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "line"),
    [pytest.param(*case, id=name, marks=_needs(name)) for name, *case in WRONG_LINES],
)
def test_wrong_lines_store_nothing(
    any_api: Api,
    stack: Stack,
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    line: int | None,
) -> None:
    session_id = any_api.create(1)
    answer = any_api.lines(session_id, 0, body, headers)
    assert (answer.status, answer.code) == (status, code)
    assert answer.json.get("line") == line
    if code == "gzip_as_text":
        assert answer.json["expected"] == "application/x-ndjson"
    assert stack.stored_keys(session_id) == []


@pytest.mark.needs("gateway limits")
def test_a_body_that_no_function_can_take_is_refused_by_the_gateway(any_api: Api) -> None:
    session_id = any_api.create(1)
    answer = any_api.raw_batch(session_id, b'{"seqNum":0,"data":["' + b"x" * 7_000_000 + b'"]}')
    assert (answer.status, answer.json) == (413, {"message": "Request Entity Too Large"})


COMPRESSED = pytest.mark.needs("binary bodies")


@pytest.mark.needs("multipart")
@pytest.mark.parametrize(
    "sizes",
    [
        [4_000_000],
        [4_000_000] * 9,
        pytest.param([6_000_000], marks=COMPRESSED),
        pytest.param([100, 6_000_000, 100], marks=COMPRESSED),
        pytest.param(
            [6_000_000, 5_500_000, 100, 5_300_000, 4_000_000, 4_000_000, 7_000_000],
            marks=COMPRESSED,
        ),
    ],
    ids=["one put", "many parts", "one copied", "small around large", "mixed"],
)
def test_the_object_is_the_concatenation_at_every_size(
    api: Api, stack: Stack, sizes: list[int]
) -> None:
    session_id = api.create(len(sizes))
    expected = b""
    for seq_num, size in enumerate(sizes):
        record = random.Random(seq_num).randbytes(size // 2).hex()
        send = api.batch if size < limits.MAX_BODY_BYTES - 100 else api.gzip_batch
        assert send(session_id, seq_num, [record]).status == 204
        expected += lines(record)
    result = api.finish(session_id).json
    assert (result["validationResult"], result["bytes"]) == ("Success", len(expected))
    assert stack.merged(session_id) == expected
    assert stack.open_uploads(session_id) == 0
    head = stack.s3.head_object(
        Bucket=stack.merged_bucket, Key=result["key"], ChecksumMode="ENABLED"
    )
    crc32 = base64.b64encode(zlib.crc32(expected).to_bytes(4, "big")).decode()
    assert head.get("ChecksumCRC32", crc32) == crc32 == result["checksum"]["value"]


@pytest.mark.slow
def test_2500_batches_of_one_record(api: Api, stack: Stack) -> None:
    session_id = api.create(2_500, 1)
    order = random.Random(1).sample(range(2_500), 2_500)
    with ThreadPoolExecutor(8) as threads:
        sent = threads.map(lambda seq_num: api.batch(session_id, seq_num, [seq_num]), order[:-3])
        assert {answer.status for answer in sent} == {204}
    missing = api.finish(session_id).json["missing"]
    assert [gap["from"] for gap in missing] == sorted(order[-3:])
    for seq_num in order[-3:]:
        api.batch(session_id, seq_num, [seq_num])
    assert api.finish(session_id).json["batches"] == 2_500
    assert stack.merged(session_id) == lines(*range(2_500))


def test_one_of_16_that_race_for_a_seq_num_wins(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(1)

    def race(client: int) -> Answer:
        return any_api.batch(session_id, 0, [client])

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(race, range(16)))
    assert sorted(answer.status for answer in answers) == [204] + [409] * 15
    assert {answer.code for answer in answers if answer.status == 409} == {"batch_conflict"}
    winner = next(n for n, answer in enumerate(answers) if answer.status == 204)
    assert stack.stored(session_id, 0) == lines(winner)
    any_api.finish(session_id)
    assert stack.merged(session_id) == lines(winner)


@pytest.mark.parametrize("seed", range(5))
def test_every_204_of_batches_that_race_a_finish_is_in_the_object(
    any_api: Api, stack: Stack, seed: int
) -> None:
    session_id = any_api.create(24, None)
    order = random.Random(seed).sample(range(24), 24)

    def act(seq_num: int) -> Answer:
        if seq_num < 0:
            return any_api.finish(session_id)
        return any_api.batch(session_id, seq_num, [seq_num])

    with ThreadPoolExecutor(12) as threads:
        # The finishes come after, among and before the last batches.
        answers = list(threads.map(act, [*order[:18], -1, *order[18:21], -1, *order[21:], -1]))
    acknowledged = {
        seq_num
        for seq_num, answer in zip(
            [*order[:18], -1, *order[18:21], -1, *order[21:], -1], answers, strict=True
        )
        if seq_num >= 0 and answer.status == 204
    }
    for seq_num in set(range(24)) - acknowledged:
        any_api.batch(session_id, seq_num, [seq_num])
    result = any_api.finish(session_id)
    assert result.json["validationResult"] == "Success"
    assert stack.merged(session_id) == lines(*range(24))
