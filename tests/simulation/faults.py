"""Fault injection at every call of the executor to a port: store, database, queue, action or clock.

Problem: find every state in which a failure loses work, repeats it too often, or blocks a run.

Algorithm: number the calls of a deterministic run; each number is a fault point. Repeat the run once for each
fault at each number, as model checkers of implementations do (Musuvathi et al. 2002, CMC; failpoints).

Cost: one run for each pair of fault point and applicable fault; see `tests.simulation.matrix`.

Limits: one or two faults a run. The run has one thread, so races inside a store are not covered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeVar

from noetl.executor.errors import ActionError, StoreError
from noetl.executor.stores.sql.database import UnwrittenError

T = TypeVar("T")


class SimulatedCrash(BaseException):
    """The end of the simulated process. Nothing that follows in it happens."""


class Fault(Enum):
    """A failure at a call.

    With `DELAY` and `TAKEOVER` the lease of the caller has expired. With `DELAY` another worker has finished
    all work before the call is made. With `TAKEOVER` another worker has claimed the visit and still executes
    it. With `PAUSE` an operator pauses the run before the call, and unpauses it when nothing else is
    possible. With `SHORT_PAUSE` he unpauses it at once.
    """

    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    ERROR = "error before effect"
    LOST_RESPONSE = "error after effect"
    DELAY = "delay past the lease"
    TAKEOVER = "taken over meanwhile"
    DUPLICATE = "duplicate delivery"
    PAUSE = "paused meanwhile"
    SHORT_PAUSE = "paused and unpaused meanwhile"


_LATE_FAULTS = frozenset({Fault.DELAY, Fault.TAKEOVER})
_PAUSES = frozenset({Fault.PAUSE, Fault.SHORT_PAUSE})
_CRASH_FAULTS = frozenset({Fault.CRASH_BEFORE, Fault.CRASH_AFTER})
_ERROR_FAULTS = frozenset({Fault.ERROR, Fault.LOST_RESPONSE})

FAULTS_OF_PORT: Mapping[str, frozenset[Fault]] = {
    "store": frozenset(Fault),
    "action": frozenset(Fault),
    # The execution of a claim. The queue of an SQL store is its table of visits, so a delivery cannot fail.
    "queue": _CRASH_FAULTS | _LATE_FAULTS | _PAUSES | {Fault.DUPLICATE},
    # A clock has no effect, so a crash after the call equals one before the next call.
    "clock": _LATE_FAULTS | {Fault.CRASH_BEFORE},
    # Inside a transaction, a crash after a statement equals one before the next: both roll back.
    "begin": _LATE_FAULTS | _PAUSES | {Fault.CRASH_BEFORE, Fault.ERROR},
    "statement": frozenset({Fault.CRASH_BEFORE, Fault.ERROR}),
    "read": frozenset({Fault.CRASH_BEFORE, Fault.ERROR}),
    "commit": _CRASH_FAULTS | _ERROR_FAULTS,
    # A statement that is a transaction of its own, or one request to a store over HTTP.
    "request": _CRASH_FAULTS | _ERROR_FAULTS | _LATE_FAULTS | _PAUSES,
}
"""Faults that a call can have, by its port."""


class FaultPoints:
    """The numbered calls of one run, and the faults that happen at some of them."""

    def __init__(self) -> None:
        self.restart({}, lambda **_: None, lambda **_: None)

    def restart(
        self,
        faults: Mapping[int, Fault],
        run_other_worker: Callable[..., object],
        pause_run: Callable[..., object],
    ) -> None:
        """Number the calls from 1 again, with faults by number.

        `run_other_worker` is called for a late fault, with `finish=True` if the other worker finishes its
        work. `pause_run` is called for a pause, with `is_short=True` if it ends at once.
        """
        self.calls: list[tuple[str, str]] = []
        self.injected: list[tuple[str, Fault]] = []
        self._faults = faults
        self._run_other_worker = run_other_worker
        self._pause_run = pause_run
        self._disabled_depth = 0

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Count no calls and inject no faults in this block."""
        self._disabled_depth += 1
        try:
            yield
        finally:
            self._disabled_depth -= 1

    def record(self, port: str, name: str) -> Fault | None:
        """Record the next call, and return its fault."""
        if self._disabled_depth:
            return None
        self.calls.append((port, name))
        fault = self._faults.get(len(self.calls))
        if fault not in FAULTS_OF_PORT[port]:
            return None
        self.injected.append((port, fault))
        return fault

    def inject_before(self, fault: Fault | None, port: str) -> None:
        """Inject a fault that happens before the effect of a call."""
        if fault is Fault.CRASH_BEFORE:
            raise SimulatedCrash
        if fault is Fault.ERROR:
            raise _create_error(port, "is not reachable", unwritten=True)
        if fault in _LATE_FAULTS:
            with self.disabled():
                self._run_other_worker(finish=fault is Fault.DELAY)
        if fault in _PAUSES:
            with self.disabled():
                self._pause_run(is_short=fault is Fault.SHORT_PAUSE)

    def inject_after(self, fault: Fault | None, port: str) -> None:
        """Inject a fault that happens after the effect of a call."""
        if fault is Fault.CRASH_AFTER:
            raise SimulatedCrash
        if fault is Fault.LOST_RESPONSE:
            raise _create_error(port, "has not answered", unwritten=False)

    def call(self, port: str, name: str, function: Callable[[], T]) -> T:
        """Make a call, with its fault."""
        fault = self.record(port, name)
        self.inject_before(fault, port)
        try:
            result = function()
        finally:
            self.inject_after(fault, port)
        if fault is Fault.DUPLICATE:
            repeated_result = function()
            # The second delivery of a claim is refused, so the caller continues with the result of the first.
            return result if port == "queue" else repeated_result
        return result


def _create_error(port: str, problem: str, *, unwritten: bool) -> Exception:
    if port == "action":
        return ActionError("ConnectionFailed", f"The server {problem}.")
    if unwritten and port not in ("store", "queue"):
        return UnwrittenError(f"The database {problem}.")
    return StoreError(f"The store {problem}.")


STORE_PARTS = (
    "plans",
    "runs",
    "pauses",
    "queue",
    "waits",
    "registry",
    "triggers",
    "gates",
    "outbox",
    "keys",
    "maintenance",
)


class FaultInjectingStore:
    """A store or one of its parts, each call of which is a fault point.

    `before_call` is called before every call, and `observe_call` after every successful one, also while fault
    points are disabled.
    """

    def __init__(
        self,
        store: Any,
        points: FaultPoints,
        before_call: Callable[[str], object],
        observe_call: Callable[[str, tuple[Any, ...], Any], object],
    ) -> None:
        self._store = store
        self._points = points
        self._before_call = before_call
        self._observe_call = observe_call

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if name in STORE_PARTS:
            return FaultInjectingStore(attribute, self._points, self._before_call, self._observe_call)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **options: Any) -> Any:
            def observed_call() -> Any:
                self._before_call(name)
                result = attribute(*args, **options)
                self._observe_call(name, args, result)
                return result

            return self._points.call("store", name, observed_call)

        return call


class FaultInjectingDatabase:
    """The database of an SQL store, each statement of which is a fault point."""

    def __init__(self, database: Any, points: FaultPoints) -> None:
        self._database = database
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextmanager
    def transaction(
        self, after_commit: Callable[[], object] = lambda: None
    ) -> Iterator[FaultInjectingWriter]:
        """Run the block in a transaction, whose begin and commit are fault points."""
        self._points.call("begin", "begin", lambda: None)
        fault = None
        with self._database.transaction(after_commit) as db:
            yield FaultInjectingWriter(db, self._points)
            fault = self._points.record("commit", "commit")
            self._points.inject_before(fault, "commit")
        self._points.inject_after(fault, "commit")

    def fetch_all(self, query: str, /, **values: Any) -> Any:
        return self._points.call("read", query, lambda: self._database.fetch_all(query, **values))

    def fetch_one(self, query: str, /, **values: Any) -> Any:
        return self._points.call("read", query, lambda: self._database.fetch_one(query, **values))

    def execute_returning(self, query: str, /, **values: Any) -> Any:
        return self._points.call("request", query, lambda: self._database.execute_returning(query, **values))


class FaultInjectingWriter:
    """The writer of a transaction, each statement of which is a fault point."""

    def __init__(self, writer: Any, points: FaultPoints) -> None:
        self._writer = writer
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def execute(self, query: str, /, **values: Any) -> Any:
        return self._points.call("statement", query, lambda: self._writer.execute(query, **values))

    def executemany(self, query: str, rows: Any, /) -> Any:
        return self._points.call("statement", query, lambda: self._writer.executemany(query, rows))
