"""The functions of a long merge: the tasks that ``statemachine/merge.asl.json`` calls, one each."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from uploads import errors
from uploads.config import Config
from uploads.http import Context, logger
from uploads.merging.executions import Execution
from uploads.merging.tasks import PlanOutput
from uploads.retries import within
from uploads.wiring import Wiring

Event = Mapping[str, Any]
Task = Callable[[Event, Context], object]


def build(wiring: Wiring) -> dict[str, Task]:
    """The handlers of the tasks, by their names."""
    tasks = wiring.merge_tasks

    def plan(execution: Execution, _: Event) -> object:
        return msgspec.to_builtins(tasks.plan(execution))

    def compose(execution: Execution, event: Event) -> object:
        tasks.compose(execution, event["upload_id"], event["share"])
        # What a task returns adds up in the state of the execution.
        return None

    def complete(execution: Execution, event: Event) -> object:
        outcome = tasks.complete(execution, msgspec.convert(event["planned"], PlanOutput))
        return (outcome.result or {}).get("validationResult")

    def release(execution: Execution, event: Event) -> object:
        tasks.release(execution, event.get("planned", {}).get("upload_id"))
        return None

    return {
        "plan": _task("plan", plan),
        "compose": _task("compose", compose),
        "complete": _task("complete", complete),
        "release": _task("release", release),
    }


def _task(name: str, run: Callable[[Execution, Event], object]) -> Task:
    """The handler of a task: an error is logged, and Step Functions decides what becomes of it.

    StorageBusyError is the one that it retries for long.
    """

    def handler(event: Event, context: Context) -> object:
        execution = msgspec.convert(event["execution"], Execution)
        logger.thread_safe_append_keys(
            session_id=execution.session_id,
            attempt=execution.attempt,
            task=name,
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
plan = _handlers["plan"]
compose = _handlers["compose"]
complete = _handlers["complete"]
release = _handlers["release"]
