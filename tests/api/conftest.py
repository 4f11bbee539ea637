"""The service of a test: a store of its own, real workers, and a client on this machine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from noetl.api.app import create_app


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A pipe. Opening it for writing waits for the step that runs `cat` on it; closing it lets the step go on."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR))  # whoever still waits at either end of it waits no more


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {
        "NOETL_STORE": f"sqlite:///{tmp_path / 'noetl.db'}",
        "NOETL_WORKERS": "2",
        "NOETL_ALLOW_SHELL": "1",
    }


@pytest.fixture
async def http(settings: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            yield client
