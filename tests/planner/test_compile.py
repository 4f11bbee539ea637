from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.actions import catalogue
from noetl.planner.compile import Compilation, compile_playbook
from noetl.planner.diagnostics.codes import CODES, Severity

ROOT = Path(__file__).parents[2]
PLAYBOOK = """name: onboard
version: "3"
input:
  user: {type: integer, default: 1}
environment: {url: "https://example.com/{{ input.user }}"}
variables: {seen: []}
timeout: 1h
tasks:
- name: note
  run:
  - {action: log, message: "{{ args.text }}", fields: {a: [1, 2.5, null, true]}}
steps:
- name: fetch
  run:
  - {action: http, url: "{{ url }}", as: answer, retry: {attempts: 3, if: "{{ error.status >= 500 }}"}}
  rule:
  - {case: error, run: [{task: note, with: {text: "{{ error.message }}"}}]}
  - {case: "{{ answer.body.new }}", run: [left, right]}
  - {case: default, run: [Run Import]}
- name: left
  run: [{action: set, set: {x: "{{ answer.status }}"}}]
  rule: [{case: default, run: [Run Import]}]
- {name: right, run: [{task: note, with: {text: hello}}], rule: [{case: default, run: [Run Import]}]}
- name: Run Import
  max_visits: 5
  run: [{action: set, set: {seen: "{{ seen + [step.visit] }}"}}]
  rule:
  - {case: "{{ seen | length < 3 }}", run: [{step: Run Import}]}
output: {x: "{{ x | default('none') }}", visits: "{{ steps['Run Import'].visits }}"}
"""


def compiled(text: str | bytes) -> Compilation:
    return compile_playbook(text, catalogue())


def check_findings(text: str, found: Compilation) -> None:
    """Check that findings have valid spans and known codes, and that there is a plan if none is an error."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for diagnostic in found.diagnostics:
        assert diagnostic.code in CODES
        assert diagnostic.message
        span = diagnostic.span
        assert 1 <= span.line <= span.end_line <= len(lines) + 1
        assert (span.line, span.column) < (span.end_line, span.end_column)
        json.dumps(diagnostic.to_json())
    errors = [d for d in found.diagnostics if d.severity is Severity.ERROR]
    assert (found.plan is None) is bool(errors)
    assert "NP900" not in {d.code for d in found.diagnostics}
    spans = [d.span for d in found.diagnostics]
    assert spans == sorted(spans)


def test_a_playbook_without_findings() -> None:
    found = compiled(PLAYBOOK)
    assert found.diagnostics == ()
    assert found.plan is not None
    assert found.plan.header.name == "onboard"
    assert list(found.plan.steps) == ["fetch", "left", "right", "Run Import"]
    assert found.plan.source == PLAYBOOK


def test_bytes_and_text_have_the_same_plan() -> None:
    from_text, from_bytes = compiled(PLAYBOOK).plan, compiled(PLAYBOOK.encode()).plan
    assert from_text is not None
    assert from_bytes is not None
    assert from_text.to_json() == from_bytes.to_json()


def test_all_of_many_mistakes_are_found() -> None:
    text = """name: x
steps:
- name: a
  runn: []
  run:
  - {action: shel, command: ls}
  - {action: log, mesage: hi}
  - {action: log, message: "{{ a + }}"}
  - {action: log, message: "{{ a | uper }}"}
  rule:
  - {case: plain, run: [b]}
  - {case: default, run: [nothing]}
- name: b
  run: [missing]
- name: b
  run: [{action: set, set: {item: 1}}]
- name: c
"""
    found = compiled(text)
    check_findings(text, found)
    errors = {(d.code, d.span.line) for d in found.diagnostics if d.severity is Severity.ERROR}
    assert errors >= {
        ("NP010", 4),
        ("NP501", 6),
        ("NP502", 7),
        ("NP401", 8),
        ("NP402", 9),
        ("NP407", 11),
        ("NP101", 12),
        ("NP103", 14),
        ("NP102", 15),
        ("NP110", 16),
        ("NP107", 17),
    }


@st.composite
def damaged_playbooks(draw: st.DrawFn) -> str:
    """Return the playbook with some pieces of text removed, repeated or inserted."""
    text = PLAYBOOK
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(start + draw(st.integers(0, 40)), len(text))
        new = draw(
            st.sampled_from(
                [
                    "",
                    " ",
                    "\n",
                    "- ",
                    ": ",
                    "{",
                    "}",
                    "[",
                    "]",
                    '"',
                    "'",
                    "{{ ",
                    " }}",
                    "{% ",
                    "*a",
                    "&a ",
                    "!!x ",
                    "#",
                ]
            )
            | st.sampled_from(PLAYBOOK.split())
            | st.text(max_size=3)
            | st.just(text[start:end] * 2)
        )
        text = text[:start] + new + text[end:]
    return text


@given(damaged_playbooks())
def test_a_damaged_playbook_has_findings_and_no_exception(text: str) -> None:
    check_findings(text, compiled(text))


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_has_findings_and_no_exception(text: str | bytes) -> None:
    found = compiled(text)
    assert found.plan is None
    assert found.diagnostics


@st.composite
def playbooks_with_replaced_values(draw: st.DrawFn) -> str:
    """Return the playbook as JSON, with some values replaced by values of any kind."""
    data = json.loads(json.dumps(_parsed_playbook()))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_find_places(data)))
        holder[key] = draw(
            st.sampled_from(
                [
                    None,
                    True,
                    0,
                    -1,
                    1.5,
                    "",
                    "a",
                    "{{ x }}",
                    "{{",
                    [],
                    [[]],
                    {},
                    {"a": 1},
                    ["a"],
                    "default",
                    "error",
                ]
            )
        )
    return json.dumps(data)


def _parsed_playbook() -> object:
    from noetl.planner.diagnostics.diagnostic import Diagnostics
    from noetl.planner.syntax.reader import read_document

    document = read_document(PLAYBOOK, Diagnostics())
    assert document is not None
    return document.data


def _find_places(data: Any) -> list[tuple[Any, Any]]:
    """Return the lists and dictionaries of a JSON value, each with one of its indexes or keys."""
    found: list[tuple[Any, Any]] = []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found.append((data, key))
        found += _find_places(value)
    return found


@given(playbooks_with_replaced_values())
def test_a_playbook_with_replaced_values_has_findings_and_no_exception(text: str) -> None:
    check_findings(text, compiled(text))


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_plan_does_not_depend_on_the_hash_seed(seed: str) -> None:
    plan = compiled(PLAYBOOK).plan
    assert plan is not None
    program = (
        "import json, sys; from noetl.executor.actions import catalogue;"
        "from noetl.planner.compile import compile_playbook;"
        "print(json.dumps(compile_playbook(sys.stdin.read(), catalogue()).plan.to_json()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        input=PLAYBOOK,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    assert json.loads(answer.stdout) == json.loads(json.dumps(plan.to_json()))


def test_the_hash_depends_on_what_affects_a_run() -> None:
    plan = compiled(PLAYBOOK).plan
    assert plan is not None
    assert len(plan.hash) == 64
    reformatted = compiled(PLAYBOOK.replace("variables:", "variables :")).plan
    assert reformatted is not None
    assert reformatted.hash == plan.hash
    changed = compiled(PLAYBOOK.replace("attempts: 3", "attempts: 4")).plan
    assert changed is not None
    assert changed.hash != plan.hash


def test_a_plan_with_half_of_a_surrogate_pair_has_a_hash() -> None:
    text = r"""{name: x, steps: [{name: a, run: [{action: log, message: "{{ input['\\ud800'] }}"}]}]}"""
    plan = compiled(text).plan
    assert plan is not None
    assert len(plan.hash) == 64


def test_edges_of_a_plan() -> None:
    plan = compiled(PLAYBOOK).plan
    assert plan is not None
    assert [(e["source"], e["target"], e["guard"], e["case"]) for e in plan.edges()] == [
        ("fetch", "left", "{{ answer.body.new }}", 1),
        ("fetch", "right", "{{ answer.body.new }}", 1),
        ("fetch", "Run Import", "default", 2),
        ("left", "Run Import", "default", 0),
        ("right", "Run Import", "default", 0),
        ("Run Import", "Run Import", "{{ seen | length < 3 }}", 0),
    ]
