"""What HTTP and the command line share, without either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.service import NotFoundError, PlaybookError, Service
from executor.actions import catalogue
from executor.actions.action import Capabilities
from executor.errors import RejectedError
from executor.records import Run, RunStatus
from executor.stores import open_store
from executor.stores.store import Store
from executor.worker import Worker

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


def walk(store: Store, run: Run) -> Run:
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
    walk(store, run)
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


def test_a_key_belongs_to_one_request(service: Service) -> None:
    first = service.start(ADD, input={"a": 1}, idempotency_key="k")
    assert service.start(ADD, input={"a": 1}, idempotency_key="k").id == first.id
    assert service.start(ADD, input={"a": 1}).id != first.id
    with pytest.raises(RejectedError) as raised:
        service.start(ADD, input={"a": 2}, idempotency_key="k")
    assert raised.value.reason == "idempotency_key_reused"


def test_tenants_do_not_see_each_other(service: Service) -> None:
    run = service.start(ADD, input={"a": 1}, tenant="one", idempotency_key="k")
    assert service.start(ADD, input={"a": 2}, tenant="two", idempotency_key="k").id != run.id
    assert [item["workflow_id"] for item in service.runs(tenant="one")["items"]] == [run.id]
    for ask in (service.run, service.status, service.result, service.events, service.cancel, service.resume):
        with pytest.raises(NotFoundError):
            ask(run.id, tenant="two")
        with pytest.raises(NotFoundError):
            ask(run.id)


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


def test_a_queued_run_is_cancelled(service: Service, store: Store) -> None:
    run = service.start(ADD, input={"a": 1})
    service.cancel(run.id)
    assert walk(store, run).status is RunStatus.CANCELLED
    assert service.status(run.id)["steps"]["sum"]["status"] == "cancelled"


def test_compilations_are_kept(service: Service) -> None:
    assert service.compile(ADD) is service.compile(ADD)
    assert service.compile(ADD) is not service.compile(ADD + "\n")
    long = ADD + "#" * 100_000
    assert service.compile(long) is not service.compile(long)


def test_input_is_not_corrected_while_a_run_goes_on(service: Service) -> None:
    run = service.start("name: x\nsteps: [{name: a, run: [{action: log, message: x}]}]", input={})
    assert service.resume(run.id)["status"] == "queued"
    with pytest.raises(RejectedError) as rejected:
        service.resume(run.id, {"x": 1})
    assert rejected.value.reason == "not_ended"
