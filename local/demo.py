"""``make demo``: upload 100,000 records, of which three batches are lost at first.

It starts the local run on a free port, and uses the published client.
"""

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tqdm import tqdm

import gapless

from .process import running

RECORDS: Final = 100_000
BATCH_SIZE: Final = 1_000
LOST: Final = 3
SENDERS: Final = 8
MB: Final = 1_000_000


def main() -> None:
    """Run the demo. Exits with 1 if a result is wrong."""
    # The orders are made while the server starts.
    making = ThreadPoolExecutor(1).submit(list, orders())
    with (
        TemporaryDirectory() as folder,
        running(os.environ) as server,
        gapless.Client(server.url) as client,
    ):
        file = Path(folder) / "orders.ndjson"
        lines = making.result()
        file.write_bytes(b"".join(line + b"\n" for line in lines))
        batches = [lines[i : i + BATCH_SIZE] for i in range(0, RECORDS, BATCH_SIZE)]
        say("input", describe(file.read_bytes()))

        session = client.create(RECORDS, BATCH_SIZE)
        say("session", f"{session.session_id}, {len(batches)} batches of {BATCH_SIZE:,} records")

        order = random.Random(7).sample(range(len(batches)), len(batches))  # noqa: S311
        lost, arriving = sorted(order[:LOST]), order[LOST:]
        start = time.perf_counter()
        send(session, batches, arriving)
        rate = len(arriving) * BATCH_SIZE / (time.perf_counter() - start)
        say("sent", f"{len(arriving)} batches, out of order, by {SENDERS} senders at once")
        say("", f"{rate:,.0f} records a second")
        say("lost", f"batches {', '.join(map(str, lost))}, on purpose")

        result = session.finish()
        gaps = [{"from": gap.first, "to": gap.last} for gap in result.missing]
        say("finish", f"{result.validation_result}, missing {json.dumps(gaps)}")
        check(not result.ok, "a finish with gaps must fail")
        missing = [n for gap in result.missing for n in range(gap.first, gap.last + 1)]
        check(missing == lost, "the gap report must name exactly what was lost")

        send(session, batches, missing)
        say("sent", f"the {len(missing)} batches that are missing")

        start = time.perf_counter()
        result = session.finish()
        say("finish", f"{result.validation_result}, in {time.perf_counter() - start:.1f} s")
        check(result.ok, "a finish without gaps must succeed")

        merged = Path(folder) / "merged.ndjson"
        session.download(merged)
        say("download", describe(merged.read_bytes()))
        check(
            merged.read_bytes() == file.read_bytes(),
            "the download must be the input, byte for byte",
        )
        say("result", "the download is the input, byte for byte")


def send(
    session: gapless.Session, batches: Sequence[Sequence[bytes]], seq_nums: Sequence[int]
) -> None:
    """Send batches concurrently. Records as bytes are JSON and are sent unchanged."""
    with ThreadPoolExecutor(SENDERS) as senders:
        sent = senders.map(lambda number: session.send(number, batches[number]), seq_nums)
        # disable=None: no bar unless the output is a terminal.
        for _ in tqdm(sent, total=len(seq_nums), unit=" batches", leave=False, disable=None):
            pass


def orders() -> Iterator[bytes]:
    """Yield the orders of a shop as JSON, the same in every run."""
    chance = random.Random(1)  # noqa: S311
    start = datetime(2025, 1, 1, tzinfo=UTC)
    goods = ["teapot", "café crème", "бумага", "お茶", 'shelf 19"', "emoji 🫖", "C:\\cable"]
    for number in range(RECORDS):
        order = {
            # Too large for a JavaScript number, so a conversion to one would show.
            "id": 2**53 + 1 + number,
            "at": (start + timedelta(seconds=number * 7)).isoformat(),
            "lines": [
                {
                    "sku": f"{chance.choice('ABCDEF')}-{chance.randrange(10**6):06d}",
                    "name": chance.choice(goods),
                    "quantity": chance.randint(1, 12),
                    "price": chance.randrange(50, 50_000) / 100,
                }
                for _ in range(chance.choice((1, 1, 1, 2, 3)))
            ],
            "note": None if number % 9 else "please ring\ntwice",
        }
        yield json.dumps(order, ensure_ascii=bool(number % 2), separators=(",", ":")).encode()


def describe(ndjson: bytes) -> str:
    """Return the number of records, the size and the digest."""
    digest = hashlib.sha256(ndjson).hexdigest()
    return f"{len(ndjson.splitlines()):,} records, {len(ndjson) / MB:.1f} MB, SHA-256 {digest}"


def say(what: str, text: str) -> None:
    """Print one step, its name in bold on a terminal."""
    name = f"{what:>8}"
    print(f"\x1b[1m{name}\x1b[0m" if sys.stdout.isatty() else name, text, sep="  ", flush=True)


def check(truth: bool, rule: str) -> None:  # noqa: FBT001
    """End the demo unless ``rule`` holds."""
    if not truth:
        sys.exit(f"This is wrong: {rule}")


if __name__ == "__main__":
    main()
