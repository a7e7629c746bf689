"""The manifest: what each batch contained, and its range in the merged object."""

import base64
import hashlib
import json
import random
import zlib
from collections.abc import Callable

import pytest

from tests.api import Api
from tests.aws import AwsProxy
from tests.conftest import Stack


def ndjson(records: list[object]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def send(api: Api, session_id: str, batches: list[list[object]]) -> None:
    """Send the batches in reverse order."""
    for seq_num, records in reversed([*enumerate(batches)]):
        assert api.gzip_batch(session_id, seq_num, records).status == 204


AT = random.Random(1)
SMALL: list[list[object]] = [[n] * (n % 3 + 1) for n in range(20)]
# Streamed parts, and batches of more than 5 MiB that S3 copies.
LARGE: list[list[object]] = [
    [AT.randbytes(size // 2).hex()] for size in (6_000_000, 100, 5_500_000, 4_000_000, 9)
]


@pytest.mark.needs("binary bodies")
@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([], id="nothing"),
        pytest.param(SMALL, id="one put"),
        pytest.param(LARGE, id="streamed and copied parts", marks=pytest.mark.needs("multipart")),
    ],
)
@pytest.mark.parametrize("strict", [False, True], ids=["flexible", "strict"])
def test_a_manifest_describes_what_was_sent(
    api: Api, stack: Stack, batches: list[list[object]], *, strict: bool
) -> None:
    if strict:
        # All batches but the last have the same number of records.
        batches = [records[:1] for records in batches]
    total = sum(len(records) for records in batches)
    session_id = api.create(total, 1 if strict else None)
    send(api, session_id, batches)
    result = api.finish(session_id).json
    assert result["manifest"] == f"{session_id}.manifest.json"
    manifest = json.loads(stack.manifest(session_id))

    whole = b"".join(ndjson(records) for records in batches)
    crc32 = base64.b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode()
    assert {name: value for name, value in manifest.items() if name != "batches"} == {
        "sessionId": session_id,
        "key": f"{session_id}.ndjson",
        "metadata": {},
        "schema": None,
        "records": total,
        "bytes": len(whole),
        "checksum": {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc32},
    }
    assert manifest["checksum"] == result["checksum"]
    assert [batch["seqNum"] for batch in manifest["batches"]] == list(range(len(batches)))
    assert [batch["records"] for batch in manifest["batches"]] == [*map(len, batches)]
    # The range of each batch is what was sent; together the ranges are the object.
    end = 0
    for batch, records in zip(manifest["batches"], batches, strict=True):
        assert batch["offset"] == end
        end += batch["length"]
        found = stack.s3.get_object(
            Bucket=stack.merged_bucket,
            Key=manifest["key"],
            Range=f"bytes={batch['offset']}-{end - 1}",
        )["Body"].read()
        assert found == ndjson(records)
        assert hashlib.sha256(found).hexdigest() == batch["sha256"]
    assert end == manifest["bytes"]


def test_the_route_leads_to_it(
    any_api: Api, stack: Stack, download: Callable[[str], bytes]
) -> None:
    session_id = any_api.create(1)
    before = any_api.manifest(session_id)
    assert (before.status, before.code) == (409, "session_not_finished")
    any_api.batch(session_id, 0, ["x"])
    any_api.finish(session_id)
    redirect = any_api.manifest(session_id)
    assert (redirect.status, redirect.body) == (307, b"")
    link = any_api.manifest(session_id, {"accept": "application/json"})
    assert link.status == 200
    assert set(link.json) == {"url", "expiresAt"}
    for url in (redirect.headers["location"], link.json["url"]):
        assert f"{session_id}.manifest.json" in url
        assert "X-Amz-Expires=900" in url
        assert download(url) == stack.manifest(session_id)
    head = stack.s3.head_object(Bucket=stack.merged_bucket, Key=f"{session_id}.manifest.json")
    assert head["ContentType"] == "application/json"


# --- Progress of a long merge ---


def test_the_status_tells_how_far_a_long_merge_is(api: Api, aws: AwsProxy, stack: Stack) -> None:
    session_id = api.create(1)
    assert api.status(session_id).json["merge"] is None
    key = f"{session_id}.ndjson"
    upload = stack.s3.create_multipart_upload(Bucket=stack.merged_bucket, Key=key)["UploadId"]
    stack.change(session_id, state="FINISHING", upload={"upload_id": upload, "parts": 3})
    assert api.status(session_id).json["merge"] == {"parts": 3, "done": 0}
    for number in (1, 3):
        stack.s3.upload_part(
            Bucket=stack.merged_bucket, Key=key, UploadId=upload, PartNumber=number, Body=b"x"
        )
    with aws.recording() as calls:
        assert api.status(session_id).json["merge"] == {"parts": 3, "done": 2}
    # The item is read again after the batches, which the clean-up may have deleted.
    assert [call.operation for call in calls] == [
        "GetItem",
        "ListObjectsV2",
        "GetItem",
        "ListParts",
    ]
    # Completed and not committed yet.
    stack.s3.abort_multipart_upload(Bucket=stack.merged_bucket, Key=key, UploadId=upload)
    status = api.status(session_id)
    assert (status.status, status.json["merge"]) == (200, None)
