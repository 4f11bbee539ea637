"""Maintenance of the store in memory: find runs that no worker would continue, repair them, delete old runs.

The author of a store decides which damage his store can have. Here each write is complete, so only code that
bypasses the parts can damage a run. A store that writes in several steps also completes the interrupted ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from noetl.executor.errors import DamagedRunError
from noetl.executor.model.run import DEADLINE, NEVER, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_transition import check_deletable, lose_branch
from noetl.executor.model.special_visits import deadline_visit, finally_visit_id
from noetl.executor.model.visit_states import may_hold
from noetl.executor.model.visit_transition import end_lease, is_endless, unpark, wake
from noetl.executor.stores.damage import log_set_aside
from noetl.executor.stores.finding import (
    LOST_TRIGGER,
    UNKNOWN_PLAN_OF_VERSION,
    CheckedRun,
    Finding,
    find_contradictions,
    find_wrong_flows,
    finding_of_gate,
    finding_of_run,
    limit_findings,
)
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.memory.branches import MemoryBranches
from noetl.executor.stores.memory.cached_results import delete_expired
from noetl.executor.stores.memory.gates import (
    delete_idle_gates,
    find_slots,
    give_back_slots,
    has_waiting_slot,
)
from noetl.executor.stores.memory.outbox import delete_expired_entries
from noetl.executor.stores.memory.state import MemoryState, RunRecord
from noetl.executor.stores.plan_uses import UNUSED_SECONDS
from noetl.planner.catalogue import LIVE

logger = logging.getLogger("noetl.executor")


class MemoryMaintenance:
    """The consistency check and the sweep of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def probe(self) -> None:
        """Return at once: a store in memory always answers."""

    def check_consistency(self) -> list[Finding]:
        with self._state.lock:
            return limit_findings([*self._check_runs(), *self._check_gates(), *self._check_references()])

    def set_aside(self, run_id: str, reason: str) -> bool:
        with self._state.change_runs():
            record = self._state.runs.get(run_id)
            if record is None or record.damage is not None:
                return False
            record.damage = reason
        log_set_aside(run_id, reason)
        return True

    def put_back(self, now: float) -> list[str]:
        with self._state.change_runs():
            records = [record for record in self._state.runs.values() if record.damage is not None]
            for record in records:
                record.damage = None
            return [record.run.id for record in records]

    def delete_run(self, tenant: str, run_id: str) -> bool:
        with self._state.change_runs():
            runs = {id: record.run for id, record in self._state.runs.items()}
            run = runs.get(run_id)
            if run is None or run.tenant != tenant:
                return False
            parent = run.parent.run_id if run.parent is not None and run.parent.run_id in runs else None
            tree = [run_id]
            # The list grows while it is read: each run is followed by those that it has started.
            for id in tree:
                tree += [r.id for r in runs.values() if r.parent is not None and r.parent.run_id == id]
            records = [self._state.runs[id] for id in tree]
            is_open = [record.run.finished_at is None and record.damage is None for record in records]
            check_deletable(run_id, parent, [id for id, opens in zip(tree, is_open, strict=True) if opens])
            for id in tree:
                give_back_slots(self._state, find_slots(self._state, id))
            self._state.delete_runs(tree)
            return True

    def delete_old(self, now: float) -> bool:
        with self._state.lock:
            delete_expired(self._state, now)
            delete_expired_entries(self._state, now)
            if self._state.retention_seconds is not None:
                self._delete_old(now - self._state.retention_seconds)
                self._delete_plans(now - UNUSED_SECONDS)
            return False

    def write_log_back(self) -> None:
        """Return at once."""

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        with self._state.change_runs():
            delete_idle_gates(self._state, now)
            open_records = [r for r in self._state.runs.values() if r.run.finished_at is None]
            repaired = 0
            for record in [record for record in open_records if record.damage is None]:
                try:
                    repair = self._repair(record, now) if repaired < limit else None
                except DamagedRunError as error:
                    self.set_aside(record.run.id, error.message)
                    continue
                if repair is not None:
                    repaired += 1
                    fields = {"workflow_id": record.run.id, "repaired": repair}
                    logger.warning("run %s was repaired: %s", record.run.id, repair, extra={"fields": fields})
            self.delete_old(now)
            return SweepResult(len(open_records), repaired)

    def _check_runs(self) -> Iterator[Finding]:
        for record in self._state.runs.values():
            if record.damage is not None:
                yield finding_of_run("set aside", record.run.id, reason=record.damage)
                continue
            run, visits, active = record.run, record.visits.values(), _find_active_steps(record)
            is_ended = run.finished_at is not None
            status = RunStatus.PAUSED if run.is_paused else run.status
            checked = CheckedRun(
                run.id, status, is_ended, visits, active, run.live, record.live, record.arrivals
            )
            yield from find_contradictions(checked, self._can_continue)

    def _check_gates(self) -> Iterator[Finding]:
        state = self._state
        for key, gate in state.gates.items():
            slots = [slot for slot in state.slots.values() if slot.gate == key]
            units = sum(slot.units for slot in slots if slot.is_held)
            queued = sum(not slot.is_held for slot in slots)
            if (gate.held, gate.waiting) != (units, queued):
                numbers = {"held": gate.held, "waiting": gate.waiting, "units": units, "queued": queued}
                yield finding_of_gate(gate.limit, **numbers)
            else:
                flows = [flow for flow in state.flows.values() if flow.gate == key]
                yield from find_wrong_flows(gate.limit, flows, slots)
        for slot in state.slots.values():
            record, visit_id = state.runs.get(slot.owner.run_id), slot.owner.visit_id
            if record is None:
                continue
            if slot.gate not in state.gates:
                yield finding_of_run("unknown gates", slot.owner.run_id, gate=slot.gate.id)
            elif record.run.finished_at is not None:
                yield finding_of_run("slots of ended runs", slot.owner.run_id, limit=slot.limit)
            elif visit_id and not may_hold(record.visits.get(visit_id)):
                yield finding_of_run("slots of visits", slot.owner.run_id, limit=slot.limit)

    def _check_references(self) -> Iterator[Finding]:
        state = self._state
        references = {
            "slots": [slot.owner.run_id for slot in state.slots.values()],
            "tokens": [token.key.run_id for token in state.tokens.values()],
            "idempotency_keys": [run_id for _, run_id in state.idempotency_keys.values()],
            "debounced": list(state.debounced.values()),
        }
        for table, run_ids in references.items():
            for run_id in dict.fromkeys(id for id in run_ids if id not in state.runs):
                yield finding_of_run("unknown runs", run_id, table=table)
        for run in [record.run for record in state.runs.values()]:
            if run.parent is not None and run.parent.run_id not in state.runs:
                yield finding_of_run("unknown parents", run.id, parent_run=run.parent.run_id)
            if run.plan_hash not in state.plans:
                yield finding_of_run("unknown plans", run.id, playbook=run.playbook)
        for versions in state.playbooks.values():
            for playbook in [entry.playbook for entry in versions.values() if not entry.is_removed]:
                if playbook.plan_hash not in state.plans:
                    message = UNKNOWN_PLAN_OF_VERSION.format(version=playbook.version, name=playbook.name)
                    yield Finding("unknown plans", message)
        for trigger in state.triggers.values():
            if self._live_version(trigger.tenant, trigger.playbook) != trigger.version:
                message = LOST_TRIGGER.format(
                    name=trigger.name, version=trigger.version, playbook=trigger.playbook
                )
                yield Finding("lost triggers", message)

    def _live_version(self, tenant: str, name: str) -> str | None:
        """Return the live version of a playbook, or None if it is not registered."""
        alias = self._state.aliases.get((tenant, name), {}).get(LIVE)
        versions = self._state.playbooks.get((tenant, name), {})
        kept = [entry for entry in versions.values() if not entry.is_removed]
        newest = max(kept, key=lambda entry: entry.number, default=None)
        return alias.version if alias is not None else None if newest is None else newest.playbook.version

    def _can_continue(self, visit: Visit) -> bool:
        """Return whether a visit is due some time, or an answer to it can still arrive."""
        if visit.due_at < NEVER or visit.status is not VisitStatus.WAITING:
            return visit.due_at < NEVER
        record = self._state.runs[visit.run_id]
        tokens = [key for key in record.waits.keys() - record.closed_waits if key.visit_id == visit.id]
        runs = [child.run for child in self._state.runs.values() if child.run.finished_at is None]
        parents = [(run.parent.run_id, run.parent.visit_id) for run in runs if run.parent is not None]
        is_queued = has_waiting_slot(self._state, visit.run_id, visit.id, "")
        is_answerable = any(record.waits[key].answered_at is None for key in tokens)
        return is_queued or is_answerable or (visit.run_id, visit.id) in parents

    def _repair(self, record: RunRecord, now: float) -> str | None:
        """Repair an unfinished run, and return a description of the repair, or None if it is sound."""
        run, active = record.run, _find_active_steps(record)
        branches = MemoryBranches(self._state, record, now)
        if run.is_paused and not active:
            return None
        if not active:
            return _continue_stuck(branches)
        if not any(map(self._can_continue, active)):
            record.put(*(wake(visit, now) for visit in active))
            return "its steps that wait in vain are due"
        endless = [visit for visit in active if is_endless(visit, now)]
        if endless:
            record.put(*(end_lease(visit, now) for visit in endless))
            return "a lease that exceeded the limit has ended"
        finally_step = branches.plan.header.finally_step
        steps = {visit.step for visit in record.visits.values()}
        if run.ending is None and run.deadline_at is not None and not steps & {DEADLINE, finally_step}:
            record.put(deadline_visit(run.id, run.resumes, run.deadline_at))
            return "its deadline is set"
        return None

    def _delete_old(self, before: float) -> None:
        """Delete runs that ended before a time, and firings of that time.

        A run is kept while it has children or its parent is kept.
        """
        state = self._state
        for key, firings in state.firings.items():
            state.firings[key] = {p: firing for p, firing in firings.items() if firing.fired_at >= before}
        ended = {id for id, record in state.runs.items() if (record.run.finished_at or before) < before}
        parents = {
            run.parent.run_id for run in (r.run for r in state.runs.values()) if run.parent is not None
        }
        leaves = {run_id: state.runs[run_id].run.parent for run_id in ended - parents}
        state.delete_runs(
            [
                run_id
                for run_id, parent in leaves.items()
                if parent is None or parent.run_id in ended or parent.run_id not in state.runs
            ]
        )
        counts = state.child_runs.items()
        state.child_runs = {root: count for root, count in counts if count[1] >= before}

    def _delete_plans(self, before: float) -> None:
        """Delete plans that were last used before a time, and that no run and no playbook names."""
        state = self._state
        named = {record.run.plan_hash for record in state.runs.values()}
        for versions in state.playbooks.values():
            named |= {entry.playbook.plan_hash for entry in versions.values() if not entry.is_removed}
        kept = {id for id in state.plans if id in named or state.plan_uses.get(id, before) >= before}
        state.plans = {id: plan for id, plan in state.plans.items() if id in kept}
        state.plan_uses = {id: used_at for id, used_at in state.plan_uses.items() if id in kept}


def _find_active_steps(record: RunRecord) -> list[Visit]:
    """Return the active visits of a run, without that of its deadline."""
    return [visit for visit in record.find_active() if visit.step != DEADLINE]


def _continue_stuck(branches: MemoryBranches) -> str:
    """Continue a run without an active visit, and return a description."""
    record, now = branches.record, branches.now
    if record.run.stop is not None:
        # Earlier commits parked a finally step that waited for a limit.
        last = record.visits.get(finally_visit_id(record.run.resumes))
        if last is not None and last.status is VisitStatus.PARKED:
            record.put(unpark(last, now))
            return "its finally step is due"
        branches.stop_run()
        return "its end is due"
    # In sequential mode, visits on the stack wait for their turn.
    waiting_ids = frozenset() if record.stack is None else record.stack.resumed_ids
    parked = [
        visit
        for visit in record.visits.values()
        if visit.status is VisitStatus.PARKED and visit.id not in waiting_ids
    ]
    if parked:
        record.put(*(unpark(visit, now) for visit in parked))
        return "its parked steps are due"
    branches.fire_joins(list(record.arrivals))
    if branches.entered:
        return "a join has fired"
    if record.run.live <= 0:
        branches.end_run()
        return "its end is due"
    record.run = lose_branch(record.run)
    branches.stop_run()
    return "a branch was lost, and the run fails"
