"""Idempotency keys and lists, under concurrency, faults and time."""

import pytest

from tests.proof.naming import NAMING
from tests.proof.world import World


@pytest.mark.parametrize("name", NAMING)
def test_keys_and_lists(world: World, name: str) -> None:
    NAMING[name](world)
