"""Authentication and scopes of every route, once there is an API key or an issuer of tokens."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from noetl.api.access import AccessTable
from noetl.api.app import create_app, find_routers
from noetl.api.auth import authentication
from noetl.api.auth.api_keys import SCOPES, create_api_key
from noetl.api.auth.authentication import Authenticator, Caller
from noetl.api.http.problems import Problem
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.registry import ApiKey
from noetl.executor.stores import open_store
from noetl.infra.reference import ROOT
from tests.api.fake_issuer import AUDIENCE, NAME, running_issuer, token
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

GREET = """\
name: greet
steps: [{name: greet, loop: {items: [1]}, run: [{action: log, message: hello}]}]
output: {said: hello}
"""
TRIGGERS = 'triggers: [{name: nightly, type: schedule, cron: "30 2 * * *"}]'
YAML = {"Content-Type": "application/yaml"}

ROW = re.compile(r"^\| `([A-Z]+) (/[^`]*)` \| (?:`(\w+)`|none) \|", re.MULTILINE)
DOCUMENTATION = (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")
REQUIRED_SCOPES: dict[tuple[str, str], str | None] = {
    (method.lower(), path): scope or None for method, path, scope in ROW.findall(DOCUMENTATION)
}
"""Scope that each route needs, or None if it is public: the table of calls in the documentation."""

PAGES = (
    "/openapi.json",
    "/docs",
    "/docs/assets/{name}",
    "/redoc",
    "/",
    "/ui",
    "/ui/files/{name}",
    "/ui/{address}",
)
GUARDED = [(method, path, scope) for (method, path), scope in REQUIRED_SCOPES.items() if scope is not None]


@pytest.fixture
def keys(settings: dict[str, str]) -> dict[str, str]:
    """Key for each scope, by scope; key of another tenant, `foreign`; and `revoked` key."""
    store = open_store(settings["NOETL_STORE"])
    texts = {}
    for name, scope, tenant in (
        *((scope, scope, "default") for scope in SCOPES),
        ("foreign", "admin", "another"),
    ):
        texts[name], key = create_api_key(name, [scope], tenant, 1.0)
        store.keys.add(key)
    texts["revoked"], key = create_api_key("revoked", ["admin"], "default", 1.0)
    store.keys.add(replace(key, revoked_at=None))
    store.keys.revoke("default", key.id, 2.0)
    store.close()
    return texts


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def send_request(
    http: httpx.AsyncClient, method: str, path: str, key: str | None, **values: str
) -> httpx.Response:
    """Send a valid request with a key. Ids are unknown unless they are in `values`."""
    ids = defaultdict(lambda: "nosuch", {"version": "1", **values})
    headers = {} if key is None else bearer(key)
    if method == "post" and path in ("/workflows/run", "/playbooks", "/plan"):
        return await http.post(path, headers=headers | YAML, content=GREET)
    bodies: dict[str, Any] = {
        "/answer": {"step": "greet"},
        "/tags": {"add": ["checked"]},
        "/check-runs": {"playbook": GREET},
        "/aliases/{alias}": {"version": "1"},
    }
    body = next((body for end, body in bodies.items() if path.endswith(end)), None)
    names = {"/step": {"name": "greet"}, "/items": {"step": "greet"}}
    query = next((query for end, query in names.items() if path.endswith(end)), None)
    return await http.request(method, path.format_map(ids), headers=headers, json=body, params=query)


def assert_refused(response: httpx.Response, status: int, slug: str) -> None:
    assert_problem(response, status, slug)
    assert response.headers["www-authenticate"].startswith('Bearer realm="noetl"')


async def test_every_route_is_in_the_table(settings: dict[str, str]) -> None:
    app = create_app(settings)
    document = app.openapi()
    routes = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert routes == set(REQUIRED_SCOPES)
    served = {
        route.path_format
        for router in find_routers()
        for route in router.routes
        if isinstance(route, APIRoute)
    }
    assert sorted(served - {*document["paths"]}) == sorted(PAGES)
    # Newer versions of FastAPI list an included router as one entry without a path.
    assert {route.path_format for route in app.routes if isinstance(route, APIRoute)} <= served
    assert {path for (_, path), scope in REQUIRED_SCOPES.items() if scope is None} == {
        "/healthz",
        "/readyz",
        "/workflows/callbacks/{token}",
        "/workflows/callbacks/{token}/heartbeat",
        "/hooks/{tenant}/{path}",
    }
    for method, path in REQUIRED_SCOPES:
        operation = document["paths"][path][method]
        assert bool(operation.get("security")) == (REQUIRED_SCOPES[method, path] is not None), path


async def test_a_route_without_a_declared_scope_is_refused() -> None:
    router = APIRouter()

    @router.get("/open")
    def anything() -> None: ...

    with pytest.raises(TypeError, match="/open does not declare its scope"):
        AccessTable([router])


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
async def test_a_request_without_credentials_is_refused(
    http: httpx.AsyncClient, keys: dict[str, str], method: str, path: str, scope: str
) -> None:
    assert_refused(await send_request(http, method, path, None), 401, "unauthenticated")


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
async def test_a_request_with_wrong_credentials_is_refused(
    http: httpx.AsyncClient, keys: dict[str, str], method: str, path: str, scope: str
) -> None:
    unknown, _ = create_api_key("unknown", ["admin"], "default", 1.0)
    altered = keys["admin"][:-1] + ("0" if keys["admin"][-1] != "0" else "1")
    for key in (
        unknown,
        altered,
        keys["revoked"],
        keys["admin"].upper(),
        keys["admin"][:20],
        "noetl_",
        "ey.ey.ey",
        hash_secret(""),
    ):
        assert_refused(await send_request(http, method, path, key), 401, "unauthenticated")


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
async def test_a_scope_includes_the_smaller_ones(
    http: httpx.AsyncClient, keys: dict[str, str], method: str, path: str, scope: str
) -> None:
    for scope_of_caller in SCOPES:
        response = await send_request(http, method, path, keys[scope_of_caller])
        if SCOPES.index(scope_of_caller) < SCOPES.index(scope):
            assert_refused(response, 403, "insufficient-scope")
            assert response.json()["scope"] == scope
        else:
            assert response.status_code not in (401, 403), response.text


@pytest.mark.parametrize(
    ("method", "path"), [place for place, scope in REQUIRED_SCOPES.items() if scope is None]
)
@pytest.mark.parametrize("client", ["127.0.0.1", "203.0.113.9"])
async def test_public_routes_need_no_credentials(
    settings: dict[str, str], keys: dict[str, str], method: str, path: str, client: str
) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://noetl.test") as http:
            response = await send_request(http, method, path, None)
    assert response.status_code == (404 if "{" in path else 200)


async def test_public_routes_are_public_below_a_root_path(
    settings: dict[str, str], keys: dict[str, str]
) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, root_path="/noetl")
        async with httpx.AsyncClient(transport=transport, base_url="http://noetl.test/noetl") as http:
            responses = [
                await http.get("/healthz"),
                await http.get("/readyz"),
                await http.post("/workflows/callbacks/nosuch"),
                await http.get("/workflows"),
            ]
    assert [response.status_code for response in responses] == [200, 200, 404, 401]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/assets/swagger-ui.css", "/redoc"])
async def test_the_documentation_needs_no_credentials(
    http: httpx.AsyncClient, keys: dict[str, str], path: str
) -> None:
    assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/nosuch", "/workflows/nosuch/nosuch", "http://localhost//healthz", "/healthz/"]
)
async def test_unknown_paths_need_credentials(
    http: httpx.AsyncClient, keys: dict[str, str], path: str
) -> None:
    assert (await http.get(path)).status_code == 401
    assert (await http.get(path, headers=bearer(keys["read"]))).status_code in (200, 404)


@pytest.mark.parametrize("path", ["/workflows/callbacks/events/ticket", "/workflows/callbacks/a/b"])
async def test_other_paths_below_callbacks_need_credentials(
    http: httpx.AsyncClient, keys: dict[str, str], path: str
) -> None:
    assert_refused(await http.post(path), 401, "unauthenticated")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic {}",
        "{}",
        "Bearer {} {}",
        "Bearer {},",
        "Token {}",
        "Bearer\t{}",
        "Bearer é",
        f"Bearer {'x' * 9000}",
    ],
)
async def test_malformed_authorization_headers_are_refused(
    settings: dict[str, str], http: httpx.AsyncClient, keys: dict[str, str], header: str
) -> None:
    value = header.replace("{}", keys["admin"]).encode()
    assert_refused(await http.get("/workflows", headers=[(b"authorization", value)]), 401, "unauthenticated")


async def test_two_authorization_headers_are_refused(http: httpx.AsyncClient, keys: dict[str, str]) -> None:
    headers = [("Authorization", f"Bearer {keys[scope]}") for scope in ("admin", "read")]
    assert_refused(await http.get("/workflows", headers=headers), 401, "unauthenticated")


async def test_the_body_of_a_refused_request_is_not_read(
    settings: dict[str, str], keys: dict[str, str]
) -> None:
    app = create_app(settings)
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body is read")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"noetl.test"), (b"content-type", b"application/yaml")]
    for key, status in ((None, 401), (keys["read"], 403)):
        extra = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/workflows/run",
            "raw_path": b"/workflows/run",
            "query_string": b"",
            "headers": headers + extra,
            "client": ("203.0.113.9", 1),
            "server": ("noetl.test", 80),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }
        await app(scope, receive, send)
        assert sent[-2]["status"] == status
    app.state.context.close()


class TestTenants:
    """Runs and playbooks of a tenant, which are unknown to another tenant."""

    @pytest.fixture
    async def owned(self, http: httpx.AsyncClient, keys: dict[str, str]) -> dict[str, str]:
        headers = bearer(keys["admin"]) | YAML
        run = await http.post("/workflows/run", content=GREET, headers=headers | {"Prefer": "wait=20"})
        assert run.json()["status"] == "succeeded"
        assert (await http.post("/playbooks", content=GREET + TRIGGERS, headers=headers)).status_code == 201
        alias = "/playbooks/greet/aliases/stable"
        promoted = await http.put(alias, json={"version": "1"}, headers=bearer(keys["admin"]))
        assert promoted.status_code == 201
        named = {
            "name": "greet",
            "version": "1",
            "playbook": "greet",
            "trigger": "nightly",
            "alias": "stable",
        }
        return {"workflow_id": run.json()["workflow_id"], **named}

    @pytest.mark.parametrize(
        ("method", "path"),
        [(method, path) for method, path, _ in GUARDED if re.search(r"\{(workflow_id|name|trigger)\}", path)],
    )
    async def test_ids_of_another_tenant_are_unknown(
        self, http: httpx.AsyncClient, keys: dict[str, str], owned: dict[str, str], method: str, path: str
    ) -> None:
        foreign_response = await send_request(http, method, path, keys["foreign"], **owned)
        unknown_response = await send_request(
            http, method, path, keys["foreign"], workflow_id="nosuch", name="nosuch", version="1"
        )
        assert foreign_response.status_code == unknown_response.status_code == 404
        for value in owned.values():
            assert (
                re.sub(r"nosuch", value, unknown_response.json()["title"]) == foreign_response.json()["title"]
            )
        own_response = await send_request(http, method, path, keys["admin"], **owned)
        assert own_response.status_code in (200, 202, 204, 409, 410)

    async def test_lists_have_only_items_of_the_tenant(
        self, http: httpx.AsyncClient, keys: dict[str, str], owned: dict[str, str]
    ) -> None:
        for path in ("/workflows", "/playbooks", "/triggers"):
            assert (await http.get(path, headers=bearer(keys["foreign"]))).json()["items"] == []
            assert len((await http.get(path, headers=bearer(keys["admin"]))).json()["items"]) == 1

    async def test_an_idempotency_key_is_separate_for_each_tenant(
        self, http: httpx.AsyncClient, keys: dict[str, str]
    ) -> None:
        headers = YAML | {"Idempotency-Key": "k"}
        started = [
            await http.post("/workflows/run", content=GREET, headers=headers | bearer(keys[name]))
            for name in ("admin", "foreign", "admin")
        ]
        ids = [response.json()["workflow_id"] for response in started]
        assert ids[0] == ids[2] != ids[1]

    async def test_a_playbook_of_another_tenant_cannot_be_run(
        self, http: httpx.AsyncClient, keys: dict[str, str], owned: dict[str, str]
    ) -> None:
        body = {"playbook": {"name": "greet"}}
        for path in ("/workflows/run", "/plan"):
            assert (await http.post(path, json=body, headers=bearer(keys["foreign"]))).status_code == 404


async def test_a_running_service_notices_the_first_key(
    settings: dict[str, str], http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await http.get("/workflows")).status_code == 200
    monkeypatch.setattr(authentication, "RECHECK_SECONDS", 0.0)
    store = open_store(settings["NOETL_STORE"])
    text, key = create_api_key("first", ["read"], "default", 1.0)
    store.keys.add(key)
    assert (await http.get("/workflows")).status_code == 401
    assert (await http.get("/workflows", headers=bearer(text))).status_code == 200
    monkeypatch.setattr(authentication, "RECENT_SECONDS", 0.0)
    store.keys.revoke("default", key.id, 2.0)
    store.close()
    assert (await http.get("/workflows", headers=bearer(text))).status_code == 401
    assert (await http.get("/workflows")).status_code == 401


async def test_credentials_that_were_accepted_just_now_are_not_checked_again(
    http: httpx.AsyncClient, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "RECENT_SECONDS", 3600.0)
    checked: list[str] = []
    authenticate = Authenticator.authenticate

    def note(authenticator: Authenticator, authorization: list[str]) -> Caller:
        checked.append(authorization[0])
        return authenticate(authenticator, authorization)

    monkeypatch.setattr(Authenticator, "authenticate", note)
    read, foreign = keys["read"], keys["foreign"]
    for key, path, status in (
        (read, "/workflows", 200),
        (read, "/workflows", 200),
        (foreign, "/workflows", 200),
        (foreign, "/workflows", 200),
    ):
        assert (await http.get(path, headers=bearer(key))).status_code == status
    # What a caller may do is checked with each request.
    assert_refused(await http.post("/playbooks", headers=bearer(read)), 403, "insufficient-scope")
    assert checked == [f"Bearer {read}", f"Bearer {foreign}"]
    # Others, and those that were refused, are checked each time.
    for refused in (keys["revoked"], keys["revoked"], read[:-1], f"{read} "[1:]):
        assert (await http.get("/workflows", headers=bearer(refused))).status_code == 401
    repeated_headers = [("Authorization", f"Bearer {read}"), ("Authorization", f"Bearer {read}")]
    assert (await http.get("/workflows", headers=repeated_headers)).status_code == 401
    assert len(checked) == 7


async def test_a_key_that_was_revoked_is_refused_after_a_moment(
    settings: dict[str, str], http: httpx.AsyncClient, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "RECENT_SECONDS", 0.2)
    key = keys["run"]
    assert (await http.get("/workflows", headers=bearer(key))).status_code == 200
    store = open_store(settings["NOETL_STORE"])
    store.keys.revoke("default", key.split("_")[1], 2.0)
    store.close()
    await asyncio.sleep(0.2)  # Requests meanwhile do not prolong it.
    assert (await http.get("/workflows", headers=bearer(key))).status_code == 401


def test_credentials_are_not_recent_after_the_process_was_frozen(
    settings: dict[str, str], keys: dict[str, str]
) -> None:
    """A function is frozen between requests, and a clock of its process may stand still meanwhile."""
    now = 1000.0
    authorization = [f"Bearer {keys['read']}"]
    with closing(open_store(settings["NOETL_STORE"])) as store:
        authenticator = Authenticator(store, None, always=True, clock=lambda: now)
        caller = authenticator.authenticate(authorization)
        assert authenticator.recent_caller(authorization) == caller
        for later in (1600.0, 400.0):  # The second time, the clock was set back.
            now = later
            assert authenticator.recent_caller(authorization) is None


def test_credentials_that_a_check_refuses_are_not_recent_any_more(
    settings: dict[str, str], keys: dict[str, str]
) -> None:
    key = keys["read"]
    authorization = [f"Bearer {key}"]
    with closing(open_store(settings["NOETL_STORE"])) as store:
        authenticator = Authenticator(store, None, always=True)
        authenticator.authenticate(authorization)
        store.keys.revoke("default", key.split("_")[1], 2.0)
        with pytest.raises(Problem):
            authenticator.authenticate(authorization)
        assert authenticator.recent_caller(authorization) is None


async def test_an_app_with_a_gateway_always_requires_credentials(settings: dict[str, str]) -> None:
    app = create_app(settings, has_gateway=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        assert (await http.get("/healthz")).status_code == 200
        assert_refused(await http.get("/workflows"), 401, "unauthenticated")
    app.state.context.close()


async def test_the_last_use_of_a_key_is_recorded_at_intervals(
    settings: dict[str, str], http: httpx.AsyncClient, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(settings["NOETL_STORE"])

    def last_use() -> float | None:
        [key] = [key for key in store.keys.find("default") if key.name == "read"]
        return key.last_used_at

    assert last_use() is None
    await http.get("/workflows", headers=bearer(keys["read"]))
    first = last_use()
    assert first is not None
    await http.get("/workflows", headers=bearer(keys["read"]))
    assert last_use() == first
    monkeypatch.setattr(authentication, "RECENT_SECONDS", 0.0)
    monkeypatch.setattr(authentication, "RECORD_USE_SECONDS", 0.0)
    await http.get("/workflows", headers=bearer(keys["read"]))
    assert (last_use() or 0.0) > first
    store.close()


async def test_the_text_of_a_key_is_stored_and_logged_nowhere(
    http: httpx.AsyncClient, keys: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    answers = [await send_request(http, method, path, keys["admin"]) for method, path, _ in GUARDED]
    answers += [await http.get("/workflows", headers=bearer(keys["revoked"]))]
    secret = keys["admin"].rpartition("_")[2]
    db = sqlite3.connect(tmp_path / "noetl.db")
    dump = "\n".join(db.iterdump())
    db.close()
    assert hash_secret(keys["admin"]) in dump
    for text in (
        dump,
        *(answer.text for answer in answers),
        *(record.getMessage() for record in caplog.records),
    ):
        assert secret not in text and keys["revoked"].rpartition("_")[2] not in text


async def test_an_unknown_key_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a refusal must not reveal whether a key with the id exists."""
    from noetl.api.auth import api_keys

    compared: list[tuple[str, str]] = []

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("secrets.compare_digest", compare)
    text, key = create_api_key("a", ["read"], "default", 1.0)
    for stored_key, expected in (
        (key, True),
        (None, False),
        (replace(key, revoked_at=1.0), False),
        (replace(key, hash="0" * 64), False),
    ):
        before = len(compared)
        assert api_keys.is_valid(text, stored_key) is expected
        assert len(compared) == before + 1
        assert [len(digest) for digest in compared[-1]] == [64, 64]


@pytest.fixture
async def http_with_issuer(settings: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    with running_issuer() as issuer:
        issuer_settings = {
            "NOETL_JWT_ISSUER": NAME,
            "NOETL_JWT_AUDIENCE": AUDIENCE,
            "NOETL_JWKS_URL": issuer.url,
            "NOETL_JWT_TENANT_CLAIM": "org",
        }
        app = create_app(settings | issuer_settings)
        app.state.list_stream_seconds = 0.0  # This transport returns only complete responses.
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, client=("203.0.113.9", 1))
            async with httpx.AsyncClient(
                transport=transport, base_url="https://noetl.test", timeout=60
            ) as client:
                yield client


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
async def test_a_scope_of_a_token_includes_the_smaller_ones(
    http_with_issuer: httpx.AsyncClient, method: str, path: str, scope: str
) -> None:
    assert_refused(await send_request(http_with_issuer, method, path, None), 401, "unauthenticated")
    assert_refused(
        await send_request(http_with_issuer, method, path, token(aud="another")), 401, "unauthenticated"
    )
    assert_refused(
        await send_request(http_with_issuer, method, path, token(scope="openid")), 403, "insufficient-scope"
    )
    for scope_of_caller in SCOPES:
        response = await send_request(http_with_issuer, method, path, token(scope=scope_of_caller))
        assert (response.status_code == 403) == (SCOPES.index(scope_of_caller) < SCOPES.index(scope)), (
            response.text
        )


async def test_a_token_is_for_its_tenant(http_with_issuer: httpx.AsyncClient) -> None:
    started = await http_with_issuer.post(
        "/workflows/run", content=GREET, headers=YAML | bearer(token(org="sales"))
    )
    path = started.json()["links"]["status"]
    assert (await http_with_issuer.get(path, headers=bearer(token(org="sales")))).status_code == 200
    assert (
        await http_with_issuer.get(path, headers=bearer(token(org="support", scope="admin")))
    ).status_code == 404


async def test_keys_and_tokens_are_both_accepted(
    http_with_issuer: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    assert (await http_with_issuer.get("/workflows", headers=bearer(keys["read"]))).status_code == 200
    assert (await http_with_issuer.get("/workflows", headers=bearer(token()))).status_code == 200


async def test_a_playbook_has_the_caller_that_has_registered_it(
    http_with_issuer: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    """The subject of a token is text of its issuer: it is kept printable and cut."""
    subjects = {
        "Ada": "Ada",
        "a\0\x1b[31m\u202e<script>\ud800": "a␀␛[31m\ufffd<script>\ufffd",
        "x" * 300: "x" * 191 + "…",
    }
    callers = {f"Bearer {keys['admin']}": f"key {keys['admin'].split('_')[1]}"} | {
        f"Bearer {token(scope='admin', org='default', sub=subject)}": f"token of {shown}"
        for subject, shown in subjects.items()
    }
    for number, (authorization, caller) in enumerate(callers.items(), 1):
        headers = {"Authorization": authorization, **YAML}
        text = GREET + f"version: v{number}\n"
        entry = (await http_with_issuer.post("/playbooks", content=text, headers=headers)).json()
        assert entry["registered_by"] == caller
        paths = (f"/playbooks/greet/versions/v{number}", "/playbooks/greet", "/playbooks")
        found = [(await http_with_issuer.get(path, headers=bearer(keys["read"]))).json() for path in paths]
        for kept in (*found[:2], *found[2]["items"]):
            assert (kept["registered_by"], kept["registered_at"]) == (caller, entry["registered_at"])
        by_another = {**YAML, **bearer(token(scope="admin", org="default", sub="another"))}
        assert (await http_with_issuer.post("/playbooks", content=text, headers=by_another)).json() == entry


def test_the_record_of_a_key_has_its_id_hash_and_tenant() -> None:
    text, key = create_api_key("nightly", ["run"], "sales", 2.5)
    assert re.fullmatch(r"noetl_[0-9a-f]{12}_[0-9a-f]{64}", text)
    assert key == ApiKey(text.split("_")[1], hash_secret(text), "sales", "nightly", ("run",), 2.5)
