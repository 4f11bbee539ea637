"""One invocation of the Lambda function that fires triggers: a batch of messages of queues.

Problem: the queue of events and a queue of a trigger have one function. An invocation may end before all of
its messages have fired.

Algorithm: late acknowledgement, as in `queue_loop`. A message whose firings are committed is deleted, and the
others are reported as failures of the batch (partial batch responses). They are received again after the
visibility timeout. The source of a message is the ARN of its queue, which its sender cannot choose. The
triggers are read once for each batch.

Cost: one query of the triggers of each tenant for a batch, and one firing for each trigger and message.

Limits: the messages of a batch are fired in sequence. An event has an equal share of the time that is left.
What is received too often moves to the dead-letter queue, also if the store was away for so long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.engine.bus_firing import EventMessage, EventOutcome, EventTriggers, fire_event
from noetl.executor.engine.firing import Firer
from noetl.executor.engine.source_firing import SourceItem
from noetl.executor.errors import RejectedError, StoreError, TriggerChangedError
from noetl.executor.patience import retrying_until
from noetl.executor.runtime.json_logs import LOG_CONTEXT
from noetl.executor.runtime.message_batch import InvocationMetrics, LambdaContext, warm_state
from noetl.executor.runtime.queue_loop import fire_message, read_receives, view_message
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
"""The counter of an event, by its outcome."""

logger = logging.getLogger("noetl.executor")


class SourceBatch:
    """The messages of one invocation, each with the queue that it is from."""

    def __init__(self, store: Store, allowed: AllowedSources, metrics: InvocationMetrics) -> None:
        self._store = store
        self._allowed = allowed
        self._metrics = metrics
        self._events: EventTriggers | None = None
        self._readers: dict[str, list[Firer]] = {}

    def process(self, record: Mapping[str, Any], ends_at: float) -> bool:
        """Fire the triggers of a message. Return whether it may be deleted.

        After `ends_at` on `time.monotonic`, an event fires no further trigger.
        """
        try:
            return self._fire(record, ends_at)
        except (RejectedError, TriggerChangedError) as problem:
            logger.warning("message %s is received again: %s", record.get("messageId"), problem)
            self._metrics.add("Postponed")
        except StoreError as problem:
            logger.warning(
                "the store failed; message %s is received again: %s", record.get("messageId"), problem
            )
            self._metrics.add("StoreFailures")
        except Exception:
            logger.exception(
                "message %s could not be processed; it is received again", record.get("messageId")
            )
            self._metrics.add("Bugs")
        return False

    def _fire(self, record: Mapping[str, Any], ends_at: float) -> bool:
        queue = name_queue(str(record.get("eventSourceARN", "")))
        item = _to_item(record)
        if self._allowed.event_queue is None or queue != name_queue(self._allowed.event_queue):
            return self._fire_message(queue, item)
        if self._events is None:
            self._events = read_event_triggers(self._store, self._allowed)
        receives = read_receives(record.get("attributes") or {})
        message = EventMessage(item.key, str(record.get("body", "")), item.arrived_at, receives)
        outcome = fire_event(self._events, message, ends_at)
        self._metrics.add(_METRICS[outcome])
        return outcome.is_done

    def _fire_message(self, queue: str, item: SourceItem) -> bool:
        """Fire the triggers that read a queue. Without one, the message stays for its dead-letter queue."""
        if queue not in self._readers:
            self._readers[queue] = read_queue_firers(self._store, self._allowed, queue)
        if not self._readers[queue]:
            logger.error("message %s of queue %s fits no trigger; it is received again", item.key, queue)
            self._metrics.add("NotOurs")
            return False
        is_done = fire_message(self._readers[queue], item)
        self._metrics.add("Fired" if is_done else "Postponed")
        return is_done


def _to_item(record: Mapping[str, Any]) -> SourceItem:
    """Return a message in the form that Lambda gives it as an item."""
    system, id = record.get("attributes") or {}, str(record.get("messageId", ""))
    view = view_message(
        id,
        str(record.get("body", "")),
        record.get("messageAttributes") or {},
        str(system.get("ApproximateReceiveCount", "")),
    )
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
    waiting = list(records)
    failed: list[Mapping[str, Any]] = []
    try:
        with retrying_until(ends_at):
            warm = warm_state()
            batch = SourceBatch(warm.store, warm.capabilities.trigger_sources, metrics)
            while waiting and (now := time.monotonic()) < ends_at:
                share = (ends_at - now) / len(waiting)
                record = waiting.pop(0)
                if not batch.process(record, now + share):
                    failed.append(record)
    except StoreError as problem:
        logger.warning("the store failed; %s messages are received again: %s", len(waiting), problem)
        metrics.add("StoreFailures", len(waiting))
    finally:
        LOG_CONTEXT.reset(token)
    return [str(record.get("messageId", "")) for record in (*failed, *waiting)]
