"""The page reads files as the command does, and its vendored parsers are unchanged."""

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser

from local.server import Server, with_files
from tests.web.conftest import WEB
from tests.web.readings import CASES, READ, check, inputs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def nothing(_environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    start_response("404 Not Found", [])
    return []


@pytest.fixture(scope="module")
def readings(browser: Browser) -> Iterator[dict[str, dict[str, Any]]]:
    """What the page reads of every case, in one call."""
    with Server(with_files(nothing, WEB)) as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/")
        yield page.evaluate(READ, ["/readers.js", inputs()])
        page.close()


@pytest.mark.parametrize("name", CASES)
def test_a_reading(readings: dict[str, dict[str, Any]], name: str) -> None:
    check(name, readings[name])


@pytest.mark.parametrize("name", ["papaparse.js", "pako.js"])
def test_a_parser_is_the_one_of_its_package(name: str) -> None:
    text = (WEB / name).read_text()
    marks = r"// Unchanged from here.*?SHA-256 (\w{64})\n(.*\n)// Unchanged up to here\.\n"
    found = re.search(marks, text, re.DOTALL)
    assert found
    body = found[2].removesuffix("\n")
    assert hashlib.sha256(body.encode()).hexdigest() == found[1]
    assert "Permission is hereby granted" in text[: found.start()], "its licence is included"
    assert found[1] in (WEB.parent / "docs" / "web.md").read_text()
