"""Run one loader in its own process, for loader.py: read commands from standard input, answer in lines of JSON.

usage: python _loader_peers.py NAME SETTINGS.json

Each loader is an endless stream of training batches, float32 on the CPU: random-resized crop, flip, normalize. A
measurement follows batches that are not counted. It starts and ends in mid-stream, so that work done ahead of its start
and unfinished work at its end cancel out.

Imports are inside the functions, since this file also runs in FFCV's environment, where dali_mix and DALI are not
installed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REPEATS = 1000  # of the dataset, for loaders that cannot continue from one epoch to the next

Settings = dict[str, Any]


def ours(settings: Settings, fuse: bool = True) -> Iterator[Any]:
    """Yield batches of this project's loader; with `fuse`, one operator resizes, flips and normalizes."""
    return stream(settings, "imagenet", {"image_size": settings["size"], "fuse": fuse})


def stream(settings: Settings, pipeline: str, options: dict[str, Any]) -> Iterator[Any]:
    """Yield the images of this project's training loader without end. `options` are those of `pipeline`."""
    import dali_mix

    loader = dali_mix.build_loader(
        pipeline,
        settings["prefix"],
        batch_size=settings["batch_size"],
        num_threads=settings["threads"],
        train=True,
        drop_last=True,
        device="cpu",
        pipeline_options=options,
    )
    while True:
        for batch in loader:
            yield batch.images


def ours_stock(settings: Settings) -> Iterator[Any]:
    """Yield batches of this project's loader with DALI's own resize and normalize."""
    return ours(settings, fuse=False)


def decoding(settings: Settings) -> Iterator[Any]:
    """Yield zeros, each time after DALI has decoded a batch of images and windows that our code prepared in advance."""
    import itertools

    import numpy as np
    import torch
    from dali_mix.pipelines import SampleRandom, build
    from nvidia.dali import fn, pipeline_def

    from dali_mix.recordio import RecordSet

    records, size = RecordSet(settings["prefix"]), settings["batch_size"]
    pipeline, rng, batches = build("imagenet", True, {"image_size": settings["size"]}), np.random.default_rng(1), []
    for epoch in range(32):
        rows = rng.permutation(len(records))[:size]
        draws = pipeline.draw(np.asarray(records.table[rows]), SampleRandom(0, epoch, rows))
        batches.append(
            [[records.encoded(row) for row in rows.tolist()], *(draws[f"0.{name}"] for name in ("anchor", "shape"))]
        )

    @pipeline_def(batch_size=size, num_threads=settings["threads"], device_id=None, exec_dynamic=True)
    def graph() -> Any:
        encoded, anchor, shape = fn.external_source(source=itertools.cycle(batches), num_outputs=3, no_copy=True)
        return fn.decoders.image_slice(encoded, anchor, shape, axis_names="HW")

    running, nothing = graph(), torch.zeros(size, 3, settings["size"], settings["size"])
    while True:
        running.run()
        yield nothing


def dali(settings: Settings) -> Iterator[Any]:
    """Yield batches of a graph of DALI's own reader, random crop, resize and normalize, as in DALI's examples."""
    import torch
    from nvidia.dali import fn, pipeline_def, types

    size = settings["size"]

    @pipeline_def(batch_size=settings["batch_size"], num_threads=settings["threads"], device_id=None, seed=1)
    def graph() -> Any:
        encoded, labels = fn.readers.mxnet(
            path=[settings["prefix"] + ".rec"],
            index_path=[settings["prefix"] + ".idx"],
            random_shuffle=True,
            name="reader",
        )
        images = fn.decoders.image_random_crop(encoded, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3])
        images = fn.resize(images, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=True)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            mirror=fn.random.coin_flip(),
        )
        return images, labels

    pipeline = graph()
    while True:
        images, _ = pipeline.run()
        yield torch.from_dlpack(images.as_tensor())


class Files:
    """The images as a torch dataset that repeats them `REPEATS` times."""

    def __init__(self, paths: list[str], transform: Callable[[Any], Any]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths) * REPEATS

    def __getitem__(self, position: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self.paths[position % len(self.paths)]) as image:
            return self.transform(image.convert("RGB")), 0


def torchvision(settings: Settings) -> Iterator[Any]:
    """Yield batches of a DataLoader with `threads` workers, which decode with PIL and use torchvision's transforms."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(settings["size"]),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    files = Files(settings["files"], transform)
    for images, _ in DataLoader(files, settings["batch_size"], shuffle=True, num_workers=settings["threads"]):
        yield images


def ffcv(settings: Settings) -> Iterator[Any]:
    """Yield batches that FFCV loads from a .beton, which contains the images of the other loaders unchanged."""
    import numpy as np
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    _write_beton(settings)
    mean, std = (255 * np.array(values) for values in (MEAN, STD))
    loader = Loader(
        settings["prefix"] + ".beton",
        batch_size=settings["batch_size"],
        num_workers=settings["threads"],
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        indices=np.tile(np.arange(len(settings["files"])), REPEATS),
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((settings["size"], settings["size"])),
                RandomHorizontalFlip(),
                NormalizeImage(mean, std, np.float32),
                ToTensor(),
                ToTorchImage(),
            ],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    for images, _ in loader:
        yield images


def _write_beton(settings: Settings) -> None:
    """Write the images unchanged to a .beton, unless it exists. FFCV's `encode_jpeg` is replaced in this process."""
    import numpy as np
    from ffcv.fields import IntField, RGBImageField, rgb_image
    from ffcv.writer import DatasetWriter
    from PIL import Image

    target = Path(settings["prefix"] + ".beton")
    if target.exists():
        return
    mode = "raw" if settings["files"][0].endswith(".ppm") else "jpg"
    jpegs: dict[bytes, bytes] = {}

    class Pixels:
        def __len__(self) -> int:
            return len(settings["files"])

        def __getitem__(self, position: int) -> tuple[Any, int]:
            path = Path(settings["files"][position])
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            if mode == "jpg":
                jpegs[pixels.tobytes()] = path.read_bytes()
            return pixels, 0

    rgb_image.encode_jpeg = lambda pixels, quality: np.frombuffer(jpegs.pop(pixels.tobytes()), np.uint8)
    partial = target.with_suffix(".partial")
    writer = DatasetWriter(str(partial), {"image": RGBImageField(write_mode=mode), "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Pixels())
    partial.rename(target)


def spdl(settings: Settings) -> Iterator[Any]:
    """Yield batches that SPDL decodes with FFmpeg; one filter crops, resizes and flips, and torch normalizes."""
    import math
    import random

    import spdl.io
    import torch
    from spdl.pipeline import PipelineBuilder

    size, batch = settings["size"], settings["batch_size"]
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    rng = random.Random(0)

    def decode(path: str) -> Any:
        packets = spdl.io.demux_image(path)
        height, width = packets.height, packets.width
        for _ in range(10):
            area, ratio = (
                height * width * rng.uniform(0.08, 1.0),
                math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))),
            )
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                break
        else:
            h, w = height, width
        window = f"crop={w}:{h}:{rng.randint(0, width - w)}:{rng.randint(0, height - h)}"
        flip = ",hflip" if rng.random() < 0.5 else ""
        filters = f"{window},scale={size}:{size}:flags=bilinear{flip},format=pix_fmts=rgb24"
        return spdl.io.decode_packets(packets, filter_desc=filters)

    def collate(frames: list[Any]) -> Any:
        pixels = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return pixels.permute(0, 3, 1, 2).contiguous().float().sub_(mean).div_(std)

    def files() -> Iterator[str]:
        while True:
            yield from rng.sample(settings["files"], len(settings["files"]))

    builder = PipelineBuilder().add_source(files()).pipe(decode, concurrency=settings["threads"])
    pipeline = builder.aggregate(batch).pipe(collate).add_sink(2).build(num_threads=settings["threads"])
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


LOADERS = {
    "ours": ours,
    "ours, stock ops": ours_stock,
    "decoder alone": decoding,
    "stock DALI": dali,
    "torchvision + PIL": torchvision,
    "SPDL": spdl,
    "FFCV": ffcv,
}


def main(loaders: dict[str, Callable[[Settings], Iterator[Any]]]) -> None:
    name, settings = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    answers, sys.stdout = sys.stdout, sys.stderr  # keep progress bars and the like out of the answers
    stream = loaders[name](settings)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    images = next(stream)
    values = images.float()
    answer(shape=list(images.shape), mean=float(values.mean()), std=float(values.std()), dtype=str(images.dtype))
    for line in sys.stdin:
        skip, count = (int(word) for word in line.split())
        for _ in range(skip):
            next(stream)
        start = time.perf_counter()
        for _ in range(count):
            images = next(stream)
        answer(seconds=time.perf_counter() - start, images=count * settings["batch_size"])


if __name__ == "__main__":
    main(LOADERS)
