"""README.md shows what really happens: its session is pasted into bash, against ``make run``."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.readme import SHOWN, measured, updated

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
TARGETS = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md"]
WIDTH = 120
SESSION_ID = re.compile(r"[0-9a-f]{32}")


def clean_environment() -> dict[str, str]:
    """The environment without what points this test process to its stack."""
    ours = ("AWS_", "SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET", "MAKE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    """The port of ``make run``, on one that is free."""
    with subprocess.Popen(
        ["make", "--silent", "run"],
        cwd=ROOT,
        env=clean_environment() | {"PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        assert server.stdout is not None
        said = ""
        while not (found := re.search(r"localhost:(\d+)/api", said)):
            line = server.stdout.readline()
            assert line, f"make run ended: {said}"
            said += line
        yield found[1]
        os.killpg(server.pid, signal.SIGTERM)


def answers(block: str) -> str:
    """What the lines after ``#>`` say; one that begins with a further space continues the last."""
    said = "".join(f"{line[2:]}\n" for line in block.splitlines() if line.startswith("#>"))
    return re.sub(r"^ ", "", said.replace("\n  ", ""), flags=re.MULTILINE)


def test_the_session_can_be_pasted(port: str) -> None:
    (pasted,) = (block for _, block in BLOCKS if "#>" in block)
    done = subprocess.run(
        ["bash"],
        input=pasted.replace("localhost:3000", f"localhost:{port}"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    printed = answers(pasted)
    (printed_id,) = set(SESSION_ID.findall(printed))
    (session_id,) = set(SESSION_ID.findall(done.stdout))
    assert done.stdout.replace(session_id, printed_id) == printed


@pytest.mark.parametrize(("row", "column", "shown"), SHOWN)
def test_the_comparison_has_the_numbers_that_were_measured(
    row: str, column: int, shown: str
) -> None:
    """``make bench DOCS=1`` updates them."""
    expected = shown.format(measured(row, column))
    assert expected in README.replace("\N{NO-BREAK SPACE}", " ")


def test_the_benchmarks_write_these_numbers() -> None:
    wrong = re.sub(r"takes [\d,]+,000 records", "takes 1,000 records", README)
    wrong = re.sub(r"cheapest and fastest: [\d.]+", "cheapest and fastest: 7.77", wrong)
    assert wrong != README
    assert updated(wrong) == README


def test_code_is_not_wider_than_a_page() -> None:
    wide = [line for _, block in BLOCKS for line in block.splitlines() if len(line) > WIDTH]
    assert wide == []


def test_the_drawing_shows_what_is_there() -> None:
    ((_, drawing),) = (block for block in BLOCKS if block[0] == "mermaid")
    handlers = {path.name for path in (ROOT / "functions").glob("*.py")}
    assert set(re.findall(r"\w+\.py", drawing)) == handlers
    packages = set(re.findall(r"uploads/\w+/?", drawing))
    assert len(packages) > 1
    for package in packages:
        found = ROOT / "functions" / package
        assert found.is_dir() if package.endswith("/") else found.with_suffix(".py").is_file()


def test_the_examples_of_the_server_it_replaces(port: str) -> None:
    """The three requests that its clients make, with a real id."""
    root = f"http://localhost:{port}/api/upload/sessions"
    script = f"""
        ID=$(curl -sf -X POST {root} -H "Content-Type: application/json" \
            -d '{{"totalRecord": 2}}' | sed 's/.*"sessionId":"\\([^"]*\\)".*/\\1/')
        curl -sf -X POST {root}/$ID -H "Content-Type: application/json" \
            -d '{{"seqNum": 0, "data": ["batch_data_item_1", "batch_data_item_2"]}}'
        curl -sf -X POST {root}/$ID/finish
    """
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    assert '"validationResult":"Success"' in done.stdout


def test_a_file_is_sent_by_split_and_curl(port: str, tmp_path: Path) -> None:
    (script,) = (block for _, block in BLOCKS if block.startswith("split "))
    orders = b"".join(b'{"id":%d,"note":"\\u00e9"}\n' % n for n in range(25_000))
    (tmp_path / "orders.ndjson").write_bytes(orders)
    root = f"http://localhost:{port}/api/upload/sessions"

    def run(command: str) -> str:
        return subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    wanted = """-d '{"totalRecord": 25000, "batchSize": 10000}'"""
    session_id = SESSION_ID.findall(run(f"curl -sf {root} {wanted}"))[0]
    # Twice, as after a lost connection: the batches are the same.
    for _ in range(2):
        assert run(f"SESSION={root}/{session_id}\n{script}") == ""
    assert '"validationResult":"Success"' in run(f"curl -sf -X POST {root}/{session_id}/finish")
    assert run(f"curl -sfL {root}/{session_id}/file").encode() == orders


def test_the_make_targets_exist() -> None:
    assert {"run", "test", "stack", "sam-local"} <= set(TARGETS)
    for target in TARGETS:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_demo() -> None:
    done = subprocess.run(
        ["make", "--silent", "demo"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "100,000 records" in done.stdout
    assert "missing" in done.stdout
    assert "the download is the input, byte for byte" in done.stdout


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text)
    assert links
    for path, anchor in links:
        target = document.parent / path if path else document
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), f"{path}#{anchor}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_paths_and_make_targets_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    files = re.findall(r"`((?:functions|tests|docs|client|web|local|examples)/[\w./-]*)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"`(?:\w+=\w+ )?make ([a-z-]+)", text)
    assert [one for one in targets if not re.search(rf"^{one}:", makefile, re.MULTILINE)] == []


def test_issue_forms_are_what_github_takes() -> None:
    forms = [
        form for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if form.stem != "config"
    ]
    assert len(forms) > 1
    for form in forms:
        content = yaml.safe_load(form.read_text())
        assert content["name"]
        assert content["description"]
        fields = [field for field in content["body"] if field["type"] != "markdown"]
        ids = [field["id"] for field in fields]
        assert len(set(ids)) == len(ids)
        assert any(field.get("validations", {}).get("required") for field in fields)
        for field in content["body"]:
            assert field["type"] in {"markdown", "input", "textarea", "dropdown", "checkboxes"}
            assert field["attributes"]["value" if field["type"] == "markdown" else "label"]
            assert field["type"] not in {"dropdown", "checkboxes"} or field["attributes"]["options"]
