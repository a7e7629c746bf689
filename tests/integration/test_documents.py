"""The console examples of docs/protocol.md and docs/schemas.md are what really happens."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
PRINTED_ID = "0123456789abcdef0123456789abcdef"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
STEP = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def steps(name: str, heading: str) -> list[tuple[str, str]]:
    """Each command of the console blocks after ``heading``, and what is printed below it."""
    _, _, text = (DOCS / name).read_text(encoding="utf-8").partition(f"\n{heading}\n")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [step for block in blocks for step in STEP.findall(block)]


@pytest.mark.parametrize(
    ("name", "heading"),
    [("protocol.md", "## Requests"), ("schemas.md", "## A worked example")],
)
def test_the_examples(server_url: str, tmp_path: Path, name: str, heading: str) -> None:
    variables = f"API={server_url}/api/upload/sessions\n"
    session_id = ""
    found = steps(name, heading)
    assert len(found) > 5
    for command, printed in found:
        if command.startswith("cat "):
            (tmp_path / command.removeprefix("cat ")).write_text(printed, encoding="utf-8")
        step = command.replace("http://localhost:3000", server_url)
        step = step.replace(PRINTED_ID, session_id or PRINTED_ID)
        done = subprocess.run(
            ["bash", "-c", variables + step],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        if re.match(r"[A-Z]+=", step):
            variables += f"{step}\n"
        if not session_id and (created := re.search(r'"sessionId":"(\w+)"', done.stdout)):
            session_id = created[1]
        said = TIME.sub("TIME", done.stdout).replace(session_id or PRINTED_ID, PRINTED_ID)
        # An ellipsis stands for anything; curl prints no line end after a body.
        expected = re.escape(TIME.sub("TIME", printed).rstrip("\n")).replace("…", ".*")
        assert re.fullmatch(expected, said.rstrip("\n")), f"{command}\n{said}"
