"""The store as the threads of a worker use it: an operation that fails is tried again while the worker runs.

Problem: a store that has no room, is read-only or is away refuses the outcome of a step. If the worker forgot
the outcome, its step would be performed again after a lease. After some leases a healthy worker would count
as lost, although room that is made later helps.

Algorithm: each operation is repeated after PAUSE_SECONDS, with the values that it has. The thread holds its
claim meanwhile, and the lease keeper renews it. Fences make the repetition of a commit safe: if the first
try was written, the second is refused.

Cost: one call for each operation.

Limits: if the store fails for a whole lease, another worker may take the claim when the store is back, and
perform the step again. A commit that is repeated claims no further visit, since its lease may be over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from noetl.executor.errors import DamagedRunError, PayloadLostError, StoreError
from noetl.executor.model.run import Commit, CommitResult, Lease
from noetl.executor.stores.interface import Store

PAUSE_SECONDS = 0.1
"""Pause before an operation is tried again. Threads that claim visits wait for longer."""

T = TypeVar("T")


class OutagePolicy(Protocol):
    """The reaction of a worker to failures of its store."""

    def may_retry(self, error: StoreError) -> bool:
        """Wait, and return whether the operation that has failed is tried again."""
        ...

    def record_answer(self) -> None:
        """Record that the store has answered an operation that had failed."""
        ...


def make_persistent(store: Store, policy: OutagePolicy) -> Store:
    """Return a store whose operations are tried again as long as a policy allows."""
    return cast("Store", _PersistentStore(store, policy))


class _PersistentPart:
    """A part of a store whose methods are tried again. What is no method is that of the part."""

    def __init__(self, part: Any, policy: OutagePolicy) -> None:
        self._part = part
        self._policy = policy

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        if not callable(method):
            return method

        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return method(*arguments, **options)
            except StoreError as error:
                return self._retry(error, lambda: method(*arguments, **options))

        setattr(self, name, call)
        return call

    def _retry(self, error: StoreError, operation: Callable[[], T]) -> T:
        """Return the result of an operation that has failed, or raise its last error.

        Data that is damaged or lost stays so, and is not read again.
        """
        while not isinstance(error, DamagedRunError | PayloadLostError) and self._policy.may_retry(error):
            try:
                result = operation()
            except StoreError as latest:
                error = latest
            except BaseException:
                self._policy.record_answer()
                raise
            else:
                self._policy.record_answer()
                return result
        raise error


class _PersistentQueue(_PersistentPart):
    """A work queue whose methods are tried again."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        """Write the outcome of a visit. Only the first try also claims the next visit."""
        try:
            result: CommitResult = self._part.commit(commit, now, claim_for)
        except StoreError as error:
            result = self._retry(error, lambda: cast("CommitResult", self._part.commit(commit, now)))
        return result


class _PersistentStore:
    """A store whose parts try again. Its signals are those of the store."""

    def __init__(self, store: Store, policy: OutagePolicy) -> None:
        self.plans = _PersistentPart(store.plans, policy)
        self.runs = _PersistentPart(store.runs, policy)
        self.visits = _PersistentPart(store.visits, policy)
        self.pauses = _PersistentPart(store.pauses, policy)
        self.switches = _PersistentPart(store.switches, policy)
        self.queue = _PersistentQueue(store.queue, policy)
        self.waits = _PersistentPart(store.waits, policy)
        self.registry = _PersistentPart(store.registry, policy)
        self.triggers = _PersistentPart(store.triggers, policy)
        self.gates = _PersistentPart(store.gates, policy)
        self.outbox = _PersistentPart(store.outbox, policy)
        self.channels = _PersistentPart(store.channels, policy)
        self.keys = _PersistentPart(store.keys, policy)
        self.cache = _PersistentPart(store.cache, policy)
        self.facts = _PersistentPart(store.facts, policy)
        self.maintenance = _PersistentPart(store.maintenance, policy)
        self.clock = store.clock
        self.changes = store.changes
        self.work = store.work
        self.close = store.close
