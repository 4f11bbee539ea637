"""The route `POST /plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from noetl.api import graphviz
from noetl.api.compute.jobs import DescribeJob
from noetl.api.service.compiler import PlaybookCompiler
from noetl.api.service.errors import WorkLimitError
from noetl.api.service.graph_views import PlanDescription
from noetl.executor.actions import catalogue
from tests.api.responses import assert_problem, read_view

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


async def test_a_drawing_has_coordinates_and_no_states(http: httpx.AsyncClient) -> None:
    for body in ({"playbook": PLAYBOOK}, {"playbook": {"name": "two"}}):
        response = await http.post("/plan", params={"include": "drawing"}, json=body)
        assert response.status_code == 200, response.text
        drawing = read_view(PlanDescription, response.json()).drawing
        assert drawing is not None
        steps = [node for node in drawing.nodes if node.kind == "step"]
        assert [node.title for node in steps] == ["a", "b"]
        assert {(node.state, node.words, node.items) for node in drawing.nodes} == {(None, None, None)}
        assert {(edge.mark, edge.taken) for edge in drawing.edges} == {("may", 0)}
        assert drawing.width > steps[0].width > 0
        await http.post("/playbooks", json={"playbook": PLAYBOOK})


async def test_a_drawing_of_a_broken_playbook_is_the_problem_of_the_playbook(http: httpx.AsyncClient) -> None:
    broken = await http.post("/plan", params={"include": "drawing"}, json={"playbook": "name: a\nsteps: []"})
    assert broken.status_code == 422
    unknown = await http.post("/plan", params={"include": "picture"}, json={"playbook": PLAYBOOK})
    assert_problem(unknown, 400, "invalid-request")


async def test_a_plan_without_its_drawing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise graphviz.GraphvizError("the program is missing")

    monkeypatch.setattr(graphviz, "Rendering", fail)
    body = json.loads(DescribeJob(PLAYBOOK, draws=True).perform(PlaybookCompiler(catalogue())))
    assert (body["drawing_problem"], "drawing" in body) == ("The program is missing.", False)
    assert DescribeJob(PLAYBOOK).key != DescribeJob(PLAYBOOK, draws=True).key


async def test_a_drawing_that_takes_too_long_is_left_out(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DescribeJob, "perform", slow_drawing(DescribeJob.perform))
    monkeypatch.setattr(DescribeJob, "is_light", True)
    response = await http.post("/plan", params={"include": "drawing"}, json={"playbook": PLAYBOOK})
    assert (response.status_code, "drawing" in response.json()) == (200, False)


def slow_drawing(describe: Callable[[DescribeJob, PlaybookCompiler], bytes]) -> Any:
    def perform(job: DescribeJob, compiler: PlaybookCompiler) -> bytes:
        if job.draws:
            raise WorkLimitError(job.subject, "takes more than 10 s")
        return describe(job, compiler)

    return perform
