"""CPU work of requests over HTTP: which process performs it, and what is refused."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from noetl.api.compute import pool
from noetl.api.compute.jobs import GraphJob, LayoutJob
from noetl.api.pictures import PictureError
from noetl.api.routes import dependencies, run_drawing
from noetl.executor.engine.initial_data import InitialData
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.planner import compile as compile_module
from noetl.planner.plan import Plan
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

YAML = {"Content-Type": "application/yaml"}


def chain(size: int, name: str = "chain") -> str:
    steps = (
        f"- {{name: s{index}, run: [{{action: log, message: x}}], "
        f"rule: [{{case: '{{{{ x > {index} }}}}', run: [s{min(index + 2, size)}]}}, "
        f"{{case: default, run: [s{index + 1}]}}]}}\n"
        for index in range(size)
    )
    end = f"- {{name: s{size}, run: [{{action: log, message: x}}]}}\n"
    return f"name: {name}\ninput: {{x: {{default: 1}}}}\nsteps:\n{''.join(steps)}{end}"


def forbid_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_playbook(*_: object) -> None:
        raise AssertionError("a long text is compiled in the process that answers requests")

    monkeypatch.setattr(compile_module, "compile_playbook", compile_playbook)


async def test_a_long_playbook_is_compiled_in_another_process(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_compiler(monkeypatch)
    text = chain(300)
    described = await http.post("/plan", content=text, headers=YAML)
    assert described.status_code == 200, described.text
    assert len(described.json()["graph"]["edges"]) == 600
    started = await http.post("/workflows/run", content=text, headers=YAML)
    assert started.json()["plan_hash"] == described.json()["hash"]
    assert (await http.post("/playbooks", content=text, headers=YAML)).status_code == 201
    wrong = await http.post("/plan", content=text.replace("run: [s7]", "run: [s_7]"), headers=YAML)
    assert_problem(wrong, 422, "invalid-playbook")


async def test_a_tenant_with_too_many_jobs_waits_for_its_refusal(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_TENANT_WAITING", 0)
    refused = asyncio.Event()

    async def wait_for_ever() -> None:
        refused.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(dependencies, "delay_refusal", wait_for_ever)
    waiting = asyncio.ensure_future(http.post("/plan", content=chain(300), headers=YAML))
    await refused.wait()
    assert not waiting.done()
    waiting.cancel()
    monkeypatch.undo()
    monkeypatch.setattr(pool, "MAX_TENANT_WAITING", 0)
    monkeypatch.setattr(dependencies, "REFUSAL_SECONDS", 0.0)
    response = await http.post("/plan", content=chain(300), headers=YAML)
    assert_problem(response, 429, "tenant-busy")


async def test_a_picture_that_is_too_large_is_refused(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = await http.post("/workflows/run", content=chain(300), headers=YAML)
    path = started.json()["links"]["graph"]

    async def refuse(*arguments: object) -> None:
        raise PictureError("too large")

    monkeypatch.setattr(run_drawing, "perform", refuse)
    response = await http.get(path, params={"format": "svg"})
    assert_problem(response, 422, "graph-too-large")
    assert "format=mermaid" in response.json()["detail"]
    monkeypatch.undo()
    assert len((await http.get(path, params={"format": "json"})).json()["edges"]) == 600
    assert (await http.get(path, params={"format": "mermaid"})).text.startswith(("flowchart", "%%", "graph"))


async def test_the_layout_of_a_plan_is_computed_once(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[object] = []
    perform = dependencies.perform

    async def record(request: object, services: object, job: object) -> object:
        jobs.append(job)
        return await perform(request, services, job)  # type: ignore[arg-type]

    monkeypatch.setattr(run_drawing, "perform", record)
    paths = []
    for _ in range(2):
        started = await http.post("/workflows/run", content=chain(3), headers=YAML)
        paths.append(started.json()["links"]["graph"])
    for path in paths:
        assert (await http.get(path, params={"format": "svg"})).text.startswith("<svg")
    assert len({job.key for job in jobs if isinstance(job, LayoutJob)}) == 1
    assert len({job.key for job in jobs if isinstance(job, GraphJob)}) == 2


async def test_the_plan_of_a_large_graph_is_read_once(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = SqlPlans.get

    def count(plans: SqlPlans, plan_hash: str) -> Plan:
        reads.append(plan_hash)
        return read(plans, plan_hash)

    monkeypatch.setattr(SqlPlans, "get", count)
    started = await http.post("/workflows/run", content=chain(300), headers=YAML)
    path = started.json()["links"]["graph"]
    formats = ("json", "mermaid", "json", "mermaid")
    responses = await asyncio.gather(*(http.get(path, params={"format": format}) for format in formats))
    assert [response.status_code for response in responses] == [200] * 4
    assert len(reads) == 1


ENVIRONMENT = """\
name: e
input: {n: {default: 3}}
environment: {total: "{{ range(n) | sum }}"}
variables: {doubled: "{{ total * 2 }}"}
steps:
- {name: s, run: [{action: set, set: {x: "{{ doubled }}"}}]}
"""


async def test_expressions_of_a_start_are_evaluated_in_another_process(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(_: InitialData) -> None:
        raise AssertionError("an expression is evaluated in the process that answers requests")

    monkeypatch.setattr(InitialData, "evaluate", evaluate)
    body = {"playbook": ENVIRONMENT, "input": {"n": 4}}
    response = await http.post("/workflows/run", json=body, headers={"Prefer": "wait=20"})
    assert response.json()["result"] == {"x": 12}
    refused = await http.post("/workflows/run", json={"playbook": ENVIRONMENT, "input": {"n": "x"}})
    assert_problem(refused, 422, "invalid-input")
    heavy = ENVIRONMENT.replace("range(n) | sum", "'x' * 10 ** 9")
    assert_problem(await http.post("/workflows/run", json={"playbook": heavy}), 422, "invalid-input")


@pytest.mark.parametrize(
    ("value", "is_light"),
    [
        ("text", True),
        ("{{ n }}", True),
        ("https://{{ input.host }}/{{ n }}", True),
        ({"a": ["{{ n }}", 1]}, True),
        ("{{ n + 1 }}", False),
        ("{{ now() }}", False),
        ("{{ n | upper }}", False),
        ("{{ n }}{% if n %}x{% endif %}", False),
        ({"a": ["{{ range(9) }}"]}, False),
        ("{{ n }}" * 1000, False),
    ],
)
def test_only_texts_that_insert_names_are_light(value: object, is_light: bool) -> None:
    from noetl.planner.plan import Header

    header = Header("p", "s", environment={"e": value})
    assert InitialData(header, "r", {}, {}, 0.0).is_light is is_light
