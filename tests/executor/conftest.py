"""Fixtures of the executor's tests."""

from __future__ import annotations

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine import attempts
from noetl.planner.catalogue import Catalogue
from tests.executor.fake_handler import PROBE, FakeHandler


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> FakeHandler:
    """The handler of the action type `probe`, which exists during the test."""
    fake, types, handler = FakeHandler(), catalogue(), attempts.handler
    monkeypatch.setattr(attempts, "catalogue", lambda: Catalogue([*types.values(), PROBE]))
    monkeypatch.setattr(attempts, "handler", lambda name: fake if name == "probe" else handler(name))
    return fake
