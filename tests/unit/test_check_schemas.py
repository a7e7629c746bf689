"""Which schemas can be deployed, and the messages for the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from packing.check_schemas import MOST_STEPS, check

TEXT = {"type": "string"}


def doubled(times: int) -> dict[str, Any]:
    """A schema that refers to the same type 2 to the power of ``times`` times."""
    parts: dict[str, Any] = {
        f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(times)
    }
    return {"$defs": parts | {f"s{times}": TEXT}, "items": {"$ref": "#/$defs/s0"}}


def verdict(folder: Path, schema: object, name: str = "orders.v3.json") -> str:
    path = folder / name
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema), encoding="utf-8")
    try:
        check(path)
    except ValueError as error:
        return str(error)
    return "compiles"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        TEXT,
        {"$schema": "http://json-schema.org/draft-04/schema#", "id": "https://example.com/x"},
        {"$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveAnchor": True},
        {"oneOf": [TEXT, {"items": {"$ref": "#"}}]},
        {"enum": [str(n) for n in range(5_000)]},
        {"enum": list(range(MOST_STEPS - 1))},
        {"oneOf": [{"const": n} for n in range(MOST_STEPS - 1)]},
        {"properties": {f"p{n}": {"enum": [1, 2]} for n in range(1_000)}},
        doubled(7),
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"pattern": "^(a|b)*$"},
    ],
    ids=lambda schema: json.dumps(schema)[:60],
)
def test_a_schema_that_can_be_deployed(tmp_path: Path, schema: object) -> None:
    assert verdict(tmp_path, schema) == "compiles"


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", "line 1 column 2"),
        ("", "line 1 column 1"),
        ("3", "at /: "),
        ({"type": "strng"}, "at /type: "),
        ({"properties": {"a~/": {"minimum": "1"}}}, "at /properties/a~0~1/minimum: "),
        ({"$ref": "#/$defs/none"}, "/$defs/none"),
        ({"$ref": "https://example.com/orders"}, "https://example.com/orders"),
        ({"$ref": "file:///etc/passwd"}, "file:///etc/passwd"),
        ({"$schema": "https://example.com/draft"}, "https://example.com/draft"),
        ({"pattern": "(?=a)"}, "at /pattern: "),
        ({"pattern": "(a)\\1"}, "at /pattern: "),
        ({"pattern": "(a{1000}){1000}"}, "at /pattern: "),
        ('{"type": "string", "type": "object"}', "given twice"),
        ({"enum": list(range(MOST_STEPS + 1))}, f"{MOST_STEPS} subschemas"),
        ({"items": {"anyOf": [TEXT] * MOST_STEPS}}, f"{MOST_STEPS} subschemas"),
        (doubled(28), f"{MOST_STEPS} subschemas"),
        ({"description": "x" * 300_000}, "262144 bytes"),
        ('{"not":' * 300 + "{}" + "}" * 300, "recursion"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_schema_that_cannot_and_what_is_said_of_it(
    tmp_path: Path, schema: object, said: str
) -> None:
    assert said in verdict(tmp_path, schema)


@pytest.mark.parametrize(
    "name", ["Orders.json", ".json", "a b.json", "orders.yaml", "x" * 65 + ".json"]
)
def test_its_name_is_one_that_a_session_can_give(tmp_path: Path, name: str) -> None:
    assert "the name must be" in verdict(tmp_path, {}, name)


def test_a_folder_is_not_a_schema(tmp_path: Path) -> None:
    (tmp_path / "orders.v3.json").mkdir()
    with pytest.raises(ValueError, match="it is not a file"):
        check(tmp_path / "orders.v3.json")
