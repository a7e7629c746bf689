"""Random runs of the whole API, compared with a plain dictionary as the model.

Hypothesis runs several sessions of several owners: batches in any order, repeated or conflicting;
finishes with right and wrong totals, which die at any call to AWS and are taken over; aborts;
strangers; clock jumps past leases and expiry. Every session's status after each step, and every
merged object at the end, must match the model. The model shares no code with the service.
``PROOF_SCALE`` multiplies the number of runs. A failure prints how to reproduce it.
"""

import json
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from local.gateway import Gateway, Lambda
from tests.api import Answer as ApiAnswer
from tests.api import Api, through_gateway
from tests.aws import DEAD, Answer, Call
from tests.conftest import MotoStack
from uploads.config import AuthMode, Config
from uploads.wiring import Wiring

pytestmark = pytest.mark.slow

SEQ_NUMS = st.integers(0, 5)
DATA: st.SearchStrategy[list[object]] = st.lists(
    st.sampled_from([1, "é", None, {"a": 1.5}, [[]], "\u2028"]), min_size=1, max_size=4
)
SAYS: st.SearchStrategy[dict[str, int] | None] = st.none() | st.fixed_dictionaries(
    {}, optional={"totalRecord": st.integers(0, 9), "batches": st.integers(0, 6)}
)
"""Totals of a finish; None stands for the right ones."""
OWNERS = ("Ada", "Grace")
LIFETIME = 24 * 3600
JUMPS = {"over a lease": 60, "for hours": 5 * 3600, "over the expiry": 25 * 3600}


class Clock:
    """The time in seconds since 1970, plus ``ahead``."""

    ahead = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


def api_of(clock: Clock, owner: str) -> Api:
    """A client of the deployed handlers, authenticated as ``owner``, at the time of ``clock``."""
    config = replace(Config.from_env(os.environ), auth_mode=AuthMode.JWT)
    wiring = Wiring(config, clock)
    modules = [import_module(name) for name in ("sessions", "batches", "finish")]
    sessions, batches, finish = (module.build(wiring) for module in modules)

    def authorized(handler: Callable[..., Any]) -> Lambda:
        def handle(event: Mapping[str, Any], context: object) -> Any:  # noqa: ANN401
            claims = {"iss": "https://login.example.com", "sub": owner}
            about = event["requestContext"] | {"authorizer": {"jwt": {"claims": claims}}}
            return handler({**event, "requestContext": about}, context)

        return Lambda(handle, handler.__name__, timeout=29, memory=1_769)

    root = "/api/upload/sessions"
    return Api(
        through_gateway(
            Gateway(
                {
                    f"POST {root}": authorized(sessions),
                    f"GET {root}/{{sessionId}}": authorized(sessions),
                    f"DELETE {root}/{{sessionId}}": authorized(sessions),
                    f"POST {root}/{{sessionId}}": authorized(batches),
                    f"PUT {root}/{{sessionId}}/batches/{{seqNum}}": authorized(batches),
                    f"POST {root}/{{sessionId}}/finish": authorized(finish),
                }
            )
        )
    )


class Machine(RuleBasedStateMachine):
    """The model: a dictionary for each session.

    Its members: owner, expires, total, size, form, state, aborted, batches, result and decided.
    """

    stack: MotoStack
    clock: Clock
    apis: Mapping[str, Api]
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.clock.ahead = 0
        self.model: dict[str, dict[str, Any]] = {}

    def api(self, session_id: str) -> Api:
        return self.apis[self.model[session_id]["owner"]]

    @rule(
        target=sessions,
        owner=st.sampled_from(OWNERS),
        total=st.none() | st.integers(0, 9),
        size=st.none() | st.integers(1, 3),
        form=st.sampled_from(["ndjson", "ndjson.gz"]),
    )
    def create(self, owner: str, total: int | None, size: int | None, form: str) -> str:
        if total is None:
            size = None
        session_id = self.apis[owner].create(total, size, format=form)
        self.model[session_id] = {
            "owner": owner,
            "expires": self.clock() + LIFETIME,
            "total": total,
            "size": size,
            "form": form,
            "state": "OPEN",
            "aborted": False,
            "decided": None,
            "batches": {},
            "result": None,
        }
        return session_id

    @rule(session_id=sessions, seq_num=SEQ_NUMS, data=DATA, as_lines=st.booleans())
    def batch(self, session_id: str, seq_num: int, data: list[object], *, as_lines: bool) -> None:
        """Send a batch by ``PUT`` or ``POST``; the result must be the same."""
        session = self.model[session_id]
        api = self.api(session_id)
        if as_lines:
            lines = "".join(json.dumps(record) + "\n" for record in data)
            answer = api.lines(session_id, seq_num, lines.encode())
        else:
            answer = api.batch(session_id, seq_num, data)
        right = self._right_length(session, seq_num)
        if right not in {None, len(data)}:
            # A warm function may refuse it by cached, immutable fields before it reads the state.
            assert answer.status in {400, 409, 410}
            return
        if session["state"] == "EXPIRED":
            assert (answer.status, answer.code) == (410, "session_expired")
            return
        if session["state"] != "OPEN":
            assert answer.status == 409
            return
        stored = session["batches"].setdefault(seq_num, data)
        assert answer.status == (204 if stored == data else 409)

    @staticmethod
    def _right_length(session: dict[str, Any], seq_num: int) -> int | None:
        """How many records the batch must have; None: any number; -1: no such batch."""
        if session["size"] is None:
            return None
        rest = session["total"] - seq_num * session["size"]
        return min(rest, session["size"]) if rest > 0 else -1

    @rule(session_id=sessions, seq_nums=st.permutations(range(6)))
    def fill(self, session_id: str, seq_nums: list[int]) -> None:
        """Send batches that a strict session lacks, so that enough finishes succeed."""
        session = self.model[session_id]
        for seq_num in seq_nums:
            right = self._right_length(session, seq_num)
            if session["state"] == "OPEN" and right and right > 0:
                data = session["batches"].get(seq_num, [seq_num] * right)
                self.batch(session_id, seq_num, data, as_lines=seq_num % 2 == 0)

    def _said(self, session_id: str, says: dict[str, int] | None) -> dict[str, int]:
        if says is not None:
            return says
        batches = self.model[session_id]["batches"]
        return {"totalRecord": sum(map(len, batches.values())), "batches": len(batches)}

    @rule(session_id=sessions, says=SAYS)
    def finish(self, session_id: str, says: dict[str, int] | None) -> None:
        said = self._said(session_id, says)
        self._check_finish(session_id, said, self.api(session_id).finish(session_id, **said))

    @rule(
        session_id=sessions,
        says=SAYS,
        then_says=SAYS,
        dies_at=st.integers(1, 12),
        landed=st.booleans(),
    )
    def finish_that_dies(
        self,
        session_id: str,
        says: dict[str, int] | None,
        then_says: dict[str, int] | None,
        dies_at: int,
        *,
        landed: bool,
    ) -> None:
        """A finish dies at some call; after its lease, another finish with other totals follows.

        The second is refused if its totals contradict what the first has decided.
        """
        said, then_said = self._said(session_id, says), self._said(session_id, then_says)
        made = 0

        def handle(_: Call, forward: Callable[[], Answer]) -> Answer:
            nonlocal made
            made += 1
            if made < dies_at or (made == dies_at and landed):
                answer = forward()
                if made < dies_at:
                    return answer
            return DEAD

        api = self.api(session_id)
        with self.stack.aws.handled(handle):
            api.finish(session_id, **said)
        item = self.stack.item(session_id)
        if item["state"] == "FINISHING":
            assert api.finish(session_id, **said).status in {202, 410}
            self.jump("over a lease")
        session = self.model[session_id]
        if decision := item.get("decision"):
            session["decided"] = (decision["records"], decision["batches"])
        told = api.status(session_id)
        if told.status == 200 and told.json["finish"] not in (None, session["result"]):
            # It stored an answer, which remains if the next finish is refused.
            self._check_validation(session, said, told.json["finish"])
        self._check_finish(session_id, then_said, api.finish(session_id, **then_said))
        if session["decided"]:
            self._check_finish(session_id, {}, api.finish(session_id))
        elif self.stack.item(session_id)["state"] == "FINISHING":
            # A refused finish takes nothing over.
            self._check_finish(session_id, said, api.finish(session_id, **said))

    @staticmethod
    def _is_conflict(session: dict[str, Any], said: dict[str, int]) -> bool:
        batches = -(-session["total"] // session["size"]) if session["size"] else None
        total, batches = session["decided"] or (session["total"], batches)
        if session["state"] == "FINISHED":
            total, batches = (session["result"][name] for name in ("totalRecord", "batches"))
        wrong_total = total is not None and said.get("totalRecord", total) != total
        return wrong_total or (batches is not None and said.get("batches", batches) != batches)

    def _check_finish(self, session_id: str, said: dict[str, int], answer: ApiAnswer) -> None:
        session = self.model[session_id]
        if session["state"] == "EXPIRED":
            assert (answer.status, answer.code) == (410, "session_expired")
        elif session["state"] == "ABORTED":
            assert (answer.status, answer.code) == (409, "session_aborted")
        elif self._is_conflict(session, said):
            assert (answer.status, answer.code) == (409, "totals_conflict")
        elif session["state"] == "FINISHED":
            assert answer.json == session["result"]
        elif session["total"] is None and "totalRecord" not in said and not session["decided"]:
            assert (answer.status, answer.code) == (400, "missing_total")
        else:
            assert answer.status == 200
            self._check_validation(session, said, answer.json)

    def _check_validation(
        self, session: dict[str, Any], said: dict[str, int], result: dict[str, Any]
    ) -> None:
        present = set(session["batches"])
        wanted = set(range(said.get("batches", max(present, default=-1) + 1)))
        if session["size"]:
            wanted = {n for n in range(9) if n * session["size"] < session["total"]}
        received = sum(len(data) for data in session["batches"].values())
        total = said.get("totalRecord", session["total"])
        if session["decided"]:
            wanted, total = present, received
        assert result["totalRecord"] == total
        if result["validationResult"] == "Failed":
            assert result.get("expectedBatches") == said.get("batches")
        if present - wanted:
            assert (result["validationResult"], result["reason"]) == (
                "Failed",
                "unexpected_batches",
            )
            assert self._numbers(result["unexpected"]) == present - wanted
            assert self._numbers(result["missing"]) == wanted - present
        elif wanted - present:
            assert (result["validationResult"], result["reason"]) == ("Failed", "missing_batches")
            assert self._numbers(result["missing"]) == wanted - present
        elif received != total:
            assert (result["validationResult"], result["reason"]) == ("Failed", "record_count")
            assert result["receivedRecord"] == received
        else:
            assert (result["validationResult"], result["receivedRecord"]) == ("Success", received)
            session["state"] = "FINISHED"
        session["result"] = result

    @staticmethod
    def _numbers(ranges: list[dict[str, int]]) -> set[int]:
        return {n for gap in ranges for n in range(gap["from"], gap["to"] + 1)}

    @rule(session_id=sessions)
    def abort(self, session_id: str) -> None:
        session = self.model[session_id]
        expected = {"EXPIRED": 410, "FINISHED": 409}.get(session["state"], 204)
        if session["aborted"]:
            # Aborting again succeeds even after the expiry.
            expected = 204
        assert self.api(session_id).abort(session_id).status == expected
        if expected == 204 and not session["aborted"]:
            session |= {"state": "ABORTED", "batches": {}, "aborted": True}

    @rule(how=st.sampled_from(list(JUMPS)))
    def jump(self, how: str) -> None:
        """Advance the clock. Finished sessions stay; open and aborted ones expire."""
        self.clock.ahead += JUMPS[how]
        for session in self.model.values():
            if session["state"] != "FINISHED" and self.clock() >= session["expires"]:
                session["state"] = "EXPIRED"

    @rule(session_id=sessions, seq_num=SEQ_NUMS)
    def stranger(self, session_id: str, seq_num: int) -> None:
        """Another owner sees nothing and changes nothing."""
        (other,) = set(OWNERS) - {self.model[session_id]["owner"]}
        api = self.apis[other]
        answers = [
            api.status(session_id),
            api.batch(session_id, seq_num, ["stranger"]),
            api.finish(session_id),
            api.abort(session_id),
        ]
        assert [answer.code for answer in answers] == ["session_not_found"] * 4

    @invariant()
    def status_is_true(self) -> None:
        for session_id, session in self.model.items():
            answer = self.api(session_id).status(session_id)
            if session["state"] == "EXPIRED":
                assert answer.status == 410
                continue
            assert answer.json["state"] == session["state"]
            assert answer.json["format"] == session["form"]
            assert answer.json["batches"] == len(session["batches"])
            assert answer.json["finish"] == session["result"]

    def teardown(self) -> None:
        for session_id, session in self.model.items():
            assert self.stack.open_uploads(session_id) == 0
            if session["state"] == "FINISHED":
                records = [
                    record for _, data in sorted(session["batches"].items()) for record in data
                ]
                merged = self.stack.merged(session_id, session["form"])
                if session["form"] == "ndjson.gz":
                    merged = zlib.decompress(merged, 31)
                assert [json.loads(line) for line in merged.split(b"\n")[:-1]] == records
            else:
                assert not self.stack.has_merged(session_id)
        super().teardown()


def test_the_api_is_its_model(local: MotoStack) -> None:
    clock = Clock()
    apis = {owner: api_of(clock, owner) for owner in OWNERS}
    members = {"stack": local, "clock": clock, "apis": apis}
    machine = type("MachineOnStack", (Machine,), members)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40 * int(os.environ.get("PROOF_SCALE", "1")),
            stateful_step_count=25,
        ),
    )
