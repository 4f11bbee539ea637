"""Problem documents of all errors."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.http import problems
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

MEMBERS = ("type", "title", "status", "detail", "instance")


def assert_complete_problem(response: httpx.Response, status: int) -> None:
    assert_problem(response, status)
    document = response.json()
    assert [member for member in MEMBERS if member not in document] == []
    assert document["instance"] == response.request.url.path
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/workflows/", "/workflows/run/", "/workflows/a/nothing", "/uis"]
)
async def test_an_unknown_path_is_a_problem(http: httpx.AsyncClient, path: str) -> None:
    assert_complete_problem(await http.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/workflows/run"),
        ("DELETE", "/workflows/status/a"),
        ("POST", "/workflows"),
        ("PATCH", "/plan"),
    ],
)
async def test_a_method_that_is_not_allowed_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await http.request(method, path)
    assert_complete_problem(response, 405)
    assert response.headers["allow"]


async def test_an_unsupported_content_type_is_a_problem(http: httpx.AsyncClient) -> None:
    assert_complete_problem(await http.post("/workflows/run", data={"playbook": "x"}), 415)


async def test_malformed_json_is_a_problem(http: httpx.AsyncClient) -> None:
    response = await http.post("/workflows/run", content="{", headers={"Content-Type": "application/json"})
    assert_complete_problem(response, 400)


async def test_ten_megabytes_of_nested_lists_are_too_large(http: httpx.AsyncClient) -> None:
    for content_type in ("application/yaml", "application/json"):
        response = await http.post(
            "/workflows/run", content=b"[" * 10_000_000, headers={"Content-Type": content_type}
        )
        assert_complete_problem(response, 413)


async def test_a_request_from_another_machine_is_refused(settings: dict[str, str]) -> None:
    app = create_app(settings)
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as remote:
        assert_complete_problem(await remote.get("/healthz"), 403)
    app.state.context.close()


@pytest.mark.parametrize(
    ("path", "redacted"),
    [
        ("/workflows/callbacks/token", "/workflows/callbacks/***"),
        ("/base/workflows/callbacks/token/heartbeat?a=b", "/base/workflows/callbacks/***"),
        ("/workflows//callbacks/token", "/workflows//callbacks/***"),
        ("//workflows/callbacks//to\nken", "//workflows/callbacks/***"),
        ("/workflows/./callbacks/token", "/workflows/./callbacks/***"),
        ("/workflows/.././callbacks/./token", "/workflows/.././callbacks/***"),
        ("/Workflows/Callbacks/token", "/Workflows/Callbacks/***"),
        ("/workflows\n/callbacks/token", "/workflows\n/callbacks/***"),
        ("/workflows/ callbacks/token", "/workflows/ callbacks/***"),
        ("/workflows/callbacks\n/token", "/workflows/callbacks\n***"),
        ("/workflows/callbacks\u200btoken", "/workflows/callbacks\u200b***"),
        ("/\nworkflows/callbacks/token", "/\nworkflows/callbacks/***"),
        ("/workflows%20/callbacks/token", "/workflows%20/callbacks/***"),
        ("/workflows/callbacks/", "/workflows/callbacks/"),
        ("/workflows/callbacks", "/workflows/callbacks"),
        ("/playbooks/callbacks/versions/1", "/playbooks/callbacks/versions/1"),
    ],
)
async def test_tokens_are_redacted_in_paths(path: str, redacted: str) -> None:
    assert problems.redact_path(path) == redacted


async def test_an_internal_error_shows_only_a_reference_to_the_log(
    settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings)

    def fail() -> None:
        raise RuntimeError("the secret is 12345678")

    app.add_api_route("/boom", fail)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        with caplog.at_level(logging.ERROR, "noetl.api"):
            response = await client.get("/boom")
    assert_complete_problem(response, 500)
    assert "12345678" not in response.text
    [record] = [record for record in caplog.records if record.name == "noetl.api"]
    assert response.json()["reference"] in record.getMessage()
    assert record.exc_info is not None
    app.state.context.close()


async def test_a_client_that_disconnects_is_not_an_internal_error(
    settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings)
    sent: list[Any] = []
    received = iter(
        [{"type": "http.request", "body": b"name:", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/yaml")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/workflows/run",
        "raw_path": b"/workflows/run",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "scheme": "http",
        "root_path": "",
        "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    assert sent == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("part", ["/", "/.", "/workflows/", "/workflows/..", "/workflows/callbacks"])
def test_a_path_of_many_parts_is_redacted_in_linear_time(part: str) -> None:
    """A quadratic search would take minutes here."""
    parts = part * 300_000
    path = f"{parts}/workflows//callbacks/secret"
    redacted = problems.redact_path(path)
    assert "secret" not in redacted
    assert path.startswith(redacted.removesuffix("***"))
