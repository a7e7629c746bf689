"""``benchmarks/cost.py`` bills the calls that whole uploads make."""

import gzip
import json
import os
import random
from collections import Counter
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import pytest

from benchmarks.cost import Upload, cleaning_up, merging, receiving, transitions
from tests.api import Api
from tests.conftest import MotoStack
from tests.integration.test_cleanup_calls import Context, change, stream
from tests.state_machine import Function, StateMachine
from uploads import limits
from uploads.config import Config
from uploads.formats import Format
from uploads.gzip_member import deflate
from uploads.merging.executions import MergeExecutions
from uploads.session import NO_TOTALS
from uploads.wiring import Wiring

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

RANDOM = random.Random(1)


def line(size: int) -> bytes:
    """A record of ``size`` bytes that compresses to half or more of it."""
    return b'"%s"\n' % RANDOM.randbytes(size // 2).hex().encode()[: size - 3]


def upload(line: bytes, batches: int, format_: Format, *, strict: bool) -> Upload:
    """An upload of ``batches`` equal batches of one record."""
    ratio = len(line) / len(deflate(line))
    return Upload(batches, len(line), 1, format_, stored_ratio=ratio, strict=strict)


def send(api: Api, line: bytes, upload: Upload) -> str:
    session_id = api.create(
        upload.records, upload.batch_size if upload.strict else None, format=upload.format
    )
    body = gzip.compress(line, 1)
    for seq_num in range(upload.batches):
        sent = api.lines(session_id, seq_num, body, {"content-encoding": "gzip"})
        assert sent.status == 204
    return session_id


SMALL, STREAMED, COPIED = line(1_000), line(4_800_000), line(6_400_000)
TASKS = ("plan", "compose", "complete", "release")


@pytest.mark.parametrize(
    ("line", "batches", "strict"),
    [(SMALL, 3, True), (SMALL, 3, False), (STREAMED, 5, False), (COPIED, 2, True)],
    ids=["one put, strict", "one put, flexible", "streamed", "copied where plain"],
)
@pytest.mark.parametrize("format_", list(Format))
def test_calls_of_an_upload(
    api: Api, local: MotoStack, line: bytes, batches: int, format_: Format, *, strict: bool
) -> None:
    planned = upload(line, batches, format_, strict=strict)
    with local.aws.recording() as received:
        session_id = send(api, line, planned)
    with local.aws.recording() as merged:
        result = api.finish(session_id).json
    assert result["bytes"] == planned.stored_bytes
    with local.aws.recording() as cleaned:
        assert stream(change(session_id, "FINISHED")) == []
    assert local.left(session_id) == (0, 0)
    assert Counter(call.operation for call in received) == receiving(planned)
    assert Counter(call.operation for call in merged) == merging(planned)
    assert Counter(call.operation for call in cleaned) == cleaning_up(planned)


class StepFunctions:
    """StartExecution, the only call that finish makes."""

    exceptions: Any = None

    def __init__(self) -> None:
        self.started: list[Any] = []

    def start_execution(self, **asked: str) -> None:
        self.started.append(json.loads(asked["input"]))


@pytest.mark.parametrize(
    ("line", "batches", "strict"),
    [(STREAMED, 7, False), (COPIED, 3, True)],
    ids=["streamed", "copied where plain"],
)
@pytest.mark.parametrize("format_", list(Format))
def test_calls_of_a_merge_that_is_handed_over(
    api: Api,
    local: MotoStack,
    monkeypatch: pytest.MonkeyPatch,
    line: bytes,
    batches: int,
    format_: Format,
    *,
    strict: bool,
) -> None:
    # No finish has time to merge in the call.
    monkeypatch.setattr(limits, "INLINE_SHARE", 0)
    planned = upload(line, batches, format_, strict=strict)
    assert planned.shares
    session_id = send(api, line, planned)
    step_functions = StepFunctions()
    executions = MergeExecutions(lambda: cast("SFNClient", step_functions), "arn")
    finisher = replace(Wiring(Config.from_env(os.environ)).finisher, executions=executions)
    merge, entered = import_module("merge"), 0

    def function(name: str) -> Function:
        def call(payload: Any) -> object:  # noqa: ANN401
            nonlocal entered
            entered += 1
            return merge.build(wiring)[name](payload, Context())

        return call

    def read(key: str) -> bytes:
        return local.s3.get_object(Bucket=local.batches_bucket, Key=key)["Body"].read()

    wiring = Wiring(Config.from_env(os.environ))
    machine = StateMachine(
        {f"${{{name.capitalize()}Function}}": function(name) for name in TASKS}, read
    )
    with local.aws.recording() as merged:
        outcome = finisher.run(session_id, local.item(session_id)["owner"], 25, NO_TOTALS)
        assert outcome.result is None
        machine.run(step_functions.started.pop())
    # Without the read that the test itself makes.
    made = Counter(call.operation for call in merged) - Counter({"GetItem": 1})
    assert made == merging(planned)
    assert entered == len(planned.shares) + 2 < transitions(planned)
    assert api.finish(session_id).json["validationResult"] == "Success"
    with local.aws.recording() as cleaned:
        assert stream(change(session_id, "FINISHED")) == []
    assert Counter(call.operation for call in cleaned) == cleaning_up(planned)
