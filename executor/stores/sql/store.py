"""The part of a store that SQLite and Postgres share: runs, claims and commits in SQL.

Problem: many workers claim and commit visits of one run at the same time. A worker that lost its claim must
not write, and a commit must be complete or not made at all.

Algorithm: two-phase locking (Eswaran et al. 1976). A transaction that writes to a run locks the row of the
run first, so transactions of one run are serial. A parent run is locked before its child run, which excludes
deadlocks. A claim is a conditional update of a due visit that increases its fence. A commit is one
transaction: the outcome under the condition of the fence, then counters, joins, new visits and history.

Cost: one transaction for a claim and one for a commit, each of a few statements.

Limits: a worker that loses a race for a visit chooses at random among more and more due visits, at most
MAX_CANDIDATES.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple, Self

from noetl.executor.errors import FencedError, NotJsonError, PayloadTooLargeError, RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.run import (
    DEADLINE,
    END,
    Branch,
    Claim,
    Commit,
    ErrorRecord,
    FailureState,
    Lease,
    Run,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.worker_identity import is_dead
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.finding import Finding
from noetl.executor.stores.sql.api_keys import SqlApiKeys
from noetl.executor.stores.sql.branches import (
    ACTIVE,
    HEAD,
    BranchTransaction,
    count_live,
    enter,
    enter_deadline,
    started_event,
)
from noetl.executor.stores.sql.consistency import check_consistency
from noetl.executor.stores.sql.database import Database, Result, Writer
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.playbooks import SqlPlaybooks
from noetl.executor.stores.sql.queries import SqlQueries
from noetl.executor.stores.sql.rows import (
    Row,
    encode_events,
    encode_json,
    encode_json_or_null,
    encode_result,
    parent_from_row,
    run_from_row,
    visit_from_row,
)
from noetl.executor.stores.sql.sweep import SqlSweep
from noetl.executor.stores.sql.waits import SqlWaits, delete_answer, give_answer, is_any_answered

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
MAX_CANDIDATES = 64
"""Number of due visits among which a worker chooses after other workers were faster."""

_STILL_SUSPENDED = "status = 'parked' and due_at > ? and progress is not null and error is null"
"""Condition on a parked visit that still waits after a resume. A visit with an error is retried at once."""


class SqlStore(SqlQueries, SqlWaits, SqlSweep):
    """A store in a SQL database."""

    def __init__(self, database: Database, retention_seconds: float | None = None) -> None:
        self.database = database
        self.plans = SqlPlans(database)
        self.registry = SqlPlaybooks(database)
        self.keys = SqlApiKeys(database)
        self.retention_seconds = retention_seconds
        self.changes = ChangeSignal()
        self.work = ChangeSignal()

    @property
    def runs(self) -> Self:
        return self

    @property
    def queue(self) -> Self:
        return self

    @property
    def waits(self) -> Self:
        return self

    @property
    def maintenance(self) -> Self:
        return self

    def close(self) -> None:
        self.database.close()

    def check_consistency(self) -> list[Finding]:
        return check_consistency(self.database)

    def announce_due(self, count: int | None = None) -> None:
        """Signal workers that `count` visits have become due, or that some may have if it is None."""
        self.work.notify(count)

    def create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
    ) -> Run:
        with self._transaction() as db:
            if idempotency is not None:
                insert = "insert into idempotency_keys values (?, ?, ?, ?) on conflict do nothing"
                if db.execute(insert, (run.tenant, *idempotency, run.id)).rowcount == 0:
                    return self._earlier_run(db, run.tenant, *idempotency)
            if not _insert_run(db, run):
                return run_from_row(db.execute("select * from runs where id = ?", (run.id,)).fetchone())
            self.database.mark_run_written(db, run.id)
            for position, visit in enumerate(history):
                _insert_finished(db, run, visit, position)
            step = self.plans.step(run.plan_hash, first.step)
            count_live(db, run.id, dict.fromkeys(step.regions, 1))
            branch = Branch(first.id, first.step, first.clock, first.names, is_counted=step.cyclic)
            enter(db, run.id, run.queue, branch, first.due_at, position=len(history))
            if run.deadline_at is not None:
                enter_deadline(db, run, run.deadline_at)
            payload = {"playbook": run.playbook} | (
                {"resumed_from": run.resumed_from} if run.resumed_from else {}
            )
            _append(db, run.id, 1, [Event("workflow.started", run.created_at, payload=payload)])
        self.announce_due(1)
        return run

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        query = (
            f"select run_id, id, step, number, attempt, started_at from visits where queue = ? and {ACTIVE}"
            " and due_at <= ? order by due_at, position limit ?"
        )
        candidates = 1
        while due := self.database.fetch_all(query, queue, now, candidates):
            claim = self._claim(due[random.randrange(len(due))], lease, now)
            if claim is not None:
                return claim
            # Another worker was faster. Competing workers now choose among more visits, so they collide less.
            candidates = min(candidates * 4, MAX_CANDIDATES)
        return None

    def _claim(self, due: Row, lease: Lease, now: float) -> Claim | None:
        """Claim a visit that a query found due; return None if another worker has claimed it since."""
        with self.database.transaction() as db:
            self.database.lock_run(db, due["run_id"])
            visit_row = db.execute(
                "update visits set status = 'running', claims = claims + 1, fence = fence + 1, worker = ?,"
                " due_at = ?, started_at = coalesce(started_at, ?), piece_at = coalesce(piece_at, ?)"
                f" where run_id = ? and id = ? and {ACTIVE} and due_at <= ? and coalesce(started_at, -1) = ?"
                f" returning {HEAD}, saved",
                (
                    lease.worker, now + lease.seconds, now, now, due["run_id"], due["id"],
                    now, -1 if due["started_at"] is None else due["started_at"],
                ),
            ).fetchone()  # fmt: skip
            if visit_row is None:
                return None
            visit = visit_from_row(visit_row)
            row = db.execute(
                "update runs set seq = seq + 1, status = 'running', started_at = coalesce(started_at, ?)"
                " where id = ? returning *",
                (now, visit.run_id),
            ).fetchone()
            if due["started_at"] is None and not visit.step.startswith("@"):
                _append(db, visit.run_id, row["seq"], [started_event(visit)])
            return Claim(run_from_row(row), visit)

    def next_due(self, queue: str) -> float | None:
        rows = self.database.fetch_all(
            f"select due_at from visits where queue = ? and {ACTIVE} order by due_at limit 1", queue
        )
        return rows[0]["due_at"] if rows else None

    def renew(
        self,
        run_id: str,
        visit_id: str,
        fence: int,
        until: float,
        events: Sequence[Event] = (),
        events_already_written: int = 0,
    ) -> bool:
        query = (
            "update visits set due_at = ? where run_id = ? and id = ? and fence = ? and status = 'running'"
        )
        values = (until, run_id, visit_id, fence)
        if not events:
            with self.database.transaction() as db:
                return db.execute(query, values).rowcount == 1
        with self._transaction() as db:
            self.database.lock_run(db, run_id)
            is_held = db.execute(query, values).rowcount == 1
            if is_held:
                row = db.execute(
                    "update runs set seq = seq + 1 where id = ? returning seq", (run_id,)
                ).fetchone()
                _append(db, run_id, row["seq"], events)
            return is_held

    def release(self, run_id: str, visit_id: str, fence: int, now: float, *, counts: bool) -> None:
        query = (
            "update visits set due_at = ?, fence = fence + 1, claims = claims - ?"
            " where run_id = ? and id = ? and fence = ? and status = 'running'"
        )
        with self._transaction() as db:
            self.database.mark_run_written(db, run_id)
            db.execute(query, (now, 0 if counts else 1, run_id, visit_id, fence))
        self.announce_due(1)

    def release_dead(self, queue: str, now: float) -> int:
        query = (
            f"select distinct worker from visits where queue = ? and {ACTIVE} and status = 'running'"
            " and due_at > ?"
        )
        dead = [row["worker"] for row in self.database.fetch_all(query, queue, now) if is_dead(row["worker"])]
        if not dead:
            return 0
        with self._transaction() as db:
            result = db.execute(
                f"update visits set due_at = ? where queue = ? and {ACTIVE} and status = 'running'"
                f" and worker in ({', '.join('?' * len(dead))})",
                (now, queue, *dead),
            )
        self.announce_due()
        return result.rowcount

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        visit = commit.visit
        outputs = encode_outputs(commit)
        with self._transaction() as db:
            self.database.mark_run_written(db, visit.run_id)
            db.execute(
                "update runs set seq = seq + 1, live = live + ?, failed_branches = failed_branches + ?,"
                " stop = coalesce(stop, ?), error = coalesce(error, ?) where id = ?",
                (
                    commit.branches_change,
                    commit.failed_branches,
                    commit.stop,
                    encode_json_or_null(commit.error),
                    visit.run_id,
                ),
            )
            if commit.awaits and is_any_answered(db, visit.run_id, visit.id, commit.awaits):
                visit = replace(visit, due_at=now)
            written = _update_visit(db, visit, outputs, may_park=not commit.is_finally)
            _store_batch_results(db, visit, outputs.parts)
            read = "select id, plan_hash, queue, seq, live, stop, resumes from runs where id = ?"
            run = db.execute(read, (visit.run_id,)).fetchone()
            _require_claim(visit, written)
            branches = self._branches(db, run, now, claim_for)
            _apply_commit(branches, commit)
            events = [*commit.events, *branches.started_events()]
            if events:
                _append(db, visit.run_id, run["seq"], events)
        is_suspended = visit.finished_at is None
        self.announce_due(max(branches.count + is_suspended - (branches.claimed is not None), 0))
        return branches.claimed

    def finish(
        self, claim: Claim, status: RunStatus, result: Any, errors: Sequence[ErrorRecord], now: float
    ) -> None:
        run, visit = claim.run, claim.visit
        result_text, errors_text = encode_json(result), encode_json(list(errors))
        if len(result_text) + len(errors_text) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(f"the result of the run exceeds {MAX_PAYLOAD_BYTES:,} bytes of JSON")
        with self._transaction() as db:
            if run.parent is not None:
                self.database.lock_run(db, run.parent.run_id)
            self.database.lock_run(db, run.id)
            finished = replace(visit, status=VisitStatus.SUCCEEDED, finished_at=now)
            written = _update_visit(db, finished, EncodedOutputs(), may_park=False)
            db.execute("delete from visits where run_id = ? and step = ?", (run.id, DEADLINE))
            row = db.execute(
                "update runs set seq = seq + 1, status = ?, result = ?, errors = ?,"
                " error = coalesce(error, ?), finished_at = ? where id = ? returning *",
                (
                    status,
                    result_text,
                    errors_text,
                    encode_json_or_null(next(iter(errors), None)),
                    now,
                    run.id,
                ),
            ).fetchone()
            _require_claim(visit, written)
            name = status if status in ("failed", "cancelled", "timed_out") else "completed"
            duration = max(now - (row["started_at"] or now), 0.0)
            event = Event(
                f"workflow.{name}", now, duration_seconds=duration, payload={"status": status.value}
            )
            _append(db, run.id, row["seq"], [event])
            if run.parent is not None:
                give_answer(db, run.parent, "null", now)
        self.announce_due()

    def stop(self, run_id: str, status: RunStatus, now: float) -> Run:
        with self._transaction() as db:
            self.database.lock_run(db, run_id)
            run = run_from_row(db.execute("select * from runs where id = ?", (run_id,)).fetchone())
            if run.status.is_final:
                if run.status is status:
                    return run
                raise RejectedError("finished", f"run {run_id} has already ended: {run.status}")
            stop = self._stop(db, run_id, status, now)
        self.announce_due()
        return replace(run, stop=stop)

    def _stop(self, db: Writer, run_id: str, status: RunStatus, now: float) -> RunStatus:
        self.database.mark_run_written(db, run_id)
        run = db.execute(
            "update runs set stop = coalesce(stop, ?) where id = ?"
            " returning id, plan_hash, queue, seq, live, stop, resumes",
            (status, run_id),
        ).fetchone()
        self._branches(db, run, now).stop_run()
        return RunStatus(run["stop"])

    def resume(
        self, run_id: str, now: float, *, deadline_at: float | None, values: Mapping[str, Mapping[str, Any]]
    ) -> Run:
        with self._transaction() as db:
            parent = parent_from_row(db.execute("select * from runs where id = ?", (run_id,)).fetchone())
            if parent is not None:
                self.database.lock_run(db, parent.run_id)
            self.database.lock_run(db, run_id)
            run = run_from_row(db.execute("select * from runs where id = ?", (run_id,)).fetchone())
            if not run.status.is_final:
                return run
            if run.status is RunStatus.SUCCEEDED:
                raise RejectedError(
                    "not_resumable", f"run {run_id} has succeeded; there is nothing to resume"
                )
            reopened = self._reopen_branches(db, run)
            row = db.execute(
                "update runs set status = 'queued', stop = null, resumes = resumes + 1, seq = seq + 1,"
                " finished_at = null, live = live + ?, failed_branches = 0, result = null, error = null,"
                " errors = '[]', deadline_at = ?, input = coalesce(?, input),"
                " environment = coalesce(?, environment) where id = ? returning *",
                (
                    reopened,
                    deadline_at,
                    *(
                        encode_json(dict(values[name])) if name in values else None
                        for name in ("input", "environment")
                    ),
                    run_id,
                ),
            ).fetchone()
            resumed = run_from_row(row)
            reopened_visits = self._reopen_visits(db, run, now)
            branches = self._branches(db, row, now)
            if branches.header.sequential:
                branches.deactivate_ready_visits()
            if parent is not None:
                delete_answer(db, parent)
            if reopened_visits == 0:
                branches.end_run()
            elif deadline_at is not None:
                enter_deadline(db, resumed, deadline_at)
            event = Event("workflow.resumed", now, payload={"resumes": resumed.resumes})
            _append(db, run_id, row["seq"], [event])
        self.announce_due()
        return resumed

    def _reopen_visits(self, db: Writer, run: Run, now: float) -> int:
        """Make parked and failed visits due, delete the visits that ended the run, and return how many are
        open.
        """
        end_steps = (END, DEADLINE, self.plans.header(run.plan_hash).finally_step)
        db.execute("delete from visits where run_id = ? and step in (?, ?, ?)", (run.id, *end_steps))
        result = db.execute(
            "update visits set attempt = 1,"
            f" status = case when {_STILL_SUSPENDED} then 'waiting' else 'ready' end,"
            " claims = 0, started_at = null, piece_at = null, finished_at = null,"
            f" due_at = case when {_STILL_SUSPENDED} then due_at else ? end,"
            ' "case" = null, error = null, failure = null'
            " where run_id = ? and (status = 'parked' or failure in ('open', 'ended'))",
            (now, now, now, run.id),
        )
        return result.rowcount

    def _reopen_branches(self, db: Writer, run: Run) -> int:
        """Count the branches again that ended in an unhandled failure, and return how many there are."""
        rows = db.execute(
            "select step from visits where run_id = ? and failure = 'ended'", (run.id,)
        ).fetchall()
        for row in rows:
            step = self.plans.step(run.plan_hash, row["step"])
            count_live(db, run.id, dict.fromkeys(step.regions, 1))
        return len(rows)

    def _branches(
        self, db: Writer, run: Row, now: float, claim_for: Lease | None = None
    ) -> BranchTransaction:
        plan_hash = run["plan_hash"]

        def cancel(run_id: str) -> None:
            self._stop(db, run_id, RunStatus.CANCELLED, now)

        header = self.plans.header(plan_hash)
        return BranchTransaction(
            db, run, header, lambda name: self.plans.step(plan_hash, name), cancel, now, claim_for
        )

    @contextmanager
    def _transaction(self) -> Iterator[Writer]:
        """Begin a write transaction that signals a change of runs when it is committed."""
        with self.database.transaction() as db:
            yield db
        self.changes.notify()

    def _earlier_run(self, db: Writer, tenant: str, key: str, request_hash: str) -> Run:
        query = "select request_hash, run_id from idempotency_keys where tenant = ? and key = ?"
        row = db.execute(query, (tenant, key)).fetchone()
        if row["request_hash"] != request_hash:
            message = "the idempotency key was used with another request before"
            raise RejectedError("idempotency_key_reused", message)
        return run_from_row(db.execute("select * from runs where id = ?", (row["run_id"],)).fetchone())


class EncodedOutputs(NamedTuple):
    """The outputs of a visit as JSON. `parts` are batch results: position of the loop, first index, JSON."""

    saved: str | None = None
    result: str | None = None
    progress: str | None = None
    parts: Sequence[tuple[str, int, str]] = ()


def encode_outputs(commit: Commit) -> EncodedOutputs:
    """Return the outputs of a commit as JSON.

    Raises:
        NotJsonError: an output cannot be written as JSON.
        PayloadTooLargeError: the outputs exceed MAX_PAYLOAD_BYTES.
    """
    visit = commit.visit
    try:
        saved = encode_json_or_null(dict(visit.saved))
        result = encode_result(visit.result, visit.saved)
        progress = None if visit.progress is None else encode_json(asdict(visit.progress))
        parts = [(part.loop, part.first, encode_json(list(part.outcomes))) for part in commit.batch_results]
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJsonError(f"an output of the step cannot be written as JSON: {error}") from None
    length = sum(len(text or "") for text in (saved, result, progress, *(text for _, _, text in parts)))
    if length > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(f"the outputs of the step exceed {MAX_PAYLOAD_BYTES:,} bytes of JSON")
    return EncodedOutputs(saved, result, progress, parts)


def _apply_commit(branches: BranchTransaction, commit: Commit) -> None:
    """Apply everything that follows from an outcome that was written: branches, child runs, the end of the
    run.
    """
    visit = commit.visit
    branches.move_branches(commit.branches, commit.counter_changes)
    is_finished = visit.finished_at is not None
    if commit.may_have_children and is_finished:
        branches.cancel_child_runs(visit.id)
    if commit.is_finally:
        if is_finished:
            branches.end_run()
    elif branches.run["stop"] is not None:
        branches.stop_run()
    elif is_finished:
        if branches.header.sequential:
            branches.activate_next_visit(visit.clock, commit.next_names)
        if commit.branches_change < 0 or branches.absorbed:
            query = "select live from runs where id = ?"
            if branches.db.execute(query, (visit.run_id,)).fetchone()["live"] == 0:
                branches.end_run()
        branches.claim_next_due()


def _insert_run(db: Writer, run: Run) -> bool:
    """Add a run, and return False if a run with its id exists."""
    parent = (
        (None, None, None) if run.parent is None else (run.parent.run_id, run.parent.visit_id, run.parent.id)
    )
    inserted = db.execute(
        "insert into runs (id, tenant, playbook, version, plan_hash, status, origin, queue, input,"
        " environment, variables, tags, folder, source, parent_run, parent_visit, parent_wait, depth,"
        f" resumed_from, trace, created_at, deadline_at, live, seq) values ({', '.join('?' * 23)}, 1)"
        " on conflict do nothing",
        (
            run.id, run.tenant, run.playbook, run.version, run.plan_hash, run.status, run.origin, run.queue,
            encode_json(dict(run.input)), encode_json(dict(run.environment)),
            encode_json(dict(run.variables)), encode_json(list(run.tags)), run.folder, run.source, *parent,
            run.depth, run.resumed_from, run.trace, run.created_at, run.deadline_at, run.live,
        ),
    )  # fmt: skip
    return inserted.rowcount == 1


def _insert_finished(db: Writer, run: Run, visit: Visit, position: int) -> None:
    """Add a visit that another run has finished."""
    db.execute(
        "insert into visits (run_id, id, step, queue, status, position, clock, names, number, attempt,"
        ' due_at, started_at, finished_at, saved, result, "case", error, failure)'
        f" values ({', '.join('?' * 18)})",
        (
            run.id, visit.id, visit.step, run.queue, visit.status, position, visit.clock,
            encode_json(visit.names), visit.number, visit.attempt, visit.due_at, visit.started_at,
            visit.finished_at, encode_json_or_null(dict(visit.saved)),
            encode_result(visit.result, visit.saved), visit.case,
            encode_json_or_null(visit.error), visit.failure,
        ),
    )  # fmt: skip


def _update_visit(db: Writer, visit: Visit, outputs: EncodedOutputs, *, may_park: bool) -> Result:
    """Write the outcome of a visit, if its claim is held. A suspended visit of a stopping run is parked."""
    return db.execute(
        "update visits set status = case when ? and exists"
        " (select 1 from runs where id = visits.run_id and stop is not null) then 'parked' else ? end,"
        " attempt = ?, claims = ?, due_at = ?, started_at = ?, piece_at = ?, finished_at = ?, saved = ?,"
        ' result = ?, "case" = ?, error = ?, failure = ?, progress = ?'
        " where run_id = ? and id = ? and fence = ? and status = 'running'",
        (
            may_park and visit.finished_at is None, visit.status, visit.attempt, visit.claims, visit.due_at,
            visit.started_at, visit.segment_started_at, visit.finished_at, outputs.saved, outputs.result,
            visit.case, encode_json_or_null(visit.error), visit.failure, outputs.progress, visit.run_id,
            visit.id, visit.fence,
        ),
    )  # fmt: skip


def _require_claim(visit: Visit, written: Result) -> None:
    """Raise FencedError if nothing was written because the claim of the visit is lost."""
    if written.rowcount == 0:
        raise FencedError(f"the claim of step `{visit.step}` is lost")


def _store_batch_results(db: Writer, visit: Visit, parts: Sequence[tuple[str, int, str]]) -> None:
    """Add batch results of loops, and delete them when the visit is done or starts another round."""
    if visit.progress is None:
        return
    rows = [(visit.run_id, visit.id, *part) for part in parts]
    insert = (
        "insert into parts values (?, ?, ?, ?, ?)"
        " on conflict (run_id, visit_id, loop, position) do update set body = excluded.body"
    )
    db.executemany(insert, rows)
    may_continue = visit.finished_at is None or visit.failure in (FailureState.OPEN, FailureState.ENDED)
    if not visit.progress.journal or not may_continue:
        db.execute("delete from parts where run_id = ? and visit_id = ?", (visit.run_id, visit.id))


def _append(db: Writer, run_id: str, seq: int, events: Sequence[Event]) -> None:
    """Append an entry to the history of a run."""
    db.execute("insert into history values (?, ?, ?)", (run_id, seq, encode_events(events)))
