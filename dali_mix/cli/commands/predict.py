"""`dali-mix predict RECIPE CHECKPOINT IMAGES…`: predict classes or boxes of image files with a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_mix._text import csv_text, printable
from dali_mix.cli.arguments import add_recipe
from dali_mix.cli.bars import Bar

if TYPE_CHECKING:
    import torch

    from dali_mix.engine.config.schema import RunConfig
    from dali_mix.engine.inference.image_files import Unreadable
    from dali_mix.engine.inference.predict import Detections, Predictions, Predictor
    from dali_mix.tasks import Task

CLASS_FILE_HELP = "class names in order, one per line (default: those in the checkpoint, or of the recipe's sets)"


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add = parser.add_argument
    add("images", metavar="IMAGE", nargs="+", type=Path, help="image files, or folders of them")
    add("--class-file", "--classes", dest="class_file", type=Path, metavar="FILE", help=CLASS_FILE_HELP)
    add(
        "--threshold",
        type=float,
        metavar="P",
        help="report classes, or boxes, with a score above P (default: 0.5; none for classification)",
    )
    add(
        "--top-k",
        type=int,
        metavar="K",
        help="report the K classes with the highest scores (classification: default 5); combines with --threshold",
    )
    add("--json", type=Path, metavar="OUT", help="write predictions and all scores to this file")
    add(
        "--csv",
        type=Path,
        metavar="OUT",
        help="write predictions as a table: a row per image and a column per class, or a row per box",
    )
    add("--draw", type=Path, metavar="DIR", help="write the images, with the boxes drawn, to this folder")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, --cfg-options, CHECKPOINT and --ema, which determine a model and its weights."""
    add_recipe(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint of a run, or a weight file")
    parser.add_argument("--ema", action="store_true", help="use the averaged weights")


def run(args: argparse.Namespace) -> int:
    import torch

    from dali_mix.engine.checkpoint.files import check_out, write_text
    from dali_mix.engine.inference.predict import choose
    from dali_mix.tasks import MULTILABEL

    for option, out in (("--json", args.json), ("--csv", args.csv)):
        if out is not None:
            check_out(option, out)
    if args.json is not None and args.csv is not None and args.json.resolve() == args.csv.resolve():
        raise ValueError(f"--json and --csv both write {args.csv}: choose different names")
    choose(torch.zeros(1), ["any"], MULTILABEL, args.threshold, args.top_k)  # reject bad values before the work
    predictor, files = open_predictor(args)
    if predictor.task.boxes:
        return _detect(args, predictor, files)
    if args.draw is not None:
        raise ValueError(f"--draw is for boxes; this model is for {predictor.task.name}")
    with Bar("predict", "img", len(files)) as bar:

        def show(path: Path, scores: torch.Tensor) -> None:
            chosen = choose(scores, predictor.classes, predictor.task, args.threshold, args.top_k)
            bar.line(_line(printable(str(path)), chosen))

        found = predictor(files, each=show)
    if args.json is not None:
        images = [
            {
                "image": str(path),
                "prediction": [name for name, _ in found.chosen(row, args.threshold, args.top_k)],
                "scores": [round(score, 6) for score in found.scores[row].tolist()],
            }
            for row, path in enumerate(found.paths)
        ]
        write_text(args.json, _json(found, predictor.task, images, args))
    if args.csv is not None:
        write_text(args.csv, _csv(found, args))
    return report_unreadable("predict", found.unreadable)


def _detect(args: argparse.Namespace, predictor: Predictor, files: list[Path]) -> int:
    from dali_mix.engine.checkpoint.files import check_writable, write_text

    if args.top_k is not None:
        raise ValueError("--top-k is for classes; use --threshold for boxes")
    drawings = None
    if args.draw is not None:
        from dali_mix.reports.boxes import Drawings

        check_writable(args.draw)
        if any(path.parent.resolve() == args.draw.resolve() for path in files):
            raise ValueError(f"--draw {args.draw}: images are read from this folder; choose another one")
        drawings = Drawings(args.draw, predictor.classes)
    with Bar("predict", "img", len(files)) as bar:

        def show(path: Path, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> None:
            names = [f"{predictor.classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
            bar.line(f"{printable(str(path))} boxes: {', '.join(names) or 'none above the threshold'}")
            if drawings is not None:
                drawings.write(path, boxes, scores, labels)

        found = predictor.detect(files, args.threshold, show)
    images: list[dict[str, Any]] = [
        {
            "image": str(path),
            "boxes": [
                {"class": found.classes[label], "score": round(score, 6), "box": [round(side, 2) for side in box]}
                for box, score, label in zip(*(part.tolist() for part in parts), strict=True)
            ],
        }
        for path, *parts in zip(found.paths, found.boxes, found.scores, found.labels, strict=True)
    ]
    if args.csv is not None:
        rows = [[row["image"], box["class"], box["score"], *box["box"]] for row in images for box in row["boxes"]]
        write_text(args.csv, csv_text([["image", "class", "score", "x1", "y1", "x2", "y2"], *rows]))
    if args.json is not None:
        write_text(args.json, _json(found, predictor.task, images, args))
    return report_unreadable("predict", found.unreadable)


def open_predictor(args: argparse.Namespace) -> tuple[Predictor, list[Path]]:
    """Return (`Predictor` for RECIPE and CHECKPOINT, image files found in IMAGE…). Print the predictor's notes."""
    from dali_mix.engine.inference.image_files import find_images

    config, files = load_values(args), find_images(args.images)

    from dali_mix.engine.inference.predict import Predictor

    predictor = Predictor(config, args.checkpoint, ema=args.ema, classes=args.class_file)
    print_notes(predictor.notes)
    return predictor, files


def load_values(args: argparse.Namespace, *, shown: bool = True) -> RunConfig:
    """Return the config with which to evaluate CHECKPOINT (see `load_evaluated`).

    If values of the run that wrote CHECKPOINT are used, print to stderr the file that contains them, unless `shown` is
    False.
    """
    from dali_mix.engine.config.saved import load_evaluated

    config, of_run = load_evaluated(args.recipe, Path(args.checkpoint), args.cfg_options)
    print_notes([f"using the run's values from {of_run}"] if of_run and shown else [])
    return config


def print_notes(notes: Iterable[str]) -> None:
    """Print each of `notes` as a line on stderr."""
    for note in notes:
        print(note, file=sys.stderr)


def report_unreadable(command: str, unreadable: Iterable[Unreadable]) -> int:
    """List unreadable files on stderr, with the reasons. Return the exit status: 1 if there are any, else 0."""
    status = 0
    for path, reason in unreadable:
        print(printable(f"dali-mix {command}: skipped {path}: {reason}"), file=sys.stderr)
        status = 1
    return status


def _line(path: str, chosen: list[tuple[str, float]]) -> str:
    if not chosen:
        return f"{path} prediction: no class above the threshold"
    names, scores = zip(*chosen, strict=True)
    return f"{path} prediction: {','.join(names)}  ({', '.join(f'{score:.3f}' for score in scores)})"


def _json(found: Predictions | Detections, task: Task, images: list[dict[str, Any]], args: argparse.Namespace) -> str:
    from dali_mix.engine.checkpoint.files import json_text

    record = {"recipe": args.recipe, "checkpoint": str(args.checkpoint), "ema": args.ema, "task": task.name}
    left_out = [{"image": str(path), "reason": reason} for path, reason in found.unreadable]
    record |= {"classes": list(found.classes), "images": images, "left_out": left_out}
    return json_text(record, indent=2) + "\n"


def _csv(found: Predictions, args: argparse.Namespace) -> str:
    table: list[list[object]] = [["image", "prediction", *found.classes]]
    for row, path in enumerate(found.paths):
        names = ",".join(name for name, _ in found.chosen(row, args.threshold, args.top_k))
        table.append([path, names, *(f"{score:.6f}" for score in found.scores[row].tolist())])
    return csv_text(table)
