"""The main use on a deployed stack: of 100,000 records some are lost, found missing, and sent."""

import gzip
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.api import Api
from tests.conftest import Stack
from tests.deployed.test_many_uploads import in_time

RECORDS, SIZE = 100_000, 1_000


def line_of(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def test_100_000_records(api: Api, stack: Stack, download: Callable[[str], bytes]) -> None:
    made = random.Random(3)
    records = [{"id": n, "note": made.randbytes(50).hex()} for n in range(RECORDS)]
    batches = [records[at : at + SIZE] for at in range(0, RECORDS, SIZE)]
    session_id = api.create(RECORDS, SIZE)

    def send(seq_num: int) -> int:
        if seq_num % 2:
            return in_time(lambda: api.gzip_batch(session_id, seq_num, batches[seq_num])).status
        body = gzip.compress(b"".join(map(line_of, batches[seq_num])), 1)
        headers = {"content-encoding": "gzip"}
        return in_time(lambda: api.lines(session_id, seq_num, body, headers)).status

    order = made.sample(range(len(batches)), len(batches))
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(send, order[3:])) == {204}
    failed = api.finish(session_id).json
    assert failed["validationResult"] == "Failed"
    missing = [n for gap in failed["missing"] for n in range(gap["from"], gap["to"] + 1)]
    assert missing == sorted(order[:3])
    assert {send(seq_num) for seq_num in missing} == {204}
    result = api.finish(session_id).json
    assert (result["validationResult"], result["receivedRecord"]) == ("Success", RECORDS)
    link = api.file(session_id, {"accept": "application/json"}).json["url"]
    expected = b"".join(map(line_of, records))
    assert download(link) == expected
    assert len(expected) > 10 * 2**20  # a multipart upload
    assert stack.open_uploads(session_id) == 0
