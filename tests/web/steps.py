"""Actions of a user of the page, and waits."""

import re
import time
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.web.conftest import PATIENCE_SECONDS, Front

MOST_AT_ONCE = 5
"""Requests of a page, over HTTP/1.1."""

ARTIFACTS = Path(__file__).parents[2] / "build" / "web"


def choose(page: Page, file: Path, batch_size: int = 0) -> None:
    """Choose a file, and wait until it is checked."""
    if batch_size:
        page.get_by_text("Settings").click()
        page.get_by_label("Records in a batch").fill(str(batch_size))
        page.get_by_text("Settings").click()
    page.locator("#file").set_input_files(file)
    # Before the check it is empty, or "Waiting".
    expect(page.locator("#badge")).not_to_have_text(re.compile("^(Waiting|Checking)?$"))


def begin(page: Page, front: Front, file: Path, batch_size: int, sent: int) -> None:
    """Start an upload, and wait until its batches after the first ``sent`` are held back.

    All that the page sends at once: nothing is on its way then, whatever happens to the page.
    """
    choose(page, file, batch_size)
    front.hold_after(sent)
    page.get_by_role("button", name=re.compile(r"^Upload [\d,]+ records$")).click()
    # It begins with two requests, and each success allows one more.
    held(front, sent + min(MOST_AT_ONCE, 2 + sent) - 1)


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()


def finished(page: Page) -> None:
    expect(page.get_by_text("All records are stored.")).to_be_visible()


def downloaded(page: Page) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    return download.value.path().read_bytes()


def session_id(page: Page) -> str:
    return page.locator("#session code").inner_text()


def held(front: Front, batches: int) -> None:
    """Wait until the server has more than ``batches``."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while front.batches <= batches:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def shoot(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    # Animations are disabled, so that pictures are reproducible.
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True, animations="disabled")
