"""The documentation site builds without a warning, and loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from noetl.infra.site.diagrams import DiagramError, draw_svg, translate
from noetl.infra.site.pages import ROOT, extra_pages, file_of_page, rewrite_links
from tests.docs.page_mistakes import PageMistake, report

pytestmark = pytest.mark.xdist_group("site")  # One worker builds the site for all tests.

LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc=["']?(?P<src>[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|icon|preconnect))"""
    r"""[^>]*?\bhref=["']?(?P<href>[^"'\s>]+)"""
    r"""|@import\s+(?:url\()?["']?(?P<imported>[^"')\s;]+)"""
    r"""|url\(["']?(?P<url>[^"')]+)"""
)
SCRIPT_HOST = re.compile(r"""(?:https?:)?//(?:unpkg|cdn|[\w.]*jsdelivr|fonts|polyfill)\b[^"'`\s]*""")


def build_site(target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site. With `--quiet`, MkDocs would not count warnings, and a strict build would succeed."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    build = build_site(target)
    assert build.returncode == 0, build.stderr
    return target


def test_a_broken_page_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = "# Page\n\n[a](none.md) [b](#none)\n\n```mermaid\nflowchart TD\n  a ~~> b\n```\n"
    (tmp_path / "docs" / "README.md").write_text(page, "utf-8")
    (tmp_path / "docs" / "forgotten.md").write_text("# Forgotten\n", "utf-8")
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [README.md]\ndocs_dir: docs\nhooks:\n", "utf-8")
    hooks = f"  - {ROOT / 'infra' / 'site' / 'hooks.py'}\n"
    config.write_text(config.read_text("utf-8") + hooks, "utf-8")
    build = build_site(tmp_path / "site", "--config-file", str(config))
    assert build.returncode == 1
    assert "README.md:7: unknown statement `a ~~> b`: use nodes, arrows and `subgraph`" in build.stderr
    assert "'README.md' contains a link 'none.md', but the target is not found" in build.stderr
    assert "'README.md' contains a link '#none', but there is no such anchor" in build.stderr
    assert 'not included in the "nav" configuration' in build.stderr
    assert "forgotten.md" in build.stderr


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


class OutlineParser(HTMLParser):
    """The headings, lists, tables and blocks of code of a page, each with the beginning of its text."""

    TAGS = frozenset({"h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "tr", "blockquote", "pre"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, str]] = []
        self._svg_depth = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._svg_depth += tag == "svg"
        if tag in self.TAGS:
            self.elements.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self._svg_depth -= tag == "svg"

    def handle_data(self, data: str) -> None:
        if self.elements and not self._svg_depth:
            tag, text = self.elements[-1]
            self.elements[-1] = tag, f"{text}{data}"[:60]


def find_line(path: Path, texts: list[str]) -> int:
    """Return the line of the first text that is on the page as it is."""
    lines = path.read_text("utf-8").splitlines()
    words = (text.strip().partition("\n")[0] for text in texts)
    places = (number for word in words if word for number, line in enumerate(lines, 1) if word in line)
    return next(places, 1)


def test_pages_have_the_same_structure_as_on_a_code_host(site: Path) -> None:
    """Code hosts render CommonMark. MkDocs differs, for example for a list directly after a paragraph."""
    mistakes = []
    article = re.compile(r"<article[^>]*>(.*?)</article>", re.DOTALL)
    for html in sorted(site.rglob("*.html")):
        page = html.relative_to(site).with_suffix(".md").as_posix()
        path = ROOT / file_of_page(re.sub(r"\bindex\.md$", "README.md", page))
        if path.suffix != ".md" or not path.exists():
            continue
        source = re.sub(r"^```mermaid\n.*?^```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        rendered = MarkdownIt("commonmark").enable("table").render(source)
        content = article.search(html.read_text("utf-8"))
        assert content is not None
        end = ("end", "")
        expected, found = [*OutlineParser(rendered).elements, end], [*OutlineParser(content[1]).elements, end]
        if [tag for tag, _ in expected] != [tag for tag, _ in found]:
            pairs = zip(expected, found, strict=False)
            tag, text = next(wanted for wanted, got in pairs if wanted[0] != got[0])
            line = find_line(path, [text for _, text in expected[expected.index((tag, text)) :]])
            problem = f"MkDocs renders `<{tag}>` differently"
            mistakes.append(
                PageMistake(path, line, problem, "put a blank line before it, and indent by 4 blanks")
            )
    report(mistakes)


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
    assert 'aria-label="Diagram: the rest, one, two, yes, C"' in svg
    assert "\n" not in svg


def test_a_transition_to_the_same_state_is_a_line_of_its_node() -> None:
    svg = draw_svg("stateDiagram-v2\n    [*] --> a: start\n    a --> a: again<br>renewed\n    a --> [*]\n")
    assert re.findall(r"<text[^>]*>([^<]*)</text>", svg)[:3] == ["a", "↻ again", "↻ renewed"]


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
