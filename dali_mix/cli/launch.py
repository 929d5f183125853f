"""Launcher for `scripts/train_dist.sh`: one process per rank on this machine, one message and one exit status.

Usage: `python -m dali_mix.cli.launch --nproc N -- train RECIPE …`. NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT are
read from the environment.

    launcher  starts the ranks, each in a separate session, so that Ctrl-C reaches only the launcher;
              forwards SIGTERM and SIGINT; after the first failure stops the other ranks (see `_Ranks.wait`)
    rank      runs `cli.main`; writes (status, message) to RANK.json in a temporary folder; is killed by Linux if the
              launcher ends
    outcome   derives one message and one exit status from these files and the ranks' exit statuses. In order of
              precedence: a rank killed by the system, an error of a rank, "saved" (75), "asked to stop". An error that
              only reports the loss of another rank never hides these.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from dali_mix._signals import handled
from dali_mix.cli import console, rank
from dali_mix.cli.commands.train import NOTHING_TO_SAVE
from dali_mix.cli.exit_status import INTERRUPTED, LOST, PREEMPTED
from dali_mix.cli.main import parse
from dali_mix.engine.distributed.environment import integer

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 25.0  # from the first failure until the other ranks are killed, since one may be saving
_SAVE_SECONDS = 600.0  # the same if the first ranks to fail have saved (status 75); others may still be saving


def main(argv: list[str]) -> int:
    """Run this machine's ranks and return one exit status for all of them (see `outcome`)."""
    console.install()
    parser = argparse.ArgumentParser(prog="dali_mix.cli.launch", allow_abbrev=False)
    parser.add_argument("--nproc", type=int, required=True, help="processes on this machine")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- train RECIPE …")
    args = parser.parse_args(argv)
    command = args.command[args.command[:1] == ["--"] :]
    parse(command)  # exits here on wrong usage, with one message instead of one per rank
    try:
        shared, first = _shared_environment(args.nproc)
    except (ValueError, OSError) as error:
        print(f"dali-mix {command[0]}: error: {error}", file=sys.stderr)
        return 1
    ranks = _Ranks()
    with (
        handled(ranks.pass_on, signal.SIGTERM, signal.SIGINT),
        tempfile.TemporaryDirectory(prefix="dali_mix-") as folder,
    ):
        shared |= {rank.FOLDER: folder, rank.LAUNCHER: str(os.getpid())}
        try:
            for local in range(args.nproc):
                ranks.start(first + local, command, {**shared, "RANK": str(first + local), "LOCAL_RANK": str(local)})
            ended = ranks.wait()
        finally:
            ranks.send(signal.SIGKILL)  # ranks are still running only after an error
        status, message = outcome(rank.read(Path(folder)), ended, ranks.asked, command[0])
        if message:
            print(message, file=sys.stderr)
    return status


def _shared_environment(nproc: int) -> tuple[dict[str, str], int]:
    """Return (environment variables common to this machine's ranks, global number of this machine's first rank).

    The variables are those of this process, and those that torch.distributed needs. Raise ValueError if NNODES or
    NODE_RANK is invalid, or if NODE_RANK or MASTER_ADDR is missing although NNODES is more than 1.
    """
    nodes, node = integer(os.environ, "NNODES", 1, 1), 0
    address, port = "127.0.0.1", ""
    if nodes > 1:
        if missing := [name for name in ("NODE_RANK", "MASTER_ADDR") if not os.environ.get(name)]:
            raise ValueError(f"NNODES is {nodes}: set {' and '.join(missing)} as well (scripts/train_dist.sh --help)")
        node = integer(os.environ, "NODE_RANK")
        if node >= nodes:
            raise ValueError(f"NODE_RANK is {node}, but NNODES is {nodes}: must be from 0 to {nodes - 1}")
        address, port = os.environ["MASTER_ADDR"], os.environ.get("MASTER_PORT") or "29500"
    shared = {**os.environ, "MASTER_ADDR": address, "MASTER_PORT": port or str(_free_port())}
    shared |= {"WORLD_SIZE": str(nodes * nproc), "LOCAL_WORLD_SIZE": str(nproc)}
    shared.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // nproc)))
    return shared, node * nproc


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Ranks:
    """The processes of this machine's ranks.

    Attributes:
        asked: the first signal this process received and forwarded to them, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int, command: list[str], environment: dict[str, str]) -> None:
        """Start a rank in a separate session, so that it receives Ctrl-C only once, from this process.

        SIGINT is blocked in the rank until `rank.main` unblocks it, since Ctrl-C during its imports would print a
        traceback. If `asked` is not None, this signal is also sent to the new rank.
        """
        arguments = [sys.executable, "-m", rank.__name__, *command]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._processes[number] = subprocess.Popen(arguments, env=environment, start_new_session=True)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.asked is not None:
            self._processes[number].send_signal(self.asked)

    def wait(self) -> dict[int, int]:
        """Wait until all ranks have ended. Return rank → exit status of the ranks that failed first, or {}.

        A rank with a nonzero status has failed. After the first failure, the other ranks get SIGTERM, then SIGKILL
        after a grace period. If all ranks that failed first have saved (status 75), the other ranks get only SIGKILL,
        after a longer grace period.
        """
        first: dict[int, int] = {}
        deadline = None
        while any(process.poll() is None for process in self._processes.values()):
            if not first and (first := self._failed()):
                saved = set(first.values()) == {PREEMPTED}
                deadline = time.monotonic() + (_SAVE_SECONDS if saved else _GRACE_SECONDS)
                if not saved:
                    self.send(signal.SIGTERM)
            elif deadline is not None and time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        return first or self._failed()

    def _failed(self) -> dict[int, int]:
        return {number: process.returncode for number, process in self._processes.items() if process.returncode}

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or signal.Signals(number)
        self.send(signal.Signals(number))

    def send(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)


def outcome(
    reports: dict[int, rank.Ended], ended: dict[int, int], asked: signal.Signals | None = None, command: str = "train"
) -> tuple[int, str]:
    """Return (exit status, message) of a run. The message is "" if there is nothing to print.

    Args:
        reports: rank → how it ended, for the ranks that were able to write it.
        ended: rank → nonzero exit status (negative for a signal) of the ranks that failed first.
        asked: the first signal this launcher received, or None.
        command: the name of the subcommand, for messages and the status after SIGTERM.
    """
    for number, code in sorted(ended.items()):
        if code < 0 and code not in (-signal.SIGTERM, -signal.SIGINT):  # other errors are its consequences
            why = "; out of memory?" if code == -signal.SIGKILL else ""
            name = signal.Signals(-code).name
            return 1, f"dali-mix {command}: error: rank {number} was ended by {name}{why}, and with it the others"
    saved = any(report.status == PREEMPTED for report in reports.values())
    silent = {code for number, code in ended.items() if number not in reports}
    if -signal.SIGTERM in silent:  # not sent from here: these ranks ended before this launcher stopped others
        asked = asked or signal.SIGTERM
    stopped = asked if silent <= {PREEMPTED, INTERRUPTED, -signal.SIGTERM, -signal.SIGINT} else None
    for _, report in sorted(reports.items(), key=lambda item: (item[1].status == LOST, item[0])):
        if report.status not in (0, PREEMPTED) and not (report.status == LOST and (saved or stopped)):
            return report.status, report.message
    if saved:
        return PREEMPTED, ""
    if stopped and ended:
        if command == "train" and stopped == signal.SIGTERM:
            return PREEMPTED, f"dali-mix {command}: {NOTHING_TO_SAVE}"
        return 128 + stopped, f"dali-mix {command}: ended by {stopped.name} before it could save"
    if not ended:
        return 0, ""
    codes = ", ".join(f"rank {number} with status {code}" for number, code in sorted(ended.items()))
    return 1, f"dali-mix {command}: error: ended without a message: {codes}"


if __name__ == "__main__":
    status = main(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the exit status is final
    sys.exit(status)
