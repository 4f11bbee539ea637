"""The route `POST /plan`."""

from __future__ import annotations

import httpx
import pytest

from noetl.api.service.views import PlanDescription
from tests.api.responses import read_view

pytestmark = pytest.mark.anyio

PLAYBOOK = """\
name: two
steps:
  - name: a
    run:
      - {action: set, set: {total: "{{ start }}"}}
    rule:
      - {case: "{{ total > 1 }}", run: [b]}
  - name: b
    run:
      - {action: log, message: "{{ total }}"}
"""


async def test_a_plan_is_described_and_nothing_is_stored(http: httpx.AsyncClient) -> None:
    response = await http.post("/plan", content=PLAYBOOK, headers={"Content-Type": "application/yaml"})
    assert response.status_code == 200
    body = read_view(PlanDescription, response.json())
    assert body.name == "two"
    assert list(body.graph.steps) == ["a", "b"]
    assert [(edge.source, edge.target, edge.case) for edge in body.graph.edges] == [("a", "b", 0)]
    assert [finding.code for finding in body.diagnostics] == ["NP306"]
    assert "start" in body.inputs
    assert body.statistics["most_visits"] == 2
    assert (await http.get("/workflows")).json()["items"] == []


async def test_a_json_body_is_read_as_for_a_run(http: httpx.AsyncClient) -> None:
    text = await http.post("/plan", json={"playbook": PLAYBOOK})
    assert text.status_code == 200
    assert (await http.post("/plan", json={"playbook": {"name": "two"}})).status_code == 404
    await http.post("/playbooks", json={"playbook": PLAYBOOK})
    assert (await http.post("/plan", json={"playbook": {"name": "two"}})).json() == text.json()
    broken = await http.post("/plan", json={"playbook": {"name": "a", "steps": []}})
    assert broken.status_code == 422
    assert broken.json()["diagnostics"]
