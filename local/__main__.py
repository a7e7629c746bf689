"""``gapless-local``, ``python -m local``: the API, with the deployed handlers, and the page.

``--help`` lists what it reads from the environment.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from . import gateway, in_process, storage, streams
from .other_storage import OtherStorage, OtherStorageError
from .server import Server, with_files
from .template import Template

_MAX_PORT = 65_535
_RESOURCES = ("SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET")
_HELP = """\
environment:
  PORT                  the port, if --port is not given
  SCHEMAS_DIR           a folder with the schemas that sessions may name
  EVENTS_FILE           a file to which each event is added, as a line of JSON
  AWS_ENDPOINT_URL      S3 and DynamoDB to use, instead of those in memory; the
                        table and the buckets are created if they are missing
  SESSIONS_TABLE, BATCHES_BUCKET, MERGED_BUCKET
                        their names; without AWS_ENDPOINT_URL: those of a
                        deployed stack on AWS, used with your own credentials
"""


class UsageError(Exception):
    """The settings are invalid; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM. ``arguments`` are those of the command line by default."""
    port = _port_from(arguments)
    try:
        with _signals() as signals, ExitStack() as running:
            _serve(running, port)
            signals.recv(1)
    except KeyboardInterrupt:
        pass
    except (UsageError, OtherStorageError, BotoCoreError, ClientError) as error:
        sys.exit(f"gapless: {error}")


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Raise KeyboardInterrupt on SIGTERM too; the yielded socket has a byte for each signal.

    The exception alone is not enough: for a signal that arrives just before a blocking call Python
    raises it after that call, and one that is raised in a destructor goes no further.
    """
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.settimeout(0)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.set_wakeup_fd(sender.fileno())
        try:
            yield receiver
        finally:
            signal.set_wakeup_fd(-1)


def _serve(running: ExitStack, port: int) -> None:
    template = Template.load(in_process.TEMPLATE)
    _check_schemas(template)
    where = _storage(running, template)
    api = with_files(gateway.wsgi(in_process.load_gateway(template)), in_process.ROOT / "web")
    if "AWS_ENDPOINT_URL" in os.environ:
        where += _follow(running, template, os.environ["SESSIONS_TABLE"])
    try:
        server = running.enter_context(Server(api, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UsageError(f"port {port}: {reason}. Set another with --port or PORT") from None
    url = f"http://localhost:{server.port}"
    print(
        f"Gapless is at {url} (Ctrl-C stops it)",
        f"  {where}",
        f"  table {os.environ['SESSIONS_TABLE']},"
        f" buckets {os.environ['BATCHES_BUCKET']} and {os.environ['MERGED_BUCKET']}",
        f"Open {url} in a browser, or create a session for three records:",
        f"""  curl {url}/api/upload/sessions -d '{{"totalRecord": 3}}'""",
        sep="\n",
        flush=True,
    )


def _storage(running: ExitStack, template: Template) -> str:
    """Set the environment for the chosen storage, and return its description for the greeting."""
    environ = os.environ
    where = environ.get("AWS_ENDPOINT_URL") or "AWS"
    other = where if where != "AWS" else None
    given = [name for name in _RESOURCES if environ.get(name)]
    if where == "AWS" and not given:
        moto = running.enter_context(storage.serve_moto())
        storage.point_to_moto(environ, moto.url)
        where = f"{moto.url} (moto, in memory: lost when it stops)"
    elif where == "AWS" and len(given) < len(_RESOURCES):
        raise UsageError(f"for a stack on AWS set all of {', '.join(_RESOURCES)}")
    session = boto3.Session()
    # Lambda sets AWS_REGION; boto3 reads AWS_DEFAULT_REGION and the profile.
    region = environ.get("AWS_REGION") or session.region_name
    if where == "AWS" and not (region and session.get_credentials()):
        raise UsageError("for a stack on AWS set AWS_REGION and credentials, or AWS_PROFILE")
    region = region or storage.REGION
    environ["AWS_REGION"] = environ["AWS_DEFAULT_REGION"] = region
    if where == "AWS":
        environ.setdefault("URL_SUFFIX", _url_suffix(session, region))
    in_process.set_environment(template, environ)
    table, *buckets = (environ[name] for name in _RESOURCES)
    if other:
        where += _use(OtherStorage(other), template, table, *buckets)
    elif where != "AWS":
        storage.provision(template, table, buckets)
    return f"S3 and DynamoDB: {where}"


def _url_suffix(session: boto3.Session, region: str) -> str:
    """The DNS suffix of AWS's services in ``region``. CloudFormation tells deployed functions."""
    for partition in session._session.get_data("partitions")["partitions"]:  # noqa: SLF001
        if re.match(partition["regionRegex"], region):
            return str(partition["outputs"]["dnsSuffix"])
    # The region is newer than the list.
    return in_process.LOCAL_VALUES["AWS::URLSuffix"]


def _use(store: OtherStorage, template: Template, table: str, batches: str, merged: str) -> str:
    """Create what is missing in the given store and check it; returns what it cannot ensure."""
    store.require_both(table, batches)
    try:
        with store.explained():
            storage.provision(template, table, [batches, merged])
    except ValueError as error:
        raise UsageError(str(error)) from None
    return "".join(f"\n  not ensured there: {one}" for one in store.check(table, batches, merged))


def _follow(running: ExitStack, template: Template, table: str) -> str:
    """Clean up sessions and publish events from the table's stream, as the deployed stack does.

    Returns lines for the greeting.
    """
    arn = streams.stream_arn(table)
    if arn is None:
        return (
            "\n  not ensured there: DynamoDB has no stream for the table (so batches of ended"
            "\n    sessions stay until a lifecycle rule of the store deletes them)"
        )
    events, said = None, ""
    if file := os.environ.get("EVENTS_FILE"):
        try:
            events = Path(file).open("a", encoding="utf-8")  # noqa: SIM115 - until the end
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UsageError(f"EVENTS_FILE {file}: {reason}") from None
        running.enter_context(events)
        said = f"\n  events: {file}"
    load = partial(in_process.load_stream, template, table, arn, events)
    running.enter_context(streams.Poller(load))
    return said


def _check_schemas(template: Template) -> None:
    """Check the schemas as ``sam build`` does."""
    folder = Path(os.environ.get("SCHEMAS_DIR") or template.code / "schemas")
    if folder.is_dir():
        found = subprocess.run(
            [sys.executable, template.code / "packing" / "check_schemas.py", folder],
            env=os.environ | {"PYTHONPATH": str(template.code)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if found.returncode:
            raise UsageError(f"a schema in {folder} cannot be used:\n{found.stdout}")


def _port_from(arguments: Sequence[str] | None) -> int:
    """Parse the command line and return the port."""
    parser = argparse.ArgumentParser(
        prog="gapless-local",
        description="Serve the Gapless upload API and its page on this machine, until Ctrl-C.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="NUMBER",
        default=os.environ.get("PORT") or "3000",
        help="the port to listen on; 0 for any free one (default: PORT, or 3000)",
    )
    parser.add_argument("--version", action="version", version=f"gapless-local {_version()}")
    port: int = parser.parse_args(arguments).port
    return port


def _version() -> str:
    try:
        return metadata.version("gapless-local")
    except metadata.PackageNotFoundError:
        return "from a clone"


def _port(given: str) -> int:
    if re.fullmatch("[0-9]{1,5}", given) and int(given) <= _MAX_PORT:
        return int(given)
    raise argparse.ArgumentTypeError(f"must be a number up to {_MAX_PORT}, not {given!r}")


if __name__ == "__main__":
    main()
