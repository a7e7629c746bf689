"""S3 and DynamoDB for a local run: moto's server in this process, the table and the buckets.

Every call is real HTTP, so that any client works, and one place can count or fail calls.
"""

import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from functools import cache, lru_cache
from itertools import islice, takewhile
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.exceptions import ClientError

from .server import HOST, KeepAliveHandler, Server
from .template import Template

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REGION: Final = "us-east-1"

# A session of botocore reads the models of its services: nine tenths of a client's cost. There are
# those of boto3, moto and each function, which read the same files.
vars(botocore.session)["create_loader"] = cache(botocore.session.create_loader)


def serve_moto(
    middleware: "Callable[[WSGIApplication], WSGIApplication]" = lambda app: app,
    host: str = HOST,
) -> Server:
    """Start moto's S3 and DynamoDB on a free port; ``middleware`` wraps every call."""
    # Its import takes a second, and other storage does not need it.
    from moto.moto_server import werkzeug_app as moto  # noqa: PLC0415

    class Dispatcher(moto.DomainDispatcherApplication):
        """Caches the service of a host; moto lists its folders for each call."""

        get_backend_for_host = cache(moto.DomainDispatcherApplication.get_backend_for_host)

    class Handler(KeepAliveHandler, moto.MotoRequestHandler):
        """Moto's handler accepts underscores in the names of metadata."""

    _list_methods_once()
    _serialize_only_what_is_there()
    _read_expressions_once()
    _list_by_prefix()
    app = _atomic(Dispatcher(moto.create_backend_app))
    return Server(middleware(app), handler=Handler, host=host)


def _atomic(moto: "WSGIApplication") -> "WSGIApplication":
    """Make writes atomic: moto's check the condition first, and write later."""
    dynamodb = Lock()
    # One for each key, nearly.
    s3 = [Lock() for _ in range(64)]

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if "HTTP_X_AMZ_TARGET" in environ:
            lock = dynamodb
        elif "HTTP_IF_NONE_MATCH" in environ:
            lock = s3[hash(environ["PATH_INFO"]) % len(s3)]
        else:
            return moto(environ, start_response)
        with lock:
            return moto(environ, start_response)

    return answer


@cache
def _list_methods_once() -> None:
    """Speed up moto, which lists the methods of a service's class in every call."""
    from moto.core import responses  # noqa: PLC0415

    name = "method_names_from_class"
    vars(responses)[name] = cache(vars(responses)[name])


@cache
def _serialize_only_what_is_there() -> None:
    """Speed up moto, which looks for each of ten kinds of value in every attribute of an item."""
    from moto.core.serialize import BaseJSONSerializer  # noqa: PLC0415

    structure = BaseJSONSerializer._serialize_type_structure  # noqa: SLF001

    def serialize(serializer: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:  # noqa: ANN401
        if shape.name != "AttributeValue" or type(value) is not dict:
            structure(serializer, serialized, value, shape, key)
            return
        wrapper: dict[str, Any] = {}
        for kind, content in value.items():
            serializer._serialize(wrapper, content, shape.members[kind], kind)  # noqa: SLF001
        serializer._default_serialize(serialized, wrapper, shape, key)  # noqa: SLF001

    BaseJSONSerializer._serialize_type_structure = serialize  # type: ignore[assignment, method-assign] # noqa: SLF001


@cache
def _read_expressions_once() -> None:
    """Speed up moto, which reads each DynamoDB expression two or three times a call."""
    from moto.dynamodb.comparisons import ConditionExpressionParser as Condition  # noqa: PLC0415
    from moto.dynamodb.parsing import ast_nodes, expressions  # noqa: PLC0415

    split, parse = Condition._lex_condition_expression, Condition.parse  # noqa: SLF001

    @lru_cache
    def words(condition: str) -> tuple[Any, ...]:
        return tuple(split(Condition(condition, None, None)))

    latest: list[Any] = [object()] * 6

    def parsed(condition: Condition) -> Any:  # noqa: ANN401
        nonlocal latest
        *before, tree, names, values = latest
        given = [
            condition.condition_expression,
            condition.expression_attribute_names,
            condition.expression_attribute_values,
        ]
        if any(one is not other for one, other in zip(given, before, strict=True)):
            tree = parse(condition)
            names, values = condition.expr_attr_names_found, condition.expr_attr_values_found
            latest = [*given, tree, names, values]
        condition.expr_attr_names_found, condition.expr_attr_values_found = [*names], [*values]
        return tree

    reader: Any = Condition
    reader._lex_condition_expression = lambda its: deque(words(its.condition_expression or ""))  # noqa: SLF001
    reader.parse = parsed

    # Of an update's tree moto changes only copies.
    update = vars(expressions)["UpdateExpressionParser"]
    update.make = lru_cache(update.make)
    pickled = lru_cache(pickle.dumps)
    tree = vars(ast_nodes)["UpdateExpression"]
    tree.__deepcopy__ = lambda its, _: pickle.loads(pickled(its))  # noqa: S301
    traverser = vars(ast_nodes)["DepthFirstTraverser"]
    kinds: Any = cache(lambda its: tuple(its._processing_map(its)))  # noqa: SLF001
    traverser.nodes_to_be_processed = lambda its: kinds(type(its))


@cache
def _list_by_prefix() -> None:
    """Let moto look up the keys of a page: it copies all keys, which fails during deletes."""
    from moto.s3 import models, utils  # noqa: PLC0415
    from sortedcontainers import SortedDict  # type: ignore[import-untyped] # noqa: PLC0415

    lock = RLock()

    # Its bases have no types.
    class Keys(utils._VersionedKeyStore, SortedDict):  # type: ignore[misc] # noqa: SLF001
        """The keys of a bucket, in order."""

        def __setitem__(self, key: str, value: object) -> None:
            with lock:
                super().__setitem__(key, value)

        def setlist(self, key: str, list_: object) -> None:
            with lock:
                super().setlist(key, list_)

        def pop(self, key: str) -> None:  # type: ignore[override]
            with lock:
                super().pop(key)

        def items(self) -> Any:  # noqa: ANN401
            with lock:
                return iter([(key, self[key]) for key in self])

        def after(self, start: str, prefix: str, most: int) -> list[Any]:
            with lock:
                keys = takewhile(
                    lambda key: key.startswith(prefix), self.irange(max(start, prefix))
                )
                return [self[key] for key in islice(keys, most) if key != start]

    whole = models.S3Backend.list_objects_v2

    def page(
        s3: Any,  # noqa: ANN401
        bucket: Any,  # noqa: ANN401
        prefix: str | None,
        delimiter: str | None,
        continuation_token: str | None,
        start_after: str | None,
        max_keys: int,
    ) -> Any:  # noqa: ANN401
        if delimiter or bucket.versioning_status:
            return whole(s3, bucket, prefix, delimiter, continuation_token, start_after, max_keys)
        token = s3._pagination_tokens.get(continuation_token or "")  # noqa: SLF001
        start = token or start_after or ""
        # One more for the skipped key, and one to know whether there are more.
        found = bucket.keys.after(start, prefix or "", max_keys + 2)
        return s3._truncate_result(found, max_keys)  # noqa: SLF001

    vars(models)["_VersionedKeyStore"] = Keys
    models.S3Backend.list_objects_v2 = page  # type: ignore[assignment, method-assign]


def point_to_moto(environ: MutableMapping[str, str], url: str) -> None:
    """Point every AWS client to moto, and remove the caller's own AWS settings."""
    for name in [name for name in environ if name.startswith("AWS_")]:
        del environ[name]
    environ.update(
        {
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
    )
    # Do not use a proxy for this machine.
    for name in ("NO_PROXY", "no_proxy"):
        here = f"127.0.0.1,localhost,{urlsplit(url).hostname}"
        environ[name] = ",".join(filter(None, [environ.get(name), here]))


def provision(template: Template, table: str, buckets: Iterable[str]) -> None:
    """Create the stack's table and buckets where they are missing.

    Continues an interrupted call. Raises ValueError if the table exists with another key.
    """
    dynamodb = boto3.client("dynamodb")
    plain = dict(template.table.create)
    stream = plain.pop("StreamSpecification")
    with suppress(dynamodb.exceptions.ResourceInUseException):
        dynamodb.create_table(TableName=table, **plain)
    dynamodb.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
    there = dynamodb.describe_table(TableName=table)["Table"]
    if (key := there["KeySchema"]) != plain["KeySchema"]:
        raise ValueError(f"the table {table} is not one of Gapless: its key is {key}")
    try:
        found = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        if found.get("TimeToLiveStatus") not in {"ENABLING", "ENABLED"}:
            dynamodb.update_time_to_live(
                TableName=table, TimeToLiveSpecification=template.table.time_to_live
            )
    except ClientError as error:
        # Sessions work without it, but are never deleted.
        print(f"gapless: {table} has no time to live: {error}", file=sys.stderr)  # noqa: T201
    if "LatestStreamArn" not in there:
        # Not every store has streams. Sessions work without, but nothing cleans up after them.
        with suppress(ClientError):
            dynamodb.update_table(TableName=table, StreamSpecification=stream)
    s3 = boto3.client("s3")
    # us-east-1 is the default, and invalid as a LocationConstraint.
    region = s3.meta.region_name
    place: dict[str, Any] = (
        {} if region == REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    )
    for bucket in buckets:
        try:
            s3.create_bucket(Bucket=bucket, **place)
        except ClientError:
            # Errors for an existing bucket differ by store. It must be accessible.
            s3.head_bucket(Bucket=bucket)
