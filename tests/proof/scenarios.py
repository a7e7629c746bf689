"""Sessions, and what happens to them at once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from tests.aws import Answer as AwsAnswer
from tests.aws import Call, Handler
from tests.proof.crashes import LONG, NOISE, STREAMED, Data
from tests.proof.schedules import Choose, Explored, Run, Step, explore
from tests.proof.world import (
    GZIP,
    NOTHING,
    PLAIN,
    Answer,
    History,
    Process,
    Said,
    World,
    observe,
    scale,
    told,
)

Made = tuple[list[tuple[str, Step]], list[tuple[str, str, str]]]
"""The calls of a run in their order, and all calls there were, of each process in theirs."""
Invocation = Callable[[World, Process, History, str], Answer]


def finish(world: World, process: Process, history: History, session_id: str) -> Answer:
    return world.finish(process, history, session_id)


def late_finish(world: World, process: Process, history: History, session_id: str) -> Answer:
    """For this one every lease has run out."""
    process.clock.ahead = 100
    return world.finish(process, history, session_id)


def says(total: int | None = None, batches: int | None = None, *, late: bool = False) -> Invocation:
    """A finish that says so; for a ``late`` one every lease has run out."""

    def finish(world: World, process: Process, history: History, session_id: str) -> Answer:
        process.clock.ahead = 100 if late else 0
        return world.finish(process, history, session_id, said=Said(total, batches))

    return finish


def when_time_is_over(act: Invocation, seconds: int) -> Invocation:
    """``act``, so many seconds after the session has stopped taking batches."""

    def later(world: World, process: Process, history: History, session_id: str) -> Answer:
        item = world.facts(session_id).item
        assert item is not None
        process.clock.ahead = item["batchesUntil"] + seconds - process.clock.START
        return act(world, process, history, session_id)

    return later


def status(world: World, process: Process, history: History, session_id: str) -> Answer:
    return world.status(process, history, session_id)


def abort(world: World, process: Process, history: History, session_id: str) -> Answer:
    return world.abort(process, history, session_id)


def batch(seq_num: int, *data: object) -> Invocation:
    def send(world: World, process: Process, history: History, session_id: str) -> Answer:
        return world.send(process, history, session_id, seq_num, data)

    return send


def clean_up(world: World, process: Process, history: History, session_id: str) -> Answer:
    """What the table's stream has said by then."""
    del session_id
    world.clean_up(process, history)
    return Answer(0, None)


def clean_up_to_the_end(
    world: World, process: Process, history: History, session_id: str
) -> Answer:
    """And then the merged object is deleted, too."""
    if world.clean_up(process, history):
        world.forget_object(session_id, history)
    return Answer(0, None)


def delete_file(world: World, process: Process, history: History, session_id: str) -> Answer:
    return world.delete_file(process, history, session_id)


def finish_and_delete(world: World, process: Process, history: History, session_id: str) -> Answer:
    """By a client that finishes when every lease has run out."""
    late_finish(world, process, history, session_id)
    return world.delete_file(process, history, session_id)


def merge(world: World, process: Process, history: History, session_id: str) -> Answer:
    """The execution that a finish has started, to its end."""
    del session_id
    world.run_started(process, history)
    return Answer(0, None)


def _handle(
    turn: Handler, history: History, call: Call, forward: Callable[[], AwsAnswer]
) -> AwsAnswer:
    answer = turn(call, forward)
    told(history, call, answer)
    return answer


@dataclass(frozen=True)
class Scenario:
    """A session, what is in it, and what happens to it at once."""

    total: int | None
    size: int | None
    before: Data
    """What is there already."""
    invocations: Sequence[Invocation]
    data: Data = field(default_factory=dict)
    """What the client sends in the end where it is missing."""
    bound: int | None = None
    """Most preemptions; None for every order."""
    begins: Sequence[str] = ()
    """Whose turns come first."""
    duplicate: tuple[int, int] | None = None
    """A call that arrives once more, later: of which invocation, and the how manieth."""
    long: bool = False
    """A finish has handed the session over to the state machine."""
    form: str = PLAIN
    """The merged object's."""
    says: Said = NOTHING
    """What the client's own finishes say."""

    def _begin(self, world: World) -> tuple[str, History]:
        session_id, history = world.create(self.total, self.size, self.form, self.says)
        first = world.processes[0]
        for seq_num, data in self.before.items():
            world.send(first, history, session_id, seq_num, data)
        for process in world.processes:
            process.forget()
        if self.bound is not None:
            # So that a batch begins with its write, and needs no preemption before it.
            world.warm(session_id)
        if self.long:
            world.finish(first, history, session_id, long=True)
        return session_id, history

    def run(self, world: World, choose: Choose) -> tuple[Made, str] | None:
        """One run, in the order that ``choose`` says: what was called, and its end."""
        session_id, history = self._begin(world)
        turns = iter(self.begins)

        def chosen(waiting: Mapping[str, Step]) -> str | None:
            return next(turns, None) or choose(waiting)

        run = Run(chosen, partial(observe, history))
        if self.duplicate:
            of, number = self.duplicate
            run.duplicate("duplicate", world.processes[of].name, number)
        try:
            with ExitStack() as handled:
                for process, act in zip(world.processes, self.invocations, strict=False):
                    handle = partial(_handle, run.handler(process.name), history)
                    handled.enter_context(process.aws.handled(handle))
                    run.start(process.name, partial(act, world, process, history, session_id))
                if not run.finish():
                    return None
            end = world.settle(session_id, history, {**self.before, **self.data})
        except Exception as error:
            error.add_note("\n".join(f"{name} {step.operation}" for name, step in run.trace))
            raise
        else:
            calls = [
                (process.name, call.operation, call.key.replace(session_id, ""))
                for process in world.processes
                for call in process.aws.calls
            ]
            return (run.trace, calls), end
        finally:
            world.remove(session_id)

    def explore(self, world: World, *, reduce: bool = True) -> tuple[Explored, set[str]]:
        """Every run, or all within the bound: how many, and what their ends are."""
        ends = set()
        made = []

        def run(choose: Choose) -> bool:
            done = self.run(world, choose)
            if done:
                made.append(done[0])
                ends.add(done[1])
            return done is not None

        bound = None if self.bound is None else self.bound + scale() - 1
        explored = explore(run, bound, reduce=reduce)
        return replace(explored, made=made), ends


ONE: Final = {0: [0]}

_COMPRESSED: Final = {
    "one put": Scenario(2, 1, ONE, [batch(1, 1), finish], {1: [1]}),
    "one put, late finish": Scenario(1, None, ONE, [finish, late_finish]),
    "batch, the same": Scenario(1, 1, {}, [batch(0, 0), batch(0, 0)], {0: [0]}),
    "batch, another": Scenario(1, None, {}, [batch(0, 0), batch(0, 1)], {0: [0]}),
    "streamed, abort": Scenario(5, None, STREAMED, [finish, abort]),
    "copied, late finish": Scenario(3, 1, NOISE, [finish, late_finish], bound=1),
    "copied, batch, late finish": Scenario(
        3,
        1,
        {0: NOISE[0], 1: NOISE[1]},
        [finish, late_finish, batch(2, *NOISE[2])],
        {2: NOISE[2]},
        bound=1,
    ),
    "long merge, abort": Scenario(3, None, NOISE, [merge, abort], long=True),
    "long merge, late finish": Scenario(3, None, NOISE, [merge, late_finish], long=True, bound=1),
    "long merge of one part, late finish": Scenario(
        1, None, ONE, [merge, late_finish], long=True, bound=1
    ),
    "long merge, a batch too many": Scenario(
        3, None, NOISE, [merge, batch(3, 2)], long=True, bound=1
    ),
}

_TOTALS: Final = {
    "totals: right, late wrong": Scenario(
        None, None, ONE, [says(1), says(2, late=True)], says=Said(1)
    ),
    "totals: wrong, late right": Scenario(
        None, None, ONE, [says(2), says(1, late=True)], says=Said(1)
    ),
    "totals: batches, late others": Scenario(
        None, None, ONE, [says(1, 1), says(1, 2, late=True)], says=Said(1, 1)
    ),
    # Both are right when they are sent: it depends on what has arrived.
    "totals: more, late less": Scenario(
        None, None, ONE, [says(2, 2), says(1, late=True)], {1: [1]}, says=Said(2, 2)
    ),
    "totals: of a strict session": Scenario(
        2, 1, ONE, [says(2, 2), batch(1, 1)], {1: [1]}, says=Said(2, 2)
    ),
    "totals: a batch beyond, late finish": Scenario(
        None,
        None,
        ONE,
        [says(1, 1), says(2, late=True), batch(1, 1)],
        bound=1,
        begins=("P0",),
        says=Said(1, 1),
    ),
    "totals: long merge, late others": Scenario(
        None, None, ONE, [merge, says(2, late=True)], long=True, bound=1, says=Said(1, 1)
    ),
}

SLOW_SMALL: Final = ("P0",) * 2 + ("P1",) * 7
"""One has listed, another one comes to its end: seal, list, read, decide, publish (2), commit."""
SLOW_MULTIPART: Final = ("P0",) * 2 + ("P1",) * 11
"""The same, with an upload of two parts that are copied."""
SLOW_DECIDED: Final = ("P0",) * 3 + ("P1",) * 13
"""One has decided, another one takes over: it looks for the object before it lists, and for its
dates before it commits."""

SCENARIOS: Final = {
    # Two at once: every order.
    "batch, finish; strict": Scenario(2, 1, ONE, [batch(1, 1), finish], {1: [1]}),
    "batch, finish; flexible": Scenario(2, None, ONE, [batch(1, 1), finish], {1: [1]}),
    "a batch too many, finish": Scenario(1, None, ONE, [batch(1, 1), finish]),
    "batch, the same": Scenario(1, 1, {}, [batch(0, 0), batch(0, 0)], {0: [0]}),
    "batch, another": Scenario(1, None, {}, [batch(0, 0), batch(0, 1)], {0: [0]}),
    "batch, abort": Scenario(1, None, {}, [batch(0, 0), abort], {0: [0]}),
    "abort, abort": Scenario(1, None, ONE, [abort, abort]),
    "finish, finish": Scenario(1, None, ONE, [finish, finish]),
    "finish, late finish; strict": Scenario(1, 1, ONE, [finish, late_finish]),
    "finish, late finish; flexible": Scenario(1, None, ONE, [finish, late_finish]),
    "failing finish, late finish": Scenario(2, 1, ONE, [finish, late_finish], {1: [1]}),
    "finish, abort; strict": Scenario(1, 1, ONE, [finish, abort]),
    "finish, abort; flexible": Scenario(1, None, ONE, [finish, abort]),
    "failing finish, abort": Scenario(2, 1, ONE, [finish, abort], {1: [1]}),
    "multipart finish, abort": Scenario(2, None, LONG, [finish, abort]),
    "streamed finish, abort": Scenario(5, None, STREAMED, [finish, abort]),
    "multipart finish, late finish": Scenario(2, None, LONG, [finish, late_finish]),
    "copied finish, late finish": Scenario(2, 1, LONG, [finish, late_finish], bound=1),
    # At the end of a session's life: what was sent in time may come a minute late.
    "finish in time, another too late": Scenario(
        1, None, ONE, [when_time_is_over(finish, -10), when_time_is_over(finish, 40)]
    ),
    "finish in time, status too late": Scenario(
        1, 1, ONE, [when_time_is_over(finish, -10), when_time_is_over(status, 40)]
    ),
    "finish begun in time, another much later": Scenario(
        2,
        None,
        LONG,
        [when_time_is_over(finish, -10), when_time_is_over(finish, 3_600)],
        bound=1,
        begins=("P0",),
    ),
    "abort, finish too late": Scenario(
        1, None, ONE, [when_time_is_over(abort, -10), when_time_is_over(finish, 40)]
    ),
    # One that thinks its lease has run out, or whose did.
    "failing finish, late finish in parts, batch": Scenario(
        2,
        1,
        {0: LONG[0]},
        [finish, late_finish, batch(1, *LONG[1])],
        {1: LONG[1]},
        bound=1,
        begins=("P0", "P0", "P2", "P1", "P1", "P1", "P1"),
    ),
    # A long merge.
    "long merge, abort": Scenario(2, None, LONG, [merge, abort], long=True),
    "long merge, late finish": Scenario(2, None, LONG, [merge, late_finish], long=True, bound=1),
    "long merge, a batch too many": Scenario(
        2, None, LONG, [merge, batch(2, 2)], long=True, bound=1
    ),
    "failing long merge, abort": Scenario(
        3, None, LONG, [merge, abort], {2: [2]}, long=True, bound=1
    ),
    # Three at once: a bound on preemptions, which PROOF_SCALE raises.
    "batch, finish, late finish": Scenario(
        2, 1, ONE, [finish, late_finish, batch(1, 1)], {1: [1]}, bound=1
    ),
    "a batch too many, finish, late finish": Scenario(
        1, None, ONE, [finish, late_finish, batch(1, 1)], bound=1
    ),
    "batch, the same, finish": Scenario(
        2, None, ONE, [batch(1, 1), batch(1, 1), finish], {1: [1]}, bound=1
    ),
    "finish, late finish, abort": Scenario(1, None, ONE, [finish, late_finish, abort], bound=1),
    # The clean-up, which follows what the table's stream says.
    "finish, clean-up": Scenario(2, 1, {0: [0], 1: [1]}, [finish, clean_up]),
    "failing finish, clean-up": Scenario(2, 1, ONE, [finish, clean_up], {1: [1]}),
    "abort, clean-up": Scenario(1, None, ONE, [abort, clean_up]),
    "multipart finish, clean-up": Scenario(2, None, LONG, [finish, clean_up]),
    "status, finish, clean-up": Scenario(
        2, 1, {0: [0], 1: [1]}, [status, finish, clean_up], bound=1, begins=("P0",)
    ),
    "batch, finish, clean-up": Scenario(1, None, ONE, [finish, clean_up, batch(1, 1)], bound=1),
    "batch, abort, clean-up": Scenario(
        1, None, {}, [abort, clean_up, batch(0, 0)], {0: [0]}, bound=1
    ),
    "finish, abort, clean-up": Scenario(2, None, LONG, [finish, abort, clean_up], bound=1),
    "failing finish, late finish, clean-up": Scenario(
        2, 1, ONE, [finish, late_finish, clean_up], {1: [1]}, bound=1, begins=("P0",)
    ),
    "long merge, abort, clean-up": Scenario(
        2, None, LONG, [merge, abort, clean_up], long=True, bound=1
    ),
    "long merge, late finish, clean-up": Scenario(
        2, None, LONG, [merge, late_finish, clean_up], long=True, bound=1, begins=("P0",)
    ),
    # A slow attempt wakes up when another one has finished, and the clean-up begins.
    "slow finish, late finish, clean-up": Scenario(
        1, None, ONE, [finish, late_finish, clean_up], bound=2, begins=SLOW_SMALL
    ),
    "slow multipart finish, late finish, clean-up": Scenario(
        2, None, LONG, [finish, late_finish, clean_up], bound=2, begins=SLOW_MULTIPART
    ),
    "slow decided finish, late finish, clean-up": Scenario(
        2, 1, LONG, [finish, late_finish, clean_up], bound=2, begins=SLOW_DECIDED
    ),
    "slow decided finish, clean-up, the object's end": Scenario(
        2, 1, LONG, [finish, late_finish, clean_up_to_the_end], bound=2, begins=SLOW_DECIDED
    ),
    # The file is deleted, beside whoever might publish it again.
    "finish, delete": Scenario(1, 1, ONE, [finish, delete_file]),
    "multipart finish, delete": Scenario(2, None, LONG, [finish, delete_file], bound=1),
    "failing finish, finish and delete": Scenario(
        2, 1, ONE, [finish, finish_and_delete, batch(1, 1)], {1: [1]}, bound=0
    ),
    "delete, delete": Scenario(
        1, None, ONE, [finish_and_delete, delete_file], bound=1, begins=("P0",) * 7
    ),
    "delete, clean-up": Scenario(
        1, 1, ONE, [finish_and_delete, clean_up], bound=1, begins=("P0",) * 7
    ),
    "slow decided finish, finish and delete": Scenario(
        1, 1, ONE, [finish, finish_and_delete], bound=1, begins=("P0",) * 4
    ),
    "slow multipart finish, finish and delete": Scenario(
        2, 1, LONG, [finish, finish_and_delete], bound=1, begins=("P0",) * 4
    ),
    # The first has listed before the second seals, and decides the same just after it.
    "both decide the same, and the second deletes": Scenario(
        1,
        1,
        ONE,
        [finish, finish_and_delete],
        bound=2,
        begins=("P0", "P0", "P1", "P1", "P1"),
    ),
    "long merge, finish and delete": Scenario(
        2, None, LONG, [merge, finish_and_delete], long=True, bound=1, begins=("P0",) * 12
    ),
    # A call that arrives a second time.
    "a seal again": Scenario(
        1,
        None,
        ONE,
        [finish, late_finish, batch(1, 1)],
        bound=0,
        begins=("P0", "P0", "P2"),
        duplicate=(0, 1),
    ),
    "a re-opening again": Scenario(
        2, 1, ONE, [finish, batch(1, 1), finish], {1: [1]}, bound=1, duplicate=(0, 3)
    ),
    **{
        f"call {number} of finish again, late finish": Scenario(
            1, None, ONE, [finish, late_finish], bound=1, duplicate=(0, number)
        )
        for number in (3, 4, 5, 6)
    },
    # Sessions whose finishes say how much there is, and not the same.
    **_TOTALS,
    **{f"gzip: {name}": replace(scenario, form=GZIP) for name, scenario in _COMPRESSED.items()},
}
