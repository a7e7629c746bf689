"""Idempotency keys, metadata, list and deletion, on a service that authenticates its callers."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
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
from gapless import conformance, metadata, state
from tests import known_callers


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with known_callers.running() as url:
        yield url


@pytest.fixture(autouse=True)
def token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test is a different caller."""
    name = re.sub(r"\W", "-", request.node.name)
    monkeypatch.setenv("GAPLESS_TOKEN", name)
    return name


def creates(front: Front) -> list[Seen]:
    return [seen for seen in front.seen if (seen.method, seen.path) == ("POST", SESSIONS)]


def opened(seen: Seen) -> str:
    return str(json.loads(seen.answer)["sessionId"])


def listed(*arguments: str) -> list[dict[str, object]]:
    """The sessions of this test's caller."""
    return [
        json.loads(line)
        for line in run("list", "--remote", "--json", *arguments)[0].split("\n")[:-1]
    ]


def lose_one(front: Front) -> None:
    """Lose the response to the first create; the session exists."""

    def drop(seen: Seen) -> None:
        if len(creates(front)) == 1 and seen.path == SESSIONS:
            raise DroppedError

    front.after = drop


# --- A session is created once --------------------------------------------------------------------


def test_a_lost_answer_leaves_no_session_behind(front: Front) -> None:
    lose_one(front)
    file = written(Path("in.ndjson"), lines(10))
    run("upload", file)
    first, second = creates(front)
    assert len(first.key) >= 22
    assert (first.key, first.body, opened(first)) == (second.key, second.body, opened(second))
    assert merged() == file.read_bytes()
    with gapless.Client(
        os.environ["GAPLESS_URL"], auth=gapless.TokenAuth("of-a-library")
    ) as client:
        keys = [client.create(1).session_id and creates(front)[-1].key for _ in range(2)]
        assert len(set(keys)) == 2
        again = [client.create(1, idempotency_key="k" * 32).session_id for _ in range(2)]
        assert len(set(again)) == 1


def test_an_invalid_key_is_refused_before_anything_is_sent(front: Front) -> None:
    """An unset shell variable is an empty key, which would not make the command repeatable."""
    rule = "idempotency key must have 1 to 255"
    with gapless.Client(os.environ["GAPLESS_URL"]) as client:
        for key in (
            "",
            " ",
            "é" * 22,
            "k" * 22 + "\r",
            "k" * 22 + " k",
            "k,k" * 9,
            '"k',
            "k" * 256,
        ):
            with pytest.raises(gapless.SettingError, match=rule):
                client.create(1, idempotency_key=key)
    for key in ("", "é" * 22):
        _, said = run("upload", "-", "--idempotency-key", key, stdin=b"1\n", expect=2)
        assert rule in said
    assert not front.seen


def kill_before_the_answer(front: Front, *arguments: object) -> Seen:
    """Run a command, and kill it when its session is created; returns that request."""
    with subprocess.Popen(gapless_command(*arguments), stderr=subprocess.DEVNULL) as command:

        def kill(seen: Seen) -> None:
            if seen.path == SESSIONS:
                command.kill()

        front.after = kill
    front.quiet()
    front.after = lambda _: None
    (seen,) = creates(front)
    front.seen.clear()
    return seen


def test_killed_before_the_answer_it_gets_the_same_session(front: Front, folder: Path) -> None:
    file = written(Path("in.ndjson"), lines(10))
    options = ("--metadata", "partner=acme", "--batch-size", 5)
    killed = kill_before_the_answer(front, "upload", file, *options)
    assert run("list")[1] == "No upload of this machine is unfinished.\n"
    run("upload", file, *options)
    (again,) = creates(front)
    assert (again.key, again.body, opened(again)) == (killed.key, killed.body, opened(killed))
    assert merged() == file.read_bytes()
    assert len(list((folder / "state").iterdir())) == 1


@pytest.mark.parametrize("new", [(), ("--new",)])
def test_another_request_gets_another_session(front: Front, new: tuple[str, ...]) -> None:
    """A session that no client can use any more is aborted; with --new it may be another's."""
    file = written(Path("in.ndjson"), lines(10))
    killed = kill_before_the_answer(front, "upload", file)
    run("upload", file, "--merged-format", "ndjson.gz", *new)
    assert creates(front)[-1].key != killed.key
    status = json.loads(run("status", opened(killed), "--json")[0])
    assert status["state"] == ("OPEN" if new else "ABORTED")
    assert status["metadata"] == {"name": "in.ndjson"}


def test_a_session_that_was_aborted_meanwhile_is_not_continued(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(10))
    killed = kill_before_the_answer(front, "upload", file)
    run("abort", opened(killed))
    run("upload", file)
    assert creates(front)[-1].key != killed.key
    assert merged() == file.read_bytes()


def test_a_key_that_was_used_for_another_request_is_replaced(front: Front) -> None:
    """For example after an update of the client that encodes the request differently."""
    file = written(Path("in.ndjson"), lines(10))
    kill_before_the_answer(front, "upload", file)
    reused = Said(422, {"code": "idempotency_key_reused", "detail": "Another body."})
    front.rule = lambda seen: reused if len(creates(front)) == 1 and seen.path == SESSIONS else None
    run("upload", file)
    assert merged() == file.read_bytes()


def test_a_session_that_another_process_waits_for_is_kept(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(10))
    may_pass = threading.Event()

    def wait(seen: Seen) -> None:
        if seen is creates(front)[0]:
            may_pass.wait(300)

    front.rule = wait
    with subprocess.Popen(gapless_command("upload", file), stdout=subprocess.DEVNULL) as first:
        while not creates(front):
            assert first.poll() is None
            time.sleep(0.05)
        run("upload", file, "--merged-format", "ndjson.gz")
        may_pass.set()
        assert first.wait(300) == 0
    assert len({opened(seen) for seen in creates(front)}) == 2


def test_the_state_of_another_process_that_waits_is_kept(front: Front, folder: Path) -> None:
    """Without it, that process would open a second session if it was killed now."""
    file = written(Path("in.ndjson"), lines(10))
    kill_before_the_answer(front, "upload", file)
    (path,) = (folder / "state").glob("*.json")
    waiting = json.loads(path.read_bytes())
    for pid, kept in ((os.getppid(), True), (waiting["pid"], False)):
        path.write_text(json.dumps(waiting | {"pid": pid}))
        run("upload", file, "--new")
        assert path.exists() == kept


def test_of_uploads_that_finish_at_once_the_later_is_remembered(front: Front, folder: Path) -> None:
    """Each finds the state of the other, and must not delete both."""
    assert front
    file = written(Path("in.ndjson"), lines(10))
    run("upload", file)
    (path,) = (folder / "state").glob("*.json")
    earlier = msgspec.json.decode(path.read_bytes(), type=state.State)
    later = msgspec.structs.replace(
        earlier, key="k" * 32, session_id="1" * 32, started_at=earlier.started_at + 1
    )
    for last in (earlier, later):
        for one in (earlier, later, last):
            state.save(one)
        assert state.load(file, finished=True) == later


# --- Metadata -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["partner"], "Use key=value"),
        (["a=1", "a=2"], "twice"),
        (["Partner=acme"], "cannot be a name"),
        (["=acme"], "cannot be a name"),
        (["a" * 65 + "=1"], "cannot be a name"),
        (["a=two\nlines"], "printable"),
        (["a=\u202e"], "printable"),
        ([f"n{n}=1" for n in range(17)], "16"),
        (["a=" + "é" * 1024], "2,048"),
    ],
)
def test_invalid_metadata_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(gapless.SettingError, match=re.escape(said)):
        metadata.parse(tuple(given))


def test_wrong_metadata_is_a_usage_error_before_anything_is_sent(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(1))
    assert "Use key=value" in run("upload", file, "--metadata", "partner", expect=2)[1]
    url, wrong = os.environ["GAPLESS_URL"], {"a": "two\nlines"}
    with pytest.raises(gapless.SettingError, match="printable"):
        gapless.upload([1], url, metadata=wrong)
    with gapless.Client(url) as client, pytest.raises(gapless.SettingError, match="printable"):
        client.create(1, metadata=wrong)
    assert front.seen == []


def test_any_file_name_can_name_a_session() -> None:
    assert metadata.with_name({}, "a.csv") == {"name": "a.csv"}
    assert metadata.with_name({"name": "b"}, "a.csv") == {"name": "b"}
    assert metadata.with_name({}, "two\nlines \udce9\u202e.csv") == {
        "name": r"two\x0alines \xe9_.csv"
    }
    assert metadata.with_name({}, "") == {}
    full = {f"n{n}": "1" for n in range(16)}
    assert metadata.with_name(full, "a.csv") == full


def test_a_session_has_the_name_of_its_file(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(10))
    run("upload", file, "--metadata", "partner=a=b c")
    assert json.loads(creates(front)[0].body)["metadata"] == {
        "name": "in.ndjson",
        "partner": "a=b c",
    }
    assert "\n  in.ndjson  partner=a=b c\n" in run("status", file)[0]
    run("upload", "-", stdin=b"1\n")
    assert "metadata" not in json.loads(creates(front)[1].body)
    run("upload", "-", "--metadata", "name=of a pipe", stdin=b"1\n")
    assert json.loads(creates(front)[2].body)["metadata"] == {"name": "of a pipe"}
    url, auth = os.environ["GAPLESS_URL"], gapless.TokenAuth("of-a-library")
    front.seen.clear()
    gapless.upload([1], url, auth=auth)
    with file.open("rb") as stream:
        gapless.upload(stream, url, auth=auth, metadata={"partner": "acme"})
    bodies = [json.loads(seen.body).get("metadata") for seen in creates(front)]
    assert bodies == [None, {"name": "in.ndjson", "partner": "acme"}]


# --- What is printed repeats the options ----------------------------------------------------------


def test_starting_over_repeats_every_option(front: Front) -> None:
    """Of an unfinished upload, of a file that has changed, and of a session that is gone."""
    file = Path("in.csv")
    file.write_bytes(b"a;b\n" + b"1;2\n" * 100)
    url = os.environ["GAPLESS_URL"]
    words = [
        *("--format", "csv", "--delimiter", "semicolon", "--header", "--typed", "--skip-invalid"),
        *("--batch-size", "10", "--merged-format", "ndjson.gz"),
        *("--metadata", "partner=o'neill & co", "--metadata", "month=11"),
        *("--parallel", "1", "--url", url, "--patience", "99"),
    ]
    refused = Said(403, {"message": "Forbidden"})
    front.rule = lambda seen: refused if seen.seq_num == 4 else None
    run("upload", file, *words, expect=6)
    front.rule = lambda _: None
    asked = creates(front)[0].body

    gone = Said(409, {"code": "session_aborted", "detail": "It is aborted."})

    def answer(said: Said | None, seen: Seen) -> Said | None:
        return said if seen.seq_num is not None else None

    for rule, arguments, code in (
        (None, ["upload", *words], 2),
        (gone, ["resume", *words[-6:]], 1),
    ):
        front.rule = partial(answer, rule)
        said = run(*arguments, file, expect=code)[1]
        printed = said.rpartition("with: gapless upload ")[2].strip()
        assert sorted(shlex.split(printed)) == sorted(["--new", *words, "in.csv"])
    front.rule = lambda _: None
    front.seen.clear()
    run("upload", *shlex.split(printed))
    assert creates(front)[0].body == asked
    assert merged("in.csv") == b'{"a":1,"b":2}\n' * 100


# --- The list -------------------------------------------------------------------------------------


def test_only_the_callers_sessions_are_listed_newest_first(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(100))
    run("upload", file)
    begin(front, file)
    url = os.environ["GAPLESS_URL"]
    assert sorted(str(one["state"]) for one in listed()) == ["FINISHED", "OPEN"]
    assert [one["state"] for one in listed("--state", "finished")] == ["FINISHED"]
    out, _ = run("list", "--remote", "--state", "OPEN")
    assert re.fullmatch(r"[0-9a-f]{32}  OPEN       \S+ \S+ +100  in.ndjson\n", out)
    assert "no session that is ABORTED" in run("list", "--remote", "--state", "ABORTED")[1]
    assert "no session at" in run("list", "--remote", "--token", "somebody-else")[1]
    assert "--remote" in run("list", "--state", "OPEN", expect=2)[1]
    with gapless.Client(url, auth=gapless.TokenAuth(os.environ["GAPLESS_TOKEN"])) as client:
        found = list(client.list_sessions())
        assert {one.state for one in found} == {"OPEN", "FINISHED"}
        assert [one.metadata for one in found] == [{"name": "in.ndjson"}] * 2
        assert [one.total_record for one in found] == [100, 100]
        times = [one.created_at for one in found]
        assert times == sorted(times, reverse=True)


def test_pages_are_fetched_when_they_are_needed(front: Front) -> None:
    url, auth = os.environ["GAPLESS_URL"], gapless.TokenAuth(os.environ["GAPLESS_TOKEN"])
    with gapless.Client(url, auth=auth) as client:
        made = {client.create(n).session_id for n in range(60)}
        front.seen.clear()
        sessions = client.list_sessions("OPEN")
        assert front.seen == []
        first = next(sessions).session_id
        assert len(front.seen) == 1
        assert sorted([first, *(one.session_id for one in sessions)]) == sorted(made)
        assert len(front.seen) == 2


def test_the_list_is_checked_by_conformance(service: str, token: str) -> None:
    class Lying(conformance.Service):
        """Accepts every cursor."""

        def call(self, *arguments: Any, **named: Any) -> conformance.Response:  # noqa: ANN401
            answer = super().call(*arguments, **named)
            return super().call("GET", "") if b"invalid_cursor" in answer.body else answer

    # Other sessions of the caller in the same second, which have no order.
    auth = gapless.TokenAuth(token)
    with gapless.Client(service, auth=auth) as client:
        for kind, refused in ((conformance.Service, ""), (Lying, "invalid_cursor")):
            for _ in range(5):
                client.create(1)
            tested = kind(service, auth)
            (outcome,) = conformance.run(tested, ["own sessions"])
            tested.close()
            assert (outcome.passed, refused in outcome.detail) == (not refused, True), outcome
            # The check must not wait for sessions that the list will never have.
            assert tested.requests < 50


def test_a_service_without_authentication_has_no_list(front: Front) -> None:
    front.rule = lambda _: Said(
        403, {"code": "no_list", "title": "x", "detail": "In AuthMode NONE there is no list."}
    )
    _, said = run("list", "--remote", expect=1)
    assert "In AuthMode NONE there is no list." in said
    assert "credentials" not in said


# --- Deleting the merged object -------------------------------------------------------------------


def on_a_terminal(command: str, typed: str, *, expect: int = 0) -> str:
    """What is printed on a terminal, without control sequences."""
    done = subprocess.run(
        ["script", "-qec", f"{sys.executable} -m gapless {command}", "/dev/null"],
        input=f"{typed}\n".encode(),
        stdout=subprocess.PIPE,
        timeout=300,
        check=False,
    )
    assert done.returncode == expect, done.stdout
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r+(?!\n)", "", done.stdout.decode())
    return printed.removeprefix(f"{typed}\r\n")


def test_the_merged_object_is_deleted_for_good(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(10))
    begin(front, file, "--batch-size", 1)
    assert "session_not_finished" in run("delete", file, "--yes", expect=1)[1]
    run("resume", file)
    front.seen.clear()
    assert "--yes" in run("delete", file, expect=2)[1]
    assert front.seen == []
    session = json.loads(run("status", file, "--json")[0])["sessionId"]
    # On a terminal it asks for confirmation, and does not wrap lines.
    printed = on_a_terminal("delete in.ndjson", "n", expect=1)
    assert printed.startswith("Delete the merged object of in.ndjson for good? [y/N]: ")
    assert "Aborted!" in printed
    heading, row = on_a_terminal("list --remote", "").split("\r\n")[-3:-1]
    assert heading.startswith("SESSION ")
    assert row.endswith(" 10  in.ndjson")
    assert "is deleted" in on_a_terminal("delete in.ndjson", "y")
    run("delete", session, "--yes")
    assert "file_deleted" in run("download", session, expect=1)[1]
    assert ", file deleted 20" in run("status", session)[0]
    assert "in.ndjson  (file deleted)" in run("list", "--remote")[0]
    assert file.exists()
    assert run("download", file, expect=2)[1].startswith("gapless: No upload of in.ndjson")


def test_a_slow_merge_is_waited_for(front: Front) -> None:
    run("upload", written(Path("in.ndjson"), lines(1)))
    session = listed()[0]["sessionId"]

    def settling(seconds: int) -> Said:
        refusal = {"code": "file_settling", "detail": "Not yet."}
        return Said(409, refusal, {"Retry-After": str(seconds)})

    front.rule = lambda _: settling(540)
    assert "it asks to wait 540 s" in run("delete", session, "--yes", expect=5)[1]
    front.seen.clear()
    front.rule = lambda _: settling(1) if len(front.seen) == 1 else None
    assert "Not yet." in run("delete", session, "--yes")[1]
    assert [seen.status for seen in front.seen] == [409, 204]
