"""The deletion of plans that nothing needs any more.

Problem: each playbook that a request carries leaves a plan. No index finds the runs that name a plan, and a
run may wait for years.

Algorithm: mark and sweep (McCarthy 1960) over old plans and old open runs alone. Candidates are plans whose
use (`plan_uses.py`) says that they are not needed any more. They are found in the index `due`. The index of
open runs is scanned for runs that started MIN_AGE_SECONDS ago or earlier, since a start lets its plan be
needed for longer. The plans of these are postponed by a day, and the other candidates are deleted. A deletion
is one transaction, under the condition that the use is as it was when the candidates were found. Whatever
begins to need a plan meanwhile changes the use. So does a run that moves past the scan within the index.

Cost: once a day a read, a query of each of eight partitions, and a write. If there are candidates, also a
scan of the index of open runs, one read of each old run, and a write for each candidate.

Limits: a call examines MAX_CANDIDATES plans and MAX_PAGES pages of the index. The next call continues, also
in another process. Without a retention, runs and plans are kept.

The item `S#plans` stores `next`, when candidates are searched again. During a scan it stores `plans` and
`dues`, the candidates and their times, and `after`, where the scan continues.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Delete, Update, Write
from noetl.executor.stores.dynamo.plan_uses import USE_SECONDS
from noetl.executor.stores.retention import DAY_SECONDS

PAUSE_SECONDS = DAY_SECONDS
"""How long after a search without candidates the next one begins."""

MIN_AGE_SECONDS = USE_SECONDS / 2
"""How old the runs are that the scan reads. Clocks that differ by hours do no harm."""

MAX_CANDIDATES = 200
MAX_PAGES = 20
PAGE_SIZE = 1000
"""Number of plans and of pages of the index that one call examines, and the number of runs of a page."""

_INDEX_KEYS = ("pk", "sk", "open", "created")

logger = logging.getLogger("noetl.executor")


class PlanDeletion:
    """The deletion of unused plans of a table."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context
        self._next_at = 0.0

    def delete_some(self) -> bool:
        """Delete some plans that nothing needs. Return whether more may be left."""
        table, now = self._context.table, self._context.table.clock()
        if self._context.plan_uses.retention_seconds is None or now < self._next_at:
            return False
        state = table.get(keys.PLAN_DELETION) or {}
        candidates = dict(zip(state.get("plans", ()), state.get("dues", ()), strict=True))
        if not candidates:
            self._next_at = state.get("next", 0.0)
            if now < self._next_at:
                return False
            candidates = self._find_candidates(now)
        if not candidates:
            self._next_at = now + PAUSE_SECONDS
            table.update(Update(keys.PLAN_DELETION, {"next": self._next_at}))
            return False
        named, after = self._scan_open_runs(candidates, state.get("after"), now)
        for plan_hash in named:
            self._postpone(plan_hash, candidates.pop(plan_hash), now)
        if after is None:
            deleted = self._context.in_parallel(lambda entry: self._delete(*entry), list(candidates.items()))
            logger.info("%d of %d unused plans were deleted", sum(deleted), len(deleted))
            candidates = {}
        plans, dues = list(candidates) or None, list(candidates.values()) or None
        is_scanning = bool(candidates)
        table.update(
            Update(
                keys.PLAN_DELETION,
                {"plans": plans, "dues": dues, "after": after if is_scanning else None, "next": None},
            )
        )
        return True

    def _find_candidates(self, now: float) -> dict[str, float]:
        """Return some plans that are not needed any more, and until when they were. None is registered."""
        table = self._context.table
        request = {
            "KeyConditionExpression": "wakes = :shard AND due < :now",
            "Limit": MAX_CANDIDATES // keys.SHARDS,
        }

        def query(shard: str) -> list[Item]:
            values = encode_item({":shard": shard, ":now": now})
            page = table.query_index("due", **request, ExpressionAttributeValues=values)
            return [decode_item(item) for item in page["Items"]]

        pages = self._context.in_parallel(query, keys.plan_shards())
        # The index may be out of date.
        uses = table.get_many([keys.ItemKey(item["pk"], item["sk"]) for page in pages for item in page])
        candidates = {}
        for key, use in uses.items():
            if use.get("versions", 0) > 0:
                self._leave_index(key)
            elif use.get("due", now) < now:
                candidates[key.pk[2:]] = use["due"]
        return candidates

    def _leave_index(self, key: keys.ItemKey) -> None:
        """Remove the use of a registered plan from the index. The removal of the playbook adds it again."""
        try:
            self._context.table.update(Update(key, {"wakes": None}, when=(("versions", ">", 0),)))
        except ConditionFailed:
            return

    def _scan_open_runs(
        self, candidates: Mapping[str, float], after: list[str] | None, now: float
    ) -> tuple[set[str], list[str] | None]:
        """Return the candidates that old open runs name, and where the scan continues, or None at its end."""
        before = keys.creation_sort_key(max(now - MIN_AGE_SECONDS, 0.0), "")
        request: dict[str, Any] = {
            "FilterExpression": "created < :before",
            "ExpressionAttributeValues": encode_item({":before": before}),
            "Limit": PAGE_SIZE,
        }
        named: set[str] = set()
        for _ in range(MAX_PAGES):
            start = {} if after is None else dict(zip(_INDEX_KEYS, after, strict=True))
            request |= {"ExclusiveStartKey": encode_item(start)} if start else {}
            page = self._context.table.scan_index("open", **request)
            entries = [decode_item(item) for item in page["Items"]]
            run_keys = [keys.ItemKey(entry["pk"], entry["sk"]) for entry in entries]
            heads = self._context.table.get_many(run_keys, ("pk", "sk", "plan"))
            named |= {head["plan"] for head in heads.values()} & candidates.keys()
            if "LastEvaluatedKey" not in page:
                return named, None
            last = decode_item(page["LastEvaluatedKey"])
            after = [last[name] for name in _INDEX_KEYS]
        return named, after

    def _postpone(self, plan_hash: str, due: float, now: float) -> None:
        """Let a plan be examined again in a day, unless something has extended its use."""
        later = Update(keys.plan_use(plan_hash), {"due": int(now + DAY_SECONDS)}, when=(("due", "=", due),))
        try:
            self._context.table.update(later)
        except ConditionFailed:
            return

    def _delete(self, plan_hash: str, due: float) -> bool:
        """Delete a plan unless something needs it meanwhile, and return whether it was deleted.

        A playbook has at most a megabyte, so the blocks of its plan fit into one transaction.
        """
        table, key = self._context.table, keys.plan_use(plan_hash)
        use = table.get(key)
        if use is None:
            return False
        is_unused = (("due", "=", due), ("versions", "absent or =", 0))
        blocks: list[Write] = [Delete(keys.plan(plan_hash, number)) for number in range(use["blocks"])]
        try:
            table.write([Delete(key, when=is_unused), *blocks])
        except ConditionFailed:
            return False
        return True
