"""One invocation of the Lambda function that fires triggers: a batch of messages of queues.

Problem: the queue of events and a queue of a trigger have one function. An invocation may end before all of
its messages have fired.

Algorithm: late acknowledgement, as in `queue_loop`. A message whose firings are committed is deleted, and the
others are reported as failures of the batch (partial batch responses). They are received again after the
visibility timeout. The source of a message is the ARN of its queue, which its sender cannot choose. The
triggers are read once for each batch. Messages have turns of an equal part of the time (round-robin
scheduling). A message with more triggers has another turn after the others, while there is time. One that is
received again passes over the triggers whose runs exist.

Cost: one query of the triggers of each tenant for a batch, and one firing for each trigger and message. A
message that was received before costs one query for its runs.

Limits: the messages of a batch are fired in sequence. A firing that has begun is not cut off. What is
received too often moves to the dead-letter queue, also if the store was away for so long.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from noetl.executor.engine.bus_firing import (
    EventFirings,
    EventMessage,
    EventOutcome,
    EventTriggers,
    find_event_firings,
    plan_firings,
)
from noetl.executor.engine.firing import Firer
from noetl.executor.engine.source_firing import SourceItem
from noetl.executor.errors import RejectedError, StoreError, TriggerChangedError
from noetl.executor.patience import retrying_until
from noetl.executor.runtime.json_logs import LOG_CONTEXT
from noetl.executor.runtime.message_batch import InvocationMetrics, LambdaContext, warm_state
from noetl.executor.runtime.queue_loop import read_receives, view_message
from noetl.executor.runtime.source_triggers import read_event_triggers, read_queue_firers
from noetl.executor.security.allowed_sources import AllowedSources, name_queue
from noetl.executor.stores.interface import Store

MARGIN_SECONDS = 3.0
"""The time of an invocation in which no further message is fired."""

_METRICS: Mapping[EventOutcome, str] = {
    EventOutcome.FIRED: "Fired",
    EventOutcome.UNMATCHED: "Unmatched",
    EventOutcome.POSTPONED: "Postponed",
    EventOutcome.UNKNOWN: "NotOurs",
}
"""The counter of a message, by its outcome. One that is unfinished may have another turn."""

logger = logging.getLogger("noetl.executor")


@dataclass(slots=True, eq=False, repr=False)
class BatchMessage:
    """A message of a batch. `firings` are those of one that has had a turn."""

    record: Mapping[str, Any]
    firings: EventFirings | None = None

    @property
    def id(self) -> str:
        return str(self.record.get("messageId", ""))


class SourceBatch:
    """The messages of one invocation, each with the queue that it is from."""

    def __init__(self, store: Store, allowed: AllowedSources, metrics: InvocationMetrics) -> None:
        self._store = store
        self._allowed = allowed
        self._metrics = metrics
        self._events: EventTriggers | None = None
        self._readers: dict[str, list[Firer]] = {}

    def process(self, message: BatchMessage, ends_at: float) -> EventOutcome:
        """Fire the triggers of a message until `ends_at` on `time.monotonic`.

        Return the outcome. If it is UNFINISHED, the message needs another turn.
        """
        try:
            outcome = self._fire(message, ends_at)
        except (RejectedError, TriggerChangedError) as problem:
            logger.warning("message %s is received again: %s", message.id, problem)
            self._metrics.add("Postponed")
        except StoreError as problem:
            logger.warning("the store failed; message %s is received again: %s", message.id, problem)
            self._metrics.add("StoreFailures")
        except Exception:
            logger.exception("message %s could not be processed; it is received again", message.id)
            self._metrics.add("Bugs")
        else:
            if outcome is not EventOutcome.UNFINISHED:
                self._metrics.add(_name_metric(message, outcome))
            return outcome
        return EventOutcome.POSTPONED

    def _fire(self, message: BatchMessage, ends_at: float) -> EventOutcome:
        if message.firings is None:
            queue = name_queue(str(message.record.get("eventSourceARN", "")))
            is_event = self._allowed.event_queue and queue == name_queue(self._allowed.event_queue)
            find = self._find_event_firings if is_event else partial(self._find_firings, queue)
            message.firings = find(message.record)
        return EventOutcome.UNKNOWN if message.firings is None else message.firings.perform_until(ends_at)

    def _find_event_firings(self, record: Mapping[str, Any]) -> EventFirings | None:
        """Return the firings of a message of the queue of events, or None if it is no event."""
        if self._events is None:
            self._events = read_event_triggers(self._store, self._allowed)
        item, receives = _to_item(record), read_receives(record.get("attributes") or {})
        message = EventMessage(item.key, str(record.get("body", "")), item.arrived_at, receives)
        return find_event_firings(self._events, message)

    def _find_firings(self, queue: str, record: Mapping[str, Any]) -> EventFirings | None:
        """Return the firings of a message of another queue.

        Return None if no trigger reads it. The message then stays for the dead-letter queue.
        """
        item = _to_item(record)
        if queue not in self._readers:
            self._readers[queue] = read_queue_firers(self._store, self._allowed, queue)
        if not self._readers[queue]:
            logger.error("message %s of queue %s fits no trigger; it is received again", item.key, queue)
            return None
        receives = read_receives(record.get("attributes") or {})
        matches = [(firer, item) for firer in self._readers[queue]]
        return plan_firings(matches, was_received=receives > 1)


def _name_metric(message: BatchMessage, outcome: EventOutcome) -> str:
    """Return the counter of a message. A bug takes precedence over a failure of the store."""
    problems = () if message.firings is None else message.firings.problems
    if any(not isinstance(p, RejectedError | StoreError | TriggerChangedError) for p in problems):
        return "Bugs"
    return "StoreFailures" if any(isinstance(p, StoreError) for p in problems) else _METRICS[outcome]


def _to_item(record: Mapping[str, Any]) -> SourceItem:
    """Return a message in the form that Lambda gives it as an item."""
    system, id = record.get("attributes") or {}, str(record.get("messageId", ""))
    attributes = record.get("messageAttributes") or {}
    view = view_message(id, str(record.get("body", "")), attributes, read_receives(system))
    return SourceItem(id, float(system.get("SentTimestamp", 0)) / 1000, view)


def fire_batch(
    records: Sequence[Mapping[str, Any]], context: LambdaContext, metrics: InvocationMetrics
) -> list[str]:
    """Fire the triggers of the messages of an invocation. Return the ids of those to deliver again.

    Raises:
        SettingError: a setting is missing or invalid.
    """
    ends_at = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS
    token = LOG_CONTEXT.set({"request_id": context.aws_request_id})
    waiting = deque(BatchMessage(record) for record in records)
    failed: list[BatchMessage] = []
    try:
        with retrying_until(ends_at):
            warm = warm_state()
            batch = SourceBatch(warm.store, warm.capabilities.trigger_sources, metrics)
            turn_seconds = (ends_at - time.monotonic()) / max(len(records), 1)
            while waiting and (now := time.monotonic()) < ends_at:
                # Those without a turn share what is left, if others have exceeded theirs.
                new = sum(message.firings is None for message in waiting)
                turn = min(turn_seconds, (ends_at - now) / max(new, 1))
                message = waiting.popleft()
                outcome = batch.process(message, now + turn)
                if outcome is EventOutcome.UNFINISHED:
                    waiting.append(message)
                elif not outcome.is_done:
                    failed.append(message)
        unfinished = sum(message.firings is not None for message in waiting)
        if unfinished:
            metrics.add("Postponed", unfinished)
    except StoreError as problem:
        logger.warning("the store failed; %s messages are received again: %s", len(waiting), problem)
        metrics.add("StoreFailures", len(waiting))
    finally:
        LOG_CONTEXT.reset(token)
    return [message.id for message in (*failed, *waiting)]
