"""The documents agree with the code: errors, routes, limits, events, costs."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import cost, report
from gapless import batching
from local.template import Template
from uploads import errors, limits

ROOT = Path(__file__).parents[2]
ERRORS_MD = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
PROTOCOL_MD = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
PERFORMANCE_MD = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
SCALE_MD = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
OPENAPI: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
EVENTS = sorted((ROOT / "events").glob("*.json"))
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "client", "events", "examples", "tests")
    for path in (ROOT / folder).glob("*.md")
)

METHODS = {"get", "post", "put", "patch", "delete"}
INTERNAL = {"internal_error": 500}
"""The only code without an error class: unexpected exceptions."""


ANSWERED = errors.GaplessError.__subclasses__()
STATUS_OF_CODE = {error.code: error.status for error in ANSWERED} | INTERNAL


def reasons() -> Iterator[str]:
    """The reason of every ``Failure`` in the code."""
    for path in (ROOT / "functions/uploads").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Failure":
                reason = node.args[2]
                assert isinstance(reason, ast.Constant)
                yield str(reason.value)


REASONS = set(reasons())


def resolved(node: Any) -> Any:  # noqa: ANN401 - any part of a YAML document
    while isinstance(node, dict) and "$ref" in node:
        path = node["$ref"].removeprefix("#/").split("/")
        node = OPENAPI
        for name in path:
            node = node[name]
    return node


def nodes(node: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any part of a YAML document
    """Every mapping in ``node``, with references resolved."""
    node = resolved(node)
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every operation in openapi.yaml, with its route key."""
    for path, item in OPENAPI["paths"].items():
        for method in METHODS & item.keys():
            yield f"{method.upper()} {path}", item[method]


def test_no_answer_may_be_cached_and_links_depend_on_accept() -> None:
    for route, operation in operations():
        for status, response in operation["responses"].items():
            told = {name: resolved(header) for name, header in headers_of(response).items()}
            made_by_gateway_alone = status in {"401", "429"}
            assert ("Cache-Control" in told) != made_by_gateway_alone, (route, status)
            if not made_by_gateway_alone:
                assert told["Cache-Control"]["schema"] == {"const": "no-store"}
            is_link = route.endswith(("/file", "/manifest")) and status in {"200", "307"}
            assert ("Vary" in told) == is_link, (route, status)


def headers_of(response: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = resolved(response).get("headers", {})
    return found


def problems() -> Iterator[tuple[int, dict[str, Any]]]:
    for _, operation in operations():
        for status, response in operation["responses"].items():
            content = resolved(response).get("content", {})
            if "application/problem+json" in content:
                yield int(status), content["application/problem+json"]


def codes(media: dict[str, Any]) -> set[str]:
    """The possible values of a problem's ``code``."""
    return {
        value
        for node in nodes(media["schema"])
        if "properties" in node and "code" in node["properties"]
        for code in nodes(node["properties"]["code"])
        for value in code.get("enum", [])
    }


def anchors(text: str) -> set[str]:
    """What the headings of a Markdown document can be linked as."""
    names: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        names.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return set(names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    def prose(of: Path) -> str:
        return re.sub(
            r"^ *```.*?^ *```$", "", of.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
        )

    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(path)):
        file, _, anchor = target.partition("#")
        leads_to = (path.parent / file).resolve() if file else path
        assert leads_to.exists(), target
        if anchor:
            assert anchor in anchors(prose(leads_to)), target


def test_the_index_has_every_document() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^- \[.*\]\(([\w-]+\.md)\):", index, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_every_code_belongs_to_one_error() -> None:
    assert len({error.code for error in ANSWERED}) == len(ANSWERED)
    assert not {error.code for error in ANSWERED} & INTERNAL.keys()


@pytest.mark.parametrize("error", ANSWERED, ids=lambda error: error.code)
def test_every_error_can_be_answered(error: type[errors.GaplessError]) -> None:
    # Step Functions and logs use the class's name.
    assert vars(errors)[error.__name__] is error
    assert error.title.endswith(".")
    assert error.status in range(400, 600)


def test_docs_have_a_row_for_every_error_and_for_no_other() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (\d{3}) \| (.+)\|$", ERRORS_MD, re.MULTILINE)
    assert sorted((code, int(status)) for code, status, _ in rows) == sorted(STATUS_OF_CODE.items())
    for code, _, rest in rows:
        when, what_to_do, members = rest.split(" | ")
        assert all((when.strip(), what_to_do.strip(), members.strip())), code


def test_docs_name_no_unknown_code() -> None:
    """In the docs, a code-formatted word with an underscore is an error code or in ``REASONS``."""
    others = REASONS
    for name in ("errors.md", "protocol.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        named = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", text))
        assert named <= STATUS_OF_CODE.keys() | others, name


def test_every_reason_of_a_failure_is_documented() -> None:
    known = {"missing_batches", "unexpected_batches", "record_count", "too_large", "merge_failed"}
    assert known == REASONS
    failed = OPENAPI["components"]["schemas"]["FinishFailed"]["properties"]["reason"]
    assert set(failed["enum"]) == REASONS
    rows = re.findall(r"^\| 200 `Failed`, `(\w+)`", PROTOCOL_MD, re.MULTILINE)
    assert set(rows) == REASONS


def test_openapi_gives_every_code_under_its_status() -> None:
    given = {(code, status) for status, media in problems() for code in codes(media)}
    assert given == set(STATUS_OF_CODE.items())


def test_openapi_examples_of_problems_are_what_the_service_says() -> None:
    titles = {error.code: error.title for error in ANSWERED}
    for status, media in problems():
        examples = [media["example"]] if "example" in media else []
        examples += [example["value"] for example in media.get("examples", {}).values()]
        assert examples
        for problem in examples:
            assert problem["code"] in codes(media)
            assert problem["status"] == status
            assert problem["type"] == f"urn:gapless:error:{problem['code']}"
            if problem["code"] not in INTERNAL:
                assert problem["title"] == titles[problem["code"]]
                assert problem["detail"]


def test_openapi_has_the_routes_of_the_template() -> None:
    template = Template.load(ROOT / "template.yaml")
    assert {route for route, _ in operations()} == {route.key for route in template.routes}


def test_openapi_has_the_limits_of_the_code() -> None:
    schemas = OPENAPI["components"]["schemas"]
    session = schemas["SessionRequest"]["properties"]
    assert session["totalRecord"]["maximum"] == limits.MAX_INTEGER
    assert session["batchSize"]["maximum"] == limits.MAX_INTEGER
    assert schemas["BatchRequest"]["properties"]["seqNum"]["maximum"] == limits.MAX_SEQ_NUM
    said = schemas["FinishRequest"]["properties"]
    assert said["totalRecord"]["maximum"] == limits.MAX_INTEGER
    assert said["batches"]["maximum"] == limits.MAX_SEQ_NUM + 1
    assert schemas["Ranges"]["maxItems"] == limits.MAX_MISSING_RANGES
    created = resolved(OPENAPI["paths"]["/api/upload/sessions"]["post"]["responses"]["201"])
    assert created["content"]["application/json"]["example"]["limits"] == {
        "maxBodyBytes": limits.MAX_BODY_BYTES,
        "maxInflatedBytes": limits.MAX_INFLATED_BYTES,
        "maxSeqNum": limits.MAX_SEQ_NUM,
    }


@pytest.mark.parametrize(
    "written",
    [
        f"| {limits.MAX_SEQ_NUM + 1:,} (`seqNum` 0 to {limits.MAX_SEQ_NUM:,}) |",
        f"| {limits.MAX_BODY_BYTES:,} bytes |",
        f"| {limits.MAX_INFLATED_BYTES // limits.MIB} MiB |",
        f"| {limits.MAX_INTEGER:,} |",
        f"| {limits.MAX_MISSING_RANGES:,} |",
        f"| {limits.PRESIGNED_URL_SECONDS // 60} minutes |",
        f"| {limits.MAX_MERGED_BYTES // 1024**4} TiB |",
        f"more than one object takes, {limits.MAX_MERGED_BYTES // 1024**4} TiB",
        f"works for {limits.PRESIGNED_URL_SECONDS // 60} minutes",
        f"Beyond {limits.MAX_MISSING_RANGES:,} ranges",
        f"up to {limits.LATEST_FINISH_SECONDS // 86_400} days after its creation",
    ],
)
def test_protocol_has_the_limits_of_the_code(written: str) -> None:
    assert written in PROTOCOL_MD


def test_scale_has_the_estimates_of_the_code() -> None:
    definition = json.loads((ROOT / "statemachine/merge.asl.json").read_text(encoding="utf-8"))
    at_once = limits.CHILDREN_AT_ONCE
    text = " ".join(SCALE_MD.split())
    for written in (
        f"*batches* / {limits.READS_PER_SECOND:,} + *bytes* / {limits.BYTES_PER_SECOND:,} seconds",
        f"A copied part counts {limits.COPY_SECONDS} s",
        f"more than {limits.INLINE_SHARE:.0%} of its 29 s".replace("%", " %"),
        f"Shares are of {limits.CHILD_SECONDS} s at most, and at least {limits.CHILDREN}",
        f"then *waves of {at_once}* \N{MULTIPLICATION SIGN} {limits.CHILD_SECONDS} s",
        f"| {at_once} children at once, fewer for small batches |",
        f"| {limits.MAX_SEQ_NUM + 1:,} batches |",
        f"| {limits.MAX_PARTS:,} parts |",
        f"| {definition['TimeoutSeconds'] // 3600} hours |",
    ):
        assert written in text


COST_TABLES = cost.chapter().tables


@pytest.mark.parametrize("title", COST_TABLES)
def test_costs_are_those_of_the_model(title: str) -> None:
    """``make bench ONLY=cost DOCS=1`` updates the tables."""
    table = f"<!-- cost.{title} -->\n\n{report.markdown(COST_TABLES[title])}\n<!-- end -->"
    assert (SCALE_MD + PERFORMANCE_MD).count(table) == 1


def test_costs_are_of_the_memory_that_is_deployed() -> None:
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^  (\w+):\n(?:    .*\n)*?      MemorySize: (\d+)", template, re.MULTILINE)
    deployed = {name: int(size) for name, size in found}
    assert deployed.items() >= cost.MEMORY_MB.items()


@pytest.mark.parametrize("name", cost.SIZES)
def test_costs_are_of_batches_as_the_client_makes_them(name: str) -> None:
    upload = cost.SIZES[name]
    most = batching.TARGET_BYTES
    if upload.strict:
        # The largest power of two that fits is the client's choice.
        assert upload.batch_bytes <= most < 2 * upload.batch_bytes
        assert upload.batch_size.bit_count() == 1
    else:
        assert upload.batch_bytes == -(-upload.bytes // batching.MAX_BATCHES) > most
    assert upload.sent_bytes <= limits.MAX_BODY_BYTES


@pytest.mark.parametrize(
    "written",
    [
        f"larger than {limits.MAX_BODY_BYTES:,} bytes",
        f"more than {limits.MAX_INFLATED_BYTES // limits.MIB} MiB",
        f"from 0 to {limits.MAX_SEQ_NUM} in plain digits",
        f"from 0 to {limits.MAX_INTEGER} in plain digits",
        f"from 0 to {limits.MAX_SEQ_NUM + 1:,} in plain digits",
        f"from 1 to {limits.MAX_INTEGER} in plain digits",
        f"more than {limits.MAX_SEQ_NUM + 1:,} batches",
    ],
)
def test_errors_have_the_limits_of_the_code(written: str) -> None:
    assert written in ERRORS_MD


def test_events_are_listed_with_their_answers() -> None:
    listed = re.findall(
        r"^\| `(\w+\.json)` \| (\d{3})(?: `(\w+)`)?",
        (ROOT / "events/README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert sorted(name for name, _, _ in listed) == [path.name for path in EVENTS]
    for name, status, code in listed:
        if int(status) >= 400:
            assert STATUS_OF_CODE[code] == int(status), name


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_events_are_of_a_route(path: Path) -> None:
    event = json.loads(path.read_text(encoding="utf-8"))
    assert event["version"] == "2.0"
    assert event["routeKey"] in {route for route, _ in operations()}
    method, _, pattern = event["routeKey"].partition(" ")
    parameters = event.get("pathParameters", {})
    assert event["rawPath"] == pattern.format(**parameters)
    http = event["requestContext"]["http"]
    assert (http["method"], http["path"]) == (method, event["rawPath"])
    assert event["requestContext"]["routeKey"] == event["routeKey"]
    assert all(name == name.lower() for name in event["headers"])
