"""The writes by which a run continues in another plan.

Problem: visits that no worker has claimed, and branches that wait at joins, follow from finished visits and
from the plan of the run. In another plan, something else would follow.

Algorithm: the head counts the plans of the run (`era`), and so does each outcome that is written after the
first change. An outcome of an earlier plan leads to nothing any more. So each visit that goes on gets an item
that holds its origin. The counters then include all branches, and joins hold what has arrived. All of it is
one transaction, under the condition that no visit and no counter has changed since they were read. If it does
not fit into one, the visits are held before (`plan_moves.py`).

Cost: a write of each visit that goes on, and each counter. So for each join and each step on a cycle that has
a state. A run that has never changed its plan has none of these attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noetl.executor.model.run import NEVER, Visit, VisitStatus
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.run_switch import SwitchedRun
from noetl.executor.model.special_visits import deadline_visit, move_deadline
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.arrivals import CARRIED, Arrival, encode_carried
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.branch_stacks import build_reopen_writes, end_counted_wait
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import (
    ABSENT,
    PRESENT,
    Condition,
    ConditionCheck,
    Delete,
    Put,
    Update,
    Write,
)
from noetl.executor.stores.dynamo.plan_moves import VisitMove, next_era
from noetl.executor.stores.dynamo.run_items import CounterDeltas, append_event, encode_given, spread_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot
from noetl.executor.stores.dynamo.table import fits_transaction
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    VisitOrigin,
    encode_origin,
    encode_outcome,
    encode_unclaimed,
    is_unchanged,
)
from noetl.planner.frozen import frozen, replace

_SAME_HEAD = (
    "plan",
    "era",
    "status",
    "stop",
    "held",
    "finished",
    "resumes",
    "reopening",
    "deadline",
    "damage",
    "moving",
    "moving_since",
)
"""Attributes of a head that must be as they were when the run was judged."""


@frozen
class RunBeforeSwitch:
    """A run as it was read for a change of its plan.

    `counters` are the counters of its partitions that exist, by number. `joins` and `numbers` are the items
    of its joins and of the steps on cycles, by step. They were read before the visits.
    """

    snapshot: RunSnapshot
    records: RunRecords
    arrivals: Mapping[str, Arrival]
    counters: Mapping[int, Item]
    joins: Mapping[str, Item]
    numbers: Sequence[str]

    @property
    def head(self) -> Item:
        """The head of the run."""
        return self.snapshot.head


@frozen
class PlanMove:
    """The writes of a change of the plan: of the head, of the visits that it had, and all others.

    `due` are the visits that are due after it, and `head_after` is the head with what messages need.
    """

    head: Update
    moves: Sequence[VisitMove]
    fixed: Sequence[Write]
    due: Sequence[VisitItem]
    head_after: Item

    @property
    def all_writes(self) -> list[Write]:
        """All writes of a change that is one transaction."""
        moved = [write for move in self.moves for write in (move.write, *move.events)]
        return [self.head, *moved, *self.fixed]

    @property
    def is_small(self) -> bool:
        """True if one transaction can hold all writes."""
        return fits_transaction(self.all_writes)


class SwitchWrites:
    """The writes of one change of the plan of a run, and the visits that are due after it."""

    def __init__(
        self, context: DynamoContext, state: RunBeforeSwitch, switched: SwitchedRun, now: float
    ) -> None:
        self._context = context
        self._state = state
        self._switched = switched
        self._run = switched.run
        self._carried = switched.carried
        self._now = now
        self._era = next_era(state.head)
        self._spread = spread_of(state.head)
        self._known = {item.visit.id: item for item in state.snapshot.items}
        self._live_ids = {visit.id for visit in state.records.visits if state.records.is_live(visit)}
        self._deltas = CounterDeltas()
        self._ended_waits: dict[int, dict[str, int]] = {}
        self._is_sequential = context.plans.header(self._run.plan_hash).sequential
        self._is_resumed = state.records.run.status.is_final
        self._has_forked = self._find_has_forked()
        waiting_ids = {branch.id for arrived in self._carried.arrivals.values() for branch in arrived}
        left = (arrival.sender for id, arrival in state.arrivals.items() if id not in waiting_ids)
        self._senders_of_begun = tuple(sorted(left))
        self._due: list[VisitItem] = []

    def build(self) -> PlanMove:
        """Return the writes, and the visits that are due after them."""
        visits = self._carried.visits
        new = [self._new_visit(visit) for visit in visits if visit.id not in self._known]
        moves = [self._move_visit(visit) for visit in visits if visit.id in self._known]
        # The counters come last: they count the branches of the other writes.
        fixed = [
            *new,
            *self._deadline_writes(),
            *self._join_writes(),
            *self._number_writes(),
            *self._counter_writes(),
        ]
        sets = self._head_sets()
        head = Update(keys.head(self._run.id), sets, when=(PRESENT, *is_same_head(self._state.head)))
        head_after = _without_none({**self._state.head, **sets})
        return PlanMove(head, moves, fixed, self._due, head_after)

    def _find_has_forked(self) -> bool:
        """Return whether visits of steps on cycles are counted in items. A single branch counts its own."""
        entered = [visit for visit in self._carried.visits if self._stands(visit)]
        if self._is_sequential or self._carried.arrivals or len(entered) != 1:
            return True
        item = self._known.get(entered[0].id)
        return item is None or item.origin.has_forked

    def _stands(self, visit: Visit) -> bool:
        """Return whether a branch stands at a visit: it is no value that was given, and is not over."""
        return visit.id in self._live_ids or (visit.id not in self._known and visit.finished_at is None)

    def _step_of(self, name: str) -> Any:
        return self._context.plans.step(self._run.plan_hash, name)

    def _origin_of(self, item: VisitItem) -> VisitOrigin:
        counts = {} if self._has_forked else self._carried.counts
        return replace(item.origin, counts=counts, has_forked=self._has_forked)

    def _new_visit(self, visit: Visit) -> Put:
        """Return the write of a visit that begins in the other plan, or that holds given values."""
        key = keys.visit(visit.run_id, visit.id, self._spread)
        is_begun = visit.finished_at is None
        causes = self._senders_of_begun if is_begun else ()
        origin = VisitOrigin(
            causes=causes, entered_at=self._now, has_forked=True, parent_clock=max(visit.clock - 1, 0)
        )
        if is_begun:
            return self._first_item(key, visit, origin)
        outcome = encode_outcome(visit, (), self._context.blobs)
        stored = _without_none({**encode_origin(visit, origin), **outcome, "at": self._now, "era": self._era})
        return Put(key, stored)

    def _first_item(self, key: keys.ItemKey, visit: Visit, origin: VisitOrigin) -> Put:
        """Return the write of a visit that has no item yet."""
        self._count(visit.step, origin.home)
        stored = _without_none(
            {**encode_unclaimed(visit, origin), "fence": visit.fence or None, "era": self._era}
        )
        self._announce(VisitItem(visit, origin, {**stored, **key._asdict()}))
        return Put(key, stored)

    def _move_visit(self, visit: Visit) -> VisitMove:
        """Return the change of a visit that goes on, or of one whose step has another name."""
        key, item = keys.visit(visit.run_id, visit.id, self._spread), self._known[visit.id]
        if visit.id not in self._live_ids:
            sets: Item = {"step": visit.step}
            return VisitMove(Update(key, sets, when=(PRESENT,)), sets, item.attributes)
        origin = self._origin_of(item)
        if item.is_written:
            return self._changed_item(key, replace(item, origin=origin), visit)
        earlier = _without_none(encode_unclaimed(item.visit, item.origin))
        staged = _without_none(encode_origin(visit, origin)) | {"fence": visit.fence, "era": self._era}
        staged |= dict.fromkeys(encode_origin(visit, origin).keys() & earlier.keys() - staged.keys())
        return VisitMove(self._first_item(key, visit, origin), staged, earlier, is_new=True)

    def _changed_item(self, key: keys.ItemKey, item: VisitItem, visit: Visit) -> VisitMove:
        """Return the change of a visit that goes on, and that has an item."""
        self._count(visit.step, item.origin.home)
        when: tuple[Condition, ...] = (*is_unchanged(item.visit), ("due", "=", item.attributes["due"]))
        fenced = {"fence": visit.fence, "era": self._era}
        events: Sequence[Write] = ()
        if self._is_resumed:
            writes, again = build_reopen_writes(self._context, self._state.head, item, visit)
            update, *events = writes
            assert isinstance(update, Update)
            home, ended = end_counted_wait(item, visit)
            for name, change in ended.items():
                counted = self._ended_waits.setdefault(home, {})
                counted[name] = counted.get(name, 0) + change
            sets = {**update.set, **fenced}
        else:
            changed = encode_origin(visit, item.origin) | fenced
            sets = {
                name: value for name, value in changed.items() if value is not None or name in item.attributes
            }
            again = VisitItem(visit, item.origin, {**item.attributes, **_without_none(sets)})
        self._announce(again)
        return VisitMove(Update(key, sets, when=when), sets, item.attributes, events=events)

    def _announce(self, item: VisitItem) -> None:
        """Let a visit be announced that is due. A resume announces its visits itself."""
        if item.visit.status is VisitStatus.READY and not self._is_resumed:
            self._due.append(item)

    def _count(self, step: str, home: int) -> None:
        """Count a branch. In sequential mode, the stack counts those that can reach a join."""
        regions = () if self._is_sequential else self._step_of(step).regions
        self._deltas.count_branch(home, regions, 1)

    def _deadline_writes(self) -> Iterable[Write]:
        """Yield the write of the visit of the deadline, if a worker has claimed it before it was lost."""
        if self._is_resumed or "deadline" not in self._state.head:
            return
        run, due_at = self._run, self._run.deadline_at
        visit = deadline_visit(run.id, run.resumes, NEVER if due_at is None else due_at)
        key = keys.visit(run.id, visit.id, self._spread)
        item = self._known.get(visit.id)
        if item is None or not item.is_written:
            yield ConditionCheck(key, (ABSENT,))
            return
        moved = move_deadline(item.visit, run.resumes, visit.due_at)
        state = {"status": moved.status.value, "due": moved.due_at, "fence": moved.fence}
        origin = _without_none(encode_origin(visit, item.origin))
        yield Update(key, {**origin, **state, "era": self._era}, when=is_unchanged(item.visit))

    def _join_writes(self) -> Iterable[Write]:
        """Yield the writes of the joins that have fired or where branches wait. Others have no item."""
        carried, run_id = self._carried, self._run.id
        if self._is_sequential:
            carried = replace(carried, arrivals={}, joins={}, clocks={})
        fired = {visit.step: visit.id for visit in carried.visits if visit.id not in self._known}
        written: set[str] = set()
        for join, clock in carried.clocks.items():
            arrived, wave = carried.arrivals.get(join, ()), carried.joins.get(join, (0, 0))[1]
            arrivals = [replace(self._state.arrivals[branch.id], branch=branch) for branch in arrived]
            for branch in arrived:
                self._count(join, 0)
                self._deltas.add_arrival(0, join, f"{CARRIED}{branch.id}")
            if not arrivals and not wave:
                self._deltas.leave(0, [join], clock)
                continue
            earlier = self._state.joins.get(join, {}).get("visit")
            stored = {
                "wave": wave or None,
                "clock": clock,
                "visit": fired.get(join, earlier) if wave else None,
                "came": encode_carried(self._context, run_id, arrivals) if arrivals else None,
            }
            written.add(join)
            yield Put(keys.join(run_id, join), _without_none(stored), when=())
        for join in self._state.joins.keys() - written:
            yield Delete(keys.join(run_id, join))

    def _number_writes(self) -> Iterable[Write]:
        """Yield the writes of the numbers of visits on cycles, which a single branch counts itself."""
        is_counted = self._has_forked and not self._is_sequential
        counts = self._carried.counts if is_counted else {}
        for step, visits in counts.items():
            yield Put(keys.visit_count(self._run.id, step), {"visits": visits}, when=())
        for step in set(self._state.numbers) - counts.keys():
            yield Delete(keys.visit_count(self._run.id, step))

    def _counter_writes(self) -> Iterable[Write]:
        """Yield the writes of the counters. The numbers of visits that wait stay in them."""
        run, blobs = self._run, self._context.blobs
        if run.failed_branches:
            self._deltas.add(0, "failed", run.failed_branches)
        for home in sorted({0, *self._state.counters, *self._deltas.homes()}):
            counter = self._state.counters.get(home, {})
            numbers, arrivals = self._deltas.changes_of(home)
            removed = dict.fromkeys(name for name in counter if _follows_from_plan(name))
            sets: Item = {**removed, **numbers, **arrivals}
            if home == 0:
                stack = replace(self._carried.stack, branches=self._carried.live).to_json()
                sets |= {"era": self._era}
                sets |= {"stack": blobs.store(run.id, stack)} if self._is_sequential else {}
            added = {"version": 1, **self._ended_waits.get(home, {})}
            version = counter.get("version")
            is_same: Condition = ("version", "absent", None) if version is None else ("version", "=", version)
            yield Update(keys.counter(run.id, home), sets, added, when=(is_same,))

    def _head_sets(self) -> Item:
        """Return the attributes of the head that change. A value None removes the attribute."""
        run, head, blobs = self._run, self._state.head, self._context.blobs
        recorded = head
        for event in self._switched.events:
            recorded = {**recorded, "told": append_event(recorded, event, blobs)}
        sets: Item = {
            "plan": run.plan_hash,
            "era": self._era,
            "version": run.version,
            "source": run.source,
            "deadline": run.deadline_at,
            "given": encode_given(run, blobs),
            "open": keys.open_shard(run.queue, run.id),
            "told": recorded["told"],
            "wakes": None,
            "due": None,
            **self._context.announcer.deadline_row(run, self._now),
        }
        if self._is_resumed:
            sets |= dict.fromkeys(("stop", "held", "finished", "result", "error", "errors", "skips"))
            sets |= {"status": run.status.value, "resumes": run.resumes, "reopening": True}
        return sets


def is_same_head(head: Item) -> tuple[Condition, ...]:
    """Return the condition that a run has not changed in any way that matters to its plan."""
    return tuple((name, "=", head[name]) if name in head else (name, "absent", None) for name in _SAME_HEAD)


def _follows_from_plan(name: str) -> bool:
    """Return whether an attribute of a counter is replaced when the run changes its plan.

    >>> _follows_from_plan("j#meet"), _follows_from_plan("paused")
    (True, False)
    """
    return name in ("live", "failed", "stack") or name[:2] in ("j#", "a#", "l#")


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
