"""The work queue of a Postgres store: single statements for the most frequent operations.

Problem: a transaction of the shared SQL queue takes several round trips, during which it locks the run.
Branches of one run then wait for each other.

Algorithm: the three most frequent operations are single statements. Source: PostgreSQL documentation,
"Data-Modifying Statements in WITH". They are a claim, a step of a chain, and an arrival at a join that other
branches can still reach. Each checks in its
conditions that the fast path applies; if it changes no row, the transaction of `SqlQueue` decides. Rows that
change while a statement waits for the lock of the run are checked again (`read committed`).

A claim that takes one slot is two statements in one pipeline, which is one transaction.

Cost: one round trip for each of these operations.

Limits: any other commit takes the general transaction: forks, ends of branches, retries, suspensions,
stopping runs, sequential mode. A message is only a hint; the sweep sends lost messages again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from noetl.executor.errors import FencedError
from noetl.executor.model.gates import Slot
from noetl.executor.model.metrics import FactKind, loses_lease, timed_fact
from noetl.executor.model.read_memory import is_counting_reads, reserve_read
from noetl.executor.model.run import (
    SERVICE_QUEUE,
    Branch,
    Claim,
    Commit,
    CommitResult,
    Lease,
    Visit,
    VisitStatus,
)
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.visit_transition import MAX_CLAIMS, claim, enter_step, is_due, start_events
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.postgres.database import PostgresDatabase
from noetl.executor.stores.postgres.slots import AcquiringStatement, SlotChange, SlotStatements, move_slot
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.facts import fact_values
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.queue import SqlQueue, claim_condition, encode_outputs, with_saved
from noetl.executor.stores.sql.rows import (
    Row,
    encode_events,
    encode_json_or_null,
    run_from_row,
    visit_from_row,
    visit_values,
)
from noetl.executor.stores.sqs.due_message import GIVE_UP_DELAY_SECONDS, DueMessage
from noetl.planner.frozen import replace


class PostgresQueue:
    """The work queue in Postgres. Operations that have no fast path are those of the shared queue."""

    claims_in_turn = True
    counts_active = True
    takes_slots = True

    def __init__(self, context: SqlContext, plans: SqlPlans, database: PostgresDatabase) -> None:
        self._context = context
        self._plans = plans
        self._database = database
        self.message_queue = database.message_queue
        self._shared = SqlQueue(context, plans, self._write_claim, move_slot)
        self.claim = self._shared.claim
        self.count_active = self._shared.count_active
        self.next_due = self._shared.next_due
        self.renew = self._shared.renew
        self.release = self._shared.release
        self.release_dead = self._shared.release_dead
        self.finish = self._shared.finish
        self._queue_of = lru_cache(maxsize=4096)(self._read_queue)

    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        """Claim the visit that a message names, or return what is to be done with the message.

        Visits that follow a finished visit are in the table. The sweep finds those that were not announced.
        """
        message = DueMessage.decode(body)
        rows = self._database.fetch_all("queue.find_active", run_id=message.run_id, visit_id=message.visit_id)
        if not rows:
            return MessageOutcome.DONE
        visit = visit_from_row(rows[0])
        if is_due(visit, now):
            if give_up and visit.claims < MAX_CLAIMS:
                self._send_later(message, now + GIVE_UP_DELAY_SECONDS, rows[0]["tenant"])
                return MessageOutcome.DONE
            claimed = self._write_claim(rows[0], visit, claim(visit, lease, now), now)
            return claimed or MessageOutcome.HELD
        if visit.status is VisitStatus.RUNNING:
            return MessageOutcome.HELD
        # The delay of a message is limited, so a message for a later time is sent again.
        self._send_later(message, visit.due_at, rows[0]["tenant"])
        return MessageOutcome.DONE

    def release_given_up(self, body: str, now: float) -> bool:
        """Release the claim of a worker that the message names, and that could not. Return whether it did."""
        message = DueMessage.decode(body)
        rows = self._database.fetch_all("queue.find_active", run_id=message.run_id, visit_id=message.visit_id)
        visit = visit_from_row(rows[0]) if rows else None
        if visit is None or visit.status is not VisitStatus.RUNNING or visit.due_at <= now:
            return False
        if visit.worker not in message.released:
            return False
        self.release(visit, now, counts=False)
        return True

    def _send_later(self, message: DueMessage, due_at: float, tenant: str) -> None:
        self._database.send_messages([replace(message, due_at=due_at, tenant=tenant)])

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        branch = self._only_branch(commit)
        if branch is not None and not branch.is_arrival and not commit.counter_changes:
            entered = enter_step(branch, commit.visit.run_id, now)
            following = entered if claim_for is None else claim(entered, claim_for, now)
            result = self._commit_step(commit, entered, following, now)
            if result is not None:
                return result
        is_arrival = branch is not None and branch.is_arrival and not commit.gives_back
        if branch is not None and is_arrival and commit.counter_changes == {branch.step: -1}:
            row = self._commit_arrival(commit, branch, now, claim_for)
            if row is not None:
                return CommitResult(None if row["id"] is None else visit_from_row(row))
        return self._shared.commit(commit, now, claim_for)

    def _write_claim(self, due: Row, before: Visit, claimed: Visit, now: float) -> Claim | None:
        events = start_events(before, claimed)
        values = {
            **claim_condition(before, claimed, now),
            "events": encode_events(events),
            "starts": bool(events),
            "lost_lease": FactKind.LOST_LEASE,
            "loses_lease": loses_lease(before),
        }
        wanted = self._shared.find_requests(due, claimed)
        slot: Slot | None = None
        if wanted is None or len(wanted.requests) > 1:
            wanted = None
            row = self._database.execute_returning("queue.claim_at_once", **values)
        else:
            # The plan that has the limits must still be that of the run.
            values["plan_hash"] = due["plan_hash"]
            acquiring = AcquiringStatement(claimed, wanted.owner, wanted.requests[0], now)
            row, acquired = self._database.execute_together(
                [("queue.claim_at_once", values), acquiring.statement]
            )
            slot = acquiring.slot(acquired)
        if row is None:
            return None
        if is_counting_reads():
            reserve_read(_count_payload(row))
        written = Claim(run_from_row(row), with_saved(claimed, row["saved"]))
        return written if wanted is None else wanted.complete(written, () if slot is None else (slot,))

    def _only_branch(self, commit: Commit) -> Branch | None:
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
            or (commit.gives_back and not commit.held_slots)
            or len(commit.branches) != 1
        ):
            return None
        (branch,) = commit.branches
        if branch.is_counted or branch.is_absorbed:
            return None
        _, is_sequential = self._queue_of(visit.run_id)
        return None if is_sequential else branch

    def _read_queue(self, run_id: str) -> tuple[str, bool]:
        """Return the queue of a run, and whether its plan is sequential. Neither ever changes.

        Raises:
            FencedError: the run was deleted, so the claim of its visit was lost before.
        """
        rows = self._database.fetch_all("queue.read_queue", run_id=run_id)
        if not rows:
            raise FencedError(f"run {run_id} was deleted")
        (row,) = rows
        return row["queue"], self._plans.header(row["plan_hash"]).sequential

    def _commit_arrival(
        self, commit: Commit, branch: Branch, now: float, claim_for: Lease | None
    ) -> Row | None:
        """Commit an arrival at a join, and return the row of the visit that was claimed, with nulls if none
        was.

        Return None if the fast path does not apply: the run is stopping, no other branch can reach the join,
        or the claim is lost.
        """
        queue, _ = self._queue_of(commit.visit.run_id)
        lease = claim_for or Lease("", 0.0)
        events = encode_events(commit.events)
        row = self._database.execute_returning_locked(
            "queue.commit_arrival",
            **self._finished_values(commit),
            join=branch.step,
            arrival_id=branch.id,
            clock=branch.clock,
            names=encode_json(branch.names),
            worker=lease.worker,
            leased_until=now + lease.seconds,
            since=self._context.floor.known(queue, now),
            now=now,
            queue=queue,
            claims_next=claim_for is not None,
            events=events,
            events_before=events[:-1] + f',["step.started",{now!r},',
            events_after=f",null,{encode_json({'worker': lease.worker})}]]",
        )
        if row is not None:
            self._context.changes.notify()
        return row

    def _commit_step(
        self, commit: Commit, entered: Visit, following: Visit, now: float
    ) -> CommitResult | None:
        """Commit a step of a chain. Return None if the run is stopping or the claim is lost.

        `following` is the visit that the branch enters, claimed if it is another than `entered`.
        """
        is_claimed = following is not entered
        events = [*commit.events, *(start_events(entered, following) if is_claimed else ())]
        next_visit = {f"next_{name}": value for name, value in visit_values(following).items()}
        del next_visit["next_run_id"]
        values = {**self._finished_values(commit), **next_visit, "events": encode_events(events)}
        if commit.gives_back and commit.visit.fence > 1:
            # Before its first claim, a visit has no slots that the worker of this claim does not know.
            values["held_slots"] = len(commit.held_slots)
        row, result = self._commit_slots(commit, following, values, now)
        if row is None or not row["entered"]:
            return None
        if not is_claimed and row["queue"] == SERVICE_QUEUE:
            self._database.send_messages(
                [
                    DueMessage(
                        following.run_id,
                        following.id,
                        following.step,
                        following.due_at,
                        tenant=row["tenant"],
                    )
                ]
            )
        self._context.changes.notify()
        self._context.announce_due(0 if is_claimed else 1)
        return replace(result, following=following) if is_claimed else result

    def _commit_slots(
        self, commit: Commit, following: Visit, values: Mapping[str, Any], now: float
    ) -> tuple[Row | None, CommitResult]:
        """Write a commit with `values`. Return the row of its statement, and what has become of slots."""
        change, result = SlotChange.find(commit, following, now), CommitResult()
        if change is not None:
            row = self._database.execute_returning(change.query, **values, **change.values)
            if row is not None and row["entered"]:
                return row, change.add_to(result, row)
            if not change.is_passing:
                return row, result
        slots = SlotStatements(commit, following, now)
        row, *rows = self._database.execute_together([("queue.commit_step", values), *slots.statements])
        return row, slots.add_to(result, rows)

    def _finished_values(self, commit: Commit) -> dict[str, Any]:
        """Return the values of `{set_finished}` and `{held}`, and of the fact that the step has ended."""
        visit = commit.visit
        outputs = encode_outputs(commit, self._context.limits)
        fact = timed_fact(FactKind.STEP, visit.status, visit.started_at, visit.finished_at or 0.0)
        return {
            **fact_values(fact),
            "run_id": visit.run_id,
            "visit_id": visit.id,
            "fence": visit.fence,
            "status": visit.status,
            "finished_at": visit.finished_at,
            "saved": outputs.saved,
            "result": outputs.result,
            "case": visit.case,
            "error": encode_json_or_null(visit.error),
            "failure": visit.failure,
            "failures": outputs.failures,
        }


def _count_payload(row: Row) -> int:
    """Return the characters of JSON that a claim has read, which must be read in any case."""
    return sum(len(row[column] or "") for column in ("saved", "input", "environment", "variables"))
