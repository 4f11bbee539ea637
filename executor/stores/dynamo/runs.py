"""The runs of a DynamoDB store: their start, stop and resume, their visits and their history."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import PayloadTooLargeError, RejectedError, StoreError, UnknownRunError
from noetl.executor.model.byte_kind import ByteKind
from noetl.executor.model.child_runs import too_many_child_runs
from noetl.executor.model.continued_run import ContinuedRun
from noetl.executor.model.debounce import identify_firing, request_of_firing
from noetl.executor.model.events import Event
from noetl.executor.model.run import DEADLINE, END, ErrorRecord, HistoryPosition, Run, RunStatus, Visit
from noetl.executor.model.run_entries import entries_of_start
from noetl.executor.model.run_filter import RunCounts, RunFilter
from noetl.executor.model.run_summary import RunOverview, RunSummary
from noetl.executor.model.run_tags import TagChange
from noetl.executor.model.run_transition import check_same_request
from noetl.executor.model.triggers import Advance, name_run, trigger_changed
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.child_run_counts import ChildRunCounts
from noetl.executor.stores.dynamo.claimed_visits import read_claimed_visit
from noetl.executor.stores.dynamo.conflicts import repeat_on_conflict
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.debounced import (
    ConflictingStartError,
    PendingRun,
    creating_writes,
    join_pending,
    read_first_visit,
    read_place,
)
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
from noetl.executor.stores.dynamo.history import RunHistory
from noetl.executor.stores.dynamo.outbox import entry_writes
from noetl.executor.stores.dynamo.resumes import Resumes
from noetl.executor.stores.dynamo.run_copies import RunCopies
from noetl.executor.stores.dynamo.run_items import (
    SUMMARY_ATTRIBUTES,
    derive_deadline_visit,
    derive_first_visit,
    encode_head,
    era_of,
    is_paused,
    put_request,
    run_id_of,
    tenant_of,
)
from noetl.executor.stores.dynamo.run_list import RunList
from noetl.executor.stores.dynamo.run_snapshot import load_run, read_snapshot
from noetl.executor.stores.dynamo.stops import Stops
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.triggers import advance_writes
from noetl.executor.stores.dynamo.visit_items import VisitItem, decode_visit, without_outputs
from noetl.executor.stores.plan_uses import deleted_plan
from noetl.planner.frozen import frozen, replace

logger = logging.getLogger("noetl.executor")


@frozen
class _StartCondition:
    """A condition of a start: writes that require it, and the error if it does not hold.

    The error of the first `conflicts` writes says that the start must be tried again.
    """

    writes: Sequence[Write]
    error: Exception
    conflicts: int = 0

    def find_error(self, failed: Sequence[bool]) -> Exception:
        """Return the error of a refused transaction. `failed` says which of the writes were refused."""
        return ConflictingStartError() if any(failed[: self.conflicts]) else self.error


class DynamoRuns:
    """The runs of a DynamoDB store."""

    def __init__(
        self,
        context: DynamoContext,
        stops: Stops,
        resumes: Resumes,
        child_runs: ChildRunCounts,
    ) -> None:
        self._context = context
        self._child_runs = child_runs
        self._stops = stops
        self._resumes = resumes
        self._list = RunList(context)
        self._history = RunHistory(context)
        self._copies = RunCopies(context)

    def create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
        max_child_runs: int | None = None,
    ) -> Run:
        if run.debounce is not None:
            return self._debounce(run, first, idempotency)
        count = None if max_child_runs is None else self._child_runs.count(run, max_child_runs)
        if run.root is None or max_child_runs is None or count is None:
            return self._create(run, first, idempotency, history)
        condition = _StartCondition([count], too_many_child_runs(run.root, max_child_runs))
        return self._create(run, first, idempotency, history, condition)

    def fire(self, run: Run, first: Visit, advance: Advance) -> Run:
        try:
            return self._fire(run, first, advance)
        except UnknownRunError:
            # The earlier run of the firing has expired, and its idempotency key was deleted now.
            return self._fire(run, first, advance)

    def _fire(self, run: Run, first: Visit, advance: Advance) -> Run:
        """Start the run of a firing, or return the run that it has started or joined before.

        Raises:
            UnknownRunError: that run has expired. Another try starts a run.
        """
        header = self._context.plans.header(run.plan_hash)
        idempotency = request_of_firing(run, header, advance.start_key)
        if run.debounce is not None:
            return self._debounce(run, first, idempotency, advance)
        if header.debounce is None:
            # A version with `debounce` may have been live when it was performed before.
            name, request = identify_firing(run.id)
            if self._context.table.get(keys.idempotency(run.tenant, name), ("run",)) is not None:
                return self._earlier_run(run.tenant, name, request)
        writes = advance_writes(self._context, advance)
        condition = _StartCondition(writes, trigger_changed(advance.read))
        return self._create(run, first, idempotency, condition=condition)

    def _debounce(
        self, run: Run, first: Visit, idempotency: tuple[str, str] | None, advance: Advance | None = None
    ) -> Run:
        """Let a start join the pending run of its key, or start a run."""
        assert run.debounce is not None
        for tries in range(MAX_CONFLICTS):
            place = read_place(self._context, run)
            with suppress(ConflictingStartError):
                if place.pending is not None:
                    return self._join(place.pending, run, idempotency, advance)
                writes = creating_writes(self._context, place, run, first)
                condition = _StartCondition(writes, ConflictingStartError(), conflicts=len(writes))
                if advance is not None:
                    advances = advance_writes(self._context, advance)
                    changed = trigger_changed(advance.read)
                    condition = replace(condition, writes=[*writes, *advances], error=changed)
                return self._create(run, first, idempotency, condition=condition)
            time.sleep(pause_seconds(min(tries, 4)))
        raise StoreError(f"Run {run.id} could not be started: too many concurrent starts with its key.")

    def _join(
        self, pending: PendingRun, start: Run, idempotency: tuple[str, str] | None, advance: Advance | None
    ) -> Run:
        """Let a start join a pending run, or return the run that this request has started before.

        Raises:
            ConflictingStartError: the run has changed since it was read.
        """
        context = self._context
        # A version without `debounce` may have been live when the firing was performed before.
        if advance is not None and context.table.get(keys.head(start.id), ("pk",)) is not None:
            return load_run(context, context.heads.read(start.id))
        named = None if advance is None else name_run(advance, pending.run.id)
        writes = [] if named is None else advance_writes(context, named)
        try:
            joined, head, visit = join_pending(context, pending, start, idempotency, writes)
        except PayloadTooLargeError as problem:
            raise RejectedError("too_large", f"the run cannot be stored: {problem}") from None
        except ConditionFailed as refusal:
            if idempotency is not None and refusal.failed[2]:
                return self._earlier_run(start.tenant, *idempotency)
            if advance is not None and not any(refusal.failed[:2]):
                raise trigger_changed(advance.read) from None
            raise ConflictingStartError from None
        context.heads.remember(head)
        self._announce(head, [visit], start.created_at)
        context.changes.notify()
        return joined

    def _create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
        condition: _StartCondition | None = None,
    ) -> Run:
        """Start a run with its first visit, or return the run that this request has started before.

        Raises:
            ConflictingStartError: another start has changed the item of the key of `debounce`.
        """
        spread = self._context.plans.spread(run.plan_hash)
        if not self._context.plan_uses.require(run.plan_hash):
            raise deleted_plan(run.plan_hash)
        head = encode_head(run, first, len(history), spread, self._context.blobs)
        head |= self._context.announcer.deadline_row(run, run.created_at)
        writes: list[Write] = [Put(keys.head(run.id), head)]
        if idempotency is not None:
            name, _ = idempotency
            writes.append(put_request(run, idempotency))
            head["key"] = keys.idempotency(run.tenant, name).pk
        if run.parent is not None:
            child = keys.child(run.parent.run_id, run.parent.visit_id, run.id)
            writes.append(Put(child, {"wait": run.parent.id}, when=()))
        conditional = slice(len(writes), len(writes) + (0 if condition is None else len(condition.writes)))
        writes += [] if condition is None else condition.writes
        if history:
            writes.append(self._copies.copy_history(run, history, spread))
        writes += entry_writes(entries_of_start(run))
        try:
            self._context.table.write(writes)
        except PayloadTooLargeError as problem:
            raise RejectedError("too_large", f"the run cannot be stored: {problem}") from None
        except ConditionFailed as refusal:
            if idempotency is not None and len(writes) > 1 and refusal.failed[1]:
                return self._earlier_run(run.tenant, *idempotency)
            if condition is not None and not refusal.failed[0]:
                raise condition.find_error(refusal.failed[conditional]) from None
            existing = self._context.heads.read(run.id)
            self._announce_first(existing, run.created_at)
            return load_run(self._context, existing)
        head |= keys.head(run.id)._asdict()
        self._context.heads.remember(head)
        self._announce_first(head, run.created_at)
        self._context.changes.notify()
        return run

    def create_continued(self, continued: ContinuedRun, idempotency: tuple[str, str] | None = None) -> Run:
        """Start a run with the branches of another run, or return the run of an earlier same request."""
        context, run = self._context, continued.run
        spread = context.plans.spread(run.plan_hash)
        if not context.plan_uses.require(run.plan_hash):
            raise deleted_plan(run.plan_hash)
        due, completion = self._copies.copy_run(
            continued, spread, lambda name: context.plans.step(run.plan_hash, name)
        )
        head = encode_head(run, due[0].visit, due[0].origin.index, spread, context.blobs)
        head |= context.announcer.deadline_row(run, run.created_at)
        writes: list[Write] = [Put(keys.head(run.id), head)]
        if idempotency is not None:
            writes.append(put_request(run, idempotency))
            head["key"] = keys.idempotency(run.tenant, idempotency[0]).pk
        try:
            context.table.write([*writes, completion, *entry_writes(entries_of_start(run))])
        except PayloadTooLargeError as problem:
            raise RejectedError("too_large", f"the run cannot be stored: {problem}") from None
        except ConditionFailed as refusal:
            if idempotency is not None and refusal.failed[1]:
                return self._earlier_run(run.tenant, *idempotency)
            return load_run(context, context.heads.read(run.id))
        head |= keys.head(run.id)._asdict()
        context.heads.remember(head)
        self._announce(head, due, run.created_at)
        context.changes.notify()
        return run

    def get(self, tenant: str, run_id: str) -> Run | None:
        """Return a run of a tenant, or None if the tenant has no such run."""
        return self._list.get(tenant, run_id)

    def summary(self, tenant: str, run_id: str) -> RunSummary | None:
        """Return the summary of a run of a tenant, or None if the tenant has no such run."""
        return self._list.summary(tenant, run_id)

    def overview(self, tenant: str, run_id: str) -> RunOverview | None:
        """Return what the status of a run shows, or None if the tenant has no such run."""
        return self._list.overview(tenant, run_id)

    def find(self, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
        """Return a page of runs, and the cursor of the next page or None."""
        return self._list.find(run_filter)

    def count(self, run_filter: RunFilter, step_seconds: float | None, limit: int) -> RunCounts:
        """Return the numbers of the runs of a filter by interval and status."""
        return self._list.count(run_filter, step_seconds, limit)

    def live_runs(self, tenant: str, playbook: str, plan_hashes: Sequence[str], limit: int) -> list[str]:
        """Return the ids of runs of a service that have not ended and have one of the plans, oldest first."""
        return self._list.live_runs(tenant, playbook, plan_hashes, limit)

    def stop(self, run_id: str, status: RunStatus, now: float, reason: ErrorRecord | None = None) -> Run:
        """Let a run end with `status`: no visit starts any more, and running visits finish."""
        return self._stops.stop(run_id, status, now, reason)

    def resume(
        self,
        run_id: str,
        now: float,
        *,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
        idempotency: tuple[str, str] | None = None,
    ) -> Run:
        """Continue a run that has ended: its failed and parked visits become due."""
        return self._resumes.resume(
            run_id, now, deadline_at=deadline_at, values=values, idempotency=idempotency
        )

    def change_tags(self, tenant: str, run_id: str, change: TagChange) -> tuple[str, ...] | None:
        """Change the tags of a run, and return them, or None if the tenant has no such run."""
        key = keys.head(run_id)

        def write_tags() -> tuple[str, ...] | None:
            head = self._context.table.get(key, ("pk", "tenant", "owner", "tags"))
            if head is None or tenant_of(head) != tenant:
                return None
            tags = change.apply(head.get("tags", ()))
            unchanged = ("tags", "=", head["tags"]) if "tags" in head else ("tags", "absent", None)
            self._context.table.update(Update(key, {"tags": list(tags) or None}, when=(PRESENT, unchanged)))
            self._context.changes.notify()
            return tags

        return repeat_on_conflict(write_tags, f"The tags of run {run_id} could not be changed")

    def find_request(self, tenant: str, key: str) -> tuple[str, str] | None:
        """Return the hash of the request that first had an idempotency key, and the id of its run."""
        item = self._context.table.get(keys.idempotency(tenant, key))
        return None if item is None else (item["request"], item["run"])

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        """Return the history of a run after the event with the id `after`, in order."""
        return self._history.events(run_id, after, limit)

    def positions(self, run_ids: Sequence[str]) -> dict[str, HistoryPosition]:
        """Return the status of each run. A step changes its visit only, so no number counts the changes."""
        heads = self._context.table.get_many([keys.head(run_id) for run_id in run_ids])
        return {
            run_id_of(head): HistoryPosition(
                RunStatus.PAUSED if is_paused(head) else RunStatus(head["status"]), None
            )
            for head in heads.values()
        }

    def add_bytes(self, run_id: str, kind: ByteKind, size: int) -> int:
        """Add to the bytes that a run has logged or written, and return their sum of all processes.

        A request that is repeated may count its bytes twice.
        """
        counted = self._context.table.update(Update(keys.byte_count(run_id, kind), add={"bytes": size}))
        return int(counted["bytes"])

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        """Return which of the runs are cancelled, so that their running visits must be abandoned."""
        heads = self._context.table.get_many([keys.head(run_id) for run_id in run_ids])
        return {run_id_of(head) for head in heads.values() if head.get("stop") == RunStatus.CANCELLED}

    def visits(self, run_id: str) -> list[Visit]:
        """Return all visits of a run in the order of their creation, without their outputs."""
        snapshot = read_snapshot(self._context, run_id)
        return [] if snapshot is None else [without_outputs(item.visit) for item in snapshot.current_items]

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        """Return the named visits, or all, with the names that they saved and their results."""
        if visit_ids is not None:
            stored = self._stored_visits(run_id, visit_ids)
            if stored is not None:
                return sorted(stored, key=lambda visit: (visit.clock, visit.id))
        snapshot = read_snapshot(self._context, run_id, with_outputs=True)
        visits = [] if snapshot is None else [item.visit for item in snapshot.current_items]
        if visit_ids is None:
            chosen = [visit for visit in visits if visit.step not in (END, DEADLINE)]
        else:
            wanted_ids = frozenset(visit_ids)
            chosen = [visit for visit in visits if visit.id in wanted_ids]
        return sorted(chosen, key=lambda visit: (visit.clock, visit.id))

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        """Return the committed batch results of one loop of a visit, in order."""
        pk = self._context.heads.visit_key(run_id, visit_id).pk
        prefix = f"P#{visit_id}#{loop}#"
        items = self._context.table.query(pk, prefix)
        # Positions of inner loops begin with that of the outer loop.
        return [
            self._context.blobs.load(item["body"]) for item in items if "#" not in item["sk"][len(prefix) :]
        ]

    def _announce_first(self, head: Item, now: float) -> None:
        """Announce the first visit and the deadline of a run, unless a worker has started the run.

        A failure is only logged, since the run exists, and a sweep announces it again.
        """
        if head["status"] != RunStatus.QUEUED or era_of(head):
            return
        if "debounced" not in head:
            self._announce(head, [derive_first_visit(head, self._context.step_of(head))], now)
        elif (first := read_first_visit(self._context, head)) is not None:
            self._announce(head, [first], now)

    def _announce(self, head: Item, due: Sequence[VisitItem], now: float) -> None:
        """Announce the visits of a new run that are due, and its deadline. A failure is only logged."""
        deadline = derive_deadline_visit(head)
        try:
            self._context.announcer.announce(head, [*due, *([] if deadline is None else [deadline])], now)
        except StoreError as error:
            logger.warning(
                "no message was sent about run %s; a sweep will send it: %s", run_id_of(head), error
            )

    def _earlier_run(self, tenant: str, key: str, request_hash: str) -> Run:
        """Return the run that an idempotency key has started before.

        Raises:
            UnknownRunError: the run has expired, or was deleted. Its key was, too.
        """
        item = self._context.table.get(keys.idempotency(tenant, key))
        if item is None:
            raise UnknownRunError("the run of an idempotency key was deleted")
        check_same_request(item["request"], request_hash)
        try:
            head = self._context.heads.read(item["run"])
        except UnknownRunError:
            self._delete_request(keys.idempotency(tenant, key), item["run"])
            raise
        # The process that started the run may have died before it announced the first visit.
        self._announce_first(head, head["at"])
        return load_run(self._context, head)

    def _delete_request(self, key: keys.ItemKey, run_id: str) -> None:
        """Delete an idempotency key whose run has no head any more. DynamoDB deletes it days later."""
        is_same: Condition = ("run", "=", run_id)
        with suppress(ConditionFailed):
            self._context.table.write(
                [Delete(key, when=(is_same,)), ConditionCheck(keys.head(run_id), (ABSENT,))]
            )

    def _stored_visits(self, run_id: str, visit_ids: Sequence[str]) -> list[Visit] | None:
        """Return the visits with these ids, or None if one of them has no item, or no cause."""
        spread = self._context.heads.spread(run_id)
        visit_keys = [keys.visit(run_id, id, spread) for id in visit_ids]
        items = self._context.table.get_many(visit_keys)
        if len(items) < len(visit_keys):
            return None
        decoded = [decode_visit(run_id, items[key], self._context.blobs) for key in visit_keys]
        if None in decoded:  # A visit that has not ended does not hold its origin.
            head = self._context.table.get(keys.head(run_id), SUMMARY_ATTRIBUTES)
            if head is None:
                return None
            decoded = [
                item or read_claimed_visit(self._context, head, items[key])
                for item, key in zip(decoded, visit_keys, strict=True)
            ]
        visits = [item.visit for item in decoded if item is not None]
        return visits if len(visits) == len(decoded) else None
