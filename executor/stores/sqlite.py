"""Runs in one SQLite file, for one machine. Write-ahead log, every commit on disk before it counts."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

from executor.errors import FencedError, NotPlainError, PayloadTooLargeError, RejectedError
from executor.host import is_dead
from executor.records import (
    DEADLINE,
    END,
    Branch,
    Claim,
    Commit,
    ErrorRecord,
    Event,
    Failure,
    Lease,
    Run,
    RunStatus,
    Visit,
    VisitStatus,
)
from executor.stores.cursors import read_cursor, read_event_id, write_cursor
from executor.stores.news import News
from executor.stores.rows import events_of, events_to_text, run_of, to_text, to_text_or_null, visit_of
from executor.stores.sqlite_branches import ACTIVE, Branches, count_live, enter, enter_deadline, started
from executor.stores.sqlite_file import SqliteFile
from executor.stores.store import queue_of
from planner.plan import Header, Plan, Step, Task

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
_HEAD = (
    "run_id, id, step, status, clock, names, number, attempt, claims, fence, worker, due_at, started_at, finished_at, "
    '"case", error, failure, progress'
)


class SqliteStore:
    """The store at a path. The file and its folder are made when they are not there and `create` is true.

    Raises:
        StoreError: the file cannot be opened, or is not such a store.
    """

    def __init__(self, path: str, *, create: bool = True) -> None:
        self.file = SqliteFile(path, create=create)
        self.path = self.file.path
        self.changes = News()
        self.work = News()
        self._header = lru_cache(maxsize=1024)(self._read_header)
        self._step = lru_cache(maxsize=4096)(self._read_step)
        self._task = lru_cache(maxsize=1024)(self._read_task)

    def close(self) -> None:
        self.file.close()

    def save_plan(self, plan: Plan) -> None:
        with self._transaction() as db:
            if db.execute("select 1 from plans where hash = ?", (plan.hash,)).fetchone():
                return
            header = to_text(plan.header.to_json())
            db.execute("insert into plans values (?, ?, ?)", (plan.hash, header, plan.source))
            parts = [("step", name, to_text(step.to_json())) for name, step in plan.steps.items()]
            parts += [("task", name, to_text(task.to_json())) for name, task in plan.tasks.items()]
            rows = [(plan.hash, kind, index, name, body) for index, (kind, name, body) in enumerate(parts)]
            db.executemany("insert into plan_parts values (?, ?, ?, ?, ?)", rows)

    def plan_header(self, plan_hash: str) -> Header:
        return self._header(plan_hash)

    def plan_step(self, plan_hash: str, name: str) -> Step:
        return self._step(plan_hash, name)

    def plan_task(self, plan_hash: str, name: str) -> Task:
        return self._task(plan_hash, name)

    def plan(self, plan_hash: str) -> Plan:
        row = self.file.one("select header, source from plans where hash = ?", plan_hash)
        parts = self.file.all("select kind, name, body from plan_parts where hash = ? order by position", plan_hash)
        steps = {p["name"]: Step.from_json(p["name"], json.loads(p["body"])) for p in parts if p["kind"] == "step"}
        tasks = {p["name"]: Task.from_json(json.loads(p["body"])) for p in parts if p["kind"] == "task"}
        return Plan(Header.from_json(json.loads(row["header"])), steps, tasks, row["source"])

    def create_run(self, run: Run, first: Visit, idempotency: tuple[str, str] | None = None) -> Run:
        with self._transaction() as db:
            if idempotency is not None:
                earlier = self._earlier(db, run.tenant, *idempotency)
                if earlier is not None:
                    return earlier
                db.execute("insert into idempotency_keys values (?, ?, ?, ?)", (run.tenant, *idempotency, run.id))
            _insert_run(db, run)
            step = self.plan_step(run.plan_hash, first.step)
            count_live(db, run.id, dict.fromkeys(step.regions, 1))
            branch = Branch(first.id, first.step, first.clock, first.names, counted=step.cyclic)
            enter(db, run.id, queue_of(run), branch, first.due_at, position=0)
            if run.deadline_at is not None:
                enter_deadline(db, run, run.deadline_at)
            _append(db, run.id, 1, [Event("workflow.started", run.created_at, payload={"playbook": run.playbook})])
        self.work.announce(1)
        return run

    def run(self, tenant: str, run_id: str) -> Run | None:
        rows = self.file.all("select * from runs where id = ? and tenant = ?", run_id, tenant)
        return self._with_waiting(run_of(rows[0])) if rows else None

    def runs(
        self,
        tenant: str,
        *,
        status: RunStatus | None = None,
        playbook: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[Run], str | None]:
        where: list[str] = ["tenant = ?"]
        values: list[Any] = [tenant]
        for clause, value in (("playbook = ?", playbook), ("created_at >= ?", since)):
            if value is not None:
                where.append(clause)
                values.append(value)
        if status is not None:
            where.append("status = ?")
            values.append("running" if status is RunStatus.WAITING else status.value)
        if tag is not None:
            where.append("exists (select 1 from json_each(tags) where json_each.value = ?)")
            values.append(tag)
        if cursor is not None:
            where.append("(created_at, id) < (?, ?)")
            values.extend(read_cursor(cursor))
        found: list[Run] = []
        query = f"select * from runs where {' and '.join(where)} order by created_at desc, id desc limit ?"
        rows = self.file.all(query, *values, limit + 1)
        for row in rows[:limit]:
            run = self._with_waiting(run_of(row))
            if status in (None, run.status):
                found.append(run)
        return found, write_cursor(rows[limit - 1]["created_at"], rows[limit - 1]["id"]) if len(rows) > limit else None

    def visits(self, run_id: str) -> list[Visit]:
        return [
            visit_of(row)
            for row in self.file.all(f"select {_HEAD} from visits where run_id = ? order by position", run_id)
        ]

    def saved(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        if visit_ids is None:
            where, values = "step not in ('@end', '@deadline')", []
        else:
            where, values = f"id in ({', '.join('?' * len(visit_ids))})", list(visit_ids)
        query = f"select {_HEAD}, saved, result from visits where run_id = ? and {where} order by clock, id"
        return [visit_of(row) for row in self.file.all(query, run_id, *values)]

    def parts(self, run_id: str, visit_id: str) -> list[Sequence[Any]]:
        query = "select body from parts where run_id = ? and visit_id = ? order by position"
        return [json.loads(row["body"]) for row in self.file.all(query, run_id, visit_id)]

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        seq, index = read_event_id(after)
        query = "select seq, events from history where run_id = ? and seq >= ? order by seq limit ?"
        rows = self.file.all(query, run_id, seq, limit + 1)
        found = [e for row in rows for e in events_of(row["seq"], row["events"])]
        return [e for e in found if read_event_id(e.id) > (seq, index)][:limit]

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        find = f"select run_id, id from visits where queue = ? and {ACTIVE} and due_at <= ? order by due_at, position limit 1"
        if not self.file.all(find, queue, now):
            return None
        with self.file.transaction() as db:
            found = db.execute(find, (queue, now)).fetchone()
            if found is None:
                return None
            before = db.execute("select started_at from visits where run_id = ? and id = ?", tuple(found)).fetchone()
            visit = visit_of(
                db.execute(
                    "update visits set status = 'running', claims = claims + 1, fence = fence + 1, worker = ?, due_at = ?,"
                    f" started_at = coalesce(started_at, ?) where run_id = ? and id = ? returning {_HEAD}, saved",
                    (lease.worker, now + lease.seconds, now, *found),
                ).fetchone()
            )
            row = db.execute(
                "update runs set seq = seq + 1, status = 'running', started_at = coalesce(started_at, ?)"
                " where id = ? returning *",
                (now, visit.run_id),
            ).fetchone()
            if before["started_at"] is None and not visit.step.startswith("@"):
                _append(db, visit.run_id, row["seq"], [started(visit)])
        return Claim(run_of(row), visit)

    def next_due(self, queue: str) -> float | None:
        rows = self.file.all(f"select due_at from visits where queue = ? and {ACTIVE} order by due_at limit 1", queue)
        return rows[0]["due_at"] if rows else None

    def renew(self, run_id: str, visit_id: str, fence: int, until: float) -> bool:
        with self.file.transaction() as db:
            changed = db.execute(
                "update visits set due_at = ? where run_id = ? and id = ? and fence = ? and status = 'running'",
                (until, run_id, visit_id, fence),
            )
            return changed.rowcount == 1

    def release(self, run_id: str, visit_id: str, fence: int, now: float, *, counts: bool) -> None:
        query = (
            "update visits set due_at = ?, fence = fence + 1, claims = claims - ? where run_id = ? and id = ? and fence = ?"
            " and status = 'running'"
        )
        with self._transaction() as db:
            db.execute(query, (now, 0 if counts else 1, run_id, visit_id, fence))
        self.work.announce(1)

    def release_dead(self, queue: str, now: float) -> int:
        query = f"select distinct worker from visits where queue = ? and {ACTIVE} and status = 'running' and due_at > ?"
        dead = [row["worker"] for row in self.file.all(query, queue, now) if is_dead(row["worker"])]
        if not dead:
            return 0
        with self._transaction() as db:
            changed = db.execute(
                f"update visits set due_at = ? where queue = ? and {ACTIVE} and status = 'running'"
                f" and worker in ({', '.join('?' * len(dead))})",
                (now, queue, *dead),
            )
            return changed.rowcount

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        visit = commit.visit
        try:
            saved = to_text_or_null(dict(visit.saved))
            result = None if visit.result is None else to_text(visit.result)
            part = None if commit.part is None else to_text(list(commit.part))
        except (TypeError, ValueError, RecursionError) as error:
            raise NotPlainError(f"what the step gives is not plain data: {error}") from None
        if len(saved or "") + len(result or "") + len(part or "") > MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(f"the step saves more than {MAX_PAYLOAD_BYTES:,} bytes")
        with self._transaction() as db:
            run = db.execute(
                "update runs set seq = seq + 1, live = live + ?, failed_branches = failed_branches + ?,"
                " stop = coalesce(stop, ?), error = coalesce(error, ?) where id = ?"
                " returning id, plan_hash, origin, seq, live, stop, resumes",
                (
                    commit.branches_change,
                    commit.failed_branches,
                    commit.stop,
                    to_text_or_null(commit.error),
                    visit.run_id,
                ),
            ).fetchone()
            _update_visit(db, visit, saved, result, parked=run["stop"] is not None and not commit.last)
            _keep_part(db, visit, part)
            branches = self._branches(db, run, now, claim_for)
            branches.move(commit.branches, commit.live)
            if commit.last:
                if visit.finished_at is not None:
                    branches.end()
            elif run["stop"] is not None:
                branches.stop()
            elif commit.branches_change < 0:
                left = db.execute("select live from runs where id = ?", (visit.run_id,)).fetchone()["live"]
                if left == 0:
                    branches.end()
            events = [*commit.events, *branches.started()]
            if events:
                _append(db, visit.run_id, run["seq"], events)
        goes_on = visit.finished_at is None
        self.work.announce(branches.count + goes_on - (branches.claimed is not None))
        return branches.claimed

    def finish(self, claim: Claim, status: RunStatus, result: Any, errors: Sequence[ErrorRecord], now: float) -> None:
        run, visit = claim.run, claim.visit
        result_text, errors_text = to_text(result), to_text(list(errors))
        if len(result_text) + len(errors_text) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(f"the result of the run has more than {MAX_PAYLOAD_BYTES:,} bytes")
        with self._transaction() as db:
            _update_visit(db, replace(visit, status=VisitStatus.SUCCEEDED, finished_at=now), None, None, parked=False)
            db.execute("delete from visits where run_id = ? and step = ?", (run.id, DEADLINE))
            row = db.execute(
                "update runs set seq = seq + 1, status = ?, result = ?, errors = ?, error = coalesce(error, ?),"
                " finished_at = ? where id = ? returning seq, started_at",
                (
                    status,
                    result_text,
                    errors_text,
                    to_text_or_null(next(iter(errors), None)),
                    now,
                    run.id,
                ),
            ).fetchone()
            name = status if status in ("failed", "cancelled", "timed_out") else "completed"
            duration = max(now - (row["started_at"] or now), 0.0)
            event = Event(f"workflow.{name}", now, duration_seconds=duration, payload={"status": status.value})
            _append(db, run.id, row["seq"], [event])

    def stop(self, run_id: str, status: RunStatus, now: float) -> Run:
        with self._transaction() as db:
            found = run_of(db.execute("select * from runs where id = ?", (run_id,)).fetchone())
            if found.status.is_final:
                if found.status is status:
                    return found
                raise RejectedError("finished", f"run {run_id} has ended already: {found.status}")
            run = db.execute(
                "update runs set stop = coalesce(stop, ?) where id = ? returning id, plan_hash, origin, seq, live, stop, resumes",
                (status, run_id),
            ).fetchone()
            self._branches(db, run, now).stop()
        self.work.announce(1)
        return replace(found, stop=RunStatus(run["stop"]))

    def resume(
        self, run_id: str, now: float, *, deadline_at: float | None, values: Mapping[str, Mapping[str, Any]]
    ) -> Run:
        with self._transaction() as db:
            run = run_of(db.execute("select * from runs where id = ?", (run_id,)).fetchone())
            if not run.status.is_final:
                return run
            if run.status is RunStatus.SUCCEEDED:
                raise RejectedError("not_resumable", f"run {run_id} has succeeded; there is nothing to go on with")
            reopened = self._reopen_branches(db, run)
            row = db.execute(
                "update runs set status = 'queued', stop = null, resumes = resumes + 1, seq = seq + 1, finished_at = null,"
                " live = live + ?, failed_branches = 0,"
                " result = null, error = null, errors = '[]', deadline_at = ?, input = coalesce(?, input),"
                " environment = coalesce(?, environment) where id = ? returning *",
                (
                    reopened,
                    deadline_at,
                    *(to_text(dict(values[name])) if name in values else None for name in ("input", "environment")),
                    run_id,
                ),
            ).fetchone()
            ends = (END, DEADLINE, self._header(run.plan_hash).last_step)
            db.execute("delete from visits where run_id = ? and step in (?, ?, ?)", (run_id, *ends))
            due = db.execute(
                "update visits set status = 'ready', attempt = 1, claims = 0, started_at = null, finished_at = null, due_at ="
                " case when status = 'parked' then max(due_at, ?) else ? end,"
                " \"case\" = null, error = null, failure = null where run_id = ? and (status = 'parked' or failure in"
                " ('open', 'ended'))",
                (now, now, run_id),
            )
            resumed = run_of(row)
            if due.rowcount == 0:
                self._branches(db, row, now).end()
            elif deadline_at is not None:
                enter_deadline(db, resumed, deadline_at)
            _append(db, run_id, row["seq"], [Event("workflow.resumed", now, payload={"resumes": resumed.resumes})])
        self.work.announce()
        return resumed

    def _reopen_branches(self, db: sqlite3.Connection, run: Run) -> int:
        """Count the branches again that ended in a failure nothing handled; how many there are."""
        rows = db.execute("select step from visits where run_id = ? and failure = 'ended'", (run.id,)).fetchall()
        for row in rows:
            step = self.plan_step(run.plan_hash, row["step"])
            count_live(db, run.id, dict.fromkeys(step.regions, 1))
        return len(rows)

    def _branches(
        self, db: sqlite3.Connection, run: sqlite3.Row, now: float, claim_for: Lease | None = None
    ) -> Branches:
        plan_hash = run["plan_hash"]
        last_step = self._header(plan_hash).last_step
        return Branches(db, run, lambda name: self._step(plan_hash, name), last_step, now, claim_for)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction that is news to those who watch runs."""
        with self.file.transaction() as db:
            yield db
        self.changes.announce()

    def _earlier(self, db: sqlite3.Connection, tenant: str, key: str, request_hash: str) -> Run | None:
        query = "select request_hash, run_id from idempotency_keys where tenant = ? and key = ?"
        row = db.execute(query, (tenant, key)).fetchone()
        if row is None:
            return None
        if row["request_hash"] != request_hash:
            message = "the idempotency key was used with another request before"
            raise RejectedError("idempotency_key_reused", message)
        return run_of(db.execute("select * from runs where id = ?", (row["run_id"],)).fetchone())

    def _with_waiting(self, run: Run) -> Run:
        """A run that only waits for times to come is `waiting`."""
        if run.status is not RunStatus.RUNNING:
            return run
        query = (
            f"select min(case when status in ('retrying', 'waiting') then due_at else 0 end) as first from visits where run_id = ? and"
            f" {ACTIVE} and substr(step, 1, 1) <> '@'"
        )
        first = self.file.one(query, run.id)["first"]
        return replace(run, status=RunStatus.WAITING) if first is not None and first > time.time() else run

    def _read_header(self, plan_hash: str) -> Header:
        return Header.from_json(
            json.loads(self.file.one("select header from plans where hash = ?", plan_hash)["header"])
        )

    def _read_step(self, plan_hash: str, name: str) -> Step:
        row = self.file.one(
            "select body from plan_parts where hash = ? and kind = 'step' and name = ?", plan_hash, name
        )
        return Step.from_json(name, json.loads(row["body"]))

    def _read_task(self, plan_hash: str, name: str) -> Task:
        row = self.file.one(
            "select body from plan_parts where hash = ? and kind = 'task' and name = ?", plan_hash, name
        )
        return Task.from_json(json.loads(row["body"]))


def _insert_run(db: sqlite3.Connection, run: Run) -> None:
    db.execute(
        "insert into runs (id, tenant, playbook, version, plan_hash, status, origin, input, environment, variables, tags,"
        f" folder, created_at, deadline_at, live, seq) values ({', '.join('?' * 15)}, 1)",
        (
            run.id, run.tenant, run.playbook, run.version, run.plan_hash, run.status, run.origin,
            to_text(dict(run.input)), to_text(dict(run.environment)), to_text(dict(run.variables)),
            to_text(list(run.tags)), run.folder, run.created_at, run.deadline_at, run.live,
        ),
    )  # fmt: skip


def _update_visit(db: sqlite3.Connection, visit: Visit, saved: str | None, result: str | None, *, parked: bool) -> None:
    """Write what became of a claimed visit. Raises FencedError when the claim has been lost."""
    status = VisitStatus.PARKED if parked and visit.finished_at is None else visit.status
    progress = None if visit.progress is None else to_text(asdict(visit.progress))
    changed = db.execute(
        "update visits set status = ?, attempt = ?, claims = ?, due_at = ?, started_at = ?, finished_at = ?, saved = ?,"
        ' result = ?, "case" = ?, error = ?, failure = ?, progress = ?'
        " where run_id = ? and id = ? and fence = ? and status = 'running'",
        (
            status, visit.attempt, visit.claims, visit.due_at, visit.started_at, visit.finished_at, saved, result,
            visit.case, to_text_or_null(visit.error), visit.failure, progress, visit.run_id, visit.id,
            visit.fence,
        ),
    )  # fmt: skip
    if changed.rowcount == 0:
        raise FencedError(f"the claim of step `{visit.step}` has been lost")


def _keep_part(db: sqlite3.Connection, visit: Visit, part: str | None) -> None:
    """Keep what a batch adds to a loop's result until the loop is done, or begins anew in another round."""
    if visit.progress is None:
        return
    if part is not None:
        row = (visit.run_id, visit.id, visit.progress.item, part)
        db.execute("insert or replace into parts values (?, ?, ?, ?)", row)
        return
    may_go_on = visit.finished_at is None or visit.failure in (Failure.OPEN, Failure.ENDED)
    if visit.progress.item == 0 or not may_go_on:
        db.execute("delete from parts where run_id = ? and visit_id = ?", (visit.run_id, visit.id))


def _append(db: sqlite3.Connection, run_id: str, seq: int, events: Sequence[Event]) -> None:
    db.execute("insert into history values (?, ?, ?)", (run_id, seq, events_to_text(events)))
