"""The tables of a SQL store, and their columns, as its schema has them.

A tool that reads them from the schema also covers a table that is added later.
"""

from __future__ import annotations

from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore

SQLITE_COLUMNS = """
    select tables.name as "table", columns.name as "column"
    from sqlite_master as tables join pragma_table_info(tables.name) as columns
    where tables.type = 'table' and tables.name not like 'sqlite!_%' escape '!'
"""
POSTGRES_COLUMNS = """
    select table_name as "table", column_name as "column" from information_schema.columns
    where table_schema = current_schema() and table_name <> 'noetl_migrations'
"""


def columns_of_tables(store: SqlStore) -> dict[str, list[str]]:
    """Return the columns of each table of a store. The tables that describe the schema are left out."""
    columns: dict[str, list[str]] = {}
    query = SQLITE_COLUMNS if isinstance(store, SqliteStore) else POSTGRES_COLUMNS
    for row in store.database.fetch_all(query):
        columns.setdefault(row["table"], []).append(row["column"])
    return columns
