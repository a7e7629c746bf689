"""Common readers read a merged object of the format ``ndjson.gz`` completely.

They read the gzip file, or NDJSON with ``Content-Encoding: gzip``. Many readers silently stop after
the first member of a gzip file, or at the first flush.
"""

import base64
import gzip
import hashlib
import importlib
import json
import os
import random
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from playwright.sync_api import Browser, sync_playwright

from tests.api import Api, through_gateway
from tests.conftest import MotoStack
from uploads.decode.body import BATCH_MEDIA_TYPE

pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent / "gzip_readers"
RECORDS_IN = [1, 7, 5_000, 1, 1, 20_000, 300, *[40] * 200, 10_000, 1]
"""Records per batch: one block and many, a small batch among large ones, and the last one."""


@dataclass(frozen=True)
class Sent:
    """The records that were merged, and the merged object."""

    records: Sequence[dict[str, object]]
    ndjson: bytes
    file: Path
    """The merged object."""
    url: str
    """The link to the gzip file."""
    encoded_url: str
    """The link to NDJSON with ``Content-Encoding: gzip``."""


def _records() -> list[dict[str, object]]:
    made = random.Random(5)  # not for secrets
    notes = ("", "Zoë", "\u2028\x85", "\\n", '"', "x" * 3_000, "\N{GRINNING FACE}")
    return [
        {
            "id": number,
            "price": made.randrange(10_000) / 4,
            "note": made.choice(notes) if made.random() < 0.05 else made.randbytes(8).hex(),
        }
        for number in range(sum(RECORDS_IN))
    ]


@pytest.fixture(scope="module")
def sent(local: MotoStack, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    api = Api(through_gateway(local.gateway))
    records = _records()
    session_id = api.create(len(records), format="ndjson.gz")
    rest = iter(records)
    for seq_num, count in enumerate(RECORDS_IN):
        batch = json.dumps({"seqNum": seq_num, "data": [*islice(rest, count)]}, ensure_ascii=False)
        headers = {"content-type": BATCH_MEDIA_TYPE, "content-encoding": "gzip"}
        answer = api.raw_batch(session_id, gzip.compress(batch.encode(), 1), headers)
        assert answer.status == 204
    assert api.finish(session_id).json["validationResult"] == "Success"
    file = tmp_path_factory.mktemp("gzip") / "merged.ndjson.gz"
    file.write_bytes(local.merged(session_id, "ndjson.gz"))

    def link(accepted: str) -> str:
        headers = {"accept": "application/json", "accept-encoding": accepted}
        url: str = api.file(session_id, headers).json["url"]
        return url

    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records]
    return Sent(records, b"".join(lines), file, link("identity"), link("gzip"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("Chromium is not installed. On Debian: apt install chromium")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not run as root.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


def _run(*command: str) -> bytes:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, check=True).stdout


# --- Readers of bytes ---


def by_java(sent: Sent) -> bytes:
    if shutil.which("java") and b"jdk.compiler" not in _run("java", "--list-modules"):
        pytest.skip("this Java cannot compile: it is not a JDK")
    return _run("java", str(PROGRAMS / "Inflate.java"), str(sent.file))


def by_node(way: str) -> Callable[[Sent], bytes]:
    def read(sent: Sent) -> bytes:
        source = sent.encoded_url if way == "fetch" else str(sent.file)
        return _run("node", str(PROGRAMS / "inflate.mjs"), way, source)

    return read


def by_gzip_lines(sent: Sent) -> bytes:
    with gzip.open(sent.file, "rb") as lines:
        return b"".join(lines)


def by_zlib(sent: Sent) -> bytes:
    return zlib.decompress(sent.file.read_bytes(), 31)


def by_httpx(sent: Sent) -> bytes:
    return httpx.get(sent.encoded_url, trust_env=False, timeout=60).content


def by_httpx_stream(sent: Sent) -> bytes:
    with httpx.stream("GET", sent.encoded_url, trust_env=False, timeout=60) as answer:
        return b"".join(answer.iter_bytes(1_000))


def by_requests(sent: Sent) -> bytes:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(sent.encoded_url, timeout=60).content


READERS_OF_BYTES: dict[str, Callable[[Sent], bytes]] = {
    "gunzip": lambda sent: _run("gunzip", "-c", str(sent.file)),
    "python gzip": lambda sent: gzip.decompress(sent.file.read_bytes()),
    "python gzip, by lines": by_gzip_lines,
    "python zlib": by_zlib,
    "java GZIPInputStream": by_java,
    "node gunzipSync": by_node("gunzipSync"),
    "node createGunzip": by_node("createGunzip"),
    "node DecompressionStream": by_node("DecompressionStream"),
    "node fetch": by_node("fetch"),
    "curl --compressed": lambda sent: _run(
        "curl", "-sS", "--noproxy", "*", "--compressed", sent.encoded_url
    ),
    "httpx": by_httpx,
    "httpx, streamed": by_httpx_stream,
    "requests": by_requests,
}


@pytest.mark.parametrize("reader", READERS_OF_BYTES)
def test_every_byte_is_read(sent: Sent, reader: str) -> None:
    found = READERS_OF_BYTES[reader](sent)
    assert (len(found), found.count(b"\n")) == (len(sent.ndjson), len(sent.records))
    assert found == sent.ndjson


def test_gzip_finds_the_file_whole(sent: Sent) -> None:
    _run("gzip", "-t", str(sent.file))


def test_readers_would_notice(tmp_path: Path, sent: Sent) -> None:
    """With one member per batch, which would be simpler, some readers lose all but the first."""
    file = tmp_path / "members.gz"
    file.write_bytes(gzip.compress(b"1\n") + gzip.compress(b"2\n"))
    members = replace(sent, file=file)
    assert by_zlib(members) == b"1\n"
    assert by_gzip_lines(members) == b"1\n2\n"


# --- Readers of records ---


def by_pandas(sent: Sent) -> list[dict[str, Any]]:
    frame = importlib.import_module("pandas").read_json(sent.file, lines=True, dtype=False)
    found: list[dict[str, Any]] = frame.to_dict("records")
    return found


def by_polars(sent: Sent) -> list[dict[str, Any]]:
    frame = importlib.import_module("polars").read_ndjson(sent.file)
    found: list[dict[str, Any]] = frame.to_dicts()
    return found


def by_pyarrow(sent: Sent) -> list[dict[str, Any]]:
    importlib.import_module("pyarrow.json")
    arrow = importlib.import_module("pyarrow")
    with arrow.input_stream(str(sent.file), compression="gzip") as content:
        found: list[dict[str, Any]] = arrow.json.read_json(content).to_pylist()
    return found


def by_duckdb(sent: Sent) -> list[dict[str, Any]]:
    with importlib.import_module("duckdb").connect() as database:
        rows = database.execute(
            "SELECT id, price, note FROM read_ndjson(?, compression = 'gzip') ORDER BY id",
            [str(sent.file)],
        ).fetchall()
    return [dict(zip(("id", "price", "note"), row, strict=True)) for row in rows]


@pytest.mark.parametrize("reader", [by_pandas, by_polars, by_pyarrow, by_duckdb])
def test_every_record_is_read(sent: Sent, reader: Callable[[Sent], list[dict[str, Any]]]) -> None:
    found = reader(sent)
    assert len(found) == len(sent.records)
    assert found == sent.records


# --- Chromium ---

FETCH = "async (url) => await (await fetch(url)).arrayBuffer()"
DECOMPRESS = """async (url) => {
  const inflated = (await fetch(url)).body.pipeThrough(new DecompressionStream("gzip"));
  return await new Response(inflated).arrayBuffer();
}"""


@pytest.mark.parametrize(
    ("read", "link"),
    [
        pytest.param(FETCH, "encoded_url", id="fetch"),
        pytest.param(DECOMPRESS, "url", id="DecompressionStream"),
    ],
)
def test_chromium_reads_every_byte(
    browser: Browser, server_url: str, sent: Sent, read: str, link: str
) -> None:
    page = browser.new_page()
    # Web pages that hash must be of this machine, or secure.
    page.goto(f"{server_url}/api")
    found = page.evaluate(
        f"""async (url) => {{
          const content = await ({read})(url);
          const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
          const bytes = new Uint8Array(content);
          const lines = bytes.reduce((count, byte) => count + (byte === 10), 0);
          return [bytes.length, lines, btoa(String.fromCharCode(...digest))];
        }}""",
        getattr(sent, link),
    )
    page.close()
    digest = base64.b64encode(hashlib.sha256(sent.ndjson).digest()).decode()
    assert found == [len(sent.ndjson), len(sent.records), digest]
