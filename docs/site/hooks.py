"""Hooks of the site's build (`make docs`, mkdocs.yml).

README.md, CHANGELOG.md and CONTRIBUTING.md lie above docs/ and become pages here, so that each text exists once. The
API has a page for each room (package) of dali_mix that offers names. The build fails if such a name has no docstring,
or if a page would fetch anything from the network.

Links are written as a plain git host follows them; those to files outside docs/ that are no pages lose their link here.
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
COPY = ROOT / "build/api"  # also mkdocs.yml's `paths`
ABOVE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
LONG = re.compile(r"(?<=<code>)[^<]{25,}(?=</code>)")
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)

_rooms: dict[str, list[str]] = {}  # module → the names it offers


def on_startup(**_: Any) -> None:
    """Copy the package, before mkdocstrings looks which of its `paths` there are."""
    shutil.rmtree(COPY, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "recipes")
    shutil.copytree(ROOT / "dali_mix", COPY / "dali_mix", ignore=ignored)
    shutil.copytree(ROOT / "pipelines", COPY / "dali_mix/pipelines", ignore=ignored)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read the package, check its docstrings, and put the API pages into the navigation."""
    package = griffe.load("dali_mix", search_paths=[COPY], try_relative_path=False, resolve_aliases=True)
    assert isinstance(package, griffe.Module)
    _rooms.clear()
    _rooms.update(rooms(package))
    if missing := sorted(undocumented(package, _rooms)):
        raise PluginError("public names without a docstring:\n  " + "\n  ".join(missing))
    assert config.nav is not None
    for section in config.nav:
        if "API" in section:
            section["API"] = [{name: page_of(name)} for name in _rooms]
    return config


def rooms(package: griffe.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield the package, each room and `tasks`, with the names offered: `__all__`, or what an `__init__` imports."""
    modules = [package, *(module for name, module in sorted(package.modules.items()) if not name.startswith("_"))]
    for module in modules:
        if module.exports is not None:
            names = [str(name) for name in module.exports]
        elif module.is_init_module:
            names = [name for name, member in module.members.items() if member.is_alias and not name.startswith("_")]
        elif module.name == "tasks":
            names = [name for name, member in module.members.items() if not member.is_alias and name[0].isupper()]
        else:
            continue
        if names := [name for name in names if not name.startswith("_")]:
            yield module.path, names


def undocumented(package: griffe.Module, offered: dict[str, list[str]]) -> Iterator[str]:
    """Yield each name in `offered` (module → names) that has no docstring or leads to nothing in the package."""
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


def page_of(module: str) -> str:
    """Return the file name of a module's API page."""
    return f"api/{module.rpartition('.')[2]}.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold."""
    for name, page in ABOVE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for module, names in _rooms.items():
        lines = [f"# {module}", "", f"::: {module}"]
        lines += ["    options:", "      show_root_heading: false", "      show_root_toc_entry: false"]
        lines += ["      members:", *(f"        - {name}" for name in names)]
        files.append(File.generated(config, page_of(module), content="\n".join(lines) + "\n"))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # one page
    names = {generated: name for name, generated in ABOVE.items()}
    source = names.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(lambda link: relink(link, source, page.file.src_uri), part) for part in parts[::2]]
    return "".join(parts)


def relink(link: re.Match[str], source: str, page: str) -> str:
    """Return a link of the file `source` as `page` has it, or its text alone if it leads to a file that is no page."""
    mark, text, address = link.groups()
    if re.match(r"[a-z]+:|#", address):
        return link.group()
    path, hash_, anchor = address.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if target in ABOVE:
        target = f"docs/{ABOVE[target]}"
    elif not (ROOT / target).exists():
        return link.group()  # mkdocs reports it
    elif not target.startswith("docs/"):
        return text
    found = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(page) or ".")
    return f"{mark}[{text}]({found}{hash_}{anchor})"


def on_page_content(html: str, **_: Any) -> str:
    """Let long code in tables break after slashes, colons and underscores, to leave room for other columns."""
    return CELL.sub(lambda cell: LONG.sub(lambda code: re.sub(r"(/|::|_)(?=\w)", r"\1<wbr>", code[0]), cell[0]), html)


class _Fetched(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get("href") if tag == "link" else values.get("src")
        if address and re.match(r"(https?:)?//", address) and values.get("rel") != "canonical":
            self.found.append(address)


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Fail if a page, or a style sheet, loads anything from the network."""
    for file in sorted(Path(config.site_dir).rglob("*")):
        found: list[str] = []
        if file.suffix == ".html":
            parser = _Fetched()
            parser.feed(file.read_text(encoding="utf-8"))
            found = parser.found
        elif file.suffix == ".css":
            found = re.findall(r"url\([\"']?((?:https?:)?//[^)\"']+)", file.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{os.path.relpath(file, ROOT)} loads {', '.join(found)}: the site has to work offline")
