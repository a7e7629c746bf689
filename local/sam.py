"""The SAM CLI, as local runs and tests start it: with the functions' Python, and without AWS."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from .runtime import runtime_bin

ROOT: Final = Path(__file__).parents[1]
ARCHITECTURE: Final = "arm64" if platform.machine() in {"aarch64", "arm64"} else "x86_64"
"""This machine's, as Lambda calls it: only what is built for it runs here."""
FOR_THIS_MACHINE: Final = ("--parameter-overrides", f"Architecture={ARCHITECTURE}")

_SAM: Final = str(Path(sys.executable).parent / "sam")


def command(*arguments: object) -> list[str]:
    """A command line of the SAM CLI that belongs to this Python."""
    return [_SAM, *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment for it. With AWS credentials it would wait for an AWS it need not reach."""
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
    # Builds that share SAM's cache spoil each other's packages when they run at the same time.
    return subprocess.run(
        command("build", "--no-cached", "--build-dir", target, *FOR_THIS_MACHINE),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
