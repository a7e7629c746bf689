"""The page in Chromium, served in front of the local stack."""

import io
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from local.gateway import wsgi
from local.server import Server, with_files
from tests.conftest import MotoStack

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

WEB = Path(__file__).parents[2] / "web"
CHROMIUM = shutil.which("chromium")
PATIENCE_SECONDS = 300
"""Longest wait of a test, with a margin for a busy machine."""
expect.set_options(timeout=PATIENCE_SECONDS * 1_000)
BATCH = re.compile(r"PUT /api/upload/sessions/\w+/batches/\d+")
LIST = re.compile(r"GET /api/upload/sessions(\?.*)?")
Orders = Callable[[int], Path]
"""Writes a file with the given number of records."""


class Seen(NamedTuple):
    """A request to the API."""

    route: str
    """Method and path."""
    authorization: str
    media_type: str
    encoding: str
    digest: str


class Instead(NamedTuple):
    """A response that replaces that of the API."""

    status: int
    """0 closes the connection without a response."""
    headers: tuple[tuple[str, str], ...] = ()
    body: object = None
    """JSON, or HTML as bytes."""


class Front:
    """The page and the API. A test can record, replace and delay requests to the API."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._lock = threading.Lock()
        self._may_pass = threading.Event()
        self._hold_after = 10**9
        self.seen: list[Seen] = []
        self.instead: Callable[[str, int], Instead | None] = lambda _route, _count: None
        """Called with the route and the number of requests so far."""
        self.release()

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        route = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}"
        # Every page requests the list of sessions when it is loaded.
        if " /api/" not in route or LIST.fullmatch(route):
            return self._app(environ, start_response)
        # A request counts when it is whole: then it is handled even if its page goes away.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read())
        with self._lock:
            self.seen.append(
                Seen(
                    route,
                    environ.get("HTTP_AUTHORIZATION", ""),
                    environ.get("CONTENT_TYPE", ""),
                    environ.get("HTTP_CONTENT_ENCODING", ""),
                    environ.get("HTTP_CONTENT_DIGEST", ""),
                )
            )
            instead = self.instead(route, len(self.seen))
            is_held = bool(BATCH.fullmatch(route)) and self.batches > self._hold_after
        # Decided under the lock, so that a later request cannot hold back an earlier one.
        if is_held:
            self._may_pass.wait(PATIENCE_SECONDS)
        if instead is None:
            return self._app(environ, start_response)
        if not instead.status:
            raise ConnectionAbortedError
        is_html = isinstance(instead.body, bytes)
        kind = "text/html; charset=utf-8" if is_html else "application/json"
        headers = [("Content-Type", kind), *instead.headers]
        start_response(f"{instead.status} {HTTPStatus(instead.status).phrase}", headers)
        return [
            instead.body if isinstance(instead.body, bytes) else json.dumps(instead.body).encode()
        ]

    @property
    def batches(self) -> int:
        """Number of requests to store a batch."""
        return sum(BATCH.fullmatch(seen.route) is not None for seen in self.seen)

    def hold_after(self, batches: int) -> None:
        """Hold back all batches after the first ``batches``, until ``release``."""
        self._may_pass.clear()
        self._hold_after = batches

    def release(self) -> None:
        """Let all requests pass."""
        self._hold_after = 10**9
        self._may_pass.set()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("Chromium is not installed. On Debian: apt install chromium")
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses root.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def front(local: MotoStack) -> Front:
    return Front(with_files(wsgi(local.gateway), WEB))


@pytest.fixture
def url(front: Front) -> Iterator[str]:
    with Server(front) as server:
        yield server.url
        front.release()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page. Fails if it logs an error or violates its Content-Security-Policy."""
    context = browser.new_context(base_url=url, viewport={"width": 1120, "height": 900})
    context.set_default_timeout(PATIENCE_SECONDS * 1_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto("/")
    yield page
    context.close()
    # The browser logs every response of 400 or more, and every lost connection.
    assert [error for error in errors if "Failed to load resource" not in error] == []


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Writes a file of records that parsing by JavaScript would change."""

    def write(count: int) -> Path:
        file = tmp_path / "orders.ndjson"
        with file.open("w") as lines:
            for n in range(count):
                record = {"id": 2**53 + 1 + n, "name": f"Zoë {n}", "price": 1.0}
                print(json.dumps(record, ensure_ascii=n % 2 == 1), file=lines)
        return file

    return write
