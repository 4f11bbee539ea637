"""A connection of a store that waits for its server as long as the caller has patience.

Problem: a server that is frozen, or a network that drops packets, leaves connections open and statements
without an answer. Neither the server nor the system ends them soon. Each holds the thread of a request.

Algorithm: psycopg waits for the server in one method, which takes a timeout. An operation with limited
patience (`noetl.executor.patience`) gives up ANSWER_SECONDS after it has sent a statement. It closes its
connection, because the answer may still arrive, and belongs to no later statement.

Cost: none for workers, which wait.

Limits: a statement that writes may have been executed. The error says only that the store has failed.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg

from noetl.executor.patience import patience_seconds

ANSWER_SECONDS = 10.0
"""How long a request waits for the answer to a statement. The server may be slow, and is not away then."""


class PatientConnection(psycopg.Connection[dict[str, Any]]):
    """A connection whose waits end if a request waits for them for too long."""

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Return the value of a generator of psycopg, as the base class does.

        Raises:
            psycopg.OperationalError: the server did not answer a request in time. The connection is closed.
        """
        if patience_seconds() is None:
            return super().wait(gen, *args, **options)
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            return super().wait(gen, *args, **{"timeout": ANSWER_SECONDS, **options})
        except psycopg.OperationalError as error:
            if time.monotonic() < deadline:
                raise
            self.close()
            raise psycopg.OperationalError(f"no answer within {ANSWER_SECONDS:g} s") from error
