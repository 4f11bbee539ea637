"""Checks of literal regular expressions, which RE2 compiles before a playbook has a plan (NP408)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import nodes

from noetl.planner.program.program import Program
from noetl.planner.templates.access_paths import child_nodes
from noetl.planner.templates.budget import LimitExceeded, start_budget
from noetl.planner.templates.patterns import MAX_PATTERN, MAX_PROGRAM, PatternProblem, compile_pattern

MAX_CHECKED = 5 * MAX_PROGRAM
"""How many instructions of RE2 the patterns of a playbook may have in all. Further ones are not checked."""

_FILTERS = frozenset({"regex_search", "regex_replace"})
_LITERAL = re.compile(r"""(?P<quote>['"])(?:\\.|(?!(?P=quote)).)*(?P=quote)""", re.DOTALL)


def check_patterns(program: Program) -> None:
    """Report literal patterns of `regex_search` and `regex_replace` that cannot run."""
    problems: dict[str, tuple[str, str | None] | None] = {}
    instructions = 0
    for use in (*program.uses, *program.trigger_uses):
        source = use.template.source
        if "regex_" not in source:
            continue
        for pattern, offset in use.template.inspect_nodes(_find_literal_patterns):
            if pattern not in problems and instructions <= MAX_CHECKED:
                problems[pattern], number = _find_problem(pattern)
                instructions += number
            problem = problems.get(pattern)
            if problem is not None:
                literal = _LITERAL.search(source, offset)
                start, end = literal.span() if literal else (offset, offset + 1)
                span = program.document.text_span(use.path, start, end)
                program.diagnostics.add("NP408", problem[0], span, problem[1])


def _find_literal_patterns(body: list[nodes.Node]) -> list[tuple[str, int]]:
    """Return the literal patterns in nodes of a template, with their offsets."""
    found: list[tuple[str, int]] = []
    level = body
    while level:
        for node in level:
            if isinstance(node, nodes.Filter):
                found += ((arg.value, arg.lineno) for arg in _pattern_arguments(node))
        level = [child for node in level for child in child_nodes(node)]
    return found


def _pattern_arguments(node: nodes.Filter) -> Iterator[nodes.Const]:
    """Yield the literal pattern of a filter, or of the filter that `map` applies."""
    arguments = node.args
    name = node.name
    if name == "map" and arguments and isinstance(arguments[0], nodes.Const):
        name, arguments = arguments[0].value, arguments[1:]
    if name in _FILTERS:
        named = [keyword.value for keyword in node.kwargs if keyword.key == "pattern"]
        for argument in (*arguments[:1], *named):
            if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
                yield argument


def _find_problem(pattern: str) -> tuple[tuple[str, str | None] | None, int]:
    """Return message and hint for a pattern that cannot run, and the instructions that compiling it took."""
    start_budget()
    try:
        return None, compile_pattern(pattern, is_ascii=True).positions
    except PatternProblem as problem:
        return (problem.message, problem.hint), 0
    except LimitExceeded as problem:
        message, _, hint = str(problem).partition(": ")
        is_long = len(pattern) > MAX_PATTERN
        return (message, hint or "use several filters"), 0 if is_long else MAX_PROGRAM
