"""The service that HTTP and the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.api.service.errors import NotFoundError, PlaybookError
from noetl.api.service.runs import Service
from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.worker import Worker
from tests.run_harness import RunHarness, compile_text

ADD = """\
name: add
version: "2"
input: {a: integer, b: {type: integer, default: 1}}
variables: {c: 0}
steps:
  - name: sum
    run:
      - {action: set, set: {total: "{{ input.a + input.b + c }}"}}
    rule:
      - {case: "{{ total > 1000 }}", run: [large]}
  - name: large
    run:
      - {action: log, message: large}
output: {total: "{{ total }}"}
"""

PATIENT = """\
name: patient
steps:
  - name: try
    retry: {attempts: 2, delay: 1h}
    run:
      - {action: shell, command: "false"}
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'noetl.db'}")
    yield store
    store.close()


@pytest.fixture
def service(store: Store) -> Service:
    return Service(store, catalogue())


def run_to_end(store: Store, run: Run) -> Run:
    worker = Worker(store, threads=1, capabilities=Capabilities())
    worker.start()
    try:
        return worker.wait_until_finished(run.tenant, run.id, 30)
    finally:
        worker.stop()


def test_a_run_starts_queued_and_ends_with_a_result(service: Service, store: Store) -> None:
    run = service.start(ADD, input={"a": 2}, variables={"c": 5}, tags=["x"])
    assert (run.status, run.playbook, run.version) == (RunStatus.QUEUED, "add", "2")
    assert service.status(run.id)["steps"]["sum"] == {
        "status": "pending",
        "visits": 0,
        "attempt": 0,
        "case": None,
        "error": None,
    }
    assert service.result(run.id) == {"workflow_id": run.id, "status": "queued", "result": None, "errors": []}
    run_to_end(store, run)
    assert service.result(run.id) == {
        "workflow_id": run.id,
        "status": "succeeded",
        "result": {"total": 8},
        "errors": [],
    }
    status = service.status(run.id)
    assert status["progress"] == {"steps": 2, "finished": 1, "running": 0}
    assert not [name for name in status["steps"] if name.startswith("@")]
    assert service.plan(run.id).source == ADD


def test_a_playbook_that_does_not_compile_starts_nothing(service: Service) -> None:
    with pytest.raises(PlaybookError) as raised:
        service.start("name: a\n", input={})
    assert [diagnostic.code for diagnostic in raised.value.diagnostics] == ["NP011"]
    assert service.runs()["items"] == []


def test_an_idempotency_key_belongs_to_one_request(service: Service) -> None:
    first = service.start(ADD, input={"a": 1}, idempotency_key="k")
    assert service.start(ADD, input={"a": 1}, idempotency_key="k").id == first.id
    assert service.start(ADD, input={"a": 1}).id != first.id
    with pytest.raises(RejectedError) as raised:
        service.start(ADD, input={"a": 2}, idempotency_key="k")
    assert raised.value.reason == "idempotency_key_reused"


def test_tenants_do_not_see_each_other(service: Service) -> None:
    run = service.for_tenant("one").start(ADD, input={"a": 1}, idempotency_key="k")
    assert service.for_tenant("two").start(ADD, input={"a": 2}, idempotency_key="k").id != run.id
    assert [item["workflow_id"] for item in service.for_tenant("one").runs()["items"]] == [run.id]
    for other in (service, service.for_tenant("two")):
        for call in (other.run, other.status, other.result, other.events, other.cancel, other.resume):
            with pytest.raises(NotFoundError):
                call(run.id)
    with pytest.raises(NotFoundError):
        service.for_tenant("two").start_from(run.id, "sum")


def test_tenants_do_not_see_each_others_playbooks(service: Service) -> None:
    service.for_tenant("one").register(ADD)
    assert service.for_tenant("two").playbooks()["items"] == []
    other = service.for_tenant("two")
    for call in (other.playbook, other.playbooks, other.unregister):
        with pytest.raises(NotFoundError):
            call("add")
    with pytest.raises(NotFoundError):
        service.for_tenant("two").start_registered("add", input={"a": 1})
    assert service.for_tenant("two").register(ADD.replace("1000", "2000"))[1]
    service.for_tenant("two").unregister("add")
    assert service.for_tenant("one").playbook("add")["source"] == ADD
    assert service.for_tenant("one").start_registered("add", input={"a": 1}).tenant == "one"


def test_a_step_between_two_attempts_is_retrying(service: Service, store: Store, tmp_path: Path) -> None:
    run = service.start(PATIENT, input={})
    worker = Worker(store, threads=1, capabilities=Capabilities(shell=True, folder=tmp_path))
    worker.start()
    try:
        while service.status(run.id)["steps"]["try"]["status"] != "retrying":
            store.changes.wait(store.changes.count, 0.1)
    finally:
        worker.stop()
    status = service.status(run.id)
    assert (status["steps"]["try"]["visits"], status["progress"]["finished"]) == (1, 0)
    assert status["status"] == "waiting"


def test_the_status_shows_waits_and_loop_progress(service: Service, store: Store) -> None:
    text = """
        name: many
        steps:
          - name: a
            loop: {items: "{{ range(5) | list }}", batch: 2, concurrency: 2, on_error: continue}
            run:
              - {action: fail, message: no, if: "{{ item == 1 }}"}
              - {action: wait, seconds: "{{ 3600 if item == 4 else 60 }}", if: "{{ item >= 3 }}"}
    """
    play = RunHarness(store, text)

    def execute_and_view() -> dict[str, Any]:
        assert play.execute_next()
        step: dict[str, Any] = service.status(play.id)["steps"]["a"]
        return step

    assert service.status(play.id)["steps"]["a"].keys().isdisjoint({"waiting_for", "loops"})
    step = execute_and_view()
    assert step["loops"] == [{"position": "run", "done": 2, "failed": 1, "total": 5}]
    assert (step["status"], step["visits"], "waiting_for" in step) == ("pending", 1, False)
    step = execute_and_view()
    assert step["loops"] == [{"position": "run", "done": 3, "failed": 1, "total": 5}]
    until = timestamp(play.clock() + 60)
    assert (step["status"], step["waiting_for"]) == (
        "waiting",
        {"until": until, "actions": ["wait"], "workflows": []},
    )
    play.clock.advance(60)
    assert execute_and_view()["loops"][0]["done"] == 4
    play.finish()
    step = service.status(play.id)["steps"]["a"]
    assert (step["status"], step.keys().isdisjoint({"waiting_for", "loops"})) == ("succeeded", True)


def test_loops_have_positions_and_inner_loops_are_skipped(service: Service, store: Store) -> None:
    text = """
        name: nested
        tasks:
          inner: [{action: wait, seconds: 60, loop: {items: [1, 2]}}]
        steps:
          - name: a
            parallel: true
            run:
              - {action: wait, seconds: "{{ item }}", loop: {items: [0, 60, 120]}}
              - {task: inner, loop: {items: [1]}}
              - {task: inner}
    """
    play = RunHarness(store, text)
    play.execute_next()
    found = {
        loop["position"]: (loop["done"], loop["total"])
        for loop in service.status(play.id)["steps"]["a"]["loops"]
    }
    assert found == {"run.0": (1, 3), "run.1": (0, 1), "run.2/inner.0": (0, 2)}


@pytest.mark.parametrize("action", ["workflow, playbook: child", "shell, command: exit 1"])
def test_a_retrying_action_is_in_the_status(service: Service, store: Store, action: str) -> None:
    child = compile_text("name: child\nsteps: [{name: a, run: [{action: fail, message: no}]}]")
    store.plans.save(child)
    store.registry.register(RegisteredPlaybook("default", "child", None, child.hash, 0.0))
    text = f"""
        name: again
        steps:
          - name: a
            run: [{{action: {action}, retry: {{attempts: 2, delay: 30s, jitter: false}}}}]
    """
    play = RunHarness(store, text)
    while service.status(play.id)["steps"]["a"].get("waiting_for", {}).get("retried") is None:
        assert play.execute_next()
    waiting_for = service.status(play.id)["steps"]["a"]["waiting_for"]
    until = timestamp(play.clock() + 30)
    assert waiting_for == {"until": until, "actions": [], "workflows": [], "retried": [action.split(",")[0]]}
    assert play.finish().status == "failed"


def test_a_repeating_step_waits_for_a_time(service: Service, store: Store) -> None:
    text = """
        name: poll
        steps:
          - name: a
            repeat: {until: "{{ false }}", every: 30s, max: 3}
            run: [{action: log, message: asking}]
    """
    play = RunHarness(store, text)
    play.execute_next()
    waiting_for = service.status(play.id)["steps"]["a"]["waiting_for"]
    assert waiting_for == {"until": timestamp(play.clock() + 30), "actions": [], "workflows": []}


def test_a_queued_run_is_cancelled(service: Service, store: Store) -> None:
    run = service.start(ADD, input={"a": 1})
    service.cancel(run.id)
    assert run_to_end(store, run).status is RunStatus.CANCELLED
    assert service.status(run.id)["steps"]["sum"]["status"] == "cancelled"


def test_a_playbook_is_registered_once(service: Service) -> None:
    entry, is_new = service.register(ADD)
    assert (entry["name"], entry["version"], is_new) == ("add", "2", True)
    assert service.register(ADD.encode()) == (entry, False)
    assert service.playbook("add") == service.playbook("add", "2") == entry | {"source": ADD}
    assert service.playbooks() == service.playbooks("add") == {"items": [entry], "next_cursor": None}
    with pytest.raises(RejectedError) as error_info:
        service.register(ADD.replace("1000", "2000"))
    assert error_info.value.reason == "version_exists"
    with pytest.raises(PlaybookError):
        service.register("name: a\n")
    service.unregister("add", "2")
    assert service.register(ADD) == (entry, True)


def test_a_text_compiled_by_another_release_is_not_new(service: Service, store: Store) -> None:
    plan = service.compile(ADD).plan
    assert plan is not None
    earlier = replace(plan, header=replace(plan.header, statistics={"another": "release"}))
    store.plans.save(earlier)
    store.registry.register(RegisteredPlaybook("default", "add", "2", earlier.hash, 1.0))
    entry, is_new = service.register(ADD)
    assert (entry["plan_hash"], is_new) == (earlier.hash, False)


def test_a_registered_playbook_is_run(service: Service, store: Store) -> None:
    service.register(ADD)
    run = service.start_registered("add", "2", input={"a": 2}, variables={"c": 5}, tags=["x"])
    assert (run.playbook, run.version, run.tags) == ("add", "2", ("x",))
    assert run_to_end(store, run).result == {"total": 8}
    with pytest.raises(NotFoundError, match="unknown version `3` of playbook `add`"):
        service.start_registered("add", "3", input={})
    with pytest.raises(NotFoundError, match="unknown playbook `sub`"):
        service.start_registered("sub", input={})


def test_an_idempotency_key_distinguishes_text_and_reference(service: Service) -> None:
    service.register(ADD)
    first = service.start_registered("add", input={"a": 1}, idempotency_key="k")
    assert service.start_registered("add", input={"a": 1}, idempotency_key="k").id == first.id
    assert service.start_registered("add", input={"a": 1}, idempotency_key="l").id != first.id
    for start in (
        lambda: service.start_registered("add", input={"a": 2}, idempotency_key="k"),
        lambda: service.start_registered("add", "2", input={"a": 1}, idempotency_key="k"),
        lambda: service.start(ADD, input={"a": 1}, idempotency_key="k"),
    ):
        with pytest.raises(RejectedError) as error_info:
            start()
        assert error_info.value.reason == "idempotency_key_reused"


def test_a_new_run_starts_at_a_step_of_another(service: Service, store: Store) -> None:
    run = service.start(ADD, input={"a": 2}, tags=["x"])
    run_to_end(store, run)
    fresh = service.start_from(run.id, "large", {"b": 5})
    assert (fresh.resumed_from, fresh.input, fresh.tags) == (run.id, {"a": 2, "b": 5}, ("x",))
    assert run_to_end(store, fresh).result == {"total": 3}
    assert service.status(fresh.id)["resumed_from"] == run.id
    assert "resumed_from" not in service.status(run.id)
    with pytest.raises(RejectedError, match="unknown step `larg`; did you mean `large`") as error_info:
        service.start_from(run.id, "larg")
    assert error_info.value.reason == "unknown_step"


def test_an_unknown_token_is_rejected(service: Service) -> None:
    for call in (lambda: service.answer("x", 1), lambda: service.record_heartbeat("x")):
        with pytest.raises(RejectedError) as error_info:
            call()
        assert error_info.value.reason == "unknown_token"


def test_short_compilations_are_cached(service: Service) -> None:
    assert service.compile(ADD) is service.compile(ADD)
    assert service.compile(ADD) is not service.compile(ADD + "\n")
    long = ADD + "#" * 100_000
    assert service.compile(long) is not service.compile(long)


def test_input_of_an_unfinished_run_cannot_be_corrected(service: Service) -> None:
    run = service.start("name: x\nsteps: [{name: a, run: [{action: log, message: x}]}]", input={})
    assert service.resume(run.id)["status"] == "queued"
    with pytest.raises(RejectedError) as error_info:
        service.resume(run.id, {"x": 1})
    assert error_info.value.reason == "not_ended"
