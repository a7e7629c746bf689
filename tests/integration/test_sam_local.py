"""``make sam-local``, where it cannot run. Where it can, ``make test-sam-local`` tests it."""

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
