"""The store in memory as a backend of the crash matrix: the calls of the executor are its fault points."""

from __future__ import annotations

from noetl.executor.stores.finding import Finding
from noetl.executor.stores.memory.store import MemoryStore
from tests.simulation.faults import FaultPoints

UNCOMPARED_RECORDS = ("fact_totals", "plan_uses")
"""Records that may change after the end of all runs: a lost claim reuses cached results, and reads plans."""


class MemoryBackend:
    """A store in memory, which survives a crash of the simulated process as a database server does."""

    name = "memory store"

    def __init__(self) -> None:
        self.points = FaultPoints()
        self.store = MemoryStore()

    def clear(self) -> MemoryStore:
        self.store = MemoryStore()
        return self.store

    def reopen(self) -> MemoryStore:
        return self.store

    def check_consistency(self) -> list[Finding]:
        return self.store.maintenance.check_consistency()

    def dump(self) -> dict[str, str]:
        state = vars(self.store.state)
        records = {name: values for name, values in state.items() if isinstance(values, dict)}
        for name in UNCOMPARED_RECORDS:
            del records[name]
        runs = records.pop("runs")
        without_waits = {
            id: {name: value for name, value in vars(record).items() if name not in ("waits", "closed_waits")}
            for id, record in runs.items()
        }
        return {name: str(sorted(values.items())) for name, values in records.items()} | {
            "runs": str(sorted(without_waits.items()))
        }

    def close(self) -> None:
        self.store.close()
