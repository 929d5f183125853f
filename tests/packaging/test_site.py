"""Hooks of the site (docs/site/hooks.py): problems that fail a build, and rewritten links."""

import importlib.util
import re
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="the site needs the extra docs")
pytest.importorskip("mkdocs")
from mkdocs.config import load_config  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import Files  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_without_docstring_are_found(hooks, tmp_path):
    part = tmp_path / "package/part"
    part.mkdir(parents=True)
    (tmp_path / "package/__init__.py").write_text('"""A package."""\n__all__ = ["__version__"]\n__version__ = "1"\n')
    names = '__all__ = ["LIMIT", "Plain", "lost", "named"]'
    (part / "__init__.py").write_text(
        f'from package.part.module import Plain, named\n{names}\nLIMIT = 3\n"""A limit."""\n'
    )
    (part / "module.py").write_text('class Plain: ...\n\n\ndef named():\n    """Return nothing."""\n')
    package = griffe.load("package", search_paths=[tmp_path], try_relative_path=False, resolve_aliases=True)
    offered = dict(hooks.packages(package))
    assert offered == {"package.part": ["LIMIT", "Plain", "lost", "named"]}
    assert list(hooks.undocumented(package, offered)) == ["package.part.Plain", "package.part.lost (not found)"]


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
def test_links_are_rewritten_for_site(hooks, source, page, link, there):
    assert hooks.LINK.sub(lambda found: hooks.relink(found, source, page), link) == there


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://example.org/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//example.org/x.css">'),
        ("a.html", '<img src="http://example.org/x.png">'),
        ("a.html", '<img src="x.png" srcset="x.png 1x, https://example.org/y.png 2x">'),
        ("a.html", '<picture><source srcset="//example.org/y.webp"></picture>'),
        ("a.html", '<link rel="preload" as="image" imagesrcset="HTTPS://example.org/y.png 2x">'),
        ("a.html", "<p style=\"color: red; background: url( 'https://example.org/x.png' )\">"),
        ("a.html", "<style>p { color: red }\n@import '//example.org/x.css';</style>"),
        ("a.html", '<svg><use xlink:href="https://example.org/x.svg#a"/></svg>'),
        ("a.html", '<video poster="https://example.org/x.png"></video><object data="a.svg"></object>'),
        ("a.svg", '<svg><image href="https://example.org/x.png"/></svg>'),
        ("a.css", '@font-face { src: url("https://example.org/x.woff2") }'),
        ("a.css", 'p{}@import "https://example.org/x.css" screen;'),
        ("a.css", "@import url(//example.org/x.css);"),
    ],
)
def test_network_resources_fail_the_build(hooks, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(PluginError, match="has to work offline"):
        hooks.on_post_build(_Config(tmp_path))


def test_external_links_are_allowed(hooks, tmp_path):
    page = (
        '<link rel="canonical" href="https://example.org/a.html"><a href="https://arxiv.org/abs/1905.04899">paper</a>'
    )
    page += (
        '<img src="x.jpg" srcset="x.jpg 1x, y.jpg 2x"><svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>'
    )
    page += "<style>p { background: url(x.png) }</style><p style='background: url(x.png)'>https://example.org</p>"
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "a.css").write_text(
        "/* https://example.org */ @import 'b.css'; p { background: url(data:image/png,x) }"
    )
    hooks.on_post_build(_Config(tmp_path))


class _Config:
    def __init__(self, site_dir):
        self.site_dir = str(site_dir)


def test_every_public_name_is_on_an_api_page(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "COPY", tmp_path)
    hooks.on_startup()
    config = hooks.on_config(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    monkeypatch.setattr(config.plugins, "_current_plugin", "hooks", raising=False)  # generated files name their plugin
    pages = {file.src_uri: file.content_string for file in hooks.on_files(Files([]), config)}
    named = re.findall(r"'(api/\w+\.md)'", str(config.nav))
    assert {*named} == {page for page in pages if page.startswith("api/")} and len(named) == len({*named})
    assert len(hooks._packages) > 10
    for module, names in hooks._packages.items():
        for name in names:
            if module == "dali_mix":
                (page,) = (page for page, text in pages.items() if f"::: dali_mix.{name}\n" in text)
                assert f"| [`{name}`]({page.removeprefix('api/')}#dali_mix.{name}) |" in pages["api/dali_mix.md"]
            else:
                text = pages[f"api/{module.removeprefix('dali_mix.')}.md"]
                assert f"::: {module}\n" in text and f"        - {name}\n" in text


def test_unlisted_public_name_fails_the_build(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "COPY", tmp_path)
    hooks.on_startup()
    monkeypatch.setitem(hooks.FRONT_DOOR, "Load", [])
    with pytest.raises(PluginError, match=r"FRONT_DOOR of docs/site/hooks\.py has to list .*build_loader"):
        hooks.on_config(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == pages | {"index.md", "changelog.md", "contributing.md"}
