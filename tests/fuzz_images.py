"""Pack and load damaged images in child processes. No process may die, hang or exhaust memory.

    python -m tests.fuzz_images --count 100000 --seed 0

File number N of a seed is the same on every machine: `--only N` makes and loads that file, `--save FOLDER` writes it.
A child process takes `--chunk` files. If it dies, its range of files is halved until the one that kills it is found.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import math
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from dali_mix import build_loader
from dali_mix.datasets.images.decoding import decode_bgr, decoded_size
from dali_mix.datasets.images.transform import Transform
from dali_mix.recordio import RecordSet, Sample, read_image_header, write_set
from tests.loading.sets import decoded_by_dali
from tests.recordio.odd_images import ODD, PLAIN
from tests.recordio.samples import encoded, pixels, png_chunk, with_checksums

TIMEOUT, MEMORY = 300, 6 << 30  # limits per child process: seconds, and bytes of address space
MAX_PIXELS = 1_000_000
KINDS = (
    "png",
    "png",
    "png",
    "jpeg",
    "jpeg",
    "webp",
    "bmp",
    "pnm",
)
NAMES = b"IHDR PLTE tRNS IDAT eXIf gAMA iCCP acTL VP8X VP8L ALPH EXIF".split()  # of chunks
INTEGERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 65535, 1 << 16, 1 << 24, (1 << 31) - 1, (1 << 32) - 1)


@functools.cache
def originals() -> dict[str, list[bytes]]:
    """Return intact files to damage, by format."""
    found: dict[str, list[bytes]] = {"jpeg": [], "png": [], "webp": [], "bmp": [], "pnm": []}
    for data, _ in [*PLAIN.values(), *ODD.values()]:
        if len(data) < 5000:
            found[_format(data)].append(data)
    for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "I;16"):
        found["png"].append(_png(mode))
    for options in ({"subsampling": 2}, {"progressive": True}, {"restart_marker_blocks": 1}, {"mode": "L"}, {}):
        found["jpeg"].append(encoded("JPEG", 33, 47, **options))
    for options in ({"lossless": True}, {"mode": "RGBA"}, {"mode": "RGBA", "lossless": True}, {"turn": 6}, {}):
        found["webp"].append(encoded("WEBP", 33, 47, **options))
    found["bmp"] += [encoded("BMP", 33, 47, mode=mode) for mode in ("RGB", "L", "P", "1", "RGBA")]
    found["pnm"] += [encoded("PPM", 33, 47, mode=mode) for mode in ("RGB", "L")]
    found["pnm"].append(b"P6\n20 12\n65535\n" + bytes(range(240)) * 6)
    return found


def _png(mode: str) -> bytes:
    image = Image.fromarray(pixels(33, 47))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    out = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(out, "PNG")
    return out.getvalue()


def _format(data: bytes) -> str:
    starts = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp"}
    return starts.get(data[:2], "pnm")


def damaged(seed: int, number: int) -> tuple[str, bytes]:
    """Return the format and the bytes of a damaged file."""
    random = np.random.default_rng((seed, number))
    kind = str(random.choice(KINDS))
    data = _pick(random, originals()[kind])
    for _ in range(1 + int(random.random() < 0.4)):
        if kind in ("png", "jpeg", "webp") and random.random() < 0.7:
            data = _damage_parts(random, kind, data)
        elif kind in ("bmp", "pnm") and random.random() < 0.5:
            data = _damage_integer(random, data, min(len(data), 64), "<" if kind == "bmp" else ">")
        else:
            data = _damage_bytes(random, data, _pick(random, originals()[kind]))
    if kind == "png" and random.random() < 0.9:
        data = with_checksums(data)
    if kind == "webp" and random.random() < 0.9:
        data = data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:]
    return kind, data


def _pick(random: np.random.Generator, items: list[bytes]) -> bytes:
    return items[int(random.integers(len(items)))]


def _damage_bytes(random: np.random.Generator, data: bytes, other: bytes) -> bytes:
    if len(data) < 4:
        return data
    start, stop = sorted(random.integers(0, len(data) + 1, 2).tolist())
    length = int(random.integers(1, 9))
    what = int(random.integers(8))
    if what == 0:
        return data[:stop]
    if what == 1:
        return data[:start] + data[start + length :]
    if what == 2:
        return data[:start] + data[start : start + 4 * length] + data[start:]
    if what == 3:
        return data[:start] + random.bytes(length) + data[start:]
    if what == 4:
        return data[:start] + bytes([int(random.choice([0, 255]))]) * length + data[start + length :]
    if what == 5:
        return data[:start] + other[start:]
    changed = bytearray(data)
    for at in random.integers(0, len(data) if what == 6 else min(len(data), 80), length).tolist():
        changed[at] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _damage_integer(random: np.random.Generator, data: bytes, end: int, order: str) -> bytes:
    code = str(random.choice(["B", "H", "I"]))
    size = struct.calcsize(code)
    if end < size:
        return data
    at = int(random.integers(0, end - size + 1))
    value = int(random.choice(INTEGERS)) if random.random() < 0.7 else int(random.integers(1 << 32))
    return data[:at] + struct.pack(order + code, value & (1 << 8 * size) - 1) + data[at + size :]


def _split(kind: str, data: bytes) -> list[bytes]:
    """Split a file into its signature and its chunks or segments. The joined parts are the file."""
    at = {"png": 8, "jpeg": 2, "webp": 12}[kind]
    parts = [data[:at]]
    while at + 4 <= len(data):
        if kind == "png":
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        elif kind == "webp":
            length = int.from_bytes(data[at + 4 : at + 8], "little")
            end = at + 8 + length + (length & 1)
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] == 0xDA or data[at] != 0xFF:
                break
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]] if at < len(data) else parts


def _damage_parts(random: np.random.Generator, kind: str, data: bytes) -> bytes:
    parts = _split(kind, data)
    at, other = (int(number) for number in random.integers(0, len(parts), 2))
    part = parts[at]
    what = int(random.integers(9))
    if what == 0:
        del parts[at]
    elif what == 1:
        parts.insert(other, part)
    elif what == 2:
        parts[at], parts[other] = parts[other], part
    elif what == 3:
        foreign = _split(kind, _pick(random, originals()[kind]))
        parts.insert(at, foreign[int(random.integers(len(foreign)))])
    elif what == 4 and kind == "png":
        parts.insert(max(1, at), _strange_chunk(random))
    elif what == 5 and kind == "png" and part[4:8] == b"IDAT":
        parts[at] = png_chunk(b"IDAT", _damage_pixels(random, part[8:-4]))
    elif what == 6 and kind == "png" and len(part) >= 12:  # another length; the checksum is corrected later
        content = part[8:-4]
        content = content[: int(random.integers(len(content) + 1))] + random.bytes(int(random.integers(4)))
        parts[at] = png_chunk(part[4:8], content)
    elif what == 7:
        name = _pick(random, NAMES)
        where = {"png": slice(4, 8), "webp": slice(0, 4), "jpeg": slice(1, 2)}[kind]
        new = bytes([int(random.integers(0xC0, 0x100))]) if kind == "jpeg" else name
        parts[at] = part[: where.start] + new + part[where.stop :]
    else:
        parts[at] = _damage_integer(random, part, min(len(part), 40), "<" if kind == "webp" else ">")
    return b"".join(parts)


def _damage_pixels(random: np.random.Generator, content: bytes) -> bytes:
    try:
        rows = zlib.decompress(content)
    except zlib.error:
        return content
    what = int(random.integers(4))
    if what == 0:
        rows = rows[: int(random.integers(len(rows) + 1))]
    elif what == 1:
        rows += random.bytes(int(random.integers(1, 5000)))
    elif what == 2:
        changed = bytearray(rows)
        for at in random.integers(0, len(rows), 5).tolist() if rows else []:
            changed[at] = int(random.integers(256))
        rows = bytes(changed)
    packed = zlib.compress(rows)
    return packed[:-4] if what == 3 else packed


def _strange_chunk(random: np.random.Generator) -> bytes:
    bomb = zlib.compress(bytes(int(random.choice([100, 2_000_000, 9_000_000]))), 9)
    choices = [
        (b"iCCP", b"x\0\0" + bomb),
        (b"zTXt", b"x\0\0" + bomb),
        (b"iTXt", b"x\0\1\0\0\0" + bomb),
        (b"eXIf", random.bytes(int(random.integers(40)))),
        (b"eXIf", b"MM\0*" + random.bytes(int(random.integers(60)))),
        (b"tRNS", random.bytes(int(random.integers(300)))),
        (b"PLTE", random.bytes(int(random.integers(800)))),
        (b"hIST", random.bytes(int(random.integers(600)))),
        (b"sBIT", random.bytes(int(random.integers(6)))),
        (b"cHRM", random.bytes(int(random.choice([0, 31, 32])))),
        (b"gAMA", random.bytes(int(random.choice([0, 3, 4])))),
        (b"pHYs", random.bytes(9)),
        (b"acTL", random.bytes(8)),
        (b"fcTL", random.bytes(26)),
        (b"fdAT", random.bytes(40)),
        (b"sPLT", b"x\0\x08" + random.bytes(int(random.integers(40)))),
        (b"mDCV", random.bytes(24)),
        (b"cICP", random.bytes(4)),
    ]
    return png_chunk(*choices[int(random.integers(len(choices)))])


def load(seed: int, numbers: range) -> dict[str, Counter[str]]:
    """Pack and load damaged files in this process; return counts of the outcomes, by format.

    Every file counts in "files", and as "kept", "normalized" or "refused" by packing. Every packed file counts
    as "loaded", or as "named" if the loader reports it as bad and skips it. Loaded files also count as "otherwise" if
    DALI shows other pixels than packing decodes. Named files also count as "unseen" if `verify --decode` would not
    find them.
    """
    counts: dict[str, Counter[str]] = {}
    samples, kinds, origin = [], [], []
    transform = Transform(max_pixels=MAX_PIXELS)
    for number in numbers:
        kind, data = damaged(seed, number)
        count = counts.setdefault(kind, Counter())
        count["files"] += 1
        try:
            stored, header, why = transform(data)
        except ValueError:
            count["refused"] += 1
            continue
        count["normalized" if why else "kept"] += 1
        samples.append(Sample(bytes(stored), 0, header.height, header.width, header.encoding))
        kinds.append(kind)
        origin.append(number)
    if not samples:
        return counts
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder, "set"), samples, classes=["a"])
        records = RecordSet(Path(folder, "set"))
        named: set[int] = set()
        for train, name in ((False, "imagenet"), (True, "imagenet"), (True, "multilabel")):
            loader = build_loader(
                name,
                records,
                batch_size=8,
                train=train,
                device="cpu",
                num_threads=2,
                on_bad_record="skip",
                pipeline_options={"image_size": 32},
            )
            try:
                for _ in loader:
                    pass
            except ValueError as error:
                if "none of its records" not in str(error):
                    raise
            named |= {row for row, _ in loader.skipped}
            loader.close()
    for row in _decoded_otherwise([row for row in range(len(samples)) if row not in named], samples):
        counts[kinds[row]]["otherwise"] += 1
        print(f"file {origin[row]} of seed {seed}: DALI decodes other pixels than OpenCV or PIL", file=sys.stderr)
    for row, kind in enumerate(kinds):
        counts[kind]["named" if row in named else "loaded"] += 1
        if row in named:
            try:
                decoded_size(samples[row].encoded)
            except ValueError:
                continue
            counts[kind]["unseen"] += 1
            print(
                f"file {origin[row]} of seed {seed}: reported by the loader, but not by verify --decode",
                file=sys.stderr,
            )
    return counts


def _decoded_otherwise(rows: list[int], samples: list[Sample]) -> list[int]:
    """Return the `rows` for which DALI shows other pixels than packing decodes, for example in another orientation."""
    different = []
    for start in range(0, len(rows), 32):
        some = rows[start : start + 32]
        images = decoded_by_dali([samples[row].encoded for row in some])
        for row, shown in zip(some, images, strict=True):
            data = samples[row].encoded
            expected = shown
            with contextlib.suppress(ValueError):  # PIL refuses damage in CMYK that DALI ignores
                expected = decode_bgr(data, read_image_header(data))[:, :, ::-1]
            if shown.shape != expected.shape or np.abs(shown - expected).mean() > 8:
                different.append(row)
    return different


def child(seed: int, numbers: range) -> tuple[dict[str, Counter[str]] | None, str]:
    """Call `load` in a child process; return (counts, ""), or (None, reason) if the process failed or did not end."""
    options = ["--load", f"{numbers.start}:{numbers.stop}", "--seed", str(seed)]
    command = [sys.executable, "-m", "tests.fuzz_images", *options]
    quiet = {**os.environ, "OPENCV_LOG_LEVEL": "OFF", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=quiet, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no end after {TIMEOUT} s"
    lines = [line for line in done.stderr.splitlines() if "libpng" not in line]
    if done.returncode:
        return None, f"status {done.returncode}: {lines[-1][:200] if lines else ''}"
    for line in lines:
        if line.startswith("file "):
            print(line, file=sys.stderr)
    return {kind: Counter(count) for kind, count in json.loads(done.stdout.splitlines()[-1]).items()}, ""


def fuzz(
    seed: int, numbers: range, chunk: int, seconds: float = math.inf
) -> tuple[dict[str, Counter[str]], list[tuple[int, str]]]:
    """Return the counts of `load` over all files, and (number, reason) of the files that ended a process.

    No child process is started after `seconds`.
    """
    end = time.monotonic() + seconds
    counts: dict[str, Counter[str]] = {}
    deadly: list[tuple[int, str]] = []
    ranges = [range(start, min(start + chunk, numbers.stop)) for start in range(numbers.start, numbers.stop, chunk)]
    while ranges and time.monotonic() < end:
        some = ranges.pop(0)
        found, reason = child(seed, some)
        if found is None and len(some) > 1:
            middle = (some.start + some.stop) // 2
            ranges[:0] = [range(some.start, middle), range(middle, some.stop)]
        elif found is None:
            deadly.append((some.start, reason))
            print(f"file {some.start} of seed {seed} ends the process: {reason}", file=sys.stderr, flush=True)
        for kind, count in (found or {}).items():
            counts.setdefault(kind, Counter()).update(count)
    if ranges:
        print(f"stopped before file {ranges[0].start}")
    return counts, deadly


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="files (1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first file (0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=1000, help="files a child takes (1000)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no child after this time")
    parser.add_argument("--only", type=int, metavar="N", help="make and load file N, here")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="with --only: write the file there")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        if args.save:
            kind, data = damaged(args.seed, args.only)
            args.save.mkdir(parents=True, exist_ok=True)
            (args.save / f"{args.seed}-{args.only}.{kind}").write_bytes(data)
        print(json.dumps(load(args.seed, range(args.only, args.only + 1))))
        return 0
    if args.load:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        start, stop = (int(number) for number in args.load.split(":"))
        print(json.dumps(load(args.seed, range(start, stop))))
        return 0
    counts, deadly = fuzz(args.seed, range(args.first, args.first + args.count), args.chunk, args.seconds)
    columns = ("files", "refused", "normalized", "kept", "loaded", "otherwise", "named", "unseen")
    print("format  " + "".join(f"{name:>12}" for name in columns))
    for kind, count in sorted(counts.items()):
        print(f"{kind:<8}" + "".join(f"{count[name]:>12,}" for name in columns))
    print(f"{len(deadly)} files end a process: {[number for number, _ in deadly]}")
    return int(bool(deadly))


if __name__ == "__main__":
    sys.exit(main())
