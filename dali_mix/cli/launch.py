"""What `scripts/train_dist.sh` runs: torchrun, but with one message for all ranks, and with the ranks' exit status.

`python -m dali_mix.cli.launch TORCHRUN-OPTIONS -- train RECIPE …`; torchrun starts `dali_mix.cli.rank` on every rank.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from dali_mix.cli import rank
from dali_mix.cli.main import parse
from dali_mix.cli.train import PREEMPTED


def main(argv: list[str]) -> int:
    """Runs the ranks of this machine and returns the exit status: theirs, or 1 when one was killed."""
    place = argv.index("--")
    options, command = argv[:place], argv[place + 1 :]
    parse(command)  # wrong usage ends here, said once

    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="dali_mix-") as folder:
        os.environ[rank.FOLDER] = folder
        try:
            torchrun.run(torchrun.parse_args([*options, "--module", rank.__name__, *command]))
            return 0
        except ChildFailedError as error:
            ended = {number: failure.exitcode for number, failure in error.failures.items()}
            status, message = outcome(rank.read(Path(folder)), ended)
        except SignalException as error:
            status, message = outcome(rank.read(Path(folder)), {}, error.sigval)
        if message:
            print(message, file=sys.stderr)
        return status


def outcome(
    reports: dict[int, tuple[int, str]], ended: dict[int, int], asked: signal.Signals | None = None
) -> tuple[int, str]:
    """(exit status, message) of a run that did not end well.

    Args:
        reports: rank → (exit status, message), of the ranks that could still say something.
        ended: rank → exit status as the system saw it, negative for a signal, of the ranks that ended first.
        asked: the signal this launcher got.
    """
    for number, code in sorted(ended.items()):
        if code < 0 and code != -signal.SIGTERM:  # what the others say is only that they miss it
            why = "; out of memory?" if code == -signal.SIGKILL else ""
            name = signal.Signals(-code).name
            return 1, f"dali-mix train: error: rank {number} was ended by {name}{why}, and with it the others"
    for _, (status, message) in sorted(reports.items()):
        if status not in (0, PREEMPTED):
            return status, message
    if any(status == PREEMPTED for status, _ in reports.values()):
        return PREEMPTED, ""
    if asked is not None:
        return 128 + asked, f"dali-mix train: ended by {asked.name} before there was anything to save"
    codes = ", ".join(f"rank {number} with status {code}" for number, code in sorted(ended.items()))
    return 1, f"dali-mix train: error: ended without a message: {codes}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
