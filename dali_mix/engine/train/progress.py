"""The trainer's small memories: the log interval under way, and the best score so far."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass


@dataclass
class Window:
    """The log interval under way. Loss and steps are part of a checkpoint, so that logs continue; times are not."""

    loss: float = 0.0
    steps: int = 0
    images: int = 0
    waited: float = 0.0
    stop: bool = False
    seconds_per_step: float = 0.0
    _start: float = 0.0
    _first: int = 0

    def start_clock(self) -> None:
        """Leaves out what was not training (an evaluation, a start-up) from the rates."""
        self._start, self._first, self.images, self.waited = time.perf_counter(), self.steps, 0, 0.0

    def close(self) -> dict[str, float]:
        """Mean loss over the interval, and rates over the time since the clock was started; begins a new interval."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        timed = max(self.steps - self._first, 1)
        self.seconds_per_step = seconds / timed
        values = {
            "loss": self.loss / max(self.steps, 1),
            "images_per_s": self.images / seconds,
            "wait_share": min(self.waited / seconds, 1.0),
        }
        self.loss, self.steps = 0.0, 0
        self.start_clock()
        return values

    def state_dict(self) -> dict[str, float]:
        return {"loss": self.loss, "steps": self.steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.loss, self.steps = float(state["loss"]), int(state["steps"])


@dataclass
class Best:
    """The best value so far of the score called `name`; lower is better for a loss, higher for all else."""

    name: str
    value: float | None = None
    step: int = 0
    since: int = 0

    def update(self, scores: dict[str, float], step: int) -> str:
        """Takes an evaluation in; returns what to say when it is the best yet, else ""."""
        if not self.name:
            return ""
        value = scores[self.name]
        sign = -1 if self.name.endswith("loss") else 1
        if math.isnan(value) or (self.value is not None and sign * value <= sign * self.value):
            self.since += 1
            return ""
        self.value, self.step, self.since = value, step, 0
        return f"  (best {self.name})"

    def state_dict(self) -> dict[str, object]:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        if state["name"] == self.name:  # another score asked for: its history begins here
            self.value, self.step, self.since = state["value"], state["step"], state["since"]
