"""``make bench`` as it runs unattended: what fails costs nothing else, and documents get all."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import handlers, report

MARK = re.compile(r"^<!-- (?!end)([\w. ]+) -->\n(?:(?!<!--)[^\n]*\n)*<!-- end -->$", re.MULTILINE)
WHOLE = {"targets", "missed", "machine"}
"""Tables of all chapters."""


def test_the_pages_have_places_for_chapters_that_exist() -> None:
    for page in bench.PAGES:
        text = (bench.DOCS / page).read_text(encoding="utf-8")
        found = MARK.findall(text)
        assert len(found) == text.count("<!-- end -->")
        assert {name.partition(".")[0] for name in found} <= {*bench.BENCHMARKS, *WHOLE}


def test_every_chapter_has_a_place_in_the_pages() -> None:
    text = "".join((bench.DOCS / page).read_text(encoding="utf-8") for page in bench.PAGES)
    shown = {name.partition(".")[0] for name in MARK.findall(text)}
    assert shown == {*bench.BENCHMARKS, *WHOLE}


def test_tables_go_between_their_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "DOCS", tmp_path)
    monkeypatch.setattr(bench, "PLOTS", tmp_path / "plots")
    monkeypatch.setattr(bench, "PAGES", ("page.md",))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x.y -->\n\nold\n\n<!-- end -->\nb\n<!-- x.z -->\n<!-- end -->\nc\n")
    (tmp_path / "plot.svg").write_text("<svg/>")
    bench.document({"x.y": "| \\1 |\n", "x.z": "new\n"}, [tmp_path / "plot.svg"])
    bench.document({"x.z": "newer\n"}, [])
    assert page.read_text() == (
        "a\n<!-- x.y -->\n\n| \\1 |\n\n<!-- end -->\nb\n<!-- x.z -->\n\nnewer\n\n<!-- end -->\nc\n"
    )
    assert (tmp_path / "plots" / "plot.svg").exists()


def test_a_chapter_that_fails_leaves_no_old_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "BUILD", tmp_path)
    monkeypatch.setattr(bench, "PYTHON", sys.executable)
    for name in ("nothing", "report", "other"):
        (tmp_path / f"{name}.json").write_text("{}")
    # ``benchmarks.report`` ends well, and has no results either.
    assert bench.run(["nothing", "report"]) == ["nothing", "report"]
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_functions_are_measured_with_the_variables_that_are_deployed() -> None:
    template = (report.ROOT / "template.yaml").read_text(encoding="utf-8")
    deployed = dict(re.findall(r'^        (MALLOC_\w+): "(\d+)"$', template, re.MULTILINE))
    assert deployed == handlers.KEEPING


def test_missed_targets_are_shown_first() -> None:
    targets = [
        {"what": "speed", "measured": 2.0, "bound": 3, "least": True},
        {"what": "memory", "measured": 2.0, "bound": 3, "least": False},
    ]
    made = bench.tables({"x": {"tables": {"y": [{"": "z"}]}, "targets": targets}})
    assert made["missed"].startswith("1 of 2 targets are met. Not met:\n\n| target |")
    assert "memory" not in made["missed"]
    assert made["x.y"] == report.markdown([{"": "z"}])
    assert bench.tables({"x": {"tables": {}, "targets": targets[1:]}})["missed"] == (
        "1 of 1 targets are met.\n"
    )
