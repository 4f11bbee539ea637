"""Switches of runs in sequential mode with several branches: random pairs of plans, and single runs."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.sequential_history import find_place
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import failed_checks, run_contents
from noetl.testing.store_contract.switches import held_state, judge
from tests.switch_pairs import SwitchCase, TooManyStatesError, find_violation, random_cases

SEEDS, CHUNKS = 160, 4


def count_branches(case: SwitchCase) -> int:
    state = case.read_state()
    return len(state.branches) + state.in_line


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_yes_is_sound_in_sequential_mode(chunk: int) -> None:
    yes = 0
    for seed in range(chunk, SEEDS, CHUNKS):
        for case in random_cases(seed, "sequential"):
            verdict = may_continue(case.old, case.new, case.read_state(), case.switch, catalogue())
            if not verdict.is_yes:
                continue
            try:
                violation = find_violation(case)
            except TooManyStatesError:
                continue
            assert violation is None, (violation, case.old.source, case.new.source, case.switch)
            yes += count_branches(case) > 1
    assert yes >= 3, yes


def open_store(seed: int) -> Store:
    return SqliteStore(":memory:") if seed % 4 == 0 else MemoryStore()


def read_stack(records: RunRecords, plan: Plan) -> object:
    """Return the stack of a run without entries that stand for nothing."""
    assert records.stack is not None
    stack, steps = records.stack, plan.steps
    waited_for = {join: count for join, count in stack.waited_for.items() if count}
    visits = {step: count for step, count in stack.visits.items() if steps[step].cyclic}
    return stack.frames, stack.branches, waited_for, stack.arrived, stack.waves, visits


def check_undoing(harness: RunHarness, switcher: PlanSwitcher, before: tuple[object, object]) -> None:
    """Undo a switch, or find that it is refused. `before` are the state and the stack of the run."""
    try:
        switcher.undo(harness.id)
    except RejectedError as refusal:
        assert refusal.reason == "gone_on"
        return
    restored = harness.store.switches.read(harness.id, 0.0)
    assert (held_state(harness), read_stack(restored, harness.plan)) == before


def switch_in_line(store: Store, case: SwitchCase, rng: random.Random) -> bool:
    """Switch a run with branches in line, and compare its stack with that of a run of the new plan.

    Return whether the run was switched.
    """
    harness, straight = (RunHarness(store, plan, {"m": "a"}) for plan in (case.old, case.new))
    executed = rng.randint(1, len(case.old.steps))
    for _ in range(executed):
        harness.execute_next()
    records = store.switches.read(harness.id, harness.clock())
    in_line = records.stack is not None and records.stack.count_in_line(case.old.steps.__getitem__)
    if not in_line or harness.status.is_final or harness.run.ending is not None:
        return False
    store.plans.save(case.new)
    contents, held = run_contents(store, harness.run), (held_state(harness), read_stack(records, case.old))
    switcher = PlanSwitcher(store, harness.clock, judge)
    if switcher.switch(harness.id, SwitchRequest(case.new, case.switch)).run is None:
        assert run_contents(store, harness.run) == contents
        return False
    for _ in range(executed):
        straight.execute_next()
    switched, other = (store.switches.read(run.id, 0.0) for run in (harness, straight))
    assert read_stack(switched, case.new) == read_stack(other, case.new)
    if rng.random() < 0.5:
        check_undoing(harness, switcher, held)
    harness.finish()
    assert {error["type"] for error in harness.run.errors} <= {"MaxVisitsExceeded"}
    assert failed_checks(store) == []
    return True


def test_random_runs_in_sequential_mode_end_in_their_new_plan() -> None:
    """Such a run goes on as one that was in the new plan from its start."""
    switched = 0
    for seed in range(SEEDS):
        cases, store = random_cases(seed, "sequential"), open_store(seed)
        if cases:
            switched += switch_in_line(store, cases[0], random.Random(seed))
        store.close()
    assert switched >= 5, switched


LINE = """
    mode: sequential
    steps:
    - {name: fork, rule: [{case: default, run: [a, b, c]}]}
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [meet]}]}
    - {name: b, run: [{action: fail, message: "no"}], rule: [{case: default, run: [meet]}]}
    - {name: c, run: [{action: set, set: {z: 3}}], rule: [{case: default, run: [meet]}]}
    - {name: meet, run: [{action: set, set: {all: "{{ [x, z] }}"}}]}
"""
FIXED = LINE.replace('{action: fail, message: "no"}', "{action: log, message: b}")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    opened = open_store(int(request.param == "memory"))
    yield opened
    opened.close()


def correct(harness: RunHarness, text: str, switch: Switch | None = None) -> list[str]:
    """Let a run continue in another text. Return the codes of the reasons against it."""
    plan = compile_text(text)
    harness.store.plans.save(plan)
    switcher = PlanSwitcher(harness.store, harness.clock, judge)
    outcome = switcher.switch(harness.id, SwitchRequest(plan, switch or Switch()))
    if outcome.run is not None:
        harness.plan = plan
    return [reason.code for reason in outcome.verdict.reasons]


def test_failed_run_continues_with_branches_that_wait_for_their_turn(store: Store) -> None:
    harness = RunHarness(store, LINE).finish()
    assert harness.status is RunStatus.FAILED
    text = FIXED.replace("message: b", 'message: "{{ x }}"').replace("[x, z]", "[x, z, 9]")
    assert correct(harness, text) == []
    assert harness.finish().result["all"] == [1, 3, 9]
    assert harness.visit_counts == dict.fromkeys(["fork", "a", "b", "c", "meet"], 1)
    started = [event.step for event in harness.events if event.type == "step.started"]
    assert started == ["fork", "a", "b", "b", "c", "meet"]
    assert failed_checks(store) == []


@pytest.mark.parametrize(
    "text",
    [
        FIXED.replace("run: [a, b, c]", "run: [c, a, b]"),
        FIXED.replace("run: [a, b, c]", "run: [a, b]").replace("[x, z]", "[x]"),
        FIXED.replace("{x: 1}", "{x: 1, y: 1}"),
        FIXED.replace("mode: sequential", "mode: parallel"),
    ],
)
def test_other_orders_and_other_histories_are_refused(store: Store, text: str) -> None:
    harness = RunHarness(store, LINE).finish()
    before = run_contents(store, harness.run)
    assert "NC103" in correct(harness, text)
    assert run_contents(store, harness.run) == before


def test_history_that_no_run_of_a_plan_makes() -> None:
    harness = RunHarness(MemoryStore(), LINE).finish()
    visits = harness.store.runs.visits_with_outputs(harness.id)
    plan = compile_text(LINE)
    assert find_place(visits, plan) is not None
    assert find_place([], plan) is None
    assert find_place(visits[1:], plan) is None
    assert (
        find_place(visits, compile_text(LINE.replace("name: a,", "name: aa,").replace("[a, ", "[aa, ")))
        is None
    )
    short = LINE.replace("{case: default, run: [a, b, c]}", '{case: "{{ run.id == 1 }}", run: [a, b, c]}')
    assert find_place(visits, compile_text(short)) is not None
