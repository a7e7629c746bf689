"""Cold starts: importing and building each handler, compared with a plain stack.

    make bench ONLY=cold_start

The handlers are those that ``sam build`` packs. The plain stack is the usual one: boto3's clients
of S3 and DynamoDB, and Powertools' Logger, Metrics and HTTP resolver, in the same versions and
compiled, too. Each start is a process of the functions' Python, in alternating rounds. Results are
medians of wall time without the start of Python itself.
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

from benchmarks import report
from local import in_process, sam
from local.runtime import RUNTIME, runtime_bin
from local.template import Template

ROUNDS: Final = 20
MOST_RATIO: Final = 0.4
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

BOTOCORE: Final = "botocore and its DynamoDB client, which are not used"
PARTS: Final = {
    BOTOCORE: """
from botocore.session import Session
Session().create_client("dynamodb")""",
    "our DynamoDB client": """
from uploads.dynamodb import DynamoDB
DynamoDB("https://dynamodb.us-east-1.amazonaws.com", "us-east-1", None)""",
    "obstore": "import obstore.store",
    "Powertools' Logger and Metrics": """
from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics
Logger()""",
    "msgspec and isal": "import msgspec, isal.igzip",
}
"""The parts of the batch function's start, each measured separately."""

START: Final = """
import sys, time
sys.path.insert(0, ".")
start = time.perf_counter()
{statement}
print((time.perf_counter() - start) * 1000, len(sys.modules))
"""


def pack_plain(target: Path) -> None:
    """Install and compile the plain stack, like a deployment without special packaging."""
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
    """The variables that Lambda and ``template.yaml`` set."""
    settings = Template.load(in_process.TEMPLATE).environment(in_process.LOCAL_VALUES)
    settings |= {
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "PATH": os.environ["PATH"],
    }
    # Lambda has all root certificates in one file; Debian also has one file each.
    if bundle := ssl.get_default_verify_paths().cafile:
        settings["SSL_CERT_FILE"] = bundle
    return settings


def start(package: Path, statement: str, environ: dict[str, str]) -> tuple[float, int]:
    """Milliseconds of a start, and the number of modules it imports."""
    done = subprocess.run(
        [PYTHON, "-I", "-B", "-c", START.format(statement=statement)],
        cwd=package,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    milliseconds, modules = done.stdout.split()
    return float(milliseconds), int(modules)


def mebibytes(package: Path) -> float:
    """The unzipped size of a package, MiB."""
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) / 2**20


def main() -> None:
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
        ways = {name: (package, f"import {name}") for name, package in packages.items()}
        ways |= {
            # Only the plain stack has botocore's model of DynamoDB.
            part: (packages["plain" if part == BOTOCORE else "batches"], code)
            for part, code in PARTS.items()
        }
        for package, statement in ways.values():
            start(package, statement, environ)  # from now on the files are in memory
        starts: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (package, statement) in ways.items():
                starts[name].append(start(package, statement, environ))
        sizes = {name: mebibytes(package) for name, package in packages.items()}
    medians = {
        name: statistics.median(milliseconds for milliseconds, _ in measured)
        for name, measured in starts.items()
    }
    ratios = {
        name: report.ratio([ms for ms, _ in measured], [ms for ms, _ in starts["plain"]])
        for name, measured in starts.items()
    }
    rows: list[report.Row] = [
        {
            "": name,
            "ms": medians[name],
            "ratio": ratios[name],
            "modules": starts[name][0][1],
            "MiB": sizes[name],
        }
        for name in packages
    ]
    parts: list[report.Row] = [
        {"": name, "ms": medians[name], "ratio": ratios[name]} for name in PARTS
    ]
    targets = [
        report.Target("start of the batch function / plain stack", ratios["batches"], MOST_RATIO),
        report.Target("largest package, MiB", max(sizes[name] for name in HANDLERS), MOST_MIB),
    ]
    report.publish("cold_start", report.Chapter({"starts": rows, "parts": parts}, targets))


if __name__ == "__main__":
    main()
