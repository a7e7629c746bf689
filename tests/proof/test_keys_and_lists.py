"""Idempotency keys and lists, under concurrency, faults and time."""

import pytest

from tests.proof.keys_and_lists import KEYS_AND_LISTS
from tests.proof.world import World


@pytest.mark.parametrize("name", KEYS_AND_LISTS)
def test_keys_and_lists(world: World, name: str) -> None:
    KEYS_AND_LISTS[name](world)
