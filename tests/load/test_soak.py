"""Soak: 64 clients and several API processes with kills (``kill -9``); no record lost or doubled.

``SOAK_BATCHES`` is the number of batches (default: 1,000). Nothing leaves this machine.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pytest

import gapless
from local import in_process, storage
from tests.load import clients
from tests.load.clients import BATCHES, CLIENTS, PROCESSES, SIZE, Plan
from tests.processes import free_ports

SESSIONS = max(1, int(os.environ.get("SOAK_BATCHES", "1000")) // BATCHES)
TOTAL = SESSIONS * BATCHES
WORKERS = 3
ACKS_PER_WORKER_KILL = min(1_500, TOTAL // 6)
ACKS_PER_CLIENT_KILL = min(1_000, TOTAL // 8)
MEMORY_GROWTH_MB = 25
"""Maximum growth of a worker that was never killed, from a third of the run to its end."""


@dataclass
class Soak:
    """The processes, and the kills so far."""

    folder: Path
    running: ExitStack
    environ: dict[str, str]
    workers: list[subprocess.Popen[str]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    clients: list[subprocess.Popen[str]] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)

    def start(self, *arguments: str, port: int | None = None) -> subprocess.Popen[str]:
        """Start a Python process that the test's end kills."""
        process = self.running.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=self.environ | ({} if port is None else {"PORT": str(port)}),
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self.running.callback(process.kill)
        return process

    def start_workers(self) -> None:
        self.workers = [self.start("local", port=port) for port in free_ports(WORKERS)]
        self.urls = [said_url(worker) for worker in self.workers]

    def start_client(self, number: int) -> subprocess.Popen[str]:
        return self.start("tests.load.clients", str(number), str(self.folder), *self.urls)

    def kill_a_worker(self, chance: Random) -> None:
        """Kill a worker, except the first, and restart it."""
        number = chance.randrange(1, WORKERS)
        self.workers[number].kill()
        self.workers[number].wait()
        self.kills["workers"] += 1
        port = int(self.urls[number].rpartition(":")[2])
        self.workers[number] = self.start("local", port=port)

    def kill_a_client(self, chance: Random) -> None:
        """Kill a client process if it still runs, and restart it."""
        number = chance.randrange(PROCESSES)
        if self.clients[number].poll() is None:
            self.clients[number].kill()
            self.clients[number].wait()
            self.kills["clients"] += 1
            self.clients[number] = self.start_client(number)

    def ledger(self) -> Iterator[dict[str, Any]]:
        for path in self.folder.glob("ledger-*"):
            yield from map(json.loads, path.read_bytes().splitlines())

    def acks(self) -> int:
        """The approximate number of acknowledged batches."""
        return sum(path.stat().st_size for path in self.folder.glob("ledger-*")) // 115


def said_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    return found[0].replace("localhost", "127.0.0.1")


def resident_mb(process: subprocess.Popen[str]) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    with ExitStack() as running:
        started = Soak(tmp_path, running, dict(os.environ))
        storage.point_to_moto(started.environ, said_url(started.start("tests.load.storage")))
        yield started


@pytest.mark.timeout(600 + SESSIONS * 5)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="memory is read from Linux's /proc")
def test_soak(soak: Soak, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    chance = Random(1)
    soak.start_workers()
    with gapless.Client(soak.urls[0]) as service:
        plans = []
        for number in range(SESSIONS):
            plan = Plan(number, "", strict=number % 4 != 0)
            size = SIZE if plan.strict else None
            opened = service.create(plan.total, size)
            plans.append(Plan(number, opened.session_id, plan.strict))
    clients.save(plans, soak.folder)
    soak.clients = [soak.start_client(number) for number in range(PROCESSES)]

    a_third = 0.0
    while any(process.poll() is None for process in soak.clients):
        time.sleep(0.2)
        acks = soak.acks()
        if not a_third and acks > TOTAL / 3:
            a_third = resident_mb(soak.workers[0])
        if acks < TOTAL:
            if acks > ACKS_PER_WORKER_KILL * (soak.kills["workers"] + 1):
                soak.kill_a_worker(chance)
            if acks > ACKS_PER_CLIENT_KILL * (soak.kills["clients"] + 1):
                soak.kill_a_client(chance)
    assert [process.returncode for process in soak.clients] == [0] * PROCESSES
    growth = resident_mb(soak.workers[0]) - a_third
    took = time.monotonic() - began

    noted = list(soak.ledger())
    acknowledged = [line for line in noted if "batch" in line]
    retries = sum(line.get("retries", 0) for line in noted)
    conflicts = sum("conflict" in line for line in noted)
    found = judge(soak, plans, acknowledged)
    found["wrong"] += sum("wrong" in line for line in noted)
    with capsys.disabled():
        print(
            f"\nsoak: {TOTAL:,} batches in {SESSIONS:,} sessions by {CLIENTS} clients,"
            f" {len(acknowledged):,} acknowledged, {conflicts:,} conflicts refused, {retries:,}"
            f" retries, {sum('finish' in line for line in noted):,} finishes, {took:.0f} s;"
            f" killed: {soak.kills['workers']} workers, {soak.kills['clients']} client processes;"
            f" lost {found['lost']}, duplicated {found['duplicated']}, wrong {found['wrong']};"
            f" memory of a worker {growth:+.1f} MB"
        )
    assert +found == Counter()
    assert growth < MEMORY_GROWTH_MB
    assert min(soak.kills["workers"], soak.kills["clients"]) > 0


def judge(soak: Soak, plans: list[Plan], acknowledged: list[dict[str, Any]]) -> Counter[str]:
    """Compare every merged object, and every acknowledged batch in its manifest."""
    s3: Any = boto3.client(
        "s3",
        endpoint_url=soak.environ["AWS_ENDPOINT_URL"],
        region_name=storage.REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    found: Counter[str] = Counter(lost=0, duplicated=0, wrong=0)
    sha256 = {}
    bucket = in_process.LOCAL_VALUES["MergedBucket"]
    for plan in plans:
        merged = s3.get_object(Bucket=bucket, Key=f"{plan.session_id}.ndjson")["Body"].read()
        manifest = json.load(
            s3.get_object(Bucket=bucket, Key=f"{plan.session_id}.manifest.json")["Body"]
        )
        for batch in manifest["batches"]:
            sha256[plan.number, batch["seqNum"]] = batch["sha256"]
        expected = b"".join(map(plan.stored, range(BATCHES)))
        if merged != expected:
            lines, right = Counter(merged.split(b"\n")), Counter(expected.split(b"\n"))
            found["lost"] += (right - lines).total()
            found["duplicated"] += sum(
                n - 1 for line, n in lines.items() if line in right and n > 1
            )
            found["wrong"] += sum(n for line, n in lines.items() if line not in right)
            found["wrong"] += lines == right  # only the order differs
    for line in acknowledged:
        found["wrong"] += sha256.get((line["session"], line["batch"])) != line["sha256"]
    return found
