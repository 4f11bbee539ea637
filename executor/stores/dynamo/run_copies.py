"""The items of a run that continues another one, which are written before its head.

Problem: the run has copies of visits, branches that stand at visits, and joins with branches that wait. These
are more items than a transaction may hold. A process may die between any two requests.

Algorithm: shadow pages (Lorie 1977). No reader sees items of a run without a head, so the head is written
last. Before the first item, the record of a deletion is written. The transaction of the head deletes this
record. If the process dies, a sweep deletes the items later.

Cost: one write of each item, in parallel, and one of the record.

Limits: a copy that takes longer than LATE_SECONDS may be deleted while it is written. Then its head is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.model.continued_run import ContinuedRun
from noetl.executor.model.ids import derived_id
from noetl.executor.model.plan_switch import CarriedRun
from noetl.executor.model.run import Branch, Run, Visit
from noetl.executor.model.transition import branches_after
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Delete, Put
from noetl.executor.stores.dynamo.run_deletion import LATE_SECONDS
from noetl.executor.stores.dynamo.run_items import CounterDeltas
from noetl.executor.stores.dynamo.visit_items import (
    StepOf,
    VisitItem,
    VisitOrigin,
    encode_origin,
    encode_outcome,
    encode_unclaimed,
    home_of_branch,
)
from noetl.planner.frozen import replace


class RunCopies:
    """The items of new runs that continue other ones."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def copy_history(self, run: Run, history: Sequence[Visit], spread: int) -> Delete:
        """Write copies of finished visits. Return the write that the head of the run must come with."""
        return self._put_all(run, spread, self._encode_history(run, history, spread))

    def copy_run(
        self, continued: ContinuedRun, spread: int, step_of: StepOf
    ) -> tuple[list[VisitItem], Delete]:
        """Write all items of a run but its head. Return its due visits, and what its head must come with."""
        run, carried, history = continued.run, continued.carried, continued.history
        puts = self._encode_history(run, history, spread)
        width = len(carried.visits)
        due: list[VisitItem] = []
        deltas = CounterDeltas()
        for index, visit in enumerate(carried.visits):
            home = home_of_branch(0, index, width, spread)
            origin = VisitOrigin(
                entered_at=run.created_at, index=len(history) + index, home=home, has_forked=True
            )
            key, item = keys.visit(run.id, visit.id, spread), encode_unclaimed(visit, origin)
            stored = {name: value for name, value in item.items() if value is not None}
            puts.append(Put(key, stored, when=()))
            due.append(VisitItem(visit, origin, {**stored, **key._asdict()}))
            if index:  # No counter includes the first branch.
                deltas.count_branch(home, step_of(visit.step).regions, 1)
        puts += _encode_joins(run, carried, deltas, _find_senders(history, carried, step_of), step_of)
        puts += [
            Put(keys.visit_count(run.id, step), {"visits": visits}, when=())
            for step, visits in carried.counts.items()
        ]
        if self._context.plans.header(run.plan_hash).sequential:
            stack = self._context.blobs.store(run.id, carried.stack.to_json())
            puts = [put for put in puts if put.key != keys.counter(run.id, 0)]
            puts.append(Put(keys.counter(run.id, 0), {"stack": stack, "version": 1}, when=()))
        return due, self._put_all(run, spread, puts)

    def _put_all(self, run: Run, spread: int, puts: Sequence[Put]) -> Delete:
        table = self._context.table
        due = table.clock() + LATE_SECONDS
        record = {"owner": run.tenant, "wakes": keys.DELETIONS, "due": due, "spread": spread}
        table.write([Put(keys.deletion(run.id), record, when=())])
        self._context.in_parallel(lambda put: table.write([put]), puts)
        return Delete(keys.deletion(run.id), when=(("due", "=", due),))

    def _encode_history(self, run: Run, history: Sequence[Visit], spread: int) -> list[Put]:
        puts = []
        for position, visit in enumerate(history):
            origin = VisitOrigin(entered_at=run.created_at, index=position)
            copied = replace(visit, run_id=run.id)
            item = {**encode_origin(copied, origin), **encode_outcome(copied, (), self._context.blobs)}
            stored = {name: value for name, value in item.items() if value is not None}
            puts.append(Put(keys.visit(run.id, visit.id, spread), {**stored, "history": True}, when=()))
        return puts


def _find_senders(history: Sequence[Visit], carried: CarriedRun, step_of: StepOf) -> dict[str, str]:
    """Return the visits that have sent the branches which wait at joins, by the ids of the branches."""
    waiting = {branch.id for arrived in carried.arrivals.values() for branch in arrived}
    return {
        branch.id: visit.id
        for visit in history
        for branch in _branches_after(visit, step_of)
        if branch.id in waiting
    }


def _branches_after(visit: Visit, step_of: StepOf) -> Sequence[Branch]:
    return () if visit.case is None else branches_after(visit, step_of(visit.step), step_of)


def _encode_joins(
    run: Run, carried: CarriedRun, deltas: CounterDeltas, senders: Mapping[str, str], step_of: StepOf
) -> list[Put]:
    """Return the items of the joins that have fired, and of the counters with the branches that wait."""
    for join, arrived in carried.arrivals.items():
        for branch in arrived:
            deltas.count_branch(0, step_of(join).regions, 1)
            deltas.add_arrival(0, join, senders[branch.id])
    waves = {join: carried.joins.get(join, (0, 0))[1] for join in carried.clocks}
    for join, clock in carried.clocks.items():
        if not waves[join]:
            deltas.leave(0, [join], clock)
    puts = []
    for home in deltas.homes():
        added, arrivals = deltas.changes_of(home)
        item: dict[str, Any] = {**added, **arrivals, "version": 1}
        puts.append(Put(keys.counter(run.id, home), item, when=()))
    for join, wave in waves.items():
        if wave:
            state = {"wave": wave, "clock": carried.clocks[join], "visit": derived_id("join", join, wave)}
            puts.append(Put(keys.join(run.id, join), state, when=()))
    return puts
