"""The format ``ndjson.gz`` through the API: storing, merging, results and links."""

import base64
import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from isal import isal_zlib

from gapless import compression
from gapless.sessions import encode_batch
from tests.api import Api
from tests.aws import AwsProxy
from tests.conftest import MotoStack, Stack
from tests.hostile import deflate
from uploads import gzip_member, limits

GZ = "ndjson.gz"
FRAME = 20
"""Bytes of a gzip member's header, and of its trailer."""
BATCH_GZIP = {
    "content-type": "application/vnd.gapless.batch+json",
    "content-encoding": "gzip",
}


def ndjson(records: Iterable[object]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def crc32(content: bytes) -> dict[str, str]:
    value = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    return {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": value}


def inflated(batch: bytes) -> bytes:
    """The content of a stored batch: raw DEFLATE without a final block."""
    found = zlib.decompressobj(-15)
    content = found.decompress(batch)
    assert not found.eof
    assert not found.unconsumed_tail
    return content


def send(api: Api, session_id: str, batches: Sequence[Sequence[object]]) -> None:
    """Send the batches in reverse order."""
    for seq_num, records in reversed([*enumerate(batches)]):
        body = gzip.compress(json.dumps({"seqNum": seq_num, "data": records}).encode(), 1)
        assert api.raw_batch(session_id, body, BATCH_GZIP).status == 204


def check(stack: Stack, session_id: str, batches: Sequence[Sequence[object]], result: Any) -> None:  # noqa: ANN401
    """The object, its manifest and the result of finish match ``batches``."""
    whole = b"".join(map(ndjson, batches))
    merged = stack.merged(session_id, GZ)
    content = {"bytes": len(whole), "checksum": crc32(whole)}
    about = {
        "sessionId": session_id,
        "key": f"{session_id}.ndjson.gz",
        "bytes": len(merged),
        "checksum": crc32(merged),
        "content": content,
    }
    # Exactly one gzip member.
    reader = zlib.decompressobj(31)
    assert reader.decompress(merged) == whole
    assert (reader.eof, reader.unused_data) == (True, b"")
    head = stack.s3.head_object(Bucket=stack.merged_bucket, Key=f"{session_id}.ndjson.gz")
    assert head["ContentType"] == "application/gzip"
    assert "ContentEncoding" not in head

    assert about.items() <= result.items()
    assert (result["validationResult"], result["batches"]) == ("Success", len(batches))
    assert result["receivedRecord"] == whole.count(b"\n")

    found = stack.s3.get_object(Bucket=stack.merged_bucket, Key=result["manifest"])
    manifest = json.load(found["Body"])
    entries = manifest.pop("batches")
    assert manifest == about | {"metadata": {}, "schema": None, "records": whole.count(b"\n")}
    end = 10
    for entry, records in zip(entries, batches, strict=True):
        # The range of each batch can be inflated alone.
        start, end = end, entry["offset"] + entry["length"]
        assert entry["offset"] == start
        assert inflated(merged[start:end]) == ndjson(records)
        assert entry["records"] == len(records)
        assert entry["contentLength"] == len(ndjson(records))
        assert entry["sha256"] == hashlib.sha256(ndjson(records)).hexdigest()
    assert end == len(merged) - 10
    # No upload is left.
    assert stack.open_uploads(session_id) == 0


# --- Opening a session ---


@pytest.mark.parametrize(
    ("members", "form"),
    [({}, "ndjson"), ({"format": "ndjson"}, "ndjson"), ({"format": GZ}, GZ)],
)
def test_a_session_has_a_format(any_api: Api, members: dict[str, str], form: str) -> None:
    session_id = any_api.create(3, 2, **members)
    assert any_api.status(session_id).json["format"] == form


@pytest.mark.parametrize(
    "form",
    [
        *("", "NDJSON", "ndjson.gzip", "gzip", "csv", "ndjson\n", "a\n - at `$.data`"),
        *("missing required field `x`", "x" * 100_000, None, 1, True, [], {}, ["ndjson"]),
    ],
    ids=lambda form: repr(form)[:20],
)
def test_an_unknown_format_is_refused(any_api: Api, form: object) -> None:
    body = json.dumps({"totalRecord": 1, "format": form}).encode()
    answer = any_api.request("POST", Api.ROOT, body)
    assert (answer.status, answer.code) == (400, "invalid_format")
    assert answer.json["member"] == "format"
    assert answer.json["detail"].startswith("format must be 'ndjson' or 'ndjson.gz', or left out.")
    assert len(answer.body) < 1_000


def test_a_format_that_is_given_twice_is_refused(any_api: Api) -> None:
    body = b'{"totalRecord": 1, "format": "ndjson", "format": "ndjson.gz"}'
    answer = any_api.request("POST", Api.ROOT, body)
    assert (answer.code, answer.json["member"]) == ("repeated_member", "format")


def test_items_of_before_are_plain(api: Api, stack: Stack) -> None:
    """Items of the release without formats."""
    session_id = api.create(0)
    stack.table.update_item(
        Key={"sessionId": session_id},
        UpdateExpression="REMOVE #format",
        ExpressionAttributeNames={"#format": "format"},
    )
    assert api.status(session_id).json["format"] == "ndjson"
    assert api.finish(session_id).json["key"] == f"{session_id}.ndjson"


# --- Batches ---


def test_a_batch_is_stored_compressed(any_api: Api, stack: Stack) -> None:
    records = [{"id": n, "name": "Zoë"} for n in range(1_000)]
    session_id = any_api.create(1_000, format=GZ)
    assert any_api.batch(session_id, 0, records).status == 204
    stored = stack.stored(session_id, 0)
    assert inflated(stored) == ndjson(records)
    assert len(stored) < len(ndjson(records)) / 4
    head = stack.s3.head_object(Bucket=stack.batches_bucket, Key=f"{session_id}/00000000")
    assert head["Metadata"] == {
        "records": "1000",
        "sha256": hashlib.sha256(ndjson(records)).hexdigest(),
        "stored-crc32": f"{zlib.crc32(stored):08x}",
        "content-crc32": f"{zlib.crc32(ndjson(records)):08x}",
        "content-bytes": str(len(ndjson(records))),
    }


@pytest.mark.parametrize("form", ["ndjson", GZ])
def test_a_batch_is_the_same_by_its_records(any_api: Api, stack: Stack, form: str) -> None:
    session_id = any_api.create(2, format=form)
    assert any_api.raw_batch(session_id, b'{"seqNum":0,"data":[{"a":1},2]}').status == 204
    before = stack.stored(session_id, 0)
    assert any_api.raw_batch(session_id, b'{"seqNum":0, "data": [{"a":1} , 2]}').status == 204
    other = any_api.raw_batch(session_id, b'{"seqNum":0,"data":[{"a":1},3]}')
    assert (other.status, other.code) == (409, "batch_conflict")
    assert other.json["storedDigest"] == hashlib.sha256(b'{"a":1}\n2\n').hexdigest()
    assert other.json["storedRecords"] == 2
    assert stack.stored(session_id, 0) == before


def test_a_batch_costs_as_many_calls(api: Api, aws: AwsProxy) -> None:
    calls = {}
    for form in ("ndjson", GZ):
        session_id = api.create(2, format=form)
        api.batch(session_id, 0, ["cold"])
        with aws.recording() as made:
            api.batch(session_id, 1, ["warm"])
        calls[form] = [call.operation for call in made]
    assert calls[GZ] == calls["ndjson"] == ["PutObject", "GetItem"]


# --- Finish ---

AT = random.Random(3)  # not for secrets
PART = 2**16


def noise(size: int) -> str:
    """Text that compresses to about ``size`` bytes."""
    return AT.randbytes(size).hex()


SHAPES: dict[str, Sequence[Sequence[object]]] = {
    "nothing": [],
    "one record": [[1]],
    "one put": [[n] * (n % 3 + 1) for n in range(20)],
    "many parts": [[noise(2_000)] for _ in range(120)],
    "copied": [[noise(2 * PART)] for _ in range(4)],
    "only a large one": [[noise(2 * PART)]],
    "a large one, and little": [[noise(2 * PART)], [1]],
    "copied, and little at the end": [*([noise(2 * PART)] for _ in range(3)), [1], [2]],
    "all kinds": [[noise(n)] for n in (9, 3 * PART, 2 * PART, 50, PART, 3 * PART, PART // 2, 1)],
}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 KiB, also in moto's S3."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", PART)
    monkeypatch.setattr(limits, "MIN_PART_BYTES", PART)
    monkeypatch.setattr(limits, "PART_BYTES", PART + 1_000)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("strict", [False, True], ids=["flexible", "strict"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_object_is_one_gzip_member(
    api: Api, local: MotoStack, aws: AwsProxy, shape: str, *, strict: bool
) -> None:
    batches = [records[:1] if strict else records for records in SHAPES[shape]]
    total = sum(map(len, batches))
    session_id = api.create(total, 1 if strict else None, format=GZ)
    send(api, session_id, batches)
    with aws.recording() as calls:
        result = api.finish(session_id).json
    check(local, session_id, batches, result)
    assert api.finish(session_id).json == result
    assert api.status(session_id).json["finish"] == result
    copied = [call for call in calls if call.operation == "UploadPartCopy"]
    assert bool(copied) == (shape in {"copied", "copied, and little at the end", "all kinds"})


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("shape", ["one put", "many parts", "copied"])
def test_s3_gets_size_and_checksum(api: Api, local: MotoStack, aws: AwsProxy, shape: str) -> None:
    """S3 compares them; moto does not."""
    batches = SHAPES[shape]
    session_id = api.create(sum(map(len, batches)), format=GZ)
    send(api, session_id, batches)
    with aws.recording() as calls:
        api.finish(session_id)
    merged = local.merged(session_id, GZ)
    published = [call for call in calls if call.key == f"{session_id}.ndjson.gz"][-1]
    if published.operation == "HeadObject":
        published = [call for call in calls if call.key == f"{session_id}.ndjson.gz"][-2]
    assert published.headers["if-none-match"] == "*"
    assert published.headers["x-amz-checksum-crc32"] == crc32(merged)["value"]
    if published.operation == "CompleteMultipartUpload":
        assert published.headers["x-amz-mp-object-size"] == str(len(merged))


# --- Storing what was sent ---

RECORDS = [{"id": n, "city": "Lima"} for n in range(200)]
GZIPPED = {"content-encoding": "gzip"}


def flushed(content: bytes) -> bytes:
    """One gzip member with a flush before its end."""
    made = zlib.compressobj(9, zlib.DEFLATED, 31)
    return made.compress(content) + made.flush(zlib.Z_FULL_FLUSH) + made.flush()


def test_what_the_client_flushed_is_stored_as_sent(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(600, format=GZ)
    sent = flushed(ndjson(RECORDS))
    assert any_api.lines(session_id, 1, sent, GZIPPED).status == 204
    assert stack.stored(session_id, 1) == sent[10:-10]
    # The same records are the same batch, however they come.
    again = (sent, gzip.compress(ndjson(RECORDS)), flushed(b"\n" + ndjson(RECORDS)))
    for body in again:
        assert any_api.lines(session_id, 1, body, GZIPPED).status == 204
    assert any_api.lines(session_id, 1, ndjson(RECORDS)).status == 204
    other = any_api.lines(session_id, 1, flushed(ndjson(RECORDS[1:])), GZIPPED)
    assert (other.code, other.json["storedRecords"]) == ("batch_conflict", len(RECORDS))
    assert stack.stored(session_id, 1) == sent[10:-10]
    # It is merged with batches that the service compressed.
    send(any_api, session_id, [RECORDS])
    assert any_api.lines(session_id, 2, ndjson(RECORDS)).status == 204
    result = any_api.finish(session_id).json
    check(stack, session_id, [RECORDS] * 3, result)


@pytest.mark.parametrize("codec", [isal_zlib, zlib])
def test_what_the_client_sends_is_stored_as_sent(
    api: Api, local: MotoStack, monkeypatch: pytest.MonkeyPatch, codec: ModuleType
) -> None:
    monkeypatch.setattr(compression, "compressobj", codec.compressobj)
    session_id = api.create(None, format=GZ)
    for seq_num, count in enumerate((50, 200, 20_000)):
        body, headers = encode_batch([ndjson(RECORDS)] * (count // 50), compress=True)
        assert api.lines(session_id, seq_num, body, headers).status == 204
        assert local.stored(session_id, seq_num) == body[10:-10]


CHANGED: dict[str, tuple[bytes, bytes]] = {
    "a blank line": (b"\n", b""),
    "space behind": (b"", b" \n"),
    "CR LF": (b"7\r\n", b""),
    "no line end": (b"", b"7"),
    "a spread record": (b"[1,\r2]\n", b""),
}


@pytest.mark.parametrize(("before", "behind"), CHANGED.values(), ids=CHANGED)
def test_lines_that_are_stored_otherwise_are_compressed_again(
    api: Api, local: MotoStack, before: bytes, behind: bytes
) -> None:
    session_id = api.create(None, format=GZ)
    content = before + ndjson(RECORDS) + behind
    assert api.lines(session_id, 0, flushed(content), GZIPPED).status == 204
    stored = inflated(local.stored(session_id, 0))
    assert stored != content
    assert stored.splitlines()[-202:] == [
        line.replace(b"\r", b"").strip() for line in content.split(b"\n") if line.strip()
    ]
    assert local.stored(session_id, 0) == gzip_member.deflate(stored)


REPACKED: dict[str, Callable[[], bytes]] = {
    "no flush": lambda: gzip.compress(b"1\n" * 500),
    "two members": lambda: flushed(b"1\n" * 250) * 2,
    "codes that zlib refuses": lambda: deflate.member(
        deflate.Huffman({0x31: 2, 10: 2, 256: 2}, [0]).put(*b"1\n" * 500, 256).flushed(),
        b"1\n" * 500,
    ),
    "not compressed": lambda: deflate.member(
        b"\0\xe8\x03\x17\xfc" + b"1\n" * 500 + deflate.FLUSHED, b"1\n" * 500
    ),
}


@pytest.mark.parametrize("made", REPACKED.values(), ids=REPACKED)
def test_all_else_is_compressed_again(
    api: Api, local: MotoStack, made: Callable[[], bytes]
) -> None:
    session_id = api.create(500, format=GZ)
    assert api.lines(session_id, 0, made(), GZIPPED).status == 204
    assert local.stored(session_id, 0) == gzip_member.deflate(b"1\n" * 500)


def test_a_damaged_body_is_refused_as_ever(api: Api) -> None:
    session_id = api.create(200, format=GZ)
    sent = flushed(ndjson(RECORDS))
    assert api.lines(session_id, 0, sent[:-1], GZIPPED).code == "truncated_gzip"
    wrong = sent[:-8] + bytes([sent[-8] ^ 1]) + sent[-7:]
    assert api.lines(session_id, 0, wrong, GZIPPED).code == "invalid_gzip"
    assert api.lines(session_id, 0, sent + b"x", GZIPPED).code == "invalid_gzip"
    assert api.lines(session_id, 0, flushed(b"{" * 500), GZIPPED).code == "malformed_json"
    assert api.lines(session_id, 0, flushed(b'"\xff"\n' * 500), GZIPPED).code == "invalid_utf8"


def test_other_forms_and_formats_do_not_keep_blocks(api: Api, local: MotoStack) -> None:
    plain = api.create(200)
    assert api.lines(plain, 0, flushed(ndjson(RECORDS)), GZIPPED).status == 204
    assert local.stored(plain, 0) == ndjson(RECORDS)
    session_id = api.create(200, format=GZ)
    body = flushed(json.dumps({"seqNum": 0, "data": RECORDS}).encode())
    assert api.raw_batch(session_id, body, BATCH_GZIP).status == 204
    assert inflated(local.stored(session_id, 0)) == ndjson(RECORDS)


def test_gaps_are_those_of_any_session(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(6, 2, format=GZ)
    send(any_api, session_id, [[1, 2]])
    any_api.batch(session_id, 2, [5, 6])
    failed = any_api.finish(session_id).json
    assert failed["missing"] == [{"from": 1, "to": 1}]
    assert not stack.has_merged(session_id)
    any_api.batch(session_id, 1, [3, 4])
    result = any_api.finish(session_id).json
    check(stack, session_id, [[1, 2], [3, 4], [5, 6]], result)
    assert any_api.batch(session_id, 3, [7]).status in {400, 409}


# --- The file ---

PLAIN_FILE = {"content-type": "application/x-ndjson", "content-encoding": "gzip", "end": ".ndjson"}
GZ_FILE = {"content-type": "application/gzip", "content-encoding": None, "end": ".ndjson.gz"}


@pytest.fixture(scope="module")
def merged(local: MotoStack) -> str:
    from tests.api import through_gateway  # noqa: PLC0415

    api = Api(through_gateway(local.gateway))
    session_id = api.create(2, format=GZ)
    send(api, session_id, [["é"], [2]])
    assert api.finish(session_id).json["validationResult"] == "Success"
    return session_id


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (None, GZ_FILE),
        ("", GZ_FILE),
        ("identity", GZ_FILE),
        ("gzip", PLAIN_FILE),
        ("GZip", PLAIN_FILE),
        ("x-gzip", PLAIN_FILE),
        ("gzip, deflate, br, zstd", PLAIN_FILE),
        ("br;q=1.0, gzip;q=0.001", PLAIN_FILE),
        ("deflate, gzip ; q=0.5", PLAIN_FILE),
        ("*", PLAIN_FILE),
        ("br, *;q=0.1", PLAIN_FILE),
        ("gzip;q=0", GZ_FILE),
        ("gzip;q=0.000, *", GZ_FILE),
        ("gzip; Q=0", GZ_FILE),
        ("*;q=0", GZ_FILE),
        ("*;q=0, gzip", PLAIN_FILE),
        ("br", GZ_FILE),
        ("gzipped", GZ_FILE),
    ],
)
@pytest.mark.parametrize("as_json", [False, True], ids=["redirect", "link"])
def test_the_link_is_what_the_client_can_read(
    any_api: Api, merged: str, accepted: str | None, expected: dict[str, str], *, as_json: bool
) -> None:
    headers = {} if accepted is None else {"accept-encoding": accepted}
    answer = any_api.file(merged, headers | ({"accept": "application/json"} if as_json else {}))
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    url = answer.json["url"] if as_json else answer.headers["location"]
    assert urlsplit(url).path.endswith(f"/{merged}.ndjson.gz")
    given = requests.get(url, headers={"accept-encoding": "identity"}, stream=True, timeout=60)
    assert given.status_code == 200
    assert given.headers["content-type"] == expected["content-type"]
    assert given.headers.get("content-encoding") == expected["content-encoding"]
    name = f"{merged}{expected['end']}"
    assert given.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert gzip.decompress(given.raw.read()) == b'"\\u00e9"\n2\n'


def test_the_plain_format_is_linked_to_as_ever(any_api: Api) -> None:
    session_id = any_api.create(0)
    any_api.finish(session_id)
    for accepted in ("gzip", "identity"):
        answer = any_api.file(session_id, {"accept-encoding": accepted})
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        assert not {"response-content-encoding", "response-content-type"} & query.keys()


def test_the_manifest_is_json_whatever_is_accepted(any_api: Api, merged: str) -> None:
    answer = any_api.manifest(merged, {"accept-encoding": "gzip"})
    assert answer.headers["vary"] == "Accept"
    found = requests.get(answer.headers["location"], timeout=60)
    assert found.headers["content-type"] == "application/json"
    assert found.json()["key"] == f"{merged}.ndjson.gz"


def test_a_client_that_takes_gzip_sees_lines(
    any_api: Api, merged: str, download: Callable[[str], bytes]
) -> None:
    link = any_api.file(merged, {"accept": "application/json", "accept-encoding": "gzip"})
    assert download(link.json["url"]) == b'"\\u00e9"\n2\n'
