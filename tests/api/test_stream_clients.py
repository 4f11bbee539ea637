"""Streams that are open when their client is not accepted any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from noetl.api import access
from noetl.api.auth import authentication
from noetl.api.auth.api_keys import create_api_key
from noetl.api.auth.authentication import Authenticator
from noetl.api.http import client_check, event_stream, list_stream
from noetl.api.http.problems import Problem
from noetl.executor.errors import StoreAwayError
from noetl.executor.stores import open_store

pytestmark = pytest.mark.anyio

STREAM = {"Accept": "text/event-stream"}
KEY, RECORD = create_api_key("reader", ["run"], "default", 1.0)
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_check, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_SECONDS", 0.02)
    monkeypatch.setattr(list_stream, "KEEP_ALIVE_SECONDS", 0.02)
    monkeypatch.setattr(authentication, "RECENT_SECONDS", 0.0)
    monkeypatch.setattr(authentication, "RECHECK_SECONDS", 0.0)


@pytest.fixture
def key(settings: dict[str, str]) -> Iterator[None]:
    """Add the key to the store, before the service is started."""
    change_keys(settings, add=True)
    yield


def change_keys(settings: dict[str, str], *, add: bool) -> None:
    store = open_store(settings["NOETL_STORE"])
    if add:
        store.keys.add(RECORD)
    else:
        store.keys.revoke("default", RECORD.id, 2.0)
    store.close()


async def start_held(http: httpx.AsyncClient, gate: Path, headers: dict[str, str]) -> str:
    """Start a run that waits for the gate, and return its path."""
    playbook = f"name: held\nsteps:\n- name: hold\n  run:\n  - {{action: shell, command: [cat, {gate}]}}\n"
    headers = headers | {"Content-Type": "application/yaml"}
    response = await http.post("/workflows/run", content=playbook, headers=headers)
    return f"/workflows/{response.json()['workflow_id']}"


def open_streams(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> list[asyncio.Task[str]]:
    """Open the stream of a run and that of the list of runs."""

    async def read(path: str) -> str:
        return (await http.get(path, headers=headers | STREAM)).text

    transport = http._transport
    assert isinstance(transport, httpx.ASGITransport)
    transport.app.state.list_stream_seconds = 3600.0  # type: ignore[attr-defined]
    return [asyncio.create_task(read(stream)) for stream in (f"{path}/events", "/events")]


async def assert_open(streams: list[asyncio.Task[str]]) -> None:
    done, _ = await asyncio.wait(streams, timeout=0.2)
    assert not done


async def assert_ended(streams: list[asyncio.Task[str]]) -> None:
    async with asyncio.timeout(20.0):
        texts = await asyncio.gather(*streams)
    assert not any("event: end" in text for text in texts)


async def test_streams_end_when_their_key_is_revoked(
    key: None, http: httpx.AsyncClient, settings: dict[str, str], gate: Path
) -> None:
    path = await start_held(http, gate, WITH_KEY)
    streams = open_streams(http, path, WITH_KEY)
    await assert_open(streams)
    change_keys(settings, add=False)
    await assert_ended(streams)
    assert (await http.get(f"{path}/events", headers=WITH_KEY | STREAM)).status_code == 401


async def test_streams_without_credentials_end_when_these_are_needed(
    http: httpx.AsyncClient, settings: dict[str, str], gate: Path
) -> None:
    path = await start_held(http, gate, {})
    streams = open_streams(http, path, {})
    await assert_open(streams)
    change_keys(settings, add=True)
    await assert_ended(streams)


@pytest.mark.parametrize(
    "error",
    [StoreAwayError("The store is away."), Problem(503, "The keys are away.", slug="issuer-unavailable")],
)
@pytest.mark.usefixtures("key")
async def test_streams_stay_open_while_their_key_cannot_be_checked(
    error: Exception,
    http: httpx.AsyncClient,
    settings: dict[str, str],
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[object] = []

    def fail(*arguments: object) -> NoReturn:
        checked.append(arguments)
        raise error

    streams = open_streams(http, await start_held(http, gate, WITH_KEY), WITH_KEY)
    await assert_open(streams)
    with monkeypatch.context() as patch:
        patch.setattr(Authenticator, "authenticate", fail)
        await assert_open(streams)
        assert checked
    change_keys(settings, add=False)
    await assert_ended(streams)


async def test_the_stream_of_a_ticket_ends_after_a_time(
    key: None, http: httpx.AsyncClient, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await start_held(http, gate, WITH_KEY)
    ticket = (await http.post(f"{path}/events/ticket", headers=WITH_KEY)).json()["ticket"]
    stream = asyncio.create_task(http.get(f"{path}/events?ticket={ticket}", headers=STREAM))
    done, _ = await asyncio.wait([stream], timeout=0.2)
    assert not done
    monkeypatch.setattr(access, "TICKET_STREAM_SECONDS", 0.0)
    async with asyncio.timeout(20.0):
        assert "event: end" not in (await stream).text
