"""Facts for metrics in the store in memory.

The author of a store decides here what a fact costs. In memory it is added to its total at once. A database
in which transactions wait for each other appends a row instead, and adds rows up later.
"""

from __future__ import annotations

from noetl.executor.model.metrics import MAX_COUNTED, Fact, FactKind, FactTotal, StoreMetrics, label_playbook
from noetl.executor.model.registry import SERVICE_TENANT
from noetl.executor.model.run import SERVICE_QUEUE, Run
from noetl.executor.model.triggers import Firing
from noetl.executor.stores.memory.state import MemoryState
from noetl.planner.frozen import replace


def add_fact(state: MemoryState, run: Run, fact: Fact | None) -> None:
    """Add a fact about a run to the totals of its tenant and of all tenants, unless it is None."""
    if fact is not None:
        _add(state, run.tenant, run.playbook, fact)


def add_firing_fact(state: MemoryState, firing: Firing) -> None:
    """Add the fact that a firing was recorded to the totals of its tenant and of all tenants."""
    _add(state, firing.tenant, firing.playbook, Fact(FactKind.FIRING, firing.outcome.value))


def _add(state: MemoryState, owner: str, playbook: str, fact: Fact) -> None:
    labels = {total.playbook for total in state.fact_totals.get(owner, {}).values()}
    for tenant, label in ((owner, label_playbook(playbook, labels)), (SERVICE_TENANT, "")):
        totals = state.fact_totals.setdefault(tenant, {})
        key = (label, fact.kind, fact.status, fact.bucket)
        total = totals.get(key, FactTotal(*key, count=0, seconds=0.0))
        totals[key] = replace(total, count=total.count + 1, seconds=total.seconds + fact.seconds)


class MemoryFacts:
    """The facts of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def read(self, tenant: str | None, now: float) -> StoreMetrics | None:
        with self._state.lock:
            active = self._state.find_active(SERVICE_QUEUE)
            due = [
                visit.due_at
                for record, visit in active
                if visit.due_at <= now and tenant in (None, record.run.tenant)
            ]
            runs = [record.run for record in self._state.runs.values()]
            open_runs = sum(run.finished_at is None and tenant in (None, run.tenant) for run in runs)
            totals = self._state.fact_totals.get(SERVICE_TENANT if tenant is None else tenant, {})
            return StoreMetrics(
                list(totals.values()),
                min(len(due), MAX_COUNTED),
                min(due, default=None),
                min(open_runs, MAX_COUNTED),
            )
