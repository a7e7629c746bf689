"""Orders and faults that once broke an invariant."""

from dataclasses import replace

import pytest

from tests.proof.crashes import OPERATIONS, DelayedALittle, Lost
from tests.proof.scenarios import SCENARIOS
from tests.proof.world import World

ORDERS = {
    # Planning created an upload after the clean-up had listed uploads: it stayed open.
    "an upload begun during a clean-up": ("long merge, abort, clean-up", "P0 P0 P1 " + "P2 " * 4),
    # The slower attempt found the object, and did not abort its own upload.
    "an upload that came second": ("copied finish, late finish", "P0 " * 3 + "P1 " * 11),
    "an upload that the clean-up took away": (
        "finish, abort, clean-up",
        "P0 " * 6 + "P1 " + "P2 " * 6,
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order(world: World, name: str) -> None:
    scenario, begins = ORDERS[name]
    explored, _ = replace(SCENARIOS[scenario], begins=begins.split(), bound=0).explore(world)
    assert explored.runs


@pytest.mark.parametrize("kind", [Lost, DelayedALittle])
@pytest.mark.parametrize(("operation", "create"), [("finish, copied", 4), ("finish, streamed", 3)])
def test_a_second_upload_where_the_answer_to_the_first_was_lost(
    world: World, operation: str, create: int, kind: type[Lost] | type[DelayedALittle]
) -> None:
    assert OPERATIONS[operation].run(world, kind, create) == "Success"
