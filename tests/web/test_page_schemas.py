"""Records that violate the schema: the page shows which, where and why."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.web.conftest import BATCH, Front, Instead
from tests.web.steps import choose, downloaded, finished, press, shoot

GOOD = '{"id": 1, "sku": "AB-1234", "quantity": 3}'
WRONG = '{"id": 1, "sku": "AB-1234", "quantity": "three"}'
UPLOAD = re.compile(r"^Upload [\d,]+ records$")


def name_schema(page: Page, name: str) -> None:
    page.locator("summary").click()
    page.get_by_label("Schema").fill(name)
    page.locator("summary").click()


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_invalid_records_are_listed_by_line_of_the_file(
    page: Page, front: Front, tmp_path: Path, form: str
) -> None:
    records = [GOOD] * 60
    records[7] = WRONG
    records[42] = '{"id": 0, "sku": "AB-1234", "quantity": 3}'
    file = tmp_path / f"orders.{form}"
    # In both formats the first record is on the second line.
    between, ends = ("\n", ("\n", "\n")) if form == "ndjson" else ("\n,", ("[\n", "\n]"))
    lines = between.join(records).join(ends)
    file.write_text(lines)
    name_schema(page, "orders.v3")
    choose(page, file, batch_size=10)
    page.get_by_role("button", name=UPLOAD).click()
    expect(page.get_by_role("alert")).to_contain_text("2 records do not satisfy the schema")
    rows = page.locator("#invalid-rows tr").all_inner_texts()
    assert rows == ["9\t/quantity\tis not of type integer", "44\t/id\tis less than 1"]
    # Nothing is sent twice, and the other batches are stored.
    assert front.batches == 6
    assert not any(seen.route.endswith("/finish") for seen in front.seen)
    expect(page.locator("#stored")).to_contain_text("40")
    shoot(page, f"schema-{form}")
    file.write_text(lines.replace('"three"', "3").replace('"id": 0', '"id": 7'))
    press(page, "Choose the corrected file")
    choose(page, file)
    page.get_by_role("button", name=UPLOAD).click()
    finished(page)
    assert downloaded(page).splitlines()[7] == GOOD.encode()


def test_a_service_that_requires_a_schema(page: Page, front: Front, tmp_path: Path) -> None:
    file = tmp_path / "orders.ndjson"
    file.write_text(GOOD)
    asked = "A session names a schema here."

    def instead(route: str, count: int) -> Instead | None:
        if count > 1 or not route.endswith("/sessions"):
            return None
        return Instead(400, (), {"code": "schema_required", "detail": asked})

    front.instead = instead
    choose(page, file)
    press(page, "Upload 1 record")
    expect(page.get_by_role("alert")).to_contain_text("Set its name in the settings.")
    name_schema(page, "orders.v3")
    press(page, "Try again")
    finished(page)
    expect(page.locator("#about")).to_contain_text("schema orders.v3")
    assert sum(BATCH.fullmatch(seen.route) is not None for seen in front.seen) == 1
    kept = page.evaluate("JSON.stringify(localStorage)")
    assert json.loads(kept)["gapless.schema"] == "orders.v3"
