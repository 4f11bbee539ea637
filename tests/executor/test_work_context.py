"""The context of a segment: its time limits, and the note that something in it has failed."""

from __future__ import annotations

from noetl.executor.engine.work_context import FailureFlag
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness


def test_a_failure_is_noted_in_the_work_around_it() -> None:
    outer = FailureFlag()
    inner = FailureFlag(outer=FailureFlag(outer=outer))
    assert not outer.is_set
    inner.set()
    assert (inner.is_set, outer.is_set) == (True, True)


def test_the_timeout_of_a_step_that_ends_before_that_of_its_run_is_named(store: SqliteStore) -> None:
    text = "timeout: 2h\nsteps: [{name: a, timeout: 50ms, run: [{action: shell, command: sleep 30}]}]"
    harness = RunHarness(store, text).finish()
    assert (harness.status, harness.error_types) == ("failed", ["Timeout"])
    assert "the `timeout` of its step, 0.05 s" in str(harness.run.error)
