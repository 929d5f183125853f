"""`dali-mix attention RECIPE CHECKPOINT IMAGES… --out DIR`: where a model sees its classes, as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from dali_mix.cli.bars import Bar
from dali_mix.cli.commands.predict import CLASS_FILE_HELP, add_model_arguments, tell_notes, tell_unreadable, tell_values


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for a PNG an image")
    parser.add_argument("--classes", metavar="NAME,NAME", help="draw these classes")
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="without --classes: the K highest (3)")
    parser.add_argument("--class-file", type=Path, metavar="FILE", help=CLASS_FILE_HELP)


def run(args: argparse.Namespace) -> int:
    from dali_mix.datasets.base import read_names
    from dali_mix.engine.config.saved import load_evaluated
    from dali_mix.engine.inference.image_files import find_images

    config, of_run = load_evaluated(args.recipe, Path(args.checkpoint), args.cfg_options)
    files = find_images(args.images)
    names = None if args.class_file is None else read_names(args.class_file)

    from dali_mix.engine.inference.predict import Predictor
    from dali_mix.reports.attention import attention

    tell_values(of_run)
    predictor = Predictor(config, args.checkpoint, ema=args.ema, classes=names)
    tell_notes(predictor.notes)
    with Bar("attention", "img", len(files)) as bar:
        _, unreadable = attention(
            predictor,
            files,
            args.out,
            classes=None if args.classes is None else [name.strip() for name in args.classes.split(",")],
            top_k=args.top_k,
            each=lambda sheet: bar.line(f"wrote {sheet}"),
        )
    return tell_unreadable("attention", unreadable)
