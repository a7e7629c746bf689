"""Merged objects in S3: composed from batches, and published whole or not at all.

Key ``{sessionId}.{format}``; metadata ``digest`` says which listing it was made from. What fits one
streamed part is a single put, anything larger a multipart upload. Either becomes visible only by a
write that cannot overwrite (``If-None-Match: *``) and that S3 refuses unless size and CRC-32 are
those of the batches as they arrived.

Beside it, and before it, ``{sessionId}.manifest.json``: what each batch brought, and where it is.

Permissions: on both ``s3:PutObject``, ``s3:GetObject``, and ``s3:DeleteObject`` to delete them; on
merged objects also ``s3:AbortMultipartUpload``, ``s3:ListMultipartUploadParts``; on batches
``s3:GetObject``; on the merged bucket ``s3:ListBucket`` to be told 404, not 403.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError, HTTPClientError

from uploads import batch_store, errors, file_name, limits
from uploads.batch import BatchMetadata, RunTotals, StoredBatch
from uploads.formats import Format
from uploads.merging import manifest
from uploads.merging.manifest import Sums
from uploads.session import Decision, Session

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        HeadObjectOutputTypeDef,
        ResponseMetadataTypeDef,
    )

_NOT_FOUND: Final = 404
_BATCH_GONE: Final = {"NoSuchKey", "PreconditionFailed"}
"""What S3 says of a copy whose source is no longer there, or another object."""


class ForeignObjectError(Exception):
    """The merged key holds an object that was not made from the session's decision."""


@dataclass(frozen=True)
class Published:
    """A merged object that is there for all to see."""

    sums: Sums
    at: int
    """S3's date of the object, or of its manifest where that is older, seconds since 1970. By it
    they expire. An object in parts has that of the beginning of its upload."""


class MergedStore:
    """The merged bucket; parts are copied into it from the batches bucket."""

    def __init__(self, client: "S3Client", bucket: str, batches_bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._batches_bucket = batches_bucket

    @staticmethod
    def key(session: Session) -> str:
        """The S3 key of a session's merged object."""
        return f"{session.session_id}.{session.format}"

    @staticmethod
    def manifest_key(session: Session) -> str:
        """The S3 key of its manifest."""
        return f"{session.session_id}.manifest.json"

    def find_published(self, session: Session, decision: Decision) -> "Published | None":
        """The object that ``decision`` tells of, if it exists: 1 read, and 1 more if it does.

        An object whose older manifest has expired counts as not there: the same can be written
        again. Raises ForeignObjectError if the key holds anything else.
        """
        head = self._head(self.key(session))
        if head is None:
            return None
        found = (head["ContentLength"], head["Metadata"].get("digest"))
        if found != (decision.bytes, decision.digest):
            raise ForeignObjectError(f"{self.key(session)} is not what was decided: {found}")
        manifest = self._head(self.manifest_key(session))
        if manifest is None:
            return None
        at = min(found["LastModified"] for found in (head, manifest))
        return Published(Sums.from_metadata(manifest["Metadata"]), int(at.timestamp()))

    def _head(self, key: str) -> "HeadObjectOutputTypeDef | None":
        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == _NOT_FOUND:
                return None
            raise

    def write_manifest(
        self, session: Session, decision: Decision, batches: Sequence[BatchMetadata]
    ) -> bool:
        """Write what each of ``batches`` brought to the merged object: 1 write.

        Returns whether S3 answered the first request, so that none is under way any more. Every
        attempt writes the same, so one that exists is as good. Raises ForeignObjectError if
        ``batches`` are not what was decided.
        """
        totals = session.format.whole(RunTotals.of(batches))
        if (totals.records, totals.bytes) != (decision.records, decision.bytes):
            raise ForeignObjectError(f"the batches of {session.session_id} are not as decided")
        key = self.manifest_key(session)
        with _unless_there(lambda: self._head(key)):
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                ContentType="application/json",
                Metadata=Sums.of(totals).metadata(),
                Body=BytesIO(manifest.encode(session, self.key(session), batches, totals)),
                IfNoneMatch="*",
            )
            return _at_once(answer["ResponseMetadata"])
        return False

    def create_upload(self, session: Session, digest: str) -> str:
        """Begin a multipart upload of the batches whose listing has ``digest``; returns its id."""
        return self._client.create_multipart_upload(
            Bucket=self._bucket,
            Key=self.key(session),
            ContentType=session.format.media_type,
            Metadata={"digest": digest},
            ChecksumAlgorithm="CRC32",
            ChecksumType="FULL_OBJECT",
        )["UploadId"]

    def copy_part(
        self, session: Session, upload_id: str, number: int, batch: StoredBatch
    ) -> "CompletedPartTypeDef":
        """Make part ``number`` of one batch, of the listed ETag, inside S3: 1 write.

        Raises BatchesGoneError if it no longer exists.
        """
        try:
            copied = self._client.upload_part_copy(
                Bucket=self._bucket,
                Key=self.key(session),
                UploadId=upload_id,
                PartNumber=number,
                CopySource={
                    "Bucket": self._batches_bucket,
                    "Key": batch_store.key(session.session_id, batch.seq_num),
                },
                CopySourceIfMatch=batch.etag,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in _BATCH_GONE:
                raise errors.BatchesGoneError from None
            raise
        return {"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]}

    def upload_part(
        self, session: Session, upload_id: str, number: int, body: BytesIO, crc32: str
    ) -> "CompletedPartTypeDef":
        """Send part ``number``, of which S3 proves the CRC-32: 1 write."""
        etag = self._client.upload_part(
            Bucket=self._bucket,
            Key=self.key(session),
            UploadId=upload_id,
            PartNumber=number,
            Body=body,
            ChecksumAlgorithm="CRC32",
            ChecksumCRC32=crc32,
        )["ETag"]
        return {"PartNumber": number, "ETag": etag}

    def parts(self, session: Session, upload_id: str) -> "list[CompletedPartTypeDef]":
        """The parts that are in place: 1 request per 1,000.

        Raises ``NoSuchUpload`` (a ClientError) where the upload was completed or aborted.
        """
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=self.key(session), UploadId=upload_id
        )
        return [
            {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
            for page in pages
            for part in page.get("Parts", [])
        ]

    def parts_done(self, session: Session, upload_id: str) -> int | None:
        """How many parts are in place; None where the upload was completed or aborted."""
        try:
            return len(self.parts(session, upload_id))
        except self._client.exceptions.NoSuchUpload:
            return None

    def complete_upload(
        self,
        session: Session,
        upload_id: str,
        parts: "Sequence[CompletedPartTypeDef]",
        decision: Decision,
        crc32: str,
    ) -> bool:
        """Make the object of ``parts`` visible, whole: 1 write. Returns whether S3 says it did so.

        A write that seems to fail may have landed, and another attempt may have been faster: then
        the object must be the decided one. Raises ForeignObjectError if it is not.
        """
        with _unless_there(lambda: self.find_published(session, decision)):
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self.key(session),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
                MpuObjectSize=decision.bytes,
                ChecksumCRC32=crc32,
                ChecksumType="FULL_OBJECT",
            )
            return True
        return False

    def put(self, session: Session, body: BytesIO, decision: Decision, crc32: str) -> bool:
        """Write an object that needs no parts: 1 write. As ``complete_upload``.

        Returns whether S3 answered the first request, so that none is under way any more.
        """
        with _unless_there(lambda: self.find_published(session, decision)):
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=self.key(session),
                ContentType=session.format.media_type,
                Metadata={"digest": decision.digest},
                Body=body,
                IfNoneMatch="*",
                ChecksumAlgorithm="CRC32",
                ChecksumCRC32=crc32,
            )
            return _at_once(answer["ResponseMetadata"])
        return False

    def delete(self, session: Session) -> None:
        """Delete the merged object and its manifest; again does nothing: 2 deletions."""
        for key in (self.key(session), self.manifest_key(session)):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def abort_upload(self, session: Session, upload_id: str) -> None:
        """Abort a multipart upload; again, or if it was completed, does nothing."""
        with suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=self.key(session), UploadId=upload_id
            )

    def try_abort_upload(self, session: Session, upload_id: str) -> None:
        """The same; if it fails, the bucket's lifecycle rule does it."""
        with suppress(ClientError, HTTPClientError, errors.StorageBusyError):
            self.abort_upload(session, upload_id)

    def presign(self, key: str, name: str, *, inflated: bool = False) -> str:
        """A link to an object that works for ``limits.PRESIGNED_URL_SECONDS``.

        It is saved as ``name``. ``inflated``: a gzip object is given as NDJSON that is encoded so.
        """
        params: dict[str, str] = {"Bucket": self._bucket, "Key": key}
        if inflated:
            params["ResponseContentType"] = Format.NDJSON.media_type
            params["ResponseContentEncoding"] = "gzip"
        params["ResponseContentDisposition"] = file_name.disposition(name)
        return self._client.generate_presigned_url(
            "get_object", Params=params, ExpiresIn=limits.PRESIGNED_URL_SECONDS
        )


def _at_once(metadata: "ResponseMetadataTypeDef") -> bool:
    return metadata["RetryAttempts"] == 0


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
