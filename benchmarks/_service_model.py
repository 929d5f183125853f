"""A discrete-event simulation of the pipeline service on machines that are not available.

    trainer ── asks for chunks, one by one ──▶ pool's actor ── sends the question ──▶ worker: reads, decodes, stores
      ▲  ▲                                         │                                    │
      │  └──────── reference to the chunk ─────────┘                                    │
      └────────── chunk, from raylet to raylet, when the trainer waits for it ──────────┘

The order of actions and waits follows dali_mix/service and dali_mix/loading/remote.py, and their constants are used.
`Costs` are measured by `_service_costs.py`. Cores, links and disks are shared equally among their concurrent users. The
pool's actor handles one question at a time.

Not simulated: starting and connecting, packet collisions, memory bandwidth, and DALI's start-up time in a restarted
worker. A frozen worker's share of the cores is not given to others.

More than 300 lines: trainers, pool and workers call each other, as in the service.
"""

from __future__ import annotations

import functools
import heapq
import math
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable
from typing import Any

import numpy as np
from _service_machines import CONCURRENT, MESSAGES, Clock, Cluster, Costs, Done, Shared, limit

from dali_mix.loading.chunks import POSITIONS
from dali_mix.loading.remote import FIRST_PATIENCE, LATENCIES, PATIENCE, PAUSES

# Copied from dali_mix/service/client.py, and from pool.py, which cannot be imported without Ray.
ANSWER, DIRECTLY, REFRESH = 3.0, 5.0, 10.0
SUSPECTED, SILENT = 5.0, 12.0
HEARTBEAT = 1.0

Steps = Generator[Callable[[Done], None], None, None]


class Machine:
    def __init__(self, clock: Clock, cores: float, link: float, disk: float, pull_rate: float) -> None:
        self.cores = Shared(clock, cores, 1.0)
        self.sends = Shared(clock, link, pull_rate)
        self.receives = Shared(clock, link, pull_rate)
        self.raylet = Shared(clock, 1.0, 1.0)
        self.disk = Shared(clock, disk, disk)
        self.kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self.down = False


class Answer:
    """A chunk that a worker has decoded or is decoding."""

    __slots__ = ("copies", "done", "key", "listeners", "lost", "machine", "worker")

    def __init__(self, key: Hashable, worker: Worker) -> None:
        self.key, self.worker, self.machine = key, worker, worker.machine
        self.done = self.lost = False
        self.listeners: list[tuple[Trainer, Ticket]] = []
        self.copies: dict[Machine, list[Done] | None] = {}  # None: the copy is complete


class Ticket:
    __slots__ = ("answer", "asked", "dropped", "pulling")

    def __init__(self, answer: Answer, asked: float) -> None:
        self.answer, self.asked = answer, asked
        self.pulling = self.dropped = False


class Piece:
    __slots__ = ("again", "asks", "here", "losses", "number", "tickets", "tried")

    def __init__(self, number: int) -> None:
        self.number, self.asks, self.losses, self.again, self.here = number, 0, 0, 0.0, False
        self.tickets: list[Ticket] = []
        self.tried: set[Worker] = set()


class Worker:
    def __init__(self, sim: Simulation, number: int, machine: Machine) -> None:
        self.sim, self.number, self.machine = sim, number, machine
        self.queue: deque[Answer] = deque()
        self.at_work: set[Answer] = set()
        self.under_way = 0  # open questions as counted by the pool
        self.turn = number  # sequence number of its last question
        self.suspected = self.heard = 0.0
        self.life = 0
        self.back = 0.0  # time when it works again after it froze or died
        self.dead_until = self.reported = 0.0  # times when its last death ends, and when Ray reports it

    def put(self, answer: Answer) -> None:
        now = self.sim.clock.now
        if now < self.dead_until:  # Ray reports the question as lost once it knows of the death
            self.sim.clock.after(max(0.0, self.reported - now), functools.partial(self.sim.lose, answer))
            return
        self.queue.append(answer)
        self.work()

    def work(self) -> None:
        sim = self.sim
        while self.queue and len(self.at_work) < CONCURRENT and sim.clock.now >= self.back:
            answer, life = self.queue.popleft(), self.life
            self.at_work.add(answer)
            left = [2]

            def read(answer: Answer = answer, life: int = life, left: list[int] = left) -> None:
                left[0] -= 1
                if not left[0]:
                    self.machine.cores.add(sim.costs.decode, lambda: self._decoded(answer, life))

            size = POSITIONS * sim.costs.record_bytes
            self.machine.disk.add(size, read)
            sim.storage.add(size, read)

    def _decoded(self, answer: Answer, life: int) -> None:
        now = self.sim.clock.now
        if life != self.life:
            return
        if now < self.back:  # frozen in the meantime
            self.sim.clock.after(self.back - now, lambda: self._decoded(answer, life))
            return
        self.at_work.discard(answer)
        self.sim.made(answer)
        self.work()

    def freeze(self, seconds: float) -> None:
        self.back = self.sim.clock.now + seconds
        self.sim.clock.after(seconds, self.work)

    def die(self, back_after: float, noticed: float) -> None:
        """Lose all chunks in progress, and work again after `back_after` seconds.

        Ray reports the lost chunks after `noticed` seconds.
        """
        self.life += 1
        gone, self.queue, self.at_work = [*self.queue, *self.at_work], deque(), set()
        self.freeze(back_after)
        self.dead_until, self.reported = self.back, self.sim.clock.now + noticed
        self.sim.clock.after(noticed, lambda: [self.sim.lose(answer) for answer in gone] and None)


class Trainer:
    def __init__(self, sim: Simulation, number: int, machine: Machine) -> None:
        self.sim, self.machine = sim, machine
        self.group = number // sim.cluster.together
        self.wanted: deque[int] = deque()
        self.pieces: dict[int, Piece] = {}
        self.arrived: list[tuple[Ticket, bool]] = []
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self.turn = number  # round-robin index of workers asked directly
        self.pool_lost = self.refreshed = -math.inf
        self.wake: Done | None = None
        self.gpu_free = 0.0
        self.images = self.second_asks = self.asked_directly = 0
        self.core = self.longest = self.asking = 0.0
        self.taken: list[int] = []
        self._steps = self._run()
        sim.clock.after(float(sim.rng.random()), self._go)

    def _go(self) -> None:
        next(self._steps)(self._go)

    def _sleep(self, seconds: float) -> Callable[[Done], None]:
        return lambda go: self.sim.clock.after(max(0.0, seconds), go)

    def _work(self, seconds: float) -> Callable[[Done], None]:
        self.core += seconds
        return lambda go: self.machine.cores.add(seconds, go)

    def _run(self) -> Steps:
        """Simulate the actions of `Loader` and `RemoteSource.fetch`, and a GPU that is one step behind, without end.

        Each value yielded is a function that starts some work or a wait, and calls its argument when that is over.
        """
        sim, cluster, number = self.sim, self.sim.cluster, 0
        clock, position = sim.clock, 0
        window = max(cluster.window, -(-cluster.batch_size // POSITIONS))
        while True:
            begun = clock.now
            last = (position + cluster.batch_size - 1) // POSITIONS
            due = range(position // POSITIONS, last + 1)
            while self.wanted and self.wanted[0] < due[0]:
                self._drop(self.pieces.pop(self.wanted.popleft()))
            while len(self.wanted) < len(due) + window:
                self.wanted.append(number)
                number += 1
            new = [Piece(key) for key in self.wanted if key not in self.pieces]
            self.pieces |= {piece.number: piece for piece in new}
            for piece in new:
                yield from self._ask(piece, begun)
            pieces = [self.pieces[key] for key in due]
            if any(not piece.here for piece in pieces):
                self._pull()
                yield from self._collect()
            while any(not piece.here for piece in pieces):
                now, patience = clock.now, self._patience()
                for piece in [each for each in self.pieces.values() if self._when(each, patience) <= now]:
                    yield from self._ask(piece, now)
                look = min(self._when(piece, self._patience()) for piece in self.pieces.values())
                self._pull()
                yield self._wait(min(1.0, max(0.0, look - clock.now)))
                yield from self._collect()
            self.longest = max(self.longest, clock.now - begun)
            self.taken += [key for key in due if key > (self.taken[-1] if self.taken else -1)]
            yield self._work(sim.costs.cut * cluster.batch_size / POSITIONS)
            yield self._sleep(self.gpu_free - clock.now)  # the copy to the GPU waits for the previous step
            self.gpu_free = clock.now + cluster.batch_size / cluster.gpu_rate
            self.images += cluster.batch_size
            position += cluster.batch_size

    def _patience(self) -> float:
        if not self.latencies:
            return FIRST_PATIENCE
        return max(PATIENCE[0], PATIENCE[1] * statistics.median(self.latencies))

    @staticmethod
    def _when(piece: Piece, patience: float) -> float:
        if piece.here:
            return math.inf
        if not piece.tickets:
            return piece.again
        return max(piece.again, piece.tickets[-1].asked + patience * 2 ** max(0, len(piece.tickets) - 2))

    def _drop(self, piece: Piece) -> None:
        for ticket in piece.tickets:
            ticket.dropped = True
        piece.tickets.clear()

    # Asking

    def _ask(self, piece: Piece, begun: float) -> Steps:
        """Ask a worker for a chunk. The chunk's latency counts from `begun`, when the step started asking."""
        sim = self.sim
        for avoid in (set(piece.tried), {ticket.answer.worker for ticket in piece.tickets}):
            yield self._work(sim.costs.ask)
            found: list[Answer | None] = []
            before = sim.clock.now
            if sim.clock.now - self.pool_lost > DIRECTLY:
                if sim.clock.now - self.refreshed > REFRESH:
                    self.refreshed = sim.clock.now
                    sim.pool.put(sim.costs.listing * len(sim.workers), lambda: None)
                yield lambda go, avoid=avoid, found=found: sim.ask((self.group, piece.number), avoid, found, go)
                if not found:  # no answer within ANSWER seconds
                    self.pool_lost = sim.clock.now
            self.asking += sim.clock.now - before
            if not found:
                self.asked_directly += 1
                found.append(self._ask_directly((self.group, piece.number), avoid))
            if (answer := found[0]) is not None:
                piece.tickets.append(Ticket(answer, begun))
                piece.tried.add(answer.worker)
                piece.asks += 1
                self.second_asks += piece.asks == 2
                return
        piece.again = begun + PAUSES[0]

    def _ask_directly(self, key: Hashable, avoid: set[Worker]) -> Answer | None:
        workers = self.sim.workers
        for _ in workers:
            self.turn += 1
            worker = workers[self.turn % len(workers)]
            if worker not in avoid:
                answer = Answer(key, worker)
                self.sim.clock.after(self.sim.costs.latency, functools.partial(worker.put, answer))
                return answer
        return None

    # Waiting

    def _pull(self) -> None:
        for piece in self.pieces.values():
            for ticket in piece.tickets:
                if not ticket.pulling:
                    ticket.pulling = True
                    self.sim.pull(self, ticket)

    def _wait(self, timeout: float) -> Callable[[Done], None]:
        def begin(go: Done) -> None:
            if self.arrived:
                go()
                return

            def wake() -> None:
                if self.wake is wake:
                    self.wake = None
                    go()

            self.wake = wake
            self.sim.clock.after(timeout, wake)

        return begin

    def deliver(self, ticket: Ticket, lost: bool) -> None:
        self.arrived.append((ticket, lost))
        if self.wake is not None:
            self.wake()

    def _collect(self) -> Steps:
        arrived, self.arrived = self.arrived, []
        for ticket, lost in arrived:
            piece = (
                None
                if ticket.dropped
                else next((each for each in self.pieces.values() if ticket in each.tickets), None)
            )
            if piece is None:
                continue
            piece.tickets.remove(ticket)
            now = self.sim.clock.now
            if lost:
                piece.losses += 1
                pause = min(PAUSES[1], PAUSES[0] * 2 ** (piece.losses - 2))
                piece.again = now + (0.0 if piece.losses == 1 else pause)
                continue
            self.latencies.append(now - ticket.asked)
            piece.here = True
            self._drop(piece)
            yield self._work(self.sim.costs.get)


class PoolActor:
    """The pool's actor: handles one question at a time, on a core of its machine."""

    def __init__(self, machine: Machine) -> None:
        self._cores = machine.cores
        self._queue: deque[tuple[float, Done]] = deque()
        self._busy = False
        self.backlog = self.used = 0.0

    def put(self, seconds: float, done: Done) -> None:
        self._queue.append((seconds, done))
        self.backlog += seconds
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._queue)
        if self._queue:
            seconds, done = self._queue.popleft()
            self._cores.add(seconds, lambda: self._done(seconds, done))

    def _done(self, seconds: float, done: Done) -> None:
        self.backlog -= seconds
        self.used += seconds
        done()
        self._next()


class Simulation:
    """A simulated pool.

    `run(warm, seconds)` returns rates, loads and the longest wait during `seconds`, after a warm-up of `warm` seconds.
    The counts that it returns also cover the warm-up.
    """

    def __init__(self, costs: Costs, cluster: Cluster, seed: int = 0) -> None:
        self.costs, self.cluster = costs, cluster
        self.clock = clock = Clock()
        self.rng = np.random.default_rng(seed)

        def machine(cores: float) -> Machine:
            return Machine(clock, cores, cluster.link, cluster.disk, costs.pull_rate)

        self.storage = Shared(clock, cluster.storage, cluster.disk)
        per, rest = cluster.workers_per_machine, cluster.workers
        numbers = [min(per, rest - begin) for begin in range(0, rest, per)]  # workers per machine
        self.machines = [machine(float(cluster.cores or number)) for number in numbers]
        first = self.machines[0]
        self.head = first if cluster.one_machine or cluster.shared_head else machine(16.0)
        self.trainer_machines = [machine(cluster.trainer_cores) for _ in range(cluster.trainer_machines)]
        if cluster.one_machine:
            self.trainer_machines = [machine(1.0) if cluster.two_nodes else first] * cluster.trainer_machines
            self.trainer_machines[0].cores = first.cores
        self.pool = PoolActor(self.head)
        self.workers = [
            Worker(self, number, self.machines[number // cluster.workers_per_machine])
            for number in range(cluster.workers)
        ]
        self.trainers = [
            Trainer(self, number, self.trainer_machines[number // cluster.trainers_per_machine])
            for number in range(cluster.trainers)
        ]
        self.answers: dict[Hashable, Answer] = {}
        # A heap of (load, turn, number), in which some entries are outdated.
        self._loads = [(0, worker.number, worker.number) for worker in self.workers]
        self._turn = len(self.workers)
        self.counts = {"asked": 0, "decoded": 0, "shared": 0, "answers_lost": 0, "faults": 0}
        for machine in self.machines:
            self._heartbeat(machine)
        for rate, what in ((cluster.killed, self._kill), (cluster.frozen, self._freeze)):
            self._schedule(rate * cluster.workers, what)
        self._schedule(cluster.lost * cluster.machines, self._lose_machine)

    def run(self, warm: float, seconds: float) -> dict[str, Any]:
        self.clock.run(warm)
        for trainer in self.trainers:
            trainer.longest = 0.0
        before = self._state()
        self.clock.run(warm + seconds)
        used = {name: value - before[name] for name, value in self._state().items()}
        images = used.pop("images") / seconds
        busy = self._busy({name: value / seconds for name, value in used.items()})
        return {
            "images_per_second": images,
            "busy": busy,
            "limit": limit(busy),
            "longest_wait": max(trainer.longest for trainer in self.trainers),
            "second_asks": sum(trainer.second_asks for trainer in self.trainers),
            "asked_directly": sum(trainer.asked_directly for trainer in self.trainers),
            **self.counts,
        }

    def _state(self) -> dict[str, Any]:
        def used(resources: list[Shared]) -> np.ndarray:
            for resource in resources:
                resource.advance()
            return np.array([resource.used for resource in resources])

        return {
            "images": sum(trainer.images for trainer in self.trainers),
            "worker cores": used([machine.cores for machine in self.machines]),
            "pool actor": np.array([self.pool.used]),
            "head link": np.array([self.counts["asked"] * MESSAGES]),
            "worker links": used([machine.sends for machine in self.machines]),
            "trainer links": used([machine.receives for machine in self.trainer_machines]),
            "trainer raylet": used([machine.raylet for machine in self.trainer_machines]),
            "disks": used([machine.disk for machine in self.machines]),
            "storage": used([self.storage]),
            "trainer core": np.array([trainer.core for trainer in self.trainers]),
            "GPUs": np.array([trainer.images for trainer in self.trainers]),
            "asking": np.array([trainer.asking for trainer in self.trainers]),
        }

    def _busy(self, used: dict[str, Any]) -> dict[str, float]:
        """Return the used share of each kind of resource, that of its most used resource.

        `used` is kind → units per second used of each resource of that kind.
        """
        cluster = self.cluster
        cores = np.array([each.cores.capacity for each in self.machines])
        unit = {"worker cores": cores, "disks": cluster.disk, "storage": cluster.storage}
        unit |= dict.fromkeys(("head link", "worker links", "trainer links"), cluster.link)
        unit["GPUs"] = cluster.gpu_rate
        return {name: float(np.max(values / unit.get(name, 1.0))) for name, values in used.items()}

    # The pool's actor

    def _heartbeat(self, machine: Machine) -> None:
        def beat() -> None:
            if not machine.down:
                self.pool.put(self.costs.register, registered)
            self.clock.after(HEARTBEAT, beat)

        own = [worker for worker in self.workers if worker.machine is machine]

        def registered() -> None:
            for worker in own:
                worker.heard = self.clock.now

        self.clock.after(HEARTBEAT * float(self.rng.random()), beat)

    def ask(self, key: Hashable, avoid: set[Worker], found: list[Answer | None], go: Done) -> None:
        """Ask the pool's actor for a chunk. Call `go` when the actor has replied, or after ANSWER seconds.

        The actor appends the answer to `found`, or None if no worker outside `avoid` is registered. If it does not
        reply in time, `found` stays empty.
        """
        clock, costs, over = self.clock, self.costs, []

        def reply() -> None:
            if not over:
                over.append(True)
                go()

        def asked() -> None:
            answer = self._choose(key, avoid)
            if not over:
                found.append(answer)
            clock.after(costs.latency, reply)
            self.head.cores.add(costs.pool_else)

        def arrive() -> None:
            if self.pool.backlog > 0.2 * ANSWER:
                clock.after(ANSWER, reply)
            self.pool.put(costs.pool_seconds(len(self.workers)), asked)

        clock.after(costs.latency, arrive)

    def _choose(self, key: Hashable, avoid: set[Worker]) -> Answer | None:
        self.counts["asked"] += 1
        now = self.clock.now
        for worker in avoid:
            worker.suspected = now + SUSPECTED
        answer = self.answers.get(key)
        if answer is not None and answer.worker not in avoid:
            self.counts["shared"] += 1
            if key in answer.machine.kept:
                answer.machine.kept.move_to_end(key)
            return answer
        worker = self._least_loaded(avoid)
        if worker is None:
            return None
        if answer is not None:
            answer.machine.kept.pop(key, None)
        self.answers[key] = answer = Answer(key, worker)
        self._turn += 1
        worker.turn = self._turn if self.cluster.in_turn else worker.number
        self._load(worker, 1)
        self.clock.after(self.costs.latency, lambda: worker.put(answer))
        return answer

    def _load(self, worker: Worker, more: int) -> None:
        worker.under_way += more
        heapq.heappush(self._loads, (worker.under_way, worker.turn, worker.number))
        if len(self._loads) > 8 * len(self.workers) + 64:
            self._loads = [(each.under_way, each.turn, each.number) for each in self.workers]
            heapq.heapify(self._loads)

    def _least_loaded(self, avoid: set[Worker]) -> Worker | None:
        now, top = self.clock.now, self._loads
        while top[0][:2] != ((worker := self.workers[top[0][2]]).under_way, worker.turn):
            heapq.heappop(top)
        if not avoid and worker.suspected <= now and now - worker.heard <= SILENT:
            return worker
        known = [each for each in self.workers if each not in avoid and now - each.heard <= SILENT]
        return min(known, key=lambda each: (each.suspected > now, each.under_way, each.turn), default=None)

    # Chunks

    def made(self, answer: Answer) -> None:
        answer.done = True
        self.counts["decoded"] += 1
        self.clock.after(self.costs.latency, lambda: self._heard(answer))
        answer.machine.cores.add(self.costs.raylet)
        for trainer, ticket in answer.listeners:
            self._fetch(trainer, ticket)
        answer.listeners = []

    def _heard(self, answer: Answer) -> None:
        """Record in the pool's actor that an answer is complete, and cache it if the actor still refers to it.

        Answers to questions that trainers sent to the worker directly are not cached. If the machine then holds more
        than `Cluster.kept` chunks, evict the least recently requested ones.
        """
        if answer.worker.under_way:
            self._load(answer.worker, -1)
        kept = answer.machine.kept
        if self.answers.get(answer.key) is answer:
            kept[answer.key] = answer
            while len(kept) > self.cluster.kept:
                del self.answers[kept.popitem(last=False)[0]]

    def lose(self, answer: Answer) -> None:
        """Mark an answer as lost. Called when Ray reports the loss."""
        answer.lost = True
        self.counts["answers_lost"] += 1
        if not answer.done and answer.worker.under_way:
            self._load(answer.worker, -1)
        answer.worker.suspected = self.clock.now + SUSPECTED
        if self.answers.get(answer.key) is answer:
            del self.answers[answer.key]
            answer.machine.kept.pop(answer.key, None)
        listeners, answer.listeners = answer.listeners, []
        for trainer, ticket in listeners:
            trainer.deliver(ticket, lost=True)

    def pull(self, trainer: Trainer, ticket: Ticket) -> None:
        if ticket.answer.lost:
            trainer.deliver(ticket, lost=True)
        elif ticket.answer.done:
            self._fetch(trainer, ticket)
        else:
            ticket.answer.listeners.append((trainer, ticket))

    def _fetch(self, trainer: Trainer, ticket: Ticket) -> None:
        answer, into, costs = ticket.answer, trainer.machine, self.costs
        if ticket.dropped:
            return
        if answer.machine is into or answer.copies.get(into, ()) is None:
            self.clock.after(costs.latency, lambda: trainer.deliver(ticket, lost=False))
            return
        if answer.machine.down:  # noticed only when Ray reports the machine
            answer.listeners.append((trainer, ticket))
            return
        waiting = answer.copies.setdefault(into, [])
        assert waiting is not None
        waiting.append(lambda: trainer.deliver(ticket, lost=False))
        if len(waiting) > 1:
            return
        left = [5]

        def part() -> None:
            left[0] -= 1
            if not left[0] and not answer.lost:
                there, answer.copies[into] = answer.copies[into], None
                for each in there or ():
                    each()

        answer.machine.sends.add(costs.chunk_bytes, part)
        answer.machine.cores.add(costs.send, part)
        into.receives.add(costs.chunk_bytes, part)
        into.raylet.add(costs.receive_busiest, part)
        into.cores.add(costs.receive, part)

    # Faults

    def _schedule(self, per_hour: float, what: Done) -> None:
        if per_hour > 0:

            def happen() -> None:
                self.counts["faults"] += 1
                what()
                self._schedule(per_hour, what)

            self.clock.after(float(self.rng.exponential(3600 / per_hour)), happen)

    def _any(self, among: list[Any]) -> Any:
        return among[int(self.rng.integers(len(among)))]

    def _kill(self) -> None:
        self._any(self.workers).die(self.cluster.restart, self.cluster.noticed)

    def _freeze(self) -> None:
        self._any(self.workers).freeze(self.cluster.freeze)

    def _lose_machine(self) -> None:
        machine, cluster = self._any(self.machines), self.cluster
        if machine.down or (machine is self.head):
            return
        machine.down = True
        kept = list(machine.kept.values())
        for worker in self.workers:
            if worker.machine is machine:
                worker.die(cluster.repair, cluster.node_noticed)
        self.clock.after(cluster.node_noticed, lambda: [self.lose(answer) for answer in kept] and None)

        def repaired() -> None:
            machine.down = False

        self.clock.after(cluster.repair, repaired)
