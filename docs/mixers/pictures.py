"""Draw the pictures in docs/mixers from photographs that are included in scikit-learn and scikit-image.

python docs/mixers/pictures.py [NAME …]      # default: all; names: overview, cutmix, resizemix, …
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from dali_mix.mixers import CutMix, FreeFormMasks, MixChoice, MixUp, mask_out
from dali_mix.recordio import RecordSet
from dali_mix.reports import gallery, style
from dali_mix.reports.columns import Batch, mixed, plain
from dali_mix.reports.gallery import read_images, read_targets
from dali_mix.reports.sheet import Column, Picture, draw

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from photographs import pack, save_jpeg  # noqa: E402  in the parent folder

ROWS, SEED, SIDE, SCALE, QUALITY = 2, 6, 224, 0.75, 82
GALLERIES = {
    "overview": ["resizemix", "cutmix", "saliencymix", "splicemix"],
    "cutmix": ["cutmix", "cutmix:per_batch=True"],
    "resizemix": ["resizemix", "resizemix:interpolation=bilinear"],
    "resizemix_plus": ["resizemixplus"],
    "saliencymix": ["saliencymix"],
    "splicemix": ["splicemix", "splicemix:grids=mini"],
    "mixup": ["mixup:alpha=1.0", "mixup:alpha=0.2"],
    "cutout": ["cutout:size=112", "cutout:size=56"],
    "boxresizemix": ["boxresizemix"],
    "boxsplicemix": ["boxsplicemix"],
}


def choices(batch: Batch, out: Path) -> None:
    """Draw the three possible outputs of a MixChoice for `batch` as the PNG `out`: CutMix's, MixUp's, and unmixed."""
    choice = MixChoice([CutMix(len(batch.classes)), MixUp(len(batch.classes), alpha=1.0)], probs=[0.4, 0.4])
    found: dict[str, Column] = {}
    for seed in range(100):
        (column,) = mixed(choice, batch, seed, boxes=True, peaks=False)
        found.setdefault(column.name, column)
    style.save(draw([*plain(batch, False, False), *(found[name] for name in sorted(found))], "one draw a batch"), out)


def masks(batch: Batch, out: Path) -> None:
    """Draw the images of `batch`, their free-form masks, and the masked images, as the PNG `out`."""
    removed = FreeFormMasks()(batch.images, torch.Generator().manual_seed(SEED))
    left = mask_out(batch.images, removed)
    black = (~removed).byte().mul(255).expand(-1, 3, -1, -1)
    shares = [f"{100 * share:.0f}% removed" for share in removed.float().mean((1, 2, 3)).tolist()]
    rows = range(batch.rows)
    columns = [
        *plain(batch, False, False),
        Column("mask", [Picture(black[i], [shares[i]]) for i in rows]),
        Column("masked", [Picture(left[i]) for i in rows]),
    ]
    style.save(draw(columns, "FreeFormMasks"), out)


OTHERS: dict[str, Callable[[Batch, Path], None]] = {"mixchoice": choices, "masks": masks}


def main(names: list[str]) -> int:
    known = [*GALLERIES, *OTHERS]
    if unknown := [name for name in names if name not in known]:
        print(f"unknown picture: {', '.join(unknown)}; choose from {', '.join(known)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        records = RecordSet(pack(Path(folder) / "photographs"))
        boxed = RecordSet(pack(Path(folder) / "boxes", "detection"))
        chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(SEED)).tolist()
        images = read_images(records, chosen, SIDE)
        mean = images.float().mean((0, 2, 3)) / 255
        batch = Batch(images, read_targets(records, chosen), mean, records.info.classes, ROWS)
        for name in names or known:
            large = Path(folder) / f"{name}.png"
            if name in OTHERS:
                OTHERS[name](batch, large)
            else:
                shown, source = name == "saliencymix", boxed if name.startswith("box") else records
                gallery(
                    source, GALLERIES[name], large, rows=ROWS, seed=SEED, peaks=shown, maps=shown, title="photographs"
                )
            save_jpeg(large, HERE / f"{name}.jpg", SCALE, QUALITY)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
