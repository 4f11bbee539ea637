"""The service of a test: a store of its own, real workers, and a client on this machine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api.app import create_app


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe: a step that runs `cat` on it is held until the test writes to it, which in turn waits for the step."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {"NOETL_STORE": f"sqlite:///{tmp_path / 'noetl.db'}", "NOETL_WORKERS": "2", "NOETL_ALLOW_SHELL": "1"}


@pytest.fixture
async def http(settings: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            yield client
