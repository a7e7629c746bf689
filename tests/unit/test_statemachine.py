"""``statemachine/merge.asl.json``, the definition of the long merge, and its substitutions."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.unit.test_stack import FUNCTIONS, RESOURCES, STATE_MACHINE, TASKS
from uploads.errors import BatchesGoneError
from uploads.session import StaleAttemptError

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "statemachine/merge.asl.json").read_text(encoding="utf-8")
MERGE: Final = (ROOT / "functions/merge.py").read_text(encoding="utf-8")

State = dict[str, Any]


def states(machine: State) -> Iterator[tuple[str, State]]:
    """Every state with its name, including those of a map."""
    for name, state in machine["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from states(state["ItemProcessor"])


DEFINITION: Final[State] = json.loads(TEXT)
STATES: Final = dict(states(DEFINITION))
TASK_STATES: Final = [name for name, state in STATES.items() if state["Type"] == "Task"]
MAPS: Final = [name for name, state in STATES.items() if state["Type"] == "Map"]
SUBSTITUTIONS: Final[dict[str, Any]] = STATE_MACHINE["DefinitionSubstitutions"]


def keys(node: Any) -> Iterator[str]:  # noqa: ANN401 - any part of a JSON document
    if isinstance(node, dict):
        yield from node
        for value in node.values():
            yield from keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from keys(value)


# --- The order ---


def test_the_order_is_plan_compose_complete() -> None:
    order = [DEFINITION["StartAt"]]
    while following := STATES[order[-1]].get("Next"):
        order.append(following)
    assert order == ["Plan", "ComposeShares", "Complete"]
    assert STATES["Complete"]["End"] is True
    assert TASK_STATES == ["Plan", "Compose", "Complete", "Release"]
    assert MAPS == ["ComposeShares"]


def test_every_state_is_there() -> None:
    named = {*DEFINITION["States"]}
    for state in DEFINITION["States"].values():
        assert {state["Next"]} <= named if "Next" in state else True
        assert {catcher["Next"] for catcher in state.get("Catch", [])} <= named


# --- Failures ---


@pytest.mark.parametrize("name", TASK_STATES)
def test_a_task_is_tried_again_ever_more_slowly(name: str) -> None:
    *exceptions, rest = STATES[name]["Retry"]
    for retrier in [rest, *(given for given in exceptions if given["MaxAttempts"])]:
        assert retrier["MaxAttempts"] >= 3
        assert retrier["IntervalSeconds"] >= 1
        assert retrier["BackoffRate"] >= 2
        assert retrier["MaxDelaySeconds"] <= 60
        assert retrier["JitterStrategy"] == "FULL"
    # States.ALL must be the only error of its retrier, which must be the last.
    assert rest["ErrorEquals"] == ["States.ALL"]
    assert not any("States.ALL" in retrier["ErrorEquals"] for retrier in exceptions)


@pytest.mark.parametrize("name", ["Plan", "Compose", "Complete"])
def test_errors_that_cannot_recover_are_not_retried(name: str) -> None:
    hopeless = {
        error
        for retrier in STATES[name]["Retry"]
        if not retrier["MaxAttempts"]
        for error in retrier["ErrorEquals"]
    }
    # Lambda reports an error's class name.
    assert hopeless == {StaleAttemptError.__name__, BatchesGoneError.__name__}


@pytest.mark.parametrize("name", [name for name in DEFINITION["States"] if name != "Failed"])
def test_every_failure_is_released(name: str) -> None:
    if name == "Release":
        # Release itself has no catcher: if it fails, the lease expires.
        assert "Catch" not in STATES[name]
        assert STATES[name]["Next"] == "Failed"
        return
    # A map's children have no catcher: the map fails.
    assert STATES[name]["Catch"] == [
        {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Release"}
    ]


def test_one_share_that_fails_fails_the_map() -> None:
    assert not {"ToleratedFailureCount", "ToleratedFailurePercentage"} & {*keys(DEFINITION)}
    assert "Catch" not in STATES["Compose"]


def test_an_execution_that_failed_says_why() -> None:
    assert STATES["Failed"] == {
        "Type": "Fail",
        "ErrorPath": "$.error.Error",
        "CausePath": "$.error.Cause",
    }


# --- What goes from state to state ---


def test_nothing_that_is_returned_adds_up() -> None:
    """The state of an execution holds 256 KiB, so shares are read from S3 and return nothing."""
    assert STATES["Compose"]["ResultSelector"] == {}
    assert STATES["ComposeShares"]["ResultPath"] is None
    assert STATES["Release"]["ResultPath"] is None
    assert set(STATES["Plan"]["ResultSelector"]) == {
        "key.$",
        "shares.$",
        "at_once.$",
        "upload_id.$",
    }
    assert set(STATES["Complete"]["ResultSelector"]) == {"validationResult.$"}


def test_the_map_reads_the_plan_and_gives_each_child_its_share() -> None:
    shares = STATES["ComposeShares"]
    assert shares["ItemReader"] == {
        "Resource": "arn:${Partition}:states:::s3:getObject",
        "ReaderConfig": {"InputType": "JSON"},
        "Parameters": {"Bucket": "${BatchesBucket}", "Key.$": "$.planned.key"},
    }
    assert shares["ItemSelector"] == {
        "execution.$": "$.execution",
        "upload_id.$": "$.planned.upload_id",
        "share.$": "$$.Map.Item.Value.share",
    }
    assert shares["ItemProcessor"]["ProcessorConfig"] == {
        "Mode": "DISTRIBUTED",
        "ExecutionType": "STANDARD",
    }
    assert shares["MaxConcurrencyPath"] == "$.planned.at_once"


def test_the_tasks_get_what_they_read() -> None:
    """Each member that merge.py reads from an event is in the state's payload."""
    given = {
        "plan": set(STATES["Plan"]["Parameters"]["Payload"]),
        "compose": set(STATES["ComposeShares"]["ItemSelector"]),
        "complete": set(STATES["Complete"]["Parameters"]["Payload"]),
        # Whatever exists when a state fails.
        "release": {"execution.$", "planned.$"},
    }
    assert STATES["Compose"]["Parameters"]["Payload.$"] == "$"
    assert STATES["Release"]["Parameters"]["Payload.$"] == "$"
    for node in ast.walk(ast.parse(MERGE)):
        if isinstance(node, ast.FunctionDef) and node.name in given:
            read = re.findall(r"""event(?:\[|\.get\()['"](\w+)['"]""", ast.unparse(node))
            assert {f"{name}.$" for name in [*read, "execution"]} == given.pop(node.name)
    assert not given


# --- What runs on the emulator too ---


def test_only_what_every_engine_knows() -> None:
    """Emulators only support JSONPath, without batching and result writing."""
    assert not {
        "QueryLanguage",
        "Assign",
        "Arguments",
        "Output",
        "ItemBatcher",
        "ResultWriter",
    } & {*keys(DEFINITION)}
    assert "{%" not in TEXT


# --- The stack ---


def test_the_substitutions_are_those_of_the_template() -> None:
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == set(SUBSTITUTIONS)
    assert SUBSTITUTIONS["BatchesBucket"] == {"Ref": "BatchesBucket"}
    assert SUBSTITUTIONS["Partition"] == {"Ref": "AWS::Partition"}


@pytest.mark.parametrize("name", TASK_STATES)
def test_a_task_calls_its_function(name: str) -> None:
    state = STATES[name]
    assert state["Resource"] == "arn:${Partition}:states:::lambda:invoke"
    assert state["Parameters"]["FunctionName"] == f"${{{name}Function}}"
    assert SUBSTITUTIONS[f"{name}Function"] == {"GetAtt": f"{name}Function.Arn"}
    assert FUNCTIONS[f"{name}Function"]["Handler"] == f"merge.{name.lower()}"


def test_every_task_function_is_called() -> None:
    assert {f"{name}Function" for name in TASK_STATES} == TASKS
    assert STATE_MACHINE["DefinitionUri"] == "statemachine/merge.asl.json"
    machines = [name for name in RESOURCES if RESOURCES[name]["Type"].endswith("::StateMachine")]
    assert machines == ["MergeStateMachine"]
