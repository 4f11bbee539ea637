"""The service that HTTP and the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.api.service.compiler import InlinePlaybook, PlaybookCompiler, PlaybookReference
from noetl.api.service.errors import NotFoundError, PlaybookError
from noetl.api.service.playbooks import PlaybookText
from noetl.api.service.runs import ResumeRequest
from noetl.api.service.services import TenantServices, create_services
from noetl.api.service.views import PlaybookPage, View, members
from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.worker import Worker, WorkerSettings
from noetl.testing.run_harness import RunHarness, compile_text

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
def services(store: Store) -> TenantServices:
    return create_services(store, catalogue())


def start(services: TenantServices, text: str, input: dict[str, Any] | None = None, **options: Any) -> Run:
    return services.runs.start(InlinePlaybook(text), StartRequest(input or {}, **options))


def to_json(view: View) -> Any:
    return json.loads(json.dumps(view, default=members))


def status_of(services: TenantServices, run_id: str) -> dict[str, Any]:
    status: dict[str, Any] = to_json(services.runs.report(run_id))
    return status


def start_registered(
    services: TenantServices, name: str, version: str | None, input: dict[str, Any], **options: Any
) -> Run:
    return services.runs.start(PlaybookReference(name, version), StartRequest(input, **options))


def run_to_end(store: Store, run: Run) -> Run:
    worker = Worker(store, WorkerSettings(Capabilities(), threads=1))
    worker.start()
    try:
        return worker.wait_until_finished(run.tenant, run.id, 30)
    finally:
        worker.stop()


def test_a_run_starts_queued_and_ends_with_a_result(services: TenantServices, store: Store) -> None:
    run = start(services, ADD, {"a": 2}, variables={"c": 5}, tags=["x"])
    assert (run.status, run.playbook, run.version) == (RunStatus.QUEUED, "add", "2")
    assert status_of(services, run.id)["steps"]["sum"] == {
        "status": "pending",
        "visits": 0,
        "attempt": 0,
        "case": None,
        "error": None,
    }
    assert to_json(services.runs.result(run.id)) == {
        "workflow_id": run.id,
        "status": "queued",
        "result": None,
        "errors": [],
    }
    run_to_end(store, run)
    assert to_json(services.runs.result(run.id)) == {
        "workflow_id": run.id,
        "status": "succeeded",
        "result": {"total": 8},
        "errors": [],
    }
    status = status_of(services, run.id)
    assert status["progress"] == {"steps": 2, "finished": 1, "running": 0}
    assert not [name for name in status["steps"] if name.startswith("@")]
    assert services.runs.plan(run.id).source == ADD


def test_a_playbook_that_does_not_compile_starts_nothing(services: TenantServices) -> None:
    with pytest.raises(PlaybookError) as raised:
        start(services, "name: a\n", {})
    assert [diagnostic.code for diagnostic in raised.value.diagnostics] == ["NP011"]
    assert services.runs.find(RunFilter()).items == []


def test_an_idempotency_key_belongs_to_one_request(services: TenantServices) -> None:
    first = start(services, ADD, {"a": 1}, idempotency_key="k")
    assert start(services, ADD, {"a": 1}, idempotency_key="k").id == first.id
    assert start(services, ADD, {"a": 1}).id != first.id
    with pytest.raises(RejectedError) as raised:
        start(services, ADD, {"a": 2}, idempotency_key="k")
    assert raised.value.reason == "idempotency_key_reused"


def test_tenants_do_not_see_each_other(services: TenantServices) -> None:
    run = start(services.for_tenant("one"), ADD, {"a": 1}, idempotency_key="k")
    assert start(services.for_tenant("two"), ADD, {"a": 2}, idempotency_key="k").id != run.id
    page = services.for_tenant("one").runs.find(RunFilter(tenant="two"))
    assert [item.workflow_id for item in page.items] == [run.id]
    for tenant in (services, services.for_tenant("two")):
        other = tenant.runs
        for call in (
            other.get,
            other.report,
            other.result,
            other.plan,
            tenant.data.drawn_run,
            other.events,
            other.cancel,
            lambda run_id, runs=other: runs.resume(run_id, ResumeRequest()),
            lambda run_id, runs=other: runs.resume(run_id, ResumeRequest(step="sum")),
        ):
            with pytest.raises(NotFoundError):
                call(run.id)


def test_tenants_do_not_see_each_others_playbooks(services: TenantServices) -> None:
    first, second = services.for_tenant("one"), services.for_tenant("two")
    first.playbooks.register(ADD)
    assert second.playbooks.find().items == []
    for call in (second.playbooks.get, second.playbooks.find, second.playbooks.unregister):
        with pytest.raises(NotFoundError):
            call("add")
    with pytest.raises(NotFoundError):
        second.playbooks.describe(PlaybookReference("add"))
    with pytest.raises(NotFoundError):
        start_registered(second, "add", None, {"a": 1})
    assert second.playbooks.register(ADD.replace("1000", "2000"))[1]
    second.playbooks.unregister("add")
    assert first.playbooks.get("add").text == ADD
    assert start_registered(first, "add", None, {"a": 1}).tenant == "one"


def test_a_step_between_two_attempts_is_retrying(
    services: TenantServices, store: Store, tmp_path: Path
) -> None:
    run = start(services, PATIENT, {})
    worker = Worker(store, WorkerSettings(Capabilities(shell=True, folder=tmp_path), threads=1))
    worker.start()
    try:
        while status_of(services, run.id)["steps"]["try"]["status"] != "retrying":
            store.changes.wait(store.changes.count, 0.1)
    finally:
        worker.stop()
    status = status_of(services, run.id)
    assert (status["steps"]["try"]["visits"], status["progress"]["finished"]) == (1, 0)
    assert status["status"] == "waiting"


def test_the_status_shows_waits_and_loop_progress(services: TenantServices, store: Store) -> None:
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
        step: dict[str, Any] = status_of(services, play.id)["steps"]["a"]
        return step

    assert status_of(services, play.id)["steps"]["a"].keys().isdisjoint({"waiting_for", "loops"})
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
    step = status_of(services, play.id)["steps"]["a"]
    assert (step["status"], step.keys().isdisjoint({"waiting_for", "loops"})) == ("succeeded", True)


def test_loops_have_positions_and_inner_loops_are_skipped(services: TenantServices, store: Store) -> None:
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
        for loop in status_of(services, play.id)["steps"]["a"]["loops"]
    }
    assert found == {"run.0": (1, 3), "run.1": (0, 1), "run.2/inner.0": (0, 2)}


@pytest.mark.parametrize("action", ["workflow, playbook: child", "shell, command: exit 1"])
def test_a_retrying_action_is_in_the_status(services: TenantServices, store: Store, action: str) -> None:
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
    while status_of(services, play.id)["steps"]["a"].get("waiting_for", {}).get("retried") is None:
        assert play.execute_next()
    waiting_for = status_of(services, play.id)["steps"]["a"]["waiting_for"]
    until = timestamp(play.clock() + 30)
    assert waiting_for == {"until": until, "actions": [], "workflows": [], "retried": [action.split(",")[0]]}
    assert play.finish().status == "failed"


def test_a_repeating_step_waits_for_a_time(services: TenantServices, store: Store) -> None:
    text = """
        name: poll
        steps:
          - name: a
            repeat: {until: "{{ false }}", every: 30s, max: 3}
            run: [{action: log, message: asking}]
    """
    play = RunHarness(store, text)
    play.execute_next()
    waiting_for = status_of(services, play.id)["steps"]["a"]["waiting_for"]
    assert waiting_for == {"until": timestamp(play.clock() + 30), "actions": [], "workflows": []}


def test_a_queued_run_is_cancelled(services: TenantServices, store: Store) -> None:
    run = start(services, ADD, {"a": 1})
    services.runs.cancel(run.id)
    assert run_to_end(store, run).status is RunStatus.CANCELLED
    assert status_of(services, run.id)["steps"]["sum"]["status"] == "cancelled"


def test_a_playbook_is_registered_once(services: TenantServices) -> None:
    playbooks = services.playbooks
    entry, is_new = playbooks.register(ADD)
    assert (entry.name, entry.version, is_new) == ("add", "2", True)
    assert playbooks.register(ADD.encode()) == (entry, False)
    assert playbooks.get("add") == playbooks.get("add", "2") == PlaybookText(entry, ADD)
    assert playbooks.find() == playbooks.find("add") == PlaybookPage(items=[entry], next_cursor=None)
    with pytest.raises(RejectedError) as error_info:
        playbooks.register(ADD.replace("1000", "2000"))
    assert error_info.value.reason == "version_exists"
    with pytest.raises(PlaybookError):
        playbooks.register("name: a\n")
    playbooks.unregister("add", "2")
    assert playbooks.register(ADD) == (entry, True)


def test_a_text_compiled_by_another_release_is_not_new(services: TenantServices, store: Store) -> None:
    plan = PlaybookCompiler(catalogue()).compile(ADD).plan
    assert plan is not None
    earlier = replace(plan, header=replace(plan.header, statistics={"another": "release"}))
    store.plans.save(earlier)
    store.registry.register(RegisteredPlaybook("default", "add", "2", earlier.hash, 1.0))
    entry, is_new = services.playbooks.register(ADD)
    assert (entry.plan_hash, is_new) == (earlier.hash, False)


def test_a_registered_playbook_is_run(services: TenantServices, store: Store) -> None:
    services.playbooks.register(ADD)
    run = start_registered(services, "add", "2", {"a": 2}, variables={"c": 5}, tags=["x"])
    assert (run.playbook, run.version, run.tags) == ("add", "2", ("x",))
    assert run_to_end(store, run).result == {"total": 8}
    with pytest.raises(NotFoundError, match="unknown version `3` of playbook `add`"):
        start_registered(services, "add", "3", {})
    with pytest.raises(NotFoundError, match="unknown playbook `sub`"):
        start_registered(services, "sub", None, {})
    with pytest.raises(NotFoundError, match="unknown version `live` of playbook `add`"):
        services.aliases.put("add", "prod", "live")


def test_an_idempotency_key_distinguishes_text_and_reference(services: TenantServices) -> None:
    services.playbooks.register(ADD)
    first = start_registered(services, "add", None, {"a": 1}, idempotency_key="k")
    assert start_registered(services, "add", None, {"a": 1}, idempotency_key="k").id == first.id
    assert start_registered(services, "add", None, {"a": 1}, idempotency_key="l").id != first.id
    other_requests: list[Callable[[], Run]] = [
        lambda: start_registered(services, "add", None, {"a": 2}, idempotency_key="k"),
        lambda: start_registered(services, "add", "2", {"a": 1}, idempotency_key="k"),
        lambda: start(services, ADD, {"a": 1}, idempotency_key="k"),
    ]
    for start_again in other_requests:
        with pytest.raises(RejectedError) as error_info:
            start_again()
        assert error_info.value.reason == "idempotency_key_reused"


def test_a_new_run_starts_at_a_step_of_another(services: TenantServices, store: Store) -> None:
    run = start(services, ADD, {"a": 2}, tags=["x"])
    run_to_end(store, run)
    fresh = services.runs.resume(run.id, ResumeRequest({"b": 5}, "large"))
    assert (fresh.resumed_from, fresh.input, fresh.tags) == (run.id, {"a": 2, "b": 5}, ("x",))
    assert run_to_end(store, fresh).result == {"total": 3}
    assert status_of(services, fresh.id)["resumed_from"] == run.id
    assert "resumed_from" not in status_of(services, run.id)
    with pytest.raises(RejectedError, match="unknown step `larg`; did you mean `large`") as error_info:
        services.runs.resume(run.id, ResumeRequest(step="larg"))
    assert error_info.value.reason == "unknown_step"


def test_an_unknown_token_is_rejected(services: TenantServices) -> None:
    for call in (
        lambda: services.callbacks.answer("x", 1),
        lambda: services.callbacks.record_heartbeat("x"),
    ):
        with pytest.raises(RejectedError) as error_info:
            call()
        assert error_info.value.reason == "unknown_token"


def test_short_compilations_are_cached() -> None:
    compiler = PlaybookCompiler(catalogue())
    assert compiler.compile(ADD) is compiler.compile(ADD)
    assert compiler.compile(ADD) is not compiler.compile(ADD + "\n")
    long = ADD + "#" * 100_000
    assert compiler.compile(long) is not compiler.compile(long)


def test_input_of_an_unfinished_run_cannot_be_corrected(services: TenantServices) -> None:
    run = start(services, "name: x\nsteps: [{name: a, run: [{action: log, message: x}]}]", {})
    assert services.runs.resume(run.id, ResumeRequest()).status == "queued"
    with pytest.raises(RejectedError) as error_info:
        services.runs.resume(run.id, ResumeRequest({"x": 1}))
    assert error_info.value.reason == "not_ended"
