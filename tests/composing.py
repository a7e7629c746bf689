"""Compose a session of `tests.stand_in` with the functions' own modules, and measure it.

``python -m tests.composing URL``, in the functions' environment, prints the result as JSON.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Final

SESSION: Final = "0" * 32


def prepare(endpoint: str, format_: str = "ndjson") -> Callable[[], int]:
    """A function that composes and publishes the session, and returns its number of records."""
    from uploads.batch import listing_digest
    from uploads.config import Config
    from uploads.formats import Format
    from uploads.merging.composing import Composer, Composition
    from uploads.merging.parts import plan_parts
    from uploads.session import Decision, Session
    from uploads.wiring import Wiring

    wiring = Wiring(Config.from_env(os.environ | {"AWS_ENDPOINT_URL": endpoint}))
    batches, composer = wiring.batches, Composer(wiring.batches, wiring.merged)
    batches.list(SESSION, below=1)
    session = Session(SESSION, "anybody", 0, None, 0, 2**40, 2**40, format=Format(format_))

    def run() -> int:
        listing = batches.list(SESSION)
        digest = listing_digest(listing)
        with Composition(composer, session, plan_parts(listing), digest) as composition:
            content = composition.transfer()
            decision = Decision(len(listing), content.records, content.bytes, digest)
            composition.publish(decision, content.checksum)
        return content.records

    return run


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(run: Callable[[], int]) -> dict[str, float]:
    """Return the result of ``run``, its seconds, and its peak memory above the start, in MiB."""
    start_bytes, peak, done = _resident(), 0, Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    cpu, started = time.process_time(), time.perf_counter()
    records = run()
    found = {
        "records": records,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
    }
    done.set()
    watcher.join()
    return found | {"mib": (peak - start_bytes) / 2**20}


if __name__ == "__main__":
    print(json.dumps(measure(prepare(sys.argv[1]))))
