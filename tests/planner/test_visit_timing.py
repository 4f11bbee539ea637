from __future__ import annotations

from collections.abc import Callable

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.checks import data_flow, visit_timing
from noetl.planner.compile import compile_playbook
from noetl.planner.graph import concurrency
from tests.planner.findings import diagnose, findings, hints, messages, playbook
from tests.planner.order_explorer import observe_orders
from tests.planner.random_merges import random_merges
from tests.planner.test_races import FORK, step

LEFT, RIGHT = step("b", "d"), step("c", "d")
BRANCHES = (FORK, LEFT, RIGHT)


def log(text: str) -> str:
    return f'{{action: log, message: "{text}"}}'


def merge(*entries: str, targets: str = "", more: str = "") -> str:
    """Return the step `d`, which each branch visits."""
    rule = f", rule: [{{case: default, run: [{targets}]}}]" if targets else ""
    return f"{{name: d, join: each{more}, run: [{', '.join(entries) or log('x')}]{rule}}}"


def timed(*steps: str, head: str = "") -> list[str]:
    """Return the source text of the findings of NP307."""
    return [text for _, text in findings(playbook(*steps, head=head), "NP307")]


def reader(text: str, *targets: str, name: str = "e", more: str = "") -> str:
    return step(name, *targets, more=more).replace("message: m", f'message: "{text}"')


class TestVisitNumbers:
    def test_number_of_a_visit(self) -> None:
        text = playbook(*BRANCHES, merge(log("{{ step.visit }}")))
        assert findings(text, "NP307") == [("NP307", "step.visit")]
        assert messages(text, "NP307") == [
            "`step.visit` depends on timing: several visits of `d` may run in parallel"
        ]
        assert hints(text, "NP307") == [visit_timing.USE_IDEMPOTENCY_KEY]
        (finding,) = (d for d in diagnose(text) if d.code == "NP307")
        assert [(label.span.line, label.text) for label in finding.labels] == [
            (5, "this step runs for each branch")
        ]

    @pytest.mark.parametrize(
        "entry",
        [
            pytest.param(log("{{ step }}"), id="the whole step"),
            pytest.param(log("{{ step['visit'] }}"), id="by subscript"),
            pytest.param("{action: log, message: m, if: '{{ step.visit }}'}", id="a condition"),
            pytest.param("{action: log, message: m, loop: {items: '{{ [step.visit] }}'}}", id="a loop"),
            pytest.param("{action: http, url: 'https://x.test/{{ step.visit }}'}", id="a parameter"),
            pytest.param("t", id="a task"),
            pytest.param("{task: u}", id="a task of a task"),
        ],
    )
    def test_number_is_read_anywhere_in_the_step(self, entry: str) -> None:
        tasks = f"tasks: {{t: [{log('{{ step.visit }}')}], u: [t]}}\n"
        other = step("a2", "a").replace("{action: log, message: m}", "t, u")
        assert timed(other, *BRANCHES, merge(entry), head=tasks)
        assert not timed(other, *BRANCHES, merge(log("x")), head=tasks)

    def test_number_in_a_rule_and_in_a_retry(self) -> None:
        rule = "rule: [{case: '{{ step.visit > 1 }}', run: []}]"
        retry = "{attempts: 2, if: '{{ step.visit > 1 }}'}"
        assert timed(*BRANCHES, f"{{name: d, join: each, {rule}}}") == ["step.visit"]
        assert timed(*BRANCHES, merge(more=f", retry: {retry}")) == ["step.visit"]
        assert timed(*BRANCHES, merge(), head=f"retry: {retry}\n") == ["step.visit"]
        assert timed(*BRANCHES, merge(more=", retry: 2"), head=f"retry: {retry}\n") == []

    def test_number_of_another_step(self) -> None:
        text = playbook(*BRANCHES, merge(targets="e"), reader("{{ steps.d.visits }} {{ steps['d'] }}"))
        assert findings(text, "NP307") == [("NP307", "steps.d.visits"), ("NP307", "steps['d']")]
        assert set(hints(text, "NP307")) == {visit_timing.COUNT_BEFORE_FORK}

    def test_number_in_the_output(self) -> None:
        assert timed(*BRANCHES, merge(), head="output: {n: '{{ steps.d.visits }}'}\n") == ["steps.d.visits"]

    @pytest.mark.parametrize(
        "text", ["{{ step.name }} {{ step.attempt }} {{ step.idempotency_key }}", "{{ 1 }}"]
    )
    def test_other_attributes_do_not_depend_on_timing(self, text: str) -> None:
        assert timed(*BRANCHES, merge(log(text))) == []

    def test_templates_that_are_never_evaluated(self) -> None:
        head = f"tasks: {{t: [{log('{{ steps.d.visits }}')}]}}\n"
        assert timed(*BRANCHES, merge(), head=head) == []
        assert timed(*BRANCHES, merge(), reader("{{ steps.d.visits }}", name="unreachable")) == []


class TestOrderedVisits:
    @pytest.mark.parametrize(
        "steps",
        [
            pytest.param((*BRANCHES, reader("{{ step.visit }}", name="d")), id="a join has one visit"),
            pytest.param((step("a", "d"), merge(log("{{ step.visit }}"))), id="one branch"),
            pytest.param(
                (reader("{{ step.visit }}", "a", name="a", more=", max_visits: 3"),),
                id="rounds of a cycle",
            ),
            pytest.param(
                (*BRANCHES, reader("{{ step.visit }} {{ steps.d.status }}", name="d", more=", join: any")),
                id="the first of a discriminator",
            ),
        ],
    )
    def test_no_finding(self, steps: tuple[str, ...]) -> None:
        assert timed(*steps) == []

    def test_sequential_mode_has_an_order(self) -> None:
        steps = (*BRANCHES, merge(log("{{ step.visit }}"), more=", max_visits: 1"))
        assert timed(*steps, head="mode: sequential\n") == []
        assert len(timed(*steps)) == 2

    def test_nothing_is_reported_past_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(concurrency, "MAX_MOVES", 1)
        assert timed(*BRANCHES, merge(log("{{ step.visit }}"))) == []


class TestFieldsOfSteps:
    @pytest.mark.parametrize("field", ["status", "result", "error", "failures"])
    def test_fields_behind_the_join(self, field: str) -> None:
        read = f"{{{{ steps.d.{field} }}}}"
        text = playbook(*BRANCHES, merge(targets="e"), reader(read, "f"), reader(read, name="f"))
        assert findings(text, "NP307") == [("NP307", f"steps.d.{field}")] * 2
        assert set(hints(text, "NP307")) == {visit_timing.READ_IN_BRANCH}

    def test_fields_before_the_join_are_those_of_the_branch(self) -> None:
        reader_between = reader("{{ steps.d.status }}", "f", more=", join: each")
        assert timed(*BRANCHES, merge(targets="e"), reader_between, step("f")) == []

    def test_fields_in_tasks_behind_the_join(self) -> None:
        head = f"tasks: {{t: [{log('{{ steps.d.status }}')}]}}\n"
        call = "{name: e, run: [t]%s, rule: [{case: default, run: [f]}]}"
        assert timed(*BRANCHES, merge(targets="e"), call % "", step("f"), head=head) == ["steps.d.status"]
        assert timed(*BRANCHES, merge(targets="e"), call % ", join: each", step("f"), head=head) == []

    def test_fields_behind_a_discriminator_are_those_of_the_first(self) -> None:
        any_ = reader("{{ steps.d.status }}", more=", join: any")
        assert timed(*BRANCHES, merge(targets="e"), any_) == []

    def test_later_visit_replaces_those_that_came_together(self) -> None:
        """Step `f` reads the visit of `d` in the second round, and `d` reads those of the first."""
        again = step("e", "d", more=", max_visits: 2")
        for name, expected in (("f", []), ("d", ["steps.d.status"])):
            steps = {"d": merge(targets="f"), "f": step("f", "e", more=", join: each")}
            steps[name] = steps[name].replace("message: m", "message: '{{ steps.d.status }}'")
            steps[name] = steps[name].replace('message: "x"', "message: '{{ steps.d.status }}'")
            assert timed(*BRANCHES, *steps.values(), again) == expected

    @pytest.mark.parametrize("scope", ["output: {n: '{{ steps.d.status }}'}\n", "finally: tidy\n"])
    def test_fields_at_the_end_of_the_run(self, scope: str) -> None:
        steps = (*BRANCHES, merge(), reader("{{ steps.d.status }}", name="tidy"))
        assert timed(*steps[: 4 if "output" in scope else 5], head=scope) == ["steps.d.status"]

    def test_visits_of_late_branches(self) -> None:
        text = playbook(
            "{name: a, max_visits: 2, rule: [{case: error, run: []}, {case: default, run: [b, c]}]}",
            step("b", "d"),
            reader("{{ step.visit }}", "d", name="c"),
            step("d", "a", more=", join: any"),
        )
        (finding,) = (d for d in diagnose(text) if d.code == "NP307")
        assert [(label.span.line, label.text) for label in finding.labels] == [
            (5, "a branch that is late for this join still runs until it arrives")
        ]


class TestRefusedBranches:
    @pytest.mark.parametrize(("bound", "hint"), [(1, "remove it, or increase it to 2"), (2, None), (3, None)])
    def test_bound_below_the_number_of_branches(self, bound: int, hint: str | None) -> None:
        text = playbook(*BRANCHES, merge(more=f", max_visits: {bound}"))
        assert hints(text, "NP307") == ([] if hint is None else [hint])
        assert findings(text, "NP307") == ([] if hint is None else [("NP307", str(bound))])

    def test_step_with_one_visit_orders_what_follows(self) -> None:
        """The step behind it has one visit. Which branch passes depends on timing."""
        gate = merge(targets="e", more=", max_visits: 1")
        follower = reader("{{ step.visit }}", more=", join: each")
        assert timed(*BRANCHES, gate, follower) == ["1"]
        assert timed(*BRANCHES, gate.replace("max_visits: 1", "max_visits: 2"), follower) == ["step.visit"]

    def test_branches_that_share_a_cycle(self) -> None:
        cycle = merge(targets="d", more=", max_visits: 9")
        assert hints(playbook(*BRANCHES, cycle), "NP307") == [visit_timing.BOUND_THE_CYCLE]

    @pytest.mark.parametrize(("bound", "is_reported"), [(4, True), (5, False)])
    def test_bound_of_another_step_of_the_cycle(self, bound: int, *, is_reported: bool) -> None:
        """Each of at most five rounds starts one branch to the step."""
        fetch = (
            "{name: a, max_visits: 5, run: [{action: log, message: m}], rule: [{case: default, run: [a, d]}]}"
        )
        found = timed(fetch, merge(more=f", max_visits: {bound}"))
        assert bool(found) is is_reported

    def test_bounds_past_the_limit_are_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(visit_timing, "MAX_COUNTED_STEPS", 1)
        assert hints(playbook(*BRANCHES, merge(more=", max_visits: 1")), "NP307") == ["remove it"]

    def test_branches_of_a_choice_do_not_add_up(self) -> None:
        choice = "{name: a, rule: [{case: '{{ input.x }}', run: [b, c]}, {case: default, run: [c, f]}]}"
        steps = (choice, LEFT, RIGHT, step("f", "d"), merge(more=", max_visits: 2"))
        assert timed(*steps) == []


def differs_by_order(text: str) -> bool | None:
    """Return whether the orders of branches differ in what can be seen, or None if nothing is known."""
    plan = compile_playbook(text, catalogue()).plan
    observations = observe_orders(plan) if plan is not None else None
    return None if observations is None else any(len(seen) > 1 for seen in observations)


def has_timing_finding(text: str) -> bool:
    return any(d.code in ("NP303", "NP307") for d in compile_playbook(text, catalogue()).diagnostics)


@pytest.mark.parametrize("first", range(0, 160, 40))
def test_runs_that_differ_by_order_are_reported(first: int) -> None:
    """docs/reference/unordered.md, "Numbers of visits": nothing else depends on the order of branches.

    `join: any` is exempt, and `on_error: abort` does not occur in these playbooks.
    """
    texts = [random_merges(seed) for seed in range(first, first + 40)]
    differing = [text for text in texts if differs_by_order(text)]
    assert [text for text in differing if not has_timing_finding(text) and "join: any" not in text] == []
    assert any(map(has_timing_finding, differing))


def test_property_needs_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(data_flow, "report_visit_timing", nothing)
    with pytest.raises(AssertionError):
        test_runs_that_differ_by_order_are_reported(0)
