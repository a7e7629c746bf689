"""The plan of a long merge and its progress, in the batches bucket.

Under ``merges/{sessionId}/{attempt}/``: ``plan.json``, the list of shares for Step Functions;
``share-{n:05d}.json``, the parts of one share; ``done-{n:05d}.json``, the metadata of its batches,
written when its parts are uploaded. Every try of a task writes the same content, and all expire
with the batches. Each has a version; readers ignore unknown members and list elements. Older
releases wrote shares as lists without a version.

Permissions: ``s3:PutObject`` and ``s3:GetObject`` on them, and ``s3:ListBucket`` on the bucket.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import obstore

from uploads import limits
from uploads.batch import BatchMetadata, StoredBatch
from uploads.batch_store import put_once
from uploads.merging.parts import Part
from uploads.retries import persistently
from uploads.threads import Threads

if TYPE_CHECKING:
    from obstore.store import S3Store

    from uploads.merging.executions import Execution


_VERSION: Final = 1


class _Batch(msgspec.Struct, array_like=True, gc=False):
    seq_num: int
    size: int
    etag: str


class _Part(msgspec.Struct, array_like=True):
    number: int
    copied: bool
    batches: list[_Batch]


class _Metadata(msgspec.Struct, array_like=True, gc=False):
    records: int
    size: int
    sha256: str
    crc32: int
    # Older releases knew only uncompressed batches.
    content_size: int | None = None
    content_crc32: int | None = None

    def of_batch(self) -> BatchMetadata:
        """The metadata with all fields."""
        size = self.size if self.content_size is None else self.content_size
        crc32 = self.crc32 if self.content_crc32 is None else self.content_crc32
        return BatchMetadata(self.records, self.size, self.sha256, self.crc32, size, crc32)


class _Share(msgspec.Struct):
    parts: list[_Part]


class _Done(msgspec.Struct):
    batches: list[_Metadata]


class ShareStore:
    """The shares of executions."""

    def __init__(self, store: "S3Store") -> None:
        self._store = store

    def write(self, execution: "Execution", parts: Sequence[Part], shares: Sequence[range]) -> str:
        """Write ``shares`` and the plan: 1 write each. Returns the key of the plan."""

        def write_share(number: int) -> None:
            # Part numbers of a multipart upload start at 1.
            content = [
                (index + 1, parts[index].copied, parts[index].batches) for index in shares[number]
            ]
            self._put(execution, f"share-{number:05d}", {"version": _VERSION, "parts": content})

        with Threads(limits.READS_IN_FLIGHT) as threads:
            threads.map(write_share, range(len(shares)))
        plan = [{"share": number, "version": _VERSION} for number in range(len(shares))]
        return self._put(execution, "plan", plan)

    def read_share(self, execution: "Execution", number: int) -> dict[int, Part]:
        """The parts of a share by number: 1 read."""
        content = self._get(execution, f"share-{number:05d}")
        stored = msgspec.json.decode(content, type=_Share | list[_Part])
        share = {}
        for part in stored if isinstance(stored, list) else stored.parts:
            batches = [StoredBatch(each.seq_num, each.size, each.etag) for each in part.batches]
            # Used to bound memory, so the first part's header does not matter.
            size = sum(batch.size for batch in batches)
            share[part.number] = Part(batches, size, copied=part.copied)
        return share

    def write_done(
        self, execution: "Execution", number: int, batches: Iterable[BatchMetadata]
    ) -> None:
        """Record the metadata of a share's batches: 1 write."""
        content = list(batches)
        self._put(execution, f"done-{number:05d}", {"version": _VERSION, "batches": content})

    def read_done(self, execution: "Execution", shares: int) -> list[BatchMetadata]:
        """The metadata of all batches in ``seqNum`` order: 1 read a share.

        Raises FileNotFoundError if a share is not done.
        """

        def read(number: int) -> list[BatchMetadata]:
            content = self._get(execution, f"done-{number:05d}")
            stored = msgspec.json.decode(content, type=_Done | list[_Metadata])
            batches = stored if isinstance(stored, list) else stored.batches
            return [batch.of_batch() for batch in batches]

        with Threads(limits.READS_IN_FLIGHT) as threads:
            done = threads.map(read, range(shares))
        return [batch for share in done for batch in share]

    def _put(self, execution: "Execution", name: str, content: object) -> str:
        key = _key(execution, name)
        put_once(
            self._store,
            key,
            msgspec.json.encode(content),
            {"Content-Type": "application/json"},
        )
        return key

    def _get(self, execution: "Execution", name: str) -> bytes:
        stored = persistently(lambda: obstore.get(self._store, _key(execution, name)).bytes())
        return bytes(stored)


def _key(execution: "Execution", name: str) -> str:
    return f"merges/{execution.session_id}/{execution.attempt}/{name}.json"
