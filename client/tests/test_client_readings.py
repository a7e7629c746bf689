"""The table of readings (tests/readings): how the client reads inputs, or why it refuses them.

The web page is tested with the same table.
"""

import io
import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from front import gapless_command
from gapless import formats, inputs, readers, uploads
from gapless.errors import InputError, InvalidRecordError, RecordTooLargeError
from gapless.models import Limits

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "tests/readings/cases.json").read_text()
)
Piece = Sequence[Any]


def content(case: dict[str, Any]) -> bytes:
    """The bytes of the file: one per character; a list is [[part, times], …]."""
    found = case["bytes"]
    pieces: list[Piece] = [(found, 1)] if isinstance(found, str) else found
    return b"".join(part.encode("latin-1") * times for part, times in pieces)


def read(case: dict[str, Any]) -> tuple[list[bytes], readers.Reader, int]:
    """The lines, the reader at the end, and the number of records left out."""
    options = dict(case.get("options", {}))
    skipped: list[bytes] = []
    more: dict[str, Any] = {}
    if options.pop("skip_invalid", False):
        more["on_invalid"] = lambda _, record: skipped.append(record)
    file: Any = io.BufferedReader(io.BytesIO(content(case)))
    reader = readers.Reader(file, case["file"], formats.read_options(**options), **more)
    lines = b"".join(chunk.lines for chunk in reader).split(b"\n")[:-1]
    return lines, reader, len(skipped)


def test_the_table_is_well_formed() -> None:
    names = [case["name"] for case in CASES]
    assert len(names) == len(set(names)) >= 80
    for case in CASES:
        assert ("refused" in case) + ("records" in case) + ("count" in case) == 1, case["name"]
        content(case)


@pytest.mark.parametrize("size", [readers.CHUNK, 70_001])
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_reading(case: dict[str, Any], size: int) -> None:
    with patch.object(readers, "CHUNK", size):
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
    folder = Path(formats.__file__).parent
    sources = "".join((folder / name).read_text() for name in ("formats.py", "readers.py"))
    page = (Path(__file__).parents[2] / "docs/client.md").read_text()
    table = page[page.index("| code | |") :]
    codes = {case["refused"] for case in CASES if "refused" in case}
    assert len(codes) > 10
    for code in codes:
        assert f'"{code}"' in sources
        assert f"`{code}`" in table


def run(*arguments: str, stdin: bytes | None = None, expect: int = 0) -> str:
    """What the command prints; there is no service."""
    environ = os.environ | {"GAPLESS_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        gapless_command(*arguments),
        check=False,
        input=stdin,
        capture_output=True,
        env=environ,
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == expect, said
    return said


def test_inspect_shows_the_reading_and_sends_nothing() -> None:
    Path("europe.csv").write_text("id;name\n\n1;Anna\n2\n2;Bob\n")
    said = run("inspect", "europe.csv", "--skip-invalid")
    assert said.splitlines() == [
        "europe.csv: CSV, delimiter a semicolon",
        '{"id":"1","name":"Anna"}',
        '{"id":"2","name":"Bob"}',
        "2 records, 49 bytes as NDJSON, 1 malformed record left out, 1 blank line left out",
    ]
    assert [path.name for path in Path.cwd().iterdir()] == ["europe.csv"]
    facts = json.loads(run("inspect", "-", "--json", stdin=b"1\n" * 9))
    assert (facts["records"], facts["format"], len(facts["first"])) == (9, "ndjson", 5)


@pytest.mark.parametrize("options", [(), ("--format", "ndjson"), ("--format", "csv")])
@pytest.mark.parametrize("command", ["upload", "inspect"])
def test_an_empty_pipe_is_an_error(command: str, options: tuple[str, ...]) -> None:
    assert "The input is empty" in run(command, "-", *options, stdin=b"", expect=3)


def test_a_name_that_contradicts_the_content_is_refused_before_anything_is_sent() -> None:
    Path("tabs.csv").write_text("id\tname\n1\tAnna\n")
    assert "--delimiter" in run("upload", "tabs.csv", expect=3)
    error = json.loads(run("upload", "tabs.csv", "--json", expect=3))
    assert (error["event"], error["code"]) == ("error", "delimiter_unclear")


@pytest.mark.parametrize("command", ["upload", "inspect", "resume"])
@pytest.mark.parametrize(
    "wrong",
    [("--encoding", "utf-17"), ("--delimiter", ";;"), ("--delimiter", ""), ("--format", "xml"),
     ("--format", "json", "--delimiter", ";")],
)  # fmt: skip
def test_an_invalid_option_is_a_usage_error(command: str, wrong: tuple[str, ...]) -> None:
    """Exit 2 before anything is read: reading would wait for the pipe forever."""
    os.mkfifo("pipe")
    printed = run(command, "pipe", *wrong, "--json", expect=2)
    if wrong[-1] != "xml":  # click has its own message
        error = json.loads(printed)
        assert (error["event"], error["code"], error["exitCode"]) == ("error", "option", 2)


@pytest.mark.parametrize(
    ("name", "before", "after", "line"),
    [
        ("a.ndjson", b"{}\n\n", b"\n{}\n", 3),
        ("a.json", b"[{},\n\n", b",\n{}]", 3),
        ("a.csv", b"v\nx\n", b"\nx\n", 3),
    ],
)
def test_a_record_that_is_too_large_is_found_in_the_check(
    name: str, before: bytes, after: bytes, line: int
) -> None:
    """15 MB that do not compress are refused; 15 MB that compress well are accepted."""
    noise = random.Random(1).randbytes(7_500_000).hex().encode()
    quote = b"" if name == "a.csv" else b'"'
    Path(name).write_bytes(before + quote + noise + quote + after)
    source = inputs.Source(Path(name))
    with pytest.raises(RecordTooLargeError, match=f"record 2, line {line}: it has 15,000,"):
        uploads.scan(source, Limits())
    Path(name).write_bytes(before + quote + b"x" * 15_000_000 + quote + after)
    assert uploads.scan(source, Limits()).plan.records == 3
    with pytest.raises(RecordTooLargeError, match=f"record 2, line {line}: "):
        uploads.scan(source, Limits(), compress=False)
