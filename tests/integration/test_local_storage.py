"""Moto, as a local run uses it, is as atomic as S3."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.s3.models import S3Backend

from local import __main__
from local.in_process import ROOT, TEMPLATE
from local.template import Template
from tests.conftest import MotoStack

KEY = "written twice"


@pytest.fixture
def slow_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moto has checked the condition, and waits a second for another write."""
    both = Barrier(2)
    for name in ("put_object", "complete_multipart_upload"):
        write = getattr(S3Backend, name)

        def slowly(*given: Any, _write: Any = write, **named: Any) -> Any:  # noqa: ANN401
            with suppress(BrokenBarrierError):
                both.wait(1)
            return _write(*given, **named)

        monkeypatch.setattr(S3Backend, name, slowly)


def status_of(write: Callable[[], dict[str, Any]]) -> int:
    try:
        answer = write()
    except ClientError as error:
        answer = dict(error.response)
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


@pytest.mark.usefixtures("slow_writes")
@pytest.mark.parametrize("other", ["put", "complete"])
def test_of_concurrent_conditional_writes_one_succeeds(local: MotoStack, other: str) -> None:
    s3: Any = local.s3
    place = {"Bucket": local.merged_bucket, "Key": KEY}
    upload = {**place, "UploadId": s3.create_multipart_upload(**place)["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=b"b")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    complete = partial(s3.complete_multipart_upload, **upload, MultipartUpload=parts)
    put = partial(s3.put_object, **place, Body=b"a")
    writes = [put, put if other == "put" else complete]
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(status_of, [partial(one, IfNoneMatch="*") for one in writes])
        assert sorted(found) == [200, 412]
    s3.delete_object(**place)


def run_alone(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` without the settings of another local run, which earlier tests may have left."""
    names = ("AWS_", "SESSIONS_", "BATCHES_", "MERGED_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, "PORT": "0"},
        timeout=120,
    )


@pytest.mark.usefixtures("socket_enabled")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_whose_exception_is_lost_stops_a_local_run(number: str) -> None:
    """Python loses one that is raised in a destructor, and holds back one just before a wait."""
    code = f"""
import os
import signal
import sys

from local import __main__


class Signal:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})


class Output:
    def __init__(self, stream):
        self.write = stream.write

    def flush(self):
        Signal()


sys.stdout = Output(sys.stdout)
__main__.main([])
"""
    ended = run_alone(code)
    assert "Gapless is at" in ended.stdout
    assert "KeyboardInterrupt" in ended.stderr


@pytest.mark.usefixtures("socket_enabled")
def test_a_start_reads_no_model_twice_and_loads_no_function_of_the_stream() -> None:
    code = """
import sys
from collections import Counter
from contextlib import ExitStack

opened = Counter()


def count(event, arguments):
    if event == "open" and "botocore/data/" in str(arguments[0]):
        opened[str(arguments[0])] += 1


sys.addaudithook(count)
from local import __main__, streams

streams.IDLE_SECONDS = 3600
with ExitStack() as running:
    __main__._serve(running, 0)
    print(max(opened.values()), "batches" in sys.modules, "stream" in sys.modules)
"""
    started = run_alone(code)
    # botocore reads each once, and moto, whose loader adds to them.
    assert started.stdout.splitlines()[-1] == "2 True False"


@pytest.mark.parametrize(
    ("region", "suffix"),
    [
        ("eu-west-1", "amazonaws.com"),
        ("cn-north-1", "amazonaws.com.cn"),
        ("eusc-de-east-1", "amazonaws.eu"),
        ("us-iso-east-1", "c2s.ic.gov"),
        ("xx-north-9", "amazonaws.com"),
    ],
)
def test_a_stack_on_aws_is_asked_for_in_its_own_partition(
    monkeypatch: pytest.MonkeyPatch, region: str, suffix: str
) -> None:
    """There no CloudFormation tells the DNS suffix."""
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": region}
    names = dict.fromkeys(("SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET"), "given")
    environ: dict[str, str] = {**keys, **names}
    monkeypatch.setattr(os, "environ", environ)
    with ExitStack() as running:
        assert __main__._storage(running, Template.load(TEMPLATE)).endswith("AWS")  # noqa: SLF001
    assert environ["URL_SUFFIX"] == suffix
