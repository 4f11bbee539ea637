"""Pauses of runs in the store in memory.

The author of a store decides how the visits of a run are parked and released in one write, while workers
claim and commit.
"""

from __future__ import annotations

from noetl.executor.model.run import Run
from noetl.executor.stores.memory.branches import MemoryBranches
from noetl.executor.stores.memory.state import MemoryState, shown_run


class MemoryPauses:
    """The pauses of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def pause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        with self._state.change_runs(due=0):
            record = self._state.record(run_id)
            MemoryBranches(self._state, record, now).pause_run(caller)
            record.has_own_pause = True
            return shown_run(record)

    def unpause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        with self._state.change_runs():
            record = self._state.record(run_id)
            MemoryBranches(self._state, record, now).unpause_run(caller)
            return shown_run(record)
