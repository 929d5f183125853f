"""The console program `dali-mix`: run a subcommand and print user errors in one line.

A subcommand is a module of `dali_mix.cli.commands` with `configure(parser)`, which adds its arguments, and
`run(args) -> int`, which returns the exit status. A module is imported only when its command is run, so that
`dali-mix --help` is fast.

`exit_status` lists the exit statuses. If DALI_MIX_DEBUG=1 is set in the environment, errors are printed with their
traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from dali_mix._keywords import naming_options
from dali_mix._signals import handled
from dali_mix._text import printable, worded
from dali_mix._version import __version__
from dali_mix.cli import console
from dali_mix.cli.arguments import Parser
from dali_mix.cli.exit_status import INTERRUPTED, LOST

COMMANDS: dict[str, tuple[str, str]] = {
    "pack": ("dali_mix.cli.commands.pack", "pack a dataset into RecordIO with a manifest"),
    "verify": ("dali_mix.cli.commands.verify", "check every byte of a packed set against its manifest"),
    "inspect": ("dali_mix.cli.commands.inspect", "show the contents of a packed set"),
    "adopt": ("dali_mix.cli.commands.adopt", "build a manifest for .rec files written by other software"),
    "train": ("dali_mix.cli.commands.train", "train from a recipe, or resume a run"),
    "serve": ("dali_mix.cli.commands.serve", "decode for trainers: start a pool of workers, or join one"),
    "evaluate": ("dali_mix.cli.commands.evaluate", "evaluate a checkpoint, using each record exactly once"),
    "predict": ("dali_mix.cli.commands.predict", "predict the classes or boxes of image files"),
    "detect": ("dali_mix.cli.commands.detect", "train, evaluate and predict with detectors (same as without detect)"),
    "attention": ("dali_mix.cli.commands.attention", "draw heat maps that show where a model sees each class"),
    "convert": ("dali_mix.cli.commands.convert", "convert published checkpoints to dali_mix's format and back"),
    "recipes": ("dali_mix.cli.commands.recipes", "list the recipes, or print one"),
    "gallery": ("dali_mix.cli.commands.gallery", "draw mixed images from a packed set"),
    "profile": ("dali_mix.cli.commands.profile", "show where a loader or a run spends its time"),
    "curves": ("dali_mix.cli.commands.curves", "draw the learning curves of a run"),
    "embed-labels": ("dali_mix.cli.commands.embed_labels", "write label embeddings for SGRE"),
    "doctor": ("dali_mix.cli.commands.doctor", "check versions, GPU and disk, and run one batch"),
}
# The Python call to suggest for runs built from objects, which commands cannot load.
IN_PYTHON = {
    "train": "dali_mix.train(RECIPE, DIR, resume=True, {}=…)",
    "evaluate": "dali_mix.evaluate(RECIPE, CHECKPOINT, {}=…)",
    "predict": "dali_mix.Predictor(RECIPE, CHECKPOINT, {}=…)",
    "attention": "dali_mix.reports.attention(dali_mix.Predictor(RECIPE, CHECKPOINT, {}=…), IMAGES, DIR)",
}
Tell = Callable[..., None]  # (message, *, lost=False); lost: the only error is that another rank has ended


def _to_stderr(message: str, *, lost: bool = False) -> None:
    if not lost or os.environ.get("LOCAL_RANK", "0") == "0":  # once per machine
        print(message, file=sys.stderr)


def main(argv: Sequence[str] | None = None, tell: Tell = _to_stderr) -> int:
    """Run `dali-mix` with `argv` (default: the process's arguments) and return the exit status.

    Wrong usage exits with status 2, and bugs raise. The process's console streams are replaced (see `console.install`).
    Without `argv`, SIGTERM is ignored once the exit status is known.

    `tell(message, lost=…)` is called for each error (default: print the message to stderr). `lost` is True if the only
    error is that another rank has ended.
    """
    console.install()
    _spin_briefly()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # hides messages of torch's profiler
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # hides warnings with stack traces about ranks that end
    args = parse(list(sys.argv[1:] if argv is None else argv))
    ends = argv is None
    try:
        return _run(args, tell, ends)
    except KeyboardInterrupt:
        _decided(ends)
        tell(f"dali-mix {args.command}: interrupted")
        return INTERRUPTED
    finally:
        _decided(ends)


def _decided(ends: bool) -> None:
    """If `ends` (the process is about to end), ignore SIGTERM from now on, so that it cannot change the exit status."""
    if ends:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments of `dali-mix`. Exit with status 2 for wrong usage, and with 0 for --help and --version."""
    parser = Parser(
        prog="dali-mix", description="Pack images, train, evaluate and predict. See dali-mix COMMAND --help."
    )
    parser.add_argument("--version", action="version", version=f"dali_mix {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        # Only the chosen command is loaded, and only its parser handles --help.
        wanted = bool(arguments) and arguments[0] == name
        sentence = f"{summary[0].upper()}{summary[1:]}."
        subparser = subparsers.add_parser(name, help=summary, add_help=wanted, description=sentence)
        if wanted:
            importlib.import_module(module).configure(subparser)
    return parser.parse_args(arguments)


def _spin_briefly() -> None:
    """Set GOMP_SPINCOUNT, which makes torch's CPU threads spin for microseconds, not milliseconds, before they sleep.

    Longer spinning occupies cores that other threads need (figures: docs/decisions.md). libgomp reads GOMP_SPINCOUNT
    when torch is loaded. Do nothing if GOMP_SPINCOUNT or OMP_WAIT_POLICY is set in the environment.
    """
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _run(args: argparse.Namespace, tell: Tell, ends: bool) -> int:
    command = importlib.import_module(COMMANDS[args.command][0])
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        specs = [getattr(sys.modules.get(name), "__spec__", None) for name in ("torch", "nvidia.dali")]
        if any(getattr(spec, "_initializing", False) for spec in specs):
            # An exception that reaches the C++ code of torch or DALI aborts the process ("terminate called after …").
            tell(f"dali-mix {args.command}: interrupted")
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    by_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with naming_options(), handled(interrupt, *([signal.SIGINT] if by_default else [])):
        try:
            return int(command.run(args) or 0)
        except Exception as error:
            _decided(ends)
            if interrupts:  # torch and numpy raise other errors if interrupted while being imported
                raise KeyboardInterrupt from error
            own, raised_there = _own_line(error)
            known = isinstance(error, (ValueError, OSError))
            if not known and (not raised_there or isinstance(error, ImportError)):
                # not a user error: a bug or a broken installation keeps its traceback
                raise
            if os.environ.get("DALI_MIX_DEBUG"):
                traceback.print_exc()
            lost = getattr(error, "lost", False)
            what = worded(error) if known else f"{type(error).__name__}: {error}"
            if keyword := getattr(error, "keyword", ""):
                own = f", in Python: {IN_PYTHON[getattr(args, 'detect', args.command)].format(keyword)}"
            own = "".join([own, *(f"; {note}" for note in getattr(error, "__notes__", ()))])
            text = f"dali-mix {args.command}: {'ended' if lost else 'error'}: {what}{own}"
            tell(printable(text, keep="\n"), lost=lost)
            return LOST if lost else 1


def _own_line(error: Exception) -> tuple[str, bool]:
    """Return (" (FILE, line N)", raised there) for the innermost frame of user code in the traceback of `error`.

    User code is outside dali_mix, the standard library and installed packages. "Raised there" is True if no frame of
    dali_mix is further in, so the user code or a package that it called raised the error. Without user code, return
    ("", False).
    """
    root = Path(__file__).parents[2]
    ours, others = (f"{root}/dali_mix/", f"{root}/pipelines/"), sysconfig.get_path("stdlib")
    raised_there = True
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = frame.filename
        if path.startswith(ours):
            raised_there = False
        elif not path.startswith(others) and "-packages/" not in path and Path(path).is_file():
            return f" ({path}, line {frame.lineno})", raised_there
    return "", False


if __name__ == "__main__":
    sys.exit(main())
