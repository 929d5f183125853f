"""`dali-mix inspect PREFIX`: summarize a packed set, or show one of its records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dali_mix._text import printable
from dali_mix.recordio import ENCODINGS, RecordSet
from dali_mix.recordio.header import unpack_record
from dali_mix.recordio.summary import lines, summarize


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", help="the set: its path without .json")
    parser.add_argument("--record", type=int, metavar="ROW", help="show this record, counted from 0")
    parser.add_argument("--save", type=Path, metavar="FILE", help="with --record: write its encoded image here")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a summary of the set or, with --record, one record. Return 0.

    With --save, also write the record's encoded image to a file, whose folder is created if it is missing. Raise
    ValueError for --save without --record, or a record that does not exist.
    """
    records = RecordSet(args.prefix)
    if args.record is None:
        if args.save:
            raise ValueError("--save writes one record's image: choose it with --record ROW")
        names = list(records.info.classes)
        figures = summarize(records) | {"class_names": names, "options": records.info.options}
    else:
        if not 0 <= args.record < len(records):
            raise ValueError(f"--record {args.record}: {args.prefix} has records 0 to {len(records) - 1}")
        figures = _record(records, args.record)
        if args.save:
            args.save.parent.mkdir(parents=True, exist_ok=True)
            args.save.write_bytes(records.encoded(args.record).tobytes())
    if args.json:
        print(json.dumps(figures, indent=1, ensure_ascii=False))
    elif args.record is None:
        names = figures.pop("class_names")
        print("\n".join(lines(figures)))
        print("class names:", ", ".join(names[:20]) + (f", … ({len(names)})" if len(names) > 20 else ""))
    else:
        print("\n".join(printable(f"{key:<10}{value}") for key, value in figures.items()))
    return 0


def _record(records: RecordSet, row: int) -> dict[str, object]:
    entry = records.table[row]
    unpacked = unpack_record(records.checked_payload(row))
    target = records.labels(np.array([row]))[0]
    return {
        "record": row,
        "id": int(entry["id"]),
        "label": (unpacked.label if records.task.boxes else target).tolist(),
        "class": records.task.describe(target, records.info.classes),
        "encoding": ENCODINGS[entry["encoding"]],
        "height": int(entry["height"]),
        "width": int(entry["width"]),
        "bytes": int(unpacked.encoded.size),
        "file": str(records.rec_paths[entry["part"]]),
        "offset": int(entry["offset"]),
        "crc32": f"{entry['crc32']:08x}",
    }
