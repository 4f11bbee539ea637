"""DynamoDB as a backend of the crash matrix: every request is a fault point.

The table is the queue, so that one thread executes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from noetl.executor.clients import aws_retry
from noetl.executor.stores.dynamo.keys import ItemKey
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.finding import Finding
from noetl.infra.dynamodb import upgrade
from tests.aws import empty_account, running_emulator
from tests.simulation.faults import FaultPoints

T = TypeVar("T")
U = TypeVar("U")


class FaultInjectingTable(DynamoTable):
    """A table, each request to which is a fault point."""

    def __init__(self, name: str, points: FaultPoints) -> None:
        super().__init__(name)
        self._points = points

    def _call(self, call: str, **request: Any) -> dict[str, Any]:
        send = super()._call
        response: dict[str, Any] = self._points.call("request", call, lambda: send(call, **request))
        return response


class DynamoBackend:
    """A table that is cleared for each run. A new process has empty caches."""

    name = "DynamoDB"

    def __init__(self, table: str = "noetl") -> None:
        self.points = FaultPoints()
        self._table = table
        upgrade(table)
        self.store = self.reopen()

    def reopen(self) -> DynamoStore:
        with self.points.disabled():
            self.store = DynamoStore(FaultInjectingTable(self._table, self.points))
        self.store.context.in_parallel = _run_serially  # type: ignore[method-assign]
        return self.store

    def clear(self) -> DynamoStore:
        with self.points.disabled():
            table = self.store.context.table
            table.delete([ItemKey(item["pk"], item["sk"]) for item in table.scan()])
            return self.reopen()

    def check_consistency(self) -> list[Finding]:
        with self.points.disabled():
            return self.store.maintenance.check_consistency()

    def dump(self) -> list[str]:
        """Return the items of runs and of the outbox, without waits and without pages of the history.

        Readers write the pages, and a wait has no effect after the end of a run.
        """
        with self.points.disabled():
            items = [
                item
                for item in self.store.context.table.scan()
                if item["pk"][0] in "RTIY" and item["sk"][0] != "E"
            ]
        return sorted(str(sorted(item.items())) for item in items if item["sk"][0] != "W")

    def close(self) -> None: ...


def _run_serially(function: Callable[[T], U], values: Sequence[T]) -> list[U]:
    return [function(value) for value in values]


@contextmanager
def dynamo_backend() -> Iterator[DynamoBackend]:
    """Create a backend in an emulator of its own, which ends with the block."""
    with (
        running_emulator() as server,
        pytest.MonkeyPatch.context() as patch,
        empty_account(server, patch),
    ):
        shorten_retry_pauses(patch)
        yield DynamoBackend()


def shorten_retry_pauses(patch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses of the store before it repeats a request."""
    patch.setattr(aws_retry, "FIRST_PAUSE_SECONDS", 0.001)
