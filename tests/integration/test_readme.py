"""README.md is true: its console sessions are run as printed, against ``make run``."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SESSIONS = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
TARGETS = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
SESSION_ID = re.compile(r"[0-9a-f]{32}")


def newcomers_environment() -> dict[str, str]:
    """The environment without the variables that point to this process's stack."""
    ours = ("AWS_", "SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET", "MAKE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    """The port of a ``make run``."""
    with subprocess.Popen(
        ["make", "--silent", "run"],
        cwd=ROOT,
        env=newcomers_environment() | {"PORT": "0"},
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


def test_the_console_sessions(port: str) -> None:
    assert len(SESSIONS) > 1
    printed = "".join(SESSIONS)
    commands = [line[2:] for line in printed.splitlines() if line.startswith("$ ")]
    printed_id = SESSION_ID.findall(printed)[0]
    steps = re.split(r"^\$ .*\n", printed, flags=re.MULTILINE)[1:]
    script = ""
    session_id = ""
    for command, expected in zip(commands, steps, strict=True):
        # All steps share a shell, so that variables remain.
        step = command.replace("localhost:3000", f"localhost:{port}")
        step = step.replace(printed_id, session_id or printed_id)
        done = subprocess.run(
            ["bash", "-c", f"{script}{step}"],
            capture_output=True,
            text=True,
            check=True,
        )
        if re.match(r"[A-Z]+=", step):
            script += f"{step}\n"
        session_id = session_id or SESSION_ID.findall(done.stdout)[0]
        said = TIME.sub("TIME", done.stdout.replace(session_id, printed_id))
        # curl prints no line feed after a body.
        assert said.rstrip("\n") == TIME.sub("TIME", expected).rstrip("\n"), command


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
    (script,) = re.findall(r"^```sh\n(split .*?)^```", README, re.MULTILINE | re.DOTALL)
    orders = b"".join(b'{"id":%d,"note":"\\u00e9"}\n' % n for n in range(25_000))
    (tmp_path / "orders.ndjson").write_bytes(orders)
    root = f"http://localhost:{port}/api/upload/sessions"

    def run(command: str) -> str:
        return subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    asked = """-d '{"totalRecord": 25000, "batchSize": 10000}'"""
    session_id = SESSION_ID.findall(run(f"curl -sf {root} {asked}"))[0]
    # Twice, as after a lost connection: the batches are the same.
    for _ in range(2):
        assert run(f"URL={root}/{session_id}\n{script}") == ""
    assert '"validationResult":"Success"' in run(f"curl -sf -X POST {root}/{session_id}/finish")
    assert run(f"curl -sfL {root}/{session_id}/file").encode() == orders


def test_the_make_targets_exist() -> None:
    assert {"run", "demo", "test"} <= set(TARGETS)
    for target in TARGETS:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_demo() -> None:
    done = subprocess.run(
        ["make", "--silent", "demo"],
        cwd=ROOT,
        env=newcomers_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "100,000 records" in done.stdout
    assert "missing" in done.stdout
    assert "the download is the input, byte for byte" in done.stdout


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []
