"""Fixtures of the HTTP tests: an app with a store of its own, workers, and a client on this machine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from noetl.api.app import create_app
from tests.api.conformance import record_violations


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Pipe that holds a step which runs `cat` on it.

    Opening it for writing blocks until the step has started; closing it lets the step finish.
    """
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path
    # Let a step or a test go on that waits at either end. A step that has not opened the pipe yet finds none.
    writer = os.open(path, os.O_RDWR)
    path.unlink()
    os.close(writer)


@pytest.fixture
def settings(sqlite_file: Path) -> dict[str, str]:
    return {
        "NOETL_STORE": f"sqlite:///{sqlite_file}",
        "NOETL_WORKERS": "2",
        "NOETL_ALLOW_SHELL": "1",
    }


@pytest.fixture
async def http(settings: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    app.state.list_stream_seconds = 0.0  # This transport returns only complete responses.
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            yield client


@pytest.fixture(autouse=True)
def document_violations() -> Iterator[None]:
    """Fail the test if a request or a response differs from `/openapi.json`."""
    with record_violations() as violations:
        yield
    assert violations == []
