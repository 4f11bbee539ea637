from __future__ import annotations

from dataclasses import replace
from textwrap import dedent

import pytest

from noetl.planner.dataflow import liveness
from noetl.planner.plan import NO_RETRY, Action, Case, Header, Input, Join, Plan, Retry, Step, TaskCall
from noetl.testing.run_harness import compile_text

OK = "{action: log, message: ok}"


def test_actions_are_lowered() -> None:
    plan = compile_text("""
        steps:
        - name: a
          run:
          - {action: log, message: "{{ 1 }}", level: info}
          - action: shell
            command: "true"
            as: out
            if: "{{ true }}"
            timeout: 2m
            on_error: continue
            retry:
              {attempts: 4, delay: 500ms, backoff: 3, max_delay: 1h, jitter: false, if: "{{ error.status }}"}
          - {action: log, message: ok, if: true, retry: 2}
          - {action: log, message: ok, if: false}
    """)
    first, second, third, fourth = plan.steps["a"].run
    assert first == Action("log", {"message": "{{ 1 }}", "level": "info"}, line=6)
    assert second == Action(
        "shell",
        {"command": "true"},
        "out",
        "{{ true }}",
        Retry(4, 0.5, 3.0, 3600.0, False, "{{ error.status }}"),
        120.0,
        True,
        line=7,
    )
    assert isinstance(third, Action)
    assert (third.condition, third.retry) == (None, Retry(attempts=2))
    assert isinstance(fourth, Action)
    assert fourth.condition == "{{ false }}"


def test_tasks_are_lowered() -> None:
    plan = compile_text(f"""
        tasks:
          one: [{OK}]
          two:
            parallel: true
            run:
            - one
            - {{task: one, with: {{x: "{{{{ 1 }}}}"}}, as: y, if: "{{{{ 2 }}}}", on_error: continue}}
        steps: [{{name: a, run: [two]}}]
    """)
    assert plan.steps["a"].run == (TaskCall("two", {}),)
    assert plan.tasks["two"].parallel
    assert plan.tasks["two"].run == (
        TaskCall("one", {}),
        TaskCall("one", {"x": "{{ 1 }}"}, "y", "{{ 2 }}", True, line=9),
    )


def test_cases_are_lowered() -> None:
    plan = compile_text(f"""
        steps:
        - name: a
          max_visits: 3
          rule:
          - {{case: error, run: [b]}}
          - {{case: "{{{{ result.success }}}}", run: [a, c]}}
          - {{case: "{{{{ run.id }}}}", run: [{OK}]}}
          - {{case: default, run: []}}
        - {{name: b, run: [{OK}]}}
        - {{name: c, max_visits: 1, run: [{OK}], rule: [{{case: "{{{{ run.id }}}}", run: [a]}}]}}
    """)
    assert plan.steps["a"].cases == (
        Case(
            "{{ error }}", True, ("b",), counter_changes={"a": -1} if "a" in plan.steps["a"].regions else {}
        ),
        Case("{{ result.success }}", True, ("a", "c"), counter_changes={"a": 1}, leads_back=True),
        Case("{{ run.id }}", False, (), (Action("log", {"message": "ok"}, line=9),)),
        Case(None),
    )


def test_steps_inherit_from_the_playbook() -> None:
    plan = compile_text(f"""
        retry: {{attempts: 3, delay: 0}}
        on_error: continue
        steps:
        - {{name: a, run: [{OK}], rule: [{{case: default, run: [b]}}]}}
        - {{name: b, run: [{OK}], retry: 1, on_error: abort, timeout: 90}}
    """)
    first, second = plan.steps["a"], plan.steps["b"]
    assert (first.retry, first.on_error, first.timeout_seconds) == (Retry(3, 0.0), "continue", None)
    assert (second.retry, second.on_error, second.timeout_seconds) == (NO_RETRY, "abort", 90.0)


def test_joins_are_lowered() -> None:
    plan = compile_text(f"""
        steps:
        - {{name: a, rule: [{{case: default, run: [b, c]}}]}}
        - {{name: b, rule: [{{case: default, run: [d]}}]}}
        - {{name: c, rule: [{{case: "{{{{ run.id }}}}", run: [d]}}]}}
        - {{name: d, run: [{OK}]}}
    """)
    assert {name: step.join for name, step in plan.steps.items()} == {
        "a": None,
        "b": None,
        "c": None,
        "d": Join("a"),
    }
    assert {name: step.regions for name, step in plan.steps.items()} == {
        "a": (),
        "b": ("d",),
        "c": ("d",),
        "d": (),
    }
    assert plan.steps["a"].cases[0].counter_changes == {"d": 2}
    assert plan.steps["b"].cases[0].counter_changes == {"d": -1}


DISCRIMINATOR = """
    steps:
    - {name: o, run: [{action: log, message: x}], rule: [{case: default, run: [a]}]}
    - {name: a, max_visits: 3, rule: [{case: default, run: [b, c]}]}
    - {name: b, rule: [{case: default, run: [d]}]}
    - {name: c, rule: [{case: default, run: [e]}]}
    - {name: e, rule: [{case: default, run: [d]}]}
    - {name: d, join: any, rule: [{case: "{{ run.id }}", run: [AGAIN]}, {case: default, run: [z]}]}
    - {name: y, run: [{action: log, message: x}]}
    - {name: z, run: [{action: log, message: x}]}
"""


def test_a_discriminator_has_no_live_counters() -> None:
    """Branches carry the visit of the dominator if there may be several waves."""
    plan = compile_text(DISCRIMINATOR.replace("AGAIN", "a"))
    assert {name: step.join for name, step in plan.steps.items() if step.join} == {"d": Join("a", "any")}
    assert not any(
        step.regions or case.counter_changes for step in plan.steps.values() for case in step.cases
    )
    assert all("steps.a" in plan.steps[name].live_names for name in "bced")
    assert not plan.steps["z"].live_names and not plan.steps["o"].live_names
    assert not plan.steps["d"].reads
    acyclic_plan = compile_text(DISCRIMINATOR.replace("AGAIN", "y"))
    assert acyclic_plan.steps["d"].join == Join("a", "any")
    assert not any(step.live_names for step in acyclic_plan.steps.values())


def test_a_multi_merge_counts_its_visits() -> None:
    plan = compile_text(f"""
        steps:
        - {{name: a, rule: [{{case: default, run: [b, c]}}]}}
        - {{name: b, rule: [{{case: default, run: [d]}}]}}
        - {{name: c, rule: [{{case: default, run: [d]}}]}}
        - {{name: d, join: each, rule: [{{case: default, run: [e]}}]}}
        - {{name: e, join: each, rule: [{{case: default, run: [f]}}]}}
        - {{name: f, rule: [{{case: default, run: [g]}}]}}
        - {{name: g, join: each, run: [{OK}]}}
    """)
    assert {name: (step.runs_per_branch, step.cyclic, step.join) for name, step in plan.steps.items()} == {
        **dict.fromkeys("abcg", (False, False, None)),
        **dict.fromkeys("de", (True, True, None)),
        "f": (False, False, Join("a")),
    }
    assert plan.steps["a"].cases[0].counter_changes == {"f": 2}
    assert plan.steps["e"].cases[0].counter_changes == {"f": -1}


@pytest.mark.parametrize(
    "text",
    [DISCRIMINATOR.replace("AGAIN", "y"), "mode: sequential\n" + dedent(DISCRIMINATOR).replace("AGAIN", "y")],
)
def test_join_modes_survive_json(text: str) -> None:
    plan = compile_text(text)
    step = replace(plan.steps["d"], runs_per_branch=True)
    assert Header.from_json(plan.header.to_json()) == plan.header
    assert Step.from_json("d", step.to_json()) == step


def test_all_names_are_live_in_sequential_mode() -> None:
    text = """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: set, set: {x: 1, y: 2, unread: 3}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [{action: log, message: "{{ x | default(0) }} {{ steps.b.status }}"}]}
        - {name: d, run: [{action: log, message: "{{ y }}"}]}
    """
    parallel_plan = compile_text(text)
    assert not parallel_plan.header.sequential
    assert live_names_of(parallel_plan) == {"a": set(), "b": set(), "c": set(), "d": {"y"}}
    sequential_plan = compile_text("mode: sequential\n" + dedent(text))
    assert sequential_plan.header.sequential
    assert live_names_of(sequential_plan) == {name: {"steps.b", "x", "y"} for name in "abcd"}


def test_a_plan_of_an_unknown_format_is_refused() -> None:
    header = compile_text("name: p\nsteps: [{name: a, run: [{action: log, message: m}]}]").header
    assert Header.from_json(header.to_json()) == header
    with pytest.raises(ValueError, match="unknown plan format 99"):
        Header.from_json(header.to_json() | {"format": 99})


def test_live_names_are_bounded_in_sequential_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
        name: play
        mode: sequential
        steps:
        - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: log, message: "{{ x }}"}]}
        - {name: c, run: [{action: log, message: c}]}
    """
    monkeypatch.setattr(liveness, "MAX_LIVE_NAMES", 3)
    assert live_names_of(compile_text(text)) == {"a": {"x"}, "b": {"x"}, "c": {"x"}}
    monkeypatch.setattr(liveness, "MAX_LIVE_NAMES", 2)
    with pytest.raises(AssertionError, match="NP701"):
        compile_text(f"{text}\n")  # A text that was compiled before is not compiled again.


def test_a_plan_without_forks_is_not_sequential() -> None:
    text = f"""
        mode: sequential
        steps:
        - {{name: a, rule: [{{case: "{{{{ run.id }}}}", run: [b]}}, {{case: default, run: [c]}}]}}
        - {{name: b, run: [{OK}]}}
        - {{name: c, run: [{OK}]}}
    """
    assert not compile_text(text).header.sequential
    assert compile_text(text.replace("run: [b]", "run: [b, c]")).header.sequential


def test_a_plan_of_format_1_is_sequential_only_if_it_forks() -> None:
    header = compile_text(f"steps: [{{name: a, run: [{OK}]}}]").header.to_json()
    earlier = header | {"format": 1, "sequential": True}
    assert not Header.from_json(earlier).is_superseded
    forking = Header.from_json(earlier | {"statistics": {**header["statistics"], "forks": 1}})
    assert (forking.is_superseded, replace(forking, format=2).is_superseded) == (True, False)
    assert forking.to_json()["format"] == 1


def test_a_chain_has_no_live_counters() -> None:
    plan = compile_text(f"""
        steps:
        - {{name: a, run: [{OK}], rule: [{{case: default, run: [b]}}]}}
        - {{name: b, run: [{OK}]}}
    """)
    assert all(not step.regions and step.join is None and not step.cyclic for step in plan.steps.values())
    assert plan.steps["a"].cases[0].counter_changes == {}


def reads_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {name: step.reads for name, step in plan.steps.items()}


def live_names_of(plan: Plan) -> dict[str, set[str]]:
    return {name: set(step.live_names) for name, step in plan.steps.items()}


def test_reads_and_live_names_of_steps() -> None:
    plan = compile_text("""
        variables: {v: 1, w: 2}
        tasks: {t: [{action: log, message: "{{ y }} {{ args.z }} {{ step.name }}"}]}
        steps:
        - {name: a, run: [{action: set, set: {x: 1, y: 2, z: 3, w: 4}}], rule: [{case: default, run: [b]}]}
        - name: b
          run: [{action: log, message: "{{ v }} {{ w }}", as: unread}]
          rule: [{case: "{{ x }}", run: [c]}]
        - name: c
          run: [{task: t, with: {z: "{{ z }}"}}]
          rule: [{case: default, run: [{action: log, message: "{{ steps.b.visits }}"}]}]
    """)
    assert reads_of(plan) == {"a": (), "b": ("w", "x"), "c": ("steps.b", "y", "z")}
    assert plan.steps["a"].saves == ("w", "x", "y", "z")
    assert live_names_of(plan) == {"a": set(), "b": {"w", "x", "y", "z"}, "c": {"steps.b", "y", "z"}}


def test_names_of_a_cycle_stay_live_on_it() -> None:
    plan = compile_text("""
        variables: {n: 0}
        steps:
        - name: a
          max_visits: 3
          run: [{action: set, set: {n: "{{ n + 1 }}"}}]
          rule: [{case: default, run: [b]}]
        - {name: b, rule: [{case: "{{ n < 2 }}", run: [a]}, {case: default, run: [c]}]}
        - {name: c, run: [{action: log, message: "{{ steps.a.visits }}"}]}
    """)
    assert live_names_of(plan) == {"a": {"n", "steps.a"}, "b": {"n", "steps.a"}, "c": {"steps.a"}}


def test_names_saved_by_tasks_count_for_steps_that_call_them() -> None:
    plan = compile_text("""
        tasks:
          inner: [{action: set, set: {x: 1}}]
          outer: [inner, {action: set, set: {y: "{{ x }}"}, as: z}]
        steps:
        - {name: a, run: [outer], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: log, message: "{{ y }} {{ z }}"}]}
    """)
    assert plan.steps["a"].saves == ("x", "y", "z")
    assert plan.steps["a"].reads == ("x",)
    assert live_names_of(plan)["b"] == {"y", "z"}


def test_local_names_of_templates_are_not_read() -> None:
    plan = compile_text("""
        steps:
        - {name: a, run: [{action: set, set: {i: 1, list: [1]}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: log, message: "{% for i in list %}{{ i }}{% endfor %}"}]}
    """)
    assert plan.steps["b"].reads == ("list",)


def test_unreachable_steps_are_left_out() -> None:
    plan = compile_text(f"steps: [{{name: a, run: [{OK}]}}, {{name: b, run: [{OK}]}}]")
    assert list(plan.steps) == ["a"]


def test_declared_inputs_are_lowered() -> None:
    plan = compile_text(f"""
        name: play
        input:
          a: integer
          b: {{type: string, default: x, enum: [x, z], description: What.}}
        steps: [{{name: s, run: [{OK}]}}]
    """)
    assert plan.header.inputs == {
        "a": Input("integer", line=4),
        "b": Input("string", False, "x", ("x", "z"), "What.", line=5),
    }
    assert not plan.header.accepts_other_inputs


def test_inferred_inputs_are_lowered() -> None:
    plan = compile_text("""
        name: play
        steps:
        - name: s
          run:
          - {action: log, message: "{{ a }} {{ input.b }}"}
          - {action: log, message: "{{ c | default(1) }}"}
    """)
    assert plan.header.inputs == {
        "a": Input(inferred=True, line=6),
        "b": Input(inferred=True, line=6),
        "c": Input(required=False, inferred=True, line=7),
    }
    assert not plan.header.accepts_other_inputs
    assert compile_text(
        "steps: [{name: s, run: [{action: log, message: '{{ input }}'}]}]"
    ).header.accepts_other_inputs


def test_statistics_of_a_plan() -> None:
    plan = compile_text(f"""
        tasks: {{t: [{OK}, {{action: set, set: {{x: 1}}}}]}}
        steps:
        - {{name: a, rule: [{{case: default, run: [b, c]}}]}}
        - {{name: b, run: [t], rule: [{{case: default, run: [d]}}]}}
        - name: c
          max_visits: 2
          run: [{OK}]
          rule: [{{case: "{{{{ run.id }}}}", run: [c]}}, {{case: default, run: [d]}}]
        - {{name: d, rule: [{{case: default, run: [{OK}]}}]}}
    """)
    expected = {
        "steps": 4,
        "tasks": 1,
        "edges": 5,
        "forks": 1,
        "joins": 1,
        "cycles": 1,
        "most_visits": 6,
        "actions": {"log": 3, "set": 1},
    }
    assert {key: plan.header.statistics[key] for key in expected} == expected
