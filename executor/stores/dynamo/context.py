"""The state that the parts of the DynamoDB store share, and the operations that they need of each other.

A part is a class that inherits from `DynamoContext`. `DynamoStore` combines all parts, so each abstract
method below is implemented by another part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from noetl.executor.errors import StoreError
from noetl.executor.model.run import END, SERVICE_QUEUE, Lease, Run, Visit
from noetl.executor.model.transition import find_holders
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs
from noetl.executor.stores.dynamo.plans import DynamoPlans
from noetl.executor.stores.dynamo.run_items import run_id_of, spread_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import StepOf, VisitItem, VisitOrigin
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.memory_queue import InMemoryQueue
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.executor.stores.sqs.receiver import MessageReceiver
from noetl.planner.frozen import frozen

MAX_CACHED = 10_000
"""Number of entries of each cache of claims, fences and spreads."""

MAX_THREADS = 16
MAX_CONFLICTS = 64
"""Number of times that a change is tried again because of concurrent writers, before the store gives up."""

MAX_PREFETCHED = 64
"""Number of visits that a claim reads with its message. Other outputs are read later."""

T = TypeVar("T")
U = TypeVar("U")


@frozen
class CachedClaim:
    """The data that was read for a claim of this process: the visit and the head of its run."""

    item: VisitItem
    head: Item


class DynamoContext(ABC):
    """A table with its bucket and its queue, and what this process has cached of runs."""

    def __init__(
        self,
        table: DynamoTable,
        message_queue: MessageQueue | None = None,
        bucket: str | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        self.table = table
        self.retention_seconds = retention_seconds
        self.message_queue = message_queue
        self.blobs = Blobs(bucket)
        self.plans = DynamoPlans(table)
        self.memory_queue = InMemoryQueue()
        self.receiver = None if message_queue is None else MessageReceiver(message_queue)
        self.changes = ChangeSignal()
        self.work = ChangeSignal()
        self._claims: OrderedDict[tuple[str, str], CachedClaim] = OrderedDict()
        self._fences: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._spreads: OrderedDict[str, int] = OrderedDict()
        self._open_runs: dict[str, set[str]] = {}
        self._lock = Lock()

    def step_of(self, plan_hash: str) -> StepOf:
        """Return a function from the name of a step of the plan to the step."""
        return lambda name: self.plans.step(plan_hash, name)

    def is_sequential(self, head: Item) -> bool:
        """Return whether the plan of a run is in sequential mode."""
        return self.plans.header(head["plan"]).sequential

    def in_parallel(self, function: Callable[[T], U], values: Sequence[T]) -> list[U]:
        """Return function(value) for each value, computed in parallel if there are several."""
        if len(values) <= 1:
            return [function(value) for value in values]
        with ThreadPoolExecutor(min(len(values), MAX_THREADS), "noetl-dynamodb") as pool:
            return list(pool.map(function, values))

    def read_head(self, run_id: str) -> Item:
        """Return the head of a run, or raise StoreError if there is no such run."""
        head = self.table.get(keys.head(run_id))
        if head is None:
            raise StoreError(f"The store in DynamoDB has no run {run_id}.")
        self.cache_head(head)
        return head

    def cache_head(self, head: Item) -> None:
        """Remember the spread of a run, and whether it is open."""
        run_id = run_id_of(head)
        with self._lock:
            self._spreads[run_id] = spread_of(head)
            while len(self._spreads) > MAX_CACHED:
                self._spreads.popitem(last=False)
            if "finished" in head:
                self._open_runs.get(head["queue"], set()).discard(run_id)
            elif head["queue"] != SERVICE_QUEUE or self.message_queue is None:
                self._open_runs.setdefault(head["queue"], set()).add(run_id)

    def known_open_runs(self, queue: str) -> set[str]:
        """Return the runs that this process has seen open; the index may not contain them yet."""
        with self._lock:
            return set(self._open_runs.get(queue, ()))

    def spread(self, run_id: str) -> int:
        """Return the number of partitions of a run; 1 for a run that does not exist."""
        spread = self._spreads.get(run_id)
        if spread is None:
            head = self.table.get(keys.head(run_id))
            if head is None:
                return 1
            self.cache_head(head)
            spread = spread_of(head)
        return spread

    def visit_key(self, run_id: str, visit_id: str) -> keys.ItemKey:
        """Return the key of a visit."""
        return keys.visit(run_id, visit_id, self.spread(run_id))

    def cache_claim(self, item: VisitItem, head: Item) -> bool:
        """Remember what was read for a claim; return False if another thread has claimed the visit since."""
        visit = item.visit
        with self._lock:
            if self._fences.get((visit.run_id, visit.id), 0) > visit.fence:
                return False
            self._fences[visit.run_id, visit.id] = visit.fence
            while len(self._fences) > MAX_CACHED:
                self._fences.popitem(last=False)
            self._claims[visit.run_id, visit.id] = CachedClaim(item, head)
            while len(self._claims) > MAX_CACHED:
                self._claims.popitem(last=False)
        return True

    def cached_claim(self, visit: Visit) -> CachedClaim | None:
        """Return what was read for a claim, or None if another process has made it."""
        claim = self._claims.get((visit.run_id, visit.id))
        return claim if claim is not None and claim.item.visit.fence == visit.fence else None

    def forget_claim(self, visit: Visit) -> None:
        """Remove a claim from the cache."""
        with self._lock:
            self._claims.pop((visit.run_id, visit.id), None)

    def due_message(self, item: VisitItem, head: Item) -> DueMessage:
        """Return the message about a visit that is due."""
        visit = item.visit
        step = None if visit.step.startswith("@") else self.plans.step(head["plan"], visit.step)
        holders = () if step is None else sorted(set(find_holders(visit.names, step.reads).values()))
        return DueMessage(
            visit.run_id,
            visit.id,
            visit.step,
            visit.due_at,
            spread=spread_of(head),
            cause=None if item.is_written else item.origin.cause,
            holders=tuple(holders[:MAX_PREFETCHED]),
        )

    def announce(self, head: Item, items: Iterable[VisitItem], now: float) -> None:
        """Send messages about visits of a run that are due now or later."""
        messages = [self.due_message(item, head) for item in items]
        if messages:
            self.send_messages(head["queue"], messages, now)

    def send_messages(self, queue: str, messages: Sequence[DueMessage], now: float) -> None:
        """Send messages to the workers of a queue, and signal the threads of this process."""
        if queue == SERVICE_QUEUE and self.message_queue is not None:
            self.message_queue.send(messages, now)
        else:
            self.memory_queue.add(queue, messages)
        self.work.notify(len(messages))

    def is_final_step(self, item: VisitItem, head: Item) -> bool:
        """Return whether a visit belongs to no branch: the end of a run, or its finally step."""
        step = item.visit.step
        return step == END or step == self.plans.header(head["plan"]).finally_step

    # Operations that one part implements and others call.

    @abstractmethod
    def claim_item(self, item: VisitItem, head: Item, lease: Lease, now: float) -> Visit | None:
        """Claim a visit that has just become due; return None if another worker has claimed it."""
        ...

    @abstractmethod
    def apply_followups(
        self,
        item: VisitItem,
        now: float,
        *,
        again: bool = False,
        claim_for: Lease | None = None,
        known_head: Item | None = None,
    ) -> Visit | None:
        """Apply what follows from an outcome: fire joins, end the run, announce and claim visits.

        A repetition (`again`) changes nothing, but announces the visits again. `known_head` is the head of
        the run as of the claim.
        """
        ...

    @abstractmethod
    def fire_touched_joins(
        self, item: VisitItem, head: Item, now: float, *, again: bool = False
    ) -> tuple[list[VisitItem], bool]:
        """Fire joins that a commit has completed; return the visits that are due, and whether no branch is
        left.
        """
        ...

    @abstractmethod
    def activate_next_visit(self, head: Item, finished: VisitItem | None, now: float) -> list[VisitItem]:
        """Make the next visit of a sequential run due, and return it.

        It reads the names of the visits before it; `finished` was the last of them.
        """
        ...

    @abstractmethod
    def end_run(self, head: Item, now: float) -> list[VisitItem]:
        """Create the visit of the finally step, or after it the visit that ends the run; return it if it is
        due.
        """
        ...

    @abstractmethod
    def repair(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        """Complete what a worker that died has left undone, and return the visits that are due."""
        ...

    @abstractmethod
    def cancel_child_runs(self, run_id: str, visit_id: str, now: float) -> None:
        """Cancel the runs that a visit has started and no longer waits for."""
        ...

    @abstractmethod
    def make_due(self, run_id: str, visit_id: str, now: float) -> None:
        """Make a suspended visit due now, or a parked visit when its run resumes."""
        ...

    @abstractmethod
    def wake_if_answered(self, run_id: str, visit_id: str, now: float) -> bool:
        """Make a suspended visit due if one of its waits has an answer, and return whether it was."""
        ...

    @abstractmethod
    def answer_parent(self, head: Item, now: float) -> None:
        """Wake the visit of the parent run that waits for a run that has ended."""
        ...

    @abstractmethod
    def set_expiry(self, head: Item, now: float) -> None:
        """Set the time from which the items of an ended run may be deleted."""
        ...

    @abstractmethod
    def clear_expiry(self, head: Item) -> None:
        """Remove the time from which the items of a run may be deleted."""
        ...

    @abstractmethod
    def load_run(self, head: Item) -> Run:
        """Return a run with the counts of its branches."""
        ...

    @abstractmethod
    def origin_of_claim(self, head: Item, item: Item) -> VisitOrigin:
        """Return the origin of a claimed visit."""
        ...

    @abstractmethod
    def settle_stop(self, run_id: str, now: float) -> list[VisitItem]:
        """Park what has not started in a stopping run, and end it if no visit is running; return the due
        visits.
        """
        ...
