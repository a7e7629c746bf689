"""The decoding of a request's body, in a separate module, which can be imported twice."""

import time
from collections.abc import Mapping
from contextlib import suppress

from uploads import errors
from uploads.decode.batch_json import read_batch
from uploads.decode.batch_ndjson import read_lines
from uploads.decode.body import read_body
from uploads.decode.create import read_session_request


def take(kind: bytes, sent: str, headers: Mapping[str, str]) -> int:
    """Decode a base64 body as a session (``s``), NDJSON (``l``) or a batch; return its size.

    The size is in bytes, 0 if the body is refused.
    """
    size = 0
    with suppress(errors.GaplessError):
        read = read_body(sent, is_base64=True, headers=headers, cpu=time.thread_time).content
        size = len(read)
        if kind == b"s":
            read_session_request(read)
        elif kind == b"l":
            read_lines(read, 0)
        else:
            read_batch(read)
    return size
