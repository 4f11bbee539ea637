"""The routes of the data of a run: at a glance, one visit of a step, the log, the input and the text."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api import graphviz
from noetl.api.http.problem_types import PROBLEM_TYPES
from noetl.api.routes import run_drawing
from noetl.api.service.data_views import (
    MAX_SHOWN_CHARACTERS,
    LogPage,
    RunDetails,
    RunInput,
    RunSource,
    StepData,
)
from noetl.api.service.headlines import MAX_LENGTH
from noetl.executor.engine.kept_data import MAX_SAVED_CHARACTERS
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

PATIENT = {"Prefer": "wait=25"}

ORDERS = """\
name: orders
input: {price: number, note: {type: string, default: fragile}}
variables: {total: 0}
steps:
  - name: add
    run:
      - {action: set, set: {total: "{{ total + price }}"}}
      - {action: log, level: warning, message: "the total is {{ total }}", fields: {note: "{{ note }}"}}
      - {action: shell, command: ["sh", "-c", "echo out; echo err >&2"], as: written}
    rule:
      - {case: "{{ total > 100 }}", run: [ship]}
      - {case: "{{ total > 10 }}", run: [add_more]}
      - {case: default, run: [ship]}
  - name: add_more
    run: [{action: set, set: {total: "{{ total + 1 }}"}}]
    rule: [{case: default, run: [ship]}]
  - name: ship
    loop: {items: [1, 2, 0], as: parcel, on_error: continue}
    run:
      - {action: log, message: "parcel {{ parcel }}"}
      - {action: set, set: {share: "{{ total / parcel }}"}}
"""


async def start(http: httpx.AsyncClient, playbook: str, **input: Any) -> str:
    response = await http.post(
        "/workflows/run", json={"playbook": playbook, "input": input, "tags": ["nightly"]}, headers=PATIENT
    )
    assert response.status_code in (200, 202), response.text
    workflow_id: str = response.json()["workflow_id"]
    return workflow_id


async def read_step(http: httpx.AsyncClient, workflow_id: str, name: str, **query: int) -> StepData:
    response = await http.get(f"/workflows/{workflow_id}/step", params={"name": name, **query})
    assert response.status_code == 200, response.text
    return read_view(StepData, response.json())


async def test_a_step_has_the_data_of_its_visit(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, ORDERS, price=20)
    step = await read_step(http, workflow_id, "add")
    assert (step.line, step.visit, step.visits, step.status, step.attempt) == (5, 1, 1, "succeeded", 1)
    (attempt,) = step.attempts
    assert [(action.action, action.status, action.input) for action in attempt.actions] == [
        ("set", "succeeded", {"set": {"total": 20}}),
        (
            "log",
            "succeeded",
            {"level": "warning", "message": "the total is 20", "fields": {"note": "fragile"}},
        ),
        ("shell", "succeeded", {"command": ["sh", "-c", "echo out; echo err >&2"]}),
    ]
    assert [(guard.case, guard.guard, guard.value) for guard in step.guards] == [
        (0, "{{ total > 100 }}", False),
        (1, "{{ total > 10 }}", True),
    ]
    assert (step.case, step.targets) == (1, ["add_more"])
    saved = {value.name: (value.value, value.before) for value in step.saved}
    assert saved["total"] == (20, 0)
    assert saved["written"] == ({"exit_code": 0, "stdout": "out\n", "stderr": "err\n"}, None)
    assert [(line.stream, line.level, line.text, line.fields) for line in step.lines] == [
        ("line", "warning", "the total is 20", {"note": "fragile"}),
        ("stdout", None, "out\n", None),
        ("stderr", None, "err\n", None),
    ]
    later = await read_step(http, workflow_id, "add_more")
    assert [(value.name, value.value, value.before) for value in later.saved] == [("total", 21, 20)]


async def test_a_loop_has_its_failed_items_and_the_lines_of_all(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, ORDERS, price=200)
    step = await read_step(http, workflow_id, "ship")
    assert [(failure["index"], failure["item"], failure["error"]["type"]) for failure in step.failures] == [
        (3, 0, "TemplateError")
    ]
    assert sorted((line.item, line.text) for line in step.lines) == [
        (1, "parcel 1"),
        (2, "parcel 2"),
        (3, "parcel 0"),
    ]
    (attempt,) = step.attempts
    assert attempt.loops is not None
    assert [(loop.done, loop.failed, loop.total) for loop in attempt.loops] == [(3, 1, 3)]
    assert attempt.actions == []


async def test_a_failed_attempt_has_its_input_and_its_error(http: httpx.AsyncClient) -> None:
    workflow_id = await start(
        http,
        """\
name: failing
steps:
  - name: a
    run:
      - action: shell
        command: "echo no >&2; exit 3"
        retry: {attempts: 2, delay: 0}
""",
    )
    step = await read_step(http, workflow_id, "a")
    assert step.status == "failed"
    assert step.error is not None
    (attempt,) = step.attempts
    assert attempt.error == step.error
    assert [(action.status, action.error and action.error["type"]) for action in attempt.actions] == [
        ("retrying", "CommandFailed"),
        ("failed", "CommandFailed"),
    ]
    assert [action.input for action in attempt.actions] == [{"command": "echo no >&2; exit 3"}] * 2
    assert [line.text for line in step.lines] == ["no\n"] * 2
    details = read_view(RunDetails, (await http.get(f"/workflows/{workflow_id}")).json())
    assert details.headline.startswith("a: ")
    assert (details.status, details.tags) == ("failed", ["nightly"])


async def test_long_values_are_cut_and_have_their_length(http: httpx.AsyncClient) -> None:
    """They are bounded in the history and in the answer."""
    playbook = """\
name: large
steps:
  - name: a
    run: [{action: set, set: {rows: "{{ range(30000) | list }}"}, as: copy}]
"""
    workflow_id = await start(http, playbook)
    response = await http.get(f"/workflows/{workflow_id}/step", params={"name": "a"})
    step = read_view(StepData, response.json())
    (action,) = step.attempts[0].actions
    assert action.cut is not None
    assert action.input is not None
    assert action.cut["set"] > 100_000
    assert len(action.input["set"]) == MAX_SAVED_CHARACTERS
    saved = next(value for value in step.saved if value.name == "rows")
    assert saved.cut == {"value": len(str(list(range(30_000))).replace(" ", ""))}
    assert saved.value.startswith("[0,1,2,3")
    assert len(saved.value) == MAX_SHOWN_CHARACTERS
    assert step.cut is not None
    assert step.cut["result"] > MAX_SHOWN_CHARACTERS
    assert len(response.content) < 4 * MAX_SHOWN_CHARACTERS


async def test_the_log_has_pages(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, ORDERS, price=200)
    path = f"/workflows/{workflow_id}/logs"
    complete = read_view(LogPage, (await http.get(path)).json())
    assert [line.step for line in complete.items] == ["add"] * 3 + ["ship"] * 3
    assert complete.next_cursor is None
    lines, cursor = [], None
    while True:
        query = {"limit": "2", **({} if cursor is None else {"cursor": cursor})}
        page = read_view(LogPage, (await http.get(path, params=query)).json())
        assert len(page.items) <= 2
        lines += [line.text for line in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert lines == [line.text for line in complete.items]
    of_step = read_view(LogPage, (await http.get(path, params={"step": "ship"})).json())
    assert len(of_step.items) == 3
    nothing_new = read_view(LogPage, (await http.get(path, params={"cursor": complete.last_event})).json())
    assert (nothing_new.items, nothing_new.last_event) == ([], complete.last_event)


async def test_a_step_names_the_runs_that_it_has_started(http: httpx.AsyncClient) -> None:
    child = "name: child\nsteps: [{name: a, run: [{action: log, message: x}]}]\n"
    assert (await http.post("/playbooks", json={"playbook": child})).status_code == 201
    call = "{action: workflow, playbook: child}"
    playbook = (
        "name: parent\nsteps:\n"
        f"  - {{name: one, run: [{call}, {call}], rule: [{{case: default, run: [two]}}]}}\n"
        f"  - {{name: two, run: [{call}], rule: [{{case: default, run: [end]}}]}}\n"
        "  - {name: end, run: [{action: log, message: x}]}\n"
    )
    workflow_id = await start(http, playbook)
    started = {name: (await read_step(http, workflow_id, name)).child_runs for name in ("one", "two", "end")}
    assert started["one"] is not None and started["two"] is not None
    assert (len(started["one"]), len(started["two"]), started["end"]) == (2, 1, None)
    for entry in (*started["one"], *started["two"]):
        assert (entry.playbook, entry.status, entry.parent) == ("child", "succeeded", workflow_id)
    assert len({entry.workflow_id for entry in (*started["one"], *started["two"])}) == 3


async def test_long_values_are_complete_if_a_client_wants_them(http: httpx.AsyncClient) -> None:
    playbook = (
        "name: long\nsteps:\n  - name: a\n    run:\n"
        '      - {action: set, set: {rows: "{{ range(30000) | list }}", text: "{{ \'ü\' * 70000 }}"}}\n'
    )
    workflow_id = await start(http, playbook)
    step = await read_step(http, workflow_id, "a")
    assert {value.name for value in step.saved if value.cut} == {"rows", "text"}
    complete = await read_step(http, workflow_id, "a", complete=1)
    assert complete.cut is None
    assert {value.name: (value.value, value.cut) for value in complete.saved} == {
        "rows": (list(range(30000)), None),
        "text": ("ü" * 70000, None),
    }


async def test_lines_are_found_by_their_text(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, ORDERS, price=20)
    for query, texts in (
        ({"q": "TOTAL"}, ["the total is 20"]),
        ({"q": "total", "step": "add"}, ["the total is 20"]),
        ({"q": "total", "step": "add_more"}, []),
        ({"q": "no line has this"}, []),
        ({"q": "", "step": "add"}, ["the total is 20", "out\n", "err\n"]),
    ):
        response = await http.get(f"/workflows/{workflow_id}/logs", params=query)
        page = read_view(LogPage, response.json())
        assert [line.text for line in page.items] == texts
        assert (page.next_cursor, page.last_event is None) == (None, False)
    assert_problem(await http.get(f"/workflows/{workflow_id}/logs", params={"q": "x" * 1000}), 400)


async def test_a_run_has_its_input_and_its_text(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, ORDERS, price=1)
    found = read_view(RunInput, (await http.get(f"/workflows/{workflow_id}/input")).json())
    assert found.input == {"price": 1, "note": "fragile"}
    source = read_view(RunSource, (await http.get(f"/workflows/{workflow_id}/source")).json())
    assert (source.source, source.playbook, source.file) == (ORDERS, "orders", None)


async def test_what_does_not_exist_is_named(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, ORDERS, price=200)
    path = f"/workflows/{workflow_id}/step"
    for query, detail in (
        ({"name": "shop"}, "unknown step `shop`; did you mean `ship`?"),
        ({"name": "add_more"}, f"step `add_more` of run `{workflow_id}` has not started"),
        ({"name": "add", "visit": "2"}, f"step `add` of run `{workflow_id}` has no visit 2; it has 1"),
    ):
        response = await http.get(path, params=query)
        assert_problem(response, 404, "not-found")
        assert response.json()["detail"] == detail
    assert_problem(await http.get(path), 400)
    assert_problem(await http.get(f"/workflows/{workflow_id}/logs", params={"step": "x"}), 404, "not-found")
    assert_problem(
        await http.get(f"/workflows/{workflow_id}/logs", params={"cursor": "x"}), 400, "invalid-cursor"
    )
    for rest in ("", "/input", "/source", "/logs", "/step?name=a"):
        assert_problem(await http.get(f"/workflows/{'0' * 24}{rest}"), 404, "not-found")
    assert "not-found" in PROBLEM_TYPES


async def test_a_step_at_work_shows_what_it_received(http: httpx.AsyncClient, gate: Path) -> None:
    """The events of actions appear when their step is committed, so its attempt has none yet."""
    playbook = f"""\
name: held
steps:
  - name: hold
    run: [{{action: shell, command: [cat, "{gate}"]}}]
"""
    response = await http.post("/workflows/run", json={"playbook": playbook})
    workflow_id = response.json()["workflow_id"]
    writer = await asyncio.to_thread(gate.open, "w")
    step = await read_step(http, workflow_id, "hold")
    assert (step.status, step.finished_at, step.result) == ("running", None, None)
    details = read_view(RunDetails, (await http.get(f"/workflows/{workflow_id}")).json())
    assert (details.headline, details.finished_at) == ("hold", None)
    writer.close()


async def test_a_wait_is_the_headline(http: httpx.AsyncClient) -> None:
    """The title is shown on one line, without control characters, and is cut."""
    title = "Pay\\n\\e[31m" + "x" * 200
    playbook = f"""\
name: asks
steps:
  - name: ask
    run: [{{action: callback, title: "{title}", timeout: 1h}}]
"""
    response = await http.post("/workflows/run", json={"playbook": playbook})
    workflow_id = response.json()["workflow_id"]
    for _ in range(200):
        details = read_view(RunDetails, (await http.get(f"/workflows/{workflow_id}")).json())
        if details.status == "waiting":
            break
        await asyncio.sleep(0.05)
    assert details.headline.startswith("ask waits: Pay ␛[31mxxx")
    assert len(details.headline) == MAX_LENGTH
    step = await read_step(http, workflow_id, "ask")
    assert step.waiting_for is not None
    assert [action.status for action in step.attempts[0].actions] == ["waiting"]


GATHERING = """\
name: gathering
steps:
  - name: start
    run: [{action: log, message: go}]
    rule: [{case: default, run: [left, right]}]
  - name: left
    run: [{action: callback, title: "Ready?", as: answer}]
    rule: [{case: "{{ answer.ready }}", run: [meet]}, {case: default, run: [other]}]
  - {name: right, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [meet]}]}
  - {name: meet, run: [{action: log, message: done}]}
  - {name: other, run: [{action: log, message: done}]}
"""


async def wait_for_status(http: httpx.AsyncClient, workflow_id: str, status: str) -> None:
    async with asyncio.timeout(60):
        path = f"/workflows/status/{workflow_id}"
        while (await http.get(path)).json()["status"] != status:  # noqa: ASYNC110  It must be polled.
            await asyncio.sleep(0.05)


async def read_drawn(http: httpx.AsyncClient, workflow_id: str) -> RunDetails:
    response = await http.get(f"/workflows/{workflow_id}", params={"include": "graph"})
    assert response.status_code == 200, response.text
    return read_view(RunDetails, response.json())


async def test_one_request_has_all_that_a_page_shows_of_a_run(http: httpx.AsyncClient) -> None:
    response = await http.post("/workflows/run", json={"playbook": GATHERING})
    workflow_id = response.json()["workflow_id"]
    await wait_for_status(http, workflow_id, "waiting")
    run = await read_drawn(http, workflow_id)
    assert run.graph is not None
    assert run.graph_problem is None
    assert {name: step.reachable for name, step in run.steps.items()} == {
        "start": None,
        "left": None,
        "right": None,
        "meet": "may",
        "other": "may",
    }
    join = run.steps["meet"].join
    assert join is not None
    assert (join.arrived, join.missing) == (["right"], ["left"])
    assert run.steps["right"].join is None
    words = {node.steps[0]: node.words for node in run.graph.nodes if node.state is not None}
    assert words["meet"] == "waits, 1 of 2 here"
    assert sorted(edge.mark for edge in run.graph.edges) == ["may", "may", *["taken"] * 4]
    events = (await http.get(f"/workflows/{workflow_id}/events")).json()["items"]
    assert run.cursor == events[-1]["id"]

    answer = {"step": "left", "answer": {"ready": True}}
    assert (await http.post(f"/workflows/{workflow_id}/answer", json=answer)).status_code == 202
    await wait_for_status(http, workflow_id, "succeeded")
    following = (await http.get(f"/workflows/{workflow_id}/events", params={"cursor": run.cursor})).json()
    assert [event["type"] for event in following["items"]][-1] == "workflow.completed"
    ended = await read_drawn(http, workflow_id)
    assert (ended.steps["meet"].join, ended.steps["other"].reachable) == (None, "never")


def make_long_playbook(steps: int) -> str:
    """Return a playbook that waits at the first step of a chain."""
    ask = "{action: callback, title: Go on?, answer: {ready: {type: boolean}}}"
    work = "{action: log, message: x}"
    chain = [
        f"  - {{name: s{number}, run: [{work if number else ask}],"
        f" rule: [{{case: default, run: [s{number + 1}]}}]}}"
        for number in range(steps)
    ]
    return "\n".join(["name: long", "steps:", *chain, f"  - {{name: s{steps}, run: [{work}]}}"])


async def test_a_group_of_a_large_run_is_drawn_open_on_request(http: httpx.AsyncClient) -> None:
    response = await http.post("/workflows/run", json={"playbook": make_long_playbook(200)})
    workflow_id = response.json()["workflow_id"]
    await wait_for_status(http, workflow_id, "waiting")
    kinds = []
    for names in ([], ["s7"], ["unknown"]):
        response = await http.get(f"/workflows/{workflow_id}", params={"include": "graph", "open": names})
        nodes = response.json()["graph"]["nodes"]
        kinds.append(sum(node["kind"] == "group" for node in nodes))
    assert kinds == [1, 0, 1]
    response = await http.get(f"/workflows/{workflow_id}", params={"include": "graph", "open": ["s7"] * 51})
    assert_problem(response, 400, None)


async def test_a_run_at_a_glance_has_no_drawing_unless_requested(http: httpx.AsyncClient) -> None:
    workflow_id = await start(http, ORDERS, price=20)
    run = (await http.get(f"/workflows/{workflow_id}")).json()
    assert run.keys().isdisjoint({"graph", "cursor", "graph_problem"})
    response = await http.get(f"/workflows/{workflow_id}", params={"include": "everything"})
    assert_problem(response, 400, None)


async def test_a_run_that_cannot_be_drawn_says_why(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*arguments: object) -> None:
        raise graphviz.GraphvizError("a picture needs Graphviz; install it")

    workflow_id = await start(http, ORDERS, price=20)
    monkeypatch.setattr(run_drawing, "perform", refuse)
    run = await read_drawn(http, workflow_id)
    assert run.graph is None
    assert run.graph_problem == "A picture needs Graphviz; install it."
    assert run.steps["add"].status == "succeeded"
    assert run.cursor is not None
    response = await http.get(f"/workflows/{workflow_id}/graph", params={"format": "svg"})
    assert_problem(response, 501, "not-supported")
