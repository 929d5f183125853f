"""What the simulation of the pipeline service is made of: costs, machines, a clock, and resources that are shared."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable

from dali_mix.loading.chunks import POSITIONS
from dali_mix.loading.remote import WINDOW

CONCURRENT = 3  # calls of a worker: LANES + 1 of dali_mix/service/workers.py
MESSAGES = 8e3  # bytes that the head sends and receives for a question, its answer and the references; an estimate

Done = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one chunk costs, in seconds of a core unless stated otherwise."""

    decode: float  # worker, with copying to shared memory
    chunk_bytes: float
    record_bytes: float  # of an image on disk
    ask: float  # trainer, for a question
    get: float  # trainer, for an answer
    cut: float  # trainer: copy (GPU) or normalize (CPU) a batch's share
    latency: float  # seconds of the clock for a message between processes, one way
    pool: float  # the busiest thread of the pool's actor
    pool_by_worker: float  # the same for each worker in the pool
    pool_else: float  # its other threads
    listing: float  # pool, for the list of workers, for each
    register: float  # pool, for the heartbeat of a machine
    raylet: float  # where a chunk is made and taken on one machine
    send: float  # raylet of the worker's machine
    receive: float  # raylet of the trainer's
    receive_busiest: float  # its busiest thread
    pull_rate: float  # bytes/s of one chunk that is pulled alone

    def pool_seconds(self, workers: int) -> float:
        return self.pool + self.pool_by_worker * workers


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Machines, and what is asked of them. Rates of faults are per hour, of each worker or machine."""

    workers: int
    trainers: int
    workers_per_machine: int = 16
    cores: float | None = None  # of a worker machine; by default one for each of its workers
    trainers_per_machine: int = 8
    trainer_cores: float = 64.0
    batch_size: int = 128
    gpu_rate: float = 3000.0  # images/s that a trainer takes at most
    link: float = 1.25e9  # bytes/s of each machine, each way
    disk: float = 2e9  # bytes/s of each worker machine
    storage: float = math.inf  # bytes/s of a file system that all read from
    window: int = WINDOW
    together: int = 1  # trainers that read the same chunks
    kept: int = 400  # chunks kept on a worker machine
    shared_head: bool = False  # the pool's actor is on the first worker machine, not on one of its own
    one_machine: bool = False  # everything is on the cores of the first worker machine
    two_nodes: bool = False  # there, trainers are a node of their own, to which chunks are sent
    in_turn: bool = True  # of workers with equally few questions the one is asked that was asked longest ago
    killed: float = 0.0
    frozen: float = 0.0
    lost: float = 0.0  # machines
    freeze: float = 60.0  # seconds
    restart: float = 4.0  # seconds until a killed worker is back
    repair: float = 300.0  # seconds until a lost machine is back
    noticed: float = 0.2  # seconds until Ray reports a killed worker's questions
    node_noticed: float = 15.0  # the same for a machine

    @property
    def machines(self) -> int:
        return -(-self.workers // self.workers_per_machine)

    @property
    def trainer_machines(self) -> int:
        return -(-self.trainers // self.trainers_per_machine)


def capacities(costs: Costs, cluster: Cluster) -> dict[str, float]:
    """Images/s that each resource alone would allow."""
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
    shared = ("worker cores", "pool actor", "worker links", "disks", "storage")  # a chunk is made once, for all
    return {
        name: rate * POSITIONS * (cluster.together if name in shared and name != "pool actor" else 1)
        for name, rate in chunks.items()
    }


class Clock:
    """Events in the order of their times."""

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
    """`capacity` units a second, shared equally among jobs, of which each takes `most` at most.

    In virtual time, which runs at the rate of one job, the end of a job is fixed when it begins.
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
    """Name what was used most; where nothing was used up, trainers wait for the answers to their few questions."""
    name = max((each for each in busy if each != "asking"), key=lambda each: busy[each])
    return name if busy[name] >= full else "window"
