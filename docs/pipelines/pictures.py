"""Draw the pictures of the pages in docs/pipelines from two photographs that come with scikit-learn.

python docs/pipelines/pictures.py [NAME …]      # default: all; names: imagenet, multilabel, detection, cifar
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import dali_mix
from dali_mix.reports import style
from dali_mix.reports.sheet import Column, Picture, draw

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from photographs import pack, save_jpeg  # noqa: E402  in the parent folder

SEED, SIDE, SCALE, QUALITY = 4, 192, 0.6, 82
TEMPLE = 3  # the first of the two photographs
# pipeline → its columns: (heading, train, options)
SHEETS: dict[str, list[tuple[str, bool, dict[str, Any]]]] = {
    "imagenet": [
        ("evaluation", False, {}),
        ("training", True, {}),
        ("scale=(0.5, 1)", True, {"scale": (0.5, 1.0)}),
        ("color_jitter=0.6", True, {"scale": (0.5, 1.0), "color_jitter": 0.6}),
        ("randaugment", True, {"scale": (0.5, 1.0), "auto_augment": "randaugment"}),
        ("erasing=1", True, {"scale": (0.5, 1.0), "erasing": 1.0}),
    ],
    "multilabel": [
        ("evaluation", False, {}),
        ("random-resized", True, {}),
        ("multi-scale", True, {"crop": "multi-scale"}),
        ("none", True, {"crop": "none"}),
        ("cutout=0.5", True, {"crop": "none", "cutout": 0.5}),
        ("randaugment", True, {"crop": "none", "auto_augment": "randaugment"}),
    ],
    "detection": [
        ("evaluation", False, {}),
        ("flip=1", True, {"flip": 1.0}),
        ("zoom_out=1", True, {"zoom_out": 1.0}),
        ("iou_crop=1", True, {"iou_crop": 1.0}),
        ("photometric=1", True, {"photometric": 1.0}),
    ],
    "cifar": [
        ("evaluation", False, {}),
        ("training", True, {"padding": SIDE // 8}),
        ("padding=0", True, {"padding": 0}),
        ("flip=1", True, {"padding": SIDE // 8, "flip": 1.0}),
    ],
}


def column(name: str, prefix: Path, heading: str, train: bool, options: dict[str, Any]) -> Column:
    """Return a column with the output of pipeline `name` for the images of the set `prefix`, denormalized to uint8.

    For the pipeline `detection`, boxes are outlined, and padding is cut off.
    """
    size = {"shorter": SIDE, "longest": 2 * SIDE} if name == "detection" else {"image_size": SIDE}
    loader = dali_mix.build_loader(
        name,
        prefix,
        batch_size=2,
        train=train,
        seed=SEED,
        device="cpu",
        num_threads=1,
        pipeline_options=size | options,
    )
    batch = next(iter(loader))
    mean, std = (torch.tensor(values)[:, None, None] for values in (loader.pipeline.mean, loader.pipeline.std))
    pixels = (255 * (batch.images * std + mean)).round().clamp(0, 255).byte()
    pictures = []
    for index in batch.ids.argsort().tolist():
        outlines, image = [], pixels[index]
        if name == "detection":
            target = batch.targets[index]
            image = image[:, : target["size"][0], : target["size"][1]]
            outlines = [(y1, x1, y2 - y1, x2 - x1) for x1, y1, x2, y2 in target["boxes"].tolist()]
        pictures.append(Picture(image, outlines=outlines))
    loader.close()
    return Column(heading, pictures)


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in SHEETS]:
        print(f"unknown picture: {', '.join(unknown)}; choose from {', '.join(SHEETS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        for name in names or SHEETS:
            task = "detection" if name == "detection" else "classification"
            prefix = pack(Path(folder) / name, task, TEMPLE)
            columns = [column(name, prefix, *sheet) for sheet in SHEETS[name]]
            large = style.save(draw(columns, f"pipeline {name}"), Path(folder) / f"{name}.png")
            save_jpeg(large, HERE / f"{name}.jpg", SCALE, QUALITY)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
