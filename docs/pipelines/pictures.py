"""Draw the pictures of these pages from scikit-learn's two sample photographs: nothing is downloaded.

python docs/pipelines/pictures.py [NAME …]      # all of them, or imagenet, multilabel, detection, cifar
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import dali_mix
from dali_mix.recordio import Sample, write_set
from dali_mix.reports import style
from dali_mix.reports.sheet import Column, Picture, draw

HERE = Path(__file__).parent
SEED, SIDE, SCALE, QUALITY = 4, 192, 0.6, 82
# name → columns: heading, whether for training, options
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


def pack(prefix: Path, task: str) -> None:
    """Write a set of the two photographs."""
    samples = []
    for label, photo in enumerate(load_sample_images().images):
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=95)
        samples.append(Sample(buffer.getvalue(), BOXES[label] if task == "detection" else float(label)))
    write_set(prefix, samples, task=task, classes=["temple", "flower"])


# In mxnet's layout: widths of header and object; class, x1, y1, x2, y2 in 0..1, difficult.
BOXES = [[2, 6, 0, 0.1, 0.08, 0.57, 0.8, 0], [2, 6, 1, 0.25, 0.19, 0.7, 0.86, 0]]


def column(name: str, prefix: Path, heading: str, train: bool, options: dict[str, Any]) -> Column:
    """Return what the pipeline makes of the two photographs, as uint8."""
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
        print(f"no page has the picture {', '.join(unknown)}; there are {', '.join(SHEETS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        for name in names or SHEETS:
            prefix = Path(folder) / name
            pack(prefix, "detection" if name == "detection" else "classification")
            columns = [column(name, prefix, *sheet) for sheet in SHEETS[name]]
            large = style.save(draw(columns, f"pipeline {name}"), Path(folder) / f"{name}.png")
            out = HERE / f"{name}.jpg"
            with Image.open(large) as image:
                size = round(image.width * SCALE), round(image.height * SCALE)
                image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(out, quality=QUALITY)
            print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
