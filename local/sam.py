"""Runs the SAM CLI for local runs and tests: with the functions' Python, and without AWS."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from .runtime import runtime_bin

ROOT: Final = Path(__file__).parents[1]
ARCHITECTURE: Final = "arm64" if platform.machine() in {"aarch64", "arm64"} else "x86_64"
"""The architecture of this machine, in Lambda's terms."""
FOR_THIS_MACHINE: Final = ("--parameter-overrides", f"Architecture={ARCHITECTURE}")

_SAM: Final = str(Path(sys.executable).parent / "sam")


def command(*arguments: object) -> list[str]:
    """Return a command line for the SAM CLI of this environment."""
    return [_SAM, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return its environment, without AWS credentials: with them SAM waits for AWS."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "VIRTUAL"))
    }
    return kept | {
        "PATH": os.pathsep.join(filter(None, [runtime_bin(), kept.get("PATH")])),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAM_CLI_TELEMETRY": "0",
    }


def build(target: Path) -> subprocess.CompletedProcess[str]:
    """Run ``sam build`` for this machine's architecture into ``target``."""
    # Concurrent builds that share SAM's cache corrupt each other's packages.
    return subprocess.run(
        command("build", "--no-cached", "--build-dir", target, *FOR_THIS_MACHINE),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
