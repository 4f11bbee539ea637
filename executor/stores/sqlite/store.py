"""The store in a SQLite file, for the processes of one machine."""

from __future__ import annotations

from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.file import SqliteFile


class SqliteStore(SqlStore):
    """The store in the file at a path. If `create` is true, a missing file and its folder are created.

    Raises:
        StoreError: the file cannot be opened, or is not a store.
    """

    has_tag = "exists (select 1 from json_each(tags) where json_each.value = json_extract(?, '$'))"

    def __init__(self, path: str, *, create: bool = True, retention_seconds: float | None = None) -> None:
        self.file = SqliteFile(path, create=create)
        self.path = self.file.path
        super().__init__(self.file, retention_seconds)
