"""The batches function: receives one batch, as JSON or as NDJSON."""

import os
from collections.abc import Callable
from dataclasses import replace

from uploads import errors, startup
from uploads.batch import Batch
from uploads.config import Config
from uploads.decode.batch_json import read_batch
from uploads.decode.batch_ndjson import LINES_MEDIA_TYPE, add_lines, read_lines, read_seq_num
from uploads.formats import Format
from uploads.http import BYTES, Handler, Request, Response, make_handler, respond
from uploads.session import Session
from uploads.wiring import Wiring


def build(wiring: Wiring) -> Handler:
    """The handler of the batches function."""
    receiver = wiring.receiver

    def receive(request: Request, read: Callable[[Session], Batch]) -> Response:
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
        return receive(request, lambda _: read_batch(request.body().content))

    def receive_ndjson(request: Request) -> Response:
        content = b""

        def read(session: Session) -> Batch:
            nonlocal content
            seq_num = read_seq_num(request.in_path("seqNum"))
            keep_blocks = session.format is Format.NDJSON_GZ
            content, blocks = request.body(media_type=LINES_MEDIA_TYPE, keep_blocks=keep_blocks)
            batch = read_lines(content, seq_num)
            # The blocks hold the body as it was sent, with blank lines and other space.
            return replace(batch, blocks=blocks) if batch.ndjson == content else batch

        try:
            return receive(request, read)
        except errors.InvalidRecordsError as error:
            add_lines(error, content)
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
