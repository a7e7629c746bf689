"""What ``sam build`` ships: each handler, what it imports, and nothing else."""

import re
import subprocess
from pathlib import Path

import pytest

from local import sam
from local.runtime import RUNTIME, runtime_bin

ROOT = Path(__file__).parents[2]
SHIPPED = re.findall(
    r"^([\w-]+)==", (ROOT / "functions" / "requirements.txt").read_text(), re.MULTILINE
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``sam build`` fills."""
    if runtime_bin() is None:
        pytest.skip(f"sam build needs {RUNTIME}, and there is none on the path")
    target = tmp_path_factory.mktemp("build")
    done = sam.build(target)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("function", ["Sessions", "Batches", "Finish"])
def test_a_package_is_whole_and_holds_nothing_else(built: Path, function: str) -> None:
    package = built / f"{function}Function"
    ours = {path.name for path in (ROOT / "functions").iterdir() if path.suffix == ".py"}
    top = {path.name for path in package.iterdir()}
    assert {"uploads", "obstore", "msgspec", "boto3", "botocore", "isal"} <= top
    # Those of our dependencies that are one file.
    theirs = {"six.py", "typing_extensions.py"}
    assert {path.name for path in package.glob("*.py")} - theirs == ours
    assert not {"moto", "pytest", "awscrt", "tests", "local", "client"} & top
    installed = {path.name.partition("-")[0].lower() for path in package.glob("*.dist-info")}
    assert {name.replace("-", "_") for name in SHIPPED} <= installed


@pytest.mark.parametrize("handler", ["sessions", "batches", "finish"])
def test_a_package_imports_its_handler_by_itself(built: Path, handler: str) -> None:
    python = Path(runtime_bin() or "") / RUNTIME
    settings = {
        "SESSIONS_TABLE": "t",
        "BATCHES_BUCKET": "b",
        "MERGED_BUCKET": "m",
        "AUTH_MODE": "IAM",
        "SESSION_LIFETIME_HOURS": "24",
        "MERGED_RETENTION_DAYS": "30",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "POWERTOOLS_METRICS_NAMESPACE": "Gapless",
    }
    script = f"import {handler}; print({handler}.lambda_handler.__name__)"
    done = subprocess.run(
        [python, "-I", "-c", f"import sys; sys.path.insert(0, '.'); {script}"],
        cwd=built / f"{handler.capitalize()}Function",
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("lambda_handler\n", "")
