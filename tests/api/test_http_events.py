"""The events of a run over HTTP: pages and streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from noetl.api.routes import events
from noetl.api.service.views import EventPage, members
from tests.api.responses import read_view

pytestmark = pytest.mark.anyio

CHAIN = """\
name: chain
steps:
  - name: first
    run:
      - {action: log, message: "one\\u2028line\\n\\ndata: no"}
    rule:
      - {case: default, run: [second]}
  - name: second
    run:
      - {action: set, set: {b: 2}}
"""
STREAM = {"Accept": "text/event-stream"}


async def run_chain(http: httpx.AsyncClient) -> str:
    response = await http.post(
        "/workflows/run",
        content=CHAIN.encode(),
        headers={"Content-Type": "application/yaml", "Prefer": "wait=25"},
    )
    assert response.status_code == 200, response.text
    workflow_id: str = response.json()["workflow_id"]
    return workflow_id


def parse_frames(text: str) -> list[dict[str, str]]:
    return [
        dict(line.split(": ", 1) for line in frame.splitlines())
        for frame in text.split("\n\n")
        if frame and not frame.startswith(":")
    ]


async def test_events_are_returned_in_pages(http: httpx.AsyncClient) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    all_events = read_view(EventPage, (await http.get(path)).json())
    assert all_events.next_cursor is None
    types = [event.type for event in all_events.items]
    assert types[0] == "workflow.started"
    assert types[-1] == "workflow.completed"
    assert types.count("step.completed") == 2
    assert len({event.id for event in all_events.items}) == len(all_events.items)
    collected: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await http.get(path, params={"limit": "3"} | cursor)).json()
        collected += page["items"]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 3
        cursor = {"cursor": page["next_cursor"]}
    assert collected == [members(event) for event in all_events.items]


async def test_a_stream_ends_with_the_run(http: httpx.AsyncClient) -> None:
    accepted = await http.post(
        "/workflows/run", content=CHAIN.encode(), headers={"Content-Type": "application/yaml"}
    )
    workflow_id = accepted.json()["workflow_id"]
    response = await http.get(f"/workflows/{workflow_id}/events", headers=STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    *found, end = parse_frames(response.text)
    assert end["event"] == "end"
    assert json.loads(end["data"]) == {"workflow_id": workflow_id, "status": "succeeded"}
    page = (await http.get(f"/workflows/{workflow_id}/events")).json()
    assert [json.loads(event["data"]) for event in found] == page["items"]
    assert [(event["id"], event["event"]) for event in found] == [
        (item["id"], item["type"]) for item in page["items"]
    ]


async def test_a_stream_continues_after_the_last_event_id(http: httpx.AsyncClient) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    all_events = parse_frames((await http.get(path, headers=STREAM)).text)
    for seen in range(1, len(all_events) - 1):
        rest = parse_frames(
            (await http.get(path, headers=STREAM | {"Last-Event-ID": all_events[seen - 1]["id"]})).text
        )
        assert rest == all_events[seen:]


async def test_a_stream_through_a_gateway_ends_early_and_can_be_continued(
    http: httpx.AsyncClient,
) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    all_events = parse_frames((await http.get(path, headers=STREAM)).text)
    transport = http._transport
    assert isinstance(transport, httpx.ASGITransport)
    transport.app.state.stream_bytes = 300  # type: ignore[attr-defined]
    found: list[dict[str, str]] = []
    while not found or found[-1]["event"] != "end":
        after = {"Last-Event-ID": found[-1]["id"]} if found else {}
        part = parse_frames((await http.get(path, headers=STREAM | after)).text)
        assert 0 < len(part) < len(all_events)
        found += part
    assert found == all_events


async def test_the_number_of_open_streams_is_limited(
    http: httpx.AsyncClient, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    playbook = f"name: held\nsteps:\n- name: hold\n  run:\n  - {{action: shell, command: [cat, {gate}]}}\n"
    accepted = await http.post(
        "/workflows/run", content=playbook, headers={"Content-Type": "application/yaml"}
    )
    path = accepted.json()["links"]["events"]
    is_open = asyncio.Event()
    stream = events._stream

    async def stream_and_notify(*args: Any) -> AsyncIterator[str]:
        is_open.set()
        async for frame in stream(*args):
            yield frame

    monkeypatch.setattr(events, "_stream", stream_and_notify)
    first = asyncio.create_task(http.get(path, headers=STREAM))
    await is_open.wait()
    refused = await http.get(path, headers=STREAM)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:noetl:problem:too-many-streams"
    assert (await http.get(path)).status_code == 200
    await asyncio.to_thread(gate.write_bytes, b"")
    assert (await first).status_code == 200
    assert (await http.get(path, headers=STREAM)).status_code == 200


async def test_a_disconnected_stream_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    sent: list[Any] = []

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "x"
            await asyncio.sleep(0)

    async def receive_disconnect() -> Any:
        return {"type": "http.disconnect"}

    async def send_fails(message: Any) -> None:
        raise OSError("the connection is closed")

    async def send_keeps(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "asgi": {"spec_version": "2.3"}}
    await events._EventStreamResponse(endless())(scope, receive_disconnect, send_keeps)
    with pytest.raises(ClientDisconnect):
        await events._EventStreamResponse(endless())(
            scope | {"asgi": {"spec_version": "2.4"}}, receive_disconnect, send_fails
        )
    assert events._EventStreamResponse.open_count == 0
    assert sent == [] or sent[0]["status"] == 200


@pytest.mark.parametrize("query", ["cursor=zzz", f"cursor={10**30}-0", "limit=0", "limit=1001", "after=1"])
async def test_a_bad_query_is_refused(http: httpx.AsyncClient, query: str) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    assert (await http.get(f"{path}?{query}")).status_code == 400


async def test_a_stream_after_an_unknown_event_is_a_problem(http: httpx.AsyncClient) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    response = await http.get(path, headers=STREAM | {"Last-Event-ID": "zzz"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert (await http.get("/workflows/nothing/events", headers=STREAM)).status_code == 404
