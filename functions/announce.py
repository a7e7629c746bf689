"""The events function: publishes what happened to sessions, driven by the table's stream."""

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
    """Where events are published."""

    def put(self, event: Event) -> None:
        """Publish an event."""


def build(bus: Bus, merged_bucket: str) -> Handler:
    """The handler of the sessions table's stream.

    It publishes events in order and stops at the first failure. Lambda then retries from that
    record on. So the events of a session stay in order, and no event known to be published is
    repeated.
    """

    def handler(event: Mapping[str, Any], context: Context) -> object:
        for record in event["Records"]:
            change = record["dynamodb"]
            try:
                with background(context, session_id=change["Keys"]["sessionId"]["S"]):
                    if found := event_of(record, merged_bucket):
                        bus.put(found)
                        logger.info("published", kind=found.kind, event_id=record["eventID"])
            except Exception:  # noqa: BLE001 - it is logged, and Lambda retries the record
                return {"batchItemFailures": [{"itemIdentifier": change["SequenceNumber"]}]}
        return {"batchItemFailures": []}

    return handler


_wiring = Wiring(Config.from_env(os.environ))
lambda_handler = build(_wiring.event_bus, _wiring.config.merged_bucket)
