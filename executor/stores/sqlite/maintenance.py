"""Maintenance of a SQLite store: workers also cut a log that is too long."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from noetl.executor.stores.interface import StoreMaintenance, SweepResult
from noetl.executor.stores.sqlite.file_modes import find_readable_files
from noetl.executor.stores.sqlite.write_ahead_log import WriteAheadLog

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding


class SqliteMaintenance:
    """The maintenance of a SQLite store: that of every SQL store, its log, and the modes of its files."""

    def __init__(self, shared: StoreMaintenance, log: WriteAheadLog, path: Path) -> None:
        self._shared = shared
        self._path = path
        self._log = log

    def probe(self) -> None:
        self._shared.probe()

    def check_consistency(self) -> list[Finding]:
        from noetl.executor.stores.finding import Finding

        findings = self._shared.check_consistency()
        problem = self._log.problem()
        if problem is not None:
            findings.append(Finding("write-ahead log", problem))
        for file in find_readable_files(self._path):
            message = f"other users of this machine may read {file}; run with --fix to change its permissions"
            findings.append(Finding("permissions", message))
        return findings

    def set_aside(self, run_id: str, reason: str) -> bool:
        return self._shared.set_aside(run_id, reason)

    def put_back(self, now: float) -> list[str]:
        return self._shared.put_back(now)

    def delete_run(self, tenant: str, run_id: str) -> bool:
        return self._shared.delete_run(tenant, run_id)

    def delete_old(self, now: float) -> bool:
        """Delete old runs as every SQL store does. Workers call this often, so check the log, too."""
        self._log.maintain()
        return self._shared.delete_old(now)

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Repair runs as every SQL store does, and check the log."""
        self._log.maintain()
        return self._shared.sweep(now, limit=limit)
