"""Fault points: every call to what is outside the executor has a number, and at chosen numbers something goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeVar

from noetl.executor.errors import ActionError, StoreError
from noetl.executor.stores.sql.database import UnwrittenError

T = TypeVar("T")


class Crash(BaseException):
    """The process is gone: nothing that follows in it happens."""


class Fault(Enum):
    """What goes wrong at a call. The lease of who makes it has run out in the last two but one: with `DELAY` another worker
    has finished everything when the call is made, with `TAKEOVER` another worker has the visit and is still at work.
    """

    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    ERROR = "error before effect"
    LOST_ANSWER = "error after effect"
    DELAY = "delay past the lease"
    TAKEOVER = "taken over meanwhile"
    DUPLICATE = "duplicate delivery"


_LATE = frozenset({Fault.DELAY, Fault.TAKEOVER})
_CRASHES = frozenset({Fault.CRASH_BEFORE, Fault.CRASH_AFTER})
_ERRORS = frozenset({Fault.ERROR, Fault.LOST_ANSWER})

APPLICABLE: Mapping[str, frozenset[Fault]] = {
    "store": frozenset(Fault),
    "action": frozenset(Fault),
    # That a claim is walked: the queue of an SQL store is its table of visits, so a delivery has no other failure.
    "queue": _CRASHES | _LATE | {Fault.DUPLICATE},
    # A clock has no effect, so before and after are the same.
    "clock": _LATE | {Fault.CRASH_BEFORE},
    # Inside a call of a store: what was not committed is undone, so behind one statement is before the next.
    "begin": _LATE | {Fault.CRASH_BEFORE, Fault.ERROR},
    "statement": frozenset({Fault.CRASH_BEFORE, Fault.ERROR}),
    "read": frozenset({Fault.CRASH_BEFORE, Fault.ERROR}),
    "commit": _CRASHES | _ERRORS,
    # A statement that is a transaction of its own; or one request of a store that speaks HTTP.
    "request": _CRASHES | _ERRORS | _LATE,
}
"""Which faults a call can have, by the port that it goes through."""


class Points:
    """The calls of one run. `faults` says what goes wrong at which number (from 1); `late` is called when a call is made
    after its lease, and told whether the other worker has finished.
    """

    def __init__(self) -> None:
        self.begin({}, lambda **_: None)

    def begin(self, faults: Mapping[int, Fault], late: Callable[..., object]) -> None:
        """Number from 1 again."""
        self.seen: list[tuple[str, str]] = []
        self.fired: list[tuple[str, Fault]] = []
        self._faults = faults
        self._late = late
        self._quiet = 0

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing is numbered, and nothing goes wrong."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def hit(self, port: str, name: str) -> Fault | None:
        """The fault of the call that is about to be made."""
        if self._quiet:
            return None
        self.seen.append((port, name))
        fault = self._faults.get(len(self.seen))
        if fault not in APPLICABLE[port]:
            return None
        self.fired.append((port, fault))
        return fault

    def before(self, fault: Fault | None, port: str) -> None:
        if fault is Fault.CRASH_BEFORE:
            raise Crash
        if fault is Fault.ERROR:
            raise _error(port, "is away", unwritten=True)
        if fault in _LATE:
            with self.quiet():
                self._late(finish=fault is Fault.DELAY)

    def after(self, fault: Fault | None, port: str) -> None:
        if fault is Fault.CRASH_AFTER:
            raise Crash
        if fault is Fault.LOST_ANSWER:
            raise _error(port, "has not answered", unwritten=False)

    def through(self, port: str, name: str, call: Callable[[], T]) -> T:
        """Make a call, with what goes wrong at it."""
        fault = self.hit(port, name)
        self.before(fault, port)
        try:
            answer = call()
        finally:
            self.after(fault, port)
        if fault is Fault.DUPLICATE:
            again = call()
            # A delivery that comes twice has no second answer: whoever walks is told what the first one led to.
            return answer if port == "queue" else again
        return answer


def _error(port: str, what: str, *, unwritten: bool) -> Exception:
    if port == "action":
        return ActionError("ConnectionFailed", f"The other side {what}.")
    if unwritten and port not in ("store", "queue"):
        return UnwrittenError(f"The database {what}.")
    return StoreError(f"The store {what}.")


class WatchedStore:
    """A store, each call of which is a point. Points or not, `before` is told of every call that is made, and `note` of
    every one that went well.
    """

    def __init__(
        self,
        store: Any,
        points: Points,
        before: Callable[[str], object],
        note: Callable[[str, tuple[Any, ...], Any], object],
    ) -> None:
        self._store = store
        self._points = points
        self._before = before
        self._note = note

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            def made() -> Any:
                self._before(name)
                answer = found(*args, **options)
                self._note(name, args, answer)
                return answer

            return self._points.through("store", name, made)

        return call


class WatchedDatabase:
    """The database of an SQL store, each statement of which is a point."""

    def __init__(self, database: Any, points: Points) -> None:
        self._database = database
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextmanager
    def transaction(self) -> Iterator[WatchedWriter]:
        self._points.through("begin", "begin", lambda: None)
        fault = None
        with self._database.transaction() as db:
            yield WatchedWriter(db, self._points)
            fault = self._points.hit("commit", "commit")
            self._points.before(fault, "commit")
        self._points.after(fault, "commit")

    def fetch_all(self, query: str, *values: Any) -> Any:
        return self._points.through("read", _name(query), lambda: self._database.fetch_all(query, *values))

    def fetch_one(self, query: str, *values: Any) -> Any:
        return self._points.through("read", _name(query), lambda: self._database.fetch_one(query, *values))

    def execute_returning(self, query: str, *values: Any) -> Any:
        return self._points.through(
            "request", _name(query), lambda: self._database.execute_returning(query, *values)
        )


class WatchedWriter:
    def __init__(self, writer: Any, points: Points) -> None:
        self._writer = writer
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def execute(self, query: str, values: Any = (), /) -> Any:
        return self._points.through("statement", _name(query), lambda: self._writer.execute(query, values))

    def executemany(self, query: str, rows: Any, /) -> Any:
        return self._points.through("statement", _name(query), lambda: self._writer.executemany(query, rows))


def _name(query: str) -> str:
    return " ".join(query.split()[:3])
