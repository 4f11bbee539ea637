"""`POST /workflows/callbacks/{token}`: answers and heartbeats of external systems."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.http.responses import CallbackReceipt
from noetl.api.service.views import RunReport
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

PUBLIC = "https://noetl.test/base"
STREAM = {"Accept": "text/event-stream"}
ASK = """\
name: ask
input: {gate: string}
steps:
  - name: ask
    run:
      - action: callback
        as: answer
        notify: {action: shell, command: [tee, "{{ input.gate }}"], stdin: "{{ callback.url }}"}%s
"""


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    return settings | {"NOETL_PUBLIC_URL": f"{PUBLIC}/"}


class CallbackRun:
    """A run that waits for an answer, with the path of its callback."""

    def __init__(self, http: httpx.AsyncClient, workflow_id: str, path: str) -> None:
        self.http = http
        self.workflow_id = workflow_id
        self.path = path

    @property
    def token(self) -> str:
        return self.path.rpartition("/")[2]

    @classmethod
    async def start(cls, http: httpx.AsyncClient, gate: Path, options: str = "") -> CallbackRun:
        body = {"playbook": ASK % options, "input": {"gate": str(gate)}}
        response = await http.post("/workflows/run", json=body)
        assert response.status_code == 202, response.text
        url = await asyncio.to_thread(gate.read_text)
        assert url.startswith(f"{PUBLIC}/workflows/callbacks/")
        return cls(http, response.json()["workflow_id"], url.removeprefix(PUBLIC))

    async def answer(self, body: Any) -> httpx.Response:
        return await self.http.post(self.path, json=body)

    async def status(self) -> dict[str, Any]:
        response = await self.http.get(f"/workflows/status/{self.workflow_id}")
        body: dict[str, Any] = response.json()
        read_view(RunReport, body)
        return body

    async def wait_until_waiting(self) -> dict[str, Any]:
        """Return the status once the step waits."""
        while True:
            status = await self.status()
            if status["status"] == "waiting":
                return status
            await asyncio.sleep(0.01)

    async def result(self) -> dict[str, Any]:
        await self.http.get(f"/workflows/{self.workflow_id}/events", headers=STREAM)
        body: dict[str, Any] = (await self.http.get(f"/workflows/result/{self.workflow_id}")).json()
        return body

    async def cancel(self) -> None:
        await self.http.post(f"/workflows/{self.workflow_id}/cancel")
        assert (await self.result())["status"] == "cancelled"


@pytest.fixture
async def callback_run(http: httpx.AsyncClient, gate: Path) -> AsyncIterator[CallbackRun]:
    yield await CallbackRun.start(http, gate)


def assert_callback_problem(response: httpx.Response, status: int, slug: str | None = None) -> None:
    assert_problem(response, status)
    assert response.headers["cache-control"] == "no-store"
    problem = response.json()
    assert problem["type"] == (f"urn:noetl:problem:{slug}" if slug else "about:blank")
    assert problem["instance"] == "/base/workflows/callbacks/***"


async def test_a_run_continues_with_the_answer(callback_run: CallbackRun) -> None:
    response = await callback_run.answer({"yes": True})
    assert response.status_code == 202
    assert read_view(CallbackReceipt, response.json()).status == "accepted"
    assert response.headers["cache-control"] == "no-store"
    result = await callback_run.result()
    assert (result["status"], result["result"]) == ("succeeded", {"answer": {"yes": True}})


@pytest.mark.parametrize("body", [None, False, 0, "text", [1, {"a": []}]])
async def test_an_answer_may_be_any_value(callback_run: CallbackRun, body: Any) -> None:
    assert (await callback_run.answer(body)).status_code == 202
    assert (await callback_run.result())["result"] == {"answer": body}


async def test_an_answer_without_a_body_is_null(callback_run: CallbackRun) -> None:
    assert (await callback_run.http.post(callback_run.path)).status_code == 202
    assert (await callback_run.result())["result"] == {"answer": None}


async def test_only_the_first_answer_is_accepted(callback_run: CallbackRun) -> None:
    """The rule holds while the run continues, and after its end."""
    await callback_run.answer({"yes": True})
    for _ in range(2):
        assert (await callback_run.answer({"yes": True})).status_code == 202
        refusal = await callback_run.answer({"yes": False})
        assert_callback_problem(refusal, 409, "answered-otherwise")
        assert refusal.json()["detail"].endswith('Z: {"yes":true}')
        assert (await callback_run.result())["result"] == {"answer": {"yes": True}}


async def test_the_status_shows_what_a_step_waits_for(callback_run: CallbackRun) -> None:
    step = (await callback_run.wait_until_waiting())["steps"]["ask"]
    assert (step["status"], step["visits"]) == ("waiting", 1)
    assert step["waiting_for"] == {"until": None, "actions": ["callback"], "workflows": []}
    await callback_run.answer(1)
    await callback_run.result()
    assert "waiting_for" not in (await callback_run.status())["steps"]["ask"]


async def test_the_status_shows_the_deadline_of_a_wait(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await CallbackRun.start(http, gate, "\n        timeout: 1h")
    waiting_for = (await callback_run.wait_until_waiting())["steps"]["ask"]["waiting_for"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", waiting_for["until"])


async def test_a_heartbeat_is_accepted(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await CallbackRun.start(http, gate, "\n        heartbeat: 1h")
    for body in (None, {"ignored": 1}):
        response = await http.post(f"{callback_run.path}/heartbeat", json=body)
        assert (response.status_code, response.json()) == (202, {"status": "accepted"})
        assert response.headers["cache-control"] == "no-store"
    assert (await callback_run.wait_until_waiting())["steps"]["ask"]["waiting_for"]["until"] is not None
    await callback_run.answer(1)
    assert_callback_problem(await http.post(f"{callback_run.path}/heartbeat"), 410, "closed")


async def test_a_callback_of_a_cancelled_run_is_closed(callback_run: CallbackRun) -> None:
    await callback_run.cancel()
    assert_callback_problem(await callback_run.answer(1), 410, "closed")
    assert_callback_problem(await callback_run.http.post(f"{callback_run.path}/heartbeat"), 410, "closed")


@pytest.mark.parametrize("path", ["x" * 43, "x" * 43 + "/heartbeat", "%00", "cancel", "a%20b"])
async def test_an_unknown_token_is_not_found(callback_run: CallbackRun, path: str) -> None:
    assert_callback_problem(
        await callback_run.http.post(f"/workflows/callbacks/{path}", json=1), 404, "unknown-token"
    )


async def test_an_invalid_answer_leaves_the_run_waiting(callback_run: CallbackRun) -> None:
    post = callback_run.http.post
    plain = await post(callback_run.path, content="yes", headers={"Content-Type": "text/plain"})
    assert_callback_problem(plain, 415, "unsupported-media-type")
    assert_callback_problem(
        await post(callback_run.path, content="{", headers={"Content-Type": "application/json"}),
        400,
        "malformed-json",
    )
    assert_callback_problem(await callback_run.answer("x" * (1024 * 1024)), 413, "too-large")
    assert_callback_problem(
        await callback_run.answer("é" * 200_000), 413, "too-large"
    )  # the limit is in ASCII characters, as stored
    await callback_run.answer("x")
    assert (await callback_run.result())["result"] == {"answer": "x"}


QUESTION = """
        title: "Pay?"
        details: {sum: 5}
        answer: {yes: boolean, note: {type: string, default: ""}}"""


async def test_an_answer_without_the_declared_fields_leaves_the_run_waiting(
    http: httpx.AsyncClient, gate: Path
) -> None:
    callback_run = await CallbackRun.start(http, gate, QUESTION)
    response = await callback_run.answer({"yes": "no", "noet": ""})
    assert_callback_problem(response, 422, "invalid-answer")
    problem = response.json()
    messages = [
        "field `yes` must be of type boolean, not the text `no`",
        "unknown field `noet`: did you mean `note`?",
    ]
    assert problem["detail"] == "; ".join(messages)
    assert problem["fields"] == [
        {"name": "yes", "message": messages[0]},
        {"name": "noet", "message": messages[1]},
    ]
    assert_callback_problem(await http.post(callback_run.path), 422, "invalid-answer")
    assert (await callback_run.answer({"yes": False})).status_code == 202
    assert (await callback_run.answer({"yes": False, "note": ""})).status_code == 202
    assert_callback_problem(await callback_run.answer({"yes": True}), 409, "answered-otherwise")
    assert (await callback_run.result())["result"] == {"answer": {"yes": False, "note": ""}}
    assert_callback_problem(await callback_run.answer({}), 409, "answered-otherwise")


async def test_the_status_and_the_events_show_the_question(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await CallbackRun.start(http, gate, QUESTION)
    step = (await callback_run.wait_until_waiting())["steps"]["ask"]
    answer = {"yes": {"type": "boolean"}, "note": {"type": "string", "default": ""}}
    assert step["waiting_for"]["questions"] == [
        {"position": "run.0", "title": "Pay?", "details": {"sum": 5}, "answer": answer}
    ]
    events = (await http.get(f"/workflows/{callback_run.workflow_id}/events")).json()["items"]
    (waiting,) = (event for event in events if event["type"] == "step.waiting")
    assert waiting["payload"]["titles"] == ["Pay?"]
    await callback_run.answer({"yes": True})
    assert (await callback_run.result())["status"] == "succeeded"


async def test_a_token_is_in_no_response_and_no_log(
    callback_run: CallbackRun, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    http, path = callback_run.http, callback_run.path
    await callback_run.answer("given")
    responses = [await callback_run.answer("other"), await http.get(path), await http.post(f"{path}/other")]
    assert [response.status_code for response in responses] == [409, 410, 404]
    app = create_app(settings)
    context, app.state.context = app.state.context, None  # so that every request fails in it
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as broken:
        responses += [await broken.post(path), await broken.post(path, headers={"Host": "noetl.test"})]
    context.close()
    assert [response.status_code for response in responses[3:]] == [500, 403]
    slugs = ["answered-otherwise", "closed", None, "internal-error", "loopback-only"]
    for response, slug in zip(responses, slugs, strict=True):
        assert_callback_problem(response, response.status_code, slug)
        assert callback_run.token not in response.text
    log = "\n".join(caplog.handler.format(record) for record in caplog.records if record.name != "httpx")
    assert responses[3].json()["reference"] in log
    assert callback_run.token not in log
    assert callback_run.token not in (await http.get(f"/workflows/{callback_run.workflow_id}/events")).text


@pytest.fixture
def served(settings: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address of the app under a server that logs requests, and its process."""
    command = [sys.executable, "-m", "uvicorn", "noetl.api.app:app", "--port", "0", "--no-use-colors"]
    env = os.environ | settings
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = ""
    while not (match := re.search(r"running on (http://[\d.:]+)", lines)):
        line = process.stdout.readline()
        assert line, lines
        lines += line
    yield match[1], process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_server_logs_requests_without_the_token(served: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = served
    assert httpx.post(f"{address}/workflows/callbacks/some-token", timeout=60).status_code == 404
    process.terminate()
    log, _ = process.communicate(timeout=60)
    assert '"POST /workflows/callbacks/*** HTTP/1.1" 404' in log
    assert "some-token" not in log


async def test_other_log_lines_of_a_server_are_unchanged(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uvicorn.access")
    logging.getLogger("uvicorn.access").info("%s %d", "/workflows/status/a", 200)
    logging.getLogger("uvicorn.access").info("plain")
    assert [record.getMessage() for record in caplog.records][-2:] == ["/workflows/status/a 200", "plain"]


async def test_the_body_of_an_unknown_token_is_not_read(http: httpx.AsyncClient) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(8):
            sent += 1
            yield b'{"":' * 1000

    path = "/workflows/callbacks/" + "0" * 64
    response = await http.post(path, content=body(), headers={"Content-Type": "application/json"})
    assert_problem(response, 404, "unknown-token")
    assert sent == 0
