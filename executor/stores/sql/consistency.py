"""Whether a store holds what it must: questions that find nothing in a store that is well. Here they are asked in SQL.

Each is one query, which sees the store as it stood at one moment, so runs may be at work meanwhile. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from noetl.executor.model.run import DEADLINE, NEVER
from noetl.executor.stores.finding import Finding
from noetl.executor.stores.sql.branches import ACTIVE
from noetl.executor.stores.sql.database import Database

MAX_FINDINGS = 100
"""How many findings of one kind are told."""


@dataclass(frozen=True, slots=True)
class _Check:
    """A query for what is wrong, and the sentence that its columns make."""

    name: str
    query: str
    sentence: str


_COMPLETE = "status in ('succeeded', 'completed_with_errors')"
_LEFT = f"select 1 from visits where run_id = runs.id and {ACTIVE} and step <> '{DEADLINE}'"
AWAITED = """
    exists (
        select 1 from waits where waits.run_id = visits.run_id and waits.visit_id = visits.id
        and answered_at is null and closed_at is null
    ) or exists (
        select 1 from runs child where child.parent_run = visits.run_id and child.parent_visit = visits.id
        and child.finished_at is null
    )
"""
"""Of a visit: somebody can give the answer that it waits for."""

STUCK = f"select id as run_id from runs where finished_at is null and not exists ({_LEFT})"
"""The runs with nothing left that could be due."""

IN_VAIN = (
    f"select id as run_id from runs where finished_at is null and exists ({_LEFT}) and not exists"
    f" ({_LEFT} and (due_at < {NEVER:.0f} or (status = 'waiting' and ({AWAITED}))))"
)
"""The runs all of whose visits wait for what cannot come."""

OF_RUNS = (
    "visits", "joins", "arrivals", "visit_counts", "waits", "tokens", "parts", "history", "idempotency_keys",
)  # fmt: skip
"""The tables whose rows belong to a run, which `run_id` names."""

_CHECKS = (
    _Check(
        "stuck",
        STUCK,
        "run {run_id} has not ended, and nothing is left that could go on with it",
    ),
    _Check(
        "waits in vain",
        IN_VAIN,
        "run {run_id} waits, and nobody can give the answer any more",
    ),
    _Check(
        "goes on after its end",
        "select run_id, step from visits where run_id in (select id from runs where finished_at is not null)"
        f" and {ACTIVE}",
        "run {run_id} has ended, and step `{step}` is still to be done",
    ),
    _Check(
        "counters of joins",
        f"select run_id, step, live from joins where live < 0 or (live > 0 and run_id in (select id from runs where {_COMPLETE}))",
        "run {run_id} counts {live} branches on the way to the join `{step}`",
    ),
    _Check(
        "counters of runs",
        f"select id as run_id, live from runs where live < 0 or (live > 0 and {_COMPLETE})",
        "run {run_id} counts {live} branches",
    ),
    _Check(
        "arrivals",
        f"select distinct run_id, step from arrivals where run_id in (select id from runs where {_COMPLETE})",
        "run {run_id} has ended, and branches still stand before the join `{step}`",
    ),
    _Check(
        "endings of runs",
        "select id as run_id, status from runs where (finished_at is null) <> (status in ('queued', 'running'))",
        "run {run_id} is {status}, which does not go with whether it has an end",
    ),
    _Check(
        "endings of visits",
        "select run_id, step, status from visits where (finished_at is null) = (status in ('succeeded', 'failed'))",
        "run {run_id} has a visit of `{step}` that is {status}, which does not go with whether it has an end",
    ),
    *(
        _Check(
            "unknown runs",
            f"select distinct run_id from {table} where not exists (select 1 from runs where runs.id = {table}.run_id)",
            f"`{table}` holds rows of run {{run_id}}, which is not there",
        )
        for table in OF_RUNS
    ),
    _Check(
        "unknown parents",
        "select id as run_id, parent_run from runs where parent_run is not null"
        " and not exists (select 1 from runs parent where parent.id = runs.parent_run)",
        "run {run_id} belongs to run {parent_run}, which is not there",
    ),
    _Check(
        "unknown plans",
        "select id as run_id, playbook from runs where not exists (select 1 from plans where hash = plan_hash)",
        "run {run_id} of `{playbook}` has a plan that is not there",
    ),
    _Check(
        "unknown plans",
        "select name, version from playbooks where not exists (select 1 from plans where hash = plan_hash)",
        "version {version} of playbook `{name}` has a plan that is not there",
    ),
)


def limited(found: Iterable[Finding]) -> list[Finding]:
    """The findings, as many of each check as are told."""
    by_check: dict[str, list[Finding]] = {}
    for finding in found:
        by_check.setdefault(finding.check, []).append(finding)
    return [finding for check, findings in by_check.items() for finding in _told(check, findings)]


def check_consistency(database: Database) -> list[Finding]:
    """What is wrong with the store in a database."""
    return [finding for check in _CHECKS for finding in _findings(database, check)]


def _findings(database: Database, check: _Check) -> list[Finding]:
    rows = [dict(row) for row in database.fetch_all(f"{check.query} limit ?", MAX_FINDINGS + 1)]
    return _told(
        check.name, [Finding(check.name, check.sentence.format(**row), row.get("run_id")) for row in rows]
    )


def _told(check: str, found: list[Finding]) -> list[Finding]:
    if len(found) <= MAX_FINDINGS:
        return found
    return [*found[:MAX_FINDINGS], Finding(check, f"there are more than {MAX_FINDINGS} such findings")]
