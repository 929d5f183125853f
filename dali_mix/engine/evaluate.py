"""Evaluation: each sample exactly once over all ranks, sums exact, one wait for the device at the end."""

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
    """A model gave NaN in an evaluation."""


class Preempted(Exception):
    """Raised inside a run that was asked to stop; the run saves and ends."""


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
    """Return scores in per cent, and the loss per record if there is one, over everything `loader` yields on all ranks.

    Args:
        model: not wrapped in DDP: ranks may hold different numbers of batches. Its mode is put back.
        loader: an evaluation loader; read from its start to the end of its epoch.
        loss: (logits (B,K) float32, targets) → mean over the batch, or their sum if it says `reduction == "sum"`. None
            for a model that takes images and targets, of which it reads sizes only, and returns predictions.
        scores: what is measured.
        autocast: makes the context the model runs in.
        stop: asked between batches; once it returns True on any rank, every rank raises `Preempted`, so that none waits
            for the sums of one that has gone.
        each: called after each batch with the number of batches done.

    Raises:
        NonFiniteScores: on every rank, naming the first records the model gave NaN for.
    """
    rows = counted(loss)
    total = torch.zeros(3, dtype=torch.float64, device=ranks.device)  # of losses, records, ranks asked to stop
    seen: list[tuple[Tensor, Tensor]] = []  # records, and whether their logits hold NaN
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
    except InterruptedError:  # the loader waited for a pool of workers
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
    """Return (B,) bool: whether an image's logits, or its predictions, hold a NaN."""
    if isinstance(outputs, Tensor):
        return outputs.isnan().flatten(1).any(1)
    return torch.stack([~one["finite"] for one in outputs])


_NAMED = 5


def check_scores(seen: list[tuple[Tensor, Tensor]], ranks: Ranks) -> None:
    """Raise NonFiniteScores on every rank if any rank saw a NaN; waits for the device.

    Args:
        seen: record numbers (B,) and whether their scores hold NaN, (B,) bool, batch by batch.
    """
    ids = torch.cat([ids[nan.to(ids.device)] for ids, nan in seen]) if seen else torch.zeros(0, dtype=torch.int64)
    found = ranks.gather((len(ids), ids[:_NAMED].tolist()))
    count = sum(number for number, _ in found)
    if not count:
        return
    numbers = sorted(number for _, first in found for number in first)[:_NAMED]
    raise NonFiniteScores(
        f"the model gives NaN for {count} records, among them {numbers}: there is no figure for it. "
        "Take an earlier checkpoint, amp='off', or look at these records with `dali-mix inspect`"
    )
