"""Deliberate bugs: stores and functions that are wrong in one way each. The matrix is only as good as what it catches of them.

Each says in which scenes it is looked for, and by which invariants it may be caught.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import NEVER, Branch, Claim, Commit, Lease, Run, RunStatus, Visit
from noetl.executor.model.transition import merge_arrivals
from noetl.executor.stores.sql import branches as sql_branches
from noetl.executor.stores.sql import store as sql_store
from noetl.executor.stores.sql.branches import ACTIVE, BranchTransaction
from noetl.executor.stores.sqlite.store import SqliteStore

from tests.simulation.corpus import Scene
from tests.simulation.faults import Fault
from tests.simulation.grounds import in_memory
from tests.simulation.matrix import Cell, cells, play, scene_of
from tests.simulation.world import Played, Violation, World

Patches = Mapping[str, Any]


AT_ONCE = (Fault.TAKEOVER, Fault.DELAY, Fault.CRASH_AFTER)
"""Faults that show most bugs are tried first."""


@dataclass(frozen=True)
class Control:
    """A bug, where it shows, and by which invariants."""

    name: str
    scenes: tuple[str, ...]
    caught_by: frozenset[str]
    store: type[SqliteStore] = SqliteStore
    patches: Patches | None = None

    def caught(self, expected: Callable[[Scene], Played]) -> tuple[Violation, Cell] | None:
        """What the matrix finds first, and where. `expected` plays a scene without the bug and without a fault."""
        for scene in map(scene_of, self.scenes):
            wanted = expected(scene)
            with closing(in_memory(self.store)) as ground, _patched(self.patches or {}):
                world = World(ground)
                quiet = Cell(scene, {})
                try:
                    usual = world.play(scene)
                    play(world, quiet, wanted)
                except Violation as violation:
                    return violation, quiet
                for cell in sorted(
                    cells(scene, usual), key=lambda cell: {*AT_ONCE}.isdisjoint(cell.faults.values())
                ):
                    try:
                        play(world, cell, wanted)
                    except Violation as violation:
                        return violation, cell
        return None


@contextmanager
def _patched(patches: Patches) -> Iterator[None]:
    if not patches:
        yield
        return
    (target, double), *rest = patches.items()
    with mock.patch(target, double), _patched(dict(rest)):
        yield


class PublishesBeforeCommit(SqliteStore):
    """The visits that follow are there before the outcome is."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        plain = [branch for branch in commit.branches if not branch.is_arrival and not branch.is_absorbed]
        for branch in plain:
            with self.database.transaction() as db:
                sql_branches.enter(
                    db, commit.visit.run_id, "local", replace(branch, is_counted=False), now, 1
                )
        return super().commit(commit, now, claim_for)


class CommitsWithoutFence(SqliteStore):
    """Whoever comes may write the outcome of a visit that is not over."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        row = self.database.fetch_one(
            "select fence from visits where run_id = ? and id = ?", commit.visit.run_id, commit.visit.id
        )
        return super().commit(
            replace(commit, visit=replace(commit.visit, fence=row["fence"])), now, claim_for
        )


class AcknowledgesFirst(SqliteStore):
    """What was claimed once is never delivered again."""

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        return super().claim(queue, replace(lease, seconds=NEVER - now), now)

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        forever = None if claim_for is None else replace(claim_for, seconds=NEVER - now)
        return super().commit(commit, now, forever)


class LeasesWithoutFence(SqliteStore):
    """Who takes over has the fence of the one before."""

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        found = super().claim(queue, lease, now)
        if found is None or found.visit.fence < 2:
            return found
        with self.database.transaction() as db:
            query = "update visits set fence = 1 where run_id = ? and id = ?"
            db.execute(query, (found.run.id, found.visit.id))
        return replace(found, visit=replace(found.visit, fence=1))


class ChecksThenMarks(BranchTransaction):
    """Looks whether a join may fire before it counts who has come."""

    def move_branches(self, branches: Sequence[Any], live: Mapping[str, int]) -> None:
        counting, sql_branches_count = dict(live), sql_branches.count_live
        with mock.patch.object(sql_branches, "count_live", lambda *_: None):
            super().move_branches(branches, live)
        sql_branches_count(self.db, self.run["id"], counting)


class MarksThenChecks(SqliteStore):
    """Counts who has come in one transaction, and fires in another whatever has nothing to wait for, under an id of its own."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        run_id = commit.visit.run_id
        with mock.patch.object(BranchTransaction, "_fire", lambda *_: None):
            super().commit(commit, now)
        joining = {branch.step for branch in commit.branches if branch.is_arrival}
        for join in joining | commit.counter_changes.keys():
            with self.database.transaction() as db:
                counter = db.execute(
                    "select live from joins where run_id = ? and step = ?", (run_id, join)
                ).fetchone()
                rows = db.execute(
                    "select * from arrivals where run_id = ? and step = ?", (run_id, join)
                ).fetchall()
                if rows and (counter is None or counter["live"] == 0):
                    run = db.execute("select * from runs where id = ?", (run_id,)).fetchone()
                    arrivals = [
                        Branch(row["id"], join, row["clock"], json.loads(row["names"])) for row in rows
                    ]
                    branch, live, merged = merge_arrivals(self.plan_step(run["plan_hash"], join), 1, arrivals)
                    own = replace(branch, id=derived_id(join, commit.visit.id))
                    sql_branches.enter(db, run_id, run["queue"], own, now, run["seq"] << 12)
                    sql_branches.count_live(db, run_id, live)
                    db.execute("update runs set live = live + ? where id = ?", (merged, run_id))
        return None

    def finish(self, claim: Claim, *rest: Any) -> None:
        with self.database.transaction() as db:
            db.execute("delete from arrivals where run_id = ?", (claim.run.id,))
        super().finish(claim, *rest)


class StopsWhatHasEnded(SqliteStore):
    """A cancel overwrites an end."""

    def stop(self, run_id: str, status: RunStatus, now: float) -> Run:
        with self.database.transaction() as db:
            db.execute(
                "update runs set status = ? where id = ? and finished_at is not null", (status, run_id)
            )
        return super().stop(run_id, status, now)


class LosesUpdates(SqliteStore):
    """Reads how many branches a run has, and writes that back later."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        before = self.database.fetch_one("select live from runs where id = ?", commit.visit.run_id)["live"]
        with self.database.transaction() as db:
            db.execute("update runs set live = ? where id = ?", (before, commit.visit.run_id))
        return super().commit(commit, now, claim_for)


class DropsWhatIsParked(SqliteStore):
    """Goes on with what has failed, and forgets what had not begun."""

    def resume(self, run_id: str, now: float, **options: Any) -> Run:
        found = super().resume(run_id, now, **options)
        with self.database.transaction() as db:
            query = f"delete from visits where run_id = ? and {ACTIVE} and started_at is null and substr(step, 1, 1) <> '@'"
            db.execute(query, (run_id,))
        return found


class FiresTimersEarly(SqliteStore):
    """Takes what is due in a minute for due."""

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        with self.database.transaction() as db:
            query = f"update visits set due_at = ? where queue = ? and {ACTIVE} and status in ('waiting', 'retrying') and due_at between ? and ?"
            db.execute(query, (now, queue, now, now + 60))
        return super().claim(queue, lease, now)


class ForgetsKeys(SqliteStore):
    """Starts a run anew when its start is asked for again."""

    def create_run(
        self, run: Run, first: Visit, idempotency: Any = None, history: Sequence[Visit] = ()
    ) -> Run:
        return super().create_run(run, first, None, history)


class OverlooksAnswers(SqliteStore):
    """Pauses without looking whether the answer has come before."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        return super().commit(replace(commit, awaits=()), now, claim_for)


class KeepsHistoryApart(SqliteStore):
    """Writes the outcome in one transaction and the history in the next."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        found = super().commit(replace(commit, events=()), now, claim_for)
        with self.database.transaction() as db:
            query = "update runs set seq = seq + 1 where id = ? returning seq"
            row = db.execute(query, (commit.visit.run_id,)).fetchone()
            sql_store._append(db, commit.visit.run_id, row["seq"], commit.events)
        return found


class TellsForOthers(SqliteStore):
    """What a claim has to tell is written, whether it is held or not."""

    def renew(
        self,
        run_id: str,
        visit_id: str,
        fence: int,
        until: float,
        events: Sequence[Event] = (),
        events_already_written: int = 0,
    ) -> bool:
        held = super().renew(run_id, visit_id, fence, until)
        with self.database.transaction() as db:
            row = db.execute("update runs set seq = seq + 1 where id = ? returning seq", (run_id,)).fetchone()
            sql_store._append(db, run_id, row["seq"], events)
        return held


class EndsInTwoSteps(SqliteStore):
    """The end of a run is written, and then that its last visit is over."""

    def finish(self, claim: Claim, status: RunStatus, *rest: Any) -> None:
        with self.database.transaction() as db:
            query = "update runs set status = ?, finished_at = ? where id = ?"
            db.execute(query, (status, rest[-1], claim.run.id))
        super().finish(claim, status, *rest)


_COUNT = itertools.count()


def _another_each_time(*parts: object) -> str:
    return derived_id(*parts, next(_COUNT))


def _choose_once_too_often(step: Any, visit: Any, *rest: Any) -> Any:
    from noetl.executor.model.transition import choose_case

    more = replace(step.retry, attempts=step.retry.attempts + 1)
    return choose_case(replace(step, retry=more), visit, *rest)


def _refuse_never(step: Any, visit: Any) -> Any:
    from noetl.executor.model.transition import find_refusal

    return find_refusal(step, replace(visit, claims=1))


def _key_with(of: Callable[[Any], Any]) -> Callable[[Any, str], str]:
    return lambda scope, position: derived_id(
        scope.run.id, scope.visit.id, position, scope.local.get("loop"), of(scope)
    )


def _forget_first(telling: EventBuffer, write: Callable[[Sequence[Event], int], bool]) -> None:
    events = telling._next()
    telling._forget(len(events))
    write(events, telling._told)


def _never_forget(telling: EventBuffer, write: Callable[[Sequence[Event], int], bool]) -> None:
    write(telling._next(), telling._told)


JOINS = ("fork and join", "joins in joins")
CONTROLS = (
    Control("publish before commit", ("chain", "fork and join"), frozenset({"I1", "I7", "I8", "I10", "I11"}), PublishesBeforeCommit),
    Control("commit without fence", ("chain",), frozenset({"I9", "I2"}), CommitsWithoutFence),
    Control("acknowledge before commit", ("chain",), frozenset({"I6"}), AcknowledgesFirst),
    Control("lease without fence", ("chain",), frozenset({"I9"}), LeasesWithoutFence),
    Control("join by check-then-mark", JOINS, frozenset({"I6"}), patches={"noetl.executor.stores.sql.store.BranchTransaction": ChecksThenMarks}),
    Control("join by mark-then-check", JOINS, frozenset({"I3", "I4", "I6", "I8"}), MarksThenChecks),
    Control("cancel overwrites an end", ("chain",), frozenset({"I5"}), StopsWhatHasEnded),
    Control("lost update of a counter", JOINS, frozenset({"I3", "I6"}), LosesUpdates),
    Control("resume drops what is parked", ("failed and gone on with",), frozenset({"I6", "I8"}), DropsWhatIsParked),
    Control("timer fires early", ("retries",), frozenset({"I15"}), FiresTimersEarly),
    Control("start forgets its key", ("chain",), frozenset({"I2"}), ForgetsKeys),
    Control("answer comes too early", ("callback answered at once",), frozenset({"I6"}), OverlooksAnswers),
    Control("history apart from state", ("chain",), frozenset({"I7", "I11"}), KeepsHistoryApart),
    Control("tell for another claim", ("long steps",), frozenset({"I5"}), TellsForOthers),
    Control("tell twice", ("long steps",), frozenset({"I11"}), patches={"noetl.executor.engine.event_buffer.EventBuffer.flush_batch": _never_forget}),
    Control("forget before it is told", ("a long step that is gone on with",), frozenset({"I11"}), patches={"noetl.executor.engine.event_buffer.EventBuffer.flush_batch": _forget_first}),
    Control("end in two steps", ("chain",), frozenset({"I5", "I6", "I7"}), EndsInTwoSteps),
    Control("id not derived from its cause", ("workflow left alone",), frozenset({"I8"}), patches={"noetl.executor.engine.external.derived_id": _another_each_time}),
    Control("retry off by one", ("retries that end",), frozenset({"I10"}), patches={"noetl.executor.engine.invocation.choose_case": _choose_once_too_often}),
    Control("at most once is claimed afterwards", ("at most once",), frozenset({"I10"}), patches={"noetl.executor.engine.invocation.find_refusal": _refuse_never}),
    Control("attempt inside the key", ("chain", "retries"), frozenset({"I10"}), patches={"noetl.executor.engine.scope.Scope.idempotency_key": _key_with(lambda scope: (scope.visit.claims, scope.visit.attempt))}),
)  # fmt: skip
