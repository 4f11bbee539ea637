"""Each style rule finds what is wrong in a small repository, and nothing in a right one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.gc_control import gc_paused
from tests.style import allow_list
from tests.style.prose import Paragraph, documentation, sentences
from tests.style.rule import StyleRule, StyleViolation
from tests.style.rules import (
    action_names,
    class_names,
    docstring_openers,
    function_size,
    line_length,
    retired_terms,
    sentence_length,
    vague_names,
)
from tests.style.rules.theory import check_theory
from tests.style.source import PACKAGES, Repository, SourceFile, load_repository

THEORY = """Sorting.

Problem: order.

Algorithm: heapsort (Williams 1964).

Cost: n log n.

Limits: none.
"""


def find(rule: StyleRule, **texts: str) -> list[str]:
    """Return `path:line` of each violation in files of planner with these texts."""
    files = tuple(SourceFile(f"planner/{name}.py", text) for name, text in texts.items())
    return [f"{violation.path}:{violation.line}" for violation in rule.find(Repository(Path(), files))]


def test_two_classes_of_one_name_are_both_found() -> None:
    assert find(class_names.RULE, a="class Visit: ...\n", b="\nclass Visit: ...\nclass Step: ...\n") == [
        "planner/a.py:1",
        "planner/b.py:2",
    ]


@pytest.mark.parametrize(
    "code",
    [
        "def in_turns(): ...",
        "class CameBack: ...",
        "def f(telling): ...",
        "self.told = 1",
        "for _piece in (): ...",
        "import x as asking",
    ],
)
def test_a_retired_identifier_is_found_where_it_is_defined(code: str) -> None:
    assert find(retired_terms.IDENTIFIERS, a=code) == ["planner/a.py:1"]


@pytest.mark.parametrize("code", ['x["told"] = 1', "x = told", "lease_keeper = 1", "whole_number = 1"])
def test_uses_stored_names_and_longer_words_are_no_retired_identifiers(code: str) -> None:
    assert find(retired_terms.IDENTIFIERS, a=code) == []


def test_functions_and_variables_without_a_noun_are_vague() -> None:
    assert find(vague_names.RULE, a="def of(x): ...\ndef paths_of(x): ...\nown = 1\nown_paths = own\n") == [
        "planner/a.py:1",
        "planner/a.py:3",
    ]


def test_a_comment_of_sql_is_prose() -> None:
    file = SourceFile("planner/a.sql", "SELECT 1;\n-- nobody\n")
    assert [violation.line for violation in retired_terms.PROSE.find(Repository(Path(), (file,)))] == [2]


def test_a_retired_term_is_found_in_docstrings_and_comments_across_lines() -> None:
    docstring = '"""Work.\n\nThe branches go\non with it, and `nobody` is code.\n"""\n'
    text = docstring + "x = 1  # nobody\n# is\n# told of it\n"
    assert find(retired_terms.PROSE, a=text) == ["planner/a.py:3", "planner/a.py:6", "planner/a.py:7"]


def test_no_pattern_has_a_capturing_group_and_no_verb_is_refused() -> None:
    for line in retired_terms.TERMS.read_text().splitlines():
        assert line.startswith(("[", "#")) or not re.compile(line.partition(" # ")[0]).groups
    verbs = docstring_openers.read_words("docstring_verbs.txt")
    assert not verbs & docstring_openers.read_words("docstring_openers_refused.txt")


def test_the_name_of_a_test_is_prose() -> None:
    code = "def test_the_whole_file_is_read(): ...\ndef test_nobody_waits(): ...\n"
    repository = Repository(Path(), (SourceFile("tests/test_a.py", code),))
    assert [violation.line for violation in retired_terms.PROSE.find(repository)] == [2]
    assert not list(retired_terms.IDENTIFIERS.find(repository))


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ('def f():\n    """The plan."""', [2]),
        ('def f():\n    """Returns the plan."""', [2]),
        ('def f():\n    """Return the plan."""', []),
        ('class A:\n    """What a plan is."""', [2]),
        ('class A:\n    """A plan."""\n    @property\n    def b(self):\n        """Name of the plan."""', []),
        ('"""What a plan is."""', [1]),
    ],
)
def test_docstrings_open_with_a_verb_or_a_noun(code: str, lines: list[int]) -> None:
    assert find(docstring_openers.RULE, a=code) == [f"planner/a.py:{line}" for line in lines]


def test_a_long_sentence_is_found_where_it_starts() -> None:
    words = "word " * 24
    text = f'"""A {words}.\n\nShort. Also\n{words} {words}.\n"""'
    assert find(sentence_length.RULE, a=text) == ["planner/a.py:3"]


def test_code_tables_and_lists_of_a_page_are_no_long_sentences() -> None:
    page = "# Title\n\n```\nA b.\n```\n\n| a | b |\n\n- one\n  two\n- [three](x) `f(1, 2)` e.g. Four. Five\n"
    paragraphs = documentation(SourceFile("docs/a.md", page))
    texts = [(sentence.line, sentence.text) for paragraph in paragraphs for sentence in sentences(paragraph)]
    assert texts == [(1, "Title"), (9, "one two"), (11, "three CODE eg Four."), (11, "Five")]


def test_examples_in_docstrings_are_no_prose() -> None:
    text = '"""Return it.\n\n>>> f(1)\n2\n\nMore.\n"""'
    assert list(documentation(SourceFile("planner/a.py", text))) == [
        Paragraph("planner/a.py", 1, "Return it."),
        Paragraph("planner/a.py", 6, "More."),
    ]


def test_a_long_line_is_found_unless_a_url_is_in_it() -> None:
    assert find(line_length.RULE, a=f"# {'ab ' * 40}\n# https://{'x' * 120}\n") == ["planner/a.py:1"]


def test_long_and_wide_functions_are_found() -> None:
    def find_in(path: str, text: str) -> list[str]:
        violations = function_size.PARAMETERS.find(Repository(Path(), (SourceFile(path, text),)))
        return [f"{violation.path}:{violation.line}" for violation in violations]

    wide = "class A:\n    def f(self, a, b, /, c, *, d, e): ...\n    def g(self, a, b, c, d, e, *, h): ...\n"
    assert find(function_size.PARAMETERS, a=wide) == ["planner/a.py:3"]
    command = "def f(a: Annotated[int, x], b: IdArgument, c: JsonOption, d: X, e: X, f: X): ...\n"
    assert find_in("api/cli/commands/a.py", command) == ["api/cli/commands/a.py:1"]
    assert find_in("api/cli/commands/a.py", command.replace("X", "XOption")) == []
    assert find_in("api/cli/a.py", command.replace("X", "XOption")) == ["api/cli/a.py:1"]
    assert find(function_size.LENGTH, a="def f():\n" + "    x = 1\n" * 60) == ["planner/a.py:1"]


def test_a_complex_function_is_found(tmp_path: Path) -> None:
    text = "def f(x):\n" + "    if x: pass\n" * 12
    (tmp_path / "planner").mkdir()
    (tmp_path / "planner/a.py").write_text(text)
    repository = Repository(tmp_path, (SourceFile("planner/a.py", text),))
    violations = list(function_size.COMPLEXITY.find(repository))
    assert [violation.problem for violation in violations] == ["`f` has complexity 13 (at most 12)"]


def test_a_theory_has_four_paragraphs_and_a_source() -> None:
    assert check_theory(THEORY) == []
    [problem] = check_theory(THEORY.replace("Cost", "Price"))
    assert problem == "missing paragraph `Cost:` in the docstring of the module"
    assert "missing source" in check_theory(THEORY.replace(" (Williams 1964)", ""))[0]


RULE = StyleRule("lines", lambda _: (), "wrap it")
TWO = [StyleViolation("a.py", line, "too long", "a.py") for line in (1, 2)]


def test_violations_beyond_the_allow_list_and_entries_beyond_the_violations_are_reported() -> None:
    assert allow_list.compare(RULE, TWO, {"a.py": 2}) == []
    assert allow_list.compare(RULE, TWO, {"a.py": 1}) == [
        "a.py:1: too long",
        "a.py:2: too long",
        "a.py: 2 violations, 1 allowed",
        "help: wrap it",
    ]
    shrinkable = allow_list.compare(RULE, TWO, {"a.py": 3, "b.py": 1})
    assert [message.partition(".txt: ")[2] for message in shrinkable[:2]] == [
        "lower to 2: a.py",
        "remove this entry: b.py",
    ]


def test_an_update_only_shrinks_the_allow_list_and_its_creation_raises_no_total(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("# why\na.py 3\nb.py\n")
    allow_list.shrink(path, [*TWO, StyleViolation("c.py", 1, "too long", "c.py")])
    assert path.read_text() == "# why\na.py 2\n"
    assert not allow_list.create(path, [*TWO, *TWO])
    assert allow_list.create(path, [violation._replace(key="moved.py") for violation in TWO])
    assert allow_list.read(path) == {"moved.py": 2}


@pytest.mark.parametrize(
    "code",
    [
        'if entry.action == "set": ...',
        'if "workflow" in visit.actions: ...',
        'if entry.action not in ("task", "wait"): ...',
        'match work.type:\n    case "file" | "s3": ...',
        'INFALLIBLE = frozenset({"set", "log"})',
        'WORDS = {"message": "a message"}',
        'words = {"wait": 1, "file": 2}',
        'names = ["http"]',
        'vet(host, action="http")',
        'def vet(host, action="http"): ...',
        'catalogue()["postgres"]',
        'catalogue().get("callback")',
        'program.catalogue["wait"]',
        'handler("message")',
    ],
)
def test_the_name_of_an_action_type_is_found_outside_of_its_file(code: str) -> None:
    assert len(find(action_names.RULE, a=code)) > 0


@pytest.mark.parametrize(
    "code",
    [
        'if url.scheme in ("http", "https"): ...',
        'error = {"type": type, "message": message}',
        'error["message"]',
        'raise Problem(f"use `wait` or `set`")',
        '"""`set`: assign values to names."""',
    ],
)
def test_another_meaning_of_the_word_is_no_name_of_an_action_type(code: str) -> None:
    assert find(action_names.RULE, a=code) == []


def test_the_file_of_an_action_type_may_name_only_its_own_type() -> None:
    names = [
        ("executor/actions/lambda_.py", "lambda"),
        ("executor/actions/_postgres_pool.py", "postgres"),
        ("executor/actions/wait.py", "log"),
    ]
    files = tuple(SourceFile(path, f'if type == "{name}": ...') for path, name in names)
    violations = action_names.RULE.find(Repository(Path(), files))
    assert [violation.path for violation in violations] == ["executor/actions/wait.py"]


def test_the_rule_knows_every_action_type() -> None:
    assert catalogue().keys() == action_names.ACTION_TYPES


@pytest.mark.xdist_group("style")  # One worker parses the repository.
def test_every_other_meaning_of_a_name_of_an_action_type_is_used() -> None:
    repository = load_repository()
    violations = dict.fromkeys(action_names.OTHER_MEANINGS, 0)
    with gc_paused():
        for file in repository.python(*PACKAGES):
            for node in file.nodes:
                for word, context in action_names.find_words(node):
                    for meaning in action_names.OTHER_MEANINGS:
                        violations[meaning] += meaning.covers(str(word.value), context)
    assert [meaning for meaning, count in violations.items() if not count] == []
