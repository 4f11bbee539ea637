"""Facts for metrics in a SQL store, and the totals that are read for a scrape.

Problem: two processes that count in the same row wait for each other's transactions. A row that changes often
has many dead versions while a session of Postgres holds a snapshot.

Algorithm: a table of deltas, as an incrementally maintained view has it (Gupta and Mumick 1995). The
transaction that makes a fact true appends one row, which no other transaction waits for. A fold moves the
rows to totals in one transaction. Sweeps and reads fold, so a read sees every fact that was committed before.

Cost: one insert without an index for each fact. A fold deletes MAX_FOLDED rows a transaction. A read costs
the facts since the last fold, and the totals of MAX_PLAYBOOKS playbooks.

Limits: after MAX_FOLDS transactions the rest waits for the next fold, so totals may be late after an outage.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from noetl.executor.model.metrics import (
    MAX_COUNTED,
    Fact,
    FactKind,
    FactTotal,
    StoreMetrics,
    label_playbook,
)
from noetl.executor.model.registry import SERVICE_TENANT
from noetl.executor.model.run import SERVICE_QUEUE
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.triggers import Firing
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import Row

MAX_FOLDED = 10_000
"""Number of facts that one transaction moves to totals, so that commits of SQLite wait for milliseconds."""

MAX_FOLDS = 20
"""Number of transactions of one fold at most."""


def add_fact(db: Writer, run_id: str, fact: Fact | None) -> None:
    """Write a fact about a run, unless it is None."""
    if fact is not None:
        db.execute("facts.add", run_id=run_id, **fact_values(fact))


def add_firing_fact(db: Writer, firing: Firing) -> None:
    """Write the fact that a firing was recorded. It may have no run."""
    db.execute("facts.add_firing", tenant=firing.tenant, playbook=firing.playbook, outcome=firing.outcome)


def fact_values(fact: Fact) -> dict[str, Any]:
    """Return the columns of a fact that its run does not have."""
    return {"kind": fact.kind, "status": fact.status, "bucket": fact.bucket, "seconds": fact.seconds}


class SqlFacts(ABC):
    """The facts of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def read(self, tenant: str | None, now: float) -> StoreMetrics | None:
        self.fold()
        database, owner = self._context.database, SERVICE_TENANT if tenant is None else tenant
        totals = database.fetch_all("facts.find_totals", tenant=owner)
        due = self._count_due(tenant, now)
        only = {} if tenant is None else {"tenant": tenant}
        open_runs = database.fetch_one("facts.count_open_runs", limit=MAX_COUNTED, **only)
        return StoreMetrics(
            # A later version, which uses the store at the same time, may count what is unknown here.
            [_total_of(row) for row in totals if row["kind"] in _KINDS],
            due["due"],
            due["oldest"],
            open_runs["open_runs"],
        )

    def fold(self) -> None:
        """Move facts to totals."""
        for _ in range(MAX_FOLDS):
            if self._fold_some() < MAX_FOLDED:
                return

    def _count_due(self, tenant: str | None, now: float) -> Row:
        """Return how many visits of services are due, and since when the oldest is."""
        which = {"queue": SERVICE_QUEUE} if tenant is None else {"turn": f"{SERVICE_QUEUE} {tenant}"}
        # A read that claims nothing has a floor of its own.
        (mark,), started_at = (f"read of {key}" for key in which.values()), time.monotonic()
        since = self._context.floor.begin(mark, now)
        row: Row = self._context.database.fetch_one(
            "facts.count_due", since=since, now=now, limit=MAX_COUNTED, **which
        )
        self._context.floor.learn(mark, since, row["oldest"], now, time.monotonic() - started_at)
        return row

    def _fold_some(self) -> int:
        """Move up to MAX_FOLDED facts to totals, and return their number."""
        # Most folds find nothing, and need no transaction.
        if not self._context.database.fetch_all("facts.find_any"):
            return 0
        with self._context.database.transaction() as db:
            db.lock_name("facts")
            taken = self._take(db, MAX_FOLDED)
            tenants = sorted({row["tenant"] for row in taken})
            found = db.execute("facts.find_labels", ids=self._context.database.encode_list(tenants))
            db.execute("facts.add_totals", totals=encode_json(_totals_of(taken, found)))
            return sum(row["count"] for row in taken)

    @abstractmethod
    def _take(self, db: Writer, limit: int) -> Sequence[Row]:
        """Delete up to `limit` facts, and return their numbers by their labels."""


_KINDS = frozenset(FactKind)


def _total_of(row: Row) -> FactTotal:
    kind = FactKind(row["kind"])
    return FactTotal(row["playbook"], kind, row["status"], row["bucket"], row["count"], row["seconds"])


def _totals_of(taken: Iterable[Row], found: Iterable[Row]) -> list[list[Any]]:
    """Return what facts add to the totals of their tenants, and to those of all tenants, as rows."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for row in found:
        labels[row["tenant"]].add(row["playbook"])
    sums: defaultdict[tuple[Any, ...], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for row in taken:
        label = label_playbook(row["playbook"], labels[row["tenant"]])
        labels[row["tenant"]].add(label)
        for owner in ((row["tenant"], label), (SERVICE_TENANT, "")):
            key = (*owner, row["kind"], row["status"], row["bucket"])
            count, seconds = sums[key]
            sums[key] = (count + row["count"], seconds + row["seconds"])
    return [[*key, count, seconds] for key, (count, seconds) in sums.items()]
