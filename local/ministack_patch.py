"""Runs MiniStack 1.5.33 with corrections, in MiniStack's own Python (see ``local.ministack``).

- Full-object checksums of multipart uploads: MiniStack compares the checksum of a completion with
  those of the parts, and rejects every correct one. Here it is compared with the object's.
- Alarms on an expression: MiniStack rejects them. Here the alarm is on the first of its metrics.
- Tables: the time to live of the template is applied, and the stream has the deletions with their
  ``userIdentity``.
- Event source mappings of streams: each has its own thread, so that none delays another. Retries
  end, a failed batch is bisected, partial failures are retried, and the rest goes to the failure
  destination.
"""

import base64
import json
import queue
import threading
import time
import zlib
from typing import Any

from ministack import app  # type: ignore[import-not-found]
from ministack.core import concurrency  # type: ignore[import-not-found]
from ministack.services import (  # type: ignore[import-not-found]
    dynamodb,
    lambda_svc,
    s3,
)
from ministack.services.cloudformation import (  # type: ignore[import-not-found]
    provisioners,
)

_complete = s3._complete_multipart_upload  # noqa: SLF001 - there is no public name


def _complete_full_object(
    bucket: str, key: str, body: bytes, query: dict[str, Any], headers: dict[str, str] | None = None
) -> Any:  # noqa: ANN401 - MiniStack's own answer
    headers = dict(headers or {})
    upload = s3._multipart_uploads.get(s3._qp(query, "uploadId"))  # noqa: SLF001
    if headers.get("x-amz-checksum-type") != "FULL_OBJECT" or upload is None:
        return _complete(bucket, key, body, query, headers)
    crc32 = 0
    for number in sorted(upload["parts"]):
        crc32 = zlib.crc32(upload["parts"][number]["body"], crc32)
    checksum = base64.b64encode(crc32.to_bytes(4, "big")).decode()
    if headers.pop("x-amz-checksum-crc32", checksum) != checksum:
        return s3._error("BadDigest", "The checksum differs from the object's.", 400)  # noqa: SLF001
    answer = _complete(bucket, key, body, query, headers)
    stored = s3._ensure_bucket(bucket)["objects"].get(key)  # noqa: SLF001
    if stored and stored.get("parts"):
        stored |= {"checksums": {"CRC32": checksum}, "checksum_type": "FULL_OBJECT"}
    return answer


s3._complete_multipart_upload = _complete_full_object  # noqa: SLF001


_alarm = provisioners._cw_metric_alarm_record  # noqa: SLF001


def _alarm_on_an_expression(name: str, properties: dict[str, Any]) -> Any:  # noqa: ANN401
    metrics = [
        entry["MetricStat"] for entry in properties.get("Metrics", []) if "MetricStat" in entry
    ]
    if metrics:
        first = metrics[0]
        properties = (
            properties
            | first["Metric"]
            | {
                "Metrics": None,
                "Statistic": first["Stat"],
                "Period": first["Period"],
            }
        )
    return _alarm(name, properties)


provisioners._cw_metric_alarm_record = _alarm_on_an_expression  # noqa: SLF001


_REAPER = "dynamodb-ttl-reaper"
"""The name of MiniStack's thread that deletes expired items."""


_writing = threading.Event()
"""Its function that writes a stream record."""


class _Impatient:
    """The time module, with short sleeps: the reaper's minute is a second."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, 1))

    @staticmethod
    def time() -> float:
        """Half a minute ago for the reaper, so that expired items stay for a while.

        Its stream records have the current time and number.
        """
        looks = threading.current_thread().name == _REAPER and not _writing.is_set()
        return time.time() - (30 if looks else 0)


_record = dynamodb._build_change_record  # noqa: SLF001
_remove = dynamodb._remove_item  # noqa: SLF001
_execute = lambda_svc._execute_function  # noqa: SLF001
_table = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]  # noqa: SLF001
_create = _table["create"]


def _record_with_identity(*arguments: Any) -> Any:  # noqa: ANN401
    by_reaper = threading.current_thread().name == _REAPER
    if by_reaper:
        _writing.set()
    try:
        record = _record(*arguments)
    finally:
        if by_reaper:
            _writing.clear()
    if by_reaper:
        record["userIdentity"] = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    return record


def _remove_with_record(table: dict[str, Any], *keys: Any) -> Any:  # noqa: ANN401
    old = _remove(table, *keys)
    if old is not None and threading.current_thread().name == _REAPER:
        dynamodb._emit_stream_event(table["TableName"], "REMOVE", old, None)  # noqa: SLF001
    return old


def _create_with_ttl(logical_id: str, properties: dict[str, Any], stack: str) -> Any:  # noqa: ANN401
    name, attributes = _create(logical_id, properties, stack)
    if ttl := properties.get("TimeToLiveSpecification"):
        dynamodb._update_ttl({"TableName": name, "TimeToLiveSpecification": ttl})  # noqa: SLF001
    return name, attributes


def _execute_stream(function: dict[str, Any], event: Any) -> Any:  # noqa: ANN401
    """Pass the records of a stream to the thread of their mapping.

    MiniStack has one thread for all mappings, so retries of one would delay the others.
    """
    records = (event.get("Records") if isinstance(event, dict) else None) or [{}]
    name = (function.get("config") or function)["FunctionName"]
    for _, _, mapping in lambda_svc._iter_all_esms():  # noqa: SLF001
        if (
            mapping["EventSourceArn"] == records[0].get("eventSourceARN")
            and mapping["FunctionName"] == name
        ):
            key = mapping["UUID"]
            if key not in _waiting:
                _waiting[key] = queue.SimpleQueue()
                concurrency.spawn_background(_bring_all, key, thread_name="ministack-mapping")
            _waiting[key].put((function, records))
            return {"body": None, "error": False}
    return _execute(function, event)


_waiting: dict[str, queue.SimpleQueue[tuple[dict[str, Any], list[dict[str, Any]]]]] = {}
"""By mapping: functions and their batches."""


def _bring_all(key: str) -> None:
    while True:
        _bring(key, *_waiting[key].get())


def _bring(key: str, function: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Deliver records until they are processed or discarded, or the mapping is deleted."""
    batches = [(records, 0)]
    while batches and (mapping := _mapping(key)):
        batch, retries = batches.pop(0)
        result = _execute(function, {"Records": batch})
        left = _unprocessed(mapping, batch, result)
        if len(left) > 1 and str(mapping.get("BisectBatchOnFunctionError")).lower() == "true":
            half = len(left) // 2
            batches[:0] = [(left[:half], retries), (left[half:], retries)]
        elif left and (why := _given_up(mapping, left, retries)):
            lambda_svc._send_ddb_stream_failure_record(  # noqa: SLF001
                mapping, function, left, mapping["EventSourceArn"], result, why
            )
        elif left:
            time.sleep(0.2)
            batches.insert(0, (left, retries + 1))


def _mapping(key: str) -> dict[str, Any] | None:
    """Return the current mapping: tests change it."""
    found = (each for _, _, each in lambda_svc._iter_all_esms() if each["UUID"] == key)  # noqa: SLF001
    return next(found, None)


def _given_up(mapping: dict[str, Any], left: list[dict[str, Any]], retries: int) -> str | None:
    most, oldest = (
        int(mapping.get(name, -1)) for name in ("MaximumRetryAttempts", "MaximumRecordAgeInSeconds")
    )
    if 0 <= most <= retries:
        return "RetryAttemptsExhausted"
    age = time.time() - float(left[0]["dynamodb"]["ApproximateCreationDateTime"])
    return "MaxRecordAgeExceeded" if 0 <= oldest < age else None


def _unprocessed(
    mapping: dict[str, Any], batch: list[dict[str, Any]], result: dict[str, Any]
) -> list[dict[str, Any]]:
    if result.get("error"):
        return batch
    if "ReportBatchItemFailures" not in mapping.get("FunctionResponseTypes", []):
        return []
    body = result.get("body") or {}
    answer = json.loads(body) if isinstance(body, str | bytes) else body
    failed = [one.get("itemIdentifier") for one in (answer or {}).get("batchItemFailures") or []]
    if not failed:
        return []
    numbers = [record["dynamodb"]["SequenceNumber"] for record in batch]
    known = [numbers.index(number) for number in failed if number in numbers]
    return batch[min(known) :] if len(known) == len(failed) else batch


dynamodb.time = _Impatient()
dynamodb._build_change_record = _record_with_identity  # noqa: SLF001
dynamodb._remove_item = _remove_with_record  # noqa: SLF001
lambda_svc._execute_function = _execute_stream  # noqa: SLF001
_table["create"] = _create_with_ttl

if __name__ == "__main__":
    threading.Thread(target=dynamodb._ttl_reaper, daemon=True, name=_REAPER).start()  # noqa: SLF001
    app.main()
