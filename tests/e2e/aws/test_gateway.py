"""Requests through the gateway: authentication, invalid requests, and large responses."""

from __future__ import annotations

import json
import time
from textwrap import dedent

import pytest

from tests.api.responses import assert_problem
from tests.e2e.aws.service import DeployedService
from tests.e2e.aws.stack import CONTENT, DeployedStack

ONE = "name: one\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"


def test_requests_without_credentials_are_refused(stack: DeployedStack) -> None:
    with stack.http(None) as http:
        for path in ("/healthz", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200
        for answer in (
            http.get("/workflows"),
            http.post("/workflows/run", content=ONE, headers=CONTENT),
            http.get("/playbooks"),
        ):
            assert_problem(answer, 401)
    with stack.http("noetl_" + "0" * 12 + "_" + "0" * 64) as http:
        assert_problem(http.get("/workflows"), 401)


def test_scopes_and_tenants_are_enforced(stack: DeployedStack, service: DeployedService) -> None:
    id = service.start(ONE)
    with (
        stack.http(stack.create_key("read")) as reader,
        stack.http(stack.create_key("admin", "another")) as other,
    ):
        assert reader.get(f"/workflows/status/{id}").status_code == 200
        assert_problem(reader.post("/workflows/run", content=ONE, headers=CONTENT), 403)
        assert_problem(other.get(f"/workflows/status/{id}"), 404)
        assert other.get("/workflows").json()["items"] == []


def test_invalid_requests_are_answered_with_problems(service: DeployedService) -> None:
    http = service.http
    assert_problem(http.get("/nosuch"), 404)
    assert_problem(http.get("/workflows/status/nosuch"), 404)
    assert_problem(http.put("/workflows/run"), 405)
    assert_problem(http.post("/workflows/run", content=ONE), 415)
    assert_problem(
        http.post("/workflows/run", content="{", headers={"Content-Type": "application/json"}), 400
    )
    assert_problem(http.post("/workflows/run", content="x" * 1_100_000, headers=CONTENT), 413)
    assert_problem(http.get("/workflows?limit=x"), 400)
    refused = http.post("/workflows/run", content="name: hello", headers=CONTENT)
    assert_problem(refused, 422)
    assert refused.json()["diagnostics"][0]["code"] == "NP011"


def test_a_repeated_request_starts_one_run(service: DeployedService) -> None:
    headers = CONTENT | {"Idempotency-Key": "the same"}
    answers = [service.http.post("/workflows/run", content=ONE, headers=headers) for _ in range(3)]
    assert len({answer.json()["workflow_id"] for answer in answers}) == 1
    assert_problem(
        service.http.post("/workflows/run", content=ONE + "# more\ntimeout: 1h\n", headers=headers), 422
    )


def test_a_stream_of_events_is_complete(service: DeployedService) -> None:
    id = service.start(ONE)
    service.result(id)
    answer = service.http.get(f"/workflows/{id}/events", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().rpartition("event: ")[2].startswith("end")


def test_a_response_too_large_for_the_gateway_is_a_problem(service: DeployedService) -> None:
    text = """
        name: wide
        steps:
        - name: a
          run:
          - {action: set, set: {part: "{{ 'x' * 900000 }}"}}
          - {action: set, set: {whole: "{{ [part, part, part, part, part, part, part, part] }}"}}
        output: {whole: "{{ whole }}"}
    """
    uncompressed = {"Accept-Encoding": "identity"}  # compressed, it would be small enough
    started = service.http.post(
        "/workflows/run", content=dedent(text), headers=CONTENT | uncompressed | {"Prefer": "wait=25"}
    )
    while service.http.get(started.headers["location"]).json()["status"] in ("queued", "running"):
        time.sleep(0.1)
    id = started.headers["location"].rpartition("/")[2]
    for answer in (started, service.http.get(f"/workflows/result/{id}", headers=uncompressed)):
        assert_problem(answer, 413)
        assert answer.json()["type"] == "urn:noetl:problem:answer-too-large"
        assert "7,20" in answer.json()["detail"]


def test_names_and_text_may_use_all_scripts(service: DeployedService) -> None:
    text = "name: grüße/東京\nsteps: [{name: a, run: [{action: set, set: {said: 'ß 😀'}}]}]\n"
    assert service.http.post("/playbooks", content=text.encode(), headers=CONTENT).status_code == 201
    assert service.http.get("/playbooks/gr%C3%BC%C3%9Fe%2F%E6%9D%B1%E4%BA%AC").json()["source"] == text
    id = service.start(text)
    assert service.output(id) == {"said": "ß 😀"}


@pytest.mark.parametrize("event", [{}, {"version": "2.0"}, {"Records": []}, [], "x"])
def test_an_event_that_is_not_a_request_is_refused(stack: DeployedStack, event: object) -> None:
    payload = json.dumps(event).encode()
    answer = stack.client("lambda").invoke(FunctionName=stack.outputs["ApiFunctionName"], Payload=payload)
    assert answer["FunctionError"]
