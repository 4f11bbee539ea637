"""`GET /workflows/comparison`: what differs between two runs."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import tracemalloc
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from noetl.api.compute.jobs import CompareJob
from noetl.api.service import run_comparison, run_diff
from noetl.api.service.run_comparison import ComparisonService
from noetl.api.service.run_diff import ComparedPair, ComparedRun, ComparedVisit, RunDifference, read_visits
from noetl.executor.model.events import Event
from noetl.executor.model.run_summary import VisitPlace
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.store_contract.operations import start_run
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

PATIENT = {"Prefer": "wait=25"}

HALVE = """\
name: halve <script>
input: {n: integer}
steps:
  - name: "divide ü"
    run: [{action: set, set: {half: "{{ 10 / input.n }}"}}]
    rule: [{case: default, run: [end]}]
  - name: end
    run: [{action: log, message: done}]
"""


async def start(http: httpx.AsyncClient, n: int, playbook: str = HALVE) -> str:
    body = {"playbook": playbook, "input": {"n": n}}
    response = await http.post("/workflows/run", json=body, headers=PATIENT)
    assert response.status_code == 200, response.text
    return str(response.json()["workflow_id"])


async def compare(http: httpx.AsyncClient, a: str, b: str) -> RunDifference:
    response = await http.get("/workflows/comparison", params={"a": a, "b": b})
    assert response.status_code == 200, response.text
    return read_view(RunDifference, response.json())


async def test_the_first_difference_of_two_runs_is_named(http: httpx.AsyncClient) -> None:
    good, bad = await start(http, 5), await start(http, 0)
    diff = await compare(http, good, bad)
    assert [run.workflow_id for run in diff.runs] == [good, bad]
    assert [(entry.name, entry.values) for entry in diff.input] == [("n", [5, 0])]
    assert (diff.plan, diff.cut, diff.equal_visits) == (None, False, 0)
    divide, end = diff.steps
    values = {entry.name: entry.values for entry in divide.changes}
    assert (divide.step, values["state"]) == ("divide ü", ["succeeded", "failed"])
    assert values["saved.half"] == [2.0, None]
    assert (end.step, end.changes[0].values) == ("end", ["succeeded", None])


async def test_equal_runs_have_no_difference(http: httpx.AsyncClient) -> None:
    diff = await compare(http, await start(http, 5), await start(http, 5))
    assert (diff.run, diff.input, diff.steps, diff.plan, diff.equal_visits) == ([], [], [], None, 2)


async def test_a_long_playbook_is_compared_in_another_process(http: httpx.AsyncClient) -> None:
    texts = [f"{HALVE}# {'x' * 9000}\ndescription: {name}\n" for name in "ab"]
    ids = [await start(http, 5, text) for text in texts]
    diff = await compare(http, *ids)
    assert diff.plan is not None
    assert diff.plan.changed_lines == 1


async def test_many_events_are_cut(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_comparison, "MAX_READ_EVENTS", 1)
    assert (await compare(http, await start(http, 5), await start(http, 5))).cut


async def test_many_events_are_not_in_memory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "noetl.db"
    with closing(SqliteStore(str(path))) as store:
        run = start_run(store)
        with closing(sqlite3.connect(path)) as db:
            for number in range(1, 5001):
                started = ["step.started", 1.0, "a", number, 1, None, {}]
                case = ["step.transition", 1.0, "a", number, 1, None, {"case": 0, "targets": ["a"]}]
                waiting = ["step.waiting", 1.0, "a", number, 1, 0.2, {"reason": "x" * 60}]
                done = ["step.completed", 1.0, "a", number, 1, 0.2, {"saved": {"n": [{"n": number}]}}]
                row = (run.id, number + 10, json.dumps([started, case, waiting, done]))
                db.execute("insert into history values (?, ?, ?)", row)
            db.commit()
        runs = SimpleNamespace(context=SimpleNamespace(store=store), get=lambda _: run)
        data = SimpleNamespace(source=lambda _: SimpleNamespace(source="x", plan_hash="x"))
        slices: list[None] = []
        monkeypatch.setattr(run_comparison, "wait_for_slice", lambda: slices.append(None))
        growth: list[int] = []

        def measured(events: Iterable[Event]) -> dict[VisitPlace, ComparedVisit]:
            visits = read_visits(events)
            growth.append(tracemalloc.get_traced_memory()[1])
            return visits

        monkeypatch.setattr(run_comparison, "read_visits", measured)
        tracemalloc.start()
        try:
            pair = ComparisonService(cast("Any", runs), cast("Any", data)).read(run.id, run.id)
        finally:
            tracemalloc.stop()
    assert [len(compared.visits) for compared in (pair.a, pair.b)] == [5000, 5000]
    assert not pair.a.is_cut
    assert max(growth) < 12_000_000  # All 20,000 events as objects take 18 MB.
    assert len(slices) >= 2 * 20_000


async def test_few_comparisons_are_in_memory_at_the_same_time(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that wait for a process would be. Each may have some 20 MB."""
    ids = [await start(http, 5), await start(http, 5)]
    read, compare_pair = ComparisonService.read, run_diff.compare_runs
    in_memory: list[ComparedPair] = []
    most: list[int] = []
    all_read = threading.Event()

    def counted_read(service: ComparisonService, a: str, b: str) -> ComparedPair:
        in_memory.append(read(service, a, b))
        most.append(len(in_memory))
        if len(in_memory) == 3:  # Two are of one tenant at most.
            all_read.set()
        return in_memory[-1]

    def slow(pair: ComparedPair) -> dict[str, Any]:
        all_read.wait(0.3)
        in_memory.remove(pair)
        return compare_pair(pair)

    monkeypatch.setattr(ComparisonService, "read", counted_read)
    monkeypatch.setattr(run_diff, "compare_runs", slow)
    diffs = await asyncio.gather(*(compare(http, *ids) for _ in range(4)))
    assert [diff.equal_visits for diff in diffs] == [2] * 4
    assert max(most) <= 2


async def test_an_unknown_run_is_a_problem(http: httpx.AsyncClient) -> None:
    run_id = await start(http, 5)
    for a, b in ((run_id, "f" * 24), ("\u202e<b>", run_id)):
        assert_problem(await http.get("/workflows/comparison", params={"a": a, "b": b}), 404, "not-found")
    assert_problem(await http.get("/workflows/comparison", params={"a": run_id}), 400, "invalid-request")


def test_a_comparison_is_light_if_its_texts_are_short() -> None:
    def pair(**values: Any) -> ComparedPair:
        run = ComparedRun("1" * 24, "p", None, "h", "failed", None, "a: 1\n", {}, {})
        other = ComparedRun(**{**vars(run), **values})
        return ComparedPair(run, other)

    assert CompareJob(pair()).is_light
    assert not CompareJob(pair(source="x\n" * 9000)).is_light
