"""Switches over HTTP: a run continues in a corrected playbook, or is refused with the verdict."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.responses import assert_problem
from tests.api.stores import choose_store, on_sqlite
from tests.api.test_http_pause import answer, read_run, start, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "dynamodb"])
def settings(request: pytest.FixtureRequest, settings: dict[str, str]) -> dict[str, str]:
    return choose_store(request, settings)


WRONG = """\
name: order
steps:
- {name: reserve, run: [{action: set, set: {id: 7}}], rule: [{case: default, run: [pay]}]}
- {name: pay, run: [{action: fail, message: wrong address}], rule: [{case: default, run: [ship]}]}
- {name: ship, run: [{action: log, message: "{{ id }}"}]}
output: {id: "{{ id }}"}
"""
RIGHT = WRONG.replace("{action: fail, message: wrong address}", "{action: log, message: paid}")
QUESTION = """\
name: ask
steps:
- name: ask
  run: [{action: callback, title: "Go on?", as: answer}]
  rule: [{case: default, run: [go]}]
- {name: go, run: [{action: log, message: gone}]}
output: {answer: "{{ answer }}"}
"""
FORKED = """\
name: forked
steps:
- {name: fork, rule: [{case: default, run: [left, right]}]}
- {name: left, run: [{action: fail, message: wrong}], rule: [{case: default, run: [last]}]}
- {name: right, rule: [{case: default, run: [last]}]}
- {name: last, run: [{action: log, message: both}]}
"""
DOUBLED = QUESTION.replace('"{{ answer }}"', '"{{ answer * 2 }}"')


async def resume(http: httpx.AsyncClient, id: str, **body: Any) -> httpx.Response:
    return await http.post(f"/workflows/{id}/resume", json=body)


async def result_of(http: httpx.AsyncClient, id: str) -> tuple[str, Any]:
    ended = await http.get(f"/workflows/result/{id}", headers={"Prefer": "wait=25"})
    return ended.json()["status"], ended.json()["result"]


async def test_failed_run_continues_in_the_corrected_playbook(http: httpx.AsyncClient) -> None:
    run = await start(http, WRONG)
    await wait_until(http, run, "failed")
    response = await resume(http, run, playbook=RIGHT)
    assert response.status_code == 202, response.text
    assert response.json()["workflow_id"] == run
    assert await result_of(http, run) == ("succeeded", {"id": 7})
    report = await read_run(http, run)
    assert {step: entry.visits for step, entry in report.steps.items()} == {"reserve": 1, "pay": 1, "ship": 1}
    events = (await http.get(f"/workflows/{run}/events")).json()["items"]
    (migrated,) = [event["payload"] for event in events if event["type"] == "workflow.migrated"]
    assert migrated["by"] == "this machine"
    assert (await http.get(f"/workflows/{run}/source")).json()["source"] == RIGHT


async def test_waiting_run_continues_in_a_registered_version(http: httpx.AsyncClient) -> None:
    await http.post("/playbooks", json={"playbook": DOUBLED})
    run = await start(http, QUESTION)
    await wait_until(http, run, "waiting")
    response = await resume(http, run, playbook={"name": "ask"})
    assert response.status_code == 202, response.text
    assert (response.json()["version"], response.json()["status"]) == ("1", "waiting")
    await answer(http, run)
    assert await result_of(http, run) == ("succeeded", {"answer": 14})


async def test_refused_switch_has_the_verdict_and_changes_nothing(http: httpx.AsyncClient) -> None:
    run = await start(http, WRONG)
    await wait_until(http, run, "failed")
    before = (await http.get(f"/workflows/{run}/events")).json()
    without_pay = RIGHT.replace("name: pay", "name: paying").replace("[pay]", "[paying]")
    response = await resume(http, run, playbook=without_pay)
    assert_problem(response, 409, "cannot-continue")
    verdict = response.json()["verdict"]
    assert verdict["may_continue"] is False
    assert [(reason["code"], reason["step"]) for reason in verdict["reasons"]] == [("NC102", "pay")]
    needs = RIGHT.replace("steps:", "input: {to: string}\nsteps:")
    response = await resume(http, run, playbook=needs)
    assert response.json()["verdict"]["required"] == [{"name": "to", "type": "string", "line": 2}]
    assert (await http.get(f"/workflows/{run}/events")).json() == before
    response = await resume(http, run, playbook=without_pay, map={"pay": "paying"})
    assert response.status_code == 202, response.text
    assert await result_of(http, run) == ("succeeded", {"id": 7})


WRONG_REQUESTS: list[tuple[dict[str, Any], str | None]] = [
    ({"set": {"a": 1}}, "conflicting-members"),
    ({"map": {"a": "b"}}, "conflicting-members"),
    ({"wait": 1}, "conflicting-members"),
    ({"playbook": RIGHT, "wait": 61}, "invalid-body"),
    ({"playbook": 7}, "invalid-body"),
    ({"playbook": {"name": 7}}, "invalid-body"),
    ({"playbook": RIGHT, "map": {"a": 1}}, "invalid-body"),
    ({"playbook": RIGHT, "from": "pay", "at": "1"}, "conflicting-members"),
    ({"playbook": RIGHT, "from": "pay", "wait": 1}, "conflicting-members"),
    ({"playbook": RIGHT, "from": "pay", "skip": {"pay": 1}}, "conflicting-members"),
    ({"playbook": RIGHT, "from": "pey"}, "unknown-step"),
    ({"playbook": RIGHT, "from": "ship"}, "unknown-step"),
    ({"playbook": RIGHT, "at": "99"}, "unknown-event"),
    ({"playbook": WRONG, "from": "pay"}, "same-plan"),
    ({"playbook": RIGHT, "drop_siblings": True}, "conflicting-members"),
    ({"playbook": RIGHT, "skip": {"reserve": 1}}, "not-skippable"),
    ({"playbook": RIGHT, "skip": {"pey": 1}, "dry_run": True}, "unknown-step"),
    ({"playbook": WRONG, "dry_run": True}, "same-plan"),
    ({"playbook": "name: order\nsteps: [{name: a, rum: []}]"}, "invalid-playbook"),
    ({"playbook": RIGHT.replace("name: order", "name: other")}, "other-playbook"),
    ({"playbook": WRONG}, "same-plan"),
    ({"playbook": {"name": "order", "version": "9"}}, None),
]
"""Wrong bodies of requests to resume a run of WRONG, each with its problem."""


@on_sqlite
async def test_wrong_requests_are_problems(http: httpx.AsyncClient) -> None:
    run = await start(http, WRONG)
    await wait_until(http, run, "failed")
    for body, problem in WRONG_REQUESTS:
        response = await resume(http, run, **body)
        assert 400 <= response.status_code < 500, body
        if problem is not None:
            assert response.json()["type"] == f"urn:noetl:problem:{problem}", body
        assert (await read_run(http, run)).status == "failed", body


@on_sqlite
async def test_dry_run_has_the_verdict_and_what_is_done_again(http: httpx.AsyncClient) -> None:
    """An action of the same type at the same position was perhaps done, another one was not."""
    wrong = WRONG.replace("{action: fail", "{action: shell, command: 'true'}, {action: shell, command: 'no'}")
    wrong = wrong.replace(", message: wrong address}", "")
    right = wrong.replace("{action: shell, command: 'no'}", "{action: file, read: missing.json}")
    run = await start(http, wrong.replace("'no'", "'false'"))
    await wait_until(http, run, "failed")
    before = (await http.get(f"/workflows/{run}/events")).json()
    response = await resume(http, run, playbook=right, dry_run=True)
    assert response.status_code == 200, response.text
    preview = response.json()
    assert preview["starts_new_run"] is False
    assert preview["verdict"]["may_continue"] is True
    assert [notice["code"] for notice in preview["verdict"]["notices"]] == ["NC151"]
    (step,) = preview["steps"]
    assert (step["step"], step["reason"]) == ("pay", "failed")
    assert [(action["action"], action["done"]) for action in step["actions"]] == [
        ("shell", "yes"),
        ("file", "no"),
    ]
    refused = await resume(http, run, playbook=right.replace("pay", "paying"), dry_run=True)
    assert_problem(refused, 409, "cannot-continue")
    assert [reason["code"] for reason in refused.json()["verdict"]["reasons"]] == ["NC102"]
    skipped = (await resume(http, run, playbook=right, dry_run=True, skip={"pay": 1})).json()
    assert [(step["reason"], step["actions"]) for step in skipped["steps"]] == [("skipped", [])]
    assert skipped["verdict"]["notices"] == []
    assert (await http.get(f"/workflows/{run}/events")).json() == before


@on_sqlite
async def test_dry_run_of_a_waiting_run_repeats_nothing(http: httpx.AsyncClient) -> None:
    run = await start(http, QUESTION)
    await wait_until(http, run, "waiting")
    preview = (await resume(http, run, playbook=DOUBLED, dry_run=True)).json()
    assert (preview["steps"], preview["verdict"]["may_continue"]) == ([], True)
    refused = await resume(http, run, playbook=DOUBLED, skip={"ask": 1})
    assert_problem(refused, 409, "not-ended")
    await answer(http, run)
    assert await result_of(http, run) == ("succeeded", {"answer": 7})


@on_sqlite
async def test_finally_and_output_are_done_again(http: httpx.AsyncClient) -> None:
    wrong = RIGHT.replace(
        'output: {id: "{{ id }}"}', "- {name: last, run: [{action: fail, message: no}]}\nfinally: last\n"
    )
    right = wrong.replace("{action: fail, message: no}", "{action: shell, command: 'true'}")
    run = await start(http, wrong)
    await wait_until(http, run, "failed")
    preview = (await resume(http, run, playbook=right, dry_run=True)).json()
    assert [notice["code"] for notice in preview["verdict"]["notices"]] == ["NC151"]
    assert [(step["step"], step["reason"]) for step in preview["steps"]] == [("last", "failed")]
    assert [action["done"] for action in preview["steps"][0]["actions"]] == ["no"]
    assert (await resume(http, run, playbook=right)).status_code == 202
    assert await result_of(http, run) == ("succeeded", {"id": 7})
    report = await read_run(http, run)
    assert {step: entry.visits for step, entry in report.steps.items() if step != "last"} == {
        "reserve": 1,
        "pay": 1,
        "ship": 1,
    }


@on_sqlite
async def test_step_is_skipped_in_the_corrected_playbook(http: httpx.AsyncClient) -> None:
    """Work of the skipped step is not compared. Its result must have what the new version reads."""
    wrong = WRONG.replace("{action: fail", "{action: log, message: begun}, {action: fail")
    right = wrong.replace(
        "run: [{action: log, message: begun}, {action: fail, message: wrong address}]",
        "run: [{action: file, read: missing.json, as: paid}, {action: set, set: {id: '{{ paid.id }}'}}]",
    )
    run = await start(http, wrong)
    await wait_until(http, run, "failed")
    incomplete = await resume(http, run, playbook=right, skip={"pay": {"no": 9}})
    assert_problem(incomplete, 422, "incomplete-result")
    assert "step `pay` has no `paid.id`, which `set` reads (line 4)" in incomplete.json()["detail"]
    assert (await read_run(http, run)).status == "failed"
    response = await resume(http, run, playbook=right, skip={"pay": {"id": 9}})
    assert response.status_code == 202, response.text
    assert await result_of(http, run) == ("succeeded", {"id": 9})
    events = (await http.get(f"/workflows/{run}/events")).json()["items"]
    types = [event["type"] for event in events]
    assert (types.count("workflow.migrated"), types.count("step.skipped")) == (1, 1)


@on_sqlite
async def test_switched_run_does_not_start_between_its_branches(http: httpx.AsyncClient) -> None:
    """The cases of its visits before the switch are those of the old plan."""
    run = await start(http, FORKED)
    await wait_until(http, run, "failed")
    assert (await resume(http, run, playbook=FORKED.replace("wrong", "wrong again"))).status_code == 202
    await wait_until(http, run, "failed")
    refused = await resume(http, run, **{"from": "left"})
    assert_problem(refused, 409, "no-past")
    assert "start from a step before the fork or after the join" in refused.json()["detail"]
    assert (await resume(http, run, **{"from": "fork"})).status_code == 202


PRICED = """\
name: priced
steps:
- {name: fork, rule: [{case: default, run: [price, stock]}]}
- {name: price, run: [{action: set, set: {due: 9}}], rule: [{case: default, run: [offer]}]}
- {name: stock, run: [{action: shell, command: "true"}], rule: [{case: default, run: [offer]}]}
- {name: offer, run: [{action: fail, message: dear, if: "{{ due > 5 }}"}]}
output: {due: "{{ due }}"}
"""
CHEAP = PRICED.replace("due: 9", "due: 3")


@on_sqlite
async def test_new_run_starts_on_a_branch_of_the_corrected_playbook(http: httpx.AsyncClient) -> None:
    run = await start(http, PRICED)
    await wait_until(http, run, "failed")
    before = (await http.get(f"/workflows/{run}/events")).json()
    place = {"from": "price"}
    preview = await resume(http, run, playbook=CHEAP, dry_run=True, **place)
    assert preview.status_code == 200, preview.text
    assert preview.json()["starts_new_run"] is True
    assert [(step["step"], step["reason"]) for step in preview.json()["steps"]] == [
        ("price", "from"),
        ("offer", "after"),
    ]
    assert preview.json()["verdict"]["may_continue"] is True
    for replayed in (None, "true"):
        response = await http.post(
            f"/workflows/{run}/resume",
            json={"playbook": CHEAP, **place},
            headers={"Idempotency-Key": "one"},
        )
        assert response.status_code == 202, response.text
        assert response.headers.get("Idempotency-Replayed") == replayed
    new = response.json()["workflow_id"]
    assert (new != run, response.json()["resumed_from"]) == (True, run)
    assert await result_of(http, new) == ("succeeded", {"due": 3})
    assert (await http.get(f"/workflows/{new}/source")).json()["source"] == CHEAP
    assert (await http.get(f"/workflows/{run}/events")).json() == before
    report = await read_run(http, new)
    assert {step: entry.visits for step, entry in report.steps.items()} == dict.fromkeys(report.steps, 1)
    refused = await resume(http, new, **place)
    assert_problem(refused, 409, "no-past")
    assert (await http.get(f"/workflows/{new}", params={"at": "1"})).status_code == 409
    again = await resume(http, new, playbook=PRICED, **{"from": "fork"})
    assert again.status_code == 202, again.text


@on_sqlite
async def test_new_run_is_refused_with_the_verdict_and_not_created(http: httpx.AsyncClient) -> None:
    run = await start(http, PRICED)
    await wait_until(http, run, "failed")
    chosen = CHEAP.replace("[{case: default, run: [price, stock]}]", "[{case: default, run: [price]}]")
    for body in ({"from": "price"}, {"at": "5"}):
        refused = await resume(http, run, playbook=chosen, **body)
        assert_problem(refused, 409, "cannot-continue")
        assert "NC10" in refused.json()["verdict"]["reasons"][0]["code"]
    needs = CHEAP.replace("{due: 3}", "{due: '{{ limit }}'}").replace(
        "name: fork,", "name: fork, run: [{action: set, set: {limit: 1}}],"
    )
    refused = await resume(http, run, playbook=needs, dry_run=True, **{"from": "price"})
    assert [name["name"] for name in refused.json()["verdict"]["required"]] == ["limit"]
    response = await resume(http, run, playbook=needs, set={"limit": 4}, **{"from": "price"})
    assert await result_of(http, response.json()["workflow_id"]) == ("succeeded", {"due": 4})
    assert len((await http.get("/workflows", params={"playbook": "priced"})).json()["items"]) == 2


async def test_new_run_starts_at_an_event_in_the_corrected_playbook(http: httpx.AsyncClient) -> None:
    run = await start(http, PRICED)
    await wait_until(http, run, "failed")
    events = (await http.get(f"/workflows/{run}/events")).json()["items"]
    started = next(
        event["id"] for event in events if (event["type"], event["step"]) == ("step.started", "price")
    )
    preview = (await resume(http, run, playbook=CHEAP, at=started, dry_run=True)).json()
    assert preview["steps"][0]["reason"] == "from"
    response = await resume(http, run, playbook=CHEAP, at=started)
    assert response.status_code == 202, response.text
    assert await result_of(http, response.json()["workflow_id"]) == ("succeeded", {"due": 3})


@on_sqlite
async def test_switched_run_is_resumed_and_starts_again(http: httpx.AsyncClient) -> None:
    """A run that has been switched twice continues, and a new run starts from one of its steps."""
    run = await start(http, WRONG)
    await wait_until(http, run, "failed")
    no_truck = RIGHT.replace('{action: log, message: "{{ id }}"}', "{action: fail, message: no truck}")
    for body in ({"playbook": no_truck}, {}):
        assert (await resume(http, run, **body)).status_code == 202
        assert await result_of(http, run) == ("failed", None)
        assert (await read_run(http, run)).steps["ship"].visits == 1
    assert (await resume(http, run, playbook=RIGHT)).status_code == 202
    assert await result_of(http, run) == ("succeeded", {"id": 7})
    response = await resume(http, run, **{"from": "pay"})
    assert response.status_code == 202, response.text
    again = response.json()["workflow_id"]
    assert again != run
    assert await result_of(http, again) == ("succeeded", {"id": 7})
    assert (await http.get(f"/workflows/{again}/source")).json()["source"] == RIGHT
    events = (await http.get(f"/workflows/{again}/events")).json()["items"]
    begun = [event["step"] for event in events if event["type"] == "step.started"]
    assert begun == ["pay", "ship"]


async def test_same_key_switches_once(http: httpx.AsyncClient) -> None:
    run = await start(http, QUESTION)
    await wait_until(http, run, "waiting")
    for replayed in (None, "true"):
        response = await http.post(
            f"/workflows/{run}/resume", json={"playbook": DOUBLED}, headers={"Idempotency-Key": "one"}
        )
        assert response.status_code == 202, response.text
        assert response.headers.get("Idempotency-Replayed") == replayed
    events = (await http.get(f"/workflows/{run}/events")).json()["items"]
    assert [event["type"] for event in events].count("workflow.migrated") == 1


async def test_running_step_is_waited_for(http: httpx.AsyncClient, gate: Path) -> None:
    slow = (
        "name: slow\nsteps:\n- name: work\n"
        f"  run: [{{action: shell, command: [cat, '{gate}']}}]\n"
        "  rule: [{case: default, run: [last]}]\n"
        "- {name: last, run: [{action: set, set: {n: 1}}]}\noutput: {n: '{{ n }}'}\n"
    )
    run = await start(http, slow)
    opened_gate = await asyncio.to_thread(gate.open, "w")
    # The running step changes, too, and is over before the switch.
    corrected = slow.replace("set: {n: 1}", "set: {n: 2}").replace("[cat,", "[head,")
    refused = await resume(http, run, playbook=corrected)
    assert_problem(refused, 409, "cannot-continue")
    assert [reason["code"] for reason in refused.json()["verdict"]["reasons"]] == ["NC101"]
    switching = asyncio.ensure_future(resume(http, run, playbook=corrected, wait=30))
    await wait_until(http, run, "paused")
    opened_gate.close()
    response = await switching
    assert response.status_code == 202, response.text
    assert await result_of(http, run) == ("succeeded", {"n": 2})


async def test_switched_run_is_shown_and_compared(http: httpx.AsyncClient) -> None:
    """Waiting time goes on, earlier states are refused, and a renamed step is one step."""
    await http.post("/playbooks", json={"playbook": DOUBLED})
    renamed = DOUBLED.replace("name: ask\n  run", "name: question\n  run")
    run, other = await start(http, QUESTION), await start(http, QUESTION)
    for id in (run, other):
        await wait_until(http, id, "waiting")
    before = (await http.get(f"/workflows/{run}")).json()["waiting_ms"]
    assert (await resume(http, run, playbook=renamed, map={"ask": "question"})).status_code == 202
    await wait_until(http, run, "waiting")
    assert (await http.get(f"/workflows/{run}")).json()["waiting_ms"] > before
    assert_problem(await http.get(f"/workflows/{run}", params={"at": "3"}), 409, "no-past")
    assert_problem(await http.post(f"/workflows/{run}/resume", json={"at": "3"}), 409, "no-past")
    compared = await http.get("/workflows/comparison", params={"a": run, "b": other})
    assert compared.status_code == 200, compared.text
    assert {entry["step"] for entry in compared.json()["steps"]} == {"ask", "question"}
