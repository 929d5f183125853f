"""Images that decoders read differently are stored in a form that all decoders read alike."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.datasets import Transform
from dali_mix.datasets.images.decoding import decoded_size
from dali_mix.recordio import RecordSet, read_image_header, write_set
from dali_mix.recordio.adopt import adopt
from dali_mix.recordio.verify import verify_set
from tests.loading.sets import decoded_by_dali
from tests.recordio.odd_images import JPEG, ODD, PICTURE, PLAIN, REFUSED
from tests.recordio.samples import encoded

TURNED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, -1),
    7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PICTURE),
}


def nearest_turn(image: np.ndarray) -> int:
    """Return the orientation in which `image` shows the picture, at full or half size."""
    differences = {}
    for turn, picture in TURNED.items():
        height, width = picture.shape[:2]
        half = picture.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        for shown in (picture, half):
            if shown.shape == image.shape:
                differences[turn] = np.abs(image - shown).mean()
    return min(differences, key=lambda turn: differences[turn])


@pytest.mark.parametrize("name", [*ODD, *PLAIN])
def test_all_encodings_show_the_same_image(name: str) -> None:
    data, turn = (ODD | PLAIN)[name]
    stored = []
    for encoding in ("keep", "png", "raw"):
        for decode in (False, True):
            kept, header, why = Transform(encoding=encoding, decode=decode)(data)
            assert encoding != "keep" or bool(why) == (name in ODD)
            assert read_image_header(kept)[:3] == header[:3]
            assert decoded_size(kept) == (header.height, header.width) == TURNED[turn].shape[:2]
            stored.append(bytes(kept))
    first, *others = decoded_by_dali(stored)
    assert first.shape == TURNED[turn].shape and nearest_turn(first) == turn
    assert np.abs(first - TURNED[turn]).mean() < 12
    assert all(np.abs(first - other).max() <= 1 for other in others)


@pytest.mark.parametrize("name", ODD)
def test_resized_or_jpeg_images_keep_orientation(name: str) -> None:
    data, turn = ODD[name]
    for options in ({"encoding": "jpeg"}, {"resize": 6}, {"max_side": 10, "encoding": "png"}):
        kept, header, why = Transform(**options)(data)  # type: ignore[arg-type]  # values of several types
        (found,) = decoded_by_dali([bytes(kept)])
        assert why and found.shape == (header.height, header.width, 3) and nearest_turn(found) == turn


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_images_are_refused_by_every_reader(name: str) -> None:
    data, reason = REFUSED[name]
    for encoding in ("keep", "png", "jpeg"):
        for decode in (False, True):
            with pytest.raises(ValueError, match=reason):
                Transform(encoding=encoding, decode=decode)(data)
    with pytest.raises(ValueError, match=reason):
        read_image_header(data)
    with pytest.raises(ValueError, match=reason):
        decoded_size(data)


def test_verify_and_adopt_name_records_of_odd_images(tmp_path: Path) -> None:
    names = [*ODD, *REFUSED]
    images = [data for data, _ in [*ODD.values(), *REFUSED.values()]]
    samples = [(data, 0, 12, 20, "jpeg") for data in images]  # as an earlier version may have written them
    write_set(tmp_path / "set", [(JPEG, 0), *samples], classes="a")
    for decode in (None, decoded_size):
        problems = list(verify_set(tmp_path / "set", decode=decode))
        assert [int(problem.split("record ")[1].split(":")[0]) for problem in problems] == [*range(1, len(names) + 1)]
    for suffix in (".json", ".npy", ".idx"):
        (tmp_path / f"set{suffix}").unlink()
    with pytest.raises(ValueError, match=r"record 1: two EXIF blocks.*pack its file again.*skip_bad=True"):
        adopt([tmp_path / "set.rec"])
    assert adopt([tmp_path / "set.rec"], skip_bad=True).count == 1
    assert list(verify_set(tmp_path / "set", decode=decoded_size)) == []


def test_report_counts_normalized_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    for number, name in enumerate(["exif 1, then 6", "exif 6, then 1", "cmyk without adobe"]):
        (folder / f"{number}.jpg").write_bytes(ODD[name][0])
    (folder / "3.jpg").write_bytes(encoded("JPEG"))
    out = tmp_path / "set"
    assert main(["pack", "imagefolder", "--root", str(tmp_path / "in"), "--out", str(out)]) == 0
    report = json.loads(Path(f"{out}.json").read_text())["report"]
    counts = {re.sub(",.*", "", reason): count for reason, count in report["normalized"].items()}
    assert counts == {"two EXIF blocks": 2, "a CMYK JPEG without an Adobe marker": 1} and report["reencoded"] == 3
    printed = capsys.readouterr().out
    assert "2 images were re-encoded, as PNG or as requested" in printed and "1 image was re-encoded" in printed
    assert sorted(RecordSet(out).table["encoding"].tolist()) == [1, 2, 2, 2]
    assert main(["verify", "--decode", str(out), "--quiet"]) == 0


@pytest.mark.parametrize(("kind", "name"), [("GIF", "a GIF"), ("TIFF", "a TIFF")])
def test_first_of_several_images_is_kept_with_reason(kind: str, name: str) -> None:
    frames = [Image.fromarray(np.full((12, 20, 3), level, np.uint8)) for level in (200, 40)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    kept, _, why = Transform(encoding="png")(file.getvalue())
    assert why.startswith(f"{name} of several images")
    assert np.asarray(Image.open(io.BytesIO(kept)).convert("RGB"))[0, 0].tolist() == [200, 200, 200]


def test_tiff_with_wrong_tag_type_is_named_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded("TIFF", 3, 4))
    data[72] = 2  # a numeric tag declared as text: PIL raises TypeError
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    (folder / "odd.tif").write_bytes(data)
    (folder / "good.png").write_bytes(encoded("PNG"))
    pack = ["pack", "imagefolder", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "set"), "--quiet"]
    assert main([*pack, "--encoding", "png"]) == 1
    assert "a/odd.tif: cannot be" in capsys.readouterr().err
    assert main([*pack, "--encoding", "png", "--skip-bad"]) == 0
    assert len(RecordSet(tmp_path / "set")) == 1
