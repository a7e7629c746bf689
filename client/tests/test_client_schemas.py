"""Schemas: the client decides as the service does, and reports invalid records by line."""

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gapless
from front import Front, Said, merged, run
from gapless import schemas, violations
from gapless.schemas import Schema
from gapless.sending import Lines
from uploads import limits
from uploads.decode import violations as of_service
from uploads.decode.records import RecordCheck

SCHEMAS: Final = Path(__file__).parents[2] / "tests/schemas"
ORDERS: Final = (SCHEMAS / "orders.v3.json").read_bytes()
"""The schemas of the service under test."""


def judged_here(text: bytes, records: list[bytes]) -> list[tuple[int, str, str]]:
    found = Schema("any", text).violations(records)
    return [(one.index, one.path, one.message) for one in found]


def judged_there(text: bytes, records: list[bytes]) -> list[tuple[int, str, str]]:
    """The service's decision on each record in a batch of one."""
    check = RecordCheck(text)
    found = []
    for index, record in enumerate(records):
        _, alone = check.check(record + b"\n", float)
        found += [(index, one.path, one.message) for one in alone]
    # Its decision on all records together is the same, up to its limit.
    count, together = check.check(b"".join(record + b"\n" for record in records), float)
    assert count == len(found)
    if not ('"anyOf"' in text.decode() or '"oneOf"' in text.decode()):
        told = [(one.index, one.path, one.message) for one in together]
        assert told == found[: limits.MAX_INVALID_SHOWN]
    return found


def test_the_limits_are_those_of_the_service() -> None:
    assert (schemas.MAX_DEPTH, schemas.MAX_VALUES) == (
        limits.MAX_CHECKED_DEPTH,
        limits.MAX_CHECKED_VALUES,
    )
    assert (schemas.MAX_DIGITS, schemas.MAX_EXPLAINED_BYTES, schemas.MAX_EXPLAINED_DEPTH) == (
        limits.MAX_DIGITS,
        limits.MAX_EXPLAINED_BYTES,
        limits.MAX_EXPLAINED_DEPTH,
    )


def test_the_messages_are_made_by_the_same_code() -> None:
    # A copy, because the client is installed without the functions.
    assert Path(violations.__file__).read_bytes() == Path(of_service.__file__).read_bytes()


RECURSIVE: Final = b"""{"$ref": "#/$defs/node", "$defs": {"node": {"type": ["object", "integer"],
    "additionalProperties": {"$ref": "#/$defs/node"}}}}"""
UNIONS: Final = b"""{"properties": {"a": {"anyOf": [{"type": "integer"}, {"maxLength": 3}]},
    "b": {"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}}, "propertyNames": {"maxLength": 5}}"""
NUMBERS: Final = b"""{"properties": {"n": {"type": "integer", "maximum": 1e30}, "x":
    {"multipleOf": 0.01,
    "exclusiveMinimum": 1e-320}}, "unevaluatedProperties": {"enum": [1.0, null, "x"]}}"""
DRAFT: Final = b"""{"$schema": "http://json-schema.org/draft-07/schema#",
    "anyOf": [{"$ref": "http://json-schema.org/draft-07/schema#"}, {"type": "array"}]}"""
MANY: Final = (
    ORDERS,
    RECURSIVE,
    UNIONS,
    NUMBERS,
    DRAFT,
    b"true",
    b"false",
    b'{"uniqueItems":true}',
)

GOOD: Final = b'{"id": 1, "sku": "AB-1234", "quantity": 3}'
HARD: Final = [
    GOOD,
    b'{"id": 1, "sku": "AB-1234", "quantity": "secret", "customer": {"country": "D"}}',
    b'{"id":1e0,"sku":"A\\u0042-1234","quantity":' + b"9" * 30 + b"}",
    b'{"id":1,"id":"1","sku":"AB-1234","quantity":1}',
    b'{"a":{"b":1,"b":1}}',
    b'{"a\\u003a":1,"a\\u003A":1,"a:":2}',
    b'{"x":0.1}',
    b'{"x":0.10000000000000000000000000001}',
    b'{"x":1e-321,"n":1e30}',
    b'{"x":1e-400,"n":1000000000000000000000000000001}',
    b'{"x":-0.0,"n":12345678901234567890.0}',
    b'{"n":1e4300}',
    b'{"n":1e4301}',
    b'{"n":' + b"1" * 4_300 + b"}",
    b'{"n":' + b"1" * 4_301 + b"}",
    b'{"n":1.' + b"1" * 4_299 + b"}",
    b"1e999999999",
    b"[" * 200 + b"]" * 200,
    b"[" * 201 + b"]" * 201,
    b'{"a":' * 6 + b'"x"' + b"}" * 6,
    b'{"a":' * 7 + b'"x"' + b"}" * 7,
    b'{"a":' * 200 + b'"["' + b"}" * 200,
    b"[" + b",".join([b"1"] * 200_001) + b"]",
    b'{"a":"' + b"x" * (64 * 1024 - 8) + b'"}',
    b'{"a":"' + b"x" * (64 * 1024 - 7) + b'"}',
    b'{"longname":1,"other name":2,"c":3,"dddddddd":4}',
    b'{"' + b"\\ud83d\\ude00/~" * 2_000 + b'":"secret"}',
    b"7",
    b"null",
    b'"\\""',
    b"[]",
    b'[1,1.0,{"a":1}]',
]


@pytest.mark.parametrize("text", MANY, ids=lambda text: text[:40].decode())
def test_edge_cases_are_decided_as_by_the_service(text: bytes) -> None:
    assert judged_here(text, HARD) == judged_there(text, HARD)


VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["AB-1234", "EUR", "x", "2026-01-02", "é😀"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from("abnx") | st.text(max_size=7), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ORDERLY: Final = st.fixed_dictionaries(
    {"id": st.integers(0, 5), "sku": st.sampled_from(["AB-1234", "x"]), "quantity": VALUES},
    optional={"price": st.decimals(0, 9, places=3).map(float), "tags": VALUES, "more": VALUES},
)


@given(st.sampled_from(MANY), st.lists(VALUES | ORDERLY, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_records_are_decided_as_by_the_service(text: bytes, values: list[object]) -> None:
    records = [json.dumps(value).encode() for value in values]
    assert judged_here(text, records) == judged_there(text, records)


# --- A file with bad records ----------------------------------------------------------------------

RECORDS: Final = 20_000
WRONG: Final = (
    (b'{"id": 1, "sku": "AB-1234", "quantity": "x"}', "/quantity", "is not of type integer"),
    (b'{"id": 0, "sku": "AB-1234", "quantity": 3}', "/id", "is less than 1"),
    (b'{"id": 1, "sku": "AB-1234"}', "", 'lacks the property "quantity"'),
)
BAD: Final = sorted((7 + 541 * n * n) % RECORDS for n in range(37))
"""The indexes of the invalid ones, from 0."""


def records() -> list[bytes]:
    found = [GOOD] * RECORDS
    for n, at in enumerate(BAD):
        found[at] = WRONG[n % 3][0]
    return found


def told(error: gapless.InvalidRecordsError) -> list[tuple[int, str, str]]:
    return [(one.line, one.path, one.reason) for one in error.errors]


def expected(line: Callable[[int], int]) -> list[tuple[int, str, str]]:
    """Line, pointer and reason of each invalid record; ``line`` has that of every record."""
    return [(line(at), *WRONG[n % 3][1:]) for n, at in enumerate(BAD)]


@pytest.fixture
def rules(folder: Path) -> Path:
    """The file of the deployed schema."""
    (folder / "handed out").mkdir()
    found = folder / "handed out" / "orders.v3.json"
    found.write_bytes(ORDERS)
    return found


def forms() -> Iterator[tuple[str, bytes, Any, dict[str, Any]]]:
    """Each format: name and content of the file, the line of each record, options."""
    all_of_them = records()
    yield "in.ndjson", b"\n".join(all_of_them), lambda at: at + 1, {}
    spaced = b"\n" + b"".join(b"%b\n" % one + b" \n" * (n % 2) for n, one in enumerate(all_of_them))
    yield "spaced.ndjson", spaced, lambda at: 2 + at + at // 2, {}
    array = b"[\n" + b",\n\n".join(all_of_them) + b"]"
    yield "in.json.gz", gzip.compress(array, 1), lambda at: 2 + 2 * at, {}
    rows = b"".join(_row(json.loads(one)) for one in all_of_them)
    table = b'"id","sku","quantity","note"\n' + rows
    yield "in.csv", table, lambda at: 2 + 2 * at, {"typed": True}


def _row(record: dict[str, Any]) -> bytes:
    """A row over two lines: its note has a line end."""
    quantity = record.get("quantity", "")
    return f'{record["id"]},{record["sku"]},{quantity},"a\nnote"\n'.encode()


def form_of(found: tuple[str, bytes, Any, dict[str, Any]]) -> list[tuple[int, str, str]]:
    name, _, line, _ = found
    wrong = expected(line)
    if name != "in.csv":
        return wrong
    # An empty cell is null.
    null = ("/quantity", "is not of type integer")
    return [(at, *null) if not path else (at, path, why) for at, path, why in wrong]


@pytest.mark.parametrize("found", list(forms()), ids=lambda found: found[0])
def test_the_first_pass_and_the_service_name_the_same_records_by_line_of_the_file(
    front: Front, rules: Path, found: tuple[str, bytes, Any, dict[str, Any]]
) -> None:
    name, content, _, options = found
    Path(name).write_bytes(content)
    send = partial(gapless.upload, name, os.environ["GAPLESS_URL"], batch_size=500, **options)
    with pytest.raises(gapless.InvalidRecordsError, match="Nothing was sent") as here:
        send(schema=rules)
    assert not front.seen
    with pytest.raises(gapless.InvalidRecordsError, match="stays open") as there:
        send(schema="orders.v3")
    assert told(here.value) == told(there.value) == form_of(found)
    assert here.value.count == there.value.count == 37
    assert (here.value.by_service, there.value.by_service) == (False, True)
    # Each batch was sent once; all are stored except those with invalid records.
    sent = [seen.seq_num for seen in front.seen if seen.seq_num is not None]
    assert sorted(sent) == list(range(40))
    assert sorted(front.batches()) == sorted(set(range(40)) - {at // 500 for at in BAD})
    assert not any(seen.path.endswith("/finish") for seen in front.seen)


@pytest.mark.parametrize("kind", ["file", "generator", "async generator"])
def test_a_pipe_is_checked_before_each_batch_is_sent(front: Front, rules: Path, kind: str) -> None:
    all_of_them = records()[:9_000]

    async def slowly() -> AsyncIterator[bytes]:
        for one in all_of_them:
            yield one

    made: dict[str, Any] = {
        "file": lambda: io.BytesIO(b"\n".join(all_of_them)),
        "generator": lambda: iter(all_of_them),
        "async generator": slowly,
    }
    url = os.environ["GAPLESS_URL"]
    bad = [at for at in BAD if at < 9_000]
    clean = bad[0] // 5
    with pytest.raises(gapless.InvalidRecordsError) as here:
        gapless.upload(made[kind](), url, schema=rules, batch_size=5)
    assert told(here.value)[0] == (bad[0] + 1, *WRONG[0][1:])
    assert all(seen.status != 422 for seen in front.seen)
    assert max(front.batches(), default=-1) <= clean
    with pytest.raises(gapless.InvalidRecordsError) as there:
        gapless.upload(made[kind](), url, schema="orders.v3", batch_size=300)
    assert told(there.value) == [one for one in expected(lambda at: at + 1) if one[0] <= 9_000]
    record = None if kind == "file" else bad[0] + 1
    assert there.value.errors[0].record == record


def test_invalid_records_are_left_out_with_reasons_and_the_rest_is_uploaded(
    front: Front, rules: Path, folder: Path
) -> None:
    everything = records()[:3_000]
    everything[5] = b'{"id": 1,'
    Path("in.ndjson").write_bytes(b"\n".join(everything) + b"\n")
    Path("in.ndjson.invalid.ndjson").write_text("of another day")
    out, err = run(
        "upload", "in.ndjson", "--schema", rules, "--skip-invalid", "--batch-size", 100, expect=8
    )
    bad = {at for at in BAD if at < 3_000}
    assert f"{len(bad) + 1} left out into in.ndjson.invalid-2.ndjson" in err
    left = [one for at, one in enumerate(everything) if at != 5 and at not in bad]
    assert f"{len(left):,} records" in out
    assert merged() == b"".join(one + b"\n" for one in left)
    aside = Path("in.ndjson.invalid-2.ndjson").read_bytes().splitlines()
    by_line = {one["line"]: one for one in map(json.loads, aside)}
    assert sorted(by_line) == sorted({at + 1 for at in bad} | {6})
    malformed = by_line[6]
    assert (malformed["path"], malformed["record"]) == (None, '{"id": 1,')
    assert malformed["message"].startswith("column 10: ")
    first = min(bad)
    assert aside[1 if first > 5 else 0].endswith(b'"record":' + everything[first] + b"}")
    assert Path("in.ndjson.invalid.ndjson").read_text() == "of another day"
    created = next(json.loads(seen.body) for seen in front.seen if seen.path.endswith("/sessions"))
    assert (created["schema"], created["totalRecord"]) == ("orders.v3", len(left))
    assert not list(folder.glob("in.ndjson.invalid-3*"))


def test_a_resumed_upload_leaves_out_the_same_records(front: Front, rules: Path) -> None:
    everything = [WRONG[0][0] if at % 7 == 3 else GOOD for at in range(300)]
    Path("in.ndjson").write_bytes(b"\n".join(everything) + b"\n")
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 4 else None
    given = ("--schema", rules, "--skip-invalid", "--batch-size", 10, "--parallel", 1)
    run("upload", "in.ndjson", *given, expect=6)
    front.rule = lambda _: None
    # Meanwhile the schema's file has changed.
    rules.write_text("false")
    run("resume", "in.ndjson", expect=8)
    assert merged() == (GOOD + b"\n") * everything.count(GOOD)
    assert len(Path("in.ndjson.invalid.ndjson").read_bytes().splitlines()) == 43
    assert not Path("in.ndjson.invalid-2.ndjson").exists()


def test_validate_shows_a_table_of_the_file(rules: Path) -> None:
    Path("in.ndjson").write_bytes(b"\n".join(records()))
    out, err = run("validate", "in.ndjson", "--schema", rules, expect=1)
    rows = [row for row in out.splitlines() if "│" in row]
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    assert [(int(line), where, what) for line, where, what in cells] == expected(lambda at: at + 1)
    assert "37 records do not satisfy the schema" in err
    schema = Path("strict.json")
    schema.write_text('{"required": ["none"]}')
    out, _ = run("validate", "in.ndjson", "--schema", schema, "--json", expect=1)
    (error,) = map(json.loads, out.splitlines()[-1:])
    assert (error["count"], len(error["errors"])) == (RECORDS, 100)
    Path("good.csv").write_text("id,sku,quantity\n1,AB-1234,3\n")
    out, _ = run("validate", "good.csv", "--typed", "--schema", rules)
    assert "1 record" in out


def test_a_refusal_of_the_service_is_a_table_too(front: Front) -> None:
    Path("in.ndjson").write_bytes(b"\n\n" + WRONG[0][0])
    out, err = run("upload", "in.ndjson", "--schema", "orders.v3", expect=3)
    assert [one.strip() for one in out.splitlines()[-2].strip("│").split("│")] == [
        "3",
        "/quantity",
        "is not of type integer",
    ]
    assert "gapless abort" in err
    assert [seen.status for seen in front.seen] == [201, 422]
    out, _ = run("status", "in.ndjson")
    assert "1 record into ndjson, schema orders.v3, 0 batches stored" in out


def test_a_schema_that_cannot_be_used(front: Front, folder: Path) -> None:
    Path("in.ndjson").write_bytes(GOOD)
    (folder / "orders.v4.json").write_text('{"type": "no such type"}')
    (folder / "remote.json").write_text('{"$ref": "https://example.com/schema"}')
    (folder / "Orders.json").write_text("{}")
    for schema, said in {
        "orders.v4.json": "is not a JSON Schema",
        "remote.json": "is not a JSON Schema",
        "missing.json": "No such file",
        "Orders.json": "is not the name of a schema",
        "a b": "is not the name of a schema",
    }.items():
        with pytest.raises(gapless.SettingError, match=said) as refused:
            gapless.upload("in.ndjson", os.environ["GAPLESS_URL"], schema=schema)
        assert "\n" not in str(refused.value)
    assert not front.seen
    with pytest.raises(gapless.RequestError) as unknown:
        gapless.upload("in.ndjson", os.environ["GAPLESS_URL"], schema="unheard.of")
    assert unknown.value.code == "unknown_schema"


def test_without_the_library_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, rules: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(gapless.SettingError, match=r'pip install "gapless\[schema\]"'):
        gapless.upload([{}], "http://localhost:9", schema=rules)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=50), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_lines_are_those_of_the_records(heights: list[int], at_once: int) -> None:
    begins = [1 + sum(heights[:n]) for n in range(len(heights))]
    lines = Lines()
    for n in range(0, len(begins), at_once):
        lines.add(begins[n : n + at_once])
    for n, line in enumerate(begins):
        assert lines.of(n) == line
        lines.forget(n)
        assert [lines.of(later) for later in range(n, len(begins))] == begins[n:]


def test_sync_and_async_clients_create_sessions_with_a_schema(front: Front) -> None:
    async def work() -> None:
        async with gapless.AsyncClient(os.environ["GAPLESS_URL"]) as client:
            session = await client.create(1, schema="orders.v3")
            with pytest.raises(gapless.RequestError) as refused:
                await session.send(0, [{"id": 1}])
            assert refused.value.code == "invalid_records"
            assert refused.value.problem["errors"][0]["index"] == 0
            assert (await session.status()).schema == "orders.v3"

    anyio.run(work)
    with gapless.Client(os.environ["GAPLESS_URL"]) as client:
        assert client.create(1, schema="orders.v3").status().schema == "orders.v3"
    assert [seen.status for seen in front.seen].count(422) == 1


def test_everything_else_works_without_the_extra() -> None:
    script = "import sys; sys.modules['jsonschema_rs'] = None; from gapless import __main__"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
