"""Composing needs memory for the parts in flight only, independent of the session's size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from local import in_process
from local.template import Template
from tests import stand_in

ROOT = Path(__file__).parents[2]


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see memory")
@pytest.mark.parametrize("batches", [1_000, 10_000])
def test_composing_is_bounded_in_memory(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_functions = {
        **Template.load(in_process.TEMPLATE).environment(in_process.LOCAL_VALUES),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "PYTHONPATH": str(ROOT / "functions"),
    }
    for name, value in in_functions.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    with stand_in.serve(batches, 100_000, 0, 0) as s3:
        command = [sys.executable, "-m", "tests.composing", s3.url]
        measured = json.loads(subprocess.check_output(command))
    assert measured["records"] == batches
    assert measured["mib"] <= 80
