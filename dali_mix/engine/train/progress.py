"""The current log interval, the boxes of an epoch, and the best score so far."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Window:
    """The current log interval. Loss and steps are saved in checkpoints; times are not.

    Attributes:
        loss: sum of the mean losses of the interval's steps.
        steps: number of steps in the interval.
        images: number of images since the clock started.
        waited: seconds spent waiting for batches since the clock started.
        stop: whether a rank was asked to stop. The trainer then raises `Preempted`.
        seconds_per_step: mean duration of a step in the last closed interval, in seconds.
    """

    loss: float = 0.0
    steps: int = 0
    images: int = 0
    waited: float = 0.0
    stop: bool = False
    seconds_per_step: float = 0.0
    _start: float = 0.0
    _first: int = 0

    def start_clock(self) -> None:
        """Restart the clock. The rates that `close` returns then exclude earlier time, such as an evaluation."""
        self._start, self._first, self.images, self.waited = time.perf_counter(), self.steps, 0, 0.0

    def close(self) -> dict[str, float]:
        """Return a dict of the interval's numbers, update `seconds_per_step`, and begin a new interval.

        "loss" is the mean over the interval's steps. "images_per_s" and "wait_share", the share (0 to 1) of time spent
        waiting for batches, are measured since the clock started.
        """
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
class BoxCount:
    """Counts over an epoch's training batches on this rank.

    Attributes:
        kept: number of boxes in the batches, without those that the loader dropped.
        images: number of images in the batches.
    """

    kept: int = 0
    images: int = 0

    def note(self, targets: Sequence[dict]) -> None:
        """Add the numbers of boxes and images in a batch."""
        self.kept += sum(len(target["boxes"]) for target in targets)
        self.images += len(targets)

    @staticmethod
    def summary(images: int, kept: int, dropped: int) -> tuple[str, bool]:
        """Return the message to log for an epoch ("" for none), and whether it is a warning.

        Args:
            images: number of images in the epoch, over all ranks.
            kept: number of boxes in the batches, over all ranks.
            dropped: number of boxes that the loaders dropped, over all ranks.
        """
        if not images:  # the run was resumed after the last step of the epoch
            return "", False
        if not kept + dropped:
            return f"none of the {images:,} images has a box: only background was trained on", True
        if not kept:
            return f"no box was left to train on: steps and crops dropped all {dropped:,}; see `dali-mix gallery`", True
        if not dropped:
            return "", False
        share = dropped / (kept + dropped)
        line = f"steps and crops dropped {dropped:,} of {kept + dropped:,} boxes ({share:.1%}), which had no area left"
        return (f"{line}; see `dali-mix gallery`", True) if share > 0.5 else (line, False)


@dataclass
class Best:
    """The best value of a score so far, and the step of its evaluation.

    Attributes:
        name: name of the score; "" to track none.
        lower_is_better: whether lower values are better.
        value, step: the best value and its step; None and 0 if there is no value yet.
        since: number of evaluations since the best one.
    """

    name: str
    lower_is_better: bool = False
    value: float | None = None
    step: int = 0
    since: int = 0

    def update(self, scores: dict[str, float], step: int) -> bool:
        """Record the scores of the evaluation at `step`, and return True if the score `name` is the best so far.

        NaN and a score equal to the best are not an improvement. If `name` is "", record nothing and return False.
        """
        if not self.name:
            return False
        value = scores[self.name]
        sign = -1 if self.lower_is_better else 1
        if math.isnan(value) or (self.value is not None and sign * value <= sign * self.value):
            self.since += 1
            return False
        self.value, self.step, self.since = value, step, 0
        return True

    def state_dict(self) -> dict[str, object]:
        return {"name": self.name, "value": self.value, "step": self.step, "since": self.since}

    def load_state_dict(self, state: dict) -> None:
        if state["name"] == self.name:  # otherwise the recipe now selects a different score, which has no history
            self.value, self.step, self.since = state["value"], state["step"], state["since"]
