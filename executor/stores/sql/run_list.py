"""Lists of the runs of a SQL store, and their counts.

Problem: a page of a list must not read all runs, whichever conditions its filter combines.

Algorithm: an index in the order of the list for each condition. A list of several statuses is the k-way merge
(Knuth 1973) of a list for each of them. The table of tags has the key of a tag `KEY=VALUE` too, so that both
are one range of its index.

Cost: one query for each status of the filter, and one for each of several tags. A condition without an
index is compared with each run that the index of another one finds.

Limits: a search for text reads MAX_SEARCHED_RUNS runs, and its page may end early then. The queries of
several statuses are not one snapshot. They are read in the order in which a run passes through them, so that
a run that continues meanwhile is not missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import OPEN_STATUSES, RunCounts, RunFilter, fold_case
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.cursors import read_cursor, write_cursor
from noetl.executor.stores.damage import decode_readable
from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.rows import Row, summary_from_row
from noetl.planner.frozen import replace

MAX_SEARCHED_RUNS = 50_000
"""The number of runs of a tenant that one search for text reads at most."""

MAX_COMPARED_TAGS = 1000
"""The number of runs with a tag that are counted to find the rarest one of several tags."""

_QUERIES = {
    (False, False): "runs.find",
    (False, True): "runs.find_tagged",
    (True, False): "runs.find_oldest",
    (True, True): "runs.find_oldest_tagged",
}
"""The statement of a list, by whether it begins with the oldest run, and whether its runs have a tag."""

ListPlace: TypeAlias = tuple[float, str]
"""Sort key of a run in a list: its time of creation and its id."""


def find_runs(database: Database, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
    """Return a page of the runs of a filter, and the cursor of the next page or None.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    last = None if run_filter.cursor is None else read_cursor(run_filter.cursor)
    end = None if run_filter.text is None else _find_search_end(database, run_filter, last)
    values = _filter_values(database, run_filter) | _place_values("last", last) | _place_values("end", end)
    query = _QUERIES[run_filter.is_oldest_first, bool(run_filter.tags)]
    limit = run_filter.limit
    found: dict[str, Row] = {}
    for conditions in _status_conditions(run_filter.statuses):
        rows = database.fetch_all(query, limit=limit + 1, **values, **conditions)
        found |= {row["id"]: row for row in rows}
    ordered = sorted(found.values(), key=_place_of, reverse=not run_filter.is_oldest_first)
    page = decode_readable(ordered[:limit], summary_from_row, lambda row: str(row["id"]))
    runs = [run for _, run in page]
    if len(ordered) > limit:
        return runs, write_cursor(*_place_of(ordered[limit - 1]))
    return runs, None if end is None else write_cursor(*end)


def count_runs(
    database: Database, run_filter: RunFilter, step_seconds: float | None, limit: int
) -> RunCounts:
    """Return the numbers of the runs of a filter. Of each status, the newest `limit` are counted."""
    query = "runs.count_tagged" if run_filter.tags else "runs.count"
    values = _filter_values(database, replace(run_filter, text=None))
    values["step"] = float(step_seconds or 0)
    numbers: Counter[tuple[int, RunStatus]] = Counter()
    for conditions in _status_conditions(run_filter.statuses):
        for row in database.fetch_all(query, limit=limit + 1, **values, **conditions):
            numbers[row["step"], RunStatus(row["shown"])] += row["number"]
    return RunCounts(numbers, is_complete=sum(numbers.values()) <= limit)


def _find_search_end(database: Database, run_filter: RunFilter, last: ListPlace | None) -> ListPlace | None:
    """Return the place of the last run that a search for text reads, or None if it reads all."""
    query = "runs.find_oldest_end" if run_filter.is_oldest_first else "runs.find_end"
    values = _place_values("last", last)
    rows = database.fetch_all(query, tenant=run_filter.tenant, limit=MAX_SEARCHED_RUNS - 1, **values)
    return (rows[0]["created_at"], rows[0]["id"]) if rows else None


def _place_values(name: str, place: ListPlace | None) -> dict[str, Any]:
    return {} if place is None else {f"{name}_created_at": place[0], f"{name}_id": place[1]}


def _filter_values(database: Database, run_filter: RunFilter) -> dict[str, Any]:
    """Return the values of all conditions of a filter but those on the status."""
    tags = _order_tags(database, run_filter.tenant, [encode_json(tag) for tag in run_filter.tags])
    values = {
        "tenant": run_filter.tenant,
        "tag": tags[0] if tags else None,
        "tags": database.encode_list(tags[1:]) if tags[1:] else None,
        "playbook": run_filter.playbook,
        "since": run_filter.since,
        "until": run_filter.until,
        "queue": run_filter.queue,
        "parent": run_filter.parent,
        "id_prefix": run_filter.id_prefix,
        "text": None if run_filter.text is None else fold_case(run_filter.text),
    }
    return {name: value for name, value in values.items() if value is not None}


def _order_tags(database: Database, tenant: str, tags: Sequence[str]) -> Sequence[str]:
    """Return tags with the one first that the fewest runs have, as far as MAX_COMPARED_TAGS runs show."""
    if len(tags) < 2:
        return tags

    def count(tag: str) -> int:
        row = database.fetch_one("runs.count_tag", tenant=tenant, tag=tag, limit=MAX_COMPARED_TAGS)
        return int(row["number"])

    return sorted(set(tags), key=count)


def _status_conditions(statuses: Collection[RunStatus]) -> list[dict[str, Any]]:
    """Return the values of the conditions on the status, for each query that a list needs.

    A run that waits or is paused has another status in its row.
    """
    if not statuses or set(statuses) == set(RunStatus):
        return [{}]
    conditions: list[dict[str, Any]] = []
    if set(statuses) >= OPEN_STATUSES:
        conditions.append({"is_unfinished": True})
        statuses = set(statuses) - OPEN_STATUSES
    for status in RunStatus:
        if status not in statuses:
            continue
        if status in (RunStatus.WAITING, RunStatus.PAUSED):
            conditions.append({f"is_{status}": True})
        else:
            conditions.append({"status": status} | ({} if status.is_final else {"is_open": True}))
    return conditions


def _place_of(row: Row) -> ListPlace:
    return row["created_at"], row["id"]
