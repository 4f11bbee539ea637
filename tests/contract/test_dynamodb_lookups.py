"""The items of a DynamoDB store that lead to triggers: by their paths, and by the ends that they await."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.outbox import OutboxKind, lane_of
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.stores.dynamo import due_items, keys
from noetl.executor.stores.dynamo.expressions import Update, Write
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.store_contract.aliases import promote
from noetl.testing.store_contract.operations import findings_of
from noetl.testing.store_contract.outbox import entry, notification, search
from noetl.testing.store_contract.trigger_lookups import run_end, webhook
from noetl.testing.store_contract.triggers import declare, register
from tests.aws import Client


@pytest.fixture
def store(aws: Client) -> DynamoStore:
    upgrade("noetl")
    return DynamoStore("noetl")


def test_wrong_lookups_of_triggers_are_found(store: DynamoStore) -> None:
    register(store, webhook("w", "a"), run_end("e", "x"))
    store.registry.unregister("default", "p", now=1.0)
    register(store, webhook("w", "a"), run_end("e", "x"), name="q", tenant="other", now=2.0)
    assert findings_of(store) == []
    moved = {"P#a": None, f"P#{path_in_shard_of('a')}": ["q", "gone"]}
    store.context.table.write([Update(keys.path_shard("other", "a"), moved)])
    store.context.table.write([Update(keys.subscribers("default"), {"T#p": [["e", "y"]]})])
    assert [(finding.check, finding.message) for finding in findings_of(store)] == [
        ("lookups of triggers", "`y` leads to trigger `e` of playbook `p`, which is not so"),
        (
            "lookups of triggers",
            f"`{path_in_shard_of('a')}` leads to trigger `gone` of playbook `q`, which is not so",
        ),
        (
            "lookups of triggers",
            "trigger `w` of playbook `q` is not found by its path, or by the ends that it awaits",
        ),
    ]


def path_in_shard_of(path: str) -> str:
    """Return another path that has the same item."""
    numbered = (f"{path}/{number}" for number in range(1000))
    return next(other for other in numbered if keys.path_shard("t", other) == keys.path_shard("t", path))


def test_a_path_that_moves_meanwhile_is_looked_up_again(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, webhook("v", "a"), webhook("w", "b"), now=1.0)
    get = store.triggers.get
    moves: list[str] = []

    def move_first(tenant: str, playbook: str, name: str) -> LiveTrigger | None:
        if not moves:
            moves.append(name)
            register(store, webhook("v", "b"), webhook("w", "a"), now=2.0)
        return get(tenant, playbook, name)

    monkeypatch.setattr(store.triggers, "get", move_first)
    trigger = store.triggers.at_path("default", "a")
    assert (trigger and trigger.name, moves) == ("w", ["v"])


def test_subscribers_that_exceed_their_item_are_rejected(store: DynamoStore) -> None:
    with pytest.raises(RejectedError) as rejected:
        for number in range(40):
            register(store, run_end("e", f"{number} {'x' * 12_000}"), name=f"p{number}")
    assert rejected.value.reason == "too_large"
    assert rejected.value.message == "the triggers of playbook `p34` exceed an item of DynamoDB"
    assert len(store.triggers.find("default")[0]) == 34


def test_a_visit_of_due_entries_reads_a_bounded_number_of_pages(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_items, "PAGE_ITEMS", 2)
    for number in range(12):
        store.outbox.add(entry(f"n{number:02}", due_at=float(number)))
    store.outbox.add(entry("other", due_at=50.0, tenant="other"))
    query, requests = store.context.table.query_index, []

    def count(index: str, **request: Any) -> Any:
        requests.append(request["Limit"])
        return query(index, **request)

    monkeypatch.setattr(store.context.table, "query_index", count)
    kinds = [OutboxKind.NOTIFICATION]
    assert [found.id for found in store.outbox.due(kinds, 100.0, 1, {"default"})] == ["other"]
    assert requests[:2] == [1, 2]
    requests.clear()
    monkeypatch.setattr(due_items, "MAX_PAGES", 3)
    assert store.outbox.due(kinds, 100.0, 1, {"default"}) == []
    assert requests == [1, 2, 2]


def test_a_search_for_due_notifications_reads_the_items_that_it_returns(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_items, "PAGE_ITEMS", 4)
    for number in range(12):
        store.outbox.add(notification(number, "ops"))
    store.outbox.add(notification(12, "audit"))
    query, get_many = store.context.table.query_index, store.context.table.get_many
    limits, reads = list[int](), list[int]()

    def count_queries(index: str, **request: Any) -> Any:
        limits.append(request["Limit"])
        return query(index, **request)

    def count_items(places: Sequence[Any], *attributes: Any) -> Any:
        reads.append(len(places))
        return get_many(places, *attributes)

    monkeypatch.setattr(store.context.table, "query_index", count_queries)
    monkeypatch.setattr(store.context.table, "get_many", count_items)
    assert search(store, of_channel=2) == [0, 12, 1]
    assert (limits, reads) == ([1000], [3])
    limits.clear()
    assert search(store, of_channel=2, oldest=5, lanes={("default", lane_of("default", "ops"))}) == [12]
    assert limits == [5, 4, 4, 4]
    assert search(store, now=0.5) == []
    assert reads == [3, 1, 0]


def test_live_and_the_triggers_change_in_one_transaction(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, declare("t"), version="one", now=1.0)
    register(store, declare("u"), version="two", now=2.0)
    transactions: list[int] = []
    write = store.context.table.write

    def interfere(writes: Sequence[Write]) -> None:
        transactions.append(len(writes))
        if len(transactions) == 1:
            # Another process changes the playbook first. So this transaction writes nothing, and is repeated.
            monkeypatch.setattr(store.context.table, "write", write)
            register(store, declare("v"), version="three", now=3.0)
            monkeypatch.setattr(store.context.table, "write", interfere)
        write(writes)

    monkeypatch.setattr(store.context.table, "write", interfere)
    assert promote(store, "one")
    assert transactions == [3, 3]  # the item of the name, and both triggers
    assert [(t.name, t.version) for t in store.triggers.find("default")[0]] == [("t", "one")]
    assert store.registry.remove_alias("default", "p", "live", now=4.0)
    assert transactions == [3, 3, 3]
    assert [(t.name, t.version) for t in store.triggers.find("default")[0]] == [("v", "three")]
    assert findings_of(store) == []
