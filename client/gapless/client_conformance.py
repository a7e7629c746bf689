"""Black-box checks that a client keeps the protocol: the counterpart of ``conformance``.

The client runs as a process of its own. An adapter in it reads one JSON request per line from
standard input and answers each with one line on standard output (docs/conformance.md). The service
is real; a proxy in front of it causes the faults. ``client_cases.json`` has the cases.
"""

import json
import os
import secrets
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any, Final

import msgspec

from gapless.conformance import Failed, Outcome, Service
from gapless.errors import GaplessError, SettingError
from gapless.faulty_proxy import Fault, FaultyProxy, Seen
from gapless.text import count, printable

_BATCH_SIZE: Final = 3
_RECORDS: Final = 10
_CLIENTS: Final = 4
"""How many processes of the client run at the same time: most cases wait most of the time."""

_SECONDS: Final = 60.0
"""How long a client may take for one request of the suite."""

_START_SECONDS: Final = 5.0
"""How long the exit waits for a client that is being started."""

_MAX_TRIES: Final = 6
"""How often one request may be sent in a case. No case causes more than two faults of one."""

_MAX_POLLS: Final = 20
_EARLY_SECONDS: Final = 0.05
"""How much earlier than Retry-After a request may come: timers are not exact."""

_LONGEST_LINE: Final = 1_000_000
_SHOWN: Final = 200
_OUTCOMES: Final = {"success", "failed", "unsupported"}
_CREDENTIALS: Final = ("AWS_", "GAPLESS_AWS", "GAPLESS_TOKEN")
"""Beginnings of the environment variables for the service, which the client does not get."""

_running: Final[set["subprocess.Popen[bytes]"]] = set()
_starting: Final = Lock()
"""Held while a process is started and not yet in ``_running``."""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One case of ``client_cases.json``."""

    name: str
    rule: str
    """The group of the case, shown behind its name."""
    command: str = "upload"
    records: int = _RECORDS
    lines: tuple[str, ...] = ()
    """The file, instead of ``records`` plain records."""
    outcome: str = "success"
    """What the client must report: success, failed or either."""
    optional: bool = False
    """Whether a client may fail it."""
    token: bool = False
    """Whether each request must have the token."""
    tries: dict[str, int] = {}
    """How often a request may be sent, by its name such as ``batch 1``."""
    faults: tuple[Fault, ...] = ()

    def limit(self, name: str) -> int:
        """How often a request may be sent."""
        return self.tries.get(name, _MAX_POLLS if name == "status" else _MAX_TRIES)

    @property
    def content(self) -> bytes:
        """The file to upload."""
        # Any JSON library writes these strings in the same way.
        lines = self.lines or [json.dumps(f"record {n:04}") for n in range(self.records)]
        return "".join(f"{line}\n" for line in lines).encode()


CASES: Final = msgspec.json.decode(
    files("gapless").joinpath("client_cases.json").read_bytes(), type=tuple[Case, ...]
)


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """What the adapter answered. Other members are ignored."""

    outcome: str
    session_id: str = ""
    code: str = ""
    detail: str = ""


class ClientProcess:
    """The client under test as a process, which is started when it is needed.

    ``command`` is split like a shell does. Raises SettingError if it cannot be started.
    """

    def __init__(self, command: str) -> None:
        try:
            self._words = shlex.split(command, posix=os.name == "posix")
        except ValueError as error:
            raise SettingError(f"--client, {command!r}: {error}.") from None
        if not self._words:
            raise SettingError("--client needs the command of an adapter.")
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Queue[bytes] = Queue()
        self._answered = False
        """Whether the process has answered a request."""

    def _start(self) -> subprocess.Popen[bytes]:
        given = os.environ.items()
        environ = {name: value for name, value in given if not name.startswith(_CREDENTIALS)}
        # Nothing between the client and the proxy.
        environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        # Errors of the client; the last line explains why it ended.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in kill
        with _starting:
            try:
                process = subprocess.Popen(  # noqa: S603 - the command that was asked for
                    self._words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env=environ,
                    # With its children: it may be a script.
                    start_new_session=os.name == "posix",
                )
            except OSError as error:
                self._errors.close()
                raise SettingError(
                    f"The client, {self._words[0]}, cannot be started: {error.strerror or error}."
                ) from None
            _running.add(process)
        self._lines = Queue()
        Thread(target=_read, args=(process, self._lines), daemon=True).start()
        return process

    def ask(self, request: dict[str, Any], seconds: float) -> Answer:
        """Send a request; returns the answer. Raises Failed if there is none that can be used.

        A client that exits after its answer is started again for the next request.
        """
        line, code = self._exchange(request, seconds)
        if not line and not code and self._answered:
            self.kill()
            line, code = self._exchange(request, seconds)
        self._answered = True
        if not line:
            died = self._last_words(code)
            self.kill()
            raise Failed(died)
        try:
            answer = msgspec.json.decode(line, type=Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = Answer("")
        if answer.outcome not in _OUTCOMES:
            # The next line might be the answer to this request.
            self.kill()
            raise Failed(f"not an answer: {line[:_SHOWN]!r}; other output belongs on stderr")
        return answer

    def _exchange(self, request: dict[str, Any], seconds: float) -> tuple[bytes, int | None]:
        """The line that answers a request; empty if there is none, with the exit code if known."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self._process, self._answered = self._start(), False
        elif not self._lines.empty():
            more = self._lines.get()
            self.kill()
            if more:
                raise Failed(f"a second line after an answer: {more[:_SHOWN]!r}")
            # It has closed its output, and is about to exit.
            self._process, self._answered = self._start(), False
        process, lines = self._process, self._lines
        with suppress(OSError):  # it has exited, which reading shows
            assert process.stdin  # noqa: S101 - it is a pipe
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        try:
            line = lines.get(timeout=seconds)
        except Empty:
            self.kill()
            raise Failed(f"no answer within {seconds:.0f} s") from None
        if not line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        return line, process.returncode

    def _last_words(self, code: int | None) -> str:
        last = ""
        with suppress(OSError, ValueError):  # it was killed
            self._errors.seek(0)
            text = self._errors.read()[-_LONGEST_LINE:].decode(errors="replace")
            last = text.strip().rpartition("\n")[2]
        said = f": {_shown(last)}" if last else ""
        return f"the client exited without an answer (exit code {code}){said}"

    def kill(self) -> None:
        """Kill the process with its children, if it runs. May be called from any thread."""
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        _running.discard(process)
        for stream in (process.stdin, self._errors):
            with suppress(OSError):
                if stream:
                    stream.close()


def kill_all() -> None:
    """Kill every client, before this process exits: Ctrl-C does not reach them."""
    # Not released: no other may be started.
    _starting.acquire(timeout=_START_SECONDS)
    for process in list(_running):
        _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _read(process: "subprocess.Popen[bytes]", lines: "Queue[bytes]") -> None:
    """Put every line into a queue; an empty one at the end."""
    with suppress(OSError, ValueError):
        assert process.stdout  # noqa: S101 - it is a pipe
        with process.stdout as stream:
            while line := stream.readline(_LONGEST_LINE):
                lines.put(line)
    lines.put(b"")


def _shown(text: str) -> str:
    return printable(text[:_SHOWN].encode(errors="backslashreplace").decode())


def run(
    service: Service,
    command: str,
    names: Sequence[str] = (),
    begin: Callable[[str], object] = str,
    *,
    cases: Sequence[Case] = CASES,
    seconds: float = _SECONDS,
) -> Iterator[Outcome]:
    """Run all cases, or those whose name contains one of ``names``; calls ``begin`` with each.

    ``command`` starts the adapter, ``seconds`` limits each request to it. Raises SettingError if it
    cannot be started, UnavailableError if the service does not respond.
    """
    _check_service(service)
    chosen = [case for case in cases if not names or any(part in case.name for part in names)]
    clients: Queue[ClientProcess] = Queue()
    started = [ClientProcess(command) for _ in range(_CLIENTS)]
    for client in started:
        clients.put(client)

    def one(case: Case) -> Outcome:
        client = clients.get()
        begin(case.name)
        began = time.monotonic()
        try:
            findings, optional = _findings(service, client, case, seconds)
        finally:
            clients.put(client)
        took = round(time.monotonic() - began, 3)
        detail = "; ".join(findings)
        return Outcome(case.name, case.rule, not findings, detail, took, optional)

    threads = ThreadPoolExecutor(_CLIENTS)
    try:
        yield from threads.map(one, chosen)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for client in started:
            client.kill()
        threads.shutdown()


def _check_service(service: Service) -> None:
    """Raise GaplessError unless this is a Gapless: not a finding about the client."""
    try:
        service.call("GET", f"/{'0' * 32}").refused(404, "session_not_found")
    except Failed as failed:
        raise GaplessError(f"{service.url} is not a Gapless service: {failed}") from None


def _findings(
    service: Service, client: ClientProcess, case: Case, seconds: float
) -> tuple[list[str], bool]:
    """What the client does wrong in a case; and whether it may."""
    token = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory() as folder,
        FaultyProxy(service, case.faults, case.limit, client.kill) as proxy,
    ):
        path = Path(folder, "in.ndjson")
        path.write_bytes(case.content)
        request = {
            "case": case.name,
            "command": "upload",
            "url": proxy.url,
            "token": token,
            "file": str(path),
            "batchSize": _BATCH_SIZE,
        }
        try:
            answer = _ask(client, case, request, proxy, seconds)
        except Failed as failed:
            _check_proxy(proxy)
            if proxy.too_often:
                often = count(case.limit(proxy.too_often) + 1, "time")
                return [f"{proxy.too_often} was sent {often}; the client is stopped"], False
            return [str(failed)], False
        proxy.wait_until_idle()
        _check_proxy(proxy)
        if answer.outcome == "unsupported":
            return ["not supported"], case.command != "upload"
        findings = [
            *_judge_outcome(service, case, proxy, answer),
            *_judge_requests(proxy.seen),
            *_judge_progress(proxy),
        ]
        if case.token and any(seen.authorization != f"Bearer {token}" for seen in proxy.seen):
            findings.append("a request without “Authorization: Bearer” and the token")
        if case.command == "download":
            output = Path(folder, "out.ndjson")
            if not output.exists() or output.read_bytes() != case.content:
                findings.append("the downloaded file is not the one that was uploaded")
        if proxy.leaked:
            findings.append("the token was sent to another origin, with the link to the file")
    return findings, case.optional


def _check_proxy(proxy: FaultyProxy) -> None:
    """Raise what has stopped the proxy: not a finding about the client."""
    if isinstance(proxy.error, Failed):
        raise GaplessError(f"The service does not do what a case needs: {proxy.error}")
    if proxy.error:
        raise proxy.error


def _ask(
    client: ClientProcess, case: Case, request: dict[str, Any], proxy: FaultyProxy, seconds: float
) -> Answer:
    """The answer of the client to the last request of a case."""
    if case.command == "resume":
        with suppress(Failed):  # it is killed
            answer = client.ask(request, seconds)
            if answer.outcome == "unsupported":
                return answer
            return Answer("failed", detail="it ended before it was killed")
        proxy.wait_until_idle()
        session = proxy.sessions[0] if proxy.sessions else ""
        return client.ask(request | {"command": "resume", "sessionId": session}, seconds)
    answer = client.ask(request, seconds)
    if case.command == "download" and answer.outcome == "success":
        more = {"sessionId": answer.session_id, "output": request["file"].replace("in.", "out.")}
        return client.ask(request | {"command": "download"} | more, seconds)
    return answer


def _judge_outcome(
    service: Service, case: Case, proxy: FaultyProxy, answer: Answer
) -> Iterator[str]:
    if case.outcome not in {"either", answer.outcome}:
        said = " ".join(part for part in (answer.code, answer.detail) if part)
        yield f"it reports {answer.outcome}, not {case.outcome}" + (
            f": {_shown(said)}" if said else ""
        )
    elif answer.outcome == "failed" and not (answer.code or answer.detail):
        yield "it does not say why it failed"
    if answer.outcome != "success" or case.outcome == "failed":
        return
    session = answer.session_id
    if case.command == "download" and not session:
        session = (proxy.sessions or [""])[-1]
    if session not in proxy.sessions:
        yield f"sessionId {_shown(session)!r} is not a session of this upload"
        return
    state = service.status(session)["state"]
    if state != "FINISHED":
        yield f"it reports success, and the session is {state}"
        return
    try:
        merged = service.download(session)
    except Failed as failed:
        yield f"it reports success, and there is no merged object: {failed}"
    else:
        if merged != case.content:
            yield "it reports success, and the merged object is not the file"


def _judge_requests(requests: Sequence[Seen]) -> Iterator[str]:
    """Repeated requests, pauses, and what follows a gap report."""
    for name in {seen.name: None for seen in requests}:
        if name.startswith("batch") and len({s.content for s in requests if s.name == name}) > 1:
            yield f"{name} was sent again with other content"
    creates = {(s.idempotency_key, s.body) for s in requests if s.kind == "create"}
    if len(creates) > 1:
        yield "create was sent again with another Idempotency-Key or body"
    yield from _judge_pauses(requests)
    yield from _judge_gaps(requests)


def _judge_pauses(requests: Sequence[Seen]) -> Iterator[str]:
    for number, seen in enumerate(requests):
        if not seen.retry_after:
            continue
        # After 202 either of two requests continues.
        names = {"finish", "status"} if seen.status == 202 else {seen.name}  # noqa: PLR2004
        for later in requests[number + 1 :]:
            if later.name in names:
                pause = later.at - seen.answered_at
                if pause < seen.retry_after - _EARLY_SECONDS:
                    asked = f"Retry-After: {seen.retry_after:.0f}"
                    yield f"{later.name} was sent {pause:.2f} s after {seen.status} with {asked}"
                break


def _judge_gaps(requests: Sequence[Seen]) -> Iterator[str]:
    missing: set[int] = set()
    known: float = -1
    sent: set[int] = set()
    for seen in requests:
        if seen.kind == "batch" and seen.seq_num is not None:
            sent.add(seen.seq_num)
        if seen.kind != "finish":
            continue
        # Beyond a truncated report nothing is known.
        if missing and {n for n in sent if n <= known} != missing:
            found, wanted = sorted(sent), sorted(missing)
            yield f"after a report that {wanted} are missing it sent {found}, and finished again"
        missing, sent = set(), set()
        if isinstance(seen.json, dict) and seen.json.get("validationResult") == "Failed":
            for gap in seen.json.get("missing", []):
                missing.update(range(gap["from"], gap["to"] + 1))
            known = max(missing, default=-1)
            known = known if seen.json.get("missingTruncated") else float("inf")


def _judge_progress(proxy: FaultyProxy) -> Iterator[str]:
    """What an upload begins again although it need not."""
    sessions = len(set(proxy.sessions))
    if sessions > 1:
        yield f"it opened {sessions} sessions"
    if proxy.killed_at is None:
        return
    before, after = proxy.seen[: proxy.killed_at], proxy.seen[proxy.killed_at :]
    stored = {seen.name for seen in before if seen.status == 204}  # noqa: PLR2004
    for name in sorted(stored & {seen.name for seen in after}):
        yield f"{name} was stored before, and was sent again"
