"""New runs in a corrected plan that start at a step or an event of another run: random pairs of plans."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.replay import RecordedHistory, replay
from noetl.executor.engine.restart import (
    RestartPoint,
    begin_in_plan,
    find_past_state,
    find_restart_state,
    read_restart_state,
)
from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.errors import RejectedError
from noetl.executor.model.continued_run import ContinuedRun
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import Switch, SwitchState
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.continued_runs import correct_and_restart, fork, hold
from noetl.testing.store_contract.operations import failed_checks, run_contents
from noetl.testing.store_contract.switches import judge
from tests.state_space import RunState
from tests.switch_pairs import SwitchCase, SwitchExplorer, TooManyStatesError, UnsoundError, random_cases

SEEDS, CHUNKS = 120, 4


def find_violation_of(continued: ContinuedRun, plan: Plan) -> str | None:
    """Return what the new run does in some order that it must not do, or None.

    Raises:
        TooManyStatesError: there are too many states.
    """
    history = [visit for visit in continued.history if not is_pseudo_step(visit.step)]
    carried = continued.carried
    visits = {visit.id: visit for visit in (*history, *carried.visits)}
    if len(visits) < len(history) + len(carried.visits):
        return "the id of a visit is taken"
    for visit in carried.visits:
        bound = plan.steps[visit.step].max_visits
        if bound is not None and visit.number > bound:
            return f"the bound of `{visit.step}` ends the run at once"
    state = RunState(
        visits,
        dict(Counter(visit.step for visit in visits.values())),
        dict(carried.joins),
        {join: {branch.id: branch for branch in arrived} for join, arrived in carried.arrivals.items()},
        dict(carried.clocks),
        carried.live,
        stack=carried.stack,
    )
    try:
        SwitchExplorer(plan).check(state, max((visit.clock for visit in history), default=0))
    except UnsoundError as unsound:
        return str(unsound)
    except KeyError as missing:
        return f"a step is missing: {missing}"
    return None


def steps_done_once(plan: Plan) -> set[str]:
    """Return the steps of a plan that are on no cycle, and that are not done once for each branch."""
    return {step.name for step in plan.steps.values() if not (step.cyclic or step.runs_per_branch)}


def find_state(
    harness: RunHarness, rng: random.Random, *, starts_at_event: bool
) -> tuple[RunRecords, SwitchState] | None:
    """Return a random state of an ended run from which a new run may start in its plan, or None."""
    visits = harness.store.runs.visits_with_outputs(harness.id)
    try:
        if starts_at_event:
            recorded = RecordedHistory(harness.run, harness.plan, visits)
            events = harness.events
            records = find_past_state(recorded, replay(recorded, events[: rng.randint(1, len(events))]))
            return records, read_restart_state(records, harness.plan)
        step = rng.choice([visit.step for visit in visits if not is_pseudo_step(visit.step)])
        drops_siblings = rng.random() < 0.2
        return find_restart_state(RestartPoint(harness.run, harness.plan, visits, step, drops_siblings))
    except RejectedError as refusal:
        assert refusal.reason in ("nothing_left", "no_past")
        return None


def check_start(harness: RunHarness, case: SwitchCase, records: RunRecords) -> None:
    """Start a new run of a pair of plans, which may continue, and check that it does nothing wrong."""
    store = harness.store
    store.plans.save(case.new)
    continued = begin_in_plan(records, harness.plan, SwitchRequest(case.new, case.switch), harness.clock())
    with suppress(TooManyStatesError):
        assert find_violation_of(continued, case.new) is None, (case.old.source, case.new.source, case.switch)
    again = hold(harness, store.runs.create_continued(continued), case.new)
    assert failed_checks(store) == []
    again.finish()
    assert {error["type"] for error in again.run.errors} <= {"MaxVisitsExceeded"}, again.run
    done_once = steps_done_once(case.new) & {
        case.switch.renamed.get(step, step) for step in steps_done_once(case.old)
    }
    repeated = [step for step in done_once if again.visit_counts.get(step, 0) > 1]
    assert not repeated, repeated
    assert failed_checks(store) == []


@pytest.mark.parametrize("starts_at_event", [False, True], ids=["step", "event"])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_runs_start_in_a_corrected_plan(chunk: int, *, starts_at_event: bool) -> None:
    """A yes is followed by no wrong step in any order, and a no creates nothing."""
    started = 0
    for seed in range(chunk, SEEDS, CHUNKS):
        store: Store = SqliteStore(":memory:") if seed % 8 == 0 else MemoryStore()
        cases, rng = random_cases(seed), random.Random(seed)
        if not cases:
            continue
        case = cases[0]
        harness = RunHarness(store, case.old, {"m": "a"}).finish()
        harness.clock.advance(10)
        before = run_contents(store, harness.run)
        for _ in range(3):
            found = find_state(harness, rng, starts_at_event=starts_at_event)
            if found is not None:
                records, state = found
                if may_continue(case.old, case.new, state, case.switch, catalogue()).is_yes:
                    check_start(harness, case, records)
                    started += 1
        assert run_contents(store, harness.run) == before
        store.close()
    assert started >= (5 if starts_at_event else 20), started


def test_without_a_verdict_new_runs_go_wrong() -> None:
    """A control: the oracle finds something wrong with starts that the verdict refuses."""
    violations = 0
    for seed in range(SEEDS // 2):
        cases, rng = random_cases(seed), random.Random(seed)
        if not cases:
            continue
        case = cases[0]
        harness = RunHarness(MemoryStore(), case.old, {"m": "a"}).finish()
        found = find_state(harness, rng, starts_at_event=False)
        if found is None:
            continue
        try:
            continued = begin_in_plan(found[0], case.old, SwitchRequest(case.new, case.switch), 1000.0)
            violation = find_violation_of(continued, case.new)
        except KeyError:
            violation = "a step is missing"
        except TooManyStatesError:
            continue
        is_yes = may_continue(case.old, case.new, found[1], case.switch, catalogue()).is_yes
        assert not (is_yes and violation)
        violations += violation is not None
    assert violations >= 3, violations


LINE = """
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: log, message: "{{ x }}"}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: d}]}
"""


def switch_in_place(harness: RunHarness, text: str) -> RunHarness:
    """Let an open run continue in another text, and return it."""
    plan = compile_text(text)
    harness.store.plans.save(plan)
    switcher = PlanSwitcher(harness.store, harness.clock, judge)
    assert switcher.switch(harness.id, SwitchRequest(plan, Switch())).run is not None
    harness.plan = plan
    return harness


def test_run_with_several_plans_starts_at_a_step_that_is_on_no_branch() -> None:
    store = MemoryStore()
    harness = RunHarness(store, LINE)
    for _ in range(2):
        harness.execute_next()
    switch_in_place(harness, LINE.replace("message: d", "message: e")).finish()
    visits = store.runs.visits_with_outputs(harness.id)
    point = RestartPoint(harness.run, harness.plan, visits, "c", has_other_plans=True)
    records, state = find_restart_state(point)
    plan = compile_text(LINE.replace('"{{ x }}"', '"{{ x + y }}"'))
    assert may_continue(harness.plan, plan, state, Switch(), catalogue()).is_yes
    store.plans.save(plan)
    continued = begin_in_plan(records, harness.plan, SwitchRequest(plan, Switch()), harness.clock())
    again = hold(harness, store.runs.create_continued(continued), plan).finish()
    assert (again.status, again.result) == ("succeeded", {"x": 1, "y": 2})
    assert again.visit_counts == dict.fromkeys("abcd", 1)


def test_run_with_several_plans_does_not_start_on_a_branch() -> None:
    harness = RunHarness(MemoryStore(), fork()).finish()
    visits = harness.store.runs.visits_with_outputs(harness.id)
    with pytest.raises(RejectedError, match="has steps of several versions") as refusal:
        find_restart_state(RestartPoint(harness.run, harness.plan, visits, "b2", has_other_plans=True))
    assert refusal.value.reason == "no_past"


def test_step_that_was_not_visited() -> None:
    text = LINE.replace("{case: default, run: [b]}", '{case: "{{ run.id == 1 }}", run: [b]}')
    harness = RunHarness(MemoryStore(), text).finish()
    visits = harness.store.runs.visits_with_outputs(harness.id)
    with pytest.raises(RejectedError, match="has not visited step `b`; start") as refusal:
        find_restart_state(RestartPoint(harness.run, harness.plan, visits, "b"))
    assert refusal.value.reason == "unknown_step"


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_single_branch_starts_in_another_mode(mode: str) -> None:
    harness = RunHarness(MemoryStore(), f"    mode: {mode}" + LINE).finish()
    other = {"parallel": "sequential", "sequential": "parallel"}[mode]
    again = correct_and_restart(harness, "b", f"    mode: {other}" + LINE.replace("y: 2", "y: 3"))
    assert again is not None
    assert again.finish().result == {"x": 1, "y": 3}


def test_suspended_work_of_another_branch_begins_again_and_may_change() -> None:
    text = """
        steps:
        - {name: fork, rule: [{case: default, run: [a, b]}]}
        - name: a
          run: [{action: log, message: a}, {action: wait, seconds: 90}]
          rule: [{case: default, run: [c]}]
        - {name: b, run: [{action: fail, message: "no"}], rule: [{case: default, run: [c]}]}
        - {name: c, run: [{action: log, message: c}]}
    """
    harness = RunHarness(MemoryStore(), text).finish()
    assert harness.status == "failed"
    corrected = text.replace('{action: fail, message: "no"}', "{action: log, message: b}")
    corrected = corrected.replace("{action: log, message: a}, ", "")
    again = correct_and_restart(harness, "b", corrected)
    assert again is not None
    assert again.finish().status == "succeeded"


def test_variables_and_inputs_that_another_plan_lacks_are_dropped() -> None:
    text = """
        input: {n: {type: integer, default: 1}, old: {type: integer, default: 2}}
        variables: {gone: 1, kept: 2}
        steps:
        - {name: a, run: [{action: set, set: {kept: "{{ kept + n }}"}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: log, message: b}]}
    """
    corrected = text.replace(", old: {type: integer, default: 2}", "").replace("gone: 1, ", "added: 5, ")
    harness = RunHarness(MemoryStore(), text).finish()
    again = correct_and_restart(harness, "b", corrected.replace("message: b", 'message: "{{ added }}"'))
    assert again is not None
    again.finish()
    assert (again.status, again.run.input) == ("succeeded", {"n": 1})
    assert again.run.variables == {"added": 5, "kept": 2}
    assert again.result["kept"] == 3
