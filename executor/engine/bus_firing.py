"""The firing of triggers by events of Amazon EventBridge, which arrive as messages of one queue.

Problem: one queue brings the events of all triggers of all tenants, and may bring an event twice. An event
may fit several triggers, of which some cannot be fired now.

Algorithm: the triggers are read once for a batch of messages. Each event is matched with all of them, and
fires each that it fits. The key of a firing is the id of the event, or the object with its `sequencer`. So a
trigger fires once for each event, also if the message is received again for the sake of another trigger. The
message may be deleted if every firing is committed or filtered.

Tenants have turns of one trigger, and begin at a random one. The events of a batch have turns, too. The
triggers for which a batch has no time are left to the next one, which passes over those whose runs exist.

Cost: one query of the triggers of each tenant for a batch. Each trigger that an event
fits costs a firing. A message that was received before costs one query for the runs of all its triggers.
Its triggers that were filtered or rejected, and those with a `key`, are evaluated again.

Limits: a tenant with thousands of triggers reads them for each batch. A trigger that is paused misses its
events: the queue has those of other triggers too, so it cannot stop.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from json import JSONDecodeError
from typing import Any, TypeAlias

from noetl.executor.engine.firing import Firer
from noetl.executor.engine.source_firing import SourceItem, fire_item, miss_item
from noetl.executor.engine.trial import try_trigger
from noetl.executor.model.json_values import read_json
from noetl.executor.model.triggers import FiringOutcome, firing_id
from noetl.planner.frozen import frozen
from noetl.planner.plan import TriggerSource
from noetl.planner.polled_sources import BucketObjects, BusEvents

S3_SOURCE = "aws.s3"
OBJECT_CREATED = "Object Created"
"""The type of the events of S3 about an object that was written."""

S3_EVENT_SOURCE = "aws:s3"
S3_TEST_EVENT = "s3:TestEvent"
"""What S3 writes in the messages that it sends to a queue itself, without EventBridge."""

_MEMBERS: Mapping[str, type] = {"id": str, "source": str, "detail-type": str, "detail": dict}
"""The members of an event and their types."""

logger = logging.getLogger("noetl.executor")


class EventOutcome(StrEnum):
    """The result of a message of the queue of events."""

    FIRED = "fired"
    """Every trigger that the event fits has a record of it."""
    UNMATCHED = "unmatched"
    """The event fits no trigger."""
    POSTPONED = "postponed"
    """A trigger could not be fired, or its inputs were refused."""
    UNFINISHED = "unfinished"
    """The time has ended before some of its triggers were fired."""
    UNKNOWN = "unknown"
    """The message is no event, or no trigger reads its queue."""

    @property
    def is_done(self) -> bool:
        """True if the message may be deleted."""
        return self in (EventOutcome.FIRED, EventOutcome.UNMATCHED)


@frozen
class ReceivedEvent:
    """An event of EventBridge. `arrived_at` is when its queue got it."""

    id: str
    source: str
    detail_type: str
    detail: Mapping[str, Any]
    arrived_at: float


@frozen
class EventMessage:
    """A message of the queue of events. `receives` is how often it was received, with this time."""

    id: str
    body: str
    arrived_at: float
    receives: int = 1


def read_event(body: str, arrived_at: float) -> ReceivedEvent | None:
    """Return the event of a message, or None if it is none.

    >>> event = read_event('{"id": "1", "source": "shop", "detail-type": "Paid", "detail": {}}', 0.0)
    >>> event.source, read_event("hello", 0.0)
    ('shop', None)
    """
    try:
        value = read_json(body)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("detail"), dict):
        return None
    id, source, detail_type = (value.get(name) for name in ("id", "source", "detail-type"))
    if not isinstance(id, str) or not isinstance(source, str) or not isinstance(detail_type, str) or not id:
        return None
    return ReceivedEvent(id, source, detail_type, value["detail"], arrived_at)


def explain_unknown(body: str) -> str:
    """Return why a message is no event, and what its sender must do.

    >>> explain_unknown('{"Event": "s3:TestEvent"}')[:40]
    'S3 has sent it: let the bucket send its '
    >>> explain_unknown('{"id": "1"}')[:50]
    'it has no `source`, `detail-type`, `detail`: a rul'
    >>> explain_unknown('{"detail": NaN}')
    'NaN is not JSON: events are JSON that runs can store'
    """
    value = None
    try:
        value = read_json(body)
    except JSONDecodeError:
        pass  # It is no object.
    except ValueError as problem:
        return f"{problem}: events are JSON that runs can store"
    if not isinstance(value, dict):
        return "it is no JSON object: only rules of EventBridge may send to this queue"
    records = value.get("Records")
    first = records[0] if isinstance(records, list) and records else None
    is_of_s3 = isinstance(first, dict) and first.get("eventSource") == S3_EVENT_SOURCE
    if is_of_s3 or value.get("Event") == S3_TEST_EVENT:
        return "S3 has sent it: let the bucket send its events to EventBridge, not to this queue"
    if value.get("Type") == "Notification" and "TopicArn" in value:
        return "SNS has sent it: let a rule of EventBridge send to this queue"
    missing = [name for name in _MEMBERS if not isinstance(value.get(name), _MEMBERS[name])]
    named = ", ".join(f"`{name}`" for name in missing) or "text in `id`"
    return f"it has no {named}: a rule of EventBridge must not change the form of events"


Match: TypeAlias = tuple[Firer, SourceItem]
"""What fires a trigger, with an event that it fits."""


def match_event(event: ReceivedEvent, source: TriggerSource) -> SourceItem | None:
    """Return an event as an item of the source of a trigger, or None if it does not fit."""
    if isinstance(source, BucketObjects):
        return _match_object(event, source)
    if not isinstance(source, BusEvents) or source.source != event.source:
        return None
    if source.detail_types and event.detail_type not in source.detail_types:
        return None
    view = {"source": event.source, "detail_type": event.detail_type, "detail": event.detail}
    return SourceItem(event.id, event.arrived_at, view)


def _match_object(event: ReceivedEvent, source: BucketObjects) -> SourceItem | None:
    """Return a written object of a bucket as an item, or None if it is not one that a trigger awaits."""
    bucket, written = event.detail.get("bucket"), event.detail.get("object")
    is_created = event.source == S3_SOURCE and event.detail_type == OBJECT_CREATED
    if not is_created or not isinstance(bucket, dict) or not isinstance(written, dict):
        return None
    key = written.get("key")
    if bucket.get("name") != source.bucket or not isinstance(key, str) or not key.startswith(source.prefix):
        return None
    view = {
        "bucket": source.bucket,
        "object": key,
        "size": written.get("size"),
        "version": written.get("version-id"),
    }
    item_key = f"{source.bucket}/{key} {written.get('sequencer') or event.id}"
    return SourceItem(item_key, event.arrived_at, view)


@frozen
class EventTriggers:
    """The triggers that events fire. Without `is_complete`, those of a tenant could not be read."""

    firers: tuple[Firer, ...]
    is_complete: bool = True

    def find_firings(self, event: ReceivedEvent, *, was_received: bool) -> EventFirings:
        """Return the firings of all triggers that an event fits.

        With `was_received`, those whose run exists are passed over.

        Raises:
            StoreError: the store cannot be reached.
        """
        matches = [
            (firer, item)
            for firer in self.firers
            if (item := match_event(event, firer.declared.source)) is not None
        ]
        return plan_firings(matches, was_received=was_received, is_complete=self.is_complete)


@dataclass(slots=True, eq=False, repr=False)
class EventFirings:
    """The firings of an event, which may be performed in several turns.

    Attributes:
        left: those that were not tried yet.
        is_matched: whether the event fits a trigger.
        are_done: whether all others are committed or filtered, and no trigger is unknown.
        problems: the failures of those that are tried again.
    """

    left: deque[Match]
    is_matched: bool
    are_done: bool
    problems: list[Exception] = field(default_factory=list)

    def perform_until(self, ends_at: float) -> EventOutcome:
        """Perform firings until `ends_at` on `time.monotonic`, and at least one if any is left.

        Raises:
            StoreAwayError: the store cannot be reached.
        """
        while self.left:
            is_done, problem = _try_to_fire(*self.left.popleft())
            self.are_done = self.are_done and is_done
            self.problems += [] if problem is None else [problem]
            if self.left and time.monotonic() >= ends_at:
                return EventOutcome.UNFINISHED
        if not self.are_done:
            return EventOutcome.POSTPONED
        return EventOutcome.FIRED if self.is_matched else EventOutcome.UNMATCHED


def plan_firings(matches: Sequence[Match], *, was_received: bool, is_complete: bool = True) -> EventFirings:
    """Return the firings of all triggers that a message fits. With `was_received`, some may have fired.

    Raises:
        StoreError: the store cannot be reached.
    """
    left = _without_started(matches) if was_received else matches
    return EventFirings(deque(_alternate_tenants(left)), bool(matches), is_complete)


def _without_started(matches: Sequence[Match]) -> list[Match]:
    """Return those whose run does not exist, and those whose `key` is not evaluated yet."""
    ids = {_run_id(*match) for match in matches if match[0].declared.key is None}
    started: Collection[str] = matches[0][0].store.runs.positions(sorted(ids)) if ids else ()
    return [match for match in matches if match[0].declared.key is not None or _run_id(*match) not in started]


def _run_id(firer: Firer, item: SourceItem) -> str:
    trigger = firer.trigger
    return firing_id(trigger.tenant, trigger.playbook, trigger.name, item.key)


def _alternate_tenants(matches: Sequence[Match]) -> list[Match]:
    """Return firings in the order of turns: of each tenant one, then of each a second one, and so on."""
    of_tenants: dict[str, list[Match]] = {}
    for match in random.sample(matches, len(matches)):
        of_tenants.setdefault(match[0].trigger.tenant, []).append(match)
    return [match for turn in zip_longest(*of_tenants.values()) for match in turn if match is not None]


def _try_to_fire(firer: Firer, item: SourceItem) -> tuple[bool, Exception | None]:
    """Fire a trigger, or record that it is paused. Return whether it is done, and what has failed.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    trigger = firer.trigger
    with try_trigger(trigger) as trial:
        if trigger.is_paused:
            miss_item(firer, item)
            return True, None
        return fire_item(firer, item) is not FiringOutcome.REJECTED, None
    return False, trial.problem


def find_event_firings(triggers: EventTriggers, message: EventMessage) -> EventFirings | None:
    """Return the firings of the event of a message, or None if the message is no event.

    Raises:
        StoreError: the store cannot be reached.
    """
    event = read_event(message.body, message.arrived_at)
    if event is None:
        logger.error(
            "message %s is no event of EventBridge, and the dead-letter queue gets it: %s",
            message.id,
            explain_unknown(message.body),
        )
        return None
    firings = triggers.find_firings(event, was_received=message.receives > 1)
    if triggers.is_complete and not firings.is_matched:
        logger.info("event %s (%s, %s) fits no trigger", event.id, event.source, event.detail_type)
    return firings
