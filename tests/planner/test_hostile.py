"""Playbooks made to keep the planner busy: it gives up, or says little, before they have cost much.

What they cost is counted in calls of functions, which are the same on every machine; a second has some millions of them.
"""

from __future__ import annotations

import cProfile
import pstats

import pytest
from noetl.executor.actions import catalogue
from noetl.planner.compile import Compilation, compile_playbook
from noetl.planner.program import template_uses
from noetl.planner.templates import template as template_module

from benchmarks.hostile import TEXTS, logging, text_of

MAX_CALLS = 2_000_000
MAX_CALLS_PER_BYTE = 14

REFUSED = {
    "NP004": ["deep lists"],
    "NP005": ["aliases of aliases"],
    "NP012": ["many deep lists", "a huge number"],
    "NP405": ["deep brackets", "deep negation", "a huge constant", "a huge guard", "commands in commands"],
    "NP701": [
        "values of the wrong type",
        "huge texts",
        "many alternatives",
        "loops in loops",
        "conditions in conditions",
        "rows of filters",
        "thousands of outputs",
        "many values",
        "many comparisons",
        "much that is implied",
        "all steps lead to all that follow",
        "all steps lead to all",
        "branches that cross",
        "cycles within cycles",
        "joins of every kind",
        "branches that take turns",
        "a graph by chance",
    ],
}
"""What is too much, by the code that says so."""


@pytest.mark.parametrize("name", TEXTS)
def test_what_it_costs_is_bounded(name: str) -> None:
    text = text_of(name)
    profile = cProfile.Profile()
    template_module.cached_parse.cache_clear()
    compilation: Compilation = profile.runcall(compile_playbook, text, catalogue())
    calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    assert calls <= MAX_CALLS + MAX_CALLS_PER_BYTE * len(text)
    said = {found.code for found in compilation.diagnostics}
    assert {code for code, names in REFUSED.items() if name in names} <= said
    assert (compilation.plan is None) == any(found.severity == "error" for found in compilation.diagnostics)


def told(number: int, text: str) -> list[tuple[str, int]]:
    compilation = compile_playbook(f"name: x\n{logging(number, lambda _: text)}", catalogue())
    return [(found.code, found.span.line) for found in compilation.diagnostics if found.severity == "error"]


def test_all_expressions_together_are_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_uses, "MAX_CODE", 100)
    assert told(10, "a text {{ x }} {{ y.z }}") == [], "names that are read are not counted"
    assert told(1, f"{'a text ' * 100}{{{{ x + 1 }}}}") == [], "nor is what stands around"
    assert told(1, f"{{{{ {'x + ' * 30}1 }}}}") == [("NP701", 3)]
    assert told(1, f"{{% if {'x + ' * 30}1 %}}a{{% endif %}}") == [("NP701", 3)]
    assert told(1, f"{{{{ {{}} ~ {'x + ' * 30}1 }}}}") == [("NP701", 3)]
    assert told(1, "{{ {'a': {'b': {}}} ~ " + "x + " * 30 + "1 }}") == [("NP701", 3)]
    assert told(8, "{{ x + 1 }}") == []
    assert told(20, "{{ x + 1 }}")[0][0] == "NP701"
    assert told(20, "{{ x + }}")[-1][0] == "NP701", "what cannot be read counts as well"
