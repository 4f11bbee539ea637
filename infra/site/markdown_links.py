"""Links, headings and code blocks of Markdown, with their lines.

The site and the tests of the documentation share this module, so both see the same links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_FENCE = re.compile(r"^(?P<mark> *(?:`{3,}|~{3,})).*?(?:^(?P=mark) *$|\Z)", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:[^`\n]|\n(?!\n)|(?!\1(?!`))`)+?(?<!`)\1(?!`)")
_LINK = re.compile(
    r"""(?P<inline>!?\[(?P<text>(?:[^][]|\[[^]]*\])*)\]"""
    r"""\((?P<a>[^()\s]*(?:\([^()]*\))?[^()\s]*)(?:\s+"[^"]*")?\))"""
    r"""|(?:<(?:a|img)\s[^>]*?(?:href|src)="(?P<b>[^"]*)")"""
    r"""|(?:^ {0,3}\[[^]]+\]:\s+(?P<c>\S+))"""
    r"""|(?:<(?P<d>[a-z]+:[^>\s]+)>)""",
    re.MULTILINE,
)
_HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$", re.MULTILINE)
_EXPLICIT_ANCHOR = re.compile(r"""<\w+\s[^>]*?(?:id|name)="([^"]+)\"""")


class CodeFragment(NamedTuple):
    """A block of code with its language, or inline code, whose language is None. `line` is its first line."""

    line: int
    language: str | None
    text: str


class Link(NamedTuple):
    """A link or an image. `start` and `end` delimit the target in the text; `outer` delimits `[…](…)`."""

    line: int
    target: str
    start: int
    end: int
    outer: tuple[int, int] | None
    text: tuple[int, int] | None


def find_links(text: str) -> Iterator[Link]:
    """Yield the links of a page, without those in code and comments.

    >>> [(link.line, link.target) for link in find_links("see [a](b.md#c) and `[x](y)`")]
    [(1, 'b.md#c')]
    """
    masked = mask_code(text)
    for match in _LINK.finditer(masked):
        group = next(name for name in "abcd" if match[name] is not None)
        inline = match["inline"] is not None
        yield Link(
            text.count("\n", 0, match.start()) + 1,
            text[slice(*match.span(group))],
            *match.span(group),
            match.span("inline") if inline else None,
            match.span("text") if inline else None,
        )


def find_code(text: str) -> Iterator[CodeFragment]:
    """Yield the blocks of code of a page, and then its inline code.

    >>> [(code.line, code.language, code.text) for code in find_code("run `make docs` or `a  b`")]
    [(1, None, 'make docs'), (1, None, 'a  b')]
    """
    for match in _FENCE.finditer(text):
        opening, _, body = match[0].partition("\n")
        language = re.match(r" *[`~]+\s*(\w*)", opening)
        line = text.count("\n", 0, match.start()) + 2
        yield CodeFragment(line, language[1] if language else "", body.rpartition("\n")[0])
    outside_fences = _blank(_COMMENT, _blank(_FENCE, text))
    for match in _INLINE_CODE.finditer(outside_fences):
        line = text.count("\n", 0, match.start()) + 1
        yield CodeFragment(line, None, " ".join(match[0].strip("`").split("\n")))


def mask_code(text: str) -> str:
    """Replace code and comments by blanks. Every other character keeps its position."""
    for pattern in (_FENCE, _COMMENT, _INLINE_CODE):
        text = _blank(pattern, text)
    return text


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def find_anchors(text: str) -> set[str]:
    """Return the anchors of a page: those of its headings, as code hosts name them, and explicit ones.

    >>> find_anchors("# Run & `wait`")
    {'run--wait'}
    """
    outside_fences = _FENCE.sub("", text)
    found = set(_EXPLICIT_ANCHOR.findall(outside_fences))
    for match in _HEADING.finditer(outside_fences):
        anchor = slug = slugify(match["text"])
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{slug}-{count}"
        found.add(anchor)
    return found


def slugify(heading: str, separator: str = "-") -> str:
    """Return the anchor of a heading, as code hosts compute it.

    >>> slugify("What a step costs: `http` & `s3`")
    'what-a-step-costs-http--s3'
    """
    without_links = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", without_links.strip().lower()).replace(" ", separator)
