"""The deployed handlers in this process, called with API Gateway's events."""

import base64
import json
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from uploads.http import Handler, Response

ENVIRON: Final = {
    "SESSIONS_TABLE": "none",
    "BATCHES_BUCKET": "batches",
    "MERGED_BUCKET": "merged",
    "AUTH_MODE": "NONE",
    "SESSION_LIFETIME_HOURS": "1",
    "MERGED_RETENTION_DAYS": "1",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "POWERTOOLS_LOG_LEVEL": "INFO",
    "POWERTOOLS_METRICS_NAMESPACE": "Gapless",
    "POWERTOOLS_SERVICE_NAME": "gapless",
}
"""The variables that ``template.yaml`` and Lambda set."""
KEEPING: Final = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "67108864"}
"""More of these, which a process must have from its start."""

BATCH_MEDIA_TYPE: Final = "application/vnd.gapless.batch+json"
LINES_MEDIA_TYPE: Final = "application/x-ndjson"
CREATE: Final = "POST /api/upload/sessions"
BATCH: Final = "POST /api/upload/sessions/{sessionId}"
LINES: Final = "PUT /api/upload/sessions/{sessionId}/batches/{seqNum}"
FINISH: Final = "POST /api/upload/sessions/{sessionId}/finish"
MODULES: Final = {CREATE: "sessions", BATCH: "batches", LINES: "batches", FINISH: "finish"}
"""The function's module for each route."""


class Context:
    """Lambda's context, with time enough."""

    aws_request_id = "benchmark"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds."""
        return 3_600_000


def event(
    route: str, session_id: str = "", body: str | bytes | None = None, seq_num: int = 0
) -> dict[str, Any]:
    """The event of a request. Bytes are sent as gzip. ``seq_num`` belongs to NDJSON batches."""
    made: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route,
        "pathParameters": {"sessionId": session_id, "seqNum": str(seq_num)} if session_id else {},
        "headers": {},
        "requestContext": {"requestId": "benchmark"},
        "isBase64Encoded": isinstance(body, bytes),
    }
    match body:
        case str():
            length = str(len(body.encode()))
            made["headers"] = {"content-type": "application/json", "content-length": length}
            made["body"] = body
        case bytes():
            media_type = LINES_MEDIA_TYPE if route == LINES else BATCH_MEDIA_TYPE
            made["headers"] = {"content-type": media_type, "content-encoding": "gzip"}
            made["body"] = base64.b64encode(body).decode()
    return made


class Functions:
    """The three functions with their own clients of S3 and DynamoDB at ``endpoint``.

    A function is imported at its first call.
    """

    def __init__(self, endpoint: str) -> None:
        os.environ.update(ENVIRON)
        self._environ = ENVIRON | {"AWS_ENDPOINT_URL": endpoint}
        self._handlers: dict[str, Handler] = {}

    def _handler(self, route: str) -> "Handler":
        if route not in self._handlers:
            from uploads.config import Config
            from uploads.wiring import Wiring

            build = import_module(MODULES[route]).build
            self._handlers[route] = build(Wiring(Config.from_env(self._environ)))
        return self._handlers[route]

    def call(self, made: dict[str, Any]) -> "Response":
        """Handle an event."""
        return self._handler(made["routeKey"])(made, Context())

    def create(self, total: int, batch_size: int | None = None, format_: str = "ndjson") -> str:
        """Create a session and return its id."""
        asked: dict[str, Any] = {"totalRecord": total, "format": format_}
        asked |= {"batchSize": batch_size} if batch_size else {}
        session_id: str = json.loads(self.call(event(CREATE, "", json.dumps(asked)))["body"])[
            "sessionId"
        ]
        return session_id

    def store(self, made: dict[str, Any]) -> None:
        """Handle an event that stores a batch."""
        answer = self.call(made)
        assert answer["statusCode"] == 204, answer

    def finish(self, session_id: str) -> dict[str, Any]:
        """Finish a complete session."""
        result: dict[str, Any] = json.loads(self.call(event(FINISH, session_id))["body"])
        assert result["validationResult"] == "Success", result
        return result
