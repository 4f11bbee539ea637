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

from collections.abc import Sequence
from typing import Any

from noetl.executor.model.continued_run import ContinuedRun
from noetl.executor.model.run import Run, Visit
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.arrivals import CARRIED, Arrival, encode_carried
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
        puts += self._encode_joins(continued, deltas, step_of)
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

    def _encode_joins(self, continued: ContinuedRun, deltas: CounterDeltas, step_of: StepOf) -> list[Put]:
        """Return the items of the joins that have fired, and of the counters with the branches that wait.

        In another plan, nothing follows from the visits that have sent these branches. Then the item of the
        join holds what they have, as after a switch.
        """
        run, carried, has_other_plan = continued.run, continued.carried, continued.has_other_plan
        for join, arrived in carried.arrivals.items():
            for branch in arrived:
                sender = f"{CARRIED}{branch.id}" if has_other_plan else continued.senders[branch.id]
                deltas.count_branch(0, step_of(join).regions, 1)
                deltas.add_arrival(0, join, sender)
        puts = []
        for join, clock in carried.clocks.items():
            state = self._encode_join(continued, join)
            if state:
                puts.append(Put(keys.join(run.id, join), {**state, "clock": clock}, when=()))
            else:
                deltas.leave(0, [join], clock)
        for home in deltas.homes():
            added, arrivals = deltas.changes_of(home)
            item: dict[str, Any] = {**added, **arrivals, "version": 1}
            puts.append(Put(keys.counter(run.id, home), item, when=()))
        return puts

    def _encode_join(self, continued: ContinuedRun, join: str) -> dict[str, Any]:
        """Return the state of a join. It is empty if it has not fired, and holds no branches."""
        run_id, carried = continued.run.id, continued.carried
        wave, arrived = carried.joins.get(join, (0, 0))[1], carried.arrivals.get(join, ())
        state: dict[str, Any] = {}
        if wave:
            # The name of the join may have changed since, and its id has the earlier one.
            visits = [*continued.history, *carried.visits]
            ids = {visit.clock: visit.id for visit in visits if visit.step == join}
            state |= {"wave": wave, "visit": ids[max(ids)]}
        if arrived and continued.has_other_plan:
            held = [Arrival(branch, continued.senders[branch.id]) for branch in arrived]
            state["came"] = encode_carried(self._context, run_id, held)
        return state

    def _encode_history(self, run: Run, history: Sequence[Visit], spread: int) -> list[Put]:
        puts = []
        for position, visit in enumerate(history):
            origin = VisitOrigin(entered_at=run.created_at, index=position)
            copied = replace(visit, run_id=run.id)
            item = {**encode_origin(copied, origin), **encode_outcome(copied, (), self._context.blobs)}
            stored = {name: value for name, value in item.items() if value is not None}
            puts.append(Put(keys.visit(run.id, visit.id, spread), {**stored, "history": True}, when=()))
        return puts
