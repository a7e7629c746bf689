"""The stack of ``template.yaml`` in this process, with the handlers as deployed."""

import json
import os
import sys
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TextIO, cast
from uuid import uuid4

from .gateway import ACCOUNT, Context, Event, Gateway, Lambda
from .streams import Stream
from .template import Function, Template

Handler = Callable[[Event, Context], object]

_PACKAGED: Final = Path(__file__).with_name("stack")
ROOT: Final = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1]
"""The folder of the template, the functions and the page: in the package, or the repository."""

TEMPLATE: Final = ROOT / "template.yaml"

LOCAL_VALUES: Final = {
    "SessionsTable": "gapless-sessions",
    "BatchesBucket": "gapless-batches",
    "MergedBucket": "gapless-merged",
    # There is no state machine: a finish runs every merge itself, however long it takes.
    "MergeStateMachine": "",
    "AuthMode": "NONE",
    "AWS::StackName": "gapless",
    "AWS::URLSuffix": "amazonaws.com",
}
"""Values of the template's references and parameters in a local run."""

MERGE_SECONDS: Final = 12 * 3600
"""How long a finish may take: as long as a deployed state machine. The gateway responds with 503
after 30 s, as deployed, and the client retries."""

RENEWAL_SECONDS: Final = 10
"""Interval at which such a finish renews its lease: three times before it expires. If this process
dies, its leases expire within half a minute."""


def set_environment(template: Template, environ: MutableMapping[str, str]) -> None:
    """Set the functions' variables in ``environ``, except those already set."""
    quiet = {"POWERTOOLS_LOG_LEVEL": "WARNING", "POWERTOOLS_METRICS_DISABLED": "true"}
    for name, value in {**template.environment(LOCAL_VALUES), **quiet}.items():
        environ.setdefault(name, value)


def load_gateway(template: Template) -> Gateway:
    """Return the API with its handlers, which read the environment when they are imported."""
    routes = {}
    for route in template.routes:
        called = _load(template, route.function)
        if route.function.handler == "finish.lambda_handler":
            called = replace(called, handler=_unhurried(called.handler), timeout=MERGE_SECONDS)
        routes[route.key] = called
    return Gateway(routes)


def load_stream(template: Template, table: str, arn: str, events: TextIO | None = None) -> Stream:
    """Return the stream of ``table`` with its handlers, which read the environment.

    There is no event bus: each event is written to ``events``, if given, as a line of JSON.
    """
    mappings = []
    for handler, source in template.event_sources.items():
        function = _load(template, source.function)
        if handler == "announce.lambda_handler":
            if events is None:
                continue
            function = replace(function, handler=_announcing(events))
        mappings.append((source, function))
    return Stream(table, arn, template, mappings)


def _announcing(events: TextIO) -> Handler:
    """Return the handler ``announce`` writing to a file what the target of a rule would receive."""
    import announce  # noqa: PLC0415 - only now on the path
    from uploads import events as told  # noqa: PLC0415
    from uploads.lifecycle import timestamp  # noqa: PLC0415

    class File:
        def put(self, event: told.Event) -> None:
            entry = event.entry
            envelope = {
                "version": "0",
                "id": str(uuid4()),
                "detail-type": entry["DetailType"],
                "source": entry["Source"],
                "account": ACCOUNT,
                "time": timestamp(event.time),
                "region": os.environ["AWS_REGION"],
                "resources": entry["Resources"],
                "detail": json.loads(entry["Detail"]),
            }
            print(json.dumps(envelope, ensure_ascii=False), file=events, flush=True)

    return cast("Handler", announce.build(File(), os.environ["MERGED_BUCKET"]))


def _load(template: Template, function: Function) -> Lambda:
    code = str(template.code)
    if code not in sys.path:
        sys.path.insert(0, code)
    module, _, name = function.handler.rpartition(".")
    handler = getattr(import_module(module), name)
    return Lambda(handler, function.name, function.timeout, function.memory)


def _unhurried(finish: Handler) -> Handler:
    """Return the finish handler with a lease that is renewed as long as it runs."""
    from uploads import limits  # noqa: PLC0415 - only now on the path
    from uploads.config import Config  # noqa: PLC0415
    from uploads.http import Request  # noqa: PLC0415
    from uploads.session import State  # noqa: PLC0415
    from uploads.wiring import Wiring  # noqa: PLC0415

    wiring = Wiring(Config.from_env(os.environ))

    def renew(request: Request, done: threading.Event) -> None:
        while not done.wait(RENEWAL_SECONDS):
            with suppress(Exception):  # two more renewals follow before the lease expires
                session = wiring.sessions.get(request.session_id, request.owner)
                if session.state is State.FINISHING:
                    wiring.sessions.renew_lease(
                        session.session_id,
                        session.owner,
                        session.attempt,
                        wiring.clock() + limits.FINISH_SECONDS + limits.LEASE_MARGIN_SECONDS,
                    )

    def run(event: Event, context: Context) -> object:
        done = threading.Event()
        request = Request(event, cast("Any", context), wiring.config.auth_mode)
        threading.Thread(target=renew, args=(request, done), daemon=True).start()
        try:
            return finish(event, context)
        finally:
            done.set()

    return run
