"""The contract of pauses: no visit starts in a paused run, and then all continue as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.errors import RejectedError, UnknownRunError
from noetl.executor.model.outcome import Suspension
from noetl.executor.model.run import (
    DEADLINE,
    END,
    NEVER,
    Claim,
    Commit,
    Progress,
    Run,
    RunEnding,
    RunStatus,
    Visit,
    VisitStatus,
    WaitKey,
)
from noetl.executor.model.transition import suspend
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    LEASE,
    claim_visit,
    current_run,
    end_run,
    fail,
    failed_checks,
    open_wait,
    run_concurrently,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
    suspend_claim,
    visit_states,
)

FORKS = """
    MODE
    finally: tidy
    variables: {n: 0}
    steps:
    - {name: a, max_visits: 3, run: [{action: set, set: {n: "{{ n + 1 }}"}}],
       rule: [{case: error, run: []}, {case: default, run: [b, c, d]}]}
    - {name: b, run: [{action: wait, seconds: 5}], rule: [{case: default, run: [j]}]}
    - {name: c, retry: {attempts: 2, delay: 5s},
       run: [{action: shell, command: ["false"], if: "{{ step.attempt < 2 }}"}],
       rule: [{case: default, run: [j, f]}]}
    - {name: d, loop: {items: [1, 2, 3], batch: 1}, run: [{action: set, set: {x: "{{ item }}"}}],
       rule: [{case: default, run: [j, f]}]}
    - {name: f, join: any, run: [{action: log, message: f}], rule: [{case: default, run: [j]}]}
    - {name: j, run: [{action: log, message: j}], rule: [{case: "{{ n < 2 }}", run: [a]}]}
    - {name: tidy, run: [{action: log, message: tidy}]}
    output: {n: "{{ n }}", j: "{{ steps.j.visits }}", f: "{{ steps.f.visits }}"}
"""
"""A playbook with a wait, a retry, batches, joins, a cycle and a finally step."""


def refusal_of(call: Callable[[], object]) -> str:
    """Return the reason with which a store refuses a call."""
    with pytest.raises(RejectedError) as refusal:
        call()
    return refusal.value.reason


def kept(visit: Visit) -> Visit:
    """Return a visit without its fence and its outputs, which a pause may change or does not read."""
    return replace(visit, fence=0)


def event_types(store: Store, run: Run) -> list[str]:
    """Return the types of the events of a run."""
    return [event.type for event in store.runs.events(run.id)]


class PausesContract(ContractFixtures):
    """Tests of pauses of runs."""

    def test_refuses_an_unknown_run(self, store: Store) -> None:
        """Pause and stop what another client may have deleted meanwhile."""
        for change in (store.pauses.pause, store.pauses.unpause):
            with pytest.raises(UnknownRunError):
                change("unknown", 1.0)
        with pytest.raises(UnknownRunError):
            store.runs.stop("unknown", RunStatus.CANCELLED, 1.0)

    def test_no_visit_of_a_paused_run_starts(self, store: Store) -> None:
        run = start_run(store)
        paused = store.pauses.pause(run.id, 1.0, "ann")
        assert (paused.stop, current_run(store, run).status) == (RunStatus.PAUSED, RunStatus.PAUSED)
        assert visit_states(store, run) == [("a", "parked")]
        assert store.queue.claim(run.id, LEASE, 9.0) is None
        assert store.queue.next_due(run.queue) is None
        assert failed_checks(store) == []

    def test_an_unpaused_run_continues(self, store: Store) -> None:
        run = start_run(store)
        store.pauses.pause(run.id, 1.0, "ann")
        assert store.pauses.unpause(run.id, 2.0, None).stop is None
        assert current_run(store, run).status is RunStatus.QUEUED
        assert claim_visit(store, run, 2.0).visit.due_at == 2.0 + LEASE.seconds
        events = [event for event in store.runs.events(run.id) if event.type.endswith("paused")]
        assert [(event.type, event.at, event.payload) for event in events] == [
            ("workflow.paused", 1.0, {"by": "ann"}),
            ("workflow.unpaused", 2.0, {}),
        ]

    def test_a_second_call_changes_nothing(self, store: Store) -> None:
        run = start_run(store)
        for now in (1.0, 2.0):
            store.pauses.pause(run.id, now)
        before = current_run(store, run), store.runs.visits(run.id)
        assert before == (current_run(store, run), store.runs.visits(run.id))
        for now in (3.0, 4.0):
            store.pauses.unpause(run.id, now)
        assert event_types(store, run) == ["workflow.started", "workflow.paused", "workflow.unpaused"]
        assert visit_states(store, run) == [("a", "ready")]

    def test_a_running_visit_finishes_and_what_follows_is_parked(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.pauses.pause(run.id, 1.0)
        assert store.queue.renew(claim.visit, 90.0)
        assert store.queue.commit(succeed(store, claim, saved={"n": 1}), 2.0, LEASE).following is None
        assert visit_states(store, run) == [("a", "succeeded"), ("b", "parked")]
        assert store.queue.claim(run.id, LEASE, 9.0) is None
        store.pauses.unpause(run.id, 10.0)
        following = claim_visit(store, run, 10.0)
        assert (following.visit.step, dict(following.visit.names)["n"][1]) == ("b", claim.visit.id)

    def test_a_visit_whose_worker_is_lost_is_executed_again(self, store: Store) -> None:
        run = start_run(store)
        claim_visit(store, run)
        store.pauses.pause(run.id, 1.0)
        again = claim_visit(store, run, LEASE.seconds + 1)
        assert (again.visit.claims, again.run.stop) == (2, RunStatus.PAUSED)
        assert store.queue.commit(succeed(store, again), 40.0, LEASE).following is None
        assert visit_states(store, run) == [("a", "succeeded"), ("b", "parked")]

    def test_branches_arrive_at_a_join_in_a_paused_run(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        claims = [claim_visit(store, run, 1.0) for _ in range(4)]
        store.pauses.pause(run.id, 2.0)
        for claim in claims:
            assert store.queue.commit(succeed(store, claim), 3.0, LEASE).following is None
        assert visit_states(store, run)[-1] == ("c", "parked")
        assert store.queue.claim(run.id, LEASE, 9.0) is None
        store.pauses.unpause(run.id, 10.0)
        for step in "cd":
            claim = claim_visit(store, run, 10.0)
            assert claim.visit.step == step
            store.queue.commit(succeed(store, claim), 10.0)
        assert end_run(store, run, RunStatus.SUCCEEDED, 11.0).live == 0

    def test_the_end_of_a_run_waits_for_the_end_of_its_pause(self, store: Store) -> None:
        run = start_run(store, "steps: [{name: a, run: [{action: log, message: a}]}]")
        claim = claim_visit(store, run)
        store.pauses.pause(run.id, 1.0)
        store.queue.commit(succeed(store, claim), 2.0)
        assert visit_states(store, run) == [("a", "succeeded")]
        assert (current_run(store, run).status, failed_checks(store)) == (RunStatus.PAUSED, [])
        store.maintenance.sweep(1000.0)
        assert visit_states(store, run) == [("a", "succeeded")]
        store.pauses.unpause(run.id, 1001.0)
        assert end_run(store, run, RunStatus.SUCCEEDED, 1002.0).stop is None

    @pytest.mark.parametrize("ends_first", [False, True])
    def test_a_pending_retry_keeps_its_time_and_its_attempt(self, store: Store, *, ends_first: bool) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        if ends_first:
            store.queue.commit(fail(store, claim, retry_at=50.0), 1.0)
            store.pauses.pause(run.id, 2.0)
        else:
            store.pauses.pause(run.id, 1.0)
            store.queue.commit(fail(store, claim, retry_at=50.0), 2.0)
        assert visit_states(store, run) == [("a", "parked")]
        store.pauses.unpause(run.id, 10.0)
        assert visit_states(store, run) == [("a", "retrying")]
        assert store.queue.claim(run.id, LEASE, 49.0) is None
        again = claim_visit(store, run, 50.0).visit
        assert (again.attempt, again.error and again.error["message"]) == (2, "no")

    def test_a_time_that_comes_in_a_pause_takes_effect_at_its_end(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.queue.commit(suspend(claim.visit, Suspension(Progress(journal={"r": {}}), 5.0), 1.0), 1.0)
        before = store.runs.visits(run.id)[0]
        store.pauses.pause(run.id, 2.0)
        assert store.queue.claim(run.id, LEASE, 9.0) is None
        store.pauses.unpause(run.id, 3.0)
        assert kept(store.runs.visits(run.id)[0]) == kept(before)
        assert current_run(store, run).status is RunStatus.WAITING
        store.pauses.pause(run.id, 4.0)
        store.pauses.unpause(run.id, 7.0)
        assert store.queue.next_due(run.queue) == 7.0
        assert claim_visit(store, run, 7.0).visit.started_at == claim.visit.started_at

    @pytest.mark.parametrize("is_running", [False, True])
    def test_an_answer_in_a_pause_takes_effect_at_its_end(self, store: Store, *, is_running: bool) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        key = open_wait(store, claim)
        if not is_running:
            store.queue.commit(suspend_claim(claim, key.id), 1.0)
        store.pauses.pause(run.id, 2.0)
        store.waits.answer("t", "yes", 3.0)
        if is_running:
            store.queue.commit(suspend_claim(claim, key.id), 4.0)
        assert visit_states(store, run) == [("a", "parked")]
        assert store.queue.claim(run.id, LEASE, 9.0) is None
        store.pauses.unpause(run.id, 10.0)
        assert claim_visit(store, run, 10.0).visit.step == "a"
        assert store.waits.wait(key).answer == "yes"

    def test_a_wait_that_is_not_answered_goes_on(self, store: Store) -> None:
        run, _ = start_waiting_run(store)
        store.pauses.pause(run.id, 2.0)
        store.pauses.unpause(run.id, 3.0)
        (visit,) = store.runs.visits(run.id)
        assert (visit.status, visit.due_at) == (VisitStatus.WAITING, NEVER)
        assert current_run(store, run).status is RunStatus.WAITING
        store.waits.answer("t", "yes", 4.0)
        assert claim_visit(store, run, 4.0).visit.step == "a"

    def test_a_loop_stops_between_batches(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.pauses.pause(run.id, 1.0)
        batch = Suspension(Progress(journal={"r": {"at": 1}}), 1.0)
        assert store.queue.commit(suspend(claim.visit, batch, 1.0), 1.0, LEASE).following is None
        assert visit_states(store, run) == [("a", "parked")]
        store.pauses.unpause(run.id, 2.0)
        assert visit_states(store, run) == [("a", "ready")]
        assert claim_visit(store, run, 2.0).visit.progress == batch.progress

    def test_the_deadline_ends_a_paused_run(self, store: Store) -> None:
        run = start_run(store, "timeout: 50s\n" + "steps: [{name: a, run: [{action: log, message: a}]}]")
        store.pauses.pause(run.id, 1.0)
        assert sorted(visit_states(store, run)) == [(DEADLINE, "ready"), ("a", "parked")]
        claim = claim_visit(store, run, 50.0)
        assert claim.visit.step == DEADLINE
        done = replace(claim.visit, status=VisitStatus.SUCCEEDED, finished_at=50.0)
        store.queue.commit(Commit(done, stop=RunStatus.TIMED_OUT), 50.0)
        assert end_run(store, run, RunStatus.TIMED_OUT, 51.0).stop is RunStatus.TIMED_OUT

    def test_a_paused_run_can_be_cancelled(self, store: Store) -> None:
        run = start_run(store)
        store.pauses.pause(run.id, 1.0)
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 2.0).stop is RunStatus.CANCELLED
        assert visit_states(store, run) == [("a", "parked"), (END, "ready")]
        ended = end_run(store, run, RunStatus.CANCELLED, 3.0)
        assert ended.status is RunStatus.CANCELLED
        store.runs.resume(run.id, 4.0, deadline_at=None, values={})
        assert current_run(store, run).stop is None
        assert claim_visit(store, run, 4.0).visit.step == "a"

    def test_a_failure_ends_a_paused_run(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.pauses.pause(run.id, 1.0)
        store.queue.commit(fail(store, claim), 2.0)
        assert current_run(store, run).stop is RunStatus.FAILED
        assert end_run(store, run, RunStatus.FAILED, 3.0).status is RunStatus.FAILED

    def test_a_run_that_has_ended_or_ends_is_not_paused(self, store: Store) -> None:
        run = start_run(store)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        assert refusal_of(lambda: store.pauses.pause(run.id, 2.0)) == "ending"
        assert store.pauses.unpause(run.id, 2.0).stop is RunStatus.CANCELLED
        end_run(store, run, RunStatus.CANCELLED)
        assert refusal_of(lambda: store.pauses.pause(run.id, 3.0)) == "finished"
        assert refusal_of(lambda: store.pauses.unpause(run.id, 3.0)) == "finished"

    def test_a_finally_step_that_has_begun_is_not_paused(self, store: Store) -> None:
        playing = RunHarness(
            store,
            "finally: b\nsteps: [{name: a, run: [{action: log, message: a}]},"
            " {name: b, run: [{action: log, message: b}]}]",
        )
        store.pauses.pause(playing.id, playing.clock())
        store.pauses.unpause(playing.id, playing.clock())
        assert playing.execute_next()
        assert refusal_of(lambda: store.pauses.pause(playing.id, playing.clock())) == "ending"
        assert playing.finish().status is RunStatus.SUCCEEDED

    def test_a_paused_run_is_not_resumed(self, store: Store) -> None:
        run = start_run(store)
        store.pauses.pause(run.id, 1.0)
        resume: dict[str, Any] = {"deadline_at": None, "values": {}}
        assert refusal_of(lambda: store.runs.resume(run.id, 2.0, **resume)) == "paused"
        assert visit_states(store, run) == [("a", "parked")]

    def test_child_runs_are_paused_with_their_parent(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        child = start_child(store, run, key, "child")
        detached = start_child(store, run, None, "detached")
        store.pauses.pause(run.id, 2.0)
        stops = [current_run(store, other).stop for other in (run, child, detached)]
        assert stops == [RunStatus.PAUSED, RunStatus.PAUSED, None]
        assert claim_visit(store, run, 9.0).run.id == detached.id
        assert store.queue.claim(run.queue, LEASE, 9.0) is None
        store.pauses.unpause(run.id, 10.0)
        assert [current_run(store, other).stop for other in (run, child)] == [None, None]
        for _ in range(3):
            claim = claim_visit(store, run, 10.0)
            assert claim.run.id == child.id
            store.queue.commit(succeed(store, claim), 10.0)
        end_run(store, run, RunStatus.SUCCEEDED, 11.0)
        assert claim_visit(store, run, 11.0).run.id == run.id

    def test_all_runs_of_a_tree_follow_their_root(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        children = [start_child(store, run, key, f"child{number}", queue="children") for number in range(3)]
        tree = children + [
            start_child(store, child, WaitKey(child.id, "v", "w"), f"{child.id}-0", queue="children")
            for child in children
        ]
        store.pauses.pause(run.id, 2.0)
        assert {current_run(store, other).stop for other in tree} == {RunStatus.PAUSED}
        assert store.queue.claim("children", LEASE, 3.0) is None
        store.pauses.unpause(run.id, 4.0)
        assert {current_run(store, other).stop for other in tree} == {None}
        store.runs.stop(run.id, RunStatus.CANCELLED, 5.0)
        assert {current_run(store, other).stop for other in tree} == {RunStatus.CANCELLED}
        assert visit_states(store, run)[-1] == (END, "ready")

    def test_a_child_run_that_starts_in_a_pause_is_paused(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        key = open_wait(store, claim)
        store.pauses.pause(run.id, 1.0)
        child = start_child(store, run, key, "child")
        store.queue.commit(suspend_claim(claim, key.id), 2.0)
        assert current_run(store, child).stop is RunStatus.PAUSED
        assert store.queue.claim(run.queue, LEASE, 9.0) is None
        store.runs.stop(run.id, RunStatus.CANCELLED, 3.0)
        assert current_run(store, child).stop is RunStatus.CANCELLED

    def test_a_child_run_may_be_paused_alone(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        child = start_child(store, run, key, "child")
        store.pauses.pause(child.id, 2.0)
        assert store.pauses.unpause(run.id, 3.0).stop is None
        assert current_run(store, child).stop is RunStatus.PAUSED
        assert store.queue.claim(run.queue, LEASE, 9.0) is None
        store.pauses.unpause(child.id, 10.0)
        assert claim_visit(store, run, 10.0).run.id == child.id

    @pytest.mark.parametrize("is_parent_first", [False, True])
    def test_the_own_pause_of_a_child_run_outlasts_that_of_its_parent(
        self, store: Store, is_parent_first: bool
    ) -> None:
        run, key = start_waiting_run(store)
        child = start_child(store, run, key, "child")
        order = [run.id, child.id] if is_parent_first else [child.id, run.id]
        for time, id in enumerate(order, start=2):
            store.pauses.pause(id, float(time))
        store.pauses.unpause(run.id, 4.0)
        assert [current_run(store, other).stop for other in (run, child)] == [None, RunStatus.PAUSED]
        assert store.queue.claim(run.queue, LEASE, 9.0) is None
        store.pauses.unpause(child.id, 10.0)
        # The next pause is that of the parent alone.
        store.pauses.pause(run.id, 11.0)
        store.pauses.unpause(run.id, 12.0)
        assert current_run(store, child).stop is None
        assert claim_visit(store, run, 13.0).run.id == child.id

    def test_the_own_pause_of_a_child_run_ends_with_a_stop(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        child = start_child(store, run, key, "child")
        store.pauses.pause(child.id, 2.0)
        store.runs.stop(child.id, RunStatus.CANCELLED, 3.0)
        store.queue.finish(claim_visit(store, run, 3.0), RunEnding(RunStatus.CANCELLED, None, []), 3.0)
        store.runs.resume(child.id, 4.0, deadline_at=None, values={})
        store.pauses.pause(run.id, 5.0)
        assert current_run(store, child).stop is RunStatus.PAUSED
        store.pauses.unpause(run.id, 6.0)
        assert current_run(store, child).stop is None

    @pytest.mark.parametrize("mode", ["", "mode: sequential"], ids=["concurrent", "sequential"])
    def test_a_run_that_is_paused_at_any_moment_ends_as_without(self, store: Store, mode: str) -> None:
        text = FORKS.replace("MODE", mode)
        # In sequential mode, no `join: any` is on a cycle.
        text = text.replace("join: any, ", "") if mode else text
        expected = end_of(RunHarness(store, text).finish())
        for period in (1, 2, 3):
            playing = RunHarness(store, text)
            for count in range(200):
                if playing.status.is_final:
                    break
                claim = playing.claim()
                if count % period == 0 and can_pause(playing):
                    assert claim is not None or playing.claim() is None
                    store.pauses.pause(playing.id, playing.clock())
                if claim is not None:
                    playing.executor().execute(claim)
                paused = playing.status is RunStatus.PAUSED
                if paused:
                    playing.clock.advance(1.0)
                    store.maintenance.sweep(playing.clock())
                    assert playing.claim() is None
                    store.pauses.unpause(playing.id, playing.clock())
                if claim is None:
                    due = store.queue.next_due(playing.queue)
                    playing.clock.now = max(playing.clock(), due or 0.0)
            assert end_of(playing) == expected
            assert failed_checks(store) == []

    @pytest.mark.parametrize("first", ["x", "y"])
    def test_a_resumed_branch_of_a_sequential_run_waits_for_the_end_of_a_pause(
        self, store: Store, first: str
    ) -> None:
        run, claim = resume_sequential(store, is_waiting=first == "x")
        store.pauses.pause(run.id, 5.0)
        assert store.queue.commit(succeed(store, claim), 6.0, LEASE).following is None
        assert visit_states(store, run)[-1] == ("y", "parked")
        assert store.queue.claim(run.id, LEASE, 9.0) is None
        store.pauses.unpause(run.id, 10.0)
        if first == "x":
            store.waits.answer("t", "yes", 10.0)
        assert claim_visit(store, run, 10.0).visit.step == "y"

    def test_concurrent_calls_leave_a_sound_run(self, store: Store) -> None:
        run = start_run(store, CHAIN)
        calls = (store.pauses.pause, store.pauses.unpause)
        run_concurrently(6, lambda number: calls[number % 2](run.id, 1.0))
        store.pauses.unpause(run.id, 2.0)
        assert visit_states(store, run) == [("a", "ready")]
        pauses = [type for type in event_types(store, run) if type.endswith("paused")]
        assert pauses == ["workflow.paused", "workflow.unpaused"] * (len(pauses) // 2)
        assert failed_checks(store) == []

    def test_readers_see_the_pause(self, store: Store) -> None:
        run = start_run(store)
        before = store.runs.positions([run.id])[run.id]
        store.pauses.pause(run.id, 1.0)
        after = store.runs.positions([run.id])[run.id]
        assert (after.status, after != before) == (RunStatus.PAUSED, True)
        summary, overview = store.runs.summary("default", run.id), store.runs.overview("default", run.id)
        assert summary is not None
        assert overview is not None
        assert (summary.status, overview.summary.status) == (RunStatus.PAUSED, RunStatus.PAUSED)


def can_pause(playing: RunHarness) -> bool:
    """Return whether the run does not end yet."""
    visits = playing.store.runs.visits(playing.id)
    return not any(visit.step in ("tidy", END) for visit in visits)


def end_of(playing: RunHarness) -> tuple[Any, ...]:
    """Return the end of a run: its status, its result, and its visits."""
    visits = sorted((visit.step, visit.number, visit.attempt, visit.status) for visit in playing.visits)
    return playing.status, playing.result, visits


def resume_sequential(store: Store, *, is_waiting: bool) -> tuple[Run, Claim]:
    """Return a resumed run in sequential mode, and the claim of its visit of `x`.

    The visit of `y` is to continue after it. It had failed, or it was waiting.
    """
    run = start_run(
        store,
        """
        mode: sequential
        on_error: continue
        steps:
        - {name: a, rule: [{case: default, run: [x, y]}]}
        - {name: x, run: [{action: log, message: x}]}
        - {name: y, run: [{action: log, message: y}]}
        """,
    )
    store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
    store.queue.commit(fail(store, claim_visit(store, run, 1.0)), 1.0)
    claim = claim_visit(store, run, 1.0)
    if is_waiting:
        key = open_wait(store, claim)
        store.queue.commit(suspend_claim(claim, key.id), 1.0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    else:
        store.queue.commit(fail(store, claim), 1.0)
    end_run(store, run, RunStatus.COMPLETED_WITH_ERRORS, 3.0)
    store.runs.resume(run.id, 4.0, deadline_at=None, values={})
    claim = claim_visit(store, run, 4.0)
    assert claim.visit.step == "x"
    return run, claim
