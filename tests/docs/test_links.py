"""Every link of a page has a target: a file, and a heading of it. External addresses are well formed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from noetl.infra.reference import ROOT
from noetl.infra.site.markdown_links import Link, find_anchors, find_links, mask_code
from tests.docs.page_mistakes import ALL_PAGES, PageMistake, report

LOCAL_HOSTS = ("localhost", "127.", "0.0.0.0", "::1", "192.168.", "10.")
NOT_A_LINK = re.compile(r"""\]\((?![^()\s]*(?:\([^()]*\))?[^()\s]*(?:\s+"[^"]*")?\))[^)\n]*\)?""")
HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}")


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(find_anchors(path.read_text("utf-8")))


def check_links(page: Path, root: Path = ROOT) -> Iterator[PageMistake]:
    """Yield the links of a page that lead nowhere or are not well formed."""
    text = page.read_text("utf-8")
    for match in NOT_A_LINK.finditer(mask_code(text)):
        line = text.count("\n", 0, match.start()) + 1
        yield PageMistake(page, line, f"`{match[0]}` is not a link", "remove the blanks of the address")
    for link in find_links(text):
        if re.match(r"[a-z][a-z+.-]*:|//", link.target, re.IGNORECASE):
            yield from check_external(page, link)
        else:
            yield from check_internal(page, link, root)


def check_external(page: Path, link: Link) -> Iterator[PageMistake]:
    parts = urlsplit(link.target)
    host = parts.hostname or ""
    if parts.scheme == "mailto":
        return
    if parts.scheme != "https":
        yield PageMistake(page, link.line, f"link `{link.target}` is not https", "write an https address")
    elif any(host.startswith(prefix) for prefix in LOCAL_HOSTS):
        yield PageMistake(page, link.line, f"link `{link.target}` leads to this machine", "show it as code")
    elif not HOST.fullmatch(host) or parts.username or not re.fullmatch(r"[!-~]+", link.target):
        yield PageMistake(page, link.line, f"link `{link.target}` is not well formed", "correct the address")


def check_internal(page: Path, link: Link, root: Path) -> Iterator[PageMistake]:
    if "\\" in link.target or link.target.startswith("/"):
        yield PageMistake(
            page, link.line, f"link `{link.target}` is not relative", "write a relative path with `/`"
        )
        return
    name, _, anchor = link.target.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.is_relative_to(root):
        yield PageMistake(
            page, link.line, f"link `{link.target}` leaves the repository", "link to a file of it"
        )
    elif not target.exists():
        names = [path.name for path in target.parent.glob("*")] if target.parent.exists() else []
        yield PageMistake(page, link.line, f"link `{link.target}` has no target", suggest(target.name, names))
    elif anchor and target.suffix == ".md" and anchor not in anchors(target):
        problem = f"link `{link.target}`: the page has no heading `#{anchor}`"
        yield PageMistake(page, link.line, problem, suggest(anchor, anchors(target)))


def suggest(name: str, names: Iterator[str] | list[str] | frozenset[str]) -> str:
    close = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else "correct or remove the link"


def test_every_link_has_a_target() -> None:
    links = sum(len(list(find_links(page.read_text("utf-8")))) for page in ALL_PAGES)
    assert links > 300
    report(finding for page in ALL_PAGES for finding in check_links(page))


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("[x](othr.md)", "link `othr.md` has no target", "did you mean `other.md`?"),
        ("[x](other.md#sceond)", "the page has no heading `#sceond`", "did you mean `second`?"),
        ("[x](#missing)", "the page has no heading `#missing`", "correct or remove"),
        ('<img src="no.svg">', "link `no.svg` has no target", "correct or remove"),
        ("[x](../../out.md)", "leaves the repository", "link to a file of it"),
        ("[x](/other.md)", "is not relative", "relative path"),
        ("[x](http://noetl.example.com)", "is not https", "https"),
        ("[x](https://localhost:8000/docs)", "leads to this machine", "code"),
        ("[x](https://example.com/a b)", "is not a link", "remove the blanks"),
        ("[x](https://example)", "is not well formed", "correct the address"),
    ],
)
def test_a_wrong_link_is_reported_with_its_line_and_a_fix(
    tmp_path: Path, text: str, problem: str, fix: str
) -> None:
    (tmp_path / "other.md").write_text("# First\n## Second\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n`[code](none.md)` [good](other.md#second) [self](#page)\n{text}\n", "utf-8")
    findings = list(check_links(page, tmp_path))
    assert [finding.line for finding in findings] == [4]
    assert problem in findings[0].problem
    assert fix in findings[0].fix
