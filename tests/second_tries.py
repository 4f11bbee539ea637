"""A second try of a test has a service of its own.

CI repeats a failed test. Its first try may have left playbooks, runs or pauses in a service that the tests
of a module or session share, and these can make every further try fail. So a test that is set up again first
ends such services. pytest then starts new ones, and makes anew the fixtures that depend on them.
"""

from __future__ import annotations

from typing import Any

import pytest

FIXTURES = frozenset({"service", "url"})
"""The names of fixtures that start a service. In `tests/e2e/aws`, only the client of the service is new."""

_started = pytest.StashKey[list[tuple[pytest.FixtureDef[Any], Any]]]()
_was_tried = pytest.StashKey[bool]()


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    if fixturedef.argname in FIXTURES and fixturedef.scope != "function":
        request.config.stash.setdefault(_started, []).append((fixturedef, request))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    started = item.config.stash.get(_started, [])
    is_second = item.stash.get(_was_tried, False)
    item.stash[_was_tried] = True
    while is_second and started:
        fixturedef, request = started.pop()
        fixturedef.finish(request)
