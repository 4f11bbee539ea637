"""Pages of the site that are files outside of `docs/`, and links from pages to files of the repository.

A page links to a file of the repository by its relative path, which works on a code host. On the site such a
link leads to the page that is made of the file. A file without a page is shown without a link.
"""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path

from noetl.infra.site.markdown_links import find_links

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"

_SINGLE_PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "how-it-works/benchmarks.md",
    "tests/style/README.md": "project/style-rules.md",
}
_PAGES_OF_FOLDERS = (
    ("planner/diagnostics/explanations", "*.md", "reference/diagnostics"),
    ("examples", "*.yaml", "examples"),
)


@cache
def extra_pages() -> dict[str, str]:
    """Return the pages that are made of files outside of `docs/`: path in the site by path of the file."""
    pages = {path: page for path, page in _SINGLE_PAGES.items() if (ROOT / path).exists()}
    for folder, pattern, target in _PAGES_OF_FOLDERS:
        for path in sorted((ROOT / folder).glob(pattern)):
            pages[f"{folder}/{path.name}"] = f"{target}/{path.stem}.md"
    return pages


def read_extra_page(path: str) -> str:
    """Return the Markdown of the page that is made of a file. A playbook becomes a block of code."""
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    name = posixpath.basename(path)
    return f'# {name}\n\n```yaml title="{path}"\n{text.rstrip()}\n```\n'


def file_of_page(page: str) -> str:
    """Return the path in the repository of the file from which a page is made."""
    return _files_by_page().get(page, f"{DOCS}{page}")


@cache
def _files_by_page() -> dict[str, str]:
    return {page: path for path, page in extra_pages().items()}


def rewrite_links(text: str, page: str) -> str:
    """Return the Markdown of a page of the site with links that lead to pages of the site.

    A link to a file of the repository without a page is replaced by its text. A link to something that does
    not exist is left as it is, so that the build of the site reports it.
    """
    folder = posixpath.dirname(file_of_page(page))
    for link in reversed(list(find_links(text))):
        path, mark, anchor = link.target.partition("#")
        if not path or re.match(r"[a-z]+:|/", path):
            continue
        target = posixpath.normpath(posixpath.join(folder, path))
        target_page = _page_of_file(target)
        if target_page is not None:
            url = posixpath.relpath(target_page, posixpath.dirname(page))
            text = text[: link.start] + url + mark + anchor + text[link.end :]
        elif link.outer and link.text and not target.startswith(DOCS) and (ROOT / target).exists():
            start, end = link.outer
            text = text[:start] + text[slice(*link.text)] + text[end:]
    return text


def _page_of_file(path: str) -> str | None:
    """Return the page or image of the site that is made of a file or shows a folder, or None."""
    if path in extra_pages():
        return extra_pages()[path]
    if path.startswith(DOCS) and (ROOT / path).is_dir():
        path = f"{path}/README.md"
    if path.startswith(DOCS) and (ROOT / path).is_file():
        return path.removeprefix(DOCS)
    return None
