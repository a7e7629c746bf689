"""The cost of hostile requests to the shipped handlers stays within documented bounds.

Each function runs in its own process, with its memory limit.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from local import in_process
from local.gateway import Gateway, Lambda
from local.template import Template
from tests.api import Answer, Api, through_gateway
from tests.conftest import MotoStack
from tests.hostile.deflate import packed
from tests.hostile.function import Cost, Function
from tests.hostile.requests import ACCEPTED, HOSTILE, Hostile

pytestmark = pytest.mark.alone

MB = 1_000_000
MOST_MEMORY = 700 * MB
CPU_PER_MB = 0.150
"""Seconds per MB of the larger of sent and inflated size, which counts as one at least."""
TIMES = 4
"""Maximum repetitions of a measurement that is over its bound: on a busy machine CPU times grow,
which ends checks against a schema, too, and calls time out and are retried."""


@dataclass(frozen=True)
class Measured:
    """A request, and what became of it."""

    sent: int
    """Bytes, like ``inflated``."""
    inflated: int
    answer: Answer
    calls: Counter[str]
    """To AWS, by operation."""
    cost: Cost

    @property
    def says(self) -> str:
        """Code of the problem, or the status."""
        problem = self.answer.status >= 400 and self.answer.code
        return problem or str(self.answer.status)

    @property
    def mb(self) -> float:
        return max(1, self.sent / MB, self.inflated / MB)

    @property
    def cpu_per_mb(self) -> float:
        return self.cost.cpu / self.mb

    def row(self, name: str) -> str:
        calls = ", ".join(f"{count} {call}" for call, count in sorted(self.calls.items()))
        return (
            f"| {name} | {self.sent / MB:.3f} | {self.inflated / MB:.1f} |"
            f" {self.cost.peak / MB:.0f} | {self.cost.cpu * 1000:.0f} |"
            f" {self.cpu_per_mb * 1000:.1f} | {calls or 'none'} | {self.says} |"
        )


HEAD = """
| request | MB sent | inflated | peak, MB | CPU, ms | per MB | calls | answer |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Lab:
    """The stack, and its functions as separate processes."""

    stack: MotoStack
    functions: dict[str, Function]

    @property
    def near(self) -> Api:
        """A client of the stack in this process, for setup."""
        return Api(through_gateway(self.stack.gateway))

    def session(self, kind: str) -> str:
        if kind in {"unknown", "create"}:
            return "0" * 32
        if kind == "no id":
            return "f" * 31
        if "finished" in kind:
            session_id = self.near.create(0)
            self.near.finish(session_id)
            return session_id
        form = "ndjson.gz" if kind == "compressed" else "ndjson"
        session_id = self.near.create(
            2**40,
            2**30 if kind == "strict" else None,
            format=form,
            schema=kind.removeprefix("schema ") if kind.startswith("schema ") else None,
        )
        if kind == "aborted":
            self.near.abort(session_id)
        if kind == "expired":
            self.stack.change(session_id, batchesUntil=1, expiresAt=1)
        return session_id

    def send(self, hostile: Hostile, body: bytes) -> tuple[Answer, Counter[str], Cost]:
        """Send ``body`` to a fresh session; return the answer, the calls and the cost."""
        session_id = self.session(hostile.to)
        path, name = {
            "create": (Api.ROOT, "create"),
            "finish a finished": (f"{Api.ROOT}/{session_id}/finish", "finish"),
        }.get(hostile.to, (f"{Api.ROOT}/{session_id}", "batch"))
        method, route = "POST", path.replace(session_id, "{sessionId}")
        if hostile.as_lines:
            method, path, route = "PUT", f"{path}/batches/0", f"{route}/batches/{{seqNum}}"
        function = self.functions[name]
        gateway = Gateway(
            {f"{method} {route}": Lambda(function, timeout=29)}, integration_seconds=600
        )
        with self.stack.aws.recording() as calls:
            answer = through_gateway(gateway)(method, path, body, hostile.headers)
        for key in self.stack.stored_keys(session_id):
            self.stack.s3.delete_object(Bucket=self.stack.batches_bucket, Key=key)
        return answer, Counter(call.operation for call in calls), function.cost

    def measure(self, hostile: Hostile) -> Measured:
        body, inflated = hostile.body(), hostile.inflated
        if inflated is None:
            inflated = len(body)
            if "content-encoding" in hostile.headers:
                body = packed(body)
        found = Measured(len(body), inflated, *self.send(hostile, body))
        for _ in range(TIMES - 1):
            as_expected = (found.says, found.calls) == (hostile.answer, Counter(hostile.calls))
            if as_expected and found.cpu_per_mb <= CPU_PER_MB:
                break
            again = Measured(len(body), inflated, *self.send(hostile, body))
            found = min(again, replace(again, cost=found.cost), key=lambda one: one.cost.cpu)
        return found


@pytest.fixture(scope="module")
def lab(stack: MotoStack) -> Iterator[Lab]:
    template = Template.load(in_process.TEMPLATE)
    names = {"create": "POST /api/upload/sessions"}
    names["batch"] = names["create"] + "/{sessionId}"
    names["finish"] = names["batch"] + "/finish"
    by_route = {route.key: route.function for route in template.routes}
    with ExitStack() as functions:
        yield Lab(
            stack,
            {
                name: functions.enter_context(
                    Function(by_route[route].handler, by_route[route].memory)
                )
                for name, route in names.items()
            },
        )


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    """Results by name, for the table that the last test prints."""
    return {}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_answered_within_the_bounds(
    lab: Lab, measured: dict[str, Measured], name: str
) -> None:
    hostile = HOSTILE[name]
    found = measured[name] = lab.measure(hostile)
    assert found.says == hostile.answer
    assert found.calls == Counter(hostile.calls)
    assert found.cost.peak <= MOST_MEMORY
    assert found.cost.cpu <= CPU_PER_MB * found.mb


def test_to_refuse_takes_no_more_than_to_accept(
    lab: Lab, measured: dict[str, Measured], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(HEAD, *(found.row(name) for name, found in measured.items()), sep="\n")
    most = max(measured[name].cpu_per_mb for name in ACCEPTED if name in measured)
    for name, found in measured.items():
        # A check that is ended takes its limit, on a quick machine, too.
        if name not in ACCEPTED and found.says != "check_too_long":
            refused = found.cpu_per_mb
            for _ in range(TIMES - 1):
                refused = refused if refused <= most else lab.measure(HOSTILE[name]).cpu_per_mb
            assert refused <= most, name
