"""Check a run for missing gradients, and for NaN and infinity at the start, at each step and in checkpoints.

A single NaN spreads to every weight within one step. Therefore loss, gradient norm (or loss scale) and the norm of the
model's statistics are checked at every step, before a NaN can reach a weight (see `loss_monitor`). The state is checked
again before it is saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.train.finite import NonFinite, NonFiniteLoss, first_non_finite, statistics
from dali_mix.engine.train.loss_monitor import StepNumbers


class Watch:
    """The checks of one run for missing gradients, NaN and infinity. `check_step` raises the same error on every rank.

    Attributes:
        statistics: the buffers of the model that must stay finite, by name.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.statistics = statistics(model)
        self._ids: dict[int, list[Tensor]] = {}

    def note(self, step: int, ids: Tensor) -> None:
        """Add `ids` (B,) to the records on which this rank trains in `step`.

        Only the records of `step` and of the two steps before it are kept.
        """
        self._ids = {number: noted for number, noted in self._ids.items() if number > step - 3}
        self._ids.setdefault(step, []).append(ids)

    def ids(self, step: int) -> list[int]:
        """Return the record numbers noted for `step` on this rank; empty if it is not one of the last three steps."""
        return torch.cat(self._ids.get(step, [torch.zeros(0, dtype=torch.int64)])).tolist()

    def check_start(self, files: Iterable[Any]) -> None:
        """Raise NonFinite if a weight or statistic is not finite before the first step.

        files: the weight files that were loaded, which the message names.
        """
        if name := first_non_finite(dict(self.model.named_parameters()) | self.statistics):
            named = ", ".join(map(str, files))
            raise NonFinite(
                f"{name} contains NaN or infinity before the first step; use other weights"
                f"{f' than {named}' if named else ''}"
            )

    def check_gradients(self) -> str:
        """Return a message that names up to five trainable parameters without a gradient on some rank; "" for none.

        Every rank must call it, since the names are gathered. All ranks return the same message.
        """
        parameters = self.model.named_parameters()
        missing = [name for name, parameter in parameters if parameter.requires_grad and parameter.grad is None]
        found = list(dict.fromkeys(name for names in self.ranks.gather(missing) for name in names))
        if not found:
            return ""
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        return f"no gradient reaches {', '.join(found[:5])}{more}"

    def check_step(self, numbers: StepNumbers) -> None:
        """Raise NonFiniteLoss if one of the step's `numbers` is not finite.

        The message names the value that is NaN or infinite, its step, and the records of that step on each rank. Every
        rank must call it with equal `numbers`, since the record numbers are gathered.
        """
        if numbers.finite:
            return
        names = self.ranks.gather(first_non_finite(self.statistics))
        statistic = next((name for name in names if name), None)
        step, what = self._diagnose(numbers.step, numbers.loss, statistic)
        ids = self.ranks.gather(self.ids(step))
        listed = ", ".join(f"{of} on rank {rank}" for rank, of in enumerate(ids)) if len(ids) > 1 else ids[0]
        raise NonFiniteLoss(
            f"{what}. Records in it: {listed}. Lower the learning rate, set clip_grad_norm or amp='off', or inspect "
            f"these records with `dali-mix inspect`"
        )

    def _diagnose(self, step: int, loss: float, statistic: str | None) -> tuple[int, str]:
        """Return the step in which a value became non-finite, and a message that names the value.

        This is the step before `step` if a weight is not finite, since that step's update changed the weight.

        Args:
            step: the first step measured as non-finite.
            loss: the loss of `step`.
            statistic: name of a non-finite statistic on some rank; None if there is none.
        """
        if name := first_non_finite(dict(self.model.named_parameters())):
            return step - 1, f"{name} became NaN or infinite in the update of step {step - 1}; that was not saved"
        note = ""
        if not math.isfinite(loss):
            what = f"the loss is {loss}"
        elif statistic is not None:
            what, note = f"{statistic} is NaN or infinite", f" (loss {loss:.4g})"
        else:
            name = first_non_finite({name: parameter.grad for name, parameter in self.model.named_parameters()})
            where = f" (first in {name})" if name else ""
            what, note = "the gradient is NaN or infinite", f"{where}, though the loss is {loss:.4g}"
        return step, f"{what} at step {step}{note}; stopped before that optimizer step"

    def check_state(self, state: dict[str, Any], step: int) -> None:
        """Raise NonFinite if a weight, statistic or moment in `state`, which is about to be saved, is not finite.

        Args:
            state: a dict with "model" and, optionally, "ema" and "optimizer", as in `Trainer.state_dict`.
            step: number of the step, for the message.
        """
        names = {*dict(self.model.named_parameters()), *self.statistics}
        found = {name: value for name, value in state["model"].items() if name in names}
        if average := state.get("ema"):
            found |= {f"ema {name}": value for name, value in average["model"].items() if name in names}
        for number, moments in state.get("optimizer", {"state": {}})["state"].items():
            found |= {f"{key} of the optimizer, parameter {number}": value for key, value in moments.items()}
        if name := first_non_finite(found):
            raise NonFinite(
                f"step {step}: {name} contains NaN or infinity, so nothing was saved. Continue from an earlier "
                f"checkpoint with --resume and a lower learning rate, clip_grad_norm or amp='off'"
            )
