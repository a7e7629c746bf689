"""Fixtures of the client's tests: the local service, and a recording proxy in front of it."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from front import Front
from local.server import Server
from tests import hypothesis_profile
from tests.processes import serving

hypothesis_profile.load()

# A background job ignores SIGINT, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    schemas = Path(__file__).parents[2] / "tests" / "schemas"
    environ = {**os.environ, "SCHEMAS_DIR": str(schemas)}
    # The client installs on older Pythons than the service runs on.
    python = os.environ.get("SERVICE_PYTHON", sys.executable)
    with serving("local", environ, python) as url:
        yield url


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAPLESS_STATE_DIR", str(tmp_path / "state"))
    # A local storage in this process sets them.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def front(service: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    passing = Front(service)
    with Server(passing) as server:
        monkeypatch.setenv("GAPLESS_URL", server.url)
        passing.url = server.url
        yield passing
