"""The latest visits of runs with many visits: those that a scan of all visits finds, for less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from noetl.api.service.runs import ResumeRequest
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_summary import latest_visits as find_latest
from noetl.executor.stores import open_store
from noetl.executor.stores.sql import latest_visits
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.file import SqliteWriter
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.switches import CORRECTED, WAITING, switch

CYCLE = """
input: {rounds: integer}
steps:
  - name: a
    max_visits: 3000
    run: [{action: set, set: {n: "{{ (n | default(0)) + 1 }}"}}]
    rule: [{case: "{{ n < rounds }}", run: [a]}, {case: default, run: [b]}]
  - {name: b, run: [{action: set, set: {m: 1}}]}
"""
FORKING_CYCLE = """
input: {rounds: integer}
steps:
  - {name: a, max_visits: 100, rule: [{case: default, run: [b, c]}]}
  - {name: b, max_visits: 100, retry: {attempts: 2, delay: 1s}, run: [{action: fail, message: "no"}],
     on_error: continue, rule: [{case: default, run: [d]}]}
  - {name: c, max_visits: 100, run: [{action: wait, seconds: 1}], rule: [{case: default, run: [d]}]}
  - name: d
    join: all
    max_visits: 100
    rule: [{case: "{{ steps.d.visits < rounds }}", run: [a]}]
"""
MANY_BRANCHES = """
input: {rounds: integer}
steps:
  - {name: a, max_visits: 100, rule: [{case: "{{ steps.a.visits < rounds }}", run: [a, b]}]}
  - {name: b, join: each, max_visits: 100, run: [{action: wait, seconds: 1}],
     rule: [{case: default, run: [c]}]}
  - {name: c, join: each, max_visits: 100, run: [{action: fail, message: "no"}]}
"""


@pytest.fixture(params=["sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SqlStore]:
    url = f"sqlite:///{tmp_path / 'noetl.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("reused_postgres_dsn")
    monkeypatch.setattr(latest_visits, "MANY_VISITS", 0)
    with closing(open_store(url)) as store:
        assert isinstance(store, SqlStore)
        yield store


def check(store: SqlStore, *run_ids: str) -> None:
    """Check the overviews of runs, read alone and together."""
    found = store.visits.overviews("default", run_ids)
    for run_id in run_ids:
        overview = store.runs.overview("default", run_id)
        assert overview is not None
        assert overview.steps == find_latest(store.runs.visits(run_id))
        assert found[run_id] == overview


@pytest.mark.parametrize("mode", ["", "mode: sequential"])
@pytest.mark.parametrize("text", [CYCLE, FORKING_CYCLE, MANY_BRANCHES])
def test_they_are_those_of_a_scan_at_each_time(store: SqlStore, text: str, mode: str) -> None:
    """Read a run after each visit, paused, after a failure, and a run that starts at a step of it."""
    play = RunHarness(store, f"{mode}\n{text}", {"rounds": 4}, origin="service")
    for number in range(60):
        check(store, play.id)
        play.execute_next()
        play.clock.advance(0.4)
        if number in (3, 9):
            with suppress(RejectedError):  # The run may be ending.
                store.pauses.pause(play.id, play.clock())
                check(store, play.id)
                store.pauses.unpause(play.id, play.clock())
        if number == 12 and not play.status.is_final:
            store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
            check(store, play.id)
            play.finish()
            check(store, play.id)
            play.resume()
    play.finish()
    services = create_services(store, catalogue(), clock=play.clock)
    again = services.runs.resume(play.id, ResumeRequest(step="a")).id
    check(store, play.id, again)
    while (claim := play.claim()) is not None:
        play.executor().execute(claim)
        check(store, play.id, again)


def test_they_are_those_of_a_scan_after_a_switch(store: SqlStore) -> None:
    play = RunHarness(store, WAITING)
    play.execute_next()
    check(store, play.id)
    switch(play, CORRECTED)
    check(store, play.id)
    play.finish()
    check(store, play.id)


def test_a_page_of_long_runs_does_not_read_all_their_visits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the steps of the virtual machine of SQLite: for runs of 55 and of 1,100 visits."""
    steps = [0]
    execute = SqliteWriter.execute

    def count(writer: SqliteWriter, query: str, /, **values: object) -> object:
        def add() -> None:
            steps[0] += 1

        writer._db.set_progress_handler(add, 1)
        return execute(writer, query, **values)

    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        costs = []
        for rounds in (55, 1100):
            ids = [RunHarness(store, CYCLE, {"rounds": rounds}).finish().id for _ in range(2)]
            with monkeypatch.context() as patch:
                patch.setattr(SqliteWriter, "execute", count)
                steps[0] = 0
                assert store.visits.overviews("default", ids)[ids[0]].steps["a"].started == rounds
                costs.append(steps[0])
        assert costs[1] <= 1.1 * costs[0]
