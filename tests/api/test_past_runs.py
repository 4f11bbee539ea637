"""The routes of a run as it was after an event of its history."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from noetl.api.service.data_views import RunDetails, StepData
from noetl.api.service.past_views import MAX_PAST_CHARACTERS, PastState
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

PATIENT = {"Prefer": "wait=25"}
PLAYBOOK = """\
name: rounds
variables: {n: 0}
steps:
  - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
  - name: b
    loop: {items: [1, 2, 3], batch: 2}
    run: [{action: log, message: "{{ item }}"}]
    rule: [{case: default, run: [d]}]
  - {name: c, run: [{action: set, set: {text: "{{ 'long ' * 999 }}"}}], rule: [{case: default, run: [d]}]}
  - name: d
    run: [{action: set, set: {n: "{{ n + x }}", size: "{{ text | length }}"}}]
"""
SEQUENTIAL = PLAYBOOK.replace("variables:", "mode: sequential\nvariables:")


async def start(http: httpx.AsyncClient, playbook: str) -> tuple[str, list[dict[str, Any]]]:
    """Execute a run, and return its id and its events."""
    response = await http.post("/workflows/run", json={"playbook": playbook}, headers=PATIENT)
    assert response.json()["status"] == "succeeded", response.text
    id = response.json()["workflow_id"]
    return id, (await http.get(f"/workflows/{id}/events", params={"limit": 1000})).json()["items"]


def place_of(events: list[dict[str, Any]], type: str, step: str | None) -> int:
    """Return the number of an event, from 1."""
    return next(
        number for number, event in enumerate(events, 1) if (event["type"], event["step"]) == (type, step)
    )


async def read(http: httpx.AsyncClient, id: str, place: int | str, **query: str) -> RunDetails:
    response = await http.get(f"/workflows/{id}", params={"at": place, **query})
    assert response.status_code == 200, response.text
    return read_view(RunDetails, response.json())


async def read_past(http: httpx.AsyncClient, id: str, place: int | str) -> PastState:
    moment = (await read(http, id, place)).moment
    assert moment is not None
    return moment


async def test_the_last_event_leads_to_the_present_state(http: httpx.AsyncClient) -> None:
    id, events = await start(http, PLAYBOOK)
    shown = await read(http, id, len(events), include="graph")
    present = read_view(RunDetails, (await http.get(f"/workflows/{id}", params={"include": "graph"})).json())
    assert shown.moment is not None
    assert (shown.moment.number, shown.moment.events, shown.moment.branches) == (len(events), len(events), [])
    assert {name.name: name.step for name in shown.moment.names} == {
        "n": "d",
        "size": "d",
        "text": "c",
        "x": "a",
    }
    differing = {name for name, value in vars(present).items() if vars(shown)[name] != value}
    assert differing <= {"work_ms", "waiting_ms", "queued_ms"}


async def test_every_event_has_a_state(http: httpx.AsyncClient) -> None:
    for playbook in (PLAYBOOK, SEQUENTIAL):
        id, events = await start(http, playbook)
        for number, event in enumerate(events, 1):
            details = await read(http, id, number)
            assert details.moment is not None
            assert (details.cursor, details.moment.event.id) == (event["id"], event["id"])
            if event["type"] == "step.completed":
                assert details.steps[event["step"]].status == "succeeded"


async def test_names_have_the_values_that_they_had(http: httpx.AsyncClient) -> None:
    id, events = await start(http, PLAYBOOK)
    moment = await read_past(http, id, events[place_of(events, "step.completed", "c") - 1]["id"])
    values = {name.name: name for name in moment.names}
    assert (values["n"].value, values["n"].step) == (0, None)
    assert (values["x"].value, values["x"].step, values["x"].visit) == (1, "a", 1)
    assert len(values["text"].value) == MAX_PAST_CHARACTERS
    assert values["text"].cut == 4997
    holders = [moment.branches[place] for place in values["text"].branches]
    assert {(branch.step, branch.kind) for branch in holders} <= {("d", "arrived"), ("d", "visit")}


async def test_branches_have_their_turn_in_sequential_mode(http: httpx.AsyncClient) -> None:
    id, events = await start(http, SEQUENTIAL)
    moment = await read_past(http, id, place_of(events, "step.started", "b"))
    assert [(branch.step, branch.kind) for branch in moment.branches] == [("b", "visit"), ("c", "queued")]
    later = await read_past(http, id, place_of(events, "step.completed", "b"))
    assert (later.joins["d"].arrived, [branch.step for branch in later.branches]) == (1, ["c"])


async def test_a_graph_and_a_step_are_shown_as_they_were(http: httpx.AsyncClient) -> None:
    id, events = await start(http, PLAYBOOK)
    number = place_of(events, "step.started", "b")
    details = await read(http, id, number, include="graph")
    assert details.graph is not None
    states = {node.steps[0]: node.state for node in details.graph.nodes if node.kind == "step"}
    assert (states["a"], states["b"], states["d"]) == ("succeeded", "running", "may")
    mermaid = await http.get(f"/workflows/{id}/graph", params={"at": number, "format": "mermaid"})
    assert (mermaid.status_code, "class s2 running" in mermaid.text) == (200, True)
    response = await http.get(f"/workflows/{id}/step", params={"name": "b", "at": number})
    step = read_view(StepData, response.json())
    assert (step.status, step.result, step.finished_at) == ("running", None, None)
    ended = place_of(events, "step.completed", "b")
    assert (await read(http, id, ended)).steps["b"].loops is not None


@pytest.mark.parametrize("path", ["", "/graph", "/step"])
async def test_an_unknown_event_is_refused_with_the_range(http: httpx.AsyncClient, path: str) -> None:
    id, events = await start(http, PLAYBOOK)
    other_id, foreign = await start(http, PLAYBOOK)
    assert id != other_id
    for place in ("0", str(len(events) + 1), "nothing", foreign[0]["id"]):
        params = {"at": place, **({"name": "a"} if path == "/step" else {})}
        response = await http.get(f"/workflows/{id}{path}", params=params)
        assert_problem(response, 422, "unknown-event")
        assert f"; its events are 1 to {len(events)} (1-0-" in response.json()["detail"]


async def test_a_new_run_starts_at_any_event(http: httpx.AsyncClient) -> None:
    id, events = await start(http, PLAYBOOK)
    expected = (await http.get(f"/workflows/result/{id}")).json()["result"]
    for number, event in enumerate(events[:-1], 1):
        place = event["id"] if number % 2 else str(number)
        response = await http.post(f"/workflows/{id}/resume", json={"at": place})
        if response.status_code == 409:
            assert_problem(response, 409, "nothing-left")
            assert number > place_of(events, "step.started", "d")
            continue
        assert (response.status_code, response.json()["resumed_from"]) == (202, id)
        new = response.json()["workflow_id"]
        await http.get(f"/workflows/{new}/events", headers={"Accept": "text/event-stream"})
        result = (await http.get(f"/workflows/result/{new}")).json()
        assert (result["status"], result["result"]) == ("succeeded", expected)
        first = await read(http, new, 1)
        shown = await read(http, id, number)
        assert first.moment is not None
        assert shown.moment is not None
        assert sorted(b.step for b in first.moment.branches) == sorted(b.step for b in shown.moment.branches)


async def test_a_start_at_an_event_with_a_key_starts_one_run(http: httpx.AsyncClient) -> None:
    id, events = await start(http, PLAYBOOK)
    place, headers = str(place_of(events, "step.completed", "a")), {"Idempotency-Key": "k"}
    body = {"at": place, "input": {}}
    first = await http.post(f"/workflows/{id}/resume", json=body, headers=headers)
    again = await http.post(f"/workflows/{id}/resume", json=body, headers=headers)
    assert first.json()["workflow_id"] == again.json()["workflow_id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await http.post(f"/workflows/{id}/resume", json={"at": "1"}, headers=headers)
    assert_problem(other, 422, "idempotency-key-reused")


async def test_a_start_at_an_event_is_shown_before(http: httpx.AsyncClient) -> None:
    id, events = await start(http, PLAYBOOK)
    place = str(place_of(events, "step.completed", "c"))
    response = await http.post(f"/workflows/{id}/resume", json={"at": place, "dry_run": True})
    assert (response.status_code, response.json()["starts_new_run"]) == (200, True)
    reasons = {step["step"]: step["reason"] for step in response.json()["steps"]}
    assert "c" not in reasons
    assert reasons["d"] == "after" or place_of(events, "step.completed", "b") < int(place)
    assert len((await http.get("/workflows")).json()["items"]) == 1


async def test_an_open_run_starts_no_other(http: httpx.AsyncClient) -> None:
    text = "name: open\nsteps: [{name: a, run: [{action: wait, seconds: 600}]}]\n"
    id = (await http.post("/workflows/run", json={"playbook": text})).json()["workflow_id"]
    refused = await http.post(f"/workflows/{id}/resume", json={"at": "1"})
    assert_problem(refused, 409, "not-ended")
    await http.post(f"/workflows/{id}/cancel")


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"at": "99"}, 422, "unknown-event"),
        ({"at": "nothing"}, 422, "unknown-event"),
        ({"at": 7}, 422, "invalid-body"),
        ({"at": "1", "from": "a"}, 422, "conflicting-members"),
        ({"at": "1", "skip": {"a": 1}}, 422, "conflicting-members"),
        ({"at": "1", "drop_siblings": True}, 422, "conflicting-members"),
        ({"at": "1", "playbook": PLAYBOOK}, 409, "same-plan"),
        ({"at": "1", "input": {"no": 1}}, 422, "invalid-input"),
    ],
)
async def test_a_start_at_an_event_may_be_refused(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, problem: str
) -> None:
    id, _ = await start(http, PLAYBOOK)
    assert_problem(await http.post(f"/workflows/{id}/resume", json=body), status, problem)
    assert len((await http.get("/workflows")).json()["items"]) == 1


async def test_several_branches_in_sequential_mode_are_no_start(http: httpx.AsyncClient) -> None:
    id, events = await start(http, SEQUENTIAL)
    place = str(place_of(events, "step.started", "b"))
    assert_problem(await http.post(f"/workflows/{id}/resume", json={"at": place}), 422, "inside-region")
    before = str(place_of(events, "step.started", "a"))
    assert (await http.post(f"/workflows/{id}/resume", json={"at": before})).status_code == 202
