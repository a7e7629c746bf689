"""SeaweedFS, a real S3 server, behind a middleware that sees every call, as with moto."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.processes import free_ports

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST: Final = "127.0.0.1"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtesttest"}
_WEED: Final = Path(sys.executable).with_name("weed")
_GRPC: Final = 10_000
"""Offset of the gRPC port that it opens beside each port."""
_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@contextmanager
def running() -> Iterator[str]:
    """Start an empty server and yield its URL. Raises AssertionError if it exits early."""
    with TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        identity = {
            "name": "test",
            "credentials": [
                {
                    "accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"],
                    "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
                }
            ],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (home / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = free_ports(4, _GRPC)
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        options = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
        log = home / "log"
        with (
            log.open("wb") as said,
            subprocess.Popen(
                [
                    *(_WEED, "-logtostderr=true", "server", f"-dir={home / 'data'}"),
                    *(f"-ip={HOST}", f"-ip.bind={HOST}", "-volume.max=50", "-filer", "-s3"),
                    *(f"-s3.config={home / 's3.json'}", *options),
                ],
                stdout=said,
                stderr=said,
            ) as weed,
        ):
            try:
                while not _answers(ports[-1]):
                    assert weed.poll() is None, log.read_text()[-3_000:]
                    time.sleep(0.2)
                yield f"http://{HOST}:{ports[-1]}"
            finally:
                weed.kill()


def in_place_of_s3(
    url: str, middleware: "Callable[[WSGIApplication], WSGIApplication]"
) -> "Callable[[WSGIApplication], WSGIApplication]":
    """Serve S3 from ``url`` and DynamoDB from moto, both behind ``middleware``."""

    def joined(moto: "WSGIApplication") -> "WSGIApplication":
        def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            if "HTTP_X_AMZ_TARGET" in environ:
                return moto(environ, start_response)
            return _forward(url, environ, start_response)

        return middleware(answer)

    return joined


def _forward(
    url: str, environ: "WSGIEnvironment", start_response: "StartResponse"
) -> Iterable[bytes]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=300)
    try:
        method = environ["REQUEST_METHOD"]
        # Keep the signed parts unchanged: the host and the escaped path.
        connection.putrequest(method, environ["RAW_URI"], skip_host=True, skip_accept_encoding=True)
        for name, value in environ.items():
            if name.startswith("HTTP_"):
                connection.putheader(name.removeprefix("HTTP_").replace("_", "-"), value)
        if environ.get("CONTENT_TYPE"):
            connection.putheader("Content-Type", environ["CONTENT_TYPE"])
        body = environ["wsgi.input"].read()
        if method in {"PUT", "POST"}:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        said = connection.getresponse()
        content = said.read()
        headers = [(name, value) for name, value in said.getheaders() if name.lower() not in _HOP]
        if method == "HEAD" and (length := said.getheader("Content-Length")):
            headers.append(("Content-Length", length))
        start_response(f"{said.status} {said.reason}", headers)
        return [content]
    finally:
        connection.close()


def _answers(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except OSError:
        return False
    else:
        return True
    finally:
        connection.close()
