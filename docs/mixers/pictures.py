"""Draws the pictures of these pages from scikit-learn's scans of digits: nothing is downloaded.

python docs/mixers/pictures.py [NAME …]      # all of them, or cutmix, resizemix …
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from dali_mix.cli.main import main as dali_mix
from dali_mix.mixers import CutMix, FreeFormMasks, MixChoice, MixUp, mask_out
from dali_mix.recordio import RecordSet
from dali_mix.reports import gallery, style
from dali_mix.reports.columns import Batch, mixed, plain
from dali_mix.reports.gallery import read_images, read_targets
from dali_mix.reports.sheet import Column, Picture, draw

HERE = Path(__file__).parent
ROWS, SEED, SIDE = 2, 6, 32
BOX_MIXERS = ("boxresizemix", "boxsplicemix")
GALLERIES = {
    "cutmix": ["cutmix", "cutmix:per_batch=True"],
    "resizemix": ["resizemix", "resizemix:interpolation=bilinear"],
    "resizemix_plus": ["resizemixplus"],
    "saliencymix": ["saliencymix"],
    "splicemix": ["splicemix", "splicemix:grids=mini"],
    "mixup": ["mixup:alpha=1.0", "mixup:alpha=0.2"],
    "cutout": ["cutout:size=16", "cutout:size=8"],
}


def choices(batch: Batch, out: Path) -> None:
    """A MixChoice over three batches."""
    choice = MixChoice([CutMix(10), MixUp(10, alpha=1.0)], probs=[0.4, 0.4])
    found: dict[str, Column] = {}
    for seed in range(100):
        (column,) = mixed(choice, batch, seed, boxes=True, peaks=False)
        found.setdefault(column.name, column)
    style.save(draw([*plain(batch, False, False), *(found[name] for name in sorted(found))], "one draw a batch"), out)


def masks(batch: Batch, out: Path) -> None:
    """Free-form masks, and what they leave."""
    removed = FreeFormMasks()(batch.images, torch.Generator().manual_seed(SEED))
    left = mask_out(batch.images, removed)
    black = (~removed).byte().mul(255).expand(-1, 3, -1, -1)
    shares = [f"{100 * share:.0f} % removed" for share in removed.float().mean((1, 2, 3)).tolist()]
    rows = range(batch.rows)
    columns = [
        *plain(batch, False, False),
        Column("mask", [Picture(black[i], [shares[i]]) for i in rows]),
        Column("masked", [Picture(left[i]) for i in rows]),
    ]
    style.save(draw(columns, "FreeFormMasks"), out)


def boxes(name: str, folder: Path, out: Path) -> None:
    """Two scenes with boxes, and what a mixer makes of them."""
    prefix = folder / "scenes"
    dali_mix(["pack", "digit-scenes", "--task", "detection", "--scenes", "32", "--out", str(prefix), "--force"])
    gallery(RecordSet(prefix), [name], out, rows=ROWS, seed=SEED, title="digit scenes")
    with Image.open(out) as image:  # noise compresses badly
        small = image.convert("RGB").resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.LANCZOS)
    small.quantize(32).save(out, optimize=True)


def main(names: list[str]) -> int:
    known = [*GALLERIES, "mixchoice", "masks", *BOX_MIXERS]
    if unknown := [name for name in names if name not in known]:
        print(f"no page has the picture {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "digits"
        if status := dali_mix(["pack", "digits", "--split", "train", "--out", str(prefix)]):
            return status
        records = RecordSet(prefix)
        chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(SEED))[:SIDE].tolist()
        images = read_images(records, chosen, SIDE)
        mean = images.float().mean((0, 2, 3)) / 255
        batch = Batch(images, read_targets(records, chosen), mean, records.info.classes, ROWS)
        for name in names or known:
            out = HERE / f"{name}.png"
            if name == "mixchoice":
                choices(batch, out)
            elif name == "masks":
                masks(batch, out)
            elif name.startswith("box"):
                boxes(name, Path(folder), out)
            else:
                shown = name == "saliencymix"
                gallery(records, GALLERIES[name], out, rows=ROWS, seed=SEED, peaks=shown, maps=shown, title="digits")
            print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
