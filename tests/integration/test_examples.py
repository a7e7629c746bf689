"""Every program in examples/ runs; the clients upload through a network that fails."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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


@dataclass
class Unreliable:
    """The API behind a network and a gateway that fail once at each of these requests."""

    api: "WSGIApplication"
    faults: dict[str, list[str]] = field(
        default_factory=lambda: {
            "POST sessions": ["answer lost"],
            "PUT 0": ["not delivered"],
            "PUT 1": ["not stored", "finishing"],
            "PUT 2": ["throttled"],
            "POST finish": ["merging", "answer lost"],
        }
    )
    sessions: set[str] = field(default_factory=set)
    requests: Counter[str] = field(default_factory=Counter)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['RAW_URI'].rpartition('/')[2]}"
        self.requests[request] += 1
        fault = (self.faults.get(request) or [""]).pop(0)
        own = {
            "not stored": (HTTPStatus.NO_CONTENT, b""),
            "finishing": (HTTPStatus.CONFLICT, b'{"code":"session_finishing"}'),
            "throttled": (HTTPStatus.TOO_MANY_REQUESTS, b'{"message":"Too Many Requests"}'),
            "merging": (HTTPStatus.ACCEPTED, b'{"state":"FINISHING"}'),
        }
        if fault == "not delivered":
            raise ConnectionResetError
        if fault in own:
            status, body = own[fault]
            environ["wsgi.input"].read()
            start_response(f"{status.value} {status.phrase}", [("Retry-After", "1")])
            return [body]
        answer = b"".join(self.api(environ, start_response))
        if request == "POST sessions":
            self.sessions.add(json.loads(answer)["sessionId"])
        if fault == "answer lost":
            raise ConnectionResetError
        return [answer]


@dataclass
class Outcome:
    ran: subprocess.CompletedProcess[str]
    network: Unreliable


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("examples") / "orders.ndjson"
    # The last line has no line feed.
    file.write_bytes(b"\n".join(ORDERS))
    return file


@pytest.fixture(scope="module")
def outcomes(local: MotoStack, orders: Path) -> dict[str, Outcome]:
    """The result of each client. They mostly sleep, so they run concurrently."""

    def outcome(name: str) -> Outcome:
        network = Unreliable(wsgi(local.gateway))
        with Server(network) as server:
            return Outcome(run(CLIENTS[name], EXAMPLES / name, orders, server.url), network)

    names = [name for name, program in CLIENTS.items() if shutil.which(program)]
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(outcome, names), strict=True))


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not shutil.which(CLIENTS[name]):
        pytest.skip(f"{CLIENTS[name]} is not installed")
    return name


def test_a_client_completes_an_upload(
    local: MotoStack, outcomes: dict[str, Outcome], client: str
) -> None:
    ran, network = outcomes[client].ran, outcomes[client].network
    assert (ran.returncode, ran.stderr) == (0, "")
    assert network.faults == {request: [] for request in network.faults}
    (session_id,) = network.sessions
    assert ran.stdout.splitlines() == [
        "1 batch is missing. Send what is missing and finish again.",
        f"25000 records in 3 batches: {session_id}.ndjson",
    ]
    assert local.merged(session_id).splitlines() == ORDERS
    # One retry after each fault; after the gap report only the missing batches.
    assert network.requests == {
        "POST sessions": 2,
        "PUT 0": 2,
        "PUT 1": 3,
        "PUT 2": 2,
        "POST finish": 4,
    }


def test_a_client_ends_where_it_is_refused(local: MotoStack, client: str, tmp_path: Path) -> None:
    file = tmp_path / "orders.ndjson"
    file.write_bytes(b'{"id":1}\n{"id":\n')
    network = Unreliable(wsgi(local.gateway), faults={})
    with Server(network) as server:
        ran = run(CLIENTS[client], EXAMPLES / client, file, server.url)
    assert ran.returncode == 1
    assert "line 2" in ran.stderr
    assert network.requests == {"POST sessions": 1, "PUT 0": 1}


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
