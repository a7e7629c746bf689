"""Faults: every call of every operation fails in every way, and the client retries.

A run without faults records an operation's calls. Then, for each call and each fault, a new session
repeats the operation up to that call, the fault happens, the client retries until the session has
an end, and this end must be the same as without faults.

`OPERATIONS` maps an operation's name to it. To add one, add an entry. A new `Fault` goes into
`ALWAYS` (tried at every call) or `BY_TURNS`.
"""

# ruff: noqa: ARG002 - not every fault uses the call, or lets it take effect

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from tests.aws import DEAD, Answer, Call, dynamodb_error, s3_error
from tests.proof.world import (
    GZIP,
    NOTHING,
    PLAIN,
    History,
    Process,
    Said,
    World,
    note_upload,
    observe,
    require,
    scale,
)

Forward = Callable[[], Answer]


def dynamodb(call: Call) -> bool:
    return call.operation in {"GetItem", "PutItem", "UpdateItem", "GetRecords"}


def step_functions(call: Call) -> bool:
    return call.operation == "StartExecution"


def error(call: Call, status: int, code: str) -> Answer:
    """An error response in the format of the service that was called."""
    if dynamodb(call) or step_functions(call):
        return dynamodb_error(status, code)
    return s3_error(status, code)


def throttled(call: Call) -> Answer:
    if dynamodb(call):
        return dynamodb_error(400, "ProvisionedThroughputExceededException")
    if step_functions(call):
        return dynamodb_error(400, "ThrottlingException")
    return s3_error(503, "SlowDown")


class Fault:
    """What happens at the ``at``-th call of a process."""

    heard = True
    """Whether the client receives the response of ``strike``."""

    def __init__(self, process: Process, at: int, history: History) -> None:
        self.process = process
        self.hit: Call | None = None
        self.died_in = -1
        self.late: list[Callable[[], object]] = []
        """Requests that the client gave up and that have not arrived."""
        self._at = at
        self._seen = 0
        self._history = history

    def handle(self, call: Call, forward: Forward) -> Answer:
        if self.process.invocations == self.died_in:
            return DEAD
        self._seen += 1

        def take_effect() -> Answer:
            answer = forward()
            observe(self._history, call, answer)
            return answer

        if self._seen == self._at:
            self.hit = call
            answer = self.strike(call, take_effect)
            if self.heard:
                note_upload(self._history, call, answer)
        else:
            answer = self.afterwards(call, take_effect)
            note_upload(self._history, call, answer)
        if self.leaves_upload(call):
            # Nobody knows its uploads any more.
            self._history.uploads.clear()
        return answer

    def leaves_upload(self, call: Call) -> bool:
        """Whether the invocation cannot abort its upload, so that the lifecycle rule has to."""
        del call
        return self.died_in >= 0

    def strike(self, call: Call, forward: Forward) -> Answer:
        """Handle the call that the fault hits."""
        raise NotImplementedError

    def afterwards(self, call: Call, forward: Forward) -> Answer:
        del call
        return forward()

    def deliver(self) -> None:
        """Let the delayed requests arrive."""
        for request in self.late:
            request()
        self.late.clear()


class Refused(Fault):
    """The connection is reset before the call takes effect."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        raise ConnectionResetError


class Lost(Fault):
    """The connection is reset after the call took effect."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        forward()
        raise ConnectionResetError


class Dies(Fault):
    """The process dies after the call took effect, which is before its next call."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        self.died_in = self.process.invocations
        forward()
        return DEAD


class Throttled(Fault):
    def strike(self, call: Call, forward: Forward) -> Answer:
        return throttled(call)


class Fails(Fault):
    """The call fails with 500, without effect."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        return error(call, 500, "InternalError")


class FailsAfter(Fault):
    """The call takes effect and fails with 500."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        forward()
        return error(call, 500, "InternalError")


class FailsForGood(Fault):
    """The call fails with 500 for the rest of the invocation."""

    struck_in = -1

    def strike(self, call: Call, forward: Forward) -> Answer:
        self.struck_in = self.process.invocations
        return error(call, 500, "InternalError")

    def afterwards(self, call: Call, forward: Forward) -> Answer:
        if call == self.hit and self.process.invocations == self.struck_in:
            return error(call, 500, "InternalError")
        return forward()

    def leaves_upload(self, call: Call) -> bool:
        # It cannot abort its upload, or a task cannot write down the upload's id.
        return call == self.hit and call.operation in {"AbortMultipartUpload", "UpdateItem"}


class Conflict(Fault):
    """S3's answer to concurrent conditional writes of a key; nothing need be stored."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        if "if-none-match" in call.headers:
            return s3_error(409, "ConditionalRequestConflict")
        return throttled(call)


class FailsInside(Fault):
    """An error inside a 200, as S3 may end a slow CompleteMultipartUpload."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        if call.operation == "CompleteMultipartUpload":
            return Answer("200 OK", [], s3_error(200, "InternalError").body)
        raise ConnectionResetError


class FailsInsideAfter(Fault):
    """The same, after the call took effect."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        forward()
        if call.operation == "CompleteMultipartUpload":
            return Answer("200 OK", [], s3_error(200, "InternalError").body)
        raise ConnectionResetError


class Delayed(Fault):
    """The client's call times out, and takes effect at the end."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        self.late.append(forward)
        raise ConnectionResetError


class DelayedALittle(Delayed):
    """The client's call times out, and takes effect right after the next call."""

    def afterwards(self, call: Call, forward: Forward) -> Answer:
        answer = forward()
        self.deliver()
        return answer


class Repeated(Fault):
    """The call is answered, and delivered once more at the end."""

    def strike(self, call: Call, forward: Forward) -> Answer:
        self.late.append(forward)
        return forward()

    def deliver(self) -> None:
        # Only clients repeat writes of a file that may be deleted, and record it (``publisher``).
        if self._history.deleted and self.hit and self.hit.operation == "PutObject":
            self.late.clear()
        super().deliver()


class AnsweredTooLate(Fault):
    """The call takes effect; its answer arrives after the client has retried."""

    heard = False

    def __init__(self, process: Process, at: int, history: History) -> None:
        super().__init__(process, at, history)
        self._again = Event()

    def strike(self, call: Call, forward: Forward) -> Answer:
        answer = forward()
        self._again.wait(_PATIENCE_SECONDS)
        return answer

    def afterwards(self, call: Call, forward: Forward) -> Answer:
        self._again.set()
        return forward()


_PATIENCE_SECONDS: Final = 300

ALWAYS: Final[Sequence[type[Fault]]] = (Lost, Dies)
BY_TURNS: Final[Sequence[type[Fault]]] = (
    Refused,
    FailsForGood,
    Repeated,
    Delayed,
    DelayedALittle,
    Throttled,
    Fails,
    FailsAfter,
    Conflict,
    FailsInside,
    FailsInsideAfter,
)


def faults(at: int) -> Sequence[type[Fault]]:
    """The faults to try at the ``at``-th call: all with PROOF_SCALE, else some in rotation."""
    if scale() > 1:
        return (*ALWAYS, *BY_TURNS)
    return (*ALWAYS, BY_TURNS[at % len(BY_TURNS)])


Data = Mapping[int, Sequence[object]]
Act = Callable[[World, Process, History, str], object]


@dataclass(frozen=True)
class Operation:
    """An operation, and the session on which it runs."""

    total: int | None
    size: int | None
    before: Data
    act: Callable[[World, Process, History, str], object]
    prepare: Callable[[World, Process, History, str], object] | None = None
    """What happens before, without faults."""
    data: Data = field(default_factory=dict)
    """What the client sends at the end if it is missing."""
    form: str = PLAIN
    """Format of the merged object."""
    says: Said = NOTHING
    """The totals that the client's finishes say."""

    def calls(self, world: World) -> tuple[int, str]:
        """Run without faults; return the number of calls and the end."""
        seen: list[Call] = []

        class Recorded(Fault):
            def afterwards(self, call: Call, forward: Forward) -> Answer:
                seen.append(call)
                return forward()

        end = self.run(world, Recorded, 0)
        return len(seen), end

    def run(self, world: World, kind: type[Fault], at: int) -> str:
        """Run with a fault at the ``at``-th call, retry as a client, and return the end."""
        process = world.processes[1]
        session_id, history = world.create(self.total, self.size, self.form, self.says)
        fault = kind(process, at, history)
        try:
            for seq_num, data in self.before.items():
                world.send(world.processes[0], history, session_id, seq_num, data)
            if self.prepare:
                self.prepare(world, process, history, session_id)
            process.forget()
            with process.aws.handled(fault.handle):
                self.act(world, process, history, session_id)
            require(fault.hit or not at, "the call was never made", at)
            history.failed.clear()
            fault.deliver()
            world.run_started(process, history)
            return world.settle(session_id, history, {**self.before, **self.data})
        except Exception as error:
            error.add_note(f"{kind.__name__} at call {at}, {fault.hit}")
            raise
        finally:
            world.remove(session_id)


def batch(world: World, process: Process, history: History, session_id: str) -> object:
    return world.send(process, history, session_id, 1, [1])


def another_batch(world: World, process: Process, history: History, session_id: str) -> object:
    answer = world.send(process, history, session_id, 0, ["another"])
    require(answer.status != 204, "a conflicting batch is accepted", answer)
    return answer


def same_batch(world: World, process: Process, history: History, session_id: str) -> object:
    return world.send(process, history, session_id, 0, [0])


def finish(world: World, process: Process, history: History, session_id: str) -> object:
    return world.finish(process, history, session_id)


def abort(world: World, process: Process, history: History, session_id: str) -> object:
    answer = world.abort(process, history, session_id)
    if answer.status >= 500:
        # The client retries.
        process.aws.handler = None
        answer = world.abort(process, history, session_id)
    require(answer.status == 204, "not aborted", answer)
    return answer


def delete_file(world: World, process: Process, history: History, session_id: str) -> object:
    return world.delete_file(process, history, session_id)


def finish_and_delete(world: World, process: Process, history: History, session_id: str) -> object:
    world.finish(process, history, session_id)
    return world.delete_file(process, history, session_id)


def status(world: World, process: Process, history: History, session_id: str) -> object:
    del world, history
    process.file(session_id)
    return process.status(session_id)


def long_finish(world: World, process: Process, history: History, session_id: str) -> object:
    answer = world.finish(process, history, session_id, long=True)
    world.run_started(process, history)
    return answer


def hand_over(world: World, process: Process, history: History, session_id: str) -> object:
    """Hand over; the execution has not started."""
    return world.finish(process, history, session_id, long=True)


def clean_up(world: World, process: Process, history: History, session_id: str) -> object:
    del session_id
    return world.clean_up(process, history)


def after_half_a_finish(end: Act, operation: str) -> Act:
    """``end`` a session whose first finish died at its first call of ``operation``."""

    def act(world: World, process: Process, history: History, session_id: str) -> object:
        half_a_finish(operation)(world, process, history, session_id)
        return end(world, process, history, session_id)

    return act


def contradict(world: World, process: Process, history: History, session_id: str) -> object:
    """A finish with other totals than the decided ones."""
    answer = world.finish(process, history, session_id, said=Said(3))
    require(answer.status >= 500 or answer.code == "totals_conflict", "no totals_conflict", answer)
    return answer


def half_a_finish(operation: str) -> Callable[[World, Process, History, str], object]:
    """A finish that died at its first call of ``operation``; its lease has expired since."""

    def die(world: World, process: Process, history: History, session_id: str) -> object:
        dead = False

        def handle(call: Call, forward: Forward) -> Answer:
            nonlocal dead
            dead |= call.operation == operation
            return DEAD if dead else forward()

        with process.aws.handled(handle):
            answer = world.finish(process, history, session_id)
        history.failed.clear()
        process.clock.ahead = 100
        return answer

    return die


ONE: Final = {0: [0]}
SHORT: Final = {0: [0], 1: [1]}
LONG: Final = {0: ["a" * 20], 1: ["b" * 20]}
"""Each batch is long enough to be a part of a multipart upload."""
STREAMED: Final = {0: [100_000, 100_001], 1: [100_002, 100_003], 2: [100_004]}
"""Short batches: the first two are read and written as one part."""
NOISE: Final = {0: ["qXw8TzLk3Jv0Rb5N"], 1: ["u7YhGm2CeSfP9aZd"], 2: ["i4WoQ1xKtVn6BlEr"]}
"""As LONG, even when compressed."""

OPERATIONS: Final = {
    "batch": Operation(2, 1, {0: [0]}, batch, data={1: [1]}),
    "the same batch": Operation(1, None, {0: [0]}, same_batch),
    "another batch": Operation(1, None, {0: [0]}, another_batch),
    "finish, strict": Operation(2, 1, SHORT, finish),
    "finish, flexible": Operation(2, None, SHORT, finish),
    "finish, copied": Operation(2, 1, LONG, finish),
    "finish, streamed": Operation(5, None, STREAMED, finish),
    "finish that fails": Operation(3, 1, SHORT, finish, data={2: [2]}),
    "finish that fails, by count": Operation(3, None, SHORT, finish, data={2: [2]}),
    "finish, decided before": Operation(
        2, 1, LONG, finish, half_a_finish("CompleteMultipartUpload")
    ),
    "finish that fails, after another died": Operation(
        3, None, LONG, finish, half_a_finish("UploadPartCopy"), {2: [2]}
    ),
    "abort": Operation(2, None, SHORT, abort),
    "abort during a finish": Operation(2, None, LONG, abort, half_a_finish("UploadPartCopy")),
    "abort during a long merge": Operation(2, None, LONG, abort, hand_over),
    "status and link": Operation(2, None, SHORT, status, hand_over),
    "delete the file": Operation(2, 1, SHORT, delete_file, finish),
    "finish, delete the file": Operation(2, 1, SHORT, finish_and_delete),
    "multipart finish, delete the file": Operation(2, None, LONG, finish_and_delete),
    "long merge, strict": Operation(2, 1, LONG, long_finish),
    "long merge, flexible": Operation(5, None, STREAMED, long_finish),
    "clean-up of a finished session": Operation(
        2, 1, LONG, clean_up, after_half_a_finish(finish, "UploadPartCopy")
    ),
    "clean-up of an aborted session": Operation(
        2, None, LONG, clean_up, after_half_a_finish(abort, "UploadPartCopy")
    ),
    "clean-up after a long merge": Operation(5, None, STREAMED, clean_up, long_finish),
    "long merge that fails": Operation(3, None, LONG, long_finish, data={2: [2]}),
    "gzip: batch": Operation(2, 1, {0: [0]}, batch, data={1: [1]}, form=GZIP),
    "gzip: the same batch": Operation(1, None, {0: [0]}, same_batch, form=GZIP),
    "gzip: finish, one put": Operation(1, None, {0: [0]}, finish, form=GZIP),
    "gzip: finish, copied": Operation(3, 1, NOISE, finish, form=GZIP),
    "gzip: finish, streamed": Operation(5, None, STREAMED, finish, form=GZIP),
    "gzip: long merge, copied": Operation(3, None, NOISE, long_finish, form=GZIP),
    "gzip: long merge, one part": Operation(1, None, {0: [0]}, long_finish, form=GZIP),
    "gzip: long merge, nothing": Operation(0, 1, {}, long_finish, form=GZIP),
    "long merge, nothing": Operation(0, 1, {}, long_finish),
    "totals: finish that fails": Operation(None, None, ONE, finish, data={1: [1]}, says=Said(2, 2)),
    "totals: finish, strict": Operation(1, 1, ONE, finish, says=Said(1, 1)),
    "totals: contradiction": Operation(
        None, None, ONE, contradict, half_a_finish("PutObject"), says=Said(1, 1)
    ),
}
