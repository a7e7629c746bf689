"""What happens to sessions, told to an EventBridge bus by the records of the table's stream.

One event for each move that a client can see: created, finished, failed, aborted, expired, and its
file deleted; none for seals, leases and decisions. ``docs/events.md`` shows them, and
``docs/events.schema.json`` says what is in each. There are no records in them, and no owner.

Permissions: ``events:PutEvents`` on the bus.
"""

import json
import time
from base64 import b64decode
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
"""A change of the table, as Lambda brings it from its stream."""
Image = Mapping[str, Any]
"""An item before or after it."""

VERSION: Final = 1
"""Of an event's ``detail``; members may be added without another one."""
SOURCE: Final = "gapless"

_TRANSIENT: Final = {"InternalException", "InternalFailure", "ThrottlingException"}
"""What EventBridge says of an event that it may take the next time."""


class Kind(StrEnum):
    """What has happened: EventBridge's ``detail-type``."""

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
"""By the states before and after. When the item of a session that has ended is deleted, nothing has
happened that was not told before."""


@dataclass(frozen=True)
class Event:
    """What a bus is told."""

    kind: Kind
    time: int
    """When it happened, seconds since 1970."""
    table: str
    """The ARN of the table: stacks that share a bus are told apart by it."""
    detail: dict[str, object]

    @property
    def entry(self) -> dict[str, Any]:
        """As PutEvents takes it, but for the bus."""
        return {
            "Source": SOURCE,
            "DetailType": self.kind.value,
            "Time": datetime.fromtimestamp(self.time, UTC),
            "Resources": [self.table],
            "Detail": json.dumps(self.detail, ensure_ascii=False, separators=(",", ":")),
        }


class NotPublishedError(Exception):
    """EventBridge refuses an event."""


class EventBus:
    """A bus of EventBridge."""

    def __init__(self, client: "EventBridgeClient", name: str) -> None:
        self._client = client
        self._name = name

    def put(self, event: Event) -> None:
        """Publish ``event``: 1 request.

        Raises StorageBusyError, NotPublishedError, or what AWS says; then it may be published.
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
    """What ``record`` of the table's stream has to tell, if anything."""
    change = record["dynamodb"]
    before, after = (_binary(change.get(name)) for name in ("OldImage", "NewImage"))
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
    # The table holds other items too, which have no state.
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


def _binary(image: Image | None) -> Image:
    """An image as DynamoDB gives it; Lambda's is JSON, which has no bytes."""
    return {
        name: {"B": b64decode(value["B"])} if isinstance(value.get("B"), str) else value
        for name, value in (image or {}).items()
    }


def _outcome(kind: Kind, session: Session, merged_bucket: str) -> dict[str, object]:
    """What the session's last finish came to, of an event that tells of it."""
    if kind not in {Kind.FINISHED, Kind.FILE_DELETED, Kind.FAILED}:
        return {}
    result = {**(session.result or {})}
    for name in ("sessionId", "validationResult"):
        result.pop(name, None)
    if kind is Kind.FAILED:
        return result | _bounded(result, "missing") | _bounded(result, "unexpected")
    return {"bucket": merged_bucket, **result}


def _bounded(result: Mapping[str, Any], name: str) -> dict[str, object]:
    """The first gaps of a report, and how many batches are in all of them, if that is known."""
    if name not in result:
        return {}
    ranges, cut = result[name], f"{name}Truncated"
    known = None if result.get(cut) else gaps.count((one["from"], one["to"]) for one in ranges)
    first = ranges[: limits.EVENT_RANGES]
    truncated = {cut: True} if result.get(cut) or len(first) < len(ranges) else {}
    return {name: first, f"{name}Batches": known, **truncated}
