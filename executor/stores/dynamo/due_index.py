"""Visits that are due later than a message can be delayed: the index `due`, and the messages about them.

Problem: SQS delays a message by at most 15 minutes. A message that is sent again every 15 minutes costs, for
a wait of days, a hundred times what the wait itself costs.

Algorithm: a timer queue in the table. The item of such a visit has the attribute `wakes`, a partition of the
sparse index `due`, which is sorted by due time. The head of a run has it for its deadline. Each sweep sends
the messages of those that are due within LOOKAHEAD_SECONDS, with the exact delay. It remembers up to which
time it has sent them. The claim of the visit removes the attribute. A visit that is overdue by GRACE_SECONDS
has lost its message, which is sent again.

Cost: one query of each partition of the index for a sweep, and one read of the head for each visit that
becomes due. A visit that waits costs one write unit at the begin of its wait and one at its end.

Limits: without sweeps, no visit is woken. A sweep sends up to MAX_WAKEUPS messages from each partition; the
next one sends the rest.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import StoreError
from noetl.executor.model.run import DEADLINE, SERVICE_QUEUE
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Update
from noetl.executor.stores.dynamo.run_items import (
    SUMMARY_ATTRIBUTES,
    derive_deadline_visit,
    has_ended,
    run_id_of,
    spread_of,
    tenant_of,
)
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS, DueMessage
from noetl.planner.frozen import frozen

LOOKAHEAD_SECONDS = 60.0
"""A sweep sends the messages of visits that are due so soon. Sweeps are a minute apart."""

MAX_WAKEUPS = 10_000
"""Number of messages that one sweep sends from each partition of the index, besides those due together."""


@frozen
class DueRow:
    """An entry of the index: the key of the item, which is a visit or a head, and when it is due."""

    key: keys.ItemKey
    step: str
    due_at: float

    @classmethod
    def of_item(cls, item: Item) -> DueRow:
        """Return the entry of an item of the index. A head has no step."""
        return cls(keys.ItemKey(item["pk"], item["sk"]), item.get("step", DEADLINE), float(item["due"]))

    @property
    def run_id(self) -> str:
        """Id of the run of the visit."""
        return self.key.pk.split("#")[1]

    @property
    def is_deadline(self) -> bool:
        """True if the item is a head, in the index for the deadline of its run."""
        return self.key.sk == "H"


class DueIndex:
    """The index `due` of a table."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def check_access(self) -> None:
        """Check that the table has the index, and that it may be read.

        Raises:
            StoreError: it is missing, or access is denied.
        """
        values = {":shard": keys.shards(SERVICE_QUEUE)[0]}
        request = {"KeyConditionExpression": "wakes = :shard", "Limit": 1}
        self._query({**request, "ExpressionAttributeValues": encode_item(values)})

    def send_messages(self, queue: str, now: float) -> int:
        """Send the messages about visits that are due soon, and return how many had been lost."""
        table = self._context.table
        if self._context.announcer.external_queue(queue) is None:
            return 0
        sent_until = float((table.get(keys.SENT_WAKEUPS) or {}).get("until", 0.0))
        until = now + LOOKAHEAD_SECONDS
        pages = self._context.in_parallel(
            lambda shard: self._list_shard(shard, sent_until, until), keys.shards(queue)[1:]
        )
        # The next sweep continues where the first partition has more entries.
        until = min([until, *(end for _, end in pages if end is not None)])
        rows = [row for rows, _ in pages for row in rows if row.due_at <= until]
        self._send(queue, [row for row in rows if sent_until < row.due_at], now)
        lost = [row for row in rows if row.due_at <= min(sent_until, now - GRACE_SECONDS)]
        count = self._send(queue, self._without_message(lost, now), now)
        if until > sent_until:
            table.update(Update(keys.SENT_WAKEUPS, {"until": until}))
        return count

    def _list_shard(self, shard: str, sent_until: float, until: float) -> tuple[list[DueRow], float | None]:
        """Return the entries of a partition that are due until a time, and where it was read to if there are
        more.

        It is read on while fewer than MAX_WAKEUPS entries are due after `sent_until`, or are due together.
        """
        rows: list[DueRow] = []
        request: dict[str, Any] = {
            "KeyConditionExpression": "wakes = :shard AND due <= :until",
            "ExpressionAttributeValues": encode_item({":shard": shard, ":until": until}),
        }
        while True:
            page = self._query(request)
            rows += [DueRow.of_item(decode_item(item)) for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                return rows, None
            complete = [row for row in rows if row.due_at < rows[-1].due_at]
            if sum(row.due_at > sent_until for row in complete) >= MAX_WAKEUPS:
                return complete, complete[-1].due_at
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _query(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._context.table.query_index("due", **request)
        except StoreError as error:
            if "index" not in str(error):
                raise
            table = self._context.table.name
            message = f"The table {table} has no index `due`: run `noetl db upgrade`."
            raise StoreError(message) from error

    def _send(self, queue: str, rows: list[DueRow], now: float) -> int:
        """Send the messages about entries, and return their number.

        Runs that have ended or are damaged get none.
        """
        head_keys = {row.run_id: keys.head(row.run_id) for row in rows}
        heads = self._context.table.get_many(list(head_keys.values()), SUMMARY_ATTRIBUTES)
        messages = []
        for row in rows:
            head = heads.get(head_keys[row.run_id])
            if head is None or has_ended(head) or "damage" in head:
                self._remove(row)
            else:
                messages.append(self._message_about(row, head))
        if messages:
            self._context.announcer.send(queue, messages, now)
        return len(messages)

    def _message_about(self, row: DueRow, head: Item) -> DueMessage:
        """Return the message about the visit of an entry."""
        deadline = derive_deadline_visit(head)
        if row.is_deadline and deadline is not None:
            return self._context.announcer.message_about(deadline, head)
        spread, tenant = spread_of(head), tenant_of(head)
        return DueMessage(run_id_of(head), row.key.sk[2:], row.step, row.due_at, spread, tenant=tenant)

    def _without_message(self, rows: list[DueRow], now: float) -> list[DueRow]:
        """Return the entries whose visit is still due. The others have no business in the index."""
        table = self._context.table
        items = table.get_many([row.key for row in rows])
        due = []
        for row in rows:
            item = items.get(row.key, {})
            deadline = derive_deadline_visit(item) if row.is_deadline and item else None
            if row.is_deadline and deadline is None:
                item = {}
            elif deadline is not None:
                key = keys.visit(row.run_id, deadline.visit.id, spread_of(item))
                item = table.get(key) or {"status": deadline.visit.status, "due": row.due_at}
            if item.get("status") not in ACTIVE:
                self._remove(row)
            elif item["due"] <= now:
                due.append(row)
        return due

    def _remove(self, row: DueRow) -> None:
        """Remove an entry from the index, unless it is due at another time meanwhile."""
        try:
            when = (PRESENT, ("due", "=", row.due_at))
            self._context.table.update(Update(row.key, {"wakes": None}, when=when))
        except ConditionFailed:
            return
