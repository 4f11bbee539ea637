"""Several processes on one Postgres: signals between them, and the notifications that they deliver."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from noetl.executor.channels.sender import Sender
from noetl.executor.engine.delivery import Courier
from noetl.executor.model.channels import Channel
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.model.run import RunStatus
from noetl.executor.runtime.notification_loop import NotificationLoop
from noetl.executor.stores.postgres.listener import MISSED, read_payloads, write_payload
from noetl.executor.stores.postgres.notifier import Notifier, add_numbers
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.testing.store_contract.operations import end_run, run_concurrently, start_run
from noetl.testing.store_contract.outbox import add
from tests.http_server import StubServer, serve

COUNT = 12


@pytest.fixture
def stores(postgres_store_dsn: str) -> Iterator[list[PostgresStore]]:
    """Stores with their own connections to one database, as in several processes."""
    opened = [PostgresStore(postgres_store_dsn) for _ in range(4)]
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


def test_loops_of_several_processes_send_each_notification_once(stores: list[PostgresStore]) -> None:
    stopping = threading.Event()
    with serve(lambda exchange: exchange.reply(204)) as server:
        add_notifications(stores[0], server)
        threads = [
            threading.Thread(target=NotificationLoop(Courier(store, Sender(("127.0.0.0/8",))), stopping).run)
            for store in stores
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60.0
        while stores[0].outbox.find("default", OutboxKind.NOTIFICATION)[0] and time.monotonic() < deadline:
            time.sleep(0.05)
        stopping.set()
        for thread in threads:
            thread.join(60.0)
    ids = Counter(request.headers["webhook-id"] for request in server.requests)
    assert ids == Counter(f"msg_n{number:02}" for number in range(COUNT))


def test_a_process_receives_how_many_visits_others_made_due(stores: list[PostgresStore]) -> None:
    received: list[SimpleQueue[int | None]] = [SimpleQueue(), SimpleQueue()]
    first, second = (store.postgres for store in stores[:2])
    for database, queue in zip((first, second), received, strict=True):
        database.listen(queue.put)
        assert queue.get(timeout=60.0) is None, "some may have been missed before"
    first.notify(3)
    assert received[1].get(timeout=60.0) == 3
    second.notify(None)
    assert received[0].get(timeout=60.0) is None
    second.notify(0)
    assert received[0].get(timeout=60.0) == 0


def test_a_notification_of_an_earlier_version_names_no_number() -> None:
    assert read_payloads([MISSED, write_payload("a", 2), write_payload("b", 4)], reader="b") == [None, 2]


def test_the_end_of_a_run_is_signalled_to_processes_without_workers(stores: list[PostgresStore]) -> None:
    received: SimpleQueue[int | None] = SimpleQueue()
    stores[1].postgres.listen(received.put)
    assert received.get(timeout=60.0) is None
    run = start_run(stores[0])
    assert received.get(timeout=60.0) == 1
    stores[0].runs.stop(run.id, RunStatus.CANCELLED, 1.0)
    assert received.get(timeout=60.0) is None
    assert end_run(stores[0], run, RunStatus.CANCELLED).status == "cancelled"
    assert received.get(timeout=60.0) == 0


def test_a_process_that_ends_sends_its_notifications_first(stores: list[PostgresStore]) -> None:
    received: SimpleQueue[int | None] = SimpleQueue()
    stores[1].postgres.listen(received.put)
    assert received.get(timeout=60.0) is None
    start_run(stores[0])
    stores[0].close()
    assert received.get(timeout=60.0) == 1


class TestNotifier:
    def test_what_is_announced_during_a_notification_goes_into_the_next_one(self) -> None:
        sent: SimpleQueue[int | None] = SimpleQueue()
        is_sending, may_end = threading.Event(), threading.Event()

        def send(due: int | None) -> None:
            sent.put(due)
            is_sending.set()
            assert may_end.wait(60.0)

        notifier = Notifier(send)
        notifier.notify(1)
        assert is_sending.wait(60.0)
        for due in (2, 0, 3):
            notifier.notify(due)
        may_end.set()
        notifier.close(60.0)
        assert [sent.get_nowait(), sent.get_nowait()] == [1, 5]
        assert sent.empty()

    def test_an_unknown_number_makes_the_sum_unknown(self) -> None:
        assert add_numbers([1, None, 2]) is None
        assert add_numbers([1, 0, 2]) == 3

    def test_a_closed_notifier_sends_at_once(self) -> None:
        sent: list[int | None] = []
        notifier = Notifier(sent.append)
        notifier.close(60.0)
        notifier.notify(4)
        assert sent == [4]
