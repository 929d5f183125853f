"""`dali-mix evaluate RECIPE CHECKPOINT`: each sample of the val_set exactly once, with the values the run had."""

from __future__ import annotations

import argparse
from pathlib import Path

from dali_mix.cli.bars import Bar
from dali_mix.cli.commands.predict import add_model_arguments, tell_notes, tell_values
from dali_mix.engine.distributed.environment import environment


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--json", metavar="OUT", help="write the figures to this file as well")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write figures and charts of each class to this folder"
    )


def run(args: argparse.Namespace) -> int:
    from dali_mix.engine.config.saved import load_evaluated

    config, of_run = load_evaluated(args.recipe, Path(args.checkpoint), args.cfg_options)
    out = Path(args.json) if args.json else None
    from dali_mix.engine.checkpoint.files import check_out, check_writable, json_text, write_text
    from dali_mix.engine.run import evaluate_checkpoint

    if out is not None:
        check_out("--json", out)
    if args.report is not None:
        check_writable(args.report)
    if environment()[0] == 0:
        tell_values(of_run)
    with Bar("evaluate", "batch", shown=environment()[0] == 0) as bar:
        evaluation = evaluate_checkpoint(config, args.checkpoint, ema=args.ema, each=bar.reach)
    scores = evaluation.values
    if environment()[0] == 0:
        tell_notes(evaluation.notes)
        print("  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        if out is not None:
            record = {"recipe": args.recipe, "checkpoint": str(args.checkpoint), "ema": args.ema, **scores}
            record |= {"skipped": evaluation.skipped} if evaluation.skipped else {}
            write_text(out, json_text(record, indent=2) + "\n")
    if args.report is not None:
        from dali_mix.reports.evaluation import evaluation_report

        for path in evaluation_report(evaluation, args.report):
            print(f"wrote {path}")
    return 0
