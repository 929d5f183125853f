"""Training ResNet-50 with the loader on a GPU, compared with the same step on a batch that is already on the GPU.

usage: python benchmarks/gpu_train.py PREFIX [--batch-size 256] [--steps 50] [--out docs/benchmarks/gpu_train.json]

Four loops take turns, `--rounds` times: the training step on a resident batch, the step fed by the loader, the step fed
by the loader and mixed with ResizeMix, and the loader alone. Prints images per second (median, minimum, maximum), the
ratio of each loop to the resident step, and the shares of a step spent waiting for data and launching the mixer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import dali_mix
import dali_mix.loading
from dali_mix.losses import SoftCrossEntropy
from dali_mix.mixers import ResizeMix
from dali_mix.models import build_model


def batches(loader: dali_mix.loading.Loader) -> Iterator[dali_mix.loading.Batch]:
    """Yield batches endlessly, epoch after epoch."""
    while True:
        yield from loader


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", nargs="?", help="a packed classification set")
    parser.add_argument("--model", default="torchvision/resnet50")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_train: skipped, needs a CUDA device")
        return 0
    if args.prefix is None:
        parser.error("the prefix of a packed set is required")

    loader = dali_mix.build_loader(
        "imagenet",
        args.prefix,
        batch_size=args.batch_size,
        train=True,
        drop_last=True,
        num_threads=args.num_threads,
        pipeline_options={"image_size": args.image_size},
    )
    num_classes = loader.dataset.metainfo["num_classes"]
    device = torch.device("cuda")
    model = build_model(args.model, num_classes).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
    criterion = SoftCrossEntropy()
    mixer = ResizeMix(num_classes)
    generator = torch.Generator().manual_seed(0)
    stream = batches(loader)
    resident = next(stream)
    waits: dict[str, float] = {"data": 0.0, "mix": 0.0}
    last_loss = torch.zeros((), device=device)

    def step(images: Tensor, targets: Tensor) -> None:
        nonlocal last_loss
        with torch.autocast("cuda", torch.bfloat16):
            loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last_loss = loss.detach()

    def on_resident() -> None:
        step(resident.images, resident.targets)

    def fed() -> None:
        started = time.perf_counter()
        batch = next(stream)
        waits["data"] += time.perf_counter() - started
        step(batch.images, batch.targets)

    def fed_and_mixed() -> None:
        batch = next(stream)
        started = time.perf_counter()
        images, targets = mixer(batch.images, batch.targets, generator)
        waits["mix"] += time.perf_counter() - started
        step(images, targets)

    def loader_alone() -> None:
        next(stream)

    loops: dict[str, Callable[[], None]] = {
        "step on a resident batch": on_resident,
        "fed by the loader": fed,
        "fed, with ResizeMix": fed_and_mixed,
        "loader alone": loader_alone,
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    spent = dict.fromkeys(loops, 0.0)
    for number in range(-1, args.rounds):  # the first round warms up
        for name, loop in loops.items():
            if number == 0:
                spent[name], waits["data"], waits["mix"] = 0.0, 0.0, 0.0
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(args.steps):
                loop()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            spent[name] += seconds
            if number >= 0:
                rates[name].append(args.steps * args.batch_size / seconds)

    reference = statistics.median(rates["step on a resident batch"])
    result = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "settings": {key: str(value) for key, value in vars(args).items()},
        "images_per_s": {
            name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in rates.items()
        },
        "ratio_to_resident": {name: statistics.median(r) / reference for name, r in rates.items()},
        "share_waiting_for_data": waits["data"] / spent["fed by the loader"],
        "share_launching_the_mixer": waits["mix"] / spent["fed, with ResizeMix"],
        "last_loss": float(last_loss),
    }
    print(f"{result['gpu']}, torch {torch.__version__}, {args.model}, batch {args.batch_size}, bf16, channels_last")
    for name, r in rates.items():
        median = statistics.median(r)
        print(f"{name:26} {median:9.0f} img/s  [{min(r):.0f} .. {max(r):.0f}]  {median / reference:6.3f}")
    waiting, mixing = result["share_waiting_for_data"], result["share_launching_the_mixer"]
    print(f"waiting for data {waiting:.2%}, mixing {mixing:.2%} of the step")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
