"""Fixtures of the executor's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noetl.executor.actions import temporary_types
from tests.executor.fake_handler import FakeHandler


@pytest.fixture
def probe() -> Iterator[FakeHandler]:
    """The handler of the action type `probe`, which exists during the test."""
    fake = FakeHandler()
    with temporary_types(fake):
        yield fake
