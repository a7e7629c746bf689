"""MiniStack, with two things that 1.5.33 does not know.

Run by MiniStack's own Python (``local.ministack`` does).

Full-object checksums of multipart uploads: it takes the checksum of a completion for one of the
parts' checksums, and so refuses every right one; here it is held against the object.

Alarms on an expression: it refuses them; here such an alarm is one on the first of its metrics.
"""

import base64
import zlib
from typing import Any

from ministack import app  # type: ignore[import-not-found]
from ministack.services import s3  # type: ignore[import-not-found]
from ministack.services.cloudformation import (  # type: ignore[import-not-found]
    provisioners,
)

_complete = s3._complete_multipart_upload  # noqa: SLF001 - what is mended has no public name


def _complete_full_object(
    bucket: str, key: str, body: bytes, query: dict[str, Any], headers: dict[str, str] | None = None
) -> Any:  # noqa: ANN401 - MiniStack's own answer
    headers = dict(headers or {})
    upload = s3._multipart_uploads.get(s3._qp(query, "uploadId"))  # noqa: SLF001
    if headers.get("x-amz-checksum-type") != "FULL_OBJECT" or upload is None:
        return _complete(bucket, key, body, query, headers)
    crc32 = 0
    for number in sorted(upload["parts"]):
        crc32 = zlib.crc32(upload["parts"][number]["body"], crc32)
    checksum = base64.b64encode(crc32.to_bytes(4, "big")).decode()
    if headers.pop("x-amz-checksum-crc32", checksum) != checksum:
        return s3._error("BadDigest", "The checksum is not the object's.", 400)  # noqa: SLF001
    answer = _complete(bucket, key, body, query, headers)
    stored = s3._ensure_bucket(bucket)["objects"].get(key)  # noqa: SLF001
    if stored and stored.get("parts"):
        stored |= {"checksums": {"CRC32": checksum}, "checksum_type": "FULL_OBJECT"}
    return answer


s3._complete_multipart_upload = _complete_full_object  # noqa: SLF001


_alarm = provisioners._cw_metric_alarm_record  # noqa: SLF001


def _alarm_on_an_expression(name: str, properties: dict[str, Any]) -> Any:  # noqa: ANN401
    metrics = [
        entry["MetricStat"] for entry in properties.get("Metrics", []) if "MetricStat" in entry
    ]
    if metrics:
        first = metrics[0]
        properties = (
            properties
            | first["Metric"]
            | {
                "Metrics": None,
                "Statistic": first["Stat"],
                "Period": first["Period"],
            }
        )
    return _alarm(name, properties)


provisioners._cw_metric_alarm_record = _alarm_on_an_expression  # noqa: SLF001

if __name__ == "__main__":
    app.main()
