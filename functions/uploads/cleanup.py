"""Deletes what an ended session left: its batches, multipart uploads, and plans of merges.

A pass deletes the batches, **then** lists and aborts the multipart uploads, then deletes
everything under ``merges/{sessionId}/``. After a pass no multipart upload can be completed: one
that begins after the listing finds no batches. If anything fails, the whole pass is repeated. It
never touches the merged object, its manifest or the session's item.

Permissions: on the batches bucket ``s3:ListBucket`` and ``s3:DeleteObject``; on the merged bucket
``s3:ListBucketMultipartUploads`` and ``s3:AbortMultipartUpload``.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from uploads import limits
from uploads.retries import Tries
from uploads.session import State
from uploads.threads import Threads

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TRANSIENT: Final = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
"""Errors of single objects, in a response of status 200, that are worth a retry."""

_ENDED: Final = {State.FINISHED, State.ABORTED}
_TIME_TO_LIVE: Final = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
"""The user identity in a record if the time to live removed the item."""
SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")


def ended(record: Mapping[str, Any]) -> str | None:
    """The id of the session that has ended according to a record of the table's stream, if any.

    It is ``FINISHED`` or ``ABORTED``, or the time to live removed it. Never one that is ``OPEN`` or
    ``FINISHING``: its batches may be acknowledged. An item removed by hand may be restored, so its
    batches stay.
    """
    change = record["dynamodb"]
    session_id: str = change["Keys"]["sessionId"]["S"]
    # Items of Idempotency-Keys have no state.
    if record["eventName"] == "REMOVE":
        over = "state" in change["OldImage"] and is_expiry(record)
    else:
        over = change["NewImage"].get("state", {}).get("S") in _ENDED
    return session_id if over and SESSION_ID.fullmatch(session_id) else None


def is_expiry(record: Mapping[str, Any]) -> bool:
    """Whether the table's time to live removed the item."""
    return _TIME_TO_LIVE.items() <= (record.get("userIdentity") or {}).items()


class NotDeletedError(Exception):
    """S3 refused to delete an object."""


@dataclass(frozen=True)
class Cleaned:
    """How many of each a pass found."""

    batches: int
    uploads: int
    plans: int
    """Objects of merges: plans, shares, gap reports."""


class Cleanup:
    """Cleans up after ended sessions. Never call it for any other session."""

    def __init__(self, client: "S3Client", batches_bucket: str, merged_bucket: str) -> None:
        self._client = client
        self._batches_bucket = batches_bucket
        self._merged_bucket = merged_bucket

    def run(self, session_id: str) -> Cleaned:
        """Clean up after a session: ceil(batches / 1,000) lists and deletions, and 2 lists.

        After StorageBusyError, NotDeletedError or an error of AWS, run it again.
        """
        return Cleaned(
            batches=self._delete_all(f"{session_id}/"),
            uploads=self._abort_uploads(session_id),
            plans=self._delete_all(f"merges/{session_id}/"),
        )

    def _delete_all(self, prefix: str) -> int:
        """Delete every object under ``prefix``, at most DELETES_PER_SECOND; returns how many."""
        found = 0
        begin = time.monotonic()
        with Threads(limits.DELETES_IN_FLIGHT) as threads:
            for keys in self._pages(prefix):
                time.sleep(max(0, begin - time.monotonic()))
                begin = time.monotonic() + len(keys) / limits.DELETES_PER_SECOND
                threads.submit(partial(self._delete, keys))
                found += len(keys)
        return found

    def _pages(self, prefix: str) -> Iterator[list[str]]:
        """The keys under ``prefix``, 1,000 at a time."""
        last, more = "", True
        while more:
            page = self._client.list_objects_v2(
                Bucket=self._batches_bucket, Prefix=prefix, StartAfter=last
            )
            keys = [entry["Key"] for entry in page.get("Contents", [])]
            if keys:
                yield keys
                last = keys[-1]
            more = page["IsTruncated"]

    def _delete(self, keys: list[str]) -> None:
        tries = Tries(time.monotonic())
        while keys:
            answer = self._client.delete_objects(
                Bucket=self._batches_bucket,
                Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
            )
            refused = answer.get("Errors", [])
            for one in refused:
                if one["Code"] not in _TRANSIENT:
                    raise NotDeletedError(f"{one['Key']}: {one['Code']}")
            keys = [one["Key"] for one in refused]
            if refused:
                time.sleep(tries.pause(refused[0]["Code"]))

    def _abort_uploads(self, session_id: str) -> int:
        """Abort every multipart upload of the session's merged object; returns how many."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._merged_bucket, Prefix=f"{session_id}."
        )
        uploads = [upload for page in pages for upload in page.get("Uploads", [])]
        for upload in uploads:
            with suppress(self._client.exceptions.NoSuchUpload):
                self._client.abort_multipart_upload(
                    Bucket=self._merged_bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return len(uploads)
