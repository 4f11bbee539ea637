"""Claims and commits in the store in memory.

The author of a store decides here how a claim is exclusive, and how a write is refused whose claim is lost. A
lock suffices in memory. Other stores write under a condition: the visit is running with the fence of the
claim.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict

from noetl.executor.model.bounded_counter import BoundedCounter
from noetl.executor.model.branch_stack import is_turn_over
from noetl.executor.model.events import Event
from noetl.executor.model.gates import GateKey
from noetl.executor.model.limits import REJECT_UNSTORABLE_OUTPUTS, PayloadLimits
from noetl.executor.model.metrics import LEASE_LOST, fact_of_end, fact_of_outcome, loses_lease
from noetl.executor.model.run import (
    DEADLINE,
    Claim,
    Commit,
    CommitResult,
    Lease,
    Progress,
    RunEnding,
    Visit,
    VisitStatus,
    WaitKey,
)
from noetl.executor.model.run_transition import begin_run, decide_stop, finish_run, run_finished
from noetl.executor.model.stored_json import encode_payload
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import (
    claim,
    claim_lost,
    discards_batch_results,
    end_lease,
    finish_end,
    is_due,
    release,
    renew,
    start_events,
    wake,
)
from noetl.executor.model.worker_identity import is_dead
from noetl.executor.stores.memory.branches import MemoryBranches
from noetl.executor.stores.memory.facts import add_fact
from noetl.executor.stores.memory.gates import (
    find_freed,
    find_slots,
    give_back_slots,
    has_waiting_slot,
    take_requested,
)
from noetl.executor.stores.memory.outbox import add_entries
from noetl.executor.stores.memory.state import MemoryState, RunRecord
from noetl.executor.stores.memory.waits import give_answer
from noetl.planner.frozen import replace


class MemoryQueue:
    """The work queue of a store in memory: the visits that are active."""

    claims_in_turn = True
    counts_active = True
    takes_slots = True

    def __init__(self, state: MemoryState) -> None:
        self._state = state
        self._claims = BoundedCounter()
        self._last_tenant = ""

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        with self._state.lock:
            first = self._find_turn(queue, now, passed_over)
            if first is None:
                return None
            record, visit = first
            self._last_tenant = record.run.tenant
            claimed = claim(visit, lease, now)
            record.put(claimed)
            record.run = begin_run(record.run, now)
            record.append(start_events(visit, claimed))
            add_fact(self._state, record.run, LEASE_LOST if loses_lease(visit) else None)
            return Claim(record.run, replace(claimed, result=None, failures=()))

    def _find_turn(
        self, queue: str, now: float, passed_over: Collection[str]
    ) -> tuple[RunRecord, Visit] | None:
        """Return a due visit of the tenant whose turn it is: the next one that has any.

        It is the one that has been due longest, and in turn the one of those that wait for nothing.
        """
        due: dict[str, list[tuple[RunRecord, Visit]]] = {}
        for record, visit in self._state.find_active(queue):
            if is_due(visit, now) and record.run.tenant not in passed_over:
                due.setdefault(record.run.tenant, []).append((record, visit))
        tenant = min(due, key=lambda tenant: (tenant <= self._last_tenant, tenant), default=None)
        if tenant is None:
            return None
        ready = [found for found in due[tenant] if found[1].status is VisitStatus.READY]
        claims, _ = self._claims.add(tenant, 1)
        return (ready if ready and claims % 2 else due[tenant])[0]

    def count_active(self, queue: str, tenant: str, limit: int) -> int:
        with self._state.lock:
            active = self._state.find_active(queue)
            return min(sum(record.run.tenant == tenant for record, _ in active), limit)

    def next_due(self, queue: str, until: float | None = None) -> float | None:
        with self._state.lock:
            active = self._state.find_active(queue)
            first = active[0][1].due_at if active else None
            return None if first is None or (until is not None and first > until) else first

    def renew(
        self, claimed: Visit, until: float, events: Sequence[Event] = (), events_already_written: int = 0
    ) -> bool:
        with self._state.change_runs(due=0):
            held = self._state.find_held(claimed.run_id, claimed.id, claimed.fence)
            if held is None:
                return False
            record, visit = held
            record.put(renew(visit, until))
            record.append(events)
            return True

    def release(self, claimed: Visit, now: float, *, counts: bool) -> None:
        with self._state.change_runs(due=1):
            held = self._state.find_held(claimed.run_id, claimed.id, claimed.fence)
            if held is not None:
                record, visit = held
                record.put(release(visit, now, counts=counts))

    def release_dead(self, queue: str, now: float) -> int:
        released = 0
        with self._state.change_runs():
            for record in self._state.runs.values():
                active = record.find_active() if record.run.queue == queue else []
                running = [visit for visit in active if visit.status is VisitStatus.RUNNING]
                dead = [visit for visit in running if visit.due_at > now and is_dead(visit.worker)]
                record.put(*(end_lease(visit, now) for visit in dead))
                released += len(dead)
        return released

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        commit = _copy_outputs(commit, self._state.limits)
        visit = commit.visit
        with self._state.change_runs():
            held = self._state.find_held(visit.run_id, visit.id, visit.fence)
            if held is None:
                raise claim_lost(visit)
            record, run = held[0], held[0].run
            record.run = replace(
                run,
                live=run.live + commit.branches_change,
                failed_branches=run.failed_branches + commit.failed_branches,
                stop=decide_stop(run.stop, commit.stop),
                error=run.error or commit.error,
            )
            waits = [record.waits.get(WaitKey(run.id, visit.id, id)) for id in commit.awaits]
            is_answered = any(wait is not None and wait.answered_at is not None for wait in waits)
            returned = find_slots(self._state, run.id, visit.id) if commit.gives_back else []
            give_back_slots(self._state, returned)
            # The finally step waits for its own slots only.
            owners = (visit.id,) if commit.is_finally else (visit.id, "")
            is_granted = commit.is_queued and not has_waiting_slot(self._state, run.id, *owners)
            record.put(wake(visit, now) if is_answered or is_granted else visit)
            add_fact(self._state, run, fact_of_outcome(visit, now))
            _store_batch_results(record, commit)
            branches = MemoryBranches(self._state, record, now, claim_for)
            _apply_commit(branches, commit)
            record.append((*commit.events, *branches.events))
            slots = take_requested(self._state, commit, branches.claimed, now)
            return CommitResult(branches.claimed, slots, find_freed(self._state, returned))

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        self._state.limits.measure_result(ending.result, list(ending.errors))
        texts = [encode_payload(ending.result), encode_payload(list(ending.errors))]
        self._state.limits.check_result(*texts)
        with self._state.change_runs(0 if claim.run.parent is None else 1):
            held = self._state.find_held(claim.run.id, claim.visit.id, claim.visit.fence)
            if held is None:
                raise claim_lost(claim.visit)
            record, visit = held
            record.put(finish_end(visit, now))
            record.delete_visits(DEADLINE)
            returned = find_slots(self._state, record.run.id)
            give_back_slots(self._state, returned)
            result, errors = map(json.loads, texts)
            record.run = finish_run(record.run, replace(ending, result=result, errors=errors), now)
            record.append([run_finished(record.run)])
            add_fact(self._state, record.run, fact_of_end(record.run, now))
            if record.run.parent is not None:
                give_answer(self._state, record.run.parent, None, now)
            add_entries(self._state, ending.outbox)
            return find_freed(self._state, returned)


def _copy_outputs(commit: Commit, limits: PayloadLimits) -> Commit:
    """Return the commit with its outputs as they are read later: written as JSON, and read again.

    Raises:
        NotJsonError: an output cannot be written as JSON.
        PayloadTooLargeError: the outputs exceed the limit.
    """
    visit = commit.visit
    values = [
        dict(visit.saved),
        visit.result,
        list(visit.failures),
        None if visit.progress is None else asdict(visit.progress),
        *(list(part.outcomes) for part in commit.batch_results),
    ]
    with REJECT_UNSTORABLE_OUTPUTS:
        limits.measure_outputs(values)
        texts = [encode_payload(value) for value in values]
    limits.check_outputs(text for value, text in zip(values, texts, strict=True) if value)
    saved, result, failures, stored, *outcomes = map(json.loads, texts)
    progress = None if stored is None else Progress(**stored)
    copied = replace(visit, saved=saved, result=result, failures=tuple(failures), progress=progress)
    parts = zip(commit.batch_results, outcomes, strict=True)
    batch_results = tuple(replace(part, outcomes=copy) for part, copy in parts)
    return replace(commit, visit=copied, batch_results=batch_results)


def _store_batch_results(record: RunRecord, commit: Commit) -> None:
    """Add batch results of loops, and delete them when the visit is done or starts another round."""
    loops = record.batches.setdefault(commit.visit.id, {})
    for part in commit.batch_results:
        loops.setdefault(part.loop, {})[part.first] = part.outcomes
    if discards_batch_results(commit.visit):
        loops.clear()


def _apply_commit(branches: MemoryBranches, commit: Commit) -> None:
    """Apply what follows from an outcome that was written: branches, child runs, the end of the run.

    The order matters: a join fires before the run may end, and a stop or a pause parks what is due since.
    """
    visit, run = commit.visit, branches.record.run
    is_finished = visit.status in FINISHED
    has_next = True
    if not branches.is_sequential:
        branches.move_branches(commit)
    elif not commit.is_finally and is_turn_over(visit):
        has_next = branches.finish_turn(visit)
    if commit.may_have_children and is_finished:
        branches.cancel_children_of(visit.id)
    if commit.is_finally:
        if is_finished:
            branches.end_run()
    elif run.is_paused:
        branches.stay_paused(visit)
    elif run.stop is not None:
        branches.stop_run()
    elif is_finished:
        may_end = not has_next or commit.branches_change < 0 or branches.absorbed
        if may_end and branches.record.run.live == 0:
            branches.end_run()
