"""Pictures whose size in DALI differs from the manifest are named or skipped in every graph."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dali_mix.pipelines import Pipeline, Step
from nvidia.dali import fn

from dali_mix import build_loader
from dali_mix.cli.main import main
from dali_mix.loading.decoder import wrong_sizes
from dali_mix.recordio import Sample, write_set
from tests.loading.sets import FIXED_SIZE_GRAPHS, encode, picture
from tests.recordio.odd_images import REFUSED, before, exif, tiff
from tests.recordio.samples import with_checksums

GRAPHS = FIXED_SIZE_GRAPHS | {"cifar": ("cifar", {"image_size": 32})}
UPRIGHT = encode(picture(40, 50), "JPEG")
# name → (file, size in the manifest)
WRONG = {
    "smaller": (encode(picture(20, 25), "JPEG"), (40, 50)),
    "larger": (encode(picture(80, 90), "JPEG"), (40, 50)),
    "rotated": (before(UPRIGHT, 0xE0, exif(tiff(6))), (40, 50)),
    "one row less": (encode(picture(39, 50), "PNG"), (40, 50)),
}


def samples(name: str) -> list[Sample]:
    data, (height, width) = WRONG[name]
    good = [Sample(UPRIGHT, number % 3) for number in range(9)]
    return [*good[:6], Sample(data, 0, height, width, "jpeg"), *good[6:]]


def loader(prefix: Path, graph: str, train: bool, **more: str):
    pipeline, options = GRAPHS[graph]
    return build_loader(
        pipeline, prefix, batch_size=4, train=train, device="cpu", num_threads=1, pipeline_options=options, **more
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_size_is_named_or_skipped(tmp_path: Path, name: str, graph: str, train: bool) -> None:
    write_set(tmp_path / "set", samples(name), classes="abc")
    with pytest.raises(ValueError, match=r"set\.rec: record 6: the image is \d+×\d+ pixels, the manifest says 40×50"):
        list(loader(tmp_path / "set", graph, train))
    skipping = loader(tmp_path / "set", graph, train, on_bad_record="skip")
    for _ in range(2):
        ids = [number for batch in skipping for number in batch.ids.tolist()]
        assert sorted(ids) == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert [row for row, _ in skipping.skipped] == [6]


@pytest.mark.parametrize("train", [True, False])
def test_advised_verify_command_finds_bad_record(
    tmp_path: Path, train: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hollow = bytearray(encode(picture(40, 50)))
    hollow[60:90] = bytes(30)
    torn = with_checksums(bytes(hollow))
    damaged = [samples("rotated")[6], *(Sample(data, 0, 40, 50, "png") for data in (torn, bytes(hollow), b"GIF89a"))]
    for number, bad in enumerate(damaged):
        prefix = tmp_path / f"set{number}"
        write_set(prefix, [*samples("rotated")[:6], bad], classes="abc")
        with pytest.raises(ValueError, match="record 6") as raised:
            list(loader(prefix, "imagenet", train))
        command = shlex.split(str(raised.value).split("run `dali-mix ")[1].split("`")[0])
        assert main([*command, "--quiet"]) == 1
        assert "record 6: " in capsys.readouterr().err


def test_skipping_wrong_size_does_not_change_other_records(tmp_path: Path) -> None:
    write_set(tmp_path / "set", samples("smaller"), classes="abc")
    write_set(tmp_path / "good", [Sample(UPRIGHT, number % 3) for number in range(10)], classes="abc")
    found, expected = (
        {row: image for batch in one for row, image in zip(batch.ids.tolist(), batch.images.numpy(), strict=True)}
        for one in (
            loader(tmp_path / "set", "imagenet", True, on_bad_record="skip"),
            loader(tmp_path / "good", "imagenet", True),
        )
    )
    assert set(expected) - set(found) == {6}
    assert all(np.array_equal(found[row], expected[row]) for row in found)


def test_image_that_fails_only_in_window_decoding_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, _ = REFUSED["webp with two canvases"]  # DALI reports a rotated size but does not rotate it
    write_set(tmp_path / "set", [*samples("rotated")[:6], Sample(data, 0, 20, 12, "webp")], classes="abc")
    windows = {"scale": (1.0, 1.0), "ratio": (0.6, 0.6)}
    one = build_loader(
        "imagenet",
        tmp_path / "set",
        batch_size=4,
        train=True,
        device="cpu",
        pipeline_options={"image_size": 32, **windows},
    )
    with pytest.raises(ValueError, match=r"record 6: DALI fails on the image.*dali-mix verify --decode"):
        list(one)
    assert main(["verify", "--decode", str(tmp_path / "set"), "--quiet"]) == 1
    assert "record 6: a damaged WebP" in capsys.readouterr().err


class SliceOutside(Step):
    def graph(self, images, draws, device):
        return fn.slice(images, start=[1000, 1000], shape=[8, 8], axis_names="HW")

    def resized(self, sizes, draws):
        return np.full_like(sizes, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PPM"])
def test_pipeline_that_always_fails_raises_its_error(tmp_path: Path, kind: str) -> None:
    write_set(tmp_path / "set", [Sample(encode(picture(40, 50), kind), 0) for _ in range(4)], classes="a")
    pipeline = Pipeline(train=True, image_size=8, mean=(0, 0, 0), std=(1, 1, 1), steps=[SliceOutside()])
    with pytest.raises(RuntimeError, match="slice"):
        list(build_loader(pipeline, tmp_path / "set", batch_size=4, train=True, device="cpu", on_bad_record="skip"))


@pytest.mark.parametrize("size", [(9, 8), (8, 9), (9, 9)])
def test_wrong_sizes_finds_difference_in_either_side(size):
    table = np.array([(8, 8)] * 2, dtype=[("height", np.int32), ("width", np.int32)])
    sizes = SimpleNamespace(as_tensor=lambda: np.array([[8, 8, 3], [*size, 3]]))
    assert [row for row, _ in wrong_sizes(SimpleNamespace(table=table), np.array([0, 1]), sizes)] == [1]
