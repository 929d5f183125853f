"""`dali-mix` as one rank among others: how it ended goes to a file for the launcher, which tells it once for all."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from dali_mix.cli import main as program

FOLDER = "DALI_MIX_RANKS"  # the environment variable that names the launcher's folder


def main() -> int:
    """Runs `dali-mix` and notes its exit status and its error message."""
    said: list[str] = []
    try:
        status = program.main(tell=said.append)
    except Exception:  # a bug: its traceback is the message
        status = 1
        said.append(traceback.format_exc().rstrip())
    number = int(os.environ["RANK"])
    path = Path(os.environ[FOLDER], f"{number}.json")
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps([status, "\n".join(said)]), encoding="utf-8")
    aside.replace(path)
    return status


def read(folder: Path) -> dict[int, tuple[int, str]]:
    """Rank → (exit status, message), of every rank that came to its end."""
    return {int(path.stem): tuple(json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")}


if __name__ == "__main__":
    sys.exit(main())
