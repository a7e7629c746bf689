"""The finish function: seals a session, finds its gaps, and merges it or has it merged."""

import os

from aws_lambda_powertools.metrics import MetricUnit

from uploads import limits
from uploads.config import Config
from uploads.http import Answer, Handler, Request, answer, entry, location
from uploads.wiring import Wiring


def build(wiring: Wiring) -> Handler:
    """The handler of the finish function."""
    finish = wiring.finish

    def run(request: Request) -> Answer:
        session_id = request.session_id
        seconds_left = request.context.get_remaining_time_in_millis() / 1000
        # A local run has more, and takes the lease on while it merges.
        seconds_left = min(seconds_left, limits.FINISH_SECONDS)
        outcome = finish(session_id, request.owner, seconds_left)
        if outcome.result is None:
            request.count_finishing(outcome.finishing_since, wiring.clock())
            return answer(
                202,
                {"sessionId": session_id, "state": "FINISHING"},
                location=location(session_id),
                retry_after=str(limits.RETRY_AFTER_SECONDS),
            )
        if outcome.missing_batches:
            request.metrics.add_metric("MissingBatches", MetricUnit.Count, outcome.missing_batches)
        if outcome.merge_seconds is not None:
            request.metrics.add_metric("MergeDuration", MetricUnit.Seconds, outcome.merge_seconds)
        return answer(200, outcome.result)

    return entry({"POST /api/upload/sessions/{sessionId}/finish": run}, wiring.config)


lambda_handler = build(Wiring(Config.from_env(os.environ)))
