"""First words of docstrings.

A function opens with a verb in the imperative, from `docstring_verbs.txt`. A class, module, property, special
method, fixture or test opens with a noun phrase: any word that is not in `docstring_openers_refused.txt`.

Not seen: whether a word of the list is used as a verb ("Report of a run"), and whether a noun phrase is one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import CODE, Definition, FunctionNode, Repository, SourceFile

FOLDER = Path(__file__).parents[1]
WORD = re.compile(r"[\w'-]+")


def find(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each docstring whose first word is wrong for what it describes."""
    for file in repository.python(*CODE):
        module = ast.get_docstring(file.tree)
        if module and (problem := check_opener(module, needs_verb=False)):
            yield StyleViolation(file.path, 1, f"docstring of the module {problem}", file.path)
        for definition in file.definitions:
            text = ast.get_docstring(definition.node)
            if text and (problem := check_opener(text, needs_verb=_needs_verb(file, definition))):
                line = definition.node.body[0].lineno
                problem = f"docstring of `{definition.name}` {problem}"
                yield StyleViolation(file.path, line, problem, file.path)


def check_opener(text: str, *, needs_verb: bool) -> str | None:
    """Return what is wrong with the first word of `text`, or None.

    >>> check_opener("Returns the plan.", needs_verb=True)
    'must start with an imperative verb, not "Returns"'
    >>> check_opener("Plan of a playbook.", needs_verb=False)
    """
    match = WORD.match(text)
    first = match[0] if match else text.split(maxsplit=1)[0]
    if needs_verb and first not in read_words("docstring_verbs.txt"):
        return f'must start with an imperative verb, not "{first}"'
    if not needs_verb and first in read_words("docstring_openers_refused.txt"):
        return f'must start with a noun phrase, not "{first}"'
    return None


@cache
def read_words(file_name: str) -> frozenset[str]:
    """Return the words of a list in this folder. A line holds any number of words."""
    lines = (FOLDER / file_name).read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _needs_verb(file: SourceFile, definition: Definition) -> bool:
    node = definition.node
    if not isinstance(node, FunctionNode):
        return False
    is_special = node.name.startswith("__") and node.name.endswith("__")
    is_test = file.is_test and node.name.startswith("test_")
    decorators = (ast.unparse(decorator) for decorator in node.decorator_list)
    is_noun = any("property" in decorator or "fixture" in decorator for decorator in decorators)
    return not (is_special or is_test or is_noun)


RULE = StyleRule(
    "docstring-openers",
    find,
    "open a function with a verb in the imperative (add a good verb to tests/style/docstring_verbs.txt), "
    "a class, module or property with a noun phrase",
)
