"""Documentation: no page is missing, links resolve, pictures are small, and the code on the pages runs."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from dali_mix.pipelines import BUILTIN
from PIL import Image

import dali_mix
from dali_mix.cli.main import parse
from dali_mix.engine.config.schema import FIELDS
from dali_mix.engine.logging import _BACKENDS
from dali_mix.engine.train.objectives import OBJECTIVES
from dali_mix.loading import Batch
from dali_mix.mixers import MIXERS
from dali_mix.recordio import RecordSet
from tests.engine.sets import pack_digits
from tests.engine.synthetic import TinyNet

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs/mixers.md"
PAGES = sorted((ROOT / "docs/mixers").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *PAGES]
TEXTS += sorted((ROOT / "docs/pipelines").glob("*.md")) + sorted((ROOT / "docs/coming_from").glob("*.md"))


def test_every_mixer_has_a_page_and_is_listed():
    titles = {page.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ").split()[0] for page in PAGES}
    assert titles == {*MIXERS, "Masks"}
    linked = set(re.findall(r"\]\(mixers/(\w+)\.md\)", INDEX.read_text(encoding="utf-8")))
    assert linked == {page.stem for page in PAGES}
    site = set(re.findall(r": mixers/(\w+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert site == linked


def test_table_columns_have_headers():
    rule = re.compile(r"^(\|.*\|)\n\|[-:| ]+\|$", re.MULTILINE)
    heads = [(text.name, head) for text in TEXTS for head in rule.findall(text.read_text(encoding="utf-8"))]
    assert len(heads) > 40
    assert not [head for head in heads if "" in map(str.strip, head[1].strip("|").split("|"))]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_code_blocks_fit_page_width(text):
    """Lines have at most 86 characters. The copy button covers longer ones, and a 1280-pixel window cuts them off."""
    blocks = re.findall(r"^```(?:bash|sh|python)\n(.*?)^```", text.read_text(encoding="utf-8"), flags=re.S | re.M)
    assert not [line for block in blocks for line in block.splitlines() if len(line) > 86]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_mixer_page_has_picture_code_and_when_section(page):
    text = page.read_text(encoding="utf-8")
    assert f"]({page.stem}.jpg)" in text and "**When:**" in text and "```python" in text


def test_pictures_are_small_and_made_by_a_script():
    pictures = sorted((ROOT / "docs").rglob("*.jpg"))
    assert len(pictures) == len(PAGES) + 1 + len(BUILTIN)
    assert all(picture.stat().st_size < 200_000 for picture in (*pictures, *(ROOT / "docs").rglob("*.png")))
    for picture in pictures:
        assert f'"{picture.stem}"' in (picture.parent / "pictures.py").read_text(encoding="utf-8")
        with Image.open(picture) as image:
            assert image.format == "JPEG" and image.width > 300, picture


def test_quickstart_final_commands_are_consistent():
    shown = (ROOT / "scripts/quickstart.sh").read_text().rpartition("Your own photos")[2]
    config = dali_mix.load_config(re.findall(r"dali-mix train (\S+)", shown)[0])
    assert re.findall(r"dali-mix pack .* --out (\S+)", shown) == [config.train_set, config.val_set]


def test_readme_ratios_match_benchmark_files():
    """Each ratio in the README is a rounded value from docs/benchmarks, measured on the machine named in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \|$", text, flags=re.MULTILINE)
    measured = {}
    for file in ("loader", "detection_loader", "trainer_step"):
        found = json.loads((ROOT / f"docs/benchmarks/{file}.json").read_text(encoding="utf-8"))
        assert (found["environment"]["processor"], found["environment"]["cores"]) == ("AMD EPYC", 2)
        ratios = found.get("original", found)["ratios"]
        measured |= {f"{file}: {name}": value["median"] for name, value in ratios.items()}
    assert "measured on two cores of an AMD EPYC, without a GPU" in text
    assert len(rows) == len(README_ROWS)
    for (what, figure), (words, name) in zip(rows, README_ROWS, strict=True):
        assert words in what
        assert f"{measured[name]:.{len(figure.partition('.')[2])}f}" == figure, what


README_ROWS = [
    ("torchvision + PIL", "loader: ours / torchvision + PIL"),
    ("stock DALI graph", "loader: ours / stock DALI"),
    ("FFCV", "loader: ours / FFCV"),
    ("references/detection", "detection_loader: ours / torchvision references"),
    ("bare loop", "trainer_step: trainer / bare loop"),
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_links_resolve(text):
    links = re.findall(r"\]\(([^)\s]+)\)", text.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith(("http://", "https://", "#")):
            assert (text.parent / link.split("#")[0]).exists(), link


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=lambda page: page.stem)
def test_mixer_page_code_runs(page):
    generator = torch.Generator().manual_seed(0)
    images_u8 = torch.randint(256, (8, 3, 24, 36), dtype=torch.uint8, generator=generator)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    one = {"boxes": torch.tensor([[4.0, 3, 20, 18]]), "labels": torch.tensor([2]), "difficult": torch.tensor([False])}
    boxed = Batch(images_u8 / 255, [{**one, "size": (24, 36), "original": (24, 36)}] * 8, torch.arange(8))
    given = {
        "torch": torch,
        "batch": boxed,
        "images_u8": images_u8,
        "images": images_u8 / 255,
        "normalized": (images_u8 / 255 - next(scale)) / next(scale),
        "labels": torch.arange(8),
        "multi_hot": torch.eye(10)[:8],
        "height": 24,
        "width": 36,
        "device": "cpu",
        "mean": mean,
        "std": std,
    }
    torch.manual_seed(1)  # for mixers called without a generator; with this seed, MixChoice mixes
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, given)
    for name in ("mixed", "cut", "masked"):
        if name in given:
            assert given[name].shape[1:] == (3, 24, 36)
            assert not torch.equal(given[name][-8:], given["images"])


def test_python_page_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train/cat/a", "train/cat/b", "train/dog/c", "train/dog/d", "val/cat/e", "val/dog/f", "tom"):
        path = tmp_path / "photos" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), (len(name), 90, 200)).save(path)
    train_set, val_set = pack_digits(tmp_path, 20)
    pixels = np.zeros((5, 4, 3), np.uint8)
    given = {"pixels": pixels, "model": TinyNet(10), "train_set": train_set, "val_set": val_set}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    large = {}
    for block in blocks:
        with monkeypatch.context() as patch:
            if "imagenet/" in block:  # 90 epochs: only the arguments are checked
                patch.setattr(dali_mix, "train", lambda recipe, _, **values: large.update(values, recipe=recipe))
            exec(block, given)
    config = dali_mix.load_config(large.pop("recipe"), **large)
    assert (config.train_set, config.epochs, config.optimizer["lr"]) == ("sets/photos_train", 90, 0.05)
    counts = {"photos": 4, "pets": 2, "photos_train": 4, "photos_val": 2}
    assert {name: RecordSet(f"sets/{name}").info.count for name in counts} == counts
    assert given["scores"]["top1"] >= 0 and given["predictor"].classes == tuple("0123456789")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_gallery_commands_name_existing_mixers(text):
    written = text.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ *(dali-mix gallery .*)$", written, flags=re.MULTILINE):
        args = parse(shlex.split(line, comments=True)[1:])
        named = [name for name in args.mixers.split(",") if not re.match(r"my_\w+:\w+", name)]
        assert {name.split(":")[0].lower() for name in named} <= {name.lower() for name in MIXERS}


def test_documented_recipe_keys_match_schema():
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    table = text.split("| key | meaning | default |", 1)[1].split("\n\n", 1)[0]
    cells = {row.split(" | ")[0]: row for row in table.splitlines() if row.startswith("| `")}
    keys = {key: row for cell, row in cells.items() for key in re.findall(r"`(\w+)`", cell)}
    assert keys.keys() == FIELDS.keys() - {"resume_strict"}  # documented in the section on resuming
    assert "resume_strict=False" in text
    for key, names in (("objective", OBJECTIVES), ("visualizer", _BACKENDS)):
        assert all(f"`{name}`" in keys[key] for name in names)
    statuses = {int(number) for number in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}
    assert statuses == {0, 1, 2, 3, 75, 130}
