"""Whole uploads of the same records, by Gapless and by alternatives.

    make bench ONLY=whole               BENCH_FULL=1 also with 10,000,000 records

Own work is what the code behind the routes does, in one process and one request at a time: for
Gapless the deployed handlers with their clients, for the Express server that it replaces its three
routes. The servers are measured separately, by uploads over HTTP from four senders. For
Gapless this is the local server, a stand-in for API Gateway and Lambda that nobody deploys. All use
``tests.stand_in`` as S3 and DynamoDB, except Express, which writes to a folder. Batches have 10,000
records of 100 B. The client compresses them to a third.
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
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

from isal import igzip

from benchmarks import data, report
from benchmarks.handlers import BATCH as BATCH_ROUTE
from benchmarks.handlers import ENVIRON, LINES, Functions, event
from tests import stand_in

BATCH: Final = 10_000
SIZES: Final = (100_000, 1_000_000)
TUS_BYTES: Final = 50_000_000
"""Bytes for tus, sent in pieces; its speed does not depend on the size."""
LARGEST: Final = 10_000_000
ROUNDS: Final = 3
SENDERS: Final = 4
PEERS: Final = report.BUILD / "peers"
PLAIN: Final = "Gapless, own work: POST to ndjson"
COMPRESSED: Final = "Gapless, own work: PUT gzip to ndjson.gz"
WORK: Final = {
    PLAIN: ("POST", "ndjson"),
    "Gapless, own work: POST gzip to ndjson": ("POST gzip", "ndjson"),
    "Gapless, own work: PUT gzip to ndjson": ("PUT gzip", "ndjson"),
    COMPRESSED: ("PUT gzip", "ndjson.gz"),
}
"""How a batch is sent, and the format of the merged object."""
Measured = dict[str, float]


def body_of(seq_num: int, template: str) -> str:
    """The body of a batch; all have the same records."""
    return template.replace('"seqNum":0', f'"seqNum":{seq_num}', 1)


def peak_mib(pid: int) -> float:
    """Peak memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def cpu_of(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def clock() -> tuple[float, float]:
    """Wall time and this process's CPU time, seconds."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> Measured:
    """Seconds since ``clock`` returned ``start``, and this process's peak memory."""
    return {
        "seconds": time.perf_counter() - start[0],
        "cpu": time.process_time() - start[1],
        "mib": peak_mib(os.getpid()),
    }


def events(way: str, session_id: str, template: str, batches: int) -> Iterator[dict[str, Any]]:
    """The events of all batches, in one of the ways of ``WORK``."""
    lines = "".join(
        json.dumps(row, separators=(",", ":")) + "\n" for row in json.loads(template)["data"]
    )
    compressed = data.packed(lines.encode())
    for seq_num in range(batches):
        body = body_of(seq_num, template)
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
    """Create a session and store its batches, in this process."""
    template = Path(template_file).read_text()
    functions = Functions(endpoint)
    # Import everything and open all connections first.
    warm = functions.create(BATCH, BATCH, format_)
    for made in events(way, warm, template, 1):
        functions.store(made)
    started = clock()
    session_id = functions.create(int(batches) * BATCH, BATCH, format_)
    total = since(started)
    # Making events is the work of senders and API Gateway.
    for made in events(way, session_id, template, int(batches)):
        started = clock()
        functions.store(made)
        took = since(started)
        total = took | {name: total[name] + took[name] for name in ("seconds", "cpu")}
    return {"sessions": [warm, session_id], **total}


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
        time.sleep(86_400)


def boto3_upload(endpoint: str, template_file: str, batches: str) -> Measured:
    """Upload the records as one NDJSON file straight to S3, by boto3's multipart upload."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    lines = [json.dumps(row) for row in json.loads(Path(template_file).read_text())["data"]]
    chunk = "".join(line + "\n" for line in lines).encode()
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(int(batches)):
            file.write(chunk)
        file.flush()
        started = clock()
        client.upload_file(file.name, "merged", "by-boto3")
        return since(started) | {"bytes": len(chunk) * int(batches)}


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run a function of this module in another process, without its log lines."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.whole", *arguments],
        env=os.environ | ENVIRON,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def server(*command: str) -> Iterator[tuple[int, int]]:
    """Run a server inside the block; yield the port that it prints, and its process id."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | ENVIRON,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


def over_http(port: int, template: str, batches: int) -> Measured:
    """Upload by several senders; return the seconds, and those of finish."""
    idle: SimpleQueue[HTTPConnection] = SimpleQueue()
    for _ in range(SENDERS):
        idle.put(HTTPConnection("127.0.0.1", port))

    def post(path: str, body: str) -> bytes:
        connection = idle.get()
        connection.request("POST", path, body.encode(), {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status < 300, content
        idle.put(connection)
        return content

    root = "/api/upload/sessions"
    started = time.perf_counter()
    asked = {"totalRecord": batches * BATCH}
    session_id = json.loads(post(root, json.dumps(asked)))["sessionId"]
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda n: post(f"{root}/{session_id}", body_of(n, template)), range(batches)))
    received = time.perf_counter()
    result = json.loads(post(f"{root}/{session_id}/finish", "{}"))
    assert result["validationResult"] == "Success", result
    ended = time.perf_counter()
    return {"seconds": ended - started, "finish": ended - received}


def by_tus(endpoint: str, piece: int) -> Measured:
    """Upload by tus in pieces of ``piece`` bytes."""
    node = ("node", str(PEERS / "tus.js"), endpoint)
    resumable = {"Tus-Resumable": "1.0.0"}
    with server(*node) as (port, pid):
        connection = HTTPConnection("127.0.0.1", port)

        def send(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> str:
            connection.request(method, path, body, resumable | headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, content
            return answer.headers.get("location", "")

        started = time.perf_counter()
        location = send("POST", "/files", {"Upload-Length": str(TUS_BYTES)})
        path = "/files/" + location.rpartition("/")[2]
        for offset in range(0, TUS_BYTES, piece):
            headers = {
                "Upload-Offset": str(offset),
                "Content-Type": "application/offset+octet-stream",
            }
            send("PATCH", path, headers, b"x" * min(piece, TUS_BYTES - offset))
        seconds = time.perf_counter() - started
        found = {"seconds": seconds, "cpu": cpu_of(pid), "mib": peak_mib(pid)}
    where = urlsplit(endpoint)
    s3 = HTTPConnection(where.hostname or "", where.port)
    s3.request("HEAD", f"/merged/{path.rpartition('/')[2]}")
    assert s3.getresponse().headers["content-length"] == str(TUS_BYTES), "the upload is incomplete"
    return found


def express_work(template_file: Path, batches: int) -> Measured:
    """The Express server's work on one upload."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["node", "--max-old-space-size=8192", str(PEERS / "express.js"), folder]
        done = subprocess.run(
            [*command, str(template_file), str(batches)],
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
        received = in_a_process("receive", s3.url, str(template_file), str(batches), way, format_)
        finished = in_a_process("finish", s3.url, *received["sessions"])
        assert finished["records"] == batches * BATCH
        return {
            "finish": finished["seconds"],
            "merge mib": finished["mib"],
            **{name: received[name] + finished[name] for name in ("seconds", "cpu", "mib")},
            "store cpu": cpu_of(s3.pid),
            "store mib": peak_mib(s3.pid),
        }


def gapless_over_http(template: str, batches: int) -> Measured:
    """A whole upload through the local server."""
    with stand_in.serve() as s3:
        command = (sys.executable, "-m", "benchmarks.whole", "serve_locally", s3.url)
        with server(*command) as (port, pid):
            before = cpu_of(pid)
            found = over_http(port, template, batches)
            return found | {
                "cpu": cpu_of(pid) - before,
                "mib": peak_mib(pid),
                "store cpu": cpu_of(s3.pid),
                "store mib": peak_mib(s3.pid),
            }


def express_over_http(template: str, batches: int) -> Measured:
    """A whole upload to the Express server."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("node", "--max-old-space-size=8192", str(PEERS / "express.js"), folder)
        with server(*command) as (port, pid):
            before = cpu_of(pid)
            found = over_http(port, template, batches)
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


def main() -> None:
    template = data.body(0, data.records(BATCH))
    uploads: list[report.Row] = []
    targets: list[report.Target] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batch.json"
        file.write_text(template)
        found: dict[str, list[Measured]] = {}
        ways: dict[str, Callable[[int], Measured]] = {
            **{name: partial(gapless_work, file, *way) for name, way in WORK.items()},
            "Express, own work": partial(express_work, file),
            "Gapless, local server": partial(gapless_over_http, template),
            "Express": partial(express_over_http, template),
        }
        for records in SIZES:
            batches = records // BATCH
            found = {}
            for _ in range(ROUNDS):
                for way, one in ways.items():
                    found.setdefault(way, []).append(one(batches))
            size = len(template) * batches
            uploads += [row(records, way, size, rounds) for way, rounds in found.items()]
        if report.FULL:
            largest = gapless_work(file, *WORK[PLAIN], LARGEST // BATCH)
            uploads.append(row(LARGEST, PLAIN, len(template) * 1_000, [largest]))
            targets.append(
                report.Target("10,000,000 records merged: MiB", largest["merge mib"], 200)
            )
        straight: list[Measured] = []
        with stand_in.serve() as s3:
            pieces: dict[int, list[Measured]] = {1_000_000: [], 8_000_000: []}
            for _ in range(ROUNDS):
                for piece, rounds in pieces.items():
                    rounds.append(by_tus(s3.url, piece))
                straight.append(in_a_process("boto3_upload", s3.url, str(file), "100"))
    ours, compressed = found[PLAIN], found[COMPRESSED]
    theirs = found["Express, own work"]
    http = found["Gapless, local server"]
    megabytes = len(template) * SIZES[-1] // BATCH / 1e6
    to_s3: list[report.Row] = []

    def add(way: str, rounds: list[Measured], size: float) -> list[float]:
        speeds = [size / one["seconds"] for one in rounds]
        to_s3.append(
            {
                "": way,
                "MB/s": statistics.median(speeds),
                "ms CPU per MB": statistics.median(one["cpu"] for one in rounds) / size * 1e3,
                "MiB": statistics.median(one["mib"] for one in rounds),
            }
        )
        return speeds

    in_process = add(f"{PLAIN}, one at a time", ours, megabytes)
    add(f"{COMPRESSED}, one at a time", compressed, megabytes)
    served = add("Gapless, local server, four senders", http, megabytes)
    tus = add("@tus/server, pieces of 1 MB", pieces[1_000_000], TUS_BYTES / 1e6)
    add("@tus/server, pieces of 8 MB", pieces[8_000_000], TUS_BYTES / 1e6)
    add("boto3 multipart, straight to S3", straight, straight[0]["bytes"] / 1e6)
    targets += [
        report.Target(
            "1,000,000 records, own work: Gapless / Express, records per CPU second",
            report.ratio([one["cpu"] for one in theirs], [one["cpu"] for one in ours]),
            1.5,
            least=True,
        ),
        report.Target(
            "the same, records per second",
            report.ratio([one["seconds"] for one in theirs], [one["seconds"] for one in ours]),
            1.5,
            least=True,
        ),
        report.Target(
            "1,000,000 records, own work, records per second: PUT gzip to ndjson.gz"
            " / POST to ndjson",
            report.ratio([one["seconds"] for one in ours], [one["seconds"] for one in compressed]),
            1.5,
            least=True,
        ),
        report.Target(
            "the same, records per CPU second",
            report.ratio([one["cpu"] for one in ours], [one["cpu"] for one in compressed]),
            1.5,
            least=True,
        ),
        report.Target(
            "MB/s to the same S3: local server / @tus/server, pieces of 1 MB",
            report.ratio(served, tus),
            3,
            least=True,
        ),
        report.Target(
            "the same: own work by POST / @tus/server", report.ratio(in_process, tus), 3, least=True
        ),
        report.Target("1,000,000 records merged: MiB", max(one["merge mib"] for one in ours), 200),
    ]
    report.publish("whole", report.Chapter({"uploads": uploads, "to S3": to_s3}, targets))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured = globals()[sys.argv[1]](*sys.argv[2:])
        print(json.dumps(measured))
    else:
        main()
