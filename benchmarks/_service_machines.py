"""Building blocks of the pipeline service's simulation: costs, machines, a clock and shared resources."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable

from dali_mix.loading.chunks import POSITIONS
from dali_mix.loading.remote import WINDOW

CONCURRENT = 3  # concurrent calls per worker: LANES + 1 in dali_mix/service/workers.py
MESSAGES = 8e3  # estimated bytes that the head sends and receives per question, including the answer and references

Done = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of one chunk, in CPU seconds unless stated otherwise."""

    decode: float  # worker, including the copy to shared memory
    chunk_bytes: float
    record_bytes: float  # of an image on disk
    ask: float  # trainer, per question
    get: float  # trainer, per answer
    cut: float  # trainer: copy (GPU) or normalize (CPU) a chunk's images into the batch
    latency: float  # wall-clock seconds of a message between processes, one way
    pool: float  # the busiest thread of the pool's actor
    pool_by_worker: float  # in addition, for each worker in the pool
    pool_else: float  # all other threads of the pool's actor
    listing: float  # pool: list the workers, per worker
    register: float  # pool, per heartbeat of a machine
    raylet: float  # if a chunk is produced and consumed on the same machine
    send: float  # raylet on the worker's machine
    receive: float  # raylet on the trainer's machine
    receive_busiest: float  # busiest thread of that raylet
    pull_rate: float  # bytes/s when a single chunk is transferred

    def pool_seconds(self, workers: int) -> float:
        return self.pool + self.pool_by_worker * workers


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Machines, their load, and the rates of faults (`killed`, `frozen`, `lost`) per hour."""

    workers: int
    trainers: int
    workers_per_machine: int = 16
    cores: float | None = None  # per worker machine; default: one per worker
    trainers_per_machine: int = 8
    trainer_cores: float = 64.0
    batch_size: int = 128
    gpu_rate: float = 3000.0  # maximum images/s of a trainer
    link: float = 1.25e9  # bytes/s per machine and direction
    disk: float = 2e9  # bytes/s per worker machine
    storage: float = math.inf  # bytes/s of a file system shared by all
    window: int = WINDOW
    together: int = 1  # trainers that read the same chunks
    kept: int = 400  # chunks kept in memory per worker machine
    shared_head: bool = False  # the pool's actor runs on the first worker machine, not on a separate one
    one_machine: bool = False  # everything runs on the cores of the first worker machine
    two_nodes: bool = False  # with one_machine: trainers form a second node, to which chunks are sent
    in_turn: bool = True  # among the least loaded workers, ask the least recently used one
    killed: float = 0.0  # per worker
    frozen: float = 0.0  # per worker
    lost: float = 0.0  # per machine
    freeze: float = 60.0  # seconds
    restart: float = 4.0  # seconds until a killed worker runs again
    repair: float = 300.0  # seconds until a lost machine runs again
    noticed: float = 0.2  # seconds until Ray reports the questions of a killed worker as lost
    node_noticed: float = 15.0  # seconds until Ray reports the questions and chunks of a lost machine as lost

    @property
    def machines(self) -> int:
        return -(-self.workers // self.workers_per_machine)

    @property
    def trainer_machines(self) -> int:
        return -(-self.trainers // self.trainers_per_machine)


def capacities(costs: Costs, cluster: Cluster) -> dict[str, float]:
    """Return the images/s that each resource alone would allow."""
    machines, own = cluster.machines, cluster.trainer_machines
    cores = cluster.workers if cluster.cores is None else min(cluster.cores * machines, cluster.workers * CONCURRENT)
    network = costs.chunk_bytes * (not cluster.one_machine)
    chunks = {
        "GPUs": cluster.trainers * cluster.gpu_rate / POSITIONS,
        "worker cores": cores / (costs.decode + costs.raylet + costs.send * bool(network)),
        "pool actor": 1 / costs.pool_seconds(cluster.workers),
        "head link": cluster.link / MESSAGES,
        "worker links": machines * cluster.link / network if network else math.inf,
        "trainer links": own * cluster.link / network if network else math.inf,
        "trainer raylet": math.inf if cluster.one_machine else own / costs.receive_busiest,
        "disks": machines * cluster.disk / (POSITIONS * costs.record_bytes),
        "storage": cluster.storage / (POSITIONS * costs.record_bytes),
        "trainer core": cluster.trainers / (costs.ask + costs.get + costs.cut),
    }
    shared = ("worker cores", "pool actor", "worker links", "disks", "storage")  # a chunk is decoded once for all
    return {
        name: rate * POSITIONS * (cluster.together if name in shared and name != "pool actor" else 1)
        for name, rate in chunks.items()
    }


class Clock:
    """A simulated clock that runs events in chronological order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Done]] = []
        self._count = itertools.count()

    def after(self, seconds: float, what: Done) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until


class Shared:
    """A resource of `capacity` units per second, shared equally among jobs of at most `most` units per second each.

    Virtual time advances by the units that each running job receives. A job that needs w units and starts at virtual
    time v therefore ends at v + w, however many jobs start or end in between.
    """

    def __init__(self, clock: Clock, capacity: float, most: float) -> None:
        self._clock, self.capacity, self._most = clock, capacity, most
        self._jobs: list[tuple[float, int, Done | None]] = []
        self._count = itertools.count()
        self._virtual = self._at = 0.0
        self._planned = math.inf
        self.used = 0.0  # units

    def _rate(self) -> float:
        return min(self._most, self.capacity / len(self._jobs))

    def advance(self) -> None:
        if self._jobs:
            step = (self._clock.now - self._at) * self._rate()
            self._virtual += step
            self.used += step * len(self._jobs)
        self._at = self._clock.now

    def add(self, work: float, done: Done | None = None) -> None:
        self.advance()
        heapq.heappush(self._jobs, (self._virtual + work, next(self._count), done))
        self._plan()

    def _plan(self) -> None:
        if not self._jobs:
            self._planned = math.inf
            return
        left = max(0.0, self._jobs[0][0] - self._virtual) / self._rate()
        end = self._clock.now + left
        if abs(end - self._planned) > 1e-12:
            self._planned = end
            self._clock.after(left, lambda: self._finish(end))

    def _finish(self, planned: float) -> None:
        if planned != self._planned:
            return
        self.advance()
        done, limit = [], self._virtual + 1e-9 * max(1.0, self._most)
        while self._jobs and self._jobs[0][0] <= limit:
            done.append(heapq.heappop(self._jobs)[2])
        self._planned = math.inf
        self._plan()
        for each in done:
            if each is not None:
                each()


def limit(busy: dict[str, float], full: float = 0.9) -> str:
    """Return the name of the resource that limits the rate.

    `busy` is name → used share. The limit is the resource with the largest share, if this is at least `full`. Otherwise
    it is "window", the number of chunks that trainers request ahead. "asking", the share of time that trainers wait for
    the pool's actor, is ignored.
    """
    name = max((each for each in busy if each != "asking"), key=lambda each: busy[each])
    return name if busy[name] >= full else "window"
