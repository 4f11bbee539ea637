"""Runs in Postgres, for any number of workers on any number of machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from noetl.executor.model.events import Event
from noetl.executor.model.run import SERVICE, Branch, Claim, Commit, Lease, Visit, VisitStatus
from noetl.executor.model.transition import MAX_CLAIMS
from noetl.executor.stores.interface import MessageOutcome, SweepResult
from noetl.executor.stores.postgres.database import PostgresDatabase
from noetl.executor.stores.sql.branches import ACTIVE, CLAIM_NEXT, HEAD, started
from noetl.executor.stores.sql.retry import retry_unwritten
from noetl.executor.stores.sql.rows import (
    Row,
    encode_events,
    encode_json,
    encode_json_or_null,
    run_from_row,
    visit_from_row,
)
from noetl.executor.stores.sql.store import SqlStore, texts_of
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS, DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue

_STEP = """
    with locked as (
        select 1 from runs where id = ? and stop is null for update
    ), done as (
        update visits set status = ?, finished_at = ?, saved = ?, result = ?, "case" = ?, error = ?, failure = ?
        where run_id = ? and id = ? and fence = ? and status = 'running' and exists (select 1 from locked)
        returning id
    ), run as (
        update runs set seq = seq + 1 where id = ? and exists (select 1 from done) returning seq, queue
    ), entered as (
        insert into visits (run_id, id, step, queue, status, position, clock, names, number, claims, fence, worker, due_at,
            started_at, piece_at)
        select ?, ?, ?, queue, ?, seq << 12, ?, ?, 1, ?, ?, ?, ?, ?, ? from run
        returning id
    ), past as (
        insert into history select ?, seq, ? from run
    )
    select count(*) as entered, (select queue from run) as queue from entered
"""
"""A step of a chain: its outcome, the visit that follows and the history, in one statement, which is a
transaction.
"""


_VISIT = [column.strip('"') for column in (*HEAD.split(", "), "saved")]
_CLAIM = f"""
    with locked as (
        select 1 from runs where id = ? for update
    ), claimed as (
        update visits set status = 'running', claims = greatest(claims, ?) + 1, fence = fence + 1, worker = ?, due_at = ?,
            started_at = coalesce(started_at, ?), piece_at = coalesce(piece_at, ?)
        where run_id = ? and id = ? and {ACTIVE} and due_at <= ? and coalesce(started_at, -1) = ? and attempt = ?
            and exists (select 1 from locked)
        returning {", ".join(f'"{name}" as "visit_{name}"' for name in _VISIT)}
    ), run as (
        update runs set seq = seq + 1, status = 'running', started_at = coalesce(started_at, ?)
        where id = ? and exists (select 1 from claimed)
        returning *
    ), past as (
        insert into history select id, seq, ? from run where ?
    )
    select * from claimed, run
"""
"""A claim in one statement, so that the run is locked for no longer than that takes. Rows that others have
changed since it began are looked at again as they are now.
"""


_ARRIVAL = f"""
    with done as (
        update visits set status = ?, finished_at = ?, saved = ?, result = ?, "case" = ?, error = ?, failure = ?
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
    ), past as (
        insert into history select run.id, seq, case when following.id is null then ?::text
            else ?::text || to_json(following.step)::text || ',' || number || ',' || attempt || ?::text end
        from run left join following on true
    )
    select {", ".join(f'following."{name}"' for name in _VISIT)} from done left join following on true
"""
"""A branch that arrives at a join which others are still on the way to: its outcome, and the next visit of
the run that is due. For a transaction that has locked the run.
"""


class PostgresStore(SqlStore):
    """The store in the database that a libpq URI leads to, or what gives one for every new connection. What
    another transaction or a lost connection keeps from being written is written again; where it cannot be
    known whether it was, that is a StoreError.

    With the URL of a queue, messages there tell of whatever becomes due for workers of a service: they call
    functions. The table stays the queue, and a message is a hint, which a sweep sends again where it was
    lost.

    Raises:
        StoreError: it cannot be reached, or its schema is not up to date.
    """

    # A cast to `jsonb` fails where a tag is not valid Unicode, and then no page of runs could be read.
    has_tag = "exists (select 1 from json_array_elements(tags::json) as tag where tag::text = ?)"

    def __init__(
        self,
        uri: str | Callable[[], str],
        *,
        queue_url: str | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        self.messages = None if queue_url is None else MessageQueue(queue_url)
        self.postgres = PostgresDatabase(uri, self.messages)
        super().__init__(self.postgres, retention_seconds)
        self._line_of = lru_cache(maxsize=4096)(self._read_line)
        self.postgres.listen(self._hear)

    def _hear(self) -> None:
        self.work.notify()
        self.changes.notify()

    def announce_due(self, pieces: int | None = None) -> None:
        super().announce_due(pieces)
        if pieces != 0:
            self.postgres.notify()

    save_plan = retry_unwritten(SqlStore.save_plan)
    create_run = retry_unwritten(SqlStore.create_run)
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
    register = retry_unwritten(SqlStore.register)
    unregister = retry_unwritten(SqlStore.unregister)
    add_key = retry_unwritten(SqlStore.add_key)
    revoke_key = retry_unwritten(SqlStore.revoke_key)
    touch_key = retry_unwritten(SqlStore.touch_key)

    @retry_unwritten
    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        branch = self._only_branch(commit)
        if branch is not None and not branch.joins and not commit.live:
            following = _following(commit, branch, now, claim_for)
            if self._step_on(commit, following, claim_for):
                return following if claim_for is not None else None
        if branch is not None and branch.joins and commit.live == {branch.step: -1}:
            row = self._arrive(commit, branch, now, claim_for)
            if row is not None:
                return None if row["id"] is None else visit_from_row(row)
        return super().commit(commit, now, claim_for)

    @retry_unwritten
    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        """The claim of the visit that a message tells of, or what is to be done with the message. What
        follows from a visit that was done before stands in the table, and is found by a sweep where nobody
        was told.
        """
        note = DueMessage.decode(body)
        query = f"select run_id, id, step, number, attempt, started_at, status, due_at from visits where run_id = ? and id = ? and {ACTIVE}"
        found = self.database.fetch_all(query, note.run_id, note.visit_id)
        if not found:
            return MessageOutcome.DONE
        (due,) = found
        if due["due_at"] <= now:
            return self._claim(due, lease, now, claims=MAX_CLAIMS if give_up else 0) or MessageOutcome.HELD
        if due["status"] == VisitStatus.RUNNING:
            return MessageOutcome.HELD
        # Its delay has an upper bound.
        self.postgres.send_messages([replace(note, due_at=due["due_at"])])
        return MessageOutcome.DONE

    @retry_unwritten
    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        swept = super().sweep(now, limit=limit)
        if self.messages is None:
            return swept
        lost = self.postgres.find_overdue(now - GRACE_SECONDS, limit)
        self.postgres.send_messages(lost)
        return replace(swept, repaired=swept.repaired + len(lost))

    def _claim(self, due: Row, lease: Lease, now: float, *, claims: int = 0) -> Claim | None:
        """As every store does; the claim counts as one more than `claims` at least."""
        begins = due["started_at"] is None
        payload = {"worker": lease.worker}
        event = Event("step.started", now, due["step"], due["number"], due["attempt"], payload=payload)
        values = (
            due["run_id"],
            claims, lease.worker, now + lease.seconds, now, now,
            due["run_id"], due["id"], now, -1 if begins else due["started_at"], due["attempt"],
            now, due["run_id"],
            encode_events([event]), begins and not due["step"].startswith("@"),
        )  # fmt: skip
        row = self.postgres.execute_returning(_CLAIM, *values)
        if row is None:
            return None
        return Claim(run_from_row(row), visit_from_row({name: row[f"visit_{name}"] for name in _VISIT}))

    def _only_branch(self, commit: Commit) -> Branch | None:
        """The branch that a step hands on when nothing else comes of it but that others are not waited for
        any more.
        """
        visit = commit.visit
        is_plain = (
            visit.finished_at is not None
            and visit.progress is None
            and commit.stop is None
            and not commit.last
        )
        if (
            not is_plain
            or commit.waited
            or len(commit.branches) != 1
            or commit.branches_change
            or commit.failed_branches
        ):
            return None
        (branch,) = commit.branches
        is_alone = not (branch.counted or branch.is_absorbed)
        _, in_turns = self._line_of(visit.run_id)
        return branch if is_alone and not in_turns else None

    def _read_line(self, run_id: str) -> tuple[str, bool]:
        """The queue of a run, and whether its branches go one after another."""
        row = self.postgres.fetch_one("select queue, plan_hash from runs where id = ?", run_id)
        return row["queue"], self.plan_header(row["plan_hash"]).sequential

    def _arrive(self, commit: Commit, branch: Branch, now: float, claim_for: Lease | None) -> Row | None:
        """The row of the visit that was claimed with the commit, with nothing in it where there is none;
        None when the commit could not be made so: the run is stopping, the join has nothing left to wait
        for, or the claim was lost.
        """
        visit = commit.visit
        run_id = visit.run_id
        queue, _ = self._line_of(run_id)
        lease = claim_for or Lease("", 0.0)
        told = encode_events(commit.events)
        before, after = (
            told[:-1] + f',["step.started",{now!r},',
            f",null,{encode_json({'worker': lease.worker})}]]",
        )
        values = (
            *_outcome(commit), run_id, visit.id, visit.fence, run_id, run_id, branch.step,
            run_id, branch.step,
            run_id, branch.step, branch.id, branch.clock, encode_json(branch.names),
            run_id,
            lease.worker, now + lease.seconds, now, now, run_id, queue, now, claim_for is not None,
            told, before, after,
        )  # fmt: skip
        row = self.postgres.execute_returning_locked(run_id, _ARRIVAL, *values)
        if row is not None:
            self.changes.notify()
        return row

    def _step_on(self, commit: Commit, following: Visit, claim_for: Lease | None) -> bool:
        """Whether the commit could be made so: the run is not stopping, and the claim is held."""
        visit = commit.visit
        events = [*commit.events, *([started(following)] if claim_for is not None else [])]
        values = (
            visit.run_id, *_outcome(commit), visit.run_id, visit.id, visit.fence, visit.run_id,
            following.run_id, following.id, following.step, following.status, following.clock,
            encode_json(following.names), following.claims, following.fence, following.worker, following.due_at,
            following.started_at, following.piece_at,
            visit.run_id, encode_events(events),
        )  # fmt: skip
        row = self.postgres.execute_returning(_STEP, *values)
        if row is None or not row["entered"]:
            return False
        if claim_for is None and row["queue"] == SERVICE:
            self.postgres.send_messages(
                [DueMessage(following.run_id, following.id, following.step, following.due_at)]
            )
        self.changes.notify()
        self.announce_due(0 if claim_for is not None else 1)
        return True


def _outcome(commit: Commit) -> tuple[Any, ...]:
    """What is written of a visit that is over."""
    visit = commit.visit
    saved, result, _, _ = texts_of(commit)
    return (
        visit.status, visit.finished_at, saved, result, visit.case, encode_json_or_null(visit.error), visit.failure,
    )  # fmt: skip


def _following(commit: Commit, branch: Branch, now: float, claim_for: Lease | None) -> Visit:
    """The visit that the branch makes, claimed when someone wants it."""
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
        piece_at=now,
    )
