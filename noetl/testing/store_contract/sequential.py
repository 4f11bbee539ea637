"""The contract of sequential mode: every store performs the same branch next, also after a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_transition import SUPERSEDED_ORDER
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.interface import Store
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import (
    LEASE,
    claim_visit,
    current_run,
    end_run,
    start_run,
    succeed,
    visit_states,
)

NOTE = """{action: set, set: {seen: "{{ seen + [step.name ~ step.visit] }}"}}"""
FAIL = '{action: fail, message: no, if: "{{ step.name in input.bad }}"}'
TREE = """
    mode: sequential
    variables: {seen: []}
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, rule: [{case: default, run: [d, j]}]}
    - {name: c, rule: [{case: default, run: [e, j]}]}
    - {name: d, run: [{action: log, message: d}]}
    - {name: e, run: [{action: log, message: e}]}
    - {name: j, run: [{action: log, message: j}]}
"""
MIXED = f"""
    mode: sequential
    on_error: continue
    input: {{bad: array}}
    variables: {{seen: []}}
    steps:
    - {{name: a, max_visits: 2, run: [{NOTE}],
       rule: [{{case: error, run: []}}, {{case: default, run: [b, c, d]}}]}}
    - {{name: b, run: [{FAIL}, {NOTE}], rule: [{{case: default, run: [f, x]}}]}}
    - {{name: c, run: [{FAIL}, {NOTE}], rule: [{{case: default, run: [f, x, e]}}]}}
    - {{name: d, run: [{FAIL}, {NOTE}], rule: [{{case: default, run: [j]}}]}}
    - {{name: e, join: each, run: [{NOTE}], rule: [{{case: default, run: [j]}}]}}
    - {{name: f, join: any, run: [{NOTE}]}}
    - {{name: x, run: [{NOTE}], rule: [{{case: default, run: [j]}}]}}
    - {{name: j, run: [{NOTE}]}}
"""
ORDER = ["a1", "b1", "f1", "c1", "x1", "e1", "d1", "j1"]
"""The visits of MIXED: `x` and `j` wait, `f` runs at the first arrival, and the second one ends there."""


def supersede(plan: Plan) -> Plan:
    """Return a plan as a version compiled it that performed branches in another order."""
    steps = {name: replace(step, format=1) for name, step in plan.steps.items()}
    return replace(plan, header=replace(plan.header, format=1), steps=steps)


def start_superseded_run(store: Store, text: str = TREE) -> Run:
    """Return a run that an earlier version has started."""
    plan = compile_text(text)
    earlier = supersede(plan)
    store.plans.save(earlier)
    run, first = new_run(plan.header, earlier.hash, StartRequest(origin="local"), now=0.0)
    return store.runs.create(run, first)


def play(store: Store, text: str = MIXED, *bad: str) -> RunHarness:
    """Return a run that has ended. The steps in `bad` have failed."""
    return RunHarness(store, text, {"bad": list(bad)}).finish()


class SequentialContract:
    """Tests of `mode: sequential`. `store` is an empty store."""

    def test_a_visit_exists_only_once_it_begins(self, store: Store) -> None:
        run = start_run(store, TREE)
        for step in "abd":
            claim = claim_visit(store, run, 1.0)
            assert claim.visit.step == step
            assert store.queue.claim(run.id, LEASE, 1.0) is None
            store.queue.commit(succeed(store, claim), 1.0)
        assert visit_states(store, run) == [
            ("a", "succeeded"), ("b", "succeeded"), ("d", "succeeded"), ("c", "ready"),
        ]  # fmt: skip

    def test_a_commit_claims_the_visit_that_begins(self, store: Store) -> None:
        run = start_run(store, TREE)
        order = []
        following = claim_visit(store, run)
        while following.visit.step != "@end":
            order.append(following.visit.step)
            claimed = store.queue.commit(succeed(store, following), 1.0, LEASE).following
            assert claimed is not None
            following = replace(following, visit=claimed)
        assert order == [*"abdcej"]

    def test_each_visit_begins_after_the_one_before(self, store: Store) -> None:
        run = start_run(store, TREE)
        claim = claim_visit(store, run)
        store.queue.commit(succeed(store, claim, saved={"n": 1}), 1.0)
        clocks = [claim.visit.clock, claim_visit(store, run, 1.0).visit.clock]
        assert clocks == [1, 2]

    def test_joins_of_all_kinds_have_their_turn(self, store: Store) -> None:
        playing = play(store)
        assert playing.status is RunStatus.SUCCEEDED
        assert playing.result == {"seen": ORDER}
        assert (playing.run.live, store.maintenance.check_consistency()) == (0, [])

    @pytest.mark.parametrize("bad", ["b", "c", "d", "bc", "cd", "bcd"])
    def test_failed_branches_resume_in_the_order_in_which_they_began(self, store: Store, bad: str) -> None:
        playing = play(store, MIXED, *bad)
        assert [error["step"] for error in playing.run.errors] == [*bad], playing.run.errors
        assert (playing.status, playing.run.failed_branches) == (RunStatus.COMPLETED_WITH_ERRORS, len(bad))
        performed = len(playing.result["seen"])
        resumed = playing.resume(bad=[]).finish()
        assert resumed.status is RunStatus.SUCCEEDED
        seen = resumed.result["seen"][performed:]
        assert [name[0] for name in seen if name[0] in "bcd"] == sorted(bad)
        assert (resumed.run.live, store.maintenance.check_consistency()) == (0, [])

    def test_a_stop_during_a_resume_keeps_the_order(self, store: Store) -> None:
        playing = play(store, MIXED, "b", "c", "d").resume(bad=[])
        assert playing.execute_next()
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        playing.finish().resume(bad=[]).finish()
        assert playing.status is RunStatus.SUCCEEDED
        assert playing.result["seen"] == ORDER
        assert store.maintenance.check_consistency() == []

    @pytest.mark.parametrize("executed", range(9))
    def test_a_stopped_run_goes_on_where_it_was(self, store: Store, executed: int) -> None:
        playing = RunHarness(store, MIXED, {"bad": []})
        for _ in range(executed):
            assert playing.execute_next()
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        unfinished = [visit for visit in playing.visits if visit.finished_at is None]
        assert len(unfinished) <= 2  # one of them may be the end of the run
        playing.finish().resume().finish()
        assert playing.result == {"seen": ORDER}

    def test_a_run_of_a_superseded_plan_is_not_continued(self, store: Store) -> None:
        run = start_superseded_run(store)
        executor = VisitExecutor(store, LEASE, local_run_capabilities(Path.cwd()), lambda: 1.0)
        assert executor.execute(claim_visit(store, run)) is None
        assert executor.execute(claim_visit(store, run, 1.0)) is None
        ended = current_run(store, run)
        assert (ended.status, ended.error and ended.error["message"]) == (RunStatus.FAILED, SUPERSEDED_ORDER)
        assert visit_states(store, run)[0] == ("a", "parked")

    def test_a_resume_of_a_superseded_plan_changes_nothing(self, store: Store) -> None:
        run = start_superseded_run(store)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        end_run(store, run, RunStatus.CANCELLED)
        before = current_run(store, run), store.runs.visits(run.id)
        with pytest.raises(RejectedError) as refusal:
            store.runs.resume(run.id, 2.0, deadline_at=None, values={})
        assert (refusal.value.reason, str(refusal.value)) == ("not_resumable", SUPERSEDED_ORDER)
        assert (current_run(store, run), store.runs.visits(run.id)) == before

    def test_a_chain_of_an_earlier_version_goes_on(self, store: Store) -> None:
        text = "mode: sequential\nsteps: [{name: a, run: [{action: set, set: {x: 1}}]}]"
        earlier = supersede(compile_text(text))
        data = earlier.header.to_json() | {"sequential": True}
        header = type(earlier.header).from_json(data)
        playing = RunHarness(store, replace(earlier, header=header))
        assert playing.finish().result == {"x": 1}
