"""CPU work of requests over HTTP: which process performs it, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from noetl.api import app, pictures
from noetl.api.compute import pool
from noetl.api.compute.jobs import GraphJob, LayoutJob
from noetl.api.routes import dependencies, run_drawing
from noetl.api.service.errors import TenantBusyError
from noetl.executor.engine.firing_expressions import FiringExpressions
from noetl.executor.engine.initial_data import CorrectedEnvironment, InitialData
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
        raise AssertionError("a text is compiled in the process that answers requests")

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
    def refuse(queues: object, tenant: str) -> None:
        raise TenantBusyError("32 jobs of this tenant wait already.")

    monkeypatch.setattr(pool._TenantQueues, "refuse_if_full", refuse)
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
    monkeypatch.setattr(pool._TenantQueues, "refuse_if_full", refuse)
    monkeypatch.setattr(dependencies, "REFUSAL_SECONDS", 0.0)
    response = await http.post("/plan", content=chain(300), headers=YAML)
    assert_problem(response, 429, "tenant-busy")


class TestWithoutProcesses:
    @pytest.fixture(autouse=True)
    def no_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the service have none, as a function."""
        monkeypatch.setattr(app, "read_compute_processes", lambda _: 0)

    async def test_a_picture_that_is_too_large_is_refused(
        self, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = await http.post("/workflows/run", content=chain(300), headers=YAML)
        path = started.json()["links"]["graph"]
        monkeypatch.setattr(pictures, "MAX_PICTURE_SIZE", 1)
        response = await http.get(path, params={"format": "svg"})
        assert_problem(response, 422, "graph-too-large")
        assert "format=mermaid" in response.json()["detail"]
        assert len((await http.get(path, params={"format": "json"})).json()["edges"]) == 600
        mermaid = (await http.get(path, params={"format": "mermaid"})).text
        assert mermaid.startswith(("flowchart", "%%", "graph"))


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


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure of what this process evaluates, unless it is light."""

    def evaluate(_: object) -> None:
        raise AssertionError("an expression is evaluated in the process that answers requests")

    for kind in (InitialData, CorrectedEnvironment, FiringExpressions):
        monkeypatch.setattr(kind, "evaluate", evaluate)


@pytest.mark.usefixtures("forbidden")
async def test_expressions_of_a_start_are_evaluated_in_another_process(http: httpx.AsyncClient) -> None:
    body = {"playbook": ENVIRONMENT, "input": {"n": 4}}
    response = await http.post("/workflows/run", json=body, headers={"Prefer": "wait=20"})
    assert response.json()["result"] == {"x": 12}
    refused = await http.post("/workflows/run", json={"playbook": ENVIRONMENT, "input": {"n": "x"}})
    assert_problem(refused, 422, "invalid-input")
    heavy = ENVIRONMENT.replace("range(n) | sum", "'x' * 10 ** 9")
    assert_problem(await http.post("/workflows/run", json={"playbook": heavy}), 422, "invalid-input")


FIRED = """\
name: fired
input: {n: {default: 0}}
environment: {total: "{{ range(n) | sum }}"}
triggers:
- {name: nightly, type: schedule, cron: "0 0 1 1 *", if: "{{ 1 > 2 }}", input: {n: "{{ 2 + 2 }}"}}
- {name: hook, type: webhook, path: hook, auth: {scheme: api_key}, key: "{{ trigger.body | upper }}",
   if: "{{ trigger.body | length > 1 }}", input: {n: "{{ trigger.body | length }}"}}
- {name: ended, type: run, playbook: e, status: [succeeded], input: {n: "{{ trigger.result.x + 1 }}"}}
- {name: every, type: schedule, every: 1s, input: {n: "{{ 2 * 2 }}"}}
steps:
- {name: s, run: [{action: set, set: {x: "{{ total }}"}}]}
output: {x: "{{ x }}"}
"""


async def read_result(http: httpx.AsyncClient, workflow_id: str) -> Any:
    response = await http.get(f"/workflows/result/{workflow_id}", headers={"Prefer": "wait=20"})
    return response.json()["result"]


async def register(http: httpx.AsyncClient, text: str) -> None:
    response = await http.post("/playbooks", content=text, headers=YAML)
    assert response.status_code == 201, response.text


@pytest.fixture
async def service(http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Service with the playbooks `e` and `fired`."""
    await register(http, ENVIRONMENT)
    await register(http, FIRED)
    yield http


async def wait_for_firing(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Return the first record of a trigger of `fired`, once there is one."""
    while True:
        items = (await http.get(f"/triggers/fired/{name}/firings")).json()["items"]
        if items:
            return dict(items[-1])
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("forbidden")
class TestFirings:
    """The expressions of firings, evaluated in another process."""

    async def test_a_firing_by_hand(self, service: httpx.AsyncClient) -> None:
        fired = await service.post("/triggers/fired/nightly/fire")
        assert await read_result(service, fired.json()["workflow_id"]) == {"x": 6}
        refused = await service.post("/triggers/fired/ended/fire", json={"run": "unknown"})
        assert_problem(refused, 422, "invalid-input")

    async def test_a_webhook(self, service: httpx.AsyncClient) -> None:
        received = await service.post("/hooks/default/hook", json="abc")
        assert await read_result(service, received.json()["workflow_id"]) == {"x": 3}
        assert (await service.post("/hooks/default/hook", json="x")).json()["outcome"] == "filtered"
        assert_problem(await service.post("/hooks/default/hook", json=1), 422, "invalid-input")

    async def test_firings_of_the_service_itself(self, service: httpx.AsyncClient) -> None:
        await service.post("/workflows/run", json={"playbook": {"name": "e"}, "input": {"n": 2}})
        for name, total in (("every", 6), ("ended", 3)):
            firing = await wait_for_firing(service, name)
            assert (firing["outcome"], firing["reason"]) == ("started", None)
            assert await read_result(service, firing["workflow_id"]) == {"x": total}


FAILING = """\
name: wrong
input: {n: {default: 3}}
environment: {total: "{{ range(n) | sum }}"}
steps:
- {name: s, run: [{action: fail, message: "{{ environment.total }}"}]}
"""


@pytest.mark.usefixtures("forbidden")
class TestCorrections:
    """The expressions of corrected runs, evaluated in another process."""

    async def start(self, http: httpx.AsyncClient) -> str:
        """Return the id of a run that has failed."""
        started = await http.post("/workflows/run", content=FAILING, headers=YAML)
        id = str(started.json()["workflow_id"])
        await read_result(http, id)
        return id

    async def read_message(self, http: httpx.AsyncClient, workflow_id: str) -> str:
        """Return the message with which a run has failed."""
        await read_result(http, workflow_id)
        error = (await http.get(f"/workflows/status/{workflow_id}")).json()["error"]
        return str(error["message"])

    @pytest.mark.parametrize("more", [{}, {"from": "s"}])
    async def test_corrected_input(self, http: httpx.AsyncClient, more: dict[str, str]) -> None:
        id = await self.start(http)
        body = {"input": {"n": 4}, **more}
        preview = await http.post(f"/workflows/{id}/resume", json={**body, "dry_run": True})
        assert preview.status_code == 200, preview.text
        resumed = await http.post(f"/workflows/{id}/resume", json=body)
        assert resumed.status_code == 202, resumed.text
        assert "6" in await self.read_message(http, resumed.json()["workflow_id"])
        wrong = {"input": {"n": [1]}, **more}
        refused = await http.post(f"/workflows/{id}/resume", json=wrong)
        assert_problem(refused, 422, "invalid-input")

    async def test_a_run_that_continues_in_another_version(
        self, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A short text is compiled elsewhere as well."""
        id = await self.start(http)
        forbid_compiler(monkeypatch)
        text = FAILING.replace("sum }}", "sum + 7 }}")
        resumed = await http.post(f"/workflows/{id}/resume", json={"playbook": text})
        assert resumed.status_code == 202, resumed.text
        assert "10" in await self.read_message(http, id)


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
