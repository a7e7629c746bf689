"""Every limit of the service, with its source. Imports nothing of the service."""

from typing import Final

MIB: Final = 1024 * 1024

MAX_INTEGER: Final = 2**53 - 1
"""Largest ``totalRecord`` and ``batchSize``: exact in every JSON client (RFC 8259, 6)."""

MAX_SEQ_NUM: Final = 99_999
"""Largest ``seqNum``. 100,000 batches list in 100 requests of 1,000 keys each."""

MAX_BODY_BYTES: Final = 4_500_000
"""Largest batch body, bytes as sent. Lambda takes an event of 6 MiB (AWS Lambda quotas). In base64
this is 6.0 MB, which leaves 290 KB for headers and claims."""

MAX_INFLATED_BYTES: Final = 64 * MIB
"""Largest gzip body after inflating, bytes. Four times this, plus `MAX_VALUES` records, take 600 MB
of the function's 1,769 MB."""

MAX_SESSION_BODY_BYTES: Final = 128 * 1024
"""Largest body that opens or finishes a session, bytes, as sent and inflated. 100 are usual."""

MAX_IDEMPOTENCY_KEY: Final = 255
"""Longest Idempotency-Key, characters."""

MIN_SECRET_KEY: Final = 22
"""Shortest Idempotency-Key if all callers are one principal: 128 random bits in base64."""

MAX_METADATA_MEMBERS: Final = 16
"""Most members of a session's metadata."""

MAX_METADATA_BYTES: Final = 2_048
"""Largest metadata of a session, bytes of UTF-8, names and values: half of its 4 KB item."""

DEFAULT_PAGE: Final = 50
"""Sessions that a page of a list looks at by default."""

MAX_PAGE: Final = 1_000
"""Most sessions that a page of a list looks at. DynamoDB reads 1 MB at a time, and a session has up
to 2.6 KB in the index."""

MAX_FILE_NAME_BYTES: Final = 255
"""Longest file name that Linux and macOS take, bytes of UTF-8."""

MAX_GZIP_OVERHEAD_BYTES: Final = 64 * 1024
"""How many bytes a gzip body may exceed nine eighths of its content. Names, empty members and
nearly empty blocks take up to 100 ns of CPU a byte to read, and contain nothing."""

INFLATE_SECONDS_PER_BYTE: Final = 20e-9
"""CPU seconds that isal may take for a byte of content: ten times the usual. Blocks of a few bytes
take it up to 330 ns a byte sent, and zlib a quarter of that."""

MAX_VALUES: Final = 5_000_000
"""Most values in a batch body, counted by commas. A record takes 64 bytes of memory besides its
own, and 5,000,000 take 320 MB. Only a gzip body can hold more."""

CHECK_SECONDS: Final = 0.25
CHECK_SECONDS_PER_BYTE: Final = 90e-9
"""CPU seconds for checking a batch against a schema: a base, plus some for each byte. A schema of
ten properties takes 8 ns a byte; only a hostile one takes a hundred."""

MAX_INVALID_SHOWN: Final = 100
"""Most invalid records that an error lists: 46 KB of JSON."""

MAX_CHECKED_DEPTH: Final = 200
"""Deepest nesting of a record under a schema. A recursive schema takes up to a few hundred bytes of
stack for each keyword on each level, and a process has 8 MiB."""

MAX_CHECKED_VALUES: Final = 200_000
"""Most values of one record under a schema. It is decoded whole, at up to 110 bytes a value, and
its check cannot be interrupted."""

MAX_DIGITS: Final = 4_300
"""Most digits, and largest exponent, of a number under a schema: Python's limit for integers."""

MAX_EXPLAINED_BYTES: Final = 64 * 1024
"""Most bytes of a batch's invalid records that are explained, under a schema with ``anyOf`` or
``oneOf``: explaining takes some microseconds for each value."""

MAX_EXPLAINED_DEPTH: Final = 6
"""Deepest nesting of an invalid record that is explained, under a recursive schema: every level may
take three or four times as long as the one above."""

MAX_MEMBERS: Final = 1_000
"""Most top-level members of a body, which needs two."""

MAX_MISSING_RANGES: Final = 10_000
"""Most ranges in a gap report: about 260 KB of JSON; Lambda's responses may have 6 MB."""

LIST_PAGE: Final = 1_000
"""Most keys in one ListObjectsV2 answer (Amazon S3 API reference)."""

LISTS_IN_FLIGHT: Final = 16
"""Pages of a listing that are requested concurrently."""

MAX_MERGED_BYTES: Final = 5 * 1024**4
"""Largest merged object, bytes: every region and every S3-compatible store takes 5 TiB."""

MIN_PART_BYTES: Final = 5 * MIB
"""Smallest part of a multipart upload, except the last, bytes (Amazon S3 multipart limits)."""

MAX_PARTS: Final = 10_000
"""Most parts in a multipart upload (Amazon S3 multipart limits)."""

PART_BYTES: Final = 8 * MIB
"""Size of a streamed part unless the session needs larger ones: the fastest of 5 to 32 MiB."""

PARTS_IN_FLIGHT: Final = 4
"""Parts that are composed concurrently; memory is bounded by this times the part size."""

READS_IN_FLIGHT: Final = 48
"""Batches that are read concurrently. More than 64 are no faster; at 15 ms a read this is
3,200 a second."""

BYTES_IN_FLIGHT: Final = 512 * MIB
"""Most bytes that are read concurrently, and most that are written. It matters for batches of
64 MiB, and for the parts of a session of terabytes."""

READS_PER_SECOND: Final = 1_500
"""Batches one function reads in a second, at least: half of what ``READS_IN_FLIGHT`` allows."""

BYTES_PER_SECOND: Final = 60_000_000
"""Bytes one function reads and writes in a second, at least. Published for one Python function:
15 GB of 3,000 objects in 243 s."""

COPY_SECONDS: Final = 0.02
"""Seconds that a copied part adds: a copy of 64 MiB takes one, ``READS_IN_FLIGHT`` run together."""

INLINE_SHARE: Final = 0.8
"""Fraction of its remaining time that a finish may plan to use; longer merges are handed over."""

CHILDREN: Final = 32
"""Fewest shares of a long merge, if it has that many parts."""

CHILD_SECONDS: Final = 8
"""Longest share, seconds, by the estimates above."""

CHILDREN_AT_ONCE: Final = 100
"""Most shares that are composed concurrently: a tenth of an account's quota (AWS Lambda quotas)."""

PREFIX_READS_PER_SECOND: Final = 5_500
"""Reads a second that S3 supports for one session's batches (Amazon S3 performance guidelines)."""

DELETES_PER_SECOND: Final = 3_000
"""Most batches of one session that are deleted in a second. S3 supports 3,500 writes a second for a
prefix (Amazon S3 performance guidelines), and each key of a DeleteObjects counts as one."""

DELETES_IN_FLIGHT: Final = 4
"""Concurrent requests that delete 1,000 keys each. One may take a second."""

TASK_LEASE_SECONDS: Final = 360
"""Lease of each task of a long merge: its function's 300 s (``template.yaml``) and a minute for the
next task to begin."""

FINISH_SECONDS: Final = 29
"""Longest finish: the time-out of its function (``template.yaml``), 1 s less than API Gateway's."""

FLIGHT_SECONDS: Final = 60
"""Longest time between sending a request and its taking effect."""

LONGEST_SECONDS: Final = 30 + 12 * 3_600 + 300 + FLIGHT_SECONDS
"""How long after its seal an attempt can still move the session: the call that hands over, the
execution, and a task that outlives it (``statemachine/merge.asl.json``, ``template.yaml``)."""

GRACE_SECONDS: Final = 86_400
"""How long a session's item is kept after the session stops taking batches, so that a finish can
end. Nearly twice ``LONGEST_SECONDS``: another attempt can take over from one that died."""

SETTLING_SECONDS: Final = 600
"""How long after a session was finished a slower attempt may still run, and publish again a file
that was deleted: a task's 300 s (``template.yaml``), FLIGHT_SECONDS, and a margin."""

EVENT_RANGES: Final = 100
"""Most ranges of a gap report in an event: 3 KB. EventBridge bills events in units of 64 KB."""

LEASE_MARGIN_SECONDS: Final = 3
"""How long the lease of a finish outlives its invocation."""

LATEST_FINISH_SECONDS: Final = 8 * 86_400
"""How long after its creation a decided session may still be completed: the longest session life,
7 days, and one more. The batches live 2 days longer (``template.yaml``)."""

STORED_RESULT_BYTES: Final = 384
"""Largest answer of finish in a session's item, bytes, compressed. Larger ones, gap reports, go to
S3: the item is read with every batch, and must fit one read unit of 4 KB."""

MAX_OWNER_BYTES: Final = 512
"""Longest owner in an item, bytes. A longer one is replaced by its SHA-256."""

LEAST_RETENTION_SECONDS: Final = 3_600
"""Shortest time a result is kept, however old the manifest is that its finish found."""

RETRY_AFTER_SECONDS: Final = 2
"""Retry-After for a client that waits for a merge, or for storage."""

PRESIGNED_URL_SECONDS: Final = 15 * 60
"""How long a link to a merged object works."""

CONNECT_SECONDS: Final = 2
"""How long a call to AWS waits for a connection."""

READ_SECONDS: Final = 20
"""How long it waits for the next bytes of the answer; of obstore, for all of it."""

PATIENCE_SECONDS: Final = 15
"""How long a call to AWS is retried. S3 splits a throttled prefix within minutes. Until then it
refuses many requests, but one of twenty tries succeeds."""

FIRST_PAUSE_SECONDS: Final = 0.1
"""Longest pause after the first try; it doubles with every try."""

LONGEST_PAUSE_SECONDS: Final = 2.0
"""Longest pause between two tries."""

ANSWER_SECONDS: Final = 3
"""Time that an invocation reserves for releasing a session and answering."""
