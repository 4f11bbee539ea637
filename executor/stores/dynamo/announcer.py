"""Announcements of visits that are due: messages to other processes, and a signal to the threads of this one.

A message is a hint: the claim alone decides whether the visit is due. So a message may be lost or sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from noetl.executor.model.run import DEADLINE, NEVER, SERVICE_QUEUE, Run, VisitStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.transition import find_holders
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.plans import DynamoPlans
from noetl.executor.stores.dynamo.run_items import spread_of, tenant_of
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.executor.stores.sqs.due_message import MAX_DELAY_SECONDS, DueMessage
from noetl.executor.stores.sqs.memory_queue import InMemoryQueue
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.planner.frozen import replace

MAX_PREFETCHED = 64
"""Number of visits that a claim reads with its message. Other outputs are read later."""


def has_row(head: Item, item: VisitItem) -> bool:
    """Return whether a visit is in the index `due`. The visit of the deadline is, if the head is."""
    return "wakes" in item.attributes or (item.visit.step == DEADLINE and "wakes" in head)


class Announcer:
    """The sender of messages about due visits.

    Those of the service go to `message_queue` if there is one, and all others to the queue in memory.
    """

    def __init__(self, plans: DynamoPlans, message_queue: MessageQueue | None) -> None:
        self.message_queue = message_queue
        self.memory_queue = InMemoryQueue()
        self.work = ChangeSignal()
        self._plans = plans

    def external_queue(self, queue: str) -> MessageQueue | None:
        """Return the queue outside of the process that has the messages of a queue, or None."""
        return self.message_queue if queue == SERVICE_QUEUE else None

    def is_long_wait(self, queue: str, due_at: float, now: float) -> bool:
        """Return whether a visit of a queue is due later than the queue outside can delay a message.

        Such a visit is in the index `due` instead.
        """
        return self.is_indexed(queue, due_at) and now + MAX_DELAY_SECONDS < due_at

    def is_indexed(self, queue: str, due_at: float) -> bool:
        """Return whether the index `due` may have a visit that waits until this time."""
        return self.external_queue(queue) is not None and due_at < NEVER

    def deadline_row(self, run: Run, now: float) -> Item:
        """Return the attributes with which the head of a run is in the index `due`, for its deadline."""
        if run.deadline_at is None or not self.is_long_wait(run.queue, run.deadline_at, now):
            return {}
        return {"wakes": keys.due_shard(run.id), "due": run.deadline_at}

    def announce(
        self, head: Item, items: Iterable[VisitItem], now: float, *, released: Sequence[str] = ()
    ) -> None:
        """Send messages about visits of a run that are due now or later, unless the index `due` has them.

        `released` are workers that have given up all that followed (`DueMessage.released`).
        """
        messages = [
            replace(self.message_about(item, head), released=tuple(released))
            for item in items
            if not (has_row(head, item) and self.is_long_wait(head["queue"], item.visit.due_at, now))
        ]
        if messages:
            self.send(head["queue"], messages, now)

    def send(self, queue: str, messages: Sequence[DueMessage], now: float) -> None:
        """Send messages to the workers of a queue, and signal the threads of this process."""
        external = self.external_queue(queue)
        if external is not None:
            external.send(messages, now)
        else:
            self.memory_queue.add(queue, messages)
        self.work.notify(len(messages))

    def message_about(self, item: VisitItem, head: Item) -> DueMessage:
        """Return the message about a visit that is due."""
        visit = item.visit
        step = None if is_pseudo_step(visit.step) else self._plans.step(head["plan"], visit.step)
        holders = () if step is None else sorted(set(find_holders(visit.names, step.reads).values()))
        return DueMessage(
            visit.run_id,
            visit.id,
            visit.step,
            visit.due_at,
            spread=spread_of(head),
            cause=None if item.is_written else item.origin.cause,
            holders=tuple(holders[:MAX_PREFETCHED]),
            tenant=tenant_of(head),
            is_ready=visit.status is VisitStatus.READY,
        )
