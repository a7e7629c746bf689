"""``make sam-local``: the packages of ``sam build`` in containers of Lambda's runtime.

``sam local start-api`` serves the routes of ``template.yaml``. S3 and DynamoDB are moto's, in this
process, at an address that the containers reach. ``python -m local.sam_local test OPTIONS`` runs
the protocol tests against it instead of serving; the options are pytest's.

Environment: ``PORT``, by default 3000.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from samcli.local.docker.lambda_image import LambdaImage  # type: ignore[import-untyped]

from . import in_process, sam, storage
from .runtime import RUNTIME, runtime_bin
from .server import HOST, Server
from .streams import Poller, stream_arn
from .template import Template

PUBLIC_IMAGE: Final = f"{LambdaImage._INVOKE_REPO_PREFIX}/python:3.13"  # noqa: SLF001
_STAND_IN_SCRIPT: Final = Path(__file__).with_name("sam-image.sh")
STAND_IN_IMAGE: Final = (
    f"gapless-lambda-stand-in:{hashlib.sha256(_STAND_IN_SCRIPT.read_bytes()).hexdigest()[:12]}"
)
"""Built by ``sam-image.sh`` if no registry can be reached. The name depends on the script."""

LACKS: Final = {
    "binary bodies": "a body that is not UTF-8 gets a 502, and any other is text",
    "gateway limits": "a request over 6 MB gets a 200 with the text of an error",
    "unknown routes": "a route that does not exist gets a 403",
}
"""What ``sam local`` does not do as API Gateway does; tests that need it are skipped."""

_SUITE: Final = ("tests/integration/test_protocol.py", "tests/integration/test_cleanup.py")

_HOST_NAME: Final = "host.docker.internal"
"""The name of this machine in containers."""
_MAX_PORT: Final = 65_535
_START_WITHIN_SECONDS: Final = 300
_STOP_WITHIN_SECONDS: Final = 60
_LOG: Final = sam.ROOT / "build" / "sam-local.log"


class StartError(Exception):
    """The API cannot be started; the message says why."""


class NoDockerError(StartError):
    """There is no Docker engine."""

    def __init__(self) -> None:
        super().__init__("make sam-local needs a running Docker engine")


def main() -> None:
    """Serve until Ctrl-C or SIGTERM, or test."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if sys.argv[1:2] == ["test"]:
            sys.exit(test(sys.argv[2:]))
        with suppress(KeyboardInterrupt):
            serve()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except StartError as error:
        sys.exit(str(error))


def serve() -> None:
    """Serve the API, with SAM's output on the terminal."""
    given = os.environ.get("PORT", "3000")
    if not given.isdecimal() or not 0 < (port := int(given)) <= _MAX_PORT:
        raise StartError(f"PORT must be a number from 1 to {_MAX_PORT}, not {given!r}")
    with started(port) as (url, process):
        print(
            "",
            f"Gapless is at {url} (Ctrl-C stops it)",
            f"  S3 and DynamoDB: {os.environ['AWS_ENDPOINT_URL']} (moto, in memory)",
            "Open a session for three records (the first call to a function starts its container):",
            f"""  curl {url}/api/upload/sessions -d '{{"totalRecord": 3}}'""",
            "",
            sep="\n",
            flush=True,
        )
        # With a time-out it polls: a signal that arrives just before one long wait would be lost.
        process.wait(timeout=math.inf)
        raise StartError(f"sam local start-api exited with {process.returncode}")


def test(options: Sequence[str]) -> int:
    """Run the protocol tests against the API; returns pytest's exit code."""
    port = _free_port()
    _LOG.parent.mkdir(exist_ok=True)
    try:
        with (
            _LOG.open("w") as log,
            TemporaryDirectory() as folder,
            started(port, log) as (url, _),
        ):
            description = {
                "name": "sam local",
                "url": url,
                "table": in_process.LOCAL_VALUES["SessionsTable"],
                "batchesBucket": in_process.LOCAL_VALUES["BatchesBucket"],
                "mergedBucket": in_process.LOCAL_VALUES["MergedBucket"],
                "environment": {
                    name: value
                    for name, value in os.environ.items()
                    if name.startswith("AWS_") or name in {"NO_PROXY", "no_proxy"}
                },
                "lacks": LACKS,
            }
            file = Path(folder) / "stack.json"
            file.write_text(json.dumps(description))
            suite = subprocess.run(
                [sys.executable, "-m", "pytest", *_SUITE, *options],
                cwd=sam.ROOT,
                env={**os.environ, "STACK": str(file)},
                check=False,
            )
    except NoDockerError:
        print("make test-sam-local is skipped: there is no running Docker engine")
        return 0
    if suite.returncode:
        print(f"The output of SAM and the functions is in {_LOG.relative_to(sam.ROOT)}")
    return suite.returncode


@contextmanager
def started(port: int, log: IO[str] | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start everything, yield the API's URL and SAM's process; ``os.environ`` has the storage.

    Raises StartError.
    """
    _require_docker()
    _check_port(port)
    template = Template.load(in_process.TEMPLATE)
    base = _base_image()
    host = _host_seen_from(base)
    built = _build()
    with ExitStack() as running:
        moto = running.enter_context(_serve_moto(host))
        storage.point_to_moto(os.environ, moto.url)
        settings = template.environment(in_process.LOCAL_VALUES)
        table, *buckets = (
            settings[name] for name in ("SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET")
        )
        storage.provision(template, table, buckets)
        running.enter_context(_cleaned_up(template, table))
        # Links to merged objects are for this machine, not for the containers.
        settings["PRESIGN_ENDPOINT_URL"] = moto.url
        variables = Path(running.enter_context(TemporaryDirectory())) / "variables.json"
        variables.write_text(json.dumps({"Parameters": settings}))
        image = running.enter_context(_image(base, f"http://{_HOST_NAME}:{moto.port}"))
        process = running.enter_context(
            _sam_local(
                *sam.FOR_THIS_MACHINE,
                "--config-file",
                sam.ROOT / "samconfig.toml",
                "--template",
                built / "template.yaml",
                "--env-vars",
                variables,
                "--invoke-image",
                image,
                "--skip-pull-image",
                "--add-host",
                f"{_HOST_NAME}:host-gateway",
                "--host",
                HOST,
                "--port",
                port,
                log=log,
            )
        )
        _wait_for(port, process)
        yield f"http://{HOST}:{port}", process


def _cleaned_up(template: Template, table: str) -> Poller:
    """Run the clean-up function in this process: SAM does not support event source mappings."""
    in_process.set_environment(template, os.environ)
    arn = stream_arn(table)
    assert arn is not None  # noqa: S101 - moto has streams
    return Poller(partial(in_process.load_stream, template, table, arn))


def _free_port() -> int:
    """A port that the system gives to no other program until SAM uses it, which takes a minute."""
    while True:
        # Linux chooses from 32,768 and up.
        port = 30_000 + secrets.randbelow(2_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


def _check_port(port: int) -> None:
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StartError(f"port {port}: {reason}. Try PORT={port + 1} make sam-local") from None


def _build() -> Path:
    if runtime_bin() is None:
        raise StartError(f"make sam-local needs {RUNTIME}, which sam build packs for")
    print("Building the functions …", flush=True)
    # Not where builds for a deployment are, which may be for another architecture.
    target = sam.ROOT / ".aws-sam" / "local"
    done = sam.build(target)
    if done.returncode:
        raise StartError(f"sam build failed:\n{done.stderr}")
    return target


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    docker = shutil.which("docker")
    if docker is None:
        raise NoDockerError
    return subprocess.run([docker, *arguments], capture_output=True, text=True, check=False)


def _done(process: subprocess.CompletedProcess[str]) -> str:
    """Return the output. Raises StartError if the process failed."""
    if process.returncode:
        raise StartError(f"{' '.join(process.args)}: {process.stderr.strip()}")
    return process.stdout.strip()


def _require_docker() -> None:
    if _docker("info", "--format", "{{.ServerVersion}}").returncode:
        raise NoDockerError


def _host_seen_from(image: str) -> str:
    """Return the address of this machine as a container of ``image`` sees it.

    The network's description does not have it: after its first start, Docker knows no gateway of
    its bridge.
    """
    look = f"import socket; print(socket.gethostbyname('{_HOST_NAME}'))"
    found = _done(
        _docker(
            *("run", "--rm", f"--add-host={_HOST_NAME}:host-gateway"),
            *("--entrypoint", f"/var/lang/bin/{RUNTIME}", image, "-c", look),
        )
    )
    try:
        return str(ip_address(found))
    except ValueError:
        raise StartError(f"a container sees no address of this machine, but {found!r}") from None


def _serve_moto(host: str) -> Server:
    """Start moto where containers reach it and, on Linux, other machines do not.

    The system chooses the port, outside of 5000 to 9000, which SAM uses.
    """
    try:
        return storage.serve_moto(host=host)
    except OSError:
        # Docker Desktop's network is in a virtual machine and leads to localhost.
        return storage.serve_moto()


@contextmanager
def _image(base: str, endpoint: str) -> Iterator[str]:
    """Make an image of ``base``, a Lambda runtime, whose AWS clients call ``endpoint``.

    SAM passes to containers only the variables that the template declares. At the end the image is
    removed, with SAM's image and containers that are based on it.
    """
    name = f"gapless-sam-local-{os.getpid()}"
    container = _done(_docker("create", base))
    try:
        _done(_docker("commit", "--change", f"ENV AWS_ENDPOINT_URL={endpoint}", container, name))
    finally:
        _docker("rm", container)
    try:
        yield name
    finally:
        images = _docker("image", "ls", "--quiet", name).stdout.split()
        made_from = [f"--filter=ancestor={image}" for image in images]
        label = "--filter=label=sam.cli.container.type=lambda"
        if left := _docker("ps", "--all", "--quiet", label, *made_from).stdout.split():
            _docker("rm", "--force", *left)
        _docker("image", "rm", "--force", *images)


def _base_image() -> str:
    """Return AWS's image, or a stand-in if it cannot be pulled."""
    if _docker("image", "inspect", PUBLIC_IMAGE).returncode == 0:
        return PUBLIC_IMAGE
    print(f"Pulling {PUBLIC_IMAGE} …", flush=True)
    pulled = _docker("pull", PUBLIC_IMAGE)
    if pulled.returncode == 0:
        return PUBLIC_IMAGE
    if _docker("image", "inspect", STAND_IN_IMAGE).returncode == 0:
        print("It cannot be pulled; using the stand-in", flush=True)
        return STAND_IN_IMAGE
    if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        reason = pulled.stderr.strip().splitlines()[-1]
        raise StartError(
            f"{PUBLIC_IMAGE} cannot be pulled ({reason}), and a stand-in is only built by root on"
            " Debian with mmdebstrap"
        )
    print("It cannot be pulled; building a stand-in from Debian and PyPI …", flush=True)
    _done(
        subprocess.run(
            [str(_STAND_IN_SCRIPT), STAND_IN_IMAGE],
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
    )
    return STAND_IN_IMAGE


@contextmanager
def _sam_local(*options: object, log: IO[str] | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``sam local start-api``, out of reach of Ctrl-C: it is stopped here, and only once."""
    with subprocess.Popen(
        sam.command("local", "start-api", *options),
        cwd=sam.ROOT,
        env=sam.environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            # A second Ctrl-C must not leave containers behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until SAM responds, which is after its last line about the start."""
    end = time.monotonic() + _START_WITHIN_SECONDS
    while time.monotonic() < end and process.poll() is None:
        connection = HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except OSError:
            time.sleep(0.1)
        else:
            return
        finally:
            connection.close()
    raise StartError("sam local start-api did not start")


if __name__ == "__main__":
    main()
