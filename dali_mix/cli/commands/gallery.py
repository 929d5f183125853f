"""`dali-mix gallery PREFIX`: what mixers do to the images of a packed set, as a picture."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_OWN = re.compile(r"[\w.]+:\w+(:|$)")  # module:name, where a name of ours is followed by option=value


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", help="packed set: PREFIX of PREFIX.json")
    parser.add_argument(
        "--mixers",
        default="resizemix,cutmix,mixup,cutout",
        help="comma-separated, options after colons, as in resizemix,mixup:alpha=0.2 (default: %(default)s); "
        "or module:name for your own, from the current folder or an installed package; "
        "here mixup's alpha is 1 and cutout's size half the image's unless given",
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--rows", type=int, default=4, help="how many images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses images and mixes (default: %(default)s)")
    parser.add_argument("--image-size", type=int, help="side in pixels before mixing (default: what suits the set)")
    parser.add_argument(
        "--boxes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="outline what was pasted or cut, and the cells of a grid (default: yes)",
    )
    parser.add_argument(
        "--peaks", action="store_true", help="mark the most salient pixel of each image, and of what SaliencyMix pasted"
    )
    parser.add_argument("--maps", action="store_true", help="a column with the saliency of each image")
    parser.add_argument("--title", help="heading (default: the set's name and size)")


def run(args: argparse.Namespace) -> int:
    from dali_mix import _factories
    from dali_mix.reports import gallery

    mixers = [
        name for name in re.split(r",(?![^(\[]*[)\]])", args.mixers) if name.strip()
    ]  # not at a comma in brackets
    if own := [name.strip() for name in mixers if _OWN.match(name.strip())]:
        _factories.import_from(Path.cwd(), own)
    out = gallery(
        args.prefix,
        mixers,
        args.out,
        rows=args.rows,
        image_size=args.image_size,
        seed=args.seed,
        boxes=args.boxes,
        peaks=args.peaks,
        maps=args.maps,
        title=args.title,
    )
    print(f"wrote {out}")
    return 0
