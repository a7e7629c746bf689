"""``gapless`` and ``gapless-local`` as their users get them: built, checked, installed and run.

Not among the tests of ``make test``, because it installs from PyPI: ``make test-packages``.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest
import yaml

# A background job ignores SIGINT, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]["version"]
URL = "https://example.org/gapless"
RECORDS = b"".join(b'{"id":%d,"name":"caf\xc3\xa9"}\n' % number for number in range(2_500))

CONFORMANCE = """
import subprocess
import sys


def test_conformance(gapless_url):
    command = [sys.executable, "-m", "gapless", "conformance", "--url", gapless_url]
    subprocess.run(command, check=True)
"""

README = (ROOT / "local/README.md").read_text()
(TESTS_OF_A_USER,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

MORE_TESTS = """
def test_the_server_stays_out_of_this_process(gapless_url):
    import sys

    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"boto3", "botocore", "flask", "moto", "uploads", "batches", "sessions"}
"""

FAILING = """
import gapless


def test_that_passes(gapless_url):
    gapless.upload([{"id": 1}], gapless_url)


def test_that_fails(gapless_url):
    result = gapless.upload([{"id": 1}, {"id": 2}], gapless_url)
    print("SESSION", result.session_id)
    assert result.received_record == 3
"""

KILLED = """
import os
import signal


def test_that_is_killed(gapless_url):
    print("URL", gapless_url, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Built(NamedTuple):
    """A package as it is published."""

    sdist: Path
    wheel: Path

    @property
    def metadata(self) -> Message:
        """The wheel's metadata."""
        with zipfile.ZipFile(self.wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return HeaderParser().parsestr(wheel.read(name).decode())

    @property
    def wheel_files(self) -> set[str]:
        """The files of the wheel, without its metadata but for the licence."""
        with zipfile.ZipFile(self.wheel) as wheel:
            names = {name for name in wheel.namelist() if ".dist-info/" not in name}
            licences = {name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")}
        return names | {"LICENSE" for _ in licences}

    @property
    def sdist_files(self) -> set[str]:
        """The files of the sdist, without its folder."""
        with tarfile.open(self.sdist) as sdist:
            return {name.partition("/")[2] for name in sdist.getnames()}


def call(*command: object, cwd: Path, **environ: str) -> tuple[int, str]:
    """Run a command in ``cwd`` and return its exit code and output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def run(*command: object, cwd: Path, **environ: str) -> str:
    """Run a command in ``cwd`` and return its output; fails with it."""
    code, output = call(*command, cwd=cwd, **environ)
    assert code == 0, output
    return output


def build(project: Path, folder: Path) -> Built:
    """Build the sdist of ``project``, and the wheel from the sdist."""
    options = ("--no-isolation", "--outdir", folder)
    run(sys.executable, "-m", "build", *options, project, cwd=folder, REPOSITORY_URL=URL)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist, wheel)


def install(folder: Path, *requirements: object) -> Path:
    """Install into a new environment, which has nothing else; returns its ``bin``."""
    uv = (sys.executable, "-m", "uv")
    run(*uv, "venv", "--python", sys.executable, folder, cwd=folder.parent)
    run(
        *uv,
        "pip",
        "install",
        # pip's certificates, not those that uv brings.
        "--system-certs",
        "--python",
        folder / "bin" / "python",
        *requirements,
        cwd=folder.parent,
    )
    return folder / "bin"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(ROOT / "client", tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(ROOT, tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def environment(client: Built, local: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with both packages and pytest."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    return install(folder, client.wheel, local.wheel, "pytest", "pytest-xdist")


@pytest.fixture
def server(environment: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``gapless-local`` in an empty folder, on a free port: its greeting, and the process."""
    ours = ("AWS_", "SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET", "PORT")
    with subprocess.Popen(
        [environment / "gapless-local", "--port", "0"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        greeting = ""
        for line in process.stdout:
            greeting += line
            if "curl " in line:
                break
        try:
            yield greeting, process
        finally:
            process.kill()


def test_every_package_has_the_same_version(client: Built, local: Built) -> None:
    api = yaml.safe_load((ROOT / "openapi.yaml").read_text())["info"]["version"]
    versions = {api, client.metadata["Version"], local.metadata["Version"]}
    if (npm := ROOT / "web" / "package.json").exists():
        versions.add(json.loads(npm.read_text())["version"])
    assert versions == {VERSION}
    assert re.search(
        rf"^## \[{re.escape(VERSION)}\] - \d", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_indexes_take_them(client: Built, local: Built) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", *client, *local, cwd=ROOT)
    assert said.count("PASSED") == 4


def test_what_an_index_shows(client: Built, local: Built) -> None:
    for built, lowest in ((client, 10), (local, 11)):
        found = built.metadata
        assert found["License-Expression"] == "MIT"
        assert found.get_all("License-File") == ["LICENSE"]
        assert found["Author"] == "Gapless contributors"
        assert found["Description-Content-Type"] == "text/markdown"
        assert found["Requires-Python"] == f">=3.{lowest}"
        classifiers = found.get_all("Classifier", [])
        for minor in range(lowest, 14):
            assert f"Programming Language :: Python :: 3.{minor}" in classifiers
        assert {url.partition(", ")[2] for url in found.get_all("Project-URL", [])} == {
            URL,
            f"{URL}/issues",
            f"{URL}/tree/main/docs",
            f"{URL}/blob/main/CHANGELOG.md",
        }
    assert client.metadata.get_all("Provides-Extra") == ["aws", "schema"]
    assert (ROOT / "client/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_content_of_the_client(client: Built) -> None:
    files = run("git", "ls-files", "gapless", cwd=ROOT / "client")
    package = set(files.split())
    assert "gapless/py.typed" in package
    assert client.wheel_files == package | {"LICENSE"}
    assert client.sdist_files == package | {
        ".gitignore",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "hatch_build.py",
        "pyproject.toml",
    }


def test_content_of_the_local_run(local: Built) -> None:
    files = local.wheel_files
    package = {name for name in files if name.count("/") == 1}
    assert package == {
        f"gapless_local/{name}.py"
        for name in (
            "__init__",
            "__main__",
            "gateway",
            "in_process",
            "other_storage",
            "process",
            "pytest_plugin",
            "server",
            "storage",
            "streams",
            "template",
        )
    }
    code = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "functions").rglob("*.py")
        if path.name != "pack.py"
    }
    page = {
        f"web/{path.name}"
        for path in (ROOT / "web").iterdir()
        if path.suffix in {".js", ".css", ".html"}
    }
    stack = {f"gapless_local/stack/{name}" for name in code | page | {"template.yaml"}}
    assert files == package | stack | {"LICENSE"}
    assert {
        name for name in local.sdist_files if name.startswith(("tests", "docs", "client/"))
    } == {
        "client/hatch_build.py",
        "client/pyproject.toml",
    }


def test_the_commands_say_their_version(environment: Path, tmp_path: Path) -> None:
    assert run(environment / "gapless", "--version", cwd=tmp_path).split()[-1] == VERSION
    said = run(environment / "gapless-local", "--version", cwd=tmp_path)
    assert said == f"gapless-local {VERSION}\n"
    assert "--port" in run(environment / "gapless-local", "--help", cwd=tmp_path)


def test_upload_and_download(
    environment: Path, server: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    greeting, process = server
    found = re.match(r"Gapless is at (http://localhost:\d+) ", greeting)
    assert found, greeting
    url = found[1]
    (tmp_path / "in.ndjson").write_bytes(RECORDS)
    gapless = environment / "gapless"
    home = {"GAPLESS_STATE_DIR": str(tmp_path / "state"), "GAPLESS_URL": url}
    run(gapless, "upload", "in.ndjson", cwd=tmp_path, **home)
    run(gapless, "download", "in.ndjson", "-o", "out.ndjson", cwd=tmp_path, **home)
    assert (tmp_path / "out.ndjson").read_bytes() == RECORDS
    with urlopen(f"{url}/") as page:
        assert b"<title>" in page.read()

    taken = subprocess.run(
        [environment / "gapless-local", "--port", url.rpartition(":")[2]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert taken.returncode == 1
    assert re.fullmatch(r"gapless: port \d+: Address already in use\..*--port.*\n", taken.stderr)

    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")


def test_the_fixtures(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "test_of_a_user.py").write_text(TESTS_OF_A_USER + MORE_TESTS)
    pytest_command = (environment / "python", "-m", "pytest", "-q", "-W", "error")
    assert "3 passed" in run(*pytest_command, cwd=tmp_path, AWS_ENDPOINT_URL="http://localhost:1")
    assert "3 passed" in run(*pytest_command, "-n", "2", cwd=tmp_path)


def failing(environment: Path, folder: Path, tests: str, **environ: str) -> str:
    """Run tests that fail, without capturing; returns the output."""
    (folder / "test_of_a_user.py").write_text(tests)
    command = (environment / "python", "-m", "pytest", "-q", "-s")
    code, output = call(*command, cwd=folder, **environ)
    assert code != 0, output
    return output


def test_a_failed_test_shows_what_the_server_logged_during_it(
    environment: Path, tmp_path: Path
) -> None:
    said = failing(environment, tmp_path, FAILING, POWERTOOLS_LOG_LEVEL="INFO")
    assert "1 failed, 1 passed" in said
    (session_id,) = re.findall(r"SESSION ([0-9a-f]{32})", said)
    logged = said.partition("Output of the local Gapless")[2]
    assert session_id in logged
    assert "Gapless is at" not in logged


def test_a_server_that_cannot_start_says_why(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_text('{"type": 1}')
    said = failing(environment, tmp_path, TESTS_OF_A_USER, SCHEMAS_DIR=".")
    assert "gapless: a schema in . cannot be used" in said
    assert "orders.json" in said


def test_the_server_ends_with_killed_tests(environment: Path, tmp_path: Path) -> None:
    said = failing(environment, tmp_path, KILLED)
    found = re.search(r"URL http://localhost:(\d+)", said)
    assert found, said
    for _ in range(600):
        try:
            socket.create_connection(("localhost", int(found[1]))).close()
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail("the server still listens")


def test_the_lowest_versions(client: Built, local: Built, tmp_path: Path) -> None:
    named = [
        *client.metadata.get_all("Requires-Dist", []),
        *local.metadata.get_all("Requires-Dist", []),
    ]
    lowest = [one for one in named if "extra ==" not in one and not one.startswith("gapless")]
    binaries = install(
        tmp_path / "venv",
        "--resolution=lowest-direct",
        *lowest,
        "pytest>=7",
        client.wheel,
        local.wheel,
    )
    (tmp_path / "test_of_a_user.py").write_text(TESTS_OF_A_USER + CONFORMANCE)
    assert "3 passed" in run(binaries / "python", "-m", "pytest", "-q", "-W", "error", cwd=tmp_path)
