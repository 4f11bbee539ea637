"""Consistency checks of a SQL store: queries that find nothing in a sound store.

Problem: find runs and rows that contradict each other, while runs are active.

Algorithm: invariants as queries, as in fsck (McKusick and Kowalski 1994). Each check is one query, which
sees the store as of one moment.

Cost: each query reads a table and looks up rows of another.

Limits: nothing is written, so nothing is repaired. Invariants across several queries are not checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from noetl.executor.model.run import DEADLINE, NEVER
from noetl.executor.stores.finding import (
    MAX_FINDINGS,
    MESSAGES,
    UNKNOWN_PLAN_OF_VERSION,
    Finding,
    limit_group,
)
from noetl.executor.stores.sql.branches import ACTIVE
from noetl.executor.stores.sql.database import Database


@dataclass(frozen=True, slots=True)
class SqlConsistencyCheck:
    """A query for inconsistencies. Its columns fill the message of the check, or another message."""

    name: str
    query: str
    message: str | None = None

    def find(self, database: Database) -> list[Finding]:
        """Return the first MAX_FINDINGS findings of this check, and one that says if there are more."""
        rows = [dict(row) for row in database.fetch_all(f"{self.query} limit ?", MAX_FINDINGS + 1)]
        message = self.message or MESSAGES[self.name]
        findings = [Finding(self.name, message.format(**row), row.get("run_id")) for row in rows]
        return limit_group(self.name, findings)


_COMPLETE = "status in ('succeeded', 'completed_with_errors')"
_ACTIVE_VISIT = f"select 1 from visits where run_id = runs.id and {ACTIVE} and step <> '{DEADLINE}'"
ANSWERABLE = """
    exists (
        select 1 from waits where waits.run_id = visits.run_id and waits.visit_id = visits.id
        and answered_at is null and closed_at is null
    ) or exists (
        select 1 from runs child where child.parent_run = visits.run_id and child.parent_visit = visits.id
        and child.finished_at is null
    )
"""
"""Condition on a visit: a token can still answer one of its waits, or a child run has not ended."""

STUCK = f"select id as run_id from runs where finished_at is null and not exists ({_ACTIVE_VISIT})"
"""Unfinished runs without an active visit."""

WAITING_IN_VAIN = (
    f"select id as run_id from runs where finished_at is null and exists ({_ACTIVE_VISIT}) and not exists"
    f" ({_ACTIVE_VISIT} and (due_at < {NEVER:.0f} or (status = 'waiting' and ({ANSWERABLE}))))"
)
"""Unfinished runs whose active visits all wait for an answer that cannot arrive."""

RUN_TABLES = (
    "visits", "joins", "arrivals", "visit_counts", "waits", "tokens", "parts", "history", "idempotency_keys",
)  # fmt: skip
"""Tables whose rows belong to a run, in their column `run_id`."""

_CHECKS = (
    SqlConsistencyCheck("stuck", STUCK),
    SqlConsistencyCheck("waits in vain", WAITING_IN_VAIN),
    SqlConsistencyCheck(
        "goes on after its end",
        "select run_id, step from visits where run_id in (select id from runs where finished_at is not null)"
        f" and {ACTIVE}",
    ),
    SqlConsistencyCheck(
        "counters of joins",
        "select run_id, step, live from joins where live < 0"
        f" or (live > 0 and run_id in (select id from runs where {_COMPLETE}))",
    ),
    SqlConsistencyCheck(
        "counters of runs",
        f"select id as run_id, live from runs where live < 0 or (live > 0 and {_COMPLETE})",
    ),
    SqlConsistencyCheck(
        "arrivals",
        f"select distinct run_id, step from arrivals where run_id in (select id from runs where {_COMPLETE})",
    ),
    SqlConsistencyCheck(
        "endings of runs",
        "select id as run_id, status from runs"
        " where (finished_at is null) <> (status in ('queued', 'running'))",
    ),
    SqlConsistencyCheck(
        "endings of visits",
        "select run_id, step, status from visits"
        " where (finished_at is null) = (status in ('succeeded', 'failed'))",
    ),
    *(
        SqlConsistencyCheck(
            "unknown runs",
            f"select distinct run_id, '{table}' as \"table\" from {table}"
            f" where not exists (select 1 from runs where runs.id = {table}.run_id)",
        )
        for table in RUN_TABLES
    ),
    SqlConsistencyCheck(
        "unknown parents",
        "select id as run_id, parent_run from runs where parent_run is not null"
        " and not exists (select 1 from runs parent where parent.id = runs.parent_run)",
    ),
    SqlConsistencyCheck(
        "unknown plans",
        "select id as run_id, playbook from runs"
        " where not exists (select 1 from plans where hash = plan_hash)",
    ),
    SqlConsistencyCheck(
        "unknown plans",
        "select name, version from playbooks where not exists (select 1 from plans where hash = plan_hash)",
        UNKNOWN_PLAN_OF_VERSION,
    ),
)


def check_consistency(database: Database) -> list[Finding]:
    """Return the inconsistencies of the store in a database."""
    return [finding for check in _CHECKS for finding in check.find(database)]
