"""Work counted instead of timed: fails only if the code does more, not on a busy machine.

Counted are function calls, of Python and C, and bytes held. They reveal a new loop over records, or
a new copy of the data. Bounds are slightly above the counts, which are the same with Python 3.11
and 3.13. If more work is justified, raise the bound.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from gapless.compression import pack
from local import in_process
from local.template import Template
from uploads import gzip_member, limits
from uploads.batch import BatchMetadata, StoredBatch, listing_digest
from uploads.batch_store import BatchStore
from uploads.decode.batch_json import read_batch
from uploads.decode.batch_ndjson import read_lines
from uploads.decode.body import read_body
from uploads.gaps import missing
from uploads.merging.composing import Composer
from uploads.merging.parts import Part, plan_parts
from uploads.session import Session
from uploads.threads import Threads


def calls(work: Callable[[], object]) -> int:
    """The number of function calls on this thread."""
    counted: Counter[str] = Counter()

    def see(_: FrameType, event: str, __: object) -> None:
        counted[event] += 1

    work()  # make what is only made once
    before = sys.getprofile()
    gc.disable()  # its callbacks would count
    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return counted["call"] + counted["c_call"]


def peak(work: Callable[[], object]) -> int:
    """Peak bytes beyond those held before."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def body(count: int) -> bytes:
    found = [{"id": n, "ok": n % 9 > 0, "value": n / 8, "note": "x" * 60} for n in range(count)]
    return json.dumps({"seqNum": 0, "data": found}, separators=(",", ":")).encode()


@pytest.mark.parametrize("count", [100, 10_000])
def test_a_batch_takes_no_call_for_each_record(count: int) -> None:
    content = body(count)
    assert calls(lambda: read_batch(content)) <= 20


@pytest.mark.parametrize(
    "lines",
    [b"1\n", b"1\r\n", b" 1\n", b"1\n\n", b"\n" * 30 + b"1\n", b"[\r]\n", b"[\r]\n" + b"1\n" * 30],
)
def test_lines_take_no_call_each(lines: bytes) -> None:
    """Neither lines to be stored as they are nor others."""
    pieces = 10
    content = lines * (pieces * 16 * 1024 // len(lines))
    assert calls(lambda: read_lines(content, 0)) <= 110 * pieces


def test_a_batch_is_held_once_more_and_no_more() -> None:
    content = body(10_000)
    held = peak(lambda: read_batch(content))
    # The NDJSON, and the position of each record.
    assert held <= len(content) + 90 * 10_000


def test_a_body_is_copied_once() -> None:
    text = body(10_000).decode()
    headers = {"content-length": str(len(text.encode()))}
    held = peak(lambda: read_body(text, is_base64=False, headers=headers))
    assert held <= 1.01 * len(text)


def test_blocks_as_sent_are_proven_while_they_are_inflated() -> None:
    content = body(50_000)
    sent = pack([content])
    assert calls(lambda: gzip_member.blocks_as_sent(sent, 2**26)) <= 20
    # The content, once, in a buffer that doubles; and the blocks.
    held = peak(lambda: gzip_member.blocks_as_sent(sent, 2**26))
    assert held <= 2**23 + len(sent) + 100_000


FREED = """
import ctypes
class Held(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
held = ctypes.CDLL(None).mallinfo2
held.restype = Held
body = bytes(16_000_000)
mapped = held().hblkhd
del body
print(mapped >= 16_000_000, held().fordblks >= 16_000_000)
"""
"""Whether a large block is mapped from the system, and whether it is kept when it is freed."""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this is not glibc's malloc"
)
def test_memory_of_a_body_is_kept_for_the_next() -> None:
    """Each page that is taken anew costs a fault, and large bodies a third of their CPU."""
    variables = Template.load(in_process.TEMPLATE).environment(in_process.LOCAL_VALUES)
    deployed = {name: value for name, value in variables.items() if name.startswith("MALLOC_")}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = [
        subprocess.run(
            [sys.executable, "-c", FREED], capture_output=True, check=True, text=True, env=environ
        ).stdout.split()
        for environ in (plain, plain | deployed)
    ]
    assert found == [["True", "False"], ["False", "True"]]


def test_planning_takes_few_calls_a_batch() -> None:
    def steps(count: int) -> int:
        listing = [StoredBatch(n, 100_000, '"0"') for n in range(count)]

        def decide() -> None:
            list(missing((batch.seq_num for batch in listing), count))
            listing_digest(listing)
            plan_parts(listing)

        return calls(decide)

    assert (steps(2_000) - steps(1_000)) / 1_000 <= 5


class _Stored:
    """Stands for obstore's answer to a read."""

    attributes = {"records": "1", "sha256": "0" * 64, "crc32": "00000000"}  # noqa: RUF012

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.meta = {"size": len(content)}

    def bytes(self) -> bytes:
        return self.content


class _Inline:
    """Stands for a thread pool: works on this thread, where calls are counted."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401
        work(*arguments)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> bytes:
    content = b"x" * 99_999 + b"\n"
    answer = _Stored(content)
    monkeypatch.setattr("uploads.batch_store.obstore.get", lambda *_, **__: answer)
    return content


def compose(batches: int) -> Callable[[], object]:
    """A part of ``batches`` batches, read into one buffer."""
    unused: Any = None
    composer = Composer(BatchStore(unused), unused)
    session = Session("0" * 32, "anybody", batches, 1, 0, 2**40, 2**40)
    listing = [StoredBatch(n, 100_000, '"0"') for n in range(batches)]
    part = Part(listing, batches * 100_000, copied=False)
    threads: Any = Threads(1)
    threads._pool = _Inline()  # noqa: SLF001

    def held(*read: object) -> object:
        return read

    return lambda: composer.read(session, part, 1, 1, threads, held).result()


@pytest.mark.usefixtures("stored")
def test_composing_takes_few_calls_a_batch() -> None:
    assert (calls(compose(80)) - calls(compose(40))) / 40 <= 20


@pytest.mark.usefixtures("stored")
def test_a_part_is_held_once() -> None:
    batches = limits.PART_BYTES // 100_000
    assert peak(compose(batches)) <= 1.01 * batches * 100_000


def test_what_is_known_of_a_batch_is_small() -> None:
    def known(n: int) -> BatchMetadata:
        return BatchMetadata(1, 100_000, f"{n:064x}", n, 100_000, n)

    held = peak(lambda: [known(n) for n in range(1_000)])
    assert held / 1_000 <= 275
