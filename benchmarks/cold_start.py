"""Cold starts: import and construct each handler, beside those of a plain stack.

    PYTHONPATH=functions python -m benchmarks.cold_start

The handlers are those that ``sam build`` packs. The plain stack is what a handler of this kind is
usually made of: boto3's clients of S3 and DynamoDB, and Powertools' Logger, Metrics and HTTP
resolver, of the same versions, compiled too. Each start is a process of its own, of the functions'
Python, in alternating rounds; printed are medians of wall time, without the start of Python itself.
"""

import os
import re
import ssl
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from local import sam, stack
from local.runtime import RUNTIME, runtime_bin
from local.template import Template

ROUNDS: Final = 40
MOST_RATIO: Final = 0.65
MOST_MIB: Final = 40.0
HANDLERS: Final = ("batches", "sessions", "finish")
PYTHON: Final = f"{runtime_bin()}/{RUNTIME}"

PLAIN: Final = """
import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

logger = Logger()
metrics = Metrics()
app = APIGatewayHttpResolver()
s3 = boto3.client("s3")
dynamodb = boto3.client("dynamodb")


@app.post("/api/upload/sessions/<session_id>")
def receive(session_id):
    return {}


@logger.inject_lambda_context
@metrics.log_metrics
def lambda_handler(event, context):
    return app.resolve(event, context)
"""

START: Final = """
import sys, time
sys.path.insert(0, ".")
start = time.perf_counter()
import {module}
print((time.perf_counter() - start) * 1000, len(sys.modules))
"""


def pack_plain(target: Path) -> None:
    """Install the plain stack, as a deployment without packing of its own would, and compile it."""
    pinned = (sam.ROOT / "functions" / "requirements.txt").read_text()
    needs = re.findall(r"^(?:aws-lambda-powertools|boto3|botocore)==.*", pinned, re.MULTILINE)
    subprocess.run(
        [
            *(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--root-user-action=ignore", "--no-compile", "--target", target, *needs),
        ],
        check=True,
    )
    (target / "plain.py").write_text(PLAIN)
    compiled = ["compileall", "-q", "--invalidation-mode", "unchecked-hash", str(target)]
    subprocess.run([PYTHON, "-m", *compiled], check=True)


def environment() -> dict[str, str]:
    """What Lambda sets, and ``template.yaml``."""
    settings = Template.load(stack.TEMPLATE).environment(stack.LOCAL_VALUES)
    settings |= {
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "PATH": os.environ["PATH"],
    }
    # Lambda's system has all root certificates in one file, not also one by one as Debian.
    if bundle := ssl.get_default_verify_paths().cafile:
        settings["SSL_CERT_FILE"] = bundle
    return settings


def start(package: Path, module: str, environ: dict[str, str]) -> tuple[float, int]:
    """Milliseconds that a start takes, and how many modules it imports."""
    done = subprocess.run(
        [PYTHON, "-I", "-B", "-c", START.format(module=module)],
        cwd=package,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    milliseconds, modules = done.stdout.split()
    return float(milliseconds), int(modules)


def mebibytes(package: Path) -> float:
    """The size of a package, unzipped."""
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) / 2**20


def main() -> None:
    """Measure, print, and fail where a promise is not kept."""
    with TemporaryDirectory() as folder:
        built, plain = Path(folder) / "built", Path(folder) / "plain"
        done = sam.build(built)
        if done.returncode:
            sys.exit(done.stderr)
        pack_plain(plain)
        packages = {"plain": plain} | {
            name: built / f"{name.capitalize()}Function" for name in HANDLERS
        }
        environ = environment()
        for name, package in packages.items():
            start(package, name, environ)  # from now on the files are in memory
        starts: dict[str, list[tuple[float, int]]] = {name: [] for name in packages}
        for _ in range(ROUNDS):
            for name, package in packages.items():
                starts[name].append(start(package, name, environ))
        sizes = {name: mebibytes(package) for name, package in packages.items()}
    medians = {
        name: statistics.median(milliseconds for milliseconds, _ in measured)
        for name, measured in starts.items()
    }
    ratios = {name: median / medians["plain"] for name, median in medians.items()}
    print(
        f"promised: batches at most {MOST_RATIO} of the plain stack, packages {MOST_MIB:.0f} MiB\n"
        f"{'':<10} {'ms':>6} {'ratio':>6} {'modules':>8} {'MiB':>6}"
    )
    for name in packages:
        print(
            f"{name:<10} {medians[name]:>6.0f} {ratios[name]:>6.2f}"
            f" {starts[name][0][1]:>8} {sizes[name]:>6.1f}"
        )
    if ratios["batches"] > MOST_RATIO or max(sizes[name] for name in HANDLERS) > MOST_MIB:
        sys.exit("the promise is not kept")


if __name__ == "__main__":
    main()
