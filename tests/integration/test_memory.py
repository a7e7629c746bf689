"""Composing holds the parts in flight in memory, and nothing that grows with the session."""

from pathlib import Path

import pytest

from benchmarks import compose

ROOT = Path(__file__).parents[2]


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see memory")
@pytest.mark.parametrize("batches", [1_000, 10_000])
def test_composing_is_bounded_in_memory(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "functions"))
    with compose.look_alike(batches, 100_000, 0, 0) as endpoint:
        measured = compose.in_a_process("gapless", endpoint)
    assert measured["records"] == batches
    assert measured["mib"] <= compose.PROMISED_MIB
