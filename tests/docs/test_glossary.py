"""Terms of the glossary are unique, in order, defined in one short sentence, and name code that exists."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import pytest
from noetl.infra.reference import ROOT

PAGE = ROOT / "docs" / "glossary.md"
HEAD = ["term", "meaning", "code", "Step Functions", "Temporal", "Airflow", "textbook"]
MAX_WORDS = 25
CODE_FOLDERS = ("planner", "executor", "api", "infra", "benchmarks", "tests")
MODULE_NAME = re.compile(rf"(?:{'|'.join(CODE_FOLDERS)})(?:\.\w+)+")
CLASS_NAME = re.compile(r"[A-Z][A-Za-z]*[a-z][A-Za-z]*")
CLASS_DEFINITION = re.compile(r"^\s*class (\w+)", re.MULTILINE)


class GlossaryEntry(NamedTuple):
    """A row of a table of the glossary."""

    group: str
    term: str
    meaning: str
    code: str


def read_rows(table: str) -> list[list[str]]:
    lines = (line for line in table.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def read_groups() -> dict[str, list[GlossaryEntry]]:
    groups = {}
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]:
        name, _, text = section.partition("\n")
        head, _, *rows = read_rows(text)
        assert head == HEAD
        assert {len(row) for row in rows} == {len(HEAD)}, name
        groups[name] = [GlossaryEntry(name, *row[:3]) for row in rows]
    return groups


GROUPS = read_groups()
ENTRIES = [entry for entries in GROUPS.values() for entry in entries]


@cache
def class_names() -> set[str]:
    paths = [path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {name for path in paths for name in CLASS_DEFINITION.findall(path.read_text("utf-8"))}


def module_exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or any(path.glob("*.py"))


def test_each_term_has_one_entry() -> None:
    terms = [entry.term.casefold() for entry in ENTRIES]
    assert {term for term in terms if terms.count(term) > 1} == set()


@pytest.mark.parametrize("group", GROUPS)
def test_terms_of_a_group_are_in_alphabetical_order(group: str) -> None:
    terms = [entry.term.casefold() for entry in GROUPS[group]]
    assert terms == sorted(terms)


def test_each_meaning_is_one_sentence_of_few_words() -> None:
    texts = {entry.term: re.sub(r"`[^`]*`", "CODE", entry.meaning) for entry in ENTRIES}
    wrong_form = {term for term, text in texts.items() if not re.fullmatch(r"[A-Z][^?!]*\.", text)}
    assert wrong_form == set()
    assert {term for term, text in texts.items() if re.search(r"\. [A-Z]", text)} == set()
    assert {term for term, text in texts.items() if len(text.split()) > MAX_WORDS} == set()


def test_code_of_each_term_exists() -> None:
    spans = [span for entry in ENTRIES for span in re.findall(r"`([^`]+)`", entry.meaning + entry.code)]
    modules = {span for span in spans if MODULE_NAME.fullmatch(span)}
    classes = {span for span in spans if CLASS_NAME.fullmatch(span)}
    assert len(modules) > 50
    assert {name for name in modules if not module_exists(name)} == set()
    assert classes <= class_names()


def test_code_column_names_modules_or_classes() -> None:
    for entry in ENTRIES:
        for part in [] if entry.code == "-" else entry.code.split(", "):
            name = part.strip("`")
            assert MODULE_NAME.fullmatch(name) or CLASS_NAME.fullmatch(name), entry
