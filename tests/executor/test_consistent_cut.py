"""States before a visit: random runs against the explorer, and single runs."""

from __future__ import annotations

import random

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.model.consistent_cut import count_waves, cut_before, keep_branch
from noetl.executor.model.continued_run import continue_records
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import Branch, FailureState, Visit, VisitStatus
from noetl.executor.model.run_history import RunRecords, read_switch_state
from noetl.executor.model.visit_transition import enter_step, reopen
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan
from noetl.testing.run_harness import compile_text
from tests.state_space import RunState
from tests.switch_pairs import (
    SwitchCase,
    SwitchExplorer,
    TooManyStatesError,
    UnsoundError,
    a_run,
    add_cycle,
    compile_sketch,
    find_violation,
    random_sketch,
)

SEEDS = 120
CHUNKS = 4
CATALOGUE = catalogue()


def random_end(rng: random.Random, plan: Plan) -> RunState:
    """Return the last state of a random run."""
    explorer = SwitchExplorer(plan)
    state = explorer.initial_state()
    while not state.is_final and state.stop is None:
        ready = rng.choice(state.visits_with_status(VisitStatus.READY))
        choice = rng.choice(list(explorer.choices(state, ready)))
        if rng.random() < 0.08:
            choice = ("fail", -1)
        state = explorer.commit(state, explorer.perform(ready, choice))
    return state


def state_of(records: RunRecords) -> RunState:
    """Return the state that the explorer continues, with the visits that have stopped the run ready."""
    counts: dict[str, int] = {}
    for visit in records.visits:
        counts[visit.step] = counts.get(visit.step, 0) + 1
    visits = {
        visit.id: reopen(visit, 0.0) or visit if records.is_live(visit) else visit for visit in records.visits
    }
    return RunState(
        visits,
        counts,
        {join: (0, wave) for join, wave in records.waves.items()},
        {join: {branch.id: branch for branch in arrived} for join, arrived in records.arrivals.items()},
    )


def random_cuts(seed: int) -> list[tuple[Plan, RunRecords, Visit]]:
    """Return the states before all visits of a random run, each with the visit."""
    rng = random.Random(seed)
    on_error = rng.choice(("abort", "continue"))
    plan = None
    while plan is None:
        sketch = random_sketch(rng)
        if rng.random() < 0.3:
            add_cycle(rng, sketch)
        plan = compile_sketch(sketch, on_error)
    explorer = SwitchExplorer(plan)
    try:
        explorer.check(explorer.initial_state())
        end = random_end(rng, plan)
    except (TooManyStatesError, UnsoundError):
        return []
    records = RunRecords(a_run(plan), list(end.visits.values()))
    return [
        (plan, cut_before(records, plan, visit), visit)
        for visit in records.visits
        if not visit.step.startswith("@")
    ]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_run_continues_from_any_of_its_earlier_states(chunk: int) -> None:
    """A run may continue from each state, and without the branches next to a visit if the verdict is yes."""
    checked = 0
    answers = {True: 0, False: 0}
    for seed in range(chunk, SEEDS, CHUNKS):
        for plan, records, visit in random_cuts(seed):
            checked += check_earlier_state(plan, records, seed)
            answers[check_state_without_siblings(plan, records, visit, seed)] += 1
    assert checked > 100
    assert answers[True] > 0


def check_earlier_state(plan: Plan, records: RunRecords, seed: int) -> bool:
    """Check that a run may continue from a state. Return whether all that follows was explored."""
    verdict = may_continue(plan, plan, read_switch_state(records, plan), Switch(), CATALOGUE)
    # A visit that has failed because of its bound fails again.
    assert {reason.code for reason in verdict.reasons} <= {"NC116"}, (seed, verdict, plan.source)
    try:
        violation = find_violation(SwitchCase(plan, plan, state_of(records), Switch()))
    except TooManyStatesError:
        return False
    assert violation is None or verdict.reasons, (seed, violation, plan.source)
    return True


def check_state_without_siblings(plan: Plan, records: RunRecords, visit: Visit, seed: int) -> bool:
    """Check that a yes is followed by no violation, without the other branches. Return the verdict."""
    alone = keep_branch(records, plan, visit)
    state = replace(read_switch_state(alone, plan), is_edited=True)
    is_yes = may_continue(plan, plan, state, Switch(), CATALOGUE).is_yes
    if is_yes:
        try:
            violation = find_violation(SwitchCase(plan, plan, state_of(alone), Switch()))
        except TooManyStatesError:
            return is_yes
        assert violation is None, (seed, violation, plan.source)
    return is_yes


def test_copies_of_a_continued_run() -> None:
    seed = next(seed for seed in range(SEEDS) if len(random_cuts(seed)) > 4)
    plan, records, visit = random_cuts(seed)[-1]
    new = replace(a_run(plan), id="new", resumed_from="r", created_at=9.0)
    continued = continue_records(records, plan, new)
    assert {other.run_id for other in (*continued.history, *continued.carried.visits)} == {"new"}
    assert visit.id in {other.id for other in continued.carried.visits}
    assert all(other.status is VisitStatus.READY for other in continued.carried.visits)
    assert all(other.failure in (None, FailureState.HANDLED) for other in continued.history)
    assert continued.run.live == continued.carried.live


def test_joins_that_fired_again_are_counted_by_their_last_visit() -> None:
    """The visit of the first wave is left out, and the next visit must not get the id of the second."""
    plan = compile_text(
        "steps:\n- {name: a, rule: [{case: default, run: [b, c]}]}\n"
        "- {name: b, rule: [{case: default, run: [d]}]}\n"
        "- {name: c, rule: [{case: default, run: [d]}]}\n- {name: d, run: [{action: log, message: d}]}"
    )
    first, second = (
        enter_step(Branch(derived_id("join", "d", wave), "d", 2 + wave, {}), "r", 0.0) for wave in (1, 2)
    )
    assert count_waves(plan, [first, second], [second]) == {"d": 2}
    assert count_waves(plan, [first, second], [first]) == {"d": 1}
    assert count_waves(plan, [first], []) == {}
