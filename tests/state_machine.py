"""Interpret ``statemachine/merge.asl.json``: a small subset of Step Functions, in process.

It supports what that file uses, and raises on anything else: Task, a distributed Map over an object
in S3, Fail, Retry, Catch, and paths. Retries do not wait. Children run one after the other.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

ASL: Final = Path(__file__).parents[1] / "statemachine" / "merge.asl.json"

Function = Callable[[Any], Any]
"""Maps a payload to the function's result."""


class ExecutionFailedError(Exception):
    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name = name
        self.cause = cause


class StateMachine:
    """The definition, with a function for each placeholder like ``${PlanFunction}``."""

    def __init__(
        self,
        functions: Mapping[str, Function],
        read_object: Callable[[str], bytes],
        definition: Mapping[str, Any] | None = None,
    ) -> None:
        """``read_object`` returns the content of a key in the batches bucket."""
        self._functions = functions
        self._read_object = read_object
        self._definition = definition or json.loads(ASL.read_text(encoding="utf-8"))

    def run(self, given: object) -> Any:  # noqa: ANN401
        """Run an execution and return its output. Raises ExecutionFailedError."""
        return self._run(self._definition, given, {})

    def _run(self, machine: Mapping[str, Any], data: Any, context: Any) -> Any:  # noqa: ANN401
        name = machine["StartAt"]
        while True:
            state = machine["States"][name]
            if state["Type"] == "Fail":
                raise ExecutionFailedError(
                    _at(state["ErrorPath"], data, context), _at(state["CausePath"], data, context)
                )
            try:
                data = self._with_retries(state, data, context)
            except ExecutionFailedError as error:
                catch = next((c for c in state.get("Catch", []) if _matches(c, error)), None)
                if catch is None:
                    raise
                failure = {"Error": error.name, "Cause": error.cause}
                data = _placed(catch["ResultPath"], data, failure)
                name = catch["Next"]
                continue
            if state.get("End"):
                return data
            name = state["Next"]

    def _with_retries(self, state: Mapping[str, Any], data: Any, context: Any) -> Any:  # noqa: ANN401
        retriers = [[retrier, retrier["MaxAttempts"]] for retrier in state.get("Retry", [])]
        while True:
            try:
                if state["Type"] == "Task":
                    return self._task(state, data, context)
                assert state["Type"] == "Map", state
                return self._map(state, data, context)
            except ExecutionFailedError as error:
                retrier = next((r for r in retriers if _matches(r[0], error)), None)
                if retrier is None or retrier[1] == 0:
                    raise
                retrier[1] -= 1

    def _task(self, state: Mapping[str, Any], data: Any, context: Any) -> Any:  # noqa: ANN401
        assert state["Resource"].endswith(":::lambda:invoke")
        parameters = _filled(state["Parameters"], data, context)
        try:
            payload = self._functions[parameters["FunctionName"]](_as_json(parameters["Payload"]))
        except Exception as error:
            raise ExecutionFailedError(type(error).__name__, str(error)) from error
        result = {"StatusCode": 200, "Payload": _as_json(payload)}
        result = _filled(state.get("ResultSelector", {"Payload.$": "$"}), result, context)
        return _placed(state.get("ResultPath", "$"), data, result)

    def _map(self, state: Mapping[str, Any], data: Any, context: Any) -> Any:  # noqa: ANN401
        assert state["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED"
        reader = state["ItemReader"]
        assert reader["Resource"].endswith(":::s3:getObject")
        key = _filled(reader["Parameters"], data, context)["Key"]
        try:
            items = json.loads(self._read_object(key))
        except Exception as error:
            raise ExecutionFailedError("States.ItemReaderFailed", str(error)) from error
        results = []
        for item in items:
            here = {"Map": {"Item": {"Value": item}}}
            given = _filled(state["ItemSelector"], data, here)
            try:
                results.append(self._run(state["ItemProcessor"], given, {}))
            except ExecutionFailedError as error:
                threshold = "States.ExceedToleratedFailureThreshold"
                raise ExecutionFailedError(threshold, str(error)) from error
        return _placed(state.get("ResultPath", "$"), data, results)


def _matches(handler: Mapping[str, Any], error: ExecutionFailedError) -> bool:
    return bool({error.name, "States.ALL"} & set(handler["ErrorEquals"]))


def _as_json(value: object) -> Any:  # noqa: ANN401
    return json.loads(json.dumps(value))


def _at(path: str, data: Any, context: Any) -> Any:  # noqa: ANN401
    """The value of ``$.a.b`` in the data, or of ``$$.a.b`` in the context."""
    root, *names = path.split(".")
    found = {"$": data, "$$": context}[root]
    for name in names:
        found = found[name]
    return found


def _filled(template: Any, data: Any, context: Any) -> Any:  # noqa: ANN401
    """``template`` with its paths replaced: members whose names end in ``.$``."""
    if not isinstance(template, dict):
        return template
    return {
        name.removesuffix(".$"): (
            _at(value, data, context) if name.endswith(".$") else _filled(value, data, context)
        )
        for name, value in template.items()
    }


def _placed(path: str | None, data: Any, result: Any) -> Any:  # noqa: ANN401
    """``data`` with ``result`` at ``path``; if the path is null, ``data`` unchanged."""
    if path is None:
        return data
    if path == "$":
        return result
    name = path.removeprefix("$.")
    assert "." not in name, path
    return {**data, name: result}
