"""``python -m tests.load.storage``: S3 and DynamoDB (moto) in a process that is never killed.

Calls run one at a time, so that conditional writes are atomic, as in AWS.
"""

from collections.abc import Iterable
from io import BytesIO
from threading import Event, Lock
from typing import TYPE_CHECKING

from werkzeug.test import run_wsgi_app

from local import storage

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def one_at_a_time(app: "WSGIApplication") -> "WSGIApplication":
    """Serialize the calls of ``app``."""
    lock = Lock()

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        request = {**environ, "wsgi.input": BytesIO(environ["wsgi.input"].read())}
        with lock:
            chunks, status, headers = run_wsgi_app(app, request, buffered=True)
            content = b"".join(chunks)
        start_response(status, list(headers))
        return [content]

    return answer


if __name__ == "__main__":
    with storage.serve_moto(one_at_a_time) as server:
        print(server.url, flush=True)
        Event().wait()
