"""Retired terms in identifiers and in prose, by the patterns of `retired_terms.txt`.

Identifiers are checked where they are defined: modules, classes, functions, parameters, attributes
and variables.
Names in strings are not checked, so stored names such as the attribute "told" stay.
Prose is docstrings, comments and Markdown, without inline code, and the names of tests, which are sentences.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.style.prose import Paragraph, comments, documentation
from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import CODE, Repository, SourceFile

TERMS = Path(__file__).parents[1] / "retired_terms.txt"
CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class RetiredTerm(NamedTuple):
    """A pattern that must not match, and what to use in its place (may be empty)."""

    pattern: str
    replacement: str


class RetiredTerms:
    """The retired terms of one section of the file."""

    def __init__(self, terms: Iterable[RetiredTerm]) -> None:
        self._terms = tuple(terms)
        groups = (f"(?P<term_{index}>{term.pattern})" for index, term in enumerate(self._terms))
        self._any = re.compile("|".join(groups) or r"(?!)", re.IGNORECASE)

    def find(self, text: str) -> Iterator[tuple[re.Match[str], str]]:
        """Yield each match in `text` with the replacement."""
        for match in self._any.finditer(text):
            index = int((match.lastgroup or "").removeprefix("term_"))
            yield match, self._terms[index].replacement


@cache
def read_terms(path: Path = TERMS) -> dict[str, RetiredTerms]:
    """Return the terms by section, `identifiers` and `prose`.

    A pattern for identifiers matches whole words of a name in snake case. A pattern for prose matches whole
    words, and a blank in it matches any white space. Patterns have no capturing groups.
    """
    sections: dict[str, list[RetiredTerm]] = {"identifiers": [], "prose": []}
    section = ""
    for line in path.read_text("utf-8").splitlines():
        pattern, _, replacement = line.partition(" # ")
        pattern = pattern.strip()
        if pattern.startswith("[") and pattern.strip("[]") in sections:
            section = pattern.strip("[]")
        elif pattern and not pattern.startswith("#"):
            sections[section].append(RetiredTerm(_as_words(pattern, section), replacement.strip()))
    return {name: RetiredTerms(terms) for name, terms in sections.items()}


def find_in_identifiers(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each definition of an identifier that contains a retired term."""
    terms = read_terms()["identifiers"]

    @cache
    def problem_of(name: str) -> str | None:
        for match, replacement in terms.find(snake_case(name)):
            return f"retired term `{match[0].strip('_')}` in `{name}`{_hint(replacement)}"
        return None

    for file in repository.python(*CODE):
        for name, line in identifiers(file):
            if problem := problem_of(name):
                yield StyleViolation(file.path, line, problem, file.path)


def find_in_prose(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each retired term in a docstring, a comment or a page."""
    terms = read_terms()["prose"]
    for file in repository.files:
        for paragraph in (*documentation(file), *comments(file), *sentences_of_tests(file)):
            for match, replacement in terms.find(paragraph.text):
                line = paragraph.line + paragraph.text.count("\n", 0, match.start())
                problem = f"retired term `{' '.join(match[0].split())}`{_hint(replacement)}"
                yield StyleViolation(file.path, line, problem, file.path)


def identifiers(file: SourceFile) -> Iterator[tuple[str, int]]:
    """Yield each identifier that `file` defines, with its line."""
    yield Path(file.path).stem, 1
    for node in file.nodes:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not name.startswith("test_"):
                    yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.alias(asname=str(name)) | ast.MatchAs(name=str(name)):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)):
                yield name, node.lineno


def sentences_of_tests(file: SourceFile) -> Iterator[Paragraph]:
    """Yield the name of each test of `file` as a sentence."""
    for definition in file.definitions if file.is_test and file.suffix == ".py" else ():
        name = definition.node.name
        if name.startswith("test_"):
            yield Paragraph(file.path, definition.node.lineno, name.removeprefix("test_").replace("_", " "))


def snake_case(name: str) -> str:
    """Return `name` in lower case with one underscore between its words.

    >>> snake_case("_HTTPServer")
    '_http_server'
    """
    return CAMEL_CASE.sub("_", name).lower()


def _as_words(pattern: str, section: str) -> str:
    if section == "identifiers":
        return rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])"
    spaced = pattern.replace(" ", r"\s+")
    return rf"\b(?:{spaced})\b"


def _hint(replacement: str) -> str:
    return f": {replacement}" if replacement else ""


HELP = "take the word of docs/reference/glossary.md; the patterns are in tests/style/retired_terms.txt"
IDENTIFIERS = StyleRule("retired-identifiers", find_in_identifiers, HELP)
PROSE = StyleRule("retired-prose", find_in_prose, HELP)
