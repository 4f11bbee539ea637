"""The inbox: what runs ask persons, and the answers of callers that have a key."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.service.inbox_views import InboxPage
from noetl.api.service.services import create_services
from noetl.api.service.views import CurrentStatus, RunResult
from noetl.executor.actions import catalogue
from noetl.executor.model.open_waits import MAX_LISTED_JOURNALS
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.frozen import replace
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

PAY = """\
name: pay
input: {amount: number}
steps:
  - name: ask
    run:
      - action: callback
        title: "Pay {{ input.amount }}?"
        details: {amount: "{{ input.amount }}"}
        answer: {approved: boolean, note: {type: string, default: none}}
        timeout: 2h
        as: decision
    rule:
      - {case: "{{ decision.approved }}", run: [book]}
      - {case: default, run: [refuse]}
  - name: book
    run: [{action: set, set: {booked: "{{ input.amount }}"}}]
  - name: refuse
    run: [{action: log, message: refused}]
output: {decision: "{{ decision }}"}
"""

TWO = """\
name: two
steps:
  - name: ask
    parallel: true
    run:
      - {action: callback, title: First?, as: first}
      - {action: callback, title: Second?, as: second}
output: {both: "{{ [first, second] }}"}
"""


FORK = """\
name: fork
steps:
  - name: begin
    rule: [{case: default, run: [ask, work]}]
  - name: ask
    run: [{action: callback, title: Go?}]
  - name: work
    run: [{action: shell, command: cat GATE}]
"""


async def start(http: httpx.AsyncClient, playbook: str, **input: Any) -> str:
    response = await http.post("/workflows/run", json={"playbook": playbook, "input": input})
    assert response.status_code == 202, response.text
    workflow_id: str = response.json()["workflow_id"]
    return workflow_id


async def read_inbox(http: httpx.AsyncClient, questions: int, **query: Any) -> InboxPage:
    """Return the inbox once it has so many questions."""
    for _ in range(400):
        page = read_view(InboxPage, (await http.get("/inbox", params=query)).json())
        if len(page.items) == questions:
            return page
        await asyncio.sleep(0.05)
    raise AssertionError(f"the inbox has {len(page.items)} questions, not {questions}")


async def answer(http: httpx.AsyncClient, workflow_id: str, **body: Any) -> httpx.Response:
    return await http.post(f"/workflows/{workflow_id}/answer", json=body)


async def finish(http: httpx.AsyncClient, workflow_id: str) -> RunResult:
    await http.get(f"/workflows/{workflow_id}/events", headers={"Accept": "text/event-stream"})
    return read_view(RunResult, (await http.get(f"/workflows/result/{workflow_id}")).json())


async def test_a_question_is_listed_and_answered_without_its_token(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, PAY, amount=7)
    (entry,) = (await read_inbox(http, 1)).items
    assert (entry.workflow_id, entry.playbook, entry.step, entry.visit, entry.position) == (
        workflow_id,
        "pay",
        "ask",
        1,
        "run.0",
    )
    assert (entry.title, entry.details) == ("Pay 7?", {"amount": 7})
    assert entry.expires_at is not None
    assert entry.answer is not None
    assert list(entry.answer) == ["approved", "note"]
    assert [(case.guard, case.targets) for case in entry.cases] == [
        ("{{ decision.approved }}", ["book"]),
        (None, ["refuse"]),
    ]
    accepted = await answer(http, workflow_id, step="ask", visit=1, answer={"approved": True})
    assert accepted.status_code == 202
    assert read_view(CurrentStatus, accepted.json()).workflow_id == workflow_id
    result = await finish(http, workflow_id)
    assert result.result == {"decision": {"approved": True, "note": "none"}}
    await read_inbox(http, 0)
    assert_problem(await answer(http, workflow_id, step="ask", answer={"approved": True}), 410, "closed")


async def test_an_answer_has_the_declared_fields(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, PAY, amount=7)
    await read_inbox(http, 1)
    refused = await answer(http, workflow_id, step="ask", answer={"approved": "yes"})
    assert_problem(refused, 422, "invalid-answer")
    assert [field["name"] for field in refused.json()["fields"]] == ["approved"]
    await read_inbox(http, 1)


async def test_several_questions_of_a_step_are_distinguished(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, TWO)
    page = await read_inbox(http, 2)
    assert [(entry.title, entry.position) for entry in page.items] == [
        ("First?", "run.0"),
        ("Second?", "run.1"),
    ]
    ambiguous = await answer(http, workflow_id, step="ask", answer=1)
    assert_problem(ambiguous, 409, "ambiguous-question")
    assert ambiguous.json()["detail"] == (
        "the step asks 2 questions; name one by its position: `run.0`, `run.1`"
    )
    assert (await answer(http, workflow_id, step="ask", position="run.1", answer=2)).status_code == 202
    # The step may not have read that answer yet.
    assert (await answer(http, workflow_id, step="ask", answer=1)).status_code == 202
    assert (await finish(http, workflow_id)).result == {"both": [1, 2]}


async def test_what_expires_first_comes_first(http: httpx.AsyncClient) -> None:
    for hours in (3, 1, 2):
        await start(http, PAY.replace("2h", f"{hours}h"), amount=hours)
    await start(http, PAY.replace("        timeout: 2h\n", ""), amount=4)
    for query in ({}, {"order": "expires"}):
        urgent = (await read_inbox(http, 4, **query)).items
        assert [entry.details["amount"] for entry in urgent] == [1, 2, 3, 4]
        assert urgent[3].expires_at is None
    page = await read_inbox(http, 2, limit=2)
    assert page.next_cursor is not None
    last = await read_inbox(http, 2, limit=2, cursor=page.next_cursor)
    assert ([entry.details["amount"] for entry in last.items], last.next_cursor) == ([3, 4], None)


async def test_a_question_is_listed_while_another_branch_works(http: httpx.AsyncClient, gate: Path) -> None:
    text = FORK.replace("GATE", str(gate))
    workflow_id = await start(http, text)
    (entry,) = (await read_inbox(http, 1)).items
    assert (entry.workflow_id, entry.step) == (workflow_id, "ask")
    assert (await http.get(f"/workflows/status/{workflow_id}")).json()["status"] == "running"
    assert (await answer(http, workflow_id, step="ask", answer=1)).status_code == 202
    await read_inbox(http, 0)
    await asyncio.to_thread(gate.write_text, "")
    assert (await finish(http, workflow_id)).status == "succeeded"


async def test_a_cancelled_run_asks_nothing_until_it_is_resumed(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, PAY, amount=7)
    await read_inbox(http, 1)
    await http.post(f"/workflows/{workflow_id}/cancel")
    assert (await finish(http, workflow_id)).status == "cancelled"
    await read_inbox(http, 0)
    await http.post(f"/workflows/{workflow_id}/resume")
    await read_inbox(http, 1)
    assert (await answer(http, workflow_id, step="ask", answer={"approved": False})).status_code == 202
    assert (await finish(http, workflow_id)).status == "succeeded"
    await read_inbox(http, 0)


async def test_a_question_leaves_when_its_time_is_over(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, PAY.replace("2h", "1s"), amount=7)
    await read_inbox(http, 1)
    assert (await finish(http, workflow_id)).status == "failed"
    await read_inbox(http, 0)


async def test_what_does_not_exist_is_named(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, PAY, amount=7)
    await read_inbox(http, 1)
    assert_problem(await answer(http, "0" * 24, step="ask"), 404, "not-found")
    assert_problem(await answer(http, workflow_id, step="asks"), 404, "not-found")
    assert_problem(await answer(http, workflow_id, step="ask", visit=2), 404, "not-found")
    assert_problem(await answer(http, workflow_id, step="book"), 404, "not-found")
    assert_problem(await answer(http, workflow_id, step="ask", position="run.1"), 410, "closed")
    assert_problem(await answer(http, workflow_id, answer=1), 422, "invalid-body")
    assert_problem(await answer(http, workflow_id, step="ask", visit=0), 422, "invalid-body")
    assert_problem(await http.get("/inbox", params={"order": "newest"}), 400, "invalid-request")
    assert_problem(await http.get("/inbox", params={"cursor": "x"}), 400, "invalid-cursor")


def test_a_page_of_large_questions_ends_early() -> None:
    store, clock = MemoryStore(), FakeClock()
    text = "name: ask\nsteps: [{name: a, run: [{action: callback, details: \"{{ 'x' * 1000000 }}\"}]}]"
    for _ in range(7):
        RunHarness(store, text, clock=clock).execute_next()
    service = create_services(store, catalogue(), clock=clock).inbox
    first = service.find()
    assert len(first.items) == MAX_LISTED_JOURNALS // 1_000_000
    second = service.find(first.next_cursor)
    assert second.next_cursor is None
    assert len({entry.workflow_id for entry in (*first.items, *second.items)}) == 7


def test_a_page_reads_the_store_as_often_for_many_questions_as_for_one(tmp_path: Path) -> None:
    clock, counts = FakeClock(), []
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        service = create_services(store, catalogue(), clock=clock).inbox
        for questions in (1, 99):
            for number in range(questions):
                RunHarness(store, PAY, input={"amount": number}, clock=clock).execute_next()
            service.find()  # The plan is read and kept.
            statements: list[str] = []
            store.file.connection().set_trace_callback(statements.append)
            page = service.find()
            store.file.connection().set_trace_callback(None)
            counts.append((len(page.items), len(statements)))
    assert [items for items, _ in counts] == [1, 100]
    assert counts[0][1] == counts[1][1] <= 2


def test_a_page_without_questions_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first visits run again, and the questions that they ask now are not in their journals yet."""
    store, clock = MemoryStore(), FakeClock()
    RunHarness(store, PAY, input={"amount": 1}, clock=clock).execute_next()
    find_open = store.waits.find_open
    ((listed,), _) = find_open("default")
    unasked = replace(listed, key=replace(listed.key, id="another"))
    pages = iter([([unasked], "next"), ([listed], None)])
    monkeypatch.setattr(store.waits, "find_open", lambda *_, **__: next(pages))
    page = create_services(store, catalogue(), clock=clock).inbox.find(limit=1)
    assert ([entry.details for entry in page.items], page.next_cursor) == ([{"amount": 1}], None)
