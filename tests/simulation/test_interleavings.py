"""Several workers at one run, in random orders, some of which crash: the run ends as its graph specifies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from noetl.executor.model.run import Claim, RunStatus, VisitStatus
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.plan import Plan
from noetl.testing.run_harness import LEASE_SECONDS, RunHarness, compile_text
from tests.property_settings import examples
from tests.state_space import StateSpaceExplorer
from tests.strategies import Chances, case_taken, chances, flows

FAILURE_NUMBER = 10
"""Number of the input `chances` at which a step fails."""
WORKERS = 4
DEPTH = 12


@pytest.fixture(params=["memory", "SQLite"], name="store")
def fixture_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    in_memory = request.param == "memory"
    with closing(MemoryStore() if in_memory else SqliteStore(str(tmp_path / "noetl.db"))) as opened:
        yield opened


def execute_with_random_workers(play: RunHarness, seed: int) -> RunHarness:
    """Execute a run by random workers. Some crash, and some finish with a lost claim."""
    chance = random.Random(seed)
    held_claims: list[Claim] = []
    late_claims: list[Claim] = []
    for _ in range(5000):
        if play.status.is_final:
            return play
        if (
            len(held_claims) < WORKERS
            and chance.random() < 0.6
            and (claim := play.claim(f"worker {len(held_claims)}")) is not None
        ):
            held_claims.append(claim)
            continue
        if held_claims:
            claim = held_claims.pop(chance.randrange(len(held_claims)))
            if chance.random() < 0.15:
                late_claims.append(claim)
            else:
                play.executor().execute(claim)
        elif late_claims:
            play.clock.advance(LEASE_SECONDS)
            if (new_claim := play.claim()) is not None:
                play.executor().execute(new_claim)
            play.executor().execute(late_claims.pop())
        else:
            due = play.store.queue.next_due(play.queue)
            assert due is not None, "the run is stuck"
            play.clock.now = max(play.clock(), due)
    raise AssertionError("the run does not end")


def steps_of(play: RunHarness) -> dict[str, str]:
    """Return the status of each visited step. No step is visited twice."""
    found = {visit.step: visit.status.value for visit in play.visits}
    assert len(found) == len(play.visits)
    return found


def text_of(flow: ControlFlowGraph) -> str:
    """Return a playbook of the flow. Its rules and failures depend on the input of the run."""
    number = "input.chances[step.name][0]"
    lines = ["name: random", "on_error: continue", "steps:"]
    for step, cases in flow.targets.items():
        rule = ", ".join(
            f'{{case: "{{{{ {number} < 11 and {number} % {len(cases)} == {index} }}}}",'
            f" run: [{', '.join(targets)}]}}"
            for index, targets in enumerate(cases)
        )
        fail = f'{{action: fail, message: no, if: "{{{{ {number} == {FAILURE_NUMBER} }}}}"}}'
        work = f"{fail}, {{action: set, set: {{n_{step}: {step}}}}}"
        lines.append(f"- {{name: {step}, run: [{work}]{f', rule: [{rule}]' if cases else ''}}}")
    return "\n".join(lines)


def expected_statuses(flow: ControlFlowGraph, chances: Chances) -> dict[str, str]:
    """Return the status of each step of an acyclic flow. A step is visited once if any branch reaches it."""
    visited = {flow.start}
    found = {}
    for step in flow.targets:
        if step in visited:
            failed = chances[step][0] == FAILURE_NUMBER
            found[step] = "failed" if failed else "succeeded"
            if not failed:
                visited |= set(case_taken(flow, chances, step, 1, 1))
    return found


@examples(1, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flows(acyclic=True).flatmap(lambda flow: st.tuples(st.just(flow), chances(flow))), st.integers(0, 2**16)
)
def test_random_playbooks_end_as_their_graph_specifies(
    store: Store, drawn: tuple[ControlFlowGraph, Chances], seed: int
) -> None:
    flow, chances = drawn
    play = execute_with_random_workers(
        RunHarness(store, text_of(flow), {"chances": {step: list(n) for step, n in chances.items()}}), seed
    )
    found = steps_of(play)
    assert found == expected_statuses(flow, chances)
    assert play.result == {f"n_{step}": step for step, status in found.items() if status == "succeeded"}
    assert play.status == ("completed_with_errors" if "failed" in found.values() else "succeeded")


def nested_playbook() -> str:
    """Return a playbook of twelve forks and joins, each inside the previous one."""
    lines = ["name: nested", "on_error: continue", "steps:"]
    for level in range(DEPTH):
        inner = f"fork{level + 1}" if level + 1 < DEPTH else "core"
        rule = f", rule: [{{case: default, run: [join{level - 1}]}}]" if level else ""
        lines += [
            f"- {{name: fork{level}, run: [WORK], rule: [{{case: default, run: [side{level}, {inner}]}}]}}",
            f"- {{name: side{level}, run: [WORK], rule: [{{case: default, run: [join{level}]}}]}}",
            f"- {{name: join{level}, run: [WORK]{rule}}}",
        ]
    lines.append(f"- {{name: core, run: [WORK], rule: [{{case: default, run: [join{DEPTH - 1}]}}]}}")
    work = '{action: fail, message: no, if: "{{ step.name in input.failing }}"}'
    return "\n".join(lines).replace("WORK", work)


def expected_nested_statuses(failing: frozenset[str], level: int = 0) -> tuple[dict[str, str], bool]:
    """Return the status of the steps from a level on, and whether a branch leaves the join of the level."""

    def outcome(step: str) -> dict[str, str]:
        return {step: "failed" if step in failing else "succeeded"}

    if level == DEPTH:
        return outcome("core"), "core" not in failing
    if f"fork{level}" in failing:
        return outcome(f"fork{level}"), False
    inside, arrives = expected_nested_statuses(failing, level + 1)
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
    return compile_text(nested_playbook())


@pytest.mark.parametrize("seed", range(20))
def test_nested_forks_with_failing_branches_end_as_expected(store: Store, nest: Plan, seed: int) -> None:
    failing = failing_of(seed, nest)
    assert (
        steps_of(execute_with_random_workers(RunHarness(store, nest, {"failing": sorted(failing)}), seed))
        == expected_nested_statuses(failing)[0]
    )


def test_nested_forks_end_as_expected_a_thousand_times(nest: Plan) -> None:
    """The pure functions of the engine give the same without a store."""
    explorer = StateSpaceExplorer(nest)
    for seed in range(1000):
        failing, chance = failing_of(seed, nest), random.Random(seed)
        world = explorer.initial_state()
        while not world.is_final:
            visit = chance.choice(world.visits_with_status(VisitStatus.READY))
            deed = ("fail", -1) if visit.step in failing else ("case", 0)
            world = explorer.commit(world, explorer.perform(visit, deed))
        assert {
            visit.step: visit.status.value for visit in world.visits.values()
        } == expected_nested_statuses(failing)[0]
        assert world.live == 0
        assert not any(waiting for waiting, _ in world.joins.values())


def test_late_workers_do_not_change_the_end(store: Store, tmp_path: Path) -> None:
    """The harness itself is tested: some work must be done twice."""
    text = "steps: [{name: a, run: [{action: file, append: done.txt, content: x}]}]"
    done = 0
    for seed in range(40):
        play = execute_with_random_workers(RunHarness(store, text, folder=tmp_path), seed)
        assert play.status is RunStatus.SUCCEEDED
        done += len((tmp_path / "done.txt").read_text())
        (tmp_path / "done.txt").unlink()
    assert done > 40
