"""Events about sessions: from records of the table's stream to an EventBridge bus.

One event for each move that a client can see: created, finished, failed, aborted, expired, file
deleted. Seals, leases and decisions make none. An event never contains records or the owner.
``docs/events.md`` shows them; ``docs/events.schema.json`` has their members.

Permissions: ``events:PutEvents`` on the bus.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from uploads import gaps, limits
from uploads.cleanup import SESSION_ID, is_expiry
from uploads.lifecycle import facts, timestamp
from uploads.retries import Tries
from uploads.session import Session, State
from uploads.session_store import session_of

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

Record = Mapping[str, Any]
"""A record of the table's stream: a change of an item."""
Image = Mapping[str, Any]
"""An item before or after the change."""

VERSION: Final = 1
"""Version of an event's ``detail``. Adding members does not change it."""
SOURCE: Final = "gapless"

_TRANSIENT: Final = {"InternalException", "InternalFailure", "ThrottlingException"}
"""Errors of EventBridge that are worth a retry."""


class Kind(StrEnum):
    """What happened: EventBridge's ``detail-type``."""

    CREATED = "Session Created"
    FINISHED = "Session Finished"
    FAILED = "Finish Failed"
    ABORTED = "Session Aborted"
    EXPIRED = "Session Expired"
    FILE_DELETED = "File Deleted"


_MOVES: Final = {
    (None, State.OPEN): Kind.CREATED,
    (State.FINISHING, State.FINISHED): Kind.FINISHED,
    (State.FINISHING, State.OPEN): Kind.FAILED,
    (State.OPEN, State.ABORTED): Kind.ABORTED,
    (State.FINISHING, State.ABORTED): Kind.ABORTED,
    (State.OPEN, None): Kind.EXPIRED,
    (State.FINISHING, None): Kind.EXPIRED,
}
"""By the states before and after. The deletion of an ended session's item makes no event."""


@dataclass(frozen=True)
class Event:
    """An event about a session."""

    kind: Kind
    time: int
    """When it happened, seconds since 1970."""
    table: str
    """ARN of the table. It distinguishes stacks that share a bus."""
    detail: dict[str, object]

    @property
    def entry(self) -> dict[str, Any]:
        """An entry of PutEvents, without the bus."""
        return {
            "Source": SOURCE,
            "DetailType": self.kind.value,
            "Time": datetime.fromtimestamp(self.time, UTC),
            "Resources": [self.table],
            "Detail": json.dumps(self.detail, ensure_ascii=False, separators=(",", ":")),
        }


class NotPublishedError(Exception):
    """EventBridge refused an event."""


class EventBus:
    """An EventBridge bus."""

    def __init__(self, client: "EventBridgeClient", name: str) -> None:
        self._client = client
        self._name = name

    def put(self, event: Event) -> None:
        """Publish ``event``: 1 request.

        After StorageBusyError, NotPublishedError or an error of AWS it may have been published.
        """
        entry: Any = event.entry | {"EventBusName": self._name}
        tries = Tries(time.monotonic())
        while True:
            answer = self._client.put_events(Entries=[entry])
            if not answer["FailedEntryCount"]:
                return
            (refused,) = answer["Entries"]
            code = refused.get("ErrorCode", "")
            if code not in _TRANSIENT:
                raise NotPublishedError(f"{code}: {refused.get('ErrorMessage')}")
            time.sleep(tries.pause(code))


def event_of(record: Record, merged_bucket: str) -> Event | None:
    """The event that a record of the table's stream makes, if any."""
    change = record["dynamodb"]
    before, after = change.get("OldImage", {}), change.get("NewImage", {})
    kind = _kind(record, before, after)
    if kind is None:
        return None
    session = session_of(after or before)
    at = int(change["ApproximateCreationDateTime"])
    detail = {
        "version": VERSION,
        "id": record["eventID"],
        "sequence": change["SequenceNumber"],
        "time": timestamp(at),
        **facts(session),
        **_outcome(kind, session, merged_bucket),
    }
    return Event(kind, at, record["eventSourceARN"].partition("/stream/")[0], detail)


def _kind(record: Record, before: Image, after: Image) -> Kind | None:
    # Not the item of an Idempotency-Key.
    if not SESSION_ID.fullmatch(record["dynamodb"]["Keys"]["sessionId"]["S"]):
        return None
    if record["eventName"] == "REMOVE" and not is_expiry(record):
        return None
    kind = _MOVES.get((_state(before), _state(after)))
    if kind is None and "fileDeletedAt" in after and "fileDeletedAt" not in before:
        return Kind.FILE_DELETED
    return kind


def _state(image: Image) -> State | None:
    return State(image["state"]["S"]) if "state" in image else None


def _outcome(kind: Kind, session: Session, merged_bucket: str) -> dict[str, object]:
    """The result of the session's last finish, for the kinds of event that have it."""
    if kind not in {Kind.FINISHED, Kind.FILE_DELETED, Kind.FAILED}:
        return {}
    result = {**(session.result or {})}
    for name in ("sessionId", "validationResult"):
        result.pop(name, None)
    if kind is Kind.FAILED:
        return result | _bounded(result, "missing") | _bounded(result, "unexpected")
    return {"bucket": merged_bucket, **result}


def _bounded(result: Mapping[str, Any], name: str) -> dict[str, object]:
    """The first ranges of a gap report, and the number of batches in all, if known."""
    if name not in result:
        return {}
    ranges, cut = result[name], f"{name}Truncated"
    known = None if result.get(cut) else gaps.count((one["from"], one["to"]) for one in ranges)
    first = ranges[: limits.EVENT_RANGES]
    truncated = {cut: True} if result.get(cut) or len(first) < len(ranges) else {}
    return {name: first, f"{name}Batches": known, **truncated}
