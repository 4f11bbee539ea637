"""Terms of the glossary are unique, in order, defined in one short sentence, and name code that exists."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from noetl.infra.reference import ROOT

PAGE = ROOT / "docs" / "reference" / "glossary.md"
HEAD = ["term", "meaning", "code", "Step Functions", "Temporal", "Airflow", "textbook"]
MAX_WORDS = 25
CODE_FOLDERS = ("planner", "executor", "api", "infra", "benchmarks", "tests", "noetl")
CODE_NAME = re.compile(
    rf"(?P<module>(?:{'|'.join(CODE_FOLDERS)})(?:\.[a-z_]\w*)+)(?:\.(?P<class_name>[A-Z]\w*))?"
)


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


def code_exists(name: str) -> bool:
    """Return whether `name` is a package, a module, or a class that the module defines."""
    match = CODE_NAME.fullmatch(name)
    if match is None:
        return False
    path = ROOT.joinpath(*match["module"].split("."))
    module = path.with_suffix(".py")
    if class_name := match["class_name"]:
        pattern = rf"^class {class_name}\b"
        return module.exists() and re.search(pattern, module.read_text("utf-8"), re.MULTILINE) is not None
    return module.exists() or any(path.glob("*.py"))


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
    names = {entry.term: entry.code.strip("`") for entry in ENTRIES if entry.code != "-"}
    assert len(names) > 100
    assert {term: name for term, name in names.items() if not code_exists(name)} == {}
