"""``python -m tests.known_callers``: the local server with authenticated callers.

It imitates API Gateway's JWT authorizer: any bearer token is accepted, and is the subject.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from local import __main__, in_process
from local.gateway import Context, Event, Gateway
from tests.processes import serving


@contextmanager
def running() -> Iterator[str]:
    """Run the server in its own process, and yield its URL."""
    with serving("tests.known_callers") as url:
        yield url


def _authorized(handler: Callable[[Event, Context], object]) -> Callable[[Event, Context], object]:
    def run(event: Event, context: Context) -> object:
        _, _, token = event["headers"].get("authorization", "").partition(" ")
        claims = {"iss": "https://issuer.example.com", "sub": token or "nobody"}
        event["requestContext"]["authorizer"] = {"jwt": {"claims": claims, "scopes": None}}
        return handler(event, context)

    return run


if __name__ == "__main__":
    os.environ["AUTH_MODE"] = "JWT"
    load = in_process.load_gateway
    in_process.load_gateway = lambda template: Gateway(
        {
            key: replace(function, handler=_authorized(function.handler))
            for key, function in load(template).routes.items()
        }
    )
    __main__.main()
