"""The clean-up function: deletes what ended sessions left, driven by the table's stream."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)

from uploads.background import background
from uploads.cleanup import ended
from uploads.config import Config
from uploads.http import Context, logger
from uploads.wiring import Wiring

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord


def build(wiring: Wiring) -> Callable[[Mapping[str, Any], Context], object]:
    """The handler of the sessions table's stream.

    It cleans up after as many sessions as it can, and reports the records that Lambda must retry.
    """
    cleanup = wiring.cleanup

    def handler(event: Mapping[str, Any], context: Context) -> object:
        def clean_up(record: "DynamoDBRecord") -> None:
            if session_id := ended(record.raw_event):
                with background(context, session_id=session_id):
                    logger.info("cleaned up", **asdict(cleanup.run(session_id)))

        # A processor keeps state, so each invocation gets a new one.
        processor = BatchProcessor(EventType.DynamoDBStreams)
        return process_partial_response(dict(event), clean_up, processor)

    return handler


lambda_handler = build(Wiring(Config.from_env(os.environ)))
