"""Switches of real runs: random runs of random playbooks go on in random corrections of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from noetl.executor.engine import run_events
from noetl.executor.engine.switching import MAX_TRIES, PlanSwitcher, SwitchOutcome, SwitchRequest
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.continuation.switch_state import Switch, SwitchState
from noetl.planner.continuation.verdict import SwitchVerdict
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import failed_checks, run_contents
from noetl.testing.store_contract.switches import (
    CORRECTED,
    WAITING,
    execute_until_it_waits,
    held_state,
    judge,
)
from tests.switch_pairs import random_cases

SEEDS = {"memory": 150, "sqlite": 30}
LEAST_SWITCHES = {"memory": 60, "sqlite": 10}


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Return a store. SQLite is in memory, so that no test waits for the disk."""
    opened: Store = MemoryStore() if request.param == "memory" else SqliteStore(":memory:")
    yield opened
    opened.close()


def request_for(store: Store, plan: Plan, switch: Switch | None = None) -> SwitchRequest:
    store.plans.save(plan)
    return SwitchRequest(plan, switch or Switch())


def steps_done_once(plan: Plan) -> set[str]:
    """Return the steps of a plan that are on no cycle, and that are not done once for each branch."""
    return {step.name for step in plan.steps.values() if not (step.cyclic or step.runs_per_branch)}


def switch_randomly(store: Store, seed: int) -> tuple[RunHarness, SwitchOutcome, set[str]] | None:
    """Return a run that was switched at a random place, or None if there is no such pair or run.

    The set has the steps that both plans do once.
    """
    cases, rng = random_cases(seed), random.Random(seed)
    if not cases:
        return None
    case = cases[0]
    harness = RunHarness(store, case.old, {"m": "a"})
    for _ in range(rng.randint(0, len(case.old.steps))):
        if not harness.execute_next():
            break
    if harness.status is RunStatus.SUCCEEDED:
        return None
    before = run_contents(store, harness.run)
    try:
        outcome = PlanSwitcher(store, harness.clock, judge).switch(
            harness.id, request_for(store, case.new, case.switch)
        )
    except RejectedError as refusal:
        assert refusal.reason == "ending"
        return None
    if outcome.run is None:
        assert run_contents(store, harness.run) == before
    done_once = steps_done_once(case.old)
    return harness, outcome, done_once & steps_done_once(case.new) if outcome.run is not None else done_once


def test_random_runs_end_in_their_new_plan(store: Store) -> None:
    """Ends without a step that is done twice, a join that waits for ever, or a name that is undefined."""
    kind = "memory" if isinstance(store, MemoryStore) else "sqlite"
    switched = 0
    for seed in range(SEEDS[kind]):
        found = switch_randomly(store, seed)
        if found is None:
            continue
        harness, outcome, done_once = found
        switched += outcome.run is not None
        harness.finish()
        assert {error["type"] for error in harness.run.errors} <= {"MaxVisitsExceeded"}, harness.run
        repeated = [step for step, count in harness.visit_counts.items() if count > 1 and step in done_once]
        assert not repeated, (repeated, seed)
        assert failed_checks(store) == []
    assert switched >= LEAST_SWITCHES[kind]


def read_counters(harness: RunHarness) -> object:
    """Return the counters of joins and of visits, which only a store in memory shows."""
    if not isinstance(harness.store, MemoryStore):
        return None
    record = harness.store.state.record(harness.id)
    live = {join: count for join, count in record.live.items() if count}
    steps = harness.plan.steps
    return live, {step: count for step, count in record.visit_counts.items() if steps[step].cyclic}


def test_random_switches_are_undone(store: Store) -> None:
    """The run has the state that it had, or the undoing is refused and changes nothing."""
    kind = "memory" if isinstance(store, MemoryStore) else "sqlite"
    undone = refused = 0
    for seed in range(SEEDS[kind]):
        cases, rng = random_cases(seed), random.Random(seed)
        if not cases:
            continue
        harness = RunHarness(store, cases[0].old, {"m": "a"})
        for _ in range(rng.randint(0, len(cases[0].old.steps))):
            harness.execute_next()
        if harness.run.ending is not None or harness.status.is_final:
            continue
        before = held_state(harness), read_counters(harness)
        request = request_for(store, cases[0].new, cases[0].switch)
        switcher = PlanSwitcher(store, harness.clock, judge)
        if switcher.switch(harness.id, request).run is None:
            continue
        switched = held_state(harness)
        try:
            switcher.undo(harness.id)
        except RejectedError as refusal:
            assert refusal.reason == "gone_on"
            assert held_state(harness) == switched
            refused += 1
            continue
        assert (held_state(harness), read_counters(harness)) == before
        assert failed_checks(store) == []
        harness.finish()
        undone += 1
    assert undone >= LEAST_SWITCHES[kind] / 2
    assert refused <= undone / 5, (undone, refused)


PICTURE = """
    steps:
    - {name: validate, rule: [{case: default, run: [price, stock, credit]}]}
    - {name: price, rule: [{case: default, run: [approve]}]}
    - {name: stock, rule: [{case: default, run: [approve]}]}
    - {name: credit, run: [{action: shell, command: "false"}], rule: [{case: default, run: [approve]}]}
    - {name: approve, rule: [{case: default, run: [invoice]}]}
    - {name: invoice, run: [{action: log, message: m}]}
"""
NOTIFIED = PICTURE.replace('"false"', '"true"').replace(
    "{name: invoice, run: [{action: log, message: m}]}",
    "{name: invoice, rule: [{case: default, run: [notify]}]}\n"
    "    - {name: notify, run: [{action: log, message: n}]}",
)
CHOSEN = PICTURE.replace('"false"', '"true"').replace(
    "[{case: default, run: [price, stock, credit]}]",
    "[{case: '{{ run.id == 1 }}', run: [price]}, {case: '{{ run.id == 2 }}', run: [stock]},"
    " {case: default, run: [credit]}]",
)


@pytest.mark.parametrize(
    ("text", "message"), [(NOTIFIED, None), (CHOSEN, "step `approve` would be done by 2 branches")]
)
def test_pictures_of_the_documentation(store: Store, text: str, message: str | None) -> None:
    harness = RunHarness(store, PICTURE).finish()
    request = request_for(store, compile_text(text))
    outcome = PlanSwitcher(store, harness.clock, judge).switch(harness.id, request)
    messages = [reason.message for reason in outcome.verdict.reasons]
    assert messages[:1] == ([] if message is None else [message])
    if message is None:
        harness.finish()
        assert harness.visit_counts == dict.fromkeys(
            ["validate", "price", "stock", "credit", "approve", "invoice", "notify"], 1
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [(WAITING, "same_plan"), (CORRECTED.replace("steps:", "name: other\n    steps:", 1), "other_playbook")],
)
def test_plan_that_is_no_correction_is_refused(store: Store, text: str, reason: str) -> None:
    harness = RunHarness(store, WAITING)
    before = run_contents(store, harness.run)
    with pytest.raises(RejectedError) as refusal:
        PlanSwitcher(store, harness.clock, judge).switch(harness.id, request_for(store, compile_text(text)))
    assert refusal.value.reason == reason
    assert run_contents(store, harness.run) == before


def test_run_that_has_succeeded_or_is_ending_is_refused(store: Store) -> None:
    switcher = PlanSwitcher(store, lambda: 1.0, judge)
    ended = RunHarness(store, WAITING).finish()
    ending = RunHarness(store, WAITING)
    store.runs.stop(ending.id, RunStatus.CANCELLED, 1.0)
    request = request_for(store, compile_text(CORRECTED))
    for harness, reason in ((ended, "not_resumable"), (ending, "ending")):
        with pytest.raises(RejectedError) as refusal:
            switcher.judge_run(harness.id, request)
        assert refusal.value.reason == reason


def test_run_that_changes_during_each_verdict_is_busy(store: Store) -> None:
    names = [f"s{number}" for number in range(MAX_TRIES + 3)]
    lines = [
        f"- {{name: {name}, rule: [{{case: default, run: [{following}]}}]}}"
        for name, following in pairwise(names)
    ]
    text = "\n".join(["steps:", *lines, f"- {{name: {names[-1]}, run: [{{action: log, message: old}}]}}"])
    harness = RunHarness(store, text)
    verdicts = 0

    def judge_slowly(old: Plan, new: Plan, state: SwitchState, switch: Switch) -> SwitchVerdict:
        nonlocal verdicts
        verdicts += 1
        harness.execute_next()
        return SwitchVerdict()

    request = request_for(store, compile_text(text.replace("message: old", "message: new")))
    with pytest.raises(RejectedError) as refusal:
        PlanSwitcher(store, harness.clock, judge_slowly).switch(harness.id, request)
    assert (refusal.value.reason, verdicts) == ("busy", MAX_TRIES)
    assert harness.run.plan_hash == harness.plan.hash


def test_second_request_with_the_same_key_changes_nothing(store: Store) -> None:
    harness = RunHarness(store, WAITING)
    execute_until_it_waits(harness)
    switcher = PlanSwitcher(store, harness.clock, judge)
    key = ("k", "hash")
    assert switcher.switch(harness.id, request_for(store, compile_text(CORRECTED)), key).run is not None
    assert store.runs.find_request("default", "k") == ("hash", harness.id)
    before = run_contents(store, harness.run)
    for text in (CORRECTED, CORRECTED.replace("41", "42")):
        assert switcher.switch(harness.id, request_for(store, compile_text(text)), key).run is not None
    assert run_contents(store, harness.run) == before


def test_step_of_a_run_that_goes_on_is_not_skipped(store: Store) -> None:
    harness = RunHarness(store, WAITING)
    request = replace(request_for(store, compile_text(CORRECTED)), skips={"a": 1})
    with pytest.raises(RejectedError) as refusal:
        PlanSwitcher(store, harness.clock, judge).judge_run(harness.id, request)
    assert refusal.value.reason == "not_ended"


def test_undoing_of_a_run_that_changes_meanwhile_is_busy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = RunHarness(store, WAITING)
    execute_until_it_waits(harness)
    switcher = PlanSwitcher(store, harness.clock, judge)
    assert switcher.switch(harness.id, request_for(store, compile_text(CORRECTED))).run is not None
    before = run_contents(store, harness.run)
    switcher.undo(harness.id, is_dry_run=True)
    monkeypatch.setattr(type(store.switches), "write", lambda *_: None)
    with pytest.raises(RejectedError) as refusal:
        switcher.undo(harness.id)
    assert refusal.value.reason == "busy"
    assert run_contents(store, harness.run) == before


def test_undoing_reads_a_long_history(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_events, "EVENTS_PER_READ", 2)
    harness = RunHarness(store, WAITING)
    execute_until_it_waits(harness)
    switcher = PlanSwitcher(store, harness.clock, judge)
    assert switcher.switch(harness.id, request_for(store, compile_text(CORRECTED))).run is not None
    switcher.undo(harness.id)
    assert harness.run.plan_hash == harness.plan.hash


TWICE = """
    steps:
    - {name: a, run: [{action: log, message: a}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: log, message: b}], rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: log, message: c}]}
"""


def test_second_switch_does_not_trust_the_plan_of_the_first(store: Store) -> None:
    """The done step saves `x` in both later plans, but it was done in the first one."""
    harness = RunHarness(store, TWICE)
    harness.execute_next()
    saves = TWICE.replace("message: a}", "message: a}, {action: set, set: {x: 1}}")
    switcher = PlanSwitcher(store, harness.clock, judge)
    assert switcher.switch(harness.id, request_for(store, compile_text(saves))).run is not None
    reads = compile_text(saves.replace("message: c", "message: '{{ x }}'"))
    verdict = switcher.switch(harness.id, request_for(store, reads)).verdict
    assert [required.name for required in verdict.required] == ["x"]
    assert switcher.switch(harness.id, request_for(store, reads, Switch(given={"x": 2}))).run is not None
    harness.plan = reads
    assert harness.finish().status == "succeeded"
