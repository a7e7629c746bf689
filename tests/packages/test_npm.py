"""The npm package: what it contains, that it installs, uploads from Node, and has correct types."""

import json
import os
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from local.gateway import wsgi
from local.server import Server
from tests.conftest import MotoStack
from tests.web.readings import CASES, READ, check, inputs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
FILES = {
    *("package.json", "README.md", "LICENSE", "gapless.js", "readers.js", "pako.js"),
    *("papaparse.js", "types/gapless.d.ts", "types/readers.d.ts"),
}
SECONDS = 300
"""Longer than any command here takes on a busy machine."""


class Installed(NamedTuple):
    """The package, built and installed."""

    source: Path
    """A copy of its source, with its development dependencies."""
    packed: dict[str, Any]
    """What ``npm pack --json`` says."""
    consumer: Path
    """A project that depends on the package and on nothing else."""


def run(folder: Path, *command: str, **environment: str) -> str:
    """Run a command. Fails with its output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    if missing := [tool for tool in ("node", "npm") if not shutil.which(tool)]:
        pytest.skip(f"not installed: {' and '.join(missing)}")
    folder = tmp_path_factory.mktemp("npm")
    source, consumer = folder / "web", folder / "consumer"
    ignored = shutil.ignore_patterns("node_modules", "types")
    shutil.copytree(WEB, source, ignore=ignored)
    shutil.copy(ROOT / "LICENSE", folder)
    quiet = ("--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error")
    run(source, "npm", "ci", *quiet)
    (packed,) = json.loads(run(source, "npm", "pack", "--json", "--silent"))
    consumer.mkdir()
    (consumer / "package.json").write_text(
        '{"name": "consumer", "private": true, "type": "module"}'
    )
    run(consumer, "npm", "install", *quiet, str(source / packed["filename"]))
    return Installed(source, packed, consumer)


def test_the_package_contains_the_module_and_nothing_else(installed: Installed) -> None:
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    assert installed.packed["version"] == project["version"]
    assert {file["path"] for file in installed.packed["files"]} == FILES
    for name in FILES - {"LICENSE", "types/gapless.d.ts", "types/readers.d.ts"}:
        assert (installed.consumer / "node_modules/gapless" / name).read_bytes() == (
            WEB / name
        ).read_bytes()
    assert [path.name for path in (installed.consumer / "node_modules").glob("[!.]*")] == [
        "gapless"
    ]


def test_publint_finds_nothing(installed: Installed) -> None:
    run(installed.source, "npx", "publint", "--strict", installed.packed["filename"])


def example(heading: str) -> str:
    """The code under a heading of the package's README."""
    found = re.search(
        rf"^## {heading}\n.*?```js\n(.*?)```",
        (WEB / "README.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert found
    return found[1]


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with numbers that JavaScript would change."""
    file = tmp_path_factory.mktemp("orders") / "orders.ndjson"
    with file.open("w") as lines:
        for n in range(20_000):
            print(json.dumps({"id": 2**53 + 1 + n, "name": f"Zoë {n}", "price": 1.0}), file=lines)
    return file


def test_the_example_uploads_a_file(
    installed: Installed, local: MotoStack, server_url: str, orders: Path
) -> None:
    script = installed.consumer / "upload.js"
    script.write_text(example("Node"))
    link = run(installed.consumer, "node", script.name, str(orders), server_url).strip()
    session_id = re.search(r"/(\w+)\.ndjson", link)
    assert session_id
    assert local.merged(session_id[1]) == orders.read_bytes()


class Unreliable:
    """The service behind a connection that breaks at the first two batches."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._lock = threading.Lock()
        self.broken = 0

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        with self._lock:
            if environ["REQUEST_METHOD"] == "PUT" and self.broken < 2:
                self.broken += 1
                raise ConnectionAbortedError
        return self._app(environ, start_response)


@pytest.fixture
def unreliable(local: MotoStack) -> Iterator[tuple[Unreliable, str]]:
    front = Unreliable(wsgi(local.gateway))
    with Server(front) as server:
        yield front, server.url


def node(installed: Installed, script: str, **values: str) -> Any:  # noqa: ANN401
    """The JSON output of a script that uses the package."""
    head = 'import { Upload, Batch } from "gapless";\nimport { openAsBlob } from "node:fs";\n'
    return json.loads(
        run(installed.consumer, "node", "--input-type=module", "--eval", head + script, **values)
    )


def test_a_lost_connection_is_retried(
    installed: Installed, local: MotoStack, unreliable: tuple[Unreliable, str], orders: Path
) -> None:
    front, url = unreliable
    found = node(
        installed,
        """
        const { FILE, url } = process.env;
        const file = await openAsBlob(FILE);
        const upload = new Upload(file, { url, batchSize: 1000, concurrency: 64 });
        await upload.start();
        const { validationResult, verified } = await upload.finish();
        const { sessionId, batches } = upload;
        const stored = batches.filter((batch) => batch === Batch.STORED).length;
        console.log(JSON.stringify({ validationResult, verified, sessionId, stored }));
        """,
        FILE=str(orders),
        url=url,
    )
    session_id = found.pop("sessionId")
    assert found == {"validationResult": "Success", "verified": True, "stored": 20}
    assert front.broken == 2
    assert local.merged(session_id) == orders.read_bytes()


def test_an_upload_resumes_in_another_process(
    installed: Installed, local: MotoStack, server_url: str, orders: Path
) -> None:
    begin = """
        const { FILE, url } = process.env;
        const upload = new Upload(await openAsBlob(FILE), { url, batchSize: 1000 });
        upload.addEventListener("batch", ({ detail }) => {
          if (detail.batch !== Batch.STORED || detail.seqNum < 3) return;
          console.log(JSON.stringify(upload.saved));
          process.exit();
        });
        await upload.start();
        """
    resume = """
        const saved = JSON.parse(process.env.saved);
        const upload = new Upload(await openAsBlob(process.env.FILE), { saved });
        await upload.scan();
        await upload.look();
        const { stored } = upload.progress;
        await upload.start();
        console.log(JSON.stringify({ stored, ...(await upload.finish()) }));
        """
    saved = node(installed, begin, FILE=str(orders), url=server_url)
    found = node(installed, resume, FILE=str(orders), saved=json.dumps(saved))
    assert 0 < found["stored"] < 20
    assert (found["validationResult"], found["verified"]) == ("Success", True)
    assert local.merged(saved["sessionId"]) == orders.read_bytes()


def test_a_file_that_changes_is_not_sent(
    installed: Installed, server_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "orders.ndjson"
    file.write_text('{"id": 1}\n')
    found = node(
        installed,
        """
        import { appendFileSync } from "node:fs";
        const upload = new Upload(await openAsBlob(process.env.FILE), { url: process.env.url });
        await upload.scan();
        appendFileSync(process.env.FILE, '{"id": 2}\\n');
        const error = await upload.start().catch((error) => error);
        const stored = upload.batches.filter((batch) => batch === Batch.STORED).length;
        console.log(JSON.stringify({ code: error.code, state: upload.state, stored }));
        """,
        FILE=str(file),
        url=server_url,
    )
    assert found == {"code": "file_changed", "state": "failed", "stored": 0}


def test_node_has_no_page_to_take_the_address_from(installed: Installed) -> None:
    found = node(
        installed,
        """
        try {
          new Upload(new File(["{}"], "a.ndjson"));
        } catch ({ name, code, message }) {
          console.log(JSON.stringify([name, code, message]));
        }
        """,
    )
    assert found[:2] == ["UploadError", "bad_address"]
    assert "`url`" in found[2]


def test_the_list_needs_callers(installed: Installed, server_url: str) -> None:
    script = """
        const error = await Upload.list({ url: process.env.url }).catch((error) => error);
        console.log(JSON.stringify([error.code, error.status]));
        """
    assert node(installed, script, url=server_url) == ["no_list", 403]


@pytest.fixture(scope="module")
def readings(installed: Installed) -> dict[str, dict[str, Any]]:
    """What Node reads of every case, in a single process."""
    script = installed.consumer / "read.js"
    cases = installed.consumer / "cases.json"
    cases.write_text(json.dumps(["./node_modules/gapless/readers.js", inputs()]))
    script.write_text(
        f"""import {{ readFileSync }} from "node:fs";
        const read = {READ};
        console.log(JSON.stringify(await read(JSON.parse(readFileSync("cases.json")))));"""
    )
    found: dict[str, dict[str, Any]] = json.loads(run(installed.consumer, "node", script.name))
    return found


@pytest.mark.parametrize("name", CASES)
def test_node_reads_as_the_page_does(readings: dict[str, dict[str, Any]], name: str) -> None:
    check(name, readings[name])


CONSUMER = """
import { Upload, UploadError, Batch, serviceUrl } from "gapless";
import type { Options, Result, Saved, Gap } from "gapless";

const options: Options = { url: "https://api.example.com", batchSize: 1000, format: "ndjson.gz" };

export async function send(file: Blob, saved?: Saved): Promise<Result> {
  const upload = new Upload(file, { ...options, ...(saved && { saved }) });
  upload.addEventListener("state", () => console.log(upload.state satisfies string));
  try {
    const all: boolean = await upload.start();
    const gaps: Gap[] = upload.missing;
    console.log(all, gaps, upload.batches.filter((batch) => batch === Batch.MISSING).length);
    return await upload.finish();
  } catch (error) {
    if (error instanceof UploadError) console.log(error.code, error.line?.toFixed());
    throw error;
  }
}

const { sessions, cursor } = await Upload.list({ url: serviceUrl("https://api.example.com") });
const first: string | undefined = sessions[0]?.sessionId;
console.log(first, cursor satisfies string | null);

// @ts-expect-error: not a format of a merged file
new Upload(new Blob(), { format: "csv" });
// @ts-expect-error: a path is not a file
new Upload("orders.ndjson", options);
// @ts-expect-error: the answer has no such member
console.log((await send(new Blob())).ok);
"""


@pytest.mark.parametrize(
    ("resolution", "lib", "types"),
    [("nodenext", "es2023", "node"), ("bundler", "es2023,dom,dom.iterable", "")],
    ids=["Node", "browser"],
)
def test_the_types_hold_under_strict(
    installed: Installed, resolution: str, lib: str, types: str
) -> None:
    source = installed.consumer / "consumer.ts"
    source.write_text(CONSUMER)
    run(
        installed.consumer,
        str(installed.source / "node_modules/.bin/tsc"),
        *("--noEmit", "--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess"),
        *("--target", "es2023", "--module", "esnext" if resolution == "bundler" else resolution),
        *("--moduleResolution", resolution, "--lib", lib),
        *("--typeRoots", str(installed.source / "node_modules/@types"), "--types", types),
        source.name,
    )
