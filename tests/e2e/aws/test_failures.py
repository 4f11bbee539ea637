"""Failures of workers, functions, messages and permissions: runs end anyway."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from tests.e2e.aws.service import SECONDS, DeployedService, wait_for
from tests.e2e.aws.stack import RUNTIME, DeployedStack
from tests.http_server import StubExchange, serve
from tests.tool_environments import tool_environment

CALL = (
    "steps: [{{name: a, run: [{{action: http, url: '{url}', as: reply}}]}}]\n"
    "output: {{status: '{{{{ reply.status }}}}'}}"
)
LIMITED_CALL = CALL.replace("name: a,", "name: a, concurrency: 1, rate: {{limit: 2, per: 1s}},")
"""A call whose step has a place and a unit, which a lost worker must neither keep nor take twice."""

TICKING = """
name: ticking
concurrency: 1
triggers:
- name: often
  type: schedule
  every: 2s
  catch_up: all
  timezone: Europe/Berlin
  input: {local: "{{ trigger.local }}"}
input: {local: {type: string}}
steps:
- {name: a, run: [{action: http, url: "URL{{ run.id }}"}], rule: [{case: default, run: [b]}]}
- {name: b, run: [{action: http, url: "URL{{ run.id }}"}, {action: set, set: {seen: "{{ local }}"}}]}
"""
"""A schedule whose runs wait for each other. Each of them sends two requests with its id."""

VISIBILITY_SECONDS = 6
"""Visibility timeout. Five times as long is enough to start a function on a busy machine."""


@pytest.fixture(scope="module", autouse=True)
def short_timeouts(stack: DeployedStack) -> Iterator[None]:
    """Short visibility timeouts and leases, so that the tests need not wait for a quarter of an hour."""
    stack.set_visibility_timeout(VISIBILITY_SECONDS)
    short = {"NOETL_LEASE_SECONDS": "2"}
    with (
        stack.changed_settings("StepFunctionName", **short),
        stack.changed_settings("DeadLetterFunctionName", **short),
    ):
        yield
    stack.set_visibility_timeout(90)


def workers() -> list[int]:
    """Return the processes that execute runs."""
    python = str(tool_environment(*RUNTIME) / "bin" / "python")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].decode() == python and b"noetl.executor.lambda_handler.step" in command:
            found.append(int(path.parent.name))
    return found


def signal_workers(number: int) -> None:
    for process in workers():
        os.kill(process, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_step_of_a_lost_worker_is_attempted_again(service: DeployedService, number: int) -> None:
    def lose_once(exchange: StubExchange) -> None:
        if len(server.requests) == 1:
            signal_workers(number)
            server.closing.wait(30.0)
        else:
            exchange.reply(200, connection="close")

    with serve(lose_once) as server:
        id = service.start(LIMITED_CALL.format(url=server.url()))
        assert service.output(id) == {"status": 200}
        assert len(server.requests) == 2
        assert len({request.headers["traceparent"].split("-")[1] for request in server.requests}) == 1
        assert service.output(service.start(LIMITED_CALL.format(url=server.url()))) == {"status": 200}
    assert service.status(id)["steps"]["a"]["visits"] == 1


def test_an_invocation_is_stopped_at_its_timeout(service: DeployedService, stack: DeployedStack) -> None:
    """The visibility timeout is longer, so that no other worker receives the message before."""
    functions, name = stack.client("lambda"), stack.outputs["StepFunctionName"]
    timeout = functions.get_function_configuration(FunctionName=name)["Timeout"]
    stopped: list[int] = []

    def stop_once(exchange: StubExchange) -> None:
        if stopped:
            exchange.reply(200, connection="close")
            return
        stopped.extend(workers())
        signal_workers(signal.SIGSTOP)
        server.closing.wait(60.0)

    stack.set_visibility_timeout(timeout + 5)
    try:
        with serve(stop_once) as server:
            before = time.monotonic()
            id = service.start(CALL.format(url=server.url()))
            assert service.output(id) == {"status": 200}
            assert time.monotonic() - before > timeout
    finally:
        stack.set_visibility_timeout(VISIBILITY_SECONDS)
    assert stopped
    assert set(stopped).isdisjoint(workers())
    assert service.status(id)["steps"]["a"]["visits"] == 1


def test_an_invalid_setting_loses_no_messages(service: DeployedService, stack: DeployedStack) -> None:
    """Every invocation fails until the setting is corrected."""
    with stack.changed_settings("StepFunctionName", NOETL_LEASE_SECONDS="for ever"):
        id = service.start("steps: [{name: a, run: [{action: set, set: {n: 1}}]}]")
        deadline = time.monotonic() + 60.0
        while "NOETL_LEASE_SECONDS is 'for ever'; it must be a number" not in (log := stack.read_log("step")):
            assert time.monotonic() < deadline, log[-2000:]
            time.sleep(0.2)
        assert service.status(id)["status"] == "queued"
    assert service.output(id) == {"n": 1}


def test_a_step_that_kills_its_worker_fails_in_the_end(
    service: DeployedService, stack: DeployedStack
) -> None:
    with serve(lambda _: signal_workers(signal.SIGKILL)) as server:
        found = service.result(service.start(CALL.format(url=server.url())), seconds=110.0)
        assert (found["status"], [error["type"] for error in found["errors"]]) == ("failed", ["WorkerLost"])
        assert 3 <= len(server.requests) <= 5
    assert '"GivenUp": 1' in stack.read_log("dead-letter") + stack.read_log("step")
    assert (
        service.run_to_end("steps: [{name: a, run: [{action: set, set: {n: 1}}]}]")["status"] == "succeeded"
    )


def test_a_case_handles_a_lost_step(service: DeployedService) -> None:
    def answer(exchange: StubExchange) -> None:
        if exchange.path == "/lethal":
            signal_workers(signal.SIGKILL)
        else:
            exchange.reply(200, connection="close")

    with serve(answer) as server:
        text = f"""
            steps:
            - name: a
              run: [{{action: http, url: '{server.url("/lethal")}'}}]
              rule:
              - case: "{{{{ error.type == 'WorkerLost' }}}}"
                run: [{{action: http, url: '{server.url("/lost")}', as: reply}}]
            output: {{status: "{{{{ reply.status }}}}"}}
        """
        assert service.output(service.start(text), seconds=110.0) == {"status": 200}


@pytest.mark.timeout(400)
def test_a_schedule_fires_once_and_keeps_its_limit_while_functions_are_killed(
    service: DeployedService, stack: DeployedStack
) -> None:
    """A schedule of runs that wait for each other. Functions are killed twice while a run has the place."""
    is_awaited = threading.Event()

    def answer(exchange: StubExchange) -> None:
        paths = [request.target for request in server.requests]
        if paths.count(exchange.path) == 1 and len(set(paths)) in (1, 3):
            is_awaited.wait(SECONDS)
            signal_workers(signal.SIGKILL)
        else:
            exchange.reply(200, connection="close")

    with serve(answer) as server:
        service.register(TICKING.replace("URL", server.url()))
        assert stack.sweep()["triggers"] == 1
        # The messages after the first follow from each other, so a second run finds the place taken.
        wait_for(lambda: service.http.get("/limits/own:ticking:0").json().get("waiting"))
        is_awaited.set()
        wait_for(lambda: len({request.target for request in server.requests}) > 3)
        assert service.http.post("/triggers/ticking/often/pause").status_code == 200
        firings = service.firings("ticking/often")
        assert [firing["outcome"] for firing in firings] == ["started"] * len(firings)
        ids = [firing["workflow_id"] for firing in firings]
        # If a function is killed between a commit and its message, a sweep sends it after two minutes.
        assert [service.result(id, seconds=240.0)["status"] for id in ids] == ["succeeded"] * len(ids)
        paths = [request.target for request in server.requests]
    instants = [datetime.fromisoformat(firing["scheduled_at"]) for firing in firings]
    assert {later - earlier for earlier, later in pairwise(instants)} == {timedelta(seconds=2)}
    runs = service.http.get("/workflows", params={"playbook": "ticking", "limit": 200}).json()["items"]
    assert sorted(run["workflow_id"] for run in runs) == sorted(ids)
    # No request of another run lies between those of one run, some of which were repeated.
    assert sorted(path for path, _ in groupby(paths)) == sorted(f"/{id}" for id in ids)
    assert len(paths) >= 2 * len(ids) + 2


def test_a_foreign_message_ends_in_the_dead_letter_queue(
    service: DeployedService, stack: DeployedStack
) -> None:
    sqs = stack.client("sqs")
    sqs.send_message(QueueUrl=stack.outputs["QueueUrl"], MessageBody="hello")
    assert (
        service.run_to_end("steps: [{name: a, run: [{action: set, set: {n: 1}}]}]")["status"] == "succeeded"
    )
    deadline = time.monotonic() + 90.0
    while not stack.count_messages("DeadLetterQueueUrl"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert "message was not sent by noetl" in stack.read_log("step")
    sqs.purge_queue(QueueUrl=stack.outputs["DeadLetterQueueUrl"])


@pytest.fixture
def paused(stack: DeployedStack) -> Iterator[threading.Event]:
    """An event. The queue is not read until it is set, or until the test is over."""
    functions = stack.client("lambda")
    [mapping] = functions.list_event_source_mappings(FunctionName=stack.outputs["StepFunctionName"])[
        "EventSourceMappings"
    ]
    functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    begun = threading.Event()

    def begin() -> None:
        begun.wait(60.0)
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)

    thread = threading.Thread(target=begin)
    thread.start()
    time.sleep(1.0)  # The polls that were in progress have ended by then.
    yield begun
    begun.set()
    thread.join()


def test_duplicate_messages_have_no_effect(
    service: DeployedService, stack: DeployedStack, paused: threading.Event
) -> None:
    text = """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: wait, seconds: 1}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [{action: wait, seconds: 1}], rule: [{case: default, run: [d]}]}
        - {name: d, run: [{action: set, set: {n: 1}}]}
    """
    id = service.start(text)
    sqs, url = stack.client("sqs"), stack.outputs["QueueUrl"]
    [message] = [
        message
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5)[
            "Messages"
        ]
        if id in message["Body"]
    ]
    for _ in range(5):
        sqs.send_message(QueueUrl=url, MessageBody=message["Body"])
    paused.set()
    assert service.output(id) == {"n": 1}
    sqs.send_message(QueueUrl=url, MessageBody=message["Body"])
    time.sleep(2.0)
    assert service.output(id) == {"n": 1}
    types = [event["type"] for event in service.events(id)]
    assert types.count("workflow.completed") == 1
    assert types.count("step.finished") == 4 or types.count("step.completed") == 4, types
    assert {step["visits"] for step in service.status(id)["steps"].values()} == {1}


def test_an_exception_of_a_handler_is_reported_by_lambda(stack: DeployedStack) -> None:
    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs["StepFunctionName"], Payload=b'{"no": "batch"}'
    )
    assert answer["FunctionError"]
    error = json.loads(answer["Payload"].read())
    assert error["errorType"] == "TypeError"
    assert "not a batch of SQS messages" in error["errorMessage"]


def test_the_sweep_may_read_what_is_due_and_leaves_runs_that_sleep(
    service: DeployedService, stack: DeployedStack
) -> None:
    id = service.start("steps: [{name: a, run: [{action: wait, seconds: 3600}]}]")
    service.wait_for_step(id, "a", "waiting")
    assert stack.sweep()["sent_again"] == 0
    assert service.status(id)["status"] == "waiting"
    service.http.post(f"/workflows/{id}/cancel")
    assert service.result(id)["status"] == "cancelled"


def test_a_missing_permission_is_logged(service: DeployedService, stack: DeployedStack) -> None:
    iam = stack.client("iam")
    role = stack.client("lambda").get_function_configuration(FunctionName=stack.outputs["StepFunctionName"])[
        "Role"
    ]
    role = role.rpartition("/")[2]
    [name] = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    policy = json.loads(policy) if isinstance(policy, str) else policy
    statements = [statement for statement in policy["Statement"] if statement["Sid"] != "Data"]
    reduced_policy = policy | {"Statement": statements}
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(reduced_policy))
    try:
        id = service.start("steps: [{name: a, run: [{action: set, set: {n: 1}}]}]")
        deadline = time.monotonic() + 60.0
        while "is not authorized to perform: dynamodb:" not in (log := stack.read_log("step")):
            assert time.monotonic() < deadline, log[-2000:]
            time.sleep(0.5)
        assert service.status(id)["status"] == "queued"
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))
    assert service.result(id)["status"] == "succeeded"
