"""Uploads in one pass: sent while they are read, finished at the end, resumed after a failure."""

import gzip
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gapless
from front import Front, Said, gapless_command, lines, run
from gapless.batching import Splitter

CUT = 100
"""Records per batch."""

Facts = list[tuple[str, dict[str, Any]]]


def ndjson(records: Iterable[bytes]) -> bytes:
    return b"".join(record + b"\n" for record in records)


def stored(session_id: str) -> bytes:
    with gapless.Client(os.environ["GAPLESS_URL"]) as client:
        return b"".join(client.session(session_id).stream())


def state(session_id: str) -> gapless.Status:
    with gapless.Client(os.environ["GAPLESS_URL"]) as client:
        return client.session(session_id).status()


def facts(events: Facts, name: str) -> dict[str, Any]:
    (found,) = (facts for event, facts in events if event == name)
    return found


def finishes(front: Front) -> list[object]:
    return [json.loads(seen.body) for seen in front.seen if seen.path.endswith("/finish")]


def creates(front: Front) -> list[object]:
    return [json.loads(seen.body) for seen in front.seen if seen.path.endswith("/sessions")]


# --- One pass -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_only_the_records_determine_the_batches(data: st.DataObject) -> None:
    """Not the pieces in which they arrive; for batches by records and by bytes."""
    records = data.draw(st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"x"))))
    content = ndjson(records)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=6).map(sorted))
    size = data.draw(st.none() | st.integers(1, 5))
    most = data.draw(st.integers(1, 30))

    def divided(pieces: Iterable[bytes]) -> list[tuple[bytes, int]]:
        splitter = Splitter(size, most)
        found = [batch for piece in pieces for batch in splitter.add(piece)]
        found += splitter.end()
        return [(b"".join(batch.pieces), batch.records) for batch in found]

    ends = [0, *cuts, len(content)]
    batches = divided(content[a:b] for a, b in itertools.pairwise(ends))
    assert batches == divided([content])
    assert b"".join(batch for batch, _ in batches) == content
    for number, (batch, count) in enumerate(batches):
        assert batch.endswith(b"\n")
        assert count == batch.count(b"\n")
        if size is not None:
            assert count == size or number == len(batches) - 1
        else:
            assert len(batch) <= most or count == 1


def test_more_records_than_a_batch_may_have_are_refused_before_they_are_held() -> None:
    splitter = Splitter(10**9)
    pieces = [b"1\n" * 500_000] * 70
    with pytest.raises(gapless.InputError, match="smaller --batch-size"):
        list(itertools.chain.from_iterable(map(splitter.add, pieces)))


def test_a_pipe_is_sent_while_it_is_read(front: Front) -> None:
    """The producer writes more only after the first batch is stored."""
    records = lines(5 * CUT)
    arrived = threading.Event()
    front.after = lambda seen: arrived.set() if seen.seq_num == 1 else None

    def made() -> Iterator[bytes]:
        for number, record in enumerate(records):
            if number == 4 * CUT:
                assert arrived.wait(60), "nothing is sent before the end"
            yield record

    result = gapless.upload(made(), os.environ["GAPLESS_URL"], batch_size=CUT)
    assert stored(result.session_id) == ndjson(records)
    assert creates(front) == [{"totalRecord": None}]
    assert finishes(front) == [{"totalRecord": 5 * CUT, "batches": 5}]
    assert sorted(front.batches()) == [0, 1, 2, 3, 4]


def test_every_input_that_is_read_once_is_sent_in_one_pass(front: Front) -> None:
    records = lines(2 * CUT + 1)
    content = ndjson(records)
    url = os.environ["GAPLESS_URL"]
    batches: dict[str, Any] = {"batch_size": CUT}

    async def made() -> AsyncIterator[bytes]:
        for record in records:
            await anyio.lowlevel.checkpoint()
            yield record

    table = b"id\n" + b"".join(b"%d\n" % n for n in range(2 * CUT + 1))
    os.mkfifo("pipe")
    feeding = threading.Thread(target=lambda: Path("pipe").write_bytes(content))
    feeding.start()
    results = [
        gapless.upload(iter(records), url, **batches),
        gapless.upload(made(), url, **batches),
        gapless.upload(io.BytesIO(content), url, **batches),
        gapless.upload(io.BytesIO(gzip.compress(content)), url, **batches),
        gapless.upload("pipe", url, **batches),
        anyio.run(partial(gapless.upload_async, made(), url, **batches)),
        anyio.run(partial(gapless.upload_async, iter(records), url, **batches)),
        anyio.run(partial(gapless.upload_async, io.BytesIO(content), url, **batches)),
    ]
    feeding.join()
    assert [stored(result.session_id) for result in results] == [content] * len(results)
    result = gapless.upload(io.BytesIO(table), url, format="csv", typed=True, **batches)
    assert result.reading == "CSV, typed"
    assert stored(result.session_id) == b"".join(b'{"id":%d}\n' % n for n in range(2 * CUT + 1))
    assert finishes(front) == [{"totalRecord": 2 * CUT + 1, "batches": 3}] * 9


def test_a_short_read_is_not_the_end(front: Front) -> None:  # noqa: ARG001 - it is the service
    """Raw files and sockets return the bytes that are available."""
    content = ndjson(lines(50))

    class Slow(io.RawIOBase):
        left = content

        def read(self, size: int = -1) -> bytes:
            found, self.left = self.left[: min(size, 7)], self.left[min(size, 7) :]
            return found

    class Busy(Slow):
        def read(self, size: int = -1) -> bytes:
            return super().read(size) or None  # type: ignore[return-value]

    url = os.environ["GAPLESS_URL"]
    slow: Any = Slow()
    assert stored(gapless.upload(slow, url).session_id) == content
    busy: Any = Busy()
    with pytest.raises(gapless.InputError, match="non-blocking"):
        gapless.upload(busy, url)


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"")])
@pytest.mark.parametrize("options", [(), ("--format", "ndjson")])
def test_a_pipe_without_records_is_an_error(
    front: Front, content: bytes, options: tuple[str, ...]
) -> None:
    _, said = run("upload", "-", *options, stdin=content, expect=3)
    assert " is empty" in said
    assert front.seen == []


# --- Interrupted ----------------------------------------------------------------------------------


def write_some(pipe: IO[bytes], content: bytes) -> None:
    """Write as a producer does; ignores that the reader has closed the pipe."""
    with suppress(BrokenPipeError):
        while content:
            content = content[pipe.write(content) :]


class BrokenError(Exception):
    """An exception of the caller."""


@pytest.mark.parametrize("kind", ["thread", "loop", "asynchronous"])
def test_a_generator_that_raises_is_not_finished(front: Front, kind: str) -> None:
    """Complete batches are stored; the caller's exception is raised with a note how to resume."""
    records = lines(5 * CUT)
    events: Facts = []
    url = os.environ["GAPLESS_URL"]

    def made(end: int) -> Iterator[bytes]:
        yield from records[:end]
        if end < len(records):
            raise BrokenError("no more")

    async def asynchronous(end: int) -> AsyncIterator[bytes]:
        for record in made(end):
            yield record

    def report(event: str, found: dict[str, Any]) -> None:
        events.append((event, found))

    def work(end: int, **more: Any) -> gapless.Result:  # noqa: ANN401
        more |= {"batch_size": CUT, "report": report}
        if kind == "thread":
            return gapless.upload(made(end), url, **more)
        source: Any = made(end) if kind == "loop" else asynchronous(end)
        return anyio.run(partial(gapless.upload_async, source, url, **more))

    with pytest.raises(BrokenError, match="no more") as raised:
        work(3 * CUT + 50)
    found = facts(events, "interrupted")
    assert (found["records"], found["batches"], found["url"]) == (3 * CUT, 3, url)
    assert finishes(front) == []
    assert sorted(front.batches()) == [0, 1, 2]
    session_id = found["sessionId"]
    notes = "".join(getattr(raised.value, "__notes__", ["300 records", session_id]))
    assert "300 records" in notes
    assert session_id in notes
    assert (state(session_id).state, state(session_id).batches) == ("OPEN", 3)
    result = work(len(records), session_id=session_id)
    assert result.session_id == session_id
    assert stored(session_id) == ndjson(records)
    assert len(creates(front)) == 1


def test_the_records_reported_as_stored_have_no_gap(front: Front) -> None:
    """Batch 2 is refused: later ones do not count."""
    events: Facts = []

    def refuse(seen: Any) -> Said | None:  # noqa: ANN401
        return Said(403, {"message": "Forbidden"}) if seen.seq_num == 2 else None

    front.rule = refuse
    with pytest.raises(gapless.AuthError):
        gapless.upload(
            iter(lines(9 * CUT)),
            os.environ["GAPLESS_URL"],
            batch_size=CUT,
            report=lambda event, found: events.append((event, found)),
        )
    assert facts(events, "interrupted")["records"] <= 2 * CUT
    assert finishes(front) == []


def test_another_input_is_a_conflict_and_changes_nothing(front: Front) -> None:
    url = os.environ["GAPLESS_URL"]
    with gapless.Client(url) as client:
        session_id = client.create(None).session_id
        client.session(session_id).send(0, [1, 2])
        client.session(session_id).send(1, [3, 4])
    with pytest.raises(gapless.FileChangedError, match="batch 1 differs"):
        gapless.upload(iter([1, 2, 3, 5]), url, session_id=session_id, batch_size=2)
    with pytest.raises(gapless.IncompleteError) as raised:
        gapless.upload(iter([1, 2]), url, session_id=session_id, batch_size=2)
    assert raised.value.reason == "unexpected_batches"
    result = gapless.upload(iter([1, 2, 3, 4]), url, session_id=session_id, batch_size=2)
    assert stored(session_id) == b"1\n2\n3\n4\n"
    # Once more: nothing is sent, the input is only compared with the result.
    front.seen.clear()
    again = gapless.upload(iter([1, 2, 3, 4]), url, session_id=session_id, batch_size=2)
    assert again == result
    assert front.batches() == []
    with pytest.raises(gapless.SessionStateError) as conflict:
        gapless.upload(iter([1, 2, 3]), url, session_id=session_id, batch_size=2)
    assert conflict.value.code == "totals_conflict"
    with pytest.raises(gapless.ChecksumError):
        gapless.upload(iter([1, 2, 3, 5]), url, session_id=session_id, batch_size=2)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_killed_and_repeated_it_is_complete(
    front: Front, number: signal.Signals, code: int
) -> None:
    content = ndjson(lines(40 * CUT))
    options = ["--format", "ndjson", "--batch-size", str(CUT), "--parallel", "1"]
    with subprocess.Popen(
        gapless_command("upload", "-", *options),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        front.after = lambda _: process.send_signal(number) if len(front.batches()) == 3 else None
        assert process.stdin
        assert process.stderr
        write_some(process.stdin, content[: len(content) // 2])
        said = process.stderr.read().decode()
        assert process.wait(60) == code
        front.quiet()
        front.after = lambda _: None
    found = re.search("session: ([0-9a-f]{32})", said)
    assert found
    assert finishes(front) == []
    command = ["resume", "-", "--session", found[1], *options[:4]]
    command += ["--url", os.environ["GAPLESS_URL"]]
    if number != signal.SIGKILL:
        safe = re.search("The first ([0-9]+) records are stored, in session", said)
        assert safe
        assert int(safe[1]) in {2 * CUT, 3 * CUT}
        assert f"with: gapless {' '.join(command)}\n" in said
    out, said = run(*command, stdin=content)
    assert "what is stored is what was sent" in out
    assert "stored already" in said
    assert stored(found[1]) == content
    assert len(creates(front)) == 1


def test_the_same_command_with_the_same_key_completes_it(front: Front) -> None:
    """After a SIGKILL, and again after the end: one session."""
    content = ndjson(lines(40 * CUT))
    command = ["upload", "-", "--batch-size", str(CUT), "--metadata", "partner=acme"]
    command += ["--idempotency-key", "nightly-2026-11-25-of-acme"]
    with subprocess.Popen(
        gapless_command(*command), stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        front.after = lambda _: process.kill() if len(front.batches()) == 3 else None
        assert process.stdin
        write_some(process.stdin, content[: len(content) // 2])
        assert process.wait(60) == -signal.SIGKILL
    front.quiet()
    front.after = lambda _: None
    out, said = run(*command, "--json", stdin=content)
    (session,) = {
        event["sessionId"]
        for event in map(json.loads, out.splitlines())
        if event["event"] in {"session", "result"}
    }
    assert stored(session) == content
    assert state(session).metadata == {"partner": "acme"}
    front.seen.clear()
    out, said = run(*command, stdin=content)
    assert session in out + said
    assert front.batches() == []
    Path("a.ndjson").write_bytes(b"1\n")
    _, said = run("upload", "a.ndjson", *command[4:], expect=2)
    assert "gets a key automatically" in said


@pytest.mark.parametrize("end", [b'{"id":', b"\xff\n", b'{"id":1}}\n'])
def test_a_faulty_input_reports_what_is_stored(front: Front, end: bytes) -> None:
    """By a truncated line, other bytes, or an invalid record."""
    content = ndjson(lines(4 * CUT + 3))
    options = ["--batch-size", str(CUT), "--json", "--format", "ndjson"]
    out, _ = run("upload", "-", *options, stdin=content + end, expect=3)
    error = json.loads(out.splitlines()[-1])
    assert f"line {4 * CUT + 4}, column" in error["message"]
    assert ("stored, in session" in error["message"]) == bool(creates(front))
    assert finishes(front) == []


def test_a_truncated_gzip_is_not_finished(front: Front) -> None:
    content = ndjson(lines(40_000))
    broken = gzip.compress(content)[:-200]
    _, said = run("upload", "-", "--batch-size", 1000, stdin=broken, expect=3)
    assert "The gzip is damaged or truncated" in said
    assert re.search(r"The first [0-9,]+ records are stored, in session [0-9a-f]{32}\.", said)
    assert finishes(front) == []
    advised = re.search("with: gapless (.*)\n", said)
    assert advised
    run(*advised[1].split(), stdin=gzip.compress(content))
    session = re.search("--session ([0-9a-f]{32})", advised[1])
    assert session
    assert stored(session[1]) == content


def test_a_silent_pipe_does_not_delay_an_error(front: Front) -> None:
    """The producer neither writes nor ends; the failed command exits immediately."""
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num else None
    with subprocess.Popen(
        gapless_command("upload", "-", "--batch-size", CUT, "--format", "ndjson"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin
        assert process.stderr
        write_some(process.stdin, ndjson(lines(20_000)))
        said = process.stderr.read().decode()
        assert process.wait(60) == 6
    assert "403" in said


# --- Finish ---------------------------------------------------------------------------------------


def finished(front: Front, answers: list[dict[str, Any]], **totals: int) -> gapless.Result:
    """What finish returns after a 202, if these are the next responses of status."""
    states = iter(answers)
    first = [True]

    def say(seen: Any) -> Said | None:  # noqa: ANN401
        if seen.method == "POST" and seen.path.endswith("/finish") and first:
            first.clear()
            return Said(202, {}, {"Retry-After": "1"})
        if seen.method == "GET" and (told := next(states, None)):
            status: dict[str, Any] = {"sessionId": "0" * 32, "totalRecord": None, "batchSize": None}
            status |= {"expiresAt": "2026-01-01T00:00:00Z", "batches": 1, "missing": []}
            return Said(200, status | told)
        return None

    async def no_pause(_: float) -> None:
        await anyio.lowlevel.checkpoint()

    with gapless.Client(os.environ["GAPLESS_URL"], sleep=no_pause) as client:
        session = client.create(None)
        session.send(0, [1, 2])
        front.rule = say
        return session.finish(**totals)


def result(verdict: str, total: int, **more: object) -> dict[str, Any]:
    return {"sessionId": "0" * 32, "validationResult": verdict, "totalRecord": total, **more}


OURS = {"total_record": 2, "batches": 1}


def test_the_merge_of_another_finish_with_other_totals_is_a_conflict(front: Front) -> None:
    for other in ({"batches": 2}, {"batches": 1}):
        total = 2 if other["batches"] == 2 else 3
        answer = {"state": "FINISHED", "finish": result("Success", total, **other)}
        with pytest.raises(gapless.SessionStateError, match="Another finish merged") as raised:
            finished(front, [answer], **OURS)
        assert (raised.value.status, raised.value.code) == (409, "totals_conflict")
        front.rule = lambda _: None
    same = {"state": "FINISHED", "finish": result("Success", 2, batches=1)}
    for totals in (OURS, {"total_record": 2}):
        front.rule = lambda _: None
        assert finished(front, [{"state": "FINISHING"}, same], **totals).ok


@pytest.mark.parametrize(
    "other",
    [
        None,
        result("Failed", 3, reason="record_count", batches=1, expectedBatches=1),
        result("Failed", 2, reason="record_count", batches=1),
        result("Failed", 2, reason="record_count", batches=1, expectedBatches=2),
        result("Failed", 2, reason="merge_failed", batches=1, expectedBatches=1),
    ],
)
def test_the_failure_of_another_finish_is_ignored(
    front: Front, other: dict[str, Any] | None
) -> None:
    """The client sends finish again with the same totals."""
    found = finished(front, [{"state": "OPEN", "finish": other}], **OURS)
    assert found.ok
    assert finishes(front) == [{"totalRecord": 2, "batches": 1}] * 2


def test_the_failure_of_this_finish_is_the_result(front: Front) -> None:
    own = result("Failed", 3, reason="record_count", batches=1, expectedBatches=1)
    found = finished(front, [{"state": "OPEN", "finish": own}], total_record=3, batches=1)
    assert (found.ok, found.reason, found.expected_batches) == (False, "record_count", 1)
    assert finishes(front) == [{"totalRecord": 3, "batches": 1}]


# --- Bounds ---------------------------------------------------------------------------------------

MEASURED = """
import os, re, sys
from pathlib import Path

import gapless

written = []


def audit(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(str(arguments[0]))
    if event.startswith("tempfile."):
        written.append(event)


def rows(count):
    for number in range(count):
        yield {"id": number, "price": 1.5, "note": "some words that a record has", "more": [1, 2]}


async def asynchronous(count):
    for row in rows(count):
        yield row


sys.addaudithook(audit)
kind, count = sys.argv[1], int(sys.argv[2])
if kind == "pipe":
    source = open(0, "rb")
else:
    source = rows(count) if kind == "generator" else asynchronous(count)
result = gapless.upload(source, os.environ["GAPLESS_URL"])
status = Path("/proc/self/status").read_text()
print(result.received_record, int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024, written)
"""


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
@pytest.mark.parametrize("kind", ["generator", "asynchronous", "pipe"])
def test_one_pass_takes_little_memory_and_no_file(front: Front, kind: str) -> None:  # noqa: ARG001
    """300,000 records of 80 bytes, 24 MB: more than the bound."""
    count = 300_000
    given = b""
    if kind == "pipe":
        given = b"".join(
            b'{"id":%d,"words":"%s"}\n' % (n, b"some words " * 5) for n in range(count)
        )
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, kind, str(count)],
        input=given,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    records, peak, written = done.stdout.decode().split(maxsplit=2)
    assert int(records) == count
    assert written.strip() == "[]"
    assert int(peak) <= 100 * 1024 * 1024
