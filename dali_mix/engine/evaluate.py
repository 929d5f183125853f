"""Evaluation: each sample exactly once over all ranks, sums exact, one wait for the device at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dali_mix.engine.build import Loader
from dali_mix.engine.distributed import Ranks
from dali_mix.engine.objectives import counted, in_float32, is_summed
from dali_mix.engine.scores import ClassificationScores, Scores


class Preempted(Exception):
    """Raised inside a run that was asked to stop; the run saves and ends."""


def evaluate(
    model: nn.Module,
    loader: Loader,
    loss: Callable[[Tensor, Tensor], Tensor],
    ranks: Ranks,
    *,
    scores: Scores | None = None,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Scores in per cent, and the loss per record (of what is known), over everything `loader` yields on all ranks.

    Args:
        model: not wrapped in DDP: ranks may hold different numbers of batches. Its mode is put back.
        loader: an evaluation loader; read from its start to the end of its epoch.
        loss: (logits (B,K) float32, targets) → mean over the batch, or their sum if it says `reduction == "sum"`.
        scores: what is measured; by default top-1 and top-5 accuracy.
        autocast: makes the context the model runs in.
        stop: asked between batches; once it says True on any rank, every rank raises `Preempted`: none is left waiting
            for the sums of one that has gone.

    Returns:
        the scores and "loss", equal on every rank.
    """
    scores = scores or ClassificationScores(ranks.device)
    rows = counted(loss)
    total = torch.zeros(3, dtype=torch.float64, device=ranks.device)  # of losses, records, ranks asked to stop
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in loader:
                if stop():
                    total[2] += 1
                    break
                with autocast():
                    logits = model(batch.images)
                logits = in_float32(logits)
                scores.update(logits, batch.targets, batch.ids)
                count = len(batch.ids) if rows is None else rows(batch.targets)
                total[0] += loss(logits, batch.targets).double() * (1 if is_summed(loss) else count)
                total[1] += count
    finally:
        model.train(training)
    ranks.sum_(total)
    loss_sum, records, stopped = total.tolist()
    if stopped:
        raise Preempted
    return {**scores.compute(ranks), "loss": loss_sum / records if records else 0.0}
