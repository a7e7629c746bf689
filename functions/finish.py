"""The finish function: seals a session, finds its gaps, and merges it or starts a long merge."""

import os

from uploads import limits, startup
from uploads.config import Config
from uploads.decode.finish import FINISH_ALLOWANCE, read_finish_request
from uploads.http import SECONDS, Handler, Request, Response, location, make_handler, respond
from uploads.wiring import Wiring


def build(wiring: Wiring) -> Handler:
    """The handler of the finish function."""
    finisher = wiring.finisher

    def finish(request: Request) -> Response:
        session_id, owner = request.session_id, request.owner
        totals = read_finish_request(request.body(FINISH_ALLOWANCE).content)
        seconds_left = request.context.get_remaining_time_in_millis() / 1000
        # A local run has more time than this, and renews the lease while it merges.
        seconds_left = min(seconds_left, limits.FINISH_SECONDS)
        outcome = finisher.run(session_id, owner, seconds_left, totals)
        if outcome.result is None:
            request.count_finishing(outcome.finishing_since, wiring.clock())
            return respond(
                202,
                {"sessionId": session_id, "state": "FINISHING"},
                location=location(session_id),
                retry_after=str(limits.RETRY_AFTER_SECONDS),
            )
        if outcome.missing_batches:
            request.count("MissingBatches", outcome.missing_batches)
        if outcome.merge_seconds is not None:
            request.count("MergeDuration", outcome.merge_seconds, SECONDS)
        return respond(200, outcome.result)

    return make_handler({"POST /api/upload/sessions/{sessionId}/finish": finish}, wiring.config)


lambda_handler = build(Wiring(Config.from_env(os.environ)))
startup.ended()
