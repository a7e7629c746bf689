"""Reads from ``template.yaml`` what a local run needs: routes, functions, settings, the table."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import yaml

Node = dict[str, Any]
"""A mapping of the template; ``!Ref x`` is ``{"Ref": "x"}``, ``!Sub x`` is ``{"Fn::Sub": "x"}``."""

_TABLE_ARGUMENTS: Final = (
    "AttributeDefinitions",
    "KeySchema",
    "BillingMode",
    "ProvisionedThroughput",
    "GlobalSecondaryIndexes",
    "LocalSecondaryIndexes",
)


# libyaml takes a tenth of the time, but not every build of PyYAML has it.
_Base: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc, valid-type]
    """YAML with CloudFormation's short intrinsic functions."""


def _intrinsic(loader: _Loader, name: str, node: yaml.Node) -> Node:
    key = name if name in {"Ref", "Condition"} else f"Fn::{name}"
    if isinstance(node, yaml.ScalarNode):
        return {key: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {key: loader.construct_sequence(node, deep=True)}
    raise ValueError(f"!{name} needs a value or a list.")


_Loader.add_multi_constructor("!", _intrinsic)


@dataclass(frozen=True)
class Function:
    """A function of the stack."""

    name: str
    """Its logical id."""
    handler: str
    """``module.attribute``, relative to the ``CodeUri``."""
    timeout: int
    """Seconds."""
    memory: int
    """MB."""


@dataclass(frozen=True)
class Route:
    """A route of the API and the function behind it."""

    key: str
    """``POST /path/{parameter}``"""
    function: Function


@dataclass(frozen=True)
class Table:
    """The DynamoDB table as arguments for boto3; its name is not in the template."""

    create: Node
    """The arguments of ``create_table``."""
    time_to_live: Any
    """The ``TimeToLiveSpecification`` of ``update_time_to_live``."""


@dataclass(frozen=True)
class EventSource:
    """A mapping that delivers the table's changes to a function."""

    function: Function
    patterns: Sequence[Node]
    """Only changes that match one of these are delivered."""
    batch_size: int
    """Largest number of changes in one invocation."""
    retries: int
    """How often a failed change is retried; -1: until it is too old."""


class Template:
    """A SAM template."""

    def __init__(self, document: Node, folder: Path) -> None:
        self._document = document
        self._folder = folder
        self._resources: Node = document["Resources"]
        self._globals: Node = document.get("Globals", {}).get("Function", {})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the template at ``path``."""
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            return cls(loader.get_single_data(), path.parent)
        finally:
            loader.dispose()

    @property
    def code(self) -> Path:
        """The folder of the functions' code."""
        code: str = self._globals["CodeUri"]
        return self._folder / code

    @cached_property
    def routes(self) -> list[Route]:
        """Every route of the HTTP API, in the template's order."""
        return [
            Route(route["RouteKey"], self._function_behind(route["Target"]))
            for route in self._of_type("AWS::ApiGatewayV2::Route").values()
        ]

    @property
    def table(self) -> Table:
        """The one table of the stack."""
        (table,) = self._of_type("AWS::DynamoDB::Table").values()
        create: Node = {
            name: _with_owners(table[name]) for name in _TABLE_ARGUMENTS if name in table
        }
        if stream := table.get("StreamSpecification"):
            # CloudFormation implies it.
            create["StreamSpecification"] = {"StreamEnabled": True, **stream}
        return Table(
            create=create,
            time_to_live=table["TimeToLiveSpecification"],
        )

    @property
    def event_sources(self) -> dict[str, EventSource]:
        """The mappings of the table's stream, by the handlers of their functions."""
        sources = [
            EventSource(
                function=self._function(_logical_id(mapping["FunctionName"])),
                patterns=[
                    json.loads(one["Pattern"]) for one in mapping["FilterCriteria"]["Filters"]
                ],
                batch_size=mapping["BatchSize"],
                retries=mapping["MaximumRetryAttempts"],
            )
            for mapping in self._of_type("AWS::Lambda::EventSourceMapping").values()
        ]
        return {source.function.handler: source for source in sources}

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables of the functions behind the API.

        ``given`` has the values of ``!Ref`` and ``!Sub``: names of resources, and parameters to
        set. Raises LookupError for an unknown value, and ValueError if two functions differ, since
        a local run is one process with one environment.
        """
        defaults = {
            name: parameter["Default"]
            for name, parameter in self._document.get("Parameters", {}).items()
            if "Default" in parameter
        }
        known = {name: _text(value) for name, value in {**defaults, **given}.items()}
        environment: dict[str, str] = {}
        for function in dict.fromkeys(route.function for route in self.routes):
            for source in (self._globals, self._resources[function.name]["Properties"]):
                for name, value in source.get("Environment", {}).get("Variables", {}).items():
                    resolved = _resolve(value, known)
                    if environment.setdefault(name, resolved) != resolved:
                        raise ValueError(f"{name} differs between functions.")
        return environment

    def _of_type(self, kind: str) -> dict[str, Node]:
        return {
            name: resource["Properties"]
            for name, resource in self._resources.items()
            if resource["Type"] == kind
        }

    def _function_behind(self, target: Node) -> Function:
        integration = self._resources[_logical_id(target)]["Properties"]
        return self._function(_logical_id(integration["IntegrationUri"]))

    def _function(self, name: str) -> Function:
        properties = {**self._globals, **self._resources[name]["Properties"]}
        return Function(
            name=name,
            handler=properties["Handler"],
            timeout=properties["Timeout"],
            memory=properties["MemorySize"],
        )


def _with_owners(value: object) -> object:
    """Return ``value`` for a table with owners, which has one index more."""
    match value:
        case {"Fn::If": ["HasOwners", chosen, _]}:
            return chosen
    return value


def _logical_id(value: Node) -> str:
    """Return the resource that an intrinsic function refers to."""
    match value:
        case {"Ref": str(name)}:
            return name
        case {"Fn::GetAtt": str(attribute)}:
            return attribute.partition(".")[0]
        case {"Fn::Sub": str(text)} if found := re.search(r"\$\{(\w+)(\.\w+)?\}", text):
            return found[1]
    raise ValueError(f"This is not a reference to one resource: {value}")


def _resolve(value: object, known: Mapping[str, str]) -> str:
    def look_up(name: str) -> str:
        if name not in known:
            raise LookupError(f"The template refers to {name}, which has no value.")
        return known[name]

    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": str(name)}:
            return look_up(name)
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{([\w.:]+)\}", lambda found: look_up(found[1]), text)
        case dict():
            raise LookupError(f"This function of the template is not supported: {value}")
    return _text(value)


def _text(value: object) -> str:
    """Convert a scalar to an environment variable, as CloudFormation does."""
    return str(value).lower() if isinstance(value, bool) else str(value)
