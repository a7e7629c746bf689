r"""Batches in S3, one object each. S3's listing is the only record of which batches exist.

Key ``{sessionId}/{seqNum:08d}``: zero-padded, so that keys list in ``seqNum`` order. Content: the
NDJSON, every line ended by ``\n``, or its raw DEFLATE, as the session's format says (``formats``);
so merging is concatenation. Metadata: ``records``, ``sha256`` (of the NDJSON) and ``crc32``. A
compressed batch has ``stored-crc32`` instead, and ``content-crc32`` and ``content-bytes`` of the
NDJSON: older releases, which know no compression, then fail instead of merging it. An object is
created once and never changed.

Permissions: ``s3:PutObject`` to write, ``s3:GetObject`` to read, ``s3:ListBucket`` to list and to
get 404 instead of 403.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import obstore
from isal import isal_zlib
from obstore.exceptions import AlreadyExistsError, PreconditionError

from uploads import errors, limits
from uploads.batch import Batch, BatchMetadata, Listing, StoredBatch
from uploads.formats import Format
from uploads.retries import Tries, persistently
from uploads.threads import Threads

if TYPE_CHECKING:
    from obstore.store import S3Store

    from uploads.session import Session

_GONE: Final = (FileNotFoundError, PreconditionError)
"""What reading a listed batch raises if the batch no longer exists."""


def key(session_id: str, seq_num: int) -> str:
    """The S3 key of a batch."""
    return f"{session_id}/{seq_num:08d}"


def put_once(
    store: "S3Store", name: str, content: bytes, attributes: "obstore.Attributes"
) -> "obstore.GetResult | None":
    """Create the object ``name``: 1 write. Returns the head of an existing one instead.

    Raises StorageBusyError if every attempt conflicts with another write.
    """
    put = partial(
        obstore.put, store, name, content, mode="create", use_multipart=False, attributes=attributes
    )
    tries = Tries(time.monotonic())
    while True:
        try:
            persistently(put)
        except AlreadyExistsError as error:
            # Verify by reading: S3 also refuses a write while another one of the key is under way
            # (409 ConditionalRequestConflict), and then the object may not exist.
            with suppress(FileNotFoundError):
                return get(store, name, {"head": True})
            time.sleep(tries.pause(error))
        else:
            return None


def get(
    store: "S3Store", name: str, options: "obstore.GetOptions | None" = None
) -> "obstore.GetResult":
    """Begin to read an object: 1 read. Raises FileNotFoundError or PreconditionError."""
    return persistently(partial(obstore.get, store, name, options=options))


class BatchStore:
    """The batches bucket. Safe for use by many threads."""

    def __init__(self, store: "S3Store") -> None:
        self._store = store

    def put(self, session: "Session", batch: Batch) -> None:
        """Store ``batch`` in the session's format: 1 write. Storing it again does nothing.

        Raises BatchConflictError if a different batch has its ``seqNum``, or StorageBusyError.
        """
        content = session.format.store(batch)
        attributes: obstore.Attributes = {
            "Content-Type": "application/x-ndjson",
            "records": str(batch.records),
            "sha256": batch.sha256,
        }
        if session.format is Format.NDJSON:
            attributes["crc32"] = f"{batch.crc32:08x}"
        else:
            attributes |= {
                "Content-Type": "application/octet-stream",
                "stored-crc32": f"{isal_zlib.crc32(content):08x}",
                "content-crc32": f"{batch.crc32:08x}",
                "content-bytes": str(len(batch.ndjson)),
            }
        name = key(session.session_id, batch.seq_num)
        stored = put_once(self._store, name, content, attributes)
        if stored and (metadata := _metadata_of(stored)).sha256 != batch.sha256:
            raise errors.BatchConflictError(
                f"A different batch is stored as seqNum {batch.seq_num} and stays as it is."
                " storedDigest is the SHA-256 of its records as NDJSON.",
                seqNum=batch.seq_num,
                storedDigest=metadata.sha256,
                storedRecords=metadata.records,
            )

    def list(self, session_id: str, below: int | None = None) -> Listing:
        """The batches of a session in ``seqNum`` order; only those below ``below``, if given.

        For n batches, wherever their gaps are, at most 2 * ceil(n / 1,000) + 1 requests. Each round
        requests as many ranges in parallel as this budget allows: 100,000 batches without gaps take
        100 requests in 10 rounds.
        """
        behind = limits.MAX_SEQ_NUM + 1 if below is None else below
        size = limits.LIST_PAGE
        found: Listing = []
        first = requests = 0
        while first < behind:
            # Every full page adds a request to the budget. A range without batches uses one up.
            affordable = 2 * -(-len(found) // size) + 1 - requests
            # A page has as many keys as a range, so no page ends before the next range begins.
            starts = range(first, behind, size)[: min(affordable, limits.LISTS_IN_FLIGHT)]
            for page in self._pages(session_id, starts):
                found += [batch for batch in page if first <= batch.seq_num < behind]
                # A page that is not full is the last one.
                first = max(first, page[-1].seq_num + 1) if len(page) == size else behind
            requests += len(starts)
        return found

    def _pages(self, session_id: str, starts: range) -> Sequence[Listing]:
        """The pages that begin at ``starts``, requested in parallel."""
        page = partial(self._page, session_id)
        if len(starts) == 1:
            return [page(starts[0])]
        with Threads(len(starts)) as threads:
            return threads.map(page, starts)

    def _page(self, session_id: str, first: int) -> Listing:
        """At most 1,000 batches, from ``first`` on."""
        pages = partial(
            obstore.list,
            self._store,
            prefix=f"{session_id}/",
            offset=key(session_id, first - 1) if first else None,
            chunk_size=limits.LIST_PAGE,
        )
        found: Listing = []
        for entry in persistently(lambda: next(iter(pages()), [])):
            etag = entry["e_tag"]
            assert etag is not None  # noqa: S101 - S3 lists an ETag for every object
            found.append(StoredBatch(int(entry["path"][-8:]), entry["size"], etag))
        return found

    def head(self, session_id: str, seq_num: int, etag: str | None = None) -> BatchMetadata:
        """A batch's metadata: 1 read. Raises BatchesGoneError if it is gone or has another ETag."""
        options: obstore.GetOptions = {"head": True}
        if etag is not None:
            options["if_match"] = etag
        try:
            return _metadata_of(get(self._store, key(session_id, seq_num), options))
        except _GONE:
            raise errors.BatchesGoneError from None

    def read(self, session_id: str, batch: StoredBatch) -> "tuple[BatchMetadata, obstore.Bytes]":
        """A batch's metadata and stored bytes, of the listed ETag: 1 read. Raises like ``head``."""
        name = key(session_id, batch.seq_num)

        def read() -> "tuple[BatchMetadata, obstore.Bytes]":
            answer = obstore.get(self._store, name, options={"if_match": batch.etag})
            return _metadata_of(answer), answer.bytes()

        try:
            return persistently(read)
        except _GONE:
            raise errors.BatchesGoneError from None


def _metadata_of(answer: "obstore.GetResult") -> BatchMetadata:
    attributes, size = answer.attributes, answer.meta["size"]
    # Without compression, stored bytes and content are the same.
    compressed = "content-crc32" in attributes
    crc32 = int(attributes["stored-crc32" if compressed else "crc32"], 16)
    return BatchMetadata(
        records=int(attributes["records"]),
        size=size,
        sha256=attributes["sha256"],
        crc32=crc32,
        content_size=int(attributes["content-bytes"]) if compressed else size,
        content_crc32=int(attributes["content-crc32"], 16) if compressed else crc32,
    )
