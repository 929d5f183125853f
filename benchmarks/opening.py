"""Time and memory of opening a set of 14 million records.

    python benchmarks/opening.py [--count 14000000]

The set's table has 14 million rows that point to ten records in its .rec. Opening the set reads neither the table's
rows nor the records.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _compare import environment, write_json

from dali_mix.recordio import RECORD_DTYPE, RecordSet, write_set
from dali_mix.recordio.manifest import table_header

HERE = Path(__file__).resolve().parent
_MEASURED = """
import json, sys, time
import numpy as np
from dali_mix.recordio import RecordSet

def memory():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss"))
    return {name: int(value.split()[0]) / 1024 for name, value in fields.items()}

before = memory()
start = time.perf_counter()
records = RecordSet(sys.argv[1])
opened = time.perf_counter() - start
after = memory()
rows = np.random.default_rng(0).integers(0, len(records), (200, 256))
start = time.perf_counter()
for batch in rows:
    records.labels(batch)
labels = (time.perf_counter() - start) / len(rows)
start = time.perf_counter()
order = np.random.Generator(np.random.Philox(0)).permutation(len(records))
shuffled = time.perf_counter() - start
del order
used = memory()
print(json.dumps({
    "seconds_to_open": opened,
    "private_mib_to_open": after["RssAnon"] - before["RssAnon"],
    "mapped_mib_to_open": after["RssFile"] - before["RssFile"],
    "seconds_for_labels_of_256_random_records": labels,
    "seconds_to_shuffle_all": shuffled,
    "private_mib_after_use": used["RssAnon"] - before["RssAnon"],
}))
"""


def make_set(prefix: Path, count: int) -> None:
    """Write a set with `count` rows that point to ten records. Its .idx has the expected size but no content."""
    info = write_set(prefix, [(bytes(200), row % 10, 8, 8, "jpeg") for row in range(10)], classes="0123456789")
    table = np.resize(np.asarray(RecordSet(prefix).table), count)
    table["id"] = np.arange(count)
    with prefix.with_suffix(".npy").open("wb") as file:
        file.write(table_header(count))
        table.tofile(file)
    with prefix.with_suffix(".idx").open("wb") as file:
        file.truncate(count * 19)
    index = dataclasses.replace(info.index, size=count * 19)
    size = len(table_header(count)) + count * RECORD_DTYPE.itemsize
    info = dataclasses.replace(info, count=count, index=index, table=dataclasses.replace(info.table, size=size))
    prefix.with_suffix(".json").write_text(info.to_json())


def main() -> int:
    """Print the medians over five processes and write docs/benchmarks/opening.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=14_000_000)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks" / "opening.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dali_mix-bench-") as name:
        prefix = Path(name, "set")
        make_set(prefix, args.count)
        runs = []
        for _ in range(5):
            command = [sys.executable, "-c", _MEASURED, str(prefix)]
            runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(f"{args.count:,} records")
    for name, value in medians.items():
        print(f"{name.replace('_', ' '):45} {value:.6f}")
    write_json(args.out, {"count": args.count, "medians": medians, "runs": runs, "environment": environment(["numpy"])})
    return 0


if __name__ == "__main__":
    sys.exit(main())
