"""Every number the service is bound by, with its source."""

from typing import Final

MIB: Final = 1024 * 1024

MAX_INTEGER: Final = 2**53 - 1
"""Largest ``totalRecord`` and ``batchSize``: exact in every JSON client (RFC 8259, 6)."""

MAX_SEQ_NUM: Final = 99_999
"""Largest ``seqNum``. 100,000 batches list in 100 requests of 1,000 keys each."""

MAX_BODY_BYTES: Final = 4_500_000
"""Largest batch body, bytes as sent. Lambda takes an event of 6 MiB (AWS Lambda quotas); base64
makes 6.0 MB of this and leaves 290 KB for headers and claims."""

MAX_INFLATED_BYTES: Final = 64 * MIB
"""Largest gzip body after inflating, bytes. Four times this, and what `MAX_VALUES` records take,
is 600 MB of the function's 1,769 MB."""

MAX_SESSION_BODY_BYTES: Final = 128 * 1024
"""Largest body that opens or finishes a session, bytes, as sent and inflated: a hundred will do."""

MAX_IDEMPOTENCY_KEY: Final = 255
"""Longest Idempotency-Key, characters."""

MIN_SECRET_KEY: Final = 22
"""Shortest Idempotency-Key where callers are not told apart: 128 random bits in base64."""

MAX_METADATA_MEMBERS: Final = 16
"""Most members of a session's metadata."""

MAX_METADATA_BYTES: Final = 2_048
"""Largest metadata of a session, bytes of UTF-8, names and values. They are in its item, of which
they may take a half."""

DEFAULT_PAGE: Final = 50
"""Sessions that a page of a list looks at, if nobody says how many."""

MAX_PAGE: Final = 1_000
"""Most sessions that a page of a list looks at: DynamoDB reads 1 MB at a time, and each has up to
2.6 KB in the index."""

MAX_FILE_NAME_BYTES: Final = 255
"""Longest name of a file, bytes of UTF-8, that Linux and macOS take."""

MAX_GZIP_OVERHEAD_BYTES: Final = 64 * 1024
"""What a gzip body may be larger than nine eighths of its content. Names, empty members and blocks
that hold next to nothing take up to 100 ns of CPU a byte to read, and bring nothing."""

INFLATE_SECONDS_PER_BYTE: Final = 20e-9
"""What isal may take, CPU a byte of content: ten times what it does take. Blocks of a few bytes
cost it up to 330 ns a byte that was sent, and zlib a quarter of that."""

MAX_VALUES: Final = 5_000_000
"""Most values in a batch body, counted by their commas. A record takes 64 bytes of memory on top of
its own, and so many of them 320 MB. Only a gzip body can hold more."""

CHECK_SECONDS: Final = 0.25
CHECK_SECONDS_PER_BYTE: Final = 90e-9
"""What checking a batch's records against a schema may take, CPU: so much, and so much a byte. A
schema of ten properties takes 8 ns a byte; what takes a hundred is made to."""

MAX_INVALID_SHOWN: Final = 100
"""Most records that an answer tells the faults of: 46 KB of JSON."""

MAX_CHECKED_DEPTH: Final = 200
"""Deepest nesting of a record under a schema. A recursive one takes up to a few hundred bytes of
stack for each of its keywords on each level, and a process has 8 MiB."""

MAX_CHECKED_VALUES: Final = 200_000
"""Most values of one record under a schema. It is decoded whole, at up to 110 bytes a value, and
nothing ends its check but its end."""

MAX_DIGITS: Final = 4_300
"""Most digits, and largest exponent, of a number under a schema. Python makes no longer integer."""

MAX_EXPLAINED_BYTES: Final = 64 * 1024
"""Bytes of records in a batch that reasons are looked for in, under a schema with ``anyOf`` or
``oneOf``: a reason is made of every value there, some microseconds each."""

MAX_EXPLAINED_DEPTH: Final = 6
"""Deepest nesting of a record that a reason is looked for in, under a recursive schema: every level
may take three or four times as long as the one above."""

MAX_MEMBERS: Final = 1_000
"""Most top-level members of a body; it needs two."""

MAX_MISSING_RANGES: Final = 10_000
"""Most ranges in a gap report: about 260 KB of JSON, well under Lambda's 6 MB an answer."""

LIST_PAGE: Final = 1_000
"""Most keys in one ListObjectsV2 answer (Amazon S3 API reference)."""

LISTS_IN_FLIGHT: Final = 16
"""Pages of a listing requested at a time."""

MAX_MERGED_BYTES: Final = 5 * 1024**4
"""Largest merged object: what every region and every store that speaks S3 takes (5 TiB)."""

MIN_PART_BYTES: Final = 5 * MIB
"""Smallest part of a multipart upload but the last, bytes (Amazon S3 multipart upload limits)."""

MAX_PARTS: Final = 10_000
"""Most parts in a multipart upload (Amazon S3 multipart upload limits)."""

PART_BYTES: Final = 8 * MIB
"""Bytes in a streamed part when the session is small enough for it: measured best of 5 … 32 MiB."""

PARTS_IN_FLIGHT: Final = 4
"""Parts composed at a time; memory is bounded by this times the part size."""

READS_IN_FLIGHT: Final = 48
"""Batches read from S3 at a time. Beyond 64 nothing is gained; at 15 ms a read this is 3,200/s."""

BYTES_IN_FLIGHT: Final = 512 * MIB
"""Most bytes that are read, and most that are written, at a time: batches of 64 MiB, and the parts
of a session of terabytes, are as large as that."""

READS_PER_SECOND: Final = 1_500
"""Batches one function reads in a second, at least: half of what ``READS_IN_FLIGHT`` makes at 15 ms
a read."""

BYTES_PER_SECOND: Final = 60_000_000
"""Bytes one function reads and writes in a second, at least. Published for Python on one function:
15 GB of 3,000 objects in 243 s."""

COPY_SECONDS: Final = 0.02
"""What a copied part adds: ``READS_IN_FLIGHT`` at a time, a second each (up to 64 MiB)."""

INLINE_SHARE: Final = 0.8
"""How much of its remaining time a finish plans with; what needs more is handed over."""

CHILDREN: Final = 32
"""Functions a long merge is shared among, at least, where it has that many parts."""

CHILD_SECONDS: Final = 8
"""What one of them is given to do at most, by the estimates above."""

CHILDREN_AT_ONCE: Final = 100
"""Most of them at a time: a tenth of what an account may run (AWS Lambda quotas)."""

PREFIX_READS_PER_SECOND: Final = 5_500
"""Reads that S3 promises for the batches of one session (Amazon S3 performance guidelines)."""

DELETES_PER_SECOND: Final = 3_000
"""Batches of one session that are deleted in a second, at most. S3 promises 3,500 writes a second
for a prefix (Amazon S3 performance guidelines), and each key of a DeleteObjects is one."""

DELETES_IN_FLIGHT: Final = 4
"""Requests to delete, of 1,000 keys each, under way at once: a second may pass for one."""

TASK_LEASE_SECONDS: Final = 360
"""How long each task of a long merge holds the session: its function's 300 s (``template.yaml``),
and a minute for the next one to begin."""

FINISH_SECONDS: Final = 29
"""How long a finish has at most: the time-out of its function (``template.yaml``), a second less
than API Gateway waits."""

FLIGHT_SECONDS: Final = 60
"""How long a request can be under way: what was sent in time may arrive so much later."""

LONGEST_SECONDS: Final = 30 + 12 * 3_600 + 300 + FLIGHT_SECONDS
"""How long after its seal an attempt can still move the session: the call that hands it over, its
execution, and a task that outlives it (``statemachine/merge.asl.json``, ``template.yaml``)."""

GRACE_SECONDS: Final = 86_400
"""How long the item of a session that takes no batches any more is kept, for a finish to end: twice
``LONGEST_SECONDS``, almost, so that one that died can be taken over."""

SETTLING_SECONDS: Final = 600
"""How long after a session was finished an attempt that lost the race may still be at work, and
publish what was deleted meanwhile: a task's 300 s (``template.yaml``), FLIGHT_SECONDS, and as much
again."""

EVENT_RANGES: Final = 100
"""Most ranges of a gap report in an event, 3 KB: with 2 KB of metadata it is well under the 64 KB
that EventBridge bills as one, and the 256 KB that it takes."""

LEASE_MARGIN_SECONDS: Final = 3
"""How long a finish keeps its lease after its own invocation must have ended."""

LATEST_FINISH_SECONDS: Final = 8 * 86_400
"""How long after its creation a session whose finish was decided may still be completed: the
longest session life (7 days) and one more. The batches live 2 days longer (``template.yaml``)."""

STORED_RESULT_BYTES: Final = 384
"""Most bytes of an answer of finish in the session's item, compressed. The item is read with every
batch, and one read unit is 4 KB, half of which may be metadata; what is larger is a gap report, and
goes to S3."""

MAX_OWNER_BYTES: Final = 512
"""Longest owner in an item, bytes; of a longer one it has the SHA-256."""

LEAST_RETENTION_SECONDS: Final = 3_600
"""How long a result is kept at least, however old the manifest is that its finish found."""

RETRY_AFTER_SECONDS: Final = 2
"""What a client waits before it asks again about a merge that runs."""

PRESIGNED_URL_SECONDS: Final = 15 * 60
"""How long the link to a merged object works."""

PATIENCE_SECONDS: Final = 15
"""How long a call to AWS is tried again. S3 divides a prefix that it throttles within minutes, and
turns away some requests until then, not all: of twenty tries one gets through."""

FIRST_PAUSE_SECONDS: Final = 0.1
"""Longest pause after a first try; it doubles with every try."""

LONGEST_PAUSE_SECONDS: Final = 2.0
"""Longest pause between two tries."""

ANSWER_SECONDS: Final = 3
"""What an invocation keeps of its time, to release a session and to answer."""
