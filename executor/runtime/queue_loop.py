"""The loop of a process that fires triggers for the messages of queues.

Problem: a process may die after it has started the run of a message, and before it has deleted the message.

Algorithm: late acknowledgement. The key of a firing is the id of the message. The firing is committed, and
then the message is deleted. A message that is received again starts no second run. One whose inputs are
refused is not deleted, so the redrive policy of its queue moves it to the dead-letter queue. Queues have
turns of one batch. A tenant has QUEUES_PER_ROUND of them in a round. Its other queues are next in the
following round, so a tenant with many queues does not delay those of others.
A table of the store in Postgres is read in the same way (`executor/stores/postgres/message_tables.py`).

The messages of a batch have turns of an equal part of BATCH_SECONDS, as in `source_batch`. What is left of a
message is received again, and passes over the triggers whose runs exist.

The queue of events is read by the same thread (`executor/engine/bus_firing.py`), if a tenant has a trigger
that events fire.

Cost: one query of the triggers of each tenant in REFRESH_SECONDS. A batch of ten messages costs one request
that receives them, one that deletes them, and one firing each. A message that was received before costs one
query for its runs.

Limits: a firing that has begun is not cut off. The rows of a table have no turns, since their transaction
keeps them from other processes. One thread reads all queues, so an idle queue delays the others by
WAIT_SECONDS. If several triggers read one queue, each of them gets each message, except those that are
paused.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, Protocol, TypeAlias

from noetl.executor.clients import aws
from noetl.executor.engine.bus_firing import (
    EventFirings,
    EventMessage,
    EventOutcome,
    EventTriggers,
    Match,
    find_event_firings,
    plan_firings,
)
from noetl.executor.engine.firing import Firer, read_firer
from noetl.executor.engine.quotas import check_branch_quota
from noetl.executor.engine.source_firing import SourceItem, fire_item
from noetl.executor.errors import ActionError, RejectedError, StoreAwayError, StoreError, TriggerChangedError
from noetl.executor.model.json_values import read_json
from noetl.executor.model.run import SERVICE_QUEUE
from noetl.executor.model.triggers import FiringOutcome, LiveTrigger
from noetl.executor.runtime.source_triggers import find_source_triggers, read_event_triggers
from noetl.executor.runtime.store_failures import repeat_until
from noetl.executor.security.allowed_sources import (
    EVENT_KINDS,
    SOURCES_SETTING,
    AllowedSources,
    SourceKind,
    describe_rule,
)
from noetl.executor.stores.interface import Store
from noetl.planner.polled_sources import Queue

REFRESH_SECONDS = 10.0
"""How often a process reads which triggers read queues."""

WAIT_SECONDS = 1
"""How long a queue without messages is waited for."""

PAUSE_SECONDS = 10.0
"""After which time a queue that cannot be read now is read again."""

QUEUES_PER_ROUND = 5
"""How many queues of a tenant are read before other tenants have their turn."""

MAX_BATCH = 10
"""How many messages are received at once."""

BATCH_SECONDS = 20.0
"""The time of the messages of a batch. After 30 s, a queue gives them to other processes, if no one changes
this.
"""

_KINDS: tuple[SourceKind, ...] = ("sqs", "table")

_REGION = re.compile(r"https?://sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/")

logger = logging.getLogger("noetl.executor")


def view_message(
    id: str, body: str, attributes: Mapping[str, Mapping[str, Any]], receives: int
) -> dict[str, Any]:
    """Return what templates read under `trigger` for a message.

    A body that is no JSON is text. `receives` is how often the message was received, with this time.
    """
    try:
        value = read_json(body)
    except (ValueError, RecursionError):
        value = body
    return {
        "id": id,
        "body": value,
        "attributes": {name: _read_attribute(attribute) for name, attribute in attributes.items()},
        "receives": receives,
    }


def _read_attribute(attribute: Mapping[str, Any]) -> str:
    """Return the text of an attribute. Bytes are in base64."""
    fields = {name.casefold(): value for name, value in attribute.items()}
    binary = fields.get("binaryvalue")
    if isinstance(binary, bytes):
        return b64encode(binary).decode()
    return str(fields.get("stringvalue") or binary or "")


class DividedFirings(Protocol):
    """The firings of a message, some of which may be left to another turn."""

    def perform_until(self, ends_at: float) -> EventOutcome:
        """Perform firings until `ends_at` on `time.monotonic`, and at least one if any is left."""
        ...


@dataclass(slots=True, eq=False, repr=False)
class MessageFirings:
    """The firings of a message by the triggers of its queue.

    `left` are those that were not tried yet, and `failures` those of the others. `are_done` says whether all
    that have not failed are committed or filtered.
    """

    left: deque[Match]
    are_done: bool = True
    failures: list[Exception] = field(default_factory=list)

    def perform_until(self, ends_at: float) -> EventOutcome:
        """Perform firings until `ends_at` on `time.monotonic`, and at least one if any is left.

        The failure of a trigger is raised when all were tried. If several fail, one that is expected to pass
        is preferred, and the others are in the log.

        Raises:
            RejectedError: `quota_exceeded`.
            TriggerChangedError: a trigger was changed or removed.
            StoreError: the store cannot be reached, or a plan cannot be read.
        """
        while self.left:
            try:
                outcome = fire_item(*self.left.popleft())
                self.are_done = self.are_done and outcome is not FiringOutcome.REJECTED
            except StoreAwayError:
                raise
            except Exception as error:  # noqa: BLE001  It is raised below.
                self.failures.append(error)
            if self.left and time.monotonic() >= ends_at:
                return EventOutcome.UNFINISHED
        if self.failures:
            _raise_one(self.failures)
        return EventOutcome.FIRED if self.are_done else EventOutcome.POSTPONED


def fire_row(firers: Iterable[Firer], item: SourceItem) -> bool:
    """Fire all triggers of a table for a row. Return whether it may be deleted.

    Raises:
        RejectedError, TriggerChangedError, StoreError: as `MessageFirings.perform_until`.
    """
    return MessageFirings(deque((firer, item) for firer in firers)).perform_until(math.inf).is_done


def _raise_one(failures: Sequence[Exception]) -> NoReturn:
    """Raise the first failure of the store or of a quota, else the first one. Log the others."""
    expected = (failure for failure in failures if isinstance(failure, RejectedError | StoreError))
    raised = next(expected, failures[0])
    for failure in failures:
        if failure is not raised:
            logger.warning("another trigger of the queue failed, too: %s", failure, exc_info=failure)
    raise raised


class QueueLoop:
    """A loop that fires triggers for the messages of queues until `stopping` is set.

    Every process of a service has one if a queue is allowed. SQS gives a message to one of them.
    """

    def __init__(self, store: Store, allowed: AllowedSources, stopping: threading.Event) -> None:
        self._store = store
        self._allowed = allowed
        self._stopping = stopping
        self._queues: dict[str, list[tuple[Queue, LiveTrigger]]] = {}
        self._awaits_events = False
        self._paused_until: dict[str, float] = {}
        self._refresh_at = 0.0
        self._last_reads: dict[str, int] = {}
        self._reads = 0
        self._warned: set[tuple[str, ...]] = set()

    @property
    def is_needed(self) -> bool:
        """True if a tenant may read a queue or events."""
        return bool(self._allowed.tenants((*_KINDS, *EVENT_KINDS)))

    def run(self) -> None:
        """Fire messages when they arrive, until the process stops."""
        try:
            repeat_until(
                self._stopping,
                self._read_round,
                pause_seconds=PAUSE_SECONDS,
                consequence="queues are read again",
                crash="queues could not be read; they are read again",
            )
        finally:
            if (tables := getattr(self._store, "message_tables", None)) is not None:
                tables.close()

    def _read_round(self) -> float:
        return 0.0 if self.read_all() else float(WAIT_SECONDS)

    def read_all(self) -> int:
        """Read the queues of a round: receive a batch of each, and fire its messages.

        Return how many queues had or awaited messages, or have their turn in the next round.

        Raises:
            StoreError: the store cannot be reached.
        """
        now = time.monotonic()
        if now >= self._refresh_at:
            self._read_triggers()
            self._refresh_at = now + REFRESH_SECONDS
        reads: dict[str, Callable[[], bool]] = {
            url: partial(self._read_source, readers) for url, readers in self._queues.items()
        }
        event_queue = self._allowed.event_queue
        if self._awaits_events and event_queue is not None:
            reads[event_queue] = self._read_events
        urls, count = self._begin_round(reads)
        for url in urls:
            if self._stopping.is_set():
                break
            self._reads += 1
            self._last_reads[url] = self._reads
            try:
                count += reads[url]()
            except StoreAwayError:
                raise
            except TriggerChangedError:
                self._refresh_at = now
            except ActionError as problem:
                self._pause(url)
                self._warn(url, problem.message)
            except (RejectedError, StoreError) as problem:
                self._pause(url)
                logger.warning("queue %s is read again: %s", url, problem)
            except Exception:
                # One wrong trigger must not keep the others of the process from firing.
                self._pause(url)
                logger.exception("queue %s could not be read; it is read again", url)
        return count

    def _begin_round(self, known: Iterable[str]) -> tuple[list[str], int]:
        """Return the queues of the next round, and how many have to wait for a later one.

        The queue of events belongs to no tenant, so each round has it.
        """
        now, urls, counts = time.monotonic(), [], Counter[str]()
        ready = [url for url in known if self._paused_until.get(url, 0.0) <= now]
        for url in sorted(ready, key=lambda url: self._last_reads.get(url, 0)):
            tenant = self._queues[url][0][1].tenant if url in self._queues else ""
            counts[tenant] += 1
            if counts[tenant] <= QUEUES_PER_ROUND:
                urls.append(url)
        return urls, len(ready) - len(urls)

    def _pause(self, url: str) -> None:
        self._paused_until[url] = time.monotonic() + PAUSE_SECONDS

    def _read_triggers(self) -> None:
        """Read which triggers read which queues.

        If a plan cannot be read, no queue of its tenant is: another trigger may read the same queue.
        """
        queues: dict[str, list[tuple[Queue, LiveTrigger]]] = {}
        for tenant in self._allowed.tenants(_KINDS):
            try:
                readers = list(self._find_readers(tenant))
            except StoreAwayError:
                raise
            except StoreError as problem:
                logger.warning("queues of tenant %s are not read: %s", tenant, problem)
                continue
            for source, trigger in readers:
                queues.setdefault(source.name, []).append((source, trigger))
        self._queues = queues
        self._awaits_events = bool(read_event_triggers(self._store, self._allowed).firers)
        known = {*queues, self._allowed.event_queue}
        self._last_reads = {name: number for name, number in self._last_reads.items() if name in known}
        self._paused_until = {name: until for name, until in self._paused_until.items() if name in known}

    def _find_readers(self, tenant: str) -> Iterator[tuple[Queue, LiveTrigger]]:
        """Yield the triggers of a tenant that may read their queues, with these.

        Raises:
            StoreError: the store cannot be reached, or a plan cannot be read.
        """
        for trigger in find_source_triggers(self._store, [tenant], "queue"):
            firer = read_firer(self._store, trigger, self._store.clock())
            if firer is None or not isinstance(firer.declared.source, Queue):
                continue
            source = firer.declared.source
            kind: SourceKind = "table" if source.url is None else "sqs"
            name = source.url or str(source.table)
            if self._allowed.allows_name(tenant, kind, name):
                yield source, trigger
            else:
                self._warn(
                    source.name, f"{SOURCES_SETTING} needs the rule `{describe_rule(tenant, kind, name)}`"
                )

    def _read_source(self, readers: Sequence[tuple[Queue, LiveTrigger]]) -> bool:
        """Read a queue or a table for its triggers. Return whether messages were found or waited for.

        Raises:
            ActionError: SQS refuses the request, or the store has no tables of messages.
            RejectedError: `quota_exceeded`.
            TriggerChangedError: a trigger was changed or removed.
            StoreError: the store cannot be reached.
        """
        source, triggers = readers[0][0], [trigger for _, trigger in readers]
        for tenant in {trigger.tenant for trigger in triggers}:
            check_branch_quota(self._store, tenant, SERVICE_QUEUE)
        if source.url is not None:
            self._read_queue(source.url, triggers)
            return True
        tables = getattr(self._store, "message_tables", None)
        if tables is None:
            raise ActionError(
                "ActionDisabled", "a table of messages needs a store in Postgres", retryable=False
            )
        firers = [self._read_current(trigger) for trigger in triggers]

        def fire(row: Mapping[str, Any]) -> bool:
            return fire_row(firers, _row_item(source.name, row, self._store.clock()))

        max_receives = max(queue.max_receives for queue, _ in readers)
        return bool(tables.read_batch(source.table, MAX_BATCH, max_receives, fire))

    def _read_events(self) -> bool:
        """Read the queue of events. Return that messages were waited for.

        Raises:
            ActionError: SQS refuses the request.
            StoreError: the store cannot be reached.
        """
        assert self._allowed.event_queue is not None

        def prepare() -> FindFirings:
            triggers = read_event_triggers(self._store, self._allowed)
            return lambda message: find_message_firings(triggers, message)

        _read_batch(self._allowed.event_queue, prepare)
        return True

    def _read_queue(self, url: str, triggers: Sequence[LiveTrigger]) -> None:
        """Receive a batch of a queue, fire its messages, and delete those that have fired.

        Raises:
            ActionError: SQS refuses the request.
            RejectedError: `quota_exceeded`.
            TriggerChangedError: a trigger was changed or removed.
            StoreError: the store cannot be reached.
        """

        def prepare() -> FindFirings:
            firers = [self._read_current(trigger) for trigger in triggers]
            return lambda message: _plan_firings(firers, message)

        _read_batch(url, prepare)

    def _read_current(self, trigger: LiveTrigger) -> Firer:
        """Return what fires a trigger, if it is as it was.

        Raises:
            TriggerChangedError: it was changed, paused or removed.
        """
        current = self._store.triggers.get(trigger.tenant, trigger.playbook, trigger.name)
        firer = None if current != trigger else read_firer(self._store, trigger, self._store.clock())
        if firer is None:
            raise TriggerChangedError(f"trigger `{trigger.name}` of `{trigger.playbook}` was changed")
        return firer

    def _warn(self, url: str, problem: str) -> None:
        """Log a problem of a queue, once."""
        if (url, problem) not in self._warned:
            self._warned.add((url, problem))
            logger.warning("queue %s is not read: %s", url, problem)


FindFirings: TypeAlias = Callable[[Mapping[str, Any]], DividedFirings | None]
"""A function that returns the firings of a message, or None if it has none and stays in its queue."""


@dataclass(slots=True, eq=False, repr=False)
class ReceivedBatch:
    """The messages of a batch. `handles` are those of the messages that may be deleted."""

    messages: Sequence[Mapping[str, Any]]
    handles: list[str] = field(default_factory=list)

    def fire(self, find_firings: FindFirings) -> None:
        """Give each message a turn. One with more triggers has another turn, while there is time.

        A failure of the store or of the queue ends the batch. One that a message causes is raised after the
        others have fired.
        """
        ends_at = time.monotonic() + BATCH_SECONDS
        waiting = deque[tuple[Mapping[str, Any], DividedFirings | None]]()
        waiting.extend((message, None) for message in self.messages)
        failures: list[Exception] = []
        while waiting:
            (message, firings), now = waiting.popleft(), time.monotonic()
            turn_seconds = (ends_at - now) / (len(waiting) + 1)
            try:
                firings = find_firings(message) if firings is None else firings
                outcome = None if firings is None else firings.perform_until(now + turn_seconds)
            except (ActionError, RejectedError, StoreError, TriggerChangedError):
                raise
            except Exception as error:  # noqa: BLE001  It is raised below.
                failures.append(error)
                continue
            if outcome is EventOutcome.UNFINISHED and time.monotonic() < ends_at:
                waiting.append((message, firings))
            elif outcome is not None and outcome.is_done:
                self.handles.append(message["ReceiptHandle"])
        if failures:
            raise failures[0]


def _read_batch(url: str, prepare: Callable[[], FindFirings]) -> None:
    """Receive a batch of a queue, fire its messages, and delete those that are done.

    `prepare` is called if there are messages.

    Raises:
        ActionError: SQS refuses the request.
    """
    region = _REGION.match(url)
    client = aws.client("sqs", region and region["region"])
    messages = _call(
        url,
        client.receive_message,
        QueueUrl=url,
        MaxNumberOfMessages=MAX_BATCH,
        WaitTimeSeconds=WAIT_SECONDS,
        MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        MessageAttributeNames=["All"],
    ).get("Messages", ())
    if not messages:
        return
    batch = ReceivedBatch(messages)
    try:
        batch.fire(prepare())
    finally:
        if batch.handles:
            entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(batch.handles)]
            _call(url, client.delete_message_batch, QueueUrl=url, Entries=entries)


def find_message_firings(triggers: EventTriggers, message: Mapping[str, Any]) -> EventFirings | None:
    """Return the firings of the event in a message, or None if the message is no event.

    Raises:
        StoreError: the store cannot be reached.
    """
    id, body = str(message["MessageId"]), str(message["Body"])
    received = EventMessage(id, body, _sent_at(message), read_receives(message.get("Attributes", {})))
    return find_event_firings(triggers, received)


def _plan_firings(firers: Sequence[Firer], message: Mapping[str, Any]) -> MessageFirings:
    """Return the firings of a message of a queue by its triggers, without those whose runs exist.

    Raises:
        StoreError: the store cannot be reached.
    """
    item, receives = _to_item(message), read_receives(message.get("Attributes", {}))
    return MessageFirings(plan_firings([(firer, item) for firer in firers], was_received=receives > 1).left)


def read_receives(attributes: Mapping[str, Any]) -> int:
    """Return how often a message was received, from its system attributes.

    >>> read_receives({"ApproximateReceiveCount": "3"}), read_receives({})
    (3, 1)
    """
    text = str(attributes.get("ApproximateReceiveCount", ""))
    return int(text) if text.isdecimal() else 1


def _sent_at(message: Mapping[str, Any]) -> float:
    return float(message.get("Attributes", {}).get("SentTimestamp", 0)) / 1000


def _row_item(source: str, row: Mapping[str, Any], now: float) -> SourceItem:
    """Return a row as an item. Its key names its table, as rows of another one have the same ids."""
    body, id = row["body"], str(row["id"])
    view = view_message(id, body or "", {}, row["receives"] + 1)
    return SourceItem(f"{source} {id}", now, {**view, "body": None} if body is None else view)


def _to_item(message: Mapping[str, Any]) -> SourceItem:
    id, receives = str(message["MessageId"]), read_receives(message.get("Attributes", {}))
    view = view_message(id, str(message["Body"]), message.get("MessageAttributes", {}), receives)
    return SourceItem(id, _sent_at(message), view)


def _call(url: str, method: Any, **parameters: Any) -> Mapping[str, Any]:
    """Call SQS.

    Raises:
        ActionError: SQS refuses the request, or cannot be reached.
    """
    try:
        response: Mapping[str, Any] = method(**parameters)
    except Exception as error:
        raise aws.translate_error(error, f"queue `{url}`") from error
    return response
