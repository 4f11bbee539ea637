"""What is wrong with a store is found, whatever it is: stores of SQL are broken here by hand, in each way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from executor.records import NEVER, Run, RunStatus, WaitKey
from executor.stores.doctor import MOST_FINDINGS, examine
from executor.stores.sql_store import SqlStore
from tests.contract.store_contract import CHAIN, DIAMOND, claimed, done, ended, failed, started
from tests.contract.waits_contract import child, waiting
from tests.plays import Play


def finished(store: SqlStore, text: str = DIAMOND) -> Run:
    """A run that was walked to its end."""
    return Play(store, text, folder=Path.cwd()).finish().run


def broken(store: SqlStore, query: str, *values: Any) -> list[tuple[str, str | None, str]]:
    """What is found after a change that no operation of a store makes."""
    assert examine(store.database) == []
    with store.database.transaction() as db:
        assert db.execute(query, values).rowcount > 0
    return [(one.check, one.run_id, one.message) for one in examine(store.database)]


class DoctorContract:
    """`store` is an empty store."""

    def test_a_store_that_is_well(self, store: SqlStore) -> None:
        assert examine(store.database) == []
        assert finished(store).status is RunStatus.SUCCEEDED
        stopped = started(store, DIAMOND)
        store.commit(done(store, claimed(store, stopped)), 1.0)
        store.commit(failed(store, claimed(store, stopped, 1.0)), 2.0)
        assert examine(store.database) == []
        assert ended(store, stopped, RunStatus.FAILED, 3.0).live > 0
        run, key = waiting(store)
        assert examine(store.database) == []
        inner = child(store, run, WaitKey(run.id, key.visit_id, "child"), "inner", queue="inner")
        store.close_wait(key, 2.0)
        assert examine(store.database) == []
        store.stop(inner.id, RunStatus.CANCELLED, 3.0)
        ended(store, inner, RunStatus.CANCELLED, 4.0)
        assert examine(store.database) == []

    @pytest.mark.parametrize("status", ["parked", "failed"])
    def test_a_run_with_nothing_left(self, store: SqlStore, status: str) -> None:
        run = started(store, "timeout: 1h" + CHAIN.replace("\n    ", "\n"))
        expected = ("stuck", run.id, f"run {run.id} has not ended, and nothing is left that could go on with it")
        assert expected in broken(store, "update visits set status = ? where step = 'a'", status)

    def test_a_wait_that_is_not_open(self, store: SqlStore) -> None:
        run, _ = waiting(store)
        expected = ("waits in vain", run.id, f"run {run.id} waits, and nobody can give the answer any more")
        assert broken(store, "update waits set closed_at = 1") == [expected]

    def test_a_child_that_has_ended_without_a_word(self, store: SqlStore) -> None:
        run, key = waiting(store)
        inner = child(store, run, WaitKey(run.id, key.visit_id, "child"), "inner")
        store.close_wait(key, 2.0)
        query = "update runs set status = 'failed', finished_at = 1 where id = ?"
        found = {check: whose for check, whose, _ in broken(store, query, inner.id)}
        assert found == {"waits in vain": run.id, "goes on after its end": inner.id}

    def test_a_line_in_which_nobody_has_a_turn(self, store: SqlStore) -> None:
        run = started(store)
        found = broken(store, "update visits set due_at = ?", NEVER)
        assert [(check, whose) for check, whose, _ in found] == [("waits in vain", run.id)]

    def test_a_step_to_be_done_in_a_run_that_has_ended(self, store: SqlStore) -> None:
        run = finished(store)
        found = broken(store, "update visits set status = 'ready', finished_at = null where step = 'd'")
        expected = ("goes on after its end", run.id, f"run {run.id} has ended, and step `d` is still to be done")
        assert found == [expected]

    @pytest.mark.parametrize("live", [-1, 2])
    def test_counters_of_joins(self, store: SqlStore, live: int) -> None:
        run = finished(store)
        expected = ("counters of joins", run.id, f"run {run.id} counts {live} branches on the way to the join `c`")
        assert broken(store, "update joins set live = ?", live) == [expected]

    def test_a_negative_counter_of_a_run_at_work(self, store: SqlStore) -> None:
        run = started(store, DIAMOND)
        store.commit(done(store, claimed(store, run)), 1.0)
        found = broken(store, "update joins set live = -1")
        assert [(check, whose) for check, whose, _ in found] == [("counters of joins", run.id)]

    @pytest.mark.parametrize("live", [-1, 2])
    def test_counters_of_runs(self, store: SqlStore, live: int) -> None:
        run = finished(store)
        expected = ("counters of runs", run.id, f"run {run.id} counts {live} branches")
        assert broken(store, "update runs set live = ?", live) == [expected]

    def test_an_arrival_that_is_left(self, store: SqlStore) -> None:
        run = finished(store)
        message = f"run {run.id} has ended, and branches still stand before the join `c`"
        found = broken(store, "insert into arrivals values (?, 'c', 'x', 1, '{}')", run.id)
        assert found == [("arrivals", run.id, message)]

    def test_endings_that_do_not_fit(self, store: SqlStore) -> None:
        run = finished(store)
        found = broken(store, "update runs set status = 'running'")
        assert ("endings of runs", run.id) in [(check, whose) for check, whose, _ in found]

    def test_visits_that_do_not_fit(self, store: SqlStore) -> None:
        run = finished(store)
        found = broken(store, "update visits set finished_at = null where step = 'd'")
        assert [(check, whose) for check, whose, _ in found] == [("endings of visits", run.id)]

    @pytest.mark.parametrize(
        ("table", "values"),
        [
            ("visits (run_id, id, step, queue, status, position, clock, names, number, due_at)", "'no', '1', 'a', 'q', 'parked', 1, 1, '{}', 1, 1"),
            ("joins (run_id, step)", "'no', 'a'"),
            ("arrivals", "'no', 'a', 'x', 1, '{}'"),
            ("visit_counts", "'no', 'a', 1"),
            ("waits (run_id, visit_id, id)", "'no', 'a', 'x'"),
            ("tokens", "'hash', 'no', 'a', 'x'"),
            ("parts", "'no', 'a', 'x', 1, '[]'"),
            ("history", "'no', 1, '[]'"),
            ("idempotency_keys", "'t', 'k', 'h', 'no'"),
        ],
    )  # fmt: skip
    def test_rows_of_a_run_that_is_not_there(self, store: SqlStore, table: str, values: str) -> None:
        found = broken(store, f"insert into {table} values ({values})")
        message = f"`{table.split(' ')[0]}` holds rows of run no, which is not there"
        assert found == [("unknown runs", "no", message)]

    def test_a_parent_that_is_not_there(self, store: SqlStore) -> None:
        run = started(store)
        found = broken(store, "update runs set parent_run = 'no', parent_visit = 'v', parent_wait = 'w'")
        assert found == [("unknown parents", run.id, f"run {run.id} belongs to run no, which is not there")]

    def test_plans_that_are_not_there(self, store: SqlStore) -> None:
        run = started(store)
        found = broken(store, "update runs set plan_hash = 'no'")
        assert found == [("unknown plans", run.id, f"run {run.id} of `{run.playbook}` has a plan that is not there")]
        with store.database.transaction() as db:
            db.execute("update runs set plan_hash = ?", (run.plan_hash,))
        found = broken(store, "insert into playbooks values ('default', 'p', '3', 1, 'no', 0, null)")
        assert found == [("unknown plans", None, "version 3 of playbook `p` has a plan that is not there")]

    def test_so_many_that_not_all_are_told(self, store: SqlStore) -> None:
        with store.database.transaction() as db:
            db.executemany(
                "insert into visit_counts values (?, 'a', 1)", [(f"r{n}",) for n in range(MOST_FINDINGS + 1)]
            )
        found = examine(store.database)
        assert len(found) == MOST_FINDINGS + 1
        assert found[-1].message == f"there are more than {MOST_FINDINGS} such findings"
