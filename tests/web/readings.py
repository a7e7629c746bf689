"""The cases of ``tests/readings``, for ``readers.js`` in any JavaScript engine."""

import base64
import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "readings" / "cases.json"

# The page skips no invalid record.
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads(TABLE.read_text())
    if "skip_invalid" not in case.get("options", {})
}

READ = """async ([url, cases]) => {
  const { Records, ReadingError, oneLine } = await import(url);
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
"""Reads ``cases`` with the module at ``url``. Returns the records of each, or its error."""


def content(case: dict[str, Any]) -> bytes:
    """The bytes of a case's file."""
    parts = case["bytes"]
    text = parts if isinstance(parts, str) else "".join(part * times for part, times in parts)
    return text.encode("latin-1")


def inputs() -> list[dict[str, Any]]:
    """The cases, as the argument of ``READ``."""
    return [
        {
            "name": name,
            "file": case["file"],
            "options": case.get("options", {}),
            "base64": base64.b64encode(content(case)).decode(),
        }
        for name, case in CASES.items()
    ]


def check(name: str, found: dict[str, Any]) -> None:
    """Assert that a case was read as the table says."""
    case = CASES[name]
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
        # Python writes "utf-16-le" where JavaScript writes "utf-16le".
        seen = found["reading"][part]
        assert str(seen).replace("-", "") == str(value).replace("-", ""), part
