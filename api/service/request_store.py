"""The store as requests use it: it fails soon while it is away, and without holding threads.

Problem: while a store is away, each request would wait for it in a thread. All threads are then held, and all
other requests wait too.

Algorithm: a circuit breaker (Nygard, "Release It!", 2007). An operation waits for PATIENCE_SECONDS. After a
failure all operations fail at once for REST_SECONDS. Then one of them tries the store while the others still
fail. Its success closes the circuit. Workers use the store itself, and wait.

Cost: two locks and a context variable for each operation.

Limits: only an error that says that the store is away opens the circuit. A SQLite file that another process
has locked opens none, because it can be read (`noetl.executor.stores.sqlite.write_lock`). The operations that
run when the store disappears still wait for PATIENCE_SECONDS. A frozen Postgres that has taken a statement
holds its thread for longer (`noetl.executor.stores.postgres.patient_connection`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast

from noetl.api.service.store_latency import StoreLatency
from noetl.executor.errors import StoreAwayError, StoreLockedError
from noetl.executor.patience import limited_patience
from noetl.executor.stores.interface import Store

PATIENCE_SECONDS = 1.0
REST_SECONDS = 0.5

T = TypeVar("T")


class Circuit:
    """A circuit breaker. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._error: StoreAwayError | None = None
        self._rests_until = 0.0

    def call(self, operation: Callable[[], T]) -> T:
        """Return the result of an operation, or fail at once while the circuit is open.

        Raises:
            StoreAwayError: the store is away, or was a moment ago.
        """
        self._check()
        try:
            result = operation()
        except StoreLockedError:
            raise  # It can still be read.
        except StoreAwayError as error:
            with self._lock:
                self._error = error
                self._rests_until = self._clock() + REST_SECONDS
            raise
        except BaseException:
            self._close()  # The store has answered.
            raise
        self._close()
        return result

    def _check(self) -> None:
        with self._lock:
            if self._error is None:
                return
            if self._clock() < self._rests_until:
                raise StoreAwayError(str(self._error))
            # This operation tries the store. Until it has failed or succeeded, the others do not.
            self._rests_until = self._clock() + PATIENCE_SECONDS + REST_SECONDS

    def _close(self) -> None:
        with self._lock:
            self._error = None


class _GuardedPart:
    """A part of a store whose methods go through a circuit, with the patience of a request.

    What is no method, such as whether a queue counts active visits, is that of the part.
    """

    def __init__(self, part: object, circuit: Circuit, record: Callable[[float], None]) -> None:
        self._part = part
        self._circuit = circuit
        self._record = record

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        if not callable(method):
            return method

        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            started_at = time.perf_counter()
            try:
                with limited_patience(PATIENCE_SECONDS):
                    return self._circuit.call(lambda: method(*arguments, **options))
            finally:
                self._record(time.perf_counter() - started_at)

        return call


def guard_store(store: Store, circuit: Circuit | None = None, latency: StoreLatency | None = None) -> Store:
    """Return a store for requests. Its operations fail soon while the store is away, and are timed."""
    return cast("Store", _RequestStore(store, circuit or Circuit(), latency or StoreLatency()))


class _RequestStore:
    """A store whose parts go through one circuit. Its signals are those of the store."""

    def __init__(self, store: Store, circuit: Circuit, latency: StoreLatency) -> None:
        def guard(name: str) -> Any:
            return _GuardedPart(getattr(store, name), circuit, partial(latency.record, name))

        self.plans = guard("plans")
        self.runs = guard("runs")
        self.visits = guard("visits")
        self.pauses = guard("pauses")
        self.switches = guard("switches")
        self.queue = guard("queue")
        self.waits = guard("waits")
        self.registry = guard("registry")
        self.triggers = guard("triggers")
        self.gates = guard("gates")
        self.outbox = guard("outbox")
        self.channels = guard("channels")
        self.keys = guard("keys")
        self.cache = guard("cache")
        self.facts = guard("facts")
        self.maintenance = guard("maintenance")
        self.clock = store.clock
        self.changes = store.changes
        self.work = store.work
        self.close = store.close
