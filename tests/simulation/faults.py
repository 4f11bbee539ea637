"""A store that fails at one chosen call, in one of four ways."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from executor.errors import StoreError
from executor.stores.store import Store


class Crash(BaseException):
    """The process is gone: nothing that follows in it happens."""


class Fault(Enum):
    """`LOST_ANSWER` is a call that was done, though who made it never learns so."""

    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    ERROR = "error"
    LOST_ANSWER = "lost answer"


class FaultyStore:
    """Passes every call on, adds its name to `calls`, and goes wrong once: at its own call number `at` (from 1)."""

    def __init__(self, store: Store, calls: list[str], fault: Fault | None = None, at: int = 0) -> None:
        self._store = store
        self._calls = calls
        self._fault = fault
        self._left = at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._watched(name, found) if callable(found) else found

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self._calls.append(name)
            self._left -= 1
            fault = self._fault if self._left == 0 else None
            if fault is Fault.CRASH_BEFORE:
                raise Crash
            if fault is Fault.ERROR:
                raise StoreError("The store is away.")
            answer = method(*args, **options)
            if fault is Fault.CRASH_AFTER:
                raise Crash
            if fault is Fault.LOST_ANSWER:
                raise StoreError("The store has not answered.")
            return answer

        return call
