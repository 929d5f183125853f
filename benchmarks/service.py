"""A pool of workers compared with decoding in the trainer, torch's DataLoader and Ray Data, on the same cores.

usage: python benchmarks/service.py [--images FOLDER] [--turns 7] [--workers 2] [--sets original shorter256]
         [--out docs/benchmarks/service.json]

Three measurements on one machine, the first two interleaved (see _compare.py):
    one      images/s of one trainer: with the pool, decoding in its own process, and with torch's DataLoader
    sharing  total images/s of four trainers that read the same epochs, with the pool and with each decoding in its own
             process, and the number of chunks that the pool decoded per chunk of the epochs. This is measured once
             with normalization on the CPU, and once up to the uint8 batch that would be copied to a GPU. A first run is
             not measured, because the system has to zero the pool's memory when it is first used
    faults   the longest wait for a batch after a worker is killed, and after one is frozen
Ray Data is included if `ray[data]` is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _compare import environment, report, table, take_turns, write_json
from loader import HERE, SETS, SETTLE, Contestant, add_images, originals, prepare

SCRIPT = "_service_peers.py"
TRAINERS = 4
SHARED_EPOCHS = 12
SHARING = [("pool", "in process"), ("pool, for a GPU", "in process, for a GPU")]
LONG = 150  # batches per measurement with Ray Data


@contextlib.contextmanager
def running_pool(workers: int, port: int) -> Iterator[str]:
    """Run a pool on this machine until the end of the block, and yield its address."""
    command = [sys.executable, "-m", "dali_mix.cli.main", "serve", "--workers", str(workers), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not any(line.startswith("train") for line in process.stdout):
                raise SystemExit("the pool did not start")
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


def one(settings: Path, args: argparse.Namespace) -> dict[str, Any]:
    contestants = {}
    try:
        for name in args.peers:
            contestants[name] = Contestant(name, sys.executable, settings, args.batches, SCRIPT)
        time.sleep(SETTLE)
        rates = take_turns(contestants, args.turns)
    finally:
        for contestant in contestants.values():
            contestant.close()
    print(f"\none trainer: batch {args.batch_size}, {args.workers} workers or threads, {args.turns} turns")
    print(table(rates, "pool", "images/s"), flush=True)
    return report(rates, "pool")


def ray_data(settings: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the pool and Ray Data in long runs, print the table and return its figures: see `report`.

    Only one of the two runs at a time, since Ray Data would prefetch between turns. Each turn writes a new seed to the
    file `settings`.
    """
    values = json.loads(settings.read_text())
    rates: dict[str, list[float]] = {"pool": [], "Ray Data": []}
    for turn in range(args.sharing_turns):
        settings.write_text(json.dumps({**values, "seed": 101 + turn}))  # a new seed: the pool has none of these chunks
        for name, measured in rates.items():
            contestant = Contestant(name, sys.executable, settings, LONG, SCRIPT)
            measured.append(contestant())
            contestant.close()
            time.sleep(2)  # until its processes have ended
    print(f"\none trainer, {LONG} batches")
    print(table(rates, "pool", "images/s"), flush=True)
    return report(rates, "pool")


def sharing(settings: Path, pool: Any, args: argparse.Namespace, names: tuple[str, str]) -> dict[str, Any]:
    values = json.loads(settings.read_text())
    rates: dict[str, list[float]] = {name: [] for name in names}
    decoded = []
    batches = SHARED_EPOCHS * -(-1000 // args.batch_size)
    for turn in range(-1, args.sharing_turns):
        # A new seed: the pool has none of these epochs.
        settings.write_text(json.dumps({**values, "seed": 2 + turn + 1000 * SHARING.index(names)}))
        for name, measured in rates.items():
            if turn < 0 and name != names[0]:
                continue
            trainers = [Contestant(name, sys.executable, settings, batches, SCRIPT) for _ in range(TRAINERS)]
            before = pool.status()
            found: list[dict[str, Any]] = []

            def take(trainer: Contestant, found: list[dict[str, Any]] = found) -> None:
                assert trainer.process.stdin is not None
                trainer.process.stdin.write(f"0 {batches}\n")
                trainer.process.stdin.flush()
                found.append(trainer._answer())

            threads = [threading.Thread(target=take, args=(trainer,)) for trainer in trainers]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds, after = time.perf_counter() - start, pool.status()
            for trainer in trainers:
                trainer.close()
            if turn < 0:
                continue
            measured.append(sum(answer["images"] for answer in found) / seconds)
            if name == names[0]:
                # This includes the chunks in each trainer's window after its last batch.
                decoded.append((after["decoded"] - before["decoded"]) / batches)
    print(f"\n{TRAINERS} trainers together; chunks decoded per chunk of the epochs: {max(decoded):.2f}")
    print(table(rates, names[0], "images/s"), flush=True)
    return {**report(rates, names[0]), "decoded": decoded}


def faults(settings: Path, pool: Any) -> dict[str, float]:
    """Kill a worker of the pool with SIGKILL in one epoch, and freeze one with SIGSTOP in another.

    Print and return the longest wait for a batch after each fault, in seconds: "killed" and "frozen".
    """
    import dali_mix

    values, longest = json.loads(settings.read_text()), {}
    for index, (name, number) in enumerate((("killed", signal.SIGKILL), ("frozen", signal.SIGSTOP))):
        loader = dali_mix.build_loader(
            "imagenet", values["prefix"], batch_size=64, train=True, device="cpu", workers=pool, seed=number
        )
        pid, waits, before = pool.status()["workers"][index]["pid"], [], time.perf_counter()
        for count, _ in enumerate(loader):
            waits.append(time.perf_counter() - before)
            if count == 5:
                os.kill(pid, number)
            before = time.perf_counter()
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        longest[name] = max(waits[6:])
        loader.close()
        time.sleep(8)  # until the worker runs again and is no longer suspected
    print("\nlongest wait for a batch: " + ", ".join(f"{name} {value:.2f} s" for name, value in longest.items()))
    return longest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images(parser)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["original", "shorter256"])
    peers = ["pool", "in process", "in process, uint8", "DataLoader"]
    parser.add_argument("--peers", nargs="+", default=peers)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--sharing-turns", type=int, default=3)
    parser.add_argument("--batches", type=int, default=16, help="batches per measurement")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=26379)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks" / "service.json")
    args = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        print("skipped: ray is not installed (pip install 'dali_mix[service]')")
        return 0
    from dali_mix.service import connect

    args.threads = args.workers
    jpegs = originals(args.images)
    results: dict[str, Any] = {
        "environment": environment(["nvidia-dali-cuda120", "torch", "torchvision", "ray", "numba", "numpy"]),
        "settings": {"batch_size": args.batch_size, "size": args.size, "workers": args.workers, "turns": args.turns},
    }
    with tempfile.TemporaryDirectory() as work, running_pool(args.workers, args.port) as address:
        pool = connect(address)
        for name in args.sets:
            settings = prepare(name, jpegs, Path(work), args)
            settings.write_text(json.dumps({**json.loads(settings.read_text()), "address": address}))
            print(f"\n== {name}")
            results[name] = {
                "one": one(settings, args),
                "sharing": [sharing(settings, pool, args, names) for names in SHARING],
                "faults": faults(settings, pool),
            }
            if importlib.util.find_spec("pyarrow"):
                results[name]["ray data"] = ray_data(settings, args)
        pool.close()
    write_json(args.out, results)
    print(f"\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
