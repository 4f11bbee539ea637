"""A session of Postgres that holds locks, and observes the sessions that wait for them."""

from __future__ import annotations

import psycopg

from noetl.executor.model.gates import GateKey
from noetl.executor.model.run import Run


class LockObserver:
    """A separate session, which holds locks and observes the sessions that wait for them."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute("set deadlock_timeout = '60s'")

    def lock_run(self, run: Run) -> None:
        """Lock a run until `release_locks`."""
        self._begin()
        self.connection.execute("select 1 from runs where id = %s for update", [run.id])

    def lock_gate(self, key: GateKey) -> None:
        """Lock a gate until `release_locks`."""
        self._begin()
        self.connection.execute(
            "select 1 from gates where id = %s and tenant = %s for update", [key.id, key.tenant]
        )

    def _begin(self) -> None:
        if self.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self.connection.execute("begin")

    def release_locks(self) -> None:
        self.connection.execute("rollback")

    def wait_for_blocked(self, count: int = 1) -> list[int]:
        """Wait until `count` sessions wait for a lock, and return their process ids."""
        query = (
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        with psycopg.connect(self.connection.info.dsn, autocommit=True) as connection:
            while True:
                blocked = [pid for (pid,) in connection.execute(query)]
                if len(blocked) >= count:
                    return blocked
                connection.execute("select pg_sleep(0.01)")
