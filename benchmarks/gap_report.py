"""The gap report of 10,000 batches, of which 9,990 are there, through the API.

    PYTHONPATH=functions python -m benchmarks.gap_report

Sends the events of status and finish to the deployed handlers, against the look-alike of
``benchmarks.lookalike``. Ends with 1 where the promise is not kept.
"""

import json
import os
import sys
import time
from typing import Final

from benchmarks.compose import look_alike
from benchmarks.handlers import ENVIRON

BATCHES: Final = 10_000
SESSION: Final = "f" * 32
ROUNDS: Final = 5
PROMISED_SECONDS: Final = 1.0


class Context:
    """What Lambda tells of an invocation."""

    aws_request_id = "benchmark"

    def get_remaining_time_in_millis(self) -> int:
        """All there is."""
        return 29_000


def main() -> None:
    """Measure, and print the medians."""
    with look_alike(BATCHES, 100, 0, 0) as endpoint:
        os.environ.update(
            ENVIRON
            | {
                "AWS_ENDPOINT_URL": endpoint,
                "POWERTOOLS_LOG_LEVEL": "ERROR",
                "POWERTOOLS_METRICS_DISABLED": "true",
            }
        )
        import finish
        import sessions

        handlers = {
            "GET /api/upload/sessions/{sessionId}": sessions.lambda_handler,
            "POST /api/upload/sessions/{sessionId}/finish": finish.lambda_handler,
        }
        slowest = 0.0
        for route, handler in handlers.items():
            seconds = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                answer = handler(
                    {"routeKey": route, "pathParameters": {"sessionId": SESSION}}, Context()
                )
                seconds.append(time.perf_counter() - started)
                report = json.loads(answer["body"])
                assert report["batches"] == BATCHES - 10
                assert len(report["missing"]) == 10
            median = sorted(seconds)[ROUNDS // 2]
            slowest = max(slowest, median)
            print(f"{median:.3f} s  {route}")
    if slowest > PROMISED_SECONDS:
        sys.exit(f"Promised was {PROMISED_SECONDS:.0f} s.")


if __name__ == "__main__":
    main()
