"""``python -m tests.load.clients``: one process of clients for the soak; may be killed any time.

Clients share sessions with clients of other processes. They send what is missing and finish. Every
acknowledged batch is a line in the process's ledger, written before the next request.
"""

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import anyio

import gapless

CLIENTS = 64
PROCESSES = 8
BATCHES, SIZE = 100, 5
PATIENCE = 300.0


@dataclass(frozen=True)
class Plan:
    """The content of a session, derived from its number."""

    number: int
    session_id: str
    strict: bool
    """Whether it has a batchSize."""

    @property
    def total(self) -> int:
        """All its records; the last batch is short."""
        return BATCHES * SIZE - 2

    def batch(self, seq_num: int) -> list[bytes]:
        """The records of a batch. They differ from those of all other batches."""
        first = seq_num * SIZE
        return [
            b'{"session": %d, "record":%d, "price":1.0, "note":"caf\\u00e9"}' % (self.number, n)
            for n in range(first, min(first + SIZE, self.total))
        ]

    def stored(self, seq_num: int) -> bytes:
        """The batch as the service must store it."""
        return b"".join(record + b"\n" for record in self.batch(seq_num))


class Ledger:
    """A file of acknowledgements that is valid after a kill at any moment."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, **facts: Any) -> None:  # noqa: ANN401 - any JSON
        """Append a line with a single write."""
        os.write(self._file, json.dumps(facts).encode() + b"\n")


async def client(number: int, url: str, plans: list[Plan], ledger: Ledger) -> None:
    """Upload every session of ``plans`` to its end."""
    chance = Random()
    requests = 0

    def report(event: str, _: dict[str, Any]) -> None:
        nonlocal requests
        requests += event == "retry"

    async with gapless.AsyncClient(url, patience=PATIENCE, report=report) as service:
        for plan in plans:
            session = service.session(plan.session_id)
            await _see_through(plan, session, ledger, chance)
        ledger.note(client=number, retries=requests)


async def _see_through(
    plan: Plan, session: gapless.AsyncSession, ledger: Ledger, chance: Random
) -> None:
    status = await _found(session)
    missing = [n for gap in status.missing for n in range(gap.first, gap.last + 1)]
    if not plan.strict:
        missing += range(status.batches + len(missing), BATCHES)
    # The partner sends the rest. Some batches come twice, some only after a finish asks for them.
    share = chance.sample(missing, len(missing) * 6 // 10)
    while True:
        try:
            for seq_num in share:
                await _send(plan, session, seq_num, ledger, chance)
        except gapless.SessionStateError as error:
            if error.code != "session_finished":  # the partner finished
                raise
        result = await session.finish(patience=PATIENCE)
        ledger.note(finish=plan.number, ok=result.ok)
        if result.ok:
            return
        share = [n for gap in result.missing for n in range(gap.first, gap.last + 1)]
        if result.reason == "record_count":
            share = [*range(result.batches, BATCHES)]
        chance.shuffle(share)


async def _found(session: gapless.AsyncSession) -> gapless.Status:
    """The session's status, also while the API restarts.

    The library does not retry its first request if nothing listens.
    """
    while True:
        try:
            return await session.status()
        except gapless.UnavailableError:
            await anyio.sleep(0.1)


async def _send(
    plan: Plan, session: gapless.AsyncSession, seq_num: int, ledger: Ledger, chance: Random
) -> None:
    records = plan.batch(seq_num)
    await session.send(seq_num, records)
    sha256 = hashlib.sha256(plan.stored(seq_num)).hexdigest()
    ledger.note(session=plan.number, batch=seq_num, sha256=sha256)
    if chance.random() > 0.02:
        return
    try:
        await session.send(seq_num, [b'"wrong"'] * len(records))
    except gapless.BatchConflictError:
        ledger.note(conflict=plan.number)
    else:
        ledger.note(wrong=f"session {plan.number} took another batch {seq_num}")


async def main(process: int, folder: Path, urls: list[str]) -> None:
    plans = [Plan(**plan) for plan in json.loads((folder / "plans.json").read_text())]
    ledger = Ledger(folder / f"ledger-{process}")
    ours = CLIENTS // PROCESSES
    async with anyio.create_task_group() as tasks:
        for number in range(process * ours, (process + 1) * ours):
            # Two clients share a session; their processes and API workers differ.
            theirs = [p for p in plans if number in {p.number % CLIENTS, (p.number + 33) % CLIENTS}]
            tasks.start_soon(client, number, urls[number % len(urls)], theirs, ledger)


def save(plans: list[Plan], folder: Path) -> None:
    """Write the file that all processes read."""
    (folder / "plans.json").write_text(json.dumps([asdict(plan) for plan in plans]))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
