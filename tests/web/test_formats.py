"""What the page sends, and the formats of the merged object."""

import base64
import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.api import Api, through_gateway
from tests.conftest import MotoStack
from tests.web.conftest import BATCH, Front, Instead, Orders
from tests.web.steps import begin, choose, downloaded, finished, held, press, session_id, shoot

GZ = "ndjson.gz"
IN_GZIP = "NDJSON in gzip (.ndjson.gz)"


def keep_as(page: Page, option: str) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Store the merged file as").select_option(option)
    page.get_by_text("Settings").click()


def crc32(content: bytes) -> str:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


# --- Batches ---


def test_batches_are_put_as_ndjson(page: Page, front: Front, orders: Orders) -> None:
    choose(page, orders(1_000), batch_size=100)
    press(page, "Upload 1,000 records")
    finished(page)
    session = session_id(page)
    sent = [seen for seen in front.seen if seen.route.partition(" ")[0] not in {"GET", "POST"}]
    routes = {f"PUT /api/upload/sessions/{session}/batches/{n}" for n in range(10)}
    assert {seen.route for seen in sent} == routes
    assert {(seen.media_type, seen.encoding) for seen in sent} == {("application/x-ndjson", "gzip")}
    assert all(re.fullmatch(r"sha-256=:[A-Za-z0-9+/]{43}=:", seen.digest) for seen in sent)


def test_without_compression(page: Page, front: Front, orders: Orders) -> None:
    page.add_init_script("delete globalThis.CompressionStream")
    page.reload()
    file = orders(300)
    choose(page, file, batch_size=100)
    press(page, "Upload 300 records")
    finished(page)
    sent = [seen for seen in front.seen if BATCH.fullmatch(seen.route)]
    assert {(seen.media_type, seen.encoding) for seen in sent} == {("application/x-ndjson", "")}
    assert downloaded(page) == file.read_bytes()


def test_a_record_over_lines_is_the_same_batch_by_post(
    page: Page, front: Front, local: MotoStack, tmp_path: Path
) -> None:
    """The module joins its lines exactly as the service does."""
    records = [
        b'{"a" : "x, ]}\\"\\\\ \\n",\r\n\t"b": [1 ,\n2.50, -0, 1E400, 12345678901234567890 ] }',
        b'{"as" : "it is", "a": 1, "a": [ ]}',
        b"[\n]",
        '{\r"é\u2028": "\\u00e9\\/ "}'.encode(),
        b'"  "',
    ]
    file = tmp_path / "spread.json"
    file.write_bytes(b"[" + b",".join(records) + b"]")
    choose(page, file, batch_size=1)
    front.instead = lambda route, _: Instead(503) if route.endswith("/batches/4") else None
    press(page, "Upload 5 records")
    expect(page.get_by_role("alert")).to_contain_text("Retrying.")
    expect(page.locator("[data-batch=stored] dd")).to_have_text("4")
    api = Api(through_gateway(local.gateway))
    for n, record in enumerate(records):
        body = b'{"seqNum":%d,"data":[%b]}' % (n, record)
        assert api.raw_batch(session_id(page), body).status == 204
    front.instead = lambda _route, _count: None
    finished(page)


# --- Formats ---


def test_a_merged_file_in_gzip(page: Page, front: Front, local: MotoStack, orders: Orders) -> None:
    file = orders(2_000)
    content = file.read_bytes()
    choose(page, file, batch_size=100)
    # The setting also applies to a checked file if nothing of it was sent.
    keep_as(page, IN_GZIP)
    expect(page.locator("#about")).to_contain_text("merged as .ndjson.gz")
    with page.expect_request(re.compile(r"/api/upload/sessions$")) as opened:
        press(page, "Upload 2,000 records")
    assert json.loads(opened.value.post_data or "")["format"] == GZ
    finished(page)
    stored = local.merged(session_id(page), GZ)
    assert gzip.decompress(stored) == content
    assert len(stored) < len(content) / 2
    expect(page.locator("#done-about")).to_have_text(
        f"2,000 records, {kilobytes(content)}. The checksum {crc32(content)} matches what was"
        " read from your file (NDJSON). Stored as a gzip file of"
        f" {kilobytes(stored)}, checksum {crc32(stored)}."
    )
    shoot(page, "finished-gzip")
    assert downloaded(page) == content, "the browser decompresses it"
    assert front.batches == 20


def kilobytes(content: bytes) -> str:
    return f"{float(f'{len(content) / 1_000:.3g}'):g} kB"


def test_the_download_in_gzip_is_named_by_its_content(page: Page, orders: Orders) -> None:
    keep_as(page, IN_GZIP)
    choose(page, orders(100))
    press(page, "Upload 100 records")
    finished(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.endswith(".ndjson")
    expect(page.get_by_role("link", name="Download")).to_have_attribute("download", "orders.ndjson")


def test_the_setting_applies_to_every_waiting_file(
    page: Page, front: Front, local: MotoStack, tmp_path: Path
) -> None:
    """And to no file of which something was sent."""
    files = [tmp_path / f"{n}.ndjson" for n in range(3)]
    for n, file in enumerate(files):
        file.write_text(f'{{"n": {n}}}\n')
    page.locator("#file").set_input_files(files)
    front.hold_after(0)
    press(page, "Upload 3 files")
    held(front, 0)
    keep_as(page, IN_GZIP)
    front.release()
    expect(page.get_by_role("heading", name="3 of 3 files complete")).to_be_visible()
    ends = [seen.route for seen in front.seen if seen.route.endswith("/finish")]
    first, *others = [route.split("/")[-2] for route in ends]
    assert local.merged(first) == files[0].read_bytes()
    found = [gzip.decompress(local.merged(session, GZ)) for session in others]
    assert found == [file.read_bytes() for file in files[1:]]


def test_an_upload_keeps_its_format(
    page: Page, front: Front, local: MotoStack, orders: Orders
) -> None:
    """Whatever the setting is on resume. The setting is stored, too, for later files."""
    file = orders(2_000)
    keep_as(page, IN_GZIP)
    begin(page, front, file, batch_size=100, sent=5)
    session = session_id(page)
    page.reload()
    front.release()
    expect(page.get_by_label("Store the merged file as")).to_have_value(GZ)
    keep_as(page, "NDJSON")
    choose(page, file)
    expect(page.locator("#about")).to_contain_text("merged as .ndjson.gz")
    press(page, "Resume the upload")
    finished(page)
    assert session_id(page) == session
    assert gzip.decompress(local.merged(session, GZ)) == file.read_bytes()
    assert downloaded(page) == file.read_bytes()
    page.reload()
    expect(page.get_by_label("Store the merged file as")).to_have_value("ndjson")


def test_a_saved_upload_without_a_format(
    page: Page, front: Front, local: MotoStack, orders: Orders
) -> None:
    """As an earlier release saved it."""
    file = orders(2_000)
    begin(page, front, file, batch_size=100, sent=5)
    session = session_id(page)
    page.reload()
    front.release()
    page.evaluate(
        """(key) => {
          const { format, ...saved } = JSON.parse(localStorage.getItem(key));
          localStorage.setItem(key, JSON.stringify(saved));
        }""",
        f"gapless.upload.{session}",
    )
    keep_as(page, IN_GZIP)
    choose(page, file)
    expect(page.locator("#about")).not_to_contain_text("gz")
    press(page, "Resume the upload")
    finished(page)
    assert local.merged(session) == file.read_bytes()


@pytest.mark.parametrize("wrong", ["bytes", "checksum"])
@pytest.mark.parametrize("option", ["NDJSON", IN_GZIP])
def test_a_merged_file_that_differs(
    page: Page, front: Front, orders: Orders, option: str, wrong: str
) -> None:
    file = orders(100)
    content = file.read_bytes()
    right: dict[str, Any] = {
        "bytes": len(content),
        "checksum": {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc32(content)},
    }
    other = {"bytes": len(content) + 1, "checksum": {**right["checksum"], "value": crc32(b"")}}
    told = {**right, wrong: other[wrong]}
    whole = told if option == "NDJSON" else {**right, "content": told}
    answer = {"validationResult": "Success", **whole}
    keep_as(page, option)
    choose(page, file)
    front.instead = lambda route, _: Instead(200, (), answer) if "/finish" in route else None
    press(page, "Upload 100 records")
    expect(page.get_by_role("alert")).to_contain_text("differs from the file that was sent.")
    expect(page.get_by_role("link", name="Download")).to_be_hidden()


def test_the_format_of_the_module(page: Page, local: MotoStack, orders: Orders) -> None:
    # The replaced page no longer waits for a response.
    page.wait_for_load_state("networkidle")
    page.set_content('<input type="file">')
    file = orders(1_000)
    page.locator("input").set_input_files(file)
    found = page.evaluate(
        """async () => {
          const { Upload } = await import("/gapless.js");
          const file = document.querySelector("input").files[0];
          let refused;
          try { new Upload(file, { format: "gzip" }); } catch (error) { refused = error.code; }
          const upload = new Upload(file, { format: "ndjson.gz", batchSize: 100 });
          await upload.start();
          const { verified, content } = await upload.finish();
          const text = await (await fetch((await upload.link()).url)).text();
          const { format, saved, sessionId: id } = upload;
          return { refused, verified, content, text, format, kept: saved.format, id };
        }"""
    )
    content = file.read_bytes()
    assert found["refused"] == "option"
    assert (found["verified"], found["format"], found["kept"]) == (True, GZ, GZ)
    assert found["content"]["bytes"] == len(content)
    assert found["text"].encode() == content, "the browser decompresses it"
    assert gzip.decompress(local.merged(found["id"], GZ)) == content
