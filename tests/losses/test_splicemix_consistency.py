"""SpliceMix-CL compared with published values and a plain loop; invalid input."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix.losses import BinaryCrossEntropy, SpliceMixConsistencyLoss
from tests.losses.by_hand import bce_by_hand, known_terms

SPLICED = np.load(Path(__file__).parents[1] / "models" / "data" / "splicemix_cl.npz")
CASES = {"case0_2x2_drop0": 4, "case1_1x2_drop1": 2, "case2_2x3_drop2": 6, "case3_2x2_drop1": 4}


def published_cells(case):
    values = {name: torch.from_numpy(SPLICED[f"{case}_{name}"]) for name in ("logits", "cell_logits", "targets")}
    shape = (-1, CASES[case])
    values["cell_logits"] = values["cell_logits"].unflatten(0, shape)
    sources = torch.from_numpy(SPLICED[f"{case}_source_index"]).view(shape)
    return values, sources, torch.from_numpy(SPLICED[f"{case}_drop"]).bool().view(shape)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_consistency_equals_published_values(case, detach):
    values, sources, dropped = published_cells(case)
    # The values in dropped cells must not matter; the published arrays have -1000 there.
    values["cell_logits"] = torch.where(dropped[..., None], 7.0, values["cell_logits"])
    loss = SpliceMixConsistencyLoss(detach)(**values, sources=sources, dropped=dropped)
    assert loss.item() == pytest.approx(float(SPLICED[f"{case}_loss"]), abs=1e-6)


@pytest.mark.parametrize("detach", [True, False])
def test_consistency_with_ignored_classes_equals_loop(detach):
    values, sources, dropped = published_cells("case2_2x3_drop2")
    logits, cells, targets = values["logits"], values["cell_logits"], values["targets"].clone()
    targets[[1, 3, 5], [0, 2, 4]] = -1
    targets[-1, 3] = -1
    logits, cells = (x.clone().requires_grad_() for x in (logits, cells))
    loss = SpliceMixConsistencyLoss(detach)(logits, cells, targets, sources, dropped)
    terms, count = [], 0
    for image, cell in np.ndindex(*sources.shape):
        source = int(sources[image, cell])
        for k in range(targets.shape[1]):
            if targets[source, k] >= 0:
                count += 1
                if not dropped[image, cell]:
                    share = 1 / (1 + math.exp(-logits[source, k].item()))
                    terms.append(bce_by_hand(cells[image, cell, k].item(), share))
    rows = [term for row in known_terms(bce_by_hand, logits, targets) for term in row]
    assert loss.item() == pytest.approx(sum(rows) / len(rows) + sum(terms) / count, rel=1e-5)
    loss.backward()
    gone = dropped[..., None] | (targets[sources] < 0)
    assert (cells.grad[gone] == 0).all() and (cells.grad[~gone] != 0).all()
    assert (logits.grad[targets < 0] == 0).all()
    supervised = logits.detach().clone().requires_grad_()
    BinaryCrossEntropy()(supervised, targets).backward()
    assert torch.equal(logits.grad, supervised.grad) == detach


def test_consistency_refuses_wrong_shapes_or_dtypes():
    values, sources, dropped = published_cells("case0_2x2_drop0")
    loss = SpliceMixConsistencyLoss()
    with pytest.raises(ValueError, match=r"\(8, 1\).*have \(2, 4\) cells"):
        loss(**values, sources=sources.view(8, 1), dropped=dropped)
    with pytest.raises(ValueError, match="float32: need int64 and bool"):
        loss(**values, sources=sources, dropped=dropped.float())
    with pytest.raises(ValueError, match=r"\(n, cells, K\)"):
        loss(**{**values, "cell_logits": values["cell_logits"][..., :3]}, sources=sources, dropped=dropped)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_consistency_on_gpu_does_not_synchronize():
    values, sources, dropped = published_cells("case2_2x3_drop2")
    values |= {"sources": sources, "dropped": dropped}
    moved = {name: value.cuda() for name, value in values.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = SpliceMixConsistencyLoss()(**moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(float(SPLICED["case2_2x3_drop2_loss"]), abs=1e-6)
