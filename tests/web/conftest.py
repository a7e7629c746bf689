"""The page in Debian's Chromium, in front of the stack of this process."""

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
from tests.conftest import LocalStack

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

WEB = Path(__file__).parents[2] / "web"
CHROMIUM = shutil.which("chromium")
PATIENCE_SECONDS = 300
"""However busy this machine is, what a test waits for has happened by then."""
expect.set_options(timeout=PATIENCE_SECONDS * 1_000)
BATCH = re.compile(r"PUT /api/upload/sessions/\w+/batches/\d+")
LIST = re.compile(r"GET /api/upload/sessions(\?.*)?")
Orders = Callable[[int], Path]
"""Writes a file of so many records."""


class Seen(NamedTuple):
    """A request to the API."""

    route: str
    """Method and path."""
    authorization: str
    media_type: str
    encoding: str
    digest: str


class Instead(NamedTuple):
    """An answer in place of the API's own."""

    status: int
    """0 breaks the connection off."""
    headers: tuple[tuple[str, str], ...] = ()
    body: object = None
    """JSON; or HTML, as bytes."""


class Front:
    """The page and the API, with what a test lets happen between them and the browser."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._lock = threading.Lock()
        self._may_pass = threading.Event()
        self._hold_after = 10**9
        self.seen: list[Seen] = []
        self.instead: Callable[[str, int], Instead | None] = lambda _route, _count: None
        """Of a route and the count of all requests so far."""
        self.release()

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        route = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}"
        # Every page asks for the list, before anything is done with it.
        if " /api/" not in route or LIST.fullmatch(route):
            return self._app(environ, start_response)
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
        # One that may pass does so, even where the next one comes before it is through here.
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
        """How many requests to store a batch there were."""
        return sum(BATCH.fullmatch(seen.route) is not None for seen in self.seen)

    def hold_after(self, batches: int) -> None:
        """Let no more than so many batches through, until ``release``."""
        self._may_pass.clear()
        self._hold_after = batches

    def release(self) -> None:
        """Hold nothing."""
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
def front(local: LocalStack) -> Front:
    return Front(with_files(wsgi(local.gateway), WEB))


@pytest.fixture
def url(front: Front) -> Iterator[str]:
    with Server(front) as server:
        yield server.url
        front.release()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, which may neither log an error nor break its Content-Security-Policy."""
    context = browser.new_context(base_url=url, viewport={"width": 1120, "height": 900})
    context.set_default_timeout(PATIENCE_SECONDS * 1_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto("/")
    yield page
    context.close()
    # The browser itself logs every answer of 400 or more, and every lost connection.
    assert [error for error in errors if "Failed to load resource" not in error] == []


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Writes a file of so many records, which no detour through JavaScript's numbers survives."""

    def write(count: int) -> Path:
        file = tmp_path / "orders.ndjson"
        with file.open("w") as lines:
            for n in range(count):
                record = {"id": 2**53 + 1 + n, "name": f"Zoë {n}", "price": 1.0}
                print(json.dumps(record, ensure_ascii=n % 2 == 1), file=lines)
        return file

    return write
