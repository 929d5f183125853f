"""Evaluate a model on all ranks, using each sample of a set exactly once.

Host and device synchronize only after the last batch, except for detectors, whose boxes are copied after each batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.engine.build import Loader
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.scores import Scores
from dali_mix.engine.train.finite import NonFinite
from dali_mix.engine.train.objectives import check_loss, counted, is_summed, logits_of


class NonFiniteScores(NonFinite):
    """Raised if, in an evaluation, a model's logits contain NaN, or a detector's outputs contain NaN or infinity."""


class Preempted(Exception):
    """Raised to end a run that has received a stop signal. `Trainer.fit` catches it."""


def evaluate(
    model: nn.Module,
    loader: Loader,
    loss: Callable[[Tensor, Tensor], Tensor] | None,
    ranks: Ranks,
    *,
    scores: Scores,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    stop: Callable[[], bool] = lambda: False,
    each: Callable[[int], object] = lambda done: None,
) -> dict[str, float]:
    """Evaluate `model` on the records of all ranks' loaders. Return scores in percent, and "loss" if there is a loss.

    Args:
        model: not wrapped in DDP, since ranks may have different numbers of batches. Its train/eval mode is restored.
        loader: an evaluation loader; one full epoch is read.
        loss: (logits (B,K) float32, targets) → mean over the batch, or the sum over it if the loss has `reduction`
            "sum". None for a detector, which is called with images and targets (it reads only the `size` of each
            target) and returns predictions.
        scores: the scores to compute.
        autocast: returns the context manager the model runs in.
        stop: called before each batch. If it returns True, this rank skips its remaining batches, and all ranks raise
            `Preempted` together after the other ranks' evaluations.
        each: called after each batch with the number of batches done.

    Raises:
        NonFiniteScores: logits contain NaN, or a detector's outputs contain NaN or infinity. It is raised on every
            rank, and the message names up to five such records.
        ValueError: the model does not return one tensor of logits, or the loss does not return a scalar tensor.
        Preempted: see `stop`; also if the loader was interrupted while waiting for a worker pool.
    """
    rows = counted(loss)
    total = torch.zeros(3, dtype=torch.float64, device=ranks.device)  # sum of losses, records, ranks that must stop
    seen: list[tuple[Tensor, Tensor]] = []  # record numbers, and whether outputs contain NaN
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for done, batch in enumerate(loader, 1):
                if stop():
                    total[2] += 1
                    break
                with autocast():
                    outputs = model(batch.images) if loss is not None else model(batch.images, batch.targets)
                if loss is not None:
                    outputs = logits_of(model, outputs)
                    count = len(batch.ids) if rows is None else rows(batch.targets)
                    value = check_loss(loss, loss(outputs, batch.targets))
                    total[0] += value.double() * (1 if is_summed(loss) else count)
                    total[1] += count
                seen.append((batch.ids, _nan(outputs)))
                scores.update(outputs, batch.targets, batch.ids)
                each(done)
    except InterruptedError:  # raised by a loader that waits for a worker pool
        total[2] += 1
    finally:
        model.train(training)
    ranks.sum_(total)
    loss_sum, records, stopped = total.tolist()
    if stopped:
        raise Preempted
    check_scores(seen, ranks)
    mean = {} if loss is None else {"loss": loss_sum / records if records else 0.0}
    return {**scores.compute(ranks), **mean}


def _nan(outputs: Any) -> Tensor:
    """Return (B,) bool: True for an image whose logits contain NaN, or whose outputs of a detector are not finite."""
    if isinstance(outputs, Tensor):
        return outputs.isnan().flatten(1).any(1)
    return torch.stack([~one["finite"] for one in outputs])


_NAMED = 5


def check_scores(seen: list[tuple[Tensor, Tensor]], ranks: Ranks) -> None:
    """Raise NonFiniteScores on every rank if `_nan` is True for a record on any rank.

    The message has the number of such records and names up to five. Every rank must call it, since the records are
    gathered. Synchronizes with the device.

    Args:
        seen: for each batch of this rank, record numbers (B,) and the result of `_nan`, (B,) bool.
    """
    ids = torch.cat([ids[nan.to(ids.device)] for ids, nan in seen]) if seen else torch.zeros(0, dtype=torch.int64)
    found = ranks.gather((len(ids), ids[:_NAMED].tolist()))
    count = sum(number for number, _ in found)
    if not count:
        return
    numbers = sorted(number for _, first in found for number in first)[:_NAMED]
    raise NonFiniteScores(
        f"the model returns NaN for {count} records, among them {numbers}, so it cannot be scored. "
        "Use an earlier checkpoint or amp='off', or inspect these records with `dali-mix inspect`"
    )
