"""The stores in which tests of the HTTP API run."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from noetl.infra.dynamodb import upgrade

on_sqlite = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
"""Mark of a test whose calls of the store are in the contract of stores, and in other tests on DynamoDB."""


def choose_store(request: pytest.FixtureRequest, settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings with the store that the parameter of a fixture names: `sqlite` or `dynamodb`."""
    if request.param == "sqlite":
        return dict(settings)
    request.getfixturevalue("aws")
    upgrade("noetl")
    return {**settings, "NOETL_STORE": "dynamodb://noetl"}
