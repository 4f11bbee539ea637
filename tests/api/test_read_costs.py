"""Work of the reads of a long run, counted in statements, rows and characters that the store returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noetl.api.service.loop_items import ItemQuery
from noetl.api.service.loop_states import ItemState
from noetl.api.service.services import TenantServices, create_services
from noetl.executor.actions import catalogue
from noetl.executor.stores.sql import queue as sql_queue
from noetl.executor.stores.sql.run_times import EVERY
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.frozen import replace
from noetl.testing.run_harness import RunHarness

CYCLE = """
name: cycle
input: {rounds: integer}
steps:
  - name: a
    max_visits: 1000
    run: [{action: set, set: {n: "{{ (n | default(0)) + 1 }}"}}]
    rule: [{case: "{{ n < rounds }}", run: [a]}, {case: default, run: [b]}]
  - name: b
    loop: {items: "{{ range(1, 4) | list }}", on_error: continue}
    run: [{action: fail, message: "no {{ item }}"}]
"""

LOOP = """
name: loop
input: {count: integer}
steps:
  - name: b
    loop: {items: "{{ range(1, count + 1) | list }}", on_error: continue}
    run: [{action: fail, message: "no {{ item }}"}]
"""


@dataclass
class ReadWork:
    """Statements that a store has received, and rows and characters that it has returned."""

    statements: int = 0
    rows: int = 0
    characters: int = 0

    def is_within(self, factor: float, other: ReadWork) -> bool:
        """Return whether it is at most `factor` times another."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(mine <= factor * theirs for mine, theirs in pairs)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "noetl.db"))
    yield store
    store.close()


@pytest.fixture
def services(store: SqliteStore) -> TenantServices:
    return create_services(store, catalogue())


@pytest.fixture
def work(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> ReadWork:
    """Return what the reads of the store cost from now on."""
    work = ReadWork()

    def counted(method: Any) -> Any:
        def call(*arguments: Any, **values: Any) -> Any:
            result = method(*arguments, **values)
            rows = [{"text": result}] if isinstance(result, str) else [dict(row) for row in result]
            work.statements += 1
            work.rows += len(rows)
            work.characters += sum(len(str(value)) for row in rows for value in row.values())
            return result

        return call

    for name in ("fetch_all", "failures_part"):
        monkeypatch.setattr(store.file, name, counted(getattr(store.file, name)))
    return work


def measure(work: ReadWork, read: Any, *arguments: Any, **options: Any) -> ReadWork:
    """Return the work of a call that was made once before."""
    read(*arguments, **options)
    work.statements = work.rows = work.characters = 0
    read(*arguments, **options)
    return ReadWork(**vars(work))


def test_the_times_of_a_long_run_are_measured_from_a_checkpoint(
    services: TenantServices, store: SqliteStore, work: ReadWork
) -> None:
    costs = {}
    for rounds in (1, 95, 400):
        play = RunHarness(store, CYCLE, {"rounds": rounds}).finish()
        costs[rounds] = measure(work, services.data.details, play.id)
    assert costs[400].statements == costs[95].statements == costs[1].statements
    assert costs[400].rows <= costs[1].rows + 2 * EVERY
    assert costs[400].rows <= costs[95].rows + EVERY
    assert services.data.details(play.id).work_ms is not None


def test_the_first_reader_of_a_run_without_checkpoints_keeps_one(
    services: TenantServices, store: SqliteStore, work: ReadWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read a run of an earlier version, and one that has a checkpoint of it while it continues."""
    with monkeypatch.context() as patch:
        patch.setattr(sql_queue, "keep_times", lambda *_: None)
        play = RunHarness(store, CYCLE, {"rounds": 100})
        while play.visit_counts.get("a", 0) < 90:
            play.clock.advance(1)
            play.execute_next()
    services = create_services(store, catalogue(), clock=play.clock)
    first = services.data.details(play.id)
    again = measure(work, services.data.details, play.id)
    assert again.rows <= 3 * EVERY
    assert services.data.details(play.id).queued_ms == first.queued_ms
    play.finish()
    assert services.data.details(play.id).queued_ms == first.queued_ms == 89_000


@pytest.mark.parametrize("table", ["history set events", "run_times set body"])
@pytest.mark.parametrize("text", ["{", "[[1]]", "7"])
def test_damaged_times_stop_neither_a_run_nor_its_readers(
    services: TenantServices, store: SqliteStore, table: str, text: str
) -> None:
    play = RunHarness(store, CYCLE, {"rounds": 60})
    while play.visit_counts.get("a", 0) < 30:
        play.execute_next()
    with store.database.transaction() as db:
        db.execute(f"update {table} = :text where run_id = :run_id", text=text, run_id=play.id)
    assert services.data.details(play.id).work_ms is not None
    assert play.finish().status == "succeeded"
    assert services.data.details(play.id).work_ms is not None


@pytest.mark.parametrize("number", [1, 40, 80, None])
def test_a_visit_of_a_long_run_costs_what_one_of_a_short_run_does(
    services: TenantServices, store: SqliteStore, work: ReadWork, number: int | None
) -> None:
    short = RunHarness(store, CYCLE, {"rounds": 2}).finish()
    long = RunHarness(store, CYCLE, {"rounds": 80}).finish()
    few = measure(work, services.data.step, short.id, "a", 2)
    many = measure(work, services.data.step, long.id, "a", number)
    assert many.is_within(1.1, few)


def test_a_page_of_items_costs_the_same_in_a_long_run(
    services: TenantServices, store: SqliteStore, work: ReadWork
) -> None:
    query = ItemQuery("b", state=ItemState.FAILED)
    short = RunHarness(store, CYCLE, {"rounds": 1}).finish()
    long = RunHarness(store, CYCLE, {"rounds": 80}).finish()
    assert measure(work, services.items.page, long.id, query).is_within(
        1.1, measure(work, services.items.page, short.id, query)
    )


def test_a_page_of_items_costs_the_same_for_a_long_loop(
    services: TenantServices, store: SqliteStore, work: ReadWork
) -> None:
    """Compare pages of a short and of a long loop, of failed and of all items, also in batches."""
    for batch in ("", "batch: 100, "):
        text = LOOP.replace("on_error", f"{batch}on_error")
        first, second = (RunHarness(store, text, {"count": count}).finish() for count in (100, 3000))
        for state in (ItemState.FAILED, None):
            query = ItemQuery("b", state=state)
            short, long = (measure(work, services.items.page, play.id, query) for play in (first, second))
            assert long.is_within(1.25, short)
            while cursor := services.items.page(second.id, query).next_cursor:
                query = replace(query, cursor=cursor, limit=100 if query.cursor else 2800)
            assert measure(work, services.items.page, second.id, query).is_within(1.25, short)


def test_the_first_page_of_a_long_loop_reads_a_bounded_history(
    services: TenantServices, store: SqliteStore, work: ReadWork
) -> None:
    """Compare loops whose failed items have more text than the history keeps."""
    plays = [RunHarness(store, LOOP, {"count": count}).finish() for count in (300, 3000)]
    costs = []
    for play in plays:
        work.statements = work.rows = work.characters = 0
        services.items.page(play.id, ItemQuery("b", state=ItemState.FAILED))
        costs.append(ReadWork(**vars(work)))
    assert costs[1].is_within(1.1, costs[0])
