"""Cases whose outcome follows from a sentence of the language reference. The names begin with its section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.oracle.interpreter import explore
from tests.oracle.outcome import AllowedOutcome, AllowedOutcomes

DEFAULT = "rule: [{{case: default, run: [{}]}}]"


def played(text: str, inputs: Mapping[str, Any] | None = None, **rest: str) -> AllowedOutcomes:
    """Explore a playbook, with further playbooks that it may start."""
    playbooks = {name: yaml.safe_load(other) for name, other in rest.items()}
    playbook = yaml.safe_load(text)
    playbook.setdefault("name", "main")
    found = explore({**playbooks, "main": playbook}, "main", inputs or {})
    assert found.is_complete
    return found


def sole(text: str, inputs: Mapping[str, Any] | None = None, **rest: str) -> AllowedOutcome:
    """Return the only outcome that the text allows."""
    found = played(text, inputs, **rest)
    assert found.races == frozenset()
    (outcome,) = found.outcomes
    return outcome


def order(text: str, inputs: Mapping[str, Any] | None = None) -> list[str]:
    """Return the steps in the order of their visits."""
    return [step for step, _ in sole(text, inputs).order]


def results(found: AllowedOutcomes) -> list[Any]:
    return sorted((outcome.result for outcome in found.outcomes), key=str)


def flow(edges: str, mode: str = "sequential", **keys: str) -> str:
    """Return a playbook with the edges `a: b c, b: c`; keys give further keys of a step."""
    steps = []
    for line in edges.split(","):
        name, targets = (part.strip() for part in line.split(":"))
        rule = f"rule: [{{case: default, run: [{', '.join(targets.split())}]}}]"
        steps.append(f"  - {{name: {name}, {rule}, {keys.get(name, 'description: none')}}}")
    return f"mode: {mode}\nsteps:\n" + "\n".join(steps)


# 5, what a branch sees


@pytest.mark.parametrize("name", ["zleft", "left", "a", "meet0", "decide0"])
def test_5_a_join_replaces_what_it_waited_for(name: str) -> None:
    text = f"""
        input: {{z: {{type: integer, default: 0}}}}
        steps:
          - name: begin
            rule: [{{case: default, run: [{name}, meet]}}]
          - name: {name}
            run: [{{action: set, set: {{v: from left}}}}]
            rule: [{{case: default, run: [decide]}}]
          - name: decide
            rule:
              - {{case: "{{{{ input.z == 0 }}}}", run: []}}
              - {{case: default, run: [meet]}}
          - name: meet
            run: [{{action: set, set: {{seen: "{{{{ v | default('none') }}}}", v: from meet}}}}]
            rule: [{{case: default, run: [after]}}]
          - name: after
            run: [{{action: set, set: {{read: "{{{{ v }}}}"}}}}]
        """
    assert sole(text).result == {"v": "from meet", "read": "from meet", "seen": "none"}
    assert sole(text, {"z": 1}).result == {"v": "from meet", "read": "from meet", "seen": "from left"}


@pytest.mark.parametrize(("p", "q"), [("p", "q"), ("q", "p")])
def test_5_a_join_that_waited_for_a_branch_writes_after_it(p: str, q: str) -> None:
    text = f"""
        input: {{k: {{type: boolean}}}}
        steps:
          - {{name: s, rule: [{{case: default, run: [{p}, {q}]}}]}}
          - name: {p}
            run: [{{action: set, set: {{v: of p}}}}]
            rule: [{{case: "{{{{ k }}}}", run: [z, {q}]}}, {{case: default, run: [z]}}]
          - name: {q}
            run: [{{action: set, set: {{v: of q}}}}]
            rule: [{{case: default, run: [z]}}]
          - {{name: z, run: [{{action: set, set: {{read: "{{{{ v }}}}"}}}}]}}
        """
    for k in (True, False):
        assert sole(text, {"k": k}).result == {"v": "of q", "read": "of q"}


def test_5_parallel_branches_that_write_one_name_race() -> None:
    saving = "run: [{action: set, set: {v: 1}}]"
    found = played(flow("s: a b, a: z, b: z, z:", "parallel", a=saving, b=saving))
    assert found.races == {"v"}


def test_5_a_branch_that_ended_is_not_seen_after_a_join() -> None:
    text = flow(
        "s: a b, a:, b: z, z:",
        "parallel",
        a="run: [{action: set, set: {v: 1}}]",
        z="""run: [{action: set, set: {read: "{{ v | default('none') }}"}}]""",
    )
    assert sole(text).result == {"v": 1, "read": "none"}


# 5, sequential mode


def test_5_a_branch_arrives_at_a_join_when_it_gets_its_turn() -> None:
    assert order(flow("s0: s4 s3, s3: s8 s4, s4:, s8:")) == ["s0", "s3", "s8", "s4"]


def test_5_a_join_any_fires_at_the_arrival() -> None:
    assert order(flow("s0: s1 s2, s1: s2 s3, s2:, s3:", s2="join: any")) == ["s0", "s1", "s2", "s3"]


def test_5_visits_are_numbered_in_the_order_in_which_they_begin() -> None:
    text = flow(
        "a: b c, b: c, c:",
        c="""join: each, run: [{action: set, set: {c: "{{ steps.c.visits }} {{ step.visit }}"}}]""",
    )
    assert sole(text).order == [["a", 1], ["b", 1], ["c", 1], ["c", 2]]
    assert sole(text).result == {"c": "1 2"}


def test_5_a_branch_is_performed_up_to_a_join_that_waits_for_its_sibling() -> None:
    assert order(flow("s: a b, a: c, c: z, b: z, z:")) == ["s", "a", "c", "b", "z"]


@pytest.mark.parametrize(("first", "second"), [("x", "y"), ("y", "x")])
def test_5_of_several_joins_that_fire_the_one_with_the_earliest_arrival_is_first(
    first: str, second: str
) -> None:
    text = flow(f"s: a b, a: {first} {second}, x:, y:")
    text += """\n  - {name: b, rule: [{case: "{{ steps.a.visits > 1 }}", run: [x, y]}]}"""
    assert order(text) == ["s", "a", "b", first, second]


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_5_a_step_does_not_wait_for_the_next_round(mode: str) -> None:
    text = flow("s: a b, a: c, c: k, b: k, k: d", mode).replace("{name: s,", "{name: s, max_visits: 2,")
    text += """\n  - {name: d, rule: [{case: "{{ steps.s.visits < 2 }}", run: [s]}]}"""
    assert sole(text).visits == dict.fromkeys("sackbd", 2)


# 5, joins and cycles in parallel mode


def test_5_a_join_any_runs_once_for_a_wave() -> None:
    text = flow(
        "s: a b, a: z, b: z, z: d",
        "parallel",
        s="max_visits: 2",
        a="run: [{action: set, set: {v: a}}]",
        b="run: [{action: set, set: {v: b}}]",
        z="join: any",
    )
    text += "\n  - {name: d, run: [{action: set, set: {first: '{{ v }}'}}]}\noutput: {first: '{{ first }}'}"
    found = played(text)
    assert results(found) == [{"first": "a"}, {"first": "b"}]
    assert {outcome.visits["z"] for outcome in found.outcomes} == {1}


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_5_a_join_any_has_a_first_arrival_in_each_round(mode: str) -> None:
    text = flow("s: a b, a: z, b: z, z: d", mode, s="max_visits: 2", z="join: any")
    text += """\n  - {name: d, rule: [{case: "{{ steps.s.visits < 2 }}", run: [s]}]}"""
    assert {step: sole(text).visits[step] for step in "sabzd"} == dict.fromkeys("sabzd", 2)


def test_5_a_join_each_runs_once_for_a_branch_and_the_next_step_joins() -> None:
    assert sole(flow("s: a b, a: z, b: z, z: d, d:", "parallel", z="join: each")).visits["z"] == 2
    assert sole(flow("s: a b, a: z, b: z, z: d, d:", "parallel", z="join: each")).visits["d"] == 1


def test_5_the_number_of_a_visit_depends_on_timing() -> None:
    text = flow(
        "s: a b, a: z, b: z, z: d, d:",
        "parallel",
        a="run: [{action: set, set: {from_a: true}}]",
        z="""join: each, rule: [{case: "{{ from_a is defined }}", run: [d]}]""",
        d="""run: [{action: set, set: {last: "{{ steps.z.visits }}"}}]""",
    ).replace("rule: [{case: default, run: [d]}], ", "")
    assert results(played(text)) == [{"from_a": True, "last": 1}, {"from_a": True, "last": 2}]


def test_5_a_refused_visit_can_be_handled_but_does_not_lead_back() -> None:
    text = """
        variables: {n: 0}
        steps:
          - name: again
            max_visits: 2
            run: [{action: set, set: {n: "{{ n + 1 }}"}}]
            rule:
              - {case: error, run: [between]}
              - {case: "{{ error.type == 'MaxVisitsExceeded' }}", run: [enough]}
              - {case: default, run: [again]}
          - {name: between, rule: [{case: default, run: [again]}]}
          - {name: enough, run: [{action: set, set: {visit: "{{ steps.again.visits }}"}}]}
        """
    assert sole(text).result == {"n": 2, "visit": 3}


def test_5_a_refused_visit_that_no_case_handles_fails_the_run() -> None:
    outcome = sole(flow("a: a", "parallel", a="max_visits: 2"))
    assert (outcome.status, outcome.errors) == ("failed", [["MaxVisitsExceeded", "a"]])
    assert outcome.visits == {"a": 3}


# 2, rules


RULES = {
    "a failed guard has no result": (
        """
        - {case: "{{ 1 / 0 }}", run: []}
        - {case: error, run: [{action: set, set: {type: "{{ error.type }}", w: "{{ w is defined }}"}}]}
        """,
        {"type": "GuardError", "w": False},
    ),
    "an error-aware case after a default is a candidate": (
        """
        - {case: "{{ True }}", run: [{action: set, set: {type: none}}]}
        - {case: "{{ error.type == 'X' }}", run: [{action: set, set: {type: X}}]}
        """,
        {"w": 1, "type": "none"},
    ),
    "a part of error is not true after a success": (
        """
        - {case: "{{ error.type != 'X' }}", run: []}
        - {case: "{{ not error.type }}", run: []}
        - {case: "{{ error is none }}", run: [{action: set, set: {type: "{{ result.data.w }}"}}]}
        """,
        {"w": 1, "type": 1},
    ),
    "the text False is true": (
        """
        - {case: "{{ 0 }}", run: []}
        - {case: "{{ 'False' }}", run: [{action: set, set: {type: text}}]}
        """,
        {"w": 1, "type": "text"},
    ),
}


@pytest.mark.parametrize(("rule", "result"), RULES.values(), ids=list(RULES))
def test_2_a_rule_takes_the_first_true_case(rule: str, result: dict[str, Any]) -> None:
    cases = "".join(f"              {line.strip()}\n" for line in rule.strip().splitlines())
    text = (
        "steps:\n          - name: a\n            run: [{action: set, set: {w: 1}}]\n            rule:\n"
        + cases
    )
    assert sole(text).result == result


def test_2_a_second_failed_guard_fails_the_run() -> None:
    rule = "[{case: '{{ x }}', run: []}, {case: '{{ error.a.b }}', run: []}, {case: error, run: []}]"
    outcome = sole(f"steps: [{{name: a, rule: {rule}}}]")
    assert (outcome.status, outcome.errors) == ("failed", [["GuardError", "a"]])


def test_4_a_failed_guard_leaves_no_result_of_the_step() -> None:
    text = """
        steps:
          - name: a
            run: [{action: set, set: {w: 1}}]
            rule: [{case: "{{ nothing }}", run: []}, {case: error, run: [b]}]
          - name: b
            run: [{action: set, set: {a: "{{ [steps.a.status, steps.a.result, steps.a.error.type] }}"}}]
        """
    assert sole(text).result == {"a": ["failed", None, "GuardError"]}


# 3, 6 and 7, work


WORK = {
    "a skipped item keeps what it would save": (
        "[{action: set, set: {a: 1}}, {action: set, if: '{{ a > 1 }}', as: a, set: {b: 2}}]",
        {"a": 1},
    ),
    "the values of a set do not see each other": (
        "[{action: set, set: {a: 1}}, {action: set, set: {a: 2, b: '{{ a }}'}}]",
        {"a": 2, "b": 1},
    ),
    "a loop keeps what its items save": (
        "[{action: set, set: {a: '{{ n * 2 }}'}, loop: {items: [1, 2], as: n}, as: all}]",
        {"all": [{"a": 2}, {"a": 4}]},
    ),
    "a failed item of a loop has no data": (
        "[{action: set, set: {a: '{{ 1 / item }}'}, loop: {items: [1, 0], on_error: continue}, as: all}]",
        {"all": [{"a": 1.0}, None]},
    ),
    "a forgiven failure saves nothing": (
        (
            "[{action: fail, message: x, as: a, on_error: continue}, "
            "{action: set, set: {b: '{{ a is defined }}'}}]"
        ),
        {"b": False},
    ),
    "a task does not see the loop around its call": (
        "[{task: t, with: {x: '{{ item }}'}, loop: {items: [5]}, as: all}]",
        {"all": [{"seen": [5, False]}]},
    ),
    "a task drops what it saved before its failure": (
        "[{task: broken, on_error: continue}, {action: set, set: {b: '{{ half is defined }}'}}]",
        {"b": False},
    ),
}


@pytest.mark.parametrize(("run", "result"), WORK.values(), ids=list(WORK))
def test_3_work_saves(run: str, result: dict[str, Any]) -> None:
    text = f"""
        tasks:
          t: [{{action: set, set: {{seen: "{{{{ [args.x, item is defined] }}}}"}}}}]
          broken: [{{action: set, set: {{half: 1}}}}, {{action: fail, message: no}}]
        steps: [{{name: only, run: {run}}}]
        """
    assert sole(text).result == result


def test_6_failures_lists_the_failed_items_of_a_loop() -> None:
    text = """
        steps:
          - name: a
            loop: {items: [1, 0, 2, 0], on_error: continue}
            run: [{action: set, set: {x: "{{ 4 / item }}"}}]
            rule: [{case: "{{ not result.success }}", run: [b]}]
          - name: b
            run: [{action: set, set: {failed: "{{ steps.a.failures | map(attribute='index') | list }}"}}]
        """
    assert sole(text).result == {"failed": [2, 4]}
    assert sole(text).status == "succeeded"


def test_6_repeat_is_exhausted() -> None:
    repeat = "repeat: {until: '{{ x == 3 }}', max: MAX}"
    work = "run: [{action: set, set: {x: '{{ (x | default(0)) + 1 }}'}}]"
    text = f"steps: [{{name: a, {repeat}, {work}}}]"
    assert sole(text.replace("MAX", "3")).result == {"x": 3}
    assert sole(text.replace("MAX", "2")).errors == [["RepeatExhausted", "a"]]


CHILD = """
name: child
input: {n: integer}
steps:
  - name: a
    run: [{action: fail, message: no, if: "{{ n < 2 }}"}, {action: set, set: {n2: "{{ n * 2 }}"}}]
"""


def test_3_workflow_gives_the_result_of_another_playbook() -> None:
    call = "{action: workflow, playbook: child, input: {n: N}, as: r}"
    text = f"steps: [{{name: a, run: [{call}]}}]"
    assert sole(text.replace("N", "4"), child=CHILD).result == {"r": {"n2": 8}}
    assert sole(text.replace("N", "1"), child=CHILD).errors == [["WorkflowFailed", "a"]]
    assert sole(text.replace("N", "text"), child=CHILD).errors == [["ParameterError", "a"]]


def test_7_continue_ends_the_branch_only() -> None:
    text = "on_error: continue\n" + flow("s: a b, a: z, b: z, z:", "parallel", a="run: [{task: t}]")
    text += "\ntasks: {t: [{action: fail, message: no, type: T}]}"
    outcome = sole(text)
    assert (outcome.status, outcome.errors) == ("completed_with_errors", [["T", "a"]])
    assert outcome.visits == {"s": 1, "a": 1, "b": 1, "z": 1}


def test_7_abort_lets_running_steps_finish_and_starts_nothing() -> None:
    found = played(flow("s: a b, a: z, b: c, c: z, z:", "parallel", a="run: [{action: fail, message: no}]"))
    assert {outcome.status for outcome in found.outcomes} == {"failed"}
    assert sorted(set(outcome.visits) - {"s", "a"} for outcome in found.outcomes) == [
        set(),
        {"b"},
        {"b", "c"},
    ]


def test_7_finally_reads_the_status_and_its_failure_fails_the_run() -> None:
    text = """
        finally: tidy
        on_error: continue
        input: {broken: {type: boolean, default: false}}
        steps:
          - {name: a, run: [{action: fail, message: no, type: T}]}
          - name: tidy
            run:
              - {action: set, set: {end: "{{ run.status }} {{ run.error.type }}"}}
              - {action: fail, message: no, if: "{{ broken }}"}
        """
    assert sole(text).result == {"end": "completed_with_errors T"}
    assert sole(text, {"broken": True}).errors == [["Failed", "tidy"], ["T", "a"]]
    succeeding = text.replace("{action: fail, message: no, type: T}", "{action: log, message: well}")
    succeeding = succeeding.replace("{{ run.error.type }}", "{{ run.error is none }}")
    assert sole(succeeding).result == {"end": "succeeded True"}
    assert sole(succeeding, {"broken": True}).status == "failed"


def test_1_an_entry_of_output_without_a_value_is_null() -> None:
    outcome = sole("steps: [{name: a, run: [{action: log, message: x}]}]\noutput: {a: '{{ y }}', b: 1}")
    assert (outcome.status, outcome.result) == ("completed_with_errors", {"a": None, "b": 1})
    assert outcome.errors == [["UndefinedName", "output"]]
