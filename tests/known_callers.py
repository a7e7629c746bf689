"""``python -m tests.known_callers``: the local server with authenticated callers.

It imitates API Gateway's JWT authorizer: any bearer token is accepted, and is the subject.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from local import __main__, in_process
from local.gateway import Context, Event, Gateway


@contextmanager
def running() -> Iterator[str]:
    """Run the server in its own process, and yield its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.known_callers"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        yield found[0]
        server.terminate()


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
