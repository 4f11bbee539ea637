"""The deletion of runs on request: the head decides, and a record of the deletion completes it.

Problem: a run has more items than a transaction may hold, and objects in the bucket. A process may die
between any two requests. The run may be resumed at the same time, and workers that have lost their claims
write late.

Algorithm: a durable intent, then idempotent steps: the forward recovery of a saga (Garcia-Molina and Salem
1987). One transaction deletes the heads of a tree of runs and puts a record for each. Its condition is that
each run has ended and was not resumed since. From then on the runs do not exist for any reader. Then their
items, tokens, objects and idempotency keys are deleted. A sweep completes a record whose process has died. An
hour later it deletes what was written late, and then the record.

Cost: a read and a deletion of each item, a listing of the bucket, and two writes of the record. The counts of
child runs are read.

Limits: a transaction deletes up to MAX_TREE_RUNS runs, the leaves first. A larger tree takes several, so the
run may be resumed between them. It then starts its child runs again. Without sweeps, nothing is completed.

The item of a record stores `owner`, the tenant, and `wakes` and `due`, its place in the index `due`.
`spread`, `debounced` and `requests`, the partition keys of idempotency keys, are those of the head. `done` is
set once all is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import StoreError
from noetl.executor.model.run_transition import check_deletable
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.child_run_counts import SHARDS
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.debounced import forget_run
from noetl.executor.stores.dynamo.expressions import (
    PRESENT,
    Condition,
    ConditionCheck,
    Delete,
    Put,
    Update,
    Write,
)
from noetl.executor.stores.dynamo.run_items import has_ended, linked_keys, run_id_of, spread_of, tenant_of
from noetl.executor.stores.dynamo.slot_returns import SlotReturns, has_slots
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS

MAX_TREE_RUNS = 10
"""Number of runs that one transaction deletes. Their heads have four megabytes at most."""

RETRY_SECONDS = 60.0
"""How long after the decision a sweep completes a deletion whose process may have died."""

LATE_SECONDS = 3600.0
"""How long after a deletion a sweep deletes what was written late."""

MAX_RECORDS = 100
"""Number of records that one sweep completes at most."""

_HEAD_ATTRIBUTES = (
    "pk", "sk", "tenant", "owner", "finished", "resumes", "parent", "spread", "requests", "key", "damage",
    "slots", "debounced",
)  # fmt: skip

logger = logging.getLogger("noetl.executor")


class RunDeletion:
    """The deletion of the runs of a table."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def delete(self, tenant: str, run_id: str) -> bool:
        """Delete a run with its child runs. Return False if the tenant has no such run.

        A call also completes a deletion that was interrupted.

        Raises:
            RejectedError: `not_ended`, `child_run`.
        """
        is_found = False
        for _ in range(MAX_CONFLICTS):
            tree = self._read_tree(tenant, run_id)
            if not tree:
                return self._complete_interrupted(tenant, run_id) or is_found
            is_found = True
            open_ids = [run_id_of(head) for head in tree if not has_ended(head) and "damage" not in head]
            check_deletable(run_id, self._find_parent(tree[-1]), open_ids)
            try:
                self._delete_leaves(tree)
            except ConditionFailed:
                continue
            self._context.changes.notify()
            return True
        raise StoreError(f"Run {run_id} could not be deleted: too many concurrent writers.")

    def complete_some(self, now: float) -> None:
        """Complete deletions that were interrupted, and delete what was written late."""
        page = self._context.table.query_index(
            "due",
            KeyConditionExpression="wakes = :shard AND due <= :now",
            ExpressionAttributeValues=encode_item({":shard": keys.DELETIONS, ":now": now}),
            Limit=MAX_RECORDS,
        )
        for entry in map(decode_item, page["Items"]):
            # The index may be out of date.
            record = self._context.table.get(keys.ItemKey(entry["pk"], entry["sk"]))
            if record is not None and record["due"] <= now:
                self._complete(record)

    def _read_tree(self, tenant: str, run_id: str) -> list[Item]:
        """Return the heads of a run and of all runs that it or one of those has started, the run last."""
        table = self._context.table
        root = table.get(keys.head(run_id), _HEAD_ATTRIBUTES)
        if root is None or tenant_of(root) != tenant:
            return []
        heads, level = [root], [root]
        while level:
            links = self._context.in_parallel(self._child_ids, [run_id_of(head) for head in level])
            child_keys = [keys.head(child_id) for ids in links for child_id in ids]
            level = list(table.get_many(child_keys, _HEAD_ATTRIBUTES).values())
            heads += level
        return heads[::-1]

    def _child_ids(self, run_id: str) -> list[str]:
        links = self._context.table.query(keys.partition_key(run_id), "K#")
        return [link["sk"].split("#", 2)[2] for link in links]

    def _find_parent(self, head: Item) -> str | None:
        """Return the id of the run that has started a run, if it still exists."""
        parent_id = head["parent"][0] if "parent" in head else None
        is_kept = parent_id is not None and self._context.table.get(keys.head(parent_id), ("pk",)) is not None
        return parent_id if is_kept else None

    def _delete_leaves(self, heads: Sequence[Item]) -> None:
        """Delete the runs of heads, in transactions of MAX_TREE_RUNS.

        Raises:
            ConditionFailed: a run has been resumed or deleted since its head was read.
        """
        for start in range(0, len(heads), MAX_TREE_RUNS):
            batch = heads[start : start + MAX_TREE_RUNS]
            for head in batch:
                if has_slots(head) and not has_ended(head):
                    self._give_back_slots(run_id_of(head))
            records = [self._record_of(head) for head in batch]
            writes: list[Write] = [
                Delete(keys.head(run_id_of(head)), when=_is_same_end(head)) for head in batch
            ]
            self._context.table.write([*writes, *records])
            self._context.in_parallel(
                self._complete, [{**record.key._asdict(), **record.item} for record in records]
            )

    def _give_back_slots(self, run_id: str) -> None:
        """Give back the slots of a damaged run, whose visits do not ask for others any more."""
        now = self._context.table.clock()
        is_damaged = ConditionCheck(keys.head(run_id), (PRESENT, ("damage", "present", None)))
        returns = SlotReturns(self._context.table, run_id)
        for _ in range(MAX_CONFLICTS):
            if not returns.slots:
                return
            returns.give_back_early(is_damaged, now)
            writes: list[Write] = [is_damaged, *returns.writes(now)]
            try:
                self._context.table.write(writes)
            except ConditionFailed as refusal:
                if refusal.failed[0]:
                    raise
                returns.learn(writes, refusal)
            else:
                return
        raise StoreError(f"The slots of run {run_id} could not be given back: too many concurrent writers.")

    def _record_of(self, head: Item) -> Put:
        """Return the write of the record of a deletion. It replaces that of an earlier run of the same id."""
        requests = [*head.get("requests", ()), *([head["key"]] if "key" in head else [])]
        record = {
            "owner": tenant_of(head),
            "wakes": keys.DELETIONS,
            "due": self._context.table.clock() + RETRY_SECONDS,
            "spread": spread_of(head),
            **({"requests": requests} if requests else {}),
            **({"debounced": head["debounced"]} if "debounced" in head else {}),
        }
        return Put(keys.deletion(run_id_of(head)), record, when=())

    def _complete_interrupted(self, tenant: str, run_id: str) -> bool:
        """Complete the deletion of a run, and return whether it was interrupted."""
        record = self._context.table.get(keys.deletion(run_id))
        if record is None or record["owner"] != tenant or "done" in record:
            return False
        self._complete(record)
        return True

    def _complete(self, record: Item) -> None:
        """Delete what the run of a record has left. The second time, delete the record, too."""
        run_id, table = record["pk"][2:], self._context.table
        self._delete_items(run_id, int(record["spread"]))
        key = keys.deletion(run_id)
        if "done" in record:
            table.write([Delete(key, when=(("due", "=", record["due"]),))])
            return
        forget_run(table, record)
        # The key comes last: until then, no run can be started again with it, and get the same id.
        table.delete([keys.ItemKey(request, "I") for request in record.get("requests", ())])
        later = {"done": True, "due": table.clock() + LATE_SECONDS}
        try:
            table.update(Update(key, later, when=(PRESENT,)))
        except ConditionFailed:
            logger.info("the deletion of run %s was completed by another process", run_id)

    def _delete_items(self, run_id: str, spread: int) -> None:
        """Delete the items, tokens and objects of a deleted run, unless another run has its id now."""
        item_keys: list[keys.ItemKey] = []
        for number in range(spread):
            for item in self._context.table.query(keys.partition_key(run_id, number), ""):
                item_keys.append(keys.ItemKey(item["pk"], item["sk"]))
                item_keys += linked_keys(item)
        if keys.head(run_id) in item_keys:
            return
        counts = self._context.table.get_many([keys.child_runs(run_id, number) for number in range(SHARDS)])
        self._context.table.delete([*item_keys, *counts])
        self._context.blobs.delete_run(run_id)


def _is_same_end(head: Item) -> tuple[Condition, ...]:
    """Return the condition that a run has ended, and was not resumed or put back since its head was read."""
    names = ("finished", "resumes", "requests", "damage")
    return tuple((name, "=", head[name]) if name in head else (name, "absent", None) for name in names)
