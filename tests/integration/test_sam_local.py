"""``make sam-local`` on machines where it cannot run. Else ``make test-sam-local`` tests it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from local import sam_local


def test_without_docker_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sam_local.NoDockerError, match=r"^make sam-local needs a running Docker"):
        sam_local.serve()
    assert sam_local.test([]) == 0
    said = capsys.readouterr().out
    assert said == "make test-sam-local is skipped: there is no running Docker engine\n"


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1"])
def test_a_port_is_a_number(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("PORT", port)
    with pytest.raises(sam_local.StartError, match=r"^PORT must be a number from 1 to 65535"):
        sam_local.serve()


NEW_ENGINE = """#!/bin/sh
# An engine that runs for the first time: its bridge has a subnet, and no gateway yet.
case "$1" in
  network) echo ;;
  run) echo "$SEEN" ;;
esac
"""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """The host's address as containers see it, with a faked container engine."""
    docker = tmp_path / "docker"
    docker.write_text(NEW_ENGINE)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def see(address: str) -> str:
        monkeypatch.setenv("SEEN", address)
        return sam_local._host_seen_from("image")  # noqa: SLF001

    return see


def test_the_address_of_this_machine_is_what_containers_see(seen: Callable[[str], str]) -> None:
    assert seen("172.17.0.1") == "172.17.0.1"


@pytest.mark.parametrize("nothing", ["", "host.docker.internal"])
def test_without_an_address_nothing_is_served(seen: Callable[[str], str], nothing: str) -> None:
    """An empty address would mean all interfaces, and make no URL."""
    with pytest.raises(sam_local.StartError, match="sees no address of this machine"):
        seen(nothing)
