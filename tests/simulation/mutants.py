"""Mutants: stores and functions with one deliberate bug each, which the crash matrix must detect.

Each mutant names the scenarios that reveal it and the invariants that it may violate. Mutation testing:
DeMillo, Lipton and Sayward 1978.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.errors import RejectedError, TriggerChangedError
from noetl.executor.model.events import Event
from noetl.executor.model.gates import GateKey
from noetl.executor.model.ids import derived_id
from noetl.executor.model.rates import RateLog
from noetl.executor.model.run import (
    NEVER,
    Branch,
    Claim,
    Commit,
    CommitResult,
    ErrorRecord,
    Lease,
    Run,
    RunEnding,
    RunStatus,
    Visit,
)
from noetl.executor.model.transition import merge_arrivals
from noetl.executor.model.triggers import Advance
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.stores.sql import branches as sql_branches
from noetl.executor.stores.sql.branches import BranchTransaction, insert_visit
from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.history import append_events
from noetl.executor.stores.sql.outbox import add_entries
from noetl.executor.stores.sql.queue import SqlQueue
from noetl.executor.stores.sql.runs import SqlRuns
from noetl.executor.stores.sql.triggers import write_advance
from tests.simulation.backends import memory_backend
from tests.simulation.faults import Fault
from tests.simulation.matrix import MatrixCell, all_cells, find_scenario, play_cell
from tests.simulation.scenarios import Scenario
from tests.simulation.world import FinishedPlay, InvariantViolation, SimulatedWorld

Patches = Mapping[str, Any]


LIKELY_FAULTS = (Fault.TAKEOVER, Fault.DELAY, Fault.CRASH_AFTER)
"""Faults that reveal most bugs. They are played first."""


@dataclass(frozen=True)
class Mutant:
    """A deliberate bug, the scenarios that reveal it, and the invariants that it may violate."""

    name: str
    scenarios: tuple[str, ...]
    invariants: frozenset[str]
    part: type[SqlQueue | SqlRuns] | None = None
    patches: Patches | None = None

    def find_violation(
        self, play_correctly: Callable[[Scenario], FinishedPlay]
    ) -> tuple[InvariantViolation, MatrixCell] | None:
        """Return the first violation in the matrix with its cell, or None.

        `play_correctly` plays a scenario without the bug and without faults.
        """
        for scenario in map(find_scenario, self.scenarios):
            expected = play_correctly(scenario)
            with closing(memory_backend(self.part)) as backend, _patched(self.patches or {}):
                world = SimulatedWorld(backend)
                cell = without_faults = MatrixCell(scenario, {})
                try:
                    cells = all_cells(scenario, world.play(scenario))
                    for cell in (without_faults, *sorted(cells, key=_is_unlikely)):
                        play_cell(world, cell, expected)
                except InvariantViolation as violation:
                    return violation, cell
        return None


def _is_unlikely(cell: MatrixCell) -> bool:
    return {*LIKELY_FAULTS}.isdisjoint(cell.faults.values())


@contextmanager
def _patched(patches: Patches) -> Iterator[None]:
    if not patches:
        yield
        return
    (target, replacement), *rest = patches.items()
    with mock.patch(target, replacement), _patched(dict(rest)):
        yield


class PublishesBeforeCommit(SqlQueue):
    """A queue that creates the next visits before it commits the outcome."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        plain = [branch for branch in commit.branches if not branch.is_arrival and not branch.is_absorbed]
        for branch in plain:
            with self._context.database.transaction() as db:
                insert_visit(db, enter_step(branch, commit.visit.run_id, now), "local", 1)
        return super().commit(commit, now, claim_for)


class CommitsWithoutFence(SqlQueue):
    """A queue that accepts an outcome with any fence."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        row = self._context.database.fetch_one(
            "select fence from visits where id = :id and run_id = :run_id",
            id=commit.visit.id,
            run_id=commit.visit.run_id,
        )
        return super().commit(
            replace(commit, visit=replace(commit.visit, fence=row["fence"])), now, claim_for
        )


class AcknowledgesBeforeCommit(SqlQueue):
    """A queue whose leases never expire."""

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        return super().claim(queue, replace(lease, seconds=NEVER - now), now, passed_over)

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        forever = None if claim_for is None else replace(claim_for, seconds=NEVER - now)
        return super().commit(commit, now, forever)


class LeasesWithoutFence(SqlQueue):
    """A queue that gives the second claim the fence of the first."""

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        claim = super().claim(queue, lease, now, passed_over)
        if claim is None or claim.visit.fence < 2:
            return claim
        with self._context.database.transaction() as db:
            query = "update visits set fence = 1 where run_id = :run_id and id = :id"
            db.execute(query, run_id=claim.run.id, id=claim.visit.id)
        return replace(claim, visit=replace(claim.visit, fence=1))


class ChecksThenMarks(BranchTransaction):
    """Branches that test whether a join may fire before they count the arrivals."""

    def move_branches(self, commit: Commit) -> None:
        count_live = sql_branches.count_live
        with mock.patch.object(sql_branches, "count_live", lambda *_: None):
            super().move_branches(commit)
        count_live(self.db, self.run["id"], commit.counter_changes, commit.left_clock)


class MarksThenChecks(SqlQueue):
    """A queue that counts arrivals in one transaction, and fires joins in another under a new id."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        run_id = commit.visit.run_id
        with mock.patch.object(BranchTransaction, "_fire", lambda *_: None):
            super().commit(commit, now)
        joining = {branch.step for branch in commit.branches if branch.is_arrival}
        for join in joining | commit.counter_changes.keys():
            with self._context.database.transaction() as db:
                counter = db.execute("branches.read_join", run_id=run_id, step=join).fetchone()
                rows = db.execute(
                    "select * from arrivals where run_id = :run_id and step = :step", run_id=run_id, step=join
                ).fetchall()
                if rows and (counter is None or counter["live"] == 0):
                    run = db.execute("runs.read", run_id=run_id).fetchone()
                    arrivals = [
                        Branch(row["id"], join, row["clock"], json.loads(row["names"])) for row in rows
                    ]
                    branch, live, merged = merge_arrivals(
                        self._plans.step(run["plan_hash"], join), 1, arrivals
                    )
                    joined_branch = replace(branch, id=derived_id(join, commit.visit.id))
                    insert_visit(db, enter_step(joined_branch, run_id, now), run["queue"], run["seq"] << 12)
                    sql_branches.count_live(db, run_id, live)
                    db.execute("branches.change_live", change=merged, run_id=run_id)
        return CommitResult()

    def finish(self, claim: Claim, *rest: Any) -> tuple[GateKey, ...]:
        with self._context.database.transaction() as db:
            db.execute("delete from arrivals where run_id = :id", id=claim.run.id)
        return super().finish(claim, *rest)


class StopsFinishedRuns(SqlRuns):
    """Runs whose cancel overwrites an end."""

    def stop(self, run_id: str, status: RunStatus, now: float, reason: ErrorRecord | None = None) -> Run:
        with self._context.database.transaction() as db:
            query = "update runs set status = :status where id = :id and finished_at is not null"
            db.execute(query, status=status, id=run_id)
        return super().stop(run_id, status, now, reason)


class LosesUpdates(SqlQueue):
    """A queue that reads the counter of branches and writes it back later."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        run_id = commit.visit.run_id
        before = self._context.database.fetch_one("branches.read_live", run_id=run_id)["live"]
        with self._context.database.transaction() as db:
            db.execute("update runs set live = :live where id = :id", live=before, id=run_id)
        return super().commit(commit, now, claim_for)


class DropsParkedVisits(SqlRuns):
    """Runs whose resume deletes the visits that have not started."""

    def resume(self, run_id: str, now: float, **options: Any) -> Run:
        run = super().resume(run_id, now, **options)
        with self._context.database.transaction() as db:
            query = (
                "delete from visits where run_id = :id and status in ('ready', 'waiting', 'retrying')"
                " and started_at is null and substr(step, 1, 1) <> '@'"
            )
            db.execute(query, id=run_id)
        return run


class FiresTimersEarly(SqlQueue):
    """A queue that claims visits up to a minute before they are due."""

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        with self._context.database.transaction() as db:
            query = (
                "update visits set due_at = :now where queue = :queue"
                " and status in ('waiting', 'retrying') and due_at between :now and :soon"
            )
            db.execute(query, now=now, queue=queue, soon=now + 60)
        return super().claim(queue, lease, now, passed_over)


class IgnoresIdempotencyKeys(SqlRuns):
    """Runs that ignores idempotency keys."""

    def create(
        self,
        run: Run,
        first: Visit,
        idempotency: Any = None,
        history: Sequence[Visit] = (),
        max_child_runs: int | None = None,
    ) -> Run:
        return super().create(run, first, None, history, max_child_runs)


class FiresInTwoTransactions(SqlRuns):
    """Runs whose firings write their trigger in a transaction before that of the run."""

    def fire(self, run: Run, first: Visit, advance: Advance) -> Run:
        with suppress(TriggerChangedError), self._context.database.transaction() as db:
            write_advance(db, advance)
        return self.create(run, first)


class OverlooksEarlyAnswers(SqlQueue):
    """A queue that suspends a visit without testing for an earlier answer."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        return super().commit(replace(commit, awaits=()), now, claim_for)


class WritesHistorySeparately(SqlQueue):
    """A queue that writes the outcome and the history in two transactions."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        result = super().commit(replace(commit, events=()), now, claim_for)
        with self._context.database.transaction() as db:
            row = db.execute("queue.next_seq", run_id=commit.visit.run_id).fetchone()
            append_events(db, commit.visit.run_id, row["seq"], commit.events)
        return result


class WritesEventsOfLostClaims(SqlQueue):
    """A queue that writes the events of a claim that is lost."""

    def renew(
        self, claimed: Visit, until: float, events: Sequence[Event] = (), events_already_written: int = 0
    ) -> bool:
        is_held = super().renew(claimed, until)
        with self._context.database.transaction() as db:
            row = db.execute("queue.next_seq", run_id=claimed.run_id).fetchone()
            append_events(db, claimed.run_id, row["seq"], events)
        return is_held


class ChangesDataOfEndedRuns(SqlRuns):
    """Runs that lose their input when a cancel is refused."""

    def stop(self, run_id: str, status: RunStatus, now: float, reason: ErrorRecord | None = None) -> Run:
        try:
            return super().stop(run_id, status, now, reason)
        except RejectedError:
            _delete_input(self._context.database, run_id)
            raise


class DeletesInputAtTheEnd(SqlQueue):
    """A queue that deletes the input of a run at its end."""

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        gates = super().finish(claim, ending, now)
        _delete_input(self._context.database, claim.run.id)
        return gates


def _delete_input(database: Database, run_id: str) -> None:
    with database.transaction() as db:
        db.execute("update run_data set input = '{}' where run_id = :run_id", run_id=run_id)


class WritesEntriesSeparately(SqlQueue):
    """A queue that writes the end of a run and its entries of the outbox in two transactions."""

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        freed = super().finish(claim, replace(ending, outbox=()), now)
        with self._context.database.transaction() as db:
            add_entries(db, ending.outbox)
        return freed


class WritesEntriesBeforeTheEnd(SqlQueue):
    """A queue that writes the entries of the outbox before the end of a run."""

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        with self._context.database.transaction() as db:
            add_entries(db, ending.outbox)
        return super().finish(claim, ending, now)


class EndsInTwoTransactions(SqlQueue):
    """A queue that writes the end of a run and of its last visit in two transactions."""

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        with self._context.database.transaction() as db:
            query = "update runs set status = :status, finished_at = :now where id = :id"
            db.execute(query, status=ending.status, now=now, id=claim.run.id)
        return super().finish(claim, ending, now)


_COUNT = itertools.count()


def _derive_new_id(*parts: object) -> str:
    return derived_id(*parts, next(_COUNT))


def _choose_once_too_often(step: Any, visit: Any, *rest: Any) -> Any:
    from noetl.executor.model.transition import choose_case

    more = replace(step.retry, attempts=step.retry.attempts + 1)
    return choose_case(replace(step, retry=more), visit, *rest)


def _never_refuse(step: Any, visit: Any) -> Any:
    from noetl.executor.model.transition import find_refusal

    return find_refusal(step, replace(visit, claims=1))


def _key_with(part_of: Callable[[Any], Any]) -> Callable[[Any, str], str]:
    return lambda scope, position: derived_id(
        scope.run.id, scope.visit.id, position, scope.local.get("loop"), part_of(scope)
    )


def _drop_before_writing(event_buffer: EventBuffer, write: Callable[[Sequence[Event], int], bool]) -> None:
    events = event_buffer._next_batch()
    event_buffer._drop(len(events))
    write(events, event_buffer._written)


def _write_without_dropping(event_buffer: EventBuffer, write: Callable[[Sequence[Event], int], bool]) -> None:
    write(event_buffer._next_batch(), event_buffer._written)


def _keep_first_input(pending: Run, start: Run) -> Run:
    return replace(pending, debounce=start.debounce)


def _forget_reservation(log: RateLog, *_: float) -> RateLog:
    return log


def _keep_slots(*_: Any, **_values: Any) -> None:
    return None


JOINS = ("fork and join", "joins in joins")
_FLUSH_BATCH = "noetl.executor.engine.event_buffer.EventBuffer.flush_batch"
MUTANTS = (
    Mutant(
        "publish before commit",
        ("chain", "fork and join"),
        frozenset({"I1", "I7", "I8", "I10", "I11"}),
        PublishesBeforeCommit,
    ),
    Mutant("commit without fence", ("chain",), frozenset({"I9", "I2"}), CommitsWithoutFence),
    Mutant("acknowledge before commit", ("chain",), frozenset({"I6"}), AcknowledgesBeforeCommit),
    Mutant("lease without fence", ("chain",), frozenset({"I9"}), LeasesWithoutFence),
    Mutant(
        "join by check-then-mark",
        JOINS,
        frozenset({"I6"}),
        patches={"noetl.executor.stores.sql.queue.BranchTransaction": ChecksThenMarks},
    ),
    Mutant("join by mark-then-check", JOINS, frozenset({"I3", "I4", "I6", "I8"}), MarksThenChecks),
    Mutant("cancel overwrites an end", ("chain",), frozenset({"I5"}), StopsFinishedRuns),
    Mutant("lost update of a counter", JOINS, frozenset({"I3", "I6"}), LosesUpdates),
    Mutant("resume drops parked visits", ("failed and resumed",), frozenset({"I6", "I8"}), DropsParkedVisits),
    Mutant("firing in two transactions", ("trigger",), frozenset({"I16"}), FiresInTwoTransactions),
    Mutant("timer fires early", ("retries",), frozenset({"I15"}), FiresTimersEarly),
    Mutant("start ignores its key", ("chain",), frozenset({"I2"}), IgnoresIdempotencyKeys),
    Mutant(
        "early answer is overlooked",
        ("callback answered before the commit",),
        frozenset({"I6"}),
        OverlooksEarlyAnswers,
    ),
    Mutant("history separate from state", ("chain",), frozenset({"I7", "I11"}), WritesHistorySeparately),
    Mutant("events of a lost claim", ("long steps",), frozenset({"I5"}), WritesEventsOfLostClaims),
    Mutant(
        "events written twice",
        ("long steps",),
        frozenset({"I11"}),
        patches={_FLUSH_BATCH: _write_without_dropping},
    ),
    Mutant(
        "events dropped before they are written",
        ("a long step that is resumed",),
        frozenset({"I11"}),
        patches={_FLUSH_BATCH: _drop_before_writing},
    ),
    Mutant("end in two transactions", ("chain",), frozenset({"I5", "I6", "I7"}), EndsInTwoTransactions),
    Mutant("entries after the end", ("entries of the outbox",), frozenset({"I17"}), WritesEntriesSeparately),
    Mutant(
        "entries before the end", ("entries of the outbox",), frozenset({"I17"}), WritesEntriesBeforeTheEnd
    ),
    Mutant("input changed after the end", ("trigger",), frozenset({"I5"}), ChangesDataOfEndedRuns),
    Mutant("input deleted at the end", ("trigger",), frozenset({"I8"}), DeletesInputAtTheEnd),
    Mutant(
        "a rate forgets what it reserves",
        ("limits and rates",),
        frozenset({"I18"}),
        patches={"noetl.executor.model.rates.RateLog.take": _forget_reservation},
    ),
    Mutant(
        "a run keeps its place at a limit",
        ("a queue of runs",),
        frozenset({"I6", "I7"}),
        patches={"noetl.executor.stores.sql.queue.take_slots": _keep_slots},
    ),
    Mutant(
        "a joined start is lost",
        ("debounced",),
        frozenset({"I8"}),
        patches={"noetl.executor.stores.sql.debounced.join_run": _keep_first_input},
    ),
    Mutant(
        "id not derived from its cause",
        ("detached workflow",),
        frozenset({"I8"}),
        patches={"noetl.executor.engine.external.derived_id": _derive_new_id},
    ),
    Mutant(
        "retry off by one",
        ("retries that end",),
        frozenset({"I10"}),
        patches={"noetl.executor.engine.invocation.choose_case": _choose_once_too_often},
    ),
    Mutant(
        "at most once is recorded afterwards",
        ("at most once",),
        frozenset({"I10"}),
        patches={"noetl.executor.engine.invocation.find_refusal": _never_refuse},
    ),
    Mutant(
        "attempt inside the key",
        ("chain", "retries"),
        frozenset({"I10"}),
        patches={
            "noetl.executor.engine.scope.Scope.idempotency_key": _key_with(
                lambda scope: (scope.visit.claims, scope.visit.attempt)
            )
        },
    ),
)
