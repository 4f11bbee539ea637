"""Maintenance of a SQLite store: workers also cut a log that is too long, and delete abandoned parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from noetl.executor.stores.interface import StoreMaintenance, SweepResult
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sqlite.file import SqliteFile
from noetl.executor.stores.sqlite.file_modes import find_readable_files
from noetl.executor.stores.sqlite.write_ahead_log import WriteAheadLog

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding


ABANDONED_PAUSE_SECONDS = 3600.0
"""How long after a search for abandoned parts the next one begins."""


class SqliteMaintenance:
    """The maintenance of a SQLite store: that of every SQL store, its log, and the modes of its files."""

    def __init__(
        self, shared: StoreMaintenance, plans: SqlPlans, log: WriteAheadLog, file: SqliteFile
    ) -> None:
        self._shared = shared
        self._plans = plans
        self._file = file
        self._log = log
        self._abandoned_at = time.monotonic()
        """When parts without a plan are searched next."""

    def probe(self) -> None:
        self._shared.probe()

    def check_consistency(self) -> list[Finding]:
        from noetl.executor.stores.finding import Finding

        findings = [*self._shared.check_consistency(), *self._check_run_data()]
        problem = self._log.problem()
        if problem is not None:
            findings.append(Finding("write-ahead log", problem))
        for file in find_readable_files(self._file.path):
            message = f"other users of this machine may read {file}; run with --fix to change its permissions"
            findings.append(Finding("permissions", message))
        return findings

    def _check_run_data(self) -> Iterator[Finding]:
        """Yield findings about runs without data, and about data without a run."""
        from noetl.executor.stores.finding import MAX_FINDINGS, finding_of_run, limit_group

        for check, query in (
            ("lost data", "runs.find_lost_data"),
            ("unknown runs", "runs.find_data_without_run"),
        ):
            rows = self._file.fetch_all(query, limit=MAX_FINDINGS + 1)
            yield from limit_group(check, [finding_of_run(check, **dict(row)) for row in rows])

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

    def write_log_back(self) -> None:
        self._log.write_back()

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Repair runs as every SQL store does, check the log, and delete abandoned parts of plans."""
        self._log.maintain()
        if time.monotonic() >= self._abandoned_at:
            self._abandoned_at = time.monotonic() + ABANDONED_PAUSE_SECONDS
            self._delete_abandoned_parts()
        return self._shared.sweep(now, limit=limit)

    def _delete_abandoned_parts(self) -> None:
        """Delete parts without a plan. A process that saves their plan meanwhile adds them again."""
        while found := self._file.fetch_all("plans.find_abandoned", limit=1):
            self._plans.delete_parts(found[0]["hash"])
