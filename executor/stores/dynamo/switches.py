"""Switches of runs to other plans in DynamoDB.

Problem: a verdict takes longer than a transaction may, and the run may change meanwhile.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). The counters are read before the visits.
If the run is still as it was judged, one transaction replaces what follows from its plan. Its conditions are
the statuses and the fences of all visits that go on, and the versions of the counters. So it is refused if a
worker claims or commits meanwhile, and nothing has changed then. The transaction resumes a run that has
ended, too, as an interrupted resume does, and what is left is completed in the same way.

Cost: two reads of the run with its joins and numbers, and one transaction.

Limits: the writes of `switch_writes.py` fit into one transaction, or the switch is refused as `busy`.
"""

from __future__ import annotations

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
from noetl.executor.stores.dynamo.expressions import Delete, Update, Write
from noetl.executor.stores.dynamo.history import RunHistory
from noetl.executor.stores.dynamo.resumes import Resumes
from noetl.executor.stores.dynamo.run_items import decode_run, derive_deadline_visit, put_request, spread_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, load_run, read_snapshot
from noetl.executor.stores.dynamo.switch_writes import RunBeforeSwitch, SwitchWrites
from noetl.executor.stores.dynamo.table import MAX_TRANSACTION_ITEMS
from noetl.executor.stores.plan_uses import deleted_plan
from noetl.planner.frozen import replace


class DynamoSwitches:
    """The switches of a store in DynamoDB."""

    def __init__(self, context: DynamoContext, resumes: Resumes) -> None:
        self._context = context
        self._resumes = resumes
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
        if not is_same_state(judged, state.records):
            return None
        if state.head.get("expires", now + 1) <= now:
            raise RejectedError("not_resumable", f"the retention period of run {run.id} is over")
        if not context.plan_uses.require(run.plan_hash):
            raise deleted_plan(run.plan_hash)
        writes = SwitchWrites(context, state, switched, now)
        try:
            context.table.write(self._complete_writes(state, writes, run, idempotency))
        except ConditionFailed:
            return None  # it has changed since it was read
        except PayloadTooLargeError as problem:
            raise _too_large(run.id) from problem
        self._announce(state, writes, now)
        context.changes.notify()
        return run

    def _complete_writes(
        self, state: RunBeforeSwitch, writes: SwitchWrites, run: Run, idempotency: tuple[str, str] | None
    ) -> list[Write]:
        """Return all writes of a switch, with those of its request, and of the wait of its parent."""
        head, *moved = writes.build()
        if idempotency is not None:
            assert isinstance(head, Update)
            request = put_request(run, idempotency)
            head = replace(head, append={"requests": [request.key.pk]})
            moved.append(request)
        if run.parent is not None and state.records.run.status.is_final:
            parent = run.parent
            spread = self._context.heads.spread(parent.run_id)
            moved.append(Delete(keys.wait(parent.run_id, parent.visit_id, parent.id, spread)))
        if len(moved) >= MAX_TRANSACTION_ITEMS:
            raise _too_large(run.id)
        return [head, *moved]

    def _announce(self, state: RunBeforeSwitch, writes: SwitchWrites, now: float) -> None:
        """Announce the visits that are due, or complete the resume of a run that had ended."""
        head = writes.head_after()
        if state.records.run.status.is_final:
            self._resumes.complete(head, now)
            return
        deadline = derive_deadline_visit(head)
        has_moved = head.get("deadline") != state.head.get("deadline")
        self._context.announcer.announce(
            head, [*writes.due, *([deadline] if deadline is not None and has_moved else [])], now
        )

    def _read(self, run_id: str, now: float) -> RunBeforeSwitch:
        """Return a run as it is now. An interrupted resume is completed before."""
        context, head = self._context, self._context.heads.read(run_id)
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
        f"run {run_id} has more branches than DynamoDB changes at once ({MAX_TRANSACTION_ITEMS} items);"
        " wait until fewer branches are left, or start a new run of the corrected playbook"
    )
    return RejectedError("busy", message)
