"""Scenarios: a session, and two or three invocations on it that run concurrently.

`SCENARIOS` maps a scenario's name to it. To add one, add an entry: `Scenario.explore` makes its
runs, and `World.settle` checks each of them.
"""

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
    note_upload,
    observe,
    scale,
)

Made = tuple[list[tuple[str, Step]], list[tuple[str, str, str]]]
"""The interleaved calls of a run, and the calls of each process in its own order."""
Invocation = Callable[[World, Process, History, str], Answer]


def finish(world: World, process: Process, history: History, session_id: str) -> Answer:
    return world.finish(process, history, session_id)


def late_finish(world: World, process: Process, history: History, session_id: str) -> Answer:
    """A finish for which every lease has expired."""
    process.clock.ahead = 100
    return world.finish(process, history, session_id)


def says(total: int | None = None, batches: int | None = None, *, late: bool = False) -> Invocation:
    """A finish with these totals; if ``late``, every lease has expired for it."""

    def finish(world: World, process: Process, history: History, session_id: str) -> Answer:
        process.clock.ahead = 100 if late else 0
        return world.finish(process, history, session_id, said=Said(total, batches))

    return finish


def when_time_is_over(act: Invocation, seconds: int) -> Invocation:
    """``act``, at ``seconds`` after the session stopped taking batches."""

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
    """Handle what the table's stream contains by then."""
    del session_id
    world.clean_up(process, history)
    return Answer(0, None)


def clean_up_to_the_end(
    world: World, process: Process, history: History, session_id: str
) -> Answer:
    """Clean up; if the session had ended, the retention deletes the merged object, too."""
    if world.clean_up(process, history):
        world.forget_object(session_id, history)
    return Answer(0, None)


def delete_file(world: World, process: Process, history: History, session_id: str) -> Answer:
    return world.delete_file(process, history, session_id)


def finish_and_delete(world: World, process: Process, history: History, session_id: str) -> Answer:
    """A client that finishes after every lease has expired, and deletes the file."""
    late_finish(world, process, history, session_id)
    return world.delete_file(process, history, session_id)


def merge(world: World, process: Process, history: History, session_id: str) -> Answer:
    del session_id
    world.run_started(process, history)
    return Answer(0, None)


def _handle(
    turn: Handler, history: History, call: Call, forward: Callable[[], AwsAnswer]
) -> AwsAnswer:
    answer = turn(call, forward)
    note_upload(history, call, answer)
    return answer


@dataclass(frozen=True)
class Scenario:
    """A session, its content, and the invocations that run on it concurrently."""

    total: int | None
    size: int | None
    before: Data
    """Batches that are stored already."""
    invocations: Sequence[Invocation]
    data: Data = field(default_factory=dict)
    """What the client sends at the end if it is missing."""
    bound: int | None = None
    """Maximum number of preemptions; None explores every order."""
    begins: Sequence[str] = ()
    """Whose turns come first."""
    duplicate: tuple[int, int] | None = None
    """A call that is delivered twice: (index of the invocation, number of its call from 1)."""
    long: bool = False
    """The session was handed over to the state machine before."""
    form: str = PLAIN
    """Format of the merged object."""
    says: Said = NOTHING
    """The totals that the client's finishes at the end say."""

    def _begin(self, world: World) -> tuple[str, History]:
        session_id, history = world.create(self.total, self.size, self.form, self.says)
        first = world.processes[0]
        for seq_num, data in self.before.items():
            world.send(first, history, session_id, seq_num, data)
        for process in world.processes:
            process.forget()
        if self.bound is not None:
            # A batch then begins with its write, and needs no preemption before it.
            world.warm(session_id)
        if self.long:
            world.finish(first, history, session_id, long=True)
        return session_id, history

    def run(self, world: World, choose: Choose) -> tuple[Made, str] | None:
        """Make one run in the order of ``choose``: its calls and its end; None if abandoned."""
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
        """Make every run within the bound; return them and the set of their ends."""
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
    # Each is right when it is sent, depending on which batches have arrived.
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
"""P0 has listed; then P1 runs to its end: seal, list, read, decide, publish (2), commit."""
SLOW_MULTIPART: Final = ("P0",) * 2 + ("P1",) * 11
"""The same with an upload of two copied parts."""
SLOW_DECIDED: Final = ("P0",) * 3 + ("P1",) * 13
"""P0 has decided; then P1 takes over: it also looks for the object before it lists, and for its
dates before it commits."""

SCENARIOS: Final = {
    # Two invocations: every order.
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
    # The end of a session's life: a request sent in time may arrive a minute late.
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
    # An attempt whose lease has expired, or that believes so.
    "failing finish, late finish in parts, batch": Scenario(
        2,
        1,
        {0: LONG[0]},
        [finish, late_finish, batch(1, *LONG[1])],
        {1: LONG[1]},
        bound=1,
        begins=("P0", "P0", "P2", "P1", "P1", "P1", "P1"),
    ),
    # Long merges, by the state machine.
    "long merge, abort": Scenario(2, None, LONG, [merge, abort], long=True),
    "long merge, late finish": Scenario(2, None, LONG, [merge, late_finish], long=True, bound=1),
    "long merge, a batch too many": Scenario(
        2, None, LONG, [merge, batch(2, 2)], long=True, bound=1
    ),
    "failing long merge, abort": Scenario(
        3, None, LONG, [merge, abort], {2: [2]}, long=True, bound=1
    ),
    # Three invocations: bounded preemptions.
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
    # The clean-up, which follows the table's stream.
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
    # A slow attempt wakes up after another one has finished, when the clean-up begins.
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
    # The file is deleted while another attempt might publish it again.
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
    # P0 has listed before P1 seals, and decides the same just after P1.
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
    # A call that is delivered twice.
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
    # Finishes that say different totals.
    **_TOTALS,
    **{f"gzip: {name}": replace(scenario, form=GZIP) for name, scenario in _COMPRESSED.items()},
}
