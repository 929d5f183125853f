"""The trainer: fetch, mix, forward, loss, backward, step, observe.

Generator states are not stored. The random values of the model (dropout, Shake-Shake) and of the mixer are derived from
(seed, step, rank, micro-step), those of the loader from (seed, epoch, record). A `state_dict` of tensors and plain
values therefore describes a run completely. A run resumed from it (`train.state`) equals an uninterrupted run; on a
CPU, the two are equal bit for bit.

More than 300 lines: one class, whose methods are the parts of a step and share its state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dali_mix.engine.build import Loader, Parts, build_scores
from dali_mix.engine.checkpoint.files import CheckpointFolder
from dali_mix.engine.config.objects import is_object
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.distributed.process_group import Ranks, StopSignal
from dali_mix.engine.evaluate import NonFiniteScores, Preempted, evaluate
from dali_mix.engine.logging import Report
from dali_mix.engine.scores import SCORES
from dali_mix.engine.train.callbacks import by_name, call, states
from dali_mix.engine.train.ema import ModelEma
from dali_mix.engine.train.finite import total_norm
from dali_mix.engine.train.loss_monitor import LossMonitor, StepNumbers
from dali_mix.engine.train.lr_schedules import build_schedule
from dali_mix.engine.train.objectives import counted, is_summed
from dali_mix.engine.train.precision import Precision
from dali_mix.engine.train.progress import Best, BoxCount, Window
from dali_mix.engine.train.seeding import MIXER, MODEL, derive_seed, seed_model
from dali_mix.engine.train.step_profile import StepProfile
from dali_mix.engine.train.watch import Watch
from dali_mix.loading import Batch
from dali_mix.mixers.base import unmixed


class Trainer:
    """The training loop of a run: it trains the model in `parts` with the settings in `config`.

    Args:
        config: the run's settings.
        parts: the model, loss, optimizer, loaders and other objects of the run.
        ranks: the ranks of the run.
        folder: the folder for checkpoints.
        report: the run's log.
        stop: the flag that a signal sets. The run then saves and ends.
        callbacks: see `train.callbacks.Callback`.
        recipe_name: name of the recipe of `config`, stored in checkpoints.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: Parts,
        ranks: Ranks,
        folder: CheckpointFolder,
        report: Report,
        stop: StopSignal,
        callbacks: Sequence[Any] = (),
        recipe_name: str | None = None,
    ) -> None:
        self.config, self.parts, self.ranks, self.folder, self.report, self.stop = (
            config, parts, ranks, folder, report, stop,
        )  # fmt: skip
        self.callbacks = callbacks
        self.recipe_name = recipe_name
        self.epoch = 0  # the current epoch, from 0
        self.step = 0  # optimizer steps done
        self.offset = 0  # `step` minus the steps this recipe needs to reach the same progress; see `train.state`
        steps_per_epoch = math.ceil(len(parts.train_loader) / config.accumulate)
        self.steps_per_epoch = steps_per_epoch
        self.epochs = config.epochs  # `restore` increases both if the checkpoint is past the end of this recipe
        self.total_steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
        self.factor = build_schedule(
            config.schedule,
            lr=config.optimizer.get("lr") or max(group["base_lr"] for group in parts.optimizer.param_groups),
            steps_per_epoch=steps_per_epoch,
            total_steps=self.total_steps,
        )
        self.precision = Precision(config.amp, ranks.device)
        parts.objective.autocast = self.precision.autocast
        self.objective: torch.nn.Module = parts.objective
        self.no_sync: Callable[[], AbstractContextManager] = nullcontext  # disables DDP's gradient exchange in backward
        if ranks.world_size > 1:
            self.objective = DistributedDataParallel(
                parts.objective,
                device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                find_unused_parameters=config.find_unused_parameters,
            )
            self.no_sync = self.objective.no_sync
        self.ema = None if config.ema is None else ModelEma(parts.model, config.ema)  # DDP has copied rank 0's weights
        # Read numbers late only if the optimizer can be kept from stepping; see `loss_monitor`.
        late = bool(parts.optimizer.defaults.get("fused")) and not self.precision.scaler.is_enabled()
        self.monitor = LossMonitor(ranks, late=late and ranks.device.type == "cuda")
        if self.monitor.late:
            parts.optimizer.found_inf = self.monitor.bad  # type: ignore[attr-defined]  # read by torch's fused kernels
        self.watch = Watch(parts.model, ranks)
        self.generator = torch.Generator()
        self.window = Window()
        self.boxes = BoxCount()
        best = config.best_score(parts.task)
        self.best = Best(best, best.removeprefix("ema_") in SCORES[parts.task.metrics].lower_is_better)
        self.loss = torch.zeros((), device=ranks.device)  # of the last step: this rank's share of the mean
        self.scores: dict[str, float] = {}  # of the last evaluation
        self._evaluated = False  # True once notes on the val_set were logged
        self._first = True  # True until this process has completed a step
        self.inside = False  # True between the first and the last micro-batch of a step
        for loader in (parts.train_loader, parts.val_loader):
            if loader is not None and hasattr(loader, "interrupt_when"):
                loader.interrupt_when(lambda: stop.asked)
        self.saved_at = -1
        self.profile = StepProfile(config.profiling, ranks.device, report.work_dir / "profile" if ranks.main else None)
        self._skipped: dict[int, int] = {}  # id of a loader → number of skipped records reported

    def fit(self) -> str:
        """Train until the run ends or is stopped by a signal.

        After a signal, a checkpoint is saved, unless a step was interrupted between its micro-batches.

        Returns:
            "finished" or "stopped early"; after a signal, "preempted" (SIGTERM) or "interrupted" (Ctrl-C).

        Raises:
            NonFinite: a loss, gradient or statistic is NaN or infinite (it has changed no weight), every step was
                skipped by loss scaling, or a checkpoint would contain NaN or infinity (it is not written).
            OSError: a checkpoint could not be written; earlier ones are unchanged.
        """
        self.report.start_bar(self.step, self.total_steps)
        try:
            while True:
                self.run_epoch()
                last = self.step >= self.total_steps or self.epoch + 1 >= self.epochs
                if last:
                    self.precision.check_any_step()
                if last and self.window.steps:  # log the rest of the last interval
                    self.log()
                evaluates = last or (self.epoch + 1) % self.config.evaluate_epochs == 0
                stopping = self.config.stopping
                may_stop = evaluates and stopping is not None and self.best.since + 1 >= stopping.patience
                # Save before the evaluation. A run resumed from this checkpoint repeats the evaluation.
                if last or may_stop or (self.epoch + 1) % (self.config.checkpoints.interval_epochs or math.inf) == 0:
                    self.save()
                if evaluates:
                    with self.profile.part("evaluating"):
                        self.evaluate()
                self.call("after_epoch")
                if stopping is not None and self.best.since >= stopping.patience:
                    self.report.line(f"no better {self.best.name} in {self.best.since} evaluations")
                    return self.end("stopped early")
                if last:
                    return self.end("finished")
                self.epoch += 1
        except Preempted:
            if self.inside:  # BatchNorm's statistics and the loader have already advanced past the last step
                self.report.line(f"{self.stop.name} inside step {self.step + 1}: continue with --resume")
            else:
                self.save()
                self.report.line(f"{self.stop.name}: saved at step {self.step}; continue with --resume")
            return "interrupted" if self.stop.name == "Ctrl-C" else "preempted"
        finally:
            self.finish_profile()

    def finish_profile(self) -> None:
        """End the step profile, write its files, and log its result. Do nothing if no step was profiled."""
        if found := self.profile.finish(self.step, self.parts.train_loader):
            self.report.line(found)

    def end(self, how: str) -> str:
        """Log at which step the run ended and which files it wrote; return `how`."""
        best, name = "", self.best.name
        if self.best.value is not None:
            best = f", best {name} {self.best.value:.4g} at step {self.best.step} ({self.folder.path}/best.pt)"
        elif self.best.since:
            best = f", no best.pt ({name} was NaN in all {self.best.since} evaluations)"
        self.report.line(f"{how}: step {self.step}{best}, last checkpoint {self.folder.path}/latest")
        return how

    def run_epoch(self) -> None:
        """Train from the loader's position to the end of the epoch or run. Raise Preempted if a signal stops the run.

        Return at once if the loader has already passed the end of the epoch `self.epoch`.
        """
        if self.parts.train_loader.epoch > self.epoch:  # resumed between the last step and the evaluation
            return
        self.call("before_epoch")
        self.objective.train()
        self.window.start_clock()
        batches = self.fetch()
        self.boxes, dropped = BoxCount(), self.boxes_dropped()
        while self.step < self.total_steps and self.train_step(batches):
            self.observe()
        self.record(self.monitor.flush())
        self.log_boxes(self.boxes_dropped() - dropped)
        if self.window.stop:
            raise Preempted

    def fetch(self) -> Iterator[Batch]:
        """Yield the training loader's batches up to the end of its epoch.

        Add the time spent waiting to `window.waited`, count boxes, and warn about skipped records.

        Raise Preempted if the run was asked to stop while waiting for a worker pool.
        """
        batches = iter(self.parts.train_loader)
        while True:
            start = time.perf_counter()
            with self.profile.part("waiting"):
                try:
                    batch = next(batches, None)
                except InterruptedError:  # raised while waiting for a worker pool
                    raise Preempted from None
            self.window.waited += time.perf_counter() - start
            self.warn_of_skipped(self.parts.train_loader)
            if batch is None:
                return
            if self.parts.task.boxes:
                self.boxes.note(batch.targets)
            yield batch

    def boxes_dropped(self) -> int:
        """Return the number of boxes the training loader has dropped so far in this process."""
        return getattr(self.parts.train_loader, "dropped_boxes", 0)

    def log_boxes(self, dropped: int) -> None:
        """Log how many boxes of an epoch were dropped over all ranks, if any. Do nothing for a task without boxes.

        Warn instead if more than half of the boxes were dropped, or if no image had a box. Every rank must call it,
        since the numbers are summed over ranks.

        dropped: number of boxes that this rank's loader dropped.
        """
        if not self.parts.task.boxes:
            return
        counts = torch.tensor([self.boxes.images, self.boxes.kept, dropped], device=self.ranks.device)
        line, warns = self.boxes.summary(*self.ranks.sum_(counts).tolist())
        if line and self.ranks.main:
            (self.report.warn if warns else self.report.line)(f"epoch {self.epoch + 1}/{self.epochs}  {line}")

    def warn_of_skipped(self, loader: Loader) -> None:
        """Warn about each record that `loader` has skipped since the last call."""
        skipped = getattr(loader, "skipped", ())
        for _, reason in skipped[self._skipped.get(id(loader), 0) :]:
            self.report.warn(f"skipped: {reason}")
        self._skipped[id(loader)] = len(skipped)

    def train_step(self, batches: Iterator[Batch]) -> bool:
        """Take one optimizer step on the next `accumulate` batches, or on fewer at the end of an epoch. Return True.

        Return False, without a step, if `batches` is exhausted.
        """
        # The gradient is that of the mean loss over the rows of the global batch, for any split into ranks and
        # micro-batches. The number of rows is known only after the last micro-batch, so the mean is computed in two
        # steps:
        #   before backward  each micro-batch's mean × its rows / expected   (× ranks, since DDP divides by them)
        #   before the step  gradient × expected / actual rows on all ranks
        # expected: the planned number of rows. The actual number is smaller at the end of an epoch, if bad records are
        # skipped, or if a loss ignores targets. Such a loss counts its rows itself, on the device. A loss that sums
        # over rows is not scaled.
        loader, world_size, accumulate = self.parts.train_loader, self.ranks.world_size, self.config.accumulate
        self.profile.begin(self.step, loader)
        expected, seen = 0, 0
        came: int | Tensor = 0
        summed = is_summed(self.parts.objective.minimised)
        rows = counted(self.parts.objective.minimised) if world_size * accumulate > 1 else None
        mean_loss = torch.zeros((), device=self.ranks.device)
        for micro in range(accumulate):
            self.inside = micro > 0
            batch = next(batches, None)
            if batch is None:
                break
            if micro == 0:
                self.call("before_step")
            expected = loader.global_size if accumulate == 1 else loader.global_batch_size * accumulate
            with self.profile.part("mixing"):
                inputs = self.mix(batch, micro)
            count = len(batch.ids) if rows is None else rows(inputs[1])
            share = 1 if summed else count / expected
            with nullcontext() if micro == accumulate - 1 else self.no_sync():
                with self.profile.part("forward"):
                    loss = self.forward(inputs) * (share * world_size)
                with self.profile.part("backward"):
                    self.precision.scaler.scale(loss).backward()
            mean_loss += loss.detach() / world_size
            seen += loader.global_size
            came = came + count
            self.watch.note(self.step + 1, batch.ids)
        self.inside = False
        if not seen:
            return False
        if batch is None:  # the epoch ended within an accumulation, before the ranks exchanged gradients
            self.ranks.average_gradients(self.parts.model)
        # A user's loader may skip records too.
        skips = self.config.loading.on_bad_record == "skip" or is_object(self.config.train_set)
        if rows is not None or (world_size > 1 and skips):
            total = self.ranks.sum_(mean_loss.new_zeros(()) + came)  # no rank knows the others' numbers
            scale: float | Tensor = expected / total.clamp_min(1e-6)
        else:
            scale = expected / (came if world_size == 1 else seen)
        if not summed and (isinstance(scale, Tensor) or scale != 1):
            torch._foreach_mul_([p.grad for p in self.parts.model.parameters() if p.grad is not None], scale)
            mean_loss *= scale
        if self._first:
            self.check_gradients()
        self.loss = mean_loss
        with self.profile.part("step"):
            norm, measured = self.measure()
            self.record(self.monitor.exchange(self.step + 1, mean_loss, self.stop.asked, measured))
            self.update(norm)
        self.window.images += seen
        self.profile.took(seen)
        return True

    def forward(self, inputs: tuple[Any, ...]) -> Tensor:
        """Return the loss of a micro-batch.

        In the first step of this process, an error gets a note with the shape of the images.

        inputs: the result of `mix`.
        """
        try:
            return self.objective(*inputs)
        except Exception as error:  # a model may raise any error
            if self._first:
                images = inputs[0]
                name = getattr(getattr(self.parts.train_loader, "pipeline", None), "name", "")
                whose = f"pipeline {name}" if name else "the loader passed"
                model = type(self.parts.model).__name__
                error.add_note(f"the input of model {model} was a batch of images {tuple(images.shape)} from {whose}")
            raise

    def mix(self, batch: Batch, micro: int) -> tuple[Tensor, Tensor, Any, Any]:
        """Return the arguments of the objective for `batch`: images, targets, params and drawn values.

        The mixer may change the images of `batch` in place. The params are the mixer's; None without a mixer and after
        `mixer_until`. The drawn values are the result of `Objective.draw`.

        Also seed torch's default generators for the model, with a different seed for each micro-step `micro`.
        """
        keys = (self.config.seed, self.step, self.ranks.rank, micro)
        seed_model(derive_seed(MODEL, *keys), self.ranks.device)
        generator = self.generator.manual_seed(derive_seed(MIXER, *keys))
        images, targets, params = batch.images, batch.targets, None
        until = self.config.mixer_until
        done, planned = self.step - self.offset, self.total_steps - self.offset
        if self.parts.mixer is not None and until is not None and done >= round(until * planned):
            images, targets = unmixed(self.parts.mixer, images, targets, len(images))
        elif self.parts.mixer is not None:
            size, _, height, width = images.shape
            params = self.parts.mixer.sample(size, height, width, generator, images.device)
            # The trainer owns the loader's batches, so it mixes in place: no second batch in memory.
            images, targets = self.parts.mixer.apply(images, targets, params, inplace=self.parts.mixer.in_place)
        objective = self.parts.objective
        return images, objective.prepare(targets, images.device), params, objective.draw(images, generator)

    def check_gradients(self) -> None:
        """Warn if a trainable parameter got no gradient in the first step.

        With several ranks, raise ValueError instead. With `find_unused_parameters`, gradients are not checked.

        Set `_first` to False, so this process does not check later steps.
        """
        self._first = False
        if self.config.find_unused_parameters or not (missing := self.watch.check_gradients()):
            return
        advice = "freeze unused parameters (requires_grad_(False) in the model), or set find_unused_parameters=True"
        if self.ranks.world_size > 1:
            raise ValueError(f"{missing}: {advice}")
        self.report.warn(f"{missing}, which will not be trained: {advice}")

    def measure(self) -> tuple[Tensor | None, list[Tensor]]:
        """Return the gradient norm, and a list of scalar tensors that must be finite in this step.

        The list begins with the gradient norm, followed by the norm of the model's statistics if it has any. With loss
        scaling, the gradient norm is None, and the list begins with the loss scale, which `record` checks.
        """
        scaler = self.precision.scaler
        buffers = [total_norm(self.watch.statistics.values())] if self.watch.statistics else []
        if scaler.is_enabled():  # infinite gradients are normal: the scaler skips the step and lowers its scale
            return None, [scaler.scale(torch.ones((), device=self.ranks.device)), *buffers]
        norm = total_norm(p.grad for p in self.parts.model.parameters() if p.grad is not None)
        return norm, [norm, *buffers]

    def update(self, norm: Tensor | None) -> None:
        """Step the optimizer at this step's learning rate, clear the gradients, update the EMA, and increment `step`.

        With `clip_grad_norm`, gradients are clipped first.

        norm: the gradient norm. With None, gradients are unscaled and their norm is computed, but only to clip them.
        """
        optimizer = self.parts.optimizer
        factor = self.factor(self.step - self.offset)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        if self.config.clip_grad_norm:
            parameters = list(self.parts.model.parameters())
            if norm is None:
                self.precision.scaler.unscale_(optimizer)
                norm = total_norm(p.grad for p in parameters if p.grad is not None)
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_grad_norm, norm)
        self.precision.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.parts.model)
        self.step += 1

    def record(self, numbers: StepNumbers | None) -> None:
        """Check a step's `numbers`, and add the loss and stop request to the log interval; do nothing for None.

        Raise NonFinite on every rank if one of the step's numbers is not finite, or the loss scale is below 1.
        """
        if numbers is None:
            return
        self.watch.check_step(numbers)
        if self.precision.scaler.is_enabled():
            self.precision.check_scale(numbers.measured[0])
        self.window.loss += numbers.loss
        self.window.steps += 1
        self.window.stop |= numbers.stop

    def observe(self) -> None:
        """Log and save if due, call the callbacks, and raise Preempted if the run was asked to stop."""
        interval = self.config.checkpoints.interval_steps
        if self.config.log_ids:
            self.report.ids(self.ranks.rank, self.step, self.watch.ids(self.step))
        if self.step % self.config.log_interval == 0 or self.step == self.total_steps:
            self.record(self.monitor.flush())
            self.log()
        self.report.advance()
        if self.profile.complete(self.step):
            self.finish_profile()
        self.call("after_step")
        if interval is not None and self.step % interval == 0:
            self.save()
        if self.window.stop or (self.stop.asked and self.ranks.world_size == 1):
            raise Preempted

    def call(self, hook: str) -> None:
        """Call `hook` of all callbacks with this trainer; see `train.callbacks.call`."""
        call(self.callbacks, hook, self)

    def given(self) -> dict[str, Any]:
        """Return the user's loss, mixer and callbacks by name. Their states are saved with the model's."""
        parts = {name: getattr(self.parts, name) for name in ("loss", "mixer") if getattr(self.config, name)}
        named = {name: part for name, part in parts.items() if is_object(getattr(self.config, name)["type"])}
        return {**named, **by_name(self.callbacks)}

    def log(self) -> None:
        """Log a line and a record for the log interval that ends at this step, and begin a new interval."""
        lr = max(group["lr"] for group in self.parts.optimizer.param_groups)
        values = {"epoch": (self.step - self.offset) / self.steps_per_epoch, "lr": lr, **self.window.close()}
        parts = {name: value.item() for name, value in self.parts.objective.parts.items()}  # of the last step
        self.report.numbers("train", self.step, {**values, **parts})
        left = self.window.seconds_per_step * (self.total_steps - self.step)
        self.report.line(
            f"epoch {self.epoch + 1}/{self.epochs}  step {self.step}/{self.total_steps}  "
            f"loss {values['loss']:.4f}  lr {lr:.3g}  {values['images_per_s']:.0f} img/s  "
            f"wait {100 * values['wait_share']:.1f}%  eta {left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f}"
        )

    def evaluate(self) -> None:
        """Evaluate the model and its EMA, log the scores, and save `best.pt` if the score `best.name` has improved.

        Do nothing without a `val_set`. If a model returns NaN, log a warning and use NaN for its scores. Raise
        Preempted if a rank was asked to stop.
        """
        if self.parts.val_loader is None:
            return
        models = {"": self.parts.model} if self.ema is None else {"": self.parts.model, "ema_": self.ema.module}
        self.ranks.share_buffers(*models.values())
        values, task = {"epoch": float(self.epoch + 1)}, self.parts.task
        for prefix, model in models.items():
            try:
                measure = build_scores(self.config, task, len(self.parts.classes), self.ranks.device)
                scores = evaluate(
                    model,
                    self.parts.val_loader,
                    self.parts.loss,
                    self.ranks,
                    scores=measure,
                    autocast=self.precision.autocast,
                    stop=lambda: self.stop.asked,
                )
                self.warn_of_skipped(self.parts.val_loader)
                for note in () if self._evaluated else measure.notes(self.parts.classes):
                    self.report.line(f"note: {note}")
                self._evaluated = True
            except NonFiniteScores as error:  # the weights are finite: continue, but never save this as the best
                if self.ranks.main:
                    self.report.warn(f"step {self.step}{', averaged weights' if prefix else ''}: {error}")
                scores = dict.fromkeys(measure.names or task.measured, math.nan)
            values.update({prefix + name: value for name, value in scores.items()})
        self.report.numbers("val", self.step, values)
        self.scores = {name: value for name, value in values.items() if name != "epoch"}
        # The line omits scores of the top three labels; metrics.jsonl has all scores.
        in_short = [name for name in values if name != "epoch" and not name.endswith("_top3")]
        shown = "  ".join(f"{name} {values[name]:.4g}" for name in in_short)
        better = self.best.update(values, self.step)
        shown += f"  (best {self.best.name})" if better else ""
        self.report.line(f"epoch {self.epoch + 1}/{self.epochs}  step {self.step}  validation  {shown}")
        if better and self.ranks.main:
            average = {} if self.ema is None else {"ema": self.ema.state_dict()}
            metrics = {**values, "step": self.step}
            best = {"model": self.parts.model.state_dict(), **average, **self.trained_on(), "metrics": metrics}
            self.watch.check_state(best, self.step)
            self.folder.save_best(best)

    def save(self) -> None:
        """Write this step's checkpoint on the main rank, without communication, unless it is already saved.

        First, record the step's pending numbers. If they or the state are not finite, raise NonFinite without writing.
        """
        with self.profile.part("saving"):
            self._save()

    def _save(self) -> None:
        self.record(self.monitor.flush())
        if self.step == self.saved_at:
            return
        if self.ranks.main:
            state = self.state_dict()
            self.watch.check_state(state, self.step)
            self.folder.save(self.step, state)
        self.saved_at = self.step

    def recipe(self) -> dict[str, Any]:
        """Return the result of `RunConfig.resolved` with `amp` resolved for this device."""
        return {**self.config.resolved(), "amp": self.precision.name}

    def trained_on(self) -> dict[str, Any]:
        """Return a dict of "task", "classes", "recipe" and "recipe_name", which evaluation and prediction need."""
        return {**self.parts.trained_on(), "recipe": self.recipe(), "recipe_name": self.recipe_name}

    def state_dict(self) -> dict[str, Any]:
        """Return the run's state between two optimizer steps, as tensors and plain values.

        It is equal on all ranks, except for BatchNorm statistics and the states of the user's objects (see `given`).
        """
        parts = self.parts
        return {
            "format": 1,
            "model": parts.model.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "groups": parts.group_names(),
            "scaler": self.precision.scaler.state_dict() or None,
            "ema": None if self.ema is None else self.ema.state_dict(),
            "loader": parts.train_loader.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "offset": self.offset,
            "steps_per_epoch": self.steps_per_epoch,
            "window": self.window.state_dict(),
            "best": self.best.state_dict(),
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "train_set": self.recipe()["train_set"],
            **({"objects": given} if (given := states(self.given())) else {}),
            **self.trained_on(),
        }
