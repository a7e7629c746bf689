"""The local gateway behaves as API Gateway's HTTP API does."""

import base64
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from local.gateway import (
    MAX_BODY_BYTES,
    MAX_EVENT_BYTES,
    Context,
    Event,
    Gateway,
    Lambda,
    Request,
    Response,
    wsgi,
)
from local.server import Server, _Connection

ITEMS = "/things/{id}/items"


def echo(event: Event, _: Context) -> object:
    """A function that returns its event."""
    return {"statusCode": 200, "body": json.dumps(event)}


def gateway(handler: Callable[[Event, Context], object], **options: float) -> Gateway:
    function = Lambda(handler, name="Echo", timeout=29, memory=512)
    return Gateway({"POST /things": function, f"POST {ITEMS}": function}, **options)


def post(path: str = "/things", **given: Any) -> Event:  # noqa: ANN401
    response = gateway(echo).handle(Request("POST", path, **given))
    assert response.status == 200
    event: Event = json.loads(response.body)
    return event


def answer_to(result: object) -> Response:
    """The response to a client when a function returns ``result``."""
    return gateway(lambda _event, _context: result).handle(Request("POST", "/things"))


def message(response: Response) -> tuple[int, dict[str, str]]:
    assert response.headers == [("content-type", "application/json")]
    return response.status, json.loads(response.body)


# --- Events ---


def test_an_event_has_the_members_of_payload_2_0() -> None:
    before = int(time.time() * 1000)
    event = post(
        headers=[
            ("Host", "api.example:3000"),
            ("User-Agent", "curl/8"),
            ("X-Forwarded-For", "9.9.9.9"),
        ],
        source_ip="203.0.113.7",
    )
    assert event["headers"].pop("x-amzn-trace-id").startswith("Root=1-")
    assert event["headers"] == {
        "host": "api.example:3000",
        "user-agent": "curl/8",
        "content-length": "0",
        "x-forwarded-for": "9.9.9.9, 203.0.113.7",
        "x-forwarded-port": "3000",
        "x-forwarded-proto": "http",
    }
    context = event["requestContext"]
    assert before <= context.pop("timeEpoch") <= time.time() * 1000
    assert time.strptime(context.pop("time"), "%d/%b/%Y:%H:%M:%S +0000")
    assert len(context.pop("requestId")) == 16
    assert context == {
        "accountId": "123456789012",
        "apiId": "local",
        "domainName": "api.example",
        "domainPrefix": "api",
        "http": {
            "method": "POST",
            "path": "/things",
            "protocol": "HTTP/1.1",
            "sourceIp": "203.0.113.7",
            "userAgent": "curl/8",
        },
        "routeKey": "POST /things",
        "stage": "$default",
    }
    del event["headers"], event["requestContext"]
    assert event == {
        "version": "2.0",
        "routeKey": "POST /things",
        "rawPath": "/things",
        "rawQueryString": "",
        "isBase64Encoded": False,
    }


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/xml",
        "application/javascript",
        "text/plain",
        "text/x-anything;q=1",
    ],
)
def test_a_body_is_text_by_its_media_type(media_type: str) -> None:
    event = post(body=b'{"a": "\xc3\xa4"}', headers=[("Content-Type", media_type)])
    assert (event["body"], event["isBase64Encoded"]) == ('{"a": "ä"}', False)


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "application/x-www-form-urlencoded",
        "application/vnd.gapless.batch+json",
        "application/problem+json",
        "application/octet-stream",
        "application/jsonp",
    ],
)
def test_any_other_body_is_base64(media_type: str) -> None:
    headers = [("Content-Type", media_type)] if media_type else []
    event = post(body=b'{"a": 1}\xff', headers=headers)
    assert event["isBase64Encoded"]
    assert base64.b64decode(event["body"]) == b'{"a": 1}\xff'


def test_a_compressed_body_that_says_json_is_ruined() -> None:
    sent = b"\x1f\x8b\x08\x00json"
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
    event = post(body=sent, headers=headers)
    assert (event["body"], event["isBase64Encoded"]) == ("\x1f\ufffd\x08\x00json", False)
    assert event["headers"]["content-length"] == str(len(sent))


def test_repeated_headers_are_joined_and_cookies_are_apart() -> None:
    event = post(headers=[("X-A", "1"), ("x-a", "2,3"), ("Cookie", "a=1; b=2")])
    assert event["headers"]["x-a"] == "1,2,3"
    assert "cookie" not in event["headers"]
    assert event["cookies"] == ["a=1", "b=2"]


def test_query_parameters_are_decoded_and_joined() -> None:
    event = post(query="a=1&b=x%20y&a=2&c=")
    assert event["rawQueryString"] == "a=1&b=x%20y&a=2&c="
    assert event["queryStringParameters"] == {"a": "1,2", "b": "x y", "c": ""}


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("7", "7"),
        ("a%20b", "a b"),
        ("%E4%BD%A0", "你"),
        ("..%252Fx", "..%2Fx"),
        ("%ff%zz", "\ufffd%zz"),
        ("x" * 600, "x" * 600),
        ("a%0Ab", "a\nb"),
    ],
)
def test_path_parameters_are_decoded(sent: str, received: str) -> None:
    event = post(f"/things/{sent}/items")
    assert event["routeKey"] == f"POST {ITEMS}"
    assert event["pathParameters"] == {"id": received}
    assert event["rawPath"] == f"/things/{received}/items"


def test_the_context_counts_down() -> None:
    seen: list[Context] = []
    gateway(lambda _event, context: seen.append(context)).handle(Request("POST", "/things"))
    (context,) = seen
    assert 28_000 < context.get_remaining_time_in_millis() <= 29_000
    assert context.function_name == "Echo"
    assert context.memory_limit_in_mb == "512"
    assert context.invoked_function_arn.endswith(":function:Echo")
    assert len(context.aws_request_id) == 36


# --- API Gateway's own answers ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/things"),
        ("HEAD", "/things"),
        ("POST", "/"),
        ("POST", ""),
        ("POST", "/things/"),
        ("POST", "//things"),
        ("POST", "/Things"),
        ("POST", "/things//items"),
        ("POST", "/things/..%2Fx/items"),
        ("POST", "/things/a/b/items"),
    ],
)
def test_an_unknown_route_is_404(method: str, path: str) -> None:
    response = gateway(echo).handle(Request(method, path))
    assert message(response) == (404, {"message": "Not Found"})


def size_of(response: Response) -> int:
    return len(json.dumps(json.loads(response.body), ensure_ascii=False).encode())


@pytest.mark.parametrize(
    ("media_type", "unit", "width"),
    [
        ("application/json", b'"', 2),
        ("application/json", b"\n", 2),
        ("application/json", b"\x01", 6),
        ("text/plain", "ä".encode(), 2),
        ("text/plain", "\u2028".encode(), 3),
        ("text/plain", b"\x7f", 1),
        ("text/plain", b"\xff", 3),
        ("", b"abc", 4),
    ],
)
def test_an_event_over_6_mib_is_413(media_type: str, unit: bytes, width: int) -> None:
    api = gateway(
        lambda event, _context: {"size": len(json.dumps(event, ensure_ascii=False).encode())}
    )

    def send(units: int) -> Response:
        headers = [("Content-Type", media_type)]
        return api.handle(Request("POST", "/things", headers=headers, body=unit * units))

    small = json.loads(send(1_000_000).body)["size"]
    most = 1_000_000 + (MAX_EVENT_BYTES - small) // width
    assert send(most).status == 200
    assert message(send(most + 1)) == (413, {"message": "Request Entity Too Large"})


def test_a_body_over_10_mb_is_413() -> None:
    response = gateway(echo).handle(Request("POST", "/things", body=bytes(MAX_BODY_BYTES + 1)))
    assert message(response) == (413, {"message": "Request Entity Too Large"})


@pytest.mark.parametrize("error", [ValueError("secret"), TimeoutError("secret"), SystemExit(1)])
def test_a_function_that_raises_is_500(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_event: Event, _context: Context) -> object:
        raise error

    response = gateway(fail).handle(Request("POST", "/things"))
    assert message(response) == (500, {"message": "Internal Server Error"})
    assert "POST /things failed" in caplog.text


def test_a_slow_function_is_503_and_goes_on() -> None:
    answered, done = threading.Event(), threading.Event()

    def wait(_event: Event, _context: Context) -> object:
        answered.wait()
        done.set()
        return {}

    response = gateway(wait, integration_seconds=0.01).handle(Request("POST", "/things"))
    assert message(response) == (503, {"message": "Service Unavailable"})
    answered.set()
    assert done.wait(300)


def test_requests_one_after_another_share_a_thread() -> None:
    seen: list[threading.Thread] = []

    def run(_event: Event, _context: Context) -> object:
        seen.append(threading.current_thread())
        return {}

    api = gateway(run)
    for _ in range(10):
        assert api.handle(Request("POST", "/things")).status == 200
        # The thread is free a moment after its answer.
        while not api._threads._idle:  # noqa: SLF001
            time.sleep(0.001)
    assert len(set(seen)) == 1


def test_an_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.gateway._IDLE_SECONDS", 0.01)
    seen: list[threading.Thread] = []

    def run(_event: Event, _context: Context) -> object:
        seen.append(threading.current_thread())
        return {}

    api = gateway(run)
    for _ in range(2):
        assert api.handle(Request("POST", "/things")).status == 200
        seen[-1].join(300)
        assert not seen[-1].is_alive()
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    ("media_type", "copies"),
    # JSON once as text; gzip as base64, which is a third longer.
    [("application/json", 1.02), ("application/gzip", 1.35)],
)
def test_a_body_is_copied_once(media_type: str, copies: float) -> None:
    api = gateway(lambda _event, _context: {})
    request = Request("POST", "/things", headers=[("Content-Type", media_type)], body=b'"' * 10**6)
    api.handle(request)
    tracemalloc.start()
    try:
        assert api.handle(request).status == 200
        assert tracemalloc.get_traced_memory()[1] < copies * len(request.body)
    finally:
        tracemalloc.stop()


# --- Answers of functions ---


@pytest.mark.parametrize(
    ("result", "status", "headers", "body"),
    [
        ({"statusCode": 204}, 204, [], b""),
        ({"statusCode": "201", "body": None}, 201, [], b""),
        (
            {
                "statusCode": 409,
                "headers": {"Content-Type": "application/problem+json"},
                "body": "{}",
            },
            409,
            [("Content-Type", "application/problem+json")],
            b"{}",
        ),
        (
            {"statusCode": 200, "body": "ä"},
            200,
            [("content-type", "text/plain;charset=UTF-8")],
            "ä".encode(),
        ),
        (
            {
                "statusCode": 200,
                "headers": {"content-type": "image/png", "x-number": 1, "content-length": "99"},
                "body": base64.b64encode(b"\x00\xff").decode(),
                "isBase64Encoded": True,
                "cookies": ["a=1", "b=2; Secure"],
            },
            200,
            [
                ("content-type", "image/png"),
                ("x-number", "1"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2; Secure"),
            ],
            b"\x00\xff",
        ),
        (
            {"hello": "wörld"},
            200,
            [("content-type", "application/json")],
            '{"hello": "wörld"}'.encode(),
        ),
        ("plain", 200, [("content-type", "application/json")], b"plain"),
        ([1], 200, [("content-type", "application/json")], b"[1]"),
    ],
)
def test_the_forms_of_an_answer(
    result: object, status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    assert answer_to(result) == Response(status, headers, body)


@pytest.mark.parametrize(
    "result",
    [
        object(),
        {"statusCode": 200, "body": {"not": "a string"}},
        {"statusCode": 0},
        {"statusCode": "no"},
        {"statusCode": 200, "body": "no base64", "isBase64Encoded": True},
        {"statusCode": 200, "body": "x" * MAX_EVENT_BYTES},
    ],
)
def test_an_invalid_result_is_500(result: object) -> None:
    assert message(answer_to(result)) == (500, {"message": "Internal Server Error"})


# --- Over sockets ---


@pytest.fixture
def connection(socket_enabled: None) -> Iterator[HTTPConnection]:  # noqa: ARG001
    with Server(wsgi(gateway(echo))) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
        yield connection
        connection.close()


def exchange(
    connection: HTTPConnection, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("/nowhere", 8_000_000, 404), ("/things", 8_000_000, 413), ("/things", 30_000_000, 413)],
)
def test_a_refused_body_does_not_disturb_the_next_request(
    connection: HTTPConnection, path: str, size: int, status: int
) -> None:
    assert (
        exchange(connection, "POST", path, b"POST / HTTP/1.1\r\n\r\n" * (size // 19))[0] == status
    )
    first = connection.sock
    status, body = exchange(connection, "POST", "/things?a=%31", b"abc", Content_Type="text/plain")
    assert connection.sock is first
    assert status == 200
    event = json.loads(body)
    assert event["body"] == "abc"
    assert event["rawQueryString"] == "a=%31"
    assert event["requestContext"]["http"]["sourceIp"] == "127.0.0.1"


def test_answers_without_a_body_keep_the_connection(connection: HTTPConnection) -> None:
    assert exchange(connection, "HEAD", "/things") == (404, b"")
    first = connection.sock
    assert exchange(connection, "POST", "/things/%2e%2e%2Fx/items")[0] == 404
    assert exchange(connection, "POST", "/things")[0] == 200
    assert connection.sock is first


def test_a_body_in_chunks_arrives_whole(connection: HTTPConnection) -> None:
    connection.request("POST", "/things", iter([b"ab", b"c"]), {"Content-Type": "text/plain"})
    event = json.loads(connection.getresponse().read())
    assert event["body"] == "abc"
    assert event["headers"]["content-length"] == "3"
    assert "transfer-encoding" not in event["headers"]
    assert exchange(connection, "POST", "/things")[0] == 200


def receive(client: socket.socket, size: int) -> bytes:
    """``size`` bytes, exactly."""
    received = b""
    while len(received) < size:
        received += client.recv(size - len(received))
    return received


def test_a_client_may_wait_for_100_continue(connection: HTTPConnection) -> None:
    with socket.create_connection(("127.0.0.1", connection.port), timeout=300) as client:
        for _ in range(2):
            client.sendall(
                b"POST /things HTTP/1.1\r\nContent-Type: text/plain\r\n"
                b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
            )
            go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
            assert receive(client, len(go_on)) == go_on
            client.sendall(b"abc")
            assert b'"body": "abc"' in client.recv(2**16)


def test_a_response_is_one_packet(connection: HTTPConnection) -> None:
    with socket.create_connection(("127.0.0.1", connection.port), timeout=300) as client:
        for _ in range(20):
            client.sendall(b"POST /things HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            head, _, content = client.recv(2**16).partition(b"\r\n\r\n")
            assert b"Content-Length: %d" % len(content) in head
            assert json.loads(content)["routeKey"] == "POST /things"


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 16_384, 1_000_000])
@pytest.mark.parametrize("first", [0, 1, 8192, 10_000])
def test_a_body_arrives_whole_however_it_is_sent(
    connection: HTTPConnection, size: int, first: int
) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]
    head = b"POST /things HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % size
    with socket.create_connection(("127.0.0.1", connection.port), timeout=300) as client:
        client.sendall(head + body[:first])
        time.sleep(0.01)
        # The next request follows at once.
        client.sendall(body[first:] + b"POST /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b""
        while more := client.recv(2**20):
            received += more
    answers = received.split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"404"]
    assert json.loads(answers[0].partition(b"\r\n\r\n")[2]).get("body", "").encode() == body


def test_a_large_body_takes_few_system_calls(
    connection: HTTPConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each, the thread waits until the others let it go on."""
    reads: list[int] = []
    read = _Connection.readinto

    def counted(self: _Connection, buffer: Any) -> int | None:  # noqa: ANN401
        reads.append(len(buffer))
        return read(self, buffer)

    monkeypatch.setattr(_Connection, "readinto", counted)
    assert exchange(connection, "POST", "/things", b"x" * 4_000_000)[0] == 200
    # The head, the body, what is left of a buffer, and the wait for the next request.
    assert len(reads) <= 5


@pytest.mark.parametrize("length", ["x", "-1", "\xb2"])
def test_a_wrong_length_is_400(connection: HTTPConnection, length: str) -> None:
    connection.putrequest("POST", "/things")
    connection.putheader("Content-Length", length.encode("latin-1"))
    connection.endheaders()
    assert connection.getresponse().status == 400


def test_a_client_that_goes_away_is_no_error(
    connection: HTTPConnection, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", connection.port)) as leaving:
        leaving.sendall(b"POST /things HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    assert exchange(connection, "POST", "/things")[0] == 200
    time.sleep(0.05)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("socket_enabled")
def test_requests_run_at_the_same_time() -> None:
    everybody = threading.Barrier(4, timeout=300)
    api = gateway(lambda _event, _context: everybody.wait())
    with Server(wsgi(api)) as server:
        statuses: list[int] = []

        def ask() -> None:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
            statuses.append(exchange(connection, "POST", "/things")[0])
            connection.close()

        threads = [threading.Thread(target=ask) for _ in range(everybody.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * everybody.parties
