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
    again = await start(http, text, order=1, change="b", key="k")
    assert (again.headers["Idempotency-Replayed"], "Debounced" in again.headers) == ("true", False)
    assert again.json()["workflow_id"] == first.json()["workflow_id"]
    elsewhere = await start(http, text, order=2)
    assert elsewhere.json()["workflow_id"] != first.json()["workflow_id"]
    status = (await http.get(f"/workflows/status/{first.json()['workflow_id']}")).json()
    assert (status["status"], status["begins_at"] > status["created_at"]) == ("queued", True)
    details = (await http.get(f"/workflows/{first.json()['workflow_id']}")).json()
    assert details["begins_at"] == status["begins_at"]
    given = await http.get(f"/workflows/{first.json()['workflow_id']}/input")
    assert given.json()["input"] == {"order": 1, "change": "b"}
    wrong = await start(http, text, order="x" * 1025)
    assert_problem(wrong, 422, "invalid-input")


@pytest.mark.parametrize("debounce", ["", "debounce: {wait: 1s}\n"])
def test_a_run_that_was_resumed_waits_for_no_start(debounce: str) -> None:
    store = open_store("memory://")
    text = f"name: export\n{debounce}steps: [{{name: export, run: [{{action: fail, message: no}}]}}]\n"
    play = RunHarness(store, text).finish()
    play.clock.advance(60.0)
    report = create_services(store, catalogue()).runs.report(play.resume().id)
    assert (report.status, report.begins_at) == (RunStatus.QUEUED, None)
