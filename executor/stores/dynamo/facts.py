"""Facts for metrics in DynamoDB, which counts none: an item for each would cost as much as a commit."""

from __future__ import annotations

from noetl.executor.model.metrics import StoreMetrics


class DynamoFacts:
    """The part of a store that counts nothing. The metrics of CloudWatch are those of this store."""

    def read(self, tenant: str | None, now: float) -> StoreMetrics | None:
        """Return None. Nothing is read."""
        return None
