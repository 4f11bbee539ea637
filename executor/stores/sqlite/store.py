"""The store in a SQLite file, for the processes of one machine."""

from __future__ import annotations

from noetl.executor.model.limits import PayloadLimits
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.facts import SqliteFacts
from noetl.executor.stores.sqlite.file import SqliteFile
from noetl.executor.stores.sqlite.maintenance import SqliteMaintenance
from noetl.executor.stores.sqlite.write_ahead_log import WriteAheadLog


class SqliteStore(SqlStore):
    """The store in the file at a path.

    If `create` is true, a missing file and its folder are created, and an earlier schema is upgraded.

    Raises:
        StoreError: the file cannot be opened, or is not a store.
        SchemaError: it has another schema.
    """

    def __init__(
        self,
        path: str,
        *,
        create: bool = True,
        limits: PayloadLimits | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        self.file = SqliteFile(path, create=create)
        self.path = self.file.path
        log = WriteAheadLog(self.file)
        context = SqlContext(self.file, limits, retention_seconds)
        super().__init__(context, SqliteFacts(context, log))
        self.maintenance = SqliteMaintenance(self.maintenance, self.plans, log, self.file)
