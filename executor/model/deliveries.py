"""Deliveries: the transitions of a notification from its first attempt to its end.

Problem: a receiver may be away for hours, and the process that sends may die between the request and the
write that records its success.

Algorithm: an attempt first moves the entry to LEASE_SECONDS later, under the edition that was read. So no
other process sends it meanwhile, and after a crash it is due again, with the same id. A failure moves it by
RETRY_SECONDS. After the last of them it is undelivered, and is kept for KEPT_SECONDS.

Cost: two writes for each attempt.

Limits: a process that dies after the request sends it again. The receiver knows the id.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from noetl.executor.model.channels import Channel
from noetl.executor.model.events import NOTIFICATION_EVENT, Event, timestamp
from noetl.executor.model.outbox import OutboxEntry, postpone_entry
from noetl.planner.frozen import frozen, replace

RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""The pauses between two attempts. There is one attempt more than pauses."""

MAX_ATTEMPTS = len(RETRY_SECONDS) + 1

SEND_SECONDS = 15.0
"""How long a receiver may take to answer."""

MIN_SEND_SECONDS = 5.0
"""With less time left of an invocation, no attempt begins: its end would count as a failure."""

SLOW_SECONDS = 5.0
"""After which time an answer is slow: the notifications of the channel are then sent one after the other."""

LEASE_SECONDS = 20.0
"""After which time an attempt that has no outcome is repeated."""

PROBE_SECONDS = 300.0
"""The longest pause of a channel whose receiver cannot be reached."""

KEPT_SECONDS = 30 * 86_400.0
"""How long a notification is kept that is not delivered, or that waits for a paused channel."""

MAX_PROBLEM_LENGTH = 300
"""How many characters of the reason of a failure are kept."""


class DeliveryState(StrEnum):
    """The state of a notification.

    `pending` is sent at its time, `held` when its channel is resumed, `undelivered` only if a person says so.
    """

    PENDING = "pending"
    HELD = "held"
    UNDELIVERED = "undelivered"


@frozen
class DeliveryFailure:
    """A failed attempt.

    Attributes:
        reason: a text for people, without secrets.
        retry_after: after how many seconds the receiver wants the next attempt; None if it did not say.
        refuses_all: whether the receiver wants no more notifications.
        is_away: whether the receiver could not be reached, or can take nothing now.
        is_final: whether the receiver will never accept this notification.
    """

    reason: str
    retry_after: float | None = None
    refuses_all: bool = False
    is_away: bool = True
    is_final: bool = False


def delivery_state(entry: OutboxEntry) -> DeliveryState:
    """Return the state of a notification."""
    return DeliveryState(entry.record.get("state", DeliveryState.PENDING))


def is_sending(entry: OutboxEntry) -> bool:
    """Return whether an attempt has begun and has no outcome."""
    return bool(entry.record.get("is_sending", False))


def begin_attempt(entry: OutboxEntry, now: float) -> OutboxEntry:
    """Return the entry during an attempt. It is due again if the attempt has no outcome."""
    attempts = entry.record["attempts"] + 1
    return _move(entry, now + LEASE_SECONDS, attempts=attempts, is_sending=True)


def fail_attempt(entry: OutboxEntry, failure: DeliveryFailure, now: float) -> OutboxEntry:
    """Return the entry after a failed attempt: with the time of the next one, or undelivered."""
    attempts = entry.record["attempts"]
    if failure.is_final or attempts >= MAX_ATTEMPTS:
        return give_up(entry, failure.reason, now)
    pause = max(RETRY_SECONDS[attempts - 1], failure.retry_after or 0.0)
    pause = min(pause, KEPT_SECONDS)
    return _move(
        entry, now + pause, problem=cut_problem(failure.reason), failed_at=timestamp(now), is_sending=False
    )


def hold(entry: OutboxEntry, now: float) -> OutboxEntry:
    """Return an entry that waits until its channel is resumed."""
    held = _move(entry, None, state=DeliveryState.HELD.value, is_sending=False)
    return replace(held, expires_at=now + KEPT_SECONDS)


def give_up(entry: OutboxEntry, reason: str, now: float) -> OutboxEntry:
    """Return an entry that is undelivered."""
    state = DeliveryState.UNDELIVERED.value
    changes = {
        "state": state,
        "problem": cut_problem(reason),
        "failed_at": timestamp(now),
        "is_sending": False,
    }
    return replace(_move(entry, None, **changes), expires_at=now + KEPT_SECONDS)


def undelivered_event(entry: OutboxEntry, now: float) -> Event | None:
    """Return the event that the run of a notification gets, or None unless it is undelivered."""
    if delivery_state(entry) is not DeliveryState.UNDELIVERED:
        return None
    payload = {
        "channel": entry.record["channel"],
        "event": entry.record["event"],
        "notification": entry.id,
        "reason": entry.record["problem"],
    }
    return Event(NOTIFICATION_EVENT, now, payload=payload)


def retry_delivery(entry: OutboxEntry, now: float) -> OutboxEntry:
    """Return an entry that is sent now, with all its attempts again."""
    state = DeliveryState.PENDING.value
    return replace(_move(entry, now, state=state, attempts=0, is_sending=False), expires_at=None)


def pause_refused_channel(channel: Channel, reason: str) -> Channel:
    """Return a channel that is paused because its receiver wants no more notifications."""
    return replace(
        channel, is_paused=True, paused_reason=cut_problem(reason), retry_at=None, edition=channel.edition + 1
    )


def delay_channel(channel: Channel, retry_at: float | None) -> Channel:
    """Return a channel whose next notification is sent at a time. None: at once."""
    return replace(channel, retry_at=retry_at, edition=channel.edition + 1)


def _move(entry: OutboxEntry, due_at: float | None, **changes: Any) -> OutboxEntry:
    record: Mapping[str, Any] = {**entry.record, **changes}
    return replace(postpone_entry(entry, due_at), record=record)


def cut_problem(text: str) -> str:
    """Return the reason of a failure as it is kept."""
    return text if len(text) <= MAX_PROBLEM_LENGTH else f"{text[: MAX_PROBLEM_LENGTH - 1]}…"
