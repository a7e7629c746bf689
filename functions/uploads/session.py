"""A session, and ``MOVES``, the one table of its legal moves. Pure: no AWS, no clock."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from uploads import errors, limits
from uploads.formats import Format


class State(StrEnum):
    """The state of a session, as the API and the table write it."""

    OPEN = "OPEN"
    FINISHING = "FINISHING"
    FINISHED = "FINISHED"
    ABORTED = "ABORTED"


@dataclass(frozen=True)
class Totals:
    """The totals that a finish request states; None for those it leaves out."""

    records: int | None = None
    batches: int | None = None

    @property
    def members(self) -> dict[str, int]:
        """The stated totals by their names in the API."""
        named = {"totalRecord": self.records, "batches": self.batches}
        return {name: number for name, number in named.items() if number is not None}


NO_TOTALS: Final = Totals()


@dataclass(frozen=True)
class Decision:
    """Which batches are merged. Written before anything becomes visible; never changes."""

    batches: int
    """Number of batches: exactly the ``seqNum`` below it are merged."""
    records: int
    """The session's total from then on, for every finish."""
    bytes: int
    digest: str
    """SHA-256 over (``seqNum``, ETag, size) of the listing, hexadecimal."""


@dataclass(frozen=True)
class Counted:
    """How many records a listing has, counted once for all later attempts."""

    digest: str
    """Of the listing, as in a decision."""
    records: int


@dataclass(frozen=True)
class Upload:
    """The multipart upload that a long merge fills."""

    upload_id: str
    parts: int
    """How many parts it has when it is complete."""


@dataclass(frozen=True)
class Session:
    """One item of the sessions table. Times are whole seconds since 1970, UTC."""

    session_id: str
    owner: str
    total_record: int | None
    """None if each finish states it."""
    batch_size: int | None
    created_at: int
    batches_until: int
    """The session takes batches before this time, which never changes."""
    expires_at: int
    """The item's time to live."""
    format: Format = Format.NDJSON
    schema: str | None = None
    """Name of the schema that its records must satisfy."""
    schema_digest: str | None = None
    """SHA-256 of that schema when the session was created."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Free text from its creator; ``name`` becomes the name of the download."""
    state: State = State.OPEN
    attempt: int = 0
    """How often it was sealed: the number of the current attempt. It fences off late writes."""
    holder: str = ""
    """Random token of the call that sealed last."""
    finishing_since: int | None = None
    """When it was first sealed since it was last open; None while it is open."""
    lease_until: int = 0
    last_reopened_attempt: int = 0
    """The last attempt that judged the listing and re-opened the session."""
    upload: Upload | None = None
    """The upload of the attempt that holds the session, if that is a long merge."""
    decision: Decision | None = None
    counted: Counted | None = None
    """The records that a failed finish counted."""
    result: dict[str, object] | None = None
    """The last answer of finish; a large gap report is in the ``ReportStore`` instead."""
    kept_until: int | None = None
    """Until when the merged object and the result are kept; the item may be kept longer."""
    report: int | None = None
    """The attempt whose gap report is in the ``ReportStore``, if any."""
    finished_at: int | None = None
    """When it was finished; None also if an older release finished it."""
    publisher: int | None = None
    """The attempt that decided, published and committed in one call, with no request still under
    way. No earlier attempt knows the decision: unless one was sealed since, none can publish."""
    file_deleted_at: int | None = None
    """When its owner first asked to delete the merged object, if ever."""

    @property
    def died(self) -> int:
        """How many attempts before this one, since the last verdict, died."""
        return self.attempt - self.last_reopened_attempt - 1

    @property
    def settled_at(self) -> int:
        """When no attempt can publish again any more; only for a finished session."""
        if self.publisher == self.attempt:
            return 0
        if self.finished_at is None:
            return self.lease_until + limits.TASK_LEASE_SECONDS + limits.SETTLING_SECONDS
        return self.finished_at + limits.SETTLING_SECONDS

    @property
    def undecided(self) -> bool:
        """Whether a listing still shows which batches have arrived."""
        return not self.decision and self.state in {State.OPEN, State.FINISHING}

    @property
    def ends_at(self) -> int:
        """``expiresAt`` of the API: until when a client can use the session."""
        if self.state is State.FINISHED:
            return self.kept_until or self.expires_at
        return self.expires_at if self.decision else self.batches_until

    def as_created(self) -> "Session":
        """The session with its immutable fields only."""
        return Session(
            session_id=self.session_id,
            owner=self.owner,
            total_record=self.total_record,
            batch_size=self.batch_size,
            created_at=self.created_at,
            batches_until=self.batches_until,
            expires_at=self.expires_at,
            format=self.format,
            metadata=self.metadata,
            schema=self.schema,
            schema_digest=self.schema_digest,
        )

    @property
    def expected_batches(self) -> int | None:
        """How many batches there must be; None without ``batchSize``."""
        if self.batch_size is None or self.total_record is None:
            return None
        return -(-self.total_record // self.batch_size)

    @property
    def fixed(self) -> Totals:
        """The totals that no finish can change any more."""
        if self.decision:
            return Totals(self.decision.records, self.decision.batches)
        return Totals(self.total_record, self.expected_batches)

    def require_fitting(self, asked: Totals) -> Self:
        """Raise TotalsConflictError or MissingTotalError if a finish cannot state ``asked``."""
        fixed = self.fixed.members
        if any(number != fixed.get(name, number) for name, number in asked.members.items()):
            raise errors.TotalsConflictError(
                f"This session's totals are fixed, {_said(fixed)}; this finish states"
                f" {_said(asked.members)}. Nothing was changed. Finish without a body to complete"
                " it as it is, or start a new session.",
                fixed=fixed,
                asked=asked.members,
            )
        if not self.decision and self.judged_by(asked).records is None:
            raise errors.MissingTotalError(
                "This session was created with totalRecord null, so its finish must state the"
                ' number of records: {"totalRecord": n}.',
                member="totalRecord",
            )
        return self

    def judged_by(self, asked: Totals) -> Totals:
        """The totals that a finish with ``asked`` is judged by: the session's total comes first."""
        records = asked.records if self.total_record is None else self.total_record
        return Totals(records, asked.batches)

    def check_batches(self) -> None:
        """Raise TooManyBatchesError if ``batchSize`` makes more batches than a session can have."""
        most = limits.MAX_SEQ_NUM + 1
        if self.total_record and (self.expected_batches or 0) > most:
            smallest = -(-self.total_record // most)
            raise errors.TooManyBatchesError(
                f"{self.total_record} records in batches of {self.batch_size} make"
                f" {self.expected_batches} batches; a session has at most {most}. Use a batchSize"
                f" of {smallest} or more.",
                minimum=smallest,
            )

    def expected_records(self, seq_num: int) -> int | None:
        """How many records batch ``seq_num`` must have; None if any number is allowed.

        Raises SeqNumOutOfRangeError if the session cannot have that batch.
        """
        count = self.expected_batches
        if count is None or self.batch_size is None or self.total_record is None:
            return None
        if seq_num >= count:
            have = f"seqNum 0 to {count - 1}" if count else "no batches at all"
            raise errors.SeqNumOutOfRangeError(
                f"With totalRecord {self.total_record} and batchSize {self.batch_size} this session"
                f" has {have}; got seqNum {seq_num}.",
                expected={"from": 0, "to": count - 1} if count else None,
            )
        return min(self.batch_size, self.total_record - seq_num * self.batch_size)

    def check_batch(self, seq_num: int, records: int) -> None:
        """Raise SeqNumOutOfRangeError or WrongBatchLengthError. Uses immutable fields only."""
        expected = self.expected_records(seq_num)
        if expected is not None and records != expected:
            raise errors.WrongBatchLengthError(
                f"Batch {seq_num} must have {expected} records (batchSize {self.batch_size},"
                f" totalRecord {self.total_record}); got {records}.",
                expected=expected,
                received=records,
            )

    def is_over(self, now: int) -> bool:
        """Whether no call can finish it any more, or its result is gone.

        An open session ends late by FLIGHT_SECONDS: a seal sent in time may still arrive.
        """
        match self.state:
            case State.FINISHED:
                over = self.ends_at
            case State.FINISHING:
                over = self.expires_at + limits.FLIGHT_SECONDS
            case _:
                over = self.batches_until + limits.FLIGHT_SECONDS
        return now >= over

    def require_unexpired(self, now: int) -> Self:
        """Raise SessionExpiredError if it is over."""
        if self.is_over(now):
            raise _expired()
        return self

    def require_open(self, now: int) -> Self:
        """Raise the error that says why the session takes no batches, unless it does."""
        self.require_unexpired(now)
        if self.state is State.FINISHING:
            raise errors.SessionFinishingError(
                "A finish is running, so this batch is not acknowledged, though it may be stored."
                " Wait for Retry-After, then send the same records again or call finish."
            )
        if self.state is State.FINISHED:
            raise errors.SessionFinishedError(
                "The session is finished and its merged object never changes. Create a new one."
            )
        if self.state is State.ABORTED:
            raise errors.SessionAbortedError("The session was aborted. Create a new one.")
        if now >= self.batches_until:
            raise _expired()
        return self


class StaleAttemptError(Exception):
    """A move was refused, because another call had moved the session to ``session``."""

    def __init__(self, session: Session) -> None:
        super().__init__(f"{session.session_id} is {session.state}, attempt {session.attempt}")
        self.session = session


def _said(members: dict[str, int]) -> str:
    return " and ".join(f"{name} {number}" for name, number in members.items())


def _expired() -> errors.GaplessError:
    return errors.SessionExpiredError(
        "The session has expired. Create a new one and send the batches again."
    )


class Move(StrEnum):
    """What can happen to a session after its creation."""

    SEAL = "seal"
    LEASE = "lease"
    REOPEN = "reopen"
    DECIDE = "decide"
    COMMIT = "commit"
    ABORT = "abort"
    DELETE_FILE = "delete file"


_OURS_UNDECIDED: Final = "attempt = :attempt AND attribute_not_exists(decision)"
_OLD: Final = "attribute_not_exists(batchesUntil)"
"""The item is of an older release, with one time for batches and item that moves could change."""

_SETTLED: Final = (
    "publisher = attempt",
    "finishedAt <= :settled",
    # An older release wrote no finishedAt; each of its attempts renewed the lease.
    "attribute_not_exists(finishedAt) AND leaseUntil <= :quiet",
)
_KEPT: Final = ("keptUntil > :now", "attribute_not_exists(keptUntil) AND expiresAt > :now")

MOVES: Final[dict[Move, tuple[dict[State, tuple[str, ...]], State]]] = {
    Move.SEAL: (
        {
            State.OPEN: ("batchesUntil > :now", f"{_OLD} AND expiresAt > :now"),
            State.FINISHING: (
                # The longest merge ends before the item's time to live.
                "leaseUntil <= :now AND expiresAt > :soonest",
                f"{_OLD} AND leaseUntil <= :now AND expiresAt > :now",
            ),
        },
        State.FINISHING,
    ),
    Move.LEASE: ({State.FINISHING: ("attempt = :attempt",)}, State.FINISHING),
    Move.REOPEN: ({State.FINISHING: (_OURS_UNDECIDED,)}, State.OPEN),
    Move.DECIDE: ({State.FINISHING: (_OURS_UNDECIDED,)}, State.FINISHING),
    Move.COMMIT: ({State.FINISHING: ("decision.digest = :digest",)}, State.FINISHED),
    Move.ABORT: (
        {
            State.OPEN: ("batchesUntil > :past", f"{_OLD} AND expiresAt > :past"),
            State.FINISHING: ("expiresAt > :past AND attribute_not_exists(decision)",),
        },
        State.ABORTED,
    ),
    Move.DELETE_FILE: (
        {
            State.FINISHED: tuple(
                f"{settled} AND {kept}" for settled in _SETTLED for kept in _KEPT
            ),
        },
        State.FINISHED,
    ),
}
"""Move → ({state before: alternative conditions, one of which must hold too}, state after).

``:past`` is FLIGHT_SECONDS ago, ``:soonest`` is LONGEST_SECONDS from now, ``:settled`` is
SETTLING_SECONDS ago and ``:quiet`` another TASK_LEASE_SECONDS (``limits``). All conditions of
DynamoDB writes to sessions are made from this table, so each names the state it moves from."""


def condition(move: Move, *also: str) -> str:
    """The DynamoDB condition under which ``move`` is legal; ``also`` must hold in every state."""
    sources, _ = MOVES[move]
    return " OR ".join(
        f"(#owner = :owner AND #state = :{state} AND {' AND '.join((guard, *also))})"
        for state, guards in sources.items()
        for guard in guards
    )


def fitting(asked: Totals) -> Iterator[str]:
    """The conditions of a seal with these totals; they use ``:records`` and ``:batches``."""
    if asked.records is None:
        yield "(attribute_exists(totalRecord) OR attribute_exists(decision))"
    else:
        yield "(attribute_not_exists(totalRecord) OR totalRecord = :records)"
        yield "(attribute_not_exists(decision) OR decision.records = :records)"
    if asked.batches is not None:
        # No condition can divide, so this refuses every session with a batchSize (Finisher._seal).
        yield "attribute_not_exists(batchSize)"
        yield "(attribute_not_exists(decision) OR decision.batches = :batches)"
