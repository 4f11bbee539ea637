"""The contract of stores on SQLite, and failures of its file."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from noetl.executor.errors import ChangedSchemaError, DamagedRunError, SchemaError, SettingError, StoreError
from noetl.executor.model.cached_results import CacheFilter
from noetl.executor.model.gates import named_gate
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.metrics import FactKind
from noetl.executor.model.outbox import NotificationSearch, OutboxKind, Subscribers
from noetl.executor.model.run import RunEnding, RunStatus, WaitKey
from noetl.executor.model.run_filter import OPEN_STATUSES, RunFilter
from noetl.executor.stores import open_store
from noetl.executor.stores.cursors import (
    SlotPlace,
    write_cursor,
    write_key_cursor,
    write_slot_cursor,
    write_wait_cursor,
)
from noetl.executor.stores.plan_uses import TOUCH_SECONDS, UNUSED_SECONDS
from noetl.executor.stores.sql import cached_results, facts, playbooks, run_deletion
from noetl.executor.stores.sql import maintenance as sql_maintenance
from noetl.executor.stores.sql.triggers import replace_triggers
from noetl.executor.stores.sqlite import file, file_identity, log_flush, maintenance
from noetl.executor.stores.sqlite.file import SCHEMA_VERSION, SCRIPTS, STATEMENTS, SqliteFile
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.plan import Plan
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract import FactsContract, MaintenanceContract, StoreContract, SwitchesContract
from noetl.testing.store_contract.aliases import promote
from noetl.testing.store_contract.cached_results import ONE_STEP, make_request, save_result
from noetl.testing.store_contract.gates import hold, queue_up
from noetl.testing.store_contract.operations import (
    LEASE,
    claim_visit,
    end_run,
    failed_checks,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
)
from noetl.testing.store_contract.plan_deletion import save_plan, start_saved
from noetl.testing.store_contract.trigger_lookups import webhook
from noetl.testing.store_contract.triggers import declare, read_trigger, register
from tests.contract.earlier_waits import EARLIER_WAITS
from tests.contract.payload_poison import RUN_DATA, check_payloads_are_not_read
from tests.contract.sql_damage import SqlDamage

LIMIT = 4096


class TestSqlite(
    StoreContract,
    SwitchesContract,
    FactsContract,
    MaintenanceContract,
):
    limits = PayloadLimits(payload_bytes=LIMIT, answer_bytes=LIMIT)
    damage = SqlDamage()

    @pytest.fixture
    def store(self, sqlite_file: Path) -> Iterator[SqliteStore]:
        opened = SqliteStore(str(sqlite_file), limits=PayloadLimits(LIMIT, LIMIT))
        yield opened
        opened.close()

    @pytest.fixture
    def second(self, store: SqliteStore) -> Iterator[SqliteStore]:
        opened = SqliteStore(str(store.path), create=False)
        yield opened
        opened.close()


WORD = "a long text"


def test_open_refuses_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and long enough to be looked at as one" * 10)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"notes\.txt cannot be opened: file is not a database"):
        SqliteStore(str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("create", [False, True])
def test_the_database_of_another_program_is_left_alone(tmp_path: Path, create: bool, journal: str) -> None:
    path = tmp_path / "music.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"pragma journal_mode = {journal}")
        db.execute("create table songs (title)")
        db.execute("pragma user_version = 2")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"music\.db is a database of another program: name another file"):
        SqliteStore(str(path), create=create)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_open_upgrades_a_store_of_an_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    db = sqlite3.connect(path)
    db.executescript(files("noetl.executor.stores.sqlite").joinpath("schema.sql").read_text("utf-8"))
    db.execute("insert into playbooks values ('default', 'a', '1', 1, 'hash', 1.0, null)")
    db.execute(
        "insert into visits (run_id, id, step, queue, status, position, clock, names, number, due_at, saved)"
        " values ('run', 'visit', 'a', 'service', 'succeeded', 0, 1, '{}', 1, 1.0, '{\"x\":1}')"
    )
    db.execute("insert into tokens values ('hash', 'run', 'visit', 'wait')")
    db.execute("pragma user_version = 2")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(
        SchemaError, match=r"has schema 2, and this version of noetl needs .* `noetl db upgrade"
    ):
        SqliteStore(str(path), create=False)
    assert path.read_bytes() == before
    store = SqliteStore(str(path))
    assert not store.keys.any_exist()
    (playbook,) = store.registry.find("default")[0]
    assert (playbook.name, playbook.registered_at, playbook.registered_by) == ("a", 1.0, None)
    (visit,) = store.runs.visits_with_outputs("run")
    assert (visit.step, visit.saved, visit.failures) == ("a", {"x": 1}, ())
    assert store.file.fetch_one("select fields from tokens")["fields"] is None
    store.close()
    again = SqliteStore(str(path))
    assert again.file.fetch_one("pragma user_version")[0] == SCHEMA_VERSION
    again.close()


def test_a_plan_of_an_earlier_version_is_deleted_an_hour_after_it_is_found(tmp_path: Path) -> None:
    """A worker of an earlier version, which may still work on the store, writes no time of use."""
    with closing(SqliteStore(str(tmp_path / "noetl.db"), retention_seconds=1.0)) as store:
        plan, now = save_plan(store, "a"), store.clock()
        with store.file.transaction() as db:
            db.execute("update plans set used_at = 0")
        assert store.maintenance.delete_old(now) is False
        assert store.plans.get(plan.hash).hash == plan.hash
        assert store.maintenance.delete_old(now + UNUSED_SECONDS + 1) is False
        with pytest.raises(StoreError):
            store.plans.get(plan.hash)


def test_unused_plans_are_found_by_indexes(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"), retention_seconds=1.0)) as store:
        start_run(store)
        save_plan(store, "unused")
        db = store.file.connection()
        queries = trace_queries(db, partial(store.maintenance.delete_old, store.clock() + UNUSED_SECONDS + 1))
        searches = [query for query in queries if "plan" in query]
        # The plans are found. One is deleted with its parts, and the other is examined.
        assert len(searches) == 1 + 2 + 2
        for query in searches:
            plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
            assert not [line for line in plan if line.startswith("SCAN") and "json_each" not in line], query


def test_starts_of_a_plan_seldom_write_its_use(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db = store.file.connection()
        plan = save_plan(store, "a")
        start_saved(store, plan, "first")
        for number in range(3):
            queries = trace_queries(db, partial(start_saved, store, plan, f"run{number}"))
            assert begin_of_queries(queries, "plans") == ["insert into runs"]
        assert trace_queries(db, partial(store.plans.save, plan)) == []
        SqlDamage().age_plans(store, TOUCH_SECONDS + 1.0)
        queries = trace_queries(db, partial(start_saved, store, plan, "later"))
        assert begin_of_queries(queries, "plans") == ["update plans set", "insert into runs"]


def test_a_fold_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "MAX_FOLDED", 2)
    monkeypatch.setattr(facts, "MAX_FOLDS", 2)
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        for _ in range(5):
            start_run(store)
        for count in (4, 5):
            metrics = store.facts.read("default", 0.0)
            assert metrics is not None
            assert [total.count for total in metrics.totals] == [count]


def begin_of_queries(queries: Sequence[str], table: str) -> list[str]:
    """Return the first three words of the queries that name a table."""
    return [" ".join(query.split()[:3]) for query in queries if table in query]


def test_queries_for_active_visits_use_an_index(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "noetl.db"))
    db = store.file.connection()
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    run = start_run(store)
    claim = claim_visit(store, run)
    store.queue.commit(succeed(store, claim), 1.0)
    store.runs.get("default", run.id)
    store.queue.next_due("service")
    store.queue.release_dead("service", 1.0)
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    db.set_trace_callback(None)
    searches = [text for text in statements if STATEMENTS.fragment("active") in text]
    assert len(searches) >= 6
    for text in searches:
        plan = [row["detail"] for row in db.execute(f"explain query plan {text}")]
        assert not [line for line in plan if "SCAN visits" in line or line.endswith("visits_1 (run_id=?)")], (
            text
        )
    store.close()


LISTS = (
    (RunFilter(), "runs_newest"),
    (RunFilter(since=1.0), "runs_newest"),
    (RunFilter(statuses=(RunStatus.FAILED,)), "runs_by_status"),
    (RunFilter(statuses=(RunStatus.RUNNING,)), "runs_by_status"),
    (RunFilter(statuses=(RunStatus.WAITING,)), "runs_live"),
    (RunFilter(playbook="play"), "runs_of_playbook"),
    (RunFilter(tags=("x",)), "PRIMARY KEY (tenant=? AND tag=?"),
    (
        RunFilter(tags=("x",), statuses=(RunStatus.FAILED,), playbook="play"),
        "PRIMARY KEY (tenant=? AND tag=?",
    ),
    (RunFilter(parent="p"), "runs_children"),
    (RunFilter(since=1.0, until=9.0, is_oldest_first=True), "runs_newest"),
    (RunFilter(statuses=tuple(OPEN_STATUSES)), "runs_live"),
    (RunFilter(statuses=(RunStatus.FAILED,), is_oldest_first=True), "runs_by_status"),
    (RunFilter(tags=("x",), is_oldest_first=True), "PRIMARY KEY (tenant=? AND tag=?"),
)


def test_lists_of_runs_use_an_index(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db = store.file.connection()
        start_run(store, tags=["x"])
        for run_filter, index in LISTS:
            for cursor in (None, write_cursor(5.0, "r")):
                page = replace(run_filter, cursor=cursor)
                (query,) = trace_queries(db, partial(store.runs.find, page))
                plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
                assert index in plan[0], plan
                assert not [line for line in plan if "SCAN" in line and "CONSTANT" not in line], plan
                if run_filter.parent is None:
                    assert not [line for line in plan if "TEMP B-TREE" in line], plan


def test_the_status_of_a_run_reads_its_visits_from_an_index(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        run = start_run(store)
        db = store.file.connection()
        status = partial(store.runs.overview, "default", run.id)
        page = partial(store.visits.overviews, "default", [run.id])
        for read in (status, page):
            _, query = trace_queries(db, read)
            plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
            assert any("COVERING INDEX visits_of_steps (run_id=?)" in line for line in plan), plan
            assert any("visits_of_steps (run_id=? AND step=? AND position=?)" in line for line in plan), plan
            assert read is page or not [line for line in plan if "TEMP B-TREE" in line], plan


def test_a_page_of_open_waits_uses_an_index(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db = store.file.connection()
        start_waiting_run(store)
        for cursor in (None, write_wait_cursor(-1.0, WaitKey("r", "v", "w"))):
            queries = trace_queries(db, partial(store.waits.find_open, "default", cursor=cursor))
            assert len(queries) == 2
            for query in queries:
                plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
                assert "waits_open" in plan[0], plan
                assert not [line for line in plan if "SCAN" in line or "TEMP B-TREE" in line], plan


@pytest.mark.skipif(sqlite3.sqlite_version_info < (3, 43), reason="SQLite reads a text for its length")
def test_the_places_of_open_waits_are_read_without_journals(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db = store.file.connection()
        (query,) = trace_queries(db, partial(store.waits.find_open, "default"))
        columns = [row["name"] for row in db.execute("pragma table_info(visits)")]
        page = db.execute("select rootpage from sqlite_schema where name = 'visits'").fetchone()[0]
        code = db.execute(f"explain {query}").fetchall()
        (cursor,) = (row["p1"] for row in code if row["opcode"] == "OpenRead" and row["p2"] == page)
        place = (cursor, columns.index("progress"))
        reads = [row for row in code if row["opcode"] == "Column" and (row["p1"], row["p2"]) == place]
        # The flag of `octet_length`, which reads the header of a row only.
        assert reads and all(row["p5"] & 0xC0 == 0xC0 for row in reads)


def test_an_earlier_version_of_sqlite_measures_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 42, 0))
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db = store.file.connection()
        measured = db.execute("select octet_length(null), octet_length('aé')").fetchone()
        assert tuple(measured) == (None, 3)


def test_gates_and_slots_are_found_by_indexes(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        gates, key = store.gates, named_gate("default", "api")
        cursors = [write_slot_cursor(SlotPlace(number, "f", 0.0, 1.0, "r", "v")) for number in range(2)]
        reads = (
            (partial(gates.gate, key), "PRIMARY KEY (tenant=? AND id=?)"),
            (partial(gates.stalled, 9), "gates_stalled"),
            (partial(gates.grant, key, 1.0), "slots_queue (gate_id=? AND gate_tenant=? AND flow=?)"),
            (partial(gates.slots_of, "r"), "PRIMARY KEY (run_id=?)"),
            (partial(gates.slots_of, "r", "v"), "PRIMARY KEY (run_id=? AND visit_id=?)"),
            (partial(gates.slots_at, key), "slots_held (gate_id=? AND gate_tenant=?"),
            (partial(gates.slots_at, key, cursor=cursors[0]), "held_at>?"),
            (partial(gates.slots_at, key, cursor=cursors[1]), "(flow,rank,queued_at)>(?,?,?)"),
            (partial(gates.find, "default", named=True), "PRIMARY KEY (tenant=? AND id>? AND id<?)"),
        )
        db = store.file.connection()
        for read, index in reads:
            query, *_ = trace_queries(db, read)
            plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
            assert any(index in line for line in plan), plan
            # What is stalled is few, and `head` is one row.
            scans = {line for line in plan if "SCAN" in line} - {"SCAN head"}
            assert scans <= {"SCAN gates USING INDEX gates_stalled"}, plan
            assert not [line for line in plan if "TEMP B-TREE" in line], plan


def test_the_slots_of_a_page_of_runs_are_found_by_indexes(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db, run = store.file.connection(), hold(store).run
        waiting = queue_up(store).run
        slots, flows = trace_queries(db, partial(store.gates.queued_slots, [run.id, waiting.id], 1.0))
        for query, indexes in (
            (slots, ("PRIMARY KEY (run_id=?)", "slots_queue (gate_id=? AND gate_tenant=? AND flow=? AND")),
            (flows, ("PRIMARY KEY (gate_tenant=? AND gate_id=?)", "PRIMARY KEY (run_id=?)")),
        ):
            plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
            for index in indexes:
                assert any(index in line for line in plan), plan
            assert not [line for line in plan if re.search("SCAN (slots|gates|flows)", line)], plan


def test_triggers_and_entries_are_found_by_indexes(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db = store.file.connection()
        cursor = write_key_cursor("5")
        for operation, index in (
            (partial(store.triggers.at_path, "default", "a"), "triggers_path (tenant=? AND path=?)"),
            (partial(store.triggers.awaiting, "default", "p"), "triggers_awaits (tenant=? AND awaits=?)"),
            (partial(store.outbox.subscribers, "default", "p"), "triggers_awaits (tenant=? AND awaits=?)"),
            (partial(store.outbox.due, [OutboxKind.LATE], 1.0, 9), "outbox_due (kind=? AND due_at<?)"),
            (partial(store.outbox.find, "default", OutboxKind.LATE), "outbox_position (tenant=? AND kind=?)"),
            (partial(store.outbox.find, "default", OutboxKind.LATE, cursor=cursor), "position<?"),
        ):
            (query,) = trace_queries(db, operation)
            plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
            assert any(index in line for line in plan), plan
            assert not [line for line in plan if "SCAN" in line and "CONSTANT" not in line], plan


def test_a_search_for_due_notifications_reads_keys_of_an_index(tmp_path: Path) -> None:
    # Only those that are returned are read from the table.
    search = NotificationSearch(1.0, 9, 9, 9, {"t"}, {("t", "00000000")})
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        db = store.file.connection()
        (query,) = trace_queries(db, partial(store.outbox.due_notifications, search))
        plan = [row["detail"] for row in db.execute(f"explain query plan {query}")]
    reads = sorted(line for line in plan if "outbox" in line)
    assert reads == [
        "SEARCH outbox USING COVERING INDEX outbox_due (kind=? AND due_at<?)",
        "SEARCH outbox USING PRIMARY KEY (tenant=? AND id=?)",
    ]


@pytest.mark.parametrize("is_removed", [False, True])
def test_an_interrupted_change_of_live_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    """The process fails after it has written the triggers of the other version, before its commit."""
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        register(store, declare("t"), version="one", now=0.0)
        if is_removed:
            assert promote(store, "one")
        register(store, declare("u"), version="two", now=1.0)
        before = (store.triggers.find("default"), store.registry.aliases("default", ["p"]))
        live = store.registry.get("default", "p", alias="live")

        with monkeypatch.context() as patch:
            patch.setattr(playbooks, "replace_triggers", partial(_fail_after, replace_triggers))
            with pytest.raises(StoreError, match="interrupted"):
                if is_removed:
                    store.registry.remove_alias("default", "p", "live", now=5.0)
                else:
                    promote(store, "one")
        assert (store.triggers.find("default"), store.registry.aliases("default", ["p"])) == before
        assert store.registry.get("default", "p", alias="live") == live


def _fail_after(function: Callable[..., object], *arguments: Any) -> None:
    function(*arguments)
    raise StoreError("interrupted")


def test_an_upgrade_keeps_triggers(tmp_path: Path) -> None:
    """A trigger that was stored before there were webhooks has neither a path nor awaited ends."""
    path = tmp_path / "noetl.db"
    with closing(SqliteStore(str(path))) as store:
        register(store, declare())
        trigger = read_trigger(store)
        record = {name: value for name, value in trigger.to_json().items() if name not in ("path", "awaits")}
    with closing(sqlite3.connect(path)) as db:
        db.execute("drop index triggers_path")
        db.execute("drop index triggers_awaits")
        for statement in (
            "alter table triggers drop column path",
            "alter table triggers drop column awaits",
            "drop table outbox",
            "drop table channels",
            "drop table aliases",
            "drop table gates",
            "drop table slots",
            "drop table flows",
            "drop table debounced",
            "drop table deletions",
            "drop table cascades",
            "alter table runs drop column starts",
            "drop trigger run_data_of_deleted_runs",
            "drop table run_data",
            *(f"alter table runs add column {name} text not null default '{{}}'" for name in RUN_DATA),
        ):
            db.execute(statement)
        db.execute("update triggers set record = ?", [json.dumps(record)])
        db.execute("pragma user_version = 26")
        db.commit()
    with closing(SqliteStore(str(path))) as store:
        assert read_trigger(store) == trigger
        assert store.outbox.subscribers("default", "p") == Subscribers()
        register(store, webhook("t", "a"), now=1.0)
        assert store.triggers.at_path("default", "a") == read_trigger(store)


def test_an_upgrade_lists_open_waits_of_runs_that_have_not_ended(tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    with closing(create_earlier(path, 20)) as db:
        for statement in EARLIER_WAITS:
            db.execute(statement)
        db.commit()
    with closing(SqliteStore(str(path))) as store:
        assert [wait.key.run_id for wait in store.waits.find_open("default")[0]] == ["open"]


def test_lists_and_the_status_read_no_payload(tmp_path: Path) -> None:
    check_payloads_are_not_read(SqliteStore(str(tmp_path / "noetl.db")))


def create_earlier(path: Path, version: int) -> sqlite3.Connection:
    """Return a connection to a new file with the schema of an earlier version."""
    db = sqlite3.connect(path)
    for number, script in SCRIPTS.items():
        if number <= version:
            db.executescript(files("noetl.executor.stores.sqlite").joinpath(script).read_text("utf-8"))
    db.execute(f"pragma user_version = {version}")
    return db


def test_an_upgrade_keeps_runs_and_finds_them_by_their_tags(tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    db = create_earlier(path, 11)
    db.execute(
        "insert into runs (id, tenant, playbook, plan_hash, status, origin, queue, input, environment,"
        " variables, tags, created_at, live, result, trace, stack) values ('r', 'default', 'p', 'h',"
        " 'succeeded', 'service', 'service', '{\"i\":1}', '{\"e\":2}', '{\"v\":3}',"
        " '[\"x\",\"\\u00e9\",\"x\"]', 1.0, 0, '4', 't', null)"
    )
    db.commit()
    db.close()
    with closing(SqliteStore(str(path))) as store:
        run = store.runs.get("default", "r")
        assert run is not None
        values = (run.input, run.environment, run.variables, run.tags, run.result, run.trace)
        assert values == ({"i": 1}, {"e": 2}, {"v": 3}, ("x", "é", "x"), 4, "t")
        for tag, count in (("x", 1), ("é", 1), ("y", 0)):
            assert len(store.runs.find(RunFilter(tags=(tag,)))[0]) == count


def test_an_upgrade_keeps_every_value_of_a_run(tmp_path: Path) -> None:
    """The table of runs is copied, and its data moves to another one."""
    path = tmp_path / "noetl.db"
    values: dict[str, Any] = {
        "id": "r", "tenant": "t", "playbook": "p", "version": "7", "plan_hash": "h", "status": "failed",
        "origin": "service", "queue": "q", "tags": '["x"]', "folder": "/f", "source": "s", "parent_run": "pr",
        "parent_visit": "pv", "parent_wait": "pw", "depth": 2, "root": "rt", "resumed_from": "rf",
        "trace": "tr", "created_at": 1.0, "started_at": 2.0, "finished_at": 3.0, "deadline_at": 4.0,
        "live": 5, "failed_branches": 6, "stop": "failed", "resumes": 8, "seq": 9,
        "error": '{"message": "e"}', "stack": "[]", "environment": '{"e": 1}',
        "variables": '{"v": 2}', "input": '{"i": 3}',
        "errors": '[{"message": "es"}]', "result": "4", "trigger": '{"name": "g"}', "starts": 10,
    }  # fmt: skip
    with closing(create_earlier(path, 34)) as db:
        columns = ", ".join(values)
        db.execute(
            f"insert into runs ({columns}) values ({', '.join('?' * len(values))})", [*values.values()]
        )
        db.commit()
    with closing(SqliteStore(str(path))) as store:
        row = dict(store.file.fetch_one("runs.read", run_id="r"))
        assert row == {**values, "run_id": "r"}
        run = store.runs.get("t", "r")
        assert run is not None
        assert (run.input, run.environment, run.variables) == ({"i": 3}, {"e": 1}, {"v": 2})


def test_an_upgrade_stops_the_writes_of_a_process_that_uses_the_store(tmp_path: Path) -> None:
    """Statements of the earlier schema would set runs aside as damaged."""
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        run = start_run(store)
        with closing(sqlite3.connect(tmp_path / "noetl.db")) as db:
            db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
        for operation in (
            partial(claim_visit, store, run),
            partial(start_run, store),
            store.maintenance.probe,
        ):
            with pytest.raises(ChangedSchemaError, match="Restart this process with the later version"):
                operation()
        assert store.runs.get(run.tenant, run.id) is not None
        with closing(sqlite3.connect(tmp_path / "noetl.db")) as db:
            db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        assert claim_visit(store, run).run.id == run.id


def test_lost_data_of_runs_is_found(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        run, deleted = start_run(store), start_run(store)
        with store.file.transaction() as db:
            db.execute("delete from run_data where run_id = :id", id=run.id)
            db.execute("insert into run_data values ('lost', '{}', '{}', '{}')")
            db.execute("delete from visits where run_id = :id", id=deleted.id)
            db.execute("delete from runs where id = :id", id=deleted.id)
        findings = {
            (finding.check, finding.message, finding.run_id)
            for finding in store.maintenance.check_consistency()
        }
        lost = f"run {run.id} has lost its input, environment and variables; restore a copy of the store"
        assert ("lost data", lost, run.id) in findings
        assert ("unknown runs", "`run_data` has rows of unknown run lost", "lost") in findings
        assert not [
            row for row in store.file.fetch_all("select run_id from run_data") if row[0] == deleted.id
        ]
        with pytest.raises(DamagedRunError, match="cannot be read"):
            store.runs.get(run.tenant, run.id)


def test_unused_gates_are_deleted_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_maintenance, "MAX_DELETED_GATES", 2)
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        with store.file.transaction() as db:
            for number in range(5):
                db.execute(
                    "insert into gates (id, tenant, name, units, held, waiting, ceiling, edition, clock,"
                    " rate, idle_at) values (:id, 't', 'p', 1, 0, 0, 1, 1, 0, '[]', :idle_at)",
                    id=f"own:p:{number}",
                    idle_at=float(number),
                )
        statements = trace_queries(store.file.connection(), partial(store.maintenance.sweep, 3.0))
        assert sum(text.startswith("delete from gates") for text in statements) == 3
        assert store.file.fetch_one("select count(*) as left from gates")["left"] == 1


def test_cached_results_are_cleared_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_results, "MAX_CLEARED", 2)
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        claim = claim_visit(store, start_run(store, ONE_STEP))
        for number in range(6):
            playbook = "kept" if number == 2 else "play"
            save_result(store, make_request(claim, f"d{number}", playbook=playbook))
        cleared: list[int] = []

        def clear() -> None:
            cleared.append(store.cache.clear(CacheFilter("default", playbook="play")))

        statements = trace_queries(store.file.connection(), clear)
        assert cleared == [5]
        assert statements.count("begin immediate") == 3
        assert [entry.digest for entry in store.cache.find(CacheFilter("default"), 2.0, 10)] == ["d2"]


def test_an_upgrade_finds_runs_by_the_keys_of_their_tags(tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    with closing(create_earlier(path, 18)) as db:
        db.execute(
            "insert into runs (id, tenant, playbook, plan_hash, status, origin, queue, input, environment,"
            " variables, tags, created_at, live) values ('r', 'default', 'p', 'h', 'succeeded', 'service',"
            " 'service', '{}', '{}', '{}', '[\"env=prod\",\"=x\",\"plain\"]', 1.0, 0)"
        )
        for tag in ("env=prod", "=x", "plain"):
            db.execute("insert into run_tags values ('default', ?, 1.0, 'r')", [tag])
        db.commit()
    with closing(SqliteStore(str(path))) as store:
        for tag, count in (("env", 1), ("env=prod", 1), ("=x", 1), ("", 0), ("plain", 1), ("prod", 0)):
            found = store.runs.find(RunFilter(tags=(tag,)))[0]
            assert [found_run.id for found_run in found] == ["r"] * count


def trace_queries(db: sqlite3.Connection, operation: Callable[[], object]) -> list[str]:
    """Return the statements of an operation, with their values."""
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    operation()
    db.set_trace_callback(None)
    return statements


def test_open_reports_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(StoreError, match=r"/proc/noetl\.db cannot be opened"):
        SqliteStore("/proc/noetl.db")
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteStore("/dev/null/folder/noetl.db")


def test_a_write_to_a_read_only_file_is_reported(tmp_path: Path) -> None:
    """A user with all rights could write anyway, so the connection is made read-only."""
    path = tmp_path / "noetl.db"
    SqliteStore(str(path)).close()
    store = SqliteStore(str(path))
    store.file.connection().execute("pragma query_only = on")
    with pytest.raises(StoreError, match="attempt to write a readonly database"):
        start_run(store)
    store.close()


def test_open_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened: Is a directory"):
        SqliteStore(str(tmp_path))


def test_open_without_create_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store at"):
        SqliteStore(str(tmp_path / "folder" / "noetl.db"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_git_ignores_a_folder_created_for_a_store(tmp_path: Path) -> None:
    SqliteStore(str(tmp_path / ".noetl" / "noetl.db")).close()
    assert (tmp_path / ".noetl" / ".gitignore").read_text() == "*\n"
    SqliteStore(str(tmp_path / "noetl.db")).close()
    assert not (tmp_path / ".gitignore").exists()


@pytest.mark.parametrize(
    "url", ["", "sqlite:", "sqlite://", "sqlite:///", "noetl.db", "mysql://x", "sqlite://x.db"]
)
def test_invalid_urls_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_STORE", url or "nothing")
    with pytest.raises(SettingError, match="NOETL_STORE, or --store"):
        open_store()


def test_the_message_about_an_invalid_url_hides_the_password() -> None:
    with pytest.raises(SettingError) as raised:
        open_store("postgress://user:hunter2@localhost/noetl")
    assert "hunter2" not in str(raised.value)


def test_valid_urls_open_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOETL_STORE", raising=False)
    for url, path in (
        (None, ".noetl/noetl.db"),
        ("sqlite:///a.db", "a.db"),
        (f"sqlite:///{tmp_path}/b.db", "b.db"),
    ):
        open_store(url).close()
        assert (tmp_path / path).is_file()


def test_a_commit_is_on_the_disk_before_workers_are_notified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def flush(log: int) -> None:
        assert os.path.samestat(os.fstat(log), os.stat(f"{tmp_path}/noetl.db-wal"))
        with closing(sqlite3.connect(tmp_path / "noetl.db")) as reader:
            assert reader.execute("select * from written").fetchall() == []
        done.append("flushed")

    with closing(SqliteFile(str(tmp_path / "noetl.db"))) as opened:
        monkeypatch.setattr(log_flush, "flush_file", flush)
        with opened.transaction(lambda: done.append("notified")):
            opened.connection().execute("create table written (value)")
    assert done == ["flushed", "notified"]


def test_a_log_that_cannot_be_opened_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    path = str(tmp_path / "noetl.db")
    with monkeypatch.context() as patch:
        patch.setattr(log_flush.LogFlush, "open", lambda _, path: fail(path))
        with pytest.raises(StoreError, match="Too many open files"):
            SqliteFile(path)
    SqliteFile(path).close()


def test_a_disk_that_fails_after_a_commit_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with closing(SqliteFile(str(tmp_path / "noetl.db"))) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(log_flush, "flush_file", fail)
            with pytest.raises(StoreError, match="Input/output error"), opened.transaction(pytest.fail):
                pass
            with pytest.raises(StoreError, match="Input/output error"):
                opened.probe()
        opened.probe()


def test_a_large_plan_is_saved_by_two_statements(tmp_path: Path) -> None:
    """Each statement waits for its turn among the threads of Python while all other writers wait for it."""
    plan = compile_chain(100)
    with closing(SqliteStore(str(tmp_path / "store.db"))) as store:
        executed: list[str] = []
        store.file.connection().set_trace_callback(executed.append)
        store.plans.save(plan)
        assert sum(text.startswith("insert") for text in executed) == 2
        assert store.plans.get(plan.hash) == plan


def compile_chain(length: int) -> Plan:
    """Return the plan of steps that log, one after the other."""
    steps = [
        {
            "name": f"s{number}",
            "run": [{"action": "log", "message": "x"}],
            "rule": [{"case": "default", "run": [f"s{number + 1}"] if number < length - 1 else []}],
        }
        for number in range(length)
    ]
    return compile_text(json.dumps({"name": "large", "steps": steps}))


def test_other_writers_may_write_between_the_parts_of_a_large_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteFile, "max_plan_parts", 10)
    plan = compile_chain(95)
    with closing(SqliteStore(str(tmp_path / "store.db"))) as store:
        statements = trace_queries(store.file.connection(), partial(store.plans.save, plan))
        assert statements.count("begin immediate") == 11
        assert store.plans.get(plan.hash) == plan


@pytest.mark.parametrize("transactions", range(1, 11))
def test_parts_that_are_deleted_while_their_plan_is_saved_are_added_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    """A sweep cannot tell them from those of a process that has ended."""
    monkeypatch.setattr(SqliteFile, "max_plan_parts", 10)
    plan = compile_chain(95)
    with closing(SqliteStore(str(tmp_path / "store.db"))) as store:
        begin, begun = store.file.transaction, 0

        def sweep_before(after_commit: Callable[[], object] = lambda: None) -> Any:
            nonlocal begun
            begun += 1
            if begun == transactions + 1:
                store.maintenance.sweep(store.clock())
                assert store.file.fetch_one("plans.count_parts", hash=plan.hash)["parts"] == 0
            return begin(after_commit)

        monkeypatch.setattr(store.file, "transaction", sweep_before)
        store.plans.save(plan)
        assert begun > transactions
        assert store.plans.get(plan.hash) == plan


def begin_deletions(store: SqliteStore, plan: Plan, action: Callable[[int], None]) -> None:
    """Delete a plan that is old, and call action(number) before each transaction that deletes some of it."""
    store.plans.save(plan)
    with store.file.transaction() as db:
        db.execute("update plans set used_at = 1.0")
    begin, count = store.file.transaction, itertools.count()

    def act_before(after_commit: Callable[[], object] = lambda: None) -> Any:
        action(next(count))
        return begin(after_commit)

    with patch.object(store.file, "transaction", act_before):
        store.maintenance.delete_old(store.clock())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteFile, "max_plan_parts", 10)


@pytest.mark.usefixtures("small_parts")
def test_other_writers_may_write_between_the_deletions_of_parts(tmp_path: Path) -> None:
    plan = compile_chain(95)
    numbers: list[int] = []
    with closing(SqliteStore(str(tmp_path / "store.db"), retention_seconds=1.0)) as store:
        begin_deletions(store, plan, numbers.append)
        assert numbers == [*range(10)]
        assert store.file.fetch_one("plans.count_parts", hash=plan.hash)["parts"] == 0


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("transactions", range(1, 10))
def test_a_plan_that_is_deleted_in_part_is_not_used(tmp_path: Path, transactions: int) -> None:
    plan, path = compile_chain(95), str(tmp_path / "store.db")

    def end(number: int) -> None:
        if number == transactions:
            raise KeyboardInterrupt

    with closing(SqliteStore(path, retention_seconds=1.0)) as store:
        with pytest.raises(KeyboardInterrupt):
            begin_deletions(store, plan, end)
        assert store.file.fetch_one("plans.count_parts", hash=plan.hash)["parts"] == 95 - 10 * transactions
    with closing(SqliteStore(path)) as store:
        with pytest.raises(StoreError, match="no plan"):
            start_saved(store, plan, "refused")
        assert not store.plans.exists(plan.hash)
        if transactions % 2:
            store.maintenance.sweep(store.clock())
            assert store.file.fetch_one("plans.count_parts", hash=plan.hash)["parts"] == 0
        store.plans.save(plan)
        assert store.plans.get(plan.hash) == plan


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("transactions", range(10))
def test_a_plan_that_is_saved_while_its_parts_are_deleted_is_kept(tmp_path: Path, transactions: int) -> None:
    plan, path = compile_chain(95), str(tmp_path / "store.db")
    with (
        closing(SqliteStore(path, retention_seconds=1.0)) as store,
        closing(SqliteStore(path)) as other,
    ):

        def save(number: int) -> None:
            if number == transactions:
                other.plans.save(plan)

        begin_deletions(store, plan, save)
        assert other.plans.get(plan.hash) == plan
        store.maintenance.sweep(store.clock())
        assert other.plans.get(plan.hash) == plan


def test_abandoned_parts_of_a_plan_are_deleted_once_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, abandoned = compile_chain(3), compile_chain(4)
    with closing(SqliteStore(str(tmp_path / "store.db"))) as store:
        store.plans.save(plan)

        def abandon() -> None:
            with store.file.transaction() as db:
                parts = json.dumps([["step", 0, "s0", "{}"]])
                db.execute("plans.add_parts", hash=abandoned.hash, parts=parts)

        def count_abandoned() -> int:
            count: int = store.file.fetch_one("plans.count_parts", hash=abandoned.hash)["parts"]
            return count

        abandon()
        store.maintenance.sweep(store.clock())
        assert count_abandoned() == 0
        abandon()
        store.maintenance.sweep(store.clock())
        assert count_abandoned() == 1
        later = time.monotonic() + maintenance.ABANDONED_PAUSE_SECONDS
        monkeypatch.setattr(time, "monotonic", lambda: later)
        store.maintenance.sweep(store.clock())
        assert count_abandoned() == 0
        assert store.plans.get(plan.hash) == plan


def test_steps_do_not_write_the_input_of_their_run(tmp_path: Path) -> None:
    given = {"rows": ["x" * 90] * 10_000}
    text = "name: a\ninput: {rows: array}\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]"
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        run = start_run(store, text, input=given)
        before = (tmp_path / "noetl.db-wal").stat().st_size
        claim = claim_visit(store, run)
        assert claim.run.input == given
        store.queue.commit(succeed(store, claim), 1.0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        assert (tmp_path / "noetl.db-wal").stat().st_size - before < 200_000
        assert store.runs.get(run.tenant, run.id) is not None


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "noetl.db"))
    run = start_run(store)
    claim = claim_visit(store, run)
    db = store.file.connection()
    pages = db.execute("pragma page_count").fetchone()[0]
    db.execute(f"pragma max_page_count = {pages}")
    for _ in range(2):
        with pytest.raises(StoreError, match="database or disk is full"):
            store.queue.commit(succeed(store, claim, saved={"n": "x" * 100_000}), 1.0)
    db.execute("pragma max_page_count = 1000000")
    store.queue.commit(succeed(store, claim), 1.0)
    assert [visit.step for visit in store.runs.visits(run.id)] == ["a", "b"]
    store.close()


def test_the_log_is_cut_when_a_long_reader_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log grows as long as the reader may need its older pages."""
    monkeypatch.setattr(file, "MAX_LOG_BYTES", 100_000)
    monkeypatch.setattr(file, "LOG_PAGES", 10)
    log = tmp_path / "noetl.db-wal"
    with (
        closing(SqliteStore(str(tmp_path / "noetl.db"))) as store,
        closing(sqlite3.connect(tmp_path / "noetl.db", isolation_level=None)) as reader,
    ):
        start_run(store)
        reader.execute("begin")
        reader.execute("select count(*) from runs").fetchone()
        for _ in range(30):
            start_run(store)
        grown = log.stat().st_size
        reader.execute("commit")
        for _ in range(3):
            start_run(store)
        assert grown > 3 * 100_000
        assert log.stat().st_size <= 100_000


def test_close_while_a_thread_reads_the_store(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "noetl.db"))
    reading, closed = threading.Event(), threading.Event()

    def read() -> None:
        with suppress(StoreError):
            while not closed.is_set():
                store.queue.next_due("service")
                reading.set()

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait()
    store.close()
    closed.set()
    thread.join()
    store.close()


def test_a_folder_that_another_thread_has_closed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    path.touch()
    identity = file_identity.FileIdentity(path)
    folder = identity._folder
    identity.close()
    identity._folder = folder
    identity.check()
    assert identity._folder_time is None


@pytest.mark.parametrize(
    ("data", "saved", "stored"),
    [
        ({"n": WORD}, {"n": WORD}, "="),
        (WORD, {"other": 1, "n": WORD}, "=n"),
        ({"n": WORD}, {"n": WORD, "m": 1}, '{"n":"' + WORD + '"}'),
        ({"n": 1.0}, {"n": 1}, '{"n":1.0}'),
        ("=", {}, '"="'),
        ({}, {}, "="),
    ],
)
def test_a_result_that_is_also_saved_is_stored_once(
    tmp_path: Path, data: Any, saved: dict[str, Any], stored: str
) -> None:
    store = SqliteStore(str(tmp_path / "noetl.db"))
    run = start_run(store)
    claim = claim_visit(store, run)
    store.queue.commit(succeed(store, claim, saved=saved, data=data), 1.0)
    row = store.database.fetch_one("select result from visits where id = :id", id=claim.visit.id)
    assert row["result"] == stored
    (visit,) = store.runs.visits_with_outputs(run.id, [claim.visit.id])
    assert (visit.result, repr(visit.result), visit.saved) == (data, repr(data), saved)
    store.close()


class TestProbe:
    """A store that cannot be written is noticed by the readiness check, and refuses starts."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        with closing(SqliteStore(str(tmp_path / "noetl.db"))) as opened:
            opened.maintenance.probe()
            yield opened

    @pytest.mark.parametrize("replacement", [False, True])
    def test_a_file_that_is_gone(self, store: SqliteStore, replacement: bool) -> None:
        place = store.path.with_name("elsewhere.db")
        store.path.rename(place)
        if replacement:
            SqliteStore(str(store.path)).close()
        for operation in (store.maintenance.probe, lambda: start_run(store)):
            with pytest.raises(StoreError, match="is gone: its file was deleted or replaced"):
                operation()
        if not replacement:
            place.rename(store.path)
            store.maintenance.probe()
            start_run(store)

    def test_a_read_that_fails_says_that_the_file_is_gone(self, store: SqliteStore) -> None:
        """The read relies on an earlier check. The new file has its log at the same path, and empties it."""
        store.file.fetch_all("plans.find_use", hash="")
        store.path.rename(store.path.with_name("elsewhere.db"))
        SqliteStore(str(store.path)).close()
        with pytest.raises(StoreError, match="is gone"):
            while True:
                store.file.fetch_all("plans.find_use", hash="")

    @pytest.mark.parametrize("replacement", [False, True])
    def test_a_write_checks_the_file_although_a_read_has_just_checked_it(
        self, store: SqliteStore, replacement: bool
    ) -> None:
        store.file.fetch_all("plans.find_use", hash="")
        store.path.rename(store.path.with_name("elsewhere.db"))
        if replacement:
            SqliteStore(str(store.path)).close()
        with pytest.raises(StoreError, match="is gone"), store.file.transaction():
            pass

    @pytest.mark.parametrize("is_writing", [False, True])
    def test_few_of_many_operations_look_the_file_up(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_writing: bool
    ) -> None:
        """A write relies on an earlier look-up while the folder has not changed since."""
        os.utime(store.path.parent, (1.0, 1.0))
        checks: list[str] = []
        read = file_identity.read_identity

        def read_identity(path: str) -> tuple[int, int]:
            if not path.endswith("-wal"):
                checks.append(path)
            return read(path)

        monkeypatch.setattr(file_identity, "read_identity", read_identity)
        began = time.monotonic()
        for _ in range(200 if is_writing else 1_000):
            store.file.fetch_all("plans.find_use", hash="")
            if is_writing:
                with store.file.transaction():
                    pass
        assert len(checks) <= 1 + (time.monotonic() - began) / file_identity.CHECK_SECONDS
        assert len(checks) < 100

    def test_a_folder_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The files are looked up by each write then."""
        opened, path = os.open, tmp_path / "noetl.db"

        def refuse_folders(name: Path, flags: int, *mode: int) -> int:
            if flags & os.O_DIRECTORY:
                raise PermissionError
            return opened(name, flags, *mode)

        monkeypatch.setattr(os, "open", refuse_folders)
        with closing(SqliteStore(str(path))) as store:
            start_run(store)
            path.rename(tmp_path / "elsewhere.db")
            with pytest.raises(StoreError, match="is gone"):
                start_run(store)

    @pytest.mark.parametrize("replacement", [False, True])
    def test_a_log_that_is_gone(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, replacement: bool
    ) -> None:
        run = start_run(store)
        log = Path(f"{store.path}-wal")
        place = log.with_name("elsewhere")
        log.rename(place)
        if replacement:
            log.touch()
        probe, find = store.maintenance.probe, lambda: store.runs.find(RunFilter())
        for operation in (probe, find, lambda: start_run(store)):
            with pytest.raises(StoreError, match="has lost its write-ahead log"):
                operation()
        with ThreadPoolExecutor(1) as threads, pytest.raises(StoreError, match="has lost its write-ahead"):
            threads.submit(find).result()
        place.rename(log)
        store.maintenance.probe()
        assert [found.id for found in store.runs.find(RunFilter())[0]] == [run.id]

    def test_a_log_that_was_deleted_is_written_back_at_the_end(self, store: SqliteStore) -> None:
        run = start_run(store)
        Path(f"{store.path}-wal").unlink()
        store.close()
        with closing(SqliteStore(str(store.path))) as again:
            assert [found.id for found in again.runs.find(RunFilter())[0]] == [run.id]

    def test_a_full_disk(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(file, "MIN_FREE_BYTES", 1 << 62)
        with pytest.raises(StoreError, match="has no room: its disk is full"):
            store.maintenance.probe()

    def test_a_quota_that_is_exhausted(self, store: SqliteStore) -> None:
        """The disk has room, and the process may write no more: so does a disk that fails behave."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        try:
            for operation in (lambda: start_run(store), store.maintenance.probe):
                with pytest.raises(StoreError, match="disk"):
                    operation()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        store.maintenance.probe()
        assert not store.file._has_failed_write
        start_run(store)

    def test_a_damaged_page_that_was_read(self, tmp_path: Path) -> None:
        path = tmp_path / "damaged.db"
        with closing(SqliteStore(str(path))) as store:
            start_run(store)
            db = store.file.connection()
            size = db.execute("pragma page_size").fetchone()[0]
            page = db.execute("select rootpage from sqlite_schema where name = 'runs'").fetchone()[0]
        with path.open("r+b") as opened:
            opened.seek((page - 1) * size)
            opened.write(b"x" * size)
        with closing(SqliteStore(str(path))) as store:
            with pytest.raises(StoreError, match="malformed"):
                store.runs.find(RunFilter(tenant="default"))
            with pytest.raises(StoreError, match=r"is damaged: .*malformed. Restore a copy of it"):
                store.maintenance.probe()

    def test_a_read_only_file(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tests may run as root, which may write to each file of a disk that is not read-only."""
        monkeypatch.setattr(os, "access", lambda _path, _mode: False)
        with pytest.raises(StoreError, match="is read-only"):
            store.maintenance.probe()
        with pytest.raises(StoreError, match=r"The store at .* is read-only\."):
            SqliteStore(str(store.path))

    @pytest.mark.parametrize("is_open", [False, True])
    def test_a_read_only_file_is_read(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_open: bool
    ) -> None:
        """Such as a store on a disk that is read-only, or a copy. Its folder cannot get a log."""
        run = start_run(store)
        if not is_open:
            store.close()
        before = sorted(store.path.parent.iterdir())
        monkeypatch.setattr(os, "access", lambda _path, _mode: False)
        with closing(SqliteStore(str(store.path), create=False)) as reader:
            assert [found.id for found in reader.runs.find(RunFilter())[0]] == [run.id]
            assert failed_checks(reader) == []
            with pytest.raises(StoreError, match="readonly database"):
                start_run(reader)
            assert sorted(store.path.parent.iterdir()) == before


@pytest.mark.parametrize("by_retention", [False, True])
def test_an_interrupted_deletion_of_a_large_tree_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_retention: bool
) -> None:
    """After a crash between two transactions, the run exists with the rest of its child runs."""
    monkeypatch.setattr(run_deletion, "MAX_TREE_RUNS", 2)
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        run, key = start_waiting_run(store)
        for number in range(4):
            start_child(store, run, key, f"child{number}", queue="q")
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        while claim := store.queue.claim("q", LEASE, 2.0):
            store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), 2.0)
        end_run(store, run, RunStatus.CANCELLED, 2.0)
        delete_leaves, calls = run_deletion._delete_leaves, iter([True])

        def crash_later(*arguments: Any) -> None:
            if next(calls, None) is None:
                raise StoreError("the process has died")
            delete_leaves(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(run_deletion, "_delete_leaves", crash_later)
            with pytest.raises(StoreError, match="has died"):
                store.maintenance.delete_run("default", run.id)
        left = [summary.id for summary in store.runs.find(RunFilter())[0]]
        assert (run.id in left, len(left)) == (True, 3)
        assert failed_checks(store) == []
        if by_retention:
            store.context.retention_seconds = 100.0
            # The leaves are first, and the next pass deletes the run.
            for _ in range(2):
                store.maintenance.delete_old(store.clock())
        else:
            assert store.maintenance.delete_run("default", run.id)
        assert store.runs.find(RunFilter())[0] == []
        assert failed_checks(store) == []


def test_facts_of_a_later_version_are_left_out(store: SqliteStore) -> None:
    with store.context.transaction() as db:
        for kind in (FactKind.START, "later"):
            db.execute("facts.add_totals", totals=json.dumps([["default", "play", kind, "", 0, 3, 0.0]]))
    metrics = store.facts.read("default", 1.0)
    assert metrics is not None
    assert [(total.kind, total.count) for total in metrics.totals] == [(FactKind.START, 3)]
