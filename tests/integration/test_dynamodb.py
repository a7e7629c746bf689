"""The client of DynamoDB: what it sends, what it repeats, and what it makes of every answer."""

import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.test_busy import Clock
from uploads import limits, retries
from uploads.config import Credentials
from uploads.dynamodb import ConditionFailedError, DynamoDB, DynamoDBError
from uploads.errors import StorageBusyError

KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
READ = {"TableName": "t", "Key": {"sessionId": {"S": "1"}}}
ITEM = {"Item": {"sessionId": {"S": "1"}, "n": {"N": "1"}}}

Answer = tuple[int, bytes, dict[str, str]] | None
"""Status, body and headers; None closes the connection."""


def answer(status: int, body: object, **headers: str) -> Answer:
    return status, json.dumps(body).encode(), headers


def refusal(code: str, status: int = 400) -> Answer:
    return answer(status, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "m"})


class Fake(ThreadingHTTPServer):
    """Gives one answer after the other, the last one for ever."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answers: list[Answer], certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.answers = answers
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.connections = 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.requests.append(
                ({name.lower(): value for name, value in self.headers.items()}, body)
            )
            answers = self.server.answers
            given = answers.pop(0) if len(answers) > 1 else answers[0]
        if given is None:
            self.close_connection = True
            return
        status, content, headers = given
        self.send_response(status)
        length = headers.pop("content-length", str(len(content)))
        for name, value in {**headers, "content-length": length}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = len(content) < int(length)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(*answers: Answer, certificate: Path | None = None) -> Iterator[tuple[DynamoDB, Fake]]:
    server = Fake(list(answers), certificate)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield DynamoDB(f"http://127.0.0.1:{server.server_port}", "us-east-1", lambda: KEYS), server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only pauses move it on, so neither they nor a busy machine take of the time for tries."""
    monkeypatch.setattr(retries, "time", Clock())
    monkeypatch.setattr(limits, "PATIENCE_SECONDS", 1)


def test_a_call_is_one_request_and_binary_values_are_base64() -> None:
    with answering(answer(200, ITEM)) as (client, server):
        asked = {"TableName": "t", "Item": {"a": {"B": b"\0\xff"}, "é": {"S": "\u2028"}}}
        assert client.call("PutItem", asked) == ITEM
        ((headers, body),) = server.requests
    assert json.loads(body) == {
        "TableName": "t",
        "Item": {"a": {"B": "AP8="}, "é": {"S": "\u2028"}},
    }
    assert headers["x-amz-target"] == "DynamoDB_20120810.PutItem"
    assert headers["content-type"] == "application/x-amz-json-1.0"
    assert headers["host"].startswith("127.0.0.1:")


def test_an_item_that_fails_a_condition_comes_with_the_error() -> None:
    failed = {"__type": "x#ConditionalCheckFailedException", **ITEM}
    with answering(answer(400, failed)) as (client, server):
        with pytest.raises(ConditionFailedError) as caught:
            client.call("UpdateItem", READ)
        assert caught.value.item == ITEM["Item"]
        assert len(server.requests) == 1


BUSY: dict[str, Answer] = {
    "ProvisionedThroughputExceededException": refusal("ProvisionedThroughputExceededException"),
    "ThrottlingException": refusal("ThrottlingException"),
    "KMS": refusal("KMS.ThrottlingException"),
    "RequestLimitExceeded": refusal("RequestLimitExceeded"),
    "InternalServerError": refusal("InternalServerError", 500),
    "503 of a proxy": (503, b"<html>", {}),
    "502 of a proxy": (502, b"", {}),
    "429": (429, b"", {}),
    "200 of a proxy": (200, b"<html>", {}),
    "200 without an object": (200, b"[]", {}),
    "half an answer": (200, b'{"Item"', {"content-length": "1000"}),
    "an answer that was changed": (200, b"{}", {"x-amz-crc32": str(crc32(b"{} "))}),
    "no answer": None,
}


@pytest.mark.parametrize("failure", BUSY)
def test_what_may_pass_is_tried_again(failure: str) -> None:
    good = json.dumps(ITEM).encode()
    checked: Answer = (200, good, {"x-amz-crc32": str(crc32(good))})
    with answering(BUSY[failure], BUSY[failure], checked) as (client, server):
        assert client.call("GetItem", READ) == ITEM
        assert len(server.requests) == 3
        # Each try has a signature of its own, and the same body.
        assert len({body for _, body in server.requests}) == 1


@pytest.mark.parametrize("failure", BUSY)
def test_what_does_not_pass_is_a_503(failure: str) -> None:
    with answering(BUSY[failure]) as (client, server):
        with pytest.raises(StorageBusyError):
            client.call("GetItem", READ)
        assert len(server.requests) > 1


REPEATED: set[str] = {
    *vars(TransientRetryableChecker)["_TRANSIENT_ERROR_CODES"],
    *vars(ThrottledRetryableChecker)["_THROTTLED_ERROR_CODES"],
    # DynamoDB's model says so: another region is writing the item of a global table.
    "ReplicatedWriteConflictException",
}


@pytest.mark.parametrize("code", sorted(REPEATED))
def test_all_that_botocore_repeats_is_repeated(code: str) -> None:
    with answering(refusal(code), answer(200, ITEM)) as (client, server):
        assert client.call("GetItem", READ) == ITEM
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (refusal("ResourceNotFoundException"), "GetItem: 400 ResourceNotFoundException: m"),
        (refusal("AccessDeniedException"), "AccessDeniedException"),
        (refusal("ItemCollectionSizeLimitExceededException"), "ItemCollectionSize"),
        (refusal("ExpiredTokenException"), "ExpiredTokenException"),
        (answer(400, {"__type": "X", "Message": "upper"}), "X: upper"),
        ((418, b"", {}), "418"),
        ((404, b"<html>", {}), "404"),
        ((301, b"", {"location": "http://127.0.0.1:1/"}), "301"),
    ],
)
def test_a_wrong_set_up_is_a_fault_at_once(given: Answer, words: str) -> None:
    with answering(given) as (client, server):
        with pytest.raises(DynamoDBError, match=words):
            client.call("GetItem", READ)
        assert len(server.requests) == 1


def test_nobody_there_is_a_503() -> None:
    with answering(None) as (client, server):
        server.shutdown()
        server.server_close()
        with pytest.raises(StorageBusyError):
            client.call("GetItem", READ)


def test_calls_share_a_connection_and_open_another_after_it_was_closed() -> None:
    with answering(answer(200, ITEM)) as (client, server):
        for _ in range(10):
            client.call("GetItem", READ)
        assert server.connections == 1
        server.answers[:] = [None, answer(200, ITEM)]
        client.call("GetItem", READ)
        assert server.connections == 2


def test_many_threads_open_one_connection_each_at_most() -> None:
    with answering(answer(200, ITEM)) as (client, server), ThreadPoolExecutor(8) as threads:
        found: list[Any] = list(threads.map(lambda _: client.call("GetItem", READ), range(400)))
        assert found == [ITEM] * 400
        assert server.connections <= 8


def test_credentials_are_asked_for_at_every_try() -> None:
    keys = iter([Credentials("FIRST", "s"), Credentials("SECOND", "s", "token")])
    with answering(refusal("ThrottlingException"), answer(200, ITEM)) as (client, server):
        client._credentials = lambda: next(keys)  # noqa: SLF001 - they were renewed meanwhile
        client.call("GetItem", READ)
        (first, _), (second, _) = server.requests
    assert "Credential=FIRST/" in first["authorization"]
    assert "x-amz-security-token" not in first
    assert "Credential=SECOND/" in second["authorization"]
    assert second["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in second["authorization"]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of ``localhost`` that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path / "certificate.pem"
    file.write_bytes(made.public_bytes(pem) + secret)
    return file


def test_only_the_host_with_a_trusted_certificate_is_asked(certificate: Path) -> None:
    with answering(answer(200, ITEM), certificate=certificate) as (_, server):
        port, bundle = server.server_port, str(certificate)
        trusting = DynamoDB(f"https://localhost:{port}", "us-east-1", lambda: KEYS, bundle)
        assert [trusting.call("GetItem", READ) for _ in range(3)] == [ITEM] * 3
        # Session tickets of TLS 1.3 do not count as the end of a connection.
        assert (server.connections, len(server.requests)) == (1, 3)
        for host, trusted in (("127.0.0.1", bundle), ("localhost", None)):
            other = DynamoDB(f"https://{host}:{port}", "us-east-1", lambda: KEYS, trusted)
            with pytest.raises(StorageBusyError) as caught:
                other.call("GetItem", READ)
            assert "CERTIFICATE_VERIFY_FAILED" in caught.value.why
        assert len(server.requests) == 3


def test_certificates_that_cannot_be_read_are_not_tried_again(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for bundle in (tmp_path / "missing.pem", empty):
        # A start loads none: it would take a quarter more time.
        client = DynamoDB("https://localhost:1", "us-east-1", lambda: KEYS, str(bundle))
        with pytest.raises(DynamoDBError, match=bundle.name):
            client.call("GetItem", READ)


def test_a_proxy_passes_what_it_cannot_read(certificate: Path) -> None:
    with (
        answering(answer(200, ITEM), certificate=certificate) as (_, server),
        socket.create_server(("127.0.0.1", 0)) as proxy,
    ):
        seen = b""

        def pass_on() -> None:
            nonlocal seen
            client, _ = proxy.accept()
            while not seen.endswith(b"\r\n\r\n"):
                seen += client.recv(1)
            there = socket.create_connection(("127.0.0.1", server.server_port))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for one, other in ((client, there), (there, client)):
                threading.Thread(target=copy, args=(one, other), daemon=True).start()

        def copy(source: socket.socket, target: socket.socket) -> None:
            while piece := source.recv(65536):
                target.sendall(piece)

        threading.Thread(target=pass_on, daemon=True).start()
        client = DynamoDB(
            f"https://localhost:{server.server_port}",
            "us-east-1",
            lambda: KEYS,
            str(certificate),
            f"http://me:p%40ss@localhost:{proxy.getsockname()[1]}",
        )
        assert [client.call("GetItem", READ) for _ in range(3)] == [ITEM] * 3
        assert f"CONNECT localhost:{server.server_port} HTTP/1." in seen.decode()
        assert b64encode(b"me:p@ss") in seen
        assert {headers["host"] for headers, _ in server.requests} == {
            f"localhost:{server.server_port}"
        }
