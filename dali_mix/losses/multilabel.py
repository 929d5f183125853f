"""Common code of the multi-label losses: target format and ignored entries."""

from __future__ import annotations

from torch import Tensor, nn

from dali_mix._factories import parameters


class MultiLabelLoss(nn.Module):
    """Base class of losses for multi-label targets (B,K), 0 … 1, or -1 for an ignored entry.

    A subclass whose loss is a mean over something other than the known entries overrides `counted`.
    """

    # Labels weighted by area are fractions: "soft multi-hot" (see `dali_mix.mixers.ops.targets.TargetKind`).
    accepts = frozenset({"multi-hot", "soft multi-hot"})

    def counted(self, targets: Tensor) -> Tensor:
        """Return the number of known entries divided by K, a scalar tensor: the rows that a mean loss averages over."""
        return (targets >= 0).sum() / max(targets.shape[1], 1)

    def extra_repr(self) -> str:
        options = [name for name in parameters(type(self)) if hasattr(self, name)]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)


def known_entries(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits and targets as float32 with 0 for ignored entries, and the mask of the known ones, (B,K) each.

    The zeros ensure that ignored entries get no gradient, even if their logit is infinite.

    Args:
        logits: (B,K) of any float dtype.
        targets: (B,K) of any dtype, 0 … 1, or -1 = ignored.

    Raises:
        ValueError: shapes that do not match, or logits that are not floating-point.
    """
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: both must be (B,K), one target per "
            "class: 1, 0, or -1 to ignore it"
        )
    if not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype}: need a floating-point dtype")
    known = targets >= 0
    return logits.float().masked_fill(~known, 0.0), targets.float().masked_fill(~known, 0.0), known
