"""CPU of the batch handler beyond its S3 and DynamoDB calls, beside json loads and dumps.

    PYTHONPATH=functions python -m benchmarks.batch_path

The handler is the deployed one; only the two calls to AWS do nothing. Both ways take the same event
and make the same NDJSON, in alternating rounds in one process; printed are medians of CPU time per
MB (10⁶ bytes) of body.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from benchmarks import data
from uploads.config import AuthMode
from uploads.session import Session

if TYPE_CHECKING:
    from uploads.http import Context, Handler
    from uploads.wiring import Wiring

ROUNDS = 40
MOST_MS_PER_MB = 3.0
LEAST_RATIO = 15.0

SESSION = Session("0" * 32, "anybody", 10_000, None, 0, 2**40)


class NoStore:
    """Stands for S3 and DynamoDB: takes everything, at no cost."""

    stored = b""

    def put(self, session_id: str, batch: Any) -> None:  # noqa: ANN401, ARG002, D102
        self.stored = batch.ndjson

    def get(self, session_id: str, owner: str) -> Session:  # noqa: ARG002, D102
        return SESSION

    def recall(self, session_id: str, owner: str, now: int) -> Session:  # noqa: ARG002, D102
        return SESSION


def event(body: str) -> dict[str, Any]:
    """The event of a batch, as API Gateway makes it."""
    return {
        "version": "2.0",
        "routeKey": "POST /api/upload/sessions/{sessionId}",
        "pathParameters": {"sessionId": SESSION.session_id},
        "headers": {"content-type": "application/json", "content-length": str(len(body.encode()))},
        "requestContext": {"requestId": "benchmark"},
        "body": body,
        "isBase64Encoded": False,
    }


def plainly(body: str) -> bytes:
    """What the handler makes of ``body``, by the standard library."""
    found = json.loads(body)["data"]
    lines = (json.dumps(record, separators=(",", ":"), ensure_ascii=False) for record in found)
    return "".join(line + "\n" for line in lines).encode()


def cpu(work: Callable[[], object]) -> float:
    """Milliseconds of CPU that ``work`` takes."""
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1e6


def handler_on(store: NoStore) -> "Handler":
    """The batch function's handler, on ``store``."""
    import batches

    config = SimpleNamespace(auth_mode=AuthMode.NONE)
    wiring = SimpleNamespace(config=config, clock=lambda: 0, sessions=store, batches=store)
    return batches.build(cast("Wiring", wiring))


def main() -> None:
    """Measure, print, and fail where a promise is not kept."""
    os.environ |= {
        "SESSIONS_TABLE": "none",
        "BATCHES_BUCKET": "none",
        "MERGED_BUCKET": "none",
        "AUTH_MODE": "NONE",
        "SESSION_LIFETIME_HOURS": "1",
        "MERGED_RETENTION_DAYS": "1",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "POWERTOOLS_LOG_LEVEL": "INFO",
        "POWERTOOLS_METRICS_NAMESPACE": "Gapless",
        "POWERTOOLS_SERVICE_NAME": "gapless",
    }
    store = NoStore()
    context = cast("Context", SimpleNamespace(aws_request_id="benchmark"))

    body = data.body(0, data.records(10_000))
    megabytes = len(body) / 1e6
    received = event(body)
    ours: list[float] = []
    theirs: list[float] = []
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        # The log and metric lines are part of the work, but not of the output.
        handler = handler_on(store)
        for _ in range(ROUNDS):
            ours.append(cpu(lambda: handler(received, context)) / megabytes)
            theirs.append(cpu(lambda: plainly(body)) / megabytes)
    assert store.stored == plainly(body), "both ways must make the same NDJSON"

    mine, plain = statistics.median(ours), statistics.median(theirs)
    print(f"body                     10,000 records, {megabytes:.2f} MB")
    print(f"batch handler            {mine:6.2f} ms CPU per MB   (promised: <= {MOST_MS_PER_MB})")
    print(f"json loads and dumps     {plain:6.2f} ms CPU per MB")
    print(f"ratio                    {plain / mine:6.1f}              (promised: >= {LEAST_RATIO})")
    if mine > MOST_MS_PER_MB or plain / mine < LEAST_RATIO:
        sys.exit("the promise is not kept")


if __name__ == "__main__":
    main()
