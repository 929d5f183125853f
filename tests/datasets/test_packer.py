"""The packer through the command line: options, determinism, and what is refused."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options, PackOptions
from dali_mix.datasets.images import Transform, decoded_size
from dali_mix.datasets.packer import pack
from dali_mix.recordio import ENCODINGS, Block, RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded, image_folder, pixels, with_checksums

Capture = pytest.CaptureFixture[str]


def run_pack(root: Path, out: Path, *options: str, layout: str = "imagefolder") -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_files_pass_through(tmp_path: Path, capsys: Capture) -> None:
    root = image_folder(tmp_path / "images")
    assert run_pack(root, tmp_path / "set", "--no-shuffle") == 0
    text = capsys.readouterr().out
    assert "12 images in" in text and "images/s" in text and "skipped 0" in text
    records = RecordSet(tmp_path / "set")
    files = sorted(root.rglob("*.jpeg"))
    assert [records.encoded(row).tobytes() for row in range(12)] == [path.read_bytes() for path in files]
    assert records.info.classes == ("class0", "class1", "class2")
    assert records.labels(np.arange(12)).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert list(verify_set(tmp_path / "set")) == []


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", classes=4, each=20)
    for workers in (1, 2, 7):
        out = tmp_path / f"workers{workers}" / "set"
        assert run_pack(root, out, "--workers", str(workers), "--resize", "16", "--shards", "3") == 0
    expected = digests(tmp_path / "workers1")
    assert len(expected) == 6
    assert digests(tmp_path / "workers2") == expected
    assert digests(tmp_path / "workers7") == expected


def test_training_is_shuffled_and_validation_is_not(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image_folder(tmp_path / "images" / split, classes=2, each=20)
    ids = {}
    for name, options in {
        "default": ["--split", "train"],
        "zero": ["--split", "train", "--shuffle", "0"],
        "one": ["--split", "train", "--shuffle", "1"],
        "off": ["--split", "train", "--no-shuffle"],
        "val": ["--split", "val"],
    }.items():
        assert run_pack(tmp_path / "images", tmp_path / name, *options) == 0
        records = RecordSet(tmp_path / name)
        ids[name] = records.table["id"].tolist()
        assert sorted(ids[name]) == list(range(40))
        assert records.labels(np.arange(40)).tolist() == [number // 20 for number in ids[name]]
    assert ids["default"] == ids["zero"] != ids["one"]
    assert ids["off"] == ids["val"] == list(range(40)) != ids["zero"]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--resize", "24"], (24, 40)),
        (["--resize", "100"], (48, 80)),
        (["--max-side", "40"], (24, 40)),
        (["--resize", "36", "--max-side", "40"], (24, 40)),
        (["--resize", "7"], (7, 12)),
    ],
)
def test_sizes(tmp_path: Path, options: list[str], size: tuple[int, int]) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    original = encoded("JPEG", 48, 80)
    (folder / "wide.jpg").write_bytes(original)
    (folder / "turned.jpg").write_bytes(encoded("JPEG", 48, 80, turn=6))
    assert run_pack(tmp_path / "images", tmp_path / "set", "--no-shuffle", *options) == 0
    records = RecordSet(tmp_path / "set")
    assert list(zip(records.table["height"], records.table["width"], strict=True)) == [size[::-1], size]
    for row in range(2):
        image = Image.open(io.BytesIO(records.encoded(row).tobytes()))
        if size != (48, 80):  # encoded anew: turned upright, no EXIF left
            assert image.size == (records.table["width"][row], records.table["height"][row])
            assert image.getexif().get(0x0112, 1) == 1
    assert (records.encoded(1).tobytes() == original) == (size == (48, 80))
    assert records.info.report["reencoded"] == (0 if size == (48, 80) else 2)


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "jpeg"), ("png", "png"), ("raw", "pnm"), ("keep", None)])
def test_encodings(tmp_path: Path, encoding: str, kind: str | None) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    kinds = ["BMP", "JPEG", "PNG", "PPM", "WEBP"]
    for name in kinds:
        data = encoded(name, 40, 30, lossless=True) if name == "WEBP" else encoded(name, 40, 30)
        (folder / f"{name}.{name.lower()}").write_bytes(data)
    assert run_pack(tmp_path / "images", tmp_path / "set", "--encoding", encoding, "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    found = [ENCODINGS[number] for number in records.table["encoding"]]
    assert found == ([kind] * 5 if kind else ["bmp", "jpeg", "png", "pnm", "webp"])
    for row, name in enumerate(kinds):
        stored = np.asarray(Image.open(io.BytesIO(records.encoded(row).tobytes())).convert("RGB")).astype(int)
        source = np.asarray(Image.open(folder / f"{name}.{name.lower()}").convert("RGB"))
        assert np.abs(stored - source).mean() < (6 if encoding == "jpeg" else 0.01), name
    assert list(verify_set(tmp_path / "set")) == []


def test_gif_and_tiff_can_be_converted(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    (folder / "a.gif").write_bytes(encoded("GIF"))
    (folder / "b.tif").write_bytes(encoded("TIFF"))
    assert run_pack(tmp_path / "images", tmp_path / "set") == 1
    assert "images/a/" in capsys.readouterr().err
    assert run_pack(tmp_path / "images", tmp_path / "set", "--encoding", "png", "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    tiff = Image.open(io.BytesIO(records.encoded(1).tobytes()))
    assert np.array_equal(np.asarray(tiff), pixels(12, 20))


def test_quality(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 1, 3, "PNG")
    sizes = []
    for quality in ("30", "95"):
        assert run_pack(root, tmp_path / quality, "--encoding", "jpeg", "--quality", quality) == 0
        sizes.append(RecordSet(tmp_path / quality).info.parts[0].size)
    assert sizes[0] < sizes[1]


def test_resizing_is_antialiased_as_pil_s(tmp_path: Path) -> None:
    """Stripes finer than the new pixels become grey instead of a false pattern, as with PIL's antialiased resize."""
    fine = np.zeros((400, 600, 3), np.uint8)
    fine[:, ::3] = 255
    smooth = np.asarray(Image.fromarray(pixels(40, 60)).resize((600, 400), Image.Resampling.BICUBIC))
    for side in (256, 150, 64):
        for picture in (fine, smooth):
            out = io.BytesIO()
            Image.fromarray(picture).save(out, "PNG")
            data, header, _ = Transform(resize=side)(out.getvalue())
            size = header.width, header.height
            ours = np.asarray(Image.open(io.BytesIO(data))).astype(float)
            pil = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)).astype(float)
            difference = np.abs(ours - pil).mean()
            if picture is fine:
                aliased = np.abs(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR) - pil).mean()
                assert difference < 0.5 * aliased, side
            else:
                assert difference < 1, side


BAD = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty"),
    "undecodable": (encoded("JPEG")[:200], "cut short"),
    "html": (b"<!doctype html>", "web page"),
    "gif": (encoded("GIF"), "GIF"),
    "too large": (encoded("PNG", 300, 400), "--max-pixels 100,000"),
    "a lie of a header": (
        with_checksums(encoded("PNG")[:16] + b"\x7f\xff\xff\xff" * 2 + encoded("PNG")[24:]),
        "--max-pixels",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_stops_or_is_skipped(tmp_path: Path, capsys: Capture, kind: str) -> None:
    data, reason = BAD[kind]
    root = tmp_path / "images"
    image_folder(root, 1, 3)
    if data is not None:
        (root / "class0" / "bad.jpg").write_bytes(data)
    (root / "train.txt").write_text("class0/0.jpeg\t0\nclass0/bad.jpg\t1\nclass0/1.jpeg\t1\n")
    options = ("--max-pixels", "100000", "--no-shuffle")
    assert run_pack(root, tmp_path / "set", *options, layout="list") == 1
    error = capsys.readouterr().err
    assert f"{root}/class0/bad.jpg: " in error and reason in error and "--skip-bad" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert run_pack(root, tmp_path / "set", *options, "--skip-bad", layout="list") == 0
    assert "skipped class0/bad.jpg: " in capsys.readouterr().out
    records = RecordSet(tmp_path / "set")
    assert records.table["id"].tolist() == [0, 2]
    (skipped,) = json.loads((tmp_path / "set.json").read_text())["report"]["skipped"]
    assert skipped["file"] == "class0/bad.jpg" and reason in skipped["reason"]


def test_decoding_as_a_check(tmp_path: Path, capsys: Capture) -> None:
    root = image_folder(tmp_path / "images", 1, 2, "PNG")
    data = bytearray(encoded("PNG", 40, 40))
    place = data.index(b"IDAT") + 20
    data[place : place + 30] = bytes(30)
    (root / "class0" / "torn.png").write_bytes(with_checksums(bytes(data)))
    assert run_pack(root, tmp_path / "set") == 0
    assert run_pack(root, tmp_path / "set", "--check", "decode", "--force") == 1
    assert "class0/torn.png: cannot be decoded" in capsys.readouterr().err
    assert run_pack(root, tmp_path / "set", "--check", "decode", "--force", "--skip-bad") == 0
    assert len(RecordSet(tmp_path / "set")) == 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_most_damaged_jpegs_are_found_by_decoding(options: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    found = 0
    for seed in range(20):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (120, 90, 3), dtype=np.uint8)).save(out, "JPEG", **options)
        data = bytearray(out.getvalue() + b"\xff\xf3 and what cameras append")
        assert decoded_size(bytes(data)) == (120, 90)
        middle = len(data) // 2
        data[middle : middle + 600] = np.random.default_rng(seed).integers(0, 256, 600, dtype=np.uint8).tobytes()
        with contextlib.suppress(ValueError):
            assert Transform()(bytes(data))[0] == data  # the header sees nothing
            decoded_size(bytes(data))
            continue
        found += 1
    assert found >= 13


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}, {"optimize": True, "quality": 30}],
    ids=["plain", "progressive", "restarts", "4:4:4", "optimized"],
)
def test_a_jpeg_cut_short_and_closed_is_found_by_decoding(options: dict[str, Any], left: float) -> None:
    """pytorch/examples#769, NVIDIA/DALI#2667: decoders show the part that is missing in grey."""
    for height, width, gray in ((120, 90, False), (33, 200, True), (300, 17, False)):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image, out = Image.fromarray(pixels), io.BytesIO()
        (image.convert("L") if gray else image).save(out, "JPEG", **options)
        data = out.getvalue()
        for whole in (data, data + b"and what cameras append", data[:-2] + bytes(9) + data[-2:]):
            assert decoded_size(whole) == (height, width)
        start = data.index(b"\xff\xda")
        cut = data[: start + int(left * (len(data) - start))].rstrip(b"\xff") + b"\xff\xd9"
        assert bytes(Transform()(cut)[0]) == cut  # the header sees nothing
        with pytest.raises(ValueError, match=r"cannot be decoded: .*; fetch the file again"):
            decoded_size(cut)


def test_everything_skipped(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    (root / "a" / "bad.jpg").write_bytes(b"")
    assert run_pack(root, tmp_path / "set", "--skip-bad") == 1
    assert "no record to write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_existing_set(tmp_path: Path, capsys: Capture) -> None:
    root = image_folder(tmp_path / "images")
    assert run_pack(root, tmp_path / "set") == 0
    before = digests(tmp_path / "images" / "class0"), (tmp_path / "set.json").read_bytes()
    assert run_pack(root, tmp_path / "set", "--shuffle", "5") == 1
    assert "exists; give --force" in capsys.readouterr().err
    assert (tmp_path / "set.json").read_bytes() == before[1]
    assert run_pack(root, tmp_path / "set", "--shuffle", "5", "--force") == 0
    assert (tmp_path / "set.json").read_bytes() != before[1]


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "0"],
        ["--quality", "0"],
        ["--resize", "0"],
        ["--shards", "0"],
        ["--shards", "13"],
        ["--shuffle", "-1"],
        ["--shuffle", "1", "--no-shuffle"],
        ["--task", "detection"],
        ["--download"],
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, capsys: Capture, options: list[str]) -> None:
    root = image_folder(tmp_path / "images")
    assert run_pack(root, tmp_path / "set", *options) == 1
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def start_packing(root: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dali_mix.cli.main", "pack", "imagefolder", "--root", str(root), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--quiet", *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the packer has begun to write."""
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None and time.monotonic() < end, "it ended before it could be killed"
        time.sleep(0.001)


@pytest.fixture
def slow_folder(tmp_path: Path) -> Path:
    """A dataset that takes long enough to be interrupted: re-encoding large pictures."""
    root = tmp_path / "images"
    data = encoded("JPEG", 1500, 2000)
    for label in range(2):
        (root / str(label)).mkdir(parents=True)
        for number in range(40):
            (root / str(label) / f"{number}.jpg").write_bytes(data)
    return root


@pytest.mark.parametrize("victim", ["process", "worker"])
def test_killed_while_packing(tmp_path: Path, slow_folder: Path, victim: str) -> None:
    """SIGKILL to the packer or to one of its workers (threads): it ends, nothing is published, a rerun gives the
    same."""
    out = tmp_path / "out" / "set"
    packing = start_packing(slow_folder, out, "--resize", "1000")
    wait_for(tmp_path / "out" / ".set.rec.partial", packing)
    target = packing.pid
    if victim == "worker":
        threads = [int(path.name) for path in Path(f"/proc/{packing.pid}/task").iterdir()]
        target = max(thread for thread in threads if thread != packing.pid)
    os.kill(target, signal.SIGKILL)
    assert packing.wait(timeout=60) == -signal.SIGKILL
    assert {path.name for path in out.parent.iterdir()} <= {".set.rec.partial", ".set.lock"}
    again = start_packing(slow_folder, out, "--resize", "1000")
    calm = start_packing(slow_folder, tmp_path / "calm" / "set", "--resize", "1000")
    assert again.wait(timeout=120) == calm.wait(timeout=120) == 0
    assert digests(out.parent) == digests(tmp_path / "calm")


def test_interrupted_while_packing(tmp_path: Path, slow_folder: Path) -> None:
    out = tmp_path / "out" / "set"
    packing = start_packing(slow_folder, out, "--resize", "1000")
    wait_for(tmp_path / "out" / ".set.rec.partial", packing)
    packing.send_signal(signal.SIGINT)
    _, error = packing.communicate(timeout=60)
    assert packing.returncode == 130 and error.strip().endswith("interrupted")
    assert list(out.parent.iterdir()) == []


def test_two_packers_at_once(tmp_path: Path, slow_folder: Path) -> None:
    out = tmp_path / "out" / "set"
    first = start_packing(slow_folder, out, "--resize", "1000")
    wait_for(tmp_path / "out" / ".set.rec.partial", first)
    first.send_signal(signal.SIGSTOP)  # lest it end while the second one starts
    try:
        second = start_packing(slow_folder, out, "--resize", "1000", "--force")
        _, error = second.communicate(timeout=60)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 1 and "another packer is writing this set" in error
    assert first.wait(timeout=120) == 0
    assert list(verify_set(out)) == []


def test_a_worker_that_fails_unexpectedly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "images", 2, 40)
    listing = LAYOUTS["imagefolder"](root, "train", Options())
    real, calls = Block.add, []
    lock = threading.Lock()

    def failing(*args: object, **kwargs: object) -> object:
        with lock:
            calls.append(1)
        if len(calls) > 30:
            raise MemoryError("no memory left for a picture")
        return real(*args, **kwargs)

    monkeypatch.setattr(Block, "add", failing)
    with pytest.raises(MemoryError):
        pack(listing, tmp_path / "set", PackOptions(workers=2))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pack")]


def test_the_tool_is_the_command(tmp_path: Path) -> None:
    tool = Path(__file__).resolve().parents[2] / "tools" / "make_rec.py"
    command = [sys.executable, str(tool), "digits", "--split", "val", "--out", str(tmp_path / "set")]
    screen, terminal = os.openpty()  # the progress bar is for a terminal only
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, text=True, timeout=120)
    os.close(terminal)
    bar = b""
    with os.fdopen(screen, "rb", buffering=0) as file, contextlib.suppress(OSError):  # EIO: all is read
        while block := file.read(4096):
            bar += block
    assert done.returncode == 0, bar
    assert "359 images in" in done.stdout
    assert b"359/359" in bar and b"img/s" in bar and b"<" in bar  # rate and time left
    assert len(RecordSet(tmp_path / "set")) == 359
