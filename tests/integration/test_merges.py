"""Merges by multipart upload on any S3: streamed and copied parts."""

import gzip
import json
import random
import zlib
from base64 import b64encode
from collections.abc import Callable

import pytest

from tests.api import GZIP, Api
from tests.conftest import Stack


@pytest.mark.needs("binary bodies")
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("count", [15, 18], ids=["a full last part", "a rest"])
def test_a_compressed_merge_by_a_multipart_upload(
    api: Api,
    stack: Stack,
    count: int,
    strict: bool,  # noqa: FBT001 - pytest calls by keyword
) -> None:
    """Two parts of at least 5 MiB, 8 if possible, and a trailer; a small rest joins the second."""
    made = random.Random(count)
    batches = [b'"%s"' % made.randbytes(950_000).hex().encode() for _ in range(count)]
    session_id = api.create(len(batches), 1 if strict else None, format="ndjson.gz")
    for number in reversed(range(len(batches))):
        body = gzip.compress(b'{"seqNum":%d,"data":[%s]}' % (number, batches[number]), 1)
        assert api.raw_batch(session_id, body, GZIP).status == 204
    result = api.finish(session_id).json
    whole = b"".join(record + b"\n" for record in batches)
    merged = stack.merged(session_id, "ndjson.gz")
    assert zlib.decompress(merged, 31) == whole
    assert result["bytes"] == len(merged)
    assert result["checksum"]["value"] == b64encode(zlib.crc32(merged).to_bytes(4, "big")).decode()
    content = b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode()
    assert result["content"]["checksum"]["value"] == content
    key = f"{session_id}.ndjson.gz"
    etag = stack.s3.head_object(Bucket=stack.merged_bucket, Key=key)["ETag"]
    assert etag.strip('"').rpartition("-")[2] == "3"
    assert stack.open_uploads(session_id) == 0


def records(count: int, size: int) -> list[bytes]:
    """Distinct records of ``size`` bytes."""
    return [b'"%s"' % (b"%08d" % number * (size // 8)) for number in range(count)]


@pytest.mark.needs("binary bodies")
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("batches", "parts"),
    [
        (records(70, 1_200_000), 10),  # of which seven make a part
        (records(3, 6_000_000), 3),  # each is a copied part
        (records(9, 1_200_000) + records(2, 6_000_000) + records(1, 8), 4),
    ],
    ids=["many parts", "copied", "both"],
)
def test_a_merge_by_a_multipart_upload(
    api: Api,
    stack: Stack,
    download: Callable[[str], bytes],
    batches: list[bytes],
    parts: int,
    strict: bool,  # noqa: FBT001 - pytest calls by keyword
) -> None:
    session_id = api.create(len(batches), 1 if strict else None)
    for number in reversed(range(len(batches))):
        body = gzip.compress(b'{"seqNum":%d,"data":[%s]}' % (number, batches[number]), 1)
        assert api.raw_batch(session_id, body, GZIP).status == 204
    result = api.finish(session_id).json
    whole = b"".join(record + b"\n" for record in batches)
    assert result["validationResult"] == "Success"
    assert result["bytes"] == len(whole)
    assert result["checksum"]["value"] == b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode()
    assert stack.merged(session_id) == whole
    link = api.file(session_id, {"accept": "application/json"}).json["url"]
    assert download(link) == whole
    assert stack.open_uploads(session_id) == 0
    key = f"{session_id}.ndjson"
    etag = stack.s3.head_object(Bucket=stack.merged_bucket, Key=key)["ETag"]
    assert etag.strip('"').rpartition("-")[2] == str(parts)
    lengths = [batch["length"] for batch in json.loads(stack.manifest(session_id))["batches"]]
    assert lengths == [len(record) + 1 for record in batches]
