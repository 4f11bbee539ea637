"""Parameters of requests: what a route declares is parsed, and everything else is refused."""

from __future__ import annotations

import httpx
import pytest

from noetl.api.http.bodies import REQUEST_BODIES, Expected
from tests.api.conformance import described
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

YAML = "name: one\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"


async def test_an_unknown_parameter_of_the_query_is_refused(http: httpx.AsyncClient) -> None:
    parameters = ("name", "workflow_id", "token", "code", "playbook", "trigger", "backfill_id")
    names = dict.fromkeys(
        (*parameters, "tenant", "path", "channel", "notification", "limit_name", "alias"), "a"
    )
    calls = [
        (method.upper(), path.format(version="1", **names), operation)
        for path, methods in described()["paths"].items()
        for method, operation in methods.items()
    ]
    for method, path, operation in calls:
        response = await http.request(method, f"{path}?unknown=1")
        if not operation.get("security"):
            # Load balancers and external systems add parameters of their own.
            assert response.status_code != 400, path
            continue
        assert_problem(response, 400, "invalid-request")
        declared = [entry for entry in operation.get("parameters", ()) if entry["in"] == "query"]
        for entry in declared:
            name = entry["name"]
            assert f"`{name}`" in response.json()["detail"]
            if entry["schema"].get("type") == "array":
                continue
            repeated = await http.request(method, f"{path}?{name}=1&{name}=1")
            assert_problem(repeated, 400, "invalid-request")
            assert f"`{name}` is given twice" in repeated.json()["detail"]


async def test_a_similar_parameter_is_suggested(http: httpx.AsyncClient) -> None:
    response = await http.post("/plan?inptu={}", content=YAML, headers={"Content-Type": "application/yaml"})
    assert response.json()["detail"] == "Unknown query parameter `inptu`; did you mean `input`?"
    long = await http.get(f"/workflows?{'x' * 1000}=1")
    assert len(long.json()["detail"]) < 300


@pytest.mark.parametrize("limit", ["1_0", "1.0", "%2B1", "%201", "1e1", "", "\u0663", "9" * 5000])
async def test_a_number_is_decimal_digits(http: httpx.AsyncClient, limit: str) -> None:
    for path in ("/workflows", "/playbooks", "/workflows/a/events"):
        response = await http.get(f"{path}?limit={limit}")
        assert_problem(response, 400, "invalid-request")
        assert "`limit` is not valid: it must be a whole number" in response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/workflows/status/{}", "unknown run `"),
        ("GET", "/playbooks/{}", "unknown playbook `"),
        ("GET", "/playbooks/a/versions/{}", "unknown version `"),
        ("GET", "/{}", "; /docs lists all paths."),
        ("PUT", "/playbooks/{}", "; its methods are DELETE, GET, HEAD, OPTIONS."),
    ],
)
async def test_what_is_long_is_shortened_in_sentences(
    http: httpx.AsyncClient, method: str, path: str, words: str
) -> None:
    response = await http.request(method, path.format("x" * 5000))
    assert words in response.json()["detail"]
    assert len(response.json()["detail"]) < 200


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\tb", "\u00e9".encode()])
async def test_an_idempotency_key_must_be_printable(http: httpx.AsyncClient, key: bytes) -> None:
    response = await http.post("/workflows/run", json={"playbook": YAML}, headers=[(b"Idempotency-Key", key)])
    assert_problem(response, 400, "invalid-request")
    assert "`Idempotency-Key` is not valid: it must have 1 to 255" in response.json()["detail"]


async def test_an_idempotency_key_is_given_once(http: httpx.AsyncClient) -> None:
    keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    for path in ("/workflows/run", "/workflows/a/resume"):
        response = await http.post(path, json={"playbook": YAML}, headers=keys)
        assert_problem(response, 400, "invalid-request")
        assert response.json()["detail"] == "The header `Idempotency-Key` is given twice."


async def test_headers_of_several_lines_are_one_list(http: httpx.AsyncClient) -> None:
    headers = [("Prefer", "respond-async"), ("Prefer", "wait=25")]
    response = await http.post("/workflows/run", json={"playbook": YAML}, headers=headers)
    assert (response.status_code, response.headers["preference-applied"]) == (200, "wait=25")


def test_each_part_of_a_body_says_what_it_must_be() -> None:
    silent = [
        f"{body.__name__}.{name}"
        for body in REQUEST_BODIES
        for name, field in body.model_fields.items()
        if not any(isinstance(part, Expected) for part in field.metadata)
    ]
    # Every value is an answer.
    assert silent == ["AnswerBody.answer"]
