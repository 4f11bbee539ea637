"""Joins: a join fires when it has arrivals and no branch can reach it any more.

Problem: commits of many branches change counters in several partitions, and exactly one of them must fire
the join.

Algorithm: reference counting (Collins 1960) with optimistic concurrency control (Kung and Robinson 1981). A
commit that counts a branch out reads all counters by one transactional read. If the sum for a join with
arrivals is zero, it fires the join. That transaction requires the versions of all counters, the wave of the
join, and the state of the run. The last commit sees the sum zero, so a join is not missed. The version and
the derived id of the visit let only one commit fire.

Cost: one transactional read for each commit that changes counters. In a run with several partitions, only a
commit that empties the counter of its own partition needs it. Firing reads the visits that have arrived, and
writes one transaction.

Limits: a run has at most MAX_PARTITIONS counters, because one transaction reads and checks all of them.

The item of a join stores `wave` (number of firings), and of the last firing `clock`, `names` (pointers, a
blob) and `visit` (its id). `came` has branches that wait since the run has changed its plan (`arrivals.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import StoreError
from noetl.executor.model.run import Branch, Visit, VisitStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.transition import branches_after, merge_arrivals
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.arrivals import Arrival, decode_carried, find_arrival, is_carried
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import to_bytes
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Condition, ConditionCheck, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import (
    BranchCounts,
    CounterDeltas,
    era_of,
    first_regions,
    has_ended,
    is_paused,
    run_id_of,
    spread_of,
    starts_nothing,
    sum_counters,
    uncounted_branches,
)
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    VisitOrigin,
    decode_pointers,
    decode_visit,
    encode_unclaimed,
    number_visit,
)
from noetl.executor.stores.dynamo.visit_numbers import VisitNumbers
from noetl.planner.plan import Step


class DynamoJoins:
    """The joins of runs, which fire when their last branch has arrived."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context
        self._table = context.table

    def fire_touched(
        self, item: VisitItem, head: Item, now: float, *, again: bool = False
    ) -> tuple[list[VisitItem], bool]:
        """Fire joins that a commit has completed; return the visits that are due, and whether no branch is
        left.

        With `again`, the visits of joins that have fired before are returned as well.
        """
        visit = item.visit
        touched = self._touched_joins(item, head)
        earlier = self._fired_earlier(visit.run_id, touched, head) if again else []
        if self._has_branches_at_home(item, head, touched):
            return earlier, False
        fired, counts = self.fire(head, touched, now, parent_clock=visit.clock)
        fired_ids = {fired_item.visit.id for fired_item in fired}
        unclaimed = [earlier_item for earlier_item in earlier if earlier_item.visit.id not in fired_ids]
        return [*unclaimed, *fired], counts.live <= 0

    def _touched_joins(self, item: VisitItem, head: Item) -> set[str]:
        """Return the joins whose counters the commit of a visit may have changed."""
        step_of = self._context.step_of(head)
        if is_pseudo_step(item.visit.step):
            return set()
        step = step_of(item.visit.step)
        branches = branches_after(item.visit, step, step_of)
        arrived = {branch.step for branch in branches if branch.is_arrival}
        absorbed = {
            join for branch in branches if branch.is_absorbed for join in step_of(branch.step).regions
        }
        return {*step.regions, *arrived, *absorbed}

    def _has_branches_at_home(self, item: VisitItem, head: Item, touched: set[str]) -> bool:
        """Return whether the counter of the visit's own partition shows that no join can fire, and no run
        end.

        No counter is negative, so branches in one partition suffice. A run with one partition is read anyway.
        """
        if spread_of(head) == 1:
            return False
        counter = self._table.get(keys.counter(item.visit.run_id, item.origin.home)) or {}
        is_first_home = item.origin.home == 0 and uncounted_branches(head) > 0
        regions = first_regions(head, self._context.step_of(head)) if is_first_home else ()
        if counter.get("live", 0) + is_first_home <= 0:
            return False
        return all(counter.get(f"j#{join}", 0) + (join in regions) > 0 for join in touched)

    def fire(
        self, head: Item, touched: set[str] | None, now: float, *, parent_clock: int = 0
    ) -> tuple[list[VisitItem], BranchCounts]:
        """Fire the joins that can fire, of those in `touched` or of all.

        Return the visits that are due, and the sum of the counters after that.
        """
        run_id = run_id_of(head)
        counter_keys = [keys.counter(run_id, number) for number in range(spread_of(head))]
        fired: list[VisitItem] = []
        for tries in range(MAX_CONFLICTS):
            counters = self._table.get_snapshot(counter_keys)
            if era_of(counters[0]) != era_of(head):  # the run has changed its plan since its head was read
                head = self._context.heads.read(run_id)
                continue
            counts = sum_counters(head, counters, self._context.step_of(head))
            ready = [join for join in counts.joins_to_fire if touched is None or join in touched]
            if not ready:
                return fired, counts
            try:
                item = self._fire(head, ready[0], counters, now, parent_clock)
            except ConditionFailed:
                time.sleep(pause_seconds(min(tries, 4)))
                head = self._context.heads.read(run_id)
                continue
            if item.visit.status is VisitStatus.READY:
                fired.append(item)
        raise StoreError(f"The joins of run {run_id} could not be fired: too many concurrent writers.")

    def _fire(
        self, head: Item, join: str, counters: Sequence[Item], now: float, parent_clock: int
    ) -> VisitItem:
        """Continue the arrivals at a join as one branch, and return its visit.

        Raises:
            ConditionFailed: the counters, the join or the run have changed since they were read.
        """
        run_id, spread, step = run_id_of(head), spread_of(head), self._context.step_of(head)(join)
        arrived = [(home, id) for home, counter in enumerate(counters) for id in counter.get(f"a#{join}", ())]
        before = self._table.get(keys.join(run_id, join)) or {}
        arrivals = self._read_arrivals(head, step, before, [id for _, id in arrived])
        wave = before.get("wave", 0) + 1
        left_clocks = [clock for counter in counters for clock in counter.get(f"l#{join}", ())]
        earlier_clock = max([before.get("clock", 0), *left_clocks])
        earlier = Branch("", join, earlier_clock, decode_pointers(before.get("names")))
        branch, _, _ = merge_arrivals(step, wave, [arrival.branch for arrival in arrivals], earlier)
        origin = VisitOrigin(
            causes=tuple(arrival.sender for arrival in arrivals),
            entered_at=now,
            home=arrived[0][0],
            counts=arrivals[0].counts,
            has_forked=True,
            parent_clock=parent_clock,
        )
        visit, number_writes = self._new_visit_of_join(head, branch, origin, now)
        deltas = CounterDeltas()
        for home, _ in arrived[1:]:
            deltas.count_branch(home, step.regions, -1)
        item = encode_unclaimed(visit, origin)
        key = keys.visit(run_id, visit.id, spread)
        is_same_wave: Condition = ("wave", "=", wave - 1) if wave > 1 else ("wave", "absent", None)
        state = {
            "wave": wave,
            "clock": branch.clock,
            "names": to_bytes(dict(branch.names)),
            "visit": branch.id,
            "came": None,
        }
        self._table.write(
            [
                *number_writes,
                Update(keys.join(run_id, join), state, when=(is_same_wave,)),
                Put(key, item),
                *_counter_writes(run_id, join, counters, deltas),
                ConditionCheck(keys.head(run_id), _is_same_state(head)),
            ]
        )
        return VisitItem(visit, origin, {**item, "pk": key.pk, "sk": key.sk})

    def _read_arrivals(self, head: Item, join: Step, stored: Item, entries: Sequence[str]) -> list[Arrival]:
        """Return the branches that wait at a join, whose item is `stored`, by their entries in counters.

        Raises:
            ConditionFailed: the item of the join was read after the join has fired.
        """
        run_id, spread, step_of = run_id_of(head), spread_of(head), self._context.step_of(head)
        sender_keys = {entry: keys.visit(run_id, entry, spread) for entry in entries if not is_carried(entry)}
        items = self._table.get_many(list(sender_keys.values())) if sender_keys else {}
        arrivals = decode_carried(self._context, join.name, stored, is_counted=join.cyclic)
        for entry, key in sender_keys.items():
            sender = decode_visit(run_id, items[key], self._context.blobs, with_outputs=False)
            assert sender is not None
            arrivals[entry] = find_arrival(sender, join.name, step_of)
        # Another process may have fired the join since the counters were read.
        if not arrivals.keys() >= {*entries}:
            raise ConditionFailed([], [])
        return [arrivals[entry] for entry in entries]

    def _new_visit_of_join(
        self, head: Item, branch: Branch, origin: VisitOrigin, now: float
    ) -> tuple[Visit, list[Write]]:
        """Return the visit at a join that fires, and the writes that take its number."""
        numbers = VisitNumbers(self._table, run_id_of(head))
        taken = numbers.take(branch, origin) if branch.is_counted else 0
        number, _ = number_visit(branch, origin, taken)
        is_stopping = starts_nothing(head) or has_ended(head)
        visit = enter_step(branch, run_id_of(head), now, number, is_stopping=is_stopping)
        return visit, numbers.writes()

    def _fired_earlier(self, run_id: str, touched: set[str], head: Item) -> list[VisitItem]:
        """Return the visits of joins that have fired before, and that no worker has claimed."""
        joins = self._table.get_many([keys.join(run_id, join) for join in sorted(touched)])
        ids = [join["visit"] for join in joins.values() if "visit" in join]
        items = self._table.get_many([keys.visit(run_id, id, spread_of(head)) for id in ids])
        visits = [decode_visit(run_id, item, self._context.blobs) for item in items.values()]
        return [item for item in visits if item is not None and item.visit.status is VisitStatus.READY]


def _counter_writes(run_id: str, join: str, counters: Sequence[Item], deltas: CounterDeltas) -> list[Write]:
    """Return the writes that take the arrivals from the counters, and that check the counters without
    arrivals.
    """
    writes: list[Write] = []
    for home, counter in enumerate(counters):
        version = counter.get("version")
        is_unchanged: Condition = (
            ("version", "absent", None) if version is None else ("version", "=", version)
        )
        added, _ = deltas.changes_of(home)
        key = keys.counter(run_id, home)
        taken = {name: None for name in (f"a#{join}", f"l#{join}") if name in counter}
        if taken or added:
            writes.append(Update(key, taken, {**added, "version": 1}, when=(is_unchanged,)))
        else:
            writes.append(ConditionCheck(key, (is_unchanged,)))
    return writes


def _is_same_state(head: Item) -> tuple[Condition, ...]:
    """Return the condition that a run still stops, has still ended, is still paused, or is still neither.

    It has the plan that it had.
    """
    has_same_plan: Condition = ("era", "=", head["era"]) if era_of(head) else ("era", "absent", None)
    if "stop" in head:
        return (("stop", "present", None), has_same_plan)
    if has_ended(head):
        return (("finished", "present", None), has_same_plan)
    is_active: tuple[Condition, ...] = (("stop", "absent", None), ("finished", "absent", None))
    return (*is_active, ("held", "present" if is_paused(head) else "absent", None), has_same_plan)
