"""Run `dali-mix` as one rank of `dali_mix.cli.launch` and write how it ended to a file for the launcher."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from dali_mix._files import replacing
from dali_mix.cli import main as program
from dali_mix.cli.exit_status import INTERRUPTED

FOLDER = "DALI_MIX_RANKS"  # the environment variable that names the launcher's folder
LAUNCHER = "DALI_MIX_LAUNCHER"  # the environment variable that holds the launcher's process id
_PR_SET_PDEATHSIG = 1


class Ended(NamedTuple):
    """How a rank ended: its exit status (see `cli.exit_status`) and its error messages, or "" if there are none."""

    status: int
    message: str


def main() -> int:
    """Run `dali-mix`, write its `Ended` to RANK.json in the folder that `FOLDER` names, and return the exit status."""
    end_with_parent(int(os.environ[LAUNCHER]))
    messages: list[str] = []

    def tell(message: str, *, lost: bool = False) -> None:
        messages.append(message)

    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        status = program.main(tell=tell)
    except KeyboardInterrupt:  # before the command began
        status = INTERRUPTED
        tell(f"dali-mix {sys.argv[1]}: interrupted")
    except Exception:  # a bug: its traceback is the message
        status = 1
        tell(traceback.format_exc().rstrip())
    with replacing(Path(os.environ[FOLDER], f"{os.environ['RANK']}.json")) as aside:
        aside.write_text(json.dumps(Ended(status, "\n".join(messages))), encoding="utf-8")
    return status


def end_with_parent(parent: int) -> None:
    """Have Linux kill this process as soon as the process `parent`, its parent, ends or if it has already ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def read(folder: Path) -> dict[int, Ended]:
    """Return rank → `Ended` for the ranks that wrote RANK.json to the launcher's `folder` (see `main`)."""
    return {int(path.stem): Ended(*json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")}


if __name__ == "__main__":
    sys.exit(main())
