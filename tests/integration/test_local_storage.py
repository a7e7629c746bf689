"""Moto, as a local run uses it, is as atomic as S3."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.s3.models import S3Backend

from local.in_process import ROOT
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
    started = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert started.stdout.splitlines()[-1] == "1 True False"
