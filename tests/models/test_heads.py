"""Multi-label heads compared with published numbers and plain formulas, on non-square maps and on tokens."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dali_mix.losses import SGRELoss, SpliceMixConsistencyLoss
from dali_mix.models.heads import AveragePoolHead, CSRAHead, MaxPoolHead, SGREHead
from dali_mix.models.heads.tokens import sine_positions

DATA = Path(__file__).parent / "data"
CSRA, SPLICED, SGRE = (np.load(DATA / f"{name}.npz") for name in ("csra_head", "splicemix_cl", "sgre_head"))


def tensor(archive, name):
    return torch.from_numpy(np.asarray(archive[name]))


@pytest.mark.parametrize("lam", [0.1, 0.4])
@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
def test_csra_matches_published_logits(heads, lam):
    features = tensor(CSRA, "features")
    head = CSRAHead(32, 11, num_heads=heads, lam=lam)
    head.load_state_dict({"weight": tensor(CSRA, f"heads{heads}_weights")})
    wanted = tensor(CSRA, f"heads{heads}_lam{lam}_logits")
    torch.testing.assert_close(head(features), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head(features.flatten(2).transpose(1, 2)), wanted, rtol=1e-5, atol=1e-5)


def published_sgre():
    """Return the published head and its positions.

    The file contains two matrices only in reduced form. The 1024×768 matrix is multiplied by an orthonormal basis of
    the six embeddings, and the embeddings are stored in that basis. The 1024×1024 matrix is multiplied by the vector
    that follows it.
    """
    state = {name.removeprefix("state."): tensor(SGRE, name) for name in SGRE if name.startswith("state.")}
    vector = tensor(SGRE, "attention_vector")
    state["attention.hidden_linear.weight"] = torch.cat([vector[None], torch.zeros(1023, 1024)])
    state["attention.hidden_linear.bias"] = torch.full((1024,), 0.5)
    state["attention.target_linear.weight"] = torch.eye(1, 1024)
    state["attention.target_linear.bias"] = torch.full((1,), -3.0)
    positions = state.pop("position_embedding.pe")
    head = SGREHead(64, state["embeddings"], dropout=0)
    missing, unexpected = head.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    return head, positions


def test_sgre_matches_published_logits_attention_and_loss():
    head, positions = published_sgre()
    tokens = tensor(SGRE, "tokens")
    maps = tokens.transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(sine_positions(64, 4, 4).T.view(64, 4, 4), positions[0], rtol=0, atol=1e-6)
    head.eval()
    for features in (tokens, maps):
        torch.testing.assert_close(head(features), tensor(SGRE, "logits"), rtol=1e-5, atol=1e-5)
        alpha = head.attention_maps(features)
        assert alpha.shape == ((4, 6, 16) if features is tokens else (4, 6, 4, 4))
        torch.testing.assert_close(alpha.view(4, 6, 16), tensor(SGRE, "alpha"), rtol=1e-5, atol=1e-5)
    # The published loss was computed in training mode, except that BatchNorm used its running statistics.
    head.train()
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    loss = SGRELoss(lam=0.4)(head(tokens), tensor(SGRE, "targets"))
    assert loss.item() == pytest.approx(float(SGRE["loss"]), rel=1e-6)


@pytest.mark.parametrize("case", ["case0_2x2_drop0", "case1_1x2_drop1", "case2_2x3_drop2", "case3_2x2_drop1"])
def test_max_pool_head_matches_published_logits_and_loss(case):
    features, targets = tensor(SPLICED, f"{case}_features"), tensor(SPLICED, f"{case}_targets")
    rows, columns = int(case[6]), int(case[8])
    head = MaxPoolHead(16, targets.shape[1])
    head.load_state_dict({f"fc.{key}": tensor(SPLICED, f"{case}_cls_{key}") for key in ("weight", "bias")})
    logits = head(features)
    torch.testing.assert_close(logits, tensor(SPLICED, f"{case}_logits"), rtol=1e-5, atol=1e-5)
    sources = tensor(SPLICED, f"{case}_source_index").view(-1, rows * columns)
    dropped = tensor(SPLICED, f"{case}_drop").bool().view(-1, rows * columns)
    cells = head.cells(features[-len(sources) :], rows, columns)
    wanted = tensor(SPLICED, f"{case}_cell_logits").view_as(cells)
    torch.testing.assert_close(cells[~dropped], wanted[~dropped], rtol=1e-5, atol=1e-5)
    loss = SpliceMixConsistencyLoss()(logits, cells, targets, sources, dropped)
    assert loss.item() == pytest.approx(float(SPLICED[f"{case}_loss"]), abs=1e-6)


def maps(dim=16, rows=3, columns=5):
    return torch.randn(2, dim, rows, columns, generator=torch.Generator().manual_seed(0))


def csra_reference(features, weight, temperatures, lam):
    logits = torch.zeros(len(features), weight.shape[1])
    for b, k in np.ndindex(*logits.shape):
        for w, temperature in zip(weight[:, k], temperatures, strict=True):
            scores = torch.stack([x @ w / w.norm() for x in features[b].flatten(1).T])
            peak = scores.max() if temperature == 99 else (scores * torch.softmax(temperature * scores, 0)).sum()
            logits[b, k] += scores.mean() + lam * peak
    return logits


@pytest.mark.parametrize(("heads", "temperatures"), [(1, (1,)), (4, (1, 2, 4, 99))])
def test_csra_matches_loop_on_non_square_map(heads, temperatures):
    torch.manual_seed(0)
    head = CSRAHead(16, 4, heads, lam=0.7)
    wanted = csra_reference(maps(), head.weight.detach(), temperatures, 0.7)
    torch.testing.assert_close(head(maps()).detach(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.class_maps(maps()).mean((2, 3)), head(maps()))


def test_pool_heads_match_plain_formulas():
    torch.manual_seed(0)
    average, highest = AveragePoolHead(16, 4), MaxPoolHead(16, 4)
    for head, pooled in ((average, maps().mean((2, 3))), (highest, maps().amax((2, 3)))):
        torch.testing.assert_close(head(maps()), pooled @ head.fc.weight.T + head.fc.bias)
        for row, column in np.ndindex(3, 5):
            there = head(maps()[:, :, row : row + 1, column : column + 1])
            torch.testing.assert_close(head.class_maps(maps())[:, :, row, column], there)
    torch.testing.assert_close(average.class_maps(maps()).mean((2, 3)), average(maps()))


def test_cells_are_in_row_major_order():
    head, features = MaxPoolHead(16, 4), maps(rows=4, columns=6)
    cells = head.cells(features, 2, 3)
    for cell in range(6):
        top, left = cell // 3 * 2, cell % 3 * 2
        torch.testing.assert_close(cells[:, cell], head(features[:, :, top : top + 2, left : left + 2]))
    resized = F.interpolate(maps(rows=5, columns=7), (4, 6), mode="bilinear", align_corners=True)
    torch.testing.assert_close(head.cells(maps(rows=5, columns=7), 2, 3), head.cells(resized, 2, 3))
    assert head.cells(features[:0], 2, 3).shape == (0, 6, 4)


@pytest.mark.parametrize(
    ("features", "message"),
    [(maps(rows=1), "2×3 cells is finer than the map, 1×5"), (torch.ones(2, 9, 16), "maps")],
    ids=["too fine", "tokens"],
)
def test_cells_refuses_small_maps_and_tokens(features, message):
    with pytest.raises(ValueError, match=message):
        MaxPoolHead(16, 4).cells(features, 2, 3)


def small_sgre(**options):
    torch.manual_seed(0)
    head = SGREHead(16, torch.randn(4, 10), heads=2, feedforward=24, rank=12, **options)
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return head


def sgre_reference(head, features, temperature):
    """Compute logits and auxiliary logits of one image (C,H,W) in evaluation, with loops over heads, labels, tokens."""
    w = head.state_dict()
    dim, rows, columns = features.shape
    tokens = features.flatten(1).T
    placed = tokens + sine_positions(dim, rows, columns)
    (wq, wk, wv), (bq, bk, bv) = (
        w[f"encoder.layers.0.self_attn.in_proj_{part}"].chunk(3) for part in ("weight", "bias")
    )
    heads = []
    for part in torch.arange(dim).chunk(2):
        q, k, v = placed @ wq[part].T + bq[part], placed @ wk[part].T + bk[part], tokens @ wv[part].T + bv[part]
        heads.append(torch.softmax(q @ k.T / len(part) ** 0.5, 1) @ v)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        unit = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return unit * w[f"{name}.weight"] + w[f"{name}.bias"]

    def net(x, name):
        unit = (x @ w[f"{name}.0.weight"][:, :, 0].T - w[f"{name}.1.running_mean"]) / (
            w[f"{name}.1.running_var"] + 1e-5
        ).sqrt()
        return (unit * w[f"{name}.1.weight"] + w[f"{name}.1.bias"]).relu()

    layer = "encoder.layers.0"
    tokens = norm(tokens + linear(torch.cat(heads, 1), f"{layer}.self_attn.out_proj"), f"{layer}.norm1")
    fed = linear(linear(tokens, f"{layer}.linear1").relu(), f"{layer}.linear2")
    tokens = norm(tokens + fed, f"{layer}.norm2")
    found, auxiliary = [], []
    for k, label in enumerate(w["embeddings"]):
        scores = []
        for x in tokens:
            product = torch.tanh(linear(x, "attention.linear1") * linear(label, "attention.linear2"))
            scores.append(linear(linear(product, "attention.hidden_linear"), "attention.target_linear"))
        found.append(torch.softmax(torch.cat(scores) / temperature, 0) @ tokens)
        auxiliary.append(found[k] @ w["fc.weight"][k] + w["fc.bias"][k])
    found = torch.stack(found)
    back = torch.softmax(net(tokens, "net1") @ net(found, "net2").T, 1) @ net(found, "net3")
    joined = torch.cat([tokens, net(back, "net4")], 1)
    return linear(linear(joined, "fc2.0").relu(), "fc2.3").amax(0), torch.stack(auxiliary)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_sgre_matches_loop_on_non_square_map(temperature):
    head = small_sgre(temperature=temperature).eval()
    wanted = [sgre_reference(head, image, temperature) for image in maps()]
    torch.testing.assert_close(head(maps()), torch.stack([logits for logits, _ in wanted]), rtol=1e-5, atol=1e-5)
    head.training = True  # its submodules stay in evaluation mode
    logits, auxiliary = head(maps())
    torch.testing.assert_close(logits, torch.stack([logits for logits, _ in wanted]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(auxiliary, torch.stack([other for _, other in wanted]), rtol=1e-5, atol=1e-5)


def test_sgre_class_maps_match_logits_and_attention_sums_to_1():
    head = small_sgre().eval()
    torch.testing.assert_close(head.class_maps(maps()).amax((2, 3)), head(maps()))
    attention = head.attention_maps(maps())
    assert attention.shape == (2, 4, 3, 5)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(2, 4))


def test_sgre_embeddings_train_only_if_requested():
    fixed, learned = small_sgre(), small_sgre(learn_embeddings=True)
    assert "embeddings" in fixed.state_dict() and "embeddings" in learned.state_dict()
    for head in (fixed, learned):
        logits, auxiliary = head.train()(maps())
        (logits.square().sum() + auxiliary.square().sum()).backward()
        idle = [name for name, parameter in head.named_parameters() if parameter.grad is None]
        assert not idle, "DDP needs a gradient for each weight"
    assert not fixed.embeddings.requires_grad
    assert learned.embeddings.grad.abs().sum() > 0
    given = torch.zeros(3, 8)
    head = SGREHead(16, given)
    given += 1
    assert (head.embeddings == 0).all()


HEADS = {
    "average": AveragePoolHead(16, 4),
    "max": MaxPoolHead(16, 4),
    "csra": CSRAHead(16, 4, 6, 0.4),
    "sgre": small_sgre(),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_maps_tokens_and_memory_formats_agree(head):
    head.eval()
    square = maps(rows=4, columns=4)
    tokens = square.flatten(2).transpose(1, 2).contiguous()
    wanted = head(square)
    assert wanted.shape == (2, 4)
    torch.testing.assert_close(head(tokens), wanted)
    torch.testing.assert_close(head(square.contiguous(memory_format=torch.channels_last)), wanted)
    torch.testing.assert_close(head.class_maps(tokens).unflatten(2, (4, 4)), head.class_maps(square))
    assert head.class_maps(maps()).shape == (2, 4, 3, 5)
    assert head(square[:0]).shape == (0, 4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head(square).float(), wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("shape", [(2, 15, 4, 4), (2, 16, 15), (2, 16), (16, 4, 4)])
def test_features_of_wrong_shape_are_refused(head, shape):
    with pytest.raises(ValueError, match=r"needs maps \(B,16,H,W\) or tokens \(B,N,16\)"):
        head(torch.zeros(shape))
    with pytest.raises(ValueError, match="needs maps"):
        head.class_maps(torch.zeros(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CSRAHead(16, 4, num_heads=3), "num_heads=3: must be one of 1, 2, 4, 6, 8"),
        (lambda: SGREHead(18, torch.zeros(4, 8), heads=2), "dim=18"),
        (lambda: SGREHead(20, torch.zeros(4, 8)), "dim=20: must be a multiple of 4 and of heads=8"),
        (lambda: SGREHead(16, torch.zeros(8)), r"embeddings \(8,\)"),
        (lambda: SGREHead(16, torch.zeros(4, 8, dtype=torch.int64)), "int64: need"),
        (lambda: SGREHead(16, torch.zeros(4, 8), temperature=0), "temperature=0"),
        (lambda: HEADS["sgre"](torch.zeros(2, 15, 16)), "15 tokens do not form a square grid"),
    ],
)
def test_invalid_head_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_gpu_matches_cpu(head):
    head = copy.deepcopy(head).eval()
    wanted = head(maps()), head.class_maps(maps())
    head.cuda()
    features = maps().cuda().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(head(features).cpu(), wanted[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(head.class_maps(features).cpu(), wanted[1], rtol=1e-3, atol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        assert head.train()(features)[0].isfinite().all()
