"""The numbers of README.md, which are rows of docs/performance.md."""

import re
from typing import Final

from benchmarks.report import ROOT

README: Final = ROOT / "README.md"
PERFORMANCE: Final = ROOT / "docs" / "performance.md"
SHOWN: Final = (
    ("1 GB by the client, ndjson.gz", 1, "(Gapless {:.2f} ¢)"),
    ("1 GB by the client, ndjson.gz", 5, "cheapest and fastest: {:.2f} ¢ a GB"),
    ("1 GB: 10,000 x 100 KB, sent plain", 1, "batches of 100 KB costs {:.2f} ¢"),
    ("1 GB: 10,000 x 100 KB, sent plain", 6, "from {:,.0f} GB a month"),
    ("boto3 multipart, straight to S3", 1, "and {:.0f} MB/s"),
    ("Gapless, own work: POST to ndjson", 1, "(Gapless {:.0f})"),
    ("@tus/server, pieces of 8 MB", 1, "Pieces of 8 MB move {:.0f} MB/s"),
    ("@tus/server, pieces of 1 MB", 1, "of 1 MB {:.0f}. "),
    ("Express, own work", 2, "takes {:,.0f},000 records a second"),
    ("Express, own work", 4, "records a second in {:.0f} MiB"),
    ("Gapless, own work: POST to ndjson", 2, "Gapless {:,.0f},000"),
    ("Gapless, own work: POST to ndjson", 4, "in {:.0f} MiB)"),
)
"""Row, column, and how README.md says the number."""


def measured(row: str, column: int) -> float:
    """A number of docs/performance.md."""
    (line,) = re.findall(rf"^\| {re.escape(row)} \|.*", PERFORMANCE.read_text(), re.MULTILINE)
    return float(line.split("|")[column + 1].strip().replace(",", ""))


def updated(text: str) -> str:
    """README.md with the numbers of docs/performance.md."""
    for row, column, shown in SHOWN:
        before, number, after = re.split(r"(\{.*?\})", shown)
        spaced = [
            re.escape(part).replace(r"\ ", "[ \N{NO-BREAK SPACE}]") for part in (before, after)
        ]
        new = number.format(measured(row, column))
        text, found = re.subn(rf"({spaced[0]})[\d.,]+?({spaced[1]})", rf"\g<1>{new}\g<2>", text)
        assert found == 1, shown
    return text


def update() -> None:
    """Write the numbers of docs/performance.md into README.md."""
    README.write_text(updated(README.read_text()))
