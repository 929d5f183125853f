"""`dali-mix serve`: run a pool of decoding workers, add this machine to a pool, or show the status of one."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from contextlib import ExitStack
from threading import Event
from types import FrameType
from typing import Any

from dali_mix._signals import handled
from dali_mix.options import number, whole

DASHBOARD = 8266


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "  dali-mix serve --workers 14                    start a pool on this machine; Ctrl-C ends it\n"
        "  dali-mix serve --listen 10.0.0.1               start one that other machines can use\n"
        "  dali-mix serve --join 10.0.0.1:6379            add this machine to it, at any time\n"
        "  dali-mix train RECIPE --work-dir D --service 10.0.0.1:6379     (on this machine: --service auto)\n"
        "  dali-mix serve --status                        print the status of the pool\n"
        "Anyone who has the token can run code on these machines; see docs/service.md.\n"
        "Exit status: 0 after Ctrl-C or SIGTERM, even during startup; 1 after an error, or if the pool it joined ends."
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that decode on this machine (default: one per core, or one per GPU; 0: none)",
    )
    parser.add_argument("--threads", type=int, help="DALI threads for each of a worker's two decoders (default: 1)")
    parser.add_argument("--decode", choices=("cpu", "gpu"), help="where the workers of the pool decode (default: cpu)")
    parser.add_argument("--join", metavar="ADDRESS", help="join the pool at HOST:PORT instead of starting one")
    parser.add_argument(
        "--listen", metavar="IP", help="this machine's address on the network (default: only this machine can connect)"
    )
    parser.add_argument("--port", type=int, help="port of the pool to start (default: 6379)")
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="shared memory for decoded images (default: a quarter of the machine's memory, less if /dev/shm is small)",
    )
    parser.add_argument(
        "--dashboard",
        type=int,
        metavar="PORT",
        nargs="?",
        const=DASHBOARD,
        help=f"serve a status page and /metrics for Prometheus (default port: {DASHBOARD}; 0: a free one)",
    )
    parser.add_argument(
        "--status",
        metavar="ADDRESS",
        nargs="?",
        const="auto",
        help="print the status of a pool and exit (default: the one on this machine)",
    )


def run(args: argparse.Namespace) -> int:
    if args.status is not None:
        _refuse(args, "--status", "workers", "threads", "decode", "join", "listen", "port", "memory", "dashboard")
        return _status(args.status)
    if args.join is not None:
        _refuse(args, "--join", "port")
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    with handled(stop, signal.SIGTERM, signal.SIGINT):
        return _serve(args, stopped)


def _refuse(args: argparse.Namespace, option: str, *others: str) -> None:
    """Raise ValueError if one of `others`, the options that `option` excludes, is set. Call it if `option` is set."""
    if others_set := [f"--{name}" for name in others if getattr(args, name) is not None]:
        raise ValueError(f"{option} cannot be combined with {others_set[0]}: leave one of them out")


def _check(args: argparse.Namespace) -> None:
    """Set missing --port, --threads, --decode and --workers in `args` to their defaults. Convert --memory to a float.

    Raise ValueError for an invalid value, for --decode gpu without a GPU, or for more workers than GPUs.
    """
    args.port = 6379 if args.port is None else whole("--port", args.port, 1, 65535)
    args.threads = 1 if args.threads is None else whole("--threads", args.threads, 1, 256)
    args.decode = args.decode or "cpu"
    if args.dashboard is not None:
        whole("--dashboard", args.dashboard, 0, 65535)
    if args.workers is not None:
        whole("--workers", args.workers, 0, 1024)
    if args.decode == "gpu" and args.workers != 0:
        found = _gpus()
        if args.workers is not None and args.workers > found:
            raise ValueError(
                f"--workers {args.workers}: torch sees {found} GPU{'s' * (found > 1)} here, one per worker"
            )
        args.workers = args.workers or found
    if args.workers is None:
        args.workers = len(os.sched_getaffinity(0))
    from dali_mix.service.node import LEAST_STORE

    if args.memory is not None:
        args.memory = number("--memory", args.memory, math.ceil(LEAST_STORE / 1e7) / 100)


def _serve(args: argparse.Namespace, stopped: list[int]) -> int:
    """Run this machine's part of a pool until a signal handler appends to `stopped`, and return 0.

    Raise ValueError for invalid options, if the pool cannot be started or joined, if Ray ends on this machine, or if
    the joined pool is gone.
    """
    _check(args)
    from dali_mix.service.cluster import command
    from dali_mix.service.node import Node

    if stopped:
        return 0
    with ExitStack() as opened:
        node = Node(
            args.workers,
            threads=args.threads,
            decode=args.decode,
            address=args.join,
            listen=args.listen,
            port=args.port,
            store=None if args.memory is None else int(args.memory * 1e9),
        )
        running = Event()
        page = "" if args.dashboard is None else _show(node, running, args, opened)  # first, as its port may be in use
        opened.enter_context(node)
        running.set()
        opened.callback(running.clear)
        _announce(node, args)
        if page:
            print(f"page     {page}   (/metrics for Prometheus)", flush=True)
        command.status = 1
        while not stopped:
            if wrong := node.heartbeat():
                raise ValueError(f"{wrong}; the workers of this machine end")
            for _ in range(10):
                if not stopped:
                    time.sleep(0.1)
        command.status = 0
    return 0


def _show(node: Any, running: Event, args: argparse.Namespace, opened: ExitStack) -> str:
    """Serve the status page until `opened` is closed; return its URL. The page answers 503 unless `running` is set."""
    from dali_mix.service.cluster import LOOPBACK
    from dali_mix.service.dashboard import Dashboard

    def status() -> dict[str, Any]:
        if not running.is_set():
            raise ValueError("the pool is starting or ending")
        return node.status()

    shown = Dashboard(args.listen or LOOPBACK, args.dashboard, node.address, status)
    opened.callback(shown.close)
    return f"http://{args.listen or LOOPBACK}:{shown.port}/"


def _announce(node: Any, args: argparse.Namespace) -> None:
    from dali_mix.service.cluster import split_address, token_file

    count = f"{args.workers} worker{'s' * (args.workers != 1)} here, decoding on the {args.decode.upper()}"
    print(f"pool     {node.address}, {'joined' if args.join else 'started'}: {count}", flush=True)
    if not args.join:
        first = "{}:{}".format(*split_address("auto")) == node.address
        there = "auto" if args.listen is None and first else node.address
        print(f"token    {token_file()}: whoever has it may run code here", flush=True)
        print(f"train    dali-mix train RECIPE --work-dir DIR --service {there}", flush=True)
        if args.listen is not None:
            print(f"more     dali-mix serve --join {node.address}     (on other machines, with that token)", flush=True)


def _gpus() -> int:
    import torch

    if not torch.cuda.device_count():
        raise ValueError("--decode gpu: torch sees no GPU here")
    return torch.cuda.device_count()


def _status(address: str) -> int:
    from dali_mix.service import connect
    from dali_mix.service.dashboard import waits_for

    found = connect(address).status()
    hours, minutes = divmod(int(found["seconds"]) // 60, 60)
    print(f"up {hours} h {minutes} min; {found['images_per_second']:,.0f} images/s over the last 10 s")
    print(
        f"chunks: {found['asked']:,} asked for, {found['decoded']:,} decoded, {found['shared']:,} answered from memory,"
        f" {found['second_asks']:,} second asks, {found['lost']:,} lost"
    )
    print(f"kept: {found['chunks']:,} chunks, {found['bytes'] / 1e6:,.0f} of {found['capacity'] / 1e6:,.0f} MB")
    for own in found["workers"]:
        late = ", late or lost" if own["suspected"] else ""
        busy = f"{own['images_per_busy_second']:,.0f} images/s when busy"
        print(f"worker {own['name']}: {own['images']:,} images, {busy}, {own['under_way']} under way{late}")
    for own in found["trainers"]:
        asked = f"{own['asked']:,} chunks, {own['second_asks']} second asks, {own['idle']:.0f} s ago"
        print(f"trainer {own['name']}: {asked}; waits for {waits_for(own)}")
    for own in found["sets"]:
        print(f"set {own['set']}: pipeline {own['pipeline']}, {'training' if own['train'] else 'evaluation'}")
    return 0
