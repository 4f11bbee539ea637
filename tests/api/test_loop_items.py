"""The items of loops by state: what is recorded of them, in pages whose cost does not grow with the loop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.service.data_views import LoopItems
from noetl.api.service.errors import NotFoundError
from noetl.api.service.loop_items import ItemQuery, read_entries
from noetl.api.service.loop_states import ItemState
from noetl.api.service.plan_loops import find_loop, has_loop
from noetl.api.service.services import TenantServices, create_services
from noetl.api.service.views import to_json
from noetl.executor.actions import catalogue
from noetl.executor.engine.kept_data import MAX_ITEMS_CHARACTERS
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import RunStatus
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.planner.plan import Loop
from noetl.testing.run_harness import RunHarness, compile_text
from tests.api.responses import assert_problem, read_view

SHIP = """\
name: ship
input: {count: integer, bad: {type: array, default: []}, why: {type: string, default: continue}}
steps:
  - name: ship it/now
    loop:
      items: "{{ range(1, count + 1) | list }}"
      as: parcel
      on_error: continue
    run:
      - {action: shell, command: "echo {{ parcel }}", if: "{{ false }}"}
      - {action: set, set: {share: "{{ 1 / (0 if parcel in bad else 1) }}", note: "n {{ parcel }}"}}
"""

STOPPING = """\
name: stopping
input: {concurrency: integer}
steps:
  - name: a
    loop: {items: "{{ range(1, 11) | list }}", concurrency: CONCURRENCY}
    run: [{action: fail, message: "no {{ item }}", if: "{{ item == 4 }}"}]
"""

WAITING = """\
name: waiting
steps:
  - name: a
    loop: {items: "{{ range(1, 8) | list }}", batch: 4, concurrency: 3, on_error: continue}
    run:
      - {action: fail, message: no, if: "{{ item == 2 }}"}
      - {action: callback, title: "Item {{ item }}?", if: "{{ item == 5 }}"}
      - {action: shell, command: "false", retry: {attempts: 2, delay: 1h}, if: "{{ item == 6 }}"}
"""


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'noetl.db'}"
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def services(store: Store) -> TenantServices:
    return create_services(store, catalogue())


def page(services: TenantServices, play: RunHarness, step: str = "a", **query: Any) -> LoopItems:
    return services.items.page(play.id, ItemQuery(step, **query))


def all_items(services: TenantServices, play: RunHarness, step: str = "a", **query: Any) -> list[Any]:
    items: list[Any] = []
    cursor = None
    while True:
        found = page(services, play, step, cursor=cursor, **query)
        items += found.items
        cursor = found.next_cursor
        if cursor is None:
            return items


def states(services: TenantServices, play: RunHarness, **query: Any) -> str:
    """Return the first letters of the states of all items that have a known one, in their order."""
    return "".join(item.state[0] for item in all_items(services, play, **query))


def test_a_failed_item_of_500_has_its_value_its_error_and_what_was_sent(
    services: TenantServices, store: Store
) -> None:
    play = RunHarness(store, SHIP, {"count": 500, "bad": [371]}).finish()
    assert play.status == "succeeded"
    found = page(services, play, "ship it/now", state=ItemState.FAILED)
    assert (found.total, found.counts, found.unlisted, found.next_cursor) == (
        500,
        {"succeeded": 499, "failed": 1},
        None,
        None,
    )
    (item,) = found.items
    assert (item.number, item.state, item.value) == (371, "failed", "371")
    assert item.error is not None
    assert (item.error["type"], item.error["key"], item.error["values"]["parcel"]) == (
        "TemplateError",
        "set.share",
        "371",
    )
    assert item.error["expression"] == "{{ 1 / (0 if parcel in bad else 1) }}"


def test_a_run_at_a_glance_has_the_first_failed_items(services: TenantServices, store: Store) -> None:
    play = RunHarness(store, SHIP, {"count": 40, "bad": [3, 9, 12, 20, 31, 40]}).finish()
    failed = services.items.details(play.id).steps["ship it/now"].failed_items
    assert failed is not None
    assert [(item.number, item.value) for item in failed] == [(n, str(n)) for n in (3, 9, 12, 20, 31)]
    assert {item.error["key"] for item in failed if item.error is not None} == {"set.share"}


def test_the_status_has_the_first_failed_items(services: TenantServices, store: Store) -> None:
    play = RunHarness(store, SHIP, {"count": 40, "bad": [3, 9, 12, 20, 31, 40]}).finish()
    step = services.items.report(play.id).steps["ship it/now"]
    assert step.failed_items is not None
    assert ([item.value for item in step.failed_items], step.failed_item_count) == (
        ["3", "9", "12", "20", "31"],
        6,
    )
    sound = RunHarness(store, SHIP, {"count": 3}).finish()
    assert services.items.report(sound.id) == services.runs.report(sound.id)
    waiting = RunHarness(store, SHIP, {"count": 3})
    assert services.items.report(waiting.id) == services.runs.report(waiting.id)


def test_a_run_without_failed_items_has_none_at_a_glance(services: TenantServices, store: Store) -> None:
    play = RunHarness(store, SHIP, {"count": 3}).finish()
    assert services.items.details(play.id).steps["ship it/now"].failed_items is None


def test_what_was_sent_for_a_failed_item_is_kept(services: TenantServices, store: Store) -> None:
    text = """
        steps:
          - name: a
            loop: {items: [1, 2, 3], on_error: continue, concurrency: 3}
            run:
              - {action: shell, command: ["sh", "-c", "exit {{ item - 1 }}"], retry: {attempts: 2, delay: 0}}
    """
    play = RunHarness(store, text).finish()
    items = all_items(services, play, state=ItemState.FAILED)
    assert [(item.number, item.attempts, item.input) for item in items] == [
        (2, 2, {"command": ["sh", "-c", "exit 1"]}),
        (3, 2, {"command": ["sh", "-c", "exit 2"]}),
    ]


def test_the_input_of_the_action_that_failed_is_kept(services: TenantServices, store: Store) -> None:
    """Perform forgiven failures before it, failures next to it, and inner loops."""
    text = """
        steps:
          - name: a
            loop: {items: [7], on_error: continue}
            run:
              - {action: shell, command: "exit 1", on_error: continue}
              - action: shell
                command: "exit {{ inner }}"
                loop: {items: [0, 3], as: inner}
    """
    play = RunHarness(store, text).finish()
    (item,) = all_items(services, play)
    assert (item.number, item.value, item.input) == (1, "7", {"command": "exit 3"})


def test_inputs_of_items_can_be_switched_off(
    services: TenantServices, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_KEEP_INPUTS", "off")
    play = RunHarness(store, STOPPING.replace("CONCURRENCY", "1"), {"concurrency": 1}).finish()
    (item,) = all_items(services, play, state=ItemState.FAILED)
    assert (item.number, item.input, item.attempts) == (4, None, 1)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("bad", [[], [1], [10], [1, 10], [3, 4, 5], list(range(1, 11))])
def test_pages_have_each_item_once(
    services: TenantServices, store: Store, bad: list[int], limit: int
) -> None:
    play = RunHarness(store, SHIP, {"count": 10, "bad": bad}).finish()
    expected = [(n, "failed" if n in bad else "succeeded") for n in range(1, 11)]
    for state in (None, ItemState.FAILED, ItemState.SUCCEEDED, ItemState.WAITING):
        items = all_items(services, play, "ship it/now", state=state, limit=limit)
        assert [(item.number, item.state) for item in items] == [
            entry for entry in expected if state in (None, entry[1])
        ]


def test_a_sequential_loop_that_stopped_has_all_states(services: TenantServices, store: Store) -> None:
    play = RunHarness(store, STOPPING.replace("CONCURRENCY", "1"), {"concurrency": 1}).finish()
    assert play.status == "failed"
    assert states(services, play) == "sssfcccccc"
    found = page(services, play)
    assert (found.counts, found.unlisted) == ({"succeeded": 3, "failed": 1, "cancelled": 6}, None)


def test_a_concurrent_loop_that_stopped_has_all_states(services: TenantServices, store: Store) -> None:
    play = RunHarness(store, STOPPING.replace("CONCURRENCY", "10"), {"concurrency": 10}).finish()
    found = page(services, play)
    assert sum(found.counts.values()) == 10
    assert found.counts["failed"] == 1
    assert [(item.number, item.state) for item in found.items if item.state == "failed"] == [(4, "failed")]
    assert found.unlisted is None
    assert Counter(str(item.state) for item in found.items) == Counter(found.counts)


def test_a_resumed_loop_does_not_say_which_items_it_has_taken(services: TenantServices, store: Store) -> None:
    text = STOPPING.replace("CONCURRENCY", "1").replace("item == 4", "item == input.concurrency")
    play = RunHarness(store, text, {"concurrency": 4}).finish()
    play.resume(concurrency=8)
    assert page(services, play).counts == {"succeeded": 3, "failed": 1, "pending": 6}
    play.finish()
    assert states(services, play) == "sssssssfcc"


def test_a_loop_that_waits_has_its_items(services: TenantServices, store: Store) -> None:
    play = RunHarness(store, WAITING)
    assert play.execute_next()
    first = page(services, play)
    assert (states(services, play), first.status) == ("sfssppp", "pending")
    assert (first.counts, first.unlisted) == ({"succeeded": 3, "failed": 1, "pending": 3}, None)
    assert play.execute_next()
    second = page(services, play)
    assert (states(services, play), second.status) == ("sfsswrs", "waiting")
    assert second.counts == {"succeeded": 4, "failed": 1, "waiting": 1, "retrying": 1}
    waiting, retrying = second.items[4:6]
    assert waiting.waiting_for is not None
    assert retrying.waiting_for is not None
    assert (waiting.waiting_for.actions, waiting.attempts) == (["callback"], 1)
    assert waiting.waiting_for.questions is not None
    assert waiting.waiting_for.questions[0].title == "Item 5?"
    assert (retrying.waiting_for.retried, retrying.attempts) == (["shell"], 2)
    store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
    play.finish()
    third = page(services, play)
    assert (states(services, play), third.status) == ("sfssccs", "cancelled")
    assert third.counts == {"succeeded": 4, "failed": 1, "cancelled": 2}


def test_a_loop_that_runs_shows_the_failed_items_that_are_written(
    services: TenantServices, store: Store
) -> None:
    play = RunHarness(store, SHIP, {"count": 9, "bad": [2]})
    claim = play.claim()
    assert claim is not None
    empty = page(services, play, "ship it/now")
    assert (empty.total, empty.counts, list(empty.items), empty.status) == (None, {}, [], "running")
    play.executor().execute(claim)  # It is claimed; its events are written with its end.
    assert page(services, play, "ship it/now").counts == {"succeeded": 8, "failed": 1}


def test_a_retried_attempt_counts_anew(services: TenantServices, store: Store) -> None:
    text = """
        steps:
          - name: a
            retry: {attempts: 2, delay: 1h}
            loop: {items: [1, 2, 3]}
            run: [{action: shell, command: "false", if: "{{ item == 2 and step.attempt == 1 }}"}]
    """
    play = RunHarness(store, text)
    assert play.execute_next()
    assert (states(services, play), page(services, play).status) == ("sfp", "retrying")
    play.finish()
    assert (states(services, play), page(services, play).counts) == ("sss", {"succeeded": 3})


def test_more_failed_items_than_the_history_keeps_are_counted(services: TenantServices, store: Store) -> None:
    text = """
        steps:
          - name: a
            run:
              - {action: fail, message: "{{ 'no' * 900 }}", loop: {items: "{{ range(99) | list }}",
                 on_error: continue}}
              - {action: set, set: {x: 1}}
    """
    play = RunHarness(store, text).finish()
    found = page(services, play, limit=1000)
    assert found.counts == {"failed": 99}
    assert found.unlisted is not None
    assert len(found.items) + found.unlisted["failed"] == 99
    assert 10 < len(found.items) < 99
    kept = sum(len(json.dumps(event.payload)) for event in play.events if event.type == "loop.item_failed")
    assert kept < 1.5 * MAX_ITEMS_CHARACTERS


def test_a_step_may_have_several_loops(services: TenantServices, store: Store) -> None:
    text = """
        tasks:
          send/all: [{action: fail, message: no, loop: {items: [1], on_error: continue}}]
        steps:
          - name: a
            run:
              - {action: fail, message: no, loop: {items: [1, 2], on_error: continue}}
              - {task: send/all}
              - {action: set, set: {x: 1}, loop: {items: [1, 2, 3]}}
    """
    play = RunHarness(store, text).finish()
    last = page(services, play)
    assert (last.loop, last.counts) == ("run.2", {"succeeded": 3})
    assert last.loops is not None
    assert [(loop.position, loop.failed, loop.total) for loop in last.loops] == [
        ("run.0", 2, 2),
        ("run.1/send/all.0", 1, 1),
        ("run.2", 0, 3),
    ]
    for loop in last.loops:
        found = page(services, play, loop=loop.position)
        assert (found.total, found.counts.get("failed", 0)) == (loop.total, loop.failed)
        assert len(found.items) == loop.total
    with pytest.raises(NotFoundError, match=r"unknown loop `run\.9`; the visit has `run\.0`"):
        page(services, play, loop="run.9")


def test_a_cursor_of_another_list_is_refused(services: TenantServices, store: Store) -> None:
    play = RunHarness(store, SHIP, {"count": 9, "bad": [1, 2, 3]}).finish()
    other = RunHarness(store, SHIP, {"count": 9, "bad": [1, 2, 3]}).finish()
    failed = page(services, play, "ship it/now", state=ItemState.FAILED, limit=1).next_cursor
    assert failed is not None
    cursors: list[tuple[RunHarness, str, ItemState | None]] = [
        (play, failed, None),
        (other, failed, ItemState.FAILED),
        *((play, text, ItemState.FAILED) for text in ("", "x", "é", "bnVsbA==", "WzEsMV0=", "W1tdLDEsMV0=")),
    ]
    for run, cursor, state in cursors:
        with pytest.raises(RejectedError) as rejected:
            page(services, run, "ship it/now", state=state, cursor=cursor)
        assert rejected.value.reason == "invalid_cursor"


def test_an_item_of_5_mb_is_shown_by_its_beginning(services: TenantServices, store: Store) -> None:
    text = """
        input: {size: integer}
        steps:
          - name: a
            loop: {items: ["{{ 'x' * size }}", "{{ 'y' * size }}", z], on_error: continue}
            run: [{action: fail, message: no}]
    """
    play = RunHarness(store, text, {"size": 5_000_000}).finish()
    items = all_items(services, play)
    assert [(item.number, (item.value or "")[:3]) for item in items] == [(1, '"xx'), (2, '"yy'), (3, '"z"')]
    assert len(json.dumps([to_json(item) for item in items])) < 5_000


def test_hostile_values_are_shown_as_json(services: TenantServices, store: Store) -> None:
    text = """
        steps:
          - name: a
            loop: {items: ["<script>alert(1)</script>", "\\u202e\\u001b[31m"], on_error: continue}
            run: [{action: fail, message: "{{ item }}"}]
    """
    play = RunHarness(store, text).finish()
    first, second = page(services, play).items
    assert first.value == '"<script>alert(1)</script>"'
    assert second.value is not None
    assert "\x1b" not in second.value


def test_the_positions_of_the_plan_are_found() -> None:
    plan = compile_text(
        """
        tasks:
          t/1: [{action: set, set: {x: 1}, loop: {items: [1]}}, {task: t.2}]
          t.2: [{action: set, set: {x: 1}, loop: {items: [2]}}]
        steps:
          - name: a
            run: [{action: set, set: {x: 1}}, {task: t/1}]
            rule: [{case: default, run: [b], do: []}]
          - name: b
            run: [{action: set, set: {x: 1}}]
    """.replace(", do: []", "")
    )
    step, other = plan.steps["a"], plan.steps["b"]
    found = {
        position: find_loop(step, plan.tasks.__getitem__, position)
        for position in ("run.0", "run.1/t/1.0", "run~2.1/t/1.1/t.2.0", "run.1/no.0", "x", "run")
    }
    assert {position: loop.items for position, loop in found.items() if isinstance(loop, Loop)} == {
        "run.1/t/1.0": [1],
        "run~2.1/t/1.1/t.2.0": [2],
    }
    assert has_loop(step, plan.tasks.__getitem__)
    assert not has_loop(other, plan.tasks.__getitem__)


@pytest.mark.parametrize("size", [1, 100, 70_000, 300_000])
def test_failed_items_are_read_in_parts(size: int) -> None:
    failures: list[Any] = [
        {"index": n, "item": "é" * (size if n == 2 else 1), "error": {}} for n in (1, 2, 3)
    ]
    text = json.dumps(failures, separators=(",", ":"))

    def read(start: int, length: int) -> str:
        return text[start : start + length]

    entries = list(read_entries(read, 0))
    assert [entry.members for entry in entries] == failures
    for entry in entries:
        assert next(read_entries(read, entry.begin)).members == entry.members
    assert list(read_entries(read, entries[-1].end)) == []
    with pytest.raises(RejectedError):
        next(read_entries(read, 2))


@pytest.mark.anyio
async def test_the_route_answers_with_pages_and_problems(http: httpx.AsyncClient) -> None:
    text = SHIP.replace("    run:\n", "    rule: [{case: default, run: [b]}]\n    run:\n", 1)
    body = {"playbook": text + "  - {name: b, run: [{action: set, set: {x: 1}}]}\n"}
    answer = await http.post(
        "/workflows/run", json={**body, "input": {"count": 4, "bad": [2]}}, headers={"Prefer": "wait=25"}
    )
    path = f"/workflows/{answer.json()['workflow_id']}/items"
    query: dict[str, Any] = {"step": "ship it/now", "state": "failed"}
    response = await http.get(path, params=query)
    found = read_view(LoopItems, response.json())
    assert [(item.number, item.state) for item in found.items] == [(2, "failed")]
    assert_problem(await http.get(path, params={"step": "b"}), 422, "no-loop")
    assert_problem(await http.get(path, params={"step": "<script>"}), 404, "not-found")
    assert_problem(await http.get(path, params={**query, "visit": 2}), 404, "not-found")
    assert_problem(await http.get(path, params={**query, "loop": "run.1"}), 404, "not-found")
    assert_problem(await http.get(path, params={**query, "state": "broken"}), 400, "invalid-request")
    assert_problem(await http.get(path, params={**query, "limit": 1001}), 400, "invalid-request")
    assert_problem(await http.get(path, params={**query, "cursor": "x"}), 400, "invalid-cursor")
    assert_problem(await http.get(path), 400, "invalid-request")
    assert_problem(await http.get("/workflows/none/items", params=query), 404, "not-found")
