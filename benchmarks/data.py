"""Input data, the same on every machine."""

import json
import random
import zlib
from collections.abc import Sequence

from isal import isal_zlib


def records(count: int, size: int = 100, seed: int = 1) -> list[dict[str, object]]:
    """``count`` varied objects of about ``size`` bytes of compact JSON each."""
    made = random.Random(seed)  # noqa: S311 - data, not secrets
    found: list[dict[str, object]] = []
    for number in range(count):
        record: dict[str, object] = {
            "id": number,
            "name": f"sensor-{made.randrange(10_000):04d}",
            "value": round(made.uniform(-50, 50), 3),
            "ok": made.random() > 0.1,
        }
        room = size - len(json.dumps(record | {"note": ""}, separators=(",", ":")))
        record["note"] = "".join(made.choices("abcdefghij klmnop", k=max(room, 0)))
        found.append(record)
    return found


def body(seq_num: int, data: Sequence[object], *, ascii_only: bool = True) -> str:
    """The body of a batch, as compact JSON."""
    return json.dumps(
        {"seqNum": seq_num, "data": data}, separators=(",", ":"), ensure_ascii=ascii_only
    )


def packed(content: bytes) -> bytes:
    """Gzip as the client makes it, which ends in a flush: it can be stored as it is."""
    made = isal_zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join([made.compress(content), made.flush(zlib.Z_FULL_FLUSH), made.flush()])
