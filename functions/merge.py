"""The functions of a long merge: the tasks that ``statemachine/merge.asl.json`` calls, one each."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from uploads import errors
from uploads.config import Config
from uploads.long_merge import Planned
from uploads.retries import within
from uploads.state_machine import Execution
from uploads.wiring import Wiring

if TYPE_CHECKING:
    # Not at run time: it puts off the collection of garbage until its own `entry` is called.
    from uploads.http import Context

Event = Mapping[str, Any]
Task = Callable[[Event, "Context"], object]

logger = Logger()


def build(wiring: Wiring) -> dict[str, Task]:
    """The handlers of the tasks."""
    long_merge = wiring.long_merge

    def plan(execution: Execution, _: Event) -> object:
        return asdict(long_merge.plan(execution))

    def compose(execution: Execution, event: Event) -> object:
        long_merge.compose(execution, event["upload_id"], event["share"])
        # What a task returns adds up in the state of the execution.
        return None

    def complete(execution: Execution, event: Event) -> object:
        result = long_merge.complete(execution, msgspec.convert(event["planned"], Planned))
        return result["validationResult"]

    def release(execution: Execution, event: Event) -> object:
        long_merge.release(execution, event.get("planned", {}).get("upload_id"))
        return None

    return {run.__name__: _task(run) for run in (plan, compose, complete, release)}


def _task(run: Callable[[Execution, Event], object]) -> Task:
    """The handler of a task: an error is logged, and Step Functions decides what becomes of it.

    StorageBusyError is the one that it tries again for long.
    """

    def handler(event: Event, context: "Context") -> object:
        execution = msgspec.convert(event["execution"], Execution)
        logger.thread_safe_append_keys(
            session_id=execution.session_id,
            attempt=execution.attempt,
            task=run.__name__,
            share=event.get("share"),
            function_request_id=context.aws_request_id,
        )
        try:
            with within(context):
                returned = run(execution, event)
            logger.info("done")
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
        return returned

    return handler


_handlers = build(Wiring(Config.from_env(os.environ)))
plan, compose, complete, release = _handlers.values()
