"""Every order in which invocations can take effect: they run at once, and stop before each call.

An invocation is a thread. Before each call to AWS it waits for its turn; a scheduler, which is the
only one to give turns, waits until all stand still and then picks one. So a run is a list of
choices, and can be replayed. There are no sleeps and no chance.

``explore`` tries the choices depth first. Two runs that differ only in the order of neighbouring
calls which touch nothing in common (``Step.meets``) are the same run, so only one of them is made:
sleep sets (Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996).
With a bound on preemptions, turns taken from an invocation that could go on, it tries all the runs
within it, and nothing is left out as the same.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Final

from tests.aws import Answer, Call

DEAD: Final = Answer("418 Dead", [], b"")
"""A status that no client tries again: what a run that was given up hears."""

PROCESSES: Final = ("P0", "P1", "P2", "duplicate")
"""Names of those who call."""

_STUCK_SECONDS: Final = 300
"""No invocation computes for so long, however busy the machine is."""
_SESSION_ID: Final = re.compile("[0-9a-f]{32}")

Choose = Callable[[Mapping[str, "Step"]], "str | None"]
"""Who goes next, of those who wait; None to give the run up."""


@dataclass(frozen=True)
class Step:
    """A call that waits for its turn: what it reads, and what it may change."""

    operation: str
    reads: frozenset[str]
    writes: frozenset[str]

    def meets(self, other: "Step") -> bool:
        """Whether the order of the two can matter."""
        return bool(self.writes & (other.reads | other.writes) or self.reads & other.writes)

    @classmethod
    def of(  # noqa: C901 - a table
        cls, call: Call, name: str, uploads: Mapping[str, str]
    ) -> "Step":
        """Of the one session there is in a run, what ``call`` of ``name`` touches.

        ``uploads`` tells who created each multipart upload.
        """
        upload = f"upload of {uploads.get(call.upload_id)}"
        operation = call.operation
        key = _SESSION_ID.sub("", call.key)
        reads: set[str] = set()
        writes: set[str] = set()
        match operation:
            case "GetItem" | "GetRecords":
                reads = {"item"}
            case "UpdateItem" | "PutItem":
                writes = {"item"}
            case "ListObjectsV2":
                reads = {_listing(call.prefix)}
            case "DeleteObjects" | "DeleteObject":
                # It does not say which; no plan is read whose listing is not written.
                writes = {"batches", "plans", *(f"/{number:08d}" for number in range(4))}
            case "GetObject" | "HeadObject":
                reads = {key, "plans"} if key.startswith("merges/") else {key}
            case "PutObject":
                # A key that is new is seen in the listing.
                writes = {key, _listing(call.key)}
            case "CreateMultipartUpload":
                writes = {f"upload of {name}"}
            case "ListMultipartUploads":
                reads = {f"upload of {each}" for each in PROCESSES}
            case "UploadPart" | "UploadPartCopy" | "ListParts":
                # What is copied was read, pinned, just before: whoever deletes it meets that read.
                reads = {upload}
            case "AbortMultipartUpload":
                writes = {upload}
            case "CompleteMultipartUpload":
                writes = {upload, key}
            case _:
                raise NotImplementedError(operation)
        return cls(operation, frozenset(reads), frozenset(writes))


def _listing(key: str) -> str:
    """The listing that has ``key``, or all under it."""
    if _SESSION_ID.match(key):
        return "merged" if "." in key else "batches"
    return "plans"


class Run:
    """Invocations that run at once, one call at a time."""

    def __init__(self, choose: Choose, observe: Callable[[Call, Answer], None]) -> None:
        self._choose = choose
        self._observe = observe
        self._changed = Condition()
        self._waiting: dict[str, Step] = {}
        self._alive: set[str] = set()
        self._turn = ""
        self._errors: list[BaseException] = []
        self._given_up = False
        self._uploads: dict[str, str] = {}
        self._copies: dict[str, tuple[str, int]] = {}
        self._made: dict[str, int] = {}
        self.trace: list[tuple[str, Step]] = []
        """Who called what, in this order."""

    def start(self, name: str, work: Callable[[], object]) -> None:
        """Begin an invocation; it stops before its first call."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told by `finish`
                self._errors.append(error)
            finally:
                with self._changed:
                    self._alive.discard(name)
                    self._changed.notify_all()

        self._alive.add(name)
        Thread(target=run, daemon=True).start()

    def duplicate(self, name: str, of: str, number: int) -> None:
        """Let ``name`` be a copy of a call, the ``number``-th of ``of``, that arrives later."""
        self._copies[name] = (of, number)

    def handler(self, name: str) -> Callable[[Call, Callable[[], Answer]], Answer]:
        """What becomes of the calls of an invocation."""

        def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
            step = Step.of(call, name, self._uploads)
            if not self._wait_for_turn(name, step):
                return DEAD
            number = self._made[name] = self._made.get(name, 0) + 1
            answer = forward()
            self._observe(call, answer)
            if created := re.search(rb"<UploadId>(.+)</UploadId>", answer.body):
                self._uploads.setdefault(created[1].decode(), name)
            for copy, original in self._copies.items():
                if original == (name, number):
                    self.start(copy, partial(self._again, copy, step, call, forward))
            return answer

        return handle

    def _again(self, name: str, step: Step, call: Call, forward: Callable[[], Answer]) -> None:
        if self._wait_for_turn(name, step):
            self._observe(call, forward())

    def _wait_for_turn(self, name: str, step: Step) -> bool:
        with self._changed:
            if name in self._waiting:
                # Which of them comes first would be up to the machine.
                both = (self._waiting[name], step)
                self._errors.append(AssertionError(f"{name} makes two calls at once: {both}"))
                return False
            self._waiting[name] = step
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn == name or self._given_up)
            self._turn = ""
            self._waiting.pop(name)
            return not self._given_up

    def finish(self) -> bool:
        """Give turns until all have ended; False where the run was given up."""
        try:
            while self._stands_still():
                chosen = self._choose(self._waiting)
                if chosen is None:
                    return False
                self.trace.append((chosen, self._waiting[chosen]))
                with self._changed:
                    self._turn = chosen
                    self._changed.notify_all()
        finally:
            # Whoever still waits hears that it is over, and ends.
            with self._changed:
                self._given_up = True
                self._changed.notify_all()
                ended = self._changed.wait_for(lambda: not self._alive, _STUCK_SECONDS)
                assert ended, ("an invocation goes on after its run", self._alive)
        if self._errors:
            raise self._errors[0]
        return True

    def _stands_still(self) -> bool:
        """Wait until nobody moves; False where all have ended."""
        with self._changed:
            still = self._changed.wait_for(
                lambda: not self._turn and self._alive == self._waiting.keys(), _STUCK_SECONDS
            )
            assert still, ("an invocation neither calls nor ends", self._alive, self._waiting)
            return bool(self._alive)


@dataclass
class _Node:
    """A point of a run where somebody was chosen."""

    waiting: dict[str, Step]
    asleep: set[str]
    """Whose turn now leads to nothing new."""
    chosen: str = ""
    tried: set[str] = field(default_factory=set)
    before: str = ""
    """Who had the turn before."""
    preemptions: int = 0
    """How many there were before."""

    def costs(self, name: str) -> int:
        return int(self.before in self.waiting and name != self.before)

    def next(self, bound: int | None) -> str | None:
        """Whom to try next: first whoever had the turn before."""
        order = sorted(self.waiting, key=lambda name: (name != self.before, name))
        for name in order:
            if name in self.tried or name in self.asleep:
                continue
            if bound is not None and self.preemptions + self.costs(name) > bound:
                continue
            return name
        return None


@dataclass
class Explored:
    """How many runs there were."""

    runs: int = 0
    given_up: int = 0
    """Runs that turned out to be the same as others, amid."""
    made: Sequence[object] = ()
    """What was called in each run, where ``run`` notes it."""


def explore(
    run: Callable[[Choose], bool], bound: int | None = None, *, reduce: bool = True
) -> Explored:
    """Make every run, or every one with at most ``bound`` preemptions.

    ``run`` makes one, asks whom to choose, and gives False where it was given up. With a bound, or
    without ``reduce``, none is left out for being the same as another.
    """
    explored = Explored()
    nodes: list[_Node] = []
    while True:
        depth = 0

        def choose(waiting: Mapping[str, Step]) -> str | None:
            nonlocal depth
            if depth == len(nodes):
                node = _after(nodes, waiting, reduce=reduce and bound is None)
                chosen = node.next(bound)
                if chosen is None:
                    return None
                node.chosen = chosen
                nodes.append(node)
            node = nodes[depth]
            assert node.waiting == waiting, ("not replayed", node.waiting, waiting)
            depth += 1
            return node.chosen

        if run(choose):
            explored.runs += 1
        else:
            explored.given_up += 1
        while nodes:
            node = nodes[-1]
            node.tried.add(node.chosen)
            if (chosen := node.next(bound)) is not None:
                node.chosen = chosen
                break
            nodes.pop()
        else:
            return explored


def _after(nodes: Sequence[_Node], waiting: Mapping[str, Step], *, reduce: bool) -> _Node:
    if not nodes:
        return _Node(dict(waiting), set())
    last = nodes[-1]
    asleep: set[str] = set()
    if reduce:
        step = last.waiting[last.chosen]
        asleep = {
            name
            for name in last.asleep | last.tried
            if name in waiting and not last.waiting[name].meets(step)
        }
    return _Node(
        dict(waiting),
        asleep,
        before=last.chosen,
        preemptions=last.preemptions + last.costs(last.chosen),
    )
