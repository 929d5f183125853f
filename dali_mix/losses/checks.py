"""What every multi-label loss asks of its input, and which entries take part."""

from __future__ import annotations

from torch import Tensor

# What they take, of `dali_mix.mixers.ops.targets.TargetKind`: labels weighted by area are fractions.
MULTI_LABEL = frozenset({"multi-hot", "soft multi-hot"})


def known_rows(targets: Tensor) -> Tensor:
    """How many rows' worth of entries of (B,K) are known: a mean over known entries is one over as many rows."""
    return (targets >= 0).sum() / max(targets.shape[1], 1)


def known_entries(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, targets, known): both float32 with 0 in place of what is ignored, and a mask of what is not.

    With the zeros no gradient reaches an ignored entry, not even where its logit is infinite.

    Args:
        logits: (B,K) of any float dtype.
        targets: (B,K) of any dtype, 0 … 1, or -1 = ignored.

    Raises:
        ValueError: shapes that do not fit.
    """
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: need (B,K) of both, one target for each "
            "class: 1, 0, or -1 to ignore it"
        )
    if not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype}: need a floating point dtype")
    known = targets >= 0
    return logits.float().masked_fill(~known, 0.0), targets.float().masked_fill(~known, 0.0), known
