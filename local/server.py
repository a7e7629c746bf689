"""A threaded HTTP server for a WSGI application, for this machine only."""

import io
import socket
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from werkzeug.datastructures import Headers
from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import run_wsgi_app

if TYPE_CHECKING:
    from typing import Self

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST: Final = "127.0.0.1"
_DRAINED_AT_ONCE: Final = 1024 * 1024
_BUFFER_BYTES: Final = 8192
_STOP_WITHIN_SECONDS: Final = 0.1
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


def with_files(app: "WSGIApplication", folder: Path) -> "WSGIApplication":
    """Return ``app`` with the files of ``folder``; ``/`` is its ``index.html``.

    Needs the server's ``RAW_URI``. A request can only name a file that the folder lists.
    """

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["RAW_URI"].partition("?")[0]
        name = "index.html" if path == "/" else path.removeprefix("/")
        media_type = _MEDIA_TYPES.get(Path(name).suffix)
        if media_type is None or environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return app(environ, start_response)
        files = {file.name: file for file in folder.iterdir()}
        if name not in files:
            return app(environ, start_response)
        headers = [
            ("Content-Type", media_type),
            ("Cache-Control", "no-cache"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start_response("200 OK", headers)
        return [files[name].read_bytes()]

    return answer


class _Connection(socket.SocketIO):
    """What a client sends. A long read is one system call, after which others may run."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, "rb")
        self._connection = connection

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401
        """Fill ``buffer``, unless it is that of BufferedReader, which may be larger than needed."""
        if len(buffer) <= _BUFFER_BYTES:
            return super().readinto(buffer)
        return self._connection.recv_into(buffer, 0, socket.MSG_WAITALL)


class _Body(io.RawIOBase):
    """The body of a request, of ``length`` bytes.

    It is read without a copy. Raises ClientDisconnected if the client sends less.
    """

    def __init__(self, connection: io.BufferedIOBase, length: int) -> None:
        self._connection = connection
        self._left = length

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        content = self._connection.read(wanted)
        if len(content) < wanted:
            raise ClientDisconnected
        self._left -= wanted
        return content

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class KeepAliveHandler(WSGIRequestHandler):
    """Keeps connections open, as S3 and API Gateway do, unlike werkzeug's own handler.

    So every response has a length, and a body that the application did not read is read before the
    next request. If the application raises OSError, the connection is closed without a response.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # A response is one packet.
    wbufsize = -1

    def setup(self) -> None:
        """Prepare a connection."""
        super().setup()
        self.rfile = io.BufferedReader(_Connection(self.connection), _BUFFER_BYTES)

    def handle_expect_100(self) -> bool:
        """Tell the client to send the body."""
        expected = super().handle_expect_100()
        self.wfile.flush()
        return expected

    def run_wsgi(self) -> None:
        """Respond to one request."""
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdecimal()):
            self.close_connection = True
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        environ = self.make_environ()
        if environ.get("wsgi.input_terminated"):
            environ["wsgi.input"] = io.BufferedReader(environ["wsgi.input"])
        else:
            environ["wsgi.input"] = _Body(self.rfile, int(length))
            environ["wsgi.input_terminated"] = True
        body = environ["wsgi.input"]
        try:
            self._send(*run_wsgi_app(self.server.app, environ, buffered=True))
            while body.read(_DRAINED_AT_ONCE):
                pass
        except (ClientDisconnected, OSError):
            self.close_connection = True

    def _send(self, chunks: Iterable[bytes], status: str, headers: Headers) -> None:
        code, _, phrase = status.partition(" ")
        bodiless = self.command == "HEAD" or int(code) in {
            HTTPStatus.NO_CONTENT,
            HTTPStatus.NOT_MODIFIED,
        }
        content = b"" if bodiless else b"".join(chunks)
        if not bodiless:
            headers.set("Content-Length", str(len(content)))
        self.send_response(int(code), phrase)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_request(self, *_: object) -> None:
        """Log nothing; the application does."""

    def log(self, *_: object) -> None:
        """Log nothing; the application does."""


class Server:
    """A running server, and a context manager that stops it.

    Port 0 is any free port. Raises OSError if the port is taken.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        port: int = 0,
        handler: type[WSGIRequestHandler] = KeepAliveHandler,
        host: str = HOST,
    ) -> None:
        # werkzeug exits the process if it cannot listen, so it gets an open socket.
        with socket.create_server((host, port), backlog=128) as listener:
            self._server = make_server(
                host, port, app, threaded=True, request_handler=handler, fd=listener.fileno()
            )
        self._thread = Thread(
            target=self._server.serve_forever, args=(_STOP_WITHIN_SECONDS,), daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://{self._server.host}:{self.port}"

    def stop(self) -> None:
        """Stop accepting connections."""
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
