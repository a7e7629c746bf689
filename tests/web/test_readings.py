"""The page reads every input of the table as the command does, and ships its parsers unchanged."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser

from local.server import Server, with_files
from tests.web.conftest import WEB

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TABLE = Path(__file__).parents[1] / "readings" / "cases.json"

# A record that cannot be read ends the check of the page: it leaves out none.
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads(TABLE.read_text())
    if "skip_invalid" not in case.get("options", {})
}

READ = """async (cases) => {
  const { Records, ReadingError, oneLine } = await import("/readers.js");
  const text = (record) => new TextDecoder().decode(oneLine(record));
  const read = async ({ file, base64, options }) => {
    const bytes = Uint8Array.from(atob(base64), (byte) => byte.charCodeAt(0));
    try {
      const found = await Records.of(new File([bytes], file), options);
      const records = [];
      const places = [];
      await found.each(
        (record, place) => { records.push(text(record)); places.push(place); }, () => {});
      places.push(found.end);
      const again = [];
      const step = Math.ceil(Math.max(3, records.length / 20));
      for (let n = 0; n < records.length; n += step) {
        const end = places[Math.min(n + step, records.length)];
        await found.eachBetween(places[n], end, (record) => again.push(text(record)));
      }
      return { records, again, blank: found.blank, reading: found.reading };
    } catch (error) {
      if (!(error instanceof ReadingError)) throw error;
      return { refused: error.code, line: error.line, message: error.message };
    }
  };
  const all = {};
  for (const one of cases) all[one.name] = await read(one);
  return all;
}"""


def content(case: dict[str, Any]) -> bytes:
    parts = case["bytes"]
    text = parts if isinstance(parts, str) else "".join(part * times for part, times in parts)
    return text.encode("latin-1")


def nothing(_environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    start_response("404 Not Found", [])
    return []


@pytest.fixture(scope="module")
def readings(browser: Browser) -> Iterator[dict[str, dict[str, Any]]]:
    """What the page makes of every case, read in one go."""
    with Server(with_files(nothing, WEB)) as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/")
        cases = [
            {
                "name": name,
                "file": case["file"],
                "options": case.get("options", {}),
                "base64": base64.b64encode(content(case)).decode(),
            }
            for name, case in CASES.items()
        ]
        yield page.evaluate(READ, cases)
        page.close()


@pytest.mark.parametrize("name", CASES)
def test_a_reading(readings: dict[str, dict[str, Any]], name: str) -> None:
    case, found = CASES[name], readings[name]
    assert found.get("refused") == case.get("refused"), found
    if "refused" in case:
        assert found["message"]
        if "line" in case:
            assert found["line"] == case["line"], found
        return
    if "records" in case:
        assert found["records"] == case["records"]
    if "count" in case:
        assert len(found["records"]) == case["count"]
    assert found["again"] == found["records"], "the same from the place of each record"
    assert found["blank"] == case.get("blank", found["blank"])
    for part, value in case.get("reading", {}).items():
        # Python writes "utf-16-le" where browsers write "utf-16le".
        seen = found["reading"][part]
        assert str(seen).replace("-", "") == str(value).replace("-", ""), part


@pytest.mark.parametrize("name", ["papaparse.js", "pako.js"])
def test_a_parser_is_the_one_of_its_package(name: str) -> None:
    text = (WEB / name).read_text()
    marks = r"// Unchanged from here.*?SHA-256 (\w{64})\n(.*\n)// Unchanged up to here\.\n"
    found = re.search(marks, text, re.DOTALL)
    assert found
    body = found[2].removesuffix("\n")
    assert hashlib.sha256(body.encode()).hexdigest() == found[1]
    assert "Permission is hereby granted" in text[: found.start()], "its licence goes with it"
    assert found[1] in (WEB.parent / "docs" / "web.md").read_text()
