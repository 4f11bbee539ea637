"""The notifications that wait for a channel: what a request releases, and what follows it."""

from __future__ import annotations

import pytest

from noetl.api.service.channels import ChannelService
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.engine import release
from noetl.executor.engine.outbox import PERFORMED_KINDS, perform_entry
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import DeliveryState, delivery_state, hold
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import FakeClock

START = 1_000_000_000.0
COUNT = 2 * release.BATCH_SIZE + 50


class HeldNotifications:
    """A paused channel `ops` for which notifications wait, and one of the channel `audit`."""

    def __init__(self) -> None:
        self.clock = FakeClock(START)
        self.store = MemoryStore()
        self.channels: ChannelService = create_services(self.store, catalogue(), clock=self.clock).channels
        for name in ("ops", "audit"):
            channel = Channel("default", name, "slack", "https://example.com/x", START, is_paused=True)
            assert self.store.channels.put(channel, None)
        for number in range(COUNT):
            self.add(f"{number:032x}", "ops")
        self.add("f" * 32, "audit")

    def add(self, id: str, channel: str) -> None:
        record = {"channel": channel, "run_id": "r", "attempts": 0, "waits_for": []}
        new = OutboxEntry(id, "default", OutboxKind.NOTIFICATION, self.clock(), None, record)
        assert self.store.outbox.add(hold(new, self.clock()))
        self.clock.advance(1)

    def count_pending(self) -> int:
        """Return how many notifications are sent now."""
        found, _ = self.store.outbox.find("default", OutboxKind.NOTIFICATION, limit=10 * COUNT)
        return sum(delivery_state(entry) is DeliveryState.PENDING for entry in found)

    def perform(self) -> bool:
        """Perform the entry of the release, and return whether there was one."""
        due = self.store.outbox.due(PERFORMED_KINDS, self.clock(), 10)
        return bool(due) and all(perform_entry(self.store, entry, self.clock()) for entry in due)


@pytest.fixture
def held() -> HeldNotifications:
    return HeldNotifications()


@pytest.mark.parametrize("request_name", ["resume", "remove"])
def test_a_request_releases_a_batch_and_the_loop_the_rest(
    held: HeldNotifications, request_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    getattr(held.channels, request_name)("ops")
    # The newest notification is that of the other channel.
    assert held.count_pending() == release.BATCH_SIZE - 1
    monkeypatch.setattr(release, "PERFORM_SECONDS", 0.0)
    assert held.perform()
    assert held.count_pending() == 2 * release.BATCH_SIZE - 1
    assert held.perform()
    assert (held.count_pending(), held.perform()) == (COUNT, False)


def test_a_performance_releases_several_batches(held: HeldNotifications) -> None:
    held.channels.resume("ops")
    assert held.perform()
    assert (held.count_pending(), held.perform()) == (COUNT, False)


def test_what_waits_for_a_channel_that_is_paused_again_stays(held: HeldNotifications) -> None:
    held.channels.resume("ops")
    held.channels.pause("ops")
    assert held.perform()
    assert (held.count_pending(), held.perform()) == (release.BATCH_SIZE - 1, False)


def test_few_notifications_need_no_entry(held: HeldNotifications, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "BATCH_SIZE", 2 * COUNT)
    held.channels.resume("ops")
    assert (held.count_pending(), held.perform()) == (COUNT, False)
