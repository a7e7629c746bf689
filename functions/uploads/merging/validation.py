"""Whether a session's batches are what it was opened for. Pure."""

from dataclasses import dataclass, field

from uploads import errors, gaps, limits
from uploads.batch import Listing, RunTotals, listing_digest
from uploads.session import Decision, Session

Result = dict[str, object]
"""The body of finish's 200 response."""


@dataclass(frozen=True)
class Failure:
    """A ``Failed``: why, and what the client can do."""

    session: Session
    reason: str
    detail: str
    batches: int
    """How many there are."""
    missing: list[gaps.Range] = field(default_factory=list)
    received: int | None = None
    """Records, if they were counted."""

    @property
    def missing_batches(self) -> int:
        """How many batches are missing."""
        return sum(last - first + 1 for first, last in self.missing)

    @property
    def result(self) -> Result:
        """What finish answers."""
        counted = {} if self.received is None else {"receivedRecord": self.received}
        return {
            "sessionId": self.session.session_id,
            "validationResult": "Failed",
            "reason": self.reason,
            "detail": self.detail,
            **gaps.report(self.missing),
            "totalRecord": self.session.total_record,
            **counted,
            "batches": self.batches,
        }


@dataclass(frozen=True)
class Verdict:
    """What a listing shows: a failure, a decision, or neither: its records must be counted."""

    digest: str
    """Of the listing."""
    failure: Failure | None = None
    decision: Decision | None = None


def validate(session: Session, listing: Listing) -> Verdict:
    """Judge the ``listing`` of a session that is sealed.

    Raises BatchesGoneError if the session is decided, and this is not what was decided.
    """
    digest = listing_digest(listing)
    if session.decision:
        if digest != session.decision.digest:
            raise errors.BatchesGoneError
        return Verdict(digest, decision=session.decision)
    present = (batch.seq_num for batch in listing)
    if missing := list(gaps.missing(present, session.expected_batches)):
        return Verdict(digest, _missing_batches(session, len(listing), missing))
    size = sum(batch.size for batch in listing) + session.format.frame_bytes
    if size > limits.MAX_MERGED_BYTES:
        return Verdict(digest, _too_large(session, len(listing), size))
    if session.counted and session.counted.digest == digest:
        records = session.counted.records
        return Verdict(digest, _record_count(session, len(listing), records))
    if session.batch_size:
        # Each batch was counted when it came, so the listing tells how many records there are.
        return Verdict(digest, None, Decision(len(listing), session.total_record, size, digest))
    return Verdict(digest)


def validate_count(
    session: Session, digest: str, batches: int, totals: RunTotals
) -> Failure | Decision:
    """Judge the counted ``totals`` of all ``batches``, whose listing has ``digest``."""
    return _record_count(session, batches, totals.records) or Decision(
        batches, totals.records, totals.bytes, digest
    )


def merge_failed(session: Session, batches: int) -> Failure:
    """The failure of a long merge whose tasks could not be carried out."""
    detail = "The merge failed. Nothing is lost and nothing became visible: finish again."
    return Failure(session, "merge_failed", detail, batches)


def _missing_batches(session: Session, batches: int, missing: list[gaps.Range]) -> Failure:
    count = sum(last - first + 1 for first, last in missing)
    detail = (
        f"{count} {'batch is' if count == 1 else 'batches are'} missing. Send what is missing and"
        " finish again."
    )
    return Failure(session, "missing_batches", detail, batches, missing)


def _too_large(session: Session, batches: int, size: int) -> Failure:
    detail = (
        f"The batches hold {size} bytes; a merged object takes {limits.MAX_MERGED_BYTES}. Stored"
        " batches never change, so this session cannot succeed: start several new ones."
    )
    return Failure(session, "too_large", detail, batches)


def _record_count(session: Session, batches: int, received: int) -> Failure | None:
    lacking = session.total_record - received
    if lacking == 0:
        return None
    if lacking < 0:
        detail = (
            f"{received} records arrived, {-lacking} more than totalRecord says. Stored batches"
            " never change, so this session cannot succeed: start a new one."
        )
    elif batches:
        detail = (
            f"{received} of {session.total_record} records arrived, in batches 0 to {batches - 1}"
            f" without a gap. Send the rest from seqNum {batches} on and finish again."
        )
    else:
        detail = (
            f"None of {session.total_record} records arrived. Send batches from seqNum 0 on and"
            " finish again."
        )
    return Failure(session, "record_count", detail, batches, received=received)
