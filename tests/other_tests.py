"""Plugin of pytest that leaves out the tests which measure the coverage: `pytest -p tests.other_tests`."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetl.infra.coverage_report import LEFT_OUT, measures


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore a file if all its tests measure the coverage."""
    path = collection_path.relative_to(config.rootpath).as_posix()
    has_others = any(test.startswith(path) for test in LEFT_OUT)
    return True if collection_path.is_file() and measures(path) and not has_others else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other tests that measure it."""
    config.hook.pytest_deselected(items=[item for item in items if measures(item.nodeid)])
    items[:] = [item for item in items if not measures(item.nodeid)]
