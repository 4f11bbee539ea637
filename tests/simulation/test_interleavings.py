"""Several workers at one run, in orders that chance decides, some of which die: the run goes as the graph says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from noetl.executor.model.run import Claim, RunStatus, VisitStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.plan import Plan

from tests.run_harness import LEASE_SECONDS, RunHarness, compile_text
from tests.state_space import StateSpaceExplorer
from tests.strategies import Chances, case_taken, chances, flows

FAILS = 10
"""The chance that stands for a failure."""
WORKERS = 4
DEPTH = 12


def crowd(play: RunHarness, seed: int) -> RunHarness:
    """The run, walked to its end by workers of whom some die and some come too late with what they did."""
    chance = random.Random(seed)
    held: list[Claim] = []
    late: list[Claim] = []
    for _ in range(5000):
        if play.status.is_final:
            return play
        if (
            len(held) < WORKERS
            and chance.random() < 0.6
            and (claim := play.claim(f"worker {len(held)}")) is not None
        ):
            held.append(claim)
            continue
        if held:
            claim = held.pop(chance.randrange(len(held)))
            if chance.random() < 0.15:
                late.append(claim)
            else:
                play.executor().execute(claim)
        elif late:
            play.clock.advance(LEASE_SECONDS)
            if (again := play.claim()) is not None:
                play.executor().execute(again)
            play.executor().execute(late.pop())
        else:
            due = play.store.next_due(play.queue)
            assert due is not None, "the run is stuck"
            play.clock.now = max(play.clock(), due)
    raise AssertionError("the run does not end")


def steps_of(play: RunHarness) -> dict[str, str]:
    """How each step that was visited ended; none was visited twice."""
    found = {visit.step: visit.status.value for visit in play.visits}
    assert len(found) == len(play.visits)
    return found


def text_of(flow: ControlFlowGraph) -> str:
    """A playbook of the flow, whose rules and failures go by the run's input."""
    number = "input.chances[step.name][0]"
    lines = ["name: random", "on_error: continue", "steps:"]
    for step, cases in flow.targets.items():
        rule = ", ".join(
            f'{{case: "{{{{ {number} < 11 and {number} % {len(cases)} == {index} }}}}", run: [{", ".join(targets)}]}}'
            for index, targets in enumerate(cases)
        )
        fail = f'{{action: fail, message: no, if: "{{{{ {number} == {FAILS} }}}}"}}'
        work = f"{fail}, {{action: set, set: {{n_{step}: {step}}}}}"
        lines.append(f"- {{name: {step}, run: [{work}]{f', rule: [{rule}]' if cases else ''}}}")
    return "\n".join(lines)


def expected(flow: ControlFlowGraph, chances: Chances) -> dict[str, str]:
    """What the graph says of a flow without cycles: a step is visited once when any branch comes to it."""
    visited = {flow.start}
    found = {}
    for step in flow.targets:
        if step in visited:
            failed = chances[step][0] == FAILS
            found[step] = "failed" if failed else "succeeded"
            if not failed:
                visited |= set(case_taken(flow, chances, step, 1, 1))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flows(acyclic=True).flatmap(lambda flow: st.tuples(st.just(flow), chances(flow))), st.integers(0, 2**16)
)
def test_random_playbooks(store: SqliteStore, drawn: tuple[ControlFlowGraph, Chances], seed: int) -> None:
    flow, chances = drawn
    play = crowd(
        RunHarness(store, text_of(flow), {"chances": {step: list(n) for step, n in chances.items()}}), seed
    )
    found = steps_of(play)
    assert found == expected(flow, chances)
    assert play.result == {f"n_{step}": step for step, status in found.items() if status == "succeeded"}
    assert play.status == ("completed_with_errors" if "failed" in found.values() else "succeeded")


def nested() -> str:
    """Twelve forks and joins, one inside the other."""
    lines = ["name: nested", "on_error: continue", "steps:"]
    for level in range(DEPTH):
        inner = f"fork{level + 1}" if level + 1 < DEPTH else "core"
        lines += [
            f"- {{name: fork{level}, run: [WORK], rule: [{{case: default, run: [side{level}, {inner}]}}]}}",
            f"- {{name: side{level}, run: [WORK], rule: [{{case: default, run: [join{level}]}}]}}",
            f"- {{name: join{level}, run: [WORK]{f', rule: [{{case: default, run: [join{level - 1}]}}]' if level else ''}}}",
        ]
    lines.append(f"- {{name: core, run: [WORK], rule: [{{case: default, run: [join{DEPTH - 1}]}}]}}")
    work = '{action: fail, message: no, if: "{{ step.name in input.failing }}"}'
    return "\n".join(lines).replace("WORK", work)


def nested_expected(failing: frozenset[str], level: int = 0) -> tuple[dict[str, str], bool]:
    """What becomes of the steps from a level on, and whether a branch leaves the level's join."""

    def outcome(step: str) -> dict[str, str]:
        return {step: "failed" if step in failing else "succeeded"}

    if level == DEPTH:
        return outcome("core"), "core" not in failing
    if f"fork{level}" in failing:
        return outcome(f"fork{level}"), False
    inside, arrives = nested_expected(failing, level + 1)
    found = outcome(f"fork{level}") | outcome(f"side{level}") | inside
    if not arrives and f"side{level}" in failing:
        return found, False
    return found | outcome(f"join{level}"), f"join{level}" not in failing


def failing_of(seed: int, plan: Plan) -> frozenset[str]:
    chance = random.Random(seed)
    share = chance.choice([0.0, 0.1, 0.3, 0.6])
    return frozenset(step for step in plan.steps if chance.random() < share)


@pytest.fixture(scope="module")
def nest() -> Plan:
    return compile_text(nested())


@pytest.mark.parametrize("seed", range(20))
def test_nested_forks_with_failing_branches(store: SqliteStore, nest: Plan, seed: int) -> None:
    failing = failing_of(seed, nest)
    assert (
        steps_of(crowd(RunHarness(store, nest, {"failing": sorted(failing)}), seed))
        == nested_expected(failing)[0]
    )


def test_nested_forks_a_thousand_times(nest: Plan) -> None:
    """The same through the functions that decide, without a store."""
    explorer = StateSpaceExplorer(nest)
    for seed in range(1000):
        failing, chance = failing_of(seed, nest), random.Random(seed)
        world = explorer.initial_state()
        while not world.is_final:
            visit = chance.choice(world.visits_with_status(VisitStatus.READY))
            deed = ("fail", -1) if visit.step in failing else ("case", 0)
            world = explorer.commit(world, explorer.perform(visit, deed))
        assert {visit.step: visit.status.value for visit in world.visits.values()} == nested_expected(
            failing
        )[0]
        assert world.live == 0
        assert not any(waiting for waiting, _ in world.joins.values())


def test_late_workers_change_nothing(store: SqliteStore, tmp_path: Path) -> None:
    """A control of the harness: it does bring workers that come too late."""
    text = "steps: [{name: a, run: [{action: file, append: done.txt, content: x}]}]"
    done = 0
    for seed in range(40):
        play = crowd(RunHarness(store, text, folder=tmp_path), seed)
        assert play.status is RunStatus.SUCCEEDED
        done += len((tmp_path / "done.txt").read_text())
        (tmp_path / "done.txt").unlink()
    assert done > 40
