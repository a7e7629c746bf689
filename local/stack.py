"""The stack of ``template.yaml`` with the handlers that are deployed, in this process."""

import sys
from collections.abc import MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Final

from local.gateway import Gateway, Lambda
from local.template import Template

TEMPLATE: Final = Path(__file__).parents[1] / "template.yaml"

LOCAL_VALUES: Final = {
    "SessionsTable": "gapless-sessions",
    "BatchesBucket": "gapless-batches",
    "MergedBucket": "gapless-merged",
    # Nothing runs it here: every merge is made in line, however long it is.
    "MergeStateMachine": "",
    "AuthMode": "NONE",
    "AWS::StackName": "gapless",
}
"""What the template's references and parameters stand for in a local run."""


def set_environment(template: Template, environ: MutableMapping[str, str]) -> None:
    """Give the functions their variables in ``environ``; those that are set already stay."""
    quiet = {"POWERTOOLS_LOG_LEVEL": "WARNING", "POWERTOOLS_METRICS_DISABLED": "true"}
    for name, value in {**template.environment(LOCAL_VALUES), **quiet}.items():
        environ.setdefault(name, value)


def load_gateway(template: Template) -> Gateway:
    """The API with its handlers, which read the environment while they are imported."""
    code = str(template.code)
    if code not in sys.path:
        sys.path.insert(0, code)
    routes = {}
    for route in template.routes:
        function = route.function
        module, _, name = function.handler.rpartition(".")
        routes[route.key] = Lambda(
            handler=getattr(import_module(module), name),
            name=function.name,
            timeout=function.timeout,
            memory=function.memory,
        )
    return Gateway(routes)
