"""The release of the notifications that wait for a channel, after it was resumed or removed.

Problem: thousands of notifications may wait for a channel that was paused for weeks. One request must not
write them all.

Algorithm: the request releases the first batch. If there are more, an entry of the outbox goes on at the
place where the batch ended, with the turns of the other entries.

Cost: one read for each batch, and one write for each notification that is released.

Limits: a process that dies before it has written the entry leaves the rest waiting. The channel is then
resumed again. If the channel is paused again meanwhile, the rest waits.
"""

from __future__ import annotations

import secrets
import time

from noetl.executor.model.deliveries import DeliveryState, delivery_state, retry_delivery
from noetl.executor.model.outbox import PERFORM_SECONDS, OutboxEntry, OutboxKind, entry_id, postpone_entry
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace

BATCH_SIZE = 100
"""How many notifications of a tenant are read for a batch, those of other channels too."""


def release_held(store: Store, tenant: str, channel: str, now: float) -> None:
    """Make the notifications due that wait for a channel: a batch at once, and the others soon."""
    cursor = _release_batch(store, tenant, channel, now, None)
    if cursor is not None:
        id = entry_id("release", secrets.token_hex(8), channel)
        record = {"channel": channel, "cursor": cursor}
        store.outbox.add(OutboxEntry(id, tenant, OutboxKind.RELEASE, now, now, record))


def perform_release(store: Store, entry: OutboxEntry, now: float) -> bool:
    """Continue a release. Return whether the entry was removed or moved."""
    name, cursor = entry.record["channel"], entry.record["cursor"]
    channel = store.channels.get(entry.tenant, name)
    if channel is not None and channel.is_paused:
        return store.outbox.change(entry, None)
    ends_at = time.monotonic() + PERFORM_SECONDS
    while True:
        cursor = _release_batch(store, entry.tenant, name, now, cursor)
        if cursor is None:
            return store.outbox.change(entry, None)
        if time.monotonic() >= ends_at:
            following = replace(postpone_entry(entry, now), record={**entry.record, "cursor": cursor})
            return store.outbox.change(entry, following)


def _release_batch(store: Store, tenant: str, channel: str, now: float, cursor: str | None) -> str | None:
    """Release what waits for a channel in a page of notifications. Return the cursor of the next page."""
    outbox = store.outbox
    page, following = outbox.find(tenant, OutboxKind.NOTIFICATION, limit=BATCH_SIZE, cursor=cursor)
    for entry in page:
        if entry.record["channel"] == channel and delivery_state(entry) is DeliveryState.HELD:
            outbox.change(entry, retry_delivery(entry, now))
    return following
