"""The events of a run over HTTP: pages and streams."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from noetl.api.context import AppServices
from noetl.api.http.event_stream import EventStreamResponse, StreamRequest
from noetl.api.http.open_limit import OPEN_KINDS, STREAMS, OpenKind, OpenLimit, read_open_limit
from noetl.api.http.problems import Problem
from noetl.api.service.views import EventPage, members
from noetl.executor.errors import SettingError
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
    """Return the events that an EventSource dispatches for a stream (WHATWG HTML, section 9.2.6)."""
    events: list[dict[str, str]] = []
    last_id = ""
    for block in text.split("\n\n")[:-1]:
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields.setdefault(name, []).append(value.removeprefix(" "))
        last_id = fields.get("id", [last_id])[-1]
        if "data" in fields:
            events.append({"event": fields["event"][-1], "data": "\n".join(fields["data"]), "id": last_id})
    return events


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
    for seen in range(1, len(all_events) - 2):
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
    transport.app.state.stream_bytes = 500  # type: ignore[attr-defined]
    found: list[dict[str, str]] = []
    while not found or found[-1]["event"] != "end":
        after = {"Last-Event-ID": found[-1]["id"]} if found else {}
        part = parse_frames((await http.get(path, headers=STREAM | after)).text)
        assert 0 < len(part) < len(all_events)
        found += part
    assert found == all_events


async def test_a_browser_learns_when_to_reconnect_and_when_to_stop(http: httpx.AsyncClient) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    first = await http.get(path, headers=STREAM)
    retry = [line.removeprefix("retry: ") for line in first.text.split("\n") if line.startswith("retry")]
    assert len(retry) == 1
    assert 500 <= int(retry[0]) <= 5000
    *_, last, end = parse_frames(first.text)
    assert (end["event"], end["id"]) == ("end", last["id"])
    # A browser connects again after each response with 200, and sends the last id. Only 204 stops it.
    again = await http.get(path, headers=STREAM | {"Last-Event-ID": end["id"]})
    assert (again.status_code, again.content) == (204, b"")
    # A new reader of the end, which has not seen it in a stream, gets `end`, and with it an id to stop at.
    tail = parse_frames((await http.get(path, headers=STREAM, params={"cursor": last["id"]})).text)
    assert tail == [end]


async def test_a_cursor_of_another_run_is_refused(http: httpx.AsyncClient) -> None:
    path, other = [f"/workflows/{await run_chain(http)}/events" for _ in range(2)]
    foreign = (await http.get(other)).json()["items"][0]["id"]
    missing = (await http.get(path)).json()["items"][0]["id"].replace("1-0-", "9999-0-")
    for response in (
        await http.get(path, params={"cursor": foreign}),
        await http.get(path, params={"cursor": foreign}, headers=STREAM),
        await http.get(path, headers=STREAM | {"Last-Event-ID": foreign}),
        await http.get(path, headers=STREAM | {"Last-Event-ID": missing}),
    ):
        assert response.status_code == 400
        assert response.json()["type"] == "urn:noetl:problem:invalid-cursor"


def opened(http: httpx.AsyncClient) -> AppServices:
    transport = http._transport
    assert isinstance(transport, httpx.ASGITransport)
    services = transport.app.state.context.opened_services  # type: ignore[attr-defined]
    assert isinstance(services, AppServices)
    return services


async def start_held(http: httpx.AsyncClient, gate: Path) -> str:
    """Start a run that waits for the gate, and return the path of its events."""
    playbook = f"name: held\nsteps:\n- name: hold\n  run:\n  - {{action: shell, command: [cat, {gate}]}}\n"
    accepted = await http.post(
        "/workflows/run", content=playbook, headers={"Content-Type": "application/yaml"}
    )
    path: str = accepted.json()["links"]["events"]
    return path


async def wait_for(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110  Nothing signals these conditions.
        await asyncio.sleep(0.005)


async def test_the_number_of_open_streams_is_limited(http: httpx.AsyncClient, gate: Path) -> None:
    limit = opened(http).open_streams
    assert limit.limit == 1000
    path = await start_held(http, gate)
    limit._open.limit = 1
    with limit.open("other"):
        full = await http.get(path, headers=STREAM)
    limit._open.limit = 2
    first = asyncio.create_task(http.get(path, headers=STREAM))
    await wait_for(lambda: limit.count == 1)
    refused = await http.get(path, headers=STREAM)
    for response, expected in ((full, (503, "too-many-streams")), (refused, (429, "quota-exceeded"))):
        assert response.headers["retry-after"] == "5"
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (response.status_code, problem["type"].rpartition(":")[2]) == expected
        assert "NOETL_MAX_STREAMS" in problem["detail"]
    assert (await http.get(path)).status_code == 200
    await asyncio.to_thread(gate.write_bytes, b"")
    assert (await first).status_code == 200
    assert (await http.get(path, headers=STREAM)).status_code == 200


async def test_one_tenant_cannot_take_all_streams() -> None:
    limit = OpenLimit(5, STREAMS)
    with ExitStack() as stack:
        for tenant in ("greedy", "greedy", "greedy", "honest", "third"):
            stack.enter_context(limit.open(tenant))
        for tenant, status in (("greedy", 429), ("honest", 429), ("fourth", 503)):
            with pytest.raises(Problem) as refused:
                stack.enter_context(limit.open(tenant))
            assert refused.value.status == status
        assert limit.count == 5
    assert limit.count == 0


@pytest.mark.parametrize("text", ["0", "-1", "x", "100001", "1e3", "²", "9" * 5000])
@pytest.mark.parametrize("kind", OPEN_KINDS, ids=lambda kind: kind.setting)
def test_a_wrong_limit_of_open_things_is_an_error(kind: OpenKind, text: str) -> None:
    with pytest.raises(SettingError, match=kind.setting):
        read_open_limit({kind.setting: text}, kind)


async def test_a_disconnected_stream_is_not_counted(http: httpx.AsyncClient, gate: Path) -> None:
    services, path = opened(http), await start_held(http, gate)
    watcher = services.watchers.current()
    for version in ("2.3", "2.4"):
        is_disconnected = asyncio.Event()
        sent: list[Any] = []

        async def receive(is_disconnected: asyncio.Event = is_disconnected) -> Any:
            await is_disconnected.wait()
            return {"type": "http.disconnect"}

        async def send(
            message: Any,
            is_disconnected: asyncio.Event = is_disconnected,
            sent: list[Any] = sent,
            version: str = version,
        ) -> None:
            if message["type"] == "http.response.body" and version == "2.4":
                raise OSError("the connection is closed")
            sent.append(message)
            if message["type"] == "http.response.body":
                is_disconnected.set()

        stream = StreamRequest(path.split("/")[2], None, False, math.inf, math.inf)
        response = EventStreamResponse(stream, services.services.runs, watcher, services.open_streams)
        scope = {"type": "http", "path": path, "method": "GET", "asgi": {"spec_version": version}}
        with suppress(ClientDisconnect):
            await response(scope, receive, send)
        assert sent[0]["status"] == 200
        assert services.open_streams.count == 0
        assert watcher._feeds == {}
    await asyncio.to_thread(gate.write_bytes, b"")


async def test_a_hundred_listeners_share_one_reader(http: httpx.AsyncClient, gate: Path) -> None:
    services, path = opened(http), await start_held(http, gate)
    queries: Counter[str] = Counter()

    def counted(name: str) -> None:
        query = getattr(services.store.runs, name)

        def count(*arguments: Any) -> Any:
            queries[name] += 1
            return query(*arguments)

        setattr(services.store.runs, name, count)

    listeners = [asyncio.create_task(http.get(path, headers=STREAM)) for _ in range(100)]
    await wait_for(lambda: services.open_streams.count == 100)
    await wait_for(lambda: any(feed.start for feed in services.watchers.current()._feeds.values()))
    await asyncio.sleep(0.2)
    counted("events")
    counted("get")
    counted("positions")
    await asyncio.to_thread(gate.write_bytes, b"")
    texts = {(await listener).text.split("\n\n", 1)[1] for listener in listeners}
    assert len(texts) == 1
    assert parse_frames("\n\n" + texts.pop())[-1]["event"] == "end"
    # Not one query for each listener, but some for each change of the run.
    assert 0 < queries["events"] < 20
    assert 0 < queries["positions"] < 20
    assert queries["get"] < 20


async def test_waiting_requests_share_one_reader(http: httpx.AsyncClient, gate: Path) -> None:
    services = opened(http)
    playbook = f"name: held\nsteps:\n- name: hold\n  run:\n  - {{action: shell, command: [cat, {gate}]}}\n"
    headers = {"Content-Type": "application/yaml", "Prefer": "wait=25", "Idempotency-Key": "same"}
    waiting = [
        asyncio.create_task(http.post("/workflows/run", content=playbook, headers=headers)) for _ in range(30)
    ]
    watcher = services.watchers.current()
    await wait_for(lambda: sum(feed.followers for feed in watcher._feeds.values()) == 30)
    assert len(watcher._feeds) == 1
    await asyncio.to_thread(gate.write_bytes, b"")
    assert {(await response).status_code for response in waiting} == {200}
    assert watcher._feeds == {}


async def test_a_tenant_alone_waits_with_half_of_the_requests(http: httpx.AsyncClient, gate: Path) -> None:
    limit = opened(http).waiting_requests
    assert limit.limit == 1000
    limit._open.limit = 4
    playbook = f"name: held\nsteps:\n- name: hold\n  run:\n  - {{action: shell, command: [cat, {gate}]}}\n"
    headers = {"Content-Type": "application/yaml", "Prefer": "wait=25", "Idempotency-Key": "same"}
    waiting = [
        asyncio.create_task(http.post("/workflows/run", content=playbook, headers=headers)) for _ in range(2)
    ]
    await wait_for(lambda: limit.count == 2)
    with limit.open("other"):
        at_once = await http.post("/workflows/run", content=playbook, headers=headers)
    assert at_once.status_code == 202
    assert "preference-applied" not in at_once.headers
    await asyncio.to_thread(gate.write_bytes, b"")
    assert {(await response).headers["preference-applied"] for response in waiting} == {"wait=25"}
    assert limit.count == 0


@pytest.mark.parametrize(
    "query",
    [
        "cursor=zzz",
        f"cursor={10**30}-0",
        f"cursor=0-{'9' * 5000}",
        "cursor=1-0-00000000",
        "limit=0",
        "limit=1001",
        "after=1",
    ],
)
async def test_a_bad_query_is_refused(http: httpx.AsyncClient, query: str) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    assert (await http.get(f"{path}?{query}")).status_code == 400


async def test_a_stream_after_an_unknown_event_is_a_problem(http: httpx.AsyncClient) -> None:
    path = f"/workflows/{await run_chain(http)}/events"
    response = await http.get(path, headers=STREAM | {"Last-Event-ID": "zzz"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert (await http.get("/workflows/nothing/events", headers=STREAM)).status_code == 404
