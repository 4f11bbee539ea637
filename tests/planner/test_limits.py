"""The limits of runs and of steps: how they are written, what is reported, and what the plan has of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.draw import text as text_drawing
from noetl.planner.limits import MAX_LIMIT, Limit
from noetl.planner.plan import Header, Step
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.testing.run_harness import compile_text
from tests.planner.findings import OK, diagnose, findings
from tests.property_settings import examples

INPUT = "input: {customer: string}\n"


def with_limits(runs: str | None = None, visits: str | None = None, head: str = INPUT) -> str:
    """Return a playbook of one step with these limits."""
    of_runs = "" if runs is None else f"concurrency: {runs}\n"
    of_visits = "" if visits is None else f"  concurrency: {visits}\n"
    return f"{head}{of_runs}steps:\n- name: a\n{of_visits}  run: [{OK}]\n"


FORMS: list[tuple[str, tuple[Limit, ...]]] = [
    ("3", (Limit(units=3),)),
    ("{limit: 10000}", (Limit(units=10_000),)),
    ("{use: crm}", (Limit(use="crm"),)),
    ("[{use: crm}, {limit: 1, max_wait: 5m}]", (Limit(use="crm"), Limit(units=1, max_wait_seconds=300.0))),
    ("{limit: 1, key: '{{ input.customer }}'}", (Limit(units=1, key="{{ input.customer }}"),)),
    ("{limit: 1, max_wait: 90}", (Limit(units=1, max_wait_seconds=90.0),)),
    ("{use: crm, fair: '{{ input.customer }}'}", (Limit(use="crm", fair="{{ input.customer }}"),)),
]


@pytest.mark.parametrize(("written", "limits"), FORMS)
def test_all_forms_are_lowered(written: str, limits: tuple[Limit, ...]) -> None:
    plan = compile_text(with_limits(written, written))
    assert plan.header.concurrency == plan.steps["a"].concurrency == limits
    assert plan.header.has_limits


def test_a_step_may_leave_its_work_out() -> None:
    limits = compile_text(with_limits(visits="{limit: 2, when_full: skip}")).steps["a"].concurrency
    assert limits == (Limit(units=2, when_full="skip"),)


@pytest.mark.parametrize(("written", "limits"), FORMS)
def test_a_plan_keeps_its_limits(written: str, limits: tuple[Limit, ...]) -> None:
    plan = compile_text(with_limits(written, written))
    assert Header.from_json(json.loads(json.dumps(plan.header.to_json()))) == plan.header
    step = plan.steps["a"]
    assert Step.from_json("a", json.loads(json.dumps(step.to_json()))) == step


def test_a_plan_without_limits_has_nothing_of_them() -> None:
    plan = compile_text(with_limits())
    assert "concurrency" not in plan.header.to_json()
    assert "concurrency" not in plan.steps["a"].to_json()
    assert not plan.header.has_limits
    assert "limited_steps" not in plan.header.statistics


def test_the_finally_step_may_have_limits() -> None:
    plan = compile_text(
        f"finally: b\nsteps: [{{name: a, run: [{OK}]}}, {{name: b, concurrency: 1, run: [{OK}]}}]"
    )
    assert plan.steps["b"].concurrency == (Limit(units=1),)


WRONG: list[tuple[str, list[tuple[str, str]]]] = [
    ("0", [("NP830", "0")]),
    ("10001", [("NP830", "10001")]),
    ("{limit: 0}", [("NP830", "0")]),
    ("{limit: 10001}", [("NP830", "10001")]),
    ("{limit: 1.5}", [("NP830", "1.5")]),
    ("{limit: true}", [("NP830", "true")]),
    ("{limit: '3'}", [("NP830", "'3'")]),
    ("{limit: '{{ input.customer }}'}", [("NP830", "'{{ input.customer }}'")]),
    ("[{use: crm}, {limit: -1}]", [("NP830", "-1")]),
    ("three", [("NP012", "three")]),
    ("true", [("NP012", "true")]),
    ("[3]", [("NP012", "3")]),
    ("[]", [("NP012", "concurrency")]),
    ("[{use: a}, {use: b}, {use: c}, {use: d}, {use: e}, {use: f}]", [("NP012", "concurrency")]),
    ("{}", [("NP011", "{}")]),
    ("{limit: null}", [("NP011", "{limit: null}")]),
    ("[{use: crm}, {max_wait: 1m}]", [("NP011", "{max_wait: 1m}")]),
    ("{limit: 1, use: crm}", [("NP010", "limit")]),
    ("{use: crm, key: '{{ input.customer }}'}", [("NP010", "key")]),
    ("{limit: 0, use: crm}", [("NP010", "limit"), ("NP830", "0")]),
    ("{use: 5}", [("NP012", "5")]),
    ("{use: sales force}", [("NP012", "sales force")]),
    ("{use: '{{ input.customer }}'}", [("NP012", "'{{ input.customer }}'")]),
    ("[{use: crm}, {use: crm}]", [("NP012", "crm")]),
    ("{limit: 1, key: customer}", [("NP407", "customer")]),
    ("{limit: 1, key: 'a-b'}", [("NP407", "'a-b'")]),
    ("{limit: 1, key: 5}", [("NP012", "5")]),
    ("{use: crm, fair: customer}", [("NP407", "customer")]),
    ("{limit: 1, fair: '{{ secrets.A }}'}", [("NP406", "secrets")]),
    ("{limit: 1, fair: '{{ input.custmer }}'}", [("NP301", "custmer")]),
    ("{limit: 1, max_wait: soon}", [("NP012", "soon")]),
    ("{limit: 1, when_full: drop}", [("NP012", "drop")]),
    ("{limti: 1}", [("NP010", "limti")]),
    ("{max: 3}", [("NP011", "{max: 3}"), ("NP010", "max")]),
    ("{limit: 1, key: '{{ secrets.A }}'}", [("NP406", "secrets")]),
    ("{limit: 1, key: '{{ input.custmer }}'}", [("NP301", "custmer")]),
    ("{limit: 1, key: '{{ item }}'}", [("NP301", "item")]),
]


@pytest.mark.parametrize(("written", "expected"), WRONG)
def test_wrong_limits_are_reported_once(written: str, expected: list[tuple[str, str]]) -> None:
    assert findings(with_limits(runs=written)) == expected
    assert findings(with_limits(visits=written)) == expected


@pytest.mark.parametrize(
    "written",
    [
        "[{use: crm, when_full: skip}, {limit: 1, when_full: skip}]",
        "{limit: 1, when_full: cancel_oldest, max_wait: 1h}",
        "{use: crm, max_queued: 100000}",
    ],
)
def test_runs_may_be_skipped(written: str) -> None:
    plan = compile_text(with_limits(runs=written))
    assert Header.from_json(json.loads(json.dumps(plan.header.to_json()))) == plan.header


def test_a_run_may_wait_for_a_run_that_is_skipped() -> None:
    own_run = "name: t\nconcurrency: {{limit: 2, when_full: {}}}\nsteps: [{{name: a, run: [{{{}}}]}}]"
    action = "action: workflow, playbook: t"
    assert findings(own_run.format("skip", action)) == []
    assert findings(own_run.format("queue", action)) == [("NP833", "t")]


def test_what_is_for_runs_only_is_refused() -> None:
    steps = with_limits(visits="[{limit: 1, when_full: cancel_oldest}, {limit: 2, max_queued: 5}]")
    assert findings(steps) == [("NP831", "cancel_oldest"), ("NP010", "max_queued")]
    named = with_limits(runs="{use: crm, when_full: cancel_oldest}")
    assert findings(named) == [("NP831", "cancel_oldest")]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("max_queued: 0", ("NP830", "0")),
        ("max_queued: 100001", ("NP830", "100001")),
        ("max_queued: 5, when_full: skip", ("NP010", "max_queued")),
        ("max_queued: 5, when_full: cancel_oldest", ("NP010", "max_queued")),
    ],
)
def test_wrong_queues_of_runs(entry: str, expected: tuple[str, str]) -> None:
    assert findings(with_limits(runs=f"{{limit: 1, {entry}}}")) == [expected]


PRIORITIES: list[tuple[str, list[tuple[str, str]]]] = [
    ("-10", []),
    ("2.5", []),
    ("'{{ input.customer | length }}'", []),
    ("11", [("NP012", "11")]),
    ("-10.5", [("NP012", "-10.5")]),
    ("high", [("NP012", "high")]),
    ("true", [("NP012", "true")]),
    ("'{{ secrets.A }}'", [("NP406", "secrets")]),
    ("'{{ input.custmer }}'", [("NP301", "custmer")]),
    ("'{{ item }}'", [("NP301", "item")]),
]


@pytest.mark.parametrize(("written", "expected"), PRIORITIES)
def test_priorities(written: str, expected: list[tuple[str, str]]) -> None:
    of_playbook = f"priority: {written}\n{with_limits(runs='1')}"
    of_step = with_limits(visits=f"1\n  priority: {written}")
    assert findings(of_playbook) == findings(of_step) == expected
    if not expected:
        plans = compile_text(of_playbook), compile_text(of_step)
        for plan in plans:
            assert Header.from_json(json.loads(json.dumps(plan.header.to_json()))) == plan.header
            step = plan.steps["a"]
            assert Step.from_json("a", json.loads(json.dumps(step.to_json()))) == step
        assert plans[0].header.priority == plans[1].steps["a"].priority is not None


def test_a_priority_of_runs_reads_no_step() -> None:
    text = "priority: '{{ x }}'\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]\n"
    assert findings(text) == [("NP301", "x")]


def test_nothing_waits_for_a_limit_that_leaves_work_out() -> None:
    text = with_limits(visits="{limit: 1, when_full: skip, max_wait: 1m}")
    assert findings(text) == [("NP010", "max_wait")]


@pytest.mark.parametrize(
    ("limit", "hint"),
    [
        ("{limti: 1}", "did you mean `limit`?"),
        ("{use: crm, max: 3}", "write `limit`"),
        ("{limit: 1, by: '{{ input.customer }}'}", 'write `key`, such as `key: "{{ input.customer }}"`'),
        ("{limit: '3'}", "remove the quotes"),
        ("{limit: 1, key: customer}", 'write `key: "{{ customer }}"`'),
        ("{limit: 1, key: a b}", "read a name in `{{ }}`"),
        ("few", "write a number, or a mapping such as `{key: TEMPLATE, limit: 3}`"),
    ],
)
def test_a_wrong_limit_has_a_hint(limit: str, hint: str) -> None:
    assert diagnose(with_limits(runs=limit))[0].hint == hint


@pytest.mark.parametrize("key", ["mutex", "pool", "semaphore"])
def test_words_of_other_systems_lead_to_the_key(key: str) -> None:
    text = f"{key}: 1\nsteps:\n- {{name: a, {key}: 1, run: [{OK}]}}\n"
    assert [found.hint for found in diagnose(text)] == ["write `concurrency`, such as `concurrency: 3`"] * 2


class TestNames:
    """The names that the keys of limits may read."""

    @pytest.mark.parametrize(
        "key", ["{{ input.customer }}", "{{ customer }}", "{{ environment.zone }}-{{ run.playbook }}"]
    )
    def test_a_key_of_runs_reads_what_is_known_at_the_start(self, key: str) -> None:
        text = f"environment: {{zone: eu}}\n{with_limits(runs=f'{{limit: 1, key: {json.dumps(key)}}}')}"
        assert findings(text) == []

    @pytest.mark.parametrize(
        ("key", "word"),
        [
            ("{{ total }}", "total"),
            ("{{ count }}", "count"),
            ("{{ steps.a.visits }}", "steps"),
            ("{{ step.name }}", "step"),
            ("{{ result.data }}", "result"),
            ("{{ nothing }}", "nothing"),
        ],
    )
    def test_a_key_of_runs_reads_nothing_of_the_run(self, key: str, word: str) -> None:
        text = f"""
            {INPUT.strip()}
            variables: {{total: 0}}
            concurrency: {{limit: 1, key: "{key}"}}
            steps: [{{name: a, run: [{{action: set, set: {{count: 1}}}}]}}]
            """
        assert findings(text, "NP301") == [("NP301", word)]

    def test_a_key_of_runs_may_be_the_first_read_of_an_input(self) -> None:
        plan = compile_text(with_limits(runs="{limit: 1, key: '{{ input.team }}'}", head=""))
        assert plan.header.inputs["team"].required

    def test_a_key_of_a_step_is_a_read_of_the_step(self) -> None:
        plan = compile_text(
            f"""
            steps:
            - {{name: a, run: [{{action: set, set: {{team: x}}}}], rule: [{{case: default, run: [b]}}]}}
            - {{name: b, run: [{OK}], rule: [{{case: default, run: [c]}}]}}
            - name: c
              concurrency: {{limit: 1, key: "{{{{ team }}}}-{{{{ steps.b.visits }}}}"}}
              run: [{OK}]
            """
        )
        assert plan.steps["c"].reads == ("steps.b", "team")
        assert "team" in plan.steps["b"].live_names

    def test_a_key_of_a_step_reads_what_a_path_may_lack(self) -> None:
        text = f"""
            input: {{big: boolean}}
            steps:
            - name: a
              rule: [{{case: "{{{{ big }}}}", run: [b]}}, {{case: default, run: [c]}}]
            - {{name: b, run: [{{action: set, set: {{team: x}}}}], rule: [{{case: default, run: [c]}}]}}
            - {{name: c, concurrency: {{limit: 1, key: "{{{{ team }}}}"}}, run: [{OK}]}}
            """
        assert findings(text) == [("NP302", "team")]

    def test_a_key_of_a_step_knows_neither_its_work_nor_its_items(self) -> None:
        text = """
            input: {}
            steps:
            - name: a
              loop: {items: [1], as: part}
              concurrency: [{limit: 1, key: "{{ part }}"}, {limit: 1, key: "{{ loop.index }}"}]
              run: [{action: set, set: {team: x}}]
            """
        assert findings(text, "NP301") == [
            ("NP301", "part"),
            ("NP301", "loop"),
        ]

    def test_a_key_of_a_step_is_read_before_its_work(self) -> None:
        text = """
            input: {}
            steps:
            - name: a
              concurrency: {limit: 1, key: "{{ team }}"}
              run: [{action: set, set: {team: x}}]
            """
        assert findings(text) == [("NP301", "team")]


class TestWorkThatIsLeftOut:
    """A limit with `when_full: skip`: the step succeeds, and its work may be missing."""

    TEXT = """
        steps:
        - name: a
          concurrency: {limit: 1, when_full: WHEN}
          run: [{action: set, set: {x: 1}}]
          rule: [{case: "{{ result.success }}", run: [b]}]
        - name: b
          run: [{action: log, message: "{{ x }}"}]
        """

    def test_names_of_its_work_may_be_undefined(self) -> None:
        assert findings(self.TEXT.replace("WHEN", "skip"), "NP302") == [("NP302", "x")]
        assert findings(self.TEXT.replace("WHEN", "queue"), "NP301", "NP302") == []

    def test_a_step_that_always_fails_may_succeed(self) -> None:
        text = """
            steps:
            - name: a
              concurrency: {limit: 1, when_full: skip}
              run: [{action: fail, message: no}]
              rule: [{case: "{{ result.success }}", run: [b]}]
            - {name: b, run: [{action: log, message: "{{ x }}"}, {action: set, set: {x: 1}}]}
            """
        assert findings(text, "NP301") == [("NP301", "x")]

    def test_a_visit_may_fail_at_a_limit(self) -> None:
        text = """
            on_error: continue
            steps: [{name: a, concurrency: LIMIT, run: [{action: set, set: {x: 1}}]}]
            output: {y: "{{ x }}"}
            """
        assert findings(text.replace("LIMIT", "{limit: 1}"), "NP302") == []
        limits = ("{limit: 1, max_wait: 1s}", "{use: crm}", "{limit: 1, key: '{{ run.id }}'}")
        orders = ("{limit: 1, fair: '{{ run.id }}'}", "1, priority: '{{ run.id }}'")
        for limit in (*limits, *orders):
            assert findings(text.replace("LIMIT", limit), "NP302") == [("NP302", "x")]


def test_a_playbook_with_a_limit_does_not_wait_for_itself() -> None:
    def call_itself(limits: str, call: str) -> list[tuple[str, str]]:
        return findings(
            f"name: play\n{INPUT}concurrency: {limits}\nsteps: [{{name: a, run: [{{{call}}}]}}]\n"
        )

    call = "action: workflow, playbook: play, input: {customer: x}, if: '{{ customer }}'"
    assert call_itself("3", call) == call_itself("{use: crm}", call) == [("NP833", "play")]
    assert call_itself("3", call.replace("play,", "other,")) == []
    assert call_itself("3", call.replace("play,", "'{{ customer }}',")) == []
    assert call_itself("3", f"{call}, detach: true") == []
    assert call_itself("{limit: 1, key: '{{ customer }}'}", call) == []


def test_a_task_waits_like_a_step() -> None:
    text = """
        concurrency: 1
        tasks: {again: [{action: workflow, playbook: play}]}
        steps: [{name: a, run: [again]}]
        """
    assert findings(text) == [("NP833", "play")]


def test_drawings_have_the_limits() -> None:
    runs = "[{use: imports}, {limit: 3, key: '{{ input.customer }}'}]"
    visits = "[{limit: 2, key: '{{ customer }}-{{ run.id }}'}, {use: crm, when_full: skip}]"
    drawn = text_drawing.draw(compile_text(with_limits(runs, visits)), catalogue()).splitlines()
    assert drawn[0] == (
        "play: 1 step, at most 1 visit, runs: limit imports, runs: limit 3 for each input.customer"
    )
    assert drawn[1].strip() == (
        "1  a  log  (start, limit 2 for each {{ customer }}-{{ run.id }}, limit crm, skipped if full)  ■"
    )


def test_the_schema_has_limits() -> None:
    validator = Draft202012Validator(build_json_schema(catalogue()))

    def is_valid(limits: Any) -> bool:
        steps = [{"name": "a", "concurrency": limits, "run": [{"action": "log", "message": "x"}]}]
        return validator.is_valid({"name": "play", "concurrency": limits, "steps": steps})

    valid: list[Any] = [
        3,
        {"limit": 1, "key": "{{ input.a }}"},
        [{"use": "crm"}, {"limit": 1, "max_wait": "5m"}],
    ]
    assert all(map(is_valid, valid))
    wrong: list[Any] = [
        0,
        10_001,
        1.5,
        "3",
        [3],
        [],
        {"limit": 0},
        {"limits": 1},
        {"limit": 1, "when_full": 1},
    ]
    assert not any(map(is_valid, wrong))


waits = st.fixed_dictionaries({"when_full": st.just("queue"), "max_wait": st.integers(0, 10**9)})
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
entries = st.one_of(
    st.builds(lambda limit, more: {"limit": limit, **more}, st.integers(1, MAX_LIMIT), waits),
    st.builds(lambda name, more: {"use": name, **more}, names, waits),
)


@given(
    st.lists(
        entries, min_size=1, max_size=5, unique_by=lambda entry: str(entry.get("use", entry["max_wait"]))
    )
)
@examples(0.5)
def test_all_legal_limits_are_compiled(written: list[dict[str, Any]]) -> None:
    step = {"name": "a", "concurrency": written, "run": [{"action": "log", "message": "x"}]}
    playbook = {"name": "play", "concurrency": written, "steps": [step]}
    plan = compile_playbook(json.dumps(playbook), catalogue()).plan
    assert plan is not None
    expected = [(entry.get("use"), entry.get("limit"), entry["max_wait"]) for entry in written]
    for found in (plan.header.concurrency, plan.steps["a"].concurrency):
        assert [(limit.use, limit.units, limit.max_wait_seconds) for limit in found] == expected


@pytest.mark.parametrize(
    ("limit", "hint"),
    [
        ("{limit: 1, when_full: wait}", "write `queue`"),
        ("{limit: 1, when_full: drop}", "write `skip`"),
        ("{limit: 1, when_full: skipp}", "did you mean `skip`?"),
        ("{limit: 1, when_full: 7}", None),
        (
            "{limit: 1, when_full: error}",
            "write `max_wait: 0s`: then a step fails at once, and a run is skipped",
        ),
        ("{limit: 1, per: 1m}", "write `rate: {limit: 100, per: 1m}` for how many begin in a time"),
    ],
)
def test_words_of_other_limits_lead_to_the_choice(limit: str, hint: str | None) -> None:
    (found,) = diagnose(with_limits(visits=limit))
    assert found.hint == hint


def test_a_wrong_overlap_leads_to_limits() -> None:
    trigger = "triggers: [{name: t, type: schedule, every: 1h, overlap: queue}]\n"
    (found,) = diagnose(with_limits(head=trigger))
    assert found.hint is not None
    assert found.hint.startswith("write `concurrency` on the playbook")
