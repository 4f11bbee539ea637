"""The contract of facts: what a store counts for metrics."""

from __future__ import annotations

from collections import Counter
from typing import Any

from noetl.executor.model.metrics import (
    MAX_PLAYBOOKS,
    NOTIFICATION_FAILED,
    NOTIFICATION_SENT,
    OTHER_PLAYBOOKS,
    StoreMetrics,
)
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.model.run import SERVICE_QUEUE, Lease, Run, RunStatus
from noetl.executor.model.triggers import FiringOutcome
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace
from noetl.testing.store_contract.damage import SweepDamage
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    DIAMOND,
    LEASE,
    claim_visit,
    end_run,
    fail,
    start_run,
    start_waiting_run,
    succeed,
)
from noetl.testing.store_contract.triggers import advance_by, declare, fire, read_trigger, register

TEXT = "name: NAME\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]"


def read_metrics(store: Store, tenant: str | None = "default", now: float = 0.0) -> StoreMetrics:
    metrics = store.facts.read(tenant, now)
    assert metrics is not None
    return metrics


def counts(metrics: StoreMetrics) -> dict[tuple[str, str, str], int]:
    """Return the numbers of facts by playbook, kind and status."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for total in metrics.totals:
        counted[total.playbook, total.kind.value, total.status] += total.count
    return dict(counted)


def start_named(store: Store, name: str, **options: Any) -> Run:
    return start_run(store, TEXT.replace("NAME", name), **options)


def perform(store: Store, run: Run) -> None:
    """Execute the only step of a run, and end the run."""
    store.queue.commit(succeed(store, claim_visit(store, run), case=None), 1.0)
    end_run(store, run, RunStatus.SUCCEEDED)


class FactsContract(ContractFixtures):
    """Tests of facts, for a store that counts them. `store` is an empty store, and `damage` damages it."""

    damage: SweepDamage

    def test_an_empty_store_has_counted_nothing(self, store: Store) -> None:
        empty = StoreMetrics([], 0, None, 0)
        for tenant in ("default", None):
            assert replace(read_metrics(store, tenant), log_bytes=None) == empty

    def test_runs_and_steps_are_counted_by_playbook_and_status(self, store: Store) -> None:
        perform(store, start_named(store, "p"))
        run = start_named(store, "q")
        store.queue.commit(fail(store, claim_visit(store, run), retry_at=2.0), 1.0)
        assert counts(read_metrics(store))["q", "retry", ""] == 1
        store.queue.commit(fail(store, claim_visit(store, run, 2.0), now=3.0), 3.0)
        end_run(store, run, RunStatus.FAILED, 4.0)
        kinds = counts(read_metrics(store))
        assert kinds == {
            ("p", "start", ""): 1,
            ("p", "step", "succeeded"): 1,
            ("p", "run", "succeeded"): 1,
            ("q", "start", ""): 1,
            ("q", "retry", ""): 1,
            ("q", "step", "failed"): 1,
            ("q", "run", "failed"): 1,
        }
        assert read_metrics(store) == read_metrics(store)

    def test_facts_of_several_reads_add_up(self, store: Store, second: Store) -> None:
        for _ in range(2):
            perform(store, start_named(store, "p"))
            read_metrics(second)
        assert counts(read_metrics(store))["p", "run", "succeeded"] == 2

    def test_durations_have_buckets_and_a_sum(self, store: Store) -> None:
        run = start_named(store, "p")
        claim = claim_visit(store, run, now=0.25)
        store.queue.commit(succeed(store, claim, case=None), 1.0)
        (step,) = (total for total in read_metrics(store).totals if total.kind == "step")
        assert (step.bucket, step.count, step.seconds) == (3, 1, 0.75)

    def test_a_tenant_has_its_own_counts_and_all_have_their_sum(self, store: Store) -> None:
        perform(store, start_named(store, "p", tenant="one"))
        perform(store, start_named(store, "q", tenant="two"))
        assert {playbook for playbook, *_ in counts(read_metrics(store, "one"))} == {"p"}
        assert counts(read_metrics(store, None)) == {
            ("", "start", ""): 2,
            ("", "step", "succeeded"): 2,
            ("", "run", "succeeded"): 2,
        }
        assert read_metrics(store, "three").totals == []

    def test_further_playbooks_share_a_label_that_never_changes(self, store: Store) -> None:
        for number in range(MAX_PLAYBOOKS + 2):
            start_named(store, f"p{number}")
            if number in (1, MAX_PLAYBOOKS):
                read_metrics(store)
        start_named(store, "p0")
        counted = {playbook: count for (playbook, *_), count in counts(read_metrics(store)).items()}
        later_runs = counted.pop(OTHER_PLAYBOOKS)
        assert len(counted) == MAX_PLAYBOOKS
        assert sum(counted.values()) + later_runs == MAX_PLAYBOOKS + 3
        assert later_runs == 2
        assert counted["p0"] == 2

    def test_a_claim_from_a_lost_worker_is_counted(self, store: Store) -> None:
        run = start_named(store, "p")
        claim_visit(store, run, lease=Lease("lost", 10.0))
        assert ("p", "lost_lease", "") not in counts(read_metrics(store))
        claim_visit(store, run, now=11.0)
        assert counts(read_metrics(store))["p", "lost_lease", ""] == 1

    def test_a_released_claim_is_not_lost(self, store: Store) -> None:
        run = start_named(store, "p")
        store.queue.release(claim_visit(store, run).visit, 1.0, counts=True)
        assert claim_visit(store, run, now=1.0).visit.worker == LEASE.worker
        assert ("p", "lost_lease", "") not in counts(read_metrics(store))

    def test_a_waiting_step_is_counted_when_it_ends(self, store: Store) -> None:
        start_waiting_run(store)
        assert [kind for _, kind, _ in counts(read_metrics(store))] == ["start"]

    def test_the_queue_has_the_due_visits_of_services(self, store: Store) -> None:
        start_named(store, "local", now=1.0)
        for tenant, now in (("one", 3.0), ("one", 5.0), ("two", 4.0)):
            start_named(store, "p", tenant=tenant, queue=SERVICE_QUEUE, origin="service", now=now)
        metrics = read_metrics(store, "one", 4.5)
        assert (metrics.due, metrics.oldest_due_at, metrics.open_runs) == (1, 3.0, 2)
        metrics = read_metrics(store, None, 6.0)
        assert (metrics.due, metrics.oldest_due_at, metrics.open_runs) == (3, 3.0, 4)
        claimed = store.queue.claim(SERVICE_QUEUE, LEASE, 6.0)
        assert claimed is not None
        assert read_metrics(store, None, 6.0).due == 2

    def test_steps_of_forks_and_joins_are_counted(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        for _ in range(7):
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 1.0)
        counted = counts(read_metrics(store))
        assert {count for (_, kind, _), count in counted.items() if kind == "step"} == {7}

    def test_outcomes_of_notifications_are_counted(self, store: Store, second: Store) -> None:
        run = start_named(store, "first")
        record = {"run_id": run.id}
        sent, next_sent = (
            OutboxEntry(id, "default", OutboxKind.NOTIFICATION, 1.0, 1.0, record) for id in ("a", "b")
        )
        deleted = replace(next_sent, id="c", record={"run_id": "deleted"})
        assert all(map(store.outbox.add, (sent, next_sent, deleted)))
        changed = replace(sent, edition=2)
        assert store.outbox.change(sent, changed, (), NOTIFICATION_FAILED)
        assert not second.outbox.change(sent, None, (), NOTIFICATION_SENT)
        assert second.outbox.change(changed, None, (), NOTIFICATION_SENT)
        assert second.outbox.change(next_sent, None, (), NOTIFICATION_SENT)
        assert second.outbox.change(deleted, None, (), NOTIFICATION_SENT)
        found = {key: count for key, count in counts(read_metrics(store)).items() if key[1] == "notification"}
        assert found == {("first", "notification", "failed"): 1, ("first", "notification", "sent"): 2}

    def test_firings_are_counted_once_by_their_outcome(self, store: Store, second: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        missed = advance_by(trigger, 60.0, FiringOutcome.MISSED)
        assert store.triggers.advance(missed)
        assert not second.triggers.advance(missed)
        again = replace(missed, read=missed.written)
        assert second.triggers.advance(again)
        started = advance_by(read_trigger(store), 120.0, FiringOutcome.STARTED)
        fire(second, started, 120.0)
        counted = {key: count for key, count in counts(read_metrics(store)).items() if key[1] == "firing"}
        assert counted == {("p", "firing", "missed"): 1, ("p", "firing", "started"): 1}
        assert counts(read_metrics(store, None))["", "firing", "missed"] == 1

    def test_deleted_runs_stay_counted(self, store: Store) -> None:
        self.damage.set_retention(store, 100.0)
        run = start_named(store, "p")
        perform(store, run)
        store.maintenance.sweep(200.0)
        assert store.runs.get(run.tenant, run.id) is None
        assert counts(read_metrics(store))["p", "run", "succeeded"] == 1
