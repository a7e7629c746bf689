"""Sessions in DynamoDB: one item each, changed only by conditional writes.

Item: ``sessionId`` (key), ``version``, ``owner``, ``totalRecord``, ``batchSize``, ``format``,
``metadata``, ``schema``, ``schemaDigest``, ``createdAt``, ``batchesUntil``, ``state``, ``attempt``,
``settled``, ``holder``, ``leaseUntil``, ``finishingSince``, ``upload``, ``decision``, ``counted``,
``result`` (deflated JSON), ``report``, ``keptUntil``, ``finishedAt``, ``publisher``,
``fileDeletedAt`` and ``expiresAt`` (the table's time to live). It is read with every batch, and
stays under 4 KB, one read unit: large gap reports are in S3 (``reports``).

Another release may have written it: unknown members, also nested ones, are ignored and kept. Items
without a ``version`` are older, and have no ``batchesUntil``.

The table also has one item for each Idempotency-Key. Its ``sessionId`` is ``key:`` and the SHA-256
of owner and key, ``session`` is the id of the key's session; then ``version``, ``digest``,
``createdAt`` and ``expiresAt``. Without ``owner`` and ``state`` it is in no list, and the clean-up
ignores it.

The index ``ByOwner`` lists sessions. It has only what a list shows, and lags by a moment.

Permissions: ``dynamodb:PutItem`` to create, ``GetItem``, ``UpdateItem``; on the index ``Query``.
"""

import hashlib
import json
import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from uploads import errors, limits
from uploads.cursor import Place
from uploads.dynamodb import ConditionFailedError, DynamoDB
from uploads.formats import Format
from uploads.session import (
    MOVES,
    Counted,
    Decision,
    Move,
    Session,
    StaleAttemptError,
    State,
    Totals,
    Upload,
    condition,
    fitting,
)

_CACHED_SESSIONS: Final = 1_024
"""Most sessions in the cache of a function."""

_VERSION: Final = 1


@dataclass(frozen=True)
class Claim:
    """The session of an Idempotency-Key. Times are seconds since 1970."""

    session_id: str
    digest: str
    """SHA-256 of the request's body, hexadecimal."""
    created_at: int
    expires_at: int
    """When the key can be used again: when its session stops taking batches."""


class SessionStore:
    """The sessions table.

    Every method that makes a move returns the new session. It raises StaleAttemptError if the move
    is not legal any more, or SessionNotFoundError.
    """

    def __init__(self, client: DynamoDB, table: str) -> None:
        self._client = client
        self.table = table
        self._cached: dict[tuple[str, str], Session] = {}

    def create(self, session: Session) -> None:
        """Store a new session: 1 write. Repeating it does nothing."""
        try:
            self._client.call(
                "PutItem",
                {
                    "TableName": self.table,
                    "Item": _item(session),
                    "ConditionExpression": "attribute_not_exists(sessionId)",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                },
            )
        except ConditionFailedError as failed:
            # A retried PutItem may find its own item; a repeated create may find a later state.
            if not failed.item or _birth(session_of(failed.item)) != _birth(session):
                raise

    def claim(self, owner: str, key: str, claim: Claim, now: int) -> Claim:
        """Bind the Idempotency-Key ``key`` of ``owner`` to ``claim``: 1 write.

        Returns the key's claim: the earlier one if it was bound before.
        """
        name = hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()
        values = {
            "version": _VERSION,
            "sessionId": f"key:{name}",
            "session": claim.session_id,
            "digest": claim.digest,
            "createdAt": claim.created_at,
            "expiresAt": claim.expires_at,
        }
        try:
            self._client.call(
                "PutItem",
                {
                    "TableName": self.table,
                    "Item": {name: _attribute(value) for name, value in values.items()},
                    # The time to live deletes items late.
                    "ConditionExpression": "attribute_not_exists(sessionId) OR expiresAt <= :now",
                    "ExpressionAttributeValues": {":now": _attribute(now)},
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                },
            )
        except ConditionFailedError as failed:
            # It may be our own, if the response of an earlier try was lost.
            if not failed.item:
                raise
            value = {name: _value(attribute) for name, attribute in failed.item.items()}
            return Claim(value["session"], value["digest"], value["createdAt"], value["expiresAt"])
        return claim

    def get(self, session_id: str, owner: str) -> Session:
        """Read a session: 1 strongly consistent read.

        Raises SessionNotFoundError, also if it belongs to another owner.
        """
        key = {"sessionId": {"S": session_id}}
        read = {"TableName": self.table, "Key": key, "ConsistentRead": True}
        session = _owned(self._client.call("GetItem", read).get("Item", {}), owner)
        # By owner, too: for other callers a cached id takes as long as an unknown one.
        if session.state is not State.OPEN:
            self._cached.pop((session_id, owner), None)
        else:
            if len(self._cached) >= _CACHED_SESSIONS:
                self._cached.clear()
            self._cached[session_id, owner] = session.as_created()
        return session

    def page(
        self, owner: str, limit: int, after: Place | None = None
    ) -> tuple[list[Session], Place | None]:
        """At most ``limit`` sessions of ``owner`` after ``after``, newest first: 1 query.

        Also the place to continue at, None at the end. Sessions are as the index has them: a moment
        old, and only with the fields that a list shows.
        """
        asked: dict[str, Any] = {
            "TableName": self.table,
            "IndexName": "ByOwner",
            "KeyConditionExpression": "#owner = :owner",
            "ExpressionAttributeNames": {"#owner": "owner"},
            "ExpressionAttributeValues": {":owner": _attribute(owner)},
            "ScanIndexForward": False,
            "Limit": limit,
        }
        if after:
            asked["ExclusiveStartKey"] = {
                "owner": _attribute(owner),
                "createdAt": _attribute(after.created_at),
                "sessionId": _attribute(after.session_id),
            }
        found = self._client.call("Query", asked)
        last: dict[str, Any] = found.get("LastEvaluatedKey", {})
        return (
            [_owned(item, owner) for item in found["Items"]],
            Place(_value(last["createdAt"]), _value(last["sessionId"])) if last else None,
        )

    def get_cached(self, session_id: str, owner: str, now: int) -> Session:
        """The immutable fields of a session that this function has seen open; else ``get``.

        It may have been closed since; only ``get`` shows that.
        """
        session = self._cached.get((session_id, owner))
        if session is None or now >= session.batches_until:
            return self.get(session_id, owner)
        return session

    def seal(
        self,
        session_id: str,
        owner: str,
        *,
        holder: str,
        now: int,
        lease_until: int,
        totals: Totals,
    ) -> Session:
        """Close the session to batches, and begin an attempt, of ``holder``: 1 write.

        ``totals`` must fit the session. They are not stored: a later attempt may state others
        until one decides.
        """
        return self._move(
            Move.SEAL,
            session_id,
            owner,
            "attempt = attempt + :one, holder = :holder, leaseUntil = :lease,"
            " finishingSince = if_not_exists(finishingSince, :now) REMOVE upload",
            {
                ":one": 1,
                ":holder": holder,
                ":lease": lease_until,
                ":now": now,
                ":soonest": now + limits.LONGEST_SECONDS,
            }
            | {f":{name}": said for name, said in asdict(totals).items() if said is not None},
            lambda session: session.state is State.FINISHING and session.holder == holder,
            *fitting(totals),
        )

    def renew_lease(
        self, session_id: str, owner: str, attempt: int, until: int, upload: Upload | None = None
    ) -> Session:
        """Extend the lease of ``attempt``, or end it with a past time: 1 write.

        ``upload``, if given, is stored.
        """
        values: dict[str, object] = {":lease": until, ":attempt": attempt}
        if upload:
            values[":upload"] = asdict(upload)
        return self._move(
            Move.LEASE,
            session_id,
            owner,
            "leaseUntil = :lease" + (", upload = :upload" if upload else ""),
            values,
            lambda now: (
                now.state is State.FINISHING and now.attempt == attempt and now.lease_until == until
            ),
        )

    def reopen(
        self,
        session: Session,
        result: dict[str, object],
        *,
        report: bool = False,
        counted: Counted | None = None,
        verdict: bool = True,
    ) -> Session:
        """Take batches again, and store ``result`` as the last answer of finish: 1 write.

        ``report``: this attempt's gap report is in the ``ReportStore``. ``counted``, if given, is
        stored. ``verdict``: the listing was judged, so no attempt until now counts as died.
        """
        changes = ["#result = :result"]
        values: dict[str, object] = {":result": pack(result), ":attempt": session.attempt}
        if report:
            changes.append("report = :attempt")
        if verdict:
            changes.append("settled = :attempt")
        if counted:
            changes.append("counted = :counted")
            values[":counted"] = asdict(counted)
        return self._move(
            Move.REOPEN,
            session.session_id,
            session.owner,
            f"{', '.join(changes)} REMOVE upload, finishingSince{'' if report else ', report'}",
            values,
            lambda now: now.state is State.OPEN and now.attempt == session.attempt,
        )

    def decide(self, session: Session, decision: Decision) -> Session:
        """Bind this and every later attempt to ``decision``: 1 write.

        Extends the session's life so that they can complete it. An attempt that finds the same
        decision of a later attempt is stale: it must not publish what a client may have deleted.
        """
        latest = session.created_at + limits.LATEST_FINISH_SECONDS
        return self._move(
            Move.DECIDE,
            session.session_id,
            session.owner,
            "decision = :decision, expiresAt = :expires",
            {
                ":decision": asdict(decision),
                ":expires": max(latest, session.expires_at),
                ":attempt": session.attempt,
            },
            lambda now: (
                now.state is State.FINISHING
                and now.attempt == session.attempt
                and now.decision == decision
            ),
        )

    def commit(
        self,
        session: Session,
        decision: Decision,
        result: dict[str, object],
        kept_until: int,
        *,
        now: int,
        sole: bool,
    ) -> Session:
        """Finish the session with ``result``, which is kept until ``kept_until``: 1 write.

        Its time to live is never shorter than at creation: an Idempotency-Key may name it.
        ``sole``: the attempt becomes ``Session.publisher``, because no other one can publish.
        """
        first = session.batches_until + limits.GRACE_SECONDS
        values: dict[str, object] = {
            ":result": pack(result),
            ":kept": kept_until,
            ":expires": max(kept_until, first),
            ":now": now,
            ":digest": decision.digest,
        }
        if sole:
            values[":publisher"] = session.attempt
        return self._move(
            Move.COMMIT,
            session.session_id,
            session.owner,
            "#result = :result, keptUntil = :kept, expiresAt = :expires, finishedAt = :now"
            f"{', publisher = :publisher' if sole else ''} REMOVE upload, report",
            values,
            lambda found: found.state is State.FINISHED,
        )

    def abort(self, session_id: str, owner: str, *, now: int) -> Session:
        """Abort the session: 1 write."""
        return self._move(
            Move.ABORT,
            session_id,
            owner,
            "holder = :nobody REMOVE upload, report",
            {":nobody": "", ":past": now - limits.FLIGHT_SECONDS},
            lambda session: session.state is State.ABORTED,
        )

    def delete_file(self, session_id: str, owner: str, *, now: int) -> Session:
        """Record that the merged object is to be deleted: 1 write."""
        settled = now - limits.SETTLING_SECONDS
        return self._move(
            Move.DELETE_FILE,
            session_id,
            owner,
            "fileDeletedAt = if_not_exists(fileDeletedAt, :now)",
            {":now": now, ":settled": settled, ":quiet": settled - limits.TASK_LEASE_SECONDS},
            lambda session: session.file_deleted_at is not None,
        )

    def _move(
        self,
        move: Move,
        session_id: str,
        owner: str,
        changes: str,
        values: dict[str, object],
        landed: Callable[[Session], bool],
        *also: str,
    ) -> Session:
        """Make ``move`` if it is legal and ``also`` holds.

        A retried write may find that its first try landed, so ``landed`` judges the item.
        """
        sources, target = MOVES[move]
        update = f"SET #state = :{target}, {changes}"
        legal = condition(move, *also)
        values |= {":owner": owner} | {f":{state}": state.value for state in {*sources, target}}
        asked = {
            "TableName": self.table,
            "Key": {"sessionId": {"S": session_id}},
            "UpdateExpression": update,
            "ConditionExpression": legal,
            # Some names are reserved words of DynamoDB, and unused aliases are an error.
            "ExpressionAttributeNames": {
                alias: alias[1:] for alias in re.findall(r"#\w+", update + legal)
            },
            "ExpressionAttributeValues": {
                name: _attribute(value) for name, value in values.items()
            },
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        try:
            answer = self._client.call("UpdateItem", asked)
        except ConditionFailedError as failed:
            session = _owned(failed.item, owner)
            if landed(session):
                return session
            raise StaleAttemptError(session) from None
        return _owned(answer["Attributes"], owner)


def _birth(session: Session) -> tuple[object, ...]:
    """What distinguishes two sessions created under one id."""
    return session.session_id, session.owner, session.created_at


def _owned(item: Mapping[str, Any], owner: str) -> Session:
    if not item or item["owner"]["S"] != owner:
        raise errors.SessionNotFoundError(
            "There is no session of this id. Create one by POST /api/upload/sessions."
        )
    return session_of(item)


def pack(result: dict[str, object]) -> bytes:
    """An answer of finish as the item stores it."""
    return zlib.compress(json.dumps(result, separators=(",", ":")).encode())


def _item(session: Session) -> dict[str, Any]:
    """A newly created session as an item."""
    values = {
        "version": _VERSION,
        "sessionId": session.session_id,
        "owner": session.owner,
        "totalRecord": session.total_record,
        "batchSize": session.batch_size,
        "format": session.format.value,
        "metadata": session.metadata or None,
        "schema": session.schema,
        "schemaDigest": session.schema_digest,
        "createdAt": session.created_at,
        "batchesUntil": session.batches_until,
        "expiresAt": session.expires_at,
        "state": session.state.value,
        "attempt": session.attempt,
    }
    return {name: _attribute(value) for name, value in values.items() if value is not None}


def session_of(item: Mapping[str, Any]) -> Session:
    """The session in an item of the table, or of its index."""
    value = {name: _value(item[name]) for name in _KNOWN & item.keys()}
    result = value.get("result")
    return Session(
        session_id=value["sessionId"],
        owner=value["owner"],
        total_record=value.get("totalRecord"),
        batch_size=value.get("batchSize"),
        format=Format(value.get("format", Format.NDJSON)),
        metadata=value.get("metadata", {}),
        schema=value.get("schema"),
        schema_digest=value.get("schemaDigest"),
        created_at=value["createdAt"],
        batches_until=value.get("batchesUntil", value["expiresAt"]),
        expires_at=value["expiresAt"],
        state=State(value["state"]),
        # The index lacks this and most that follow.
        attempt=value.get("attempt", 0),
        holder=value.get("holder", ""),
        finishing_since=value.get("finishingSince"),
        lease_until=value.get("leaseUntil", 0),
        last_reopened_attempt=value.get("settled", 0),
        upload=msgspec.convert(value.get("upload"), Upload | None),
        decision=msgspec.convert(value.get("decision"), Decision | None),
        counted=msgspec.convert(value.get("counted"), Counted | None),
        result=json.loads(zlib.decompress(result)) if result else None,
        report=value.get("report"),
        kept_until=value.get("keptUntil"),
        finished_at=value.get("finishedAt"),
        publisher=value.get("publisher"),
        file_deleted_at=value.get("fileDeletedAt"),
    )


_KNOWN: Final = frozenset(
    (
        *("sessionId", "owner", "totalRecord", "batchSize", "format", "metadata"),
        *("schema", "schemaDigest"),
        *("createdAt", "batchesUntil"),
        *("expiresAt", "state", "attempt", "holder", "finishingSince", "leaseUntil", "settled"),
        *("upload", "decision", "counted", "result", "report", "keptUntil"),
        *("finishedAt", "publisher", "fileDeletedAt"),
    )
)
"""The attributes of an item that are read."""


def _attribute(value: object) -> dict[str, Any]:
    """A value as DynamoDB takes it. boto3's serializer would import all of boto3."""
    match value:
        case str():
            return {"S": value}
        case int():
            return {"N": str(value)}
        case bytes():
            return {"B": value}
        case dict():
            return {"M": {name: _attribute(member) for name, member in value.items()}}
    raise TypeError(f"no attribute of an item is a {type(value).__name__}")


def _value(attribute: dict[str, Any]) -> Any:  # noqa: ANN401
    """The value of an attribute. One that ``_attribute`` does not make is returned unparsed."""
    ((kind, value),) = attribute.items()
    match kind:
        case "N":
            # Unknown members may be fractions.
            return int(value) if value.isdecimal() else value
        case "B":
            return b64decode(value)
        case "M":
            return {name: _value(member) for name, member in value.items()}
    return value
