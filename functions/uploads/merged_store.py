"""Merged objects in S3: composed from batches, and published whole or not at all.

Key ``{sessionId}.ndjson``; metadata ``digest`` says which listing it was made from. What fits one
streamed part is a single put, anything larger a multipart upload. Either becomes visible only by a
write that cannot overwrite (``If-None-Match: *``) and that S3 refuses unless size and CRC-32 are
those of the batches as they arrived.

Beside it, and before it, ``{sessionId}.manifest.json``: what each batch brought, and where it is.

Permissions: on both ``s3:PutObject``, ``s3:GetObject``; on merged objects also
``s3:AbortMultipartUpload``, ``s3:ListMultipartUploadParts``; on batches ``s3:GetObject``; on the
merged bucket ``s3:ListBucket`` to be told 404, not 403, and to end sessions that are aborted
``s3:ListBucketMultipartUploads``.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import accumulate
from threading import Semaphore
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from botocore.exceptions import ClientError, HTTPClientError
from isal import isal_zlib

from uploads import batch_store, errors, limits
from uploads.batch_store import BatchFacts, BatchStore
from uploads.plan import Part, StoredBatch
from uploads.session import Decision
from uploads.threads import Result, Threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, HeadObjectOutputTypeDef

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

    @classmethod
    def of(cls, batches: Iterable[BatchFacts]) -> Self:
        """The concatenation of ``batches``."""
        return sum((cls(batch.records, batch.size, batch.crc32) for batch in batches), cls())

    def __add__(self, other: Self) -> Self:
        """The concatenation of both."""
        return type(self)(
            self.records + other.records,
            self.bytes + other.bytes,
            isal_zlib.crc32_combine(self.crc32, other.crc32, other.bytes),
        )

    @property
    def checksum(self) -> str:
        """The CRC-32 as S3 writes it: base64 of 4 big-endian bytes."""
        return base64.b64encode(self.crc32.to_bytes(4, "big")).decode()


@dataclass(frozen=True)
class Published:
    """A merged object that is there for all to see."""

    crc32: str
    """Base64 of 4 big-endian bytes, as S3 writes it."""
    at: int
    """S3's date of the object, or of its manifest where that is older, seconds since 1970. By it
    they expire. An object in parts has that of the beginning of its upload."""


class _Entry(msgspec.Struct, gc=False, rename="camel"):
    """A batch in a manifest. There may be 100,000, so that each must be small."""

    seq_num: int
    records: int
    offset: int
    length: int
    sha256: str


class MergedStore:
    """The merged bucket, and the batches bucket it is filled from."""

    def __init__(
        self, client: "S3Client", bucket: str, batches: BatchStore, batches_bucket: str
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._batches = batches
        self._batches_bucket = batches_bucket

    @staticmethod
    def key(session_id: str) -> str:
        """The S3 key of a merged object."""
        return f"{session_id}.ndjson"

    @staticmethod
    def manifest_key(session_id: str) -> str:
        """The S3 key of a merged object's manifest."""
        return f"{session_id}.manifest.json"

    def published(self, session_id: str, decision: Decision) -> "Published | None":
        """The object that ``decision`` tells of, if it is there: 1 read, and 1 where it is.

        It is not, for who has to publish it, where its older manifest has expired: the same can be
        written again. Raises ForeignObjectError where the key holds anything else.
        """
        head = self._head(self.key(session_id))
        if head is None:
            return None
        found = (head["ContentLength"], head["Metadata"].get("digest"))
        if found != (decision.bytes, decision.digest):
            raise ForeignObjectError(f"{self.key(session_id)} is not what was decided: {found}")
        manifest = self._head(self.manifest_key(session_id))
        if manifest is None:
            return None
        at = min(found["LastModified"] for found in (head, manifest))
        return Published(manifest["Metadata"]["crc32"], int(at.timestamp()))

    def _head(self, key: str) -> "HeadObjectOutputTypeDef | None":
        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == _NOT_FOUND:
                return None
            raise

    def write_manifest(
        self, session_id: str, decision: Decision, batches: Sequence[BatchFacts]
    ) -> None:
        """Write what each of ``batches`` brought to the merged object: 1 write.

        It is the same whichever attempt writes it, so that one that is there is as good.
        """
        content = Content.of(batches)
        if (content.records, content.bytes) != (decision.records, decision.bytes):
            raise ForeignObjectError(f"the batches of {session_id} are not what was decided")
        offsets = accumulate((batch.size for batch in batches), initial=0)
        manifest = {
            "sessionId": session_id,
            "key": self.key(session_id),
            "records": content.records,
            "bytes": content.bytes,
            "checksum": checksum(content.checksum),
            "batches": [
                _Entry(seq_num, batch.records, offset, batch.size, batch.sha256)
                for seq_num, (batch, offset) in enumerate(zip(batches, offsets, strict=False))
            ],
        }
        key = self.manifest_key(session_id)
        with _unless_there(lambda: self._head(key)):
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                ContentType="application/json",
                Metadata={"crc32": content.checksum},
                Body=BytesIO(msgspec.json.encode(manifest)),
                IfNoneMatch="*",
            )

    def create_upload(self, session_id: str, digest: str) -> str:
        """Begin a multipart upload of the batches whose listing has ``digest``; gives its id."""
        return self._client.create_multipart_upload(
            Bucket=self._bucket,
            Key=self.key(session_id),
            ContentType=_CONTENT_TYPE,
            Metadata={"digest": digest},
            ChecksumAlgorithm="CRC32",
            ChecksumType="FULL_OBJECT",
        )["UploadId"]

    def transfer(
        self, session_id: str, upload_id: str, parts: Mapping[int, Part]
    ) -> "list[tuple[CompletedPartTypeDef, list[BatchFacts]]]":
        """Bring ``parts``, by their numbers, into place, still invisible.

        1 read a batch, 1 write a part. Raises BatchesGoneError where a listed batch is no longer
        there. Memory is bounded by ``limits.BYTES_IN_FLIGHT`` and
        ``PARTS_IN_FLIGHT``, not by the session.
        """
        place: Any = {"Bucket": self._bucket, "Key": self.key(session_id), "UploadId": upload_id}
        streamed = [part for part in parts.values() if not part.copied]
        readers = _at_once(
            limits.READS_IN_FLIGHT, (batch.size for part in streamed for batch in part.batches)
        )
        # What is copied takes no memory.
        room = Semaphore(_at_once(limits.PARTS_IN_FLIGHT, (part.size for part in streamed)))
        with Threads(readers) as threads:
            done = []
            for number, part in parts.items():
                numbered = {**place, "PartNumber": number}
                if part.copied:
                    copy = partial(self._copy_part, session_id, numbered, part.batches[0])
                    done.append(threads.submit(copy))
                else:
                    room.acquire()
                    send = partial(self._send_part, numbered)
                    sent = self.read(session_id, part.batches, threads, send)
                    sent.add_done_callback(lambda _: room.release())
                    done.append(sent)
            return [future.result() for future in done]

    def _copy_part(
        self, session_id: str, place: "Mapping[str, Any]", batch: StoredBatch
    ) -> "tuple[CompletedPartTypeDef, list[BatchFacts]]":
        facts = [self._batches.head(session_id, batch.seq_num, batch.etag)]
        etag = self._client.upload_part_copy(
            **place,
            CopySource={
                "Bucket": self._batches_bucket,
                "Key": batch_store.key(session_id, batch.seq_num),
            },
            CopySourceIfMatch=batch.etag,
        )["CopyPartResult"]["ETag"]
        return {"PartNumber": place["PartNumber"], "ETag": etag}, facts

    def _send_part(
        self, place: "Mapping[str, Any]", body: BytesIO, facts: list[BatchFacts]
    ) -> "tuple[CompletedPartTypeDef, list[BatchFacts]]":
        # The checksum is that of the batches as they arrived, so that S3 proves what we read.
        etag = self._client.upload_part(
            **place,
            Body=body,
            ChecksumAlgorithm="CRC32",
            ChecksumCRC32=Content.of(facts).checksum,
        )["ETag"]
        return {"PartNumber": place["PartNumber"], "ETag": etag}, facts

    def read(
        self,
        session_id: str,
        batches: Sequence[StoredBatch],
        threads: Threads,
        then: "Callable[[BytesIO, list[BatchFacts]], Result]",
    ) -> "Future[Result]":
        """Read ``batches``, at least one, into one buffer, and hand it and their facts to ``then``.

        A file, because boto3 would copy bytes into one.
        """
        body = BytesIO(bytes(sum(batch.size for batch in batches)))
        room = body.getbuffer()
        offsets = accumulate((batch.size for batch in batches), initial=0)

        def read(place: tuple[StoredBatch, int]) -> BatchFacts:
            batch, offset = place
            facts, ndjson = self._batches.read(session_id, batch)
            room[offset : offset + batch.size] = ndjson
            return facts

        def whole(facts: list[BatchFacts]) -> Result:
            room.release()
            return then(body, facts)

        return threads.gather(read, list(zip(batches, offsets, strict=False)), whole)

    def parts(self, session_id: str, upload_id: str) -> "list[CompletedPartTypeDef]":
        """The parts that are in place: 1 request per 1,000.

        Raises ``NoSuchUpload`` (a ClientError) where the upload was completed or aborted.
        """
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=self.key(session_id), UploadId=upload_id
        )
        return [
            {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
            for page in pages
            for part in page.get("Parts", [])
        ]

    def parts_done(self, session_id: str, upload_id: str) -> int | None:
        """How many parts are in place; None where the upload was completed or aborted."""
        try:
            return len(self.parts(session_id, upload_id))
        except self._client.exceptions.NoSuchUpload:
            return None

    def complete_upload(
        self,
        session_id: str,
        upload_id: str,
        parts: "Sequence[CompletedPartTypeDef]",
        decision: Decision,
        crc32: str,
    ) -> bool:
        """Make the object of ``parts`` visible, whole: 1 write. Gives whether S3 says it did so.

        A write that seems to fail may have landed, and another attempt may have been faster: then
        the object must be the decided one. Raises ForeignObjectError where it is not.
        """
        with _unless_there(lambda: self.published(session_id, decision)):
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self.key(session_id),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
                MpuObjectSize=decision.bytes,
                ChecksumCRC32=crc32,
                ChecksumType="FULL_OBJECT",
            )
            return True
        return False

    def put(self, session_id: str, body: BytesIO, decision: Decision, crc32: str) -> None:
        """Write an object that needs no parts: 1 write. As ``complete_upload``."""
        with _unless_there(lambda: self.published(session_id, decision)):
            self._client.put_object(
                Bucket=self._bucket,
                Key=self.key(session_id),
                ContentType=_CONTENT_TYPE,
                Metadata={"digest": decision.digest},
                Body=body,
                IfNoneMatch="*",
                ChecksumAlgorithm="CRC32",
                ChecksumCRC32=crc32,
            )

    def abort_upload(self, session_id: str, upload_id: str) -> None:
        """Give up a multipart upload; again, or where it was completed, does nothing."""
        with suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=self.key(session_id), UploadId=upload_id
            )

    def abort_uploads(self, session_id: str) -> None:
        """Give up whatever multipart uploads a session has: 1 request, and 1 for each.

        Only where none of them can still be of use to anybody: the session was aborted.
        """
        key = self.key(session_id)
        found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
        for upload in found.get("Uploads", []):
            if upload["Key"] == key:
                self.abort_upload(session_id, upload["UploadId"])

    def merge(self, session_id: str, parts: Sequence[Part], digest: str) -> "Merge":
        """Begin to compose ``parts``, whose listing has ``digest``."""
        return Merge(self, session_id, parts, digest)

    def presign(self, key: str) -> str:
        """A link to an object that works for ``limits.PRESIGNED_URL_SECONDS``."""
        return self._client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                "ResponseContentDisposition": f'attachment; filename="{key}"',
            },
            ExpiresIn=limits.PRESIGNED_URL_SECONDS,
        )


class Merge:
    """An attempt to compose a merged object in this process: ``transfer``, then ``publish``.

    A context manager: the attempt's own multipart upload is completed or aborted, never left. It is
    aborted unless S3 has said that it is completed, and no upload of anybody else's ever is.
    """

    def __init__(
        self, store: MergedStore, session_id: str, parts: Sequence[Part], digest: str
    ) -> None:
        self._store = store
        self._session_id = session_id
        self._digest = digest
        self._plan = parts
        self._body = BytesIO()
        self._upload_id = ""
        self._parts: list[CompletedPartTypeDef] = []
        self._facts: list[BatchFacts] = []

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
            with suppress(ClientError, HTTPClientError, errors.StorageBusyError):
                self._store.abort_upload(self._session_id, self._upload_id)

    def transfer(self) -> Content:
        """Bring every batch into place, still invisible: 1 read a batch, 1 write a part.

        Raises BatchesGoneError where a listed batch is no longer there.
        """
        store = self._store
        if len(self._plan) > 1 or any(part.copied for part in self._plan):
            self._upload_id = store.create_upload(self._session_id, self._digest)
            numbered = dict(enumerate(self._plan, 1))
            done = store.transfer(self._session_id, self._upload_id, numbered)
            self._parts = [part for part, _ in done]
            self._facts = [batch for _, facts in done for batch in facts]
        else:
            with Threads(limits.READS_IN_FLIGHT) as threads:
                for part in self._plan:
                    read = store.read(self._session_id, part.batches, threads, lambda *it: it)
                    self._body, self._facts = read.result()
        return Content.of(self._facts)

    def publish(self, decision: Decision, crc32: str) -> None:
        """Write the manifest, then make the object visible, whole: 2 writes."""
        store = self._store
        store.write_manifest(self._session_id, decision, self._facts)
        if self._upload_id:
            if store.complete_upload(
                self._session_id, self._upload_id, self._parts, decision, crc32
            ):
                self._upload_id = ""
        else:
            store.put(self._session_id, self._body, decision, crc32)


@contextmanager
def _unless_there(find: "Callable[[], object | None]") -> Iterator[None]:
    """A write that creates an object may fail where ``find`` then finds it."""
    try:
        yield
    except (ClientError, HTTPClientError) as error:
        if find() is not None:
            return
        if (
            isinstance(error, ClientError)
            and error.response["Error"]["Code"] == "ConditionalRequestConflict"
        ):
            # Another write of the key was under way, and has not made the object.
            raise errors.StorageBusyError(
                "Another write of this object is under way. Call finish again after Retry-After."
            ) from None
        raise


def checksum(crc32: str) -> dict[str, str]:
    """A merged object's CRC-32 as the API gives it."""
    return {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc32}


def _at_once(most: int, sizes: Iterable[int]) -> int:
    """How many things of ``sizes`` (bytes) may be in memory at once, ``most`` at most."""
    return max(1, min(most, limits.BYTES_IN_FLIGHT // max(sizes, default=1)))
