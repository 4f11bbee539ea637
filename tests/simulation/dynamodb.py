"""A store in DynamoDB as a ground of the matrix: every request is a point. The queue is the table itself, so that one thread
walks everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from noetl.executor.clients import aws_retry
from noetl.executor.stores.dynamo.keys import ItemKey
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.finding import Finding
from noetl.infra.dynamodb import upgrade

from tests import aws
from tests.simulation.faults import Points


class WatchedTable(DynamoTable):
    """A table, each request to which is a point."""

    def __init__(self, name: str, points: Points) -> None:
        super().__init__(name)
        self._points = points

    def _call(self, call: str, **asked: Any) -> dict[str, Any]:
        ask = super()._call
        found: dict[str, Any] = self._points.through("request", call, lambda: ask(call, **asked))
        return found


class DynamoGround:
    """A table that is emptied for each run. A process that has just started knows nothing of what another one did."""

    name = "DynamoDB"

    def __init__(self, table: str = "noetl") -> None:
        self.points = Points()
        self._table = table
        upgrade(table)
        self.store = self.again()

    def again(self) -> DynamoStore:
        with self.points.quiet():
            self.store = DynamoStore(self._table)
        watched = WatchedTable(self._table, self.points)
        self.store.table = watched
        self.store.plans._table = watched
        self.store.in_parallel = _one_by_one  # type: ignore[method-assign]
        return self.store

    def empty(self) -> DynamoStore:
        with self.points.quiet():
            self.store.table.delete([ItemKey(item["pk"], item["sk"]) for item in self.store.table.scan()])
            return self.again()

    def examine(self) -> list[Finding]:
        with self.points.quiet():
            return self.store.check_consistency()

    def contents(self) -> list[str]:
        """All items of runs; not the order that readers gave to the history, nor that a wait was closed."""
        with self.points.quiet():
            items = [
                item for item in self.store.table.scan() if item["pk"][0] in "RTI" and item["sk"][0] != "E"
            ]
        return sorted(str(sorted(item.items())) for item in items if item["sk"][0] != "W")

    def close(self) -> None: ...


def _one_by_one(work: Callable[[Any], Any], over: Sequence[Any]) -> list[Any]:
    return [work(one) for one in over]


@contextmanager
def in_dynamodb() -> Iterator[DynamoGround]:
    """A ground in an emulator of its own, which ends with the block."""
    with (
        contextmanager(aws.aws_server.__wrapped__)() as server,  # type: ignore[attr-defined]
        pytest.MonkeyPatch.context() as patch,
        contextmanager(aws.aws.__wrapped__)(server, patch),  # type: ignore[attr-defined]
    ):
        hurry(patch)
        yield DynamoGround()


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Let the store not wait long before it asks again."""
    patch.setattr(aws_retry, "FIRST_PAUSE_SECONDS", 0.001)
