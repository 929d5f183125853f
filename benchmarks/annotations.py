"""Speed and peak memory of reading COCO's annotations, compared with json.load and a loop over the annotations.

    python benchmarks/annotations.py [--images 118287] [--turns 3]

The annotation file is generated. By default it has about as many images and annotations as train2017. Each annotation
has a polygon of 23 corners.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _compare import Rates, environment, report, table, take_turns, write_json

HERE = Path(__file__).resolve().parent
_OURS = """
done = len(LAYOUTS["coco"](Path(root), "train2017", Options(task=task, unlabelled="keep")).labels)
"""
_LOOP = """
content = json.load(open(root + "/annotations/instances_train2017.json"))
row_of = {image["id"]: row for row, image in enumerate(content["images"])}
class_of = {kind: row for row, kind in enumerate(sorted(entry["id"] for entry in content["categories"]))}
if task == "multilabel":
    labels = np.zeros((len(row_of), len(class_of)), dtype=np.float32)
    for entry in content["annotations"]:
        labels[row_of[entry["image_id"]], class_of[entry["category_id"]]] = 1
else:
    labels = [[2, 6] for _ in row_of]
    for entry in content["annotations"]:
        row = row_of[entry["image_id"]]
        image, (x, y, w, h) = content["images"][row], entry["bbox"]
        width, height = image["width"], image["height"]
        corners = x / width, y / height, (x + w) / width, (y + h) / height
        labels[row] += [class_of[entry["category_id"]], *corners, entry["iscrowd"]]
    labels = [np.array(label, dtype=np.float32) for label in labels]
done = len(labels)
"""
_MEASURED = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from dali_mix.datasets import LAYOUTS, Options
root, task = sys.argv[1:]
start = time.perf_counter()
{}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - start, peak, done]))
"""


def make(root: Path, images: int) -> int:
    """Write annotations/instances_train2017.json of `images` images below `root` and return its size in bytes.

    Also create the folder train2017, without images.
    """
    random = np.random.default_rng(0)
    sizes = random.integers(300, 641, (images, 2)).tolist()
    entries = [
        {"license": 4, "file_name": f"{3 * row:012d}.jpg", "height": height, "width": width, "id": 3 * row}
        for row, (height, width) in enumerate(sizes)
    ]
    file = root / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    (root / "train2017").mkdir()
    categories = [{"supercategory": "thing", "id": kind, "name": f"class {kind}"} for kind in range(1, 81)]
    with file.open("w") as out:
        out.write(f'{{"images": {json.dumps(entries)}, "categories": {json.dumps(categories)}, "annotations": [')
        for number in range(round(images * 7.27)):
            row = int(random.integers(images))
            height, width = sizes[row]
            x, y = random.uniform(0, [width / 2, height / 2]).round(2).tolist()
            w, h = random.uniform(2, [width / 2, height / 2]).round(2).tolist()
            note = {"segmentation": [random.uniform(0, 600, 46).round(2).tolist()], "area": w * h, "iscrowd": 0}
            note |= {"image_id": 3 * row, "bbox": [x, y, w, h], "category_id": number % 80 + 1, "id": number}
            out.write((", " if number else "") + json.dumps(note))
        out.write("]}")
    return file.stat().st_size


def main() -> int:
    """Print a table per task and write docs/benchmarks/annotations.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks" / "annotations.json")
    args = parser.parse_args()
    results: dict[str, object] = {"images": args.images}
    with tempfile.TemporaryDirectory(prefix="dali_mix-bench-") as root:
        results["bytes"] = make(Path(root), args.images)
        for task in ("multilabel", "detection"):
            peaks: Rates = {}

            def contestant(name: str, code: str, task: str = task, peaks: Rates = peaks) -> Callable[[], float]:
                def run() -> float:
                    command = [sys.executable, "-c", _MEASURED.format(code), root, task]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    seconds, peak, images = json.loads(done.stdout)
                    peaks.setdefault(name, []).append(peak)
                    return images / seconds

                return run

            codes = {"dali_mix": _OURS, "json and a loop": _LOOP}
            rates = take_turns({name: contestant(name, code) for name, code in codes.items()}, args.turns)
            print(f"\n{task}\n{table(rates, 'dali_mix', 'images/s')}")
            memory = {name: round(statistics.median(values)) for name, values in peaks.items()}
            print("peak memory, MiB:", memory)
            results[task] = report(rates, "dali_mix") | {"peak_mib": memory}
    write_json(args.out, results | {"environment": environment(["dali_mix", "numpy"])})
    return 0


if __name__ == "__main__":
    sys.exit(main())
