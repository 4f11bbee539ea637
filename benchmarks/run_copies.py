"""Copies of a run in a SQL store: many runs in seconds, which would take long to start.

The schema lists the tables with rows of a run: `runs`, and each table with a column `run_id`. So a copy also
has its rows in a table that is added later. `check_runs` then shows that the store is sound.
"""

from __future__ import annotations

from noetl.executor.stores.interface import Store
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from tests.sql_tables import columns_of_tables


def copy_run(store: SqlStore, run_id: str, copies: int, **changed: str) -> None:
    """Add copies of a run, which is as it is now.

    `changed` are the SQL expressions of columns that differ. They may use `n`, the number of a copy from 1.
    """
    # An odd factor gives each copy other digits, and spreads them like those of real ids.
    number = "n * 2654435761"
    is_sqlite = isinstance(store, SqliteStore)
    digits = f"substr(printf('%x', {number}), -8)" if is_sqlite else f"right(to_hex({number}), 8)"
    numbers = "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < :copies)"
    with store.database.transaction() as db:
        for table, columns in columns_of_tables(store).items():
            key = "id" if table == "runs" else "run_id"
            if key not in columns:
                continue
            values = {name: f'"{name}"' for name in columns}
            values |= {name: value for name, value in changed.items() if name in values}
            values[key] = f"{digits} || substr({key}, 9)"
            names = ", ".join(f'"{name}"' for name in values)
            copied = f'select * from "{table}" where {key} = :run_id'
            db.execute(
                f'{numbers} insert into "{table}" ({names}) select {", ".join(values.values())}'
                f" from ({copied}) as copied cross join numbers",
                run_id=run_id,
                copies=copies,
            )


def check_runs(store: Store) -> None:
    """Check that the store is sound.

    Raises:
        AssertionError: a run is incomplete or damaged.
    """
    findings = [finding.message for finding in store.maintenance.check_consistency()]
    assert findings == [], findings
