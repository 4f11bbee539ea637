"""Runs of the executor's tests, executed to their end."""

from __future__ import annotations

from typing import Any

from noetl.executor.model.run import RunStatus
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import RunHarness


def run_to_end(store: Store, text: str, **input: Any) -> RunHarness:
    """Return a new run that was executed to its end."""
    return RunHarness(store, text, input).finish()


def result(store: Store, text: str, **input: Any) -> Any:
    """Return the result of a new run, which succeeds."""
    harness = run_to_end(store, text, **input)
    assert harness.status is RunStatus.SUCCEEDED, harness.run.errors
    return harness.result
