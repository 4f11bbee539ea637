"""The documentation site builds without a warning, and loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from noetl.infra.site.diagrams import DiagramError, draw_svg, translate
from noetl.infra.site.pages import ROOT, extra_pages, rewrite_links

LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc=["']?(?P<src>[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|icon|preconnect))"""
    r"""[^>]*?\bhref=["']?(?P<href>[^"'\s>]+)"""
    r"""|@import\s+(?:url\()?["']?(?P<imported>[^"')\s;]+)"""
    r"""|url\(["']?(?P<url>[^"')]+)"""
)
SCRIPT_HOST = re.compile(r"""(?:https?:)?//(?:unpkg|cdn|[\w.]*jsdelivr|fonts|polyfill)\b[^"'`\s]*""")


def build_site(target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    build = build_site(target)
    assert build.returncode == 0, build.stderr
    return target


def addresses(path: Path) -> Iterator[str]:
    """Yield the addresses that a browser loads because of a file of the site."""
    text = path.read_text("utf-8")
    if path.suffix == ".js":
        yield from SCRIPT_HOST.findall(text)
    else:
        yield from (next(filter(None, match.groups())) for match in LOADED.finditer(text))


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".css", ".js"}]
    assert len(files) > 80
    found = {
        f"{path.relative_to(site)}: {address}"
        for path in files
        for address in addresses(path)
        if re.match(r"(?:https?:)?//", address)
    }
    assert found == set()


def test_every_diagram_is_drawn(site: Path) -> None:
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    assert sum(text.count('<div class="diagram">') for text in pages.values()) > 4
    assert {path for path, text in pages.items() if re.search(r"class=\"[^\"]*\bmermaid\b", text)} == set()


def test_every_extra_page_is_built(site: Path) -> None:
    pages = extra_pages().values()
    assert len(pages) > 60
    assert {page for page in pages if not (site / page).with_suffix(".html").exists()} == set()


def test_links_to_files_of_the_repository_lead_to_pages_or_become_text() -> None:
    page = "reference/language.md"
    text = "[a](../../planner/diagnostics/explanations/NP101.md#fails) [b](../../template.yaml) [c](none.md)"
    assert rewrite_links(text, page) == "[a](diagnostics/NP101.md#fails) b [c](none.md)"
    assert rewrite_links("`[a](../../template.yaml)`", page) == "`[a](../../template.yaml)`"
    assert rewrite_links("[a](../decisions/)", page) == "[a](../decisions/README.md)"


def test_diagrams_are_drawn() -> None:
    svg = draw_svg("flowchart LR\n    A[one] -->|yes| B{two}\n    subgraph the rest\n    B -.-> C\n    end\n")
    assert svg.startswith("<svg")
    assert {"one", " yes ", "two", "the rest", "C"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert "\n" not in svg


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sequenceDiagram\n  A->>B: hello", 1),
        ("flowchart TD\n  A --> B\n  A ~~> B", 3),
        ("flowchart TD\n  subgraph x\n  A --> B", 3),
        ("stateDiagram-v2\n  [*] --> a\n  a -> b", 3),
    ],
)
def test_a_diagram_with_an_unknown_statement_is_an_error(text: str, line: int) -> None:
    with pytest.raises(DiagramError) as caught:
        translate(text)
    assert caught.value.line == line
