"""`dali-mix convert --from NAME IN OUT` or `--to NAME IN OUT`: convert published checkpoints to our format, or back."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from dali_mix.models.weights.recognize import Recognized

RELEASES = ("msl", "csra", "splicemix", "sgre", "resizemix", "saliencymix", "torchvision", "timm")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    origin = "the code that IN comes from; dali_mix: a checkpoint of a run, whose weights are extracted"
    add("--from", dest="origin", choices=(*RELEASES, "dali_mix"), help=origin)
    add(
        "--to",
        choices=RELEASES,
        help="write a file for this code (IN must be from dali_mix, or from the code in --from)",
    )
    add("source", metavar="IN", type=Path, help="a safetensors file, or a file written by torch.save")
    add("out", metavar="OUT", type=Path, help="the file to write: *.safetensors, or *.pth, *.pt, *.bin (torch.save)")
    named = "the classifier (timm/NAME, torchvision/NAME) or multi-label backbone, if the shapes do not determine it"
    add("--model", default="", metavar="NAME", help=named)
    add("--ema", action="store_true", help="use the averaged weights of a checkpoint of a run")
    add("--drop-head", action="store_true", help="write the backbone only, without the classifier")
    add("--embeddings", type=Path, metavar="NPY", help="SGRE's label embeddings, which its files do not contain")
    add(
        "--grid",
        default="14x14",
        metavar="RxC",
        help="rows and columns of SGRE's position table, image size / 32 (default: %(default)s)",
    )
    add("--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace) -> int:
    if args.origin is None and args.to is None:
        raise ValueError(f"pass --from or --to with one of {', '.join(RELEASES)}")
    if (grid := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", args.grid)) is None:
        raise ValueError(f"--grid {args.grid}: must be rows and columns, such as 14x14")
    _check_out(args)
    from dali_mix.models.multilabel import load_embeddings
    from dali_mix.models.weights import files
    from dali_mix.models.weights.convert import to_ours, to_theirs, without_head

    embeddings = None if args.embeddings is None else load_embeddings(args.embeddings)
    state, ours = _read(args)
    if args.origin != "dali_mix" and any(key.startswith("roi_heads.") for key in state):
        raise ValueError(
            f"{args.source}: a detector's weights, which are not converted: torchvision's Faster R-CNN and ours have"
            " the same keys, so such a file loads unchanged (weights=FILE)"
        )
    wrapper, found = "", None
    try:
        if args.origin in RELEASES:
            converted = to_ours(state, args.origin, model=args.model, embeddings=embeddings)
            embeddings = None  # they are now part of the state
            state, found = converted.state, converted.model
            print(f"model: {found}", *converted.notes, sep="\n")
        else:
            found = _recognize(state, args.model, sure=ours)
            print(f"model: {found or 'not determined by shapes; keys are unchanged'}")
        if args.to:
            size = int(grid[1]), int(grid[2])
            converted = to_theirs(state, args.to, model=args.model, grid=size, embeddings=embeddings)
            state, wrapper = converted.state, converted.layout.wrapper
            state = {f"{converted.layout.prefix}{key}": value for key, value in state.items()}
        elif args.drop_head:
            before = len(state)
            state = without_head(state, found)
            print(f"head: {before - len(state)} tensors left out")
    except ValueError as error:
        raise ValueError(f"{args.source}: {error}") from error
    if args.out.suffix == files.SAFETENSORS:
        wrapper = ""
    files.write_weight_file(args.out, state, wrapper)
    print(f"wrote {args.out}: {len(state)} tensors" + (f" under {wrapper!r}" if wrapper else ""))
    return 0


def _read(args: argparse.Namespace) -> tuple[dict[str, Tensor], bool]:
    """Return (state dict of IN, True if it was read as a checkpoint of a dali_mix run). Print a summary of IN.

    With --from and the name of another code, IN is never read as such a checkpoint. Raise FileNotFoundError if IN does
    not exist. Raise ValueError if IN cannot be read, or if --ema is set and IN is not read as a checkpoint of a run
    with averaged weights.
    """
    from dali_mix.engine.checkpoint.files import is_checkpoint
    from dali_mix.engine.checkpoint.trained import open_trained
    from dali_mix.models.weights.files import find_weights, read_weight_file

    path = find_weights(args.source)
    if args.origin in (None, "dali_mix") and is_checkpoint(path):
        state = open_trained(path, ema=args.ema).weights or {}
        print(f"read {path}: {len(state)} tensors, {'the averaged' if args.ema else 'the'} weights of a run of ours")
        return state, True
    if args.ema:
        raise ValueError(f"{path}: --ema is for checkpoints of runs of dali_mix, which this is not")
    file = read_weight_file(path)
    parts = [f"under {file.wrapper!r}"] if file.wrapper else []
    parts += [f"prefix {file.prefix!r}"] if file.prefix else []
    print(f"read {path}: {', '.join([f'{len(file.state)} tensors', *parts])}")
    if file.others:
        print(f"left out: {', '.join(file.others[:20])}{' …' if len(file.others) > 20 else ''}")
    return file.state, False


def _recognize(state: dict[str, Tensor], model: str, *, sure: bool) -> Recognized | None:
    """Return the model that `state` belongs to, recognized from its shapes and `model`, a name or "".

    Raise ValueError if no model is recognized, or if the keys or shapes of the recognized model differ from those of
    `state`. In both cases, return None instead if `state` is from a dali_mix run (`sure`) and `model` is "".
    """
    from dali_mix.models import differences
    from dali_mix.models.weights.convert import advice, without_counters
    from dali_mix.models.weights.recognize import recognize

    found = recognize(state, model)
    differ = "" if found is None else differences(without_counters(found.state(), state), state, most=20)
    if found is not None and not differ:
        return found
    if sure and not model:
        return None
    why = f"it looks like {found}, but {differ}" if found else "not recognized from its shapes as one of our models"
    raise ValueError(f"{why}{'' if model else '; pass --model NAME'}{advice(state, 'dali_mix')}")


def _check_out(args: argparse.Namespace) -> None:
    from dali_mix.engine.checkpoint.files import check_out
    from dali_mix.models.weights.files import check_suffix, follow_pointer

    check_suffix(args.out)
    check_out("OUT", args.out)
    if args.out.exists():
        if args.source.exists() and args.out.samefile(follow_pointer(args.source)):
            raise ValueError(f"{args.out} is IN itself: choose another OUT")
        if not args.force:
            raise ValueError(f"{args.out} exists; --force overwrites it")
    if args.drop_head and args.to:
        raise ValueError("--drop-head is for our files, and published checkpoints include their head; omit --to")
    if args.embeddings is not None and "sgre" not in (args.origin, args.to):
        raise ValueError("--embeddings is for --from sgre and --to sgre")
