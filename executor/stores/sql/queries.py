"""Queries of a SQL store: runs, their visits and their history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from noetl.executor.model.events import Event
from noetl.executor.model.run import NEVER, Run, RunStatus, Visit
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.cursors import read_cursor, read_event_id, write_cursor
from noetl.executor.stores.sql.branches import ACTIVE, HEAD
from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.rows import decode_events, encode_json, run_from_row, visit_from_row


class SqlQueries:
    """The part of a SQL store that answers queries."""

    database: Database
    has_tag: str
    """SQL condition that a run has a tag; its parameter is the tag as JSON."""

    def get(self, tenant: str, run_id: str) -> Run | None:
        rows = self.database.fetch_all("select * from runs where id = ? and tenant = ?", run_id, tenant)
        return self._with_waiting(run_from_row(rows[0])) if rows else None

    def find(self, run_filter: RunFilter) -> tuple[list[Run], str | None]:
        where: list[str] = ["tenant = ?"]
        values: list[Any] = [run_filter.tenant]
        for clause, value in (
            ("playbook = ?", run_filter.playbook),
            ("created_at >= ?", run_filter.since),
            ("queue = ?", run_filter.queue),
            ("parent_run = ?", run_filter.parent),
        ):
            if value is not None:
                where.append(clause)
                values.append(value)
        if run_filter.status is RunStatus.WAITING:
            where.append("status in ('queued', 'running')")
        elif run_filter.status is not None:
            where.append("status = ?")
            values.append(run_filter.status.value)
        if run_filter.tag is not None:
            where.append(self.has_tag)
            values.append(encode_json(run_filter.tag))
        if run_filter.cursor is not None:
            where.append("(created_at, id) < (?, ?)")
            values.extend(read_cursor(run_filter.cursor))
        query = f"select * from runs where {' and '.join(where)} order by created_at desc, id desc limit ?"
        limit = run_filter.limit
        rows = self.database.fetch_all(query, *values, limit + 1)
        runs = [self._with_waiting(run_from_row(row)) for row in rows[:limit]]
        # A run that waits has no status `waiting` in its row, so the status is compared again.
        matching = [run for run in runs if run_filter.status in (None, run.status)]
        if len(rows) <= limit:
            return matching, None
        return matching, write_cursor(rows[limit - 1]["created_at"], rows[limit - 1]["id"])

    def visits(self, run_id: str) -> list[Visit]:
        query = f"select {HEAD} from visits where run_id = ? order by position"
        return [visit_from_row(row) for row in self.database.fetch_all(query, run_id)]

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        if visit_ids is None:
            where, values = "step not in ('@end', '@deadline')", []
        else:
            where, values = f"id in ({', '.join('?' * len(visit_ids))})", list(visit_ids)
        query = f"select {HEAD}, saved, result from visits where run_id = ? and {where} order by clock, id"
        return [visit_from_row(row) for row in self.database.fetch_all(query, run_id, *values)]

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        query = "select body from parts where run_id = ? and visit_id = ? and loop = ? order by position"
        return [json.loads(row["body"]) for row in self.database.fetch_all(query, run_id, visit_id, loop)]

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        seq, index = read_event_id(after)
        query = "select seq, events from history where run_id = ? and seq >= ? order by seq limit ?"
        rows = self.database.fetch_all(query, run_id, seq, limit + 1)
        events = [event for row in rows for event in decode_events(row["seq"], row["events"])]
        return [event for event in events if read_event_id(event.id) > (seq, index)][:limit]

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        query = f"select id from runs where stop = 'cancelled' and id in ({', '.join('?' * len(run_ids))})"
        return {row["id"] for row in self.database.fetch_all(query, *run_ids)} if run_ids else set()

    def _with_waiting(self, run: Run) -> Run:
        """Return the run, with the status `waiting` if all of its active visits wait."""
        if run.status not in (RunStatus.QUEUED, RunStatus.RUNNING):
            return run
        query = (
            "select count(*) as active,"
            " count(case when status in ('retrying', 'waiting') or due_at = ? then 1 end) as waiting"
            f" from visits where run_id = ? and {ACTIVE} and substr(step, 1, 1) <> '@'"
        )
        counts = self.database.fetch_one(query, NEVER, run.id)
        is_waiting = 0 < counts["active"] == counts["waiting"]
        return replace(run, status=RunStatus.WAITING) if is_waiting else run
