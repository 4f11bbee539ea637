"""Switches of runs to other plans in DynamoDB.

Problem: a verdict takes longer than a transaction may, and the run may change meanwhile.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). The counters are read before the visits.
If the run is still as it was judged, one transaction replaces what follows from its plan. Its conditions are
the statuses and the fences of all visits that go on, and the versions of the counters. So it is refused if a
worker claims or commits meanwhile, and nothing has changed then. The transaction resumes a run that has
ended, too, as an interrupted resume does, and what is left is completed in the same way.

If the writes do not fit into one transaction, the visits are held before it, and written after it
(`plan_moves.py`).

Cost: two reads of the run with its joins and numbers, and one transaction.

Limits: the head, the counters, the joins and the numbers fit into one transaction, or the switch is refused
as `busy`.
"""

from __future__ import annotations

from contextlib import suppress

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import PayloadTooLargeError, RejectedError
from noetl.executor.model.run import Branch, Run
from noetl.executor.model.run_history import ACTION_EVENTS, RunRecords
from noetl.executor.model.run_switch import SwitchedRun, is_same_state
from noetl.executor.model.run_transition import unknown_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.arrivals import Arrival, decode_carried, find_arrival, is_carried
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.branch_stacks import decode_stack
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Delete, Write
from noetl.executor.stores.dynamo.gate_grants import find_sleepers
from noetl.executor.stores.dynamo.history import RunHistory
from noetl.executor.stores.dynamo.plan_moves import (
    begin_move,
    hold_visits,
    is_moving,
    settle_move,
    settle_visits,
)
from noetl.executor.stores.dynamo.resumes import Resumes
from noetl.executor.stores.dynamo.run_items import (
    decode_run,
    derive_deadline_visit,
    era_of,
    put_request,
    run_id_of,
    spread_of,
)
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, load_run, read_snapshot
from noetl.executor.stores.dynamo.slot_returns import SlotReturns, has_slots, write_returning
from noetl.executor.stores.dynamo.switch_writes import PlanMove, RunBeforeSwitch, SwitchWrites, is_same_head
from noetl.executor.stores.dynamo.table import MAX_TRANSACTION_ITEMS, fits_transaction
from noetl.executor.stores.dynamo.wakeups import Wakeups
from noetl.executor.stores.plan_uses import deleted_plan
from noetl.planner.frozen import replace


class DynamoSwitches:
    """The switches of a store in DynamoDB."""

    def __init__(self, context: DynamoContext, resumes: Resumes, wakeups: Wakeups) -> None:
        self._context = context
        self._resumes = resumes
        self._wakeups = wakeups
        self._history = RunHistory(context)

    def read(self, run_id: str, now: float) -> RunRecords:
        state = self._read(run_id, now)
        live = [
            item
            for item in state.snapshot.current_items
            if item.is_written and state.records.is_live(item.visit)
        ]
        events = [
            event
            for item in live
            for event in self._history.visit_events(item)
            if event.type in ACTION_EVENTS
        ]
        return replace(state.records, events=events)

    def write(
        self, judged: RunRecords, switched: SwitchedRun, idempotency: tuple[str, str] | None = None
    ) -> Run | None:
        context, run, now = self._context, switched.run, switched.events[0].at
        if idempotency is not None and self._resumes.was_requested(run, idempotency):
            return load_run(context, context.heads.read(run.id))
        state = self._read(run.id, judged.read_at)
        if is_moving(state.head):
            message = f"another request changes the plan of run {run.id}; try again in a minute"
            raise RejectedError("busy", message)
        if not is_same_state(judged, state.records):
            return None
        if state.head.get("expires", now + 1) <= now:
            raise RejectedError("not_resumable", f"the retention period of run {run.id} is over")
        if not context.plan_uses.require(run.plan_hash):
            raise deleted_plan(run.plan_hash)
        change = self._complete_change(state, SwitchWrites(context, state, switched, now), run, idempotency)
        try:
            if change.is_small:
                context.table.write(change.all_writes)
            elif not self._move(state.head, change, now):
                return None
        except ConditionFailed:
            return None  # it has changed since it was read
        except PayloadTooLargeError as problem:
            raise _too_large(run.id) from problem
        self._announce(state, change, now)
        if has_slots(state.head):
            self._give_back_slots(state.head, now)
        context.changes.notify()
        return run

    def _give_back_slots(self, head: Item, now: float) -> None:
        """Give back slots of visits that wait, since the new plan may have other limits. They ask again.

        Visits that are executed keep theirs, and the run what it holds.
        """
        table, run_id = self._context.table, run_id_of(head)
        returns = SlotReturns(table, run_id, "", only_waiting=True)
        if returns.slots:
            write_returning(table, [], returns, now)
        for item in find_sleepers(self._context, head):
            update = self._wakeups.due_update(head, item, now)
            with suppress(ConditionFailed):  # it was claimed meanwhile, and asks again
                write_returning(table, [update], SlotReturns(table, run_id, item["sk"][2:]), now)
                self._wakeups.announce_due(head, item, now)

    def _complete_change(
        self, state: RunBeforeSwitch, writes: SwitchWrites, run: Run, idempotency: tuple[str, str] | None
    ) -> PlanMove:
        """Return all writes of a switch, with those of its request, and of the wait of its parent."""
        change = writes.build()
        head, more = change.head, list[Write]()
        if idempotency is not None:
            request = put_request(run, idempotency)
            head = replace(head, append={"requests": [request.key.pk]})
            more.append(request)
        if run.parent is not None and state.records.run.status.is_final:
            parent = run.parent
            spread = self._context.heads.spread(parent.run_id)
            more.append(Delete(keys.wait(parent.run_id, parent.visit_id, parent.id, spread)))
        return replace(change, head=head, fixed=[*change.fixed, *more])

    def _move(self, head: Item, change: PlanMove, now: float) -> bool:
        """Write a change that one transaction cannot hold. Return False if the run has changed.

        Raises:
            PayloadTooLargeError: one transaction cannot hold what must change at once.
        """
        context, key = self._context, keys.head(run_id_of(head))
        if not fits_transaction([change.head, *change.fixed]):
            raise _too_large(run_id_of(head))
        held = begin_move(context, head, now, change.head.when)
        if held is None:
            return False
        has_moved = False
        try:
            if hold_visits(context, held, change.moves):
                with suppress(ConditionFailed):
                    flip = replace(change.head, key=key, when=(PRESENT, *is_same_head(held)))
                    context.table.write([flip, *change.fixed])
                    has_moved = True
        except PayloadTooLargeError:
            settle_move(context, held, now, is_forced=True)
            raise
        current = context.heads.read(run_id_of(head))
        if current["moving"] == held["moving"]:
            settle_move(context, current, now, is_forced=True)
        return has_moved

    def _announce(self, state: RunBeforeSwitch, change: PlanMove, now: float) -> None:
        """Announce the visits that are due, or complete the resume of a run that had ended."""
        head = change.head_after
        if state.records.run.status.is_final:
            self._resumes.complete(head, now)
            return
        deadline = derive_deadline_visit(head)
        has_moved = head.get("deadline") != state.head.get("deadline")
        self._context.announcer.announce(
            head, [*change.due, *([deadline] if deadline is not None and has_moved else [])], now
        )

    def _read(self, run_id: str, now: float) -> RunBeforeSwitch:
        """Return a run as it is now. An interrupted resume is completed before."""
        context, head = self._context, self._context.heads.read(run_id)
        if is_moving(head):
            settle_move(context, head, now)
        if "reopening" in head:
            self._resumes.complete(head, now)
        numbers = range(spread_of(head))
        counters = context.table.get_many([keys.counter(run_id, number) for number in numbers])
        pk = keys.partition_key(run_id)
        joins = {item["sk"][2:]: item for item in context.table.query(pk, "J#")}
        steps = [item["sk"][2:] for item in context.table.query(pk, "N#", attributes=("sk",))]
        snapshot = read_snapshot(context, run_id, with_outputs=True)
        if snapshot is None:
            raise unknown_run(run_id)
        if not is_moving(snapshot.head) and any("moving" in item.attributes for item in snapshot.items):
            settle_visits(context, snapshot.head)  # a move was given up, and not all visits were written
            return self._read(run_id, now)
        arrivals = self._read_arrivals(snapshot, joins)
        run = decode_run(snapshot.head, context.blobs, snapshot.counts)
        waiting: dict[str, list[Branch]] = {}
        for arrival in arrivals.values():
            waiting.setdefault(arrival.branch.step, []).append(arrival.branch)
        waves = {join: item["wave"] for join, item in joins.items() if "wave" in item}
        stack = None
        if context.is_sequential(snapshot.head):
            stack = decode_stack(context, snapshot.head, snapshot.counter).stack
            waves = {join: wave for join, wave in stack.waves.items() if wave}
        records = RunRecords(
            run,
            [item.visit for item in snapshot.current_items],
            waiting,
            waves,
            resumes_ended=run.status.is_final,
            read_at=now,
            stack=stack,
            had_other_plans=era_of(snapshot.head) > 0,
        )
        by_number = {
            number: counters[key] for number in numbers if (key := keys.counter(run_id, number)) in counters
        }
        return RunBeforeSwitch(snapshot, records, arrivals, by_number, joins, steps)

    def _read_arrivals(self, snapshot: RunSnapshot, joins: dict[str, Item]) -> dict[str, Arrival]:
        """Return the branches that wait at joins, by their ids."""
        step_of = self._context.step_of(snapshot.head)
        visits = {item.visit.id: item for item in snapshot.items}
        found: list[Arrival] = []
        for join, entries in snapshot.counts.arrivals.items():
            carried = decode_carried(
                self._context, join, joins.get(join, {}), is_counted=step_of(join).cyclic
            )
            found += [
                carried[entry] if is_carried(entry) else find_arrival(visits[entry], join, step_of)
                for entry in entries
            ]
        return {arrival.branch.id: arrival for arrival in found}


def _too_large(run_id: str) -> RejectedError:
    message = (
        f"run {run_id} has more joins, steps on cycles or values than DynamoDB changes at once"
        f" ({MAX_TRANSACTION_ITEMS} items, 4 MB);"
        " wait until fewer branches are left, or start a new run of the corrected playbook"
    )
    return RejectedError("busy", message)
