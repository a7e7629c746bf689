"""The long merge: 15 GB in 3,000 batches, shared among functions.

    PYTHONPATH=functions python -m benchmarks.fan_out

Runs the deployed tasks one by one, each in a process of its own, against the look-alike of
``benchmarks.lookalike`` at 15 ms a read and 30 ms a write. Step Functions runs the shares side by
side, so that the whole takes as long as planning, the slowest share, and completing; what Step
Functions and the starts of the functions add is not in it. Ends with 1 where the promise is not
kept.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any, Final

from benchmarks.compose import SESSION, look_alike, resident
from benchmarks.handlers import ENVIRON

BATCHES: Final = 3_000
BYTES: Final = 5_000_000
PROMISED_SECONDS: Final = 10.0


def task(endpoint: str, name: str, event: str) -> dict[str, Any]:
    """Run one task in this process. Gives what it returns, its seconds, and its memory in MiB."""
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    import merge
    from uploads.finishing import listing_digest
    from uploads.plan import StoredBatch

    given = json.loads(event)
    etag = '"00000000000000000000000000000000"'
    listing = [StoredBatch(n, BYTES, etag) for n in range(BATCHES)]
    given["execution"] = {
        "session_id": SESSION,
        "owner": "anybody",
        "attempt": 1,
        "batches": BATCHES,
        "digest": listing_digest(listing),
    }
    started = time.perf_counter()
    returned = getattr(merge, name)(given, Context())
    return {
        "returned": returned,
        "seconds": time.perf_counter() - started,
        "mib": resident() / 2**20,
    }


class Context:
    """What Lambda tells of an invocation."""

    aws_request_id = "benchmark"


def run(endpoint: str, name: str, **event: object) -> dict[str, Any]:
    """Run one task in a process of its own."""
    measured = subprocess.run(
        [sys.executable, "-m", "benchmarks.fan_out", endpoint, name, json.dumps(event)],
        env=os.environ | ENVIRON | {"POWERTOOLS_LOG_LEVEL": "CRITICAL"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(measured.stdout)
    return found


def main() -> None:
    """Measure every task and print them."""
    print(f"{BATCHES:,} batches of {BYTES:,} bytes, 15 ms a read, 30 ms a write")
    with look_alike(BATCHES, BYTES, 15, 30) as endpoint:
        plan = run(endpoint, "plan")
        planned = plan["returned"]
        print(f"plan       {plan['seconds']:6.2f} s  {planned['shares']} shares", flush=True)
        slowest = most = 0.0
        for share in range(planned["shares"]):
            done = run(endpoint, "compose", upload_id=planned["upload_id"], share=share)
            slowest, most = max(slowest, done["seconds"]), max(most, done["mib"])
            print(f"share {share:>3}  {done['seconds']:6.2f} s  {done['mib']:.0f} MiB", flush=True)
        complete = run(endpoint, "complete", planned=planned)
        print(f"complete   {complete['seconds']:6.2f} s", flush=True)
    whole = plan["seconds"] + slowest + complete["seconds"]
    print(f"plan, slowest share, complete: {whole:.2f} s; {most:.0f} MiB in one function at most")
    if whole > PROMISED_SECONDS:
        sys.exit(f"Promised were {PROMISED_SECONDS:.0f} s.")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(task(*sys.argv[1:])))
    else:
        main()
