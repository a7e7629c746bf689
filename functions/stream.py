"""The clean-up function: what the sessions table's stream says has come to its end.

A session is cleaned up after when it became ``FINISHED`` or ``ABORTED``, or when its time to live
was over. Never while it is ``OPEN`` or ``FINISHING``: what is in it then may be promised. An item
that somebody has removed by hand may be restored, so its batches stay.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)

from uploads import errors
from uploads.config import Config
from uploads.http import Context, logger
from uploads.retries import within
from uploads.session import State
from uploads.wiring import Wiring

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord

Event = Mapping[str, Any]

_ENDED: Final = {State.FINISHED, State.ABORTED}
_TIME_TO_LIVE: Final = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
"""Who removes an item when its time is over."""
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")


def build(wiring: Wiring) -> Callable[[Event, Context], object]:
    """The handler of the clean-up function.

    It cleans up after as many sessions as it can, and tells Lambda which records to bring again.
    """
    cleanup = wiring.cleanup

    def handler(event: Event, context: Context) -> object:
        def clean_up(record: "DynamoDBRecord") -> None:
            session_id = ended(record.raw_event)
            if session_id is None:
                return
            logger.thread_safe_append_keys(
                session_id=session_id, function_request_id=context.aws_request_id
            )
            try:
                with within(context):
                    cleaned = cleanup.run(session_id)
                logger.info(
                    "cleaned up",
                    batches=cleaned.batches,
                    uploads=cleaned.uploads,
                    plans=cleaned.plans,
                )
            except errors.StorageBusyError as error:
                metrics = EphemeralMetrics()
                metrics.add_metric("StorageBusy", MetricUnit.Count, 1)
                metrics.flush_metrics()
                logger.warning("busy", why=error.why)
                raise
            except Exception:
                logger.exception("failed")
                raise
            finally:
                logger.thread_safe_clear_keys()

        # A processor keeps what it processes.
        processor = BatchProcessor(EventType.DynamoDBStreams)
        return process_partial_response(dict(event), clean_up, processor)

    return handler


def ended(record: Event) -> str | None:
    """The session that ``record`` of the stream says to have come to its end, if any."""
    change = record["dynamodb"]
    session_id: str = change["Keys"]["sessionId"]["S"]
    # The table may hold other items, which have no state.
    if record["eventName"] == "REMOVE":
        identity = record.get("userIdentity") or {}
        over = "state" in change["OldImage"] and _TIME_TO_LIVE.items() <= identity.items()
    else:
        over = change["NewImage"].get("state", {}).get("S") in _ENDED
    return session_id if over and _SESSION_ID.fullmatch(session_id) else None


lambda_handler = build(Wiring(Config.from_env(os.environ)))
