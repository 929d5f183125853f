"""Layouts from other packages, as shown in the packing guide."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import find_layout, layout_names
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]
PAGE = Path(__file__).parents[2] / "docs" / "packing.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("## Your own layout")[2].partition("\n## ")[0]
LAYOUT, SETUP, SCRIPT = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
POINTS = """
[dali_mix.datasets]
by-prefix = own_layouts:by_prefix
broken = no_such_module_here:by_prefix
number = own_layouts:a_number
nothing = own_layouts:nothing
cats-only = own_layouts:cats_only
cats-listed = own_layouts:cats_listed
"""


MORE = """

a_number = 3


def nothing(root, split, options):
    return None


def cats_only(root, split, options):
    tree, labels = open_tree(root), []
    names = tree.images(split)
    for name in names:
        with options.mistakes:
            if "cat" not in name:
                raise ValueError(f"{name}: not a cat")
            labels.append(0)
    return Listing(tree, names, labels, ("cat",), "cats-only", split)


def cats_listed(root, split, options):
    tree = open_tree(root)
    return Listing(tree, tree.images(split), [0, 0], ("cat",), "cats-listed", split)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a distribution as pip installs it, and some images."""
    (tmp_path / "own_layouts.py").write_text(LAYOUT + MORE)
    info = tmp_path / "own_layouts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-layouts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(POINTS))
    (tmp_path / "photos" / "train").mkdir(parents=True)
    for number, kind in enumerate(("cat", "dog", "cat")):
        (tmp_path / "photos" / "train" / f"{kind}_{number}.jpg").write_bytes(encoded("JPEG", seed=number))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_layouts", None)


def test_installed_package_adds_layout(installed: Path, capsys: Capture) -> None:
    assert '"dali_mix.datasets": ["by-prefix = ' in SETUP
    assert "by-prefix" in layout_names() and "voc" in layout_names()
    command = ["pack", "by-prefix", "--root", "photos", "--out", "sets/a", "--quiet"]
    assert main([*command, "--unlabelled", "keep"]) == 0  # an option that layouts may use
    records = RecordSet("sets/a")
    assert records.info.classes == ("cat", "dog") and records.info.source == "by-prefix" and len(records) == 3
    assert main(["pack", "by-prefix", "--out", "sets/b"]) == 1
    assert "layout by-prefix needs --root" in capsys.readouterr().err


def test_documented_script_runs(installed: Path, capsys: Capture) -> None:
    exec(LAYOUT + SCRIPT, {})
    assert capsys.readouterr().out == "3 images of cat, dog\n"
    assert len(RecordSet(installed / "sets" / "photos_train")) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"layout 'broken' \(no_such_module_here:by_prefix\) cannot be imported: .*; reinstall its package"),
        ("number", r"layout 'number' \(own_layouts:a_number\) is a int, not a function"),
        ("by-prefx", r"layout 'by-prefx' is not known \(did you mean by-prefix\?\): choose one of broken, by-prefix"),
    ],
)
def test_find_layout_explains_load_failure(installed: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_layout(name)


def test_layout_without_listing_is_refused(installed: Path, capsys: Capture) -> None:
    assert main(["pack", "nothing", "--root", "photos", "--out", "sets/a", "--quiet"]) == 1
    assert "layout nothing returned a NoneType, not a Listing" in capsys.readouterr().err


def test_mistakes_are_reported_before_missing_labels(installed: Path, capsys: Capture) -> None:
    assert main(["pack", "cats-only", "--root", "photos", "--out", "sets/a", "--quiet"]) == 1
    assert "dali-mix pack: error: train/dog_1.jpg: not a cat (" in capsys.readouterr().err
    assert main(["pack", "cats-listed", "--root", "photos", "--out", "sets/a", "--quiet"]) == 1
    assert "layout cats-listed lists 3 names and 2 labels; correct its function" in capsys.readouterr().err


def test_builtin_layouts_take_precedence(installed: Path) -> None:
    (installed / "own_layouts-1.0.dist-info" / "entry_points.txt").write_text(
        "[dali_mix.datasets]\nvoc = own_layouts:by_prefix\n"
    )
    assert find_layout("voc").__module__ == "dali_mix.datasets.layouts.voc"
