"""Kill packing and training runs at random moments, restart or resume them, and compare with uninterrupted ones.

    python -m tests.soak --minutes 60 --out soak.json [--ranks 1] [--seed 0]

A first round packs a set and trains on it through the command line, without a kill. Each further round packs the set
again and trains on the first one. Its commands are killed at random moments (SIGKILL, or SIGTERM or Ctrl-C for
training) and started again until they end by themselves. Then the packed files, the last checkpoint, the scores and
the log of record numbers must be bit-equal to those of the first round. The script ends with status 1 at the first
difference and keeps the folder for inspection. `pytest` does not collect it.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.engine.processes import assert_same_run

ROOT = Path(__file__).parents[1]
STOPPED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGINT: 130}
OPTIONS = (
    "epochs=4", "log_ids=true", "log_interval=10", "ema=0.99", "checkpoint.interval_steps=7", "checkpoint.keep=3",
)  # fmt: skip


class Soak:
    """Rounds of packing and training in `folder`. `counts` counts kills, completed commands and equal rounds."""

    def __init__(self, folder: Path, seed: int, ranks: int) -> None:
        self.folder, self.ranks = folder, ranks
        self.random = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.took = {"pack": 5.0, "train": 20.0}

    def command(self, kind: str, round_: Path, *, again: bool) -> list[str]:
        prefix = f"{round_}/set"
        if kind == "pack":
            return [sys.executable, "-m", "dali_mix.cli.main", "pack", "digits", "--split", "train", "--out", prefix]
        train = ["quickstart", "--work-dir", f"{round_}/run"]
        options = ["--cfg-options", *OPTIONS, f"train_set={self.folder}/straight/set", f"val_set={self.folder}/val"]
        resume = ["--resume=auto"] if again else []
        if self.ranks > 1:
            script = str(ROOT / "scripts/train_dist.sh")
            return ["bash", script, train[0], str(self.ranks), *train[1:], *resume, *options]
        return [sys.executable, "-m", "dali_mix.cli.main", "train", *train, *resume, *options]

    def run(self, kind: str, round_: Path, *, again: bool = False, kill: signal.Signals | None = None) -> bool:
        """Run a command, and send it `kill`, if any, after a random time; return True if it ended by itself."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
        start = time.monotonic()
        with (round_ / "log.txt").open("ab") as log:
            command = self.command(kind, round_, again=again)
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
            wait = None if kill is None else self.random.uniform(0, 1.1 * self.took[kind])
            try:
                status = process.wait(wait)
            except subprocess.TimeoutExpired:
                self.counts[f"{kind} {kill.name}"] += 1
                self.took[kind] *= 1.05  # lets a command end on a slower machine
                if kill == signal.SIGINT:
                    os.killpg(process.pid, kill)  # as a terminal does
                else:
                    process.send_signal(kill)
                status = process.wait(120)
                if kill == signal.SIGKILL:
                    return False
                if status == STOPPED[kill]:
                    self.counts[f"{kind} saved on {kill.name}"] += 1
                    return False
                if status in (-kill, 128 + kill):  # before the handlers were installed
                    self.counts[f"{kind} ended by {kill.name} while starting"] += 1
                    return False
        if status != 0:
            raise SystemExit(f"{' '.join(command)} ended with {status}: see {round_}/log.txt")
        self.took[kind] = (self.took[kind] + time.monotonic() - start) / 2
        return True

    def until_done(self, kind: str, round_: Path, signals: list[signal.Signals]) -> None:
        """Start a command repeatedly, killed at random, until it ends by itself or the packed set is complete."""
        again = False
        while not self.run(kind, round_, again=again, kill=self.random.choice(signals)):
            again = True
            if kind == "pack" and (round_ / "set.json").exists():  # the manifest comes last, so the set is complete
                break
        self.counts[f"{kind} done"] += 1

    def compare(self, one: Path, two: Path) -> None:
        for path in sorted(one.glob("set.*")):
            digests = [hashlib.sha256((folder / path.name).read_bytes()).hexdigest() for folder in (one, two)]
            assert digests[0] == digests[1], f"{two / path.name} differs from {path}"
        assert_same_run(one / "run", two / "run")
        self.counts["rounds equal"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file with the counts")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, args.seed, args.ranks)
    end = time.monotonic() + 60 * args.minutes
    val = [sys.executable, "-m", "dali_mix.cli.main", "pack", "digits", "--split", "val", "--out", f"{folder}/val"]
    subprocess.run(val, cwd=ROOT, check=True, capture_output=True)
    straight = folder / "straight"
    straight.mkdir()
    soak.run("pack", straight)
    soak.run("train", straight)
    number = 0
    while time.monotonic() < end:
        number += 1
        round_ = folder / f"round{number}"
        round_.mkdir()
        soak.until_done("pack", round_, [signal.SIGKILL])
        soak.until_done("train", round_, [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        soak.compare(straight, round_)
        args.out.write_text(json.dumps({"minutes": args.minutes, "ranks": args.ranks, **soak.counts}, indent=2) + "\n")
        subprocess.run(["rm", "-rf", str(round_)], check=True)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    print(args.out.read_text())


if __name__ == "__main__":
    main()
