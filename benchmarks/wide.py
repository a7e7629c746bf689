"""Many senders at once: whether the speed holds, and a batch costs the same.

    make bench ONLY=wide

1 to 64 senders have batches of 1,000 records of 100 B, and each sends its next one as soon as the
last one is answered. *Handlers* are the deployed ones, called by as many threads of one process:
a function in Lambda has one request at a time, so this shows what they share, such as connections
and locks. The other ways are servers, over HTTP. ``tests.stand_in`` counts the connections to S3
and DynamoDB.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import data, report, senders, whole
from benchmarks.handlers import Functions
from benchmarks.processes import MEMORY, Measured, clock, cpu_of, in_a_process, server, since
from tests import stand_in

HERE: Final = "benchmarks.wide"
SENDERS: Final = (1, 4, 16, 64)
RECORDS: Final = 1_000
"""In a batch."""
BATCHES: Final = 640
ROUNDS: Final = 3
HANDLERS: Final = "Gapless, handlers"
LOCAL: Final = "Gapless, local server"
EXPRESS: Final = "Express"
MOST_CPU: Final = 1.25
LEAST_SPEED: Final = 0.8


def latencies(times: list[float]) -> Measured:
    """Milliseconds of a batch."""
    return {
        "median ms": statistics.median(times) * 1000,
        "99 % ms": statistics.quantiles(times, n=100)[98] * 1000,
    }


def timed(send: Callable[[Any], object], batches: list[Any], count: int) -> list[float]:
    """Send all by ``count`` threads; return the seconds of each."""

    def one(batch: Any) -> float:  # noqa: ANN401
        started = time.perf_counter()
        send(batch)
        return time.perf_counter() - started

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, batches))


def receive(endpoint: str, template_file: str, way: str, format_: str, count: str) -> Measured:
    """Store the batches by the handlers in this process, by ``count`` threads."""
    template = Path(template_file).read_text()
    functions = Functions(endpoint)
    session_id = functions.create(2**40, None, format_)
    made = list(whole.events(way, session_id, template, range(BATCHES)))
    functions.store(made[0])
    started = clock()
    times = timed(functions.store, made, int(count))
    return since(started) | latencies(times)


def by_handlers(template_file: Path, way: str, format_: str, count: int) -> Measured:
    """The handlers in a process."""
    with stand_in.serve() as s3:
        found = in_a_process(HERE, "receive", s3.url, template_file, way, format_, count)
        return found | {"connections": s3.connections()}


def over_http(port: int, pid: int, batches: list[senders.Request], count: int) -> Measured:
    """A session's batches to a server."""
    with senders.connections(port, count) as send:
        asked = json.dumps({"totalRecord": 2**40}).encode()
        answer = send(senders.Request("POST", "", asked, senders.JSON), "")
        session = f"/{json.loads(answer)['sessionId']}"
        before, started = cpu_of(pid), time.perf_counter()
        times = timed(lambda batch: send(batch, session), batches, count)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "cpu": cpu_of(pid) - before, **latencies(times)}


def by_local_server(batches: list[senders.Request], count: int) -> Measured:
    """The handlers behind the local server."""
    with stand_in.serve() as s3:
        command = (sys.executable, "-m", "benchmarks.whole", "serve_locally", s3.url)
        with server(*command) as (port, pid):
            found = over_http(port, pid, batches, count)
        return found | {"connections": s3.connections()}


def by_express(batches: list[senders.Request], count: int) -> Measured:
    """The Express server, which has a folder instead of S3."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = ("node", "--max-old-space-size=8192", str(whole.PEERS / "express.js"), folder)
        with server(*command) as (port, pid):
            return over_http(port, pid, batches, count)


def row(way: str, count: int, rounds: list[Measured]) -> report.Row:
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return {
        "": way,
        "senders": count,
        "1,000 records/s": BATCHES * RECORDS / median["seconds"] / 1e3,
        "ms CPU a batch": median["cpu"] / BATCHES * 1e3,
        "ms a batch, median": median["median ms"],
        "99 % within": median["99 % ms"],
        "connections opened": round(median["connections"]) if "connections" in median else "",
    }


def main() -> None:
    template = data.body(0, data.records(RECORDS))
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        file = Path(folder) / "batch.json"
        file.write_text(template)
        posts = senders.posts(template, BATCHES)
        ways: dict[str, Callable[[int], Measured]] = {
            f"{HANDLERS}: POST to ndjson": partial(by_handlers, file, *whole.POST),
            f"{HANDLERS}: PUT gzip to ndjson.gz": partial(by_handlers, file, *whole.PUT_GZIP),
            LOCAL: partial(by_local_server, posts),
            EXPRESS: partial(by_express, posts),
        }
        found: dict[tuple[str, int], list[Measured]] = {
            (way, count): [] for way in ways for count in SENDERS
        }
        for turn in range(ROUNDS):
            report.progress(f"round {turn + 1} of {ROUNDS}")
            for (way, count), rounds in found.items():
                rounds.append(ways[way](count))
    rows = [row(way, count, rounds) for (way, count), rounds in found.items()]
    targets: list[report.Target] = []
    for way in (f"{HANDLERS}: POST to ndjson", LOCAL):
        few, many = (found[way, count] for count in (SENDERS[1], SENDERS[-1]))
        targets += [
            report.Target(
                f"{way}, 64 senders / 4: ms CPU a batch",
                report.ratio([one["cpu"] for one in many], [one["cpu"] for one in few]),
                MOST_CPU,
            ),
            report.Target(
                f"{way}, 64 senders / 4: records/s",
                report.ratio([one["seconds"] for one in few], [one["seconds"] for one in many]),
                LEAST_SPEED,
                least=True,
            ),
        ]
    report.publish("wide", report.Chapter({"senders": rows}, targets))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
    else:
        main()
