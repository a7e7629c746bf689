"""Every call of every operation fails in every way; the client's retries reach the same end."""

import pytest

from tests.proof import world as proof_world
from tests.proof.crashes import OPERATIONS, AnsweredTooLate, faults
from tests.proof.world import World, count


@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_fails_the_end_is_the_same(world: World, name: str) -> None:
    operation = OPERATIONS[name]
    calls, end = operation.calls(world)
    for at in range(1, calls + 1):
        count("crash points")
        for kind in faults(at):
            assert operation.run(world, kind, at) == end, (kind, at)
            count("faults")


@pytest.mark.parametrize("name", ["batch", "finish, copied"])
def test_an_answer_that_comes_too_late(world: World, name: str) -> None:
    operation = OPERATIONS[name]
    # Count with the patient world: on a busy machine impatient clients may retry more often.
    calls, end = operation.calls(world)
    with proof_world.world(processes=2, impatient=True) as impatient:
        for at in range(1, calls + 1):
            assert operation.run(impatient, AnsweredTooLate, at) == end, at
            count("faults")
