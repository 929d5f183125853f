"""`StepProfile`: time the parts of some steps of a run, and trace them with torch's profiler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from dali_mix._files import replacing
from dali_mix.engine.checkpoint.files import json_text, write_text
from dali_mix.engine.config.groups import ProfileOptions
from dali_mix.loading.stats import READY, Clock

PARTS = ("waiting", "mixing", "forward", "backward", "step", "other")


class StepProfile:
    """A timer and tracer of some steps of this process.

    While it is active, it synchronizes with the GPU after each part of a step.

    Args:
        options: the `first` and the `last` step to profile; None disables profiling.
        device: device of the model.
        folder: folder for profile.json and trace.json (for chrome://tracing or ui.perfetto.dev); None on ranks other
            than 0, which synchronize but write nothing.
    """

    def __init__(self, options: ProfileOptions | None, device: torch.device, folder: Path | None) -> None:
        self._options = options
        self._device = device
        self._folder = folder
        self._before: int | None = None  # steps done before this process started
        self._clock: Clock | None = None  # set while profiling
        self._images = 0
        self._tracer: Any = None

    def part(self, name: str) -> AbstractContextManager:
        """Return a context manager that times its block as part `name` of the current step, if this step is profiled.

        `finish` reports only the names in `PARTS`.
        """
        return nullcontext() if self._clock is None else self._measured(self._clock, name)

    @contextlib.contextmanager
    def _measured(self, clock: Clock, name: str) -> Iterator[None]:
        with torch.profiler.record_function(name):
            before = clock.switch(name)
            try:
                yield
                self._wait()
            finally:
                clock.switch(before)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def begin(self, done: int, loader: Any) -> None:
        """Mark the start of a step. Start profiling if this is the first step to profile.

        Args:
            done: number of steps of the run before this step. The steps in `options` are counted from the first call.
            loader: the training loader, whose `stats` are reset if profiling starts.
        """
        self._before = done if self._before is None else self._before
        if self._options is None or done - self._before + 1 != self._options.first or self._clock is not None:
            return
        self._wait()
        if hasattr(loader, "stats"):
            loader.stats(reset=True)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        if self._folder is not None:
            self._tracer = torch.profiler.profile(activities=activities)
            self._tracer.start()
        self._clock = Clock()
        self._clock.switch("other")

    def took(self, images: int) -> None:
        """Count `images`, the number of images in a finished step over all ranks, if that step is profiled."""
        self._images += images if self._clock is not None else 0

    def complete(self, done: int) -> bool:
        """Return True if step `done` of the run is the last step to profile."""
        return self._options is not None and done - (self._before or 0) == self._options.last

    def finish(self, done: int, loader: Any) -> str:
        """End profiling, write profile.json and trace.json, and return the message to log.

        Write nothing and return "" on ranks other than 0, if profiling is not active, or if no step was completed.

        Args:
            done: number of steps of the run that are finished.
            loader: the training loader. Its `stats` show what limits it.
        """
        clock, number = self._clock, done - (self._before or 0)
        if clock is None or self._options is None:
            return ""
        self._wait()
        clock.switch(None)
        self._clock, steps = None, number - self._options.first + 1
        if self._folder is None:
            return ""
        self._tracer.stop()
        if steps < 1:
            return ""
        milliseconds = {name: 1000 * clock.seconds.get(name, 0.0) / steps for name in PARTS}
        total = sum(milliseconds.values())
        share = milliseconds["waiting"] / total
        stats = loader.stats() if hasattr(loader, "stats") else None
        if share <= READY or stats is None:
            model = sum(milliseconds[name] for name in ("forward", "backward", "step")) / total
            limit = f"the model's steps: {model:.0%} of the time; {share:.1%} is spent waiting for batches"
        else:
            limit = f"the loader ({share:.0%} of the time is spent waiting for it): {stats.limit}"
        found = {
            "what": f"steps {self._options.first} to {number}, on {self._device.type}",
            "milliseconds": milliseconds,
            "images_per_second": 1000 * self._images / steps / total,
            "limit": limit,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / "trace.json") as aside:
            self._tracer.export_chrome_trace(str(aside))
        write_text(self._folder / "profile.json", json_text(found, indent=2) + "\n")
        parts = ", ".join(f"{name} {value:.1f}" for name, value in milliseconds.items())
        return f"profile of {found['what']}, ms per step: {parts}; limited by {limit}; see {self._folder}"
