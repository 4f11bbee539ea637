"""The delivery of notifications in a test: a store with a fake clock, and the part that sends."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.channels.sender import Sender
from noetl.executor.engine.delivery import Courier
from noetl.executor.model.channels import Channel
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, lane_of
from noetl.executor.runtime import channel_attempts, notification_loop
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import FakeClock
from noetl.testing.store_contract.outbox import add

START = 1_000_000_000.0
LOOPBACK = ("127.0.0.0/8",)


class PostOffice:
    """A store with a fake clock, and what delivers its notifications."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock(START)
        self.store: Any = MemoryStore()
        self.store.clock = self.clock
        self.courier = Courier(self.store, Sender(LOOPBACK, **options), "https://noetl.example.com/")

    def add_channel(self, target: str, name: str = "ops", **fields: Any) -> Channel:
        values = {"tenant": "default", "type": "webhook", "created_at": START, **fields}
        channel = Channel(name=name, target=target, **values)
        assert self.store.channels.put(channel, None)
        return channel

    def add(self, id: str = "n1", channel: str = "ops", **record: Any) -> OutboxEntry:
        data = {
            "event": "failed",
            "channel": channel,
            "run_id": "r1234567890",
            "playbook": "import",
            "version": "3",
            "status": "failed",
            "attempts": 0,
            "waits_for": [],
        }
        tenant = record.pop("tenant", "default")
        values = {**data, **record}
        entry = OutboxEntry(id, tenant, OutboxKind.NOTIFICATION, self.clock(), self.clock(), values)
        add(self.store, entry)
        return entry

    def read(self, id: str = "n1") -> OutboxEntry | None:
        return self.store.outbox.get("default", id)  # type: ignore[no-any-return]

    def existing(self, id: str = "n1") -> OutboxEntry:
        entry = self.read(id)
        assert entry is not None
        return entry

    def deliver_due(self) -> list[str]:
        """Deliver everything that is due once. Return the ids."""
        due = self.store.outbox.due([OutboxKind.NOTIFICATION], self.clock(), 100)
        for entry in due:
            self.courier.deliver(entry, self.clock())
        return [entry.id for entry in due]

    def due_in(self, id: str = "n1") -> float | None:
        due_at = self.existing(id).due_at
        return None if due_at is None else due_at - self.clock()


def replace_time(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    """Let the loop read its monotonic clock from a list, whose value a test changes."""

    class StandInTime:
        """A monotonic clock that a test moves."""

        def monotonic(self) -> float:
            return seconds[0]

    for module in (notification_loop, channel_attempts):
        monkeypatch.setattr(module, "time", StandInTime())


def id_of(name: str, channel: str, tenant: str = "default") -> str:
    """Return the id of a notification of a channel. Its name has at most 16 letters."""
    return f"{name:.<16}{lane_of(tenant, channel)}"
