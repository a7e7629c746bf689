"""Every error the service answers by itself, as ``application/problem+json`` (RFC 9457).

::

    GaplessError
    ├── BadRequestError            400
    │   ├── EmptyBodyError           empty_body
    │   ├── InvalidBase64Error       invalid_base64
    │   ├── InvalidUtf8Error         invalid_utf8
    │   ├── MalformedJsonError       malformed_json
    │   │   ├── TruncatedJsonError     truncated_json
    │   │   ├── TrailingTextError      trailing_text
    │   │   ├── ControlCharacterError  control_character
    │   │   ├── NotANumberError        not_a_number
    │   │   ├── LoneSurrogateError     lone_surrogate
    │   │   └── TooDeeplyNestedError   too_deeply_nested
    │   ├── NotAnObjectError         not_an_object
    │   ├── RepeatedMemberError      repeated_member
    │   ├── MissingMemberError       missing_member
    │   ├── InvalidSeqNumError       invalid_seq_num
    │   ├── InvalidDataError         invalid_data
    │   ├── EmptyDataError           empty_data
    │   ├── InvalidTotalRecordError  invalid_total_record
    │   ├── InvalidBatchSizeError    invalid_batch_size
    │   ├── TooManyBatchesError      too_many_batches
    │   ├── WrongBatchLengthError    wrong_batch_length
    │   ├── SeqNumOutOfRangeError    seq_num_out_of_range
    │   ├── InvalidGzipError         invalid_gzip
    │   ├── TruncatedGzipError       truncated_gzip
    │   ├── InvalidDigestError       invalid_content_digest
    │   └── DigestMismatchError      digest_mismatch
    ├── NoIdentityError            403 no_identity
    ├── SessionNotFoundError       404 session_not_found
    ├── ConflictError              409
    │   ├── BatchConflictError       batch_conflict
    │   ├── SessionFinishingError    session_finishing
    │   ├── SessionFinishedError     session_finished
    │   ├── SessionAbortedError      session_aborted
    │   └── NotFinishedError         session_not_finished
    ├── GoneError                  410
    │   ├── SessionExpiredError      session_expired
    │   └── BatchesGoneError         batches_gone
    ├── TooLargeError              413
    │   ├── BodyTooLargeError        body_too_large
    │   ├── TooManyValuesError       too_many_values
    │   └── InflatedTooLargeError    inflated_too_large
    ├── UnsupportedMediaError      415
    │   ├── UnsupportedEncodingError unsupported_encoding
    │   └── GzipAsTextError          gzip_as_text
    ├── SessionExpiringError       503 session_expiring
    └── StorageBusyError           503 storage_busy

A class's docstring is the problem's ``title``; ``docs/errors.md`` tells clients what to do.
"""

from typing import ClassVar


class GaplessError(Exception):
    """The request could not be carried out."""

    status: ClassVar[int]
    code: ClassVar[str]

    def __init__(self, detail: str, **members: object) -> None:
        """``detail`` tells the client what to do; ``members`` are what its code can act on."""
        super().__init__(detail)
        self.detail = detail
        self.members = members

    def problem(self) -> dict[str, object]:
        """The RFC 9457 object of this error."""
        return {
            "type": f"urn:gapless:error:{self.code}",
            "title": self.__doc__,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.members,
        }


class BadRequestError(GaplessError):
    """The request is wrong."""

    status = 400


class EmptyBodyError(BadRequestError):
    """The request has no body."""

    code = "empty_body"


class InvalidBase64Error(BadRequestError):
    """The body is not the base64 that it is called."""

    code = "invalid_base64"


class InvalidUtf8Error(BadRequestError):
    """The body is not valid UTF-8."""

    code = "invalid_utf8"


class MalformedJsonError(BadRequestError):
    """The body is not valid JSON."""

    code = "malformed_json"


class TruncatedJsonError(MalformedJsonError):
    """The JSON ends too early."""

    code = "truncated_json"


class TrailingTextError(MalformedJsonError):
    """There is text after the JSON."""

    code = "trailing_text"


class ControlCharacterError(MalformedJsonError):
    """A string holds a raw control character."""

    code = "control_character"


class NotANumberError(MalformedJsonError):
    """NaN and Infinity are not JSON."""

    code = "not_a_number"


class LoneSurrogateError(MalformedJsonError):
    """A string holds half of a surrogate pair."""

    code = "lone_surrogate"


class TooDeeplyNestedError(MalformedJsonError):
    """The JSON is nested too deeply."""

    code = "too_deeply_nested"


class NotAnObjectError(BadRequestError):
    """The body is not a JSON object."""

    code = "not_an_object"


class RepeatedMemberError(BadRequestError):
    """A member of the body is given twice."""

    code = "repeated_member"


class MissingMemberError(BadRequestError):
    """A required member is missing."""

    code = "missing_member"


class InvalidSeqNumError(BadRequestError):
    """The seqNum is not valid."""

    code = "invalid_seq_num"


class InvalidDataError(BadRequestError):
    """The data is not an array."""

    code = "invalid_data"


class EmptyDataError(BadRequestError):
    """The data array is empty."""

    code = "empty_data"


class InvalidTotalRecordError(BadRequestError):
    """The totalRecord is not valid."""

    code = "invalid_total_record"


class InvalidBatchSizeError(BadRequestError):
    """The batchSize is not valid."""

    code = "invalid_batch_size"


class TooManyBatchesError(BadRequestError):
    """The batchSize is too small for so many records."""

    code = "too_many_batches"


class WrongBatchLengthError(BadRequestError):
    """The batch has not the number of records that batchSize asks for."""

    code = "wrong_batch_length"


class SeqNumOutOfRangeError(BadRequestError):
    """The session has no batch of this seqNum."""

    code = "seq_num_out_of_range"


class InvalidGzipError(BadRequestError):
    """The body is not gzip."""

    code = "invalid_gzip"


class TruncatedGzipError(BadRequestError):
    """The gzip body ends too early."""

    code = "truncated_gzip"


class InvalidDigestError(BadRequestError):
    """The Content-Digest header cannot be read."""

    code = "invalid_content_digest"


class DigestMismatchError(BadRequestError):
    """The body is not what its Content-Digest says."""

    code = "digest_mismatch"


class NoIdentityError(GaplessError):
    """The caller has no identity."""

    status = 403
    code = "no_identity"


class SessionNotFoundError(GaplessError):
    """There is no such session."""

    status = 404
    code = "session_not_found"


class ConflictError(GaplessError):
    """The session or the batch is not in a state that allows this."""

    status = 409


class BatchConflictError(ConflictError):
    """A different batch is stored under this seqNum."""

    code = "batch_conflict"


class SessionFinishingError(ConflictError):
    """The session is being finished."""

    code = "session_finishing"


class SessionFinishedError(ConflictError):
    """The session is finished."""

    code = "session_finished"


class SessionAbortedError(ConflictError):
    """The session was aborted."""

    code = "session_aborted"


class NotFinishedError(ConflictError):
    """The session is not finished."""

    code = "session_not_finished"


class GoneError(GaplessError):
    """What was asked for is gone."""

    status = 410


class SessionExpiredError(GoneError):
    """The session has expired."""

    code = "session_expired"


class BatchesGoneError(GoneError):
    """The batches of this session are gone."""

    code = "batches_gone"

    def __init__(self) -> None:
        super().__init__(
            "Batches of this session are gone, so it cannot be finished. Create a new one."
        )


class TooLargeError(GaplessError):
    """The body is too large."""

    status = 413


class BodyTooLargeError(TooLargeError):
    """The body is too large as sent."""

    code = "body_too_large"


class TooManyValuesError(TooLargeError):
    """The body has too many values."""

    code = "too_many_values"


class InflatedTooLargeError(TooLargeError):
    """The body is too large once inflated."""

    code = "inflated_too_large"


class UnsupportedMediaError(GaplessError):
    """The body comes in a form that the service does not read."""

    status = 415


class UnsupportedEncodingError(UnsupportedMediaError):
    """The Content-Encoding is not supported."""

    code = "unsupported_encoding"


class GzipAsTextError(UnsupportedMediaError):
    """A gzip body was sent under a media type that spoils it."""

    code = "gzip_as_text"


class SessionExpiringError(GaplessError):
    """The session is about to expire."""

    status = 503
    code = "session_expiring"


class StorageBusyError(GaplessError):
    """The storage is busy, or cannot be reached."""

    status = 503
    code = "storage_busy"

    def __init__(self, detail: str, why: str = "") -> None:
        """``why`` is what the storage said, for the log alone."""
        super().__init__(detail)
        self.why = why
