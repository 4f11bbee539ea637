"""Triggers that read a table of messages in the database of a store in Postgres."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from noetl.executor.engine.source_firing import fire_item
from noetl.executor.errors import RejectedError, StoreAwayError, TriggerChangedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.runtime import queue_loop
from noetl.executor.runtime.queue_loop import QueueLoop
from noetl.executor.security.allowed_sources import read_allowed_sources
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.testing.run_harness import compile_text

TEXT = """
triggers:
- name: ordered
  type: queue
  table: shop.orders
  max_receives: 2
  input: {id: "{{ trigger.id }}", body: "{{ trigger.body }}", receives: "{{ trigger.receives }}"}
input: {id: string, body: object, receives: integer}
steps: [{name: a, run: [{action: log, message: "{{ input.id }}"}]}]
"""


class MessageTable:
    """A table in the database of a store with a playbook that reads it, and processes."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.database = psycopg.connect(dsn, autocommit=True)
        self.database.execute("create schema shop")
        self.database.execute(
            "create table shop.orders (id bigserial primary key, body jsonb not null,"
            " receives integer not null default 0, dead_at timestamptz)"
        )
        self.store = PostgresStore(dsn)
        self.register(self.store)

    def register(self, store: Any, text: str = TEXT) -> None:
        plan = compile_text(text)
        store.plans.save(plan)
        playbook = RegisteredPlaybook("default", plan.header.name, None, plan.hash, store.clock())
        store.registry.register(playbook, triggers=plan.header.triggers)

    def start(self, store: Any = None, rules: str = "table:shop.orders") -> QueueLoop:
        """Return a process that reads the table."""
        allowed = read_allowed_sources({"NOETL_TRIGGER_SOURCES": rules})
        return QueueLoop(store or self.store, allowed, threading.Event())

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.database.execute("insert into shop.orders (body) values (%s)", (body,))

    def rows(self) -> list[Any]:
        return self.database.execute(
            "select body, receives, dead_at is not null from shop.orders order by id"
        ).fetchall()

    def firings(self) -> list[Any]:
        return self.store.triggers.firings("default", "play", "ordered", limit=1000)[0][::-1]

    def inputs(self) -> list[Any]:
        runs = [self.store.runs.get("default", f.run_id) for f in self.firings() if f.run_id]
        return [run.input for run in runs if run is not None]

    def close(self) -> None:
        self.store.message_tables.close()
        self.store.close()
        self.database.close()


@pytest.fixture
def table(postgres_store_dsn: str) -> Iterator[MessageTable]:
    opened = MessageTable(postgres_store_dsn)
    yield opened
    opened.close()


def test_each_row_starts_one_run_and_is_deleted(table: MessageTable) -> None:
    table.send('{"order": 1}', '{"order": 2}')
    loop = table.start()
    assert [loop.read_all() for _ in range(2)] == [1, 0]
    assert table.rows() == []
    assert sorted(table.inputs(), key=lambda item: item["id"]) == [
        {"id": "1", "body": {"order": 1}, "receives": 1},
        {"id": "2", "body": {"order": 2}, "receives": 1},
    ]


def test_a_trigger_that_reads_another_table_starts_runs_for_the_same_ids(table: MessageTable) -> None:
    table.send('{"order": 1}')
    table.start().read_all()
    table.database.execute("create table shop.returns (like shop.orders including all)")
    table.database.execute("insert into shop.returns (id, body) values (1, '{}')")
    table.register(table.store, TEXT.replace("shop.orders", "shop.returns"))
    table.start(rules="table:shop.returns").read_all()
    assert [item["body"] for item in table.inputs()] == [{"order": 1}, {}]


def test_a_process_that_dies_before_the_deletion_starts_no_second_run(
    table: MessageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.send('{"order": 1}', '{"order": 2}')

    def die(firer: Any, item: Any) -> None:
        fire_item(firer, item)
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(queue_loop, "fire_item", die)
        table.start().read_all()
    table.store.message_tables.close()
    assert (len(table.rows()), len(table.inputs())) == (2, 1)
    table.start().read_all()
    assert (table.rows(), len(table.inputs()), len(table.firings())) == ([], 2, 2)


def test_a_refused_row_is_dead_after_some_receives(table: MessageTable) -> None:
    table.send('"text"', "{}")
    loop = table.start()
    for _ in range(4):
        loop.read_all()
    assert table.rows() == [("text", 2, True)]
    assert [firing.outcome.value for firing in table.firings()].count("rejected") == 2
    assert len(table.inputs()) == 1


@pytest.mark.parametrize("body", ['{"n": 1e5000}', "[" * 3000 + "]" * 3000], ids=["number", "depth"])
def test_a_body_that_python_cannot_read_is_text_and_does_not_block_the_table(
    table: MessageTable, body: str
) -> None:
    table.send(body, "{}")
    loop = table.start()
    for _ in range(2):
        loop.read_all()
    [(_, receives, is_dead)] = table.database.execute(
        "select id, receives, dead_at is not null from shop.orders"
    ).fetchall()
    assert (receives, is_dead, len(table.inputs())) == (2, True, 1)


def test_a_row_that_fails_unexpectedly_is_dead_after_some_receives(
    table: MessageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.send("{}", "{}", "{}")

    def fail(firer: Any, item: Any) -> Any:
        if item.view["id"] == "2":
            raise ValueError("a bug")
        return fire_item(firer, item)

    monkeypatch.setattr(queue_loop, "fire_item", fail)
    monkeypatch.setattr(queue_loop, "PAUSE_SECONDS", 0.0)
    loop = table.start()
    for _ in range(3):
        loop.read_all()
    assert (table.rows(), len(table.inputs())) == ([({}, 2, True)], 2)


def test_rows_before_a_failure_are_deleted(table: MessageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    table.send("{}", "{}", "{}")
    problems: list[Exception] = [
        RejectedError("quota_exceeded", "full"),
        TriggerChangedError("changed"),
        StoreAwayError("away"),
    ]

    def fail(firer: Any, item: Any) -> Any:
        if item.view["id"] == "2" and problems:
            raise problems.pop(0)
        return fire_item(firer, item)

    monkeypatch.setattr(queue_loop, "fire_item", fail)
    monkeypatch.setattr(queue_loop, "PAUSE_SECONDS", 0.0)
    loop = table.start()
    for _ in range(2):
        assert loop.read_all() == 0
        assert [receives for _, receives, _ in table.rows()] == [0, 0]
    with pytest.raises(StoreAwayError):
        loop.read_all()
    assert loop.read_all() == 1
    assert (table.rows(), len(table.inputs())) == ([], 3)


def test_processes_share_the_rows(table: MessageTable) -> None:
    table.send(*["{}"] * 60)
    stores = [PostgresStore(table.dsn) for _ in range(3)]

    def read(store: PostgresStore) -> None:
        loop = table.start(store)
        while loop.read_all():
            pass
        store.message_tables.close()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(read, stores))
    for store in stores:
        store.close()
    while table.rows():
        table.start().read_all()
    assert len({item["id"] for item in table.inputs()}) == len(table.firings()) == 60


def test_a_table_that_cannot_be_read_is_named(
    table: MessageTable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_loop, "PAUSE_SECONDS", 0.0)
    memory = MemoryStore()
    table.register(memory)
    with caplog.at_level(logging.WARNING):
        table.start(memory).read_all()
        table.start(rules="table:orders").read_all()
        table.database.execute("drop table shop.orders")
        table.start().read_all()
    assert [message.partition(" at character")[0].split("\n")[0] for message in caplog.messages] == [
        "queue table shop.orders is not read: a table of messages needs a store in Postgres",
        "queue table shop.orders is not read: NOETL_TRIGGER_SOURCES needs the rule `table:shop.orders`",
        (
            "queue table shop.orders is read again: The store in Postgres failed:"
            ' relation "shop.orders" does not exist.'
        ),
    ]
