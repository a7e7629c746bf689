"""Builds the AWS clients and connects all parts. No other module creates a client.

Each function builds the parts it uses, once, while it starts. There are two S3 clients with the
same credentials: obstore moves data, and botocore makes the few calls that obstore cannot
(conditional multipart uploads with checksums, presigned links). boto3 itself is not imported: it
would take a fifth of a cold start.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.config import Config as ClientConfig
from botocore.exceptions import NoCredentialsError
from botocore.handlers import add_expect_header
from botocore.session import Session
from obstore.store import S3Store

from uploads import limits
from uploads.batch_store import BatchStore
from uploads.config import Clock, Config
from uploads.receiving import Receiver
from uploads.retries import govern
from uploads.session_store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient
    from obstore.store import S3Config, S3Credential

    from uploads.cleanup import Cleanup
    from uploads.events import EventBus
    from uploads.lifecycle import Lifecycle
    from uploads.merging.composing import Composer
    from uploads.merging.executions import MergeExecutions
    from uploads.merging.finish import Finisher
    from uploads.merging.merged_store import MergedStore
    from uploads.merging.outcome import Outcomes
    from uploads.merging.tasks import MergeTasks
    from uploads.reports import ReportStore
    from uploads.schemas import Schemas

_CLIENT: Final = ClientConfig(
    connect_timeout=2,
    read_timeout=20,
    # ``uploads.retries`` does all retries.
    retries={"mode": "standard", "total_max_attempts": 1},
    max_pool_connections=limits.READS_IN_FLIGHT,
    # botocore's own describes this machine, and takes an eighth of a call's CPU to build.
    user_agent="gapless",
)

_CREDENTIALS_FOR: Final = timedelta(minutes=5)
"""How long obstore keeps credentials. The botocore session renews its own earlier than that."""


def _now() -> int:
    return int(time.time())


class Wiring:
    """The parts of a function. Each is built when it is first used."""

    def __init__(self, config: Config, clock: Clock = _now) -> None:
        self.config = config
        self.clock = clock

    @cached_property
    def _session(self) -> Session:
        session = Session()
        session.set_config_variable("region", self.config.region)
        govern(session)
        return session

    @cached_property
    def sessions(self) -> SessionStore:
        """The sessions table."""
        client = self._session.create_client(
            "dynamodb", endpoint_url=self.config.endpoint_url, config=_CLIENT
        )
        dynamodb = cast("DynamoDBClient", client)
        if self.config.endpoint_url:
            _read_what_refused(dynamodb)
        return SessionStore(dynamodb, self.config.sessions_table)

    @cached_property
    def batches(self) -> BatchStore:
        """The batches bucket."""
        return BatchStore(self._batches_bucket)

    @cached_property
    def _batches_bucket(self) -> S3Store:
        endpoint = self.config.endpoint_url
        bucket, region = self.config.batches_bucket, self.config.region
        # obstore's default endpoint is wrong outside the partition "aws", e.g. in China.
        at_aws = f"https://{bucket}.s3.{region}.{_dns_suffix(self._session, region)}"
        place: S3Config = {"region": region, "endpoint": endpoint or at_aws}
        return S3Store(
            bucket,
            config=place,
            virtual_hosted_style_request=endpoint is None,
            client_options={
                "allow_http": endpoint is not None,
                "connect_timeout": timedelta(seconds=2),
                "timeout": timedelta(seconds=20),
            },
            # ``uploads.retries`` does all retries.
            retry_config={"max_retries": 0, "retry_timeout": timedelta()},
            credential_provider=_credentials_of(self._session),
        )

    @cached_property
    def receiver(self) -> Receiver:
        """Receives batches."""
        return Receiver(self.sessions, self.batches, self.clock, lambda: self._schemas)

    # What the batch function does not use is imported where it is built, for a shorter cold start.

    @cached_property
    def _schemas(self) -> "Schemas":
        """The schemas that sessions may name."""
        from uploads.schemas import Schemas  # noqa: PLC0415

        return Schemas(self.config.schemas)

    @cached_property
    def lifecycle(self) -> "Lifecycle":
        """Creates, lists, shows and aborts sessions, and deletes merged files."""
        from uploads.lifecycle import Lifecycle  # noqa: PLC0415

        return Lifecycle(
            self.sessions,
            self.batches,
            self.merged,
            self.presigning_store,
            self.reports,
            self.clock,
            lambda: self._schemas,
            self.config.session_lifetime,
            require_schema=self.config.require_schema,
        )

    @cached_property
    def finisher(self) -> "Finisher":
        """Finishes sessions."""
        from uploads.merging.finish import Finisher  # noqa: PLC0415

        return Finisher(
            self.sessions,
            self.batches,
            self._composer,
            self._outcomes,
            self.clock,
            self._executions,
        )

    @cached_property
    def merge_tasks(self) -> "MergeTasks":
        """The tasks of the state machine."""
        from uploads.merging.shares import ShareStore  # noqa: PLC0415
        from uploads.merging.tasks import MergeTasks  # noqa: PLC0415

        return MergeTasks(
            self.sessions,
            self.batches,
            self._composer,
            ShareStore(self._batches_bucket),
            self._outcomes,
            self.clock,
        )

    @cached_property
    def merged(self) -> "MergedStore":
        """The merged bucket."""
        return self._merged(self.config.endpoint_url)

    @cached_property
    def presigning_store(self) -> "MergedStore":
        """The merged bucket at the endpoint that callers use, for links."""
        endpoint = self.config.presign_endpoint_url
        return self._merged(endpoint) if endpoint else self.merged

    @cached_property
    def reports(self) -> "ReportStore":
        """Gap reports that are too large for a session's item."""
        from uploads.reports import ReportStore  # noqa: PLC0415

        return ReportStore(self._batches_bucket)

    @cached_property
    def _composer(self) -> "Composer":
        from uploads.merging.composing import Composer  # noqa: PLC0415

        return Composer(self.batches, self.merged)

    @cached_property
    def _outcomes(self) -> "Outcomes":
        from uploads.merging.outcome import Outcomes  # noqa: PLC0415

        retention = self.config.merged_retention
        return Outcomes(self.sessions, self.reports, self.merged, self.clock, retention)

    @cached_property
    def _executions(self) -> "MergeExecutions | None":
        """Long merges, if the stack has a state machine."""
        from uploads.merging.executions import MergeExecutions  # noqa: PLC0415

        def client() -> "SFNClient":
            made = self._session.create_client(
                "stepfunctions", endpoint_url=self.config.endpoint_url, config=_CLIENT
            )
            return cast("SFNClient", made)

        arn = self.config.merge_state_machine
        return MergeExecutions(client, arn) if arn else None

    @cached_property
    def cleanup(self) -> "Cleanup":
        """Deletes what ended sessions left."""
        from uploads.cleanup import Cleanup  # noqa: PLC0415

        return Cleanup(
            self._s3(self.config.endpoint_url),
            self.config.batches_bucket,
            self.config.merged_bucket,
        )

    @cached_property
    def event_bus(self) -> "EventBus":
        """Publishes what happened to sessions."""
        from uploads.events import EventBus  # noqa: PLC0415

        client = self._session.create_client(
            "events", endpoint_url=self.config.endpoint_url, config=_CLIENT
        )
        return EventBus(cast("EventBridgeClient", client), self.config.event_bus)

    def _merged(self, endpoint: str | None) -> "MergedStore":
        from uploads.merging.merged_store import MergedStore  # noqa: PLC0415

        return MergedStore(
            self._s3(endpoint), self.config.merged_bucket, self.config.batches_bucket
        )

    def _s3(self, endpoint: str | None) -> "S3Client":
        client = self._session.create_client(
            "s3",
            endpoint_url=endpoint,
            config=_CLIENT.merge(
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


def _dns_suffix(session: Session, region: str) -> str:
    """The DNS suffix of AWS's services in ``region``, from botocore's list of partitions."""
    partitions = session.get_data("partitions")["partitions"]
    return next(
        (
            str(partition["outputs"]["dnsSuffix"])
            for partition in partitions
            if re.match(partition["regionRegex"], region)
        ),
        # The region is newer than the list.
        "amazonaws.com",
    )


def _read_what_refused(client: "DynamoDBClient") -> None:
    """Add the item that failed a condition to an emulator's response, by 1 more read.

    DynamoDB returns that item; some emulators do not. The read is also made for an item of another
    owner, so that its id takes as long as an unknown one.
    """

    def keep_own(**event: Any) -> None:  # noqa: ANN401
        given = event["params"]
        if "ConditionExpression" in given:
            own = given.get("Item") or {
                **given["Key"],
                "owner": given["ExpressionAttributeValues"][":owner"],
            }
            event["context"]["own"] = own
            event["context"]["refused"] = {
                "TableName": given["TableName"],
                "Key": {"sessionId": own["sessionId"]},
            }

    def add_item(**event: Any) -> None:  # noqa: ANN401
        answer, context = event["parsed"], event["context"]
        if answer.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
            return
        item = answer.get("Item")
        # The item of an Idempotency-Key has no owner.
        if not item or item.get("owner") != context["own"].get("owner"):
            found = client.get_item(**context["refused"], ConsistentRead=True)
            answer["Item"] = found.get("Item", {})

    client.meta.events.register("provide-client-params", keep_own)
    client.meta.events.register("after-call", add_item)


def _credentials_of(session: Session) -> "Callable[[], S3Credential]":
    """A credential provider for obstore. The one that obstore has would import boto3."""
    credentials = session.get_credentials()
    if credentials is None:
        raise NoCredentialsError

    def provide() -> "S3Credential":
        keys = credentials.get_frozen_credentials()
        return {
            "access_key_id": cast("str", keys.access_key),
            "secret_access_key": cast("str", keys.secret_key),
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }

    return provide
