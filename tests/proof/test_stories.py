"""Every story ends as it should."""

import pytest

from tests.proof.stories import STORIES
from tests.proof.world import World


@pytest.mark.parametrize("name", STORIES)
def test_a_story_ends_well(world: World, name: str) -> None:
    STORIES[name](world)
