"""Switches of runs to other plans in a SQL store.

Problem: a verdict takes longer than a transaction should, and the run may change meanwhile.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). The records are read and judged without a
lock. The transaction that writes has locked the run, reads the records again, and writes only if they are
equal. So no verdict is about another state than the one that is replaced.

Cost: two reads of the records of the run, and one write for each visit that continues.

Limits: a run that changes all the time is judged again each time. A pause ends that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from noetl.executor.model.branch_stack import BranchStack
from noetl.executor.model.run import Branch, Run, Visit
from noetl.executor.model.run_history import ACTION_EVENTS, RunRecords
from noetl.executor.model.run_switch import SwitchedRun, is_same_state
from noetl.executor.model.run_transition import unknown_run
from noetl.executor.model.special_visits import deadline_visit
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.switch_undo import SWITCHED
from noetl.executor.stores.sql.branches import BranchTransaction, insert_visit
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.history import append_events
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.rows import (
    Row,
    claim_values,
    encode_json_or_null,
    encode_run_data,
    run_from_row,
    visit_from_row,
)
from noetl.executor.stores.sql.runs import add_request
from noetl.executor.stores.sql.slots import take_slots
from noetl.executor.stores.sql.visits import SqlVisits
from noetl.executor.stores.sql.waits import delete_answer, list_waits
from noetl.planner.frozen import replace


class SqlSwitches:
    """The switches of a SQL store."""

    def __init__(self, context: SqlContext, plans: SqlPlans, visits: SqlVisits) -> None:
        self._context = context
        self._plans = plans
        self._visits = visits

    def read(self, run_id: str, now: float) -> RunRecords:
        with self._context.database.transaction() as db:
            db.lock_run(run_id)
            records = _read(db, run_id, now)
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
        run = switched.run
        old, new = self._plans.header(judged.run.plan_hash), self._plans.header(run.plan_hash)
        now = self._context.database.clock()
        with self._context.transaction() as db:
            if run.parent is not None:
                db.lock_run(run.parent.run_id)
            db.lock_run(run.id)
            if not is_same_state(judged, _read(db, run.id, judged.read_at)):
                return None
            if idempotency is not None and add_request(db, run, idempotency) is not None:
                return judged.run
            self._plans.touch(db, run.plan_hash, now)
            if judged.run.status.is_final:
                db.execute("runs.delete_end", run_id=run.id, finally_step=old.finally_step)
                list_waits(db, run.id)
                if run.parent is not None:
                    delete_answer(db, run.parent)
            row = _replace(db, judged, switched, is_sequential=new.sequential)
            _give_back_slots(db, run.id, judged.read_at)
            if switched.must_end:
                BranchTransaction(db, self._plans, row, judged.read_at).end_run()
        self._plans.uses.record(run.plan_hash, now)
        self._context.announce_due()
        return run


def _give_back_slots(db: Writer, run_id: str, now: float) -> None:
    """Give back slots, since the new plan may have other limits. Their visits ask again.

    Visits that are executed keep theirs, and the run what it holds.
    """
    db.execute("gates.wake_queued", run_id=run_id, now=now)
    take_slots(db, "gates.take_switched", run_id=run_id)


def _read(db: Writer, run_id: str, now: float) -> RunRecords:
    row = db.execute("runs.read", run_id=run_id).fetchone()
    if row is None:
        raise unknown_run(run_id)
    run = run_from_row(row)
    stack = None if row["stack"] is None else BranchStack.from_json(json.loads(row["stack"]))
    arrivals: dict[str, list[Branch]] = {}
    for row in db.execute("switches.arrivals", run_id=run_id).fetchall():
        branch = Branch(row["id"], row["step"], row["clock"], _decode_names(row), is_arrival=True)
        arrivals.setdefault(branch.step, []).append(branch)
    if stack is not None:
        waves = dict(stack.waves)
    else:
        joins = db.execute("switches.joins", run_id=run_id).fetchall()
        waves = {row["step"]: row["wave"] for row in joins}
    visits = [visit_from_row(row) for row in db.execute("switches.visits", run_id=run_id).fetchall()]
    fired = {step: wave for step, wave in waves.items() if wave}
    is_final = run.status.is_final
    needle = f'"{SWITCHED}"'
    is_switched = db.execute("switches.find_event", run_id=run_id, needle=needle).fetchone() is not None
    return RunRecords(
        run,
        visits,
        arrivals,
        fired,
        resumes_ended=is_final,
        read_at=now,
        stack=stack,
        had_other_plans=is_switched,
    )


def _decode_names(row: Row) -> dict[str, tuple[int, str]]:
    return {name: (clock, id) for name, (clock, id) in json.loads(row["names"]).items()}


def _replace(db: Writer, judged: RunRecords, switched: SwitchedRun, *, is_sequential: bool) -> Row:
    """Replace the records of a run that follow from its plan. Return the columns that its branches need."""
    run, carried = switched.run, switched.carried
    data = encode_run_data(run)
    db.write_run_data(run.id, data)
    values = _run_values(switched, is_sequential=is_sequential)
    row: Row = db.execute("switches.write_run", **values, **db.columns_of_run(data)).fetchone()
    known = {visit.id for visit in judged.visits}
    db.executemany(
        "switches.write_visit", [_visit_values(visit) for visit in carried.visits if visit.id in known]
    )
    _write_skips(db, judged, carried.visits)
    added = [visit for visit in carried.visits if visit.id not in known]
    for index, visit in enumerate(added):
        insert_visit(db, visit, run.queue, position=(row["seq"] << 12) + index)
        if visit.saved:
            _write_given(db, visit)
    db.execute("branches.delete_deadline", run_id=run.id)
    if run.deadline_at is not None:
        insert_visit(db, deadline_visit(run.id, run.resumes, run.deadline_at), run.queue, position=0)
    for query in ("switches.delete_joins", "switches.delete_arrivals", "switches.delete_visit_counts"):
        db.execute(query, run_id=run.id)
    if not is_sequential:
        _add_counters(db, switched)
    append_events(db, run.id, row["seq"], switched.events)
    return row


def _write_skips(db: Writer, judged: RunRecords, carried: Sequence[Visit]) -> None:
    """Write the marks of the visits whose work is left out. The progress of all others stays as it is."""
    before = {visit.id: visit.progress for visit in judged.visits}
    for visit in carried:
        if visit.progress is not None and visit.progress != before.get(visit.id):
            progress = encode_json(asdict(visit.progress))
            db.execute(
                "runs.mark_skipped",
                run_id=visit.run_id,
                visit_id=visit.id,
                progress=progress,
                due_at=visit.due_at,
            )


def _add_counters(db: Writer, switched: SwitchedRun) -> None:
    run_id, carried = switched.run.id, switched.carried
    counters: dict[str, tuple[int, int]] = {**dict.fromkeys(carried.clocks, (0, 0)), **carried.joins}
    joins = [
        {"run_id": run_id, "step": join, "live": live, "wave": wave, "clock": carried.clocks.get(join, 0)}
        for join, (live, wave) in counters.items()
    ]
    arrivals = [
        {"run_id": run_id, "step": join, "id": b.id, "clock": b.clock, "names": encode_json(b.names)}
        for join, arrived in carried.arrivals.items()
        for b in arrived
    ]
    counts = [{"run_id": run_id, "step": step, "visits": n} for step, n in carried.counts.items()]
    db.executemany("switches.add_join", joins)
    db.executemany("branches.add_arrival", arrivals)
    db.executemany("switches.add_count", counts)


def _run_values(switched: SwitchedRun, *, is_sequential: bool) -> dict[str, Any]:
    run = switched.run
    return {
        "run_id": run.id,
        "plan_hash": run.plan_hash,
        "version": run.version,
        "source": run.source,
        "status": run.status,
        "stop": run.stop,
        "resumes": run.resumes,
        "finished_at": run.finished_at,
        "live": run.live,
        "failed_branches": run.failed_branches,
        "error": encode_json_or_null(run.error),
        "errors": encode_json(list(run.errors)),
        "deadline_at": run.deadline_at,
        "stack": encode_json(switched.carried.stack.to_json()) if is_sequential else None,
    }


def _visit_values(visit: Visit) -> dict[str, Any]:
    return {
        **claim_values(visit),
        "step": visit.step,
        "clock": visit.clock,
        "names": encode_json(visit.names),
        "number": visit.number,
        "attempt": visit.attempt,
        "finished_at": visit.finished_at,
        "case": visit.case,
        "error": encode_json_or_null(visit.error),
        "failure": visit.failure,
    }


def _write_given(db: Writer, visit: Visit) -> None:
    """Write the given values, which a finished visit holds."""
    saved = encode_json(dict(visit.saved))
    db.execute(
        "switches.write_given",
        run_id=visit.run_id,
        visit_id=visit.id,
        saved=saved,
        finished_at=visit.finished_at,
    )
