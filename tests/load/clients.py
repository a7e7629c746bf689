"""``python -m tests.load.clients``: some of the clients of a soak, to be killed at any moment.

They share sessions with clients of other processes, ask for what is missing, send that, and finish.
What is acknowledged goes into a ledger, a line at once, before the next request is sent.
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
    """What a session is to hold."""

    number: int
    session_id: str
    strict: bool
    """Whether it has a batchSize."""

    @property
    def total(self) -> int:
        """Records in all; the last batch is not full."""
        return BATCHES * SIZE - 2

    def batch(self, seq_num: int) -> list[bytes]:
        """The records of a batch. No two of a soak are the same."""
        first = seq_num * SIZE
        return [
            b'{"session": %d, "record":%d, "price":1.0, "note":"caf\\u00e9"}' % (self.number, n)
            for n in range(first, min(first + SIZE, self.total))
        ]

    def stored(self, seq_num: int) -> bytes:
        """The same as it is to be stored."""
        return b"".join(record + b"\n" for record in self.batch(seq_num))


class Ledger:
    """What was acknowledged, in a file that a killed process leaves whole."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, **facts: Any) -> None:  # noqa: ANN401 - any JSON
        """Write a line, with one call."""
        os.write(self._file, json.dumps(facts).encode() + b"\n")


async def client(number: int, url: str, plans: list[Plan], ledger: Ledger) -> None:
    """See every session of ``plans`` through to its end."""
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
    # The partner sends the rest: some batches come twice, and some from nobody until finish asks.
    share = chance.sample(missing, len(missing) * 6 // 10)
    while True:
        try:
            for seq_num in share:
                await _send(plan, session, seq_num, ledger, chance)
        except gapless.SessionStateError as error:
            if error.code != "session_finished":  # by the partner
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
    """The session's status, whether or not the API was just killed and starts anew.

    Who has never had an answer is told at once that nobody is there.
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
    """Run the clients of one process."""
    plans = [Plan(**plan) for plan in json.loads((folder / "plans.json").read_text())]
    ledger = Ledger(folder / f"ledger-{process}")
    ours = CLIENTS // PROCESSES
    async with anyio.create_task_group() as tasks:
        for number in range(process * ours, (process + 1) * ours):
            # Each session has two clients, of different processes and API workers.
            theirs = [p for p in plans if number in {p.number % CLIENTS, (p.number + 33) % CLIENTS}]
            tasks.start_soon(client, number, urls[number % len(urls)], theirs, ledger)


def save(plans: list[Plan], folder: Path) -> None:
    """Write down what all processes read."""
    (folder / "plans.json").write_text(json.dumps([asdict(plan) for plan in plans]))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
