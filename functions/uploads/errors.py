"""Every error that the service returns, as ``application/problem+json`` (RFC 9457).

``docs/errors.md`` says what clients do about each code.
"""

from typing import ClassVar


class GaplessError(Exception):
    """A request that was refused or could not be carried out; base of all errors here."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, **members: object) -> None:
        """``detail`` tells a person what to do; programs act on ``members``."""
        super().__init__(detail)
        self.detail = detail
        self.members = members

    def problem(self) -> dict[str, object]:
        """The RFC 9457 object of this error."""
        return {
            "type": f"urn:gapless:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.members,
        }


def _error(status: int, code: str, title: str) -> type[GaplessError]:
    name = f"{code.title().replace('_', '')}Error"
    members = {"__module__": __name__, "status": status, "code": code, "title": title}
    return type(name, (GaplessError,), members)


EmptyBodyError = _error(400, "empty_body", "The request has no body.")
InvalidBase64Error = _error(400, "invalid_base64", "The body is not valid base64.")
InvalidUtf8Error = _error(400, "invalid_utf8", "The body is not valid UTF-8.")
MalformedJsonError = _error(400, "malformed_json", "The body is not valid JSON.")
TruncatedJsonError = _error(400, "truncated_json", "The JSON ends too early.")
TrailingTextError = _error(400, "trailing_text", "There is text after the JSON.")
ControlCharacterError = _error(400, "control_character", "A string holds a raw control character.")
NotANumberError = _error(400, "not_a_number", "NaN and Infinity are not JSON.")
LoneSurrogateError = _error(400, "lone_surrogate", "A string holds half of a surrogate pair.")
TooDeeplyNestedError = _error(400, "too_deeply_nested", "The JSON is nested too deeply.")
NotAnObjectError = _error(400, "not_an_object", "The body is not a JSON object.")
RepeatedMemberError = _error(400, "repeated_member", "A member of the body is given twice.")
MissingMemberError = _error(400, "missing_member", "A required member is missing.")
InvalidSeqNumError = _error(400, "invalid_seq_num", "The seqNum is not valid.")
InvalidDataError = _error(400, "invalid_data", "The data is not an array.")
EmptyDataError = _error(400, "empty_data", "The batch has no records.")
InvalidTotalRecordError = _error(400, "invalid_total_record", "The totalRecord is not valid.")
InvalidBatchSizeError = _error(400, "invalid_batch_size", "The batchSize is not valid.")
UnknownSchemaError = _error(400, "unknown_schema", "The schema is not known.")
SchemaRequiredError = _error(400, "schema_required", "A schema is required.")
InvalidFormatError = _error(400, "invalid_format", "The format is not known.")
InvalidMetadataError = _error(400, "invalid_metadata", "The metadata is not valid.")
InvalidBatchesError = _error(400, "invalid_batches", "The number of batches is not valid.")
MissingTotalError = _error(400, "missing_total", "The session has no totalRecord yet.")
TooManyBatchesError = _error(400, "too_many_batches", "The batchSize makes too many batches.")
WrongBatchLengthError = _error(400, "wrong_batch_length", "The batch has a wrong length.")
SeqNumOutOfRangeError = _error(400, "seq_num_out_of_range", "The session has no such seqNum.")
InvalidGzipError = _error(400, "invalid_gzip", "The body is not gzip.")
TruncatedGzipError = _error(400, "truncated_gzip", "The gzip body ends too early.")
InvalidContentDigestError = _error(
    400, "invalid_content_digest", "The Content-Digest is not valid."
)
DigestMismatchError = _error(400, "digest_mismatch", "The body does not match its Content-Digest.")

InvalidIdempotencyKeyError = _error(
    400, "invalid_idempotency_key", "The Idempotency-Key is not valid."
)

UnknownParameterError = _error(400, "unknown_parameter", "The query string has an unknown name.")
InvalidStateError = _error(400, "invalid_state", "The state is not known.")
InvalidLimitError = _error(400, "invalid_limit", "The limit is not valid.")
InvalidCursorError = _error(400, "invalid_cursor", "The cursor is not valid.")

NoIdentityError = _error(403, "no_identity", "The caller has no identity.")
NoListError = _error(403, "no_list", "There is no list of sessions.")

SessionNotFoundError = _error(404, "session_not_found", "There is no such session.")

BatchConflictError = _error(409, "batch_conflict", "A different batch is stored under this seqNum.")
SessionFinishingError = _error(409, "session_finishing", "The session is being finished.")
SessionFinishedError = _error(409, "session_finished", "The session is finished.")
SessionAbortedError = _error(409, "session_aborted", "The session was aborted.")
TotalsConflictError = _error(409, "totals_conflict", "The totals are fixed, and differ.")
SchemaChangedError = _error(409, "schema_changed", "The session's schema was changed.")
SessionNotFinishedError = _error(409, "session_not_finished", "The session is not finished.")

FileSettlingError = _error(409, "file_settling", "The merged object cannot be deleted yet.")

FileDeletedError = _error(410, "file_deleted", "The merged object was deleted.")
SessionExpiredError = _error(410, "session_expired", "The session has expired.")

BodyTooLargeError = _error(413, "body_too_large", "The body is too large as sent.")
TooManyValuesError = _error(413, "too_many_values", "The body has too many values.")
InflatedTooLargeError = _error(413, "inflated_too_large", "The body is too large once inflated.")
CheckTooLongError = _error(413, "check_too_long", "The records take too long to check.")

UnsupportedEncodingError = _error(415, "unsupported_encoding", "The Content-Encoding is unknown.")
GzipAsTextError = _error(415, "gzip_as_text", "The gzip body was sent as text.")

IdempotencyKeyReusedError = _error(
    422, "idempotency_key_reused", "The Idempotency-Key was used for another request."
)
InvalidRecordsError = _error(422, "invalid_records", "Records do not satisfy the schema.")

SessionExpiringError = _error(503, "session_expiring", "The session is about to expire.")


class BatchesGoneError(GaplessError):
    """Batches that a finish has listed no longer exist."""

    status = 410
    code = "batches_gone"
    title = "The batches of this session are gone."

    def __init__(self) -> None:
        super().__init__(
            "Batches of this session are gone, so it cannot be finished. Create a new one."
        )


class StorageBusyError(GaplessError):
    """A call to AWS failed for as long as it could be retried."""

    status = 503
    code = "storage_busy"
    title = "The storage is busy, or cannot be reached."

    def __init__(self, detail: str, why: str = "") -> None:
        """``why`` is the storage's own message; it goes only to the log."""
        super().__init__(detail)
        self.why = why
