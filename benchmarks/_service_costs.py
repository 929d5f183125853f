"""Measure what the steps of the pipeline service cost on this machine with the real code, for service_scale.py.

Work is measured in CPU seconds, so that other programs on the same cores have little influence, and waiting in
wall-clock seconds. `busiest` is the CPU time of a process's most used thread, which limits the process on any number of
cores.

More than 300 lines: all kinds of pools are started and measured in the same way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dali_mix
from dali_mix import pipelines
from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.chunks import POSITIONS, Question, cut
from dali_mix.loading.decoder import Decoder
from dali_mix.loading.workers import Spec
from dali_mix.recordio import RecordSet

TICK = os.sysconf("SC_CLK_TCK")
LOCAL = "127.0.0.1"
MANY = 1000  # workers, to measure the cost of the pool's actor with that many
ASKS = 1500
KINDS = {"ray::Worker": "worker", "ray::Pool": "pool", "ray::Echo": "echo", "raylet": "raylet", "gcs_server": "gcs"}


# Processes


class Serve:
    """`dali-mix serve ARGUMENTS` as a process."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "dali_mix", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ready(self) -> Serve:
        assert self.process.stdout is not None
        if not any(line.startswith("pool") for line in self.process.stdout):
            raise SystemExit("dali-mix serve did not start")
        return self

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def processes(self) -> list[tuple[str, int]]:
        """Return (kind, process id) of the Ray processes started by this command."""
        found, sessions = [], set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((line, int(folder.name), os.getsid(int(folder.name))))
                if "ray_node.py" in line and f'"parent": {self.process.pid},' in line:
                    sessions.add(found[-1][2])
        own = [(line, pid) for line, pid, session in found if session in sessions]
        return [(_kind(line), pid) for line, pid in own]


def _kind(line: str) -> str:
    program = line.split(" ")[0].rpartition("/")[2]
    return next((kind for begin, kind in KINDS.items() if program.startswith(begin)), "else")


@contextlib.contextmanager
def serving(*commands: tuple[object, ...]) -> Iterator[tuple[Any, list[Serve]]]:
    """Run a pool on this machine until the end of the block. Yield the connected `RayPool`, and a `Serve` per node.

    Each of `commands` has the arguments of `dali-mix serve` for one node. The first one starts the pool and must
    contain "--port".
    """
    from dali_mix.service import connect

    nodes: list[Serve] = []
    try:
        for command in commands:
            nodes += [Serve(*command)]
            nodes[-1].ready()
        port = commands[0][commands[0].index("--port") + 1]
        pool = connect(f"{LOCAL}:{port}")
        try:
            yield pool, nodes
        finally:
            pool.close()
    finally:
        for node in reversed(nodes):
            node.close()


def thread_seconds(pid: int) -> dict[int, float]:
    """Return CPU seconds per thread of a process. Each is rounded down to ticks, so sums over threads are too low."""
    seconds = {}
    for folder in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / TICK
    return seconds


def process_seconds(pid: int) -> float:
    """Return CPU seconds of a process with nanosecond resolution, from its clock (see clock_getcpuclockid(3)).

    Return 0 if the process has ended.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # an idle Ray process that has ended
        return 0.0


def system_seconds() -> tuple[float, float]:
    """Return (busy, total) seconds of all cores since boot. Time stolen by a hypervisor counts as busy."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK, sum(fields) / TICK


class Meter:
    """A meter of CPU time between the calls of `start` and `stop`.

    It measures this process, of the kind "trainer", and the processes that `nodes` run when the meter is created. Their
    kinds are the values of `KINDS`, and "else". Kinds of the second node have the suffix "1", those of the third "2".
    """

    def __init__(self, nodes: list[Serve]) -> None:
        self._pids = [
            (f"{kind}{number or ''}", pid) for number, node in enumerate(nodes) for kind, pid in node.processes()
        ]
        self._pids += [("trainer", os.getpid()), *(("else", node.process.pid) for node in nodes)]

    def start(self) -> None:
        self._before = [(process_seconds(pid), thread_seconds(pid)) for _, pid in self._pids]
        self._system, self._clock = system_seconds(), time.monotonic()

    def stop(self, per: int) -> dict[str, Any]:
        """Return the costs of the `per` operations since `start`.

        Returns:
            a dict of "wall", seconds per operation; "cpu", CPU seconds per operation of each kind of process;
            "busiest", those of its busiest thread; and "cores_left", the mean number of cores that other programs left
            free.
        """
        wall = time.monotonic() - self._clock
        busy, total = (now - then for now, then in zip(system_seconds(), self._system, strict=True))
        used: Counter[str] = Counter()
        busiest: Counter[str] = Counter()
        for (kind, pid), (used_before, before) in zip(self._pids, self._before, strict=True):
            spent = [now - before.get(thread, 0.0) for thread, now in thread_seconds(pid).items()]
            used[kind] += max(0.0, process_seconds(pid) - used_before)
            busiest[kind] = max(busiest[kind], *spent, 0.0)
        cores = len(os.sched_getaffinity(0))
        others = max(0.0, busy / total * cores - sum(used.values()) / wall)
        return {
            "wall": wall / per,
            "cpu": {kind: seconds / per for kind, seconds in used.items()},
            "busiest": {kind: seconds / per for kind, seconds in busiest.items()},
            "cores_left": cores - others,
        }


# Costs


def each(what: Callable[[int], Any], count: int, clock: Callable[[], float] = time.process_time) -> float:
    """Call `what` with 0 to `count` - 1 and return the median seconds per call, measured by `clock`."""
    seconds = []
    for number in range(count):
        before = clock()
        what(number)
        seconds.append(clock() - before)
    return statistics.median(seconds)


def spec_of(prefix: Path, seed: int = 0) -> Spec:
    return Spec(prefix, "imagenet", {"image_size": 224}, train=True, seed=seed, decode="auto", verify_crc=True)


def decoding(prefix: Path) -> dict[str, float]:
    """Return "decode", CPU seconds per chunk decoded here on one thread, and "record_bytes", mean bytes per record."""
    records = RecordSet(prefix)
    pipeline = pipelines.build("imagenet", True, {"image_size": 224})
    bad = BadRecords(prefix, skip=True)
    device = torch.device("cpu")
    more = {"batch_size": POSITIONS, "device": device, "num_threads": 1, "prefetch": 1, "bad": bad, "verify_crc": True}
    decoder = Decoder(records, pipeline, 0, **more)
    rng = np.random.default_rng(0)

    def answer(number: int) -> None:
        decoder.answer(Question(number, rng.permutation(len(records))[:POSITIONS]))

    each(answer, 5)
    seconds = each(answer, 25)
    decoder.close()
    return {"decode": seconds, "record_bytes": float(records.table["length"].mean())}


def trainer_steps(pool: Any, prefix: Path) -> dict[str, float]:
    """Return the costs of a trainer's steps, with an idle pool.

    Returns:
        a dict of "ask" and "get", wall-clock seconds to ask for a chunk and to receive it; "ask_cpu" and "get_cpu", CPU
        seconds of the trainer's thread in these calls; "copy" and "normalize", its CPU seconds to cut a batch from a
        chunk without and with normalizing; and "chunk_bytes", the size of the chunk's images.
    """
    workers = pool.open(spec_of(prefix, seed=77)).workers
    rng = np.random.default_rng(1)
    asked = Question(0, rng.permutation(1000)[:POSITIONS])
    chunk = None

    def take(_: int) -> None:
        nonlocal chunk
        workers.ask(asked, ())
        while not (answers := workers.wait(5.0)):
            pass
        chunk = answers[0][1]

    take(0)
    for _ in range(20):
        take(0)
    found: dict[str, float] = {}
    for name, clock in (("", time.perf_counter), ("_cpu", time.thread_time)):
        found[f"ask{name}"] = each(lambda _: workers.drop(workers.ask(asked, ())), 100, clock)
        both = each(take, 100, clock)
        found[f"get{name}"] = max(0.0, both - found[f"ask{name}"])
    normalizer = pipelines.build("imagenet", True, {"image_size": 224})
    cut([chunk], chunk.rows, normalizer)
    found["copy"] = each(lambda _: cut([chunk], chunk.rows), 30, time.thread_time)
    found["normalize"] = each(lambda _: cut([chunk], chunk.rows, normalizer), 30, time.thread_time)
    found["chunk_bytes"] = float(chunk.images.nbytes)
    workers.close()
    return found


def pool_actor(pool: Any, nodes: list[Serve], workers: int) -> dict[str, Any]:
    """Return the costs of the pool's actor with `workers` workers.

    The workers are stubs that answer immediately with 200 KB, which Ray stores in shared memory as it does a chunk.

    Returns:
        the costs per question, from asking to the worker's answer (see `Meter.stop`), and in addition "list",
        wall-clock seconds to list the workers; "register", CPU seconds to register up to 14 workers; and
        "asks_per_second", the number of questions divided by the seconds of the complete measurement.
    """
    import ray

    from dali_mix.service.spec import versions

    class Echo:
        def answer(self, *_: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(200_000, np.uint8), {"bytes": 200_000, "seconds": 0.0, "images": POSITIONS, "pid": 0}

    actor = pool.actor()
    echoes = [ray.remote(Echo).options(num_cpus=0, max_concurrency=2).remote() for _ in range(2)]
    ray.get([each_one.answer.remote() for each_one in echoes])
    details = {"versions": versions(), "decode": "cpu", "node": "echo", "capacity": 20_000_000, "host": "", "pid": 0}
    members = {f"echo.{number}": (echoes[number % 2], details) for number in range(workers)}
    register_cpu = time.thread_time()
    for begin in range(0, workers, 14):
        part = dict(list(members.items())[begin : begin + 14])
        assert ray.get(actor.register.remote(part)) == ""
    register_cpu = time.thread_time() - register_cpu
    spec, rng, waiting = spec_of(Path("/none")), np.random.default_rng(workers), []
    meter = Meter(nodes)
    meter.start()
    begun = heard = time.monotonic()
    for number in range(ASKS):
        if time.monotonic() - heard > 4:  # heartbeats of the machines
            for begin in range(0, workers, 14):
                actor.register.remote(dict(list(members.items())[begin : begin + 14]))
            heard = time.monotonic()
        question = Question(number, rng.integers(0, 1 << 40, POSITIONS))
        waiting.append(actor.ask.remote("key", spec, "fingerprint", question, [], "trainer"))
        if len(waiting) >= 32:
            (chunk,), _ = ray.get(waiting.pop(0))
            ray.wait([chunk], fetch_local=True)
    ray.get(waiting)
    found = meter.stop(ASKS)
    before = time.monotonic()
    for _ in range(5):
        ray.get(actor.workers.remote())
    found["list"] = (time.monotonic() - before) / 5
    meter.start()
    for _ in range(20):
        ray.get([actor.register.remote(dict(list(members.items())[:14])) for _ in range(5)])
    found["register"] = meter.stop(100)["cpu"]["pool"]
    found["asks_per_second"] = ASKS / (time.monotonic() - begun)
    ray.get(actor.remove.remote(list(members)))
    return found


def transfer(pool: Any, nodes: list[Serve], prefix: Path) -> dict[str, Any]:
    """Return the costs per chunk fetched from another, idle node (see `Meter.stop`).

    In addition, "pull" is the median time to fetch a chunk in wall-clock seconds.
    """
    import ray

    spec = spec_of(prefix, seed=78)
    opened = pool.open(spec)
    opened.workers.ask(Question(0, np.arange(POSITIONS)), ())
    while not opened.workers.wait(5.0):
        pass
    from dali_mix.service.spec import key_of

    key, seconds, actor = key_of(spec, opened.metainfo["fingerprint"]), [], pool.actor()
    arguments = key, spec, opened.metainfo["fingerprint"]
    ready = []
    for number in range(1, 97):
        question = Question(number, np.arange(POSITIONS) + number)
        (chunk,), _ = ray.get(actor.ask.remote(*arguments, question, [], "trainer"))
        ray.wait([chunk], fetch_local=False, timeout=30)
        ready.append(chunk)
    time.sleep(1.0)
    meter = Meter(nodes)
    meter.start()
    for chunk in ready:
        before = time.perf_counter()
        ray.get(chunk)
        seconds.append(time.perf_counter() - before)
    return {**meter.stop(len(ready)), "pull": statistics.median(seconds)}


def stretch(pool: Any, nodes: list[Serve], prefix: Path, batches: int, seed: int, **options: Any) -> dict[str, Any]:
    """Return a trainer's "images_per_second" with the pool, over `batches` batches, and its costs per batch.

    For the costs see `Meter.stop`. `options`: further arguments of `build_loader`.
    """
    loader = dali_mix.build_loader(
        "imagenet",
        prefix,
        batch_size=POSITIONS,
        train=True,
        seed=seed,
        device="cpu",
        drop_last=True,
        workers=pool,
        pipeline_options={"image_size": 224},
        **options,
    )

    def stream() -> Iterator[Any]:
        while True:
            yield from loader

    steps = stream()
    for _ in range(24):  # until every worker has built its pipelines
        next(steps)
    meter = Meter(nodes)
    meter.start()
    for _ in range(batches):
        next(steps)
    found = meter.stop(batches)
    loader.close()
    return {"images_per_second": POSITIONS / found["wall"], **found}
