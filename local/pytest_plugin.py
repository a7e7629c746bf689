"""Pytest fixtures: ``gapless_url``, a local Gapless to test against, and ``gapless_client`` for it.

Every pytest run in the same environment loads this module, so it imports almost nothing. The server
is a child process: its packages and their patches never enter the process of the tests. Each worker
of pytest-xdist has its own server.
"""

import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import gapless

    from .process import LocalServer

_STORAGE = ("AWS_", "SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET")
_servers: list["LocalServer"] = []


@pytest.fixture(scope="session")
def gapless_url() -> Iterator[str]:
    """URL of a local Gapless with empty storage, which runs until the last test has ended.

    ``SCHEMAS_DIR`` and ``EVENTS_FILE`` work as with ``gapless-local``. Credentials and endpoints of
    AWS in the environment are ignored.
    """
    from .process import running  # noqa: PLC0415

    environ = {name: value for name, value in os.environ.items() if not name.startswith(_STORAGE)}
    with running(environ) as server:
        _servers.append(server)
        yield server.url
        _servers.remove(server)


@pytest.fixture(scope="session")
def gapless_client(gapless_url: str) -> Iterator["gapless.Client"]:
    """A ``gapless.Client`` of the server at ``gapless_url``."""
    import gapless  # noqa: PLC0415

    with gapless.Client(gapless_url) as client:
        yield client


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add to the report of a failed test what the server printed during it."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    for server in _servers:
        output = server.new_output()
        if report.failed and output and "gapless_url" in getattr(item, "fixturenames", ()):
            report.sections.append(("Output of the local Gapless", output))
        if report.when == "teardown":
            server.skip_output()
