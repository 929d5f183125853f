"""`dali-mix evaluate RECIPE CHECKPOINT`: evaluate a checkpoint on `val_set`, using each record once.

If the checkpoint was written by a run of this recipe, values of the run are used instead of the recipe file's (see
`load_evaluated`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dali_mix.cli.bars import Bar
from dali_mix.cli.commands.predict import add_model_arguments, load_values, print_notes
from dali_mix.cli.pools import add_service, guarded, set_service
from dali_mix.engine.distributed.environment import environment


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_service(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write figures and charts per class to DIR")


def run(args: argparse.Namespace) -> int:
    main_rank = environment()[0] == 0
    set_service(args)
    config = load_values(args, shown=main_rank)
    from dali_mix.engine.checkpoint.files import check_out, check_writable, json_text, write_text
    from dali_mix.engine.start import evaluate

    if args.json is not None:
        check_out("--json", args.json)
    if args.report is not None:
        check_writable(args.report)
    with Bar("evaluate", "batch", shown=main_rank) as bar:
        evaluation = guarded("evaluate", lambda: evaluate(config, args.checkpoint, ema=args.ema, each=bar.reach))
    if evaluation is None:
        return 1
    if main_rank:
        print_notes(evaluation.notes)
        print("  ".join(f"{name} {value:.4f}" for name, value in evaluation.values.items()))
    if main_rank and args.json is not None:
        record = {"recipe": args.recipe, "checkpoint": str(args.checkpoint), "ema": args.ema, **evaluation.values}
        record |= {"skipped": evaluation.skipped} if evaluation.skipped else {}
        write_text(args.json, json_text(record, indent=2) + "\n")
    if args.report is not None:
        from dali_mix.reports.evaluation import evaluation_report

        for path in evaluation_report(evaluation, args.report):
            print(f"wrote {path}")
    return 0
