"""Failures around an upload: connections, wrong servers, files, storage, other tabs."""

import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from local.gateway import wsgi
from local.server import Server, with_files
from tests.api import Api, through_gateway
from tests.conftest import MotoStack
from tests.web.conftest import BATCH, CHROMIUM, WEB, Front, Instead, Orders
from tests.web.steps import begin, choose, downloaded, finished, held, press, session_id, shoot

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG_IN = b"<!doctype html><title>Guest network</title><p>Please log in.</p>"


def routes(front: Front, ending: str) -> list[str]:
    return [seen.route for seen in front.seen if seen.route.endswith(ending)]


# --- Connections ---


def test_offline_and_back(page: Page, front: Front, orders: Orders) -> None:
    file = orders(6_000)
    begin(page, front, file, batch_size=100, sent=10)
    page.context.set_offline(True)
    front.release()
    expect(page.get_by_role("alert")).to_contain_text("You are offline.")
    shoot(page, "offline")
    page.context.set_offline(False)
    finished(page)
    assert downloaded(page) == file.read_bytes()


def test_an_hour_offline_does_not_end_an_upload(page: Page, front: Front, orders: Orders) -> None:
    page.clock.install()
    begin(page, front, orders(6_000), batch_size=100, sent=2)
    page.context.set_offline(True)
    front.release()
    expect(page.get_by_role("alert")).to_contain_text("You are offline.")
    for _ in range(60):
        page.clock.fast_forward(60_000)
    expect(page.locator("#badge")).to_have_text("Uploading")
    page.context.set_offline(False)
    page.clock.run_for(30_000)
    finished(page)


def test_a_time_out_is_congestion(page: Page, front: Front, orders: Orders) -> None:
    page.clock.install()
    file = orders(2_000)
    choose(page, file, batch_size=100)
    front.hold_after(6)
    # Quick responses raise the concurrency; over HTTP/1.1 up to five.
    page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    press(page, "Upload 2,000 records")
    held(front, 10)
    page.clock.resume()
    # Slightly longer than the time-out.
    page.clock.run_for(41_000)
    expect(page.get_by_role("alert")).to_contain_text("The connection is lost.")
    # On a busy machine the clock does not always run after ``run_for``.
    for _ in range(300):
        if front.batches > 12:
            break
        page.clock.run_for(100)
    page.wait_for_timeout(1_000)
    assert front.batches == 13, "half the concurrency, for retries too"
    front.release()
    page.clock.resume()
    finished(page)
    assert downloaded(page) == file.read_bytes()


def test_a_slow_connection_does_not_time_out(page: Page, front: Front, tmp_path: Path) -> None:
    """At 100 kB/s the concurrency adapts, and nothing is sent twice."""
    file = tmp_path / "noise.ndjson"
    with file.open("w") as lines:
        for _ in range(400):
            print(json.dumps(os.urandom(500).hex()), file=lines)
    line = page.context.new_cdp_session(page)
    choose(page, file, batch_size=20)
    line.send("Network.enable")
    line.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 50, "downloadThroughput": -1, "uploadThroughput": 100_000},
    )
    press(page, "Upload 400 records")
    finished(page)
    assert front.batches == 20
    assert downloaded(page) == file.read_bytes()


def test_a_service_that_comes_back(page: Page, front: Front, orders: Orders) -> None:
    file = orders(1_000)
    choose(page, file, batch_size=100)
    front.instead = lambda route, _: Instead(503) if BATCH.fullmatch(route) else None
    press(page, "Upload 1,000 records")
    expect(page.get_by_role("alert")).to_contain_text("The service is too busy.")
    expect(page.get_by_role("alert")).to_contain_text("Retrying.")
    shoot(page, "busy")
    front.instead = lambda _route, _count: None
    finished(page)
    expect(page.locator("#alert")).to_be_empty()


# --- Wrong servers and addresses ---


@pytest.mark.parametrize("status", [200, 302, 404, 511])
@pytest.mark.parametrize("request_", ["open", "batch", "finish", "abort"])
def test_the_login_page_of_a_network(
    page: Page, front: Front, orders: Orders, status: int, request_: str
) -> None:
    route = {
        "open": re.compile(r"POST /api/upload/sessions"),
        "batch": BATCH,
        "finish": re.compile(r".*/finish"),
        "abort": re.compile(r"DELETE .*"),
    }[request_]
    headers = (("Location", "/guest"),) if status == 302 else ()
    portal = Instead(status, headers, LOG_IN)
    front.instead = lambda asked, _: portal if route.fullmatch(asked) else None
    choose(page, orders(100), batch_size=10)
    if request_ == "abort":
        front.hold_after(3)
    press(page, "Upload 100 records")
    if request_ == "abort":
        held(front, 3)
        press(page, "Abort")
        press(page, "Abort and delete")
    expect(page.get_by_role("alert")).to_contain_text("Something else answered")
    expect(page.get_by_role("alert")).to_contain_text("login page of a network")
    expect(page.locator("#badge")).to_have_text("Stopped")
    if request_ != "abort":
        front.instead = lambda _route, _count: None
        press(page, "Try again")
        finished(page)


def test_an_address_with_a_path(page: Page, local: MotoStack, orders: Orders) -> None:
    """As of a stage; here with the path of the sessions and with white space."""
    app = with_files(wsgi(local.gateway), WEB)

    def staged(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["RAW_URI"]
        if not path.startswith("/prod/team/"):
            start_response("404 Not Found", [("Content-Type", "application/json")])
            return [b'{"message":"Not Found"}']
        environ["RAW_URI"] = path.removeprefix("/prod/team")
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/prod/team")
        return app(environ, start_response)

    with Server(staged) as server:
        page.goto(f"{server.url}/prod/team/index.html")
        page.get_by_text("Settings").click()
        page.get_by_label("API address").fill(f" {server.url}/prod/team/api/upload/sessions/ ")
        page.keyboard.press("Escape")
        file = orders(1_000)
        choose(page, file, batch_size=100)
        press(page, "Upload 1,000 records")
        finished(page)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("ftp://example.com/x", "is not an HTTP or HTTPS URL."),
        ("https://example.com/?stage=prod", "must not have a part after ? or #"),
        ("https://me:SECRET@example.com", "The URL must not contain a password."),
        ("http://example.com", "Use an HTTPS address"),
    ],
)
def test_an_invalid_address(
    page: Page, front: Front, orders: Orders, address: str, why: str
) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("API address").fill(address)
    page.locator("#file").set_input_files(orders(10))
    expect(page.get_by_label("API address")).to_be_focused()
    said = page.locator("#url").evaluate("field => field.validationMessage")
    assert why in said
    assert "SECRET" not in said
    assert front.seen == []


def test_a_port_where_nothing_listens(page: Page, front: Front, orders: Orders) -> None:
    page.clock.install()
    page.get_by_text("Settings").click()
    page.get_by_label("API address").fill("http://127.0.0.1:9")
    page.keyboard.press("Escape")
    choose(page, orders(10))
    press(page, "Upload 10 records")
    expect(page.get_by_role("alert")).to_contain_text("Check the connection and the address.")
    while page.locator("#badge").inner_text() != "Stopped":
        page.clock.run_for(5_000)
    page.get_by_text("Settings").click()
    page.get_by_label("API address").fill("")
    page.keyboard.press("Escape")
    page.clock.resume()
    press(page, "Try again")
    finished(page)
    assert front.batches == 1


def test_an_invalid_token(page: Page, front: Front, orders: Orders) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Bearer token").fill("eyJ.SECRET\u20ac.x")
    page.keyboard.press("Escape")
    choose(page, orders(10))
    press(page, "Upload 10 records")
    expect(page.get_by_role("alert")).to_contain_text("The token is invalid.")
    assert "SECRET" not in page.locator("body").inner_text()
    assert front.seen == []


# --- Files ---


def changed(file: Path, change: str) -> None:
    """Change a file as an editor, a log or a broken copy does, perhaps without a new time."""
    content = file.read_bytes()
    times = file.stat()
    if change == "edited":
        at = content.index(b'"id": 9007199254741900')
        with file.open("r+b") as opened:
            opened.seek(at)
            opened.write(b'"id": 1')
    elif change == "cut":
        os.truncate(file, len(content) // 2)
    else:
        with file.open("ab") as opened:
            opened.write(b'{"id": "one more"}\n')
    later = 0 if change == "edited" else 10
    os.utime(file, (times.st_atime + later, times.st_mtime + later))


@pytest.mark.parametrize("change", ["edited", "cut", "grown"])
def test_a_file_that_changes_while_it_is_sent(
    page: Page, front: Front, orders: Orders, change: str
) -> None:
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=3)
    changed(file, change)
    front.release()
    expect(page.get_by_role("alert")).to_contain_text("The file has changed.")
    assert routes(front, "/finish") == [], "finish was not called"


def test_a_file_that_changes_before_finish(page: Page, front: Front, orders: Orders) -> None:
    file = orders(300)
    choose(page, file, batch_size=100)
    front.hold_after(0)
    press(page, "Upload 300 records")
    held(front, 1)
    press(page, "Pause")
    front.release()
    expect(page.locator("[data-batch=sending] dd")).to_have_text("0")
    changed(file, "grown")
    press(page, "Check for gaps")
    expect(page.get_by_role("alert")).to_contain_text("The file has changed.")
    assert routes(front, "/finish") == []


def test_gzip_of_several_members(page: Page, front: Front, orders: Orders) -> None:
    """Read in pieces, twice; after a reload once more, for the rest."""
    content = orders(20_000).read_bytes()
    file = orders(1).with_name("orders.ndjson.gz")
    middle = content.index(b"\n", 500_000) + 1
    file.write_bytes(gzip.compress(content[:middle]) + bytes(512) + gzip.compress(content[middle:]))
    choose(page, file, batch_size=1_000)
    expect(page.locator("#about")).to_contain_text("NDJSON, gzip")
    front.hold_after(3)
    press(page, "Upload 20,000 records")
    held(front, 3)
    page.reload()
    front.release()
    choose(page, file)
    press(page, "Resume the upload")
    finished(page)
    assert downloaded(page) == content


def test_a_setting_decides_how_a_file_is_read(page: Page, front: Front, tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    file.write_text("Report\nid;name\n1;Anna\n")
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("look delimited by a semicolon")
    file.write_text("id;b,c\n1;2,3\n")
    press(page, "Choose another file")
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("Set the delimiter.")
    page.get_by_text("Settings").click()
    shoot(page, "settings-and-error")
    page.get_by_label("CSV delimiter").select_option("Semicolon")
    press(page, "Upload 1 record")
    finished(page)
    assert downloaded(page) == b'{"id":"1","b,c":"2,3"}\n'
    assert front.batches == 1


def test_a_record_too_large_for_a_request(page: Page, front: Front, tmp_path: Path) -> None:
    file = tmp_path / "large.ndjson"
    file.write_text(f'{{"a": 1}}\n"{os.urandom(5_000_000).hex()}"\n')
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("Line 2 holds a record of 10000002 bytes.")
    assert front.seen == []


def test_a_check_is_cancelled(page: Page, front: Front, orders: Orders) -> None:
    """In the middle: the file is read no further than its first bytes before."""
    page.evaluate(
        """() => {
          const read = Blob.prototype.arrayBuffer;
          const cancelled = new Promise((resolve) => (globalThis.goOn = resolve));
          let pieces = 0;
          Blob.prototype.arrayBuffer = async function () {
            if (pieces++) await cancelled;
            return read.call(this);
          };
        }"""
    )
    page.locator("#file").set_input_files(orders(20_000))
    press(page, "Cancel")
    expect(page.get_by_text("Drop files here")).to_be_visible()
    page.evaluate("goOn()")
    choose(page, orders(10))
    press(page, "Upload 10 records")
    finished(page)
    assert front.batches == 1


def test_batches_too_large_for_a_request(page: Page, front: Front, tmp_path: Path) -> None:
    file = tmp_path / "noise.ndjson"
    file.write_text("".join(f'"{os.urandom(500_000).hex()}"\n' for _ in range(12)))
    choose(page, file, batch_size=12)
    press(page, "Upload 12 records")
    expect(page.get_by_role("alert")).to_contain_text("Put fewer records into each batch.")
    assert front.batches == 0
    page.get_by_text("Settings").click()
    page.get_by_label("Records in a batch").fill("3")
    page.keyboard.press("Escape")
    press(page, "Start a new upload")
    press(page, "Upload 12 records")
    finished(page)


# --- Several files ---


def test_three_files_are_queued(page: Page, front: Front, tmp_path: Path) -> None:
    """Dropped on the page. The second is invalid; the third is sent anyway."""
    contents = ['{"a": 1}\n', '{"a": x}\n', '{"a": 3}\n']
    page.evaluate(
        """(contents) => {
          const data = new DataTransfer();
          contents.forEach((text, n) => data.items.add(new File([text], `${n}.ndjson`)));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        contents,
    )
    expect(page.get_by_role("heading", name="0 of 3 files complete, 1 stopped")).to_be_visible()
    shoot(page, "queue")
    press(page, "Upload 2 files")
    expect(page.get_by_role("heading", name="2 of 3 files complete, 1 stopped")).to_be_visible()
    rows = page.locator("#files-list li")
    expect(rows).to_have_text(
        [re.compile("Complete"), re.compile("Stopped"), re.compile("Complete")]
    )
    assert front.batches == 2
    shoot(page, "queue-done")
    rows.nth(1).get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("Line 1")
    for n, expected in [(0, b'{"a": 1}\n'), (2, b'{"a": 3}\n')]:
        rows.nth(n).get_by_role("button").click()
        expect(page.get_by_role("heading", name=f"{n}.ndjson")).to_be_visible()
        assert downloaded(page) == expected
    third = tmp_path / "3.ndjson"
    third.write_text('{"a": 4}\n')
    page.locator("#file").set_input_files(third)
    press(page, "Upload 1 record")
    expect(page.get_by_role("heading", name="3 of 4 files complete, 1 stopped")).to_be_visible()


# --- Display ---


def test_a_resumed_upload_shows_what_is_stored(page: Page, front: Front, orders: Orders) -> None:
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=8)
    page.reload()
    front.release()
    expect(page.get_by_role("heading", name="Unfinished uploads")).to_be_visible()
    choose(page, file)
    stored = page.locator("[data-batch=stored] dd")
    expect(stored).not_to_have_text("0")
    expect(page.locator("[data-batch=missing]")).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_class("note")
    expect(page.get_by_role("alert")).to_contain_text(f"{stored.inner_text()} of 20 batches are")
    assert int(stored.inner_text()) >= 8
    shoot(page, "resumed")
    press(page, "Abort")
    press(page, "Abort and delete")
    expect(page.get_by_role("alert")).to_contain_text("What was sent is deleted.")
    expect(page.get_by_role("alert")).to_have_class("note")
    expect(page.locator("#map")).to_be_hidden()
    expect(stored).to_have_text("0")
    shoot(page, "aborted")


def test_a_session_that_is_gone(page: Page, front: Front, orders: Orders) -> None:
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=3)
    session = session_id(page)
    page.reload()
    front.release()
    gone = Instead(404, (), {"code": "session_not_found", "detail": "No session has this id."})
    front.instead = lambda route, _: gone if session in route else None
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("The unfinished upload is gone.")
    press(page, "Upload 2,000 records")
    finished(page)
    assert session_id(page) != session
    assert downloaded(page) == file.read_bytes()


def test_all_sent_is_not_shown_as_complete(page: Page, front: Front, orders: Orders) -> None:
    choose(page, orders(100))
    merging = Instead(202, (("Retry-After", "1"),), {"state": "FINISHING"})
    front.instead = lambda route, _: (
        merging
        if route.endswith("/finish")
        else (Instead(200, (), {"state": "FINISHING"}) if route.startswith("GET") else None)
    )
    press(page, "Upload 100 records")
    expect(page.get_by_role("alert")).to_contain_text("All records are sent.")
    expect(page.get_by_role("alert")).to_have_class("note")
    expect(page.locator("#percent")).to_have_text("All sent")
    expect(page.get_by_role("progressbar")).not_to_have_attribute("value", re.compile(""))
    shoot(page, "merging")
    front.instead = lambda _route, _count: None
    finished(page)


def test_the_download_has_the_name_of_the_file(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "orders.2024-01 Zürich.csv.gz"
    file.write_bytes(gzip.compress(b"id,n\n1,2\n"))
    choose(page, file)
    with page.expect_request(re.compile(r"/api/upload/sessions$")) as opened:
        press(page, "Upload 1 record")
    asked = json.loads(opened.value.post_data or "")
    assert asked["metadata"] == {"name": "orders.2024-01 Zürich.ndjson"}
    finished(page)
    expect(page.get_by_role("link", name="Download")).to_have_attribute(
        "download", "orders.2024-01 Zürich.ndjson"
    )


def test_every_download_gets_a_new_link(page: Page, front: Front, orders: Orders) -> None:
    file = orders(100)
    choose(page, file)
    # The page has no link yet, and does not retry on its own.
    front.instead = lambda route, _: Instead(404) if route.endswith("/file") else None
    with page.expect_response(re.compile("/file$")) as refused:
        press(page, "Upload 100 records")
    finished(page)
    refused.value.finished()
    front.instead = lambda _route, _count: None
    assert downloaded(page) == file.read_bytes()
    front.seen.clear()
    assert downloaded(page) == file.read_bytes()
    assert len(routes(front, "/file")) == 1


def test_the_link_is_asked_for_once(page: Page, orders: Orders) -> None:
    asked: list[Route] = []
    page.route(re.compile("/file$"), lambda route: asked.append(route))  # noqa: PLW0108 - wrapped
    choose(page, orders(100))
    press(page, "Upload 100 records")
    finished(page)
    while not asked:
        page.wait_for_timeout(20)
    # Until it is answered, the page is shown again.
    page.wait_for_timeout(300)
    (only,) = asked
    only.continue_()
    expect(page.get_by_role("link", name="Download")).to_have_attribute("href", re.compile("http"))


# --- Storage, and other tabs ---


@pytest.fixture
def blocked(browser: Browser, url: str, tmp_path: Path) -> Iterator[Page]:
    """The page in a Chromium that blocks cookies, and so all storage."""
    profile = tmp_path / "profile"
    (profile / "Default").mkdir(parents=True)
    preferences = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (profile / "Default" / "Preferences").write_text(json.dumps(preferences))
    errors: list[str] = []
    with browser.browser_type.launch_persistent_context(
        profile,
        executable_path=CHROMIUM,
        args=["--no-sandbox"] if os.getuid() == 0 else [],
        base_url=url,
    ) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto("/")
        yield page
    assert errors == []


STORAGE_BLOCKED = "Browser storage is blocked or full."


def test_storage_is_blocked(blocked: Page, front: Front, orders: Orders) -> None:
    denied = "try { localStorage.length; false } catch (error) { error.name }"
    assert blocked.evaluate(denied) == "SecurityError"
    file = orders(2_000)
    blocked.get_by_text("Settings").click()
    blocked.get_by_label("Bearer token").fill("header.claims.signature")
    blocked.keyboard.press("Escape")
    choose(blocked, file, batch_size=100)
    expect(blocked.get_by_text(STORAGE_BLOCKED)).to_be_hidden()
    front.hold_after(3)
    press(blocked, "Upload 2,000 records")
    held(front, 3)
    expect(blocked.get_by_text(STORAGE_BLOCKED)).to_be_visible()
    shoot(blocked, "storage-blocked")
    front.release()
    finished(blocked)
    assert downloaded(blocked) == file.read_bytes()


def test_storage_is_full(page: Page, front: Front, orders: Orders) -> None:
    page.evaluate(
        """() => {
          let size = 2 ** 22;
          for (let n = 0; size >= 1; ) {
            try { localStorage.setItem(`other ${n++}`, "x".repeat(size)); } catch { size /= 2; }
          }
        }"""
    )
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=3)
    expect(page.get_by_text(STORAGE_BLOCKED)).to_be_visible()
    front.release()
    finished(page)
    assert downloaded(page) == file.read_bytes()


@pytest.mark.parametrize("corrupt", ["", "{", "null", "[]", '{"sessionId": 5}'])
def test_stored_data_is_corrupt(page: Page, corrupt: str, orders: Orders) -> None:
    page.evaluate("text => localStorage.setItem('gapless.upload.x', text)", corrupt)
    page.reload()
    choose(page, orders(10))
    press(page, "Upload 10 records")
    finished(page)


def test_an_expired_upload_is_forgotten(page: Page) -> None:
    page.evaluate(
        """([url, days]) => days.forEach((day) => {
          const expiresAt = new Date(Date.now() - day * 86_400_000).toISOString();
          const saved = { sessionId: `s${day}`, url, name: `${day}.csv`, size: 1, records: 1 };
          localStorage.setItem(`gapless.upload.s${day}`, JSON.stringify({ ...saved, expiresAt }));
        })""",
        [page.url.rstrip("/"), [0.5, 2]],
    )
    page.reload()
    expect(page.get_by_text("0.5.csv")).to_be_visible()
    expect(page.get_by_text("2.csv")).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage).join()") == "gapless.upload.s0.5"


def test_two_tabs_with_one_file(page: Page, front: Front, orders: Orders) -> None:
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=3)
    other = page.context.new_page()
    other.goto("/")
    expect(other.get_by_text("Another tab is uploading it.")).to_be_visible()
    expect(other.get_by_role("button", name="Discard")).to_have_count(0)
    choose(other, file, batch_size=100)
    expect(other.get_by_role("alert")).to_contain_text("This is a separate upload.")
    front.release()
    press(other, "Upload 2,000 records")
    finished(other)
    finished(page)
    assert session_id(page) != session_id(other)
    assert downloaded(page) == downloaded(other) == file.read_bytes()


def test_a_closed_tab_unlocks_its_upload(page: Page, front: Front, orders: Orders) -> None:
    file = orders(2_000)
    first = page.context.new_page()
    first.goto("/")
    begin(first, front, file, batch_size=100, sent=3)
    session = session_id(first)
    first.close()
    front.release()
    page.reload()
    choose(page, file)
    press(page, "Resume the upload")
    finished(page)
    assert session_id(page) == session


def test_another_client_finishes(
    page: Page, front: Front, local: MotoStack, orders: Orders
) -> None:
    """The upload succeeds: the checksum proves that the result is right."""
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=10)
    api = Api(through_gateway(local.gateway))
    lines = file.read_bytes().splitlines()
    for n in range(20):
        body = b'{"seqNum":%d,"data":[%b]}' % (n, b",".join(lines[n * 100 : (n + 1) * 100]))
        assert api.raw_batch(session_id(page), body).status == 204
    assert api.finish(session_id(page)).json["validationResult"] == "Success"
    front.release()
    finished(page)
    assert downloaded(page) == file.read_bytes()
