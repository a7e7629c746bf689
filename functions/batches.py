"""The batches function: receives one batch, as JSON or as NDJSON."""

import os
from collections.abc import Callable

from uploads import errors, startup
from uploads.batch import Batch
from uploads.config import Config
from uploads.decode.batch_json import read_batch
from uploads.decode.batch_ndjson import LINES_MEDIA_TYPE, add_lines, read_lines, read_seq_num
from uploads.http import BYTES, Handler, Request, Response, make_handler, respond
from uploads.wiring import Wiring


def build(wiring: Wiring) -> Handler:
    """The handler of the batches function."""
    receiver = wiring.receiver

    def receive(request: Request, read: Callable[[], Batch]) -> Response:
        try:
            batch = receiver.receive(request.session_id, request.owner, read)
        except errors.BatchConflictError:
            request.count("Conflicts", 1)
            raise
        request.count("Batches", 1)
        request.count("Records", batch.records)
        request.count("Bytes", len(batch.ndjson), BYTES)
        return respond(204)

    def receive_json(request: Request) -> Response:
        return receive(request, lambda: read_batch(request.body()))

    def receive_ndjson(request: Request) -> Response:
        body = b""

        def read() -> Batch:
            nonlocal body
            seq_num = read_seq_num(request.in_path("seqNum"))
            body = request.body(media_type=LINES_MEDIA_TYPE)
            return read_lines(body, seq_num)

        try:
            return receive(request, read)
        except errors.InvalidRecordsError as error:
            add_lines(error, body)
            raise

    return make_handler(
        {
            "POST /api/upload/sessions/{sessionId}": receive_json,
            "PUT /api/upload/sessions/{sessionId}/batches/{seqNum}": receive_ndjson,
        },
        wiring.config,
    )


lambda_handler = build(Wiring(Config.from_env(os.environ)))
startup.ended()
