"""Tickets for event streams: what opens a stream without a key, and every abuse of it that is refused."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.auth.authentication import Authenticator
from noetl.api.auth.event_tickets import SIGNING_KEY_ID, TICKET_SECONDS, EventTickets
from noetl.api.context import AppServices
from noetl.api.http import problems
from noetl.executor.stores import open_store
from noetl.executor.stores.memory.store import MemoryStore
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

GREET = "name: greet\nsteps: [{name: greet, run: [{action: log, message: hello}]}]\n"
STREAM = {"Accept": "text/event-stream"}


@asynccontextmanager
async def client(settings: dict[str, str]) -> AsyncIterator[tuple[httpx.AsyncClient, AppServices]]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            services = app.state.context.opened_services
            assert isinstance(services, AppServices)
            yield http, services


@pytest.fixture
def keys(settings: dict[str, str]) -> dict[str, dict[str, str]]:
    """Headers with a key, by scope, and of another tenant."""
    store = open_store(settings["NOETL_STORE"])
    headers = {}
    for name, scope, tenant in (
        ("read", "read", "default"),
        ("run", "run", "default"),
        ("foreign", "run", "another"),
    ):
        text, key = create_api_key(name, [scope], tenant, 1.0)
        store.keys.add(key)
        headers[name] = {"Authorization": f"Bearer {text}"}
    store.close()
    return headers


async def start(http: httpx.AsyncClient, key: dict[str, str]) -> str:
    """Run a playbook to its end, and return the path of its events."""
    headers = key | {"Content-Type": "application/yaml", "Prefer": "wait=25"}
    response = await http.post("/workflows/run", content=GREET, headers=headers)
    assert response.status_code == 200, response.text
    return f"/workflows/{response.json()['workflow_id']}/events"


async def request_ticket(http: httpx.AsyncClient, path: str, key: dict[str, str]) -> str:
    response = await http.post(f"{path}/ticket", headers=key)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    assert set(response.json()) == {"ticket", "expires_at"}
    ticket: str = response.json()["ticket"]
    return ticket


async def test_a_ticket_opens_the_stream_on_any_process(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings) as (first, _), client(settings) as (second, _):
        path = await start(first, keys["run"])
        tickets = [await request_ticket(http, path, keys["read"]) for http in (first, second)]
        for http in (first, second):
            for ticket in tickets:
                response = await http.get(path, params={"ticket": ticket}, headers=STREAM)
                assert response.status_code == 200
                assert "event: end" in response.text
        # A browser that connects again sends the same address and the last id.
        last_id = [line[4:] for line in response.text.split("\n") if line.startswith("id: ")][-1]
        again = await first.get(path, params={"ticket": ticket}, headers=STREAM | {"Last-Event-ID": last_id})
        assert again.status_code == 204


def change_claims(ticket: str, change: Callable[[list[object]], object]) -> str:
    """Return a ticket with other claims and the signature of the given one."""
    text, _, signature = ticket.partition(".")
    claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    change(claims)
    changed = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).decode()
    return f"{changed.rstrip('=')}.{signature}"


async def test_every_other_ticket_is_refused(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings) as (http, services):
        path, other, foreign = (
            await start(http, keys["run"]),
            await start(http, keys["run"]),
            await start(http, keys["foreign"]),
        )
        ticket = await request_ticket(http, path, keys["read"])
        of_foreign = await request_ticket(http, foreign, keys["foreign"])
        claims, signature = ticket.split(".")
        run_id, foreign_id = path.split("/")[2], foreign.split("/")[2]
        tickets = services.authenticator.tickets
        future_key = EventTickets(MemoryStore(), tickets._clock)
        refused = {
            "another run": (other, ticket),
            "run of another tenant": (foreign, ticket),
            "ticket of another tenant": (path, of_foreign),
            "claims another tenant": (foreign, tickets.issue("default", "x")[0]),
            "changed run": (other, change_claims(ticket, lambda c: c.__setitem__(1, other.split("/")[2]))),
            "changed tenant": (path, change_claims(of_foreign, lambda c: c.__setitem__(1, run_id))),
            "changed time": (path, change_claims(ticket, lambda c: c.__setitem__(2, 10**11))),
            "signed with another key": (path, future_key.issue("default", run_id)[0]),
            "without a signature": (path, claims),
            "empty signature": (path, f"{claims}."),
            "short signature": (path, f"{claims}.{signature[:-1]}"),
            "last bit of the signature": (path, ticket[:-1] + ("A" if ticket[-1] != "A" else "B")),
            "padded": (path, ticket + "="),
            "too long": (path, "A" * 5000 + "." + signature),
            "signed by nothing": (path, "." + signature),
            "no ticket": (path, "x"),
            "empty": (path, ""),
            "of the signing key": (path, SIGNING_KEY_ID),
        }
        for name, (target, text) in refused.items():
            response = await http.get(target, params={"ticket": text}, headers=STREAM)
            assert response.status_code == 401, name
            assert_problem(response, 401, "unauthenticated")
        # A ticket of the own tenant for a run of another one shows that run no more than a key does.
        stolen = tickets.issue("default", foreign_id)[0]
        assert (await http.get(foreign, params={"ticket": stolen}, headers=STREAM)).status_code == 404


async def test_forged_tickets_are_failed_credentials(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings | {"NOETL_RATE_FAILURES": "5"}) as (http, _):
        path, other = await start(http, keys["run"]), await start(http, keys["run"])
        known, fresh = [await request_ticket(http, target, keys["read"]) for target in (path, other)]
        assert (await http.get(path, params={"ticket": known}, headers=STREAM)).status_code == 200
        forged = [
            await http.get(path, params={"ticket": f"{number}{fresh}"}, headers=STREAM)
            for number in range(10)
        ]
        assert [response.status_code for response in forged] == [401] * 5 + [429] * 5
        assert_problem(forged[-1], 429, "too-many-requests")
        # Failures at its address stop no right ticket, whether it was accepted before or not.
        assert (await http.get(path, params={"ticket": known}, headers=STREAM)).status_code == 200
        assert (await http.get(other, params={"ticket": fresh}, headers=STREAM)).status_code == 200
        assert (await http.get("/workflows", headers=keys["read"])).status_code == 200


async def test_a_ticket_for_another_run_is_a_failed_credential(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings | {"NOETL_RATE_FAILURES": "5"}) as (http, _):
        path, other = await start(http, keys["run"]), await start(http, keys["run"])
        ticket = await request_ticket(http, path, keys["read"])
        assert (await http.get(path, params={"ticket": ticket}, headers=STREAM)).status_code == 200
        misused = [await http.get(other, params={"ticket": ticket}, headers=STREAM) for _ in range(7)]
        assert [response.status_code for response in misused] == [401] * 5 + [429] * 2
        assert (await http.get(path, params={"ticket": ticket}, headers=STREAM)).status_code == 200


async def test_a_ticket_without_the_media_type_of_streams_is_no_failed_credential(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings | {"NOETL_RATE_FAILURES": "2"}) as (http, _):
        path = await start(http, keys["run"])
        ticket = await request_ticket(http, path, keys["read"])
        for _ in range(4):
            page = await http.get(path, params={"ticket": ticket})
            assert_problem(page, 401, "unauthenticated")
            assert "text/event-stream" in page.json()["detail"]


async def test_requests_with_tickets_of_a_run_are_counted(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings | {"NOETL_RATE_PER_KEY": "6"}) as (http, _):
        path = await start(http, keys["run"])
        tickets = [await request_ticket(http, path, keys["read"]) for _ in range(2)]
        opened = [
            (await http.get(path, params={"ticket": tickets[number % 2]}, headers=STREAM)).status_code
            for number in range(8)
        ]
        assert opened == [200] * 6 + [429] * 2


async def test_a_ticket_is_good_for_nothing_else(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings) as (http, services):
        path = await start(http, keys["run"])
        run_id, ticket = path.split("/")[2], await request_ticket(http, path, keys["read"])
        for method, target in (
            ("GET", path),  # a page of JSON
            ("POST", f"{path}/ticket"),
            ("GET", f"/workflows/status/{run_id}"),
            ("GET", f"/workflows/result/{run_id}"),
            ("GET", f"/workflows/{run_id}/graph"),
            ("GET", "/workflows"),
            ("POST", f"/workflows/{run_id}/cancel"),
            ("GET", "/playbooks"),
            ("GET", "/unknown"),
        ):
            response = await http.request(method, target, params={"ticket": ticket})
            assert response.status_code == 401, target
        signing_key = services.store.keys.get(SIGNING_KEY_ID)
        assert signing_key is not None
        for text in (ticket, f"noetl_{ticket}", SIGNING_KEY_ID, signing_key.hash):
            bearer = {"Authorization": f"Bearer {text}"}
            assert (await http.get("/workflows", headers=bearer)).status_code == 401
            assert (await http.get(path, headers=bearer | STREAM)).status_code == 401
        # In another spelling of the parameter it would not be redacted in logs, so it does not count.
        response = await http.get(f"{path}?%74icket={ticket}", headers=STREAM)
        assert response.status_code == 401
        # Twice is ambiguous.
        response = await http.get(f"{path}?ticket={ticket}&ticket={ticket}", headers=STREAM)
        assert response.status_code == 400


async def test_a_ticket_needs_the_right_to_read_the_run(
    settings: dict[str, str], keys: dict[str, dict[str, str]]
) -> None:
    async with client(settings) as (http, _):
        path = await start(http, keys["run"])
        assert (await http.post(f"{path}/ticket")).status_code == 401
        assert (await http.post(f"{path}/ticket", headers=keys["foreign"])).status_code == 404
        assert (await http.post("/workflows/nothing/events/ticket", headers=keys["read"])).status_code == 404


async def test_a_ticket_expires(settings: dict[str, str], keys: dict[str, dict[str, str]]) -> None:
    async with client(settings) as (http, services):
        path = await start(http, keys["run"])
        ticket = await request_ticket(http, path, keys["read"])
        tickets = services.authenticator.tickets
        now, clock = tickets._clock(), tickets._clock
        for seconds, status in ((TICKET_SECONDS - 2, 200), (TICKET_SECONDS + 1, 401)):
            tickets._clock = lambda seconds=seconds: now + seconds  # type: ignore[misc]
            response = await http.get(path, params={"ticket": ticket}, headers=STREAM)
            assert response.status_code == status
        tickets._clock = clock


async def test_without_authentication_a_ticket_is_not_needed(settings: dict[str, str]) -> None:
    async with client(settings) as (http, services):
        path = await start(http, {})
        ticket = await request_ticket(http, path, {})
        assert (await http.get(path, params={"ticket": ticket}, headers=STREAM)).status_code == 200
        # The signing key in the store is no key of a caller.
        assert not services.store.keys.any_exist()
        assert (await http.get("/workflows")).status_code == 200


def test_processes_that_start_together_sign_with_one_key() -> None:
    store = MemoryStore()
    first, second = EventTickets(store), EventTickets(store)
    add = store.keys.add

    def add_after_another_process(key: object) -> None:
        store.keys.add = add  # type: ignore[method-assign]
        second.issue("default", "r")
        add(key)  # type: ignore[arg-type]

    store.keys.add = add_after_another_process  # type: ignore[method-assign]
    ticket, claims = first.issue("default", "r")
    assert second.verify(ticket, "r") == claims
    with pytest.raises(problems.Problem):
        second.verify(ticket, "another")


def test_tickets_have_the_time_of_the_store() -> None:
    """Services whose clocks differ accept the tickets of each other, for TICKET_SECONDS."""
    store = MemoryStore()
    store.clock = lambda: 1000.0
    tickets = Authenticator(store, None, always=True).tickets
    ticket, claims = tickets.issue("default", "r")
    assert claims.expires_at == 1000 + TICKET_SECONDS
    assert tickets.verify(ticket, "r") == claims


@pytest.mark.parametrize(
    ("target", "logged"),
    [
        ("/workflows/1/events?ticket=SECRET", "/workflows/1/events?ticket=***"),
        (
            "/workflows/1/events?cursor=a&ticket=SECRET&limit=1",
            "/workflows/1/events?cursor=a&ticket=***&limit=1",
        ),
        ("/workflows/1/events?ticket=SECRET&ticket=SECRET", "/workflows/1/events?ticket=***&ticket=***"),
    ],
)
def test_a_ticket_is_not_logged(target: str, logged: str) -> None:
    record = logging.LogRecord(
        "uvicorn.access",
        logging.INFO,
        "",
        0,
        '%s - "%s %s HTTP/%s" %d',
        ("host", "GET", target, "1.1", 200),
        None,
    )
    assert problems.redact_tokens(record)
    assert record.getMessage() == f'host - "GET {logged} HTTP/1.1" 200'
