"""The mixers compared with those of other projects and with copying the batch.

usage: python benchmarks/mixers.py [--device cpu|cuda] [--batch-size B] [--dtype float32,bfloat16] [--rounds 15]
                                 [--only NAME] [--clock wall|cpu] [--keep-freed-memory] [--out FILE]

Every registered mixer is measured, except MixChoice and those for boxes. A call includes the mixer's draws and one-hot
targets. Each mixer is called out of place and, if it supports that, also in place. On a GPU, `apply` alone is also
measured, as a CUDA graph. Libraries that are not installed are skipped.

In a round, each contestant mixes the same batch once (on a GPU ten times, between CUDA events). Prints the median and
quartiles of the time per call and of its ratio to `clone()` in the same round, and the median of its ratio to `copy_`
in the same round. On a CPU, `clone()` writes into memory fresh from the system, and `copy_` into memory in use.

On a CPU, torch's idle threads spin only for microseconds, as in the `dali-mix` command. Otherwise they would occupy
cores during the next call for milliseconds. ResizeMixPlus comes last, because it runs kornia's operations, after which
the process keeps freed memory.

--keep-freed-memory: keep freed memory, as training on a CPU does, so that `clone()` costs the same as `copy_`.
--clock cpu: measure CPU time of all threads, for a machine that is in use (set OMP_WAIT_POLICY=passive, so that waiting
does not count).
On a CPU, OpenCV's fine-grained saliency is compared with ours if cv2 has the contrib modules.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded

import torch
from _compare import Rates, environment, ratios, spread, take_turns, write_json
from _mixer_peers import Mix, packages, published, quiet, saliency_detector
from torch import Tensor

from dali_mix import mixers
from dali_mix.malloc import keep_freed_memory

CLASSES = 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALLS_ON_A_GPU = 10


def registered() -> dict[str, mixers.Mixer[Any]]:
    """Return the registered mixers by name, and ResizeMix with bilinear interpolation.

    Mixers for boxes are omitted, and so is MixChoice, which only applies other mixers.
    """
    offered = {"num_classes": CLASSES, "mean": MEAN, "std": STD, "size": 112}
    made = {}
    for name, kind in mixers.MIXERS.items():
        if kind is not mixers.MixChoice and not kind.takes_boxes:
            wanted = inspect.signature(kind).parameters
            made[name] = kind(**{option: value for option, value in offered.items() if option in wanted})
    made["ResizeMix bilinear"] = mixers.ResizeMix(CLASSES, interpolation="bilinear")
    return made


def in_place(mixer: mixers.Mixer[Any], own: Tensor, labels: Tensor, generator: torch.Generator) -> Mix | None:
    """Return a function (images, labels) that mixes `own` in place and ignores its `images`.

    Return None if the mixer raises TypeError or ValueError for `inplace=True`. To find out, `own` is mixed once.
    """
    try:
        mixer(own, labels, generator, inplace=True)
    except (TypeError, ValueError):
        return None
    return lambda images, labels: mixer(own, labels, generator, inplace=True)


def contestants(images: Tensor, labels: Tensor, only: str) -> dict[str, Mix]:
    generator = torch.Generator().manual_seed(0)
    existing, own = torch.empty_like(images).copy_(images), images.clone()
    ours: dict[str, Mix] = {}
    for name, mixer in registered().items():
        ours[f"dali_mix {name}"] = lambda images, labels, mixer=mixer: mixer(images, labels, generator)
        changing = in_place(mixer, own, labels, generator)
        if changing is not None:
            ours[f"dali_mix {name} inplace"] = changing
    everyone = {**ours, **packages(CLASSES, images.clone()), **published(CLASSES)}
    chosen = {name: mix for name, mix in everyone.items() if only.lower() in name.lower()}
    return {
        "clone()": lambda images, labels: (images.clone(), labels),
        "copy_": lambda images, labels: (existing.copy_(images), labels),
        **chosen,
    }


def timed(mix: Mix, images: Tensor, labels: Tensor, clock: Callable[[], float]) -> Callable[[], float]:
    """Return a function that measures images per second over one call (on a GPU over several, with CUDA events)."""

    def on_cpu() -> float:
        start = clock()
        mixed = mix(images, labels)
        seconds = clock() - start
        del mixed
        return len(images) / seconds

    def on_gpu() -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(CALLS_ON_A_GPU):
            mix(images, labels)
        end.record()
        end.synchronize()
        return CALLS_ON_A_GPU * len(images) / (start.elapsed_time(end) / 1e3)

    return on_gpu if images.is_cuda else on_cpu


def captured(mix: Mix, images: Tensor, labels: Tensor) -> Mix:
    """Capture `mix(images, labels)` as a CUDA graph and return a function that replays it.

    The time of a replay does not include Python's overhead. The returned function ignores its arguments.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        mix(images, labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = mix(images, labels)

    def replay(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        graph.replay()
        return kept

    return replay


def graphs(images: Tensor, labels: Tensor, only: str) -> dict[str, Mix]:
    """Return functions that replay each mixer's `apply` as a CUDA graph, with the params already on the device.

    Only mixers that can be captured and whose name contains `only` are returned.
    """
    found = {}
    for name, mixer in registered().items():
        if only.lower() not in f"dali_mix {name} graph".lower():
            continue
        drawn = mixer.sample(*images[:, 0].shape, torch.Generator().manual_seed(0), images.device)
        try:
            apply: Mix = lambda images, labels, mixer=mixer, drawn=drawn: mixer.apply(images, labels, drawn)  # noqa: E731
            found[f"dali_mix {name} apply, graph"] = captured(apply, images, labels)
        except RuntimeError as error:
            print(f"dali_mix {name}: cannot be captured ({str(error).splitlines()[0]})")
    return found


def printed(rates: Rates, count: int) -> dict[str, Any]:
    """Print a line per contestant, and return a dict of the figures: name → {"ms", "to_clone", "to_copy"}.

    `count` is the number of images per call. "ms" is the time per call, and the other two are its ratios to `clone()`
    and `copy_`. Each is the result of `spread`.
    """
    width = max(map(len, rates))
    print(f"{'':{width}}  {'ms':>8}  {'quartiles':>17}  {'× clone()':>9}  {'quartiles':>11}  {'× copy_':>8}")
    found = {}
    for name in rates:
        ms = spread([1e3 * count / rate for rate in rates[name]])
        clone, copy = ratios(rates, "clone()", name), ratios(rates, "copy_", name)
        found[name] = {"ms": ms, "to_clone": clone, "to_copy": copy}
        print(
            f"{name:{width}}  {ms['median']:8.3f}  {ms['q1']:8.3f} {ms['q3']:8.3f}  {clone['median']:9.2f}  "
            f"{clone['q1']:5.2f} {clone['q3']:5.2f}  {copy['median']:8.2f}"
        )
    return found


def saliency(images: Tensor, rounds: int) -> dict[str, Any] | None:
    """Compare the speed of our saliency with OpenCV's on the first 16 `images`, converted to uint8. Print the result.

    Return a dict of "ms", name → milliseconds per image, and "share_of_opencv", our time divided by OpenCV's. All are
    results of `spread`. Return None if either implementation is missing.
    """
    ours, make = getattr(mixers, "fine_grained_saliency", None), saliency_detector()
    if ours is None or make is None:
        print("saliency: skipped (needs cv2.saliency from opencv-contrib-python, and ours)")
        return None
    grey = (images[:16] * 50 + 120).clamp(0, 255).to(torch.uint8).cpu()
    arrays, detector = [image.permute(1, 2, 0).contiguous().numpy() for image in grey], make()

    def opencv() -> float:
        start = time.perf_counter()
        for array in arrays:
            detector.computeSaliency(array)  # type: ignore[attr-defined]
        return len(arrays) / (time.perf_counter() - start)

    def mine() -> float:
        start = time.perf_counter()
        ours(grey)
        return len(grey) / (time.perf_counter() - start)

    rates = take_turns({"OpenCV": opencv, "dali_mix": mine}, rounds)
    ms = {name: spread([1e3 / rate for rate in values]) for name, values in rates.items()}
    ratio = ratios(rates, "OpenCV", "dali_mix")
    print(
        f"saliency, ms per image: OpenCV {ms['OpenCV']['median']:.2f}, dali_mix {ms['dali_mix']['median']:.2f}", end=""
    )
    print(f"; ours takes {ratio['median']:.3f} of its time")
    return {"ms": ms, "share_of_opencv": ratio}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch-size", type=int, default=None, help="default: 128, on a GPU 256")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--dtype", default=None, help="default: float32, on a GPU float32,bfloat16")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=None, help="torch's threads on a CPU (default: torch's own)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="only contestants whose name contains this")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="clock on a CPU")
    parser.add_argument("--keep-freed-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=None, help="default: docs/benchmarks/mixers[_cuda].json")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("mixers: skipped, --device cuda needs a CUDA device")
        return 0
    quiet()
    gpu = args.device == "cuda"
    if args.keep_freed_memory:
        keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    count = args.batch_size or (256 if gpu else 128)
    out = args.out or Path("docs/benchmarks") / ("mixers_cuda.json" if gpu else "mixers.json")

    results: dict[str, Any] = {}
    for dtype in (args.dtype or ("float32,bfloat16" if gpu else "float32")).split(","):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, 3, args.image_size, args.image_size, generator=generator)
        images = images.to(args.device, getattr(torch, dtype))
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(CLASSES, (count,), generator=generator).to(args.device)
        print(
            f"\n{count} images of 3×{args.image_size}×{args.image_size}, {dtype}, {args.device}, {args.rounds} rounds"
        )
        everyone = contestants(images, labels, args.only)
        if gpu:
            everyone |= graphs(images, labels, args.only)
        last = {name for name in everyone if "ResizeMixPlus" in name}
        results[dtype] = {}
        for group in (everyone.keys() - last, last):
            turns = {}
            for name, mix in everyone.items():
                if name not in group | {"clone()", "copy_"}:
                    continue
                try:
                    mix(images, labels)  # compiles the kernels
                except RuntimeError as error:
                    print(f"{name}: skipped for {dtype} ({str(error).splitlines()[0]})")
                    continue
                turns[name] = timed(mix, images, labels, clock)
            if group & turns.keys():
                results[dtype] = printed(take_turns(turns, args.rounds), count) | results[dtype]
    if not gpu and "saliency" in f"{args.only} saliency":
        results["saliency"] = saliency(images, args.rounds)
    facts = environment(["torch", "torchvision", "timm", "kornia", "numba", "triton", "opencv-contrib-python"])
    if gpu:
        facts["device"] = torch.cuda.get_device_name()
    settings = {name: str(value) for name, value in vars(args).items()} | {"threads": torch.get_num_threads()}
    write_json(out, {"settings": settings, "environment": facts, **results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
