"""DynamoJoins: who brings a counter to zero looks at all of them, and fires what has nothing left to wait for."""

from __future__ import annotations

import time
from dataclasses import replace

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import StoreError
from noetl.executor.model.run import NEVER, Branch, VisitStatus
from noetl.executor.model.transition import branches_after, merge_arrivals
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import to_bytes
from noetl.executor.stores.dynamo.commits import DynamoCommits, numbers_for
from noetl.executor.stores.dynamo.context import MOST_RACES
from noetl.executor.stores.dynamo.expressions import Condition, ConditionCheck, Put, Update
from noetl.executor.stores.dynamo.run_items import BranchCounts, CounterDeltas, counts_of, is_over, spread_of
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    VisitOrigin,
    decode_visit,
    entered,
    names_of,
    numbered,
    visit_of,
)


class DynamoJoins(DynamoCommits):
    """The part of the store that fires joins."""

    def look(
        self, record: VisitItem, head: Item, now: float, *, again: bool = False
    ) -> tuple[list[VisitItem], bool]:
        visit = record.visit
        touched = self._touched(record, head)
        fired = self._fired_before(visit.run_id, touched, head) if again else []
        if self._is_on_the_way(record, head, touched):
            return fired, False
        more, counts = self.fire_joins(head, touched, now, line=visit.clock)
        known = {one.visit.id for one in more}
        return [*(one for one in fired if one.visit.id not in known), *more], counts.live <= 0

    def _touched(self, record: VisitItem, head: Item) -> set[str]:
        """The joins whose counters the commit of a visit may have changed."""
        step_of = self.step_of(head["plan"])
        if record.visit.step.startswith("@"):
            return set()
        step = step_of(record.visit.step)
        branches = branches_after(record.visit, step, step_of)
        arrived = {branch.step for branch in branches if branch.is_arrival}
        absorbed = {
            join for branch in branches if branch.is_absorbed for join in step_of(branch.step).regions
        }
        return {*step.regions, *arrived, *absorbed}

    def _is_on_the_way(self, record: VisitItem, head: Item, touched: set[str]) -> bool:
        """Whether the counter of the visit's own partition says already that nothing can fire or end. Where a run is spread
        each branch is counted out where it was counted in, so no counter is ever below zero.
        """
        if spread_of(head) == 1:
            return False
        own = self.table.get(keys.counter(record.visit.run_id, record.way.home)) or {}
        at_first = self.step_of(head["plan"])(head["first"][1]).regions if record.way.home == 0 else None
        if own.get("live", 0) + (at_first is not None) <= 0:
            return False
        return all(own.get(f"j#{join}", 0) + (join in (at_first or ())) > 0 for join in touched)

    def fire_joins(
        self, head: Item, touched: set[str] | None, now: float, *, line: int = 0
    ) -> tuple[list[VisitItem], BranchCounts]:
        """Fire those of the joins (or any) that have arrivals and nothing to wait for; what is due then, and the counters."""
        run_id, step_of = head["pk"][2:], self.step_of(head["plan"])
        at = [keys.counter(run_id, number) for number in range(spread_of(head))]
        fired: list[VisitItem] = []
        for tries in range(MOST_RACES):
            counters = self.table.get_snapshot(at)
            counts = counts_of(head, counters, step_of)
            ready = sorted(
                join
                for join, arrived in counts.arrived.items()
                if arrived and counts.joins.get(join, 0) <= 0 and (touched is None or join in touched)
            )
            if not ready:
                return fired, counts
            try:
                record = self._fire(head, ready[0], counters, now, line)
            except ConditionFailed:
                time.sleep(pause_seconds(min(tries, 4)))
                head = self.head(run_id)
                continue
            if record.visit.status is VisitStatus.READY:
                fired.append(record)
        raise StoreError(f"The joins of run {run_id} could not be fired: too many others write beside it.")

    def _fire(self, head: Item, join: str, counters: list[Item], now: float, line: int) -> VisitItem:
        """Let what has arrived at a join go on as one branch.

        Raises:
            ConditionFailed: the counters, the join or the run have changed since they were read.
        """
        run_id, spread, step_of = head["pk"][2:], spread_of(head), self.step_of(head["plan"])
        step = step_of(join)
        came = [(home, id) for home, counter in enumerate(counters) for id in counter.get(f"a#{join}", ())]
        found = self.table.get_many([keys.visit(run_id, id, spread) for _, id in came])
        arrivals: list[Branch] = []
        ways: list[VisitOrigin] = []
        for _, id in came:
            record = decode_visit(run_id, found[keys.visit(run_id, id, spread)], self.blobs)
            assert record is not None
            branches = branches_after(record.visit, step_of(record.visit.step), step_of)
            arrivals.append(next(branch for branch in branches if branch.is_arrival and branch.step == join))
            ways.append(record.way)
        before = self.table.get(keys.join(run_id, join)) or {}
        wave = before.get("wave", 0) + 1
        earlier = None if wave == 1 else Branch("", join, before["clock"], names_of(before.get("names")))
        branch, _, _ = merge_arrivals(step, wave, arrivals, earlier)
        way = VisitOrigin(
            causes=tuple(id for _, id in came),
            entered=now,
            home=came[0][0],
            counts=ways[0].counts,
            forked=True,
            line=line,
        )
        number, writes = numbers_for(self, run_id, branch, way) if branch.is_counted else (0, [])
        number, _ = numbered(branch, way, number)
        stops = "stop" in head or is_over(head)
        visit = visit_of(branch, run_id, NEVER if self.plans.header(head["plan"]).sequential else now, number)
        visit = replace(visit, status=VisitStatus.PARKED if stops else VisitStatus.READY)
        deltas = CounterDeltas()
        for home, _ in came[1:]:
            deltas.branch(home, step.regions, -1)
        item = entered(visit, way)
        fires: Condition = ("wave", "=", wave - 1) if wave > 1 else ("wave", "absent", None)
        told = {
            "wave": wave,
            "clock": branch.clock,
            "names": to_bytes(dict(branch.names)),
            "visit": branch.id,
        }
        writes += [
            Update(keys.join(run_id, join), told, when=(fires,)),
            Put(keys.visit(run_id, visit.id, spread), item),
        ]
        for home, counter in enumerate(counters):
            version = counter.get("version")
            same: Condition = ("version", "absent", None) if version is None else ("version", "=", version)
            added, _ = deltas.changes_of(home)
            key = keys.counter(run_id, home)
            if f"a#{join}" in counter or added:
                writes.append(Update(key, {f"a#{join}": None}, {**added, "version": 1}, when=(same,)))
            else:
                writes.append(ConditionCheck(key, (same,)))
        goes_on: list[Condition] = [("stop", "absent", None), ("finished", "absent", None)]
        stopping: Condition = ("stop", "present", None) if "stop" in head else ("finished", "present", None)
        writes.append(ConditionCheck(keys.head(run_id), (stopping,) if stops else tuple(goes_on)))
        self.table.write(writes)
        key = keys.visit(run_id, visit.id, spread)
        return VisitItem(visit, way, {**item, "pk": key.pk, "sk": key.sk})

    def _fired_before(self, run_id: str, touched: set[str], head: Item) -> list[VisitItem]:
        """The visits at joins that were fired before and that nobody has claimed."""
        joins = self.table.get_many([keys.join(run_id, join) for join in sorted(touched)])
        ids = [join["visit"] for join in joins.values()]
        items = self.table.get_many([keys.visit(run_id, id, spread_of(head)) for id in ids])
        records = [decode_visit(run_id, item, self.blobs) for item in items.values()]
        return [one for one in records if one is not None and one.visit.status is VisitStatus.READY]
