"""With S3 and DynamoDB failing at a chosen rate, the client's upload succeeds and is complete.

``FAULT_RATE`` replaces the usual rates, ``FAULT_SEED`` the seed.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import gapless
from local import storage
from tests.faulty import FAULTS, Faulty

RECORDS, SIZE = 100_000, 100
RATES = [float(os.environ["FAULT_RATE"])] if "FAULT_RATE" in os.environ else [0.05, 0.3]
SEED = int(os.environ.get("FAULT_SEED", "1"))
LATENCY_SECONDS = 0.01


@contextmanager
def running(module: str, environ: dict[str, str]) -> Iterator[str]:
    """Run a module that prints its URL, and yield the URL."""
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            yield found[0].replace("localhost", "127.0.0.1")
        finally:
            process.kill()


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("rate", RATES)
def test_faulty_storage(rate: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [b'{"n":%d,"price":1.0,"note":"caf\\u00e9"}' % n for n in range(RECORDS)]
    environ = dict(os.environ) | {"PORT": "0"}
    with ExitStack() as stack:
        s3 = stack.enter_context(
            Faulty(stack.enter_context(running("tests.load.storage", environ)))
        )
        storage.point_to_moto(environ, s3.url)
        api = stack.enter_context(Faulty(stack.enter_context(running("local", environ))))
        s3.rate, s3.latency, s3.seed = rate, LATENCY_SECONDS, SEED
        result = gapless.upload(records, api.url, batch_size=SIZE, patience=1e9)
        with gapless.Client(api.url, patience=1e9) as client:
            client.session(result.session_id).download(tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"".join(line + b"\n" for line in records)
    with capsys.disabled():
        print(f"\nfaulty storage at {rate:.0%}: {dict(s3.seen)}; the API answered {dict(api.seen)}")
    assert min(s3.seen[fault] for fault in FAULTS) > 0
    assert {said for said in api.seen if said.startswith("5")} <= {"503 storage_busy"}
    assert "no answer" not in api.seen
