"""The store of requests: a circuit breaker, and answers of a service whose store is away."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import httpx
import pytest
from anyio import to_thread

from noetl.api.app import create_app
from noetl.api.service.request_store import PATIENCE_SECONDS, REST_SECONDS, Circuit, guard_store
from noetl.executor.errors import RejectedError, StoreAwayError, StoreError, StoreLockedError
from noetl.executor.patience import limited_patience, patience_seconds
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.postgres import patient_connection
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.infra import dynamodb
from noetl.infra.migrations import upgrade
from noetl.testing.store_contract.operations import claim_visit, start_run, succeed
from tests.postgres import empty_database, running_server

pytestmark = pytest.mark.anyio

SECONDS_OF_A_CLIENT = 2.0


def fail(error: Exception) -> None:
    raise error


class TestCircuit:
    def test_a_failure_lets_others_fail_at_once_until_one_tries_again(self) -> None:
        now, calls = [0.0], Counter[str]()
        circuit = Circuit(lambda: now[0])

        def operation() -> str:
            calls["tried"] += 1
            if is_away:
                raise StoreAwayError("the store is away")
            return "found"

        is_away = True
        for _ in range(5):
            with pytest.raises(StoreAwayError, match="the store is away"):
                circuit.call(operation)
        assert calls["tried"] == 1
        now[0] = REST_SECONDS
        with pytest.raises(StoreAwayError):
            circuit.call(operation)
        assert calls["tried"] == 2
        is_away, now[0] = False, 2 * REST_SECONDS
        assert [circuit.call(operation) for _ in range(3)] == ["found"] * 3

    def test_only_one_operation_tries_the_store(self) -> None:
        now, is_trying, may_fail = [0.0], threading.Event(), threading.Event()
        circuit = Circuit(lambda: now[0])
        with pytest.raises(StoreAwayError):
            circuit.call(lambda: fail(StoreAwayError("away")))
        now[0] = REST_SECONDS

        def block() -> None:
            is_trying.set()
            may_fail.wait()

        thread = threading.Thread(target=circuit.call, args=(block,))
        thread.start()
        is_trying.wait()
        with pytest.raises(StoreAwayError):
            circuit.call(lambda: None)
        may_fail.set()
        thread.join()
        circuit.call(lambda: None)

    @pytest.mark.parametrize(
        "error",
        [
            StoreError("The store has no plan x."),
            StoreLockedError("The store is locked."),
            RejectedError("closed", "no"),
        ],
    )
    def test_an_answer_of_the_store_opens_nothing(self, error: Exception) -> None:
        circuit = Circuit()
        for _ in range(2):
            with pytest.raises(type(error), match=str(error)):
                circuit.call(lambda: fail(error))
        circuit.call(lambda: None)

    def test_requests_have_patience_and_workers_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store, seen = MemoryStore(), []
        monkeypatch.setattr(store.keys, "any_exist", lambda: seen.append(patience_seconds()))
        guard_store(store).keys.any_exist()
        store.keys.any_exist()
        assert seen == [PATIENCE_SECONDS, None]


@asynccontextmanager
async def serve(settings: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app({"NOETL_WORKERS": "2", **settings})
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            yield client


async def check_unavailable(http: httpx.AsyncClient, count: int) -> float:
    """Send requests at once that need the store, and return after how many seconds the last was answered."""

    async def request(number: int) -> None:
        response = await http.get(("/workflows", "/workflows/status/x", "/playbooks")[number % 3])
        assert response.status_code == 503, response.text
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["type"] == "urn:noetl:problem:store-unavailable"

    started_at = time.monotonic()
    await asyncio.gather(*(request(number) for number in range(count)))
    return time.monotonic() - started_at


async def wait_until_ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while (await http.get("/readyz")).status_code != 200:  # noqa: ASYNC110  It must be polled.
            await asyncio.sleep(0.1)


CHAIN = """\
name: chain
steps:
- {name: first, run: [{action: set, set: {a: 1}}], rule: [{case: default, run: [second]}]}
- {name: second, run: [{action: set, set: {b: "{{ a + 1 }}"}}]}
output: {b: "{{ b }}"}
"""


async def test_requests_are_answered_while_postgres_is_away() -> None:
    with running_server(synchronous_commit="on") as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        async with serve({"NOETL_STORE": dsn}) as http:
            await asyncio.gather(*(http.get("/playbooks") for _ in range(60)))
            await asyncio.to_thread(server.stop, "immediate")
            try:
                # The first requests find the failure. The pool gives up after their patience.
                assert await check_unavailable(http, 60) < 10 * SECONDS_OF_A_CLIENT
                alive = threading.active_count()
                assert await check_unavailable(http, 300) < 10 * SECONDS_OF_A_CLIENT
                # Threads that perform work of any request may still begin. There are at most `total_tokens`.
                threads = to_thread.current_default_thread_limiter()
                assert threads.borrowed_tokens == 0
                assert threading.active_count() <= alive + threads.total_tokens
                assert (await http.get("/healthz")).status_code == 200
            finally:
                await asyncio.to_thread(server.start)
            await wait_until_ready(http)
            # The workers have waited, and execute runs again.
            response = await http.post(
                "/workflows/run",
                content=CHAIN,
                headers={"Content-Type": "application/yaml", "Prefer": "wait=25"},
            )
            assert response.json()["result"] == {"b": 2}


async def test_requests_are_answered_while_another_process_has_locked_sqlite(tmp_path: Path) -> None:
    async with serve({"NOETL_STORE": f"sqlite:///{tmp_path}/noetl.db"}) as http:
        headers = {"Content-Type": "application/yaml", "Prefer": "wait=25"}
        assert (await http.post("/workflows/run", content=CHAIN, headers=headers)).status_code == 200

        async def start() -> None:
            response = await http.post("/workflows/run", content=CHAIN, headers=headers)
            assert response.status_code == 503, response.text
            assert int(response.headers["retry-after"]) >= 1

        async def read() -> None:
            assert (await http.get("/workflows")).status_code == 200

        with closing(sqlite3.connect(tmp_path / "noetl.db", isolation_level=None)) as other:
            other.execute("begin immediate")
            started_at = time.monotonic()
            await asyncio.gather(*(call() for _ in range(40) for call in (start, read)))
            assert (await http.get("/readyz")).status_code == 503
            assert time.monotonic() - started_at < 10 * SECONDS_OF_A_CLIENT
        await wait_until_ready(http)
        response = await http.post("/workflows/run", content=CHAIN, headers=headers)
        assert response.json()["result"] == {"b": 2}


async def test_a_frozen_postgres_holds_no_thread_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_connection, "ANSWER_SECONDS", 1.0)
    with running_server() as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        async with serve({"NOETL_STORE": dsn}) as http:
            await asyncio.gather(*(http.get("/workflows") for _ in range(60)))
            store = PostgresStore(dsn)
            commit = succeed(store, claim_visit(store, start_run(store, CHAIN)))
            server.signal(signal.SIGSTOP)
            try:
                with limited_patience(PATIENCE_SECONDS), pytest.raises(StoreAwayError, match="no answer"):
                    store.queue.commit(commit, 2.0)
                assert await check_unavailable(http, 60) < 10 * SECONDS_OF_A_CLIENT
                assert (await http.get("/readyz")).status_code == 503
                assert (await http.get("/healthz")).status_code == 200
            finally:
                server.signal(signal.SIGCONT)
            await wait_until_ready(http)
            headers = {"Content-Type": "application/yaml", "Prefer": "wait=25"}
            response = await http.post("/workflows/run", content=CHAIN, headers=headers)
            assert response.json()["result"] == {"b": 2}
            store.close()


def test_a_worker_gives_up_a_frozen_postgres_and_connects_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server() as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        with closing(PostgresStore(dsn)) as store:
            run = start_run(store, CHAIN)
            commit = succeed(store, claim_visit(store, run))
            monkeypatch.setattr(patient_connection, "WORKER_ANSWER_SECONDS", 0.2)
            server.signal(signal.SIGSTOP)
            try:
                with pytest.raises(StoreAwayError, match="no answer within"):
                    store.queue.commit(commit, 2.0)
                with pytest.raises(StoreAwayError):
                    store.runs.get("default", run.id)
            finally:
                server.signal(signal.SIGCONT)
            monkeypatch.undo()
            assert store.runs.get("default", run.id) is not None


class SilentEndpoint:
    """A server that accepts connections and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()


@contextmanager
def refusing_endpoint() -> Iterator[str]:
    """Yield the URL of a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def silent_endpoint() -> Iterator[str]:
    with closing(SilentEndpoint()) as endpoint:
        yield endpoint.url


def test_what_is_no_method_is_that_of_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    assert guard_store(store).queue.counts_active is True
    monkeypatch.setattr(store.queue, "counts_active", False, raising=False)
    assert guard_store(store).queue.counts_active is False


@pytest.mark.usefixtures("aws")
async def test_a_run_starts_on_dynamodb() -> None:
    dynamodb.upgrade("noetl")
    transport = httpx.ASGITransport(create_app({"NOETL_STORE": "dynamodb://noetl"}))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        text = "name: x\nsteps:\n- name: a\n  run:\n  - {action: set, set: {n: 1}}\n"
        started = await http.post(
            "/workflows/run", content=text, headers={"Content-Type": "application/yaml"}
        )
        assert started.status_code == 202, started.text


@pytest.mark.parametrize("endpoint", [refusing_endpoint, silent_endpoint])
async def test_requests_do_not_wait_for_an_absent_dynamodb(
    endpoint: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noetl.executor.clients import aws
    from noetl.executor.stores.dynamo import store as dynamo

    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dynamo, "_check_schema", lambda _: None)
    with endpoint() as url:  # type: ignore[operator]
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        aws.client.cache_clear()
        try:
            app = create_app({"NOETL_STORE": "dynamodb://noetl"})
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                assert await check_unavailable(http, 60) < 10 * SECONDS_OF_A_CLIENT
                assert await check_unavailable(http, 300) < 10 * SECONDS_OF_A_CLIENT
        finally:
            aws.client.cache_clear()
