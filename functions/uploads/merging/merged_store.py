"""Merged objects and manifests in S3: each is published whole or not at all.

Object ``{sessionId}.{format}``; its metadata ``digest`` is that of the listing. If it fits one
streamed part it is a single put, else a multipart upload. Both become visible only by a write that
cannot overwrite (``If-None-Match: *``), and that S3 refuses unless size and CRC-32 are those of the
batches as they arrived.

Manifest ``{sessionId}.manifest.json``, written just before: what each batch holds, and where.

Permissions: on both ``s3:PutObject``, ``s3:GetObject``, and ``s3:DeleteObject`` to delete them; on
merged objects also ``s3:AbortMultipartUpload``, ``s3:ListMultipartUploadParts``; on batches
``s3:GetObject``; on the merged bucket ``s3:ListBucket`` to get 404 instead of 403.
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
"""Error codes of a copy whose source no longer exists, or has another ETag."""


class ForeignObjectError(Exception):
    """The merged object is not the decided one."""


@dataclass(frozen=True)
class Published:
    """A visible merged object."""

    sums: Sums
    at: int
    """S3's date of the object or of its manifest, whichever is older, seconds since 1970. They
    expire by it. S3 dates an object in parts by the start of its upload."""


class MergedStore:
    """The merged bucket. Parts are copied into it from the batches bucket."""

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
        """The decided object, if it exists: 1 read, and 1 more if it does.

        Returns None if its manifest, which may be older, has expired: both can be written again.
        Raises ForeignObjectError if the key holds another object.
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
        """Write the manifest of ``batches``: 1 write.

        Returns whether S3 answered the first request, so that none is still under way. Every
        attempt writes the same content, so an existing one is fine. Raises ForeignObjectError if
        ``batches`` are not the decided ones.
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
            return _first_try(answer["ResponseMetadata"])
        return False

    def create_upload(self, session: Session, digest: str) -> str:
        """Begin a multipart upload, with the digest of the listing: 1 write. Returns its id."""
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
        """Copy one batch, of the listed ETag, into part ``number``: 1 write.

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
        """Upload part ``number``; S3 checks its CRC-32: 1 write."""
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
        """The uploaded parts: 1 request per 1,000.

        Raises ``NoSuchUpload`` (a ClientError) if the upload was completed or aborted.
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
        """How many parts are uploaded; None if the upload was completed or aborted."""
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
        """Make the object of ``parts`` visible: 1 write. Returns whether S3 confirmed it.

        A write that seems to fail may have landed, or another attempt may have been faster: then
        an object exists. Raises ForeignObjectError if it is not the decided one.
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
        """Write an object of one part: 1 write. Raises like ``complete_upload``.

        Returns whether S3 answered the first request, so that none is still under way.
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
            return _first_try(answer["ResponseMetadata"])
        return False

    def delete(self, session: Session) -> None:
        """Delete the merged object and its manifest: 2 deletions. Repeating it does nothing."""
        for key in (self.key(session), self.manifest_key(session)):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def abort_upload(self, session: Session, upload_id: str) -> None:
        """Abort a multipart upload: 1 write. Does nothing if it was aborted or completed."""
        with suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=self.key(session), UploadId=upload_id
            )

    def try_abort_upload(self, session: Session, upload_id: str) -> None:
        """Abort an upload. If that fails, the bucket's lifecycle rule does it later."""
        with suppress(ClientError, HTTPClientError, errors.StorageBusyError):
            self.abort_upload(session, upload_id)

    def presign(self, key: str, name: str, *, inflated: bool = False) -> str:
        """A link to an object, valid for ``limits.PRESIGNED_URL_SECONDS``, to be saved as ``name``.

        ``inflated``: S3 sends a gzip object as NDJSON with ``Content-Encoding: gzip``.
        """
        params: dict[str, str] = {"Bucket": self._bucket, "Key": key}
        if inflated:
            params["ResponseContentType"] = Format.NDJSON.media_type
            params["ResponseContentEncoding"] = "gzip"
        params["ResponseContentDisposition"] = file_name.disposition(name)
        return self._client.generate_presigned_url(
            "get_object", Params=params, ExpiresIn=limits.PRESIGNED_URL_SECONDS
        )


def _first_try(metadata: "ResponseMetadataTypeDef") -> bool:
    return metadata["RetryAttempts"] == 0


@contextmanager
def _unless_there(find: "Callable[[], object | None]") -> Iterator[None]:
    """Ignore a failed write inside if ``find`` then finds the object."""
    try:
        yield
    except (ClientError, HTTPClientError) as error:
        if find() is not None:
            return
        if (
            isinstance(error, ClientError)
            and error.response["Error"]["Code"] == "ConditionalRequestConflict"
        ):
            # Another write of the key was under way, and has not created the object.
            raise errors.StorageBusyError(
                "Another write of this object is under way. Call finish again after Retry-After."
            ) from None
        raise
