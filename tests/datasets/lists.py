"""Helpers that list and pack list files."""

from __future__ import annotations

from pathlib import Path

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Listing, Options


def pack(root: Path, name: str, text: str, *options: str) -> tuple[int, Path]:
    """Write a list file into `root` and pack it. Return the exit status and the prefix of the set."""
    path = root / name
    path.write_text(text, encoding="utf-8")
    out = root.parent / "set"
    arguments = ["--root", str(root), "--list", str(path), "--out", str(out), "--no-shuffle", "--force"]
    return main(["pack", "list", *arguments, *options]), out


def read_list(folder: Path, text: str | bytes, name: str = "train.csv", **options: object) -> Listing:
    """Write a list file into `folder` and list it."""
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return LAYOUTS["list"](folder, "train", Options(list_file=folder / name, **options))  # type: ignore[arg-type]
