"""Triggers over HTTP: lists, history, firings by hand, pauses and problems."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from noetl.api.service.calendar_views import CalendarPage
from noetl.api.service.trigger_views import FiringPage, TriggerDetails, TriggerEntry, TriggerPage
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

TEXT = """\
name: team/load
version: "1"
input: {day: {type: string, default: none}}
triggers:
  - {name: nightly, type: schedule, cron: "30 2 * * *", timezone: Europe/Berlin,
     input: {day: "{{ trigger.scheduled_at }}"}}
  - {name: yearly, type: schedule, cron: "0 0 1 1 *"}
steps:
  - name: load
    run: [{action: set, set: {loaded: "{{ input.day }}"}}]
"""
NIGHTLY = "/triggers/team/load/nightly"


@pytest.fixture
async def service(http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Service with the playbook `team/load`."""
    response = await http.post("/playbooks", json={"playbook": TEXT})
    assert response.status_code == 201, response.text
    yield http


async def read_result(service: httpx.AsyncClient, workflow_id: str) -> Any:
    response = await service.get(f"/workflows/result/{workflow_id}", headers={"Prefer": "wait=20"})
    return response.json()["result"]


async def read_history(service: httpx.AsyncClient) -> FiringPage:
    return read_view(FiringPage, (await service.get(f"{NIGHTLY}/firings")).json())


async def test_triggers_are_listed_and_shown(service: httpx.AsyncClient) -> None:
    page = read_view(TriggerPage, (await service.get("/triggers", params={"limit": 1})).json())
    assert [entry.name for entry in page.items] == ["nightly"]
    following = {"limit": 1, "cursor": page.next_cursor}
    rest = read_view(TriggerPage, (await service.get("/triggers", params=following)).json())
    assert ([entry.name for entry in rest.items], rest.next_cursor) == (["yearly"], None)
    for name, count in (("team/load", 2), ("load", 0)):
        response = await service.get("/triggers", params={"playbook": name})
        assert len(response.json()["items"]) == count
    details = read_view(TriggerDetails, (await service.get(NIGHTLY, params={"firings": 2})).json())
    assert (details.playbook, details.version, details.line) == ("team/load", "1", 5)
    assert details.schedule == "cron 30 2 * * *, Europe/Berlin"
    assert [firing.local[11:16] for firing in details.firings] == ["02:30", "02:30"]
    encoded = await service.get("/triggers/team%2Fload/nightly")
    assert encoded.json()["playbook"] == "team/load"


async def test_a_trigger_is_fired_by_hand(service: httpx.AsyncClient) -> None:
    body = {"input": {"day": "today"}}
    response = await service.post(f"{NIGHTLY}/fire", json=body, headers={"Idempotency-Key": "k"})
    assert response.status_code == 202, response.text
    started = response.json()["workflow_id"]
    assert response.headers["Location"] == f"/workflows/status/{started}"
    assert "Idempotency-Replayed" not in response.headers
    assert await read_result(service, started) == {"loaded": "today"}
    again = await service.post(f"{NIGHTLY}/fire", json=body, headers={"Idempotency-Key": "k"})
    assert again.json()["workflow_id"] == started
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await service.post(f"{NIGHTLY}/fire")
    assert other.json()["workflow_id"] != started
    history = await read_history(service)
    assert {firing.workflow_id for firing in history.items} == {started, other.json()["workflow_id"]}
    entry = (await service.get(NIGHTLY)).json()
    assert entry["last_run"] == other.json()["workflow_id"]


async def test_a_firing_at_an_instant_starts_one_run(service: httpx.AsyncClient) -> None:
    instant = (await service.get(NIGHTLY)).json()["firings"][0]
    first = await service.post(f"{NIGHTLY}/fire", json={"at": instant["scheduled_at"]})
    second = await service.post(f"{NIGHTLY}/fire", json={"at": instant["local"]})
    assert first.json()["workflow_id"] == second.json()["workflow_id"]
    report = (await service.get(f"/workflows/status/{first.json()['workflow_id']}")).json()
    assert report["trigger"] == {
        "name": "nightly",
        "type": "schedule",
        "scheduled_at": instant["scheduled_at"].replace(".000000", ""),
    }
    details = (await service.get(f"/workflows/{first.json()['workflow_id']}")).json()
    assert details["trigger"] == report["trigger"]
    events = (await service.get(f"/workflows/{first.json()['workflow_id']}/events")).json()
    assert events["items"][0]["payload"] == {"playbook": report["playbook"], "trigger": report["trigger"]}


async def test_a_trigger_is_paused_and_resumed(service: httpx.AsyncClient) -> None:
    for _ in range(2):
        paused = read_view(TriggerEntry, (await service.post(f"{NIGHTLY}/pause")).json())
        assert (paused.paused, paused.due_at) == (True, None)
    for body in (None, {"catch_up": "all"}):
        response = await service.post(f"{NIGHTLY}/resume", json=body)
        assert not read_view(TriggerEntry, response.json()).paused


async def test_a_calendar_has_runs_and_firings_to_come(service: httpx.AsyncClient) -> None:
    started = (await service.post(f"{NIGHTLY}/fire")).json()["workflow_id"]
    await read_result(service, started)
    response = await service.get("/triggers/calendar", params={"playbook": "team/load"})
    nightly, yearly = read_view(CalendarPage, response.json()).items
    assert [(firing.workflow_id, firing.status) for firing in nightly.firings] == [(started, "succeeded")]
    # A page ends with a whole hour, so it may have the firing of a part of an eighth day.
    assert len(nightly.planned) in (7, 8)
    assert ({firing.local[11:16] for firing in nightly.planned}, yearly.firings) == ({"02:30"}, [])
    options = {
        "trigger": "yearly",
        "since": "2040-01-01T00:00:00Z",
        "until": "2040-01-02T00:00:00",
        "limit": "2",
    }
    page = read_view(CalendarPage, (await service.get("/triggers/calendar", params=options)).json())
    assert page.until == "2040-01-02T00:00:00.000000Z"
    assert [firing.due_at for firing in page.items[0].planned] == ["2040-01-01T00:00:00.000000Z"]


async def test_wrong_requests_are_refused(service: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/triggers/team/load/none"),
        ("GET", "/triggers/team/load/none/firings"),
        ("GET", "/triggers/other/nightly"),
        ("POST", "/triggers/team/load/none/fire"),
        ("POST", "/triggers/team/load/none/pause"),
        ("POST", "/triggers/team/load/none/resume"),
    ):
        assert_problem(await service.request(method, path), 404, "not-found")
    assert_problem(
        await service.post(f"{NIGHTLY}/fire", json={"at": "2030-01-01T00:00:00Z"}), 422, "not-scheduled"
    )
    assert_problem(await service.post(f"{NIGHTLY}/fire", json={"input": {"day": 1}}), 422, "invalid-input")
    for time in ("soon", "2030-01-01", "2030-02-30T00:00:00Z", "2030-01-01T00:00:00", "1999-01-01T00:00:00Z"):
        assert_problem(await service.post(f"{NIGHTLY}/fire", json={"at": time}), 422, "invalid-body")
    assert_problem(await service.post(f"{NIGHTLY}/resume", json={"catch_up": "some"}), 422, "invalid-body")
    assert_problem(await service.get("/triggers", params={"cursor": "x"}), 400, "invalid-cursor")
    assert_problem(await service.get(f"{NIGHTLY}/firings", params={"cursor": "x"}), 400, "invalid-cursor")
    assert_problem(await service.get("/triggers/calendar", params={"cursor": "x"}), 400, "invalid-cursor")
    assert_problem(await service.get("/triggers/calendar", params={"since": "today"}), 400, "invalid-request")
    assert_problem(await service.get(NIGHTLY, params={"firings": 101}), 400, "invalid-request")
    assert (await service.post(NIGHTLY)).status_code == 405
    text = TEXT.replace("nightly", "fire")
    assert_problem(await service.post("/playbooks", json={"playbook": text}), 422, "invalid-playbook")


async def test_a_trigger_that_awaits_runs_is_fired_for_an_ended_run(service: httpx.AsyncClient) -> None:
    text = (
        "name: after\ninput: {id: {type: string, default: none}}\n"
        "triggers: [{name: ended, type: run, playbook: team/load, "
        'input: {id: "{{ trigger.workflow_id }}"}}]\n'
        'steps: [{name: a, run: [{action: set, set: {of: "{{ input.id }}"}}]}]\n'
    )
    assert (await service.post("/playbooks", json={"playbook": text})).status_code == 201
    awaited = (await service.post(f"{NIGHTLY}/fire")).json()["workflow_id"]
    await read_result(service, awaited)
    first, second = [
        await service.post("/triggers/after/ended/fire", json={"run": awaited}) for _ in range(2)
    ]
    assert await read_result(service, first.json()["workflow_id"]) == {"of": awaited}
    assert second.json()["workflow_id"] == first.json()["workflow_id"]
    for path, body in (
        (f"{NIGHTLY}/fire", {"run": awaited}),
        (f"{NIGHTLY}/fire", {"data": {}}),
        ("/triggers/after/ended/fire", {"run": "none"}),
    ):
        assert_problem(await service.post(path, json=body), 422, "invalid-input")
