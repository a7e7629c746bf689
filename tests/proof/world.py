"""The world of the proofs: processes of the service, their shared storage, and the invariants.

A `Process` is the real functions with its own clients, clock and endpoint, so that a test
sees which process makes each call. All processes share moto's S3 and DynamoDB. `World.check` reads
the outcome from moto's memory, never through the service, and raises ViolationError if an invariant
does not hold. `History` records what clients sent and were told.
"""

import base64
import hashlib
import itertools
import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from botocore.config import Config as ClientConfig
from moto import backends
from moto.backends import get_backend
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodbstreams.models import dynamodbstreams_backends

from local import in_process, storage
from local.streams import TIME_TO_LIVE, matches
from local.template import Template
from tests.aws import Answer as AwsAnswer
from tests.aws import AwsProxy, Call, s3_error, without_sockets
from tests.state_machine import ExecutionFailedError, StateMachine
from uploads import botocore_clients, errors, limits
from uploads.config import AuthMode, Config
from uploads.retries import Tries
from uploads.wiring import Wiring

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from mypy_boto3_dynamodbstreams import DynamoDBStreamsClient

ACCOUNT: Final = "123456789012"
OWNER: Final = "AIDAOWNER"
STRANGER: Final = "AIDASTRANGER"
ROOT: Final = "/api/upload/sessions"
LATER: Final = 1_000
"""Seconds after which every lease has expired."""
PLAIN: Final = "ndjson"
GZIP: Final = "ndjson.gz"
GZIP_HEADER: Final = 10
"""Bytes."""
PART: Final = 16
"""Minimum bytes of a part here, so that a few records make a multipart upload."""
PATTERNS: Final = list(
    Template.load(in_process.TEMPLATE).event_sources["stream.lambda_handler"].patterns
)
"""The event filters of the clean-up function: which records of the stream invoke it."""
EXPIRED: Final = {"REMOVE": TIME_TO_LIVE}
"""The ``userIdentity`` of a stream record, by event: only the time to live removes items here."""
COUNTS: Final[dict[str, int]] = {}
"""What was run, for the summary at the end."""


def count(what: str, number: int = 1) -> None:
    COUNTS[what] = COUNTS.get(what, 0) + number


def scale() -> int:
    """The value of PROOF_SCALE; larger values raise the bounds."""
    return int(os.environ.get("PROOF_SCALE", "1"))


class ViolationError(AssertionError):
    """An invariant does not hold."""


def require(condition: object, what: str, *facts: object) -> None:
    if not condition:
        raise ViolationError(f"{what}: {facts}" if facts else what)


@dataclass(frozen=True)
class Said:
    """The totals in the body of a finish; None for a member that is left out."""

    total: int | None = None
    batches: int | None = None

    @property
    def body(self) -> dict[str, int] | None:
        said = {"totalRecord": self.total, "batches": self.batches}
        return {name: number for name, number in said.items() if number is not None} or None

    def fits(self, total: int | None, batches: int | None) -> bool:
        """Whether these totals agree with it, as far as both are known."""
        known = ((self.total, total), (self.batches, batches))
        return all(None in pair or pair[0] == pair[1] for pair in known)


NOTHING: Final = Said()


def is_answered(said: Said, body: Mapping[str, Any]) -> bool:
    """Whether a client that finished with ``said`` may take a status's ``finish`` as its answer."""
    if body["validationResult"] == "Success":
        return said.fits(body["totalRecord"], body["batches"])
    return (
        said.total in {None, body["totalRecord"]}
        and said.batches == body.get("expectedBatches")
        and body["reason"] != "merge_failed"
    )


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any

    @property
    def result(self) -> str:
        """The ``validationResult`` of a finish, else empty."""
        found: str = self.body.get("validationResult", "") if self.body else ""
        return found

    @property
    def code(self) -> str:
        """The code of a problem, else empty."""
        found: str = (self.body or {}).get("code", "")
        return found


class Clock:
    """A clock that stands still, so that no run depends on its speed. Tests move it ``ahead``."""

    START: Final = int(time.time())
    ahead = 0

    def __call__(self) -> int:
        return self.START + self.ahead


@dataclass(frozen=True)
class _Context:
    seconds_left: float
    aws_request_id: str = "request"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds_left * 1000)


class StepFunctions:
    """StartExecution, the only Step Functions call of the service. Tests run what was started."""

    def __init__(self) -> None:
        self.started: dict[str, dict[str, Any]] = {}
        self.waiting: list[str] = []
        self._ended: set[str] = set()

    def middleware(self, app: "WSGIApplication") -> "WSGIApplication":
        """Answer StartExecution, and pass every other call to ``app``."""

        def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
            if not environ.get("HTTP_X_AMZ_TARGET", "").startswith("AWSStepFunctions."):
                try:
                    return app(environ, start_response)  # type: ignore[return-value]
                except KeyError:
                    # Moto raises on UploadPartCopy if the upload does not exist.
                    gone = s3_error(404, "NoSuchUpload")
                    start_response(gone.status, gone.headers)
                    return [gone.body]
            asked = json.loads(environ["wsgi.input"].read())
            status, body = self._start(asked["name"], json.loads(asked["input"]))
            start_response(status, [("content-type", "application/x-amz-json-1.0")])
            return [json.dumps(body).encode()]

        return answer

    def _start(self, name: str, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if name in self._ended or self.started.setdefault(name, given) != given:
            return "400 Bad Request", {"__type": "ExecutionAlreadyExists", "message": name}
        if name not in self.waiting:
            self.waiting.append(name)
        return "200 OK", {"executionArn": f"arn:{name}", "startDate": 1.0}

    def take(self) -> Iterator[dict[str, Any]]:
        """Yield the inputs of executions that were started and have not run."""
        while self.waiting:
            name = self.waiting.pop(0)
            self._ended.add(name)
            yield self.started[name]


class Process:
    """One process of each function, with its own clients; ``aws`` sees every call they make."""

    def __init__(self, running: ExitStack, step_functions: StepFunctions, name: str) -> None:
        self.name = name
        self.aws = AwsProxy()
        self.clock = Clock()
        self.invocations = 0
        self.server = running.enter_context(
            storage.serve_moto(lambda app: self.aws(step_functions.middleware(app)))
        )
        config = replace(
            Config.from_env(os.environ), endpoint_url=self.server.url, auth_mode=AuthMode.IAM
        )
        arn = f"arn:aws:states:{config.region}:{ACCOUNT}:stateMachine:merge"
        self._inline = Wiring(config, self.clock)
        self._handing_over = Wiring(replace(config, merge_state_machine=arn), self.clock)
        functions = [
            *(import_module(name).build(self._inline) for name in ("sessions", "batches")),
            import_module("finish").build(self._inline),
        ]
        self._sessions, self._batches, self._finish = functions
        self._finish_by_state_machine = import_module("finish").build(self._handing_over)
        self.tasks: Mapping[str, Callable[..., object]] = import_module("merge").build(
            self._handing_over
        )
        self._cleanup: Callable[..., object] = import_module("stream").build(self._inline)
        self._streams: DynamoDBStreamsClient = boto3.client(
            "dynamodbstreams",
            endpoint_url=self.server.url,
            config=botocore_clients.CLIENT,
        )

    def forget(self) -> None:
        """Empty the session cache, like a cold start."""
        for its in (self._inline, self._handing_over):
            its.sessions._cached.clear()  # noqa: SLF001

    def remember(self, other: "Process") -> None:
        """Copy another process's session cache."""
        known = other._inline.sessions._cached  # noqa: SLF001
        self._inline.sessions._cached.update(known)  # noqa: SLF001

    def create(self, total: int | None, size: int | None, form: str = PLAIN) -> Answer:
        asked = {"totalRecord": total, "format": form, "batchSize": size}
        return self._invoke(self._sessions, f"POST {ROOT}", "", asked)

    def open(self, total: int, key: str, user: str) -> Answer:
        """Create a session with an Idempotency-Key."""
        headers = {"idempotency-key": key}
        asked = {"totalRecord": total}
        return self._invoke(self._sessions, f"POST {ROOT}", "", asked, user, headers=headers)

    def list(self, user: str, query: str) -> Answer:
        return self._invoke(self._sessions, f"GET {ROOT}", "", user=user, query=query)

    def batch(
        self, session_id: str, seq_num: int, data: Sequence[object], user: str = OWNER
    ) -> Answer:
        body = {"seqNum": seq_num, "data": data}
        return self._invoke(self._batches, f"POST {ROOT}/{{sessionId}}", session_id, body, user)

    def finish(
        self,
        session_id: str,
        user: str = OWNER,
        *,
        said: Said = NOTHING,
        long: bool = False,
        state_machine: bool = False,
        seconds_left: float = 25,
    ) -> Answer:
        """``long``: no time is left to merge in the call, so it hands over to the state machine.

        ``state_machine``: there is a state machine, and enough time to merge without it.
        """
        function = self._finish_by_state_machine if long or state_machine else self._finish
        return self._invoke(
            function,
            f"POST {ROOT}/{{sessionId}}/finish",
            session_id,
            said.body,
            user=user,
            seconds_left=0 if long else seconds_left,
        )

    def status(self, session_id: str, user: str = OWNER) -> Answer:
        return self._invoke(self._sessions, f"GET {ROOT}/{{sessionId}}", session_id, user=user)

    def file(self, session_id: str, user: str = OWNER) -> Answer:
        return self._invoke(self._sessions, f"GET {ROOT}/{{sessionId}}/file", session_id, user=user)

    def abort(self, session_id: str, user: str = OWNER) -> Answer:
        return self._invoke(self._sessions, f"DELETE {ROOT}/{{sessionId}}", session_id, user=user)

    def delete_file(self, session_id: str, user: str = OWNER) -> Answer:
        route = f"DELETE {ROOT}/{{sessionId}}/file"
        return self._invoke(self._sessions, route, session_id, user=user)

    def task(self, name: str, payload: Mapping[str, Any]) -> object:
        self.invocations += 1
        return self.tasks[name](payload, _Context(300))

    def clean_up(self, iterator: str) -> int:
        """Handle the stream's records from ``iterator`` on; return how many passed the filter."""
        self.invocations += 1
        wanted = 0
        found = self._streams.get_records(ShardIterator=iterator)["Records"]
        # One at a time: the stream's own tests show what a failing record does to its batch.
        for record in found:
            given = {**record, "userIdentity": EXPIRED.get(record["eventName"])}
            if any(matches(given, pattern) for pattern in PATTERNS):
                self._cleanup({"Records": [given]}, _Context(900))
                wanted += 1
        return wanted

    def _invoke(
        self,
        function: Callable[..., Mapping[str, Any]],
        route: str,
        session_id: str,
        body: object = None,
        user: str = OWNER,
        seconds_left: float = 25,
        headers: Mapping[str, str] = MappingProxyType({}),
        query: str = "",
    ) -> Answer:
        self.invocations += 1
        iam = {"accountId": ACCOUNT, "userId": user}
        event = {
            "routeKey": route,
            "rawQueryString": query,
            "headers": {
                "content-type": "application/json",
                "accept": "application/json",
                **headers,
            },
            "requestContext": {"requestId": "request", "authorizer": {"iam": iam}},
            "pathParameters": {"sessionId": session_id},
            "isBase64Encoded": False,
        } | ({"body": json.dumps(body)} if body is not None else {})
        given = function(event, _Context(seconds_left))
        content = given.get("body")
        return Answer(given["statusCode"], json.loads(content) if content else None)


@dataclass(frozen=True)
class Facts:
    """What S3 and DynamoDB hold of a session."""

    item: Mapping[str, Any] | None
    batches: Mapping[int, bytes]
    """Their NDJSON, by ``seqNum``."""
    merged: bytes | None
    manifest: Mapping[str, Any] | None
    uploads: frozenset[str]
    """Open multipart uploads."""
    plans: frozenset[str]
    """Objects of long merges, and gap reports."""

    @property
    def left(self) -> Sequence[object]:
        """Everything but the merged object, the manifest and the item."""
        return [*self.batches, *sorted(self.uploads), *sorted(self.plans)]

    @property
    def state(self) -> str:
        return str(self.item["state"]) if self.item else ""


@dataclass
class History:
    """What clients sent, and what the service answered."""

    total: int | None
    """None if the session is open-ended."""
    size: int | None
    stream: str = ""
    """The position of the table's stream before the session was created."""
    form: str = PLAIN
    manifest_of_before: bool = False
    """The previous release wrote the manifest, without the session's metadata."""
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    promised: dict[int, bytes] = field(default_factory=dict)
    says: Said = NOTHING
    """What the client's last finishes, in `World.settle`, say."""
    said: list[tuple[Said, Answer]] = field(default_factory=list)
    """Every finish, and its answer."""
    aborted: bool = False
    expired: bool = False
    """A finish or a status answered 410 session_expired."""
    strangers: list[Answer] = field(default_factory=list)
    forgotten: bool = False
    """The retention rule has deleted the merged object."""
    deletes: bool = False
    """The owner has called DELETE …/file."""
    deleted: bool = False
    """And got a 204."""
    failed: list[Answer] = field(default_factory=list)
    """5xx answers. Tests that inject faults clear it."""
    writes: list[str] = field(default_factory=list)
    """The key of every object that was created."""
    completed: set[str] = field(default_factory=set)
    """Multipart uploads that were completed."""
    uploads: set[str] = field(default_factory=set)
    """Uploads whose ids were received by an attempt that has not died."""

    @property
    def finishes(self) -> Sequence[Answer]:
        return [answer for _, answer in self.said]

    @property
    def expected_batches(self) -> int | None:
        """How many batches a strict session expects."""
        return -(-self.total // self.size) if self.total is not None and self.size else None


def ndjson(data: Sequence[object]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in data)


def _inflate(found: bytes, window: int) -> tuple[bytes, bool, bytes]:
    """Return the content, whether the stream ends, and the bytes behind its end."""
    reader = zlib.decompressobj(window)
    try:
        content = reader.decompress(found)
    except zlib.error as error:
        raise ViolationError(f"inflating failed: {error}") from error
    return content, reader.eof, reader.unused_data


def inflated(batch: bytes) -> bytes:
    """The content of a compressed batch: raw DEFLATE without a final block."""
    content, ends, _ = _inflate(batch, -15)
    require(not ends, "a stored batch ends the DEFLATE stream", batch)
    return content


def gunzipped(merged: bytes) -> bytes:
    """The content of a compressed merged object: exactly one gzip member."""
    content, ends, behind = _inflate(merged, 31)
    require(ends and not behind, "not one gzip member", merged)
    return content


def checksum(content: bytes) -> dict[str, str]:
    crc = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    return {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc}


class World:
    """The processes, and the S3 and DynamoDB that they share."""

    def __init__(self, running: ExitStack, processes: int) -> None:
        self.step_functions = StepFunctions()
        self.processes = [
            Process(running, self.step_functions, f"P{number}") for number in range(processes)
        ]
        self._config = Config.from_env(os.environ)
        self._others = dict(self._iterators)
        """Iterators of the stream that others still use."""

    # --- Reading the storage.

    def _bucket(self, name: str) -> Any:  # noqa: ANN401
        return get_backend("s3")[ACCOUNT]["aws"].buckets[name]

    @property
    def _table(self) -> Any:  # noqa: ANN401
        tables = get_backend("dynamodb")[ACCOUNT][self._config.region].tables
        return tables[self._config.sessions_table]

    @property
    def _iterators(self) -> dict[str, Any]:
        streams = dynamodbstreams_backends[ACCOUNT][self._config.region]
        iterators: dict[str, Any] = streams.shard_iterators
        return iterators

    def _items(self) -> Any:  # noqa: ANN401
        return self._table.items

    def items(self) -> list[dict[str, Any]]:
        return [
            {name: _plain(value.to_regular_json()) for name, value in item.attrs.items()}
            for item in self._items().values()
        ]

    def claims(self) -> list[str]:
        """The ids of the items that hold Idempotency-Keys."""
        return [item["sessionId"] for item in self.items() if item["sessionId"].startswith("key:")]

    def sweep(self, now: int) -> None:
        """Delete every item whose time to live has passed by ``now``."""
        for item in self.items():
            if int(item["expiresAt"]) <= now:
                self.expire(item["sessionId"])

    def facts(self, session_id: str) -> Facts:
        """Read everything that is stored of a session."""
        batches = self._bucket(self._config.batches_bucket).keys
        merged = self._bucket(self._config.merged_bucket)
        found = self._items().get(DynamoType({"S": session_id}))
        item = None
        if found is not None:
            item = {name: _plain(value.to_regular_json()) for name, value in found.attrs.items()}
        manifest = merged.keys.get(f"{session_id}.manifest.json")
        plain, compressed = (merged.keys.get(f"{session_id}.{form}") for form in (PLAIN, GZIP))
        require(not plain or not compressed, "two merged objects", session_id)
        content = plain or compressed
        return Facts(
            item=item,
            batches={
                int(key[-8:]): _content(batches[key])
                for key in sorted(batches)
                if key.startswith(f"{session_id}/")
            },
            merged=content.value if content else None,
            manifest=json.loads(manifest.value) if manifest else None,
            uploads=frozenset(
                upload_id
                for upload_id, upload in merged.multiparts.items()
                if upload.key_name.startswith(f"{session_id}.")
            ),
            plans=frozenset(key for key in batches if key.startswith(f"merges/{session_id}/")),
        )

    def forget(self, session_id: str, *names: str) -> None:
        attributes = self._items()[DynamoType({"S": session_id})].attrs
        for name in names:
            attributes.pop(name)

    def read_object(self, key: str) -> bytes:
        content: bytes = self._bucket(self._config.batches_bucket).keys[key].value
        return content

    def remove(self, session_id: str) -> None:
        """Delete every trace of a session (moto's listings scan everything); reset processes."""
        for name in (self._config.batches_bucket, self._config.merged_bucket):
            bucket = self._bucket(name)
            for key in [key for key in bucket.keys if session_id in key]:
                bucket.keys.pop(key)
            for number in [n for n, u in bucket.multiparts.items() if session_id in u.key_name]:
                bucket.multiparts.pop(number)
        self._items().pop(DynamoType({"S": session_id}), None)
        self._table.stream_shard.items.clear()
        self._iterators.clear()
        self._iterators.update(self._others)
        for process in self.processes:
            process.forget()
            process.clock.ahead = 0
            process.aws.calls.clear()
        self.step_functions.waiting.clear()

    def warm(self, session_id: str) -> None:
        """Put an open session into every process's cache."""
        first, *others = self.processes
        first.status(session_id)
        for process in others:
            process.remember(first)

    # --- Acting as a client, and recording it.

    def create(
        self, total: int | None, size: int | None, form: str = PLAIN, says: Said = NOTHING
    ) -> tuple[str, History]:
        stream = self.stream_now()
        answer = self.processes[0].create(total, size, form)
        return answer.body["sessionId"], History(total, size, stream, form, says=says)

    def stream_now(self) -> str:
        """An iterator for the table's stream, from now on."""
        shard = self._table.stream_shard
        arn = f"{self._table.table_arn}/stream/{self._table.latest_stream_label}"
        streams = dynamodbstreams_backends[ACCOUNT][self._config.region]
        iterator: str = streams.get_shard_iterator(arn, shard.id, "LATEST").arn
        return iterator

    def send(
        self,
        process: Process,
        history: History,
        session_id: str,
        seq_num: int,
        data: Sequence[object],
    ) -> Answer:
        history.sent.append((seq_num, ndjson(data)))
        answer = process.batch(session_id, seq_num, data)
        if answer.status == 204:
            history.promised[seq_num] = ndjson(data)
        if answer.status >= 500:
            history.failed.append(answer)
        return answer

    def finish(
        self,
        process: Process,
        history: History,
        session_id: str,
        *,
        said: Said | None = None,
        long: bool = False,
        state_machine: bool = False,
    ) -> Answer:
        said = history.says if said is None else said
        with self._tracking(process, history):
            answer = process.finish(session_id, said=said, long=long, state_machine=state_machine)
        history.said.append((said, answer))
        history.expired |= answer.code == "session_expired"
        if answer.status >= 500 and answer.code != "session_expiring":
            history.failed.append(answer)
        return answer

    def status(self, process: Process, history: History, session_id: str) -> Answer:
        promised = set(history.promised)
        answer = process.status(session_id)
        history.expired |= answer.code == "session_expired"
        if answer.status == 200 and answer.body["state"] in {"OPEN", "FINISHING"}:
            missing = {
                seq_num
                for gap in answer.body["missing"]
                for seq_num in range(gap["from"], gap["to"] + 1)
            }
            require(not missing & promised, "an acknowledged batch is reported missing", answer)
        if answer.status >= 500:
            history.failed.append(answer)
        return answer

    def abort(self, process: Process, history: History, session_id: str) -> Answer:
        answer = process.abort(session_id)
        history.aborted |= answer.status == 204
        if answer.status >= 500:
            history.failed.append(answer)
        return answer

    def delete_file(self, process: Process, history: History, session_id: str) -> Answer:
        history.deletes = True
        answer = process.delete_file(session_id)
        history.deleted |= answer.status == 204
        if answer.status >= 500:
            history.failed.append(answer)
        return answer

    def clean_up(self, process: Process, history: History) -> bool:
        """Run the clean-up over the session's stream from its start; record a failure.

        Return whether a record passed the filter, so the session had ended.
        """
        try:
            return process.clean_up(history.stream) > 0
        except Exception as error:  # noqa: BLE001 - Lambda brings it again, whatever it was
            history.failed.append(Answer(0, {"code": repr(error)}))
            return False

    def forget_object(self, session_id: str, history: History) -> None:
        """Delete the merged object and the manifest, as their retention does."""
        merged = self._bucket(self._config.merged_bucket).keys
        for key in [key for key in merged if key.startswith(f"{session_id}.")]:
            merged.pop(key)
        # A slow attempt may write the manifest again, for an object that it cannot publish.
        history.writes.remove(f"{session_id}.manifest.json")
        history.forgotten = True

    def expire(self, session_id: str) -> None:
        """Delete the item, as the time to live does."""
        self._table.delete_item(DynamoType({"S": session_id}), None)

    @staticmethod
    @contextmanager
    def _tracking(process: Process, history: History) -> Iterator[None]:
        """Record the upload ids that the process receives, unless another handler does."""

        def handle(call: Call, forward: Callable[[], AwsAnswer]) -> AwsAnswer:
            answer = forward()
            note_upload(history, call, answer)
            return answer

        if process.aws.handler:
            yield
        else:
            with process.aws.handled(handle):
                yield

    def run_started(self, process: Process, history: History) -> None:
        """Run every execution that was started, to its end."""
        functions = {
            f"${{{name.capitalize()}Function}}": partial(process.task, name)
            for name in process.tasks
        }
        machine = StateMachine(functions, self.read_object)
        for given in self.step_functions.take():
            try:
                with self._tracking(process, history):
                    machine.run(given)
            except ExecutionFailedError:
                # Expected if the session was aborted or taken over.
                count("executions failed")

    # --- The invariants.

    def check(self, session_id: str, history: History) -> Facts:
        """Check what must hold at any time; return the facts."""
        facts = self.facts(session_id)
        require(facts.item is not None, "the session is gone")
        assert facts.item is not None
        sent = set(history.sent)
        for stored in facts.batches.items():
            require(stored in sent, "a stored batch was never sent", stored)
        for key in set(history.writes):
            require(history.writes.count(key) == 1, "an object was created twice", key)
        if facts.state in {"OPEN", "FINISHING"}:
            for promise in history.promised.items():
                require(promise in facts.batches.items(), "an acknowledged batch is lost", promise)
        if facts.merged is not None:
            require(
                facts.state in {"FINISHING", "FINISHED"}, "merged, yet the session is", facts.state
            )
            self._check_merged(session_id, history, facts)
        marked = "fileDeletedAt" in facts.item
        if history.forgotten:
            require(facts.merged is None, "published again after its deletion")
        else:
            there = facts.merged is not None and facts.manifest is not None
            require(facts.state != "FINISHED" or there or marked, "FINISHED without a file")
        if history.deleted:
            require(marked, "deleted, yet fileDeletedAt is missing", facts.item)
            gone = facts.merged is None and facts.manifest is None
            require(gone, "a deleted file exists again")
        self._check_answers(history, facts)
        for said, answer in history.said:
            self._check_said(history, facts, said, answer)
        return facts

    @staticmethod
    def _check_answers(history: History, facts: Facts) -> None:
        require(not history.expired or facts.state != "FINISHED", "FINISHED after a 410")
        successes = [answer.body for answer in history.finishes if answer.result == "Success"]
        for body in successes:
            require(facts.state == "FINISHED", "Success, yet the session is", facts.state)
            require(
                body == _result(facts.item or {}), "Success differs from the stored answer", body
            )
        if history.aborted:
            require(facts.state == "ABORTED", "aborted, yet the session is", facts.state)
        for answer in history.finishes:
            require(answer.code != "batches_gone", "batches_gone after a clean-up", answer)
        for answer in history.strangers:
            require(answer.code == "session_not_found", "a stranger got more than a 404", answer)

    @staticmethod
    def _check_said(history: History, facts: Facts, said: Said, answer: Answer) -> None:
        """A finish with totals is answered by those totals, or by a conflict that exists."""
        body = answer.body
        decision = (facts.item or {}).get("decision") or {}
        fixed = (
            decision.get("records", history.total),
            decision.get("batches", history.expected_batches),
        )
        if answer.result == "Success":
            require(
                said.fits(body["totalRecord"], body["batches"]), "Success: other totals", said, body
            )
        if answer.result == "Failed":
            judged = history.total if said.total is None else said.total
            require(body["totalRecord"] == judged, "Failed: other totals", said, body)
            require(body.get("expectedBatches") == said.batches, "Failed: other totals", said, body)
        if answer.code == "totals_conflict":
            require(not said.fits(*fixed), "totals_conflict without a conflict", said, fixed)
        if answer.code == "missing_total":
            require(history.total is said.total is None, "missing_total, yet it is known", said)
        if decision and history.total is None:
            known = {one.total for one, _ in history.said} - {None}
            require(decision["records"] in known, "decided a total that no finish said", decision)

    @staticmethod
    def _check_merged(session_id: str, history: History, facts: Facts) -> None:
        merged, manifest, item = facts.merged, facts.manifest, facts.item
        assert merged is not None
        assert item is not None
        if "fileDeletedAt" in item and manifest is None:
            # A deletion is in progress: the manifest goes first.
            return
        require(manifest, "a merged object without a manifest")
        assert manifest is not None
        count_of_batches = len(manifest["batches"])
        sent = {
            (seq_num, hashlib.sha256(content).hexdigest()): content
            for seq_num, content in history.sent
        }
        named = [(entry["seqNum"], entry["sha256"]) for entry in manifest["batches"]]
        require(set(named) <= sent.keys(), "a merged batch was never sent", named)
        batches = stored = [sent[one] for one in named]
        content = merged
        sums: dict[str, object] = {"checksum": checksum(merged)}
        plain = history.form == PLAIN
        if not plain:
            content = gunzipped(merged)
            sums["content"] = {"bytes": len(content), "checksum": checksum(content)}
            stored = [
                merged[entry["offset"] : entry["offset"] + entry["length"]]
                for entry in manifest["batches"]
            ]
            require([*map(inflated, stored)] == batches, "a range is not its batch", manifest)
        require(content == b"".join(batches), "not the batches in order", content)
        require(b"".join(stored) in merged, "not the batches as stored", merged)
        total = item["decision"]["records"] if history.total is None else history.total
        require(content.count(b"\n") == total, "not totalRecord records", content)
        for seq_num, promised in history.promised.items():
            require(
                seq_num < count_of_batches and batches[seq_num] == promised,
                "an acknowledged batch is not in the merged object",
                seq_num,
            )
        offsets = itertools.accumulate(map(len, stored), initial=0 if plain else GZIP_HEADER)
        expected = {
            "sessionId": session_id,
            "key": f"{session_id}.{history.form}",
            **({} if history.manifest_of_before else {"metadata": {}, "schema": None}),
            "records": total,
            "bytes": len(merged),
            **sums,
            "batches": [
                {
                    "seqNum": seq_num,
                    "records": lines.count(b"\n"),
                    "offset": offset,
                    "length": len(batch),
                    "sha256": hashlib.sha256(lines).hexdigest(),
                }
                | ({} if plain else {"contentLength": len(lines)})
                for seq_num, (lines, batch, offset) in enumerate(
                    zip(batches, stored, offsets, strict=False)
                )
            ],
        }
        require(manifest == expected, "the manifest is wrong", manifest)
        if facts.state == "FINISHED":
            result = _result(item)
            require(
                {
                    "validationResult": "Success",
                    "totalRecord": total,
                    "receivedRecord": total,
                    "batches": count_of_batches,
                    "bytes": len(merged),
                    **sums,
                }.items()
                <= result.items(),
                "the answer is wrong",
                result,
            )

    def settle(
        self,
        session_id: str,
        history: History,
        data: Mapping[int, Sequence[object]],
    ) -> str:
        """Do what a client does after failures, check everything, and return how the session ended.

        When all leases have expired, it finishes again, and sends what is missing of ``data``.
        """
        before = self.check(session_id, history)
        process = self.processes[0]
        # Time never goes back.
        process.clock.ahead = LATER + max(each.clock.ahead for each in self.processes)
        answer = self.finish(process, history, session_id)
        facts = self.check(session_id, history)
        require(answer.status != 202, "stuck", facts.item)
        if answer.code == "totals_conflict":
            # Another finish decided other totals; a finish without totals completes it.
            history.says = NOTHING
            answer = self.finish(process, history, session_id)
            facts = self.check(session_id, history)
        if before.merged is not None:
            require(answer.result == "Success", "merged, yet finish answers", answer)
        if answer.result == "Failed":
            self._check_failed(history, facts, answer)
            if self._can_complete(history, facts, data):
                for seq_num, records in data.items():
                    if seq_num not in facts.batches:
                        sent = self.send(process, history, session_id, seq_num, records)
                        require(sent.status == 204, "open, yet a batch is refused", sent)
                answer = self.finish(process, history, session_id)
                require(answer.result == "Success", "complete, yet finish answers", answer)
        again = self.finish(process, history, session_id)
        require(answer == again, "finish is not repeatable", answer, again)
        facts = self.check(session_id, history)
        # If an attempt died or never got its upload's id, the lifecycle rule deletes the upload.
        left = facts.uploads & history.uploads
        require(not left, "an upload was left open", left)
        require(facts.state != "FINISHING", "stuck", facts.item)
        if history.deletes:
            self._delete_in_the_end(session_id, history, answer)
        self._poll(session_id, history)
        self._clean_up_all(session_id, history, answer)
        require(not history.failed, "the service failed", history.failed)
        end = answer.result or answer.code
        count(f"ended in {end}")
        return end

    def _delete_in_the_end(self, session_id: str, history: History, answer: Answer) -> None:
        """Delete the file, after the wait that the API asks for; the stored answer stays."""
        process = self.processes[0]
        told = self.delete_file(process, history, session_id)
        if told.code == "file_settling":
            process.clock.ahead += told.body["retryAfter"]
            told = self.delete_file(process, history, session_id)
        if answer.result == "Success":
            require(told.status == 204, "not deleted", told)
            gone = process.file(session_id)
            require(gone.code == "file_deleted", "the file is deleted, yet its link answers", gone)
            again = self.finish(process, history, session_id)
            require(again == answer, "finish is not repeatable after the deletion", again)
        else:
            # An aborted or expired session has no file.
            require(told.status in {409, 410}, "a session without a file answers", answer, told)

    def _poll(self, session_id: str, history: History) -> None:
        """Read the final status for every finish that was answered 202."""
        waiting = [
            said for said, answer in history.said if answer.status == 202 and said != NOTHING
        ]
        for said in waiting:
            found = self.status(self.processes[0], history, session_id).body["finish"]
            if found and is_answered(said, found):
                history.said.append((said, Answer(200, found)))
        self.check(session_id, history)

    def _clean_up_all(self, session_id: str, history: History, answer: Answer) -> None:
        """Clean up: nothing is left of an ended session, and the stored answer stays."""
        before = self.check(session_id, history)
        process = self.processes[0]
        self.clean_up(process, history)
        after = self.check(session_id, history)
        if before.state in {"FINISHED", "ABORTED"}:
            require(not after.left, "not cleaned up", after.left)
            again = self.finish(process, history, session_id)
            require(answer == again, "finish is not repeatable after the clean-up", answer, again)
        else:
            require(after == before, "cleaned up, although the state is", before.state)
        require(
            (before.item, before.merged, before.manifest)
            == (after.item, after.merged, after.manifest),
            "the clean-up changed the item, the file or the manifest",
        )

    @staticmethod
    def _can_complete(history: History, facts: Facts, data: Mapping[int, Sequence[object]]) -> bool:
        after = {seq_num: ndjson(records) for seq_num, records in data.items()} | {**facts.batches}
        total = history.says.total if history.total is None else history.total
        if history.says.batches not in {None, len(after)}:
            return False
        return sum(content.count(b"\n") for content in after.values()) == total

    @staticmethod
    def _check_failed(history: History, facts: Facts, answer: Answer) -> None:
        require(facts.state == "OPEN", "Failed, yet the session is", facts.state)
        received = sum(content.count(b"\n") for content in facts.batches.values())
        total = history.says.total if history.total is None else history.total
        require(
            received != total or answer.body["missing"] or "unexpected" in answer.body,
            "every record is stored, yet finish answers",
            answer,
        )


def _content(batch: Any) -> bytes:  # noqa: ANN401
    """The NDJSON of a batch object in moto's memory."""
    compressed = "x-amz-meta-content-crc32" in {name.lower() for name in batch.metadata}
    return inflated(batch.value) if compressed else batch.value


def _plain(value: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """A DynamoDB attribute value as a Python value."""
    ((kind, content),) = value.items()
    match kind:
        case "N":
            return int(content) if content.isdecimal() else float(content)
        case "M":
            return {name: _plain(member) for name, member in content.items()}
        case "B":
            return json.loads(zlib.decompress(content))
    return content


def _result(item: Mapping[str, Any]) -> dict[str, Any]:
    return dict(item.get("result") or {})


def note_upload(history: History, call: Call, answer: AwsAnswer) -> None:
    """Record the id of a created upload, which a live attempt has received."""
    created = re.search(rb"<UploadId>(.+)</UploadId>", answer.body)
    if created and call.operation == "CreateMultipartUpload":
        history.uploads.add(created[1].decode())


def observe(history: History, call: Call, answer: AwsAnswer) -> None:
    """Record a write to S3 that took effect."""
    if not answer.status.startswith("200"):
        return
    if call.operation == "PutObject":
        history.writes.append(call.key)
    # Completing an upload again does nothing and returns the same answer.
    if call.operation == "CompleteMultipartUpload" and call.upload_id not in history.completed:
        history.completed.add(call.upload_id)
        history.writes.append(call.key)


@contextmanager
def world(processes: int, *, impatient: bool = False) -> Iterator[World]:
    """A World in which a few bytes make a multipart upload, and retries do not wait.

    Parallel work inside an invocation runs sequentially. If ``impatient``, clients time out after
    one second, else never.
    """
    with ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("gapless").manager, "disable", logging.CRITICAL)
        # Moto lists its own folder for every call.
        modules = list(backends.list_of_moto_modules())
        patch.setattr(backends, "list_of_moto_modules", lambda: modules)
        patch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", PART)
        patch.setattr(limits, "MIN_PART_BYTES", PART)
        patch.setattr(limits, "PART_BYTES", PART)
        patch.setattr(limits, "READS_IN_FLIGHT", 1)
        patch.setattr(limits, "PARTS_IN_FLIGHT", 1)
        patch.setattr(limits, "LISTS_IN_FLIGHT", 1)
        patch.setattr(Tries, "pause", _at_once)
        seconds = 1 if impatient else _PATIENCE_SECONDS
        client = botocore_clients.CLIENT.merge(ClientConfig(read_timeout=seconds))
        patch.setattr(botocore_clients, "CLIENT", client)
        patch.setattr(limits, "READ_SECONDS", seconds)
        world = World(running, processes)
        if not impatient:
            # A call without a socket cannot time out.
            servers = (process.server for process in world.processes)
            running.enter_context(without_sockets(*servers))
        yield world


_TRIES: Final = 4
_PATIENCE_SECONDS: Final = 300
"""Long enough that a call which waits for its turn is never retried, on any machine."""


def _at_once(tries: Tries, why: object) -> float:
    """Retry a fixed number of times, without a pause and without regard to time."""
    tries._number += 1  # noqa: SLF001
    if tries._number == _TRIES:  # noqa: SLF001
        raise errors.StorageBusyError("busy", str(why))
    return 0
