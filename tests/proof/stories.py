"""Stories: a sequence of events over days on one session: attempts that die, and time that passes.

A story moves the clock itself and never waits. It raises ViolationError if an invariant fails.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from tests.aws import DEAD
from tests.proof.crashes import LONG, NOISE, STREAMED, Data
from tests.proof.world import (
    GZIP,
    LATER,
    NOTHING,
    PLAIN,
    Answer,
    History,
    Process,
    Said,
    ViolationError,
    World,
    count,
    require,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.aws import Answer as AwsAnswer
    from tests.aws import Call


HANDING_OVER: Final = 5
"""Maximum calls of a finish that hands over: seal, look for a published object or decide, list,
renew the lease, start the execution."""
PATIENCE: Final = 4
"""Maximum finishes until a session has ended."""


@dataclass
class Story:
    """A session, and a client that finishes it until it has ended."""

    world: World
    total: int | None
    size: int | None
    data: Data
    form: str = PLAIN
    session_id: str = ""
    history: History = field(init=False)

    def __enter__(self) -> Self:
        self.session_id, self.history = self.world.create(self.total, self.size, self.form)
        for seq_num, records in self.data.items():
            self.world.send(self.process, self.history, self.session_id, seq_num, records)
        return self

    def __exit__(self, *_: object) -> None:
        self.world.remove(self.session_id)

    @property
    def process(self) -> Process:
        return self.world.processes[0]

    @contextmanager
    def dying(self, after: int) -> "Iterator[None]":
        """The process dies after ``after`` calls."""
        made = 0

        def handle(_: "Call", forward: "Callable[[], AwsAnswer]") -> "AwsAnswer":
            nonlocal made
            made += 1
            return forward() if made <= after else DEAD

        with self.process.aws.handled(handle):
            yield
        # Its 5xx answers are expected.
        self.history.failed.clear()

    @contextmanager
    def failing(self, *operations: str) -> "Iterator[None]":
        """Calls of these operations fail without effect."""

        def handle(call: "Call", forward: "Callable[[], AwsAnswer]") -> "AwsAnswer":
            return DEAD if call.operation in operations else forward()

        with self.process.aws.handled(handle):
            yield
        self.history.failed.clear()

    def finish(self, said: Said | None = None, *, state_machine: bool = True) -> Answer:
        """``state_machine``: there is a state machine, and enough time to merge without it."""
        return self.world.finish(
            self.process, self.history, self.session_id, said=said, state_machine=state_machine
        )

    def hand_over(self, said: Said) -> None:
        """Finish with no time to merge in the call."""
        answer = self.world.finish(
            self.process, self.history, self.session_id, said=said, long=True
        )
        require(answer.status == 202, "not handed over", answer)

    def delete(self) -> Answer:
        return self.world.delete_file(self.process, self.history, self.session_id)

    def forget(self, *names: str) -> None:
        self.world.forget(self.session_id, *names)

    def run(self) -> None:
        self.world.run_started(self.process, self.history)

    def wait(self, seconds: int = LATER) -> None:
        self.process.clock.ahead += seconds

    def at(self, moment: int) -> None:
        """Set the clock to ``moment``, seconds since 1970."""
        self.process.clock.ahead = moment - self.process.clock.START

    def state(self) -> str:
        return self.world.check(self.session_id, self.history).state

    def number(self, name: str) -> int:
        item = self.world.facts(self.session_id).item
        assert item is not None
        return int(item[name])

    def must_succeed(self, within: int = PATIENCE, *, state_machine: bool = True) -> None:
        """Finish until the session has ended; no attempt dies any more."""
        for _ in range(within):
            answer = self.finish(state_machine=state_machine)
            self.run()
            if self.state() == "FINISHED":
                require(self.finish().result == "Success", "FINISHED, yet finish answers", answer)
                return
            self.wait()
        raise ViolationError("stuck")


def sessions(world: World) -> "Iterator[Story]":
    """One session of each kind: without parts, with parts, empty, compressed."""
    yield Story(world, 2, 1, {0: [0], 1: [1]})
    yield Story(world, 2, None, {0: [0], 1: [1]})
    yield Story(world, 2, 1, LONG)
    yield Story(world, 2, None, LONG)
    yield Story(world, 5, None, STREAMED)
    yield Story(world, 0, None, {})
    yield Story(world, 3, None, NOISE, form=GZIP)


def every_attempt_dies(world: World) -> None:
    """Each finish is killed after n calls, for n from 1 to 15, as if storage were that slow."""
    for story in sessions(world):
        for after in range(1, 16):
            with story:
                for _ in range(PATIENCE):
                    with story.dying(after):
                        story.finish()
                    story.wait()
                    story.run()
                    if story.state() == "FINISHED":
                        break
                else:
                    require(after < HANDING_OVER, "stuck", after, story.size)
                # A session that was not handed over yet now succeeds with one finish.
                story.must_succeed(1)
                count("attempts killed")


def nobody_takes_over(world: World) -> None:
    """The same without a state machine: the first finish that is not killed succeeds."""
    for story in sessions(world):
        for after in range(1, 16, 3):
            with story:
                for _ in range(2):
                    with story.dying(after):
                        story.finish(state_machine=False)
                    story.wait()
                    story.state()
                story.must_succeed(1, state_machine=False)
                count("attempts killed")


def an_execution_fails(world: World) -> None:
    """Executions fail for good, since no part can be uploaded. The next execution succeeds."""
    for story in list(sessions(world))[2:]:
        with story:
            for died in range(2):
                with story.dying(died):
                    story.finish()
                story.wait()
            story.finish()
            with story.failing("UploadPart", "UploadPartCopy"):
                story.run()
            # Batches of a flexible session are validated before its decision.
            state = story.state()
            decided = story.size or not story.data
            require(state == ("FINISHING" if decided else "OPEN"), "after a failure", state)
            # No wait: the failed execution's lease has ended.
            answer = story.finish()
            require(answer.status == 202, "not handed over again", answer)
            story.run()
            require(story.state() == "FINISHED", "stuck", answer)
            require(not story.world.facts(story.session_id).uploads, "an upload was left open")


LONGEST: Final = 30 + 12 * 3_600 + 300
"""How long after its seal an attempt may still run, seconds: the call, its execution, and a task
that outlives the execution."""


def the_last_seal(world: World) -> None:
    """A late seal leaves time for the longest merge before the item is deleted."""
    for size in (1, None):
        for late in (-3_600, -10, 30, 100, 3_600):
            for take_over in (False, True):
                with Story(world, 2, size, LONG) as story:
                    if take_over:
                        story.at(story.number("batchesUntil") - 10)
                        with story.dying(3):
                            story.finish()
                    ends = story.number("expiresAt" if take_over else "batchesUntil")
                    for moment in (ends + late, ends - LONGEST + late):
                        _seal_at(story, moment)


def _seal_at(story: Story, moment: int) -> None:
    before = story.number("attempt")
    story.at(moment)
    with story.dying(1):
        story.finish()
    item = story.world.facts(story.session_id).item
    require(item, "the session is gone")
    if story.number("attempt") > before:
        count("late seals")
        gone = story.number("expiresAt")
        require(gone > moment + LONGEST, "deleted under a merge", gone - moment, item)


def nobody_is_told_410(world: World) -> None:
    """Neither finish nor status answers 410 while an attempt may still succeed."""
    for size in (1, None):
        for late in (0, 30, 59, 3_600, 11 * 3_600):
            with Story(world, 2, size, LONG) as story:
                until = story.number("batchesUntil")
                story.at(until - 10)
                with story.dying(3):
                    story.finish()
                story.at(until + late)
                for answer in (
                    story.world.status(story.process, story.history, story.session_id),
                    story.process.batch(story.session_id, 2, [2]),
                ):
                    require(answer.status != 410, "410, although it may succeed", answer)
                story.must_succeed(2)


def a_count_is_no_verdict(world: World) -> None:
    """A stored count is valid for one listing: once a session is complete, finish succeeds."""
    for data in ({0: [0]}, {0: ["a" * 20]}, {0: [0], 1: [1, 2], 2: [3]}):
        total = sum(map(len, data.values())) + 1
        with Story(world, total, None, data) as story:
            for _ in range(2):
                require(story.finish().result == "Failed", "incomplete, yet not Failed")
            story.world.send(story.process, story.history, story.session_id, len(data), ["rest"])
            story.must_succeed(1)


def a_late_write(world: World) -> None:
    """A put that timed out and was retried arrives when the file is deleted."""
    for number in (1, 2):
        with Story(world, 1, 1, {0: [0]}) as story:
            late = _finish_whose_put_comes_late(story, number)
            told = story.delete()
            require(told.status == 204 or told.code == "file_settling", "not deleted", told)
            late()
            story.state()
            story.wait(600)
            require(story.delete().status == 204, "not deleted after ten minutes")
            story.state()


def an_attempt_wakes_up_late(world: World) -> None:
    """An attempt sleeps while another fails and a third decides the same, and publishes late."""
    other = world.processes[1]
    with Story(world, 2, None, {0: [0]}) as story:
        finish = partial(world.finish, other, story.history, story.session_id)
        late: list[Callable[[], object]] = []

        def publish_late(call: "Call", forward: "Callable[[], AwsAnswer]") -> "AwsAnswer":
            if call.operation != "PutObject":
                return forward()
            late.append(forward)
            return DEAD

        def sleep(call: "Call", forward: "Callable[[], AwsAnswer]") -> "AwsAnswer":
            if call.operation == "ListObjectsV2":
                other.clock.ahead += LATER
                require(finish().result == "Failed", "incomplete, yet not Failed")
                world.send(other, story.history, story.session_id, 1, [1])
            elif b"decision = :decision" in call.body:
                other.clock.ahead += LATER
                with other.aws.handled(publish_late):
                    finish()
                story.history.failed.clear()
            return forward()

        with story.process.aws.handled(sleep):
            story.finish()
        require(late, "no other attempt decided")
        story.process.clock.ahead = other.clock.ahead + LATER
        story.must_succeed(1, state_machine=False)
        told = story.delete()
        require(told.status == 204 or told.code == "file_settling", "not deleted", told)
        for arrives in late:
            arrives()
        story.state()
        story.wait(600)
        require(story.delete().status == 204, "not deleted after ten minutes")
        story.state()


def _finish_whose_put_comes_late(story: Story, number: int) -> Callable[[], object]:
    """Finish; the ``number``-th put is lost and retried. Return a function that delivers it."""
    puts: list[Callable[[], object]] = []

    def handle(call: "Call", forward: "Callable[[], AwsAnswer]") -> "AwsAnswer":
        if call.operation == "PutObject":
            puts.append(forward)
            if len(puts) == number:
                raise ConnectionResetError
        return forward()

    with story.process.aws.handled(handle):
        require(story.finish().result == "Success", "not finished")
    return puts[number - 1]


def a_file_of_the_release_before(world: World) -> None:
    """The previous release did not store when a session finished: 16 minutes after its lease."""
    with Story(world, 1, 1, {0: [0]}) as story:
        story.finish()
        story.forget("finishedAt", "publisher")
        lease = story.number("leaseUntil")
        story.at(lease + 959)
        told = story.delete()
        require((told.code, told.body["retryAfter"]) == ("file_settling", 1), "deleted", told)
        story.wait(1)
        require(story.delete().status == 204, "not deleted")
        story.state()


def totals_come_later(world: World) -> None:
    """Until a decision, every finish may say other totals: a failure binds nobody."""
    with Story(world, None, None, {0: [0], 1: [1]}) as story:
        # Another total is judged by that total, although a count is stored.
        for said in (Said(3), Said(3), Said(4, 2), Said(2, 3), Said(2, 1), Said(1)):
            answer = story.finish(said)
            require(answer.result == "Failed", "incomplete, yet finish answers", said, answer)
            story.state()
        require(story.finish(NOTHING).code == "missing_total", "no missing_total")
        with story.dying(3):
            story.finish(Said(9))
        story.wait()
        answer = story.finish(Said(2, 2), state_machine=False)
        require(answer.result == "Success", "complete, yet finish answers", answer)
        for said in (Said(3), Said(batches=1), Said(2, 3)):
            require(story.finish(said).code == "totals_conflict", "no totals_conflict", said)
        require(story.finish(NOTHING) == answer, "the answer changed")
        story.state()


def totals_are_handed_over(world: World) -> None:
    """An execution uses the totals of the finish that started it, whatever was said since."""
    for said in (Said(3), Said(3, 2)):
        with Story(world, None, None, LONG) as story:
            story.hand_over(said)
            require(story.finish(Said(2)).status == 202, "not handed over")
            with story.failing("UploadPart", "UploadPartCopy"):
                story.run()
            _judged(story, said, "merge_failed")
            story.hand_over(said)
            story.run()
            _judged(story, said, "record_count")
            story.hand_over(Said(2, 2))
            story.run()
            require(story.finish(Said(3)).code == "totals_conflict", "no totals_conflict")
            require(story.finish(Said(2, 2)).result == "Success", "complete, yet finish answers")
            story.state()


def _judged(story: Story, said: Said, reason: str) -> None:
    """The session is open again, and its result names the totals it was judged by."""
    body = story.process.status(story.session_id).body
    require(body["state"] == "OPEN", "not judged", body)
    found = body["finish"]
    numbers = Said(found["totalRecord"], found.get("expectedBatches"))
    require((found["reason"], numbers) == (reason, said), "judged by something else", found)


def what_is_decided_is_completed(world: World) -> None:
    """Finishes that agree with a decision complete it; one that does not, takes nothing over."""
    for size, total in ((None, None), (None, 2), (1, 2)):
        for fits in (NOTHING, Said(2), Said(2, 2), Said(batches=2)):
            with Story(world, total, size, LONG) as story:
                # Publishing begins with this call.
                with story.failing("PutObject"):
                    story.finish(Said(2), state_machine=False)
                # Refused, yet stored behind the decided batches.
                story.world.send(story.process, story.history, story.session_id, 2, [2])
                story.wait()
                before = story.world.facts(story.session_id)
                for said in (Said(3), Said(2, 3)):
                    code = story.finish(said, state_machine=False).code
                    require(code == "totals_conflict", "no totals_conflict", said)
                require(story.world.facts(story.session_id) == before, "taken over")
                answer = story.finish(fits, state_machine=False)
                require(answer.result == "Success", "stuck", fits, answer)
                story.state()


STORIES: Final[Mapping[str, Callable[[World], None]]] = {
    "every attempt dies": every_attempt_dies,
    "nobody takes over": nobody_takes_over,
    "an execution fails": an_execution_fails,
    "the last seal": the_last_seal,
    "nobody is told 410": nobody_is_told_410,
    "a count is no verdict": a_count_is_no_verdict,
    "a late write": a_late_write,
    "an attempt wakes up late": an_attempt_wakes_up_late,
    "a file of the release before": a_file_of_the_release_before,
    "totals come later": totals_come_later,
    "totals are handed over": totals_are_handed_over,
    "what is decided is completed": what_is_decided_is_completed,
}
