"""500 batches by 16 clients in four sessions: no record lost, doubled or wrong."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

from tests.api import Answer, Api
from tests.conftest import Stack

SESSIONS, BATCHES, SIZE, CLIENTS = 4, 125, 20, 16


def record(session: int, number: int) -> dict[str, object]:
    return {"session": session, "record": number, "note": "é"}


def in_time(ask: Callable[[], Answer]) -> Answer:
    """Retry like a client if a function timed out on a busy machine.

    API Gateway answers then. An answer of the service itself is never retried.
    """
    while (answer := ask()).status >= 500 and "problem" not in answer.headers["content-type"]:
        print(f"the gateway answered {answer.status}")
    return answer


def test_soak(api: Api, stack: Stack, download: Callable[[str], bytes]) -> None:
    chance = Random(1)
    total = BATCHES * SIZE
    sessions = [api.create(total, SIZE if n % 2 else None) for n in range(SESSIONS)]
    # A tenth of the batches is sent twice.
    work = [(n, seq_num) for n in range(SESSIONS) for seq_num in range(BATCHES)]
    work += chance.sample(work, len(work) // 10)
    chance.shuffle(work)

    def send(what: tuple[int, int]) -> int:
        session, seq_num = what
        data = [record(session, n) for n in range(seq_num * SIZE, (seq_num + 1) * SIZE)]
        return in_time(lambda: api.batch(sessions[session], seq_num, data)).status

    with ThreadPoolExecutor(CLIENTS) as threads:
        assert set(threads.map(send, work)) == {204}
        finish = partial(partial, api.finish)
        results = [answer.json for answer in threads.map(in_time, map(finish, sessions))]
    for session, (session_id, result) in enumerate(zip(sessions, results, strict=True)):
        expected = b"".join(json.dumps(record(session, n)).encode() + b"\n" for n in range(total))
        assert (result["validationResult"], result["receivedRecord"]) == ("Success", total)
        link = api.file(session_id, {"accept": "application/json"}).json["url"]
        assert hashlib.sha256(download(link)).digest() == hashlib.sha256(expected).digest()
        assert stack.open_uploads(session_id) == 0
    print(f"soak: {len(work)} requests, {SESSIONS * BATCHES} batches, {CLIENTS} clients; lost 0")
