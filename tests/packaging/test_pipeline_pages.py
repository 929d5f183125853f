"""Pages on pipelines: they document exactly the existing options with their defaults, and their code runs."""

import inspect
import re
from pathlib import Path

import pytest
from PIL import Image

from dali_mix import pipelines

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "pipelines").glob("*.md"))


def rows(page):
    """Return a dict from option to the text of its default, from the page's table."""
    found = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.+) \|$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert all(meaning.strip() for _, _, meaning in found)
    return {option: default for option, default, _ in found}


def test_every_pipeline_has_a_page_and_is_listed():
    assert {page.stem for page in PAGES} == {*pipelines.BUILTIN}
    index = (DOCS / "pipelines.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(pipelines/(\w+)\.md\)", index)) == {*pipelines.BUILTIN}


def test_index_code_runs():
    text = (DOCS / "pipelines.md").read_text(encoding="utf-8")
    made: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        if block.startswith("setup("):
            assert '"dali_mix.pipeline_steps": ["upside-down = ' in block
        else:
            exec(block, made)
    assert any(isinstance(step, made["UpsideDown"]) for step in made["training"].steps)
    assert [len(made["Aerial"](train=train).steps) for train in (True, False)] == [4, 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_documented_options_and_defaults_match_code(page):
    known = inspect.signature(pipelines.get(page.stem)).parameters
    documented = rows(page)
    assert list(documented) == [name for name in known if name != "train"]
    for name, text in documented.items():
        assert eval(text) == known[name].default, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_in_text_exist(page):
    """Check `option=value` and `dict(type=…)` in the text, and each quoted value in the table."""
    text = page.read_text(encoding="utf-8")
    known = {*rows(page), "type", "pipeline", "train_pipeline", "pipeline_options"}
    assert set(re.findall(r"[`( ,](\w+) ?=[^=]", "\n".join(re.findall(r"`[^`\n]+`", text)))) <= known
    for option, _, meaning in re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.+) \|$", text, flags=re.MULTILINE):
        for value in re.findall(r'`"([\w-]+)"`', meaning):
            pipelines.build(page.stem, True, {option: value})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_code_runs_and_picture_is_small(page):
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    made: dict = {}
    for block in blocks:
        exec(block, made)
    assert isinstance(made["training"], pipelines.Pipeline) and made["training"].train
    assert f"]({page.stem}.jpg)" in text
    picture = page.with_suffix(".jpg")
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.format == "JPEG" and image.width > 600
