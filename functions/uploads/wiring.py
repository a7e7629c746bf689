"""Connects all parts of a function. Each is built when it is first used.

The batch function works without botocore, which would take half of its cold start: obstore moves
data, and ``dynamodb`` calls DynamoDB. Whatever only other functions use is imported where it is
built.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from obstore.store import S3Store

from uploads import limits
from uploads.batch_store import BatchStore
from uploads.config import Clock, Config, Credentials
from uploads.dynamodb import DynamoDB, EmulatedDynamoDB
from uploads.receiving import Receiver
from uploads.session_store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import S3Config, S3Credential

    from uploads.botocore_clients import BotocoreClients
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

_CREDENTIALS_FOR = timedelta(minutes=5)
"""How long obstore keeps credentials. botocore renews its own earlier than that."""


def _now() -> int:
    return int(time.time())


class Wiring:
    """The parts of a function. Each is built when it is first used."""

    def __init__(self, config: Config, clock: Clock = _now) -> None:
        self.config = config
        self.clock = clock

    @cached_property
    def sessions(self) -> SessionStore:
        """The sessions table."""
        config = self.config
        dynamodb = (EmulatedDynamoDB if config.endpoint_url else DynamoDB)(
            config.endpoint_url or f"https://dynamodb.{config.region}.{config.url_suffix}",
            config.region,
            self._credentials,
            config.ca_bundle,
            self._proxy(f"dynamodb.{config.region}.{config.url_suffix}"),
        )
        return SessionStore(dynamodb, config.sessions_table)

    def _proxy(self, host: str) -> str | None:
        """The proxy to ``host``, if any. obstore and botocore look for it themselves."""
        proxy = self.config.https_proxy
        # An emulator is near.
        if not proxy or self.config.endpoint_url:
            return None
        from urllib import request  # noqa: PLC0415 - rarely needed

        # Its stubs lack it.
        excepted = request.proxy_bypass_environment(  # type: ignore[attr-defined]
            host, {"no": self.config.no_proxy}
        )
        return None if excepted else proxy

    @cached_property
    def _credentials(self) -> "Callable[[], Credentials]":
        keys = self.config.credentials
        # Only elsewhere than on Lambda are they to be searched for.
        return (lambda: keys) if keys else self._botocore.credentials

    @cached_property
    def batches(self) -> BatchStore:
        """The batches bucket."""
        return BatchStore(self._batches_bucket)

    @cached_property
    def _batches_bucket(self) -> S3Store:
        endpoint, suffix = self.config.endpoint_url, self.config.url_suffix
        bucket, region = self.config.batches_bucket, self.config.region
        # obstore's default endpoint is wrong outside the partition "aws", e.g. in China.
        at_aws = f"https://{bucket}.s3.{region}.{suffix}"
        place: S3Config = {"region": region, "endpoint": endpoint or at_aws}
        return S3Store(
            bucket,
            config=place,
            virtual_hosted_style_request=endpoint is None,
            client_options={
                "allow_http": endpoint is not None,
                "connect_timeout": timedelta(seconds=limits.CONNECT_SECONDS),
                "timeout": timedelta(seconds=limits.READ_SECONDS),
            },
            # ``uploads.retries`` does all retries.
            retry_config={"max_retries": 0, "retry_timeout": timedelta()},
            credential_provider=self._for_obstore,
        )

    def _for_obstore(self) -> "S3Credential":
        keys = self._credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }

    @cached_property
    def receiver(self) -> Receiver:
        """Receives batches."""
        return Receiver(self.sessions, self.batches, self.clock, lambda: self._schemas)

    @cached_property
    def _botocore(self) -> "BotocoreClients":
        from uploads.botocore_clients import BotocoreClients  # noqa: PLC0415

        return BotocoreClients(self.config)

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
            lambda: self.merged,
            lambda: self.presigning_store,
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

        arn = self.config.merge_state_machine
        return MergeExecutions(self._botocore.step_functions, arn) if arn else None

    @cached_property
    def cleanup(self) -> "Cleanup":
        """Deletes what ended sessions left."""
        from uploads.cleanup import Cleanup  # noqa: PLC0415

        return Cleanup(
            self._botocore.s3(self.config.endpoint_url),
            self.config.batches_bucket,
            self.config.merged_bucket,
        )

    @cached_property
    def event_bus(self) -> "EventBus":
        """Publishes what happened to sessions."""
        from uploads.events import EventBus  # noqa: PLC0415

        return EventBus(self._botocore.events(), self.config.event_bus)

    def _merged(self, endpoint: str | None) -> "MergedStore":
        from uploads.merging.merged_store import MergedStore  # noqa: PLC0415

        return MergedStore(
            self._botocore.s3(endpoint), self.config.merged_bucket, self.config.batches_bucket
        )
