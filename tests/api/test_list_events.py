"""The stream of a list of runs over real connections: snapshot, changes, filters, tenants and limits."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.connections import ConnectionTable
from noetl.api.context import AppServices
from noetl.executor.errors import StoreError
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.migrations import upgrade
from tests.api.test_slow_clients import serve

FINE = "name: fine\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"
BROKEN = """\
name: broken
input: {text: string}
steps: [{name: a, run: [{action: fail, message: "{{ input.text }}"}]}]
"""
OPEN = "name: open\nsteps: [{name: ask, run: [{action: callback, timeout: 1h}]}]\n"
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\n\ndata: no\u2028\r\nevent: ready"
TIMEOUT_SECONDS = 60


class ListReader:
    """A client of a stream, which reads it in a thread. `runs` has the entries as a page would show them."""

    def __init__(self, client: httpx.Client, **query: Any) -> None:
        self.frames: list[tuple[str, Any]] = []
        self.runs: dict[str, Any] = {}
        self.has_ended = False
        self._changed = threading.Condition()
        self._client = client
        self._query = query
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        event = ""
        try:
            with self._client.stream("GET", "/events", params=self._query) as response:
                assert response.status_code == 200, response.read()
                self._socket = response.extensions["network_stream"].get_extra_info("socket")
                for line in response.iter_lines():
                    name, _, text = line.partition(": ")
                    if name == "event":
                        event = text
                    elif name == "data":
                        self._add(event, json.loads(text))
        except httpx.HTTPError:
            pass
        with self._changed:
            self.has_ended = True
            self._changed.notify_all()

    def _add(self, event: str, data: Any) -> None:
        with self._changed:
            self.frames.append((event, data))
            if event == "run":
                self.runs[data["workflow_id"]] = data
            elif event == "gone":
                self.runs.pop(data["workflow_id"])
            self._changed.notify_all()

    def cut(self) -> None:
        """Cut the connection off, and wait for the end of the stream."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join()
        self._client.close()

    def wait(self, is_true: Callable[[], bool]) -> None:
        """Wait until a condition on the frames is true."""
        with self._changed:
            assert self._changed.wait_for(is_true, TIMEOUT_SECONDS), self.frames

    def wait_ready(self) -> dict[str, Any]:
        """Wait for the end of the first runs, and return its data."""
        self.wait(lambda: any(event == "ready" for event, _ in self.frames))
        return next(data for event, data in self.frames if event == "ready")

    def wait_status(self, run_id: str, *statuses: str) -> None:
        self.wait(lambda: run_id in self.runs and self.runs[run_id]["status"] in statuses)

    def wait_removed(self, run_id: str) -> None:
        self.wait(lambda: ("gone", {"workflow_id": run_id}) in self.frames)

    def wait_end(self) -> None:
        self.wait(lambda: self.has_ended)


class ListService:
    """A service on a port, with a client that has a key."""

    def __init__(self, app: FastAPI, url: str, keys: dict[str, str]) -> None:
        """Wait until the app has opened its services."""
        self.app = app
        self.url = url
        self._keys = keys
        self._readers: list[ListReader] = []
        self.client = self.connect("default")
        self.client.get("/workflows").raise_for_status()

    def connect(self, tenant: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self._keys[tenant]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_SECONDS)

    def follow(self, tenant: str = "default", **query: Any) -> ListReader:
        """Return a new reader with a connection of its own."""
        reader = ListReader(self.connect(tenant), **query)
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        """End all streams, and close all connections."""
        self.opened.stop_streams()
        for reader in self._readers:
            reader.close()
        self.client.close()

    @property
    def opened(self) -> AppServices:
        services = self.app.state.context.opened_services
        assert isinstance(services, AppServices)
        return services

    def start(self, playbook: str, client: httpx.Client | None = None, **more: Any) -> str:
        """Start a run and return its id. It has ended, unless it waits."""
        prefer = {} if playbook == OPEN else {"Prefer": "wait=25"}
        body = {"playbook": playbook, **more}
        response = (client or self.client).post("/workflows/run", json=body, headers=prefer)
        assert response.status_code in (200, 202), response.text
        run_id: str = response.json()["workflow_id"]
        return run_id

    def listed(self, **query: Any) -> dict[str, Any]:
        page = self.client.get("/workflows", params=query).json()
        return {item["workflow_id"]: item for item in page["items"]}

    def assert_same(self, reader: ListReader, **query: Any) -> None:
        """Check that a reader reaches the first page of the list, and keeps its order."""
        reader.wait(lambda: reader.runs == self.listed(**query))

    def cancel(self, run_id: str) -> None:
        assert self.client.post(f"/workflows/{run_id}/cancel").status_code == 202


@contextmanager
def run_service(url: str, **settings: str) -> Iterator[ListService]:
    """Serve an app with the store at a URL and keys of two tenants."""
    store = open_store(url)
    keys = {}
    for tenant in ("default", "another"):
        keys[tenant], record = create_api_key("key", ["admin"], tenant, 1.0)
        store.keys.add(record)
    store.close()
    app = create_app({"NOETL_STORE": url, "NOETL_WORKERS": "2", **settings})
    with serve(app, ConnectionTable(1000)) as port:
        service = ListService(app, f"http://127.0.0.1:{port}", keys)
        try:
            yield service
        finally:
            service.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'noetl.db'}"


@pytest.fixture
def service(url: str) -> Iterator[ListService]:
    with run_service(url) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, url: str) -> str:
    if request.param == "sqlite":
        return url
    dsn: str = request.getfixturevalue("postgres_dsn")
    upgrade(dsn)
    return dsn


def open_with_retention(url: str, seconds: float) -> Store:
    if url.startswith("sqlite"):
        return SqliteStore(url.removeprefix("sqlite:///"), retention_seconds=seconds)
    return PostgresStore(url, retention_seconds=seconds)


def test_a_reader_has_the_list_at_first_and_after_each_change(store_url: str) -> None:
    with run_service(store_url) as service:
        former = [service.start(FINE, tags=["nightly"]), service.start(BROKEN, input={"text": HOSTILE})]
        reader = service.follow()
        assert reader.wait_ready() == {"runs": 2, "more": False}
        # The newest run comes first, as in the list.
        assert [data["workflow_id"] for event, data in reader.frames if event == "run"] == former[::-1]
        assert reader.runs == service.listed()
        assert reader.runs[former[1]]["headline"].startswith("a: <script>alert(1)</script>")
        opened = service.start(OPEN)
        reader.wait_status(opened, "waiting")
        service.assert_same(reader)
        service.cancel(opened)
        reader.wait_status(opened, "cancelled")
        service.assert_same(reader)
        assert [event for event, _ in reader.frames].count("ready") == 1
        assert "gone" not in [event for event, _ in reader.frames]
        # A run that is deleted leaves the list, also if another process has deleted it.
        store = open_with_retention(store_url, 1.0)
        store.maintenance.delete_old(store.clock() + 10.0)
        store.close()
        for run_id in (*former, opened):
            reader.wait_removed(run_id)
        assert reader.runs == service.listed() == {}


def test_filters_select_as_in_the_list(store_url: str) -> None:
    with run_service(store_url) as service:
        failed = service.start(BROKEN, input={"text": "Disk full"}, tags=["env=prod", "eu"])
        fine = service.start(FINE, tags=["env=test"])
        opened = service.start(OPEN, tags=["eu"])
        queries: list[dict[str, Any]] = [
            {"status": ["failed", "succeeded"]},
            {"status": ["running", "waiting", "queued"]},
            {"playbook": "fine"},
            {"tag": ["env", "eu"]},
            {"q": "disk FULL"},
            {"q": opened[:8]},
            {"since": "2099-01-01T00:00:00Z"},
            {"until": "2099-01-01T00:00:00Z", "limit": 200},
            {"parent": opened},
        ]
        readers = [service.follow(**query) for query in queries]
        expected: list[set[str]] = [
            {failed, fine},
            {opened},
            {fine},
            {failed},
            {failed},
            {opened},
            set(),
            {failed, fine, opened},
            set(),
        ]
        for reader, runs in zip(readers, expected, strict=True):
            reader.wait_ready()
            reader.wait(lambda reader=reader, runs=runs: reader.runs.keys() == runs)  # type: ignore[misc]
        service.cancel(opened)
        readers[1].wait_removed(opened)
        second = service.start(BROKEN, input={"text": "disk full again"})
        for reader, query in zip(readers, queries, strict=True):
            service.assert_same(reader, **query)
        assert second in readers[4].runs


def test_tenants_see_only_their_own_runs(service: ListService) -> None:
    readers = {}
    for tenant in ("default", "another"):
        readers[tenant] = service.follow(tenant)
        readers[tenant].wait_ready()
    started = {}
    for tenant in readers:
        with service.connect(tenant) as client:
            started[tenant] = service.start(FINE, client)
    for tenant, reader in readers.items():
        reader.wait_status(started[tenant], "succeeded")
    for tenant, reader in readers.items():
        assert {data["workflow_id"] for event, data in reader.frames if event == "run"} == {started[tenant]}
    assert httpx.get(f"{service.url}/events").status_code == 401


def test_newer_runs_push_out_older_ones_without_a_word(service: ListService) -> None:
    runs = [service.start(OPEN) for _ in range(3)]
    query: dict[str, Any] = {"status": ["running", "waiting", "queued"], "limit": 2}
    reader = service.follow(**query)
    assert reader.wait_ready() == {"runs": 2, "more": True}
    assert reader.runs.keys() == set(runs[1:])
    newest = service.start(OPEN)
    reader.wait_status(newest, "waiting")
    assert "gone" not in [event for event, _ in reader.frames]
    # When a run leaves the filter, the next one of the list takes its place. It has been sent before.
    count = len(reader.frames)
    service.cancel(runs[2])
    reader.wait_removed(runs[2])
    reader.wait(
        lambda: any(
            event == "run" and data["workflow_id"] == runs[1] for event, data in reader.frames[count:]
        )
    )


def test_readers_of_one_filter_share_one_reader_of_the_store(
    service: ListService, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds: list[Any] = []
    runs = service.opened.services.store.runs
    find = runs.find

    def count_find(run_filter: Any) -> Any:
        finds.append(run_filter)
        return find(run_filter)

    monkeypatch.setattr(runs, "find", count_find)
    orders = [["failed", "succeeded"], ["succeeded", "failed"]]
    readers = [service.follow(status=orders[number % 2]) for number in range(40)]
    for reader in readers:
        reader.wait_ready()
    started = time.monotonic()
    run_id = service.start(FINE)
    for reader in readers:
        reader.wait_status(run_id, "succeeded")
    seconds = time.monotonic() - started
    # One read at first, and then at most two in each half second, whatever the number of readers.
    assert len(finds) <= 6 + 2 * seconds / 0.5 < 40
    assert len(service.opened.list_watchers._watchers) == 1


def test_a_lost_connection_is_not_counted_and_the_next_one_starts_again(service: ListService) -> None:
    first = service.start(FINE)
    reader = service.follow()
    reader.wait_ready()
    watcher = next(iter(service.opened.list_watchers._watchers.values()))
    assert (service.opened.open_streams.count, len(watcher.feeds)) == (1, 1)
    reader.cut()
    second = service.start(FINE)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while service.opened.open_streams.count or watcher.feeds:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    again = service.follow()
    assert again.wait_ready() == {"runs": 2, "more": False}
    assert again.runs.keys() == {first, second}


def test_the_number_of_streams_is_limited(service: ListService) -> None:
    service.client.get("/workflows").raise_for_status()
    limit = service.opened.open_streams
    limit._open.limit = 1
    with limit.open("other"):
        full = service.client.get("/events")
    limit._open.limit = 2
    reader = service.follow()
    reader.wait_ready()
    refused = service.client.get("/events")
    for response, expected in ((full, (503, "too-many-streams")), (refused, (429, "quota-exceeded"))):
        assert (response.status_code, response.json()["type"].rpartition(":")[2]) == expected
        assert response.headers["retry-after"] == "5"
    reader.cut()


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "status=" + "&status=".join(["failed"] * 17),
        "&".join(f"tag=t{number}" for number in range(11)),
        "since=yesterday",
        "q=",
        "q=" + "x" * 201,
        "statu=failed",
        "playbook=a&playbook=b",
    ],
)
def test_a_bad_filter_is_the_problem_of_the_list(service: ListService, query: str) -> None:
    problems = [service.client.get(f"{path}?{query}") for path in ("/events", "/workflows")]
    assert [problem.status_code for problem in problems] == [400, 400]
    assert problems[0].headers["content-type"] == "application/problem+json"
    first, second = [problem.json() for problem in problems]
    for problem in (first, second):
        problem.pop("instance")
        problem["detail"] = problem["detail"].partition("; the parameters are")[0]
    assert first == second


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "cursor=1", "sort=created_at"])
def test_a_stream_has_no_pages(service: ListService, query: str) -> None:
    assert service.client.get(f"/events?{query}").status_code == 400


def test_methods_and_media_types_of_the_stream(service: ListService) -> None:
    head = service.client.head("/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert head.headers["cache-control"] == "no-cache"
    refused = service.client.get("/events", headers={"Accept": "application/json"})
    assert (refused.status_code, refused.json()["available"]) == (406, ["text/event-stream"])
    assert service.client.post("/events").status_code == 405
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while service.opened.open_streams.count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_ends_after_its_time_and_when_the_service_stops(url: str) -> None:
    with run_service(url) as service:
        reader = service.follow()
        reader.wait_ready()
        service.opened.stop_streams()
        reader.wait_end()
        late = service.follow()
        late.wait_end()
        assert late.frames == []
    with run_service(url) as service:
        service.app.state.list_stream_seconds = 0.3
        reader = service.follow()
        reader.wait_end()
        assert reader.frames == [("ready", {"runs": 0, "more": False})]


def test_a_store_that_is_away_is_a_problem_at_first_and_a_pause_later(
    service: ListService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = service.follow()
    reader.wait_ready()
    runs = service.opened.services.store.runs
    failures: list[Any] = []

    def fail(run_filter: Any) -> Any:
        failures.append(run_filter)
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "find", fail)
        refused = service.client.get("/events?playbook=fine")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:noetl:problem:store-unavailable")
        run_id = service.start(FINE)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        # The request has failed some times, and then the reader of the list fails more than once.
        while len(failures) < 4 or "lists are followed again when it answers" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    reader.wait_status(run_id, "succeeded")
    assert caplog.text.count("lists are followed again when it answers") == 1


def test_a_list_that_cannot_be_read_ends_only_its_own_streams(
    service: ListService, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = service.follow(playbook="broken"), service.follow()
    for reader in (broken, sound):
        reader.wait_ready()
    runs = service.opened.services.store.runs
    find = runs.find

    def fail(run_filter: Any) -> Any:
        if run_filter.playbook == "broken":
            raise ValueError("this is no run")
        return find(run_filter)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "find", fail)
        broken.wait_end()
    run_id = service.start(BROKEN, input={"text": "no"})
    sound.wait_status(run_id, "failed")
    again = service.follow(playbook="broken")
    again.wait_ready()
    assert again.runs.keys() == {run_id}


@pytest.mark.anyio
async def test_a_service_behind_a_gateway_has_no_stream(url: str) -> None:
    with run_service(url) as service:
        key = service.client.headers["authorization"]
        app = create_app({"NOETL_STORE": url}, has_gateway=True)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            response = await http.get("/events?status=failed", headers={"Authorization": key})
        app.state.context.close()
    assert (response.status_code, response.json()["type"]) == (501, "urn:noetl:problem:not-supported")
    assert "Request `GET /workflows` with the same parameters" in response.json()["detail"]
