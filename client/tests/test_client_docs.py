"""docs/client.md has every command, option, exit code and event, and its examples run."""

import re
from pathlib import Path

import click
import pytest

import gapless
from gapless.cli import EXIT_CODES, cli

PAGE = (Path(__file__).parents[2] / "docs/client.md").read_text()


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_and_option_is_documented(name: str) -> None:
    assert re.search(rf"^\| `gapless {name}[ `]", PAGE, re.MULTILINE)
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[-1]}`" in PAGE, parameter.opts


def test_every_command_teaches_by_example() -> None:
    for name, command in cli.commands.items():
        assert re.search(rf"Examples?:\n +gapless {name}|gapless {name} ", command.help or "")


def test_every_exit_code_is_documented() -> None:
    for code in {0, 1, 130, 141, *(code for _, code in EXIT_CODES)}:
        assert f"\n| {code} | " in PAGE


def test_every_event_is_documented() -> None:
    folder = Path(gapless.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    found = set(re.findall(r'report\(\s*"(\w+)"', source)) - {"reading", "stored", "download"}
    assert {"input", "batch", "retry"} <= found
    for event in found:
        assert f"`{event}`" in PAGE


def test_every_name_of_the_library_that_is_shown_exists() -> None:
    for name in re.findall(r"gapless\.([A-Za-z_]\w*)\(", PAGE):
        assert name in gapless.__all__


def test_the_package_never_imports_the_service() -> None:
    for path in Path(gapless.__file__).parent.glob("*.py"):
        imported = re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
        assert not {"uploads", "local", "tests"}.intersection(imported)
