"""Composing a merged object: reading batches in parallel, and uploading them as parts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import accumulate
from threading import Semaphore
from types import TracebackType
from typing import TYPE_CHECKING, Self

from uploads import limits
from uploads.batch import BatchMetadata, RunTotals, StoredBatch
from uploads.merging.parts import Part
from uploads.session import Decision
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
        self, session_id: str, upload_id: str, parts: Mapping[int, Part]
    ) -> "list[tuple[CompletedPartTypeDef, Batches]]":
        """Bring ``parts``, by their numbers, into place without completing the upload.

        1 read a batch, 1 write a part. Raises BatchesGoneError if a listed batch no longer exists.
        Memory is bounded by ``limits.BYTES_IN_FLIGHT`` and ``PARTS_IN_FLIGHT``, not by the session.
        """
        streamed = [part for part in parts.values() if not part.copied]
        readers = _most_in_memory(
            limits.READS_IN_FLIGHT, (batch.size for part in streamed for batch in part.batches)
        )
        # What is copied takes no memory.
        room = Semaphore(_most_in_memory(limits.PARTS_IN_FLIGHT, (part.size for part in streamed)))
        with Threads(readers) as threads:
            done = []
            for number, part in parts.items():
                if part.copied:
                    copy = partial(self._copy, session_id, upload_id, number, part.batches[0])
                    done.append(threads.submit(copy))
                else:
                    room.acquire()
                    send = partial(self._send, session_id, upload_id, number)
                    sent = self.read(session_id, part.batches, threads, send)
                    sent.add_done_callback(lambda _: room.release())
                    done.append(sent)
            return [future.result() for future in done]

    def _copy(
        self, session_id: str, upload_id: str, number: int, batch: StoredBatch
    ) -> "tuple[CompletedPartTypeDef, Batches]":
        metadata = self.batches.head(session_id, batch.seq_num, batch.etag)
        return self.merged.copy_part(session_id, upload_id, number, batch), [metadata]

    def _send(
        self, session_id: str, upload_id: str, number: int, body: BytesIO, batches: Batches
    ) -> "tuple[CompletedPartTypeDef, Batches]":
        # The checksum is that of the batches as they arrived, so that S3 proves what we read.
        crc32 = RunTotals.of(batches).checksum
        return self.merged.upload_part(session_id, upload_id, number, body, crc32), batches

    def read(
        self,
        session_id: str,
        batches: Sequence[StoredBatch],
        threads: Threads,
        then: "Callable[[BytesIO, Batches], Result]",
    ) -> "Future[Result]":
        """Read ``batches``, at least one, into one buffer; hand it and their metadata to ``then``.

        A file, because boto3 would copy bytes into one.
        """
        body = BytesIO(bytes(sum(batch.size for batch in batches)))
        room = body.getbuffer()
        offsets = accumulate((batch.size for batch in batches), initial=0)

        def read(place: tuple[StoredBatch, int]) -> BatchMetadata:
            batch, offset = place
            metadata, ndjson = self.batches.read(session_id, batch)
            room[offset : offset + batch.size] = ndjson
            return metadata

        def whole(metadata: Batches) -> Result:
            room.release()
            return then(body, metadata)

        return threads.gather(read, list(zip(batches, offsets, strict=False)), whole)


class Composition:
    """One attempt to compose a merged object in this process: ``transfer``, then ``publish``.

    A context manager: the attempt's own multipart upload is aborted at its end, unless S3 has said
    that it is completed. No upload of another attempt ever is.
    """

    def __init__(
        self, composer: Composer, session_id: str, parts: Sequence[Part], digest: str
    ) -> None:
        self._composer = composer
        self._merged = composer.merged
        self._session_id = session_id
        self._digest = digest
        self._plan = parts
        self._body = BytesIO()
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
            self._merged.try_abort_upload(self._session_id, self._upload_id)

    def transfer(self) -> RunTotals:
        """Upload all parts without completing the upload: 1 read a batch, 1 write a part.

        What fits one streamed part is read, and written by ``publish``. Raises BatchesGoneError if
        a listed batch no longer exists.
        """
        if len(self._plan) > 1 or any(part.copied for part in self._plan):
            self._upload_id = self._merged.create_upload(self._session_id, self._digest)
            numbered = dict(enumerate(self._plan, 1))
            done = self._composer.transfer(self._session_id, self._upload_id, numbered)
            self._parts = [part for part, _ in done]
            self._batches = [batch for _, batches in done for batch in batches]
        else:
            with Threads(limits.READS_IN_FLIGHT) as threads:
                for part in self._plan:
                    read = self._composer.read(
                        self._session_id, part.batches, threads, lambda *both: both
                    )
                    self._body, self._batches = read.result()
        return RunTotals.of(self._batches)

    def publish(self, decision: Decision, crc32: str) -> None:
        """Write the manifest, then make the object visible, whole: 2 writes."""
        self._merged.write_manifest(self._session_id, decision, self._batches)
        if not self._upload_id:
            self._merged.put(self._session_id, self._body, decision, crc32)
        elif self._merged.complete_upload(
            self._session_id, self._upload_id, self._parts, decision, crc32
        ):
            self._upload_id = ""


def _most_in_memory(most: int, sizes: Iterable[int]) -> int:
    """How many things of ``sizes`` (bytes) may be in memory at a time, ``most`` at most."""
    return max(1, min(most, limits.BYTES_IN_FLIGHT // max(sizes, default=1)))
