"""The batches function: receives one batch."""

import os

from uploads import errors, startup
from uploads.batch import Batch
from uploads.config import Config
from uploads.decode.batch_json import read_batch
from uploads.http import BYTES, Handler, Request, Response, make_handler, respond
from uploads.wiring import Wiring


def build(wiring: Wiring) -> Handler:
    """The handler of the batches function."""
    receiver = wiring.receiver

    def receive(request: Request) -> Response:
        def read() -> Batch:
            return read_batch(request.body())

        try:
            batch = receiver.receive(request.session_id, request.owner, read)
        except errors.BatchConflictError:
            request.count("Conflicts", 1)
            raise
        request.count("Batches", 1)
        request.count("Records", batch.records)
        request.count("Bytes", len(batch.ndjson), BYTES)
        return respond(204)

    return make_handler({"POST /api/upload/sessions/{sessionId}": receive}, wiring.config)


lambda_handler = build(Wiring(Config.from_env(os.environ)))
startup.ended()
