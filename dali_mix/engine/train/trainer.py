"""The trainer: fetch, mix, forward, loss, backward, step, observe.

Randomness is derived, never carried along: the model's (dropout, Shake-Shake) from (seed, step, rank, micro-step), the
mixer's likewise, the loader's from (seed, epoch, record). So a run is its state (`train.state`), tensors and plain
values, and going on from it gives what would have been without the stop; on a CPU to the bit.

More than 300 lines: one class, whose methods are the parts of a step and share that state.
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

from dali_mix.engine.build import BatchLike, Loader, Parts
from dali_mix.engine.checkpoint.files import CheckpointFolder
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.distributed.process_group import Ranks, StopSignal
from dali_mix.engine.evaluate import NonFiniteScores, Preempted, evaluate
from dali_mix.engine.logging import Report
from dali_mix.engine.scores import SCORES
from dali_mix.engine.train.ema import ModelEma
from dali_mix.engine.train.finite import total_norm
from dali_mix.engine.train.loss_monitor import Beat, Pulse
from dali_mix.engine.train.lr_schedules import build_schedule
from dali_mix.engine.train.precision import Precision
from dali_mix.engine.train.progress import Best, Window
from dali_mix.engine.train.seeding import MIXER, MODEL, derive_seed, seed_model
from dali_mix.engine.train.state import capture, facts
from dali_mix.engine.train.watch import Watch


class Trainer:
    """Trains `parts` as `config` says.

    Args:
        observers: called with the trainer after every optimizer step.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: Parts,
        ranks: Ranks,
        folder: CheckpointFolder,
        report: Report,
        stop: StopSignal,
        observers: Sequence[Callable[[Trainer], None]] = (),
    ) -> None:
        self.config, self.parts, self.ranks, self.folder, self.report, self.stop = (
            config, parts, ranks, folder, report, stop,
        )  # fmt: skip
        self.observers = observers
        self.epoch = 0  # under way
        self.step = 0  # optimizer steps done
        self.offset = 0  # how many of them are more than this recipe takes as far: resumed with another batch size
        steps_per_epoch = math.ceil(len(parts.train_loader) / config.accumulate)
        self.total_steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
        self.steps_per_epoch = steps_per_epoch
        self.factor = build_schedule(
            config.schedule,
            lr=config.optimizer["lr"],
            steps_per_epoch=steps_per_epoch,
            total_steps=self.total_steps,
        )
        self.precision = Precision(config.amp, ranks.device)
        parts.objective.autocast = self.precision.autocast
        self.objective: torch.nn.Module = parts.objective
        if ranks.world_size > 1:
            gpu = [ranks.device.index] if ranks.device.type == "cuda" else None
            self.objective = DistributedDataParallel(
                parts.objective,
                device_ids=gpu,
                gradient_as_bucket_view=True,
                find_unused_parameters=config.find_unused_parameters,
            )
        self.ema = None if config.ema is None else ModelEma(parts.model, config.ema)  # after DDP: rank 0's weights
        # Read late only where the optimizer itself can be kept from stepping; see `pulse`.
        late = bool(parts.optimizer.defaults.get("fused")) and self.precision.scaler is None
        self.pulse = Pulse(ranks, late=late and ranks.device.type == "cuda")
        if self.pulse.late:
            parts.optimizer.found_inf = self.pulse.bad  # type: ignore[attr-defined]  # read by torch's fused kernels
        self.watch = Watch(parts.model, ranks)
        self.generator = torch.Generator()
        self.window = Window()
        self.best = Best(config.best_score(parts.task))
        self._evaluated = False  # whether notes on the val_set were logged
        self._first = True  # no step of this process has been done
        self.saved_at = -1
        self._skipped: dict[int, int] = {}  # records that each loader has left out so far, and were told of

    def fit(self) -> str:
        """Trains to the end and returns "finished", "stopped early", or after saving "preempted" or "interrupted".

        Raises:
            NonFinite: a loss or gradient is NaN or infinite, before the optimizer step it belongs to; or a checkpoint
                would hold such a number, before it is written.
            OSError: a checkpoint could not be written; earlier ones are untouched.
        """
        self.report.start_bar(self.step, self.total_steps)
        try:
            while True:
                self.run_epoch()
                last = self.step >= self.total_steps or self.epoch + 1 >= self.config.epochs
                if last:
                    self.precision.check_taken()
                if last and self.window.steps:  # the rest of the last interval
                    self.log()
                # Saved before the evaluation, which a resumed run simply does again.
                if last or (self.epoch + 1) % (self.config.checkpoints.interval_epochs or math.inf) == 0:
                    self.save()
                if last or (self.epoch + 1) % self.config.evaluate_epochs == 0:
                    self.evaluate()
                if self.config.stopping and self.best.since >= self.config.stopping.patience:
                    self.report.line(f"no better {self.best.name} in {self.best.since} evaluations")
                    return self.end("stopped early")
                if last:
                    return self.end("finished")
                self.epoch += 1
        except Preempted:
            self.save()
            self.report.line(f"{self.stop.name}: saved at step {self.step}; go on with --resume")
            return "interrupted" if self.stop.name == "Ctrl-C" else "preempted"

    def end(self, how: str) -> str:
        """Says where the run ended and what it leaves, and returns `how`."""
        best = ""
        if self.best.value is not None:
            best = (
                f", best {self.best.name} {self.best.value:.4g} at step {self.best.step} ({self.folder.path}/best.pt)"
            )
        elif self.best.since:
            best = f", no best.pt ({self.best.name} was NaN in all {self.best.since} evaluations)"
        self.report.line(f"{how}: step {self.step}{best}, last checkpoint {self.folder.path}/latest")
        return how

    def run_epoch(self) -> None:
        """Trains from where the loader stands to the end of the epoch."""
        if self.parts.train_loader.epoch > self.epoch:  # resumed between the last step and the evaluation
            return
        self.objective.train()
        self.window.start_clock()
        batches = self.fetch()
        while self.step < self.total_steps and self.train_step(batches):
            self.observe()
        self.take(self.pulse.flush())
        if self.window.stop:
            raise Preempted

    def fetch(self) -> Iterator[BatchLike]:
        """The loader's batches; the time spent waiting for them is noted."""
        batches = iter(self.parts.train_loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.window.waited += time.perf_counter() - start
            self.warn_of_skipped(self.parts.train_loader)
            if batch is None:
                return
            yield batch

    def warn_of_skipped(self, loader: Loader) -> None:
        """Warn of each record that `loader` has left out since the last call."""
        skipped = getattr(loader, "skipped", ())
        for _, reason in skipped[self._skipped.get(id(loader), 0) :]:
            self.report.warn(f"left out: {reason}")
        self._skipped[id(loader)] = len(skipped)

    def train_step(self, batches: Iterator[BatchLike]) -> bool:
        """One optimizer step on up to `accumulate` micro-batches; False when the epoch had none left.

        Each rank's loss is weighted by its share of the global batch, so that the gradient is that of the mean over
        all its records, whatever the number of ranks, however uneven the last batch, and if bad records are left out.
        Where ignored targets leave fewer to a loss than came, its share is what it counts. A loss that is a sum over
        records stays one.
        """
        loader, world_size, accumulate = self.parts.train_loader, self.ranks.world_size, self.config.accumulate
        expected, seen = 0, 0
        came: int | Tensor = 0
        summed = self.parts.objective.summed
        rows = self.parts.objective.counted if world_size * accumulate > 1 else None
        mean_loss = torch.zeros((), device=self.ranks.device)
        for micro in range(accumulate):
            batch = next(batches, None)
            if batch is None:
                break
            expected = loader.global_size if accumulate == 1 else loader.global_batch_size * accumulate
            inputs = self.mix(batch, micro)
            counted = len(batch.ids) if rows is None else rows(inputs[1])
            share = 1 if summed else counted / expected
            with self.exchange_gradients(micro == accumulate - 1):
                loss = self.objective(*inputs) * (share * world_size)
                self.scaled(loss).backward()
            mean_loss += loss.detach() / world_size
            seen += loader.global_size
            came = came + counted
            self.watch.note(self.step + 1, batch.ids)
        if not seen:
            return False
        if batch is None:  # the epoch ended inside an accumulation, before the ranks exchanged gradients
            self.ranks.average_gradients(self.parts.model)
        if rows is not None or (world_size > 1 and self.config.loading.on_bad_record == "skip"):
            total = self.ranks.sum_(mean_loss.new_zeros(()) + came)  # only the ranks together know
            scale: float | Tensor = expected / total.clamp_min(1e-6)
        else:
            scale = expected / (came if world_size == 1 else seen)
        if not summed and (isinstance(scale, Tensor) or scale != 1):
            torch._foreach_mul_([p.grad for p in self.parts.model.parameters() if p.grad is not None], scale)
            mean_loss *= scale
        if self._first:
            self.check_gradients()
        norm, measured = self.measure()
        self.take(self.pulse.beat(self.step + 1, mean_loss, self.stop.asked, measured))
        self.update(norm)
        self.window.images += seen
        return True

    def exchange_gradients(self, now: bool) -> AbstractContextManager:
        """Whether backward inside averages gradients over ranks, or leaves that to the last micro-batch."""
        wrapped = self.objective
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) and not now else nullcontext()

    def mix(self, batch: BatchLike, micro: int) -> tuple[Tensor, Tensor, Any, Any]:
        """Seeds the model's randomness for this micro-step, mixes the batch, and draws for the objective."""
        keys = (self.config.seed, self.step, self.ranks.rank, micro)
        seed_model(derive_seed(MODEL, *keys), self.ranks.device)
        generator = self.generator.manual_seed(derive_seed(MIXER, *keys))
        images, targets, params = batch.images, batch.targets, None
        if self.parts.mixer is not None:
            size, _, height, width = images.shape
            params = self.parts.mixer.sample(size, height, width, generator, images.device)
            # The loader's batches are ours: mixed in place, none needs a second one.
            images, targets = self.parts.mixer.apply(images, targets, params, inplace=self.parts.mixer.in_place)
        return images, targets, params, self.parts.objective.draw(images, generator)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss as it goes into backward: scaled up for fp16."""
        return loss if self.precision.scaler is None else self.precision.scaler.scale(loss)

    def check_gradients(self) -> None:
        """Raise ValueError on several ranks, and warn in a single process, if the first step left out a parameter."""
        self._first = False
        if self.config.find_unused_parameters or not (missing := self.watch.check_gradients()):
            return
        advice = "freeze what is not used (requires_grad_(False) in the model), or set find_unused_parameters=True"
        if self.ranks.world_size > 1:
            raise ValueError(f"{missing}: {advice}")
        self.report.warn(f"{missing}, which will not be trained: {advice}")

    def measure(self) -> tuple[Tensor | None, list[Tensor]]:
        """Return the norm of the gradient, None for scaled ones, and what must be finite for this step to be taken."""
        scaler = self.precision.scaler
        buffers = [total_norm(self.watch.statistics.values())] if self.watch.statistics else []
        if scaler is not None:  # infinite gradients are usual: the scaler leaves that step out and lowers its scale
            return None, [scaler.scale(torch.ones((), device=self.ranks.device)), *buffers]
        norm = total_norm(p.grad for p in self.parts.model.parameters() if p.grad is not None)
        return norm, [norm, *buffers]

    def update(self, norm: Tensor | None) -> None:
        """Clips to the gradient's `norm`, steps at this step's rate, and follows with the average."""
        optimizer, scaler = self.parts.optimizer, self.precision.scaler
        factor = self.factor(self.step - self.offset)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        if self.config.clip_grad_norm:
            parameters = list(self.parts.model.parameters())
            if scaler is not None:
                scaler.unscale_(optimizer)
                norm = total_norm(p.grad for p in parameters if p.grad is not None)
            assert norm is not None
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_grad_norm, norm)
        self.precision.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.parts.model)
        self.step += 1

    def take(self, beat: Beat | None) -> None:
        """Takes note of a step's loss; stops everything where that or another number of it is not finite.

        Raises:
            NonFiniteLoss: on every rank.
        """
        if beat is None:
            return
        self.watch.check_step(beat)
        if self.precision.scaler is not None:
            self.precision.check_scale(beat.measured[0])
        self.window.loss += beat.loss
        self.window.steps += 1
        self.window.stop |= beat.stop

    def observe(self) -> None:
        """Logs, saves and stops where it is time to; calls the observers."""
        interval = self.config.checkpoints.interval_steps
        due = interval is not None and self.step % interval == 0
        if self.config.log_ids:
            self.report.ids(self.ranks.rank, self.step, self.watch.ids(self.step))
        if self.step % self.config.log_interval == 0 or self.step == self.total_steps:
            self.take(self.pulse.flush())
            self.log()
        self.report.advance()
        if due:
            self.save()
        for observer in self.observers:
            observer(self)
        if self.window.stop or (self.stop.asked and self.ranks.world_size == 1):
            raise Preempted

    def log(self) -> None:
        """One line and one record of the interval that ends here."""
        lr = max(group["lr"] for group in self.parts.optimizer.param_groups)
        values = {"epoch": (self.step - self.offset) / self.steps_per_epoch, "lr": lr, **self.window.close()}
        self.report.numbers("train", self.step, values)
        left = self.window.seconds_per_step * (self.total_steps - self.step)
        self.report.line(
            f"epoch {self.epoch + 1}/{self.config.epochs}  step {self.step}/{self.total_steps}  "
            f"loss {values['loss']:.4f}  lr {lr:.3g}  {values['images_per_s']:.0f} img/s  "
            f"wait {100 * values['wait_share']:.1f}%  eta {left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f}"
        )

    def evaluate(self) -> None:
        """Evaluates the model and its average, and keeps the best."""
        if self.parts.val_loader is None:
            return
        models = {"": self.parts.model} if self.ema is None else {"": self.parts.model, "ema_": self.ema.module}
        self.ranks.share_buffers(*models.values())
        values, task = {"epoch": float(self.epoch + 1)}, self.parts.task
        for prefix, model in models.items():
            try:
                measure = SCORES[task.metrics](len(self.parts.classes), self.ranks.device, **self.config.metrics)
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
            except NonFiniteScores as error:  # the weights are finite: training may go on, this is never the best
                if self.ranks.main:
                    self.report.warn(f"step {self.step}{', averaged weights' if prefix else ''}: {error}")
                scores = dict.fromkeys(task.measured, math.nan)
            values.update({prefix + name: value for name, value in scores.items()})
        self.report.numbers("val", self.step, values)
        # All of them are in metrics.jsonl.
        in_short = [name for name in values if name != "epoch" and not name.endswith("_top3")]
        shown = "  ".join(f"{name} {values[name]:.4g}" for name in in_short)
        better = self.best.update(values, self.step)
        self.report.line(f"epoch {self.epoch + 1}/{self.config.epochs}  step {self.step}  validation  {shown}{better}")
        if better and self.ranks.main:
            average = {} if self.ema is None else {"ema": self.ema.state_dict()}
            metrics = {**values, "step": self.step}
            best = {"model": self.parts.model.state_dict(), **average, **facts(self.parts), "metrics": metrics}
            self.watch.check_state(best, self.step)
            self.folder.save_best(best)

    def save(self) -> None:
        """Writes this step's checkpoint, on the main rank; needs no word from the others."""
        self.take(self.pulse.flush())
        if self.step == self.saved_at:
            return
        if self.ranks.main:
            state = capture(self)
            self.watch.check_state(state, self.step)
            self.folder.save(self.step, state)
        self.saved_at = self.step
