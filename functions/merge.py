"""The functions of a long merge, one for each task of ``statemachine/merge.asl.json``."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from uploads.background import background
from uploads.config import Config
from uploads.http import Context, logger
from uploads.merging.executions import Execution
from uploads.merging.tasks import PlanOutput
from uploads.wiring import Wiring

Event = Mapping[str, Any]
Task = Callable[[Event, Context], object]


def build(wiring: Wiring) -> dict[str, Task]:
    """The handlers of the tasks, by name."""
    tasks = wiring.merge_tasks

    def plan(execution: Execution, _: Event) -> object:
        return msgspec.to_builtins(tasks.plan(execution))

    def compose(execution: Execution, event: Event) -> None:
        # Step Functions keeps every result in the execution's state, so this returns none.
        tasks.compose(execution, event["upload_id"], event["share"])

    def complete(execution: Execution, event: Event) -> object:
        outcome = tasks.complete(execution, msgspec.convert(event["planned"], PlanOutput))
        return (outcome.result or {}).get("validationResult")

    def release(execution: Execution, event: Event) -> None:
        tasks.release(execution, event.get("planned", {}).get("upload_id"))

    named = {"plan": plan, "compose": compose, "complete": complete, "release": release}
    return {name: _task(name, run) for name, run in named.items()}


def _task(name: str, run: Callable[[Execution, Event], object]) -> Task:
    def handler(event: Event, context: Context) -> object:
        execution = msgspec.convert(event["execution"], Execution)
        session_id, attempt = execution.session_id, execution.attempt
        share = event.get("share")
        with background(context, session_id=session_id, attempt=attempt, task=name, share=share):
            returned = run(execution, event)
            logger.info("done")
        return returned

    return handler


handlers = build(Wiring(Config.from_env(os.environ)))
plan, compose = handlers["plan"], handlers["compose"]
complete, release = handlers["complete"], handlers["release"]
