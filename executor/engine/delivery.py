"""The delivery of notifications: attempts, retries, and the order of those of a run.

Problem: receivers are slow, away for a day, or gone. Each notification must arrive once if possible, and at
least once if a process dies. A dead receiver must not get a request for each notification.

Algorithm: an entry of the outbox is leased before it is sent (see `noetl.executor.model.deliveries`). If a
receiver cannot be reached, its channel has a time before which nothing is sent. Other notifications move to
that time. When it has passed, the one that writes the next time is the probe, and the others wait for it.

The same holds after an answer that took longer than SLOW_SECONDS: then each notification is a probe.

Cost: one read of the channel, one for each earlier notification of the run, two writes and one request.

Limits: notifications that were already being sent when a receiver failed are not held back. A receiver that
answers with a status from 400 to 499 can be reached, so it delays no other notification.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

from noetl.executor.channels.message import make_message
from noetl.executor.channels.sender import Sender
from noetl.executor.engine.external import read_public_url
from noetl.executor.errors import CancelledError
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import (
    LEASE_SECONDS,
    MIN_SEND_SECONDS,
    PROBE_SECONDS,
    SLOW_SECONDS,
    DeliveryFailure,
    DeliveryState,
    begin_attempt,
    delay_channel,
    delivery_state,
    fail_attempt,
    give_up,
    hold,
    is_sending,
    pause_refused_channel,
    retry_delivery,
    undelivered_event,
)
from noetl.executor.model.events import NOTIFICATION_EVENT
from noetl.executor.model.metrics import (
    NOTIFICATION_FAILED,
    NOTIFICATION_HELD,
    NOTIFICATION_SENT,
    NOTIFICATION_UNDELIVERED,
)
from noetl.executor.model.notifications import late_entries
from noetl.executor.model.outbox import OutboxEntry, postpone_entry
from noetl.executor.model.run import Run
from noetl.executor.patience import bounded_by_invocation
from noetl.executor.security.capabilities import service_capabilities
from noetl.executor.security.redaction import redact
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen

TURN_SECONDS = 1.0
"""How long a notification waits for one that is being sent, or for another invocation."""

MAX_TRIES = 5
"""How often a change of a channel is tried again after another process has changed it."""

logger = logging.getLogger("noetl.notifications")


@frozen
class Courier:
    """The delivery of notifications of a store. `public_url` is the address of the service, if known."""

    store: Store
    sender: Sender
    public_url: str | None = None

    def deliver(self, entry: OutboxEntry, now: float) -> bool:
        """Make one attempt at a due notification, or move it to the time of the next one.

        Return whether this process has changed the entry.

        Raises:
            StoreAwayError: the store cannot be reached.
        """
        channel = self.store.channels.get(entry.tenant, entry.record["channel"])
        if channel is None:
            return self._give_up(entry, f"channel `{entry.record['channel']}` does not exist", now)
        if channel.is_paused:
            return self._hold(entry, now)
        waits_until = self._find_wait(entry, channel, now)
        if waits_until is not None:
            return self.store.outbox.change(entry, postpone_entry(entry, waits_until))
        if bounded_by_invocation(MIN_SEND_SECONDS) < MIN_SEND_SECONDS:
            # Another invocation has more time.
            return self.store.outbox.change(entry, postpone_entry(entry, now + TURN_SECONDS))
        began = self._begin_probe(channel, now)
        if began is None:
            return self.store.outbox.change(entry, postpone_entry(entry, now + TURN_SECONDS))
        started = begin_attempt(entry, now)
        if not self.store.outbox.change(entry, started):
            if began is not channel:
                # Nothing is sent, so the channel must not wait for it. A change by another process remains.
                self.store.channels.put(delay_channel(began, channel.retry_at), began)
            return False
        return self._send(started, began)

    def _begin_probe(self, channel: Channel, now: float) -> Channel | None:
        """Let others wait for an attempt at a channel that has a delay. Return the channel as it is stored.

        Return None if another process has changed the channel, and is probably the probe.
        """
        if channel.retry_at is None:
            return channel
        probing = delay_channel(channel, now + LEASE_SECONDS)
        return probing if self.store.channels.put(probing, channel) else None

    def _find_wait(self, entry: OutboxEntry, channel: Channel, now: float) -> float | None:
        """Return until when an entry waits for its channel, or for an earlier one of its run; None: not."""
        if channel.retry_at is not None and channel.retry_at > now:
            return channel.retry_at
        for id in entry.record["waits_for"]:
            earlier = self.store.outbox.get(entry.tenant, id)
            if earlier is None or earlier.due_at is None or earlier.position >= entry.position:
                continue
            return now + TURN_SECONDS if is_sending(earlier) else max(earlier.due_at, now) + TURN_SECONDS
        return None

    def _send(self, started: OutboxEntry, channel: Channel) -> bool:
        store, sent_at = self.store, self.store.clock()
        try:
            failure = self.sender.send(channel, make_message(started, self.public_url), sent_at)
        except CancelledError:
            # The process stops. The entry is due again after its lease.
            return True
        except Exception as error:
            # Without an outcome, the entry would be due after each lease for ever.
            logger.exception("notification %s could not be sent", started.id)
            reason = f"the message could not be sent ({type(error).__name__})"
            failure = DeliveryFailure(reason, is_away=False)
        now = store.clock()
        if failure is None:
            # The next one to a slow receiver is a probe, so that no second invocation waits for it as well.
            next_at = now if now - sent_at > SLOW_SECONDS else None
            if channel.retry_at != next_at:
                self._change_channel(channel, lambda current: delay_channel(current, next_at))
            _log(logging.INFO, "notification.sent", started, {"seconds": round(now - sent_at, 3)})
            return store.outbox.change(started, None, (), NOTIFICATION_SENT)
        if failure.refuses_all:
            self._change_channel(channel, lambda current: pause_refused_channel(current, failure.reason))
            _log(logging.ERROR, "channel.paused", started, {"reason": redact(failure.reason)})
            return self._hold(started, now)
        failed = fail_attempt(started, failure, now)
        if failure.is_away:
            self._delay(channel, failed, failure, now)
        elif channel.retry_at is not None:
            self._change_channel(channel, lambda current: delay_channel(current, None))
        _log_failure(failed, failure)
        return self._write_failure(started, failed, now)

    def _delay(self, channel: Channel, failed: OutboxEntry, failure: DeliveryFailure, now: float) -> None:
        """Delay the notifications of a channel until the next attempt, at most for PROBE_SECONDS."""
        next_at = now + PROBE_SECONDS if failed.due_at is None else min(failed.due_at, now + PROBE_SECONDS)
        if failure.retry_after is not None:
            next_at = max(next_at, now + min(failure.retry_after, 86_400.0))
        self._change_channel(channel, lambda current: delay_channel(current, next_at))

    def _hold(self, entry: OutboxEntry, now: float) -> bool:
        """Store that an entry waits for its paused channel. It is due at once if that was resumed."""
        held = hold(entry, now)
        if not self.store.outbox.change(entry, held, (), NOTIFICATION_HELD):
            return False
        channel = self.store.channels.get(entry.tenant, entry.record["channel"])
        if channel is None or channel.is_paused:
            return True
        return self.store.outbox.change(held, retry_delivery(held, now))

    def _give_up(self, entry: OutboxEntry, reason: str, now: float) -> bool:
        failed = give_up(entry, reason, now)
        _log_failure(failed, DeliveryFailure(reason))
        return self._write_failure(entry, failed, now)

    def _write_failure(self, read: OutboxEntry, failed: OutboxEntry, now: float) -> bool:
        """Write a failed attempt. The run gets an event if it was the last one."""
        event = undelivered_event(failed, now)
        fact = NOTIFICATION_FAILED if event is None else NOTIFICATION_UNDELIVERED
        return self.store.outbox.change(read, failed, (), fact, event)

    def _change_channel(self, channel: Channel, change: Callable[[Channel], Channel]) -> None:
        """Write a change of a channel, unless it is removed or paused meanwhile."""
        current: Channel | None = channel
        for _ in range(MAX_TRIES):
            if current is None or current.is_paused:
                return
            if self.store.channels.put(change(current), current):
                return
            current = self.store.channels.get(channel.tenant, channel.name)


def deliver(store: Store, entry: OutboxEntry, now: float) -> bool:
    """Make one attempt at a due notification with the settings of this process, as `Courier.deliver` does.

    Raises:
        StoreAwayError: the store cannot be reached.
        SettingError: a setting is invalid.
    """
    return make_courier(store).deliver(entry, now)


def make_courier(store: Store, environ: Mapping[str, str] = os.environ) -> Courier:
    """Return what delivers notifications of a store, with the settings of this process.

    Raises:
        SettingError: a setting is invalid.
    """
    capabilities = service_capabilities(environ)
    sender = Sender(capabilities.networks, capabilities.secret_hosts, environ, buses=capabilities.event_buses)
    return Courier(store, sender, read_public_url(environ))


def perform_late(store: Store, entry: OutboxEntry, now: float) -> bool:
    """Notify the channels of a run that has not ended in time. Return whether the entry was removed.

    Raises:
        StoreError: the store cannot be reached, or the run cannot be read.
    """
    run = store.runs.get(entry.tenant, entry.record["run_id"])
    added = [] if run is None or run.status.is_final else _late_entries(store, run, now)
    return store.outbox.change(entry, None, added)


def _late_entries(store: Store, run: Run, now: float) -> list[OutboxEntry]:
    subscribers = store.outbox.subscribers(run.tenant, run.playbook)
    return late_entries(run, store.plans.header(run.plan_hash).notify, subscribers, now)


def _log_failure(failed: OutboxEntry, failure: DeliveryFailure) -> None:
    is_final = delivery_state(failed) is DeliveryState.UNDELIVERED
    level, event = (
        (logging.ERROR, NOTIFICATION_EVENT) if is_final else (logging.WARNING, "notification.retry")
    )
    _log(level, event, failed, {"reason": redact(failure.reason)})


def _log(level: int, event: str, entry: OutboxEntry, fields: Mapping[str, object]) -> None:
    record = entry.record
    named = {name: record[name] for name in ("channel", "event", "playbook", "attempts")}
    shown = {"tenant": entry.tenant, "notification": entry.id, **named, **fields}
    text = f"{event}: {record['playbook']} to {record['channel']}"
    logger.log(level, "%s", text, extra={"fields": shown, "labels": {"run": record["run_id"]}})
