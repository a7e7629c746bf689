"""Merged objects in S3: composed from batches, and published whole or not at all.

Key ``{sessionId}.ndjson``; metadata ``digest`` says which listing it was made from. What fits one
streamed part is a single put, anything larger a multipart upload. Either becomes visible only by a
write that cannot overwrite (``If-None-Match: *``) and that S3 refuses unless size and CRC-32 are
those of the batches as they arrived.

Permissions: on merged objects ``s3:PutObject``, ``s3:AbortMultipartUpload``, ``s3:GetObject``; on
batches ``s3:GetObject``; ``s3:ListBucket`` on the merged bucket, to be told 404 instead of 403.
"""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import accumulate, count
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from botocore.exceptions import ClientError, HTTPClientError
from isal import isal_zlib

from uploads import batch_store, limits
from uploads.batch_store import BatchStore
from uploads.plan import Part, StoredBatch, plan
from uploads.session import Decision

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_NOT_FOUND: Final = 404
_CONTENT_TYPE: Final = "application/x-ndjson"


class ForeignObjectError(Exception):
    """The merged key holds an object that was not made from the session's decision."""


@dataclass(frozen=True)
class Content:
    """What a run of batches holds, by their own metadata."""

    records: int = 0
    bytes: int = 0
    crc32: int = 0

    def __add__(self, other: "Content") -> "Content":
        """The concatenation of both."""
        return Content(
            self.records + other.records,
            self.bytes + other.bytes,
            isal_zlib.crc32_combine(self.crc32, other.crc32, other.bytes),
        )

    @property
    def checksum(self) -> str:
        """The CRC-32 as S3 writes it: base64 of 4 big-endian bytes."""
        return base64.b64encode(self.crc32.to_bytes(4, "big")).decode()


class MergedStore:
    """The merged bucket, and the batches bucket it is filled from."""

    def __init__(
        self, client: "S3Client", bucket: str, batches: BatchStore, batches_bucket: str
    ) -> None:
        self.client = client
        self.bucket = bucket
        self.batches = batches
        self.batches_bucket = batches_bucket

    @staticmethod
    def key(session_id: str) -> str:
        """The S3 key of a merged object."""
        return f"{session_id}.ndjson"

    def published(self, session_id: str, decision: Decision) -> int | None:
        """When the object that ``decision`` tells of was published, if it was: 1 read.

        In seconds since 1970. Raises ForeignObjectError where the key holds anything else.
        """
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=self.key(session_id))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == _NOT_FOUND:
                return None
            raise
        found = (head["ContentLength"], head["Metadata"].get("digest"))
        if found != (decision.bytes, decision.digest):
            raise ForeignObjectError(f"{self.key(session_id)} is not what was decided: {found}")
        return int(head["LastModified"].timestamp())

    def merge(self, session_id: str, batches: Sequence[StoredBatch], digest: str) -> "Merge":
        """Begin to compose ``batches``, whose listing has ``digest``."""
        return Merge(self, session_id, batches, digest)

    def presign(self, session_id: str) -> str:
        """A link to the merged object that works for ``limits.PRESIGNED_URL_SECONDS``."""
        return self.client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self.bucket,
                "Key": self.key(session_id),
                "ResponseContentDisposition": f'attachment; filename="{self.key(session_id)}"',
            },
            ExpiresIn=limits.PRESIGNED_URL_SECONDS,
        )


class Merge:
    """One attempt to compose a merged object: ``transfer``, then ``publish``.

    A context manager: the attempt's own multipart upload is completed or aborted, never left.
    Memory is bounded by the parts in flight (``limits.PARTS_IN_FLIGHT``), not by the session.
    """

    def __init__(
        self, store: MergedStore, session_id: str, batches: Sequence[StoredBatch], digest: str
    ) -> None:
        self._store = store
        self._session_id = session_id
        self._key = store.key(session_id)
        self._digest = digest
        self._plan = plan(batches)
        self._body = BytesIO()
        self._upload_id = ""
        self._parts: list[CompletedPartTypeDef] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._upload_id:
            # Where this fails too, the bucket's lifecycle rule does it.
            with suppress(ClientError, HTTPClientError):
                self._store.client.abort_multipart_upload(
                    Bucket=self._store.bucket, Key=self._key, UploadId=self._upload_id
                )

    def transfer(self) -> Content:
        """Bring every batch into place, still invisible: 1 read a batch, 1 write a part.

        Raises FileNotFoundError or PreconditionError where a listed batch is no longer there.
        """
        with ThreadPoolExecutor(limits.READS_IN_FLIGHT) as readers:
            if len(self._plan) <= 1 and not any(part.copied for part in self._plan):
                batches = self._plan[0].batches if self._plan else []
                self._body, content = self._read(batches, readers)
                return content
            self._upload_id = self._store.client.create_multipart_upload(
                Bucket=self._store.bucket,
                Key=self._key,
                ContentType=_CONTENT_TYPE,
                Metadata={"digest": self._digest},
                ChecksumAlgorithm="CRC32",
                ChecksumType="FULL_OBJECT",
            )["UploadId"]
            with ThreadPoolExecutor(limits.PARTS_IN_FLIGHT) as parts:
                transfer = partial(self._transfer_part, readers)
                done = list(parts.map(transfer, count(1), self._plan))
        self._parts = [part for part, _ in done]
        return sum((content for _, content in done), Content())

    def _transfer_part(
        self, readers: ThreadPoolExecutor, number: int, part: Part
    ) -> "tuple[CompletedPartTypeDef, Content]":
        client = self._store.client
        if part.copied:
            (batch,) = part.batches
            facts = self._store.batches.head(self._session_id, batch.seq_num, batch.etag)
            copied = client.upload_part_copy(
                Bucket=self._store.bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                CopySource={
                    "Bucket": self._store.batches_bucket,
                    "Key": batch_store.key(self._session_id, batch.seq_num),
                },
                CopySourceIfMatch=batch.etag,
            )["CopyPartResult"]
            content = Content(facts.records, facts.size, facts.crc32)
            return {"PartNumber": number, "ETag": copied["ETag"]}, content
        body, content = self._read(part.batches, readers)
        # The checksum is that of the batches as they arrived, so that S3 proves what we read.
        written = client.upload_part(
            Bucket=self._store.bucket,
            Key=self._key,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=body,
            ChecksumAlgorithm="CRC32",
            ChecksumCRC32=content.checksum,
        )
        return {"PartNumber": number, "ETag": written["ETag"]}, content

    def _read(
        self, batches: Sequence[StoredBatch], readers: ThreadPoolExecutor
    ) -> tuple[BytesIO, Content]:
        """The concatenation of ``batches``, read in parallel into one buffer.

        A file, because boto3 would copy bytes into one.
        """
        body = BytesIO(bytes(sum(batch.size for batch in batches)))

        def read(batch: StoredBatch, offset: int) -> Content:
            facts, ndjson = self._store.batches.read(self._session_id, batch)
            room[offset : offset + batch.size] = ndjson
            return Content(facts.records, facts.size, facts.crc32)

        offsets = accumulate((batch.size for batch in batches), initial=0)
        with body.getbuffer() as room:
            return body, sum(readers.map(read, batches, offsets), Content())

    def publish(self, decision: Decision) -> None:
        """Make the object visible, whole: 1 write.

        A write that seems to fail may have landed, and another attempt may have been faster: then
        the object must be the decided one. Raises ForeignObjectError where it is not.
        """
        client = self._store.client
        try:
            if self._upload_id:
                client.complete_multipart_upload(
                    Bucket=self._store.bucket,
                    Key=self._key,
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": self._parts},
                    IfNoneMatch="*",
                    MpuObjectSize=decision.bytes,
                    ChecksumCRC32=decision.crc32,
                    ChecksumType="FULL_OBJECT",
                )
                self._upload_id = ""
            else:
                client.put_object(
                    Bucket=self._store.bucket,
                    Key=self._key,
                    ContentType=_CONTENT_TYPE,
                    Metadata={"digest": self._digest},
                    Body=self._body,
                    IfNoneMatch="*",
                    ChecksumAlgorithm="CRC32",
                    ChecksumCRC32=decision.crc32,
                )
        except (ClientError, HTTPClientError):
            if self._store.published(self._session_id, decision) is None:
                raise
