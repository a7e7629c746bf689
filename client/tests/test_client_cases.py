"""Situations in which upload tools have failed, each with the correct behaviour.

A file that changes between the two passes; signals and time; state that is stale or cannot be
saved; names and streams; output. How records are read is in test_client_readings.py.
"""

import array
import fcntl
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import gapless
from front import (
    BATCH,
    SESSIONS,
    DroppedError,
    Front,
    Said,
    Seen,
    begin,
    gapless_command,
    lines,
    merged,
    no_pause,
    run,
    written,
)
from gapless import conformance
from gapless.bars import Bars
from gapless.cli import cli
from gapless.http import AdaptiveLimiter
from gapless.text import as_argument, command, quote, redact

pytestmark = pytest.mark.slow

PROVED = "what is stored is what was sent"


def shell(line: str, environ: dict[str, str] | None = None, *, expect: int = 0) -> str:
    """Run a line in a shell; returns standard output and error."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "PATH": path, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    printed = done.stdout.decode(errors="replace")
    assert done.returncode == expect, (done.returncode, printed)
    return printed


def advised(printed: str) -> str:
    """The command at the end of a message."""
    return printed.rstrip().rpartition("with: ")[2]


def finishes(front: Front) -> int:
    return sum(seen.path.endswith("/finish") for seen in front.seen)


# --- A file that changes between the two passes ---------------------------------------------------


def overwrite(at: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(at if at >= 0 else file.stat().st_size + at)
            opened.write(b"7")

    return change


def grow(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"1\n")


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def exchange(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes().replace(b"1.0", b"2.0"))
    other.replace(file)


CHANGES: dict[str, Callable[[Path], None]] = {
    "the first record": overwrite(7),
    "the last record": overwrite(-30),
    "grown": grow,
    "cut": cut,
    "replaced": exchange,
}


@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_sent_is_never_finished(
    front: Front,
    change: str,
    touched: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Exit 3 before finish, even if size and time are unchanged; no changed byte is sent."""
    file = written(Path("in.ndjson"), lines(60_000))
    content, before = file.read_bytes(), file.stat()
    changed: list[str] = []

    def edit(seen: Seen) -> None:
        if seen.seq_num is not None and not changed:
            changed.append(change)
            CHANGES[change](file)
            if not touched:
                os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    front.after = edit
    _, said = run("upload", file, "--batch-size", 6000, expect=3)
    front.quiet()
    assert changed
    assert "in.ndjson has changed" in said
    assert finishes(front) == 0
    front.after = lambda _: None
    # With the old content restored, the upload can be resumed.
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    run("resume", file)
    assert merged() == content


def test_the_command_printed_after_a_change_uploads_the_new_content(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(60_000))
    before = file.stat()

    def edit(seen: Seen) -> None:
        if seen.seq_num == 1:
            overwrite(7)(file)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    front.after = edit
    _, said = run("upload", file, "--batch-size", 6000, expect=3)
    front.after = lambda _: None
    shell(advised(said))
    assert merged() == file.read_bytes()


@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_is_only_touched_or_moved_is_unchanged(
    front: Front,
    moved: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    file = written(Path("a"), lines(20_000))
    content = file.read_bytes()

    def change(seen: Seen) -> None:
        if seen.seq_num == 1:
            file.rename("b") if moved else os.utime(file, (1, 1))

    front.after = change
    run("upload", file, "--batch-size", 1000)
    assert merged("a") == content


@pytest.mark.parametrize(
    "line",
    [
        "gapless upload <(seq 1 5)",
        "mkfifo p; seq 1 5 > p & gapless upload p",
        "seq 1 5 | gapless upload -",
        "seq 1 5 | gapless upload /dev/stdin",
        "gapless upload - < <(seq 1 5)",
    ],
)
def test_pipes_are_read_once(front: Front, line: str) -> None:
    printed = shell(line)
    assert "5 records" in printed
    assert PROVED in printed
    assert front.batches() == [0]


@pytest.mark.parametrize(
    "line",
    ["gapless upload <(false)", "false | gzip | gapless upload -", "gapless upload /dev/null"],
)  # fmt: skip
def test_a_producer_that_died_is_an_error(front: Front, line: str) -> None:
    assert re.search("The (?:input|file) is empty", shell(line, expect=3))
    assert not front.seen


# --- Signals and time -----------------------------------------------------------------------------


RELAY = """
import socket, sys, threading, time
host, port, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
turn = threading.Lock()

def pump(source, sink, slow):
    try:
        while block := source.recv(16384):
            if slow:
                with turn:
                    time.sleep(len(block) / rate)
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    server = socket.create_connection((host, port))
    for pair in ((client, server, True), (server, client, False)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


@contextmanager
def relay(upstream: str, rate: int) -> Iterator[str]:
    """A proxy that sends ``rate`` bytes per second and buffers, as a modem does; its URL."""
    to = httpx.URL(upstream)
    line = [sys.executable, "-c", RELAY, to.host, str(to.port), str(rate)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def test_a_slow_uplink_goes_through(front: Front) -> None:
    """Sending a body takes much longer than ``silence``; two concurrent ones take twice as long."""
    records = [b'"%s"' % os.urandom(500).hex().encode() for _ in range(6000)]
    file = written(Path("in.ndjson"), records)
    with relay(os.environ["GAPLESS_URL"], 600_000) as url:
        assert gapless.upload(file, url, silence=0.5, batch_size=1000).ok
    assert sorted(set(front.batches())) == list(range(6))
    assert merged() == file.read_bytes()


def test_a_time_out_and_a_slow_answer_are_congestion(front: Front) -> None:
    """Like a 429: they halve the concurrency, which has grown to three before."""
    running: set[int] = set()
    number = 0
    three: anyio.Event

    class Line(httpx.AsyncBaseTransport):
        """Some batches time out. The second waits until there are three."""

        def __init__(self) -> None:
            self._inner = httpx.AsyncHTTPTransport()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal number, three
            if request.method != "PUT" or not BATCH.fullmatch(request.url.path):
                return await self._inner.handle_async_request(request)
            number += 1
            this = number
            if this == 1:
                three = anyio.Event()
            running.add(this)
            if len(running) == 3:
                three.set()
            try:
                if this == 2:
                    with anyio.fail_after(300):
                        await three.wait()
                if this in range(4, 12):
                    raise httpx.WriteTimeout("", request=request)
                return await self._inner.handle_async_request(request)
            finally:
                running.remove(this)

        async def aclose(self) -> None:
            await self._inner.aclose()

    result = gapless.upload(
        lines(60), os.environ["GAPLESS_URL"], batch_size=1, transport=Line(), sleep=no_pause
    )
    assert result.ok
    limiter = AdaptiveLimiter(8)
    for _ in range(7):
        limiter.succeeded()
    assert limiter.limit == 8
    limiter.congested(limiter.congestions)
    limiter.congested(limiter.congestions - 1)
    assert limiter.limit == 4
    assert front.batches()


class Clock:
    """A clock that advances only in pauses."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses = 0
        self.jumps: dict[int, float] = {}

    async def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.now += seconds + self.jumps.pop(self.pauses, 0.0)
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("jump", [0.0, 30.0, 3600.0])
def test_patience_restarts_after_a_jump(front: Front, jump: float) -> None:
    """A process that was stopped or asleep for longer than its patience made no attempts.

    One attempt takes longer than a look at the clock: on a busy machine each may.
    """
    clock = Clock()
    clock.jumps = {2: jump}
    refused = [0]

    def rule(seen: Seen) -> Said | None:
        if seen.seq_num is not None and refused[0] < 7:
            refused[0] += 1
            if refused[0] == 5:
                time.sleep(1.5)
            raise DroppedError
        return None

    front.rule = rule
    settings: dict[str, Any] = {"clock": lambda: clock.now, "sleep": clock.sleep}
    settings |= {"chance": lambda: 1.0, "patience": 20.0}

    def send() -> gapless.Result:
        return gapless.upload([1], os.environ["GAPLESS_URL"], **settings)

    if jump:
        assert send().ok
    else:
        with pytest.raises(gapless.UnavailableError, match="without a good response"):
            send()
        # 0.5 + 1 + 2 + 4 + 8 s, and the rest of the 20 s: the last attempt is at their end.
        assert (refused[0], clock.now) == (7, 1020.0)


def test_a_closed_port_is_retried_after_a_first_response(front: Front) -> None:
    """The service is restarting."""
    left = [3]

    class Restarting(httpx.AsyncBaseTransport):
        def __init__(self) -> None:
            self._inner = httpx.AsyncHTTPTransport()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path != SESSIONS and left[0]:
                left[0] -= 1
                cause = [ConnectionRefusedError(111, "refused"), socket.gaierror(-3, "later")]
                raise httpx.ConnectError("") from cause[left[0] % 2]
            return await self._inner.handle_async_request(request)

        async def aclose(self) -> None:
            await self._inner.aclose()

    url = os.environ["GAPLESS_URL"]
    assert gapless.upload([1], url, transport=Restarting(), sleep=no_pause).ok
    assert left == [0]
    assert front.batches() == [0]


@contextmanager
def self_signed(folder: Path) -> Iterator[str]:
    """An HTTPS server with an untrusted certificate."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    with ThreadingHTTPServer(("localhost", 0), BaseHTTPRequestHandler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nothing listens on, and that nobody else gets: it stays bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def fails_immediately(url: str, *options: str, expect: int = 5, names: str = "GAPLESS_URL") -> str:
    """Expect one line, no second attempt, and the name of the setting to check."""
    file = written(Path("in.ndjson"), [b"1"])
    out, said = run("upload", file, "--url", url, "--json", *options, expect=expect)
    events = [json.loads(line) for line in out.splitlines()]
    assert [one["event"] for one in events if one["event"] != "input"] == ["error"]
    assert "Traceback" not in out + said
    assert names in events[-1]["message"]
    assert "\n" not in events[-1]["message"]
    return str(events[-1]["message"])


def test_a_permanent_fault_is_reported_immediately(folder: Path, closed_port: int) -> None:
    assert "refused" in fails_immediately(f"http://127.0.0.1:{closed_port}")
    assert "host name is unknown" in fails_immediately("http://nobody.invalid")
    with self_signed(folder) as url:
        assert "not trusted" in fails_immediately(url, names="SSL_CERT_FILE")
        plain = url.replace("https", "http")
        out, _ = run("upload", "in.ndjson", "--url", plain, "--json", expect=5)
        assert "https://" in out
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "TLS" in fails_immediately(f"https://127.0.0.1:{server.server_port}")
        server.shutdown()


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_ends_it_immediately(
    front: Front, folder: Path, number: signal.Signals, code: int, request: pytest.FixtureRequest
) -> None:
    """While it waits for a pipe, and while it reads a large file."""
    # Under nohup the signal is ignored, and child processes inherit that.
    inherited = signal.signal(number, signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(number, inherited))
    (folder / "tmp").mkdir()
    os.mkfifo("pipe")
    with (Path("large.ndjson")).open("wb") as large:
        large.write(b"{]\n")
        large.writelines(b'{"some":"record"}\n' * 100_000 for _ in range(100))
    for name, sign in (("pipe", None), ("large.ndjson", b"reading: 10 %")):
        with subprocess.Popen(
            gapless_command("upload", "--skip-invalid", name),
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr
            if sign is None:
                with Path(name).open("wb") as pipe:  # the command reads it
                    pipe.write(b"1\n")
                    pipe.flush()
                    process.send_signal(number)
                    assert process.wait(60) == code
            else:
                while sign not in (line := process.stderr.readline()):
                    assert line, "it has ended"
                process.send_signal(number)
            rest = process.stderr.read()
            assert process.wait(60) == code
        assert f"interrupted. Nothing of {name} was sent.".encode() in rest
        assert b"input:" not in rest, "it did not read on to the end"
        assert list((folder / "tmp").iterdir()) == []
        assert list(folder.glob("*.invalid")) == []
    assert not front.seen


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets the size of a pipe")
def test_a_signal_ends_it_also_if_nobody_reads_what_it_prints(front: Front) -> None:
    """There is room for one more line."""
    with Path("large.ndjson").open("wb") as large:
        large.writelines(b'{"some":"record"}\n' * 100_000 for _ in range(100))
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * (size - len(b"reading: 10 %\n")))
    with subprocess.Popen(gapless_command("upload", "large.ndjson"), stderr=writer) as process:
        while readable(reader) < size:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 130
        finally:
            process.kill()
    os.close(reader)
    os.close(writer)
    assert not front.seen


def readable(descriptor: int) -> int:
    """How many bytes a pipe holds."""
    found = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, found)
    return found[0]


def test_a_signal_ends_it_also_while_the_bar_is_drawn(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The thread that draws holds a lock, and waits for one of the interrupted code."""
    bars = Bars()
    holds, ended = threading.Event(), threading.Event()

    def draw() -> None:
        with bars._bars.live._lock:  # noqa: SLF001 - as that thread does
            holds.set()
            ended.wait(300)

    drawing = threading.Thread(target=draw)
    drawing.start()
    assert holds.wait(300)
    restoring = threading.Thread(target=bars.restore, daemon=True)
    restoring.start()
    restoring.join(60)
    assert not restoring.is_alive()
    ended.set()
    drawing.join()
    assert "\x1b[?25h" in capfd.readouterr().err


def test_the_command_an_interrupted_upload_prints_resumes_it(front: Front) -> None:
    file = written(Path("my orders.ndjson"), lines(1000))
    with subprocess.Popen(
        gapless_command("upload", file, "--batch-size", 10, "--parallel", 1),
        stderr=subprocess.PIPE,
    ) as process:
        front.after = lambda _: (
            process.send_signal(signal.SIGTERM) if len(front.batches()) == 5 else None
        )
        assert process.stderr
        said = process.stderr.read().decode()
        assert process.wait(60) == 143
    front.quiet()
    front.after = lambda _: None
    stored = set(front.batches())
    front.seen.clear()
    assert advised(said) == "gapless resume 'my orders.ndjson'"
    assert PROVED in shell(advised(said))
    assert stored.isdisjoint(front.batches())


# --- State that cannot be saved, or is stale ------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {"GAPLESS_STATE_DIR": "/dev/null/state"},
        {"GAPLESS_STATE_DIR": "/proc/1/state"},
        {"GAPLESS_STATE_DIR": "", "HOME": "/proc/nonexistent", "XDG_STATE_HOME": ""},
        {"GAPLESS_STATE_DIR": "loop"},
    ],
)
def test_an_upload_works_if_no_state_can_be_saved(
    front: Front, environ: dict[str, str], folder: Path
) -> None:
    Path("loop").symlink_to("loop")
    file = written(Path("in.ndjson"), lines(100))
    printed = shell("gapless upload in.ndjson", environ)
    assert PROVED in printed
    assert printed.count("cannot be written") == 1
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 4 else None
    line = "gapless upload in.ndjson --batch-size 10 --parallel 1"
    printed = shell(line, environ, expect=6)
    front.rule = lambda _: None
    assert "--session" in advised(printed)
    assert PROVED in shell(advised(printed), environ)
    assert "Traceback" not in printed
    assert not (folder / "~").exists()
    assert file.exists()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_and_its_target_are_one_file(front: Front, link: Callable[[str, str], None]) -> None:
    file = written(Path("orders.ndjson"), lines(100))
    link("orders.ndjson", "latest.ndjson")
    begin(front, Path("latest.ndjson"))
    assert "unfinished" in run("upload", file, expect=2)[1]
    run("resume", file)
    assert merged("latest.ndjson") == file.read_bytes()


def test_a_change_after_a_finished_upload_is_explained(front: Front) -> None:
    """A finished session cannot be aborted: the advice uploads the new content."""
    assert front
    written(Path("a.ndjson"), [b"1"])
    run("upload", "a.ndjson")
    written(Path("a.ndjson"), [b"1", b"2"])
    printed = shell("gapless resume a.ndjson", expect=3)
    assert "is finished" in printed
    assert "abort" not in printed
    assert PROVED in shell(advised(printed))
    assert merged("a.ndjson") == b"1\n2\n"


def test_another_file_under_an_old_name_is_uploaded(front: Front) -> None:
    """A crash last night must not block the job of tonight."""
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    session = json.loads(run("list", "--json")[0])["sessionId"]
    written(file, lines(120))
    _, said = run("upload", file)
    assert f"session {session}" in said
    assert merged() == file.read_bytes()
    # The printed command aborts the old session.
    found = re.search(r"with: (gapless abort .*)\.$", said, re.MULTILINE)
    assert found
    assert "aborted" in shell(found[1])
    assert run("list")[0] == ""


GONE: dict[str, Said] = {
    "404": Said(404, {"code": "session_not_found", "detail": "There is no session of this id."}),
    "410": Said(410, {"code": "session_expired", "detail": "The session has expired."}),
}


@pytest.mark.parametrize("answer", GONE)
def test_a_session_that_no_longer_exists_is_explained(front: Front, answer: str) -> None:
    file = written(Path("my orders.ndjson"), lines(100))
    begin(front, file)
    old = json.loads(run("list", "--json")[0])["sessionId"]
    front.rule = lambda seen: GONE[answer] if old in seen.path else None
    _, said = run("resume", file, expect=1)
    assert advised(said) == "gapless upload --new --batch-size 10 'my orders.ndjson'"
    run("status", file, expect=1)
    _, said = run("upload", file)
    assert f"session {old}, no longer exists" in said
    assert merged(file) == file.read_bytes()

    begin(front, written(Path("b.ndjson"), lines(100)))
    old = json.loads(run("list", "--json")[0])["sessionId"]
    front.rule = lambda seen: GONE[answer] if old in seen.path else None
    out, _ = run("abort", "b.ndjson")
    assert "no longer exists" in out
    assert run("list")[0] == ""
    run("abort", old, expect=1)


def test_an_upload_starts_over_after_an_abort_by_id(front: Front) -> None:
    file = written(Path("my orders.ndjson"), lines(100))
    begin(front, file)
    old = json.loads(run("list", "--json")[0])["sessionId"]
    run("abort", old)
    assert run("list")[0] == ""
    assert PROVED in run("upload", file)[0]


def test_an_upload_to_another_service_is_independent(front: Front, service: str) -> None:
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    assert PROVED in run("upload", file, "--url", service)[0]
    assert "gapless resume" in run("upload", file, expect=2)[1]


def test_two_uploads_of_one_file_are_independent(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    first = json.loads(run("list", "--json")[0])["sessionId"]
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 4 else None
    run("upload", file, "--new", "--batch-size", 10, "--parallel", 1, expect=6)
    front.rule = lambda _: None
    listed = [json.loads(line) for line in run("list", "--json")[0].splitlines()]
    assert [one["sessionId"] == first for one in listed] == [False, True]
    shell(listed[1]["resume"])
    left = [json.loads(line) for line in run("list", "--json")[0].splitlines()]
    assert [one["sessionId"] for one in left] == [listed[0]["sessionId"]]
    shell(left[0]["resume"])
    assert run("list")[1] == "No upload of this machine is unfinished.\n"
    assert merged() == file.read_bytes()


def test_a_finished_upload_is_downloaded_beside_an_unfinished_one(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(100))
    run("upload", file)
    begin(front, file)
    assert merged() == file.read_bytes()
    assert "OPEN" in run("status", file)[0]


def test_a_damaged_state_is_ignored(front: Front, folder: Path) -> None:
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    for place in (folder / "state").iterdir():
        place.write_bytes(b"{")
    assert PROVED in run("upload", file)[0]


# --- Bytes, names, streams ------------------------------------------------------------------------

NAMES = [
    b"caf\xe9.ndjson",
    ("漢" * 82 + ".ndjson").encode(),
    b"my 'orders' $HOME.ndjson",
    b"-x.ndjson",
    b"two\nlines.ndjson",
    b"\x1b[31mred\\.ndjson",
]


@pytest.mark.parametrize("raw", NAMES, ids=range(len(NAMES)))
def test_any_name_is_uploaded_resumed_and_downloaded(front: Front, raw: bytes) -> None:
    file = written(Path(os.fsdecode(raw)), lines(100))
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 4 else None
    name = quote(as_argument(file))
    printed = shell(f"gapless upload --batch-size 10 --parallel 1 {name}", expect=6)
    assert "Traceback" not in printed
    assert "\x1b" not in printed
    front.rule = lambda _: None
    assert advised(printed) == command("resume", as_argument(file))
    assert PROVED in shell(advised(printed))
    shell(f"gapless status {name}; gapless list")
    shell(f"gapless download {name}")
    (copy,) = Path().glob("*.merged.ndjson")
    assert copy.read_bytes() == file.read_bytes()


STREAMS = [
    "2>&-",
    ">&-",
    ">&- 2>&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
    "&>/dev/full",
    "| true",
    "2>&1 | true",
    "--json | true",
    "--json >/dev/full",
]


@pytest.mark.parametrize("streams", STREAMS)
def test_streams_that_are_closed_or_broken_do_not_matter(front: Front, streams: str) -> None:
    written(Path("a.ndjson"), lines(100))
    shell(f"gapless upload a.ndjson --batch-size 10 {streams}; exit ${{PIPESTATUS[0]}}")
    assert sorted(front.batches()) == list(range(10))
    assert finishes(front) == 1


def test_output_without_unicode(front: Front) -> None:
    written(Path("é.ndjson"), lines(100))
    environ = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    assert PROVED in shell("gapless upload $'\\xc3\\xa9.ndjson'", environ)
    begin(front, Path("é.ndjson"))
    assert "Missing" in shell("gapless status $'\\xc3\\xa9.ndjson'", environ)


@pytest.mark.parametrize(
    ("environ", "code", "says"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, 2, "ALL_PROXY"),
        ({"http_proxy": "http://127.0.0.1:1"}, 5, "http_proxy"),
        ({"HTTP_PROXY": "http://user:s3cret@[::1"}, 2, "HTTP_PROXY"),
        ({"ALL_PROXY": "ftp://127.0.0.1"}, 2, "ALL_PROXY"),
        ({"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "localhost,[::1],127.0.0.1"}, 0, PROVED),
        ({"NO_PROXY": "localhost,[::1]"}, 0, PROVED),
        ({"HTTP_PROXY": "", "NO_PROXY": "*"}, 0, PROVED),
        (
            {"SSL_CERT_FILE": "/nonexistent", "GAPLESS_URL": "https://localhost:1"},
            2,
            "SSL_CERT_FILE",
        ),
        # Nothing is asked by https.
        ({"SSL_CERT_FILE": "/nonexistent"}, 0, PROVED),
        ({"TMPDIR": "/nonexistent"}, 0, PROVED),
    ],
)
def test_standard_environment_variables_work_or_are_named(
    front: Front, environ: dict[str, str], code: int, says: str
) -> None:
    written(Path("a.ndjson"), [b"1"])
    printed = shell("gapless upload a.ndjson", environ, expect=code)
    assert says in printed
    assert "Traceback" not in printed
    assert "s3cret" not in printed
    assert front.batches() == [0] * (code == 0)
    last = printed.strip().splitlines()[-1]
    assert code == 0 or (last.startswith("gapless: ") and "a.ndjson" in last)


@pytest.mark.parametrize(
    "url",
    ["http://localhost:32OO", "http://localhost:99999", "localhost:3000", "ftp://localhost", "http://",
     "http://[::1", "http://a b/", "http://user:s3cret@localhost:3000", "http://localhost/?key=s3cret",
     "ftp://user:s3cret@host", "http://:s3cret@host:x"],
)  # fmt: skip
def test_an_invalid_url_is_reported_before_anything_is_read(url: str) -> None:
    """Exit 2; reading would wait for the pipe forever."""
    os.mkfifo("pipe")
    out, said = run("upload", "pipe", "--url", url, expect=2)
    assert "GAPLESS_URL" in said
    assert "s3cret" not in out + said
    assert "Traceback" not in said


def test_a_line_end_after_a_url_or_a_token_is_removed(front: Front) -> None:
    url = os.environ["GAPLESS_URL"]
    written(Path("a.ndjson"), [b"1"])
    environ = {"GAPLESS_URL": f" {url}/\r\n", "GAPLESS_TOKEN": "eyJ.SECRET\r\n"}
    shell("gapless upload a.ndjson", environ)
    assert {seen.authorization for seen in front.seen} == {"Bearer eyJ.SECRET"}


@pytest.mark.parametrize(
    "token", ["eyJ.SEC\nRET", "eyJ.SECRÉT", "Bearer SECRET", "SEC\x00RET", " "]
)
def test_a_token_that_no_header_may_contain_is_never_printed(front: Front, token: str) -> None:
    written(Path("a.ndjson"), [b"1"])
    Path("token").write_text(token)
    line = "gapless upload a.ndjson --token-command 'cat token'"
    printed = shell(line, expect=6) + shell(f"{line} --json", expect=6)
    assert "token" in printed
    assert not re.search("SEC|RET", printed)
    assert not front.seen


# --- Output ---------------------------------------------------------------------------------------


@pytest.fixture
def stored(front: Front) -> bytes:
    """Upload ``a.ndjson``; returns its content."""
    assert front
    content = written(Path("a.ndjson"), lines(100)).read_bytes()
    run("upload", "a.ndjson")
    return content


def test_a_closed_standard_output_fails_a_download(stored: bytes) -> None:
    assert stored
    printed = shell("gapless download a.ndjson -o - >&-", expect=1)
    assert "Standard output is closed" in printed


def test_a_reader_that_stops_early_is_not_an_error(stored: bytes) -> None:
    """Like a filter that SIGPIPE ended: no message, and the exit code is not 0."""
    assert stored
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        gapless_command("download", "a.ndjson", "-o", "-"),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_pipe_a_link_and_standard_output_are_written(stored: bytes) -> None:
    os.mkfifo("pipe")
    assert shell("cat pipe > got & gapless download a.ndjson -o pipe; wait")
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
    assert Path("got").read_bytes() == stored

    Path("link").symlink_to("target")
    for _ in range(2):
        run("download", "a.ndjson", "-o", "link")
        assert Path("link").is_symlink()
        assert Path("target").read_bytes() == stored

    out, _ = run("download", "a.ndjson", "-o", "-")
    assert out.encode() == stored
    assert not Path("-").exists()
    out, _ = run("download", "a.ndjson", "-o", "/dev/stdout")
    assert out.encode().startswith(stored)
    shell("gapless download a.ndjson -o /dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a device")
def test_a_device_is_not_replaced(stored: bytes) -> None:
    assert stored
    try:
        os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        Path("null").write_bytes(b"1")
    except PermissionError:
        pytest.skip("no devices may be made here")
    run("download", "a.ndjson", "-o", "null")
    assert stat.S_ISCHR(Path("null").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("orders.2024-01.ndjson", "orders.2024-01.merged.ndjson"),
        ("ORDERS.NDJSON", "ORDERS.merged.ndjson"),
        ("orders.csv.gz", "orders.merged.ndjson"),
        ("orders", "orders.merged.ndjson"),
        (".hidden.json", ".hidden.merged.ndjson"),
        ("v1.2", "v1.2.merged.ndjson"),
        ("漢" * 80 + ".ndjson", "漢" * 80 + ".merged.ndjson"),
    ],
)
def test_a_download_gets_another_name_than_the_input(front: Front, name: str, copy: str) -> None:
    assert front
    file = Path(name)
    file.write_bytes(b"a,b\n1,2\n" if "csv" in name else b'{"a":1}\n')
    run("upload", name)
    out, _ = run("download", name)
    assert out.startswith(f"{copy}: ")
    assert Path(copy).exists()


def test_nothing_is_overwritten_without_force(stored: bytes) -> None:
    Path("a.merged.ndjson").write_text("mine")
    _, said = run("download", "a.ndjson", expect=2)
    assert "--force" in said
    assert Path("a.merged.ndjson").read_text() == "mine"
    run("download", "a.ndjson", "--force")
    assert Path("a.merged.ndjson").read_bytes() == stored
    Path("a.manifest.json").symlink_to("nowhere")
    run("download", "a.ndjson", "--manifest", expect=2)


def test_a_failed_download_leaves_no_file(stored: bytes, front: Front, closed_port: int) -> None:
    assert stored
    front.rule = lambda seen: (
        Said(200, {"url": f"http://127.0.0.1:{closed_port}/x?X-Amz-Signature=s3cret"})
        if "/file" in seen.path
        else None
    )
    before = set(Path().iterdir())
    _, said = run("download", "a.ndjson", expect=5)
    assert "s3cret" not in said
    assert set(Path().iterdir()) == before
    _, said = run("download", "a.ndjson", "-o", "no/such/folder", expect=1)
    assert said.startswith("gapless: no/such/folder: No such file")


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (Said(413, {}, text="<html><title>413 Too Large</title></html>"), 1, "--batch-size"),
        (Said(429, {}, {"Retry-After": "86400"}), 5, "it asks to wait 86,400 s, see --patience"),
        (Said(308, {}, {"Location": "https://127.0.0.1/x?s3cret"}), 1, "begin with https://"),
        (Said(502, {}, text="<html><title>Bad\n Gateway</title></html>"), 5, "Bad Gateway [502]"),
        (Said(503, {}), 5, "Service Unavailable [503]"),
    ],
)
def test_refusals_of_proxies_and_gateways_are_explained(
    front: Front, answer: Said, code: int, says: str
) -> None:
    """They have none of the service's codes: the message has their text, and advice."""
    written(Path("a.ndjson"), [b"1"])
    front.rule = lambda seen: answer if seen.seq_num is not None else None
    out, said = run("upload", "a.ndjson", "--patience", 0, expect=code)
    assert says in said
    assert "s3cret" not in out + said
    assert "<" not in said


PORTAL = "<html><head><title>Welcome to the\n airport</title></head>please log in</html>"


@pytest.mark.parametrize("status", [200, 201, 302, 307])
@pytest.mark.parametrize("request_", ["create", "batch", "status", "finish", "abort"])
def test_a_captive_portal_is_an_error(front: Front, request_: str, status: int) -> None:
    """Only the documented status is a success: a 200 for a batch is not."""
    file = written(Path("a.ndjson"), lines(100))
    if request_ in {"status", "abort"}:
        begin(front, file)

    def rule(seen: Seen) -> Said | None:
        kind = {"DELETE": "abort", "GET": "status"}.get(seen.method, "batch")
        kind = "create" if seen.path == SESSIONS else kind
        kind = "finish" if seen.path.endswith("/finish") else kind
        if kind != request_:
            return None
        to = {"Location": "https://login.example.com/?token=s3cret"} if status >= 300 else {}
        return Said(status, {"html": PORTAL}, {"Content-Type": "text/html", **to}, PORTAL)

    front.rule = rule
    verb = request_ if request_ in {"status", "abort"} else "upload"
    _, said = run(verb, file, expect=1)
    assert "s3cret" not in said
    assert "GAPLESS_URL" in said
    if status >= 300:
        assert "redirect to https://login.example.com" in said
    else:
        assert "Welcome to the airport" in said


def test_several_files_are_all_tried(front: Front) -> None:
    written(Path("a.ndjson"), [b"1"])
    written(Path("b.ndjson"), [b"{]"])
    written(Path("c.ndjson"), [b"3"])
    out, said = run("upload", "a.ndjson", "b.ndjson", "c.ndjson", expect=3)
    assert [line.split(":")[0] for line in out.splitlines()] == ["a.ndjson", "c.ndjson"]
    assert "gapless: b.ndjson, line 1" in said
    assert said.splitlines()[-1] == "2 of 3 files uploaded; failed: b.ndjson"
    assert front.batches() == [0, 0]

    _, said = run("upload", "none.ndjson", "b.ndjson", ".", expect=3)
    assert said.splitlines()[-1] == "0 of 3 files uploaded; failed: none.ndjson, b.ndjson, ."
    front.rule = lambda seen: Said(500, {}) if seen.seq_num is not None else None
    _, said = run("upload", "a.ndjson", "b.ndjson", "--patience", 0, expect=1)
    assert "0 of 2" in said
    out, _ = run("upload", "a.ndjson", "b.ndjson", "--json", "--patience", 0, expect=1)
    summary = json.loads(out.splitlines()[-1])
    assert (summary["event"], summary["uploaded"]) == ("summary", 0)


def test_repeated_retries_print_one_line(front: Front) -> None:
    left = [12]

    def rule(seen: Seen) -> Said | None:
        if seen.seq_num is None or left[0] == 0:
            return None
        left[0] -= 1
        return Said(503, {"message": "Service Unavailable", "requestId": f"r{left[0]}"})

    front.rule = rule
    file = written(Path("in.ndjson"), lines(100))
    _, said = run("upload", file, "--batch-size", 10)
    assert left == [0]
    assert said.count("retrying") == 1
    assert said.count("503") == 1


def test_quiet_prints_only_errors(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(100))
    assert run("upload", file, "--quiet") == ("", "")
    assert run("download", file, "-q") == ("", "")
    out, said = run("upload", "none", "-q", expect=3)
    assert (out, said) == ("", "gapless: none: No such file or directory\n")
    assert front.batches() == [0]


def test_numbers_agree_with_their_nouns(front: Front) -> None:
    written(Path("one.ndjson"), [b"1"])
    out, said = run("upload", "one.ndjson")
    assert "1 record, 2 bytes in 1 batch " in out
    assert "1 batch of 1 record" in said
    assert front.batches() == [0]


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_no_help_is_cut_off(name: str) -> None:
    printed = shell(f"COLUMNS=80 gapless {name} --help")
    assert "..." not in printed.replace("[ARGS]...", "").replace("FILES...", "")
    assert max(map(len, printed.splitlines())) <= 80


# --- No secret in any message ---------------------------------------------------------------------


def test_no_output_contains_a_secret(
    front: Front, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """After all kinds of failures, with all logging enabled."""
    token = "eyJhbGciOi.eyJzdWIiOi.S3CR3Tsignature"
    echo = f"Bad token {token}: Bearer {token}; x-amz-security-token:S3CR3Tsession; //u:S3CR3T@host"
    presigned = "?X-Amz-Credential=S3CR3Tkey&X-Amz-Signature=S3CR3T&X-Amz-Security-Token=S3CR3T"
    file = written(Path("a.ndjson"), lines(10))
    printed = ""
    for status in (200, 204, 302, 400, 401, 403, 404, 409, 410, 413, 429, 500, 503):
        headers = {"Location": f"http://u:S3CR3T@elsewhere/{presigned}"}
        said = Said(status, {"code": "x", "detail": echo, "more": [echo]}, headers)
        front.rule = lambda _, said=said: said  # type: ignore[misc]
        for options in ([], ["--json"]):
            done = subprocess.run(
                gapless_command("upload", file, "--patience", 0, *options),
                env={**os.environ, "GAPLESS_TOKEN": token},
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode
            printed += (done.stdout + done.stderr).decode()
    front.rule = lambda _: None
    secret = f"{sys.executable} -c 'raise SystemExit(\"S3CR3T\"[:0] or 3)' S3CR3T"
    printed += "".join(run("upload", file, "--token-command", secret, expect=6))
    caplog.set_level(0)
    with gapless.Client(os.environ["GAPLESS_URL"], auth=gapless.TokenAuth(token)) as client:
        session = client.create(1, 1)
        session.send(0, [1])
        assert session.finish().ok
        session.download("got")
        link = Said(200, {"url": f"http://127.0.0.1:{closed_port}/{presigned}"})
        front.rule = lambda seen: link if seen.path.endswith("/file") else None
        with pytest.raises(gapless.GaplessError) as raised:
            session.download("got")
        printed += repr(raised.value) + repr(client) + repr(vars(raised.value))
        page = (
            "<Error><Code>AccessDenied</Code><AWSAccessKeyId>S3CR3T</AWSAccessKeyId>"
            "<StringToSign>S3CR3T</StringToSign></Error>"
        )
        store = Said(403, {}, {"Content-Type": "application/xml"}, page)
        link = Said(200, {"url": f"{os.environ['GAPLESS_URL']}/store{presigned}"})
        answers = {"file": link, "store": store}
        front.rule = lambda seen: answers.get(seen.path.rpartition("/")[2].partition("?")[0])
        with pytest.raises(gapless.AuthError, match="AccessDenied") as refused:
            session.download("got")
        printed += repr(refused.value) + repr(refused.value.problem)
    printed += caplog.text
    assert "AccessDenied" in printed
    assert "S3CR3T" not in printed


def test_what_looks_like_a_secret_is_redacted() -> None:
    for text in (
        "https://user:S3CR3T@host/path",
        "GET https://bucket/key?X-Amz-Signature=S3CR3T&a=1",
        '{"token": "S3CR3T"}',
        "Authorization: Bearer S3CR3T",
        "password=S3CR3T;",
        "x-amz-security-token:S3CR3T",
        "Credential=S3CR3T/20260101/us-east-1",
        "eyJhbGciOi.S3CR3T.S3CR3T",
    ):
        assert "S3CR3T" not in redact(text), text
    assert redact("a word", ["word"]) == "a …"
    plain = (
        "in.ndjson: 3 records at http://localhost:3000, session 1f6d0e9c52b84a7fb3d27c0a94e8f615"
    )
    assert redact(plain) == plain


# --- Conformance ----------------------------------------------------------------------------------


def test_conformance_stops_if_no_server_responds(closed_port: int) -> None:
    out, said = run("conformance", f"http://127.0.0.1:{closed_port}", expect=5)
    assert out == ""
    assert "refused" in said


def test_conformance_stops_if_the_server_stops_responding(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "_ATTEMPTS", 1)

    def rule(_: Seen) -> Said | None:
        if len(front.seen) > 3:
            raise DroppedError
        return None

    front.rule = rule
    begun: list[str] = []
    service = conformance.Service(os.environ["GAPLESS_URL"])
    with pytest.raises(gapless.UnavailableError, match="stop here"):
        list(conformance.run(service, (), begun.append))
    service.close()
    assert len(front.seen) == 4
    assert begun == list(conformance.CHECKS)[: len(begun)]
    assert len(begun) < 5


def test_conformance_shows_each_check_as_it_ends(front: Front) -> None:
    out, _ = run(
        "conformance", os.environ["GAPLESS_URL"], "--only", "given twice", "--only", "digest"
    )
    assert re.findall("^(pass|FAIL)  ", out, re.MULTILINE) == ["pass", "pass"]
    assert front.seen
