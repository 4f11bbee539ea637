"""Switches of runs to other plans in the store in memory.

The author of a store decides here how all records of a run are replaced in one write. They must still be
those that were judged.
"""

from __future__ import annotations

from collections import Counter

from noetl.executor.model.run import DEADLINE, END, Run
from noetl.executor.model.run_history import ACTION_EVENTS, RunRecords
from noetl.executor.model.run_switch import SwitchedRun, is_same_state
from noetl.executor.model.run_transition import check_same_request
from noetl.executor.model.special_visits import deadline_visit
from noetl.executor.model.switch_undo import SWITCHED
from noetl.executor.stores.memory.branches import MemoryBranches
from noetl.executor.stores.memory.gates import give_back_switched
from noetl.executor.stores.memory.state import MemoryState, RunRecord
from noetl.executor.stores.memory.visits import MemoryVisits
from noetl.executor.stores.memory.waits import delete_answer
from noetl.planner.frozen import replace


class MemorySwitches:
    """The switches of a store in memory."""

    def __init__(self, state: MemoryState, visits: MemoryVisits) -> None:
        self._state = state
        self._visits = visits

    def read(self, run_id: str, now: float) -> RunRecords:
        with self._state.lock:
            records = _read(self._state.record(run_id), now)
            events = [
                event
                for visit in records.visits
                if records.is_live(visit)
                for event in self._visits.events(run_id, visit.step, visit.number, ACTION_EVENTS)
            ]
            return replace(records, events=events)

    def write(
        self, judged: RunRecords, switched: SwitchedRun, idempotency: tuple[str, str] | None = None
    ) -> Run | None:
        run, state = switched.run, self._state
        with state.change_runs():
            record = state.record(run.id)
            entry = None if idempotency is None else (run.tenant, idempotency[0])
            if idempotency is not None and entry in state.idempotency_keys:
                check_same_request(state.idempotency_keys[entry][0], idempotency[1])
                return record.run
            if not is_same_state(judged, _read(record, judged.read_at)):
                return None
            plan = state.plan(run.plan_hash)
            if idempotency is not None and entry is not None:
                state.idempotency_keys[entry] = (idempotency[1], run.id)
            state.use_plan(run.plan_hash)
            if judged.run.status.is_final:
                record.delete_visits(END, state.plan(judged.run.plan_hash).header.finally_step)
                if run.parent is not None:
                    delete_answer(state, run.parent)
            _replace(record, switched, is_sequential=plan.header.sequential)
            give_back_switched(state, record, judged.read_at)
            if switched.must_end:
                MemoryBranches(state, record, judged.read_at).end_run()
            return run


def _read(record: RunRecord, now: float) -> RunRecords:
    stack = record.stack
    return RunRecords(
        record.run,
        list(record.visits.values()),
        {step: tuple(arrived.values()) for step, arrived in record.arrivals.items() if arrived},
        {step: wave for step, wave in (record.waves if stack is None else stack.waves).items() if wave},
        resumes_ended=record.run.status.is_final,
        read_at=now,
        stack=stack,
        had_other_plans=any(event.type == SWITCHED for event in record.history),
    )


def _replace(record: RunRecord, switched: SwitchedRun, *, is_sequential: bool) -> None:
    """Replace the records of a run that follow from its plan."""
    run, carried = switched.run, switched.carried
    record.run = run
    record.delete_visits(DEADLINE)
    record.put(*carried.visits)
    if run.deadline_at is not None:
        record.put(deadline_visit(run.id, run.resumes, run.deadline_at))
    record.stack = carried.stack if is_sequential else None
    counters = {} if is_sequential else carried.joins
    record.live = Counter({join: live for join, (live, _) in counters.items()})
    record.waves = Counter({join: wave for join, (_, wave) in counters.items()})
    record.clocks = Counter(carried.clocks)
    record.names_of_joins = {}
    record.arrivals = {
        join: {branch.id: branch for branch in arrived} for join, arrived in carried.arrivals.items()
    }
    record.visit_counts = Counter({} if is_sequential else carried.counts)
    record.append(switched.events)
