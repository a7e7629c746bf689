"""Processes of the service, what they share, and the guarantees that must hold of it.

A process is the real functions with clients, a clock and an endpoint of their own, so that every
call it makes can be told from those of the others. All share one S3 and one DynamoDB (moto's). What
is there in the end is read from moto's memory and not through the service.
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
from datetime import timedelta
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
from obstore.store import S3Store

from local import in_process, storage
from local.streams import TIME_TO_LIVE, matches
from local.template import Template
from tests.aws import Answer as AwsAnswer
from tests.aws import AwsProxy, Call, s3_error
from tests.state_machine import ExecutionFailedError, StateMachine
from uploads import errors, limits, wiring
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
"""Seconds after which every lease has run out."""
PLAIN: Final = "ndjson"
GZIP: Final = "ndjson.gz"
GZIP_HEADER: Final = 10
"""Bytes."""
PART: Final = 16
"""Least bytes of a part here, so that merges of a few records are multipart uploads."""
PATTERNS: Final = list(
    Template.load(in_process.TEMPLATE).event_sources["stream.lambda_handler"].patterns
)
"""What is brought of the table's changes."""
EXPIRED: Final = {"REMOVE": TIME_TO_LIVE}
"""Whoever removes an item here."""
COUNTS: Final[dict[str, int]] = {}
"""What was run, for the summary."""


def count(what: str, number: int = 1) -> None:
    """Count for the summary."""
    COUNTS[what] = COUNTS.get(what, 0) + number


def scale() -> int:
    """How much larger than in every day's run the bounds are."""
    return int(os.environ.get("PROOF_SCALE", "1"))


class ViolationError(AssertionError):
    """A guarantee does not hold."""


def require(condition: object, what: str, *facts: object) -> None:
    """Raise ViolationError unless ``condition``."""
    if not condition:
        raise ViolationError(f"{what}: {facts}" if facts else what)


@dataclass(frozen=True)
class Said:
    """What a finish says there is; None for what it does not say."""

    total: int | None = None
    batches: int | None = None

    @property
    def body(self) -> dict[str, int] | None:
        """The body of its request."""
        said = {"totalRecord": self.total, "batches": self.batches}
        return {name: number for name, number in said.items() if number is not None} or None

    def fits(self, total: int | None, batches: int | None) -> bool:
        """Whether it says these, as far as both are known."""
        known = ((self.total, total), (self.batches, batches))
        return all(None in pair or pair[0] == pair[1] for pair in known)


NOTHING: Final = Said()


def is_answered(said: Said, body: Mapping[str, Any]) -> bool:
    """Whether a client that said so takes the answer in a status for its own."""
    if body["validationResult"] == "Success":
        return said.fits(body["totalRecord"], body["batches"])
    return (
        said.total in {None, body["totalRecord"]}
        and said.batches == body.get("expectedBatches")
        and body["reason"] != "merge_failed"
    )


@dataclass(frozen=True)
class Answer:
    """What the API says."""

    status: int
    body: Any

    @property
    def result(self) -> str:
        """``validationResult`` of a finish, empty where there is none."""
        found: str = self.body.get("validationResult", "") if self.body else ""
        return found

    @property
    def code(self) -> str:
        """The code of a problem, empty where there is none."""
        found: str = (self.body or {}).get("code", "")
        return found


class Clock:
    """A time that stands still, so that no run depends on how long it takes.

    A process may be ahead of it.
    """

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
    """The one call of Step Functions that the service makes. A driver runs what was started."""

    def __init__(self) -> None:
        self.started: dict[str, dict[str, Any]] = {}
        self.waiting: list[str] = []
        self._ended: set[str] = set()

    def middleware(self, app: "WSGIApplication") -> "WSGIApplication":
        """Answer that call, and let ``app`` answer every other."""

        def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
            if not environ.get("HTTP_X_AMZ_TARGET", "").startswith("AWSStepFunctions."):
                try:
                    return app(environ, start_response)  # type: ignore[return-value]
                except KeyError:
                    # Moto's answer to UploadPartCopy where there is no such upload.
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
        """The inputs of what was started and has not run."""
        while self.waiting:
            name = self.waiting.pop(0)
            self._ended.add(name)
            yield self.started[name]


class Process:
    """The functions with clients of their own; ``aws`` sees each call they make."""

    def __init__(self, running: ExitStack, step_functions: StepFunctions, name: str) -> None:
        self.name = name
        self.aws = AwsProxy()
        self.clock = Clock()
        self.invocations = 0
        server = running.enter_context(
            storage.serve_moto(lambda app: self.aws(step_functions.middleware(app)))
        )
        config = replace(
            Config.from_env(os.environ), endpoint_url=server.url, auth_mode=AuthMode.IAM
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
            endpoint_url=server.url,
            config=wiring._CLIENT,  # noqa: SLF001
        )

    def forget(self) -> None:
        """Remember no session, as a function that has just started."""
        for its in (self._inline, self._handing_over):
            its.sessions._cached.clear()  # noqa: SLF001

    def remember(self, other: "Process") -> None:
        """Know the sessions that another knows."""
        known = other._inline.sessions._cached  # noqa: SLF001
        self._inline.sessions._cached.update(known)  # noqa: SLF001

    def create(self, total: int | None, size: int | None, form: str = PLAIN) -> Answer:
        asked = {"totalRecord": total, "format": form, "batchSize": size}
        return self._invoke(self._sessions, f"POST {ROOT}", "", asked)

    def open(self, total: int, key: str, user: str) -> Answer:
        """Create with an Idempotency-Key."""
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
        """``long``: there is no time left to merge in line, and a state machine to do it.

        ``state_machine``: there is one, and time enough to do without.
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
        """Run a task of the state machine."""
        self.invocations += 1
        return self.tasks[name](payload, _Context(300))

    def clean_up(self, iterator: str) -> int:
        """Read the table's stream from ``iterator`` on, and clean up as often as it says."""
        self.invocations += 1
        wanted = 0
        found = self._streams.get_records(ShardIterator=iterator)["Records"]
        # One at a time: what of the others comes of one that fails, the stream's own tests tell.
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
    """Their NDJSON."""
    merged: bytes | None
    manifest: Mapping[str, Any] | None
    uploads: frozenset[str]
    """Multipart uploads that are open."""
    plans: frozenset[str]
    """What long merges have left, and gap reports."""

    @property
    def left(self) -> Sequence[object]:
        """What there is beside the merged object and the item."""
        return [*self.batches, *sorted(self.uploads), *sorted(self.plans)]

    @property
    def state(self) -> str:
        return str(self.item["state"]) if self.item else ""


@dataclass
class History:
    """What was sent, and what the service said to it."""

    total: int | None
    """None where each finish says it."""
    size: int | None
    stream: str = ""
    """Where the table's stream was when it began."""
    form: str = PLAIN
    manifest_of_before: bool = False
    """The release before has written the manifest, without the session's metadata."""
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    promised: dict[int, bytes] = field(default_factory=dict)
    says: Said = NOTHING
    """What the client says that finishes in the end."""
    said: list[tuple[Said, Answer]] = field(default_factory=list)
    """Each finish, and its answer."""
    aborted: bool = False
    expired: bool = False
    """Finish or status said that nobody can finish it any more."""
    strangers: list[Answer] = field(default_factory=list)
    forgotten: bool = False
    """The merged object has been deleted, as its retention says."""
    deletes: bool = False
    """Its owner has asked for that."""
    deleted: bool = False
    """And was told that it is done."""
    failed: list[Answer] = field(default_factory=list)
    """Answers that say that the service failed."""
    writes: list[str] = field(default_factory=list)
    """The key of each object that was created."""
    completed: set[str] = field(default_factory=set)
    """Multipart uploads that became objects."""
    uploads: set[str] = field(default_factory=set)
    """Those that an attempt which has not died was told of."""

    @property
    def finishes(self) -> Sequence[Answer]:
        """What finishes were answered."""
        return [answer for _, answer in self.said]

    @property
    def expected_batches(self) -> int | None:
        """How many batches it was created for, where that is known."""
        return -(-self.total // self.size) if self.total is not None and self.size else None


def ndjson(data: Sequence[object]) -> bytes:
    """The lines of a batch."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in data)


def _inflate(found: bytes, window: int) -> tuple[bytes, bool, bytes]:
    """The content, whether it ends, and what is behind its end."""
    reader = zlib.decompressobj(window)
    try:
        content = reader.decompress(found)
    except zlib.error as error:
        raise ViolationError(f"it cannot be inflated: {error}") from error
    return content, reader.eof, reader.unused_data


def inflated(batch: bytes) -> bytes:
    """The content of a batch that is stored compressed, which has no end of its own."""
    content, ends, _ = _inflate(batch, -15)
    require(not ends, "a batch that ends the object", batch)
    return content


def gunzipped(merged: bytes) -> bytes:
    """The content of a merged object that is compressed."""
    content, ends, behind = _inflate(merged, 31)
    require(ends and not behind, "not one gzip member", merged)
    return content


def checksum(content: bytes) -> dict[str, str]:
    """A CRC-32 as the API writes it."""
    crc = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    return {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc}


class World:
    """Processes, and the S3 and DynamoDB they share."""

    def __init__(self, running: ExitStack, processes: int) -> None:
        self.step_functions = StepFunctions()
        self.processes = [
            Process(running, self.step_functions, f"P{number}") for number in range(processes)
        ]
        self._config = Config.from_env(os.environ)

    # --- What is there.

    def _bucket(self, name: str) -> Any:  # noqa: ANN401
        return get_backend("s3")[ACCOUNT]["aws"].buckets[name]

    @property
    def _table(self) -> Any:  # noqa: ANN401
        tables = get_backend("dynamodb")[ACCOUNT][self._config.region].tables
        return tables[self._config.sessions_table]

    def _items(self) -> Any:  # noqa: ANN401
        return self._table.items

    def items(self) -> list[dict[str, Any]]:
        """Every item of the table."""
        return [
            {name: _plain(value.to_regular_json()) for name, value in item.attrs.items()}
            for item in self._items().values()
        ]

    def claims(self) -> list[str]:
        """The names of what Idempotency-Keys stand for."""
        return [item["sessionId"] for item in self.items() if item["sessionId"].startswith("key:")]

    def sweep(self, now: int) -> None:
        """Delete what the time to live is over of by then."""
        for item in self.items():
            if int(item["expiresAt"]) <= now:
                self.expire(item["sessionId"])

    def facts(self, session_id: str) -> Facts:
        """What there is of a session now."""
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
        """Take attributes from an item."""
        attributes = self._items()[DynamoType({"S": session_id})].attrs
        for name in names:
            attributes.pop(name)

    def read_object(self, key: str) -> bytes:
        """An object of the batches bucket."""
        content: bytes = self._bucket(self._config.batches_bucket).keys[key].value
        return content

    def remove(self, session_id: str) -> None:
        """Leave nothing of a session: moto's listings go through all there is."""
        for name in (self._config.batches_bucket, self._config.merged_bucket):
            bucket = self._bucket(name)
            for key in [key for key in bucket.keys if session_id in key]:
                bucket.keys.pop(key)
            for number in [n for n, u in bucket.multiparts.items() if session_id in u.key_name]:
                bucket.multiparts.pop(number)
        self._items().pop(DynamoType({"S": session_id}), None)
        self._table.stream_shard.items.clear()
        dynamodbstreams_backends[ACCOUNT][self._config.region].shard_iterators.clear()
        for process in self.processes:
            process.forget()
            process.clock.ahead = 0
            process.aws.calls.clear()
        self.step_functions.waiting.clear()

    def warm(self, session_id: str) -> None:
        """Let every process know an open session, as a function that has seen it before."""
        first, *others = self.processes
        first.status(session_id)
        for process in others:
            process.remember(first)

    # --- What is done.

    def create(
        self, total: int | None, size: int | None, form: str = PLAIN, says: Said = NOTHING
    ) -> tuple[str, History]:
        """A new session."""
        stream = self.stream_now()
        answer = self.processes[0].create(total, size, form)
        return answer.body["sessionId"], History(total, size, stream, form, says=says)

    def stream_now(self) -> str:
        """Where the table's stream is: an iterator of what comes next."""
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
        """Send a batch and remember what came of it."""
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
        """Finish and remember what came of it."""
        said = history.says if said is None else said
        with self._tracking(process, history):
            answer = process.finish(session_id, said=said, long=long, state_machine=state_machine)
        history.said.append((said, answer))
        history.expired |= answer.code == "session_expired"
        if answer.status >= 500 and answer.code != "session_expiring":
            history.failed.append(answer)
        return answer

    def status(self, process: Process, history: History, session_id: str) -> Answer:
        """Ask for a session and remember what came of it."""
        promised = set(history.promised)
        answer = process.status(session_id)
        history.expired |= answer.code == "session_expired"
        if answer.status == 200 and answer.body["state"] in {"OPEN", "FINISHING"}:
            missing = {
                seq_num
                for gap in answer.body["missing"]
                for seq_num in range(gap["from"], gap["to"] + 1)
            }
            require(not missing & promised, "a promised batch is called missing", answer)
        if answer.status >= 500:
            history.failed.append(answer)
        return answer

    def abort(self, process: Process, history: History, session_id: str) -> Answer:
        """Abort and remember what came of it."""
        answer = process.abort(session_id)
        history.aborted |= answer.status == 204
        if answer.status >= 500:
            history.failed.append(answer)
        return answer

    def delete_file(self, process: Process, history: History, session_id: str) -> Answer:
        """Delete the merged object and remember what came of it."""
        history.deletes = True
        answer = process.delete_file(session_id)
        history.deleted |= answer.status == 204
        if answer.status >= 500:
            history.failed.append(answer)
        return answer

    def clean_up(self, process: Process, history: History) -> bool:
        """Do what the stream says by now, from the beginning on, and remember whether it failed.

        Gives whether the session had ended.
        """
        try:
            return process.clean_up(history.stream) > 0
        except Exception as error:  # noqa: BLE001 - Lambda brings it again, whatever it was
            history.failed.append(Answer(0, {"code": repr(error)}))
            return False

    def forget_object(self, session_id: str, history: History) -> None:
        """The merged object's retention is over, and its manifest's."""
        merged = self._bucket(self._config.merged_bucket).keys
        for key in [key for key in merged if key.startswith(f"{session_id}.")]:
            merged.pop(key)
        # A slow attempt may write its manifest again, of an object that it cannot publish.
        history.writes.remove(f"{session_id}.manifest.json")
        history.forgotten = True

    def expire(self, session_id: str) -> None:
        """The time to live of a session is over."""
        self._table.delete_item(DynamoType({"S": session_id}), None)

    @staticmethod
    @contextmanager
    def _tracking(process: Process, history: History) -> Iterator[None]:
        """Note the uploads it is told of, where nothing else handles its calls."""

        def handle(call: Call, forward: Callable[[], AwsAnswer]) -> AwsAnswer:
            answer = forward()
            told(history, call, answer)
            return answer

        if process.aws.handler:
            yield
        else:
            with process.aws.handled(handle):
                yield

    def run_started(self, process: Process, history: History) -> None:
        """Run what was handed to the state machine, to its end."""
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
                # As it must where the session was aborted, or taken over.
                count("executions failed")

    # --- What must hold.

    def check(self, session_id: str, history: History) -> Facts:
        """What must hold at any time. Gives the facts it was found in."""
        facts = self.facts(session_id)
        require(facts.item is not None, "the session is gone")
        assert facts.item is not None
        sent = set(history.sent)
        for stored in facts.batches.items():
            require(stored in sent, "a batch is stored that nobody sent", stored)
        for key in set(history.writes):
            require(history.writes.count(key) == 1, "an object was written twice", key)
        if facts.state in {"OPEN", "FINISHING"}:
            for promise in history.promised.items():
                require(promise in facts.batches.items(), "a promised batch is lost", promise)
        if facts.merged is not None:
            require(facts.state in {"FINISHING", "FINISHED"}, "a merged object, yet", facts.state)
            self._check_merged(session_id, history, facts)
        marked = "fileDeletedAt" in facts.item
        if history.forgotten:
            require(facts.merged is None, "published again")
        else:
            there = facts.merged is not None and facts.manifest is not None
            require(facts.state != "FINISHED" or there or marked, "finished, no object")
        if history.deleted:
            require(marked, "deleted, yet the session does not say so", facts.item)
            gone = facts.merged is None and facts.manifest is None
            require(gone, "deleted, and there again")
        self._check_answers(history, facts)
        for said, answer in history.said:
            self._check_said(history, facts, said, answer)
        return facts

    @staticmethod
    def _check_answers(history: History, facts: Facts) -> None:
        require(not history.expired or facts.state != "FINISHED", "410, then Success")
        successes = [answer.body for answer in history.finishes if answer.result == "Success"]
        for body in successes:
            require(facts.state == "FINISHED", "Success, yet the session is", facts.state)
            require(
                body == _result(facts.item or {}), "Success differs from the stored answer", body
            )
        if history.aborted:
            require(facts.state == "ABORTED", "aborted, yet the session is", facts.state)
        for answer in history.finishes:
            require(answer.code != "batches_gone", "told of what the clean-up did", answer)
        for answer in history.strangers:
            require(answer.code == "session_not_found", "a stranger saw more than nothing", answer)

    @staticmethod
    def _check_said(history: History, facts: Facts, said: Said, answer: Answer) -> None:
        """Whoever says how much there is hears of that, or of a conflict that there is."""
        body = answer.body
        decision = (facts.item or {}).get("decision") or {}
        fixed = (
            decision.get("records", history.total),
            decision.get("batches", history.expected_batches),
        )
        if answer.result == "Success":
            require(
                said.fits(body["totalRecord"], body["batches"]), "another's Success", said, body
            )
        if answer.result == "Failed":
            judged = history.total if said.total is None else said.total
            require(body["totalRecord"] == judged, "another's Failed", said, body)
            require(body.get("expectedBatches") == said.batches, "another's Failed", said, body)
        if answer.code == "totals_conflict":
            require(not said.fits(*fixed), "no conflict", said, fixed)
        if answer.code == "missing_total":
            require(history.total is said.total is None, "the total is known", said)
        if decision and history.total is None:
            known = {one.total for one, _ in history.said} - {None}
            require(decision["records"] in known, "decided what nobody said", decision)

    @staticmethod
    def _check_merged(session_id: str, history: History, facts: Facts) -> None:
        merged, manifest, item = facts.merged, facts.manifest, facts.item
        assert merged is not None
        assert item is not None
        if "fileDeletedAt" in item and manifest is None:
            # The deletion is under way.
            return
        require(manifest, "a merged object without a manifest")
        assert manifest is not None
        count_of_batches = len(manifest["batches"])
        sent = {
            (seq_num, hashlib.sha256(content).hexdigest()): content
            for seq_num, content in history.sent
        }
        named = [(entry["seqNum"], entry["sha256"]) for entry in manifest["batches"]]
        require(set(named) <= sent.keys(), "what was merged was not sent", named)
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
            require([*map(inflated, stored)] == batches, "not each batch by itself", manifest)
        require(content == b"".join(batches), "not the batches in order", content)
        require(b"".join(stored) in merged, "not all there is", merged)
        total = item["decision"]["records"] if history.total is None else history.total
        require(content.count(b"\n") == total, "not totalRecord records", content)
        for seq_num, promised in history.promised.items():
            require(
                seq_num < count_of_batches and batches[seq_num] == promised,
                "a promised batch is not in the merged object",
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
        """Do what a client does whose calls went wrong. Gives the end it comes to.

        It finishes again once leases have run out, and sends what is missing of ``data``.
        """
        before = self.check(session_id, history)
        process = self.processes[0]
        # Time does not go back.
        process.clock.ahead = LATER + max(each.clock.ahead for each in self.processes)
        answer = self.finish(process, history, session_id)
        facts = self.check(session_id, history)
        require(answer.status != 202, "stuck", facts.item)
        if answer.code == "totals_conflict":
            # Another finish has said something else; whoever says nothing completes that.
            history.says = NOTHING
            answer = self.finish(process, history, session_id)
            facts = self.check(session_id, history)
        if before.merged is not None:
            require(answer.result == "Success", "there is an object, yet", answer)
        if answer.result == "Failed":
            self._check_failed(history, facts, answer)
            if self._can_heal(history, facts, data):
                for seq_num, records in data.items():
                    if seq_num not in facts.batches:
                        sent = self.send(process, history, session_id, seq_num, records)
                        require(sent.status == 204, "open, yet", sent)
                answer = self.finish(process, history, session_id)
                require(answer.result == "Success", "whole, yet", answer)
        again = self.finish(process, history, session_id)
        require(answer == again, "finish is not repeatable", answer, again)
        facts = self.check(session_id, history)
        # Whoever died, or was never told of its upload, leaves it to the bucket's rule.
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
        """Whoever is told to wait does so; then it is gone, and the answer is as it was."""
        process = self.processes[0]
        told = self.delete_file(process, history, session_id)
        if told.code == "file_settling":
            process.clock.ahead += told.body["retryAfter"]
            told = self.delete_file(process, history, session_id)
        if answer.result == "Success":
            require(told.status == 204, "not deleted", told)
            gone = process.file(session_id)
            require(gone.code == "file_deleted", "deleted, yet", gone)
            again = self.finish(process, history, session_id)
            require(again == answer, "finish is not repeatable after the deletion", again)
        else:
            # What is aborted or has expired has no file.
            require(told.status in {409, 410}, "deleted, yet", answer, told)

    def _poll(self, session_id: str, history: History) -> None:
        """What those who were told to wait hear in the end."""
        waiting = [
            said for said, answer in history.said if answer.status == 202 and said != NOTHING
        ]
        for said in waiting:
            found = self.status(self.processes[0], history, session_id).body["finish"]
            if found and is_answered(said, found):
                history.said.append((said, Answer(200, found)))
        self.check(session_id, history)

    def _clean_up_all(self, session_id: str, history: History, answer: Answer) -> None:
        """In the end nothing is left of a session that is over, and the answer is as it was."""
        before = self.check(session_id, history)
        process = self.processes[0]
        self.clean_up(process, history)
        after = self.check(session_id, history)
        if before.state in {"FINISHED", "ABORTED"}:
            require(not after.left, "not cleaned up", after.left)
            again = self.finish(process, history, session_id)
            require(answer == again, "finish is not repeatable after the clean-up", answer, again)
        else:
            require(after == before, "cleaned up, yet the session is", before.state)
        require(
            (before.item, before.merged, before.manifest)
            == (after.item, after.merged, after.manifest),
            "the clean-up has touched more",
        )

    @staticmethod
    def _can_heal(history: History, facts: Facts, data: Mapping[int, Sequence[object]]) -> bool:
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
            "everything is there, yet",
            answer,
        )


def _content(batch: Any) -> bytes:  # noqa: ANN401
    """The NDJSON of a batch in moto's memory."""
    compressed = "x-amz-meta-content-crc32" in {name.lower() for name in batch.metadata}
    return inflated(batch.value) if compressed else batch.value


def _plain(value: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """A DynamoDB value as a plain one."""
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


def told(history: History, call: Call, answer: AwsAnswer) -> None:
    """Note that whoever calls has heard of an upload of its own, and lives."""
    created = re.search(rb"<UploadId>(.+)</UploadId>", answer.body)
    if created and call.operation == "CreateMultipartUpload":
        history.uploads.add(created[1].decode())


def observe(history: History, call: Call, answer: AwsAnswer) -> None:
    """Note a write to S3 that took effect."""
    if not answer.status.startswith("200"):
        return
    if call.operation == "PutObject":
        history.writes.append(call.key)
    # To complete an upload again does nothing, and says the same.
    if call.operation == "CompleteMultipartUpload" and call.upload_id not in history.completed:
        history.completed.add(call.upload_id)
        history.writes.append(call.key)


@contextmanager
def world(processes: int, *, impatient: bool = False) -> Iterator[World]:
    """A world where a few bytes make a multipart upload, and clients try again without waiting.

    What an invocation does in parallel it does here one by one. Clients that are ``impatient``
    wait a second for an answer, and the others as long as it takes.
    """
    with ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("gapless").manager, "disable", logging.CRITICAL)
        # Moto reads its own folder anew for every call.
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
        client = wiring._CLIENT.merge(ClientConfig(read_timeout=seconds))  # noqa: SLF001
        patch.setattr(wiring, "_CLIENT", client)
        patch.setattr(wiring, "S3Store", partial(_store, S3Store, seconds))
        yield World(running, processes)


_TRIES: Final = 4
_PATIENCE_SECONDS: Final = 300
"""However busy the machine is, who waits for its turn does not call again."""


def _at_once(tries: Tries, why: object) -> float:
    """Try a call a number of times, however long that takes."""
    tries._number += 1  # noqa: SLF001
    if tries._number == _TRIES:  # noqa: SLF001
        raise errors.StorageBusyError("busy", str(why))
    return 0


def _store(
    kind: Callable[..., object],
    seconds: int,
    bucket: str,
    **options: Any,  # noqa: ANN401
) -> object:
    options["client_options"]["timeout"] = timedelta(seconds=seconds)
    return kind(bucket, **options)
