"""Names in scope at a line: what is offered there, who saved it, and whether it may lack a value."""

from __future__ import annotations

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.explanations import explained_codes, explanation
from noetl.planner.editing.draft import read_draft
from noetl.planner.editing.scope import NameScope, ScopeName

PLAYBOOK = """\
name: scopes
input: {region: string}
environment: {base: "https://x.test/{{ input.region }}"}
variables: {tries: 0}
tasks:
  - name: count
    run:
      - {action: set, set: {counted: "{{ args.rows | length }}"}}
steps:
  - name: load
    run:
      - {action: http, url: "{{ base }}", as: first}
      - {action: http, url: "{{ base }}/b", as: second, if: "{{ tries }}"}
      - {action: set, set: {total: "{{ first.status }}"}}
    rule:
      - {case: "{{ total > 1 }}", run: [left, right]}
      - {case: default, run: [join]}
  - name: left
    run:
      - {task: count, with: {rows: [1, 2]}}
      - {action: set, set: {from_left: 1}}
    rule: [{case: default, run: [join]}]
  - name: right
    loop: {items: [1, 2], as: number}
    run:
      - {action: set, set: {in_loop: "{{ number }}"}}
    rule: [{case: default, run: [join]}]
  - name: join
    run:
      - {action: log, message: done}
    rule: [{case: default, run: [last]}]
  - name: last
    run:
      - {action: set, set: {late: 1}}
output:
  all: "{{ total }}"
"""


def scope_at(line: int, text: str = PLAYBOOK) -> NameScope:
    scope = read_draft(text, catalogue(), line).scope
    assert scope is not None
    return scope


def names_at(line: int, text: str = PLAYBOOK, kind: str = "saved") -> dict[str, bool]:
    return {name.name: name.may_lack for name in scope_at(line, text).names if name.kind == kind}


def line_of(words: str) -> int:
    return PLAYBOOK[: PLAYBOOK.index(words)].count("\n") + 1


def test_a_name_that_was_saved_earlier_is_in_scope_with_its_step() -> None:
    assert ScopeName("total", "saved", "load", 14, False) in scope_at(line_of("message: done")).names


def test_names_that_are_saved_later_are_not_in_scope() -> None:
    assert "late" not in names_at(line_of("message: done"))
    assert "late" in names_at(line_of("all:"))
    assert names_at(line_of("as: first")) == {}
    assert names_at(line_of("as: second")) == {"first": False}


def test_a_name_of_an_entry_with_a_condition_may_lack_a_value() -> None:
    assert names_at(line_of("set: {total")) == {"first": False, "second": True}
    assert names_at(line_of('case: "{{ total > 1')) == {"first": False, "second": True, "total": False}


def test_a_name_of_one_branch_may_lack_a_value_behind_the_join() -> None:
    names = names_at(line_of("message: done"))
    assert (names["total"], names["from_left"], names["counted"]) == (False, True, True)
    assert "in_loop" not in names


def test_siblings_do_not_see_each_other() -> None:
    assert "from_left" not in names_at(line_of("in_loop:"))


def test_the_items_of_a_loop_are_in_scope_inside_it() -> None:
    assert names_at(line_of("in_loop:"), kind="item") == {"number": False, "loop": False}
    assert names_at(line_of("message: done"), kind="item") == {}


def test_given_names_are_in_scope_where_the_language_says() -> None:
    for kind, name in (("input", "region"), ("environment", "base"), ("variable", "tries")):
        assert name in names_at(line_of("as: first"), kind=kind)
        assert name in names_at(line_of("all:"), kind=kind)
        assert names_at(1, kind=kind) == {}
    assert names_at(line_of("environment:"), kind="input") == {"region": False}
    assert names_at(line_of("environment:"), kind="environment") == {}


def test_a_task_sees_its_arguments_and_may_see_every_name() -> None:
    scope = scope_at(line_of("counted:"))
    assert (scope.step, scope.task) == (None, "count")
    assert ScopeName("args.rows", "args") in scope.names
    assert names_at(line_of("counted:"))["total"] is True


def test_names_are_known_while_the_text_has_errors() -> None:
    broken = PLAYBOOK.replace("run: [last]", "run: [lost]").replace("case: default", "case: defualt", 1)
    names = names_at(line_of("message: done"), broken)
    assert names["total"] is True
    assert "late" not in names


def test_a_step_without_a_way_to_it_is_offered_what_others_save() -> None:
    text = PLAYBOOK.replace(
        "output:", "  - name: fresh\n    run:\n      - {action: log, message: x}\noutput:"
    )
    assert names_at(line_of("output:") + 1, text)["late"] is True


@pytest.mark.parametrize("text", ["", "name: [", "- a", "name: x\nsteps: 5", "\x00", "a: &a [*a]"])
def test_a_text_that_cannot_be_parsed_has_only_findings(text: str) -> None:
    draft = read_draft(text, catalogue(), 1)
    assert (draft.is_parsed, draft.scope, draft.steps) == (False, None, ())
    assert draft.compilation.diagnostics


@pytest.mark.parametrize("code", explained_codes())
def test_each_explained_mistake_is_a_draft_at_each_line(code: str) -> None:
    for block in explanation(code).split("```yaml\n")[1:]:
        text = block.partition("```")[0]
        for line in range(1, min(text.count("\n"), 40) + 2):
            draft = read_draft(text, catalogue(), line)
            assert draft.is_parsed is (draft.scope is not None)


def test_a_given_name_that_a_step_saves_has_a_value_on_all_paths() -> None:
    text = PLAYBOOK.replace("{from_left: 1}", "{tries: 1}")
    assert names_at(text[: text.index("action: log")].count("\n") + 1, text)["tries"] is False


def test_a_name_that_no_template_reads_has_a_value_under_the_guard_of_its_step() -> None:
    text = """\
name: unread
input: {large: boolean}
steps:
  - name: first
    run: [{action: set, set: {never_read: 1}, if: "{{ large }}"}]
    rule: [{case: "{{ large }}", run: [second]}, {case: default, run: [third]}]
  - {name: second, run: [{action: log, message: here}]}
  - {name: third, run: [{action: log, message: there}]}
"""
    assert names_at(7, text) == {"never_read": False}
    assert names_at(8, text) == {"never_read": True}
