"""Requests with long names: the answer quotes their beginning, whatever member or path has them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio

LONG = "x" * 900_000
PLAYBOOK = "name: held\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"


@pytest.fixture
async def workflow_id(http: httpx.AsyncClient) -> str:
    response = await http.post("/workflows/run", json={"playbook": PLAYBOOK})
    return str(response.json()["workflow_id"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/workflows/run", {LONG: 1}),
        ("/workflows/run", {"playbook": PLAYBOOK, "variables": {LONG: 1}}),
        ("/workflows/run", {"playbook": PLAYBOOK, "input": {LONG: 1}}),
        ("/workflows/run", {"playbook": {"name": LONG}}),
        ("/workflows/ID/resume", {"from": LONG}),
        ("/workflows/ID/resume", {"at": LONG}),
        ("/workflows/ID/answer", {"step": LONG, "answer": 1}),
        ("/workflows/bulk/cancel", {"ids": [LONG]}),
        ("/playbooks", {"playbook": PLAYBOOK, LONG: 1}),
    ],
    ids=lambda value: str(value).replace(LONG, "LONG"),
)
async def test_a_refusal_quotes_the_beginning_of_a_name(
    http: httpx.AsyncClient, workflow_id: str, path: str, body: dict[str, Any]
) -> None:
    response = await http.post(path.replace("ID", workflow_id), json=body)
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 20_000


async def test_a_refusal_quotes_the_beginning_of_a_path(http: httpx.AsyncClient) -> None:
    response = await http.get(f"/language/codes/{LONG[:50_000]}")
    assert response.status_code == 404
    assert len(response.content) < 20_000


async def test_thousands_of_inputs_are_refused_in_a_few_sentences(http: httpx.AsyncClient) -> None:
    inputs = "\n".join(f"  input_number_{number}: string" for number in range(2_000))
    playbook = f"name: many\ninput:\n{inputs}\nsteps: [{{name: a, run: [{{action: log, message: x}}]}}]\n"
    given = {f"inputs_number_{number}": 1 for number in range(2_000)}
    response = await http.post("/workflows/run", json={"playbook": playbook, "input": given})
    assert (response.status_code, response.json()["title"]) == (422, "Invalid input")
    assert len(response.content) < 50_000
