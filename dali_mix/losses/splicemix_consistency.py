"""SpliceMix-CL (arXiv 2311.15200): make the cells of a spliced image agree with their source images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.losses.binary import BinaryCrossEntropy
from dali_mix.losses.multilabel import MultiLabelLoss

DROPPED = -1e3  # logit of dropped cells, for prediction and target: σ(-1000) is 0, and so is the cross-entropy


class SpliceMixConsistencyLoss(MultiLabelLoss):
    """Loss of SpliceMix-CL: BCE(all logits, targets) + BCE(cell logits, σ(logits of the regular image in the cell)).

    Both terms are means. The first is over the known entries. The second is over all cells and classes, except for
    classes ignored in the cell's regular image. A dropped cell has the value 0 and is included in this mean. The loss
    is computed in float32 even under autocast.

    Args:
        detach: True to stop gradients through the predictions for regular images that serve as targets. The published
            code uses True, but False for VOC.

    Raises:
        ValueError: from `forward`, wrong shapes or dtypes.
    """

    def __init__(self, detach: bool = True) -> None:
        super().__init__()
        self.detach = detach
        self.bce = BinaryCrossEntropy()

    def forward(self, logits: Tensor, cell_logits: Tensor, targets: Tensor, sources: Tensor, dropped: Tensor) -> Tensor:
        """Return the loss, a scalar float32.

        Args:
            logits: (B+n, K) of any float dtype: B regular images, then n spliced ones.
            cell_logits: (n, cells, K), cells in row-major order, see `dali_mix.models.heads.MaxPoolHead.cells`.
            targets: (B+n, K), 0 … 1, -1 = ignored.
            sources: (n, cells) int64, the regular image in each cell, 0 … B-1.
            dropped: (n, cells) bool, True for dropped cells.
        """
        if cell_logits.ndim != 3 or cell_logits.shape[2:] != logits.shape[1:] or len(cell_logits) > len(logits):
            raise ValueError(
                f"logits {tuple(logits.shape)} and cell_logits {tuple(cell_logits.shape)}: need (B+n, K) and "
                "(n, cells, K)"
            )
        if not sources.shape == dropped.shape == cell_logits.shape[:2]:
            raise ValueError(
                f"sources {tuple(sources.shape)} and dropped {tuple(dropped.shape)}: cell_logits have "
                f"{tuple(cell_logits.shape[:2])} cells"
            )
        if sources.dtype != torch.int64 or dropped.dtype != torch.bool:
            raise ValueError(f"sources are {sources.dtype} and dropped {dropped.dtype}: need int64 and bool")
        regular = len(logits) - len(cell_logits)
        with torch.autocast(logits.device.type, enabled=False):
            supervised = self.bce(logits, targets)
            own, gone = sources.flatten(), dropped.flatten()[:, None]
            truth = (logits[:regular].detach() if self.detach else logits[:regular])[own].float()
            unknown = targets[:regular][own] < 0
            cells = cell_logits.flatten(0, 1).float().masked_fill(gone, DROPPED)
            shares = truth.masked_fill(gone, DROPPED).sigmoid()
            terms = F.binary_cross_entropy_with_logits(
                cells.masked_fill(unknown, DROPPED), shares.masked_fill(unknown, 0.0), reduction="sum"
            )
            return supervised + terms / (~unknown).sum().clamp_min(1)
