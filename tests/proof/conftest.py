"""Fixtures of the proofs: the World that they share, and the summary of what was run."""

import gc
from collections.abc import Iterator

import pytest

from tests.conftest import MotoStack
from tests.proof import world as proof_world
from tests.proof.world import World


@pytest.fixture(scope="module")
def _world(local: MotoStack) -> Iterator[World]:
    assert local.aws.handler is None
    with proof_world.world(processes=3) as world:
        yield world


@pytest.fixture
def world(_world: World) -> World:
    """Three processes that share moto."""
    return _world


def pytest_collection_finish() -> None:
    """Exclude everything loaded so far from garbage collection, which takes 5 % of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if proof_world.COUNTS:
        told = ", ".join(f"{number:,} {what}" for what, number in proof_world.COUNTS.items())
        terminalreporter.write_line(f"proof: {told}")
