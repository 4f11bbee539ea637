"""Consistency checks of a SQL store: queries that find nothing in a sound store.

Problem: find runs and rows that contradict each other, while runs are active.

Algorithm: invariants as queries, as in fsck (McKusick and Kowalski 1994). Each check is one query, which
sees the store as of one moment.

Cost: each query reads a table and looks up rows of another.

Limits: nothing is written, so nothing is repaired. Invariants across several queries are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from noetl.executor.model.run import NEVER
from noetl.executor.stores.finding import (
    LOST_TRIGGER,
    MAX_FINDINGS,
    MESSAGES,
    UNKNOWN_PLAN_OF_VERSION,
    Finding,
    limit_group,
)
from noetl.executor.stores.sql.database import Database


@dataclass(frozen=True, slots=True)
class SqlConsistencyCheck:
    """A query for inconsistencies. Its columns fill the message of the check, or another message."""

    name: str
    query: str
    message: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def find(self, database: Database) -> list[Finding]:
        """Return the first MAX_FINDINGS findings of this check, and one that says if there are more."""
        rows = database.fetch_all(self.query, limit=MAX_FINDINGS + 1, **self.values)
        message = self.message or MESSAGES[self.name]
        findings = [Finding(self.name, message.format(**row), row.get("run_id")) for row in map(dict, rows)]
        return limit_group(self.name, findings)


_CHECKS = (
    SqlConsistencyCheck("set aside", "damage.find"),
    SqlConsistencyCheck("stuck", "consistency.stuck"),
    SqlConsistencyCheck("waits in vain", "consistency.waits_in_vain", values={"never": NEVER}),
    SqlConsistencyCheck("goes on after its end", "consistency.continues_after_its_end"),
    SqlConsistencyCheck("counters of joins", "consistency.counters_of_joins"),
    SqlConsistencyCheck("counters of runs", "consistency.counters_of_runs"),
    SqlConsistencyCheck("arrivals", "consistency.arrivals"),
    SqlConsistencyCheck("endings of runs", "consistency.ends_of_runs"),
    SqlConsistencyCheck("endings of visits", "consistency.ends_of_visits"),
    SqlConsistencyCheck("unknown runs", "consistency.visits_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.joins_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.arrivals_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.visit_counts_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.waits_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.tokens_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.parts_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.history_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.idempotency_keys_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.debounced_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.tags_without_run"),
    SqlConsistencyCheck("unknown runs", "consistency.slots_without_run"),
    SqlConsistencyCheck("counters of gates", "consistency.counters_of_gates"),
    SqlConsistencyCheck("counters of flows", "consistency.counters_of_flows"),
    SqlConsistencyCheck("slots of ended runs", "consistency.slots_of_ended_runs"),
    SqlConsistencyCheck("slots of visits", "consistency.slots_of_visits"),
    SqlConsistencyCheck("unknown gates", "consistency.unknown_gates"),
    SqlConsistencyCheck("unknown parents", "consistency.unknown_parents"),
    SqlConsistencyCheck("unknown plans", "consistency.unknown_plans_of_runs"),
    SqlConsistencyCheck("unknown plans", "consistency.unknown_plans_of_versions", UNKNOWN_PLAN_OF_VERSION),
    SqlConsistencyCheck("lost triggers", "consistency.lost_triggers", LOST_TRIGGER),
)


def check_consistency(database: Database) -> list[Finding]:
    """Return the inconsistencies of the store in a database."""
    return [finding for check in _CHECKS for finding in check.find(database)]
