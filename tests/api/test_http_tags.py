"""Changes of the tags of a run over HTTP."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import httpx
import pytest

from noetl.api.service.errors import NotFoundError
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run_tags import MAX_TAG_LENGTH, MAX_TAGS, TagChange
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.planner.compile import compile_playbook
from tests.api.responses import assert_problem
from tests.api.test_http_bulk import FINE, HELD, start

pytestmark = pytest.mark.anyio

HOSTILE = ["<script>", "\x1b[31m", "\u202eabc", "a=b=c", "=x", "' or 1=1 --"]


async def change(http: httpx.AsyncClient, run: str, **body: Any) -> list[str]:
    response = await http.patch(f"/workflows/{run}/tags", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["workflow_id"] == run
    tags: list[str] = response.json()["tags"]
    return tags


async def listed(http: httpx.AsyncClient, tag: str) -> list[str]:
    """Return the ids of the runs with a tag."""
    return [run["workflow_id"] for run in (await http.get("/workflows", params={"tag": tag})).json()["items"]]


@pytest.mark.parametrize("playbook", [FINE, HELD])
async def test_tags_are_added_replaced_and_removed(http: httpx.AsyncClient, playbook: str) -> None:
    run = await start(http, playbook, "env=test", "draft", "team=a", "team=b")
    for _ in range(2):
        tags = await change(http, run, add=["env=prod", "reviewed"], remove=["draft", "team"])
        assert tags == ["env=prod", "reviewed"]
    assert (await http.get(f"/workflows/{run}")).json()["tags"] == tags
    found = [await listed(http, tag) for tag in ("env", "env=prod", "reviewed", "env=test", "draft", "team")]
    assert found == [[run]] * 3 + [[]] * 3
    assert await change(http, run) == tags
    assert await change(http, run, remove=["env", "reviewed", "unknown"]) == []
    assert await listed(http, "env") == []


async def test_hostile_tags_are_literal_text(http: httpx.AsyncClient) -> None:
    run = await start(http, FINE)
    assert await change(http, run, add=HOSTILE) == HOSTILE
    for tag in HOSTILE:
        assert await listed(http, tag) == [run]


async def test_a_run_has_a_limited_number_of_tags(http: httpx.AsyncClient) -> None:
    run = await start(http, FINE, *(f"t{number}" for number in range(MAX_TAGS)))
    response = await http.patch(f"/workflows/{run}/tags", json={"add": ["one more"]})
    assert_problem(response, 422, "too-many-tags")
    assert response.json()["detail"] == "the run would have 51 tags; a run has at most 50"
    assert len(await change(http, run, add=["one more"], remove=["t0"])) == MAX_TAGS


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"add": "x"},
        {"add": [1]},
        {"add": [""]},
        {"add": ["x" * (MAX_TAG_LENGTH + 1)]},
        {"remove": ["x"] * (MAX_TAGS + 1)},
        {"add": None},
        {"tags": ["x"]},
    ],
)
async def test_a_wrong_body_changes_nothing(http: httpx.AsyncClient, body: Any) -> None:
    run = await start(http, FINE, "x")
    response = await http.patch(f"/workflows/{run}/tags", json=body)
    assert_problem(response, 422, "invalid-body")
    assert (await http.get(f"/workflows/{run}")).json()["tags"] == ["x"]


async def test_unknown_runs_have_no_tags(http: httpx.AsyncClient) -> None:
    run = await start(http, FINE)
    assert (await http.delete(f"/workflows/{run}")).status_code == 204
    for run_id in (run, "unknown"):
        response = await http.patch(f"/workflows/{run_id}/tags", json={"add": ["x"]})
        assert_problem(response, 404, "not-found")


def test_a_tenant_changes_no_tags_of_another() -> None:
    with closing(open_store("memory://")) as store:
        mine = create_services(store, catalogue())
        plan = compile_playbook(HELD, catalogue()).plan
        assert plan is not None
        run = mine.runs.start(plan, StartRequest())
        with pytest.raises(NotFoundError):
            mine.for_tenant("other").runs.change_tags(run.id, TagChange(["x"]))
        assert mine.runs.get(run.id).tags == ()
