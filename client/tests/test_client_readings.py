"""The table of readings (tests/readings): the same bytes are the same records, or are refused.

The page's reader is tested by the same table.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gapless import reading, records
from gapless.errors import InputError, InvalidRecordError

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "tests/readings/cases.json").read_text()
)
Piece = Sequence[Any]


def content(case: dict[str, Any]) -> bytes:
    """The bytes of the file: each character is one; [[part, times], …] where they are many."""
    found = case["bytes"]
    pieces: list[Piece] = [(found, 1)] if isinstance(found, str) else found
    return b"".join(part.encode("latin-1") * times for part, times in pieces)


def read(case: dict[str, Any]) -> tuple[list[bytes], records.Reader, int]:
    """The lines, the reader after the last of them, and how many records were left out."""
    options = dict(case.get("options", {}))
    skipped: list[bytes] = []
    more: dict[str, Any] = {}
    if options.pop("skip_invalid", False):
        more["on_invalid"] = lambda _, record: skipped.append(record)
    file: Any = io.BufferedReader(io.BytesIO(content(case)))
    reader = records.Reader(file, case["file"], reading.read_options(**options), **more)
    lines = b"".join(chunk.lines for chunk in reader).split(b"\n")[:-1]
    return lines, reader, len(skipped)


def test_the_table_is_well_made() -> None:
    names = [case["name"] for case in CASES]
    assert len(names) == len(set(names)) >= 80
    for case in CASES:
        assert ("refused" in case) + ("records" in case) + ("count" in case) == 1, case["name"]
        content(case)


@pytest.mark.parametrize("size", [records.CHUNK, 70_001])
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_reading(case: dict[str, Any], size: int) -> None:
    with patch.object(records, "CHUNK", size):
        if "refused" in case:
            with pytest.raises(InputError) as raised:
                read(case)
            assert raised.value.code == case["refused"], raised.value
            if "line" in case:
                assert isinstance(raised.value, InvalidRecordError)
                assert raised.value.line == case["line"]
            return
        lines, reader, skipped = read(case)
    if "records" in case:
        assert [line.decode() for line in lines] == case["records"]
    assert len(lines) == case.get("count", len(lines))
    assert (skipped, reader.blank) == (case.get("skipped", 0), case.get("blank", reader.blank))
    assert reader.reading is not None
    for name, value in case.get("reading", {}).items():
        assert getattr(reader.reading, name) == value


def test_every_code_is_documented() -> None:
    folder = Path(reading.__file__).parent
    sources = "".join((folder / name).read_text() for name in ("reading.py", "records.py"))
    page = (Path(__file__).parents[2] / "docs/client.md").read_text()
    table = page[page.index("| code | |") :]
    codes = {case["refused"] for case in CASES if "refused" in case}
    assert len(codes) > 10
    for code in codes:
        assert f'"{code}"' in sources
        assert f"`{code}`" in table
