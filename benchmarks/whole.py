"""Whole uploads of the same records, by Gapless and by alternatives.

    make bench ONLY=whole
    make bench ONLY=largest BENCH_FULL=1    10,000,000 records, see ``benchmarks.largest``

*Own work* is what the code behind the routes does, without HTTP: for Gapless the deployed handlers
with their clients, for the Express server that it replaces its three routes. It is measured one
request at a time, and with four at a time as each would handle them: Lambda starts a process of the
function for each, while Express keeps its sessions in one process, and works on another request
while a file is written.

The servers are measured by uploads over HTTP from four senders. For Gapless this is the local
server, a stand-in for API Gateway and Lambda that nobody deploys. All use ``tests.stand_in`` as S3
and DynamoDB, except Express, which writes to a folder in memory. Batches have 10,000 records of
100 B. The client compresses them to a third.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from isal import igzip

from benchmarks import data, report, senders
from benchmarks.handlers import BATCH as BATCH_ROUTE
from benchmarks.handlers import ENVIRON, LINES, Functions, event
from benchmarks.processes import (
    MEMORY,
    Measured,
    clock,
    cpu_of,
    in_a_process,
    peak_mib,
    result,
    server,
    since,
    started,
)
from tests import stand_in

HERE: Final = "benchmarks.whole"
BATCH: Final = 10_000
SIZES: Final = (100_000, 1_000_000)
TUS_BYTES: Final = 50_000_000
"""Bytes for tus, sent in pieces; its speed does not depend on the size."""
ROUNDS: Final = 3
AT_ONCE: Final = 4
PEERS: Final = report.BUILD / "peers"

POST: Final = ("POST", "ndjson")
PUT_GZIP: Final = ("PUT gzip", "ndjson.gz")
"""How a batch is sent, and the format of the merged object."""
PLAIN: Final = "Gapless, own work: POST to ndjson"
COMPRESSED: Final = "Gapless, own work: PUT gzip to ndjson.gz"
WORK: Final = {
    PLAIN: POST,
    "Gapless, own work: POST gzip to ndjson": ("POST gzip", "ndjson"),
    "Gapless, own work: PUT gzip to ndjson": ("PUT gzip", "ndjson"),
    COMPRESSED: PUT_GZIP,
}
PLAIN_AT_ONCE: Final = "Gapless, own work, four at a time: POST to ndjson"
COMPRESSED_AT_ONCE: Final = "Gapless, own work, four at a time: PUT gzip to ndjson.gz"
EXPRESS: Final = "Express, own work"
EXPRESS_AT_ONCE: Final = "Express, own work, four at a time"
LOCAL: Final = "Gapless, local server: POST to ndjson"
LOCAL_COMPRESSED: Final = "Gapless, local server: PUT gzip to ndjson.gz"
EXPRESS_SERVER: Final = "Express, server"
BESIDE: Final = (
    *(PLAIN, COMPRESSED, EXPRESS),
    *(PLAIN_AT_ONCE, COMPRESSED_AT_ONCE, EXPRESS_AT_ONCE),
    *(LOCAL, LOCAL_COMPRESSED, EXPRESS_SERVER),
)
"""What the short table shows."""


def events(way: str, session_id: str, template: str, numbers: range) -> Iterator[dict[str, Any]]:
    """The events of these batches, in one of the ways of ``WORK``."""
    compressed = senders.compressed_lines(template)
    for seq_num in numbers:
        body = senders.numbered(template, seq_num)
        match way:
            case "POST":
                yield event(BATCH_ROUTE, session_id, body)
            case "POST gzip":
                yield event(BATCH_ROUTE, session_id, igzip.compress(body.encode(), 1))
            case _:
                yield event(LINES, session_id, compressed, seq_num)


def receive(
    endpoint: str, template_file: str, batches: str, way: str, format_: str
) -> dict[str, Any]:
    """Create a session and store its batches, one after the other, in this process."""
    template = Path(template_file).read_text()
    functions = Functions(endpoint)
    # Import everything and open all connections first.
    warm = functions.create(BATCH, BATCH, format_)
    for made in events(way, warm, template, range(1)):
        functions.store(made)
    started = clock()
    session_id = functions.create(int(batches) * BATCH, BATCH, format_)
    total = since(started)
    # Making events is the work of senders and API Gateway.
    for made in events(way, session_id, template, range(int(batches))):
        started = clock()
        functions.store(made)
        took = since(started)
        total = took | {name: total[name] + took[name] for name in ("seconds", "cpu")}
    return {"sessions": [warm, session_id], **total}


def create(endpoint: str, batches: str, format_: str) -> dict[str, Any]:
    """Create a session to warm up with, and the one to measure."""
    functions = Functions(endpoint)
    warm = functions.create(BATCH, BATCH, format_)
    return {"sessions": [warm, functions.create(int(batches) * BATCH, BATCH, format_)]}


def share(
    endpoint: str,
    template_file: str,
    way: str,
    warm: str,
    session_id: str,
    *numbers: str,
) -> Measured:
    """Store the batches of a range in this process, when it is told to start."""
    template = Path(template_file).read_text()
    functions = Functions(endpoint)
    for made in events(way, warm, template, range(1)):
        functions.store(made)
    mine = list(events(way, session_id, template, range(*map(int, numbers))))
    print("ready", flush=True)
    sys.stdin.readline()
    # Nobody reads the log while the others still work.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        started = clock()
        for made in mine:
            functions.store(made)
        return since(started)


def finish(endpoint: str, warm: str, session_id: str) -> dict[str, Any]:
    """Finish a session in this process, which has finished another before."""
    functions = Functions(endpoint)
    functions.finish(warm)
    started = clock()
    result = functions.finish(session_id)
    return {"records": result["receivedRecord"], **since(started)}


def serve_locally(endpoint: str) -> None:
    """Serve the API by the local server, with S3 and DynamoDB at ``endpoint``."""
    os.environ.update(ENVIRON | {"AWS_ENDPOINT_URL": endpoint, "POWERTOOLS_LOG_LEVEL": "WARNING"})
    from local import in_process
    from local.gateway import wsgi
    from local.server import Server
    from local.template import Template

    with Server(wsgi(in_process.load_gateway(Template.load(in_process.TEMPLATE)))) as server:
        print(urlsplit(server.url).port, flush=True)
        # Nobody reads the handlers' metrics from now on.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            time.sleep(86_400)


def boto3_upload(endpoint: str, template_file: str, batches: str) -> Measured:
    """Upload the records as one NDJSON file straight to S3, by boto3's multipart upload."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    lines = [json.dumps(row) for row in json.loads(Path(template_file).read_text())["data"]]
    chunk = "".join(line + "\n" for line in lines).encode()
    with tempfile.NamedTemporaryFile(dir=MEMORY) as file:
        for _ in range(int(batches)):
            file.write(chunk)
        file.flush()
        started = clock()
        client.upload_file(file.name, "merged", "by-boto3")
        return since(started) | {"bytes": len(chunk) * int(batches)}


def by_tus(endpoint: str, piece: int, files: int = 1) -> Measured:
    """Upload by tus in pieces of ``piece`` bytes, as one file or as several at once."""
    node = ("node", str(PEERS / "tus.js"), endpoint)
    resumable = {"Tus-Resumable": "1.0.0"}
    offset_type = {"Content-Type": "application/offset+octet-stream"}
    content, size = b"x" * piece, TUS_BYTES // files

    def upload(port: int) -> str:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)

        def send(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> str:
            connection.request(method, path, body, resumable | headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, content
            return answer.headers.get("location", "")

        location = send("POST", "/files", {"Upload-Length": str(size)})
        path = "/files/" + location.rpartition("/")[2]
        for offset in range(0, size, piece):
            headers = offset_type | {"Upload-Offset": str(offset)}
            send("PATCH", path, headers, content[: size - offset])
        connection.close()
        return path.rpartition("/")[2]

    with server(*node) as (port, pid), ThreadPoolExecutor(files) as pool:
        started = clock()
        keys = list(pool.map(upload, [port] * files))
        took = since(started)
        found = {
            "seconds": took["seconds"],
            "sender cpu": took["cpu"],
            "cpu": cpu_of(pid),
            "mib": peak_mib(pid),
        }
    where = urlsplit(endpoint)
    s3 = HTTPConnection(where.hostname or "", where.port)
    for key in keys:
        s3.request("HEAD", f"/merged/{key}")
        answer = s3.getresponse()
        answer.read()
        assert answer.headers["content-length"] == str(size), "the upload is incomplete"
    return found


def express_work(template_file: Path, at_once: int, batches: int) -> Measured:
    """The Express server's work on one upload."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = ["node", "--max-old-space-size=8192", str(PEERS / "express.js"), folder]
        done = subprocess.run(
            [*command, str(template_file), str(batches), str(at_once)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: Measured = json.loads(done.stdout)
    assert found["success"]
    return found


def gapless_work(template_file: Path, way: str, format_: str, batches: int) -> Measured:
    """The handlers' work on one upload; as in Lambda, finish is another process."""
    with stand_in.serve() as s3:
        received = in_a_process(HERE, "receive", s3.url, template_file, batches, way, format_)
        return _finished(s3, batches, received, received["sessions"])


def gapless_at_once(template_file: Path, way: str, format_: str, batches: int) -> Measured:
    """The same by several processes, as Lambda handles several requests at a time."""
    with stand_in.serve() as s3:
        sessions = in_a_process(HERE, "create", s3.url, batches, format_)["sessions"]
        given = (HERE, "share", s3.url, template_file, way, *sessions)
        functions = [started(*given, first, batches, AT_ONCE) for first in range(AT_ONCE)]
        for one in functions:
            assert one.stdout is not None
            while one.stdout.readline() != "ready\n":
                pass
        before = time.perf_counter()
        for one in functions:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        shares = [result(one) for one in functions]
        seconds = time.perf_counter() - before
        received = {name: sum(one[name] for one in shares) for name in ("cpu", "mib")}
        return _finished(s3, batches, received | {"seconds": seconds}, sessions)


def _finished(
    s3: stand_in.Running, batches: int, received: dict[str, Any], sessions: list[str]
) -> Measured:
    """The measurements of receiving and of finish, together."""
    finished = in_a_process(HERE, "finish", s3.url, *sessions)
    assert finished["records"] == batches * BATCH
    return {
        "finish": finished["seconds"],
        "merge mib": finished["mib"],
        **{name: received[name] + finished[name] for name in ("seconds", "cpu", "mib")},
        "store cpu": cpu_of(s3.pid),
        "store mib": peak_mib(s3.pid),
    }


def gapless_over_http(
    requests: list[senders.Request], format_: str, count: int, batches: int
) -> Measured:
    """A whole upload through the local server."""
    with stand_in.serve() as s3:
        command = (sys.executable, "-m", HERE, "serve_locally", s3.url)
        with server(*command) as (port, pid):
            before = cpu_of(pid)
            asked: dict[str, object] = {"totalRecord": batches * BATCH, "format": format_}
            found = senders.upload(port, asked, requests[:batches], count)
            return found | {
                "cpu": cpu_of(pid) - before,
                "mib": peak_mib(pid),
                "store cpu": cpu_of(s3.pid),
                "store mib": peak_mib(s3.pid),
            }


def express_over_http(requests: list[senders.Request], batches: int) -> Measured:
    """A whole upload to the Express server."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = ("node", "--max-old-space-size=8192", str(PEERS / "express.js"), folder)
        with server(*command) as (port, pid):
            before = cpu_of(pid)
            asked: dict[str, object] = {"totalRecord": batches * BATCH}
            found = senders.upload(port, asked, requests[:batches], AT_ONCE)
            return found | {"cpu": cpu_of(pid) - before, "mib": peak_mib(pid)}


def row(records: int, way: str, size: float, rounds: list[Measured]) -> report.Row:
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    shown: report.Row = {
        "records": f"{records:,}",
        "": way,
        "seconds": median["seconds"],
        "of which finish": median["finish"],
        "1,000 records/s": records / median["seconds"] / 1e3,
        "MB/s": size / median["seconds"] / 1e6,
        "CPU s": median["cpu"],
        "1,000 records per CPU s": records / median["cpu"] / 1e3,
        "MiB": median["mib"],
        "store: CPU s": median.get("store cpu", ""),
        "store: MiB": median.get("store mib", ""),
    }
    return shown


def beside(way: str, size: float, rounds: list[Measured], records: int = 0) -> report.Row:
    """A row of the short table."""
    seconds, cpu, mib = (
        statistics.median(one[name] for one in rounds) for name in ("seconds", "cpu", "mib")
    )
    return {
        "": way,
        "MB/s": size / seconds / 1e6,
        "1,000 records/s": records / seconds / 1e3 if records else "",
        "ms CPU per MB": cpu / size * 1e9,
        "MiB": mib,
    }


def to_s3(file: Path) -> tuple[dict[str, list[Measured]], float]:
    """Measure uploads by tus and boto3 to one S3. Also returns the bytes that boto3 sends."""
    ways: dict[str, Callable[[str], Measured]] = {
        "@tus/server, pieces of 1 MB": partial(by_tus, piece=1_000_000),
        "@tus/server, pieces of 1 MB, four files at a time": partial(
            by_tus, piece=1_000_000, files=AT_ONCE
        ),
        "@tus/server, pieces of 8 MB": partial(by_tus, piece=8_000_000),
        "boto3 multipart, straight to S3": lambda url: in_a_process(
            HERE, "boto3_upload", url, file, 100, environ={}
        ),
    }
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    with stand_in.serve() as s3:
        for _ in range(ROUNDS):
            for way, one in ways.items():
                found[way].append(one(s3.url))
    return found, found["boto3 multipart, straight to S3"][0]["bytes"]


def targets(
    found: dict[str, list[Measured]], others: dict[str, list[Measured]], size: float
) -> list[report.Target]:
    def took(way: str, name: str) -> list[float]:
        return [one[name] for one in found[way]]

    def speeds(rounds: list[Measured], size: float) -> list[float]:
        return [size / one["seconds"] / 1e6 for one in rounds]

    def more(this: str, that: str, name: str) -> float:
        """How many times less ``this`` takes than ``that``."""
        return report.ratio(took(that, name), took(this, name))

    def least(what: str, measured: float, bound: float) -> report.Target:
        return report.Target(what, measured, bound, least=True)

    tus = speeds(others["@tus/server, pieces of 1 MB"], TUS_BYTES)
    made = [
        least(
            "Gapless / Express, own work, one at a time: records/s",
            more(PLAIN, EXPRESS, "seconds"),
            3,
        ),
        least(
            "Gapless / Express, own work, four at a time: records/s",
            more(PLAIN_AT_ONCE, EXPRESS_AT_ONCE, "seconds"),
            3,
        ),
        least(
            "Gapless / Express, own work, one at a time: records per CPU second",
            more(PLAIN, EXPRESS, "cpu"),
            3,
        ),
    ]
    for way, format_ in ((PLAIN, "POST to ndjson"), (COMPRESSED, "PUT gzip to ndjson.gz")):
        cpu = statistics.median(took(way, "cpu")) / size * 1e9
        made += [
            least(
                f"own work, {format_}: MB/s",
                statistics.median(speeds(found[way], size)),
                100,
            ),
            report.Target(f"own work, {format_}: ms CPU per MB", cpu, 7),
            report.Target(
                f"own work, {format_}: MiB of the merge",
                max(one["merge mib"] for one in found[way]),
                200,
            ),
        ]
    return [
        *made,
        least(
            "own work, PUT gzip to ndjson.gz / POST to ndjson: records/s",
            more(COMPRESSED, PLAIN, "seconds"),
            1.5,
        ),
        least(
            "own work, PUT gzip to ndjson.gz / POST to ndjson: records per CPU second",
            more(COMPRESSED, PLAIN, "cpu"),
            1.5,
        ),
        least(
            "local server / @tus/server, pieces of 1 MB: MB/s",
            report.ratio(speeds(found[LOCAL], size), tus),
            4,
        ),
        least(
            "own work by POST / @tus/server, pieces of 1 MB: MB/s",
            report.ratio(speeds(found[PLAIN], size), tus),
            4,
        ),
    ]


def main() -> None:
    template = data.body(0, data.records(BATCH))
    uploads: list[report.Row] = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        file = Path(folder) / "batch.json"
        file.write_text(template)
        most = SIZES[-1] // BATCH
        posts, puts = senders.posts(template, most), senders.puts(template, most)
        ways: dict[str, Callable[[int], Measured]] = {
            **{name: partial(gapless_work, file, *way) for name, way in WORK.items()},
            PLAIN_AT_ONCE: partial(gapless_at_once, file, *POST),
            COMPRESSED_AT_ONCE: partial(gapless_at_once, file, *PUT_GZIP),
            EXPRESS: partial(express_work, file, 1),
            EXPRESS_AT_ONCE: partial(express_work, file, AT_ONCE),
            LOCAL: partial(gapless_over_http, posts, "ndjson", AT_ONCE),
            LOCAL_COMPRESSED: partial(gapless_over_http, puts, "ndjson.gz", AT_ONCE),
            EXPRESS_SERVER: partial(express_over_http, posts),
        }
        found: dict[str, list[Measured]] = {}
        for records in SIZES:
            batches = records // BATCH
            found = {way: [] for way in ways}
            for turn in range(ROUNDS):
                report.progress(f"{records:,} records, round {turn + 1} of {ROUNDS}")
                for way, one in ways.items():
                    found[way].append(one(batches))
            size = len(template) * batches
            uploads += [row(records, way, size, rounds) for way, rounds in found.items()]
        report.progress("to the same S3, by others")
        others, straight = to_s3(file)
    size = len(template) * SIZES[-1] // BATCH
    short = [beside(way, size, found[way], SIZES[-1]) for way in BESIDE]
    short += [
        beside(way, straight if way.startswith("boto3") else TUS_BYTES, rounds)
        for way, rounds in others.items()
    ]
    report.publish(
        "whole",
        report.Chapter({"uploads": uploads, "beside": short}, targets(found, others, size)),
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured = globals()[sys.argv[1]](*sys.argv[2:])
        print(json.dumps(measured))
    else:
        main()
