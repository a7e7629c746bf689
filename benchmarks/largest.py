"""10,000,000 records, to objects of both formats, in bounded memory. Takes minutes.

    make bench ONLY=largest BENCH_FULL=1

The stand-in for S3 holds the batches and the merged object: 2 GB.
"""

import tempfile
from pathlib import Path
from typing import Final

from benchmarks import data, report, whole
from benchmarks.processes import MEMORY

RECORDS: Final = 10_000_000
MOST_MIB: Final = 200


def main() -> None:
    template = data.body(0, data.records(whole.BATCH))
    batches = RECORDS // whole.BATCH
    rows: list[report.Row] = []
    targets: list[report.Target] = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        file = Path(folder) / "batch.json"
        file.write_text(template)
        for name in (whole.PLAIN, whole.COMPRESSED):
            report.progress(f"{RECORDS:,} records: {name}")
            way, format_ = whole.WORK[name]
            found = whole.gapless_work(file, way, format_, batches)
            rows.append(
                whole.row(RECORDS, name, len(template) * batches, [found])
                | {"MiB of the merge": found["merge mib"]}
            )
            targets.append(
                report.Target(
                    f"{RECORDS:,} records to {format_}: MiB of the merge",
                    found["merge mib"],
                    MOST_MIB,
                )
            )
    report.publish("largest", report.Chapter({"uploads": rows}, targets))


if __name__ == "__main__":
    main()
