"""The official JSON Schema test suite, through the service; prints a table by draft."""

import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api import Api
from tests.schemas_api import api_with

pytestmark = pytest.mark.slow

SUITE: Final = Path(__file__).parents[1] / "schema_suite/required.json.gz"
DRAFTS: Final = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
WHERE: Final = ("id", "definitions")
Group = dict[str, Any]


def left_out(group: Group) -> bool:
    """Whether a schema refers to a remote one, which a deployed schema cannot."""
    return "localhost:1234" in json.dumps(group["schema"])


def needs_a_file(group: Group) -> bool:
    """Whether a schema needs its own file, since it has an id or refers to its root."""
    text = json.dumps(without_draft(group["schema"]))
    return any(f'"{word}"' in text for word in WHERE) or '"$' in text


def without_draft(schema: object) -> object:
    """A schema without its ``$schema``."""
    if isinstance(schema, dict):
        return {name: value for name, value in schema.items() if name != "$schema"}
    return schema


def sent(api: Api, name: str, records: list[Any]) -> list[bool]:
    """For each record of a batch, whether the service finds it valid."""
    answer = api.batch(api.create(len(records), schema=name), 0, records)
    if answer.status == 204:
        return [True] * len(records)
    assert answer.status == 422, (name, answer)
    assert answer.json["count"] == len(answer.json["errors"])
    invalid = {one["index"] for one in answer.json["errors"]}
    return [index not in invalid for index in range(len(records))]


def judged(api: Api, folder: Path, draft: str, groups: list[Group]) -> list[list[bool]]:
    """For each group, which of its cases the service finds valid."""

    def deployed(name: str, schema: object) -> str:
        if isinstance(schema, dict):
            schema = {"$schema": DRAFTS[draft]} | schema
        (folder / f"{name}.json").write_text(json.dumps(schema), encoding="utf-8")
        return name

    # Plain schemas share a session, as members of one record: sessions are slow.
    found: dict[int, list[bool]] = {}
    plain = {at: group for at, group in enumerate(groups) if not needs_a_file(group)}
    for some in batched(plain.items(), 25):
        members = {str(at): without_draft(group["schema"]) for at, group in some}
        name = deployed(f"{draft}.from-{some[0][0]}", {"properties": members})
        records = [{str(at): case["data"]} for at, group in some for case in group["tests"]]
        valid = iter(sent(api, name, records))
        for at, group in some:
            found[at] = list(islice(valid, len(group["tests"])))
    for at, group in enumerate(groups):
        if at not in plain:
            name = deployed(f"{draft}.{at}", group["schema"])
            found[at] = sent(api, name, [case["data"] for case in group["tests"]])
    return [found[at] for at in range(len(groups))]


def batched(items: Iterable[tuple[int, Group]], size: int) -> Iterator[list[tuple[int, Group]]]:
    """Groups of up to ``size`` items."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


@pytest.mark.usefixtures("stack")
def test_the_service_judges_as_the_official_suite_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite: dict[str, list[Group]] = json.loads(gzip.decompress(SUITE.read_bytes()))
    api = api_with(tmp_path)
    wrong = []
    with capsys.disabled():
        print("\n| draft | cases | as the suite says | left out |\n|---|---|---|---|")  # noqa: T201
        for draft in DRAFTS:
            groups = [group for group in suite[draft] if not left_out(group)]
            cases = [case for group in groups for case in group["tests"]]
            found = list(chain.from_iterable(judged(api, tmp_path, draft, groups)))
            amiss = [
                case for case, valid in zip(cases, found, strict=True) if case["valid"] is not valid
            ]
            left = sum(len(group["tests"]) for group in suite[draft]) - len(cases)
            print(f"| {draft} | {len(cases)} | {len(cases) - len(amiss)} | {left} |")  # noqa: T201
            wrong += [(draft, case["description"]) for case in amiss]
    assert wrong == []
