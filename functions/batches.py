"""The batches function: stores one batch."""

import os

from aws_lambda_powertools.metrics import MetricUnit

from uploads import errors, protocol
from uploads.config import Config
from uploads.http import Answer, Handler, Request, answer, entry
from uploads.records import Batch, read_batch
from uploads.wiring import Wiring


def build(wiring: Wiring) -> Handler:
    """The handler of the batches function."""
    sessions, batches = wiring.sessions, wiring.batches

    def receive(request: Request) -> Answer:
        def read() -> Batch:
            return read_batch(request.body())

        session_id, owner = request.session_id, request.owner
        try:
            batch = protocol.receive(sessions, batches, session_id, owner, read, wiring.clock)
        except errors.BatchConflictError:
            request.metrics.add_metric("Conflicts", MetricUnit.Count, 1)
            raise
        request.metrics.add_metric("Batches", MetricUnit.Count, 1)
        request.metrics.add_metric("Records", MetricUnit.Count, batch.records)
        request.metrics.add_metric("Bytes", MetricUnit.Bytes, len(batch.ndjson))
        return answer(204)

    return entry({"POST /api/upload/sessions/{sessionId}": receive}, wiring.config)


lambda_handler = build(Wiring(Config.from_env(os.environ)))
