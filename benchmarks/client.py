"""The command, and the tools it stands beside, with a server that answers at once.

    make bench ONLY=client

Each way is a process of its own, with its start, and uploads or downloads the same file of NDJSON,
records of 100 B. All talk to ``tests.sink``, which throws away what it receives: to Gapless it is
the service, to the others an S3. ``gapless upload`` reads a file twice, checks each record, and
compares what is stored; the others only move bytes. aws comes from PyPI; rclone is a package of the
system, and without it its rows say so.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import data, report
from tests import sink

RECORDS: Final = 2_000_000
DIFFERENT: Final = 20_000
"""Different records; then they repeat."""
ROUNDS: Final = 3
STARTS: Final = 5
SENDERS: Final = 4
"""Uploads of the file at the same time."""
AWS: Final = str(report.BUILD / "awscli" / "bin" / "aws")
PLAIN: Final = "gapless upload --no-gzip"
AWS_UPLOAD: Final = "aws s3 cp, upload"
ENVIRON: Final = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_DEFAULT_REGION": "us-east-1",
    "RCLONE_CONFIG": os.devnull,
}


@dataclass(frozen=True)
class Measured:
    """One run of a way."""

    seconds: float
    cpu: float
    mib: float
    requests: float
    connections: float


def write(path: Path) -> None:
    """Write the file to upload."""
    rows = data.records(DIFFERENT)
    piece = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    with path.open("w") as file:
        for _ in range(RECORDS // DIFFERENT):
            file.write(piece)


def ways(file: Path, url: str) -> dict[str, list[str]]:
    """The command of each way; rclone's only if it is there."""
    gapless = [sys.executable, "-m", "gapless"]
    upload = [*gapless, "upload", str(file), "--url", url, "--new", "--quiet"]
    to = str(file.with_name("downloaded"))
    s3 = [AWS, "s3", "cp", "--quiet", "--endpoint-url", url]
    found = {
        PLAIN: [*upload, "--no-gzip"],
        "gapless upload": upload,
        AWS_UPLOAD: [*s3, str(file), "s3://bucket/uploaded"],
        "gapless download": [*gapless, "download", sink.SESSION, "-o", to, "--url", url, "-q"],
        "aws s3 cp, download": [*s3, "s3://bucket/object", to],
    }
    if rclone := shutil.which("rclone"):
        copy = [rclone, "copyto", "--s3-env-auth", "--s3-no-check-bucket", "--s3-provider=Other"]
        copy += [f"--s3-endpoint={url}", "--ignore-times"]
        found["rclone, upload"] = [*copy, str(file), ":s3:bucket/uploaded"]
        found["rclone, download"] = [*copy, ":s3:bucket/object", to]
    return found


def run(command: list[str], server: sink.Running, folder: str, senders: int = 1) -> Measured:
    """Run ``senders`` of these at the same time."""
    # rclone refuses a list of certificates.
    environ = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    server.counted()
    started = time.perf_counter()
    processes = []
    for number in range(senders):
        environ |= ENVIRON | {"GAPLESS_STATE_DIR": f"{folder}/{number}"}
        processes.append(subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL))
    cpu = mib = 0.0
    for process in processes:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
        cpu += used.ru_utime + used.ru_stime
        mib = max(mib, used.ru_maxrss / 1024)
    seconds = time.perf_counter() - started
    counted = server.counted()
    return Measured(seconds, cpu, mib, counted["requests"], counted["connections"])


def row(way: str, megabytes: float, rounds: list[Measured]) -> report.Row:
    """The medians of a way."""
    return {
        "": way,
        "MB/s": megabytes / median(one.seconds for one in rounds),
        "ms CPU per MB": median(one.cpu for one in rounds) / megabytes * 1e3,
        "MiB": median(one.mib for one in rounds),
        "requests": median(one.requests for one in rounds),
        "connections": median(one.connections for one in rounds),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.ndjson"
        write(file)
        megabytes = file.stat().st_size / 1e6
        with sink.serve(file, RECORDS) as server:
            commands = ways(file, server.url)
            found = report.alternate(
                {way: partial(run, command, server, folder) for way, command in commands.items()},
                ROUNDS,
            )
            together = run(commands[PLAIN], server, folder, SENDERS)
            starts = report.alternate(
                {
                    name: partial(run, command, server, folder)
                    for name, command in {
                        "gapless --version": [sys.executable, "-m", "gapless", "--version"],
                        "aws --version": [AWS, "--version"],
                    }.items()
                },
                STARTS,
            )
    uploads = [row(way, megabytes, rounds) for way, rounds in found.items()]
    uploads.append(row(f"{PLAIN}, {SENDERS} at once", megabytes * SENDERS, [together]))
    if shutil.which("rclone") is None:
        uploads.append({"": "rclone: not installed"})
    report.publish(
        "client",
        report.Chapter(
            {
                "transfers": uploads,
                "starts": [
                    {"": way, "ms CPU": median(one.cpu for one in rounds) * 1e3}
                    for way, rounds in starts.items()
                ],
            },
            [
                report.Target(
                    "202 MB of NDJSON: gapless upload --no-gzip, ms CPU per MB",
                    median(one.cpu for one in found[PLAIN]) / megabytes * 1e3,
                    10,
                ),
                report.Target(
                    "202 MB of NDJSON: gapless upload --no-gzip / aws s3 cp, MB/s",
                    report.ratio(
                        [one.seconds for one in found[AWS_UPLOAD]],
                        [one.seconds for one in found[PLAIN]],
                    ),
                    1,
                    least=True,
                ),
            ],
        ),
    )


if __name__ == "__main__":
    main()
