"""Every order of concurrent invocations keeps the guarantees."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.proof.scenarios import SCENARIOS
from tests.proof.schedules import Choose, Run, explore
from tests.proof.world import OWNER, STRANGER, Answer, Process, World, count, require, scale


@contextmanager
def busy_machine() -> Iterator[None]:
    """Run other work on every core, and make Python switch threads all the time."""
    interval = sys.getswitchinterval()
    # At low priority, so that the test does not take much longer.
    work = ["nice", "-n", "10", sys.executable, "-ISc", "while True: pass"]
    busy = [subprocess.Popen(work) for _ in range(os.cpu_count() or 1)]
    sys.setswitchinterval(interval / 100)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        for process in busy:
            process.kill()
            process.wait()


MADE_AGAIN = {
    "batch, finish; strict",
    "streamed finish, abort",
    "copied finish, late finish",
    "finish in time, another too late",
    "failing finish, late finish in parts, batch",
    "failing long merge, abort",
    "batch, abort, clean-up",
    "a seal again",
    "gzip: long merge of one part, late finish",
}
"""One scenario of each kind, which is run twice, the second time on a busy machine."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_guarantees_hold_in_every_order(world: World, name: str) -> None:
    explored, ends = SCENARIOS[name].explore(world)
    count("schedules", explored.runs)
    assert explored.runs > 1
    assert ends <= {"Success", "Failed", "session_aborted", "session_expired"}
    # Scenarios of one kind are repeatable for the same reasons.
    if scale() > 1 or name in MADE_AGAIN:
        with busy_machine():
            # A schedule that cannot be replayed cannot be debugged.
            assert SCENARIOS[name].explore(world) == (explored, ends)


def test_what_is_made_again_is_there() -> None:
    assert SCENARIOS.keys() >= MADE_AGAIN


@pytest.mark.parametrize("name", ["batch, another", "batch, abort"])
def test_nothing_is_lost_by_making_runs_that_are_the_same_only_once(
    world: World, name: str
) -> None:
    reduced, ends = SCENARIOS[name].explore(world)
    every, every_end = SCENARIOS[name].explore(world, reduce=False)
    assert reduced.runs < every.runs
    assert ends == every_end


GUESSES: dict[str, Callable[[Process, str, str], Answer]] = {
    "batch": lambda process, session_id, user: process.batch(session_id, 0, [0], user),
    "finish": lambda process, session_id, user: process.finish(session_id, user),
    "status": lambda process, session_id, user: process.status(session_id, user),
    "file": lambda process, session_id, user: process.file(session_id, user),
    "abort": lambda process, session_id, user: process.abort(session_id, user),
}


@pytest.mark.parametrize("user", [OWNER, STRANGER], ids=["owner", "stranger"])
@pytest.mark.parametrize("act", GUESSES)
def test_an_id_that_is_guessed_while_it_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch, act: str, user: str
) -> None:
    session_id = "0123456789abcdef" * 2
    monkeypatch.setattr(secrets, "token_hex", lambda size: session_id[: 2 * size])
    unknown = GUESSES[act](world.processes[1], "f" * 32, user)

    def once(choose: Choose) -> bool:
        run = Run(choose, lambda *_: None)
        answers: list[Answer] = []
        creator, guesser = world.processes[:2]
        with creator.aws.handled(run.handler("P0")), guesser.aws.handled(run.handler("P1")):
            run.start("P0", lambda: answers.append(creator.create(1, 1)))
            run.start("P1", lambda: answers.append(GUESSES[act](guesser, session_id, user)))
            ended = run.finish()
        facts = world.facts(session_id)
        world.remove(session_id)
        if ended:
            count("schedules")
            created, guessed = sorted(answers, key=lambda answer: answer.status != 201)
            require(created.status == 201, "not created", created)
            if user == STRANGER:
                require(guessed == unknown, "a stranger learns that the session exists", guessed)
                require(not facts.batches, "a stranger filled a session")
                require((facts.item or {}).get("attempt") == 0, "a stranger changed a session")
        return ended

    assert explore(once).runs > 1
