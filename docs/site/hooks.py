"""mkdocs hooks that build the site (`make docs`, mkdocs.yml).

README.md, CHANGELOG.md and CONTRIBUTING.md are outside docs/; the hooks add them to the site as pages. The API section
has a page for each package of dali_mix with public names, and several pages for dali_mix itself. The build fails if a
public name has no docstring, or if a page would fetch anything from the network.

Links in the sources work on a plain git host. On the site, a link to a file outside docs/ that is not a page is
replaced by its text.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build/api"  # must match `paths` in mkdocs.yml
ABOVE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
LONG = re.compile(r"(?<=<code>)[^<]{25,}(?=</code>)")
ELSEWHERE = re.compile(r"(https?:)?//", re.IGNORECASE)
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)

# Titles of the API pages for dali_mix itself → the public names on them. A single page would be too long.
FRONT_DOOR = {
    "Pack": ["pack", "Writer"],
    "Load": ["build_loader"],
    "Train and evaluate": ["train", "evaluate", "load_config"],
    "Predict": ["Predictor"],
}

_packages: dict[str, list[str]] = {}  # module → its public names
_summaries: dict[str, str] = {}  # public name of dali_mix itself → summary of its docstring


def on_startup(**_: Any) -> None:
    """Copy the package to `COPY`, before mkdocstrings checks which of its `paths` exist."""
    shutil.rmtree(COPY, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "recipes")
    shutil.copytree(ROOT / "dali_mix", COPY / "dali_mix", ignore=ignored)
    shutil.copytree(ROOT / "pipelines", COPY / "dali_mix/pipelines", ignore=ignored)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read the copied package, fill `_packages` and `_summaries`, and add the API pages to the navigation.

    Raise PluginError if a public name has no docstring, or if `FRONT_DOOR` does not list the public names of dali_mix.
    """
    package = griffe.load("dali_mix", search_paths=[COPY], try_relative_path=False, resolve_aliases=True)
    assert isinstance(package, griffe.Module)
    _packages.clear()
    _packages.update(packages(package))
    if missing := sorted(undocumented(package, _packages)):
        raise PluginError("public names without a docstring:\n  " + "\n  ".join(missing))
    if sorted(name for names in FRONT_DOOR.values() for name in names) != sorted(_packages[package.path]):
        raise PluginError(f"FRONT_DOOR of docs/site/hooks.py has to list {', '.join(_packages[package.path])}")
    for name in _packages[package.path]:
        docstring = package[name].final_target.docstring
        _summaries[name] = docstring.value.partition("\n\n")[0].replace("\n", " ")
    assert config.nav is not None
    for section in config.nav:
        if "API" in section:
            parts = [{title: page_of(title)} for title in FRONT_DOOR]
            others = [{name: page_of(name)} for name in _packages if name != package.path]
            section["API"] = [{package.path: [{"Overview": page_of(package.path)}, *parts]}, *others]
    return config


def packages(package: griffe.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield (module, public names in its `__all__`) for the package and its direct submodules.

    Modules without such names are omitted.
    """
    modules = [package, *(module for _, module in sorted(package.modules.items()))]
    for module in modules:
        if names := [str(name) for name in module.exports or [] if not str(name).startswith("_")]:
            yield module.path, names


def undocumented(package: griffe.Module, offered: dict[str, list[str]]) -> Iterator[str]:
    """Yield the path of each name in `offered` (module → names) that has no docstring.

    " (not found)" is appended for a name that does not exist.
    """
    for module, names in offered.items():
        for name in names:
            path = f"{module}.{name}".removeprefix(f"{package.path}.")
            try:
                target = package[path]
                target = target.final_target if target.is_alias else target
            except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
                yield f"{module}.{name} (not found)"
                continue
            if not target.has_docstring:
                yield f"{module}.{name}"


def page_of(title: str) -> str:
    """Return the file name of the API page for a module or for a title in `FRONT_DOOR`."""
    return f"api/{title.rpartition('.')[2].lower().replace(' ', '_')}.md"


def reference(module: str) -> str:
    """Return the source of a module's API page, with a directive for mkdocstrings."""
    lines = [f"# {module}", "", f"::: {module}"]
    lines += ["    options:", "      show_root_heading: false", "      show_root_toc_entry: false"]
    lines += ["      members:", *(f"        - {name}" for name in _packages[module])]
    return "\n".join(lines) + "\n"


def overview() -> str:
    """Return the source of the overview page of dali_mix itself, which links to the documentation of each name."""
    pages = {name: posixpath.basename(page_of(title)) for title, names in FRONT_DOOR.items() for name in names}
    rows = [f"| [`{name}`]({page}#dali_mix.{name}) | {_summaries[name]} |" for name, page in pages.items()]
    return "\n".join(["# dali_mix", "", "`import dali_mix` offers:", "", "| name | for |", "|---|---|", *rows]) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name, page in ABOVE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    front, *others = _packages
    pages = {front: overview(), **{module: reference(module) for module in others}}
    for title, names in FRONT_DOOR.items():
        pages[title] = "\n\n".join([f"# {title}", *(f"::: {front}.{name}" for name in names)]) + "\n"
    for title, content in pages.items():
        files.append(File.generated(config, page_of(title), content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with its links rewritten for the site, and hide the sidebar of the home page."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # no sidebar on the home page
    names = {generated: name for name, generated in ABOVE.items()}
    source = names.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(lambda link: relink(link, source, page.file.src_uri), part) for part in parts[::2]]
    return "".join(parts)


def relink(link: re.Match[str], source: str, page: str) -> str:
    """Return `link`, a match of `LINK` in the file `source`, as Markdown for the site's `page`.

    A link to a file that is not on the site becomes its text. Links to other hosts, anchors of the same page and broken
    links are unchanged.
    """
    mark, text, address = link.groups()
    if re.match(r"[a-z]+:|#", address):
        return link.group()
    path, hash_, anchor = address.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if target in ABOVE:
        target = f"docs/{ABOVE[target]}"
    elif not (ROOT / target).exists():
        return link.group()  # mkdocs reports the broken link
    elif not target.startswith("docs/"):
        return text
    found = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(page) or ".")
    return f"{mark}[{text}]({found}{hash_}{anchor})"


def on_page_content(html: str, **_: Any) -> str:
    """Return `html` with optional line breaks after "/", "::" and "_" in long code in tables, so that columns fit."""
    return CELL.sub(lambda cell: LONG.sub(lambda code: re.sub(r"(/|::|_)(?=\w)", r"\1<wbr>", code[0]), cell[0]), html)


class _Fetched(HTMLParser):
    """Parser that collects in `found` the addresses on other hosts that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        values = {name: value or "" for name, value in attrs}
        loaded = [values[name] for name in ("src", "poster", "data") if name in values]
        if tag in ("image", "use") or (tag == "link" and values.get("rel") != "canonical"):
            loaded += [values.get("href", ""), values.get("xlink:href", "")]
        for name in ("srcset", "imagesrcset"):  # "a.png 1x, b.png 2x"
            loaded += [candidate.strip().partition(" ")[0] for candidate in values.get(name, "").split(",")]
        self.found += [address for address in loaded if ELSEWHERE.match(address.strip())]
        self.found += of_style(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += of_style(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def of_style(text: str) -> list[str]:
    """Return the addresses on other hosts that a style sheet, or a part of one, loads."""
    named = re.findall(r"""(?:@import\s+(?!url\()|\burl\(\s*)["']?([^)"'\s;]+)""", text, flags=re.IGNORECASE)
    return [address for address in named if ELSEWHERE.match(address)]


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Raise PluginError if a page, style sheet or SVG file of the site would load anything from another host."""
    for file in sorted(Path(config.site_dir).rglob("*")):
        found: list[str] = []
        if file.suffix in (".html", ".svg"):
            parser = _Fetched()
            parser.feed(file.read_text(encoding="utf-8"))
            found = parser.found
        elif file.suffix == ".css":
            found = of_style(file.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{os.path.relpath(file, ROOT)} loads {', '.join(found)}: the site has to work offline")
