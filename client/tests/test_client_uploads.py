"""Whole uploads by the client, through a proxy that records, refuses, damages and drops them."""

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio.lowlevel
import pytest

import gapless
from front import (
    SESSIONS,
    DroppedError,
    Front,
    Said,
    Seen,
    begin,
    gapless_command,
    lines,
    merged,
    run,
    written,
)
from local.server import Server


def test_a_killed_upload_is_resumed_and_sends_nothing_again(front: Front) -> None:
    records = int(os.environ.get("KILLED_RECORDS", "100000"))
    size = records // 100
    file = written(Path("in.ndjson"), lines(records))
    with subprocess.Popen(gapless_command("upload", file, "--batch-size", size)) as process:

        def kill(_: Seen) -> None:
            if len(front.batches()) >= 30:
                process.send_signal(signal.SIGKILL)

        front.after = kill
        assert process.wait(120) == -signal.SIGKILL
    front.quiet()
    stored = set(front.batches())
    assert 30 <= len(stored) < 100

    front.after = lambda _: None
    front.seen.clear()
    run("resume", file)
    sent = Counter(n for seen in front.seen if (n := seen.seq_num) is not None)
    assert stored.isdisjoint(sent)
    assert sent == Counter(set(range(100)) - stored)
    assert merged() == file.read_bytes()


def test_another_machine_resumes_with_the_file_and_the_session_id(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(Path("in.ndjson"), lines(100))
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 4 else None
    run("upload", file, "--batch-size", 10, "--parallel", 1, expect=6)
    session = front.seen[-1].path.split("/")[4]
    stored = set(front.batches())
    assert stored

    monkeypatch.setenv("GAPLESS_STATE_DIR", "elsewhere")
    front.rule = lambda _: None
    front.seen.clear()
    run("resume", file, expect=2)
    run("resume", file, "--session", session)
    assert stored.isdisjoint(front.batches())
    assert merged() == file.read_bytes()


def test_a_session_without_a_batch_size_is_resumed_too(front: Front) -> None:
    """One record is so large that no fixed number of records per batch is efficient."""
    file = written(
        Path("in.ndjson"), [*lines(40_000), b'"' + b"x" * 3_900_000 + b'"', *lines(60_000)]
    )
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 2 else None
    run("upload", file, "--parallel", 1, expect=6)
    assert "batchSize" not in json.loads(front.seen[0].body)
    stored = set(front.batches())
    front.rule = lambda _: None
    front.seen.clear()
    run("resume", file)
    assert stored.isdisjoint(front.batches())
    assert merged() == file.read_bytes()


def test_malformed_records_are_left_out_and_written_to_a_file(front: Front) -> None:
    file = written(Path("in.ndjson"), [b"1", b'{"a": }', b"3", b"\xff", b"1 2"])
    _, said = run("upload", file, "--skip-invalid")
    assert "3 left out" in said
    assert Path("in.ndjson.invalid").read_bytes() == b'{"a": }\n\xff\n1 2\n'
    assert merged() == b"1\n3\n"
    assert front.batches() == [0]


def test_standard_input(front: Front) -> None:
    out, _ = run("upload", "-", "--json", stdin=b"1\n2\n")
    result = json.loads(out.splitlines()[-1])
    assert (result["event"], result["receivedRecord"], result["verified"]) == ("result", 2, True)
    assert front.batches() == [0]


def test_a_file_that_has_changed_is_refused(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    changed = written(file, [*lines(99), b"0"]).read_bytes()
    _, said = run("resume", file, expect=3)
    assert "has changed" in said
    assert not front.batches()
    assert changed == file.read_bytes()


def test_a_file_that_was_only_touched_is_resumed(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    os.utime(file, (1, 1))
    run("resume", file)
    assert merged() == file.read_bytes()


def test_an_unfinished_upload_is_not_silently_started_over(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    _, said = run("upload", file, expect=2)
    assert "gapless resume in.ndjson" in said
    assert {seen.method for seen in front.seen} == {"GET"}
    run("upload", file, "--new")
    assert merged() == file.read_bytes()


def test_the_state_contains_no_secret(front: Front, folder: Path) -> None:
    file = written(Path("in.ndjson"), lines(100))
    run("upload", file, "--token", "s3cret")
    assert {seen.authorization for seen in front.seen} == {"Bearer s3cret"}
    (state,) = (folder / "state").iterdir()
    assert b"s3cret" not in state.read_bytes()


def test_an_expired_token_is_renewed_by_its_command(front: Front, folder: Path) -> None:
    valid = ["Bearer t1"]

    def check(seen: Seen) -> Said | None:
        if len(front.batches()) >= 3:
            valid[0] = "Bearer t2"
        good = seen.authorization == valid[0]
        return None if good else Said(401, {"message": "Unauthorized"})

    front.rule = check
    script = folder / "new_token.py"
    script.write_text(
        "import pathlib; p = pathlib.Path('count'); "
        "n = len(p.read_text()) + 1 if p.exists() else 1; p.write_text('x' * n); print(f't{n}')"
    )
    file = written(Path("in.ndjson"), lines(100))
    command = f"{sys.executable} {script}"
    run("upload", file, "--batch-size", 5, "--token-command", command)
    assert Path("count").read_text() == "xx", "requests that wait for a token share it"
    front.rule = lambda _: None
    assert merged() == file.read_bytes()


def test_an_expired_token_can_be_replaced(front: Front) -> None:
    front.rule = lambda seen: (
        Said(401, {"message": "Unauthorized"})
        if seen.authorization == "Bearer old" and len(front.batches()) >= 3
        else None
    )
    file = written(Path("in.ndjson"), lines(100))
    _, said = run("upload", file, "--batch-size", 5, "--token", "old", expect=6)
    assert said.endswith("Resume with: gapless resume in.ndjson\n")
    stored = set(front.batches())
    front.seen.clear()
    run("resume", file, "--token", "new")
    assert stored.isdisjoint(front.batches())


def test_dropped_connections_cost_nothing_but_a_retry(front: Front) -> None:
    dropped: set[int] = set()

    def drop(seen: Seen) -> Said | None:
        number = seen.seq_num
        if number is not None and number % 3 == 0 and number not in dropped:
            dropped.add(number)
            raise DroppedError
        return None

    front.rule = drop
    result, pauses = upload(front, lines(100), batch_size=10)
    assert result.ok
    assert len(dropped) == len(pauses) == 4
    assert sorted(front.batches()) == list(range(10))


def upload(
    front: Front,
    records: Sequence[object],
    **options: Any,  # noqa: ANN401
) -> tuple[gapless.Result, list[float]]:
    """Upload through the library without sleeping; returns the result and the pauses."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    with Server(front) as server:
        found = gapless.upload(records, server.url, sleep=sleep, **options)
    return found, pauses


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "least"),
    [({}, 0), ({"Retry-After": "7"}, 7), ({"Retry-After": formatdate(1_000_009)}, 9)],
)
def test_retry_after_is_obeyed(
    front: Front, status: int, header: dict[str, str], least: float
) -> None:
    """In the service's and in API Gateway's responses, as seconds and as a date."""
    left = [3]

    def refuse(seen: Seen) -> Said | None:
        if seen.seq_num is None or not left[0]:
            return None
        left[0] -= 1
        return Said(status, {"message": "Too Many Requests"}, header)

    front.rule = refuse
    result, pauses = upload(
        front, [1, 2], batch_size=2, now=lambda: 1_000_000.0, chance=lambda: 1.0
    )
    assert result.ok
    growing = [0.5, 1.0, 2.0]
    assert pauses == [max(p, least + p / 10) if header else p for p in growing]


def test_pauses_have_full_jitter(front: Front) -> None:
    left = [2]

    def refuse(_: Seen) -> Said | None:
        left[0] -= 1
        return Said(500, {"message": "Internal Server Error"}) if left[0] >= 0 else None

    front.rule = refuse
    _, pauses = upload(front, [1], chance=iter([0.25, 0.5]).__next__)
    assert pauses == [0.125, 0.5]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Said(400, {"code": "malformed_json"}), gapless.RequestError),
        (Said(401, {"message": "Unauthorized"}), gapless.AuthError),
        (Said(403, {"message": "Forbidden"}), gapless.AuthError),
        (Said(404, {"message": "Not Found"}), gapless.NotFoundError),
        (Said(409, {"code": "batch_conflict"}), gapless.BatchConflictError),
        (Said(409, {"code": "session_aborted"}), gapless.SessionStateError),
        (Said(410, {"code": "session_expired"}), gapless.ExpiredError),
        (Said(413, {"message": "Request Entity Too Large"}), gapless.TooLargeError),
        (Said(415, {"code": "gzip_as_text"}), gapless.RequestError),
    ],
)
def test_a_refusal_is_not_sent_again(
    front: Front, said: Said, error: type[gapless.ApiError]
) -> None:
    front.rule = lambda seen: said if seen.seq_num is not None else None
    with pytest.raises(error) as raised:
        upload(front, [1], batch_size=1)
    assert (raised.value.status, raised.value.code) == (said.status, said.body.get("code", ""))
    assert [seen.seq_num for seen in front.seen] == [None, 0]


def test_a_batch_that_a_running_finish_refuses_is_sent_again(front: Front) -> None:
    left = [1]

    def refuse(seen: Seen) -> Said | None:
        if seen.seq_num is None or not left[0]:
            return None
        left[0] -= 1
        return Said(409, {"code": "session_finishing"}, {"Retry-After": "2"})

    front.rule = refuse
    result, pauses = upload(front, [1], chance=lambda: 0.0)
    assert result.ok
    assert pauses == [2]


def test_patience_ends(front: Front) -> None:
    front.rule = lambda _: Said(503, {"message": "Service Unavailable"})
    with pytest.raises(gapless.UnavailableError, match="1 attempt,"):
        upload(front, [1], patience=0)
    assert len(front.seen) == 1


def test_the_documented_codes_have_their_errors() -> None:
    text = (Path(__file__).parents[2] / "docs/errors.md").read_text()
    found = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE)
    assert len(found) > 30
    for code, status in found:
        error = gapless.errors.api_error(int(status), json.dumps({"code": code}).encode())
        assert type(error) is not gapless.ApiError
        assert error.code == code


def test_gaps_are_reported_and_filled(front: Front) -> None:
    with gapless.Client(os.environ["GAPLESS_URL"]) as client:
        session = client.create(5, 2)
        session.send(0, [1, b'{ "kept": 1.0}'])
        session.send(2, [5])
        result = session.finish()
        assert (result.ok, result.reason) == (False, "missing_batches")
        assert session.missing() == [gapless.Range(1, 1)]
        out, _ = run("finish", session.session_id, expect=4)
        assert "3 to 4" in out
        out, _ = run("status", session.session_id)
        assert "OPEN" in out
        session.send(1, [3, 4])
        assert session.finish().ok
        session.download("got.ndjson")
        assert Path("got.ndjson").read_bytes() == b'1\n{ "kept": 1.0}\n3\n4\n5\n'
        with pytest.raises(gapless.SessionStateError):
            session.abort()
    assert not front.batches() or set(front.batches()) == {0, 1, 2}


def test_a_result_that_differs_from_what_was_sent_is_detected(front: Front) -> None:
    def lie(seen: Seen) -> Said | None:
        if not seen.path.endswith("/finish"):
            return None
        wrong = {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": "AAAAAA=="}
        result = {"sessionId": "0" * 32, "validationResult": "Success", "bytes": 2}
        return Said(200, result | {"checksum": wrong})

    front.rule = lie
    with pytest.raises(gapless.ChecksumError):
        upload(front, [1])


def test_a_long_merge_is_waited_for(front: Front) -> None:
    """202, then progress, then the result; the merge is reported."""
    told: list[object] = []
    states = iter([{"parts": 4, "done": 1}, {"parts": 4, "done": 3}, None])
    result: dict[str, Any] = {}

    def merge(seen: Seen) -> Said | None:
        if seen.path.endswith("/finish"):
            crc = base64.b64encode(zlib.crc32(b"1\n").to_bytes(4, "big")).decode()
            checksum = {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc}
            result.update(sessionId="0" * 32, validationResult="Success", bytes=2, batches=1)
            result.update(checksum=checksum, totalRecord=1, receivedRecord=1)
            return Said(202, {}, {"Retry-After": "3"})
        if seen.method != "GET":
            return None
        merge = next(states)
        status = {"sessionId": "0" * 32, "totalRecord": 1, "batchSize": 1, "missing": []}
        status |= {"expiresAt": "2026-01-01T00:00:00Z", "batches": 1, "merge": merge}
        state = "FINISHING" if merge else "FINISHED"
        return Said(200, status | {"state": state, "finish": None if merge else result})

    front.rule = merge

    def report(event: str, facts: dict[str, Any]) -> None:
        if event == "merge":
            told.append(facts["done"])

    done, _ = upload(front, [1], report=report)
    assert done.ok
    assert told == [1, 3]
    assert sum(seen.path.endswith("/finish") for seen in front.seen) == 1


def test_an_interrupted_download_continues(front: Front) -> None:
    content = written(Path("in.ndjson"), lines(20_000)).read_bytes()
    result, _ = upload(front, lines(20_000))
    step = 300_000
    ranges: list[str | None] = []

    class Store(BaseHTTPRequestHandler):
        """Announces the whole object, and ends the connection after a part of it."""

        def do_GET(self) -> None:
            ranges.append(self.headers["Range"])
            start = int((ranges[-1] or "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + step])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as store:
        Thread(target=store.serve_forever, daemon=True).start()
        link = f"http://127.0.0.1:{store.server_port}/"
        front.rule = lambda seen: Said(200, {"url": link}) if "/file" in seen.path else None
        with gapless.Client(os.environ["GAPLESS_URL"], chance=lambda: 0.0) as client:
            client.session(result.session_id).download("got")
        store.shutdown()
    assert Path("got").read_bytes() == content
    assert ranges == [None, *(f"bytes={n}-" for n in range(step, len(content), step))]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
def test_memory_is_bounded(front: Front, folder: Path) -> None:
    """300 MB of records in a gzip of 30 members, to a service that stores nothing."""
    part = b"".join(record + b"\n" for record in lines(190_000))
    times = 300_000_000 // len(part) + 1
    Path("in.ndjson.gz").write_bytes(gzip.compress(part, 1) * times)
    crc = 0
    for _ in range(times):
        crc = zlib.crc32(part, crc)
    value = base64.b64encode(crc.to_bytes(4, "big")).decode()

    def sink(seen: Seen) -> Said:
        status = 201 if seen.path == SESSIONS else 204
        limits = {"maxBodyBytes": 4_500_000, "maxInflatedBytes": 2**26, "maxSeqNum": 99_999}
        answer: dict[str, Any] = {
            "sessionId": "0" * 32,
            "expiresAt": "2026-01-01T00:00:00Z",
            "limits": limits,
        }
        if seen.path.endswith("/finish"):
            answer |= {"validationResult": "Success", "bytes": times * len(part)}
            answer["checksum"] = {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": value}
            status = 200
        seen.body = b""
        return Said(status, answer)

    front.rule = sink
    # Not getrusage: it includes the process from which this one was forked.
    measure = (
        "import re, sys; from pathlib import Path; from gapless.cli import cli; "
        "cli(sys.argv[1:], standalone_mode=False); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", measure, "upload", "in.ndjson.gz"],
        capture_output=True,
        check=True,
        timeout=300,
    )
    peak = int(done.stdout.split()[-1]) * 1024
    (folder / "peak").write_text(str(peak))
    assert len(front.seen) > 75
    assert peak < 200 * 1024 * 1024
