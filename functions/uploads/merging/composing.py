"""Composing a merged object: read batches in parallel, and upload them as parts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import SEEK_END, BytesIO
from itertools import accumulate
from threading import Semaphore
from types import TracebackType
from typing import TYPE_CHECKING, Self

from uploads import limits
from uploads.batch import BatchMetadata, RunTotals, StoredBatch, frame
from uploads.merging.parts import Part, last_part
from uploads.session import Decision, Session
from uploads.threads import Result, Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    from uploads.batch_store import BatchStore
    from uploads.merging.merged_store import MergedStore

Batches = list[BatchMetadata]


@dataclass(frozen=True)
class Composer:
    """Composes merged objects from batches."""

    batches: "BatchStore"
    merged: "MergedStore"

    def transfer(
        self, session: Session, upload_id: str, parts: Mapping[int, Part], last: int
    ) -> "list[tuple[CompletedPartTypeDef, Batches]]":
        """Upload ``parts`` (by number) without completing the upload.

        Part 1 begins with the format's header, and part ``last`` ends in its trailer. 1 read a
        batch, 1 write a part. Raises BatchesGoneError if a listed batch no longer exists. Memory is
        bounded by ``limits.BYTES_IN_FLIGHT`` and ``PARTS_IN_FLIGHT``, not by the session.
        """
        streamed = [part for part in parts.values() if not part.copied]
        readers = _most_in_memory(
            limits.READS_IN_FLIGHT, (batch.size for part in streamed for batch in part.batches)
        )
        # Copied parts take no memory.
        room = Semaphore(_most_in_memory(limits.PARTS_IN_FLIGHT, (part.size for part in streamed)))
        with Threads(readers) as threads:
            done = []
            for number, part in parts.items():
                if part.copied:
                    copy = partial(self._copy, session, upload_id, number, part.batches[0])
                    done.append(threads.submit(copy))
                else:
                    room.acquire()
                    send = partial(self._send, session, upload_id, number)
                    sent = self.read(session, part, number, last, threads, send)
                    sent.add_done_callback(lambda _: room.release())
                    done.append(sent)
            return [future.result() for future in done]

    def _copy(
        self, session: Session, upload_id: str, number: int, batch: StoredBatch
    ) -> "tuple[CompletedPartTypeDef, Batches]":
        metadata = self.batches.head(session.session_id, batch.seq_num, batch.etag)
        return self.merged.copy_part(session, upload_id, number, batch), [metadata]

    def _send(
        self,
        session: Session,
        upload_id: str,
        number: int,
        body: BytesIO,
        batches: Batches,
        totals: RunTotals,
    ) -> "tuple[CompletedPartTypeDef, Batches]":
        # The checksum comes from the batches as they arrived, so S3 checks what was read.
        part = self.merged.upload_part(session, upload_id, number, body, totals.checksum)
        return part, batches

    def send_trailer(
        self, session: Session, upload_id: str, number: int, batches: RunTotals
    ) -> "CompletedPartTypeDef":
        """Upload part ``number``, the trailer after all ``batches``: 1 write.

        Part 1, of an object without batches, is header and trailer.
        """
        content = session.format.header if number == 1 else b""
        content += session.format.trailer(batches)
        return self.merged.upload_part(
            session, upload_id, number, BytesIO(content), frame(content).checksum
        )

    def read(
        self,
        session: Session,
        part: Part,
        number: int,
        last: int,
        threads: Threads,
        then: "Callable[[BytesIO, Batches, RunTotals], Result]",
    ) -> "Future[Result]":
        """Read part ``number``, of at least one batch, into one buffer.

        Passes the buffer, the batches' metadata and the part's totals to ``then``. The buffer is a
        file, because botocore would copy bytes into one.
        """
        header = session.format.header if number == 1 else b""
        body = BytesIO(bytes(len(header) + sum(batch.size for batch in part.batches)))
        room = body.getbuffer()
        room[: len(header)] = header
        offsets = accumulate((batch.size for batch in part.batches), initial=len(header))

        def read(place: tuple[StoredBatch, int]) -> BatchMetadata:
            batch, offset = place
            metadata, content = self.batches.read(session.session_id, batch)
            room[offset : offset + batch.size] = content
            return metadata

        def whole(batches: Batches) -> Result:
            room.release()
            totals = RunTotals.of(batches)
            trailer = session.format.trailer(totals) if number == last else b""
            body.seek(0, SEEK_END)
            body.write(trailer)
            body.seek(0)
            totals = frame(header) + totals + frame(trailer)
            return then(body, batches, totals)

        return threads.gather(read, list(zip(part.batches, offsets, strict=False)), whole)


class Composition:
    """A merge in this process: ``transfer``, then ``publish``.

    A context manager: its end aborts the attempt's own multipart upload, never another one, unless
    S3 has confirmed that it is completed.
    """

    def __init__(
        self, composer: Composer, session: Session, parts: Sequence[Part], digest: str
    ) -> None:
        self._composer = composer
        self._merged = composer.merged
        self._session = session
        self._digest = digest
        self._plan = parts
        self._body = BytesIO(session.format.header + session.format.trailer(RunTotals()))
        self._upload_id = ""
        self._parts: list[CompletedPartTypeDef] = []
        self._batches: Batches = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._upload_id:
            self._merged.try_abort_upload(self._session, self._upload_id)

    def transfer(self) -> RunTotals:
        """Upload all parts without completing the upload: 1 read a batch, 1 write a part.

        An object of one streamed part is only read; ``publish`` writes it. Returns the object's
        totals. Raises BatchesGoneError if a listed batch no longer exists.
        """
        session, last = self._session, last_part(self._plan, self._session.format)
        if len(self._plan) > 1 or any(part.copied for part in self._plan):
            self._upload_id = self._merged.create_upload(session, self._digest)
            numbered = dict(enumerate(self._plan, 1))
            done = self._composer.transfer(session, self._upload_id, numbered, last)
            self._parts = [part for part, _ in done]
            self._batches = [batch for _, batches in done for batch in batches]
        else:
            with Threads(limits.READS_IN_FLIGHT) as threads:
                for part in self._plan:
                    read = self._composer.read(session, part, 1, last, threads, lambda *all_: all_)
                    self._body, self._batches, _ = read.result()
        batches = RunTotals.of(self._batches)
        if last > len(self._plan) > 0:
            self._parts.append(self._composer.send_trailer(session, self._upload_id, last, batches))
        return session.format.whole(batches)

    def publish(self, decision: Decision, crc32: str) -> bool:
        """Write the manifest, then make the whole object visible: 2 writes.

        Returns whether S3 answered the first request of each, so none can take effect later.
        """
        first_try = self._merged.write_manifest(self._session, decision, self._batches)
        if not self._upload_id:
            return self._merged.put(self._session, self._body, decision, crc32) and first_try
        completed = self._merged.complete_upload(
            self._session, self._upload_id, self._parts, decision, crc32
        )
        if completed:
            self._upload_id = ""
        # A completed upload cannot be completed again by a late request.
        return completed and first_try


def _most_in_memory(most: int, sizes: Iterable[int]) -> int:
    """How many things of ``sizes`` (bytes) may be in memory together, at most ``most``."""
    return max(1, min(most, limits.BYTES_IN_FLIGHT // max(sizes, default=1)))
