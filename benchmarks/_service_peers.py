"""Run one loader in its own process, for service.py: read commands from standard input, answer in lines of JSON.

usage: python _service_peers.py NAME SETTINGS.json

This file works like _loader_peers.py, whose DataLoader is one of the contestants. The settings contain the pool's
address.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _loader_peers import MEAN, REPEATS, STD, Settings, main, torchvision


def ours(settings: Settings, dtype: str = "float32", pool: bool = False, normalized: bool = True) -> Iterator[Any]:
    """Yield the images of this project's loader without end, decoded in this process or, with `pool`, by the pool.

    With `dtype` "uint8", the loader returns uint8 images. They are normalized here if `normalized`.
    """
    from dali_mix.pipelines import normalize

    import dali_mix
    from dali_mix.service import connect

    loader = dali_mix.build_loader(
        "imagenet",
        settings["prefix"],
        batch_size=settings["batch_size"],
        num_threads=settings["threads"],
        train=True,
        seed=settings.get("seed", 0),
        device="cpu",
        dtype=dtype,
        pipeline_options={"image_size": settings["size"]},
        workers=connect(settings["address"]) if pool else None,
    )
    while True:
        for batch in loader:
            yield normalize(batch.images, MEAN, STD) if dtype == "uint8" and normalized else batch.images


def uint8(settings: Settings) -> Iterator[Any]:
    """Yield batches that are decoded to uint8 and then normalized as a separate step, both in this process."""
    return ours(settings, dtype="uint8")


def pool(settings: Settings) -> Iterator[Any]:
    """Yield batches decoded by the pool."""
    return ours(settings, pool=True)


def for_gpu(settings: Settings) -> Iterator[Any]:
    """Yield uint8 batches decoded in this process, which would be copied to a GPU and normalized there."""
    return ours(settings, dtype="uint8", normalized=False)


def pool_for_gpu(settings: Settings) -> Iterator[Any]:
    """Yield uint8 batches decoded by the pool, which would be copied to a GPU and normalized there."""
    return ours(settings, dtype="uint8", pool=True, normalized=False)


def ray_data(settings: Settings) -> Iterator[Any]:
    """Yield unshuffled batches that Ray Data makes with PIL and torchvision's transforms, for 20 epochs.

    This starts Ray in this process, with as many cores as the setting "threads".
    """
    import io

    import ray
    import torch
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(settings["size"]),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": transform(Image.open(io.BytesIO(row["bytes"])).convert("RGB")).numpy()}

    ray.init(num_cpus=settings["threads"], include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = settings["files"] * max(1, REPEATS // 50)
    for batch in ray.data.read_binary_files(files).map(decode).iter_batches(batch_size=settings["batch_size"]):
        yield torch.as_tensor(batch["image"])


LOADERS = {
    "pool": pool,
    "pool, for a GPU": pool_for_gpu,
    "in process, for a GPU": for_gpu,
    "in process": ours,
    "in process, uint8": uint8,
    "DataLoader": torchvision,
    "Ray Data": ray_data,
}

if __name__ == "__main__":
    main(LOADERS)
