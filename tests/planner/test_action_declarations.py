"""Declarations of action types: their claims about the end of an action decide what is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from noetl.executor.actions import catalogue, temporary_types
from noetl.testing.actions import ScriptedAction
from tests.planner.findings import findings

FORKED = """
input: {given: {type: any}}
on_error: continue
steps:
  - name: start
    run: [{action: log, message: starts}]
    rule: [{case: default, run: [left, right]}]
  - name: left
    run: [{ACTION}]
    rule: [{case: default, run: [save]}]
  - name: save
    run: [{action: set, set: {x: 1}}]
    rule: [{case: default, run: [meet]}]
  - name: right
    run: [{action: log, message: runs}]
    rule: [{case: default, run: [meet]}]
  - name: meet
    run: [{action: log, message: "{{ x }}"}]
"""
"""`x` is undefined in `meet` if `left` fails."""


def may_fail(action: str) -> bool:
    return findings(FORKED.replace("ACTION", action), "NP302") != []


@pytest.mark.parametrize(
    "action",
    [
        'action: log, message: "{{ given }}"',
        'action: log, message: given, fields: {value: "{{ given }}"}',
        'action: set, set: {y: "{{ given }}"}',
    ],
)
def test_an_action_that_accepts_every_value_cannot_fail(action: str) -> None:
    assert not may_fail(action)


@pytest.mark.parametrize(
    "action",
    [
        'action: log, message: "{{ given.part }}"',
        'action: log, message: given, level: "{{ given }}"',
        'action: log, message: given, fields: "{{ given }}"',
        'action: shell, command: "true"',
    ],
)
def test_an_action_that_refuses_some_values_may_fail(action: str) -> None:
    assert may_fail(action)


def test_the_declaration_says_whether_an_action_cannot_fail() -> None:
    log = replace(catalogue()["log"], type="note")
    for cannot_fail in (True, False):
        with temporary_types(ScriptedAction(replace(log, cannot_fail=cannot_fail))):
            assert may_fail("action: note, message: hello") is not cannot_fail


def test_the_declaration_says_whether_an_action_never_succeeds() -> None:
    text = """
        input: {given: {type: any}}
        steps:
          - name: only
            run:
              - {action: set, set: {x: 1}, if: "{{ given }}"}
              - {action: refuse, message: no, if: "{{ x is undefined }}"}
              - {action: log, message: "{{ x }}"}
        """
    for never_succeeds in (True, False):
        declaration = replace(catalogue()["fail"], type="refuse", never_succeeds=never_succeeds)
        with temporary_types(ScriptedAction(declaration)):
            assert (findings(text, "NP302") == []) is never_succeeds


def test_the_declaration_says_where_the_type_of_the_error_is() -> None:
    text = """
        steps:
          - name: only
            max_visits: 2
            run: [{action: refuse, message: no, type: MaxVisitsExceeded}]
            rule:
              - {case: "{{ error.type == 'MaxVisitsExceeded' }}", run: [last]}
              - {case: default, run: [last]}
          - name: last
            run: [{action: log, message: ends}]
        """
    for error_type in ("type", None):
        declaration = replace(catalogue()["fail"], type="refuse", error_type=error_type)
        with temporary_types(ScriptedAction(declaration)):
            assert (findings(text, "NP203") == []) is (error_type == "type")
