"""Log a run: text to the terminal and train.log, numbers to metrics.jsonl and mmengine's visualizer backends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dali_mix._keywords import in_keywords
from dali_mix.engine.checkpoint.files import json_text, write_text
from dali_mix.options import did_you_mean

_BACKENDS = {"tensorboard": "TensorboardVisBackend", "wandb": "WandbVisBackend", "mlflow": "MLflowVisBackend"}


def visualizer_names(setting: str | list[str]) -> list[str]:
    """Return the names of the backends for a recipe's `visualizer`; "auto" is TensorBoard if installed.

    Raises:
        ValueError: an unknown backend, or one requested by name that is not installed.
    """
    if setting == "auto":
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    names = [setting] if isinstance(setting, str) else list(setting)
    for name in names:
        if name not in _BACKENDS:
            hint = did_you_mean(name, _BACKENDS)
            raise ValueError(f"visualizer {name!r} is unknown{hint}: use {', '.join(_BACKENDS)}, or [] for none")
        if importlib.util.find_spec(name) is None:
            how = "pip install 'dali_mix[vis]'" if name == "tensorboard" else f"pip install {name}"
            raise ValueError(f"visualizer {name!r} was requested but is not installed: {how}, or set visualizer=[]")
    return names


def read_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (line, record) pairs of a .jsonl file. `line` ends in a newline, and the record is the JSON object in it.

    Empty lines, and a last line that is truncated (without a newline), are omitted.

    Raises:
        ValueError: a line is not a JSON object with a step; the message contains the line number.
    """
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        if not line.strip():
            continue
        try:
            text = line.decode()
            record = json.loads(text)
            step = record["step"]
            if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 63:
                raise ValueError(f"its step is {str(step)[:40]}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not a record with a step ({error!r}); delete that line") from None
        found.append((f"{text}\n", record))
    return found


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Remove the records for which `wanted(record)` is False from a .jsonl file. Do nothing if the file does not exist.

    Raise the errors of `read_records`, and OSError if the file could not be written.
    """
    if path.is_file():
        write_text(path, "".join(line for line, record in read_records(path) if wanted(record)))


class LineFile:
    """A text file that is flushed after each line. If it is empty when it is closed, it is removed."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self._file = path.open(mode, encoding="utf-8", buffering=1)

    def write(self, line: str) -> None:
        """Append `line` and a newline. On failure, close the file and raise OSError with a message that names it."""
        try:
            self._file.write(line + "\n")
        except OSError as error:
            self.close()
            why = f"could not write {self.path}: {error.strerror or error}"
            raise type(error)(f"{why}. Free disk space, then continue with --resume") from error

    def close(self) -> None:
        """Close the file, and remove it if it is empty. OSErrors are ignored, since `write` raises them."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            if not self.path.stat().st_size:
                self.path.unlink()


class Report:
    """The log of a run, written by the main rank; on other ranks only `warn` and `ids` have an effect.

    metrics.jsonl holds one JSON object per line. A log interval is recorded as {"kind": "train", "step", "epoch",
    "loss", "lr", "images_per_s", "wait_share"}, with a fractional epoch; a detector adds its individual losses. An
    evaluation is recorded as {"kind": "val", "step", "epoch", "top1", …}. NaN and infinite values are null.

    Args:
        work_dir: folder for the files.
        main: whether this is the main rank.
        visualizer: names as `visualizer_names` returns them.
    """

    def __init__(self, work_dir: Path, *, main: bool, visualizer: list[str]) -> None:
        self.work_dir = work_dir
        self.main = main
        self._bar: tqdm | None = None
        self._log: LineFile | None = None
        self._metrics: LineFile | None = None
        self._ids: LineFile | None = None
        self._visualizer: Any = None
        self._backends = visualizer

    def open(self, resumed_at: int | None, *, logged: bool = True) -> None:
        """Open train.log, metrics.jsonl and the visualizer's backends on the main rank. Do nothing on other ranks.

        A new run starts with empty files, and removes the ids-rankN.jsonl of all ranks. A resumed run appends to
        train.log, and removes from the .jsonl files the records after its checkpoint and the evaluation at its step,
        which is repeated.

        Args:
            resumed_at: the step of the checkpoint from which the run continues; None for a new run.
            logged: whether the log interval that ends at that step was logged before the checkpoint was saved. If not,
                it is logged after resuming, so a record of it is removed.
        """
        if not self.main:
            return
        self.work_dir.mkdir(parents=True, exist_ok=True)
        at_step = {"train": logged, "val": False}  # whether to keep that step's records; its evaluation is repeated
        for path in (self.work_dir / "metrics.jsonl", *sorted(self.work_dir.glob("ids-rank*.jsonl"))):
            if resumed_at is None:
                path.unlink(missing_ok=True)
            else:
                keep_lines(path, lambda r: r["step"] < resumed_at + at_step.get(str(r.get("kind")), True))
        mode = "w" if resumed_at is None else "a"
        self._log = LineFile(self.work_dir / "train.log", mode)
        self._metrics = LineFile(self.work_dir / "metrics.jsonl", "a")
        if self._backends:
            from mmengine.visualization import Visualizer

            backends = [{"type": _BACKENDS[name], "save_dir": str(self.work_dir / name)} for name in self._backends]
            self._visualizer = Visualizer(name=f"dali_mix-{id(self)}", vis_backends=backends)

    def close(self) -> None:
        """Close all files and backends."""
        for part in (self._bar, self._log, self._metrics, self._ids, self._visualizer):
            if part is not None:
                part.close()
        self._bar = self._log = self._metrics = self._ids = self._visualizer = None

    def line(self, text: str) -> None:
        """Write a timestamped line to the terminal and to train.log."""
        if not self.main:
            return
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {in_keywords(text)}"
        if self._bar is not None:
            tqdm.write(stamped, file=sys.stdout)
        else:
            print(stamped, flush=True)
        if self._log is not None:
            self._log.write(stamped)

    def warn(self, text: str) -> None:
        """Write a warning to stderr and, on the main rank, to train.log."""
        text = in_keywords(text)
        print(f"WARNING: {text}", file=sys.stderr, flush=True)
        if self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  WARNING: {text}")

    def numbers(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Write a record with `values` to metrics.jsonl, and `values` except "epoch" to the visualizer's backends.

        Do nothing on ranks other than the main rank. `kind` is "train" or "val" (see the class).
        """
        if not self.main:
            return
        if self._metrics is not None:
            self._metrics.write(json_text({"kind": kind, "step": step, **values}))
        if self._visualizer is not None:
            scalars = {f"{kind}/{name}": value for name, value in values.items() if name != "epoch"}
            self._visualizer.add_scalars(scalars, step=step)

    def ids(self, rank: int, step: int, ids: list[int]) -> None:
        """Append the record numbers `ids` that this rank trained on in `step` to ids-rankN.jsonl, where N is `rank`.

        Every rank writes its own file.
        """
        if self._ids is None:
            self._ids = LineFile(self.work_dir / f"ids-rank{rank}.jsonl", "a")
        self._ids.write(json_text({"step": step, "ids": ids}))

    def start_bar(self, step: int, total: int) -> None:
        """Show a progress bar over `total` steps, starting at `step`, if stderr is a terminal."""
        if self.main and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.05)

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        if self._bar is not None:
            self._bar.update()
