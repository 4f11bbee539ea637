"""A connection of a store that does not wait for its server for ever.

Problem: a server that is frozen, or a network that drops packets, leaves connections open and statements
without an answer. Neither the server nor the system ends them soon. Each holds the thread of a request, or a
worker that should continue with the server that has taken over.

Algorithm: psycopg waits for the server in one method, which takes a timeout. An operation with limited
patience (`noetl.executor.patience`) gives up ANSWER_SECONDS after it has sent a statement, and any other
after WORKER_ANSWER_SECONDS. It closes its connection, because the answer may still arrive, and belongs to no
later statement. The next operation connects again, perhaps to another server.

Limits: a statement that writes may have been executed. The error says only that the store has failed. A
worker then claims the visit again after its lease.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg

from noetl.executor.patience import patience_seconds

ANSWER_SECONDS = 10.0
"""How long a request waits for the answer to a statement. The server may be slow, and is not away then."""


WORKER_ANSWER_SECONDS = 60.0
"""How long a worker or a command waits. By default the server itself ends a statement after half of that."""


class PatientConnection(psycopg.Connection[dict[str, Any]]):
    """A connection whose waits end after a time."""

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Return the value of a generator of psycopg, as the base class does.

        Raises:
            psycopg.OperationalError: the server did not answer in time. The connection is closed.
        """
        seconds = WORKER_ANSWER_SECONDS if patience_seconds() is None else ANSWER_SECONDS
        deadline = time.monotonic() + seconds
        try:
            return super().wait(gen, *args, **{"timeout": seconds, **options})
        except psycopg.OperationalError as error:
            if time.monotonic() < deadline:
                raise
            self.close()
            raise psycopg.OperationalError(f"no answer within {seconds:g} s") from error
