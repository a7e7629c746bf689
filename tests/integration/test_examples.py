"""Every program in examples/ runs; the clients upload through a network that fails."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.gateway import wsgi
from local.server import Server
from tests.api import Api, over_http
from tests.conftest import MotoStack

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCUMENT = (EXAMPLES / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^\$ python (analyse\S+) [^\n]*\n(.+?)```", DOCUMENT, re.MULTILINE | re.DOTALL)
CLIENTS = {"send.py": sys.executable, "send.mjs": "node", "send.sh": "bash"}
ORDERS = [
    b'{"id":%d,"price":%d.50,"country":"%s"}' % (n, n % 90, (b"DE", b"FR", b"JP", b"US")[n % 4])
    for n in range(25_000)
]


def run(*command: object, cwd: Path = EXAMPLES) -> subprocess.CompletedProcess[str]:
    """Run a program of the examples, with the clone on its path instead of gapless-local."""
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def losing_a_batch(api: "WSGIApplication") -> "WSGIApplication":
    """The API behind a gateway that answers 204 to batch 1, and loses it, once."""
    lost: list[str] = []

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["RAW_URI"].endswith("/batches/1") and not lost:
            lost.append(environ["RAW_URI"])
            environ["wsgi.input"].read()
            start_response("204 No Content", [])
            return []
        return api(environ, start_response)

    return app


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("examples") / "orders.ndjson"
    # The last line has no line feed.
    file.write_bytes(b"\n".join(ORDERS))
    return file


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_sends_what_is_missing(local: MotoStack, orders: Path, name: str) -> None:
    """What else it must do is in ``client/tests/test_client_adapters.py``."""
    if not shutil.which(CLIENTS[name]):
        pytest.skip(f"{CLIENTS[name]} is not installed")
    with Server(losing_a_batch(wsgi(local.gateway))) as server:
        ran = run(CLIENTS[name], EXAMPLES / name, orders, server.url)
    assert (ran.returncode, ran.stderr) == (0, "")
    missing, done = ran.stdout.splitlines()
    pattern = r"25000 records in 3 batches: ([0-9a-f]{32})\.ndjson"
    found = re.fullmatch(pattern, done)
    assert found
    assert local.merged(found[1]).splitlines() == ORDERS
    shown = DOCUMENT.replace(f"python {name}", f"{name}").splitlines()
    assert missing in shown
    assert any(re.fullmatch(pattern, line) for line in shown)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_reports_what_is_not_utf_8(server_url: str, tmp_path: Path, name: str) -> None:
    """It does not replace it, as a decoder would."""
    if not shutil.which(CLIENTS[name]):
        pytest.skip(f"{CLIENTS[name]} is not installed")
    (tmp_path / "latin.ndjson").write_bytes(b'"caf\xe9"\n')
    ran = run(CLIENTS[name], EXAMPLES / name, tmp_path / "latin.ndjson", server_url)
    assert ran.returncode == 1, ran.stdout
    assert "invalid_utf8" in ran.stderr


@pytest.fixture(scope="module", params=["ndjson", "ndjson.gz"])
def finished(request: pytest.FixtureRequest, local: MotoStack, server_url: str) -> tuple[str, str]:
    """URL and id of a finished session in each format."""
    api = Api(over_http(server_url))
    session_id = api.create(len(ORDERS), format=request.param)
    assert api.lines(session_id, 0, b"\n".join(ORDERS)).status == HTTPStatus.NO_CONTENT
    assert api.finish(session_id).json["validationResult"] == "Success"
    stored = local.merged(session_id, request.param)
    lines = gzip.decompress(stored) if request.param == "ndjson.gz" else stored
    assert lines.splitlines() == ORDERS
    return server_url, session_id


@pytest.mark.parametrize("program", ["analyse_duckdb.py", "analyse_pandas.py"])
def test_an_analysis_prints_what_the_document_shows(
    finished: tuple[str, str], program: str
) -> None:
    ran = run(sys.executable, EXAMPLES / program, *finished)
    assert (ran.returncode, ran.stderr) == (0, "")
    ((_, shown),) = (block for block in SHOWN if block[0] == program)
    assert ran.stdout.rstrip() == shown.rstrip()


def test_a_suite_of_your_own_gets_a_service_and_a_client(tmp_path: Path) -> None:
    suite = shutil.copytree(EXAMPLES / "pytest", tmp_path / "suite")
    ran = run(sys.executable, "-m", "pytest", "-p", "local.pytest_plugin", cwd=suite)
    assert ran.returncode == 0, ran.stdout
    assert "test_orders.py .. " in ran.stdout
    assert "test_orders.py .. " in DOCUMENT
