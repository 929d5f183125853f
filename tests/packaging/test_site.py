"""The hooks of the site (docs/site/hooks.py): what fails a build, and where links lead."""

import importlib.util
import re
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="the site needs the extra docs")
pytest.importorskip("mkdocs")
from mkdocs.exceptions import PluginError  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_without_docstring_are_found(hooks, tmp_path):
    room = tmp_path / "package/room"
    room.mkdir(parents=True)
    (tmp_path / "package/__init__.py").write_text('"""A package."""\n__all__ = ["__version__"]\n__version__ = "1"\n')
    names = '__all__ = ["LIMIT", "Plain", "lost", "told"]'
    (room / "__init__.py").write_text(
        f'from package.room.part import Plain, told\n{names}\nLIMIT = 3\n"""A limit."""\n'
    )
    (room / "part.py").write_text('class Plain: ...\n\n\ndef told():\n    """Return nothing."""\n')
    package = griffe.load("package", search_paths=[tmp_path], try_relative_path=False, resolve_aliases=True)
    offered = dict(hooks.rooms(package))
    assert offered == {"package.room": ["LIMIT", "Plain", "lost", "told"]}
    assert list(hooks.undocumented(package, offered)) == ["package.room.Plain", "package.room.lost (not found)"]


def test_rooms_without_all_offer_what_they_import(hooks, tmp_path):
    room = tmp_path / "other/room"
    room.mkdir(parents=True)
    (tmp_path / "other/__init__.py").write_text("")
    (room / "__init__.py").write_text("from other.room.part import Plain, _hidden\n")
    (room / "part.py").write_text("class Plain: ...\n\n\ndef _hidden(): ...\n")
    package = griffe.load("other", search_paths=[tmp_path], try_relative_path=False, resolve_aliases=True)
    assert dict(hooks.rooms(package)) == {"other.room": ["Plain"]}


@pytest.mark.parametrize(
    ("source", "page", "link", "there"),
    [
        ("README.md", "index.md", "[a](docs/mixers/cutmix.md#x)", "[a](mixers/cutmix.md#x)"),
        ("README.md", "index.md", "![a](docs/mixers/overview.jpg)", "![a](mixers/overview.jpg)"),
        ("README.md", "index.md", "[log](CHANGELOG.md)", "[log](changelog.md)"),
        ("docs/mixers.md", "mixers.md", "[`examples/`](../examples)", "`examples/`"),
        ("docs/coming_from/timm.md", "coming_from/timm.md", "[a](../../README.md)", "[a](../index.md)"),
        ("docs/mixers.md", "mixers.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("docs/mixers.md", "mixers.md", "[a](https://example.org)", "[a](https://example.org)"),
        ("docs/mixers.md", "mixers.md", "[a](#here)", "[a](#here)"),
    ],
)
def test_links_are_those_of_the_site(hooks, source, page, link, there):
    assert hooks.LINK.sub(lambda found: hooks.relink(found, source, page), link) == there


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://example.org/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//example.org/x.css">'),
        ("a.html", '<img src="http://example.org/x.png">'),
        ("a.css", '@font-face { src: url("https://example.org/x.woff2") }'),
    ],
)
def test_what_is_loaded_from_the_network_fails_the_build(hooks, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(PluginError, match="has to work offline"):
        hooks.on_post_build(_Config(tmp_path))


def test_links_to_other_sites_are_fine(hooks, tmp_path):
    (tmp_path / "a.html").write_text('<a href="https://arxiv.org/abs/1905.04899">paper</a><img src="x.jpg">')
    hooks.on_post_build(_Config(tmp_path))


class _Config:
    def __init__(self, site_dir):
        self.site_dir = str(site_dir)


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == pages | {"index.md", "changelog.md", "contributing.md"}
