"""The contract of the states of visits: each change is a transition of the table.

There is a scenario for each row of `TRANSITIONS` that every store makes. The visits are compared before and
after each call of the store. `REPAIRS` are the rows that only a sweep makes, or a claim of a dead worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from noetl.executor.model.outcome import Suspension
from noetl.executor.model.run import NEVER, Claim, Commit, Lease, Progress, Run, RunStatus, VisitStatus
from noetl.executor.model.transition import abandon, suspend
from noetl.executor.model.visit_states import VisitTrigger
from noetl.executor.model.worker_identity import process_name
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.damage import StoreDamage
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    CHAIN,
    LEASE,
    claim_visit,
    end_run,
    fail,
    open_wait,
    start_run,
    succeed,
    suspend_claim,
)
from noetl.testing.store_contract.pauses import resume_sequential
from noetl.testing.transition_observer import Row, observe_store, table_without

FORK = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, rule: [{case: default, run: [d, e]}]}
    - {name: c, run: [{action: log, message: c}]}
    - {name: d, run: [{action: log, message: d}]}
    - {name: e, run: [{action: log, message: e}]}
"""
Scenario = Callable[[Store], object]


def wait_until(claim: Claim, due_at: float) -> Commit:
    """Return the commit of work that is suspended at time 1 until `due_at`."""
    return suspend(claim.visit, Suspension(Progress(journal={"run": {"at": 0}}), due_at), 1.0)


def claim_in_stopping_run(store: Store) -> Claim:
    """Return the claim of a visit whose run was cancelled after it."""
    run = start_run(store)
    claim = claim_visit(store, run)
    store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
    return claim


def fork(store: Store, text: str = FORK) -> tuple[Run, Claim]:
    """Return a run of two branches, and the claim of the first one."""
    run = start_run(store, text)
    claim = claim_visit(store, run)
    store.queue.commit(succeed(store, claim), 1.0)
    return run, claim_visit(store, run, 1.0)


def enter_in_stopping_run(store: Store) -> None:
    run, claim = fork(store)
    store.runs.stop(run.id, RunStatus.FAILED, 1.0)
    store.queue.commit(succeed(store, claim), 1.0)


def claim_retrying(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(fail(store, claim_visit(store, run), retry_at=5.0), 1.0)
    claim_visit(store, run, 5.0)


def claim_waiting(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(wait_until(claim_visit(store, run), 5.0), 1.0)
    claim_visit(store, run, 5.0)


def claim_again(store: Store) -> None:
    run = start_run(store)
    claim_visit(store, run)
    claim_visit(store, run, LEASE.seconds + 1)


def renew(store: Store) -> None:
    run = start_run(store)
    visit = claim_visit(store, run).visit
    assert store.queue.renew(visit, 100.0)


def release(store: Store) -> None:
    run = start_run(store)
    visit = claim_visit(store, run).visit
    store.queue.release(visit, 1.0, counts=False)


def succeed_first(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)


def fail_first(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(fail(store, claim_visit(store, run)), 1.0)


def retry_first(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(fail(store, claim_visit(store, run), retry_at=5.0), 1.0)


def suspend_first(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(wait_until(claim_visit(store, run), 5.0), 1.0)


def yield_first(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(wait_until(claim_visit(store, run), 1.0), 1.0)


def abandon_first(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(abandon(claim_visit(store, run).visit), 1.0)


def park_ready(store: Store) -> None:
    run = start_run(store)
    store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)


def park_retrying(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(fail(store, claim_visit(store, run), retry_at=5.0), 1.0)
    store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)


def park_waiting(store: Store) -> Run:
    run = start_run(store)
    claim = claim_visit(store, run)
    store.queue.commit(suspend_claim(claim, open_wait(store, claim).id), 1.0)
    store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
    return run


def answer_waiting(store: Store) -> None:
    run = start_run(store)
    claim = claim_visit(store, run)
    store.queue.commit(suspend_claim(claim, open_wait(store, claim).id), 1.0)
    store.waits.answer("t", "yes", 2.0)


def answer_parked(store: Store) -> None:
    park_waiting(store)
    store.waits.answer("t", "yes", 2.0)


def resume_retrying(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(fail(store, claim_visit(store, run), retry_at=5.0), 1.0)
    store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
    end_run(store, run, RunStatus.CANCELLED)
    store.runs.resume(run.id, 2.0, deadline_at=None, values={})


def resume_waiting(store: Store) -> None:
    run = park_waiting(store)
    end_run(store, run, RunStatus.CANCELLED)
    store.runs.resume(run.id, 2.0, deadline_at=None, values={})


def resume_failed(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(fail(store, claim_visit(store, run)), 1.0)
    end_run(store, run, RunStatus.FAILED)
    store.runs.resume(run.id, 2.0, deadline_at=None, values={})


def unpause_ready(store: Store) -> None:
    run = start_run(store)
    store.pauses.pause(run.id, 1.0)
    store.pauses.unpause(run.id, 2.0)


def unpause_waiting(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(wait_until(claim_visit(store, run), 5.0), 1.0)
    store.pauses.pause(run.id, 1.0)
    store.pauses.unpause(run.id, 2.0)


def unpause_retrying(store: Store) -> None:
    run = start_run(store)
    store.queue.commit(fail(store, claim_visit(store, run), retry_at=5.0), 1.0)
    store.pauses.pause(run.id, 1.0)
    store.pauses.unpause(run.id, 2.0)


SCENARIOS: Mapping[Row, Scenario] = {
    (None, VisitTrigger.ENTER): start_run,
    (None, VisitTrigger.ENTER_STOPPING): enter_in_stopping_run,
    (VisitStatus.READY, VisitTrigger.CLAIM): lambda store: claim_visit(store, start_run(store)),
    (VisitStatus.READY, VisitTrigger.PARK): park_ready,
    (VisitStatus.RUNNING, VisitTrigger.CLAIM): claim_again,
    (VisitStatus.RUNNING, VisitTrigger.RENEW): renew,
    (VisitStatus.RUNNING, VisitTrigger.RELEASE): release,
    (VisitStatus.RUNNING, VisitTrigger.SUCCEED): succeed_first,
    (VisitStatus.RUNNING, VisitTrigger.FAIL): fail_first,
    (VisitStatus.RUNNING, VisitTrigger.RETRY): retry_first,
    (VisitStatus.RUNNING, VisitTrigger.SUSPEND): suspend_first,
    (VisitStatus.RUNNING, VisitTrigger.YIELD): yield_first,
    (VisitStatus.RUNNING, VisitTrigger.ABANDON): abandon_first,
    (VisitStatus.RETRYING, VisitTrigger.CLAIM): claim_retrying,
    (VisitStatus.RETRYING, VisitTrigger.PARK): park_retrying,
    (VisitStatus.WAITING, VisitTrigger.CLAIM): claim_waiting,
    (VisitStatus.WAITING, VisitTrigger.WAKE): answer_waiting,
    (VisitStatus.WAITING, VisitTrigger.PARK): park_waiting,
    (VisitStatus.PARKED, VisitTrigger.WAKE): answer_parked,
    (VisitStatus.PARKED, VisitTrigger.REOPEN): resume_retrying,
    (VisitStatus.PARKED, VisitTrigger.REOPEN_SUSPENDED): resume_waiting,
    (VisitStatus.PARKED, VisitTrigger.UNPAUSE): unpause_ready,
    (VisitStatus.PARKED, VisitTrigger.UNPAUSE_WAITING): unpause_waiting,
    (VisitStatus.PARKED, VisitTrigger.UNPAUSE_RETRYING): unpause_retrying,
    (VisitStatus.FAILED, VisitTrigger.REOPEN): resume_failed,
}
"""For each row of the table that every store makes: calls by which it does."""


REPAIRS: tuple[Row, ...] = (
    (VisitStatus.RUNNING, VisitTrigger.END_LEASE),
    (VisitStatus.PARKED, VisitTrigger.UNPARK),
)
"""Rows that a store makes which knows dead workers of its machine, and repairs parked visits."""


def enter_and_claim(store: Store) -> None:
    run = start_run(store)
    assert store.queue.commit(succeed(store, claim_visit(store, run)), 1.0, LEASE).following is not None


def retry_in_stopping_run(store: Store) -> None:
    claim = claim_in_stopping_run(store)
    store.queue.commit(fail(store, claim, retry_at=5.0), 1.0)


def suspend_in_stopping_run(store: Store) -> None:
    claim = claim_in_stopping_run(store)
    store.queue.commit(wait_until(claim, NEVER), 1.0)


def yield_in_stopping_run(store: Store) -> None:
    claim = claim_in_stopping_run(store)
    store.queue.commit(wait_until(claim, 1.0), 1.0)


def abandon_in_stopping_run(store: Store) -> None:
    claim = claim_in_stopping_run(store)
    store.queue.commit(abandon(claim.visit), 1.0)


def continue_failed_in_paused_run(store: Store) -> None:
    run, claim = resume_sequential(store, is_waiting=False)
    store.pauses.pause(run.id, 5.0)
    store.queue.commit(succeed(store, claim), 6.0, LEASE)


def continue_suspended_in_paused_run(store: Store) -> None:
    run, claim = resume_sequential(store, is_waiting=True)
    store.pauses.pause(run.id, 5.0)
    store.queue.commit(succeed(store, claim), 6.0, LEASE)


COMBINED_SCENARIOS: Mapping[tuple[VisitTrigger, VisitTrigger], Scenario] = {
    (VisitTrigger.ENTER, VisitTrigger.CLAIM): enter_and_claim,
    (VisitTrigger.RETRY, VisitTrigger.PARK): retry_in_stopping_run,
    (VisitTrigger.SUSPEND, VisitTrigger.PARK): suspend_in_stopping_run,
    (VisitTrigger.YIELD, VisitTrigger.PARK): yield_in_stopping_run,
    (VisitTrigger.ABANDON, VisitTrigger.PARK): abandon_in_stopping_run,
    (VisitTrigger.REOPEN, VisitTrigger.PARK): continue_failed_in_paused_run,
    (VisitTrigger.REOPEN_SUSPENDED, VisitTrigger.PARK): continue_suspended_in_paused_run,
}
"""Calls that make two transitions at once."""


def check_row(store: Store, row: Row, scenario: Scenario) -> None:
    """Check that a scenario makes the transition of a row, and none that the table does not have.

    The same changes have no explanation in a table without the row, so a wrong table is noticed.
    """
    observed, observer = observe_store(store)
    scenario(observed)
    assert observer.unexplained() == []
    assert row in observer.observed_rows()
    observer.table = table_without(row)
    assert observer.unexplained() != []


def id_of_row(row: Row) -> str:
    before, trigger = row
    return f"{before or 'no visit'} {trigger.name}"


class TransitionsContract(ContractFixtures):
    """Tests of the states of visits."""

    @pytest.mark.parametrize("row", SCENARIOS, ids=id_of_row)
    def test_every_change_is_a_transition_of_the_table(self, store: Store, row: Row) -> None:
        check_row(store, row, SCENARIOS[row])

    @pytest.mark.parametrize("pair", COMBINED_SCENARIOS, ids=lambda pair: f"{pair[0].name} {pair[1].name}")
    def test_two_transitions_at_once_are_combined_as_the_table_says(
        self, store: Store, pair: tuple[VisitTrigger, VisitTrigger]
    ) -> None:
        observed, observer = observe_store(store)
        COMBINED_SCENARIOS[pair](observed)
        assert observer.unexplained() == []
        assert pair in observer.observed_combinations()

    def test_a_chain_goes_through_the_table_from_start_to_end(self, store: Store) -> None:
        observed, observer = observe_store(store)
        run = start_run(observed, CHAIN)
        for step in ("a", "b", "c"):
            claim = claim_visit(observed, run, 1.0)
            assert claim.visit.step == step
            observed.queue.commit(succeed(observed, claim), 1.0)
        end_run(observed, run, RunStatus.SUCCEEDED)
        assert observer.unexplained() == []
        assert observer.observed_rows() == {
            (None, VisitTrigger.ENTER),
            (VisitStatus.READY, VisitTrigger.CLAIM),
            (VisitStatus.RUNNING, VisitTrigger.SUCCEED),
        }


class RepairTransitionsContract:
    """Tests of the transitions of repairs. `store` is empty, and `damage` damages it."""

    damage: StoreDamage

    def test_the_end_of_a_lease_is_a_transition_of_the_table(self, store: Store) -> None:
        def end_lease(observed: Store) -> None:
            run = start_run(observed)
            place, boot, _, _ = process_name().split("/")
            claim_visit(observed, run, lease=Lease(f"{place}/{boot}/4194999/1/walk", 1000.0))
            assert observed.queue.release_dead(run.queue, 1.0) == 1

        check_row(store, REPAIRS[0], end_lease)

    def test_the_repair_of_a_parked_visit_is_a_transition_of_the_table(self, store: Store) -> None:
        def unpark(observed: Store) -> None:
            run = start_run(observed)
            observed.queue.commit(fail(observed, claim_visit(observed, run), retry_at=5.0), 1.0)
            self.damage.update_visit(store, run, "a", status="parked")
            observed.queue.next_due(run.queue)  # The damage is observed with this call.
            assert observed.maintenance.sweep(2.0).repaired == 1

        check_row(store, REPAIRS[1], unpark)
