"""`Pool`: the actor that assigns questions to workers, caches their answers, and keeps statistics.

It has no state that cannot be rebuilt. It may be killed at any time and restarts empty; the nodes then register their
workers again.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ray

from dali_mix.loading.chunks import Question
from dali_mix.loading.workers import Spec
from dali_mix.service.spec import differences

SUSPECTED = 5.0  # seconds for which a worker that was late or lost is used last
SILENT = 12.0  # seconds without registration until a worker is removed: its machine is lost
READER_GONE = 3600.0  # seconds without a question until a reader is removed
RATE_OVER = 10.0  # window in seconds of the rate in `status`
LOOK = 0.02  # seconds between calls of `_collect`, the slowest part of `ask`


@dataclass
class _Member:
    """A registered worker."""

    handle: Any
    details: dict[str, Any]
    under_way: dict[Any, _Entry] = field(default_factory=dict)
    heard: float = 0.0  # time of its last registration
    suspected: float = 0.0  # until this time it is asked last
    images: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class _Entry:
    """An answer to a question, cached or pending."""

    wanted: tuple[str, bytes]
    chunk: Any
    worker: str
    node: str
    bytes: int = 0
    done: bool = False
    askers: set[str] = field(default_factory=set)  # trainers that wait for it


@dataclass
class _Reader:
    """Counts of the questions that one trainer process, HOST:PID, has asked with one key, i.e. for one spec and set."""

    spec: Spec
    asked: int = 0
    second_asks: int = 0
    seen: float = 0.0  # time of its last question


class Pool:
    """The pool's actor: sends questions to workers, and caches their answers.

    The details of a machine's workers contain "capacity", the number of bytes of answers to cache on that machine.
    """

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._answers: dict[tuple[str, bytes], _Entry] = {}
        # Cached answers by node, and their bytes, so that the cost of a question does not grow with the cache.
        self._kept: dict[str, OrderedDict[tuple[str, bytes], _Entry]] = {}
        self._held: Counter[str] = Counter()
        self._readers: dict[tuple[str, str], _Reader] = {}  # by trainer and key
        self._counts = {"asked": 0, "decoded": 0, "shared": 0, "second_asks": 0, "lost": 0}
        self._recent: deque[tuple[float, int]] = deque()
        self._begun = time.time()
        self._looked = 0.0

    # Workers

    def register(self, members: dict[str, tuple[Any, dict[str, Any]]]) -> str:
        """Register workers, name → (handle, details), or renew their registration, which ends after `SILENT` seconds.

        Return "" or, if the versions or "decode" of a worker differ from those of registered workers, the difference;
        this worker and those after it are then not registered. The details are those of `workers.Worker.describe` and,
        in addition, "node", the id of the worker's node, and "capacity", the bytes of answers to cache on that node.
        """
        for name, (handle, details) in members.items():
            for other in itertools.islice(self._members.values(), 1):  # comparing with one is enough
                if differ := differences(details["versions"], other.details["versions"]):
                    return f"{differ}: install the same on both"
                if details["decode"] != other.details["decode"]:
                    return f"decode {details['decode']} here, {other.details['decode']} there"
            if name not in self._members:
                self._members[name] = _Member(handle, dict(details))
            self._members[name].heard = time.monotonic()
        return ""

    def remove(self, names: Collection[str]) -> None:
        """Remove workers and their pending answers. Cached answers stay while a worker of their node is registered."""
        for name in names:
            self._leave(name)

    def _leave(self, name: str) -> None:
        member = self._members.pop(name, None)
        for entry in () if member is None else member.under_way.values():
            if self._answers.get(entry.wanted) is entry:  # its answer will not be collected
                del self._answers[entry.wanted]

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers, name → details, in the order in which they should be asked.

        Names are actor names. Handles are not returned: deserializing one fails once the process that created it has
        ended.
        """
        self._collect()
        return {name: self._members[name].details for name in self._by_load()}

    def live_workers(self) -> dict[str, dict[str, Any]]:
        """Return `workers()` without those whose machine Ray knows to be dead.

        Packers call this, since they would lose tries on such machines. They do not ask Ray themselves, because
        `ray.nodes()` ends the process that calls it if the head ends during the call.
        """
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return {name: details for name, details in self.workers().items() if details["node"] in alive}

    # Questions

    def ask(
        self, key: str, spec: Spec, fingerprint: str, question: Question, avoid: Collection[str], trainer: str
    ) -> tuple[Any, str] | None:
        """Return ([reference to the answer of a question], name of the worker that gives it).

        An answer that is cached or pending is shared, unless its worker is in `avoid`. Otherwise the question is sent
        to the least loaded worker outside `avoid`; return None if there is none. The workers in `avoid` were late with
        this question or lost it. For `SUSPECTED` seconds, other questions are sent to them last.
        """
        if time.monotonic() - self._looked > LOOK:
            self._collect()
        for name in avoid:
            if name in self._members:
                self._members[name].suspected = time.monotonic() + SUSPECTED
        wanted = key, question.key
        entry = self._answers.get(wanted)
        if entry is not None and entry.worker not in avoid:  # else it is late or lost
            if entry.done:
                self._kept[entry.node].move_to_end(wanted)
            else:
                entry.askers.add(trainer)
            self._note(trainer, key, spec, len(avoid))
            self._counts["shared"] += 1
            return [entry.chunk], entry.worker
        names = [name for name in self._by_load() if name not in avoid]
        if not names:
            return None
        self._note(trainer, key, spec, len(avoid))
        member = self._members[names[0]]
        chunk, info = member.handle.answer.options(num_returns=2).remote(key, spec, fingerprint, question)
        self._counts["second_asks"] += len(avoid) == 1
        # Move the worker to the end, so that ties rotate. Otherwise the first machines' links would carry all chunks.
        self._members[names[0]] = self._members.pop(names[0])
        self._forget(wanted)  # an answer that is late or lost
        entry = _Entry(wanted, chunk, names[0], member.details["node"], askers={trainer})
        member.under_way[info] = entry
        self._answers[wanted] = entry
        return [chunk], names[0]

    def _by_load(self) -> list[str]:
        """Return the workers' names, least loaded first, and those suspected to be late or lost last."""
        now = time.monotonic()

        def order(name: str) -> tuple[bool, int]:
            return self._members[name].suspected > now, len(self._members[name].under_way)

        return sorted(self._members, key=order)

    def _collect(self) -> None:
        """Record new answers, remove lost workers and readers, and evict the least recently requested answers."""
        self._looked = time.monotonic()
        pending = [info for member in self._members.values() for info in member.under_way]
        if pending:
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
            for member in list(self._members.values()):
                for info in [info for info in ready if info in member.under_way]:
                    self._answered(member, member.under_way.pop(info), info)
        now = time.monotonic()
        self.remove([name for name, member in self._members.items() if now - member.heard > SILENT])
        for reader in [reader for reader, seen in self._readers.items() if time.time() - seen.seen > READER_GONE]:
            del self._readers[reader]
        self._trim()
        while self._recent and self._recent[0][0] < now - RATE_OVER:
            self._recent.popleft()

    def _trim(self) -> None:
        """Evict the least recently requested answers of nodes above their capacity, and all answers of lost nodes."""
        capacities = self._capacities()
        for node, kept in list(self._kept.items()):
            while kept and self._held[node] > capacities.get(node, -1):
                self._forget(next(iter(kept)))
            if node not in capacities:
                del self._kept[node], self._held[node]

    def _forget(self, wanted: tuple[str, bytes]) -> None:
        entry = self._answers.pop(wanted, None)
        if entry is not None and entry.done:
            del self._kept[entry.node][wanted]
            self._held[entry.node] -= entry.bytes

    def _capacities(self) -> dict[str, int]:
        return {member.details["node"]: member.details["capacity"] for member in self._members.values()}

    def _answered(self, member: _Member, entry: _Entry, info: Any) -> None:
        try:
            found = ray.get(info)
        except Exception as error:  # trainers get the same error and report it
            if self._answers.get(entry.wanted) is entry:
                del self._answers[entry.wanted]
            if isinstance(error, ray.exceptions.RayTaskError):  # the question fails, not the worker
                return
            self._counts["lost"] += 1
            member.suspected = time.monotonic() + SUSPECTED
            if isinstance(error, ray.exceptions.ActorDiedError):  # a restarted worker registers again
                self._leave(entry.worker)
            return
        if self._answers.get(entry.wanted) is entry:  # the question was not sent to another worker since
            entry.done, entry.bytes = True, found["bytes"]
            entry.askers.clear()
            self._kept.setdefault(entry.node, OrderedDict())[entry.wanted] = entry
            self._held[entry.node] += entry.bytes
        member.details["pid"] = found["pid"]  # changes with a restart
        member.images += found["images"]
        member.seconds += found["seconds"]
        self._counts["decoded"] += 1
        self._recent.append((time.monotonic(), found["images"]))

    # Status

    def _waits_for(self, trainer: str) -> dict[str, int]:
        """Return worker → number of its pending answers that `trainer` waits for, without workers that have none."""
        under_way = {name: member.under_way.values() for name, member in self._members.items()}
        counts = {name: sum(trainer in entry.askers for entry in entries) for name, entries in under_way.items()}
        return {name: count for name, count in counts.items() if count}

    def _note(self, trainer: str, key: str, spec: Spec, again: int) -> None:
        self._counts["asked"] += 1
        seen = self._readers.setdefault((trainer, key), _Reader(spec))
        seen.asked += 1
        seen.second_asks += again == 1
        seen.seen = time.time()

    def status(self) -> dict[str, Any]:
        """Return the status shown by `dali-mix serve --status`, as plain values.

        The values are "seconds" since the start, "images_per_second" over the last `RATE_OVER` seconds, "bytes" and
        "capacity" of the cache, and the number of "chunks" cached or pending. The counts since the start are "asked",
        "decoded", "shared", "second_asks" and "lost". The lists of dicts are "workers", "trainers" and "sets".
        """
        self._collect()
        now = time.monotonic()
        trainers: dict[str, list[_Reader]] = {}
        for (trainer, _), reader in self._readers.items():
            trainers.setdefault(trainer, []).append(reader)
        return {
            "seconds": time.time() - self._begun,
            "images_per_second": sum(images for _, images in self._recent) / RATE_OVER,
            "bytes": sum(self._held.values()),
            "capacity": sum(self._capacities().values()),
            "chunks": len(self._answers),
            **self._counts,
            "workers": [
                {
                    "name": name,
                    **member.details,
                    "under_way": len(member.under_way),
                    "suspected": member.suspected > now,
                    "images": member.images,
                    "images_per_busy_second": member.images / member.seconds if member.seconds else 0.0,
                }
                for name, member in self._members.items()
            ],
            "trainers": [
                {
                    "name": name,
                    "idle": time.time() - max(reader.seen for reader in readers),
                    "asked": sum(reader.asked for reader in readers),
                    "second_asks": sum(reader.second_asks for reader in readers),
                    "waits_for": self._waits_for(name),
                }
                for name, readers in trainers.items()
            ],
            "sets": [
                {"key": key[:12], "set": str(spec.prefix), "pipeline": spec.pipeline, "train": spec.train}
                for key, spec in {key: reader.spec for (_, key), reader in self._readers.items()}.items()
            ],
        }
