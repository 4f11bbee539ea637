"""Fixtures and limits that all contracts of a store share."""

from __future__ import annotations

import pytest

from noetl.executor.model.limits import PayloadLimits
from noetl.executor.stores.interface import Store


class ContractFixtures:
    """The fixtures of a contract. A subclass adds the fixture `store`, which returns an empty store.

    `limits` are those of this store. With small limits, the tests at the limits are faster.
    """

    limits = PayloadLimits()

    @pytest.fixture
    def second(self, store: Store) -> Store:
        """Return another connection to the same store, or the store itself if it has no connections."""
        return store
