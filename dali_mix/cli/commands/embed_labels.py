"""`dali-mix embed-labels PREFIX --from bert|glove|random --out E.npy`: write label embeddings for the `sgre` head."""

from __future__ import annotations

import argparse
from pathlib import Path

from dali_mix._files import replacing
from dali_mix.recordio.manifest import read_info, set_prefix


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prefix", metavar="PREFIX", help="the packed set whose classes to embed")
    add(
        "--from",
        dest="source",
        required=True,
        choices=("bert", "glove", "random"),
        help="how to compute the embeddings",
    )
    add("--out", type=Path, required=True, metavar="E.npy", help="the file to write: (K, width) float32")
    add("--weights", type=Path, metavar="PATH", help="bert: the folder with its files; glove: its text file")
    add("--seed", type=int, help="random: the seed (default: 0)")
    add("--width", type=int, help="random: values per class (default: 768)")
    add("--force", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Write the embeddings to --out, and print the class names whose spelling was changed for BERT or GloVe. Return 0.

    Raise ValueError for options that do not fit together, or an --out that does not end in .npy. Raise FileExistsError
    if --out exists and --force is not set.
    """
    import numpy as np

    from dali_mix.engine.checkpoint.files import check_out
    from dali_mix.models import label_embeddings as embeddings

    names = read_info(Path(f"{set_prefix(args.prefix)}.json")).classes
    if args.out.suffix != ".npy":
        raise ValueError(f"--out {args.out}: must end in .npy")
    if args.out.exists() and not args.force:
        raise FileExistsError(f"{args.out} exists: choose another --out, or pass --force to replace it")
    check_out("--out", args.out)
    if args.source == "random":
        if args.weights is not None:
            raise ValueError("--weights is for bert and glove: omit it")
        width = embeddings.WIDTH if args.width is None else args.width
        rows = embeddings.random_embeddings(names, width, args.seed or 0)
    else:
        if args.seed is not None or args.width is not None:
            raise ValueError("--seed and --width are for random: omit them")
        if args.weights is None:
            what = "BERT's folder or GloVe's text file; nothing is downloaded"
            raise ValueError(f"--from {args.source} needs --weights, {what}")
        make = embeddings.bert_embeddings if args.source == "bert" else embeddings.glove_embeddings
        rows = make(names, args.weights)
    with replacing(args.out) as aside, aside.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    for name in names:
        if args.source != "random" and (spelled := embeddings.spell(name)) != name:
            print(f"{name} was read as {spelled!r}")
    print(f"{args.out}: {len(rows)} classes of {args.prefix}, {rows.shape[1]} numbers each, from {args.source}")
    return 0
