"""Explore every interleaving of concurrent invocations, at the granularity of calls to AWS.

An invocation is a thread that waits for its turn before each call. The scheduler waits until all
threads wait, and then picks one. A run is therefore a list of choices and can be replayed. There
are no sleeps and no randomness.

``explore`` searches the choices depth first. Runs that differ only in the order of adjacent,
independent calls (`Step.meets`) are equivalent; sleep sets make only one of them (Godefroid,
"Partial-Order Methods for the Verification of Concurrent Systems", 1996). With a bound on
preemptions (turns taken from an invocation that could continue) it makes every run within the
bound, without this reduction.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Final

from tests.aws import Answer, Call

DEAD: Final = Answer("418 Dead", [], b"")
"""The response to every call of an abandoned run: no client retries this status."""

PROCESSES: Final = ("P0", "P1", "P2", "duplicate")
"""Names of the callers."""

_STUCK_SECONDS: Final = 300
"""Longer than any invocation computes between two calls, on any machine."""
_SESSION_ID: Final = re.compile("[0-9a-f]{32}")

Choose = Callable[[Mapping[str, "Step"]], "str | None"]
"""Picks the next of the waiting callers; None abandons the run."""


@dataclass(frozen=True)
class Step:
    """A call that waits for its turn: what it reads and what it may change."""

    operation: str
    reads: frozenset[str]
    writes: frozenset[str]

    def meets(self, other: "Step") -> bool:
        """Whether the two calls depend on each other, so that their order can matter."""
        return bool(self.writes & (other.reads | other.writes) or self.reads & other.writes)

    @classmethod
    def of(  # noqa: C901 - a table
        cls, call: Call, name: str, uploads: Mapping[str, str]
    ) -> "Step":
        """What ``call``, made by ``name``, touches. A run has one session, so names omit its id.

        ``uploads`` maps each multipart upload to its creator.
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
                # The keys are in the body. A plan is read only after its listing, which is written.
                writes = {"batches", "plans", *(f"/{number:08d}" for number in range(4))}
            case "GetObject" | "HeadObject":
                reads = {key, "plans"} if key.startswith("merges/") else {key}
            case "PutObject":
                # A new key changes the listing.
                writes = {key, _listing(call.key)}
            case "CreateMultipartUpload":
                writes = {f"upload of {name}"}
            case "ListMultipartUploads":
                reads = {f"upload of {each}" for each in PROCESSES}
            case "UploadPart" | "UploadPartCopy" | "ListParts":
                # The batch to copy was read, with its ETag, just before: that read is the conflict.
                reads = {upload}
            case "AbortMultipartUpload":
                writes = {upload}
            case "CompleteMultipartUpload":
                writes = {upload, key}
            case _:
                raise NotImplementedError(operation)
        return cls(operation, frozenset(reads), frozenset(writes))


def _listing(key: str) -> str:
    """The listing that contains ``key``, or everything with this prefix."""
    if _SESSION_ID.match(key):
        return "merged" if "." in key else "batches"
    return "plans"


class Run:
    """Concurrent invocations that make one call at a time."""

    def __init__(self, choose: Choose, observe: Callable[[Call, Answer], None]) -> None:
        self._choose = choose
        self._observe = observe
        self._changed = Condition()
        self._waiting: dict[str, Step] = {}
        self._alive: set[str] = set()
        self._turn = ""
        self._errors: list[BaseException] = []
        self._abandoned = False
        self._uploads: dict[str, str] = {}
        self._copies: dict[str, tuple[str, int]] = {}
        self._made: dict[str, int] = {}
        self.trace: list[tuple[str, Step]] = []
        """Who made which call, in order."""

    def start(self, name: str, work: Callable[[], object]) -> None:
        """Start an invocation; it stops before its first call."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised by `finish`
                self._errors.append(error)
            finally:
                with self._changed:
                    self._alive.discard(name)
                    self._changed.notify_all()

        self._alive.add(name)
        Thread(target=run, daemon=True).start()

    def duplicate(self, name: str, of: str, number: int) -> None:
        """Deliver the ``number``-th call of ``of`` a second time, later, as a caller ``name``."""
        self._copies[name] = (of, number)

    def handler(self, name: str) -> Callable[[Call, Callable[[], Answer]], Answer]:
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
                # Their order would depend on the machine.
                both = (self._waiting[name], step)
                self._errors.append(AssertionError(f"{name} makes two calls concurrently: {both}"))
                return False
            self._waiting[name] = step
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn == name or self._abandoned)
            self._turn = ""
            self._waiting.pop(name)
            return not self._abandoned

    def finish(self) -> bool:
        """Give turns until every invocation has ended. Return False if the run was abandoned."""
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
            # Wake up all waiting threads, so that they end.
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
                ended = self._changed.wait_for(lambda: not self._alive, _STUCK_SECONDS)
                assert ended, ("an invocation goes on after its run", self._alive)
        if self._errors:
            raise self._errors[0]
        return True

    def _stands_still(self) -> bool:
        """Wait until all live invocations wait. Return False if all have ended."""
        with self._changed:
            still = self._changed.wait_for(
                lambda: not self._turn and self._alive == self._waiting.keys(), _STUCK_SECONDS
            )
            assert still, ("an invocation neither calls nor ends", self._alive, self._waiting)
            return bool(self._alive)


@dataclass
class _Node:
    """A choice within a run."""

    waiting: dict[str, Step]
    asleep: set[str]
    """The sleep set: callers whose turn now leads only to equivalent runs."""
    chosen: str = ""
    tried: set[str] = field(default_factory=set)
    before: str = ""
    """Who had the previous turn."""
    preemptions: int = 0
    """Preemptions before this choice."""

    def costs(self, name: str) -> int:
        return int(self.before in self.waiting and name != self.before)

    def next(self, bound: int | None) -> str | None:
        """The caller to try next, the previous one first; None if all were tried."""
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
    abandoned: int = 0
    """Runs that were abandoned because they were equivalent to others."""
    made: Sequence[object] = ()
    """The calls of each run, if ``run`` records them."""


def explore(
    run: Callable[[Choose], bool], bound: int | None = None, *, reduce: bool = True
) -> Explored:
    """Make every run, or every one with at most ``bound`` preemptions.

    ``run`` makes one run with the given choices, and returns False if it was abandoned. With a
    bound, or without ``reduce``, equivalent runs are made, too.
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
            explored.abandoned += 1
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
