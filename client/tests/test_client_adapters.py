"""The conformance of clients: ours pass, each broken one fails the cases meant for it."""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import front
from gapless import client_conformance
from gapless.auth import TokenAuth
from gapless.client_conformance import CASES, run
from gapless.conformance import CHECKS, Outcome, Service
from gapless.errors import SettingError, UnreachableError
from gapless.faulty_proxy import FaultyProxy
from local.server import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/conformance.md").read_text()
ADAPTERS = ROOT / "examples/adapters"
PYTHON = f"{shlex.quote(sys.executable)} {ADAPTERS}/python_client.py"
NODE = f"node {ADAPTERS}/javascript_client.mjs"


def code(page: str, heading: str) -> str:
    """The first Python program below a heading of a document."""
    text = (ROOT / "docs" / page).read_text()
    (found,) = re.findall(
        rf"^## {heading}\n.*?^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    return str(found)


SMALL_CLIENT = code("protocol.md", "A small client")
SMALL_ADAPTER = code("conformance.md", "The adapter")


def adapter(folder: Path, client: str = SMALL_CLIENT, program: str = SMALL_ADAPTER) -> str:
    """The command of an adapter in Python, which may import ``small_client``."""
    folder.mkdir(exist_ok=True)
    (folder / "small_client.py").write_text(client)
    (folder / "adapter.py").write_text(program)
    return shlex.join([sys.executable, str(folder / "adapter.py")])


@pytest.fixture(scope="module")
def tested(service: str) -> Iterator[Service]:
    found = Service(service)
    yield found
    found.close()


@pytest.fixture
def passing(service: str) -> front.Front:
    return front.Front(service)


def test_the_python_client_passes_everything(tested: Service) -> None:
    outcomes = list(run(tested, PYTHON))
    assert [one for one in outcomes if not one.passed] == []
    assert [one.check for one in outcomes] == [case.name for case in CASES]


def test_the_es_module_passes_everything(tested: Service) -> None:
    if not shutil.which("node"):
        pytest.skip("needs Node 20")
    outcomes = list(run(tested, NODE))
    assert [one for one in outcomes if not one.passed] == []
    assert len(outcomes) == len(CASES)


def test_the_small_client_fails_only_what_its_table_says(tested: Service, tmp_path: Path) -> None:
    (table,) = re.findall(r"^\| case \| what the small.*\n\|.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    expected = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    assert len(expected) == 6
    outcomes = list(run(tested, adapter(tmp_path / "small")))
    assert [one.check for one in outcomes if not one.passed] == expected
    assert [one for one in outcomes if not (one.passed or one.optional)] == []


@pytest.mark.parametrize(
    ("program", "name"), [(sys.executable, "send.py"), ("node", "send.mjs"), ("bash", "send.sh")]
)
def test_the_clients_of_the_examples_fail_only_the_end_of_the_table(
    tested: Service, program: str, name: str
) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    command = f"{sys.executable} {ADAPTERS}/command.py {program} {ROOT}/examples/{name}"
    outcomes = list(run(tested, command))
    assert [one.check for one in outcomes if not one.passed] == [
        "digest_mismatch",
        "a checksum that does not match",
        "the client is killed, and resumes",
        "the file is downloaded, without the token",
    ]
    assert [one for one in outcomes if not (one.passed or one.optional)] == []


def test_every_rule_is_checked() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 25
    assert {fault.on for case in CASES for fault in case.faults} == {
        "create",
        "batch",
        "finish",
        "status",
    }


def test_the_page_shows_what_there_is() -> None:
    shown = re.findall(r"^pass  (.*) \((.*)\)$", PAGE, re.MULTILINE)
    known = {(case.name, case.rule) for case in CASES}
    known |= {(name, guarantee) for name, (guarantee, _) in CHECKS.items()}
    assert len(shown) > 10
    assert set(shown) <= known
    assert f"there are {len(CHECKS)}\nchecks" in PAGE
    assert len(SMALL_ADAPTER.splitlines()) < 20


# --- Broken clients -------------------------------------------------------------------------------


def without(line: str, instead: str = "") -> Callable[[str], str]:
    """The small client with one piece of it replaced."""

    def change(source: str) -> str:
        assert source.count(line) == 1, line
        return source.replace(line, instead)

    return change


def changing_batches(source: str) -> str:
    return f"""{without("pass  # No response", "body = changed(body)  #")(source)}

def changed(body):
    content = body and gzip.decompress(body)
    return gzip.compress(content.replace(b"rec", b"Rec")) if content and b"rec" in content else body
"""


CONTENT = "batch 1 was sent again with other content"
FIRST = '    _, session = call("POST", API,'
BROKEN: dict[str, tuple[Callable[[str], str], dict[str, str]]] = {
    "ignores Retry-After": (
        without("        time.sleep(pause)\n"),
        {"429 with Retry-After": "s after 429 with Retry-After: 2"},
    ),
    "gives up when the service is busy": (
        without("answer.status < 500 and answer.status != 429", "answer.status < 600"),
        {
            "503 without Retry-After": "it reports failed, not success",
            "429 with Retry-After": "it reports failed, not success",
        },
    ),
    "repeats what is refused for good": (
        without("answer.status != 429", "answer.status not in (409, 429)"),
        {"batch_conflict": "batch 1 was sent 2 times; the client is stopped"},
    ),
    "opens another session if the answer is lost": (
        without('{"Idempotency-Key": uuid.uuid4().hex}', "{}"),
        {"create: the answer is lost": "it opened 2 sessions"},
    ),
    "changes a batch that it sends again": (
        changing_batches,
        {
            "batch: the request is lost": CONTENT,
            "batch: the answer is lost": CONTENT,
            "batch: a refusal is cut": CONTENT,
        },
    ),
    "takes half an answer for an error": (
        without(", http.client.HTTPException"),
        {
            "batch: a refusal is cut": "http.client.IncompleteRead",
            "finish: the answer is cut": "http.client.IncompleteRead",
        },
    ),
    "does not read the gap report": (
        without('        if result["validationResult"] == "Success":\n    ', ""),
        {
            "merge_failed": "it reports success, and the session is OPEN",
            "two batches are missing": "it reports success, and the session is OPEN",
            "too_large": "it reports success, not failed",
        },
    ),
    "sends everything again after a gap report": (
        without(
            'for gap in result["missing"] for n in range(gap["from"], gap["to"] + 1)',
            "for n in range(4)",
        ),
        {"two batches are missing": "after a report that [1, 3] are missing it sent [0, 1, 2, 3]"},
    ),
    "finishes for ever": (
        without('        if result["reason"] not in', "        if 0 and result not in"),
        {"too_large": "finish was sent 4 times; the client is stopped"},
    ),
}
MEANT = {name for _, findings in BROKEN.values() for name in findings}


@pytest.fixture(scope="module")
def found(tested: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """Every case that is meant for a broken client, for each of them."""

    def one(name: str) -> list[Outcome]:
        command = adapter(tmp_path_factory.mktemp("broken"), BROKEN[name][0](SMALL_CLIENT))
        return list(run(tested, command, cases=[case for case in CASES if case.name in MEANT]))

    with ThreadPoolExecutor(3) as threads:
        return dict(zip(BROKEN, threads.map(one, BROKEN), strict=True))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_client_fails_what_is_meant_for_it(
    found: dict[str, list[Outcome]], name: str
) -> None:
    failed = {one.check: one.detail for one in found[name] if not one.passed}
    expected = BROKEN[name][1]
    assert set(failed) == set(expected), failed
    for check, detail in expected.items():
        assert detail in failed[check]


def test_a_batch_that_is_never_sent_is_found(tested: Service, tmp_path: Path) -> None:
    """Also if the client has changed the total, so that finish says Success."""
    short = without(FIRST, f"    records = records[: len(records) // size * size]\n{FIRST}")
    outcomes = run(
        tested, adapter(tmp_path / "short", short(SMALL_CLIENT)), ["a file is", "be full"]
    )
    assert [(one.passed, one.detail) for one in outcomes] == [
        (False, "it reports success, and the merged object is not the file"),
        (True, ""),
    ]


DOWNLOAD = """
    if request["command"] == "download":
        import urllib.request
        url = f"{request['url']}/api/upload/sessions/{request['sessionId']}/file"
        asked = urllib.request.Request(url)
        asked.add_header("Authorization", f"Bearer {request['token']}")
        try:
            with urllib.request.urlopen(asked) as file:
                open(request["output"], "wb").write(file.read())
            answer = {"outcome": "success"}
        except OSError as error:
            answer = {"outcome": "failed", "detail": str(error)}
    if request["command"] == "upload":"""


def test_a_token_that_is_sent_to_storage_is_found(tested: Service, tmp_path: Path) -> None:
    """A redirect is followed with all headers, or with all but some."""
    naive = without('\n    if request["command"] == "upload":', DOWNLOAD)(SMALL_ADAPTER)
    (outcome,) = run(tested, adapter(tmp_path / "naive", program=naive), ["is downloaded"])
    assert (outcome.passed, outcome.optional) == (False, False)
    assert "HTTP Error 400" in outcome.detail
    assert "the token was sent to another origin" in outcome.detail
    careful = without(".add_header(", ".add_unredirected_header(")(naive)
    (outcome,) = run(tested, adapter(tmp_path / "careful", program=careful), ["is downloaded"])
    assert (outcome.passed, outcome.detail) == (True, "")
    truncated = without("file.read()", "file.read()[:-1]")(careful)
    (outcome,) = run(tested, adapter(tmp_path / "cut", program=truncated), ["is downloaded"])
    assert outcome.detail == "the downloaded file is not the one that was uploaded"


def test_the_client_never_gets_the_credentials_of_the_service(passing: front.Front) -> None:
    with Server(passing) as server:
        service = Service(server.url, TokenAuth("of-the-service"))
        outcomes = list(run(service, PYTHON, ["token is sent", "is downloaded"]))
        service.close()
    assert [one.passed for one in outcomes] == [True, True]
    assert {seen.authorization for seen in passing.seen} == {"Bearer of-the-service"}


def test_the_credentials_of_the_service_are_not_in_the_environment(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"GAPLESS_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"}
    for name in names:
        monkeypatch.setenv(name, "of-the-service")
    program = f"""if 1:
        import json, os
        input()
        found = {names} & set(os.environ)
        print(json.dumps({{"outcome": "failed", "detail": "given: %s" % found}}))
    """
    command = shlex.join([sys.executable, "-c", program])
    out, _ = front.run("conformance", service, "--client", command, "--only", "be full", expect=1)
    assert "it reports failed, not success: given: set()\n" in out


def test_an_upload_that_starts_over_is_found(tested: Service, tmp_path: Path) -> None:
    again = without('["command"] == "upload"', '["command"] in ("upload", "resume")')
    command = adapter(tmp_path / "again", program=again(SMALL_ADAPTER))
    (outcome,) = run(tested, command, ["is killed"])
    assert (outcome.passed, outcome.optional) == (False, False)
    assert "it opened 2 sessions; batch 0 was stored before, and was sent again" in outcome.detail


# --- The proxy ------------------------------------------------------------------------------------


def test_the_proxy_forwards_what_http_allows(tested: Service) -> None:
    with FaultyProxy(tested, (), lambda _: 9, lambda: None) as proxy:
        chunked = iter([b'{"totalRecord"', b": 0}"])
        opened = httpx.post(proxy.url + front.SESSIONS, content=chunked)
        assert proxy.sessions == [opened.json()["sessionId"]]
        assert opened.headers["location"] == f"{front.SESSIONS}/{proxy.sessions[0]}"
        repeated = [("Idempotency-Key", "a" * 32), ("Idempotency-Key", "b" * 32)]
        refused = httpx.post(
            proxy.url + front.SESSIONS, content=b'{"totalRecord": 0}', headers=repeated
        )
        assert refused.json()["code"] == "invalid_idempotency_key"
        assert httpx.get(f"{proxy.url}{front.SESSIONS}x").status_code == 404
        assert [seen.name for seen in proxy.seen] == ["create", "create", ""]
        assert proxy.error is None


def test_a_request_that_breaks_off_never_arrives(tested: Service) -> None:
    """A client that is killed while it sends leaves a piece of its request behind."""
    pieces = [
        b"Content-Length: 18\r\n\r\n" + b'{"totalRecord": ',
        b"Transfer-Encoding: chunked\r\n\r\n" + b'12\r\n{"totalRecord": ',
        b"Transfer-Encoding: chunked\r\n\r\n" + b'12\r\n{"totalRecord": 0}\r\n',
    ]
    with FaultyProxy(tested, (), lambda _: 9, lambda: None) as proxy:
        address = httpx.URL(proxy.url)
        for piece in pieces:
            with socket.create_connection((address.host, address.port or 0)) as connection:
                connection.sendall(
                    f"POST {front.SESSIONS} HTTP/1.1\r\nHost: x\r\n".encode() + piece
                )
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
        assert proxy.seen == []


# --- Adapters that are no use ---------------------------------------------------------------------

USELESS = {
    "import sys; sys.exit('No such file.')": (
        "the client exited without an answer (exit code 1): No such file."
    ),
    "input()": "the client exited without an answer (exit code 0)",
    "print('INFO starting'); input()": (
        "not an answer: b'INFO starting\\n'; other output belongs on stderr"
    ),
    "input(); print('{}')": "not an answer: b'{}\\n'; other output belongs on stderr",
    "input(); print('[1]')": "not an answer: b'[1]\\n'; other output belongs on stderr",
    'input(); print(\'{"outcome": "failed"}\')': "it reports failed, not success",
    'input(); print(\'{"outcome": "success"}\')': ("sessionId '' is not a session of this upload"),
    'input(); print(\'{"outcome": "success", "sessionId": "\\x1b[2J"}\')': "not an answer",
    "import time; time.sleep(999)": "no answer within 3 s",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "(exit code -11)",
}


@pytest.mark.parametrize("program", USELESS)
def test_what_is_no_adapter_is_a_failed_case(tested: Service, program: str) -> None:
    command = shlex.join([sys.executable, "-c", program])
    (outcome,) = run(tested, command, ["a file is"], seconds=3 if "999" in program else 60)
    assert not outcome.passed
    assert USELESS[program] in outcome.detail


def test_a_crash_is_a_failure_also_in_a_case_that_is_optional(tested: Service) -> None:
    command = shlex.join([sys.executable, "-c", "raise SystemExit(3)"])
    (outcome,) = run(tested, command, ["byte for byte"])
    assert (outcome.passed, outcome.optional) == (False, False)


def test_a_client_that_always_reports_success(tested: Service) -> None:
    program = 'while input(): print(\'{"outcome": "success"}\', flush=True)'
    command = shlex.join([sys.executable, "-c", program])
    found = run(tested, command, ["is downloaded", "batch_conflict", "is killed"])
    assert [one.detail.partition(";")[0] for one in found] == [
        "it reports success, not failed",
        "it reports failed, not success: it ended before it was killed",
        "sessionId '' is not a session of this upload",
    ]


def test_an_adapter_that_does_not_upload_fails(tested: Service) -> None:
    program = 'while input(): print(\'{"outcome": "unsupported"}\', flush=True)'
    command = shlex.join([sys.executable, "-c", program])
    names = ["a file is", "no batches", "is killed", "is downloaded"]
    found = [(one.passed, one.optional) for one in run(tested, command, names)]
    assert found == [(False, False), (False, False), (False, True), (False, True)]


def test_an_adapter_may_exit_after_each_answer(tested: Service, tmp_path: Path) -> None:
    once = without("for line in sys.stdin:", "for line in [sys.stdin.readline()]:")
    command = adapter(tmp_path / "once", program=once(SMALL_ADAPTER))
    outcomes = list(run(tested, command, ["a file is", "batch:", "be full", "no batches"]))
    assert [one.detail for one in outcomes] == [""] * 6


def test_an_adapter_may_take_its_time_to_exit(tested: Service) -> None:
    program = """if 1:
        import os, time
        input()
        os.write(1, b'{"outcome": "failed", "code": "c"}\\n')
        os.close(1)
        time.sleep(999)
    """
    command = shlex.join([sys.executable, "-c", program])
    outcomes = list(run(tested, command, cases=CASES[:8], seconds=20))
    assert [one.detail for one in outcomes] == ["it reports failed, not success: c"] * 8


def test_a_second_answer_fails_the_next_case(tested: Service, tmp_path: Path) -> None:
    twice = without("    print(", "    print(json.dumps(answer))\n    print(")
    command = adapter(tmp_path / "twice", program=twice(SMALL_ADAPTER))
    outcomes = list(run(tested, command, ["batch"]))
    found = [one.detail for one in outcomes if not one.passed]
    assert found
    assert all("a second line after an answer" in detail for detail in found)


def test_a_command_that_cannot_be_started(tested: Service) -> None:
    for command, message in {
        "/no/such/adapter --now": "The client, /no/such/adapter, cannot be started: No such file",
        "": "--client needs the command of an adapter.",
        "'unbalanced": "No closing quotation",
    }.items():
        with pytest.raises(SettingError, match=message):
            list(run(tested, command))


def test_clients_end_with_the_command(service: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = f"""if 1:
            import socket, time
            connection = socket.create_connection({listener.getsockname()})
            time.sleep(999)
        """
        client = shlex.join([sys.executable, "-c", program])
        command = front.gapless_command("conformance", service, "--client", client)
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as running:
            listener.settimeout(60)
            clients = [listener.accept()[0] for _ in range(4)]
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 130
        for connection in clients:
            connection.settimeout(60)
            assert connection.recv(1) == b""
            connection.close()


def test_a_client_that_is_being_started_ends_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = threading.Event()
    started: list[subprocess.Popen[bytes]] = []

    def slowly(*given: Any, **more: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
        started.append(subprocess.Popen(*given, **more))
        began.set()
        time.sleep(0.5)
        return started[0]

    monkeypatch.setattr(client_conformance, "subprocess", SimpleNamespace(Popen=slowly, PIPE=-1))
    monkeypatch.setattr(client_conformance, "_starting", threading.Lock())
    client = client_conformance.ClientProcess(f"{sys.executable} -c 'import time; time.sleep(999)'")
    thread = threading.Thread(target=client._start)  # noqa: SLF001 - what a case begins with
    thread.start()
    assert began.wait(60)
    client_conformance.kill_all()
    assert started[0].wait(60) == -signal.SIGKILL
    thread.join()
    client._process = started[0]  # noqa: SLF001
    client.kill()
    started[0].stdout.close()  # type: ignore[union-attr]


def test_without_a_service_nothing_is_found() -> None:
    service = Service("http://127.0.0.1:9")
    with pytest.raises(UnreachableError):
        list(run(service, PYTHON))
    service.close()


def test_the_command_prints_a_table_or_json(service: str) -> None:
    arguments = ("conformance", service, "--client", PYTHON, "--only")
    out, said = front.run(*arguments, "be full")
    assert out.startswith("pass  the last batch may be full (uploading)\n")
    assert (": 1 check, " in out, said) == (True, "")
    out, said = front.run(*arguments, "be full", "--client", "false", "--json", expect=1)
    check, error = map(json.loads, out.splitlines())
    assert (check["passed"], check["optional"]) == (False, False)
    assert error["message"] == "false: 1 check, 1 request, 1 failed"
