"""Hooks that MkDocs calls while it builds the site (`hooks` in `mkdocs.yml`)."""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from noetl.api.graphviz import GraphvizError
from noetl.infra.site.diagrams import DiagramError, draw_svg
from noetl.infra.site.markdown_links import slugify
from noetl.infra.site.pages import extra_pages, file_of_page, read_extra_page, rewrite_links

logger = logging.getLogger("mkdocs.hooks.noetl")
"""A warning of this logger fails a strict build."""

_DIAGNOSTICS = "reference/diagnostics/"
_DIAGRAM = re.compile(r"^```mermaid\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_TABLE_ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
_CELL = re.compile(r"<td>(.*?)</td>", re.DOTALL)
_LONG_CELL = 40
"""How many characters a cell has that is not narrow."""

_CODE_WITH_BAR = re.compile(r"`[^`\n]*\\\|[^`\n]*`")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that code hosts give them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files outside of `docs/`, and expand the navigation."""
    for path, page in extra_pages().items():
        files.append(File.generated(config, page, content=read_extra_page(path)))
    sources = {file.src_uri for file in files.documentation_pages()}
    config.nav = _expand(config.nav, sources - _named_pages(config.nav))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert a page that is written for code hosts: its links, its tables and its diagrams."""
    path = page.file.src_uri
    if path == "README.md":
        page.meta["hide"] = ["navigation", "toc"]
    if path.startswith(_DIAGNOSTICS):
        markdown = markdown.replace("```text\n", "``` {.text .message}\n")  # which is wrapped
    markdown = rewrite_links(markdown, path)
    markdown = _TABLE_ROW.sub(lambda row: _CODE_WITH_BAR.sub(_unescape_bars, row[0]), markdown)
    return _DIAGRAM.sub(lambda match: _draw(match, path), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark the cells of tables with sentences, which the style sheet keeps wide enough to be read."""
    return _CELL.sub(_mark_long_cell, html)


def on_post_build(config: MkDocsConfig) -> None:
    """Disable the scripts that the theme would load from another host, in old browsers or for Mermaid."""
    for path in Path(config.site_dir, "assets", "javascripts").glob("bundle.*.js"):
        path.write_text(path.read_text("utf-8").replace("https://unpkg.com/", "about:blank#"), "utf-8")


def _unescape_bars(match: re.Match[str]) -> str:
    """Return code in a table with plain bars: Python-Markdown shows the escapes that code hosts need."""
    return match[0].replace("\\|", "|")


def _mark_long_cell(match: re.Match[str]) -> str:
    prose = re.sub(r"<code>.*?</code>|<[^>]*>", "", match[1])
    is_long = len(prose) > _LONG_CELL
    return f'<td class="long">{match[1]}</td>' if is_long else match[0]


def _draw(match: re.Match[str], page: str) -> str:
    line = match.string.count("\n", 0, match.start()) + 1
    try:
        return f'<div class="diagram">{draw_svg(match["text"])}</div>'
    except DiagramError as error:
        logger.warning("%s:%d: %s", file_of_page(page), line + error.line, error)
    except GraphvizError as error:
        logger.warning("%s:%d: the diagram cannot be drawn: %s", file_of_page(page), line, error)
    return match[0]


def _named_pages(nav: Any) -> set[str]:
    """Return the pages that the navigation names."""
    if isinstance(nav, str):
        return {nav}
    children = nav.values() if isinstance(nav, dict) else nav or ()
    return set().union(*map(_named_pages, children))


def _expand(nav: Any, unnamed: set[str]) -> Any:
    """Return the navigation with each pattern replaced by the pages that match it.

    A page that is matched or named elsewhere does not match again: matches leave `unnamed`.
    """
    if isinstance(nav, dict):
        return {title: _expand(entry, unnamed) for title, entry in nav.items()}
    if isinstance(nav, list):
        entries: list[Any] = []
        for entry in nav:
            if isinstance(entry, str) and "*" in entry:
                pattern = PurePosixPath(entry)
                matches = sorted(page for page in unnamed if PurePosixPath(page).match(entry))
                matches = [page for page in matches if PurePosixPath(page).parent == pattern.parent]
                unnamed.difference_update(matches)
                entries += matches
            else:
                entries.append(_expand(entry, unnamed))
        return entries
    return nav
