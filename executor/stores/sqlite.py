"""Runs in one SQLite file, for one machine. Write-ahead log, every commit on disk before it counts."""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from executor.errors import FencedError, NotPlainError, PayloadTooLargeError, RejectedError, StoreError
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
from executor.start import LAST_CLOCK, ending_visit, last_visit_id
from executor.stores.news import News
from executor.stores.rows import events_of, events_to_text, run_of, to_text, to_text_or_null, visit_of
from executor.stores.store import queue_of
from executor.transition import arrive, derived_id
from planner.plan import Header, Plan, Step, Task

SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
ACTIVE = "status in ('ready', 'retrying', 'waiting', 'running')"
_HEAD = (
    "run_id, id, step, status, clock, names, number, attempt, claims, fence, worker, due_at, started_at, finished_at, "
    '"case", error, failure, progress'
)
_VISIT_COLUMNS = (
    "run_id, id, step, queue, status, position, clock, names, number, claims, fence, worker, due_at, started_at"
)
_FIRE = (
    "insert into joins (run_id, step, wave, clock, names) values (?, ?, 1, ?, ?)"
    " on conflict do update set wave = wave + 1, clock = excluded.clock, names = excluded.names"
)
_INSERT_VISIT = f"insert or ignore into visits ({_VISIT_COLUMNS}) values ({', '.join('?' * 14)})"


class SqliteStore:
    """The store at a path. The file and its folder are made when they are not there and `create` is true.

    Raises:
        StoreError: the file cannot be opened, or is not such a store.
    """

    def __init__(self, path: str, *, create: bool = True) -> None:
        self.path = Path(path)
        self._local = threading.local()
        self._connections: dict[threading.Thread, sqlite3.Connection] = {}
        self._connecting = threading.Lock()
        self._writing = threading.Lock()
        self.changes = News()
        self.work = News()
        if not create and not self.path.exists():
            raise StoreError(f"There is no store at {path}.")
        try:
            _make_folder(self.path.parent)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"The store at {path} cannot be opened: {error}.") from error
        except StoreError:
            self.close()
            raise
        self._header = lru_cache(maxsize=1024)(self._read_header)
        self._step = lru_cache(maxsize=4096)(self._read_step)
        self._task = lru_cache(maxsize=1024)(self._read_task)

    def close(self) -> None:
        with self._connecting:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()
        self._local = threading.local()

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
        row = self._one("select header, source from plans where hash = ?", plan_hash)
        parts = self._all("select kind, name, body from plan_parts where hash = ? order by position", plan_hash)
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
            self._count_live(db, run.id, dict.fromkeys(step.regions, 1))
            branch = Branch(first.id, first.step, first.clock, first.names, counted=step.cyclic)
            _enter(db, run.id, queue_of(run), branch, first.due_at, position=0)
            if run.deadline_at is not None:
                _enter_deadline(db, run, run.deadline_at)
            _append(db, run.id, 1, [Event("workflow.started", run.created_at, payload={"playbook": run.playbook})])
        self.work.announce(1)
        return run

    def run(self, tenant: str, run_id: str) -> Run | None:
        rows = self._all("select * from runs where id = ? and tenant = ?", run_id, tenant)
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
            values.extend(_read_cursor(cursor))
        found: list[Run] = []
        query = f"select * from runs where {' and '.join(where)} order by created_at desc, id desc limit ?"
        rows = self._all(query, *values, limit + 1)
        for row in rows[:limit]:
            run = self._with_waiting(run_of(row))
            if status in (None, run.status):
                found.append(run)
        return found, _write_cursor(rows[limit - 1]) if len(rows) > limit else None

    def visits(self, run_id: str) -> list[Visit]:
        return [
            visit_of(row) for row in self._all(f"select {_HEAD} from visits where run_id = ? order by position", run_id)
        ]

    def saved(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        if visit_ids is None:
            where, values = "step not in ('@end', '@deadline')", []
        else:
            where, values = f"id in ({', '.join('?' * len(visit_ids))})", list(visit_ids)
        query = f"select {_HEAD}, saved, result from visits where run_id = ? and {where} order by clock, id"
        return [visit_of(row) for row in self._all(query, run_id, *values)]

    def parts(self, run_id: str, visit_id: str) -> list[Sequence[Any]]:
        query = "select body from parts where run_id = ? and visit_id = ? order by position"
        return [json.loads(row["body"]) for row in self._all(query, run_id, visit_id)]

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        seq, index = _read_event_id(after)
        query = "select seq, events from history where run_id = ? and seq >= ? order by seq limit ?"
        rows = self._all(query, run_id, seq, limit + 1)
        found = [e for row in rows for e in events_of(row["seq"], row["events"])]
        return [e for e in found if _read_event_id(e.id) > (seq, index)][:limit]

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        find = f"select run_id, id from visits where queue = ? and {ACTIVE} and due_at <= ? order by due_at, position limit 1"
        if not self._all(find, queue, now):
            return None
        with self._transaction(quiet=True) as db:
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
            run = run_of(
                db.execute(
                    "update runs set seq = seq + 1, status = 'running', started_at = coalesce(started_at, ?)"
                    " where id = ? returning *",
                    (now, visit.run_id),
                ).fetchone()
            )
            if before["started_at"] is None and not visit.step.startswith("@"):
                seq = db.execute("select seq from runs where id = ?", (run.id,)).fetchone()["seq"]
                _append(db, run.id, seq, [_started(visit)])
        return Claim(run, visit)

    def next_due(self, queue: str) -> float | None:
        rows = self._all(f"select due_at from visits where queue = ? and {ACTIVE} order by due_at limit 1", queue)
        return rows[0]["due_at"] if rows else None

    def renew(self, run_id: str, visit_id: str, fence: int, until: float) -> bool:
        with self._transaction(quiet=True) as db:
            changed = db.execute(
                "update visits set due_at = ? where run_id = ? and id = ? and fence = ? and status = 'running'",
                (until, run_id, visit_id, fence),
            )
            return changed.rowcount == 1

    def release_dead(self, queue: str, now: float) -> int:
        query = f"select distinct worker from visits where queue = ? and {ACTIVE} and status = 'running' and due_at > ?"
        dead = [row["worker"] for row in self._all(query, queue, now) if is_dead(row["worker"])]
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
            saved, result = to_text_or_null(dict(visit.saved)), to_text_or_null(visit.result)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotPlainError(f"what the step gives is not plain data: {error}") from None
        if len(saved or "") + len(result or "") > MAX_PAYLOAD_BYTES:
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
            _keep_part(db, commit)
            entering = _Entering(db, run, now, claim_for, self._header(run["plan_hash"]).last_step)
            self._move(db, run, commit, entering)
            if commit.last:
                if visit.finished_at is not None:
                    entering.end()
            elif run["stop"] is not None:
                self._stop_waiting(db, run, entering)
            elif commit.branches_change < 0:
                left = db.execute("select live from runs where id = ?", (visit.run_id,)).fetchone()["live"]
                if left == 0:
                    entering.end()
            events = [*commit.events, *entering.started()]
            if events:
                _append(db, visit.run_id, run["seq"], events)
        goes_on = visit.finished_at is None
        self.work.announce(entering.count + goes_on - (entering.claimed is not None))
        return entering.claimed

    def finish(self, claim: Claim, status: RunStatus, result: Any, errors: Sequence[ErrorRecord], now: float) -> None:
        run, visit = claim.run, claim.visit
        with self._transaction() as db:
            _update_visit(db, replace(visit, status=VisitStatus.SUCCEEDED, finished_at=now), None, None, parked=False)
            db.execute("delete from visits where run_id = ? and step = ?", (run.id, DEADLINE))
            row = db.execute(
                "update runs set seq = seq + 1, status = ?, result = ?, errors = ?, error = coalesce(error, ?),"
                " finished_at = ? where id = ? returning seq, started_at",
                (
                    status,
                    to_text(result),
                    to_text(list(errors)),
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
            self._stop_waiting(db, run, _Entering(db, run, now, None, self._header(run["plan_hash"]).last_step))
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
            header = self._header(run.plan_hash)
            ends = (END, DEADLINE, header.last_step)
            db.execute("delete from visits where run_id = ? and step in (?, ?, ?)", (run_id, *ends))
            due = db.execute(
                "update visits set status = 'ready', attempt = 1, claims = 0, due_at = ?, started_at = null, finished_at ="
                " null, \"case\" = null, error = null, failure = null where run_id = ? and (status = 'parked' or failure in"
                " ('open', 'ended'))",
                (now, run_id),
            )
            resumed = run_of(row)
            if due.rowcount == 0:
                _Entering(db, row, now, None, header.last_step).end()
            if deadline_at is not None:
                _enter_deadline(db, resumed, deadline_at)
            _append(db, run_id, row["seq"], [Event("workflow.resumed", now, payload={"resumes": resumed.resumes})])
        self.work.announce()
        return resumed

    def _reopen_branches(self, db: sqlite3.Connection, run: Run) -> int:
        """Count the branches again that ended in a failure nothing handled; how many there are."""
        rows = db.execute("select step from visits where run_id = ? and failure = 'ended'", (run.id,)).fetchall()
        for row in rows:
            step = self.plan_step(run.plan_hash, row["step"])
            self._count_live(db, run.id, dict.fromkeys(step.regions, 1))
        return len(rows)

    def _move(self, db: sqlite3.Connection, run: sqlite3.Row, commit: Commit, entering: _Entering) -> None:
        """Let branches enter steps and arrive at joins, and fire the joins that have nothing left to wait for."""
        run_id = run["id"]
        touched = dict.fromkeys(commit.live)
        for branch in commit.branches:
            if branch.joins:
                touched[branch.step] = None
                row = (run_id, branch.step, branch.id, branch.clock, to_text(branch.names))
                db.execute("insert or ignore into arrivals values (?, ?, ?, ?, ?)", row)
            else:
                entering.enter(branch)
        self._count_live(db, run_id, commit.live)
        for step in touched:
            counter = db.execute("select * from joins where run_id = ? and step = ?", (run_id, step)).fetchone()
            if counter is not None and counter["live"] > 0:
                continue
            query = "delete from arrivals where run_id = ? and step = ? returning id, clock, names"
            rows = db.execute(query, (run_id, step)).fetchall()
            if rows:
                wave = 1 if counter is None else counter["wave"] + 1
                earlier = None
                if wave > 1:
                    earlier = Branch("", step, counter["clock"], json.loads(counter["names"]))
                arrivals = [Branch(r["id"], step, r["clock"], json.loads(r["names"])) for r in rows]
                join = self.plan_step(run["plan_hash"], step)
                branch, live, merged = arrive(join, wave, arrivals, earlier)
                db.execute(_FIRE, (run_id, step, branch.clock, to_text(branch.names)))
                self._count_live(db, run_id, live)
                db.execute("update runs set live = live + ? where id = ?", (merged, run_id))
                entering.enter(branch)

    def _count_live(self, db: sqlite3.Connection, run_id: str, live: Mapping[str, int]) -> None:
        upsert = (
            "insert into joins (run_id, step, live) values (?, ?, ?)"
            " on conflict do update set live = live + excluded.live"
        )
        db.executemany(upsert, [(run_id, step, delta) for step, delta in live.items()])

    def _stop_waiting(self, db: sqlite3.Connection, run: sqlite3.Row, entering: _Entering) -> None:
        """Park what has not started in a run that is stopping, and end the run when nothing is left running."""
        db.execute(
            "update visits set status = 'parked' where run_id = ? and status in ('ready', 'retrying', 'waiting')"
            " and substr(step, 1, 1) <> '@' and id <> ?",
            (run["id"], last_visit_id(run["resumes"])),
        )
        query = (
            f"select 1 from visits where run_id = ? and {ACTIVE} and status = 'running' and substr(step, 1, 1) <> '@'"
        )
        if db.execute(query, (run["id"],)).fetchone() is None:
            entering.end()

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
        first = self._one(query, run.id)["first"]
        return replace(run, status=RunStatus.WAITING) if first is not None and first > time.time() else run

    def _read_header(self, plan_hash: str) -> Header:
        return Header.from_json(json.loads(self._one("select header from plans where hash = ?", plan_hash)["header"]))

    def _read_step(self, plan_hash: str, name: str) -> Step:
        row = self._one("select body from plan_parts where hash = ? and kind = 'step' and name = ?", plan_hash, name)
        return Step.from_json(name, json.loads(row["body"]))

    def _read_task(self, plan_hash: str, name: str) -> Task:
        row = self._one("select body from plan_parts where hash = ? and kind = 'task' and name = ?", plan_hash, name)
        return Task.from_json(json.loads(row["body"]))

    def _prepare(self) -> None:
        db = self._connection()
        version = db.execute("pragma user_version").fetchone()[0]
        if version == 0:
            with self._transaction() as fresh:
                if fresh.execute("pragma user_version").fetchone()[0] == 0:
                    for statement in _statements(files("executor.stores").joinpath("sqlite.sql").read_text("utf-8")):
                        fresh.execute(statement)
                    fresh.execute(f"pragma user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            message = (
                f"The store at {self.path} has schema {version}, and this version of noetl knows {SCHEMA_VERSION}."
            )
            raise StoreError(message)

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            with self._connecting:
                # Threads come and go with the load of a service; what they leave open would pile up.
                for thread in [thread for thread in self._connections if not thread.is_alive()]:
                    self._connections.pop(thread).close()
                self._connections[threading.current_thread()] = db
            db.row_factory = sqlite3.Row
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            self._local.db = db
        return db

    @contextmanager
    def _transaction(self, *, quiet: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction; `quiet` ones wake nobody."""
        try:
            db = self._connection()
            with self._writing:
                db.execute("begin immediate")
                try:
                    yield db
                    db.execute("commit")
                except BaseException:
                    if db.in_transaction:
                        db.execute("rollback")
                    raise
        except sqlite3.Error as error:
            raise StoreError(f"The store at {self.path} failed: {error}.") from error
        if not quiet:
            self.changes.announce()

    def _all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        try:
            return self._connection().execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"The store at {self.path} failed: {error}.") from error

    def _one(self, query: str, *values: Any) -> sqlite3.Row:
        rows = self._all(query, *values)
        if not rows:
            raise StoreError(f"The store at {self.path} lacks what it should hold.")
        return rows[0]


class _Entering:
    """The visits that one transaction adds; the first that is due is claimed, when someone wants it."""

    def __init__(
        self, db: sqlite3.Connection, run: sqlite3.Row, now: float, claim_for: Lease | None, last_step: str | None
    ) -> None:
        self.db = db
        self.run = run
        self.now = now
        self.claim_for = claim_for
        self.last_step = last_step
        self.claimed: Visit | None = None
        self.count = 0

    def enter(self, branch: Branch) -> None:
        """Let a branch enter a step, or wait before it when the run is stopping."""
        self._add(branch, parked=self.run["stop"] is not None)

    def end(self) -> None:
        """Let the run end: with the step that runs last if there is one, and when that is done for good."""
        if self.last_step is not None:
            branch = Branch(last_visit_id(self.run["resumes"]), self.last_step, LAST_CLOCK, {})
            if self._add(branch) is not None:
                where = (self.run["id"], DEADLINE)
                self.db.execute("delete from visits where run_id = ? and step = ?", where)
                return
            query = "select finished_at from visits where run_id = ? and id = ?"
            if self.db.execute(query, (self.run["id"], branch.id)).fetchone()["finished_at"] is None:
                return
        visit = ending_visit(self.run["id"], self.run["resumes"], self.now)
        self._add(Branch(visit.id, visit.step, visit.clock, visit.names))

    def started(self) -> list[Event]:
        """The event of the step that was claimed."""
        return [] if self.claimed is None or self.claimed.step == END else [_started(self.claimed)]

    def _add(self, branch: Branch, *, parked: bool = False) -> Visit | None:
        lease = None if parked or self.claimed is not None else self.claim_for
        position = (self.run["seq"] << 12) + self.count
        queue = "service" if self.run["origin"] == "service" else self.run["id"]
        visit = _enter(self.db, self.run["id"], queue, branch, self.now, position, lease=lease, parked=parked)
        if visit is not None:
            self.count += 1
            self.claimed = visit if lease is not None else self.claimed
        return visit


def _enter(
    db: sqlite3.Connection,
    run_id: str,
    queue: str,
    branch: Branch,
    due_at: float,
    position: int,
    *,
    lease: Lease | None = None,
    parked: bool = False,
) -> Visit | None:
    """Add the visit of a branch, claimed when there is a lease; None when it was there already."""
    number = 1
    if branch.counted:
        upsert = (
            "insert into visit_counts values (?, ?, 1) on conflict do update set visits = visits + 1 returning visits"
        )
        number = db.execute(upsert, (run_id, branch.step)).fetchone()["visits"]
    visit = Visit(
        id=branch.id,
        run_id=run_id,
        step=branch.step,
        status=VisitStatus.PARKED if parked else VisitStatus.READY if lease is None else VisitStatus.RUNNING,
        clock=branch.clock,
        names=branch.names,
        number=number,
        claims=0 if lease is None else 1,
        fence=0 if lease is None else 1,
        worker=None if lease is None else lease.worker,
        due_at=due_at if lease is None else due_at + lease.seconds,
        started_at=None if lease is None else due_at,
    )
    row = (
        run_id, visit.id, visit.step, queue, visit.status, position, visit.clock, to_text(visit.names), number,
        visit.claims, visit.fence, visit.worker, visit.due_at, visit.started_at,
    )  # fmt: skip
    return visit if db.execute(_INSERT_VISIT, row).rowcount == 1 else None


def _enter_deadline(db: sqlite3.Connection, run: Run, due_at: float) -> None:
    branch = Branch(derived_id(DEADLINE, run.resumes), DEADLINE, 0, {})
    _enter(db, run.id, queue_of(run), branch, due_at, 0)


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


def _keep_part(db: sqlite3.Connection, commit: Commit) -> None:
    """Keep what a batch adds to a loop's result, as long as the visit goes on."""
    visit = commit.visit
    if commit.part is not None:
        assert visit.progress is not None
        row = (visit.run_id, visit.id, visit.progress.item, to_text(list(commit.part)))
        db.execute("insert or replace into parts values (?, ?, ?, ?)", row)
    elif visit.finished_at is not None and visit.progress is not None and visit.failure is not Failure.OPEN:
        db.execute("delete from parts where run_id = ? and visit_id = ?", (visit.run_id, visit.id))


def _started(visit: Visit) -> Event:
    payload = {"worker": visit.worker}
    return Event("step.started", visit.started_at or 0.0, visit.step, visit.number, visit.attempt, payload=payload)


def _append(db: sqlite3.Connection, run_id: str, seq: int, events: Sequence[Event]) -> None:
    db.execute("insert into history values (?, ?, ?)", (run_id, seq, events_to_text(events)))


def _make_folder(folder: Path) -> None:
    """Make the folder of a store. Git passes over one that is made here."""
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*\n")


def _statements(script: str) -> list[str]:
    text = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    return [statement for statement in text.split(";") if statement.strip()]


def _read_event_id(id: str | None) -> tuple[int, int]:
    if id is None:
        return (0, -1)
    seq, _, index = id.partition("-")
    if not (seq.isascii() and seq.isdigit() and index.isascii() and index.isdigit()) or len(seq) > 18:
        raise RejectedError("invalid_cursor", f"{id!r} is not the id of an event")
    return int(seq), int(index)


def _write_cursor(row: sqlite3.Row) -> str:
    return base64.urlsafe_b64encode(to_text([row["created_at"], row["id"]]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[float, str]:
    try:
        created_at, id = json.loads(base64.urlsafe_b64decode(cursor))
        str(id).encode()  # half a surrogate pair is no text to SQLite
        return float(created_at), str(id)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise RejectedError("invalid_cursor", "the cursor is not one that a page of runs came with") from None
