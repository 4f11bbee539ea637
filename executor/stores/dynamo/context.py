"""What the parts of the store in DynamoDB share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from noetl.executor.errors import StoreError
from noetl.executor.model.run import END, SERVICE_QUEUE, Lease, Run, Visit
from noetl.executor.model.transition import find_holders
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs
from noetl.executor.stores.dynamo.plans import DynamoPlans
from noetl.executor.stores.dynamo.run_items import spread_of
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import StepOf, VisitItem, VisitOrigin
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.memory_queue import InMemoryQueue
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.executor.stores.sqs.receiver import MessageReceiver
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot

MOST_HELD = 10_000
MOST_THREADS = 16
MOST_RACES = 64
"""How often a change is begun anew because others were faster, before the store gives up."""

T = TypeVar("T")
U = TypeVar("U")


@frozen
class CachedClaim:
    """A claim that this process has made: what was read for it."""

    record: VisitItem
    head: Item


class DynamoContext(ABC):
    """A table, the bucket and the queue beside it, and what this process knows of them."""

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
        self.memory = InMemoryQueue()
        self.receiver = None if message_queue is None else MessageReceiver(message_queue)
        self.changes = ChangeSignal()
        self.work = ChangeSignal()
        self._held: OrderedDict[tuple[str, str], CachedClaim] = OrderedDict()
        self._fences: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._spreads: OrderedDict[str, int] = OrderedDict()
        self._open: dict[str, set[str]] = {}
        self._lock = Lock()

    def step_of(self, plan_hash: str) -> StepOf:
        return lambda name: self.plans.step(plan_hash, name)

    def in_parallel(self, work: Callable[[T], U], over: Sequence[T]) -> list[U]:
        """What `work` gives for each, at once where there are several."""
        if len(over) <= 1:
            return [work(one) for one in over]
        with ThreadPoolExecutor(min(len(over), MOST_THREADS), "noetl-dynamodb") as pool:
            return list(pool.map(work, over))

    def head(self, run_id: str) -> Item:
        found = self.table.get(keys.head(run_id))
        if found is None:
            raise StoreError(f"There is no run {run_id} in the store.")
        self.note_head(found)
        return found

    def note_head(self, head: Item) -> None:
        """Remember what never changes of a run, and that it is there."""
        run_id = head["pk"][2:]
        with self._lock:
            self._spreads[run_id] = spread_of(head)
            while len(self._spreads) > MOST_HELD:
                self._spreads.popitem(last=False)
            if "finished" in head:
                self._open.get(head["queue"], set()).discard(run_id)
            elif head["queue"] != SERVICE_QUEUE or self.message_queue is None:
                self._open.setdefault(head["queue"], set()).add(run_id)

    def known_open(self, queue: str) -> set[str]:
        """Runs of a queue that this process has seen open: its index may not know of them yet."""
        with self._lock:
            return set(self._open.get(queue, ()))

    def spread(self, run_id: str) -> int:
        """Over how many partitions a run is spread; 1 for one that is not there."""
        found = self._spreads.get(run_id)
        if found is None:
            head = self.table.get(keys.head(run_id))
            if head is None:
                return 1
            self.note_head(head)
            found = spread_of(head)
        return found

    def visit_key(self, run_id: str, visit_id: str) -> keys.ItemKey:
        return keys.visit(run_id, visit_id, self.spread(run_id))

    def hold(self, record: VisitItem, head: Item) -> bool:
        """Remember what was read for a claim until it is committed; False when another thread has taken the visit over."""
        visit = record.visit
        with self._lock:
            if self._fences.get((visit.run_id, visit.id), 0) > visit.fence:
                return False
            self._fences[visit.run_id, visit.id] = visit.fence
            while len(self._fences) > MOST_HELD:
                self._fences.popitem(last=False)
            self._held[visit.run_id, visit.id] = CachedClaim(record, head)
            while len(self._held) > MOST_HELD:
                self._held.popitem(last=False)
        return True

    def held(self, visit: Visit) -> CachedClaim | None:
        """What was read for a claim, if this process has made it."""
        found = self._held.get((visit.run_id, visit.id))
        return found if found is not None and found.record.visit.fence == visit.fence else None

    def let_go(self, visit: Visit) -> None:
        with self._lock:
            self._held.pop((visit.run_id, visit.id), None)

    def note_of(self, record: VisitItem, head: Item) -> DueMessage:
        """The message about a visit that has become due."""
        visit = record.visit
        step = None if visit.step.startswith("@") else self.plans.step(head["plan"], visit.step)
        holders = () if step is None else sorted(set(find_holders(visit.names, step.reads).values()))
        cause = None if record.is_written else record.way.cause
        # Of a step that reads more than one read gives, the rest is asked for later.
        return DueMessage(
            visit.run_id, visit.id, visit.step, visit.due_at, spread_of(head), cause, tuple(holders[:64])
        )

    def dispatch(self, head: Item, records: Iterable[VisitItem], now: float) -> None:
        """Let workers know of visits that are due, or will be."""
        notes = [self.note_of(record, head) for record in records]
        if not notes:
            return
        self.tell(head["queue"], notes, now)

    def tell(self, queue: str, notes: Sequence[DueMessage], now: float) -> None:
        if queue == SERVICE_QUEUE and self.message_queue is not None:
            self.message_queue.send(notes, now)
        else:
            self.memory.add(queue, notes)
        self.work.notify(len(notes))

    # What the parts ask of each other.

    @abstractmethod
    def claim_record(self, record: VisitItem, head: Item, lease: Lease, now: float) -> Visit | None:
        """Claim a visit that has just become due; None when somebody else has it."""
        ...

    @abstractmethod
    def follow(
        self,
        record: VisitItem,
        now: float,
        *,
        again: bool = False,
        claim_for: Lease | None = None,
        known: Item | None = None,
    ) -> Visit | None:
        """Do what follows from the outcome of a visit: fire joins, end the run, let workers know. Doing it `again` changes
        nothing, but tells workers again. `known` is the head of the run as it was when the visit was claimed.
        """
        ...

    @abstractmethod
    def look(
        self, record: VisitItem, head: Item, now: float, *, again: bool = False
    ) -> tuple[list[VisitItem], bool]:
        """Fire the joins that have nothing left to wait for; the visits that are due then, and whether no branch is left."""
        ...

    @abstractmethod
    def take_turn(self, head: Item, record: VisitItem | None, now: float) -> list[VisitItem]:
        """Let the visit go whose turn it is, where branches go one after another. It sees what those before it have seen, of
        which `record` was the last.
        """
        ...

    @abstractmethod
    def end(self, head: Item, now: float) -> list[VisitItem]:
        """Let a run end: with the step that runs last if there is one, and when that is done for good. The visits that are due
        then.
        """
        ...

    @abstractmethod
    def mend(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        """Do what follows from a commit whose worker died before that; the visits that are due then."""
        ...

    @abstractmethod
    def give_up_runs(self, run_id: str, visit_id: str, now: float) -> None:
        """Cancel the runs that a visit has started and does not wait for any more."""
        ...

    @abstractmethod
    def make_due(self, run_id: str, visit_id: str, now: float) -> None:
        """Make a visit due that waits, now or when its run goes on."""
        ...

    @abstractmethod
    def wake_if_answered(self, run_id: str, visit_id: str, now: float) -> bool:
        """Make a visit due that waits for an answer which is there; whether it was."""
        ...

    @abstractmethod
    def answer_parent(self, head: Item, now: float) -> None:
        """Wake the visit that waits for a run which has ended."""
        ...

    @abstractmethod
    def let_expire(self, head: Item, now: float) -> None:
        """Say when the items of a run that has ended may be deleted."""
        ...

    @abstractmethod
    def keep(self, head: Item) -> None:
        """Let a run not expire after all."""
        ...

    @abstractmethod
    def told_run(self, head: Item) -> Run:
        """A run as its head and its counters tell of it."""
        ...

    @abstractmethod
    def decode_origin(self, head: Item, item: Item) -> VisitOrigin:
        """How a visit that has been claimed came to be."""
        ...

    @abstractmethod
    def settle_stop(self, run_id: str, now: float) -> list[VisitItem]:
        """Park what has not started in a run that is stopping, and let it end when nothing is left running: the visits that
        are due then.
        """
        ...

    def is_last(self, record: VisitItem, head: Item) -> bool:
        """Whether a visit belongs to no branch: the end of a run, or the step that runs last."""
        step = record.visit.step
        return step == END or step == self.plans.header(head["plan"]).finally_step
