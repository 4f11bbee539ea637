"""Runs through the deployed gateway, functions, queue, table and bucket."""

from __future__ import annotations

import base64
import json
import random
import secrets
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks.cost import make_row, measure_chain
from benchmarks.meter import AwsMeter
from noetl.executor.stores.dynamo.store import DynamoStore
from tests.e2e.aws.service import DeployedService
from tests.e2e.aws.stack import CONTENT, DeployedStack
from tests.http_server import StubExchange, serve
from tests.tool_environments import ROOT

NEEDS_A_MACHINE = ("file", "shell", "python", "postgres", "http", "s3")
"""Actions that a service does not allow, or that need other services."""


def is_portable(path: Path) -> bool:
    text = path.read_text("utf-8")
    actions = {
        line.split("action:")[1].split(",")[0].split("}")[0].strip()
        for line in text.splitlines()
        if "action:" in line
    }
    return actions.isdisjoint(NEEDS_A_MACHINE) and "secrets." not in text


EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if is_portable(path)]


def test_the_page_has_examples() -> None:
    assert ROOT / "examples" / "portable.yaml" in EXAMPLES


def test_the_portable_example_succeeds(service: DeployedService) -> None:
    text = (ROOT / "examples" / "portable.yaml").read_text("utf-8")
    answer = service.http.post("/workflows/run", content=text, headers=CONTENT | {"Prefer": "wait=25"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["result"]["customer"] == yaml.safe_load(text)["input"]["customer"]["default"]
    workflow_id = answer.json()["workflow_id"]
    picture = service.http.get(f"/workflows/{workflow_id}/graph", params={"format": "svg"})
    assert (picture.status_code, picture.text[:4]) == (200, "<svg"), picture.text
    run = service.http.get(f"/workflows/{workflow_id}", params={"include": "graph"}).json()
    assert {name for node in run["graph"]["nodes"] for name in node["steps"]} == run["steps"].keys()


def test_the_branches_of_a_fork_are_joined(service: DeployedService) -> None:
    numbers = range(12)
    names = ", ".join(f"b{n}" for n in numbers)
    branches = "".join(
        f"- {{name: b{n}, run: [{{action: set, set: {{v{n}: {n}}}}}], rule: [{{case: default, run: [c]}}]}}\n"
        for n in numbers
    )
    total = " + ".join(f"v{n}" for n in numbers)
    text = (
        f"name: fork\nsteps:\n- {{name: a, rule: [{{case: default, run: [{names}]}}]}}\n{branches}"
        f"- {{name: c, run: [{{action: set, set: {{total: '{{{{ {total} }}}}'}}}}]}}\n"
        "output: {total: '{{ total }}'}\n"
    )
    ids = [service.start(text) for _ in range(3)]
    for id in ids:
        found = service.result(id)
        assert (found["status"], found["result"]) == ("succeeded", {"total": 66})
        steps = service.status(id)["steps"]
        assert {name: step["visits"] for name, step in steps.items()} == dict.fromkeys(steps, 1)


def test_a_wait_needs_no_invocation(service: DeployedService) -> None:
    before = time.monotonic()
    id = service.start(
        "steps: [{name: a, run: [{action: wait, seconds: 4}, {action: set, set: {done: true}}]}]"
    )
    assert service.wait_for_step(id, "a", "waiting")["waiting_for"]["until"] is not None
    assert service.output(id) == {"done": True}
    assert time.monotonic() - before >= 4.0


CALLBACK = """
    steps:
    - name: ask
      run:
      - action: callback
        notify: {action: http, url: "{{ input.url }}", method: POST, json: {url: "{{ callback.url }}"}}
        as: reply
    output: {answer: "{{ reply }}"}
"""


def test_the_url_of_a_callback_is_enough_to_answer_it(service: DeployedService, stack: DeployedStack) -> None:
    with serve(lambda exchange: exchange.reply(204)) as server:
        id = service.start(CALLBACK, {"url": server.url()})
        service.wait_for_step(id, "ask", "waiting")
        url = json.loads(server.requests[0].body)["url"]
    assert url.startswith(stack.outputs["ApiUrl"])
    path = url.removeprefix(stack.outputs["ApiUrl"])
    with stack.http(None) as anonymous:
        assert anonymous.post(f"{path}/heartbeat").status_code == 202
        assert anonymous.post(path, json={"yes": 1}).status_code == 202
        assert anonymous.post(path, json={"yes": 1}).status_code == 202
        assert anonymous.post(path, json={"yes": 2}).status_code == 409
        assert anonymous.post(f"{path}0", json={"yes": 1}).status_code == 404
    assert service.output(id) == {"answer": {"yes": 1}}
    # The URL is a credential, so logs must not contain it.
    logged = [json.loads(line) for line in stack.read_log("api").splitlines() if line.startswith("{")]
    answered = [line for line in logged if "POST /workflows/callbacks/***" in line["message"]]
    assert len(answered) == 5
    assert all(line["request_id"] for line in answered)
    assert path.rpartition("/")[2] not in "".join(stack.read_log(name) for name in ("api", "step", "access"))


def test_a_failed_step_is_retried(service: DeployedService) -> None:
    def refuse_twice(exchange: StubExchange) -> None:
        exchange.reply(503 if len(server.requests) < 3 else 200, connection="close")

    with serve(refuse_twice) as server:
        work = f"retry: {{attempts: 5, delay: 100ms}}, run: [{{action: http, url: '{server.url()}'}}]"
        found = service.run_to_end(f"steps: [{{name: a, {work}}}]")
        assert found["status"] == "succeeded"
        assert len(server.requests) == 3
        keys = {request.headers["traceparent"].split("-")[1] for request in server.requests}
    assert len(keys) == 1


def test_an_unhandled_failure_fails_the_run(service: DeployedService) -> None:
    found = service.run_to_end("steps: [{name: a, run: [{action: fail, type: Own, message: no}]}]")
    assert (found["status"], [error["type"] for error in found["errors"]]) == ("failed", ["Own"])


def test_large_values_are_stored_in_the_bucket(service: DeployedService, stack: DeployedStack) -> None:
    text = """
        input: {given: string}
        steps:
        - {name: a, run: [{action: set, set: {big: "{{ input.given }}!"}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: set, set: {size: "{{ big | length }}"}}]}
        output: {size: "{{ size }}", big: "{{ big }}"}
    """
    # Random bytes cannot be compressed.
    given = base64.b64encode(random.Random(7).randbytes(600_000)).decode()
    found = service.run_to_end(text, {"given": given})
    assert (found["status"], found["result"]) == ("succeeded", {"size": 800_001, "big": f"{given}!"})
    listed = stack.client("s3").list_objects_v2(Bucket=stack.outputs["BucketName"])
    assert max(item["Size"] for item in listed["Contents"]) >= 600_000


def test_a_loop_of_two_thousand_items_is_completed(service: DeployedService) -> None:
    text = """
        steps:
        - name: each
          run:
          - action: set
            set: {twice: "{{ item * 2 }}"}
            loop: {items: "{{ range(2000) | list }}", batch: 250}
            as: all
          rule: [{case: default, run: [done]}]
        - {name: done, run: [{action: set, set: {count: "{{ all | length }}"}}]}
        output: {count: "{{ count }}"}
    """
    id = service.start(text)
    assert service.output(id) == {"count": 2000}
    assert [event["type"] for event in service.events(id)].count("loop.progress") >= 7


def test_a_run_is_cancelled(service: DeployedService) -> None:
    id = service.start("steps: [{name: a, run: [{action: wait, seconds: 3600}]}]")
    service.wait_for_step(id, "a", "waiting")
    for _ in range(2):
        assert service.http.post(f"/workflows/{id}/cancel").status_code == 202
    assert service.result(id)["status"] == "cancelled"


def test_a_run_is_resumed_with_corrected_input(service: DeployedService) -> None:
    text = """
        input: {n: integer}
        steps:
        - {name: a, run: [{action: set, set: {seen: "{{ uuid() }}"}}], rule: [{case: default, run: [b]}]}
        - name: b
          run:
          - {action: fail, if: "{{ input.n == 0 }}", message: no}
          - {action: set, set: {m: "{{ 10 // input.n }}"}}
        output: {m: "{{ m }}"}
    """
    id = service.start(text, {"n": 0})
    assert service.result(id)["status"] == "failed"
    assert service.http.post(f"/workflows/{id}/resume", json={"input": {"n": 5}}).status_code == 202
    assert service.output(id) == {"m": 2}
    assert service.status(id)["steps"]["a"]["visits"] == 1


def test_a_playbook_runs_a_registered_playbook(service: DeployedService) -> None:
    child = (
        "name: child\ninput: {n: integer}\n"
        "steps: [{name: a, run: [{action: set, set: {m: '{{ input.n + 1 }}'}}]}]\noutput: {m: '{{ m }}'}\n"
    )
    assert service.http.post("/playbooks", content=child, headers=CONTENT).status_code == 201
    text = (
        "steps: [{name: call, run: [{action: workflow, playbook: child, input: {n: 1}, as: found}]}]\n"
        "output: {m: '{{ found.m }}'}"
    )
    assert service.output(service.start(text)) == {"m": 2}


@pytest.mark.parametrize("steps", [30])
def test_the_duration_of_a_chain_is_reported(
    service: DeployedService, stack: DeployedStack, steps: int, report_line: Callable[[str], None]
) -> None:
    chain = "".join(
        f"- {{name: s{n}, run: [{{action: set, set: {{v: {n}}}}}],"
        f" rule: [{{case: default, run: [s{n + 1}]}}]}}\n"
        for n in range(steps - 1)
    )
    last = f"- {{name: s{steps - 1}, run: [{{action: set, set: {{v: {steps}}}}}]}}\n"
    text = f"name: chain\nsteps:\n{chain}{last}"
    times = []
    for _ in range(3):
        before = time.monotonic()
        assert service.output(service.start(text)) == {"v": steps}
        times.append(time.monotonic() - before)
    store = "DynamoDB" if "TableName" in stack.outputs else "Postgres"
    seconds = f"{statistics.median(times):.2f} s in the emulator, request to result"
    report_line(f"a run of {steps} steps, stored in {store}: {seconds}")


def test_the_cost_of_a_step_is_reported(stack: DeployedStack, report_line: Callable[[str], None]) -> None:
    """The deployed table is used with a separate queue."""
    queue = stack.client("sqs").create_queue(QueueName=f"cost-{secrets.token_hex(4)}")["QueueUrl"]
    store = DynamoStore(stack.outputs["TableName"], queue_url=queue, bucket=stack.outputs["BucketName"])
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        usage, seconds = measure_chain(store, queue, 12, meter, time.time)[9]
    found = make_row(10, usage, seconds)
    assert found["requests"] <= 4
    requests = f"{found['requests']} requests ({found['all_requests']} with receive and delete)"
    dollars = f"{found['dollars_a_million']:.2f} dollars a million at list price"
    with_lambda = f"{found['with_lambda']:.2f} with Lambda at the time here"
    report_line(f"a step that reads and saves 1 KB: {requests}, {dollars}, {with_lambda}")
