"""The events function: it tells a bus what has happened to sessions."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from uploads.background import background
from uploads.config import Config
from uploads.events import Event, event_of
from uploads.http import Context, logger
from uploads.wiring import Wiring

Handler = Callable[[Mapping[str, Any], Context], object]


class Bus(Protocol):
    """What takes events."""

    def put(self, event: Event) -> None:
        """Publish an event."""


def build(bus: Bus, merged_bucket: str) -> Handler:
    """The handler of the sessions table's stream.

    It publishes one event after the other. The first that fails ends it: Lambda brings that one
    again, and all after it. So no event of a session comes before an earlier one of it, and none is
    repeated that is known to be published.
    """

    def handler(event: Mapping[str, Any], context: Context) -> object:
        for record in event["Records"]:
            change = record["dynamodb"]
            try:
                with background(context, session_id=change["Keys"]["sessionId"]["S"]):
                    if told := event_of(record, merged_bucket):
                        bus.put(told)
                        logger.info("published", kind=told.kind, event_id=record["eventID"])
            except Exception:  # noqa: BLE001 - it is in the log, and comes again whatever it was
                return {"batchItemFailures": [{"itemIdentifier": change["SequenceNumber"]}]}
        return {"batchItemFailures": []}

    return handler


_wiring = Wiring(Config.from_env(os.environ))
lambda_handler = build(_wiring.event_bus, _wiring.config.merged_bucket)
