"""Runs in the store in memory: start, stop and resume, and what readers ask about them.

The author of a store decides how a start is written once for one id or idempotency key, and how lists are
paged. The transitions of a run are functions of `noetl.executor.model.run_transition`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.model.branch_stack import first_stack
from noetl.executor.model.byte_kind import ByteKind
from noetl.executor.model.child_runs import too_many_child_runs
from noetl.executor.model.continued_run import ContinuedRun
from noetl.executor.model.debounce import identify_firing, is_pending, join_run, request_of_firing
from noetl.executor.model.events import Event
from noetl.executor.model.metrics import RUN_STARTED
from noetl.executor.model.run import (
    DEADLINE,
    END,
    SERVICE_QUEUE,
    Branch,
    ErrorRecord,
    FailureState,
    HistoryPosition,
    Run,
    RunStatus,
    Visit,
)
from noetl.executor.model.run_entries import entries_of_start
from noetl.executor.model.run_filter import RunCounts, RunFilter
from noetl.executor.model.run_summary import (
    RunOverview,
    RunSummary,
    latest_visits,
    summarize,
)
from noetl.executor.model.run_tags import TagChange
from noetl.executor.model.run_transition import (
    check_same_request,
    is_resumable,
    resume_run,
    run_resumed,
    run_started,
    stop_run,
)
from noetl.executor.model.special_visits import deadline_visit
from noetl.executor.model.triggers import Advance, name_run
from noetl.executor.model.visit_transition import enter_step, mark_skipped, reopen
from noetl.executor.stores.cursors import read_cursor, read_event_id, write_cursor
from noetl.executor.stores.memory.branches import MemoryBranches
from noetl.executor.stores.memory.facts import add_fact
from noetl.executor.stores.memory.outbox import add_entries
from noetl.executor.stores.memory.state import MemoryState, RunRecord, shown_run
from noetl.executor.stores.memory.triggers import check_advance, write_advance
from noetl.executor.stores.memory.waits import delete_answer
from noetl.planner.frozen import replace


class MemoryRuns:
    """The runs of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
        max_child_runs: int | None = None,
    ) -> Run:
        with self._state.change_runs(due=1):
            step = self._state.plan(run.plan_hash).steps[first.step]
            pending = self._find_pending(run, first)
            earlier = self._find_earlier(run, idempotency, pending)
            if earlier is not None:
                return earlier
            if pending is not None:
                return _join(pending, run, first)
            if run.root is not None and max_child_runs is not None:
                started, _ = self._state.child_runs.get(run.root, (0, 0.0))
                if started >= max_child_runs:
                    raise too_many_child_runs(run.root, max_child_runs)
                self._state.child_runs[run.root] = (started + 1, run.created_at)
            record = self._state.runs[run.id] = RunRecord(replace(run, late_at=None, debounce=None))
            if run.debounce is not None:
                self._state.debounced[run.debounce.key] = run.id
            record.put(*history)
            record.visit_counts[first.step] += 1
            if self._state.plan(run.plan_hash).header.sequential:
                record.stack = first_stack(step)
            else:
                record.live.update(step.regions)
            branch = Branch(first.id, first.step, first.clock, first.names)
            record.put(enter_step(branch, run.id, first.due_at))
            if run.deadline_at is not None:
                record.put(deadline_visit(run.id, run.resumes, run.deadline_at))
            record.append([run_started(run)])
            add_entries(self._state, entries_of_start(run))
            add_fact(self._state, run, RUN_STARTED)
            return run

    def fire(self, run: Run, first: Visit, advance: Advance) -> Run:
        with self._state.change_runs(due=1):
            header = self._state.plan(run.plan_hash).header
            idempotency = request_of_firing(run, header, advance.start_key)
            earlier = self._find_fired(run, idempotency)
            if earlier is not None:
                return earlier
            check_advance(self._state, advance)
            created = self.create(run, first, idempotency)
            write_advance(self._state, name_run(advance, created.id))
            return created

    def _find_fired(self, run: Run, idempotency: tuple[str, str] | None) -> Run | None:
        """Return the run that a firing has started or joined before, or None. `run` is the one to start."""
        requests = (identify_firing(run.id), *(() if idempotency is None else (idempotency,)))
        for key, _ in requests:
            known = self._state.idempotency_keys.get((run.tenant, key))
            if known is not None:
                return self._state.record(known[1]).run
        return self._state.runs[run.id].run if run.id in self._state.runs else None

    def create_continued(self, continued: ContinuedRun, idempotency: tuple[str, str] | None = None) -> Run:
        run, carried = continued.run, continued.carried
        with self._state.change_runs(due=len(carried.visits)):
            is_sequential = self._state.plan(run.plan_hash).header.sequential
            earlier = self._find_earlier(run, idempotency)
            if earlier is not None:
                return earlier
            record = self._state.runs[run.id] = RunRecord(replace(run, late_at=None))
            record.put(*continued.history, *carried.visits)
            record.visit_counts.update(carried.counts)
            if is_sequential:
                record.stack = carried.stack
            else:
                record.live.update({join: live for join, (live, _) in carried.joins.items()})
                record.waves.update({join: wave for join, (_, wave) in carried.joins.items()})
                record.clocks.update(carried.clocks)
                record.arrivals = {
                    join: {branch.id: branch for branch in arrived}
                    for join, arrived in carried.arrivals.items()
                }
            if run.deadline_at is not None:
                record.put(deadline_visit(run.id, run.resumes, run.deadline_at))
            record.append([run_started(run)])
            add_entries(self._state, entries_of_start(run))
            add_fact(self._state, run, RUN_STARTED)
            return run

    def _find_pending(self, run: Run, first: Visit) -> RunRecord | None:
        """Return the run that a start may join, or None. The first visit of both has the same id."""
        id = None if run.debounce is None else self._state.debounced.get(run.debounce.key)
        record = None if id is None else self._state.runs.get(id)
        if record is None or record.damage is not None or first.id not in record.visits:
            return None
        return record if is_pending(record.run, record.visits[first.id], run) else None

    def _find_earlier(
        self, run: Run, idempotency: tuple[str, str] | None, pending: RunRecord | None = None
    ) -> Run | None:
        """Return the run of an earlier request with the same key or id. Otherwise record the request.

        A start that joins a `pending` run is a request for that run.
        """
        self._state.use_plan(run.plan_hash)
        if idempotency is not None:
            key, request_hash = idempotency
            earlier = self._state.idempotency_keys.get((run.tenant, key))
            if earlier is not None:
                check_same_request(earlier[0], request_hash)
                return self._state.record(earlier[1]).run
            started_id = run.id if pending is None else pending.run.id
            self._state.idempotency_keys[run.tenant, key] = (request_hash, started_id)
        return self._state.runs[run.id].run if run.id in self._state.runs else None

    def get(self, tenant: str, run_id: str) -> Run | None:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            return None if record is None or record.run.tenant != tenant else shown_run(record)

    def summary(self, tenant: str, run_id: str) -> RunSummary | None:
        run = self.get(tenant, run_id)
        return None if run is None else summarize(run)

    def overview(self, tenant: str, run_id: str) -> RunOverview | None:
        with self._state.lock:
            run = self.get(tenant, run_id)
            if run is None:
                return None
            return RunOverview(
                summarize(run),
                run.error,
                latest_visits(self.visits(run_id)),
                self._state.record(run_id).damage,
            )

    def find(self, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
        last = None if run_filter.cursor is None else read_cursor(run_filter.cursor)
        is_oldest_first = run_filter.is_oldest_first
        matching = [
            run
            for run in self._matching(run_filter, is_oldest_first=is_oldest_first)
            if last is None or ((run.created_at, run.id) > last) is is_oldest_first
            if (run.created_at, run.id) != last
        ]
        page = matching[: run_filter.limit]
        is_last = len(page) == len(matching)
        return page, None if is_last else write_cursor(page[-1].created_at, page[-1].id)

    def count(self, run_filter: RunFilter, step_seconds: float | None, limit: int) -> RunCounts:
        runs = self._matching(replace(run_filter, text=None), is_oldest_first=False)
        numbers = Counter(
            (int(run.created_at // step_seconds) if step_seconds else 0, run.status) for run in runs[:limit]
        )
        return RunCounts(numbers, is_complete=len(runs) <= limit)

    def _matching(self, run_filter: RunFilter, *, is_oldest_first: bool) -> list[RunSummary]:
        """Return all runs of a filter in an order."""
        with self._state.lock:
            runs = [summarize(shown_run(record)) for record in self._state.runs.values()]
        ordered = sorted(runs, key=lambda run: (run.created_at, run.id), reverse=not is_oldest_first)
        return [run for run in ordered if run_filter.matches(run)]

    def live_runs(self, tenant: str, playbook: str, plan_hashes: Sequence[str], limit: int) -> list[str]:
        with self._state.lock:
            runs = sorted(
                (record.run for record in self._state.runs.values()), key=lambda run: (run.created_at, run.id)
            )
        live = [run for run in runs if run.finished_at is None and run.queue == SERVICE_QUEUE]
        named = [
            run.id
            for run in live
            if (run.tenant, run.playbook) == (tenant, playbook) and run.plan_hash in plan_hashes
        ]
        return named[:limit]

    def visits(self, run_id: str) -> list[Visit]:
        return [replace(visit, saved={}, result=None, failures=()) for visit in self._visits(run_id)]

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        visits = [visit for visit in self._visits(run_id) if visit.step not in (END, DEADLINE)]
        named = [visit for visit in visits if visit_ids is None or visit.id in visit_ids]
        return sorted(named, key=lambda visit: (visit.clock, visit.id))

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        with self._state.lock:
            batches = self._state.record(run_id).batches.get(visit_id, {}).get(loop, {})
            return [batches[first] for first in sorted(batches)]

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        position, _ = read_event_id(run_id, after)
        with self._state.lock:
            record = self._state.runs.get(run_id)
            return [] if record is None else record.history[position : position + limit]

    def add_bytes(self, run_id: str, kind: ByteKind, size: int) -> int:
        """Add to the bytes that a run has logged or written, and return their sum of all processes."""
        with self._state.lock:
            record = self._state.runs.get(run_id)
            if record is None:
                return size
            record.bytes[kind] += size
            return record.bytes[kind]

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        with self._state.lock:
            records = [record for id, record in self._state.runs.items() if id in run_ids]
            return {record.run.id for record in records if record.run.stop is RunStatus.CANCELLED}

    def positions(self, run_ids: Sequence[str]) -> dict[str, HistoryPosition]:
        with self._state.lock:
            records = [self._state.runs[id] for id in run_ids if id in self._state.runs]
            return {
                record.run.id: HistoryPosition(
                    RunStatus.PAUSED if record.run.is_paused else record.run.status, len(record.history)
                )
                for record in records
            }

    def stop(self, run_id: str, status: RunStatus, now: float, reason: ErrorRecord | None = None) -> Run:
        with self._state.change_runs():
            record = self._state.record(run_id)
            run = record.run = stop_run(record.run, status, reason)
            if not run.status.is_final:
                MemoryBranches(self._state, record, now).stop_run()
            return run

    def resume(
        self,
        run_id: str,
        now: float,
        *,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
        idempotency: tuple[str, str] | None = None,
    ) -> Run:
        with self._state.change_runs():
            record = self._state.record(run_id)
            branches = MemoryBranches(self._state, record, now)
            requests = self._state.idempotency_keys
            entry = None if idempotency is None else (record.run.tenant, idempotency[0])
            if idempotency is not None and entry in requests:
                check_same_request(requests[entry][0], idempotency[1])
                return record.run
            must_resume = is_resumable(record.run, branches.plan.header)
            if idempotency is not None and entry is not None:
                requests[entry] = (idempotency[1], run_id)
            if not must_resume:
                return record.run
            finally_step = branches.plan.header.finally_step
            record.delete_visits(END, DEADLINE, finally_step)
            for id, skip in values.get("skips", {}).items():
                record.put(mark_skipped(record.visits[id], skip, record.run.resumes + 1))
            opened = [visit for visit in record.visits.values() if reopen(visit, now) is not None]
            ended = [visit for visit in opened if visit.failure is FailureState.ENDED]
            run = record.run = resume_run(record.run, deadline_at, values, len(ended))
            if run.parent is not None:
                delete_answer(self._state, run.parent)
            if not branches.resume(opened):
                branches.end_run()
            elif deadline_at is not None:
                record.put(deadline_visit(run_id, run.resumes, deadline_at))
            record.append([run_resumed(run, now)])
            return run

    def change_tags(self, tenant: str, run_id: str, change: TagChange) -> tuple[str, ...] | None:
        with self._state.change_runs():
            record = self._state.runs.get(run_id)
            if record is None or record.run.tenant != tenant:
                return None
            tags = change.apply(record.run.tags)
            record.run = replace(record.run, tags=tags)
            return tags

    def find_request(self, tenant: str, key: str) -> tuple[str, str] | None:
        with self._state.lock:
            return self._state.idempotency_keys.get((tenant, key))

    def _visits(self, run_id: str) -> list[Visit]:
        with self._state.lock:
            record = self._state.runs.get(run_id)
            return [] if record is None else list(record.visits.values())


def _join(record: RunRecord, start: Run, first: Visit) -> Run:
    """Let a start join the pending run of a record, whose first visit is then due later."""
    assert start.debounce is not None
    joined = join_run(record.run, start)
    record.run = replace(joined, debounce=None)
    due_at = start.debounce.due_at(start.created_at, joined.created_at)
    record.put(replace(record.visits[first.id], due_at=due_at))
    return joined
