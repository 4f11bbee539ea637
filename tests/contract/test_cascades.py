"""Commands to many child runs in SQL stores: in small transactions, also if the process dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from noetl.executor.model.run import Run, RunStatus, VisitStatus, WaitKey
from noetl.executor.stores import open_store
from noetl.executor.stores.sql import cascade_completion, cascades
from noetl.executor.stores.sql.store import SqlStore
from noetl.testing.store_contract.operations import (
    LEASE,
    claim_visit,
    current_run,
    end_run,
    fail,
    failed_checks,
    open_wait,
    run_concurrently,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
    suspend_claim,
    visit_states,
)
from noetl.testing.store_contract.pauses import PausesContract
from tests.contract.interrupted_store import die_after, observed_transactions
from tests.contract.sql_damage import SqlDamage

FINALLY = """
finally: tidy
steps:
- {name: a, run: [{action: log, message: a}]}
- {name: tidy, run: [{action: log, message: tidy}]}
"""
PAUSED, CANCELLED = RunStatus.PAUSED, RunStatus.CANCELLED


class Tree(NamedTuple):
    """A waiting run, its child runs, and the child run of each of these."""

    root: Run
    children: Sequence[Run]
    grandchildren: Sequence[Run]

    @property
    def descendants(self) -> list[Run]:
        return [*self.children, *self.grandchildren]


@pytest.fixture(params=["sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SqlStore]:
    url = f"sqlite:///{tmp_path / 'noetl.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_store_dsn")
    change_few(monkeypatch)
    with closing(open_store(url)) as opened:
        assert isinstance(opened, SqlStore)
        yield opened


def change_few(monkeypatch: pytest.MonkeyPatch, rows: int = 8) -> None:
    """Let a transaction change a few rows: two child runs, with a visit each."""
    monkeypatch.setattr(cascades, "MAX_CHANGES", rows)
    monkeypatch.setattr(cascades, "MAX_READ_CHILDREN", 3)
    monkeypatch.setattr(cascade_completion, "PAUSE_SECONDS", 0.0)


def start_tree(store: SqlStore, children: int = 5, token: str = "t") -> Tree:
    root, key = start_waiting_run(store, token)
    started = [
        start_child(store, root, key, f"{root.id}-{number}", now=1.0 + number // 2, queue="children")
        for number in range(children)
    ]
    grandchildren = [
        start_child(store, child, WaitKey(child.id, "v", "w"), f"{child.id}-0", queue="children")
        for child in started
    ]
    return Tree(root, started, grandchildren)


def stops_of(store: SqlStore, runs: Sequence[Run]) -> set[RunStatus | None]:
    return {current_run(store, run).stop for run in runs}


def rows_left(store: SqlStore) -> int:
    return int(store.database.fetch_one("select count(*) as rows from cascades")["rows"])


class TestBudget(PausesContract):
    """The contract of pauses, while a transaction changes one child run at most."""

    damage = SqlDamage()

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
        change_few(monkeypatch, 1)
        with closing(open_store(f"sqlite:///{tmp_path / 'noetl.db'}")) as opened:
            assert isinstance(opened, SqlStore)
            yield opened


def test_all_child_runs_have_followed_when_a_command_returns(store: SqlStore) -> None:
    tree = start_tree(store)
    with observed_transactions(store) as transactions:
        assert store.pauses.pause(tree.root.id, 2.0).status is PAUSED
    assert len(transactions) > 4
    assert stops_of(store, [tree.root, *tree.descendants]) == {PAUSED}
    assert store.queue.claim("children", LEASE, 9.0) is None
    store.pauses.unpause(tree.root.id, 10.0)
    assert stops_of(store, [tree.root, *tree.descendants]) == {None}
    assert {visit.status for run in tree.descendants for visit in store.runs.visits(run.id)} == {
        VisitStatus.READY
    }
    store.runs.stop(tree.root.id, CANCELLED, 11.0)
    assert stops_of(store, [tree.root, *tree.descendants]) == {CANCELLED}
    assert visit_states(store, tree.root)[-1] == ("@end", "ready")
    assert (rows_left(store), failed_checks(store)) == (0, [])


def perform_command(store: SqlStore, run_id: str, command: str) -> None:
    """Perform a command to a run."""
    if command == "pause":
        store.pauses.pause(run_id, 3.0)
    elif command == "unpause":
        store.pauses.unpause(run_id, 3.0)
    else:
        store.runs.stop(run_id, CANCELLED, 3.0)


@pytest.mark.parametrize("command", ["pause", "unpause", "cancel"])
def test_a_command_whose_process_dies_is_completed_by_a_sweep(store: SqlStore, command: str) -> None:
    """Let the process die after each of its transactions in turn."""
    for transactions in count(1):
        tree = start_tree(store, 5, str(transactions))
        if command == "unpause":
            store.pauses.pause(tree.root.id, 2.0)
        perform = partial(perform_command, store, tree.root.id, command)
        expected = {"pause": PAUSED, "unpause": None, "cancel": CANCELLED}[command]
        is_dead = die_after(store, transactions, perform)
        assert current_run(store, tree.root).stop is expected
        assert failed_checks(store) == []
        if is_dead:
            assert rows_left(store) > 0
            assert len(stops_of(store, tree.descendants)) == 2 or transactions == 1
            assert ("@end", "ready") not in visit_states(store, tree.root)
        store.maintenance.sweep(4.0)
        assert stops_of(store, [tree.root, *tree.descendants]) == {expected}
        assert (rows_left(store), failed_checks(store)) == (0, [])
        if command == "cancel":
            assert visit_states(store, tree.root)[-1] == ("@end", "ready")
        if not is_dead:
            break
    assert transactions > 3


@pytest.mark.parametrize("interrupted", range(1, 5))
def test_the_last_command_decides(store: SqlStore, interrupted: int) -> None:
    tree = start_tree(store)
    pauses, root = store.pauses, tree.root.id
    assert die_after(store, interrupted, lambda: pauses.pause(root, 2.0))
    pauses.unpause(root, 3.0)
    assert (stops_of(store, tree.descendants), rows_left(store)) == ({None}, 0)
    pauses.pause(root, 4.0)
    assert die_after(store, interrupted, lambda: pauses.unpause(root, 5.0))
    pauses.pause(root, 6.0)
    assert (stops_of(store, tree.descendants), rows_left(store)) == ({PAUSED}, 0)
    assert die_after(store, interrupted, lambda: pauses.unpause(root, 7.0))
    store.runs.stop(root, CANCELLED, 8.0)
    assert (stops_of(store, tree.descendants), rows_left(store)) == ({CANCELLED}, 0)


def test_the_same_command_completes_an_interrupted_one(store: SqlStore) -> None:
    tree = start_tree(store)
    commands: Sequence[tuple[RunStatus | None, Callable[[], object]]] = (
        (PAUSED, lambda: store.pauses.pause(tree.root.id, 2.0)),
        (None, lambda: store.pauses.unpause(tree.root.id, 3.0)),
        (CANCELLED, lambda: store.runs.stop(tree.root.id, CANCELLED, 4.0)),
    )
    for expected, command in commands:
        assert die_after(store, 2, command)
        command()
        assert (stops_of(store, tree.descendants), rows_left(store)) == ({expected}, 0)


def test_a_child_run_with_a_pause_of_its_own_stays_paused(store: SqlStore) -> None:
    tree = start_tree(store)
    paused, grandchild = tree.children[2], tree.grandchildren[2]
    assert die_after(store, 2, lambda: store.pauses.pause(tree.root.id, 2.0))
    store.pauses.pause(paused.id, 3.0)
    store.pauses.unpause(tree.root.id, 4.0)
    assert stops_of(store, [paused, grandchild]) == {PAUSED}
    assert stops_of(store, [run for run in tree.descendants if run not in (paused, grandchild)]) == {None}
    store.pauses.unpause(paused.id, 5.0)
    assert stops_of(store, tree.descendants) == {None}


def test_a_run_begins_its_finally_step_after_its_child_runs_were_cancelled(store: SqlStore) -> None:
    root = start_run(store, FINALLY)
    claim = claim_visit(store, root)
    key = open_wait(store, claim)
    store.queue.commit(suspend_claim(claim, key.id), 1.0)
    children = [start_child(store, root, key, f"child{number}", queue="children") for number in range(5)]
    assert die_after(store, 1, lambda: store.runs.stop(root.id, CANCELLED, 2.0))
    assert ("tidy", "ready") not in visit_states(store, root)
    assert None in stops_of(store, children)
    store.maintenance.sweep(3.0)
    assert ("tidy", "ready") in visit_states(store, root)
    assert stops_of(store, children) == {CANCELLED}


def start_failing_run(store: SqlStore) -> tuple[Run, Any, list[Run]]:
    """Return a run whose visit has started child runs, the claim of the visit, and these."""
    root = start_run(store)
    claim = claim_visit(store, root)
    key = open_wait(store, claim)
    children = [start_child(store, root, key, f"child{number}", queue="children") for number in range(5)]
    return root, claim, children


def test_a_commit_cancels_child_runs_in_small_transactions(store: SqlStore) -> None:
    root, claim, children = start_failing_run(store)
    store.queue.commit(fail(store, claim), 2.0)
    assert stops_of(store, children) == {CANCELLED}
    assert (rows_left(store), visit_states(store, root)[-1]) == (0, ("@end", "ready"))


def test_a_commit_is_made_although_its_child_runs_follow_later(store: SqlStore) -> None:
    root, claim, children = start_failing_run(store)
    assert die_after(store, 1, lambda: store.queue.commit(fail(store, claim), 2.0))
    assert current_run(store, root).stop is RunStatus.FAILED
    assert visit_states(store, root) == [("a", "failed")]
    assert failed_checks(store) == []
    store.maintenance.sweep(3.0)
    assert stops_of(store, children) == {CANCELLED}
    assert end_run(store, root, RunStatus.FAILED, 4.0).status is RunStatus.FAILED


def test_a_resume_waits_for_a_command_to_child_runs(store: SqlStore) -> None:
    root, claim, children = start_failing_run(store)
    assert die_after(store, 1, lambda: store.queue.commit(fail(store, claim), 2.0))
    with store.database.transaction() as db:
        # As if the run had ended meanwhile.
        db.execute("update runs set status = 'failed', finished_at = 3.0 where id = :id", id=root.id)
    store.runs.resume(root.id, 4.0, deadline_at=None, values={})
    assert (stops_of(store, children), rows_left(store)) == ({CANCELLED}, 0)


def test_a_child_run_of_a_paused_run_is_paused_with_the_commit_of_its_visit(store: SqlStore) -> None:
    root = start_run(store)
    claim = claim_visit(store, root)
    key = open_wait(store, claim)
    assert not die_after(store, 1, lambda: store.pauses.pause(root.id, 1.0))
    children = [start_child(store, root, key, f"child{number}", queue="children") for number in range(5)]
    assert die_after(store, 1, lambda: store.queue.commit(suspend_claim(claim, key.id), 2.0))
    store.maintenance.sweep(3.0)
    assert stops_of(store, children) == {PAUSED}
    store.pauses.unpause(root.id, 4.0)
    assert stops_of(store, children) == {None}


def test_child_runs_of_a_visit_that_ends_in_a_pause_are_cancelled(store: SqlStore) -> None:
    root, claim, children = start_failing_run(store)
    store.pauses.pause(root.id, 1.0)
    for child in children:
        store.pauses.unpause(child.id, 1.5)
    store.queue.commit(replace(succeed(store, claim), may_have_children=True), 2.0)
    assert (stops_of(store, children), rows_left(store)) == ({CANCELLED}, 0)


def test_a_pause_returns_after_an_earlier_pause_above_the_run(store: SqlStore) -> None:
    tree = start_tree(store, 1)
    child, grandchild = tree.children[0], tree.grandchildren[0]
    key = WaitKey(grandchild.id, "v", "w")
    lowest = [start_child(store, grandchild, key, f"low{number}", queue="children") for number in range(9)]
    assert die_after(store, 2, lambda: store.pauses.pause(tree.root.id, 2.0))
    assert rows_left(store) > 0
    store.pauses.pause(child.id, 3.0)
    assert stops_of(store, lowest) == {PAUSED}


def test_visits_of_child_runs_become_due_when_their_transaction_begins(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = start_tree(store)
    store.pauses.pause(tree.root.id, 2.0)
    seconds = count()
    stand_in = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None)
    monkeypatch.setattr(cascade_completion, "time", stand_in)
    store.pauses.unpause(tree.root.id, 10.0)
    due = {visit.due_at for run in tree.descendants for visit in store.runs.visits(run.id)}
    assert {10.0, 11.0, 12.0} < due


def test_few_child_runs_are_read_once(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    root, key = start_waiting_run(store)
    children = [start_child(store, root, key, f"child{number}", queue="children") for number in range(2)]
    reads, find = [], cascades.Cascade._find

    def find_counted(cascade: cascades.Cascade, selection: cascades.ChildSelection) -> Sequence[Any]:
        reads.append(selection.run_id)
        return find(cascade, selection)

    monkeypatch.setattr(cascades.Cascade, "_find", find_counted)
    store.pauses.pause(root.id, 2.0)
    assert sorted(reads) == sorted(run.id for run in (root, *children))


def test_a_damaged_child_run_is_set_aside_and_the_others_follow(store: SqlStore) -> None:
    tree = start_tree(store)
    damaged = tree.children[0]
    assert die_after(store, 1, lambda: store.pauses.pause(tree.root.id, 2.0))
    with store.database.transaction() as db:
        db.execute("update runs set tags = '{' where id = :id", id=damaged.id)
    store.maintenance.sweep(3.0)
    sound = [run for run in tree.descendants if run not in (damaged, tree.grandchildren[0])]
    assert (stops_of(store, sound), rows_left(store)) == ({PAUSED}, 0)
    assert failed_checks(store)[0] == "set aside"


def test_a_run_with_few_child_runs_changes_in_one_transaction(store: SqlStore) -> None:
    root, key = start_waiting_run(store)
    child = start_child(store, root, key, "child", queue="children")
    for command in ("pause", "unpause", "cancel"):
        with observed_transactions(store) as transactions:
            perform_command(store, root.id, command)
        assert len(transactions) == 1
    assert stops_of(store, [child]) == {CANCELLED}


def test_concurrent_commands_leave_a_sound_tree(store: SqlStore) -> None:
    tree = start_tree(store, 4)
    commands = ("pause", "unpause", "pause", "unpause")
    run_concurrently(4, lambda index: perform_command(store, tree.root.id, commands[index]))
    assert len(stops_of(store, [tree.root, *tree.descendants])) == 1
    store.pauses.unpause(tree.root.id, 4.0)
    assert (stops_of(store, tree.descendants), rows_left(store), failed_checks(store)) == ({None}, 0, [])
    run_concurrently(
        4, lambda index: perform_command(store, tree.root.id, "cancel" if index % 2 else "unpause")
    )
    assert stops_of(store, tree.descendants) == {CANCELLED}
    assert (rows_left(store), failed_checks(store)) == (0, [])
