"""My sessions, on a service that authenticates its callers."""

import re
from collections.abc import Iterator

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, Route, expect

from tests import known_callers
from tests.web.conftest import Orders
from tests.web.steps import choose, finished, press, shoot

SESSIONS = "/api/upload/sessions"


@pytest.fixture(scope="module")
def known() -> Iterator[str]:
    """A service that identifies callers by their token."""
    with known_callers.running() as url:
        yield url


@pytest.fixture
def url(known: str) -> str:
    return known


def api(known: str, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=known, headers=headers, timeout=300)


def created(client: httpx.Client, **asked: object) -> str:
    response = client.post(SESSIONS, json=asked)
    assert response.status_code == 201
    return str(response.json()["sessionId"])


def identify(page: Page, token: str) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Bearer token").fill(token)
    page.get_by_label("Bearer token").blur()
    page.get_by_text("Settings").click()


def test_my_sessions_are_listed_and_resumed(page: Page, known: str, orders: Orders) -> None:
    file = orders(4)
    with api(known, "zoe") as zoe, api(known, "somebody-else") as other:
        created(other, totalRecord=1, metadata={"name": "not-mine"})
        done = created(zoe, totalRecord=1, metadata={"name": "done.ndjson", "partner": "acme"})
        assert zoe.put(f"{SESSIONS}/{done}/batches/0", content=b"1\n").status_code == 204
        assert zoe.post(f"{SESSIONS}/{done}/finish").json()["validationResult"] == "Success"
        created(zoe, totalRecord=4, batchSize=3, metadata={"name": "begun elsewhere"})
        for n in range(50):
            created(zoe, totalRecord=n, metadata={"name": f"small {n}"})
    region = page.get_by_role("region", name="My sessions")
    rows = region.get_by_role("listitem")
    identify(page, "nobody-yet")
    expect(region).to_contain_text("No sessions yet.")
    identify(page, "zoe")
    expect(rows).to_have_count(50)
    assert Axe().run(page).violations_count == 0
    press(page, "More")
    expect(rows).to_have_count(52)
    expect(page.get_by_role("button", name="More")).to_be_hidden()
    expect(region).not_to_contain_text("not-mine")

    row = rows.filter(has_text="done.ndjson")
    expect(row).to_contain_text("Complete · 1 record")
    expect(row).to_contain_text("partner: acme")
    shoot(page, "sessions")
    with page.expect_download() as download:
        row.get_by_role("button", name="Download").click()
    assert download.value.path().read_bytes() == b"1\n"
    row.get_by_role("button", name="Delete").click()
    press(page, "Keep it")
    expect(row).to_contain_text("Complete")
    row.get_by_role("button", name="Delete").click()
    press(page, "Delete permanently")
    expect(row).to_contain_text("File deleted · 1 record")
    expect(row.get_by_role("button")).to_have_count(0)

    row = rows.filter(has_text="small 49")
    row.get_by_role("button", name="Abort").click()
    press(page, "Abort and delete")
    expect(row).to_contain_text("Aborted · 49 records")
    expect(row.locator("strong")).to_be_focused()

    row = rows.filter(has_text="begun elsewhere")
    with page.expect_file_chooser() as chooser:
        row.get_by_role("button", name="Choose the file").click()
    chooser.value.set_files(file)
    press(page, "Resume the upload")
    finished(page)
    press(page, "Choose another file")
    expect(rows.filter(has_text="begun elsewhere")).to_contain_text("Complete")


def test_an_error_is_shown_in_the_row_of_its_session(page: Page, known: str) -> None:
    with api(known, "max") as max_:
        session = created(max_, totalRecord=1, metadata={"name": "mine"})
        identify(page, "max")
        row = page.get_by_role("region", name="My sessions").get_by_role("listitem")
        # It is listed as open before it is finished.
        expect(row.get_by_role("button", name="Abort")).to_be_visible()
        max_.put(f"{SESSIONS}/{session}/batches/0", content=b"1\n")
        max_.post(f"{SESSIONS}/{session}/finish")
    row.get_by_role("button", name="Abort").click()
    press(page, "Abort and delete")
    expect(row.get_by_role("alert")).to_contain_text("finished")


def test_a_session_whose_answer_is_lost_is_reused(page: Page, known: str, orders: Orders) -> None:
    """Lost with the tab: choosing the same file again gets the same session."""
    file = orders(10)
    keys: list[str] = []

    def lose(route: Route) -> None:
        if route.request.method != "POST":
            return route.continue_()
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()
            return route.abort()
        return None  # never answered: the tab is closed

    identify(page, "eve")
    page.route(f"**{SESSIONS}", lose)
    choose(page, file)
    press(page, "Upload 10 records")
    expect(page.get_by_role("alert")).to_contain_text("Retrying.")
    # Only then: the page would get an answer to its retry, and resume.
    page.reload()
    page.unroute(f"**{SESSIONS}")
    with page.expect_request(
        lambda one: one.method == "POST" and one.url.endswith("/sessions")
    ) as sent:
        choose(page, file)
        press(page, "Upload 10 records")
    keys.append(sent.value.headers["idempotency-key"])
    finished(page)
    assert len(set(keys)) == 1
    assert re.fullmatch("[0-9a-f]{32}", keys[0])
    with api(known, "eve") as eve:
        assert len(eve.get(SESSIONS).json()["sessions"]) == 1


def test_without_authentication_nothing_is_shown(browser: Browser, known: str) -> None:
    page = browser.new_page(base_url=known)
    page.route(
        f"**{SESSIONS}",
        lambda route: route.fulfill(
            status=403, json={"code": "no_list", "detail": "There is no list."}
        ),
    )
    with page.expect_response(f"**{SESSIONS}"):
        page.goto("/")
    expect(page.get_by_text("Drop files here")).to_be_visible()
    expect(page.get_by_text("My sessions")).to_be_hidden()
    expect(page.get_by_text("There is no list.")).to_be_hidden()
    page.close()
