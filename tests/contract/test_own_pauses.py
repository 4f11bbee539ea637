"""The rows of own pauses in SQL stores: the pause ends with a stop of its run, and its row does, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from noetl.executor.model.run import DEADLINE, Claim, Commit, Lease, Run, RunStatus, VisitStatus
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.sql.store import SqlStore
from noetl.testing.store_contract.operations import claim_visit, end_run, fail, start_run

LONG_LEASE = Lease("a worker", 300.0)
TIMED = "timeout: 50s\n" + "steps: [{name: a, run: [{action: log, message: a}]}]"


def _cancel(store: Store, run: Run, claim: Claim) -> None:
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    store.queue.commit(fail(store, claim), 2.0)


def _fail(store: Store, _run: Run, claim: Claim) -> None:
    store.queue.commit(fail(store, claim), 2.0)


def _pass_deadline(store: Store, run: Run, claim: Claim) -> None:
    deadline = claim_visit(store, run, 50.0)
    assert deadline.visit.step == DEADLINE
    done = replace(deadline.visit, status=VisitStatus.SUCCEEDED, finished_at=50.0)
    store.queue.commit(Commit(done, stop=RunStatus.TIMED_OUT), 50.0)
    store.queue.commit(fail(store, claim), 50.0)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    url = f"sqlite:///{tmp_path / 'noetl.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_store_dsn")
    with closing(open_store(url)) as opened:
        assert isinstance(opened, SqlStore)
        yield opened


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        (_cancel, RunStatus.CANCELLED),
        (_fail, RunStatus.FAILED),
        (_pass_deadline, RunStatus.TIMED_OUT),
    ],
)
def test_a_run_that_ends_in_its_pause_leaves_no_row(
    store: SqlStore, stop: Callable[[Store, Run, Claim], None], status: RunStatus
) -> None:
    run = start_run(store, TIMED)
    claim = claim_visit(store, run, lease=LONG_LEASE)
    store.pauses.pause(run.id, 1.0)
    stop(store, run, claim)
    assert end_run(store, run, status, 51.0).status is status
    assert store.database.fetch_all("select run_id from own_pauses") == []
