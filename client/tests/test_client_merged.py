"""Objects in the format ``ndjson.gz``: requested, resumed, downloaded and verified."""

import gzip
import io
import json
import os
import subprocess
import sys
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import msgspec
import pytest

import gapless
from front import Front, Said, Seen, begin, lines, merged, run, written
from gapless.errors import InputError
from gapless.merged import MergedObject, verify_manifest
from gapless.models import Checksum, Content, Result

GZIP = ("--merged-format", "ndjson.gz")


def crc32(content: bytes) -> Checksum:
    value = b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    return Checksum("CRC32", "FULL_OBJECT", value)


def result_of(stored: bytes, ndjson: bytes) -> Result:
    """The result of a session with this merged object."""
    content = Content(len(ndjson), crc32(ndjson))
    return Result("0" * 32, "Success", bytes=len(stored), checksum=crc32(stored), content=content)


# --- Requested and resumed ------------------------------------------------------------------------


def test_the_format_is_asked_for_and_shown(front: Front) -> None:
    file = written(Path("in.ndjson"), lines(1000))
    out, said = run("upload", file, *GZIP)
    assert json.loads(front.seen[0].body)["format"] == "ndjson.gz"
    assert ", into ndjson.gz" in said
    assert f" {file.stat().st_size:,} bytes in 1 batch are " in out
    assert ".ndjson.gz, " in out
    assert " bytes compressed, and what is stored is what was sent" in out
    assert " 1,000 records into ndjson.gz, 1 batch stored" in run("status", file)[0]
    status = json.loads(run("status", file, "--json")[0])
    assert status["format"] == "ndjson.gz"
    assert status["finish"]["content"]["bytes"] == file.stat().st_size > status["finish"]["bytes"]

    front.seen.clear()
    out, said = run("upload", file, "--json")
    assert "format" not in json.loads(front.seen[0].body)
    assert '"mergedFormat": "ndjson"' in out
    assert "content" not in json.loads(out.splitlines()[-1])
    assert " records into ndjson, " in run("status", file)[0]


def test_an_interrupted_upload_keeps_its_format(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same machine, and on another one, where the session has the format."""
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file, *GZIP)
    (unfinished,) = map(json.loads, run("list", "--json")[0].splitlines())
    assert unfinished["mergedFormat"] == "ndjson.gz"
    out, _ = run("resume", file, "--json")
    assert json.loads(out.splitlines()[-1])["key"].endswith(".ndjson.gz")
    assert merged() == file.read_bytes()

    begin(front, file, *GZIP)
    session = json.loads(run("list", "--json")[0])["sessionId"]
    monkeypatch.setenv("GAPLESS_STATE_DIR", "elsewhere")
    out, _ = run("resume", file, "--session", session, "--json")
    events = list(map(json.loads, out.splitlines()))
    assert [one["mergedFormat"] for one in events if one["event"] == "session"] == ["ndjson.gz"]
    assert events[-1]["content"]["bytes"] == file.stat().st_size


def test_a_state_of_an_earlier_release_can_be_resumed(front: Front, folder: Path) -> None:
    file = written(Path("in.ndjson"), lines(100))
    begin(front, file)
    (path,) = (folder / "state").glob("*.json")
    state = json.loads(path.read_bytes())
    del state["merged_format"]
    path.write_text(json.dumps(state))
    run("resume", file)
    assert merged() == file.read_bytes()


def test_the_library_asks_for_it(front: Front) -> None:
    url = os.environ["GAPLESS_URL"]
    result = gapless.upload([{"id": 1}], url, merged_format="ndjson.gz")
    assert result.content == Content(9, crc32(b'{"id":1}\n'))
    with gapless.Client(url) as client:
        session = client.create(1, merged_format=gapless.MergedFormat.NDJSON_GZ)
        assert session.status().format == "ndjson.gz"
        front.seen.clear()
        for name in ("gz", "gzip", "NDJSON.GZ", ""):
            with pytest.raises(InputError, match=r"ndjson or ndjson\.gz") as raised:
                client.create(1, merged_format=name)
            assert raised.value.code == "option"
            with pytest.raises(InputError):
                gapless.upload("no such file", url, merged_format=name)
    assert front.seen == []


def test_what_is_stored_is_compared_by_its_content(front: Front) -> None:
    """The service chooses the bytes of the object; only those of its NDJSON were sent."""

    def lie(seen: Seen) -> Said | None:
        if not seen.path.endswith("/finish"):
            return None
        result = result_of(b"whatever", b"2\n")
        return Said(200, msgspec.to_builtins(result))

    front.rule = lie
    file = written(Path("in.ndjson"), [b"1"])
    _, said = run("upload", file, *GZIP, expect=7)
    assert "is not what was sent" in said
    written(file, [b"2"])
    run("upload", file, *GZIP)


# --- Downloaded -----------------------------------------------------------------------------------


@pytest.fixture
def stored(front: Front) -> bytes:
    """Upload ``in.ndjson`` in three batches; returns its content."""
    assert front
    content = written(Path("in.ndjson"), lines(3000)).read_bytes()
    run("upload", "in.ndjson", "--batch-size", 1000, *GZIP)
    return content


def test_the_name_says_in_which_form(stored: bytes) -> None:
    run("download", "in.ndjson")
    assert Path("in.merged.ndjson").read_bytes() == stored
    run("download", "in.ndjson", "--no-inflate")
    for name in ("out.ndjson.gz", "out.gzip", "OUT.GZ"):
        run("download", "in.ndjson", "-o", name)
        assert Path(name).read_bytes() == Path("in.merged.ndjson.gz").read_bytes()
        assert zlib.decompress(Path(name).read_bytes(), wbits=31) == stored
    run("download", "in.ndjson", "-o", "raw", "--no-inflate")
    assert Path("raw").read_bytes() == Path("OUT.GZ").read_bytes()
    assert run("download", "in.ndjson", "-o", "-")[0].encode() == stored


def test_ndjson_never_gets_the_name_of_a_gzip(stored: bytes) -> None:
    assert stored
    _, said = run("download", "in.ndjson", "--inflate", "-o", "x.gz", expect=2)
    assert "x.gz would contain NDJSON" in said
    run("upload", "in.ndjson")
    for options in (["-o", "x.gz"], ["--no-inflate"]):
        _, said = run("download", "in.ndjson", *options, expect=2)
        assert "does not end with .gz" in said
    assert sorted(path.name for path in Path().glob("*.gz")) == []
    run("download", "in.ndjson", "--inflate", "-o", "plain")
    assert Path("plain").read_bytes() == stored


def test_the_library_downloads_both_forms(front: Front) -> None:
    assert front
    url = os.environ["GAPLESS_URL"]
    session_id = gapless.upload([1, 2], url, batch_size=1, merged_format="ndjson.gz").session_id
    with gapless.Client(url) as client:
        session = client.session(session_id)
        memory, raw = io.BytesIO(), io.BytesIO()
        assert session.download(memory) == 4
        compressed = b"".join(session.stream(inflate=False))
        assert session.download(raw, inflate=False) == len(compressed)
        assert memory.getvalue() == b"".join(session.stream()) == b"1\n2\n"
        assert raw.getvalue() == compressed
        assert gzip.decompress(compressed) == b"1\n2\n"
        session.download("a.gz")
        assert Path("a.gz").read_bytes() == compressed
        with pytest.raises(gapless.SettingError, match=r"a\.gz"):
            session.download("a.gz", inflate=True)

    async def asynchronous() -> bytes:
        async with gapless.AsyncClient(url) as opened:
            found = io.BytesIO()
            await opened.session(session_id).download(found, inflate=False)
            return found.getvalue()

    assert anyio.run(asynchronous) == compressed


@contextmanager
def storage(content: bytes, most: int = 2**60) -> Iterator[tuple[str, list[str | None]]]:
    """Storage that ends every connection after ``most`` bytes; its URL and the requested ranges."""
    ranges: list[str | None] = []

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Accept-Encoding"] == "identity"
            ranges.append(self.headers["Range"])
            start = int((ranges[-1] or "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + most])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as store:
        Thread(target=store.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{store.server_port}/", ranges
        store.shutdown()


def serve(front: Front, link: str, what: str = "file") -> None:
    """Make the service return this link."""
    front.rule = lambda seen: Said(200, {"url": link}) if seen.path.endswith(what) else None


@pytest.mark.parametrize("inflate", [True, False])
def test_an_interrupted_download_continues(front: Front, inflate: bool) -> None:  # noqa: FBT001
    """At the byte of the stored object, not of its NDJSON."""
    url = os.environ["GAPLESS_URL"]
    records = lines(5000)
    result = gapless.upload(records, url, batch_size=700, merged_format="ndjson.gz")
    with gapless.Client(url, chance=lambda: 0.0) as client:
        session = client.session(result.session_id)
        whole = b"".join(session.stream(inflate=False))
        step = len(whole) // 7
        with storage(whole, step) as (link, ranges):
            serve(front, link)
            session.download("got", inflate=inflate)
    expected = b"".join(record + b"\n" for record in records)
    assert Path("got").read_bytes() == (expected if inflate else whole)
    assert ranges == [None, *(f"bytes={n}-" for n in range(step, len(whole), step))]


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the content": lambda whole: flipped(whole, len(whole) // 2),
    "a bit of the header": lambda whole: flipped(whole, 0),
    "a bit that no reader looks at": lambda whole: flipped(whole, 9),
    "a bit of the trailer": lambda whole: flipped(whole, len(whole) - 6),
    "the end is missing": lambda whole: whole[:-1],
    "the trailer is missing": lambda whole: whole[:-10],
    "something follows": lambda whole: whole + b"\0",
    "another member follows": lambda whole: whole + gzip.compress(b"1\n"),
    "another level": lambda whole: gzip.compress(gzip.decompress(whole)),
    "plain": gzip.decompress,
    "nothing": lambda _: b"",
}


def test_a_damaged_download_is_found(front: Front) -> None:
    url = os.environ["GAPLESS_URL"]
    result = gapless.upload(lines(300), url, batch_size=100, merged_format="ndjson.gz")
    with gapless.Client(url) as client:
        session = client.session(result.session_id)
        whole = b"".join(session.stream(inflate=False))
        for damage in DAMAGES.values():
            with storage(damage(whole)) as (link, _):
                serve(front, link)
                for inflate in (True, False):
                    with pytest.raises(gapless.ChecksumError, match="download"):
                        session.download("got", inflate=inflate)
                    assert not Path("got").exists()
        with storage(whole) as (link, _):
            serve(front, link)
            session.download("got")
        with storage(whole[:-1]) as (link, _):
            serve(front, link)
            run("download", result.session_id, "-o", "out", expect=7)
    assert not Path("out").exists()


@pytest.mark.parametrize("inflate", [True, False])
@pytest.mark.parametrize("change", [{"bytes": 3}, {"checksum": crc32(b"2\n")}])
def test_content_that_is_not_what_the_result_says(change: dict[str, Any], inflate: bool) -> None:  # noqa: FBT001
    """The object is correct, its content is not: both checksums count, in both forms."""
    stored = gzip.compress(b"1\n")
    good = result_of(stored, b"1\n")
    assert good.content
    wrong = msgspec.structs.replace(good, content=msgspec.structs.replace(good.content, **change))
    for result, refused in ((good, False), (wrong, True)):
        object_ = MergedObject(result, inflate=inflate)
        assert b"".join(object_.read(stored)) == (b"1\n" if inflate else stored)
        if refused:
            with pytest.raises(gapless.ChecksumError, match="content of the download"):
                object_.verify()
        else:
            object_.verify()


def test_blocks_of_any_size_give_small_pieces() -> None:
    ndjson = b"".join(b"%d\n" % number * (number % 50) for number in range(3000)) + b"0" * 5_000_000
    whole = gzip.compress(ndjson, 1)
    for size in (1, 7, 1000, len(whole)):
        object_ = MergedObject(result_of(whole, ndjson), inflate=True)
        blocks = (whole[at : at + size] for at in range(0, len(whole), size))
        pieces = [piece for block in blocks for piece in object_.read(block)]
        object_.verify()
        assert b"".join(pieces) == ndjson
        assert max(map(len, pieces)) <= 1_000_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
def test_inflating_takes_little_memory(front: Front) -> None:
    """300 MB of records that compress to a thousandth."""
    part = b'"%s"\n' % (b"0" * 999_997)
    times, crc = 300, 0
    deflate = zlib.compressobj(9, wbits=31)
    whole = b"".join([*(deflate.compress(part) for _ in range(times)), deflate.flush()])
    for _ in range(times):
        crc = zlib.crc32(part, crc)
    value = b64encode(crc.to_bytes(4, "big")).decode()
    content = Content(times * len(part), Checksum("CRC32", "FULL_OBJECT", value))
    result = msgspec.structs.replace(result_of(whole, b""), content=content)
    status: dict[str, Any] = {
        "sessionId": "0" * 32,
        "state": "FINISHED",
        "totalRecord": times,
        "batchSize": None,
        "expiresAt": "2026-01-01T00:00:00Z",
        "batches": times,
        "missing": [],
        "finish": msgspec.to_builtins(result),
    }
    with storage(whole) as (link, _):
        front.rule = lambda seen: Said(200, {"url": link} if "/file" in seen.path else status)
        # Not getrusage: it includes the process from which this one was forked.
        measure = (
            "import re, sys; from pathlib import Path; from gapless.cli import cli; "
            "cli(sys.argv[1:], standalone_mode=False); "
            "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
        )
        done = subprocess.run(
            [sys.executable, "-c", measure, "download", "0" * 32, "-o", "/dev/null"],
            capture_output=True,
            check=True,
            timeout=300,
        )
    peak = int(done.stdout.split()[-1]) * 1024
    Path("peak").write_text(str(peak))
    assert len(whole) < 400_000
    assert peak < 100 * 1024 * 1024


# --- The manifest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["ndjson", "ndjson.gz"])
def test_the_manifest_describes_the_object(front: Front, format_: str) -> None:
    assert front
    url = os.environ["GAPLESS_URL"]
    result = gapless.upload([1, 22, 333], url, batch_size=2, merged_format=format_)
    found = io.BytesIO()
    with gapless.Client(url) as client:
        client.session(result.session_id).manifest(found)
    manifest = json.loads(found.getvalue())

    def changed(**members: object) -> bytes:
        return json.dumps(manifest | members).encode()

    def of_batch(number: int, name: str) -> bytes:
        batches = [dict(batch) for batch in manifest["batches"]]
        batches[number][name] += 1
        return changed(batches=batches)

    wrong = [
        b"",
        found.getvalue()[:-1],
        changed(sessionId="1" * 32),
        changed(key="another"),
        changed(records=4),
        changed(bytes=result.bytes + 1),
        changed(checksum=msgspec.to_builtins(crc32(b"another"))),
        changed(content=msgspec.to_builtins(Content(1, crc32(b"another")))),
        changed(batches=manifest["batches"][:-1]),
        changed(batches=[]),
        changed(batches=manifest["batches"][::-1]),
        *(
            of_batch(number, name)
            for number in (0, 1)
            for name in manifest["batches"][0]
            if name != "sha256"
        ),
    ]
    verify_manifest(found.getvalue(), result)
    for one in wrong:
        with pytest.raises(gapless.ChecksumError, match="The manifest"):
            verify_manifest(one, result)


def test_a_wrong_manifest_leaves_no_file(front: Front, stored: bytes) -> None:
    assert stored
    run("download", "in.ndjson", "--manifest")
    manifest = Path("in.manifest.json").read_bytes()
    with storage(manifest.replace(b'"seqNum":2', b'"seqNum":3')) as (link, _):
        serve(front, link, "manifest")
        run("download", "in.ndjson", "--manifest", "-o", "got", expect=7)
    assert not Path("got").exists()


def test_the_manifest_of_no_batches(front: Front) -> None:
    assert front
    written(Path("in.ndjson"), [])
    for options in ((), GZIP):
        run("upload", "in.ndjson", *options)
        run("download", "in.ndjson", "--manifest", "-o", "got")
        assert json.loads(Path("got").read_bytes())["batches"] == []
        assert merged() == b""
