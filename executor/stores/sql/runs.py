"""Runs in a SQL store: their start, questions about them, stop and resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from noetl.executor.errors import DamagedRunError, StoreAwayError, StoreError
from noetl.executor.model.branch_stack import BranchStack, first_stack
from noetl.executor.model.byte_kind import ByteKind
from noetl.executor.model.child_runs import too_many_child_runs
from noetl.executor.model.continued_run import ContinuedRun
from noetl.executor.model.debounce import identify_firing, request_of_firing
from noetl.executor.model.events import Event
from noetl.executor.model.large_json import read_large_json
from noetl.executor.model.metrics import RUN_STARTED
from noetl.executor.model.run import (
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
from noetl.executor.model.run_summary import RunOverview, RunSummary, StepVisits
from noetl.executor.model.run_tags import TagChange, tag_keys
from noetl.executor.model.run_transition import (
    check_same_request,
    is_resumable,
    resume_run,
    run_resumed,
    run_started,
    stop_run,
)
from noetl.executor.model.special_visits import deadline_visit
from noetl.executor.model.stored_json import encode_json, encode_payload
from noetl.executor.model.triggers import Advance, name_run
from noetl.executor.model.visit_transition import enter_step, mark_skipped
from noetl.executor.precedence import wait_for_slice
from noetl.executor.stores.cursors import read_event_id
from noetl.executor.stores.damage import reading_run
from noetl.executor.stores.plan_uses import deleted_plan
from noetl.executor.stores.sql.branches import (
    BranchTransaction,
    add_joins,
    count_live,
    count_visit,
    insert_visit,
    read_run,
    stop_branches,
)
from noetl.executor.stores.sql.cascade_completion import PendingCascadeError, SqlCascades
from noetl.executor.stores.sql.cascades import Cascade
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import UnwrittenError, Writer
from noetl.executor.stores.sql.debounced import find_pending, write_joined
from noetl.executor.stores.sql.facts import add_fact
from noetl.executor.stores.sql.history import append_events
from noetl.executor.stores.sql.latest_visits import read_latest_of_run
from noetl.executor.stores.sql.outbox import add_entries
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.rows import (
    decode_events,
    decode_json,
    encode_json_or_null,
    encode_result,
    encode_run_data,
    run_from_row,
    summary_from_row,
    visit_from_row,
    visit_summary_from_row,
)
from noetl.executor.stores.sql.run_deletion import LeftoversError, start_after_deletion
from noetl.executor.stores.sql.run_list import count_runs, find_runs
from noetl.executor.stores.sql.triggers import write_advance
from noetl.executor.stores.sql.waits import delete_answer, list_waits
from noetl.planner.frozen import frozen, replace


class _Addition(Protocol):
    """An addition to the transaction that starts a run."""

    def find_earlier(self, db: Writer) -> Run | None:
        """Return the run that this start has made before, or None if its key and its id say it."""

    def write(self, db: Writer, run_id: str) -> None:
        """Add the last writes, for the run that was started or joined."""


@frozen
class _ChildRun:
    """The count of the child runs of a root.

    Starts of the same root wait for each other, so it comes last.
    """

    run: Run
    limit: int

    def find_earlier(self, _: Writer) -> Run | None:
        return None

    def write(self, db: Writer, _: str) -> None:
        """Count the child run.

        Raises:
            RejectedError: `quota_exceeded`.
        """
        root, now = self.run.root, self.run.created_at
        if root is None:
            return
        if db.execute("runs.count_child_run", root=root, now=now, limit=self.limit).rowcount != 1:
            raise too_many_child_runs(root, self.limit)


@frozen
class _FiredRun:
    """The firing that starts a run: the advance of its trigger."""

    run: Run
    advance: Advance

    def find_earlier(self, db: Writer) -> Run | None:
        """Return the run that this firing has started or joined.

        Another version of its playbook may have been live then, with `debounce` or without.
        """
        key, _ = identify_firing(self.run.id)
        request = db.execute("runs.get_idempotency_key", tenant=self.run.tenant, key=key).fetchone()
        if request is not None:
            return read_run(db, request["run_id"])
        waits = self.run.debounce is not None
        row = db.execute("runs.read", run_id=self.run.id).fetchone() if waits else None
        return None if row is None else run_from_row(row)

    def write(self, db: Writer, run_id: str) -> None:
        write_advance(db, name_run(self.advance, run_id))


class SqlRuns:
    """The runs of a SQL store."""

    def __init__(self, context: SqlContext, plans: SqlPlans) -> None:
        self._context = context
        self._plans = plans
        self._cascades = SqlCascades(context, plans)

    def create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
        max_child_runs: int | None = None,
    ) -> Run:
        addition = None if max_child_runs is None else _ChildRun(run, max_child_runs)
        return start_after_deletion(
            self._context, run.id, lambda: self._create(run, first, idempotency, history, addition)
        )

    def fire(self, run: Run, first: Visit, advance: Advance) -> Run:
        header = self._plans.header(run.plan_hash)
        idempotency = request_of_firing(run, header, advance.start_key)
        fired = _FiredRun(run, advance)
        return start_after_deletion(
            self._context, run.id, lambda: self._create(run, first, idempotency, addition=fired)
        )

    def _create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
        addition: _Addition | None = None,
    ) -> Run:
        """Start a run, or join a pending one."""
        values, finished = encode_run_data(run), _encode_finished(run, history)
        with self._starting(run) as db:
            pending = find_pending(db, run, first)
            earlier = None if addition is None else addition.find_earlier(db)
            if earlier is not None:
                return earlier
            if pending is not None:
                earlier_id = None if idempotency is None else add_request(db, pending, idempotency)
                if earlier_id is not None:
                    return read_run(db, earlier_id)
                if addition is not None:
                    addition.write(db, pending.id)
                return write_joined(db, pending, run, first)
            step = self._plans.step(run.plan_hash, first.step)
            is_sequential = self._plans.header(run.plan_hash).sequential
            stack = first_stack(step) if is_sequential else None
            earlier = _begin(db, run, values, stack, idempotency)
            if earlier is not None:
                return earlier
            db.executemany("runs.add_finished_visit", finished)
            if not is_sequential:
                count_live(db, run.id, dict.fromkeys(step.regions, 1))
            branch = Branch(first.id, first.step, first.clock, first.names, is_counted=step.cyclic)
            visit = enter_step(branch, run.id, first.due_at, count_visit(db, run.id, branch))
            insert_visit(db, visit, run.queue, position=len(history))
            _add_start(db, run)
            if run.debounce is not None:
                db.execute("runs.put_debounced", key=run.debounce.key, run_id=run.id)
            if addition is not None:
                addition.write(db, run.id)
        self._context.announce_due(1)
        return run

    def create_continued(self, continued: ContinuedRun, idempotency: tuple[str, str] | None = None) -> Run:
        return start_after_deletion(
            self._context, continued.run.id, lambda: self._create_continued(continued, idempotency)
        )

    def _create_continued(self, continued: ContinuedRun, idempotency: tuple[str, str] | None) -> Run:
        run, carried, history = continued.run, continued.carried, continued.history
        values, finished = encode_run_data(run), _encode_finished(run, history)
        with self._starting(run) as db:
            is_sequential = self._plans.header(run.plan_hash).sequential
            earlier = _begin(db, run, values, carried.stack if is_sequential else None, idempotency)
            if earlier is not None:
                return earlier
            db.executemany("runs.add_finished_visit", finished)
            for position, visit in enumerate(carried.visits, len(history)):
                insert_visit(db, visit, run.queue, position)
            if not is_sequential:
                add_joins(db, run.id, carried)
            _add_start(db, run)
        self._context.announce_due(len(carried.visits))
        return run

    @contextmanager
    def _starting(self, run: Run) -> Iterator[Writer]:
        """Run this block in the transaction that starts a run, whose plan is then kept.

        Raises:
            StoreError: the plan was deleted.
        """
        now = self._context.database.clock()
        is_touched = not self._plans.uses.is_recent(run.plan_hash, now)
        try:
            with self._context.transaction() as db:
                if is_touched:
                    self._plans.touch(db, run.plan_hash, now)
                yield db
        except StoreError as error:
            self._plans.uses.forget(run.plan_hash)
            if isinstance(error, StoreAwayError) or self._plans.exists(run.plan_hash):
                raise
            raise deleted_plan(run.plan_hash) from error
        if is_touched:
            self._plans.uses.record(run.plan_hash, now)

    def get(self, tenant: str, run_id: str) -> Run | None:
        rows = self._context.database.fetch_all("runs.get", tenant=tenant, run_id=run_id)
        return replace(run_from_row(rows[0]), status=RunStatus(rows[0]["shown"])) if rows else None

    def summary(self, tenant: str, run_id: str) -> RunSummary | None:
        rows = self._context.database.fetch_all("runs.summary", tenant=tenant, run_id=run_id)
        with reading_run(run_id):
            return summary_from_row(rows[0]) if rows else None

    def overview(self, tenant: str, run_id: str) -> RunOverview | None:
        rows = self._context.database.fetch_all("runs.summary", tenant=tenant, run_id=run_id)
        if not rows:
            return None
        visits = read_latest_of_run(self._context.database, rows[0])
        steps, damage = {}, rows[0]["damage"]
        for row in visits:
            wait_for_slice()
            try:
                with reading_run(run_id):
                    steps[row["step"]] = StepVisits(visit_summary_from_row(row), row["started"])
            except DamagedRunError:
                if damage is None:
                    raise
        with reading_run(run_id):
            return RunOverview(summary_from_row(rows[0]), decode_json(rows[0]["error"]), steps, damage)

    def find(self, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
        return find_runs(self._context.database, run_filter)

    def count(self, run_filter: RunFilter, step_seconds: float | None, limit: int) -> RunCounts:
        return count_runs(self._context.database, run_filter, step_seconds, limit)

    def live_runs(self, tenant: str, playbook: str, plan_hashes: Sequence[str], limit: int) -> list[str]:
        rows = self._context.database.fetch_all(
            "runs.find_live",
            tenant=tenant,
            playbook=playbook,
            queue=SERVICE_QUEUE,
            ids=self._context.database.encode_list(plan_hashes),
            limit=limit,
        )
        return [row["id"] for row in rows]

    def visits(self, run_id: str) -> list[Visit]:
        return [visit_from_row(row) for row in self._context.database.fetch_all("runs.visits", run_id=run_id)]

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        if visit_ids is None:
            rows = self._context.database.fetch_all("runs.visits_with_outputs", run_id=run_id)
        else:
            ids = self._context.database.encode_list(visit_ids)
            rows = self._context.database.fetch_all("runs.some_visits_with_outputs", run_id=run_id, ids=ids)
        return [visit_from_row(row) for row in rows]

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        rows = self._context.database.fetch_all(
            "runs.batch_results", run_id=run_id, visit_id=visit_id, loop=loop
        )
        return [read_large_json(row["body"]) for row in rows]

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        seq, index = read_event_id(run_id, after)
        rows = self._context.database.fetch_all("history.find", run_id=run_id, seq=seq, limit=limit + 1)
        events: list[Event] = []
        for row in rows:
            entry = decode_events(run_id, row["seq"], row["events"])
            events += entry[index + 1 :] if row["seq"] == seq else entry
        return events[:limit]

    def positions(self, run_ids: Sequence[str]) -> dict[str, HistoryPosition]:
        if not run_ids:
            return {}
        ids = self._context.database.encode_list(run_ids)
        rows = self._context.database.fetch_all("runs.positions", ids=ids)
        return {row["id"]: HistoryPosition(RunStatus(row["status"]), row["seq"]) for row in rows}

    def add_bytes(self, run_id: str, kind: ByteKind, size: int) -> int:
        """Add to the bytes that a run has logged or written, and return their sum of all processes."""
        with self._context.database.transaction() as db:
            row = db.execute("runs.add_bytes", run_id=run_id, kind=kind, size=size).fetchone()
            return size if row is None else int(row["bytes"])

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        if not run_ids:
            return set()
        rows = self._context.database.fetch_all(
            "runs.find_cancelled", ids=self._context.database.encode_list(run_ids)
        )
        return {row["id"] for row in rows}

    def stop(self, run_id: str, status: RunStatus, now: float, reason: ErrorRecord | None = None) -> Run:
        with self._context.transaction() as db:
            db.lock_run(run_id)
            run = stop_run(read_run(db, run_id), status, reason)
            if run.status.is_final:
                return run
            if reason is not None:
                db.execute("runs.explain_stop", run_id=run_id, error=encode_json_or_null(run.error))
            stop = stop_branches(Cascade(db, now), self._plans, run_id, status)
        self._context.announce_due()
        self._cascades.complete(run_id, now)
        return replace(run, stop=stop)

    def resume(
        self,
        run_id: str,
        now: float,
        *,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
        idempotency: tuple[str, str] | None = None,
    ) -> Run:
        while True:
            try:
                return self._resume(run_id, now, deadline_at, values, idempotency)
            except PendingCascadeError:
                self._cascades.complete(run_id, now)

    def _resume(
        self,
        run_id: str,
        now: float,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
        idempotency: tuple[str, str] | None,
    ) -> Run:
        """Resume a run.

        Raises:
            PendingCascadeError: child runs have not followed the stop of the run.
        """
        with self._context.transaction() as db:
            parent = read_run(db, run_id).parent
            if parent is not None:
                db.lock_run(parent.run_id)
            db.lock_run(run_id)
            if db.execute("cascades.find_of_run", run_id=run_id).fetchone() is not None:
                raise PendingCascadeError
            run = read_run(db, run_id)
            header = self._plans.header(run.plan_hash)
            if idempotency is not None and add_request(db, run, idempotency) is not None:
                return run
            if not is_resumable(run, header):
                return run
            db.execute("runs.delete_end", run_id=run.id, finally_step=header.finally_step)
            _mark_skipped(db, run, values.get("skips", {}))
            rows = db.execute("runs.find_reopened_visits", run_id=run.id).fetchall()
            visits = [visit_from_row(row) for row in rows]
            ended = [visit for visit in visits if visit.failure is FailureState.ENDED]
            resumed = resume_run(run, deadline_at, values, len(ended))
            row = _write_resumed(db, resumed)
            branches = BranchTransaction(db, self._plans, row, now)
            list_waits(db, run_id)
            if parent is not None:
                delete_answer(db, parent)
            if not branches.resume(visits):
                branches.end_run()
            elif deadline_at is not None:
                insert_visit(db, deadline_visit(run_id, resumed.resumes, deadline_at), run.queue, position=0)
            append_events(db, run_id, row["seq"], [run_resumed(resumed, now)])
        self._context.announce_due()
        return resumed

    def change_tags(self, tenant: str, run_id: str, change: TagChange) -> tuple[str, ...] | None:
        with self._context.transaction() as db:
            db.lock_run(run_id)
            row = db.execute("runs.find_tags", run_id=run_id, tenant=tenant).fetchone()
            if row is None:
                return None
            tags = change.apply(json.loads(row["tags"]))
            db.execute("runs.set_tags", run_id=run_id, tags=encode_json(list(tags)))
            db.execute("sweep.delete_tags", ids=self._context.database.encode_list([run_id]))
            _add_tags(db, run_id, tags)
            return tags

    def find_request(self, tenant: str, key: str) -> tuple[str, str] | None:
        rows = self._context.database.fetch_all("runs.get_idempotency_key", tenant=tenant, key=key)
        return (rows[0]["request_hash"], rows[0]["run_id"]) if rows else None


def _begin(
    db: Writer,
    run: Run,
    values: Mapping[str, str],
    stack: BranchStack | None,
    idempotency: tuple[str, str] | None,
) -> Run | None:
    """Add a run with its encoded values, or return the run of an earlier request with the same key or id."""
    if idempotency is not None:
        earlier_id = add_request(db, run, idempotency)
        if earlier_id is not None:
            return read_run(db, earlier_id)
    if not _insert_run(db, run, values, stack):
        return read_run(db, run.id)
    db.mark_run_written(run.id)
    return None


def _add_start(db: Writer, run: Run) -> None:
    """Add what each new run has: its deadline, its tags, the event of its start, and its entries."""
    if run.deadline_at is not None:
        insert_visit(db, deadline_visit(run.id, run.resumes, run.deadline_at), run.queue, position=0)
    _add_tags(db, run.id, run.tags)
    add_entries(db, entries_of_start(run))
    append_events(db, run.id, 1, [run_started(run)])
    add_fact(db, run.id, RUN_STARTED)


def _add_tags(db: Writer, run_id: str, tags: Sequence[str]) -> None:
    """Add rows of tags, by which a list finds the run. They have the keys of tags, too."""
    rows = [{"run_id": run_id, "tag": encode_json(tag)} for tag in (*tags, *tag_keys(tags))]
    db.executemany("runs.add_tag", rows)


def add_request(db: Writer, run: Run, idempotency: tuple[str, str]) -> str | None:
    """Record the idempotency key of a request. Return the id of the run that an earlier one had, or None.

    A key that a deleted run has left is taken over.

    Raises:
        RejectedError: `idempotency_key_reused`.
    """
    key, request_hash = idempotency
    names = {"tenant": run.tenant, "key": key}
    added = db.execute("runs.add_idempotency_key", **names, request_hash=request_hash, run_id=run.id)
    if added.rowcount == 1:
        return None
    earlier = db.execute("runs.get_idempotency_key", **names).fetchone()
    if earlier is None:
        raise UnwrittenError("The run of an idempotency key was deleted at the same time.")
    check_same_request(earlier["request_hash"], request_hash)
    return str(earlier["run_id"])


def _insert_run(db: Writer, run: Run, values: Mapping[str, str], stack: BranchStack | None) -> bool:
    """Add a run, and return False if a run with its id exists. In sequential mode it has a `stack`.

    Raises:
        LeftoversError: a deleted run with its id has left rows.
    """
    parent = run.parent
    added = db.execute(
        "runs.add",
        id=run.id,
        tenant=run.tenant,
        playbook=run.playbook,
        version=run.version,
        plan_hash=run.plan_hash,
        status=run.status,
        origin=run.origin,
        queue=run.queue,
        **db.columns_of_run(values),
        tags=encode_json(list(run.tags)),
        folder=run.folder,
        source=run.source,
        parent_run=None if parent is None else parent.run_id,
        parent_visit=None if parent is None else parent.visit_id,
        parent_wait=None if parent is None else parent.id,
        depth=run.depth,
        root=run.root,
        resumed_from=run.resumed_from,
        trace=run.trace,
        created_at=run.created_at,
        deadline_at=run.deadline_at,
        live=run.live,
        stack=None if stack is None else encode_json(stack.to_json()),
        trigger=None if run.trigger is None else encode_json(dict(run.trigger)),
    )
    # Its snapshot is later than that of the insertion, which waits for a deletion at the same time.
    leftovers = db.execute("deletions.find", run_id=run.id)
    if added.rowcount != 1:
        return False
    if leftovers.fetchone() is not None:
        raise LeftoversError
    db.write_run_data(run.id, values)
    return True


def _encode_finished(run: Run, history: Sequence[Visit]) -> list[dict[str, Any]]:
    """Return the rows of visits that another run has finished."""
    return [
        {
            "run_id": run.id,
            "visit_id": visit.id,
            "step": visit.step,
            "queue": run.queue,
            "status": visit.status,
            "position": position,
            "clock": visit.clock,
            "names": encode_json(visit.names),
            "number": visit.number,
            "attempt": visit.attempt,
            "due_at": visit.due_at,
            "started_at": visit.started_at,
            "finished_at": visit.finished_at,
            "saved": encode_json_or_null(dict(visit.saved)),
            "result": encode_result(visit.result, visit.saved),
            "case": visit.case,
            "error": encode_json_or_null(visit.error),
            "failure": visit.failure,
            "failures": encode_payload(list(visit.failures)) if visit.failures else None,
        }
        for position, visit in enumerate(history)
    ]


def _mark_skipped(db: Writer, run: Run, skips: Mapping[str, Any]) -> None:
    """Mark the visits whose work a resume leaves out."""
    for id, skip in skips.items():
        row = db.execute("branches.read_visit", run_id=run.id, visit_id=id).fetchone()
        marked = mark_skipped(visit_from_row(row), skip, run.resumes + 1)
        assert marked.progress is not None
        progress = encode_json(asdict(marked.progress))
        db.execute("runs.mark_skipped", run_id=run.id, visit_id=id, progress=progress, due_at=marked.due_at)


def _write_resumed(db: Writer, run: Run) -> Any:
    """Write a run that `resume_run` returned, and return the columns that its branches need."""
    data = encode_run_data(run)
    db.write_run_data(run.id, data)
    return db.execute(
        "runs.resume",
        run_id=run.id,
        status=run.status,
        stop=run.stop,
        resumes=run.resumes,
        finished_at=run.finished_at,
        live=run.live,
        failed_branches=run.failed_branches,
        error=encode_json_or_null(run.error),
        errors=encode_json(list(run.errors)),
        deadline_at=run.deadline_at,
        **db.columns_of_run(data),
    ).fetchone()
