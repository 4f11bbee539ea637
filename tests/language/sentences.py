"""Helpers of the tests of the language: a test case for each sentence of a section.

The id of a case is the sentence, in short.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import RunHarness

OK = "run: [{action: log, message: ok}]"


def sentence(text: str, *values: Any) -> Any:
    """Return a test case for a sentence of the language."""
    return pytest.param(*values, id=text)


def outcome(text: str, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run a playbook to its end, and return what a user sees of it."""
    harness = RunHarness(MemoryStore(), dedent(text), values).finish()
    return {
        "status": harness.status.value,
        "result": harness.result,
        "errors": harness.error_types,
        "visits": harness.visit_counts,
    }


def check_outcome(text: str, values: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that a run ends as expected, as far as `expected` says."""
    found = outcome(text, values)
    assert {key: found[key] for key in expected} == expected
