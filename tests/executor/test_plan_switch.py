"""Switches of runs to other plans: random pairs against the explorer, controls, and single runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.model.events import Event
from noetl.executor.model.outcome import error_record
from noetl.executor.model.plan_switch import CarriedRun, carry
from noetl.executor.model.run import END, Branch, FailureState, Progress, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_history import RunRecords, names_of_branches, read_switch_state
from noetl.executor.model.special_visits import SWITCH_STEP
from noetl.planner.continuation.judge import ALL_CONDITIONS, SwitchJudge, may_continue
from noetl.planner.continuation.switch_state import Begun, DoneStep, Switch
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan
from noetl.testing.run_harness import compile_text
from tests.state_space import RunState, StateSpaceExplorer
from tests.switch_pairs import (
    Sketch,
    SwitchCase,
    TooManyStatesError,
    a_run,
    compile_sketch,
    find_violation,
    find_violation_after,
    random_cases,
)

SEEDS = 160
CHUNKS = 8
CATALOGUE = catalogue()


def judged_cases(seeds: Iterable[int]) -> Iterable[tuple[SwitchCase, bool, str | None]]:
    """Yield switches of random pairs, each with its verdict and with what a run then does wrong."""
    for seed in seeds:
        for case in random_cases(seed):
            verdict = may_continue(case.old, case.new, case.read_state(), case.switch, CATALOGUE)
            try:
                yield case, verdict.is_yes, find_violation(case)
            except TooManyStatesError:
                continue


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_yes_is_sound_and_no_is_rarely_needless(chunk: int) -> None:
    """A run that may continue never does what it must not; and most runs that could continue may."""
    yes = safe = 0
    for case, is_yes, violation in judged_cases(range(chunk, SEEDS, CHUNKS)):
        assert not (is_yes and violation), (violation, case.old.source, case.new.source, case.switch)
        yes += is_yes
        safe += violation is None
    assert yes >= 0.95 * safe > 0


def steps(*lines: str, mode: str = "parallel") -> Plan:
    """Return the plan of steps such as `a +x max=2 > b c | d`, which saves `x` and has two cases."""
    sketch: Sketch = {}
    for line in lines:
        left, _, right = line.partition(">")
        name, *words = left.split()
        sketch[name] = {
            "saves": [word[1:] for word in words if word[0] == "+"],
            "reads": [word[1:] for word in words if word[0] == "?"],
            "cases": [case.split() for case in right.split("|")] if right else [],
            "join": next((word[5:] for word in words if word.startswith("join=")), "all"),
            "bound": next((int(word[4:]) for word in words if word.startswith("max=")), None),
        }
    plan = compile_sketch(sketch, "abort", mode)
    assert plan is not None
    return plan


APART = ("a > b c", "b > d", "c > e")
ANY = ("a > b c", "b > d", "c > d", "d join=any")
CONTROLS = {
    "repeats": (steps("x > a", "a > b", "b"), steps("a > x", "x > b", "b"), "x"),
    "names": (steps("a > b", "b > c", "c"), steps("a +x > b", "b > c", "c ?x"), "a"),
    "joins": (steps("a > b c", "b > d", "c > d", "d"), steps("a > b | c", "b > d", "c > d", "d"), "a"),
    "arrivals": (steps("a > b c", "b > d", "c > d", "d"), steps(*ANY), "ab"),
    "discriminators": (steps(*ANY, "e"), steps("a > b c", "b > d", "c > d", "d"), "abd"),
    "races": (steps(*APART, "d", "e"), steps("a > b | c", *APART[1:], "d +x", "e +x"), "a"),
    "bounds": (steps("a max=9 > b", "b > a | c", "c"), steps("a max=9 > b", "b max=1 > a | c", "c"), "aba"),
    "mode": (steps("a > b c", "b", "c"), steps("a > b c", "b", "c", mode="sequential"), "a"),
    "mode in line": (steps("a > b c", "b", "c", mode="sequential"), steps("a > b c", "b", "c"), "a"),
}
"""For each condition a switch that it forbids, and the steps that were visited before."""
ALONE = {"discriminators": {"discriminators", "repeats"}, "mode in line": {"mode"}}
"""Conditions that another one covers as well: both are switched off."""


@pytest.mark.parametrize("condition", CONTROLS)
def test_control_without_a_condition(condition: str) -> None:
    """A yes without a condition is followed by a violation."""
    old, new, visited = CONTROLS[condition]
    case = SwitchCase(old, new, visit_steps(old, *visited), Switch())
    assert not may_continue(old, new, case.read_state(), case.switch, CATALOGUE).is_yes
    conditions = ALL_CONDITIONS - ALONE.get(condition, {condition})
    assert conditions < ALL_CONDITIONS
    assert SwitchJudge(old, new, case.read_state(), case.switch, conditions).judge(CATALOGUE).is_yes
    assert find_violation(case)


RANDOM_CONTROLS = {"names": 19, "repeats": 17, "arrivals": 88, "joins": 122, "bounds": 152}
"""The first of the random pairs that a condition keeps from a violation."""


@pytest.mark.parametrize("condition", RANDOM_CONTROLS)
def test_control_without_a_condition_on_random_pairs(condition: str) -> None:
    conditions = ALL_CONDITIONS - {condition}
    assert RANDOM_CONTROLS[condition] < SEEDS
    violations = []
    for case in random_cases(RANDOM_CONTROLS[condition]):
        state = case.read_state()
        answers = [
            SwitchJudge(case.old, case.new, state, case.switch, checked).judge(CATALOGUE).is_yes
            for checked in (ALL_CONDITIONS, conditions)
        ]
        violations += [find_violation(case)] if answers == [False, True] else []
    assert any(violations)


def test_control_without_the_condition_that_steps_exist() -> None:
    old, new = steps("a > b", "b > c", "c"), steps("a > c", "c")
    assert find_violation(SwitchCase(old, new, visit_steps(old, "a"), Switch()))


def copied_counters(case: SwitchCase, carried: CarriedRun) -> CarriedRun:
    return replace(carried, joins=case.state.joins)


def copied_pointers(case: SwitchCase, carried: CarriedRun) -> CarriedRun:
    before = case.state.visits
    visits = [replace(v, names=before[v.id].names) if v.id in before else v for v in carried.visits]
    return replace(carried, visits=tuple(visits))


COPIES = {
    "counters": (
        copied_counters,
        steps("a > b", "b > d", "d"),
        steps("a > b c", "b > d", "c > d", "d"),
        "a",
    ),
    "pointers": (copied_pointers, steps("a +x > b", "b > c", "c"), steps("a +x > b", "b > c", "c ?x"), "a"),
}
"""What an engine might copy, with a switch that this breaks and the steps that were visited before."""


@pytest.mark.parametrize("name", COPIES)
def test_control_with_a_copy_of_what_must_be_derived(name: str) -> None:
    copy, old, new, visited = COPIES[name]
    case = SwitchCase(old, new, visit_steps(old, *visited), Switch())
    assert may_continue(old, new, case.read_state(), case.switch, CATALOGUE).is_yes
    assert find_violation(case) is None
    assert find_violation_after(case, copy(case, case.carry()))


DIAMOND = """
    input: {}
    timeout: 1h
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {y: 1}}], rule: [{case: default, run: [d]}]}
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: done}]}
"""
CORRECTED = """
    input: {size: {type: integer, default: 3}, k: integer}
    variables: {v: 1}
    timeout: 2h
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, e]}]}
    - {name: b, run: [{action: set, set: {y: 1}}], rule: [{case: default, run: [d]}]}
    - {name: e, rule: [{case: default, run: [f]}]}
    - {name: f, rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: "{{ x }} {{ y }} {{ z | default(0) }}"}]}
    - {name: g, run: [{action: set, set: {z: 1}}], rule: [{case: default, run: [d]}]}
"""


def visit_steps(plan: Plan, *visited: str) -> RunState:
    """Return the state of a run in which these steps have been visited in this order."""
    explorer = StateSpaceExplorer(plan)
    state = explorer.initial_state()
    for step in visited:
        (ready,) = [visit for visit in state.visits_with_status(VisitStatus.READY) if visit.step == step]
        state = explorer.commit(state, explorer.perform(ready, ("case", 0)))
    return state


def run_steps(plan: Plan, *visited: str) -> RunRecords:
    """Return the records of such a run."""
    state = visit_steps(plan, *visited)
    arrivals = {join: tuple(arrived.values()) for join, arrived in state.arrivals.items()}
    waves = {join: wave for join, (_, wave) in state.joins.items()}
    return RunRecords(a_run(plan), list(state.visits.values()), arrivals, waves)


def names_at(records: RunRecords, plan: Plan, step: str) -> Mapping[str, Any]:
    (visit,) = [visit for visit in records.visits if visit.step == step]
    return names_of_branches(records, plan)[visit.id]


def test_names_come_from_the_history() -> None:
    plan = compile_text(DIAMOND)
    records = run_steps(plan, "a", "b", "c")
    (visit,) = [visit for visit in records.visits if visit.step == "d"]
    assert visit.names == {}
    assert names_at(records, plan, "d").keys() == {"x", "y", "steps.a", "steps.b", "steps.c"}


def test_position_of_a_run() -> None:
    plan = compile_text(DIAMOND)
    position = read_switch_state(run_steps(plan, "a", "b"), plan)
    at_c, at_d = position.branches
    assert (at_c.step, at_c.has_arrived, set(at_c.names)) == ("c", False, {"x", "steps.a"})
    assert (at_d.step, at_d.has_arrived) == ("d", True)
    assert position.done == {"a": DoneStep(1, 1), "b": DoneStep(1, 2)}
    assert not position.is_claimed


def test_claimed_run_and_a_run_that_ends() -> None:
    plan = compile_text(DIAMOND)
    records = run_steps(plan, "a")
    running = replace(records.visits[-1], status=VisitStatus.RUNNING, due_at=30.0)
    claimed = replace(records, visits=[running], read_at=29.0)
    held = read_switch_state(claimed, plan)
    assert held.is_claimed
    assert held.branches[-1].begun is None
    lost = read_switch_state(replace(claimed, read_at=30.0), plan)
    assert not lost.is_claimed
    ending = Visit("end", "r", "@end", VisitStatus.READY, 0, {})
    assert read_switch_state(replace(records, visits=[ending]), plan).has_begun_to_end


@pytest.mark.parametrize(
    ("journal", "begun"),
    [
        ({"run": {"at": 1}}, Begun(True, 1, None, 0, ("run.0",))),
        ({"rule": {"case": 1}}, Begun(True, None, 1, 0, ("run.0",))),
        ({}, Begun(False, None, None, 0, ("run.0",))),
    ],
)
def test_work_that_has_begun(journal: Mapping[str, Any], begun: Begun) -> None:
    plan = compile_text(DIAMOND)
    records = run_steps(plan)
    visit = replace(records.visits[0], status=VisitStatus.WAITING, progress=Progress(journal=journal))
    events = [
        Event("action.completed", 1.0, "a", 1, 1, payload={"position": "run.0"}),
        Event("action.completed", 1.0, "b", 1, 1, payload={"position": "run.1"}),
    ]
    position = read_switch_state(replace(records, visits=[visit], events=events), plan)
    assert position.branches[0].begun == begun


def test_lost_worker_may_have_completed_all_actions() -> None:
    """A lost worker has reported nothing, so the place of each action counts as used."""
    plan = compile_text("steps: [{name: a, run: [{action: log, message: a}, {action: log, message: b}]}]")
    records = run_steps(plan)
    (visit,) = records.visits
    running = replace(visit, status=VisitStatus.RUNNING, due_at=1.0)
    error = error_record(visit, "WorkerLost", "the worker was lost")
    failed = replace(visit, status=VisitStatus.FAILED, failure=FailureState.OPEN, error=error)
    for lost in (running, failed):
        position = read_switch_state(replace(records, visits=[lost], read_at=9.0), plan)
        assert position.branches[0].begun == Begun(completed=("run.0", "run.1"), is_certain=False)
        changed = compile_text(plan.source.replace("message: b", "message: c"))
        reasons = may_continue(plan, changed, position, Switch(), CATALOGUE).reasons
        (reason,) = reasons
        assert reason.message.startswith("entry 2 of `run` of step `a` may have been completed by an attempt")


def test_lost_worker_may_have_completed_all_actions_of_its_round() -> None:
    text = "steps: [{name: a, run: [{action: log, message: a}], repeat: {until: '{{ run.id }}', max: 9}}]"
    plan = compile_text(text)
    records = run_steps(plan)
    lost = replace(
        records.visits[0], status=VisitStatus.RUNNING, due_at=1.0, progress=Progress(round=2, journal={})
    )
    position = read_switch_state(replace(records, visits=[lost], read_at=9.0), plan)
    assert position.branches[0].begun == Begun(rounds=2, completed=("run~2.0",), is_certain=False)


def test_carried_run() -> None:
    old, new = compile_text(DIAMOND), compile_text(CORRECTED)
    records = run_steps(old, "a", "b")
    switch = Switch({"c": "e"}, {"k": 7})
    carried = carry(old, new, records, switch, 100.0)
    (at_e,) = carried.visits
    assert (at_e.step, at_e.clock) == ("e", 4)
    assert at_e.id in {visit.id for visit in records.visits}
    assert set(at_e.names) == {"x"}
    (waiting,) = carried.arrivals["d"]
    assert set(waiting.names) == {"x", "y"}
    assert (carried.joins, carried.live) == ({"d": (1, 0)}, 2)
    assert carried.input == {"m": "a", "size": 3, "k": 7}
    assert (carried.variables, carried.deadline_at) == ({"v": 1}, 7_200.0)


def test_given_values_are_earlier_than_every_write() -> None:
    old = compile_text(
        "input: {}\nsteps:\n- {name: a, rule: [{case: default, run: [b]}]}\n"
        "- {name: b, run: [{action: log, message: m}]}"
    )
    new = compile_text(
        "input: {}\nsteps:\n"
        "- {name: a, run: [{action: set, set: {k: 1}}], rule: [{case: default, run: [b]}]}\n"
        "- {name: b, run: [{action: log, message: '{{ k }}'}]}"
    )
    carried = carry(old, new, run_steps(old, "a"), Switch(given={"k": 5}), 1.0)
    written, at_b = carried.visits
    assert (written.step, written.clock, written.saved) == (SWITCH_STEP, 0, {"k": 5})
    assert at_b.names == {"k": (0, written.id)}


def test_join_that_waits_for_no_branch_fires_in_the_switch() -> None:
    old = compile_text(DIAMOND)
    new = compile_text(
        DIAMOND.replace(
            "{name: c, rule: [{case: default, run: [d]}]}", "{name: c, rule: [{case: default, run: [e]}]}"
        )
        + "    - {name: e, run: [{action: log, message: e}]}\n"
        + "    - {name: f, rule: [{case: default, run: [d]}]}\n"
    )
    new = compile_text(new.source.replace("run: [b, c]", "run: [b, c, f]"))
    records = run_steps(old, "a", "b")
    carried = carry(old, new, records, Switch(), 1.0)
    assert {visit.step for visit in carried.visits} == {"c", "d"}
    assert carried.live == 2
    assert not carried.arrivals


def test_branch_that_waits_at_a_step_that_is_no_join_enters_it() -> None:
    old = compile_text(DIAMOND)
    new = compile_text(
        DIAMOND.replace(
            "{name: c, rule: [{case: default, run: [d]}]}", "{name: c, run: [{action: log, message: c}]}"
        )
    )
    carried = carry(old, new, run_steps(old, "a", "b"), Switch(), 1.0)
    assert [(visit.step, visit.status) for visit in carried.visits] == [
        ("c", VisitStatus.READY),
        ("d", VisitStatus.READY),
    ]
    assert (carried.live, carried.joins, carried.arrivals) == (2, {"d": (0, 0)}, {})


CHAIN = """
    input: {}
    steps:
    - {name: a, rule: [{case: default, run: [b]}]}
    - {name: b, rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: log, message: c}]}
"""
COUNTED = CHAIN.replace("{name: a,", "{name: a, max_visits: 3,").replace(
    "[{case: default, run: [c]}]", "[{case: '{{ run.id }}', run: [a]}, {case: default, run: [c]}]"
)


def test_visits_are_counted_from_the_visits() -> None:
    old, new = compile_text(CHAIN), compile_text(COUNTED)
    carried = carry(old, new, run_steps(old, "a"), Switch(), 1.0)
    assert carried.counts == {"a": 1, "b": 1}
    assert [visit.number for visit in carried.visits] == [1]


def test_sequential_mode_of_one_branch() -> None:
    old = compile_text(DIAMOND)
    new = compile_text(DIAMOND.replace("timeout: 1h", "mode: sequential"))
    records = run_steps(old, "a", "b", "c")
    carried = carry(old, new, records, Switch(), 1.0)
    assert (carried.stack.branches, carried.stack.frames, dict(carried.stack.waves)) == (1, (), {"d": 1})
    assert carried.deadline_at is None


def test_renamed_done_step() -> None:
    old, new = compile_text(CHAIN), compile_text(CHAIN.replace("name: a", "name: z"))
    carried = carry(old, new, run_steps(old, "a"), Switch({"a": "z"}), 1.0)
    assert [visit.step for visit in carried.visits] == ["z", "b"]


def test_failed_visit_of_a_resumed_run_is_live() -> None:
    plan = compile_text(CHAIN)
    explorer = StateSpaceExplorer(plan, failing=frozenset({"a"}))
    state = explorer.initial_state()
    (ready,) = state.visits.values()
    state = explorer.commit(state, explorer.perform(ready, ("fail", -1)))
    assert state.stop is RunStatus.FAILED
    records = RunRecords(a_run(plan), list(state.visits.values()))
    assert [branch.step for branch in read_switch_state(records, plan).branches] == ["a"]


def test_first_come_join_has_what_its_branches_have_in_common() -> None:
    plan = compile_text(DIAMOND.replace("{name: d,", "{name: d, join: any,"))
    records = run_steps(plan, "a", "b", "c")
    assert names_at(records, plan, "d").keys() == {"x", "steps.a"}


def test_visits_of_another_plan_have_their_own_pointers_only() -> None:
    plan = compile_text(CHAIN)
    records = run_steps(compile_text(DIAMOND), "a", "b")
    assert names_at(records, plan, "c").keys() == set()


def test_waiting_branch_without_a_known_cause() -> None:
    plan = compile_text(DIAMOND)
    waiting = Branch("unknown", "d", 3, {"x": (1, "v")}, is_arrival=True)
    records = replace(run_steps(plan, "a"), arrivals={"d": (waiting,)})
    assert names_of_branches(records, plan)["unknown"] == {"x": (1, "v")}


def test_no_branch_stands_at_the_end_of_a_run() -> None:
    records = run_steps(compile_text(CHAIN), "a")
    end = Visit("end", "run", END, VisitStatus.READY, 9, {})
    assert not records.is_live(end)
