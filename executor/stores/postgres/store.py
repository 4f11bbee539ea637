"""The store in Postgres, for any number of workers on any number of machines.

Problem: a transaction of the shared SQL store takes several round trips, during which it locks the run.
Branches of one run then wait for each other.

Algorithm: the three most frequent operations are single statements of data-modifying CTEs. They are a claim,
a step of a chain, and an arrival at a join that other branches can still reach. Each checks in its
conditions that the fast path applies; if it changes no row, the transaction of `sql/store.py` decides. Rows
that change while a statement waits for the lock of the run are checked again (`read committed`).

Cost: one round trip for each of these operations.

Limits: any other commit takes the general transaction: forks, ends of branches, retries, suspensions,
stopping runs, sequential mode. A message is only a hint; the sweep sends lost messages again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from noetl.executor.model.events import Event
from noetl.executor.model.run import SERVICE_QUEUE, Branch, Claim, Commit, Lease, Visit, VisitStatus
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.stores.interface import MessageOutcome, SweepResult
from noetl.executor.stores.postgres.database import PostgresDatabase
from noetl.executor.stores.sql.api_keys import SqlApiKeys
from noetl.executor.stores.sql.branches import ACTIVE, CLAIM_NEXT, HEAD, started_event
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.playbooks import SqlPlaybooks
from noetl.executor.stores.sql.retry import retry_unwritten
from noetl.executor.stores.sql.rows import (
    Row,
    encode_events,
    encode_json,
    encode_json_or_null,
    run_from_row,
    visit_from_row,
)
from noetl.executor.stores.sql.store import SqlStore, encode_outputs
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS, DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue

_STEP = """
    with locked as (
        select 1 from runs where id = ? and stop is null for update
    ), done as (
        update visits
        set status = ?, finished_at = ?, saved = ?, result = ?, "case" = ?, error = ?, failure = ?
        where run_id = ? and id = ? and fence = ? and status = 'running' and exists (select 1 from locked)
        returning id
    ), run as (
        update runs set seq = seq + 1 where id = ? and exists (select 1 from done) returning seq, queue
    ), entered as (
        insert into visits (run_id, id, step, queue, status, position, clock, names, number, claims, fence,
            worker, due_at, started_at, piece_at)
        select ?, ?, ?, queue, ?, seq << 12, ?, ?, 1, ?, ?, ?, ?, ?, ? from run
        returning id
    ), recorded as (
        insert into history select ?, seq, ? from run
    )
    select count(*) as entered, (select queue from run) as queue from entered
"""
"""Commit of a step of a chain: its outcome, the next visit, and the history. The statement is a transaction.
"""


_VISIT_COLUMNS = [column.strip('"') for column in (*HEAD.split(", "), "saved")]
_CLAIM = f"""
    with locked as (
        select 1 from runs where id = ? for update
    ), claimed as (
        update visits set status = 'running', claims = greatest(claims, ?) + 1, fence = fence + 1, worker = ?,
            due_at = ?, started_at = coalesce(started_at, ?), piece_at = coalesce(piece_at, ?)
        where run_id = ? and id = ? and {ACTIVE} and due_at <= ? and coalesce(started_at, -1) = ?
            and attempt = ? and exists (select 1 from locked)
        returning {", ".join(f'"{name}" as "visit_{name}"' for name in _VISIT_COLUMNS)}
    ), run as (
        update runs set seq = seq + 1, status = 'running', started_at = coalesce(started_at, ?)
        where id = ? and exists (select 1 from claimed)
        returning *
    ), recorded as (
        insert into history select id, seq, ? from run where ?
    )
    select * from claimed, run
"""
"""Claim of a visit. The run is locked only while this statement runs."""


_ARRIVAL = f"""
    with done as (
        update visits
        set status = ?, finished_at = ?, saved = ?, result = ?, "case" = ?, error = ?, failure = ?
        where run_id = ? and id = ? and fence = ? and status = 'running'
            and exists (select 1 from runs where id = ? and stop is null)
            and exists (select 1 from joins where run_id = ? and step = ? and live > 1)
        returning id
    ), counted as (
        update joins set live = live - 1 where run_id = ? and step = ? and exists (select 1 from done)
    ), arrived as (
        insert into arrivals select ?, ?, ?, ?, ? from done on conflict do nothing
    ), run as (
        update runs set seq = seq + 1 where id = ? and exists (select 1 from done) returning id, seq
    ), following as (
        {CLAIM_NEXT.replace("returning", "and exists (select 1 from done) and ? returning")}
    ), recorded as (
        insert into history select run.id, seq, case when following.id is null then ?::text
            else ?::text || to_json(following.step)::text || ',' || number || ',' || attempt || ?::text end
        from run left join following on true
    )
    select {", ".join(f'following."{name}"' for name in _VISIT_COLUMNS)} from done left join following on true
"""
"""Commit of a branch that arrives at a join which other branches can still reach, and claim of the next due
visit.

The transaction must have locked the run.
"""


class _RetriedPlans(SqlPlans):
    save = retry_unwritten(SqlPlans.save)


class _RetriedPlaybooks(SqlPlaybooks):
    register = retry_unwritten(SqlPlaybooks.register)
    unregister = retry_unwritten(SqlPlaybooks.unregister)


class _RetriedApiKeys(SqlApiKeys):
    add = retry_unwritten(SqlApiKeys.add)
    revoke = retry_unwritten(SqlApiKeys.revoke)
    touch = retry_unwritten(SqlApiKeys.touch)


class PostgresStore(SqlStore):
    """A store in the database at a libpq URI, or at the URI that a function returns for each connection.

    An operation that failed and certainly wrote nothing is retried. If it may have been written, it raises a
    StoreError. With the URL of a queue, messages announce the due visits of service runs, so that functions
    execute them. The table remains the queue.

    Raises:
        StoreError: the database cannot be reached, or its schema is not up to date.
    """

    # A cast to `jsonb` would fail for a tag with half a surrogate pair, and then for each page of runs.
    has_tag = "exists (select 1 from json_array_elements(tags::json) as tag where tag::text = ?)"

    def __init__(
        self,
        uri: str | Callable[[], str],
        *,
        queue_url: str | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        self.message_queue = None if queue_url is None else MessageQueue(queue_url)
        self.postgres = PostgresDatabase(uri, self.message_queue)
        super().__init__(self.postgres, retention_seconds)
        self.plans = _RetriedPlans(self.postgres)
        self.registry = _RetriedPlaybooks(self.postgres)
        self.keys = _RetriedApiKeys(self.postgres)
        self._queue_of = lru_cache(maxsize=4096)(self._read_queue)
        self.postgres.listen(self._signal_all)

    def _signal_all(self) -> None:
        self.work.notify()
        self.changes.notify()

    def announce_due(self, count: int | None = None) -> None:
        super().announce_due(count)
        if count != 0:
            self.postgres.notify()

    create = retry_unwritten(SqlStore.create)
    claim = retry_unwritten(SqlStore.claim)
    renew = retry_unwritten(SqlStore.renew)
    release = retry_unwritten(SqlStore.release)
    release_dead = retry_unwritten(SqlStore.release_dead)
    finish = retry_unwritten(SqlStore.finish)
    open_wait = retry_unwritten(SqlStore.open_wait)
    close_wait = retry_unwritten(SqlStore.close_wait)
    answer = retry_unwritten(SqlStore.answer)
    record_heartbeat = retry_unwritten(SqlStore.record_heartbeat)
    stop = retry_unwritten(SqlStore.stop)
    resume = retry_unwritten(SqlStore.resume)

    @retry_unwritten
    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        branch = self._simple_branch(commit)
        if branch is not None and not branch.is_arrival and not commit.counter_changes:
            following = _next_visit(commit, branch, now, claim_for)
            if self._commit_step(commit, following, claim_for):
                return following if claim_for is not None else None
        if branch is not None and branch.is_arrival and commit.counter_changes == {branch.step: -1}:
            row = self._commit_arrival(commit, branch, now, claim_for)
            if row is not None:
                return None if row["id"] is None else visit_from_row(row)
        return super().commit(commit, now, claim_for)

    @retry_unwritten
    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        """Claim the visit that a message names, or return what is to be done with the message.

        Visits that follow a finished visit are in the table. The sweep finds those that were not announced.
        """
        message = DueMessage.decode(body)
        query = (
            "select run_id, id, step, number, attempt, started_at, status, due_at from visits"
            f" where run_id = ? and id = ? and {ACTIVE}"
        )
        rows = self.database.fetch_all(query, message.run_id, message.visit_id)
        if not rows:
            return MessageOutcome.DONE
        (visit_row,) = rows
        if visit_row["due_at"] <= now:
            claims = MAX_CLAIMS if give_up else 0
            return self._claim(visit_row, lease, now, claims=claims) or MessageOutcome.HELD
        if visit_row["status"] == VisitStatus.RUNNING:
            return MessageOutcome.HELD
        # The delay of a message is limited, so a message for a later time is sent again.
        self.postgres.send_messages([replace(message, due_at=visit_row["due_at"])])
        return MessageOutcome.DONE

    @retry_unwritten
    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Repair runs as every SQL store does, and send lost messages about overdue visits again."""
        result = super().sweep(now, limit=limit)
        if self.message_queue is None:
            return result
        overdue = self.postgres.find_overdue(now - GRACE_SECONDS, limit)
        self.postgres.send_messages(overdue)
        return replace(result, repaired=result.repaired + len(overdue))

    def _claim(self, due: Row, lease: Lease, now: float, *, claims: int = 0) -> Claim | None:
        """Claim a visit that a query found due; its new number of claims is at least `claims` + 1."""
        is_start = due["started_at"] is None
        payload = {"worker": lease.worker}
        event = Event("step.started", now, due["step"], due["number"], due["attempt"], payload=payload)
        values = (
            due["run_id"],
            claims, lease.worker, now + lease.seconds, now, now,
            due["run_id"], due["id"], now, -1 if is_start else due["started_at"], due["attempt"],
            now, due["run_id"],
            encode_events([event]), is_start and not due["step"].startswith("@"),
        )  # fmt: skip
        row = self.postgres.execute_returning(_CLAIM, *values)
        if row is None:
            return None
        return Claim(
            run_from_row(row), visit_from_row({name: row[f"visit_{name}"] for name in _VISIT_COLUMNS})
        )

    def _simple_branch(self, commit: Commit) -> Branch | None:
        """Return the only branch of a commit that a fast path may write, or None.

        Such a commit finishes a visit and continues with one branch. It changes the counter of at most one
        join.
        """
        visit = commit.visit
        is_plain_finish = visit.finished_at is not None and visit.progress is None
        ends_run = commit.stop is not None or commit.is_finally
        changes_counters = bool(commit.branches_change or commit.failed_branches)
        if (
            not is_plain_finish
            or ends_run
            or changes_counters
            or commit.may_have_children
            or len(commit.branches) != 1
        ):
            return None
        (branch,) = commit.branches
        if branch.is_counted or branch.is_absorbed:
            return None
        _, is_sequential = self._queue_of(visit.run_id)
        return None if is_sequential else branch

    def _read_queue(self, run_id: str) -> tuple[str, bool]:
        """Return the queue of a run, and whether its plan is sequential. Neither ever changes."""
        row = self.postgres.fetch_one("select queue, plan_hash from runs where id = ?", run_id)
        return row["queue"], self.plans.header(row["plan_hash"]).sequential

    def _commit_arrival(
        self, commit: Commit, branch: Branch, now: float, claim_for: Lease | None
    ) -> Row | None:
        """Commit an arrival at a join, and return the row of the visit that was claimed, with nulls if none
        was.

        Return None if the fast path does not apply: the run is stopping, no other branch can reach the join,
        or the claim is lost.
        """
        visit = commit.visit
        run_id = visit.run_id
        queue, _ = self._queue_of(run_id)
        lease = claim_for or Lease("", 0.0)
        events = encode_events(commit.events)
        # Text of the history before and after the step, number and attempt of a visit that is claimed.
        before = events[:-1] + f',["step.started",{now!r},'
        after = f",null,{encode_json({'worker': lease.worker})}]]"
        values = (
            *_outcome(commit), run_id, visit.id, visit.fence, run_id, run_id, branch.step,
            run_id, branch.step,
            run_id, branch.step, branch.id, branch.clock, encode_json(branch.names),
            run_id,
            lease.worker, now + lease.seconds, now, now, run_id, queue, now, claim_for is not None,
            events, before, after,
        )  # fmt: skip
        row = self.postgres.execute_returning_locked(run_id, _ARRIVAL, *values)
        if row is not None:
            self.changes.notify()
        return row

    def _commit_step(self, commit: Commit, following: Visit, claim_for: Lease | None) -> bool:
        """Commit a step of a chain; return False if the run is stopping or the claim is lost."""
        visit = commit.visit
        events = [*commit.events, *([started_event(following)] if claim_for is not None else [])]
        values = (
            visit.run_id, *_outcome(commit), visit.run_id, visit.id, visit.fence, visit.run_id,
            following.run_id, following.id, following.step, following.status, following.clock,
            encode_json(following.names), following.claims, following.fence, following.worker,
            following.due_at, following.started_at, following.segment_started_at,
            visit.run_id, encode_events(events),
        )  # fmt: skip
        row = self.postgres.execute_returning(_STEP, *values)
        if row is None or not row["entered"]:
            return False
        if claim_for is None and row["queue"] == SERVICE_QUEUE:
            self.postgres.send_messages(
                [DueMessage(following.run_id, following.id, following.step, following.due_at)]
            )
        self.changes.notify()
        self.announce_due(0 if claim_for is not None else 1)
        return True


def _outcome(commit: Commit) -> tuple[Any, ...]:
    """Return the columns of a finished visit: status, end, outputs, case, error and failure."""
    visit = commit.visit
    outputs = encode_outputs(commit)
    return (
        visit.status, visit.finished_at, outputs.saved, outputs.result, visit.case,
        encode_json_or_null(visit.error), visit.failure,
    )  # fmt: skip


def _next_visit(commit: Commit, branch: Branch, now: float, claim_for: Lease | None) -> Visit:
    """Return the visit that the branch creates, claimed if there is a lease."""
    visit = Visit(
        branch.id,
        commit.visit.run_id,
        branch.step,
        VisitStatus.READY,
        branch.clock,
        branch.names,
        due_at=now,
    )
    if claim_for is None:
        return visit
    return replace(
        visit,
        status=VisitStatus.RUNNING,
        claims=1,
        fence=1,
        worker=claim_for.worker,
        due_at=now + claim_for.seconds,
        started_at=now,
        segment_started_at=now,
    )
