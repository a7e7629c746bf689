"""The table's stream, delivered to functions as Lambda's event source mappings do.

Filters support exact values only. A failed record is retried as often as the mapping says, and then
reported on standard error, as there is no queue. Also applies the table's time to live, which moto
ignores.
"""

import json
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import boto3
from boto3.dynamodb.conditions import Attr
from botocore.exceptions import BotoCoreError, ClientError

from .gateway import Context, Lambda
from .template import EventSource, Template

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table
    from mypy_boto3_dynamodbstreams import DynamoDBStreamsClient

Record = dict[str, Any]

IDLE_SECONDS: Final = 1.0
"""Polling interval. Moto keeps 1 KB for every poll."""

MOST_RETRIES: Final = 100
"""Retries of a mapping that Lambda limits by age only: here a retry delays all mappings."""

EXPIRY_SECONDS: Final = 10.0
"""Interval between searches for expired items."""

EXPIRY_LAG_SECONDS: Final = 30
"""How long an expired item stays, at least. DynamoDB takes up to a few days."""

TIME_TO_LIVE: Final = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
"""The ``userIdentity`` of a stream record of an expired item."""


class Stream:
    """A table's changes since the beginning of its stream, in order, each delivered once."""

    def __init__(
        self,
        table: str,
        arn: str,
        template: Template,
        mappings: Sequence[tuple[EventSource, Lambda]],
    ) -> None:
        self._client: DynamoDBStreamsClient = boto3.client("dynamodbstreams")
        self._table: Table = boto3.resource("dynamodb").Table(table)
        self._arn = arn
        self._expires: str = template.table.time_to_live["AttributeName"]
        (self._key,) = (key["AttributeName"] for key in template.table.create["KeySchema"])
        self._mappings = mappings
        self._iterators: dict[str, str] = {}
        """The next iterator of each shard."""
        self._read: set[str] = set()
        """Closed shards that have been read completely."""
        self._expired: set[str] = set()
        """Keys of the items that ``expire`` deleted."""

    def expire(self) -> None:
        """Delete expired items."""
        key, over = self._key, Attr(self._expires).lt(int(time.time()) - EXPIRY_LAG_SECONDS)
        start: dict[str, Any] = {}
        while True:
            page = self._table.scan(FilterExpression=over, **start)
            for item in page["Items"]:
                self._expired.add(str(item[key]))
                with suppress(self._table.meta.client.exceptions.ConditionalCheckFailedException):
                    self._table.delete_item(Key={key: item[key]}, ConditionExpression=over)
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def deliver(self, pause: float = 0) -> None:
        """Deliver all changes until now; wait ``pause`` seconds before each retry."""
        for records in self._batches():
            for source, function in self._mappings:
                wanted = [record for record in records if _is_wanted(record, source)]
                if wanted:
                    _hand_over(source, function, wanted, pause)

    def _batches(self) -> Iterator[list[Record]]:
        """Yield the changes in batches no larger than the mappings allow."""
        most = min(source.batch_size for source, _ in self._mappings)
        if not self._iterators:
            self._find_shards()
        for shard in list(self._iterators):
            while iterator := self._iterators.get(shard):
                answer = self._client.get_records(ShardIterator=iterator, Limit=most)
                records = [self._as_lambda_has_it(record) for record in answer["Records"]]
                if records:
                    yield records
                # Advance only after the delivery.
                if following := answer.get("NextShardIterator"):
                    self._iterators[shard] = following
                else:
                    self._read.add(shard)
                    del self._iterators[shard]
                if not records:
                    break

    def _find_shards(self) -> None:
        stream = self._client.describe_stream(StreamArn=self._arn)["StreamDescription"]
        for shard in stream["Shards"]:
            if shard["ShardId"] not in self._read:
                self._iterators[shard["ShardId"]] = self._client.get_shard_iterator(
                    StreamArn=self._arn,
                    ShardId=shard["ShardId"],
                    ShardIteratorType="TRIM_HORIZON",
                )["ShardIterator"]

    def _as_lambda_has_it(self, record: Any) -> Record:  # noqa: ANN401 - boto3's own
        # Lambda passes JSON, with bytes in base64.
        created = record["dynamodb"]["ApproximateCreationDateTime"].timestamp()
        change = json.loads(
            json.dumps(
                {**record["dynamodb"], "ApproximateCreationDateTime": created},
                default=lambda value: b64encode(value).decode(),
            )
        )
        known = {**record, "dynamodb": change, "eventSourceARN": self._arn}
        removed = record["eventName"] == "REMOVE"
        if removed and change["Keys"][self._key]["S"] in self._expired:
            known["userIdentity"] = TIME_TO_LIVE
        return known

    def forget(self) -> None:
        """Start from the beginning of the stream the next time."""
        self._iterators.clear()
        self._read.clear()


def _is_wanted(record: Record, source: EventSource) -> bool:
    return any(matches(record, pattern) for pattern in source.patterns)


def _hand_over(source: EventSource, function: Lambda, records: list[Record], pause: float) -> None:
    left = records
    retries = source.retries if source.retries >= 0 else MOST_RETRIES
    for retry in range(retries + 1):
        if retry:
            time.sleep(pause)
        left = _unprocessed(function, left)
        if not left:
            return
    for record in left:
        keys = record["dynamodb"]["Keys"]
        print(f"gapless: {function.name} gave up: {keys}", file=sys.stderr)  # noqa: T201


def _unprocessed(function: Lambda, records: list[Record]) -> list[Record]:
    """Return the first record that the function could not process, and all after it."""
    context = Context(
        function_name=function.name,
        memory_limit_in_mb=str(function.memory),
        deadline=time.monotonic() + function.timeout,
        aws_request_id=str(uuid4()),
    )
    try:
        answer: Any = function.handler({"Records": records}, context)
    except Exception:  # noqa: BLE001 - Lambda retries after any error
        return records
    failed = {one["itemIdentifier"] for one in answer["batchItemFailures"]}
    numbers = [record["dynamodb"]["SequenceNumber"] for record in records]
    return records[min(map(numbers.index, failed)) :] if failed else []


class Poller:
    """A context manager that delivers a stream and expires items in the background.

    It loads the stream's functions only then, so that no start waits for them.
    """

    def __init__(self, load: Callable[[], Stream]) -> None:
        self._load = load
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(IDLE_SECONDS)

    def _run(self) -> None:
        looked = time.monotonic()
        stream = None
        while not self._closed.wait(IDLE_SECONDS):
            stream = stream or self._load()
            try:
                if time.monotonic() - looked > EXPIRY_SECONDS:
                    stream.expire()
                    looked = time.monotonic()
                stream.deliver(IDLE_SECONDS)
            except (BotoCoreError, ClientError):
                # Unreachable, or the iterator expired. Delivering twice is harmless.
                stream.forget()


def stream_arn(table: str) -> str | None:
    """Return the ARN of the table's stream, or None if there is none that can be read."""
    with suppress(BotoCoreError, ClientError):
        found = boto3.client("dynamodb").describe_table(TableName=table)["Table"]
        if arn := found.get("LatestStreamArn"):
            boto3.client("dynamodbstreams").describe_stream(StreamArn=arn)
            return arn
    return None


def matches(value: Any, pattern: Any) -> bool:  # noqa: ANN401 - any JSON
    """Whether a record matches a pattern of FilterCriteria."""
    if isinstance(pattern, Mapping):
        return isinstance(value, Mapping) and all(
            matches(value.get(name), inner) for name, inner in pattern.items()
        )
    for wanted in pattern:
        if isinstance(wanted, Mapping):
            raise ValueError(f"This filter is not supported: {wanted}")  # noqa: TRY004
    return value in pattern
