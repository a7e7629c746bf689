"""botocore's clients of S3, Step Functions and EventBridge, and the credentials that it finds.

S3's makes the few calls that obstore cannot: conditional multipart uploads with checksums, and
presigned links. boto3 itself is not imported: it would take a fifth of a cold start.
"""

import time
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.config import Config as ClientConfig
from botocore.exceptions import NoCredentialsError
from botocore.handlers import add_expect_header
from botocore.retries.standard import RetryEventAdapter, StandardRetryConditions
from botocore.session import Session

from uploads import limits
from uploads.config import Config, Credentials
from uploads.retries import Tries

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

CLIENT: Final = ClientConfig(
    connect_timeout=limits.CONNECT_SECONDS,
    read_timeout=limits.READ_SECONDS,
    # ``govern`` does all retries.
    retries={"mode": "standard", "total_max_attempts": 1},
    max_pool_connections=limits.READS_IN_FLIGHT,
    # botocore's own describes this machine, and takes an eighth of a call's CPU to build.
    user_agent="gapless",
)

_TOO_MANY_REQUESTS: Final = 429


class BotocoreClients:
    """Makes clients. They share one session of botocore."""

    def __init__(self, config: Config) -> None:
        self._endpoint = config.endpoint_url
        self._session = Session()
        self._session.set_config_variable("region", config.region)
        govern(self._session)

    def credentials(self) -> Credentials:
        """The credentials of now; botocore renews them. Raises NoCredentialsError."""
        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        keys = found.get_frozen_credentials()
        return Credentials(cast("str", keys.access_key), cast("str", keys.secret_key), keys.token)

    def step_functions(self) -> "SFNClient":
        """A client of Step Functions."""
        return cast("SFNClient", self._client("stepfunctions"))

    def events(self) -> "EventBridgeClient":
        """A client of EventBridge."""
        return cast("EventBridgeClient", self._client("events"))

    def _client(self, service: str) -> object:
        return self._session.create_client(service, endpoint_url=self._endpoint, config=CLIENT)

    def s3(self, endpoint: str | None) -> "S3Client":
        """A client of S3 at ``endpoint``, or at AWS."""
        client = self._session.create_client(
            "s3",
            endpoint_url=endpoint,
            config=CLIENT.merge(
                ClientConfig(
                    signature_version="s3v4",
                    # Every write sends the object's own checksum, so botocore computes none.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={
                        "payload_signing_enabled": False,
                        "us_east_1_regional_endpoint": "regional",
                        "addressing_style": "path" if endpoint else "virtual",
                    },
                )
            ),
        )
        # Avoid the 100-continue round trip before every part.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return cast("S3Client", client)


def govern(session: Session) -> None:
    """Retry the calls of all the session's clients; their own retries must be off."""
    # botocore judges which errors can be retried; the number of tries is not limited.
    conditions = StandardRetryConditions(max_attempts=10**9)
    adapter = RetryEventAdapter()

    def begin(**event: Any) -> None:  # noqa: ANN401
        event["context"]["tries"] = Tries(time.monotonic())

    def needs_retry(**event: Any) -> float | None:  # noqa: ANN401
        tried = adapter.create_retry_context(**event)
        status = getattr(tried.http_response, "status_code", 0)
        code = tried.get_error_code() or ""
        if (
            conditions.is_retryable(tried)
            or status == _TOO_MANY_REQUESTS
            or "Throttling" in code  # KMS.ThrottlingException
        ):
            tries: Tries = event["request_dict"]["context"]["tries"]
            return tries.pause(code or tried.caught_exception or status)
        return None

    session.register("before-call", begin)
    session.register("needs-retry", cast("Any", needs_retry))
