"""`dali-mix attention RECIPE CHECKPOINT IMAGES… --out DIR`: draw heat maps that show where a model sees each class."""

from __future__ import annotations

import argparse
from pathlib import Path

from dali_mix.cli.bars import Bar
from dali_mix.cli.commands.predict import CLASS_FILE_HELP, add_model_arguments, open_predictor, report_unreadable


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to, one PNG per image")
    parser.add_argument("--classes", metavar="NAME,NAME", help="the classes to draw (default: see --top-k)")
    parser.add_argument(
        "--top-k",
        type=int,
        default=3,
        metavar="K",
        help="without --classes: draw the K classes with the highest scores (default: %(default)s)",
    )
    parser.add_argument("--class-file", type=Path, metavar="FILE", help=CLASS_FILE_HELP)


def run(args: argparse.Namespace) -> int:
    from dali_mix.reports.attention import attention

    predictor, files = open_predictor(args)
    classes = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
    with Bar("attention", "img", len(files)) as bar:

        def show(sheet: Path) -> None:
            bar.line(f"wrote {sheet}")

        _, unreadable = attention(predictor, files, args.out, classes=classes, top_k=args.top_k, each=show)
    return report_unreadable("attention", unreadable)
