"""Starts over HTTP of a playbook with `debounce`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run import RunStatus
from noetl.executor.stores import open_store
from noetl.testing.run_harness import RunHarness
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

TEXT = """\
name: export
input: {order: any, change: {type: string, default: none}}
debounce: {key: "{{ KEY }}", wait: 1h}
steps:
  - name: export
    run: [{action: log, message: "{{ input.change }}"}]
"""


async def start(http: httpx.AsyncClient, playbook: Any, key: str = "", **given: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await http.post("/workflows/run", json={"playbook": playbook, "input": given}, headers=headers)


@pytest.mark.parametrize("expression", ["input.order", "input.order | string | upper"])
async def test_a_start_joins_the_run_of_another_one(http: httpx.AsyncClient, expression: str) -> None:
    text = TEXT.replace("KEY", expression)
    registered = await http.post("/playbooks", json={"playbook": text})
    assert registered.status_code == 201, registered.text
    first = await start(http, {"name": "export"}, order=1)
    assert (first.status_code, "Debounced" in first.headers, first.json()["status"]) == (202, False, "queued")
    second = await start(http, text, order=1, change="b", key="k")
    assert (second.status_code, second.headers["Debounced"]) == (202, "true")
    assert second.json()["workflow_id"] == first.json()["workflow_id"]
    assert ("starts" in first.json(), second.json()["starts"]) == (False, 2)
    again = await start(http, text, order=1, change="b", key="k")
    assert (again.headers["Idempotency-Replayed"], "Debounced" in again.headers) == ("true", False)
    assert again.json()["workflow_id"] == first.json()["workflow_id"]
    elsewhere = await start(http, text, order=2)
    assert elsewhere.json()["workflow_id"] != first.json()["workflow_id"]
    status = (await http.get(f"/workflows/status/{first.json()['workflow_id']}")).json()
    assert (status["status"], status["begins_at"] > status["created_at"]) == ("queued", True)
    details = (await http.get(f"/workflows/{first.json()['workflow_id']}")).json()
    assert (details["begins_at"], details["starts"]) == (status["begins_at"], status["starts"])
    assert details["headline"].startswith(f"2 starts joined, begins at {status['begins_at'][:19]}Z")
    given = await http.get(f"/workflows/{first.json()['workflow_id']}/input")
    assert given.json()["input"] == {"order": 1, "change": "b"}
    wrong = await start(http, text, order="x" * 1025)
    assert_problem(wrong, 422, "invalid-input")


async def test_a_trigger_that_is_fired_by_hand_joins_a_run(http: httpx.AsyncClient) -> None:
    trigger = "triggers: [{name: daily, type: schedule, every: 1d, input: {order: 1}}]\n"
    registered = await http.post(
        "/playbooks", json={"playbook": TEXT.replace("KEY", "input.order") + trigger}
    )
    assert registered.status_code == 201, registered.text
    path = "/triggers/export/daily/fire"
    first, second = [await http.post(path, headers={"Idempotency-Key": key}) for key in "ab"]
    assert (first.headers.get("Debounced"), second.headers.get("Debounced")) == (None, "true")
    assert (first.json().get("starts"), second.json().get("starts")) == (None, 2)
    again = await http.post(path, headers={"Idempotency-Key": "b"})
    assert (again.headers["Idempotency-Replayed"], again.headers.get("Debounced")) == ("true", None)
    assert again.json() == second.json()


@pytest.mark.parametrize("debounce", ["", "debounce: {wait: 1s}\n"])
def test_a_run_that_was_resumed_waits_for_no_start(debounce: str) -> None:
    store = open_store("memory://")
    text = f"name: export\n{debounce}steps: [{{name: export, run: [{{action: fail, message: no}}]}}]\n"
    play = RunHarness(store, text).finish()
    play.clock.advance(60.0)
    report = create_services(store, catalogue()).runs.report(play.resume().id)
    assert (report.status, report.begins_at) == (RunStatus.QUEUED, None)
