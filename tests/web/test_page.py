"""The page in a browser: upload, resume, gaps, keyboard, accessibility, and the module."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from local import in_process
from local.gateway import wsgi
from local.server import Server, with_files
from local.template import _Loader
from tests.api import Api, over_http, through_gateway
from tests.conftest import MotoStack
from tests.web.conftest import BATCH, PATIENCE_SECONDS, WEB, Front, Instead, Orders
from tests.web.steps import begin, choose, downloaded, finished, held, press, session_id, shoot

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).parents[2]


# --- An upload ---


def test_no_module_waits_for_another() -> None:
    modules, found = ["page.js"], set[str]()
    while modules:
        text = (WEB / modules.pop()).read_text()
        new = set(re.findall(r'^import .* from "\./(\w+\.js)"', text, re.MULTILINE)) - found
        found |= new
        modules += new
    page = (WEB / "index.html").read_text()
    assert found == set(re.findall(r'<link rel="modulepreload" href="(\w+\.js)">', page))


def test_a_reload_in_the_middle(page: Page, front: Front, local: MotoStack, orders: Orders) -> None:
    file = orders(20_000)
    begin(page, front, file, batch_size=250, sent=30)
    session = session_id(page)
    page.reload()
    front.release()
    before = front.batches
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(local.stored_keys(session)) < before:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    expect(page.get_by_role("heading", name="Unfinished uploads")).to_be_visible()
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("It is the same file.")
    press(page, "Resume the upload")
    finished(page)
    assert front.batches == 80, "each batch was sent once, before or after the reload"
    assert session_id(page) == session
    assert downloaded(page) == file.read_bytes()
    page.reload()
    expect(page.get_by_role("heading", name="Unfinished uploads")).to_be_hidden()


def test_every_fifth_request_is_lost(page: Page, front: Front, orders: Orders) -> None:
    file = orders(4_000)
    choose(page, file, batch_size=100)
    front.instead = lambda _, count: Instead(0) if count % 5 == 0 else None
    press(page, "Upload 4,000 records")
    finished(page)
    assert front.batches > 40
    assert downloaded(page) == file.read_bytes()


def test_a_busy_service_is_given_time(page: Page, front: Front, orders: Orders) -> None:
    file = orders(100)
    choose(page, file, batch_size=100)
    times: list[float] = []

    def instead(route: str, _count: int) -> Instead | None:
        if not BATCH.fullmatch(route):
            return None
        times.append(time.monotonic())
        busy = Instead(429, (("Retry-After", "2"),), {"message": "Too Many Requests"})
        return busy if len(times) == 1 else None

    front.instead = instead
    press(page, "Upload 100 records")
    finished(page)
    assert len(times) == 2
    assert times[1] - times[0] >= 2


def test_a_refused_request_is_not_retried(page: Page, front: Front, orders: Orders) -> None:
    choose(page, orders(100))
    refusal = Instead(401, (), {"message": "Unauthorized"})
    front.instead = lambda _route, _count: refusal
    press(page, "Upload 100 records")
    expect(page.get_by_role("alert")).to_contain_text("The service requires a valid token.")
    assert len(front.seen) == 1
    front.instead = lambda _route, _count: None
    press(page, "Try again")
    finished(page)


def test_pause_and_continue(page: Page, front: Front, orders: Orders) -> None:
    file = orders(6_000)
    begin(page, front, file, batch_size=100, sent=10)
    press(page, "Pause")
    front.release()
    expect(page.locator("[data-batch=sending] dd")).to_have_text("0")
    sent = front.batches
    time.sleep(1)
    assert front.batches == sent
    press(page, "Continue")
    finished(page)
    assert front.batches == 60
    assert downloaded(page) == file.read_bytes()


def test_a_batch_that_waits_in_a_pause_is_not_shown_as_sending(
    page: Page, front: Front, orders: Orders
) -> None:
    busy = Instead(503, (("Retry-After", "0"),), {"message": "Service Unavailable"})
    front.instead = lambda route, _: (
        busy if BATCH.fullmatch(route) and front.batches > 10 and not continued else None
    )
    continued = False
    begin(page, front, orders(6_000), batch_size=100, sent=10)
    press(page, "Pause")
    front.release()
    expect(page.locator("[data-batch=sending] dd")).to_have_text("0")
    continued = True
    press(page, "Continue")
    finished(page)


def test_the_gap_report(page: Page, front: Front, local: MotoStack, orders: Orders) -> None:
    file = orders(20_001)
    begin(page, front, file, batch_size=50, sent=10)
    press(page, "Pause")
    front.release()
    expect(page.locator("[data-batch=sending] dd")).to_have_text("0")
    # Another client stores batches.
    lines = file.read_bytes().splitlines()
    api = Api(through_gateway(local.gateway))
    lost = {57, *range(118, 123), 231, 232, 305, 400}
    for n in set(range(front.batches, 401)) - lost:
        data = b",".join(lines[n * 50 : (n + 1) * 50])
        body = b'{"seqNum":%d,"data":[%b]}' % (n, data)
        assert api.raw_batch(session_id(page), body).status == 204
    press(page, "Check for gaps")
    expect(page.get_by_role("row")).to_contain_text(
        [
            re.compile("Batches.*Records of the file.*Missing records"),
            re.compile("Batch 57.*2,851 . 2,900.*50"),
            re.compile("Batches 118 . 122.*5,901 . 6,150.*250"),
            re.compile("Batches 231 . 232.*11,551 . 11,650.*100"),
            re.compile("Batch 305.*15,251 . 15,300.*50"),
            re.compile("Batch 400.*20,001.*1"),
        ]
    )
    expect(page.get_by_role("img", name="391 stored, 10 missing")).to_be_visible()
    shoot(page, "gap-report")
    sent = front.batches
    press(page, "Send what is missing")
    finished(page)
    assert front.batches == sent + len(lost)
    assert downloaded(page) == file.read_bytes()


def test_a_conflict_is_shown(page: Page, front: Front, local: MotoStack, orders: Orders) -> None:
    begin(page, front, orders(2_000), batch_size=100, sent=3)
    api = Api(through_gateway(local.gateway))
    assert api.batch(session_id(page), 19, [{"id": "another"}] * 100).status == 204
    front.release()
    expect(page.get_by_role("alert")).to_contain_text("Other records are stored")
    expect(page.locator("[data-batch=conflict] dd")).to_have_text("1")
    expect(page.locator("[data-batch=stored] dd")).to_have_text("19")
    shoot(page, "conflict")
    press(page, "Start a new upload")
    press(page, "Upload 2,000 records")
    finished(page)


def test_abort(page: Page, front: Front, local: MotoStack, orders: Orders) -> None:
    begin(page, front, orders(2_000), batch_size=100, sent=3)
    session = session_id(page)
    press(page, "Abort")
    press(page, "Keep it")
    assert local.item(session)["state"] == "OPEN"
    press(page, "Abort")
    press(page, "Abort and delete")
    expect(page.locator("#badge")).to_have_text("Aborted")
    assert local.item(session)["state"] == "ABORTED"
    sent = front.batches
    front.release()
    time.sleep(0.5)
    assert front.batches == sent
    assert page.evaluate("Object.keys(localStorage).filter(key => key.includes('upload'))") == []


def test_an_unfinished_upload_is_discarded(
    page: Page, front: Front, local: MotoStack, orders: Orders
) -> None:
    begin(page, front, orders(2_000), batch_size=100, sent=3)
    session = session_id(page)
    page.reload()
    front.release()
    press(page, "Discard the upload of orders.ndjson")
    # The page does not wait for the response.
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        press(page, "Abort and delete")
    expect(page.get_by_role("heading", name="Unfinished uploads")).to_be_hidden()
    assert local.item(session)["state"] == "ABORTED"


def test_a_merge_that_outlasts_a_request(page: Page, front: Front, orders: Orders) -> None:
    choose(page, orders(100))
    is_shown = False

    def instead(route: str, _count: int) -> Instead | None:
        if is_shown:
            return None
        if route.endswith("/finish"):
            return Instead(202, (("Retry-After", "1"),), {"state": "FINISHING"})
        if route.startswith("GET"):
            return Instead(200, (), {"state": "FINISHING", "merge": {"parts": 8, "done": 3}})
        return None

    front.instead = instead
    press(page, "Upload 100 records")
    expect(page.locator("#badge")).to_have_text("Merging, 3 of 8 parts")
    is_shown = True
    finished(page)


def test_a_merge_that_fails(page: Page, front: Front, orders: Orders) -> None:
    choose(page, orders(100))
    failed = {"validationResult": "Failed", "reason": "merge_failed", "detail": "Finish again."}
    front.instead = lambda route, _: Instead(200, (), failed) if "/finish" in route else None
    press(page, "Upload 100 records")
    expect(page.get_by_role("alert")).to_contain_text("The merge failed.")
    front.instead = lambda _route, _count: None
    press(page, "Finish again")
    finished(page)


def test_another_file_of_the_same_name_and_size(page: Page, front: Front, orders: Orders) -> None:
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=3)
    page.reload()
    front.release()
    file.write_text(file.read_text().replace("Zoe", "Eve").replace(" 7", " 8"))
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("This is a different file.")
    press(page, "Start a new upload")
    press(page, "Upload 2,000 records")
    finished(page)
    assert downloaded(page) == file.read_bytes()


# --- Files ---


def test_a_malformed_record_is_reported_before_anything_is_sent(
    page: Page, front: Front, tmp_path: Path
) -> None:
    """All other kinds of file, valid or not, are in ``tests/readings``."""
    file = tmp_path / "orders.ndjson"
    file.write_text('{"id": 1}\n\n{"id": 2}\r\n{"id": 3\n{"id": 4}\n', newline="")
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("Line 4")
    expect(page.get_by_role("button", name="Choose another file")).to_be_visible()
    assert front.seen == []


@pytest.mark.parametrize(
    ("content", "merged"),
    [
        (
            b' [\n {"a": "x, ]}\\"\\\\",\n "b": [1, 2]} , 1.0,"\\n"\n ]\n',
            b'{"a":"x, ]}\\"\\\\","b":[1,2]}\n1.0\n"\\n"\n',
        ),
        (b"[]", b""),
    ],
    ids=["some", "none"],
)
def test_records_of_an_array(page: Page, tmp_path: Path, content: bytes, merged: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    choose(page, file, batch_size=1)
    press(page, "Upload")
    finished(page)
    assert downloaded(page) == merged


def test_records_larger_than_a_piece(page: Page, tmp_path: Path) -> None:
    records = [{"n": n, "text": "Zoë" * size} for n, size in enumerate([1, 900_000, 2, 300_000, 5])]
    lines = b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
    file = tmp_path / "large.json"
    file.write_bytes(b"[" + lines.rstrip().replace(b"\n", b",\n") + b"]")
    choose(page, file)
    press(page, "Upload 5 records")
    finished(page)
    assert downloaded(page) == lines


def test_ten_thousand_batches_are_drawn(page: Page, orders: Orders) -> None:
    choose(page, orders(10_000), batch_size=1)
    expect(page.get_by_role("img", name="Map of 10,000 batches: 10,000 waiting")).to_be_visible()
    box = page.locator("canvas").bounding_box()
    assert box
    assert 150 < box["height"] <= 300
    shoot(page, "10000-batches")


# --- Tokens and origins ---


def test_the_token_is_sent_and_not_stored(page: Page, front: Front, orders: Orders) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Bearer token").fill("header.claims.signature")
    page.get_by_text("Settings").click()
    choose(page, orders(300), batch_size=100)
    press(page, "Upload 300 records")
    finished(page)
    assert {seen.authorization for seen in front.seen} == {"Bearer header.claims.signature"}
    assert "signature" not in page.evaluate("JSON.stringify(localStorage)")
    page.reload()
    expect(page.get_by_label("Bearer token")).to_have_value("header.claims.signature")


def with_cors(app: "WSGIApplication") -> "WSGIApplication":
    """CORS as API Gateway does it, configured from the template."""
    document = yaml.load(in_process.TEMPLATE.read_text(), _Loader)  # noqa: S506 - a SafeLoader
    cors = document["Resources"]["Api"]["Properties"]["CorsConfiguration"]["Fn::If"][1]

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        origin = [("Access-Control-Allow-Origin", environ["HTTP_ORIGIN"])]
        if environ["REQUEST_METHOD"] == "OPTIONS":
            preflight = [
                ("Access-Control-Allow-Headers", ",".join(cors["AllowHeaders"])),
                ("Access-Control-Allow-Methods", ",".join(cors["AllowMethods"])),
            ]
            start_response("204 No Content", origin + preflight)
            return []
        exposed = ("Access-Control-Expose-Headers", ",".join(cors["ExposeHeaders"]))

        def start(status: str, headers: list[tuple[str, str]]) -> object:
            return start_response(status, [*headers, *origin, exposed])

        return app(environ, start)  # type: ignore[arg-type]

    return answer


def test_hosted_on_another_origin(page: Page, local: MotoStack, orders: Orders) -> None:
    with Server(with_cors(wsgi(local.gateway))) as api:
        page.get_by_text("Settings").click()
        page.get_by_label("API address").fill(f"{api.url}/")
        page.get_by_label("Bearer token").fill("token")
        page.get_by_text("Settings").click()
        file = orders(1_000)
        choose(page, file, batch_size=100)
        press(page, "Upload 1,000 records")
        finished(page)
        assert downloaded(page) == file.read_bytes()


# --- Accessibility ---


def test_keyboard_only(page: Page, front: Front, orders: Orders) -> None:
    file = orders(2_000)
    # Listen early: the dialog may open before a later listener is added.
    page.on("filechooser", lambda chooser: chooser.set_files(file))
    page.keyboard.press("Tab")
    expect(page.get_by_text("Settings")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.type("100")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Store the merged file as")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Store the merged file as")).to_have_value("ndjson.gz")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Settings")).to_be_focused()
    expect(page.get_by_label("Bearer token")).to_be_hidden()
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Upload 2,000 records")).to_be_visible()
    expect(page.get_by_role("heading", name="orders.ndjson")).to_be_focused()
    front.hold_after(5)
    page.keyboard.press("Tab")
    expect(page.locator("#primary")).to_be_focused()
    page.keyboard.press("Enter")
    held(front, 5)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Continue")).to_be_focused()
    front.release()
    page.keyboard.press("Enter")
    finished(page)
    expect(page.get_by_role("heading", name="All records are stored.")).to_be_focused()
    page.keyboard.press("Tab")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.path().read_bytes() == file.read_bytes()


Look = Callable[[str], None]


@pytest.fixture(params=["light-1120", "dark-1120", "light-390", "dark-390"])
def looked_at(
    browser: Browser, url: str, request: pytest.FixtureRequest
) -> Iterator[tuple[Page, Look]]:
    """The page, and a function that takes a screenshot and runs axe-core."""
    scheme, width = request.param.split("-")
    page = browser.new_page(
        base_url=url,
        viewport={"width": int(width), "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )

    def look(name: str) -> None:
        shoot(page, f"{name}-{request.param}")
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()
        across = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert across <= 0, "no horizontal overflow"

    page.goto("/")
    yield page, look
    page.close()


def test_every_state_is_accessible(
    looked_at: tuple[Page, Look], front: Front, orders: Orders
) -> None:
    page, look = looked_at
    look("empty")
    page.get_by_text("Settings").click()
    page.get_by_label("Store the merged file as").select_option("ndjson.gz")
    look("settings")
    page.get_by_text("Settings").click()
    file = orders(20_000)
    choose(page, file, batch_size=100)
    look("ready")
    front.hold_after(120)
    press(page, "Upload 20,000 records")
    held(front, 120)
    look("sending")
    press(page, "Abort")
    look("confirm")
    press(page, "Keep it")
    press(page, "Pause")
    look("paused")
    front.release()
    press(page, "Check for gaps")
    expect(page.get_by_role("heading", name="Gap report")).to_be_visible()
    look("incomplete")
    page.reload()
    look("unfinished")
    choose(page, file)
    expect(page.get_by_role("alert")).to_contain_text("are stored.")
    look("resumed")
    press(page, "Resume the upload")
    finished(page)
    look("finished")


def test_every_trouble_is_accessible(
    looked_at: tuple[Page, Look], front: Front, orders: Orders
) -> None:
    page, look = looked_at
    file = orders(2_000)
    choose(page, file, batch_size=100)
    page.context.set_offline(True)
    press(page, "Upload 2,000 records")
    expect(page.get_by_role("alert")).to_contain_text("You are offline.")
    look("offline")
    merging = Instead(202, (("Retry-After", "1"),), {"state": "FINISHING"})
    front.instead = lambda route, _: merging if route.endswith("/finish") else None
    page.context.set_offline(False)
    expect(page.get_by_role("alert")).to_contain_text("All records are sent.")
    look("merging")
    front.instead = lambda _route, _count: None
    finished(page)
    page.goto("/")
    bad = file.with_name("bad.ndjson")
    bad.write_text('{"id": 1}\n{"id": 2\n')
    choose(page, bad)
    look("failed")
    tables = [file.with_name(name) for name in ("a.csv", "b.tsv")]
    for table in tables:
        table.write_text("id\tname\n1\t2\n")
    page.locator("#file").set_input_files(tables)
    expect(page.get_by_role("heading", name="0 of 3 files complete, 2 stopped")).to_be_visible()
    look("queue")
    press(page, "Upload the other 1 file")
    expect(page.get_by_role("heading", name="1 of 3 files complete, 2 stopped")).to_be_visible()
    look("queue-done")


# --- The module without the page ---


def test_the_example_of_the_module(page: Page, orders: Orders) -> None:
    document = (ROOT / "docs" / "web.md").read_text()
    example = re.findall(r"^```js\n(.*?)^```", document, re.MULTILINE | re.DOTALL)[0]
    # A script that a test evaluates can only import dynamically.
    body = re.sub(r'^import (\{.*\}) from "(.*)";', r'const \1 = await import("\2");', example)
    # The replaced page no longer waits for a response.
    page.wait_for_load_state("networkidle")
    page.set_content('<input type="file"><output></output><a>Download</a>')
    file = orders(300)
    page.locator("input").set_input_files(file)
    page.evaluate(f"async () => {{ {body} }}")
    expect(page.locator("a")).to_have_attribute("href", re.compile("^http"))
    expect(page.locator("output")).to_contain_text("300")
    assert downloaded(page) == file.read_bytes()


# --- The local server ---


def test_the_files_are_served(local: MotoStack) -> None:
    with Server(with_files(wsgi(local.gateway), WEB)) as server:
        send = over_http(server.url)
        for path, media_type in [
            ("/", "text/html"),
            ("/style.css", "text/css"),
            ("/gapless.js?v=1", "text/javascript"),
        ]:
            headers = send("GET", path, b"", {}).headers
            assert headers["content-type"] == f"{media_type}; charset=utf-8"
            assert headers["cache-control"] == "no-cache"
        assert send("HEAD", "/page.js", b"", {}).status == 200
        for method, path in [
            ("GET", "/../README.md"),
            ("GET", "/%2e%2e/README.md"),
            ("GET", "/../web/index.html"),
            ("GET", "/nothing"),
            ("GET", "/package.json"),
            ("GET", "/README.md"),
            ("GET", "/node_modules/typescript/package.json"),
            ("GET", "/api"),
            ("POST", "/"),
        ]:
            answer = send(method, path, b"", {})
            assert (answer.status, answer.json) == (404, {"message": "Not Found"}), path
