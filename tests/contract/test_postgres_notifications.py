"""Several processes that deliver the notifications of one Postgres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from noetl.executor.channels.sender import Sender
from noetl.executor.engine.delivery import Courier
from noetl.executor.model.channels import Channel
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.infra.migrations import upgrade
from noetl.testing.store_contract.operations import run_concurrently
from noetl.testing.store_contract.outbox import add
from tests.http_server import StubServer, serve

COUNT = 12


@pytest.fixture
def stores(postgres_dsn: str) -> Iterator[list[PostgresStore]]:
    """Stores with their own connections to one database, as in several processes."""
    upgrade(postgres_dsn)
    opened = [PostgresStore(postgres_dsn) for _ in range(4)]
    yield opened
    for store in opened:
        store.close()


def add_notifications(store: PostgresStore, server: StubServer) -> None:
    """Add a channel, and notifications to it."""
    now = store.clock()
    assert store.channels.put(Channel("default", "ops", "webhook", server.url(), now), None)
    record: dict[str, Any] = {
        "event": "failed",
        "channel": "ops",
        "playbook": "p",
        "version": None,
        "status": "failed",
        "attempts": 0,
        "waits_for": [],
    }
    entries = [
        OutboxEntry(
            f"n{number:02}", "default", OutboxKind.NOTIFICATION, now, now, {**record, "run_id": f"r{number}"}
        )
        for number in range(COUNT)
    ]
    add(store, *entries)


def deliver_all(store: PostgresStore) -> None:
    """Deliver what is due, as a process does. All of them read the same entries."""
    courier = Courier(store, Sender(("127.0.0.0/8",)))
    while due := store.outbox.due([OutboxKind.NOTIFICATION], store.clock(), COUNT):
        for entry in due:
            courier.deliver(entry, store.clock())


def test_each_notification_is_sent_once(stores: list[PostgresStore]) -> None:
    with serve(lambda exchange: exchange.reply(204)) as server:
        add_notifications(stores[0], server)
        run_concurrently(len(stores), lambda index: deliver_all(stores[index]))
    ids = Counter(request.headers["webhook-id"] for request in server.requests)
    assert ids == Counter(f"msg_n{number:02}" for number in range(COUNT))
    assert stores[0].outbox.find("default", OutboxKind.NOTIFICATION)[0] == []
