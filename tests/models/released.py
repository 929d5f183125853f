"""Random state dicts with the keys of published models, and plain formulas for the outputs of these models."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dali_mix.models import build_model
from dali_mix.models.weights.convert import to_ours

LAYOUTS = json.loads(gzip.decompress((Path(__file__).parent / "data" / "checkpoint_layouts.json.gz").read_bytes()))


def shapes(layout):
    """Return a dict from key to shape of a layout, with the prefix removed from the keys."""
    prefix = LAYOUTS[layout]["prefix"]
    return {key.removeprefix(prefix): tuple(shape) for key, shape in LAYOUTS[layout]["state_dict"].items()}


def filled(wanted, seed=0):
    """Return a random state dict with the keys and shapes in `wanted`.

    Its values keep activations in range. Counters are integers, and variances are positive.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for i, (key, shape) in enumerate(wanted.items()):
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000 + i)
        elif key.endswith("running_var"):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) < 2:
            state[key] = torch.randn(shape, generator=generator) * 0.3 + (0.7 if key.endswith("weight") else 0)
        else:
            fan = torch.Size(shape[1:]).numel()
            state[key] = torch.randn(shape, generator=generator) * (1.5 / fan) ** 0.5
    return state


def norm_shapes(name, channels):
    names = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{key}": (channels,) for key in names}, f"{name}.num_batches_tracked": ()}


def norm(w, x, name):
    return F.batch_norm(x, *(w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))


def conv(w, x, name, stride=1):
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.get(f"{name}.bias"), stride=stride, padding=weight.shape[2] // 2)


# Names of the stem and the stages in torchvision and in SpliceMix. SpliceMix has them in a list.
PLAIN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
LISTED = ("0", "1", "4", "5", "6", "7")


def resnet18_shapes(prefix="", names=PLAIN):
    stem, first, *stages = (prefix + name for name in names)
    wanted = {f"{stem}.weight": (64, 3, 7, 7), **norm_shapes(first, 64)}
    before = 64
    for stage, channels in zip(stages, (64, 128, 256, 512), strict=True):
        for block in range(2):
            name = f"{stage}.{block}"
            wanted[f"{name}.conv1.weight"] = (channels, before, 3, 3)
            wanted |= norm_shapes(f"{name}.bn1", channels)
            wanted[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            wanted |= norm_shapes(f"{name}.bn2", channels)
            if before != channels:
                wanted[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                wanted |= norm_shapes(f"{name}.downsample.1", channels)
            before = channels
    return wanted


def resnet_map(w, images, prefix="", names=PLAIN):
    """Compute the last feature map of a ResNet with basic blocks or bottlenecks from its state dict."""
    stem, first, *stages = (prefix + name for name in names)
    x = F.conv2d(images, w[f"{stem}.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(norm(w, x, first)), 3, 2, 1)
    for i, stage in enumerate(stages):
        block = 0
        while f"{(name := f'{stage}.{block}')}.conv1.weight" in w:
            stride = 2 if i and not block else 1
            bottleneck = f"{name}.conv3.weight" in w
            y = F.relu(norm(w, conv(w, x, f"{name}.conv1", 1 if bottleneck else stride), f"{name}.bn1"))
            y = norm(w, conv(w, y, f"{name}.conv2", stride if bottleneck else 1), f"{name}.bn2")
            if bottleneck:
                y = norm(w, conv(w, F.relu(y), f"{name}.conv3"), f"{name}.bn3")
            if f"{name}.downsample.0.weight" in w:
                x = norm(w, conv(w, x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = F.relu(x + y)
            block += 1
    return x


def vit_shapes(width=192, depth=12, side=14, patch=16):
    wanted = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, side * side + 1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(depth):
        for name, rows, columns in (
            ("norm1", width, 0),
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("norm2", width, 0),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            wanted[f"blocks.{i}.{name}.weight"] = (rows, columns) if columns else (rows,)
            wanted[f"blocks.{i}.{name}.bias"] = (rows,)
    return {**wanted, "norm.weight": (width,), "norm.bias": (width,)}


def vit_patches(w, images, heads=3):
    """Compute the feature map (B,C,h,w) of the patches after a ViT's last norm from its state dict."""
    patch, width = w["patch_embed.proj.weight"].shape[2], w["cls_token"].shape[2]

    def layer_norm(x, name):
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    grid = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    x = torch.cat([w["cls_token"].expand(len(images), 1, width), grid.flatten(2).mT], 1) + w["pos_embed"]
    i = 0
    while f"blocks.{i}.norm1.weight" in w:
        queries, keys, values = linear(layer_norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").chunk(3, 2)
        found = []
        for q, k, v in zip(*(part.chunk(heads, 2) for part in (queries, keys, values)), strict=True):
            found.append((q @ k.mT * q.shape[2] ** -0.5).softmax(2) @ v)
        x = x + linear(torch.cat(found, 2), f"blocks.{i}.attn.proj")
        inner = F.gelu(linear(layer_norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(inner, f"blocks.{i}.mlp.fc2")
        i += 1
    return layer_norm(x, "norm")[:, 1:].mT.unflatten(2, grid.shape[2:])


TEMPERATURES = {1: (1,), 2: (1, 99), 4: (1, 2, 4, 99), 6: (1, 2, 3, 4, 5, 99), 8: (1, 2, 3, 4, 5, 6, 7, 99)}


def csra_logits(w, maps, lam):
    """Compute the sum over heads of mean + lam · attention from `classifier.multi_head.*`."""
    total, i = 0, 0
    count = sum(key.startswith("classifier.") for key in w)
    while (key := f"classifier.multi_head.{i}.head.weight") in w:
        scores = F.conv2d(maps, w[key]) / w[key].norm(dim=1, keepdim=True).transpose(0, 1)
        scores, temperature = scores.flatten(2), TEMPERATURES[count][i]
        if temperature == 99:
            attention = scores.max(2)[0]
        else:
            attention = ((scores * temperature).softmax(2) * scores).sum(2)
        total, i = total + scores.mean(2) + lam * attention, i + 1
    return total


def sine_table(dim, rows, columns):
    """Compute DETR's sine positions (arXiv 2005.12872) element by element, in SGRE's shape (1,dim,rows,columns)."""
    table = np.zeros((1, dim, rows, columns), np.float64)
    half = dim // 2
    for y, x in np.ndindex(rows, columns):
        for i in range(half):
            wave = 10000 ** (2 * (i // 2) / half)
            for channel, place in ((i, (y + 1) / (rows + 1e-6)), (half + i, (x + 1) / (columns + 1e-6))):
                angle = place * 2 * np.pi / wave
                table[0, channel, y, x] = np.sin(angle) if i % 2 == 0 else np.cos(angle)
    return torch.from_numpy(table).float()


def same(state, other):
    return state.keys() == other.keys() and all(
        value.dtype == other[key].dtype and torch.equal(value, other[key]) for key, value in state.items()
    )


def images(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def sgre_state(classes=5, label_dim=6, rank=16, feedforward=24, dim=512, rows=3, columns=2):
    wanted = resnet18_shapes("backbone.") | {
        "embeddings": (classes, label_dim),
        "encoder.layers.0.self_attn.in_proj_weight": (3 * dim, dim),
        "encoder.layers.0.self_attn.in_proj_bias": (3 * dim,),
        "attention.linear1.weight": (rank, dim),
        "attention.linear2.weight": (rank, label_dim),
    }
    layers = {
        "encoder.layers.0.self_attn.out_proj": (dim, dim),
        "encoder.layers.0.linear1": (feedforward, dim),
        "encoder.layers.0.linear2": (dim, feedforward),
        "encoder.layers.0.norm1": (dim,),
        "encoder.layers.0.norm2": (dim,),
        "attention.hidden_linear": (rank, rank),
        "attention.target_linear": (1, rank),
        "fc": (classes, dim),
        "fc2.0": (2 * dim, 2 * dim),
        "fc2.3": (classes, 2 * dim),
    }
    for name, shape in layers.items():
        wanted |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for i in (1, 2, 3, 4):
        wanted |= {f"net{i}.0.weight": (dim, dim, 1), **norm_shapes(f"net{i}.1", dim)}
    return filled(wanted) | {"position_embedding.pe": sine_table(dim, rows, columns)}


def small(release):
    """Return a new dict with a small but complete checkpoint of a release."""
    return dict(_small(release))


@cache
def _small(release):
    states = {
        "msl": lambda: resnet18_shapes() | {"classifier.multi_head.0.head.weight": (5, 512, 1, 1)},
        "splicemix": lambda: resnet18_shapes("backbone.", LISTED) | {"cls.weight": (5, 512), "cls.bias": (5,)},
        "torchvision": lambda: resnet18_shapes() | {"fc.weight": (5, 512), "fc.bias": (5,)},
        "timm": lambda: vit_shapes() | {"head.weight": (5, 192), "head.bias": (5,)},
        "resizemix": lambda: {k: tuple(v.shape) for k, v in build_model("wrn-10-1", 5).state_dict().items()},
    }
    return sgre_state() if release == "sgre" else filled(states[release]())


def converted_model(given, release, build, **options):
    """Convert the weights and load them into our model. Return the model and the conversion."""
    converted = to_ours(given, release, **options)
    model = build().eval()
    model.load_state_dict(converted.state, strict=True)
    return model, converted
