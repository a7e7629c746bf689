"""Do a session's batches match its totals? The result is a decision or a ``Failed``. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from uploads import errors, gaps, limits
from uploads.batch import Listing, RunTotals, listing_digest
from uploads.session import Decision, Session, Totals

Result = dict[str, object]
"""The body of finish's 200 response."""


@dataclass(frozen=True)
class Failure:
    """A ``Failed``: why, and what the client can do."""

    session: Session
    totals: Totals
    """The totals that it was judged by."""
    reason: str
    detail: str
    batches: int
    """How many batches are stored."""
    missing: Sequence[gaps.Range] = ()
    unexpected: Sequence[gaps.Range] = ()
    received: int | None = None
    """Number of records, if they were counted."""

    @property
    def missing_batches(self) -> int:
        """How many batches are missing."""
        return gaps.count(self.missing)

    @property
    def result(self) -> Result:
        """The answer of finish."""
        numbers = {
            "totalRecord": self.totals.records,
            "receivedRecord": self.received,
            "expectedBatches": self.totals.batches,
            "batches": self.batches,
        }
        return {
            "sessionId": self.session.session_id,
            "validationResult": "Failed",
            "reason": self.reason,
            "detail": self.detail,
            **gaps.report("missing", self.missing),
            **(gaps.report("unexpected", self.unexpected) if self.unexpected else {}),
            **{name: number for name, number in numbers.items() if number is not None},
        }


@dataclass(frozen=True)
class Verdict:
    """What a listing shows: a failure, a decision, or neither if its records must be counted."""

    digest: str
    """Of the listing."""
    failure: Failure | None = None
    decision: Decision | None = None


def validate(session: Session, totals: Totals, listing: Listing) -> Verdict:
    """Judge the ``listing`` of a sealed session: by its decision, or else by ``totals``.

    Raises BatchesGoneError if the listing is not the decided one.
    """
    digest = listing_digest(listing)
    if session.decision:
        if digest != session.decision.digest:
            raise errors.BatchesGoneError
        return Verdict(digest, decision=session.decision)
    if failure := _wrong_batches(session, totals, [batch.seq_num for batch in listing]):
        return Verdict(digest, failure)
    size = sum(batch.size for batch in listing) + session.format.frame_bytes
    if size > limits.MAX_MERGED_BYTES:
        return Verdict(digest, _too_large(session, totals, len(listing), size))
    if session.counted and session.counted.digest == digest:
        records = session.counted.records
        return Verdict(digest, _record_count(session, totals, len(listing), records))
    if session.batch_size and session.total_record is not None:
        # Each batch had the right number of records when it arrived, so none need be counted.
        return Verdict(digest, None, Decision(len(listing), session.total_record, size, digest))
    return Verdict(digest)


def validate_count(
    session: Session, totals: Totals, digest: str, batches: int, run: RunTotals
) -> Failure | Decision:
    """Judge the totals ``run`` of a merged object of ``batches``; ``digest`` is their listing's."""
    return _record_count(session, totals, batches, run.records) or Decision(
        batches, run.records, run.bytes, digest
    )


def merge_failed(session: Session, totals: Totals, batches: int) -> Failure:
    """The failure of a long merge of which a task failed in every retry."""
    detail = "The merge failed. Nothing is lost and nothing became visible: finish again."
    return Failure(session, totals, "merge_failed", detail, batches)


def _wrong_batches(session: Session, totals: Totals, present: list[int]) -> Failure | None:
    """The failure of missing or unexpected batches."""
    expected = session.expected_batches
    if expected is None:
        expected = totals.batches
    within = bisect_left(present, expected) if expected is not None else len(present)
    missing = list(gaps.missing(present[:within], expected))
    # Unexpected batches come first: sending what is missing would not be enough.
    unexpected = list(gaps.runs(present[within:]))
    lacking = f"{_some(missing)} missing. " if missing else ""
    if unexpected:
        detail = (
            f"{lacking}{_some(unexpected)} beyond the {expected} that this finish stated. Stored"
            " batches never change: finish with the right number, or start a new session."
        )
        return Failure(
            session, totals, "unexpected_batches", detail, len(present), missing, unexpected
        )
    if missing:
        detail = f"{lacking}Send what is missing and finish again."
        return Failure(session, totals, "missing_batches", detail, len(present), missing)
    return None


def _some(ranges: list[gaps.Range]) -> str:
    count = gaps.count(ranges)
    return f"{count} {'batch is' if count == 1 else 'batches are'}"


def _too_large(session: Session, totals: Totals, batches: int, size: int) -> Failure:
    detail = (
        f"The batches hold {size} bytes; a merged object takes {limits.MAX_MERGED_BYTES}. Stored"
        " batches never change, so this session cannot succeed: start several new ones."
    )
    return Failure(session, totals, "too_large", detail, batches)


def _record_count(session: Session, totals: Totals, batches: int, received: int) -> Failure | None:
    if totals.records is None or received == totals.records:
        return None
    more = received - totals.records
    again = "finish again"
    if totals.batches is not None:
        again += " with the new number of batches"
    if more > 0:
        advice = (
            "this session cannot succeed: start a new one"
            if session.total_record is not None
            else "finish with the right number, or start a new session"
        )
        detail = (
            f"{received} records arrived, {more} more than totalRecord. Stored batches never"
            f" change, so {advice}."
        )
    elif batches:
        detail = (
            f"{received} of {totals.records} records arrived, in batches 0 to {batches - 1}"
            f" without a gap. Send the rest from seqNum {batches} on and {again}."
        )
    else:
        detail = (
            f"None of {totals.records} records arrived. Send batches from seqNum 0 on and {again}."
        )
    return Failure(session, totals, "record_count", detail, batches, received=received)
