"""Checks whether storage other than AWS is reachable and does what the service relies on.

A local run checks before it serves; deployed functions never do. A store that ignores a condition
would silently break the guarantees: a batch could replace another one that was acknowledged.
"""

import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, CopySourceTypeDef

_PART: Final = b"0123456789abcdef" * (5 * 1024 * 1024 // 16)
"""5 MiB, the smallest part of a multipart upload except the last (S3 quotas)."""
_SMALL: Final = b"1\n"
_SIGNED: Final = Config(signature_version="s3v4")
_SECONDS: Final = 10


class OtherStorageError(Exception):
    """The store cannot be used; the message, one line, says why and what to do."""


class OtherStorage:
    """The store at ``url``. Raises OtherStorageError if that is not a URL."""

    def __init__(self, url: str) -> None:
        given = urlsplit(url)
        if given.scheme not in {"http", "https"} or not given.hostname:
            raise OtherStorageError(
                f"AWS_ENDPOINT_URL must be a URL like http://localhost:9000, not {url!r}"
            )
        self._url = url
        once, again = _config(attempts=1), _config(attempts=8)
        self._once: tuple[S3Client, DynamoDBClient] = (
            boto3.client("s3", config=once.merge(_SIGNED)),
            boto3.client("dynamodb", config=once),
        )
        self.s3: S3Client = boto3.client("s3", config=again.merge(_SIGNED))
        self.dynamodb: DynamoDBClient = boto3.client("dynamodb", config=again)

    def require_both(self, table: str, bucket: str) -> None:
        """Raise OtherStorageError unless S3 and DynamoDB respond, with any content."""
        s3, dynamodb = self._once
        no_s3 = self._what_is_wrong("S3", lambda: _answers_as_s3(s3, bucket))
        no_dynamodb = self._what_is_wrong("DynamoDB", lambda: _answers_as_dynamodb(dynamodb, table))
        if no_s3 and no_dynamodb:
            raise OtherStorageError(f"{self._url} is neither S3 nor DynamoDB: {no_s3}")
        if no_s3:
            raise OtherStorageError(
                f"{self._url} is DynamoDB, but not S3: {no_s3}. AWS_ENDPOINT_URL must lead to both"
            )
        if no_dynamodb:
            raise OtherStorageError(
                f"{self._url} is S3, but not DynamoDB: {no_dynamodb}."
                " AWS_ENDPOINT_URL must lead to both"
            )

    def _what_is_wrong(self, service: str, ask: Callable[[], bool]) -> str:
        try:
            with self.explained():
                return "" if ask() else "it answers something else"
        except ClientError as error:
            code, status = _code(error), error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code in _ABSENT[service]:
                return ""
            if code in _REFUSED:
                raise OtherStorageError(
                    f"{self._url} rejects the keys ({service}: {code}). Set AWS_ACCESS_KEY_ID and"
                    " AWS_SECRET_ACCESS_KEY to those of the store"
                ) from None
            return f"it answers {status}" + ("" if code == str(status) else f" {code}")
        except ResponseParserError:
            return "it answers something else"
        except RecursionError:
            # botocore asks for the bucket's region, is redirected, asks again …
            return "it redirects every request"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of the connection into an OtherStorageError with one line."""
        url = self._url
        try:
            yield
        except NoCredentialsError:
            why = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to the keys of the store"
        except SSLError as error:
            why = (
                "its certificate is not trusted; set AWS_CA_BUNDLE to the one that signed it"
                if "CERTIFICATE_VERIFY_FAILED" in str(error)
                else f"the server does not use TLS; try http://{urlsplit(url).netloc}"
            )
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            cause = str(error.kwargs.get("error", ""))
            known = re.search(r"\[Errno -?\d+\] ([^'\")]+)", cause)
            why = f"cannot connect: {known[1] if known else 'no answer'}"
        except ReadTimeoutError:
            why = f"it accepts the connection, but does not respond within {_SECONDS} s"
        except HTTPClientError:
            why = "it accepts the connection, and closes it without a response"
            if url.startswith("http:"):
                why += f"; if the server uses TLS, try https://{urlsplit(url).netloc}"
        else:
            return
        raise OtherStorageError(f"{url}: {why}") from None

    def check(self, table: str, batches: str, merged: str) -> list[str]:
        """Try what the service relies on, and delete what that wrote.

        Raises OtherStorageError with the missing feature. Returns the missing features that the
        service can do without.
        """
        session_id = token_hex(16)
        try:
            with self.explained():
                self._check_items(table, session_id)
                return self._check_objects(batches, merged, session_id)
        except ClientError as error:
            raise OtherStorageError(
                f"{self._url} cannot be used: {error.operation_name} fails with {_code(error)}"
            ) from None
        except (BotoCoreError, KeyError) as error:
            raise OtherStorageError(
                f"{self._url} cannot be used: a response is invalid ({error!r})"
            ) from None
        finally:
            self._clean(table, batches, merged, session_id)

    def _require(self, feature: str, consequence: str, *, there: bool) -> None:
        if not there:
            raise OtherStorageError(f"{self._url} cannot be used: {feature}, {consequence}")

    def _check_items(self, table: str, session_id: str) -> None:
        key = {"sessionId": {"S": session_id}}

        def put() -> object:
            return self.dynamodb.put_item(
                TableName=table, Item=key, ConditionExpression="attribute_not_exists(sessionId)"
            )

        with suppress(self.dynamodb.exceptions.ConditionalCheckFailedException):
            put()  # fails if a retry finds the item of the first try
        self._require(
            "DynamoDB's PutItem ignores ConditionExpression",
            "so one session could replace another",
            there=_refused(put),
        )
        self._require(
            "DynamoDB's UpdateItem ignores ConditionExpression",
            "so two finishes could undo each other",
            there=_refused(
                lambda: self.dynamodb.update_item(
                    TableName=table,
                    Key=key,
                    UpdateExpression="SET attempt = :one",
                    ConditionExpression="attribute_exists(attempt)",
                    ExpressionAttributeValues={":one": {"N": "1"}},
                )
            ),
        )
        found = self.dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True)
        self._require(
            "DynamoDB's GetItem does not return what was put",
            "so no session would be found",
            there=found.get("Item") == key,
        )

    def _check_objects(self, batches: str, merged: str, session_id: str) -> list[str]:
        s3 = self.s3
        small, large = (f"{session_id}/{number:08d}" for number in (0, 1))

        def put(key: str, body: bytes) -> object:
            return s3.put_object(
                Bucket=batches, Key=key, Body=body, Metadata={"records": "1"}, IfNoneMatch="*"
            )

        for key, body in ((small, _SMALL), (large, _PART)):
            _refused(partial(put, key, body))  # the same
        self._require(
            "PutObject ignores If-None-Match",
            "so a batch could replace another one that was acknowledged",
            there=_refused(lambda: put(small, b"2\n")),
        )
        found = s3.get_object(Bucket=batches, Key=small)
        self._require(
            "GetObject does not return what was put",
            "so the merged object would differ from what was sent",
            there=found["Body"].read() == _SMALL,
        )
        heads = (found, s3.head_object(Bucket=batches, Key=small))
        self._require(
            "GetObject and HeadObject do not return the metadata",
            "so no batch could be counted or compared",
            there=all(head.get("Metadata", {}).get("records") == "1" for head in heads),
        )
        self._require(
            "GetObject ignores If-Match",
            "so a merge could not tell that a batch was replaced",
            there=_refused(lambda: s3.get_object(Bucket=batches, Key=small, IfMatch='"0"')),
        )
        listed = s3.list_objects_v2(Bucket=batches, Prefix=f"{session_id}/").get("Contents", [])
        self._require(
            "ListObjectsV2 does not return key, size and ETag in order",
            "so no gap could be found",
            there=[(one["Key"], one["Size"], bool(one.get("ETag"))) for one in listed]
            == [(small, len(_SMALL), True), (large, len(_PART), True)],
        )
        rest = s3.list_objects_v2(Bucket=batches, Prefix=f"{session_id}/", StartAfter=small)
        self._require(
            "ListObjectsV2 ignores start-after",
            "so listings could not be read by ranges",
            there=[one["Key"] for one in rest.get("Contents", [])] == [large],
        )
        return self._check_merge(batches, large, listed[1]["ETag"], merged, session_id)

    def _check_merge(
        self, batches: str, large: str, etag: str, merged: str, session_id: str
    ) -> list[str]:
        s3, key = self.s3, f"{session_id}.ndjson"
        crc32 = zlib.crc32(_PART + _SMALL)
        source: CopySourceTypeDef = {"Bucket": batches, "Key": large}

        def begin() -> str:
            return s3.create_multipart_upload(
                Bucket=merged,
                Key=key,
                Metadata={"digest": "0"},
                ChecksumAlgorithm="CRC32",
                ChecksumType="FULL_OBJECT",
            )["UploadId"]

        def copy(number: int, if_match: str) -> "CompletedPartTypeDef":
            part = s3.upload_part_copy(
                Bucket=merged,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                CopySource=source,
                CopySourceIfMatch=if_match,
            )
            return {"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]}

        def write(number: int) -> "CompletedPartTypeDef":
            part = s3.upload_part(
                Bucket=merged,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=_SMALL,
                ChecksumCRC32=_base64(zlib.crc32(_SMALL)),
            )
            return {"PartNumber": number, "ETag": part["ETag"]}

        def complete(crc32: int, size: int) -> object:
            return s3.complete_multipart_upload(
                Bucket=merged,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
                MpuObjectSize=size,
                ChecksumCRC32=_base64(crc32),
                ChecksumType="FULL_OBJECT",
            )

        upload = begin()
        pinned = _refused(lambda: copy(1, '"0"'))
        parts = [copy(1, etag), write(2)]
        in_place = s3.list_parts(Bucket=merged, Key=key, UploadId=upload).get("Parts", [])
        self._require(
            "ListParts does not return the parts",
            "so a long merge could not be completed",
            there=[part["PartNumber"] for part in in_place] == [1, 2],
        )
        s3.list_multipart_uploads(Bucket=merged, Prefix=key)
        with suppress(s3.exceptions.NoSuchUpload):  # the same
            _refused(lambda: complete(crc32, len(_PART + _SMALL)))
        head = s3.head_object(Bucket=merged, Key=key)
        self._require(
            "CompleteMultipartUpload does not set the object's size and metadata",
            "so no merge could be recognised",
            there=(head["ContentLength"], head.get("Metadata", {}).get("digest"))
            == (len(_PART + _SMALL), "0"),
        )
        upload = begin()
        parts = [write(1)]
        self._require(
            "CompleteMultipartUpload ignores If-None-Match",
            "so a late merge could replace the object of a finished one",
            there=_refused(lambda: complete(zlib.crc32(_SMALL), len(_SMALL))),
        )
        link = s3.generate_presigned_url("get_object", {"Bucket": merged, "Key": key})
        try:
            with urlopen(link, timeout=_SECONDS) as answer:  # noqa: S310 - the URL was checked
                whole = answer.read()
        except OSError as error:
            raise OtherStorageError(
                f"{self._url} cannot be used: a presigned link is refused ({error})"
            ) from None
        self._require(
            "a copied part differs from its source",
            "so the merged object would differ from what was sent",
            there=whole == _PART + _SMALL,
        )
        return [] if pinned else ["UploadPartCopy ignores If-Match (no batch is ever replaced)"]

    def _clean(self, table: str, batches: str, merged: str, session_id: str) -> None:
        s3, key = self.s3, f"{session_id}.ndjson"
        with suppress(ClientError, BotoCoreError):
            self.dynamodb.delete_item(TableName=table, Key={"sessionId": {"S": session_id}})
        for bucket, name in (
            (batches, f"{session_id}/00000000"),
            (batches, f"{session_id}/00000001"),
            (merged, key),
        ):
            with suppress(ClientError, BotoCoreError):
                s3.delete_object(Bucket=bucket, Key=name)
        with suppress(ClientError, BotoCoreError):
            found = s3.list_multipart_uploads(Bucket=merged, Prefix=key)
            for upload in found.get("Uploads", []):
                s3.abort_multipart_upload(Bucket=merged, Key=key, UploadId=upload["UploadId"])


_ABSENT: Final = {"S3": {"NoSuchBucket"}, "DynamoDB": {"ResourceNotFoundException"}}
"""Error codes for a bucket or a table that does not exist yet."""
_REFUSED: Final = {
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationHeaderMalformed",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_CONDITION_FAILED: Final = {
    "412",
    "ConditionalCheckFailedException",
    "ConditionalRequestConflict",
    "PreconditionFailed",
}


def _config(attempts: int) -> Config:
    return Config(
        connect_timeout=3,
        read_timeout=_SECONDS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _base64(crc32: int) -> str:
    return b64encode(crc32.to_bytes(4, "big")).decode()


def _code(error: ClientError) -> str:
    return error.response["Error"]["Code"]


def _answers_as_s3(s3: "S3Client", bucket: str) -> bool:
    found = s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
    return not {"Name", "KeyCount", "IsTruncated"}.isdisjoint(found)


def _answers_as_dynamodb(dynamodb: "DynamoDBClient", table: str) -> bool:
    return "Table" in dynamodb.describe_table(TableName=table)


def _refused(call: Callable[[], object]) -> bool:
    """Whether ``call`` fails because of its condition. Raises ClientError for other failures."""
    try:
        call()
    except ClientError as error:
        if _code(error) not in _CONDITION_FAILED:
            raise
        return True
    return False
