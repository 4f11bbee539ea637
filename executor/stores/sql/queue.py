"""The queue of due visits in a SQL store: claims, leases and commits. The queue is the table of visits.

Problem: many workers claim and commit visits of one run at the same time. A worker that lost its claim must
not write, and a commit must be complete or not made at all.

Algorithm: two-phase locking (Eswaran et al. 1976). A transaction that writes to a run locks the row of the
run first, so transactions of one run are serial. A parent run is locked before its child run, which excludes
deadlocks. A claim is a conditional update of a due visit that increases its fence. A commit is one
transaction: the outcome under the condition of the fence, then counters, joins, new visits and history.

Claims of a tenant take the visit that has been due longest, and in turn the one of those that wait for
nothing. So thousands of timers that are due at once do not delay new runs.

Claims take the tenants in turn: round robin (Nagle 1987, "On packet switches with infinite storage") between
tenants, by due time within a tenant. Each process remembers the tenant that it has served last, so turns need
no write and no lock. A loose index scan finds the next tenant with a due visit.

A claim takes the slots of its visit, or of the run that it begins, if they are free and their limits read
nothing (`model.claim_requests`).

Cost: one transaction for a claim and one for a commit, each of a few statements. A claim costs two index
look-ups for each tenant that it steps over: those with active visits of which none is due.

Limits: a worker that loses a race for a visit chooses at random among more and more due visits, at most
MAX_CANDIDATES.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

from noetl.executor.errors import StoreError
from noetl.executor.model.bounded_counter import BoundedCounter
from noetl.executor.model.branch_stack import is_turn_over
from noetl.executor.model.claim_requests import ClaimRequests, find_claim_requests
from noetl.executor.model.events import Event
from noetl.executor.model.gates import GateKey, SlotOwner, SlotRequest
from noetl.executor.model.json_values import find_saved_result
from noetl.executor.model.large_json import read_large_json
from noetl.executor.model.limit_requests import Requester
from noetl.executor.model.limits import REJECT_UNSTORABLE_OUTPUTS, PayloadLimits
from noetl.executor.model.metrics import LEASE_LOST, fact_of_end, fact_of_outcome, loses_lease
from noetl.executor.model.run import Claim, Commit, CommitResult, Lease, RunEnding, RunStatus, Visit
from noetl.executor.model.run_transition import finish_run, run_finished
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.stored_json import encode_payload
from noetl.executor.model.visit_transition import (
    claim,
    claim_lost,
    discards_batch_results,
    finish_end,
    is_requested_for,
    start_events,
)
from noetl.executor.model.worker_identity import is_dead
from noetl.executor.stores.damage import missing_run, naming_run
from noetl.executor.stores.sql.branches import BranchTransaction
from noetl.executor.stores.sql.cascade_completion import SqlCascades
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Result, Writer
from noetl.executor.stores.sql.facts import add_fact
from noetl.executor.stores.sql.history import append_events
from noetl.executor.stores.sql.outbox import add_entries
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.rows import (
    Row,
    claim_values,
    decode_json,
    encode_json_or_null,
    encode_result,
    run_from_row,
    visit_from_row,
)
from noetl.executor.stores.sql.run_times import keep_times
from noetl.executor.stores.sql.slots import (
    SlotExchange,
    exchange_slots,
    give_back_slots,
    is_queued,
    may_move_slot,
    move_slot,
    take_slots,
    take_with_claim,
)
from noetl.executor.stores.sql.waits import give_answer, is_any_answered, unlist_waits
from noetl.planner.frozen import replace

MAX_CANDIDATES = 64
"""Number of due visits among which a worker chooses after other workers were faster."""

ClaimWriter: TypeAlias = Callable[[Row, Visit, Visit, float], Claim | None]
"""A function that writes a claim: the row of the due visit, the visit before and after it, and the time. It
returns None if the visit has changed since it was read.
"""


SlotMover: TypeAlias = Callable[[Writer, Commit, SlotOwner, SlotRequest, float], SlotExchange | None]
"""A function that does what `sql.slots.move_slot` does."""


class SqlQueue:
    """The work queue of a SQL store. `write_claim` and `move` may be faster ways to do it."""

    claims_in_turn = True
    counts_active = True
    takes_slots = True

    def __init__(
        self,
        context: SqlContext,
        plans: SqlPlans,
        write_claim: ClaimWriter | None = None,
        move: SlotMover = move_slot,
    ) -> None:
        self._context = context
        self._plans = plans
        self._cascades = SqlCascades(context, plans)
        self._write = write_claim or self._write_claim
        self._move_slot = move
        self._claims = BoundedCounter()
        """The number of claims of each tenant."""
        self._last_tenant = ""
        """The tenant that a thread of this process has served last. The next claim begins after it."""

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        candidates, database = 1, self._context.database
        skipped = {"ids": database.encode_list([f"{queue} {t}" for t in passed_over])} if passed_over else {}
        since = self._context.floor.begin(queue, now)
        while due := self._find_due(queue, now, since, limit=candidates, **skipped):
            self._last_tenant = due[0]["tenant"]
            row = random.choice(self._share(due))
            visit = visit_from_row(row)
            claimed = self._write(row, visit, claim(visit, lease, now), now)
            if claimed is not None:
                return claimed
            if candidates == MAX_CANDIDATES and not database.fetch_all("queue.read_run", run_id=visit.run_id):
                raise missing_run(visit.run_id)
            # Another worker was faster. Competing workers now choose among more visits, so they collide less.
            candidates = min(candidates * 4, MAX_CANDIDATES)
        return None

    def _find_due(self, queue: str, now: float, since: float, **options: Any) -> list[Row]:
        """Return the longest due visits of the next tenant, and learn where the next claim may begin."""
        started_at = time.monotonic()
        after = f"{queue} {self._last_tenant}"
        due = self._context.database.fetch_all(
            "queue.find_due", queue=queue, now=now, since=since, after=after, **options
        )
        if due or "ids" not in options:
            first_due = due[0]["first_due"] if due else None
            self._context.floor.learn(queue, since, first_due, now, time.monotonic() - started_at)
        return due

    def _share(self, due: Sequence[Row]) -> list[Row]:
        """Return the visits of one kind: in turn those that wait for nothing, and those of any kind."""
        claims, _ = self._claims.add(due[0]["tenant"], 1)
        ready = [row for row in due if row["is_ready"]]
        return ready if ready and claims % 2 else [row for row in due if not row["is_ready"]]

    def find_requests(self, run: Row, claimed: Visit) -> ClaimRequests | None:
        """Return what is requested with a claim. `run` has the tenant, the playbook and the plan of a run."""
        if is_pseudo_step(claimed.step):
            return None
        with suppress(StoreError):  # A plan that cannot be read is reported when the visit is executed.
            header = self._plans.header(run["plan_hash"])
            if header.has_limits:
                step = self._plans.step(run["plan_hash"], claimed.step)
                requester = Requester(run["tenant"], run["playbook"])
                return find_claim_requests(requester, header, step, claimed, self._context.assume_named)
        return None

    def _write_claim(self, _: Row, before: Visit, claimed: Visit, now: float) -> Claim | None:
        with self._context.database.transaction() as db:
            db.lock_run(before.run_id)
            row = db.execute("queue.write_claim", **claim_condition(before, claimed, now)).fetchone()
            if row is None:
                return None
            db.execute("queue.begin_run", run_id=before.run_id, now=now)
            # With a `returning` clause SQLite copies the payload of the run several times.
            run = db.execute("runs.read", run_id=before.run_id).fetchone()
            if run is None:
                raise missing_run(before.run_id)
            if loses_lease(before):
                add_fact(db, before.run_id, LEASE_LOST)
            if events := start_events(before, claimed):
                append_events(db, before.run_id, run["seq"], events)
            wanted = self.find_requests(run, claimed)
            slots = () if wanted is None else take_with_claim(db, wanted, now)
        claim = Claim(run_from_row(run), with_saved(claimed, row["saved"]))
        return claim if wanted is None else wanted.complete(claim, slots)

    def count_active(self, queue: str, tenant: str, limit: int) -> int:
        # The visits of a tenant have a floor of their own. A process that claims none learns it too.
        turn, now, started_at = f"{queue} {tenant}", self._context.database.clock(), time.monotonic()
        since = self._context.floor.begin(turn, now)
        row = self._context.database.fetch_one("queue.count_active", turn=turn, since=since, limit=limit)
        self._context.floor.learn(turn, since, row["first_due"], now, time.monotonic() - started_at)
        count: int = row["active"]
        return count

    def next_due(self, queue: str, until: float | None = None) -> float | None:
        bounds = {} if until is None else {"until": until, "since": self._context.floor.known(queue, until)}
        rows = self._context.database.fetch_all("queue.next_due", queue=queue, **bounds)
        return rows[0]["due_at"] if rows else None

    def renew(
        self, claimed: Visit, until: float, events: Sequence[Event] = (), events_already_written: int = 0
    ) -> bool:
        key = _claim_key(claimed)
        if not events:
            with self._context.database.transaction() as db:
                return db.execute("queue.renew", until=until, **key).rowcount == 1
        with self._context.transaction() as db:
            db.lock_run(claimed.run_id)
            is_held = db.execute("queue.renew", until=until, **key).rowcount == 1
            if is_held:
                row = db.execute("queue.next_seq", run_id=claimed.run_id).fetchone()
                append_events(db, claimed.run_id, row["seq"], events)
            return is_held

    def release(self, claimed: Visit, now: float, *, counts: bool) -> None:
        key = _claim_key(claimed)
        with self._context.transaction() as db:
            db.mark_run_written(claimed.run_id)
            db.execute("queue.release", now=now, uncounted=0 if counts else 1, **key)
        self._context.announce_due(1)

    def release_dead(self, queue: str, now: float) -> int:
        database = self._context.database
        workers = [row["worker"] for row in database.fetch_all("queue.find_workers", queue=queue, now=now)]
        dead = [worker for worker in workers if is_dead(worker)]
        if not dead:
            return 0
        with self._context.transaction() as db:
            ended = db.execute("queue.end_leases", queue=queue, now=now, ids=database.encode_list(dead))
        self._context.announce_due()
        return ended.rowcount

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        visit = commit.visit
        outputs = encode_outputs(commit, self._context.limits)
        with naming_run(visit.run_id), self._context.transaction() as db:
            db.mark_run_written(visit.run_id)
            db.execute(
                "queue.count_outcome",
                run_id=visit.run_id,
                branches_change=commit.branches_change,
                failed_branches=commit.failed_branches,
                stop=commit.stop,
                run_error=encode_json_or_null(commit.error),
            )
            if commit.awaits and is_any_answered(db, visit.run_id, visit.id, commit.awaits):
                visit = replace(visit, due_at=now)
            moves_slot = claim_for is not None and may_move_slot(commit)
            if commit.gives_back and not moves_slot:
                take_slots(db, "gates.take_of_visit", run_id=visit.run_id, visit_id=visit.id)
            if commit.is_queued and not is_queued(db, commit):
                visit = replace(visit, due_at=now)
            written = write_outcome(db, visit, outputs, may_park=not commit.is_finally)
            _write_batch_results(db, visit, outputs.parts)
            run = db.execute("queue.read_run", run_id=visit.run_id).fetchone()
            _require_claim(visit, written)
            if moves_slot and not commit.requests and run["live"] == 0:
                moves_slot = False  # No other branch is left whose visit may take it.
                take_slots(db, "gates.take_of_visit", run_id=visit.run_id, visit_id=visit.id)
            add_fact(db, visit.run_id, fact_of_outcome(visit, now))
            branches = BranchTransaction(db, self._plans, run, now, claim_for)
            branches.claims_since = self._context.floor.known(run["queue"], now)
            _apply_commit(branches, commit)
            events = [*commit.events, *branches.started]
            if events:
                append_events(db, visit.run_id, run["seq"], events)
            keep_times(db, visit.run_id, run["seq"], now)
            slots = self._exchange_slots(branches, commit, moves_slot=moves_slot)
        is_suspended = visit.finished_at is None
        self._context.announce_due(max(branches.count + is_suspended - (branches.claimed is not None), 0))
        if not branches.cascade.is_complete:
            self._cascades.try_complete(visit.run_id, now)
        return CommitResult(branches.claimed, *slots)

    def _exchange_slots(
        self, branches: BranchTransaction, commit: Commit, *, moves_slot: bool
    ) -> SlotExchange:
        """Give back slots, and let the visit that was claimed take what is requested for it.

        The commit requests it for the visit that its first branch enters. With `moves_slot`, the only slot of
        the committed visit has not been deleted yet.
        """
        db, visit, claimed, now = branches.db, commit.visit, branches.claimed, branches.now
        owner = SlotOwner(visit.run_id, "" if claimed is None else claimed.id)
        requests = commit.requests if is_requested_for(commit, claimed) else ()
        wanted = None
        if claimed is not None and not is_requested_for(commit, claimed):
            wanted = self.find_requests(branches.run, claimed)
            if wanted is not None and wanted.owner == owner:
                requests = wanted.requests
        exchange = None
        if moves_slot:
            exchange = self._move_slot(db, commit, owner, requests[0], now) if len(requests) == 1 else None
            if exchange is None:
                take_slots(db, "gates.take_of_visit", run_id=visit.run_id, visit_id=visit.id)
        exchange = exchange or exchange_slots(db, owner, requests, now)
        is_partial = wanted is not None and len(exchange.slots) < len(requests)
        return exchange._replace(slots=()) if is_partial else exchange

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        run = finish_run(claim.run, ending, now)
        visit = finish_end(claim.visit, now)
        self._context.limits.measure_result(ending.result, list(ending.errors))
        result_text, errors_text = encode_payload(ending.result), encode_payload(list(ending.errors))
        self._context.limits.check_result(result_text, errors_text)
        with self._context.transaction() as db:
            if run.parent is not None:
                db.lock_run(run.parent.run_id)
            db.lock_run(run.id)
            written = write_outcome(db, visit, EncodedOutputs(), may_park=False)
            db.execute("branches.delete_deadline", run_id=run.id)
            unlist_waits(db, run.id)
            take_slots(db, "gates.take_of_run", run_id=run.id)
            row = db.execute(
                "queue.finish_run",
                run_id=run.id,
                status=run.status,
                result=result_text,
                errors=errors_text,
                error=encode_json_or_null(run.error),
                finished_at=run.finished_at,
            ).fetchone()
            _require_claim(visit, written)
            ended = replace(run, error=decode_json(row["error"]))
            add_fact(db, run.id, fact_of_end(ended, now))
            append_events(db, run.id, row["seq"], [run_finished(ended)])
            if run.parent is not None:
                give_answer(db, run.parent, "null", now)
            add_entries(db, ending.outbox)
            freed = give_back_slots(db)
        # What waits for the slots of the run is announced when they are granted.
        self._context.announce_end(0 if run.parent is None else 1)
        return freed


class EncodedOutputs(NamedTuple):
    """The outputs of a visit as JSON. `parts` are batch results: position of the loop, first index, JSON."""

    saved: str | None = None
    result: str | None = None
    failures: str | None = None
    progress: str | None = None
    parts: Sequence[tuple[str, int, str]] = ()


def encode_outputs(commit: Commit, limits: PayloadLimits) -> EncodedOutputs:
    """Return the outputs of a commit as JSON.

    Raises:
        NotJsonError: an output cannot be written as JSON.
        PayloadTooLargeError: the outputs exceed the limit.
    """
    visit = commit.visit
    with REJECT_UNSTORABLE_OUTPUTS:
        limits.measure_outputs(_outputs_of(commit))
        saved = encode_json_or_null(dict(visit.saved))
        result = encode_result(visit.result, visit.saved)
        failures = encode_payload(list(visit.failures)) if visit.failures else None
        progress = None if visit.progress is None else encode_payload(asdict(visit.progress))
        parts = [
            (part.loop, part.first, encode_payload(list(part.outcomes))) for part in commit.batch_results
        ]
    limits.check_outputs((saved, result, failures, progress, *(text for _, _, text in parts)))
    return EncodedOutputs(saved, result, failures, progress, parts)


def _outputs_of(commit: Commit) -> Iterator[Any]:
    """Yield the outputs of a commit that may be large, each once."""
    visit = commit.visit
    yield dict(visit.saved)
    if find_saved_result(visit.result, visit.saved) is None:
        yield visit.result
    yield list(visit.failures)
    if visit.progress is not None:
        yield asdict(visit.progress)
    for part in commit.batch_results:
        yield list(part.outcomes)


def claim_condition(before: Visit, claimed: Visit, now: float) -> dict[str, Any]:
    """Return the values of `{set_claim}` and `{is_unchanged_and_due}`."""
    return claim_values(claimed) | {
        "fence_before": before.fence,
        "claims_before": before.claims,
        "started_before": -1.0 if before.started_at is None else before.started_at,
        "attempt": before.attempt,
        "now": now,
    }


def with_saved(visit: Visit, saved: str | None) -> Visit:
    """Return a visit with the names that it has saved before it was suspended, as JSON."""
    return visit if saved is None else replace(visit, saved=read_large_json(saved))


def write_outcome(db: Writer, visit: Visit, outputs: EncodedOutputs, *, may_park: bool) -> Result:
    """Write the outcome of a visit, if its claim is held.

    A suspended visit is parked if its run stops or is paused.
    """
    return db.execute(
        "queue.write_outcome",
        may_park=may_park and visit.finished_at is None,
        run_id=visit.run_id,
        visit_id=visit.id,
        fence=visit.fence,
        status=visit.status,
        attempt=visit.attempt,
        claims=visit.claims,
        due_at=visit.due_at,
        started_at=visit.started_at,
        segment_started_at=visit.segment_started_at,
        finished_at=visit.finished_at,
        saved=outputs.saved,
        result=outputs.result,
        case=visit.case,
        error=encode_json_or_null(visit.error),
        failure=visit.failure,
        failures=outputs.failures,
        progress=outputs.progress,
    )


def _claim_key(claimed: Visit) -> dict[str, Any]:
    """Return the values of the condition that the claim of a visit is held."""
    return {"run_id": claimed.run_id, "visit_id": claimed.id, "fence": claimed.fence}


def _require_claim(visit: Visit, written: Result) -> None:
    """Raise FencedError if nothing was written because the claim of the visit is lost."""
    if written.rowcount == 0:
        raise claim_lost(visit)


def _write_batch_results(db: Writer, visit: Visit, parts: Iterable[tuple[str, int, str]]) -> None:
    """Add batch results of loops, or delete them when they are superfluous."""
    if visit.progress is None:
        return
    key = {"run_id": visit.run_id, "visit_id": visit.id}
    rows = [{**key, "loop": loop, "position": first, "body": body} for loop, first, body in parts]
    db.executemany("queue.add_batch_result", rows)
    if discards_batch_results(visit):
        db.execute("queue.delete_batch_results", **key)


def _apply_commit(branches: BranchTransaction, commit: Commit) -> None:
    """Apply everything that follows from an outcome that was written: branches, child runs, the end of the
    run.
    """
    visit = commit.visit
    has_next = True
    if not branches.header.sequential:
        branches.move_branches(commit)
    elif not commit.is_finally and is_turn_over(visit):
        has_next = branches.finish_turn(visit)
    is_finished = visit.finished_at is not None
    if commit.may_have_children and is_finished:
        branches.cancel_child_runs(visit.id)
    if commit.is_finally:
        if is_finished:
            branches.end_run()
    elif branches.run["stop"] == RunStatus.PAUSED:
        branches.stay_paused(visit)
    elif branches.run["stop"] is not None:
        branches.stop_run()
    elif is_finished:
        if not has_next or commit.branches_change < 0 or branches.absorbed:
            row = branches.db.execute("branches.read_live", run_id=visit.run_id).fetchone()
            if row["live"] == 0:
                branches.end_run()
        branches.claim_next_due()
