"""The routes of runs: status, result, list, cancel, resume and graph."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.service.preview_views import ResumePreview
from noetl.api.service.views import PlanGraph, RunEntry, RunPage, RunReport, RunResult, members
from noetl.executor import precedence
from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.sql.store import SqlStore
from noetl.planner.compile import compile_playbook
from tests.api.responses import read_view

pytestmark = pytest.mark.anyio

YAML = {"Content-Type": "application/yaml"}
PATIENT = {"Prefer": "wait=25"}

HELD = """\
name: held
input: {gate: string}
steps:
  - name: first
    run:
      - {action: set, set: {a: 1}}
    rule:
      - {case: default, run: [hold]}
  - name: hold
    run:
      - {action: shell, command: [cat, "{{ input.gate }}"], as: held}
    rule:
      - {case: "{{ held.stdout == 'never' }}", run: [aside]}
      - {case: default, run: [last]}
  - name: aside
    run:
      - {action: log, message: aside}
  - name: last
    run:
      - {action: set, set: {b: 2}}
"""

YAML_OF_VALUES = """\
name: values
steps:
  - name: first
    loop: {items: "{{ [1, 2] }}", as: n}
    run:
      - {action: log, message: "{{ n }}"}
    rule:
      - {case: default, run: [second]}
  - name: second
    run:
      - {action: set, set: {numbers: "{{ [1, 2] }}"}}
output: {numbers: "{{ numbers }}", text: é}
"""

PICKY = """\
name: picky
input: {number: integer}
steps:
  - name: prepare
    run:
      - {action: set, set: {a: 1}}
    rule:
      - {case: default, run: [check]}
  - name: check
    run:
      - {action: fail, message: "too small", type: TooSmall, if: "{{ input.number < 10 }}"}
"""


async def start(
    http: httpx.AsyncClient, playbook: str, headers: dict[str, str] | None = None, **input: Any
) -> Any:
    body = {"playbook": playbook, "input": input}
    response = await http.post("/workflows/run", json=body, headers=headers)
    assert response.status_code in (200, 202), response.text
    return response.json()


async def finish(http: httpx.AsyncClient, workflow_id: str) -> dict[str, Any]:
    await http.get(f"/workflows/{workflow_id}/events", headers={"Accept": "text/event-stream"})
    response = await http.get(f"/workflows/result/{workflow_id}")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def test_the_status_follows_the_run(http: httpx.AsyncClient, gate: Path) -> None:
    workflow_id = (await start(http, HELD, gate=str(gate)))["workflow_id"]

    opened_gate = await asyncio.to_thread(gate.open, "w")
    body = read_view(RunReport, (await http.get(f"/workflows/status/{workflow_id}")).json())
    assert body.status == "running"
    assert {name: step.status for name, step in body.steps.items()} == {
        "first": "succeeded",
        "hold": "running",
        "aside": "pending",
        "last": "pending",
    }
    assert (body.progress.steps, body.progress.finished, body.progress.running) == (4, 1, 1)
    assert body.started_at is not None
    assert body.finished_at is None
    pending = await http.get(f"/workflows/result/{workflow_id}")
    assert pending.status_code == 202
    assert pending.headers["retry-after"] == "1"
    assert pending.json() == {"workflow_id": workflow_id, "status": "running", "result": None, "errors": []}

    opened_gate.close()
    await finish(http, workflow_id)
    body = read_view(RunReport, (await http.get(f"/workflows/status/{workflow_id}")).json())
    assert body.status == "succeeded"
    assert body.finished_at is not None
    assert list(body.steps) == ["first", "hold", "aside", "last"]
    assert members(body.steps["aside"]) == {
        "status": "pending",
        "visits": 0,
        "attempt": 0,
        "case": None,
        "error": None,
    }
    assert members(body.steps["hold"]) == {
        "status": "succeeded",
        "visits": 1,
        "attempt": 1,
        "case": 1,
        "error": None,
    }


async def test_a_failed_run_has_its_error(http: httpx.AsyncClient) -> None:
    result = read_view(RunResult, await start(http, PICKY, PATIENT, number=1))
    assert result.status == "failed"
    assert [(error["type"], error["message"], error["step"]) for error in result.errors] == [
        ("TooSmall", "too small", "check")
    ]
    response = await http.get(f"/workflows/status/{result.workflow_id}")
    assert response.status_code == 200
    body = read_view(RunReport, response.json())
    assert body.error is not None
    assert body.error["type"] == "TooSmall"
    assert body.steps["check"].status == "failed"
    assert body.steps["check"].error == body.error


async def test_an_unchanged_status_is_not_sent_again(http: httpx.AsyncClient) -> None:
    workflow_id = (await start(http, PICKY, PATIENT, number=20))["workflow_id"]
    first = await http.get(f"/workflows/status/{workflow_id}")
    tag = first.headers["etag"]
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = await http.get(f"/workflows/status/{workflow_id}", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = await http.get(f"/workflows/status/{workflow_id}", headers={"If-None-Match": '"other"'})
    assert other.json() == first.json()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/workflows/status/nothing"),
        ("GET", "/workflows/status/%00"),
        ("GET", "/workflows/result/nothing"),
        ("GET", "/workflows/nothing/events"),
        ("POST", "/workflows/nothing/cancel"),
        ("POST", "/workflows/nothing/resume"),
    ],
)
async def test_an_unknown_id_is_not_found(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:noetl:problem:not-found"


async def test_runs_are_returned_in_pages(http: httpx.AsyncClient) -> None:
    started = [(await start(http, PICKY, PATIENT, number=number))["workflow_id"] for number in (1, 20, 21)]
    first = read_view(RunPage, (await http.get("/workflows", params={"limit": 2})).json())
    assert [item.workflow_id for item in first.items] == [started[2], started[1]]
    assert first.next_cursor is not None
    rest = (await http.get("/workflows", params={"limit": 2, "cursor": first.next_cursor})).json()
    assert [item["workflow_id"] for item in rest["items"]] == [started[0]]
    assert rest["next_cursor"] is None

    async def ids(**params: str) -> list[str]:
        response = await http.get("/workflows", params=params)
        assert response.status_code == 200, response.text
        return [item["workflow_id"] for item in response.json()["items"]]

    assert await ids(status="failed") == [started[0]]
    assert await ids(playbook="picky") == started[::-1]
    assert await ids(playbook="other") == []
    assert await ids(since=first.items[0].created_at) == [started[2]]
    assert await ids(since="2099-01-01T00:00:00") == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "status=done",
        "cursor=x",
        "cursor=" + base64.urlsafe_b64encode(b"[" * 9000).decode(),
        "cursor=" + base64.urlsafe_b64encode(b'[1, "\\ud800"]').decode(),
        "cursor=" + base64.urlsafe_b64encode(b"[1%s, 2]" % (b"0" * 400)).decode(),
        "cursor=" + base64.urlsafe_b64encode(b'[NaN, "a"]').decode(),
        "since=soon",
        "stauts=failed",
        "playbook=a&playbook=b",
        "status=failed&status=done",
        "status=failed,queued",
        "tag=" + "&tag=".join("abcdefghijk"),
        "until=soon",
        "q=",
        "q=" + "x" * 201,
        "q=a&q=b",
        "sort=status",
        "sort=created_at&sort=created_at",
        "cursor=WzEuMCwgInIiXQ==",
        "cursor=WzEuMCwgInIiXQ==.00000000",
    ],
)
async def test_a_bad_query_is_refused(http: httpx.AsyncClient, query: str) -> None:
    response = await http.get(f"/workflows?{query}")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/step?name=first", "/items?step=first", "/input", "", "/events", "/logs"])
async def test_values_are_read_with_the_credit_of_the_tenant(
    http: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = (await http.post("/workflows/run", content=YAML_OF_VALUES, headers=YAML | PATIENT)).json()
    tenants: list[str] = []

    @contextmanager
    def working_for(tenant: str) -> Iterator[None]:
        tenants.append(tenant)
        with precedence.working_for(tenant):
            yield

    monkeypatch.setattr("noetl.api.routes.dependencies.working_for", working_for)
    answer = await http.get(f"/workflows/{accepted['workflow_id']}{path}")
    assert (answer.status_code, tenants) == (200, ["default"])


async def test_a_result_is_sent_as_it_is_stored(http: httpx.AsyncClient) -> None:
    begun = await http.post("/workflows/run", content=YAML_OF_VALUES, headers=YAML | PATIENT)
    ended = await http.get(f"/workflows/result/{begun.json()['workflow_id']}")
    result = {"numbers": [1, 2], "text": "é"}
    assert [answer.json()["result"] for answer in (begun, ended)] == [result, result]
    assert list(ended.json()) == ["workflow_id", "status", "result", "errors"]
    assert rb'"text":"\u00e9"' in ended.content


async def test_a_cancelled_run_starts_nothing_new(http: httpx.AsyncClient, gate: Path) -> None:
    workflow_id = (await start(http, HELD, gate=str(gate)))["workflow_id"]
    opened_gate = await asyncio.to_thread(gate.open, "w")
    for _ in range(2):
        response = await http.post(f"/workflows/{workflow_id}/cancel")
        assert response.status_code == 202
        assert response.headers["location"] == f"/workflows/status/{workflow_id}"
        read_view(RunEntry, response.json())
    opened_gate.close()
    assert (await finish(http, workflow_id))["status"] == "cancelled"
    steps = (await http.get(f"/workflows/status/{workflow_id}")).json()["steps"]
    assert steps["last"]["visits"] == 0
    assert (await http.post(f"/workflows/{workflow_id}/cancel")).status_code == 202


async def test_a_finished_run_cannot_be_cancelled(http: httpx.AsyncClient) -> None:
    workflow_id = (await start(http, PICKY, PATIENT, number=20))["workflow_id"]
    response = await http.post(f"/workflows/{workflow_id}/cancel")
    assert response.status_code == 409
    assert (await http.get(f"/workflows/result/{workflow_id}")).json()["status"] == "succeeded"


async def test_a_failed_run_is_resumed_with_corrected_input(http: httpx.AsyncClient) -> None:
    workflow_id = (await start(http, PICKY, PATIENT, number=1))["workflow_id"]
    response = await http.post(f"/workflows/{workflow_id}/resume", json={"input": {"number": 12}})
    assert response.status_code == 202, response.text
    read_view(RunEntry, response.json())
    assert (await finish(http, workflow_id))["status"] == "succeeded"
    steps = (await http.get(f"/workflows/status/{workflow_id}")).json()["steps"]
    assert (steps["prepare"]["visits"], steps["check"]["status"]) == (1, "succeeded")
    again = await http.post(f"/workflows/{workflow_id}/resume")
    assert again.status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"input": {"number": "many"}},
        {"input": {"nmuber": 1}},
        {"input": 1},
        {"from": "chekc"},
        {"from": 1},
        {"from": "check", "input": {"number": "many"}},
    ],
)
async def test_an_invalid_resume_changes_nothing(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    workflow_id = (await start(http, PICKY, PATIENT, number=1))["workflow_id"]
    before = (await http.get(f"/workflows/status/{workflow_id}")).json()
    response = await http.post(f"/workflows/{workflow_id}/resume", json=body)
    assert response.status_code == 422
    assert (await http.get(f"/workflows/status/{workflow_id}")).json() == before
    assert len((await http.get("/workflows")).json()["items"]) == 1


async def test_a_new_run_starts_at_a_step_of_another(http: httpx.AsyncClient) -> None:
    before = (await start(http, PICKY, PATIENT, number=1))["workflow_id"]
    response = await http.post(f"/workflows/{before}/resume", json={"from": "check", "input": {"number": 12}})
    assert response.status_code == 202, response.text
    summary = read_view(RunEntry, response.json())
    assert (summary.resumed_from, summary.playbook) == (before, "picky")
    assert (
        response.headers["location"]
        == f"/workflows/status/{summary.workflow_id}"
        != f"/workflows/status/{before}"
    )
    assert (await finish(http, summary.workflow_id))["result"] == {"a": 1}
    status = read_view(RunReport, (await http.get(response.headers["location"])).json())
    assert (status.status, status.resumed_from) == ("succeeded", before)
    events = (await http.get(f"/workflows/{summary.workflow_id}/events")).json()["items"]
    assert [event["step"] for event in events if event["type"] == "step.started"] == ["check"]
    assert (await http.get(f"/workflows/result/{before}")).json()["status"] == "failed"


async def test_an_idempotency_key_resumes_once(http: httpx.AsyncClient) -> None:
    before = (await start(http, PICKY, PATIENT, number=1))["workflow_id"]

    async def resume(**body: Any) -> httpx.Response:
        return await http.post(f"/workflows/{before}/resume", json=body, headers={"Idempotency-Key": "k"})

    first, second = await resume(**{"from": "check"}), await resume(**{"from": "check"})
    assert first.json()["workflow_id"] == second.json()["workflow_id"]
    assert (await resume(**{"from": "prepare"})).json()["type"] == "urn:noetl:problem:idempotency-key-reused"
    assert len((await http.get("/workflows")).json()["items"]) == 2


async def test_a_new_run_cannot_start_at_a_step_of_an_unfinished_run(
    http: httpx.AsyncClient, gate: Path
) -> None:
    workflow_id = (await start(http, HELD, gate=str(gate)))["workflow_id"]
    opened_gate = await asyncio.to_thread(gate.open, "w")
    response = await http.post(f"/workflows/{workflow_id}/resume", json={"from": "first"})
    opened_gate.close()
    assert (response.status_code, response.json()["type"]) == (409, "urn:noetl:problem:not-ended")
    assert (await http.post("/workflows/nothing/resume", json={"from": "first"})).status_code == 404


DIAMOND = """
name: diamond
output: {sum: "{{ a + b }}"}
steps:
  - {name: fork, rule: [{case: default, run: [left, right]}]}
  - {name: left, run: [{action: set, set: {a: 1}}], rule: [{case: default, run: [meet]}]}
  - name: right
    run: [{action: set, set: {b: 2}}]
    rule: [{case: "{{ b > 9 }}", run: [late]}, {case: default, run: [meet]}]
  - {name: late, rule: [{case: default, run: [meet]}]}
  - {name: meet, run: [{action: log, message: "met {{ a + b }}"}]}
"""


async def test_a_new_run_starts_on_one_of_several_branches(http: httpx.AsyncClient) -> None:
    workflow_id = (await start(http, DIAMOND, PATIENT))["workflow_id"]
    for step in ("left", "meet", "right"):
        response = await http.post(f"/workflows/{workflow_id}/resume", json={"from": step})
        assert response.status_code == 202, response.json()
        new = response.json()["workflow_id"]
        result = await finish(http, new)
        assert (result["status"], result["result"]) == ("succeeded", {"sum": 3})
        events = (await http.get(f"/workflows/{new}/events")).json()["items"]
        started = {event["step"] for event in events if event["type"] == "step.started"}
        assert started == {step, "meet"}


@pytest.mark.parametrize(
    ("body", "status", "problem", "part"),
    [
        ({"from": "late"}, 422, "inside-region", "has not visited step `late`"),
        (
            {"from": "left", "drop_siblings": True},
            409,
            "cannot-continue",
            "NC113: no path to this step assigns `b`",
        ),
        ({"drop_siblings": True}, 422, "conflicting-members", "`drop_siblings` needs `from`"),
    ],
)
async def test_a_start_on_one_of_several_branches_may_be_refused(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, problem: str, part: str
) -> None:
    workflow_id = (await start(http, DIAMOND, PATIENT))["workflow_id"]
    before = (await http.get(f"/workflows/{workflow_id}/events")).json()
    response = await http.post(f"/workflows/{workflow_id}/resume", json=body)
    assert (response.status_code, response.json()["type"]) == (status, f"urn:noetl:problem:{problem}")
    assert part in response.json()["detail"]
    if problem == "cannot-continue":
        assert response.json()["verdict"]["required"] == [{"name": "b", "type": "any", "line": 11}]
    assert len((await http.get("/workflows")).json()["items"]) == 1
    assert (await http.get(f"/workflows/{workflow_id}/events")).json() == before


async def test_a_failed_step_is_skipped(http: httpx.AsyncClient) -> None:
    workflow_id = (await start(http, PICKY, PATIENT, number=1))["workflow_id"]
    before = (await http.get(f"/workflows/{workflow_id}/events")).json()
    for body, status, problem in (
        ({"skip": {"prepare": 1}}, 409, "not-skippable"),
        ({"skip": {"chek": 1}}, 422, "unknown-step"),
        ({"skip": {"check": 1}, "from": "check"}, 422, "conflicting-members"),
        ({"skip": [1]}, 422, "invalid-body"),
    ):
        refused = await http.post(f"/workflows/{workflow_id}/resume", json=body)
        assert (refused.status_code, refused.json()["type"]) == (status, f"urn:noetl:problem:{problem}")
        assert (await http.get(f"/workflows/{workflow_id}/events")).json() == before
    resumed = await http.post(f"/workflows/{workflow_id}/resume", json={"skip": {"check": {"ok": True}}})
    assert (resumed.status_code, resumed.json()["workflow_id"]) == (202, workflow_id)
    assert (await finish(http, workflow_id))["status"] == "succeeded"
    events = (await http.get(f"/workflows/{workflow_id}/events")).json()["items"]
    (skipped,) = (event for event in events if event["type"] == "step.skipped")
    assert (skipped["step"], set(skipped["payload"])) == ("check", {"by"})
    steps = (await http.get(f"/workflows/{workflow_id}")).json()["steps"]
    left_out = {name: step["left_out"] for name, step in steps.items() if "left_out" in step}
    assert left_out == {"check": {"requester": skipped["payload"]["by"]}}
    again = await http.post(f"/workflows/{workflow_id}/resume", json={"skip": {"check": 1}})
    assert again.status_code == 409


EFFECTS = """
name: effects
input: {bad: {type: boolean, default: true}}
steps:
  - name: first
    run: [{action: shell, command: "true"}]
    rule: [{case: default, run: [second]}]
  - name: second
    run:
      - {action: shell, command: "true"}
      - {action: shell, command: "true", loop: {items: [1, 2]}}
      - {action: fail, message: "no", if: "{{ input.bad }}"}
      - {action: shell, command: "true"}
    rule: [{case: default, run: [third]}]
  - {name: third, run: [{task: act}]}
tasks:
  act: {run: [{action: shell, command: "true"}]}
"""


async def preview(http: httpx.AsyncClient, workflow_id: str, **body: Any) -> dict[str, Any]:
    response = await http.post(f"/workflows/{workflow_id}/resume", json={"dry_run": True, **body})
    assert response.status_code == 200, response.text
    read: ResumePreview = read_view(ResumePreview, response.json())
    assert read.workflow_id == workflow_id
    return {
        "new": read.starts_new_run,
        **{
            step.step: (step.reason, [(action.position, action.done) for action in step.actions])
            for step in read.steps
        },
    }


async def test_a_dry_run_of_a_resume_changes_nothing(http: httpx.AsyncClient) -> None:
    workflow_id = (await start(http, EFFECTS, PATIENT))["workflow_id"]
    before = (await http.get(f"/workflows/{workflow_id}/events")).json()
    second = [("run.0", "yes"), ("run.1", "perhaps"), ("run.3", "no")]
    assert await preview(http, workflow_id) == {"new": False, "second": ("failed", second)}
    assert await preview(http, workflow_id, skip={"second": 1}) == {"new": False, "second": ("skipped", [])}
    assert await preview(http, workflow_id, **{"from": "first"}) == {
        "new": True,
        "first": ("from", [("run.0", "yes")]),
        "second": ("after", second),
    }
    assert await preview(http, workflow_id, **{"from": "third"}) == {"new": True, "third": ("from", [])}
    for body in ({"skip": {"first": 1}}, {"from": "no"}, {"input": {"bad": 7}}):
        refused = await http.post(f"/workflows/{workflow_id}/resume", json={"dry_run": True, **body})
        assert refused.status_code in (409, 422)
    assert (await http.get(f"/workflows/{workflow_id}/events")).json() == before
    assert len((await http.get("/workflows")).json()["items"]) == 1


PARCELS = """
name: parcels
input: {wrong: array}
steps:
  - name: send
    loop: {items: [1, 2, 3, 4], as: n}
    run:
      - {action: fail, if: "{{ n in input.wrong }}", message: odd}
      - {action: shell, command: "true"}
"""


async def test_a_failed_loop_does_its_open_items_or_all(http: httpx.AsyncClient) -> None:
    path = f"/workflows/{(await start(http, PARCELS, PATIENT, wrong=[3]))['workflow_id']}/resume"
    loops = []
    for body in ({}, {"all_items": True}, {"all_items": True, "playbook": PARCELS + "description: x\n"}):
        response = await http.post(path, json={"dry_run": True, **body})
        assert response.status_code == 200, response.text
        (step,) = read_view(ResumePreview, response.json()).steps
        loops.append([members(loop) for loop in step.loops or ()])
    open_items = {"position": "run", "total": 4, "done": 2, "again": 2, "numbers": [3, 4], "lost": 0}
    assert loops[0] == [open_items]
    assert loops[1] == loops[2] == [open_items | {"done": 0, "again": 4, "numbers": [1, 2, 3, 4]}]
    for given in ({"from": "send"}, {"at": "1"}):
        refused = await http.post(path, json={"all_items": True, **given})
        assert refused.json()["type"] == "urn:noetl:problem:conflicting-members"
    resumed = await http.post(path, json={"all_items": True, "input": {"wrong": []}})
    assert resumed.status_code == 202
    assert (await finish(http, resumed.json()["workflow_id"]))["status"] == "succeeded"


async def test_a_dry_run_of_a_start_on_one_of_several_branches(http: httpx.AsyncClient) -> None:
    workflow_id = (await start(http, DIAMOND, PATIENT))["workflow_id"]
    assert await preview(http, workflow_id, **{"from": "left"}) == {
        "new": True,
        "left": ("from", []),
        "meet": ("after", []),
    }
    refused = await http.post(f"/workflows/{workflow_id}/resume", json={"dry_run": True})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:noetl:problem:not-resumable")


async def test_no_step_of_an_open_run_is_skipped(http: httpx.AsyncClient, gate: Path) -> None:
    workflow_id = (await start(http, HELD, gate=str(gate)))["workflow_id"]
    opened_gate = await asyncio.to_thread(gate.open, "w")
    response = await http.post(f"/workflows/{workflow_id}/resume", json={"skip": {"hold": 1}})
    items = await http.post(f"/workflows/{workflow_id}/resume", json={"all_items": True})
    opened_gate.close()
    for refused in (response, items):
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:noetl:problem:not-ended")


async def test_the_graph_of_a_run_shows_its_states(http: httpx.AsyncClient) -> None:
    path = f"/workflows/{(await start(http, PICKY, PATIENT, number=1))['workflow_id']}/graph"
    graph = read_view(PlanGraph, (await http.get(path, params={"format": "json"})).json())
    assert {name: step["status"] for name, step in graph.steps.items()} == {
        "prepare": "succeeded",
        "check": "failed",
    }
    assert [(edge.source, edge.target) for edge in graph.edges] == [("prepare", "check")]
    mermaid = await http.get(path, params={"format": "mermaid"})
    assert mermaid.headers["content-type"].startswith("text/plain")
    assert mermaid.text.startswith("flowchart")
    picture = await http.get(path, headers={"Accept": "image/*"})
    assert picture.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in picture.headers["content-security-policy"]
    assert b"<svg" in picture.content
    assert (await http.get(path, params={"format": "gif"})).status_code == 400


@pytest.mark.parametrize(
    ("command", "body"), [("resume", None), ("resume", {"from": "check"}), ("cancel", None)]
)
async def test_a_local_run_is_refused(
    http: httpx.AsyncClient, settings: dict[str, str], command: str, body: dict[str, str] | None
) -> None:
    store = open_store(settings["NOETL_STORE"])
    plan = compile_playbook(PICKY, catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    run = store.runs.create(
        *new_run(plan.header, plan.hash, StartRequest({"number": 1}, origin="local", folder="/"), now=0.0)
    )
    store.close()
    response = await http.post(f"/workflows/{run.id}/{command}", json=body)
    assert response.status_code == 409
    assert f"noetl runs {command}" in response.json()["detail"]


async def test_a_damaged_run_says_what_is_wrong(http: httpx.AsyncClient, settings: dict[str, str]) -> None:
    """The status is readable without the plan, and what needs the plan is a problem of the run."""
    store = open_store(settings["NOETL_STORE"])
    assert isinstance(store, SqlStore)
    plan = compile_playbook(PICKY, catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    run = store.runs.create(
        *new_run(plan.header, plan.hash, StartRequest({"number": 1}, origin="local", folder="/"), now=0.0)
    )
    with store.database.transaction() as db:
        db.execute("update runs set plan_hash = 'lost' where id = :id", id=run.id)
    store.maintenance.set_aside(run.id, "The store has no plan lost, or a part of it is missing.")
    store.close()
    sentence = (
        "the run waits until its store is repaired: The store has no plan lost, or a part of it is missing."
    )
    for path in (f"/workflows/status/{run.id}", f"/workflows/{run.id}"):
        response = await http.get(path)
        assert (response.status_code, response.json().get("status")) == (200, "queued"), response.text
        assert (response.json()["error"]["type"], response.json()["error"]["message"]) == (
            "RunDamaged",
            sentence,
        )
    (entry,) = (await http.get("/workflows")).json()["items"]
    assert sentence.startswith(entry["headline"].rstrip("…"))
    problem = await http.get(f"/workflows/{run.id}/graph")
    assert (problem.status_code, problem.json()["type"].rpartition(":")[2]) == (500, "run-damaged")
    assert "has no plan lost" in problem.json()["detail"]
    assert (await http.delete(f"/workflows/{run.id}")).status_code == 204
    assert (await http.get(f"/workflows/{run.id}")).status_code == 404
