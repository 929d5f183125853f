"""`Pool`: the actor that knows the workers, shares their answers, and counts.

It holds nothing that cannot be made again: it may be killed at any time, comes back empty, and the processes that run
workers tell it of them again.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from dali_mix.loading.chunks import Question
from dali_mix.loading.remote import Spec
from dali_mix.service.spec import differences, key_of

SUSPECTED = 5.0  # seconds for which a worker that was late or lost is asked last
RATE_OVER = 10.0  # seconds that the rate in `status` is over


@dataclass
class _Member:
    """A worker."""

    handle: Any
    facts: dict[str, Any]
    under_way: dict[Any, _Entry] = field(default_factory=dict)
    suspected: float = 0.0  # until then
    images: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class _Entry:
    """An answer, there or under way."""

    chunk: Any
    worker: str
    bytes: int = 0
    done: bool = False


class Pool:
    """Puts questions to workers. `capacity`: bytes of answers to keep."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._members: dict[str, _Member] = {}
        self._specs: dict[str, tuple[Spec, str]] = {}
        self._answers: OrderedDict[tuple[str, bytes], _Entry] = OrderedDict()
        self._trainers: dict[str, dict[str, Any]] = {}
        self._counts = {"asked": 0, "decoded": 0, "shared": 0, "second_asks": 0, "lost": 0}
        self._recent: deque[tuple[float, int]] = deque()
        self._begun = time.time()

    # Workers

    def register(self, members: dict[str, tuple[Any, dict[str, Any]]]) -> str:
        """Add workers, name → (handle, facts), again and again. Return "", or why they do not fit."""
        for name, (handle, facts) in members.items():
            for other in self._members.values():
                for what in ("versions", "decode"):
                    ours, theirs = facts[what], other.facts[what]
                    if ours != theirs:
                        return (
                            differences(ours, theirs) if what == "versions" else f"decode {ours} here, {theirs} there"
                        )
            if name not in self._members:
                self._members[name] = _Member(handle, facts)
        return ""

    def remove(self, names: Collection[str]) -> None:
        """Forget workers that end."""
        for name in names:
            self._members.pop(name, None)

    def workers(self) -> dict[str, Any]:
        """Return the handles, for trainers that cannot reach this pool for a while."""
        return {name: member.handle for name, member in self._members.items()}

    # Questions

    def open(self, spec: Spec, asking: dict[str, str]) -> dict[str, Any]:
        """Return key, count, metainfo and taller of a set; or "error"; "workers": 0 where there are none."""
        members = self._by_load(())
        if not members:
            return {"workers": 0}
        facts = self._members[members[0]].facts
        if (differ := differences(asking, facts["versions"])) != "":
            return {"error": f"the pool has other versions than this process: {differ}"}
        if spec.decode not in ("auto", facts["decode"]):
            return {"error": f"decode={spec.decode!r}, but the pool decodes on the {facts['decode'].upper()}"}
        try:
            found = ray.get(self._members[members[0]].handle.facts.remote(spec), timeout=60)
        except ray.exceptions.RayTaskError as error:
            return {"error": str(error.cause), "missing": isinstance(error.cause, FileNotFoundError)}
        fingerprint = found["metainfo"]["fingerprint"]
        key = key_of(spec, fingerprint)
        self._specs[key] = spec, fingerprint
        return {**found, "key": key, "fingerprint": fingerprint}

    def ask(
        self, key: str, spec: Spec, fingerprint: str, question: Question, avoid: Collection[str], trainer: str
    ) -> tuple[Any, str] | None:
        """Return (the answer's reference in a list, the worker's name); None if there is no worker."""
        self._specs.setdefault(key, (spec, fingerprint))
        self._note(trainer, len(avoid))
        self._collect()
        self._counts["asked"] += 1
        self._counts["second_asks"] += len(avoid) == 1
        for name in avoid:
            if name in self._members:
                self._members[name].suspected = time.monotonic() + SUSPECTED
        wanted = key, question.key
        entry = self._answers.get(wanted)
        if entry is not None and (entry.done or entry.worker not in avoid):
            self._answers.move_to_end(wanted)
            self._counts["shared"] += 1
            return [entry.chunk], entry.worker
        names = self._by_load(avoid)
        if not names:
            return None
        member = self._members[names[0]]
        chunk, info = member.handle.answer.options(num_returns=2).remote(key, spec, fingerprint, question)
        entry = _Entry(chunk, names[0])
        member.under_way[info] = entry
        self._answers[wanted] = entry
        self._answers.move_to_end(wanted)
        return [chunk], names[0]

    def _by_load(self, avoid: Collection[str]) -> list[str]:
        """Return the workers' names, the one to ask first."""
        now = time.monotonic()

        def order(name: str) -> tuple[bool, bool, int]:
            member = self._members[name]
            return name in avoid, member.suspected > now, len(member.under_way)

        return sorted(self._members, key=order)

    def _collect(self) -> None:
        """Take note of what was answered since, and drop the answers that were asked for longest ago."""
        pending = [info for member in self._members.values() for info in member.under_way]
        if pending:
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
            for member in self._members.values():
                for info in [info for info in ready if info in member.under_way]:
                    self._answered(member, member.under_way.pop(info), info)
        held = sum(entry.bytes for entry in self._answers.values())
        for wanted, entry in list(self._answers.items()):
            if held <= self._capacity:
                break
            if entry.done:
                held -= entry.bytes
                del self._answers[wanted]

    def _answered(self, member: _Member, entry: _Entry, info: Any) -> None:
        try:
            found = ray.get(info)
        except Exception:  # the trainers get it too, and say so
            self._counts["lost"] += 1
            member.suspected = time.monotonic() + SUSPECTED
            for wanted in [wanted for wanted, other in self._answers.items() if other is entry]:
                del self._answers[wanted]
            return
        entry.done, entry.bytes = True, found["bytes"]
        member.images += found["images"]
        member.seconds += found["seconds"]
        self._counts["decoded"] += 1
        self._recent.append((time.monotonic(), found["images"]))

    # Status

    def _note(self, trainer: str, again: int) -> None:
        seen = self._trainers.setdefault(trainer, {"asked": 0, "second_asks": 0, "seen": 0.0})
        seen["asked"] += 1
        seen["second_asks"] += again == 1
        seen["seen"] = time.time()

    def status(self) -> dict[str, Any]:
        """Return what `dali-mix serve --status` shows, in plain values."""
        self._collect()
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - RATE_OVER:
            self._recent.popleft()
        return {
            "seconds": time.time() - self._begun,
            "images_per_second": sum(images for _, images in self._recent) / RATE_OVER,
            "bytes": sum(entry.bytes for entry in self._answers.values()),
            "capacity": self._capacity,
            "chunks": len(self._answers),
            **self._counts,
            "workers": [
                {
                    "name": name,
                    **member.facts,
                    "under_way": len(member.under_way),
                    "suspected": member.suspected > now,
                    "images": member.images,
                    "images_per_busy_second": member.images / member.seconds if member.seconds else 0.0,
                }
                for name, member in self._members.items()
            ],
            "trainers": [
                {"name": name, "idle": time.time() - seen["seen"], **{k: v for k, v in seen.items() if k != "seen"}}
                for name, seen in self._trainers.items()
            ],
            "sets": [
                {"key": key[:12], "set": str(spec.prefix), "pipeline": spec.pipeline, "train": spec.train}
                for key, (spec, _) in self._specs.items()
            ],
        }


def unpack(taller: Any) -> np.ndarray:
    """Return `taller` as an array of one's own."""
    return np.array(taller, dtype=bool)
