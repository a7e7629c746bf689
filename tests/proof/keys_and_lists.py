"""Idempotency keys and lists of sessions: orders, faults and time, and what must hold.

Each entry of `KEYS_AND_LISTS` runs in a World, and raises ViolationError if an invariant fails.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from tests.aws import Answer as AwsAnswer
from tests.aws import Call
from tests.proof.crashes import ALWAYS, BY_TURNS, Conflict, FailsInside, FailsInsideAfter, Fault
from tests.proof.schedules import DEAD, Choose, Run, explore
from tests.proof.world import Answer, History, Process, World, count, require

ONE: Final = 1
ANOTHER: Final = 2
"""Totals that distinguish bodies."""
WRITES: Final = 2
"""Calls to open a session with a key."""
TRIES: Final = 3
"""Attempts until a client has its answer, when nothing fails any more."""
FAULTS: Final[Sequence[type[Fault]]] = [
    kind for kind in (*ALWAYS, *BY_TURNS) if kind not in {Conflict, FailsInside, FailsInsideAfter}
]
"""The faults that DynamoDB can have."""


@dataclass(frozen=True)
class Received:
    """An answer, with its request and its time."""

    key: str
    total: int
    now: int
    answer: Answer


@dataclass
class Opening:
    """A client with its key, and the answers it received."""

    world: World
    user: str = field(default_factory=lambda: secrets.token_hex(8))
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    told: list[Received] = field(default_factory=list)
    aborted: set[str] = field(default_factory=set)

    def create(self, process: Process, total: int = ONE) -> Answer:
        answer = process.open(total, self.key, self.user)
        self.told.append(Received(self.key, total, process.clock(), answer))
        return answer

    def insist(self, process: Process, total: int = ONE) -> str:
        """Create until there is a session; return its id."""
        for _ in range(TRIES):
            answer = self.create(process, total)
            if answer.status == 201:
                return str(answer.body["sessionId"])
        raise AssertionError(f"no session: {self.told}")

    def abort(self, process: Process, session_id: str) -> Answer:
        answer = process.abort(session_id, self.user)
        if answer.status == 204:
            self.aborted.add(session_id)
        return answer

    def items(self) -> Mapping[str, Mapping[str, Any]]:
        """The client's session items, by id."""
        return {
            str(item["sessionId"]): item
            for item in self.world.items()
            if "owner" in item and json.loads(item["owner"])[2] == self.user
        }

    def check(self) -> None:
        """What must hold once the client has an answer and no request is in flight."""
        items = self.items()
        found = [told for told in self.told if told.answer.status == 201]
        require(found, "no session", self.told)
        for told in found:
            body = told.answer.body
            item = items.get(body["sessionId"])
            require(item, "201 without a session", body)
            require(item and item["totalRecord"] == told.total, "201 of another body", told)
            require(_until(body) > told.now, "201 with an expired session", told)
            for other in found:
                if other.key == told.key and told.now <= other.now < _until(body):
                    require(other.answer.body == body, "one key has two sessions", told, other)
        known = {told.answer.body["sessionId"] for told in found}
        require(items.keys() == known, "a session that no client knows", items.keys() - known)
        for session_id in self.aborted:
            require(items[session_id]["state"] == "ABORTED", "aborted, yet the session is open")

    def forget(self) -> None:
        """Delete the client's sessions, but not its keys."""
        for session_id in self.items():
            self.world.remove(session_id)

    def remove(self) -> None:
        self.forget()
        for name in self.world.claims():
            self.world.remove(name)


def _until(body: Mapping[str, Any]) -> int:
    return int(datetime.fromisoformat(body["expiresAt"]).timestamp())


@contextmanager
def opening(world: World) -> Iterator[Opening]:
    """A client; checked at the end, and then deleted."""
    client = Opening(world)
    try:
        yield client
        client.check()
    finally:
        client.remove()


Act = Callable[[Opening, Process], object]


def creates(total: int = ONE) -> Act:
    return lambda client, process: client.create(process, total)


def dies(client: Opening, process: Process) -> object:
    """The creating process dies after the first write."""
    turn = process.aws.handler
    assert turn is not None
    alive = True

    def handle(call: Call, forward: Callable[[], AwsAnswer]) -> AwsAnswer:
        nonlocal alive
        if alive:
            turn(call, forward)
        alive = False
        return DEAD

    process.aws.handler = handle
    return client.create(process)


def aborts(client: Opening, process: Process) -> object:
    (session_id,) = client.items()
    return client.abort(process, session_id)


def at_once(*acts: Act, before: Act | None = None, ahead: int = 0) -> Callable[[World], None]:
    """Every order of ``acts``; their clocks are ``ahead`` seconds after ``before``."""

    def run(world: World, choose: Choose) -> bool:
        client = Opening(world)
        try:
            if before:
                before(client, world.processes[0])
                if ahead:
                    # These answers were right at their time.
                    client.told.clear()
                    client.forget()
            run = Run(choose, lambda *_: None)
            with ExitStack() as handled:
                for process, act in zip(world.processes, acts, strict=False):
                    process.clock.ahead = ahead
                    handled.enter_context(process.aws.handled(run.handler(process.name)))
                    run.start(process.name, partial(act, client, process))
                if not run.finish():
                    return False
            # Every client asks again, answered or not.
            for total in {told.total for told in client.told}:
                answer = client.create(world.processes[0], total)
                require(answer.status in {201, 422}, "no answer", answer)
            client.check()
        except Exception as error:
            error.add_note("\n".join(f"{name} {step.operation}" for name, step in run.trace))
            raise
        finally:
            client.remove()
        return True

    return lambda world: count("schedules", explore(partial(run, world)).runs)


def crashes(world: World) -> None:
    """Every call fails in every way, and the client retries."""
    for at in range(1, WRITES + 1):
        for kind in FAULTS:
            with opening(world) as client:
                process = world.processes[1]
                fault = kind(process, at, History(ONE, None))
                with process.aws.handled(fault.handle):
                    client.create(process)
                require(fault.hit, "the call was never made", at)
                client.insist(world.processes[0])
                fault.deliver()
                client.insist(world.processes[2])
            count("faults")


def time_passes(world: World) -> None:
    """A key counts while its session takes batches, even if the session is aborted."""
    for end in (None, Opening.abort):
        with opening(world) as client:
            first, *others = world.processes
            session_id = client.insist(first)
            if end:
                end(client, first, session_id)
            until = int(client.items()[session_id]["batchesUntil"])
            for moment in (until - 3_600, until - 1):
                for process in others:
                    process.clock.ahead = moment - process.clock.START
                    world.sweep(moment)
                    require(client.insist(process) == session_id, "one key has two sessions")
            client.check()
            # These answers were right at their time.
            client.told.clear()
            client.aborted.clear()
            client.forget()
            for process in others:
                process.clock.ahead = until - process.clock.START
                answer = client.create(process, ANOTHER)
                require(answer.status == 201, "an expired key counts", answer)


def lists(world: World) -> None:
    """Two principals: each list shows only the caller's sessions, whatever its cursor."""
    with opening(world) as ada, opening(world) as bob:
        clients = (ada, bob)
        process = world.processes[0]
        for number in range(3):
            for client in clients:
                client.key = f"{number}-{client.user}"
                process.clock.ahead = number
                client.insist(process)
        cursors: dict[str, str] = {}
        for client in clients:
            seen: list[str] = []
            cursor = ""
            while True:
                page = process.list(client.user, f"limit=1{cursor and f'&cursor={cursor}'}")
                seen += [session["sessionId"] for session in page.body["sessions"]]
                if not page.body["cursor"]:
                    break
                cursor = page.body["cursor"]
                cursors.setdefault(client.user, cursor)
            own = sorted(client.items().values(), key=lambda item: -int(item["createdAt"]))
            require(seen == [item["sessionId"] for item in own], "a list is not one's own", seen)
        for client, other in (clients, clients[::-1]):
            page = process.list(client.user, f"limit=9&cursor={cursors[other.user]}")
            if page.status == 200:
                ids = {session["sessionId"] for session in page.body["sessions"]}
                require(ids <= client.items().keys(), "a list has another caller's sessions", ids)
            require(page.code == "invalid_cursor", "another caller's cursor is accepted", page)


KEYS_AND_LISTS: Final[Mapping[str, Callable[[World], None]]] = {
    "create, the same": at_once(creates(), creates()),
    "create, the same, three": at_once(creates(), creates(), creates()),
    "create, another body": at_once(creates(), creates(ANOTHER)),
    "create that dies, the same": at_once(dies, creates()),
    "create that dies, another body": at_once(dies, creates(ANOTHER)),
    "create again, abort": at_once(creates(), aborts, before=creates()),
    "create over an expired key": at_once(
        creates(ANOTHER), creates(ANOTHER), before=creates(), ahead=86_400
    ),
    "create, every call fails": crashes,
    "keys and time": time_passes,
    "two lists": lists,
}
