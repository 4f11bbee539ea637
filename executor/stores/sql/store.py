"""Runs in a database that speaks SQL: what SQLite and Postgres have in common.

Every transaction that writes to a run locks it first, so those of one run follow each other. A run that another waits for
is locked after that one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from noetl.executor.errors import FencedError, NotPlainError, PayloadTooLargeError, RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.run import (
    DEADLINE,
    END,
    Branch,
    Claim,
    Commit,
    ErrorRecord,
    Failure,
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
    started,
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
from noetl.executor.stores.sql.waits import SqlWaits, forget_answer, give_answer, is_any_answered

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
MOST_CROWDED = 64
"""Among how many visits that are due a worker chooses, when others are after the same ones."""

_STILL_WAITS = "status = 'parked' and due_at > ? and progress is not null and error is null"
"""Of a visit that is resumed. One with an error was to be tried again: that is done at once."""


class SqlStore(SqlPlans, SqlQueries, SqlWaits, SqlPlaybooks, SqlApiKeys, SqlSweep):
    """The store in a database."""

    def __init__(self, database: Database, retention_seconds: float | None = None) -> None:
        super().__init__(database)
        self.retention_seconds = retention_seconds
        self.changes = ChangeSignal()
        self.work = ChangeSignal()

    def close(self) -> None:
        self.database.close()

    def check_consistency(self) -> list[Finding]:
        return check_consistency(self.database)

    def announce_due(self, pieces: int | None = None) -> None:
        """Let workers know that so many visits have become due, or (None) that some may have."""
        self.work.notify(pieces)

    def create_run(
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
                    return self._earlier(db, run.tenant, *idempotency)
            if not _insert_run(db, run):
                return run_from_row(db.execute("select * from runs where id = ?", (run.id,)).fetchone())
            self.database.mark_run_written(db, run.id)
            for position, past in enumerate(history):
                _insert_finished(db, run, past, position)
            step = self.plan_step(run.plan_hash, first.step)
            count_live(db, run.id, dict.fromkeys(step.regions, 1))
            branch = Branch(first.id, first.step, first.clock, first.names, counted=step.cyclic)
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
        find = f"select run_id, id, step, number, attempt, started_at from visits where queue = ? and {ACTIVE} and due_at <= ? order by due_at, position limit ?"
        crowd = 1
        while due := self.database.fetch_all(find, queue, now, crowd):
            found = due[random.randrange(len(due))]
            claim = self._claim(found, lease, now)
            if claim is not None:
                return claim
            # Another worker was faster, and may be so again: from now on they are to look for different ones.
            crowd = min(crowd * 4, MOST_CROWDED)
        return None

    def _claim(self, due: Row, lease: Lease, now: float) -> Claim | None:
        """The claim of a visit that was due when it was found, unless somebody has it now."""
        with self.database.transaction() as db:
            self.database.lock_run(db, due["run_id"])
            found = db.execute(
                "update visits set status = 'running', claims = claims + 1, fence = fence + 1, worker = ?, due_at = ?,"
                " started_at = coalesce(started_at, ?), piece_at = coalesce(piece_at, ?) where run_id = ? and id = ?"
                f" and {ACTIVE} and due_at <= ? and coalesce(started_at, -1) = ? returning {HEAD}, saved",
                (
                    lease.worker, now + lease.seconds, now, now, due["run_id"], due["id"],
                    now, -1 if due["started_at"] is None else due["started_at"],
                ),
            ).fetchone()  # fmt: skip
            if found is None:
                return None
            visit = visit_from_row(found)
            row = db.execute(
                "update runs set seq = seq + 1, status = 'running', started_at = coalesce(started_at, ?)"
                " where id = ? returning *",
                (now, visit.run_id),
            ).fetchone()
            if due["started_at"] is None and not visit.step.startswith("@"):
                _append(db, visit.run_id, row["seq"], [started(visit)])
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
            "update visits set due_at = ?, fence = fence + 1, claims = claims - ? where run_id = ? and id = ? and fence = ?"
            " and status = 'running'"
        )
        with self._transaction() as db:
            self.database.mark_run_written(db, run_id)
            db.execute(query, (now, 0 if counts else 1, run_id, visit_id, fence))
        self.announce_due(1)

    def release_dead(self, queue: str, now: float) -> int:
        query = f"select distinct worker from visits where queue = ? and {ACTIVE} and status = 'running' and due_at > ?"
        dead = [row["worker"] for row in self.database.fetch_all(query, queue, now) if is_dead(row["worker"])]
        if not dead:
            return 0
        with self._transaction() as db:
            changed = db.execute(
                f"update visits set due_at = ? where queue = ? and {ACTIVE} and status = 'running'"
                f" and worker in ({', '.join('?' * len(dead))})",
                (now, queue, *dead),
            )
        self.announce_due()
        return changed.rowcount

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        visit = commit.visit
        saved, result, progress, parts = texts_of(commit)
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
            written = _update_visit(db, visit, saved, result, progress, may_park=not commit.last)
            _keep_parts(db, visit, parts)
            read = "select id, plan_hash, queue, seq, live, stop, resumes from runs where id = ?"
            run = db.execute(read, (visit.run_id,)).fetchone()
            _hold_to_claim(visit, written)
            branches = self._branches(db, run, now, claim_for)
            branches.move(commit.branches, commit.live)
            if commit.waited and visit.finished_at is not None:
                branches.give_up_runs(visit.id)
            if commit.last:
                if visit.finished_at is not None:
                    branches.end()
            elif run["stop"] is not None:
                branches.stop()
            elif visit.finished_at is not None:
                if branches.header.sequential:
                    branches.take_turn(visit.clock, commit.seen)
                if commit.branches_change < 0 or branches.absorbed:
                    left = db.execute("select live from runs where id = ?", (visit.run_id,)).fetchone()[
                        "live"
                    ]
                    if left == 0:
                        branches.end()
                branches.claim_next()
            events = [*commit.events, *branches.started()]
            if events:
                _append(db, visit.run_id, run["seq"], events)
        goes_on = visit.finished_at is None
        self.announce_due(max(branches.count + goes_on - (branches.claimed is not None), 0))
        return branches.claimed

    def finish(
        self, claim: Claim, status: RunStatus, result: Any, errors: Sequence[ErrorRecord], now: float
    ) -> None:
        run, visit = claim.run, claim.visit
        result_text, errors_text = encode_json(result), encode_json(list(errors))
        if len(result_text) + len(errors_text) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(f"the result of the run has more than {MAX_PAYLOAD_BYTES:,} bytes")
        with self._transaction() as db:
            if run.parent is not None:
                self.database.lock_run(db, run.parent.run_id)
            self.database.lock_run(db, run.id)
            done = replace(visit, status=VisitStatus.SUCCEEDED, finished_at=now)
            written = _update_visit(db, done, None, None, None, may_park=False)
            db.execute("delete from visits where run_id = ? and step = ?", (run.id, DEADLINE))
            row = db.execute(
                "update runs set seq = seq + 1, status = ?, result = ?, errors = ?, error = coalesce(error, ?),"
                " finished_at = ? where id = ? returning *",
                (
                    status,
                    result_text,
                    errors_text,
                    encode_json_or_null(next(iter(errors), None)),
                    now,
                    run.id,
                ),
            ).fetchone()
            _hold_to_claim(visit, written)
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
            found = run_from_row(db.execute("select * from runs where id = ?", (run_id,)).fetchone())
            if found.status.is_final:
                if found.status is status:
                    return found
                raise RejectedError("finished", f"run {run_id} has ended already: {found.status}")
            stop = self._stop(db, run_id, status, now)
        self.announce_due()
        return replace(found, stop=stop)

    def _stop(self, db: Writer, run_id: str, status: RunStatus, now: float) -> RunStatus:
        self.database.mark_run_written(db, run_id)
        run = db.execute(
            "update runs set stop = coalesce(stop, ?) where id = ? returning id, plan_hash, queue, seq, live, stop, resumes",
            (status, run_id),
        ).fetchone()
        self._branches(db, run, now).stop()
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
                    "not_resumable", f"run {run_id} has succeeded; there is nothing to go on with"
                )
            reopened = self._reopen_branches(db, run)
            row = db.execute(
                "update runs set status = 'queued', stop = null, resumes = resumes + 1, seq = seq + 1, finished_at = null,"
                " live = live + ?, failed_branches = 0,"
                " result = null, error = null, errors = '[]', deadline_at = ?, input = coalesce(?, input),"
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
            ends = (END, DEADLINE, self.plan_header(run.plan_hash).finally_step)
            db.execute("delete from visits where run_id = ? and step in (?, ?, ?)", (run_id, *ends))
            due = db.execute(
                f"update visits set attempt = 1, status = case when {_STILL_WAITS} then 'waiting' else 'ready' end,"
                " claims = 0, started_at = null, piece_at = null, finished_at = null,"
                f" due_at = case when {_STILL_WAITS} then due_at else ? end,"
                " \"case\" = null, error = null, failure = null where run_id = ? and (status = 'parked' or failure in"
                " ('open', 'ended'))",
                (now, now, now, run_id),
            )
            resumed = run_from_row(row)
            branches = self._branches(db, row, now)
            if branches.header.sequential:
                branches.stand_in_line()
            if parent is not None:
                forget_answer(db, parent)
            if due.rowcount == 0:
                branches.end()
            elif deadline_at is not None:
                enter_deadline(db, resumed, deadline_at)
            _append(
                db, run_id, row["seq"], [Event("workflow.resumed", now, payload={"resumes": resumed.resumes})]
            )
        self.announce_due()
        return resumed

    def _reopen_branches(self, db: Writer, run: Run) -> int:
        """Count the branches again that ended in a failure nothing handled; how many there are."""
        rows = db.execute(
            "select step from visits where run_id = ? and failure = 'ended'", (run.id,)
        ).fetchall()
        for row in rows:
            step = self.plan_step(run.plan_hash, row["step"])
            count_live(db, run.id, dict.fromkeys(step.regions, 1))
        return len(rows)

    def _branches(
        self, db: Writer, run: Row, now: float, claim_for: Lease | None = None
    ) -> BranchTransaction:
        plan_hash = run["plan_hash"]

        def cancel(run_id: str) -> None:
            self._stop(db, run_id, RunStatus.CANCELLED, now)

        header = self.plan_header(plan_hash)
        return BranchTransaction(
            db, run, header, lambda name: self.plan_step(plan_hash, name), cancel, now, claim_for
        )

    @contextmanager
    def _transaction(self) -> Iterator[Writer]:
        """A write transaction that is news to those who watch runs."""
        with self.database.transaction() as db:
            yield db
        self.changes.notify()

    def _earlier(self, db: Writer, tenant: str, key: str, request_hash: str) -> Run:
        query = "select request_hash, run_id from idempotency_keys where tenant = ? and key = ?"
        row = db.execute(query, (tenant, key)).fetchone()
        if row["request_hash"] != request_hash:
            message = "the idempotency key was used with another request before"
            raise RejectedError("idempotency_key_reused", message)
        return run_from_row(db.execute("select * from runs where id = ?", (row["run_id"],)).fetchone())


def texts_of(commit: Commit) -> tuple[str | None, str | None, str | None, list[tuple[str, int, str]]]:
    """What a visit saved, its result, its progress and the parts of loops, as text.

    Raises:
        NotPlainError: some of it is not data that JSON can say.
        PayloadTooLargeError: together it is larger than a store takes.
    """
    visit = commit.visit
    try:
        saved = encode_json_or_null(dict(visit.saved))
        result = encode_result(visit.result, visit.saved)
        progress = None if visit.progress is None else encode_json(asdict(visit.progress))
        parts = [(part.loop, part.first, encode_json(list(part.outcomes))) for part in commit.parts]
    except (TypeError, ValueError, RecursionError) as error:
        raise NotPlainError(f"what the step gives is not plain data: {error}") from None
    length = sum(len(text or "") for text in (saved, result, progress, *(text for _, _, text in parts)))
    if length > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(f"the step saves more than {MAX_PAYLOAD_BYTES:,} bytes")
    return saved, result, progress, parts


def _insert_run(db: Writer, run: Run) -> bool:
    """Add a run; False when there is one with its id."""
    parent = (
        (None, None, None) if run.parent is None else (run.parent.run_id, run.parent.visit_id, run.parent.id)
    )
    inserted = db.execute(
        "insert into runs (id, tenant, playbook, version, plan_hash, status, origin, queue, input, environment, variables,"
        " tags, folder, source, parent_run, parent_visit, parent_wait, depth, resumed_from, trace, created_at, deadline_at, live,"
        f" seq) values ({', '.join('?' * 23)}, 1) on conflict do nothing",
        (
            run.id, run.tenant, run.playbook, run.version, run.plan_hash, run.status, run.origin, run.queue,
            encode_json(dict(run.input)), encode_json(dict(run.environment)), encode_json(dict(run.variables)),
            encode_json(list(run.tags)), run.folder, run.source, *parent, run.depth, run.resumed_from, run.trace, run.created_at,
            run.deadline_at, run.live,
        ),
    )  # fmt: skip
    return inserted.rowcount == 1


def _insert_finished(db: Writer, run: Run, visit: Visit, position: int) -> None:
    """Add a visit that another run has finished."""
    db.execute(
        "insert into visits (run_id, id, step, queue, status, position, clock, names, number, attempt, due_at, started_at,"
        f' finished_at, saved, result, "case", error, failure) values ({", ".join("?" * 18)})',
        (
            run.id, visit.id, visit.step, run.queue, visit.status, position, visit.clock, encode_json(visit.names), visit.number,
            visit.attempt, visit.due_at, visit.started_at, visit.finished_at, encode_json_or_null(dict(visit.saved)),
            encode_result(visit.result, visit.saved), visit.case, encode_json_or_null(visit.error), visit.failure,
        ),
    )  # fmt: skip


def _update_visit(
    db: Writer, visit: Visit, saved: str | None, result: str | None, progress: str | None, *, may_park: bool
) -> Result:
    """Write what became of a visit, if it is still claimed. One that is not over is parked where its run is stopping."""
    return db.execute(
        "update visits set status = case when ? and exists (select 1 from runs where id = visits.run_id and stop is not null)"
        " then 'parked' else ? end, attempt = ?, claims = ?, due_at = ?, started_at = ?, piece_at = ?, finished_at = ?, saved = ?,"
        ' result = ?, "case" = ?, error = ?, failure = ?, progress = ?'
        " where run_id = ? and id = ? and fence = ? and status = 'running'",
        (
            may_park and visit.finished_at is None, visit.status, visit.attempt, visit.claims, visit.due_at, visit.started_at,
            visit.piece_at, visit.finished_at, saved, result, visit.case, encode_json_or_null(visit.error), visit.failure,
            progress, visit.run_id, visit.id, visit.fence,
        ),
    )  # fmt: skip


def _hold_to_claim(visit: Visit, written: Result) -> None:
    """Raise FencedError when nothing was written because the claim of the visit has been lost."""
    if written.rowcount == 0:
        raise FencedError(f"the claim of step `{visit.step}` has been lost")


def _keep_parts(db: Writer, visit: Visit, parts: Sequence[tuple[str, int, str]]) -> None:
    """Keep what batches add to the results of loops until the visit is done, or begins anew in another round."""
    if visit.progress is None:
        return
    rows = [(visit.run_id, visit.id, *part) for part in parts]
    insert = (
        "insert into parts values (?, ?, ?, ?, ?)"
        " on conflict (run_id, visit_id, loop, position) do update set body = excluded.body"
    )
    db.executemany(insert, rows)
    may_go_on = visit.finished_at is None or visit.failure in (Failure.OPEN, Failure.ENDED)
    if not visit.progress.journal or not may_go_on:
        db.execute("delete from parts where run_id = ? and visit_id = ?", (visit.run_id, visit.id))


def _append(db: Writer, run_id: str, seq: int, events: Sequence[Event]) -> None:
    db.execute("insert into history values (?, ?, ?)", (run_id, seq, encode_events(events)))
