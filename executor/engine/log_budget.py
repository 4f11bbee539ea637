"""The log budget of runs: how many bytes the playbook of a run may write to the log of a process.

Problem: a loop of `log` actions writes gigabytes, which fill a disk or cost money.

Algorithm: a counter for each run. The line that would exceed the limit is replaced by one that says that
logging has stopped, and later lines are dropped. The table of counters is a bounded map that forgets the run
that has logged least recently.

Cost: the length of each line, and one look-up.

Limits: counted in one process. A visit that continues in another process has its count there (see
`noetl.executor.engine.visit_counts`). Another visit of the run begins with what that process has counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from noetl.executor.model.bounded_counter import LOGGED_BYTES, BoundedCounter
from noetl.executor.model.memory_budget import json_size

Log: TypeAlias = Callable[[str, str, Mapping[str, Any]], None]
"""A function that writes a line: (level, message, fields)."""


class LogBudget:
    """The budgets of runs, whose bytes `used` counts."""

    def __init__(self, used: BoundedCounter) -> None:
        self._used = used

    def limit(self, run_id: str, max_bytes: int | None, log: Log) -> Log:
        """Return the log function of a run that writes at most `max_bytes`, or any number if it is None."""
        if max_bytes is None:
            return log

        def write(level: str, message: str, fields: Mapping[str, Any]) -> None:
            size = len(message.encode("utf-8", "replace")) + json_size(fields)
            before, used = self._used.add(run_id, size)
            if used <= max_bytes:
                log(level, message, fields)
            elif before <= max_bytes:
                text = (
                    f"the run has logged {max_bytes:,} bytes (NOETL_LOG_BYTES); its later lines are dropped"
                )
                log("warning", text, {})

        return write


LOG_BUDGET = LogBudget(LOGGED_BYTES)
"""The log budget of this process."""
