"""The log lines of a service: starts, ends and failures of runs, and requests with their callers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.http.access_log import ACCESS_LOGGER, read_access_log
from noetl.executor.engine.run_log import MAX_ERROR_LENGTH, RUN_LOGGER
from noetl.executor.errors import SettingError
from noetl.executor.runtime.json_logs import LOG_CONTEXT, log_as_json_lines
from noetl.executor.stores import open_store

pytestmark = pytest.mark.anyio

GOOD = "name: good\nversion: '2'\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"
BAD = """
name: bad
steps: [{name: check, run: [{action: fail, message: "{{ 'no stock ' ~ 'x' * 600 }}"}]}]
"""
PARENT = "name: parent\nsteps: [{name: a, run: [{action: workflow, playbook: good}]}]\n"
YAML = {"Content-Type": "application/yaml", "Prefer": "wait=20"}


class Lines:
    """The lines of JSON that a service logs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of_logger(self, logger: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [line for line in lines if line["logger"] == logger]

    async def of_runs(self, count: int) -> list[dict[str, Any]]:
        """Return the lines about runs when there are `count`. An end is logged after it has been stored."""
        for _ in range(10_000):
            if len(self.of_logger(RUN_LOGGER)) >= count:
                break
            await asyncio.sleep(0.001)
        return self.of_logger(RUN_LOGGER)


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    path = tmp_path / "log"
    root.handlers[:] = [logging.FileHandler(path)]
    log_as_json_lines()
    yield Lines(path)
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)


async def start(http: httpx.AsyncClient, text: str, **headers: str) -> dict[str, Any]:
    response = await http.post("/workflows/run", content=text, headers={**YAML, **headers})
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def test_the_start_and_the_end_of_a_run_are_a_line_each(http: httpx.AsyncClient, lines: Lines) -> None:
    run = await start(http, GOOD)
    started, ended = await lines.of_runs(2)
    assert started["message"] == "run started: good"
    assert ended["message"] == "run succeeded: good"
    for line in (started, ended):
        assert line["level"] == "info"
        assert line["workflow_id"] == run["workflow_id"]
        assert line["fields"]["playbook"] == "good"
        assert line["fields"]["version"] == "2"
        assert line["fields"]["tenant"] == "default"
        assert len(line["trace_id"]) == 32
    assert started["caller"] == "this machine"
    assert ended["fields"]["status"] == "succeeded"
    assert ended["fields"]["seconds"] >= 0


async def test_a_failure_is_an_error_that_names_its_step_and_reason(
    http: httpx.AsyncClient, lines: Lines
) -> None:
    await start(http, BAD)
    _, ended = await lines.of_runs(2)
    assert (ended["level"], ended["message"]) == ("error", "run failed: bad")
    error = ended["fields"]["error"]
    assert (error["step"], error["action"], error["type"]) == ("check", "fail", "Failed")
    assert error["message"].startswith("no stock xxx")
    assert len(error["message"]) == MAX_ERROR_LENGTH
    assert ended["fields"]["errors"] == 1


async def test_a_child_run_has_lines_of_its_own(http: httpx.AsyncClient, lines: Lines) -> None:
    await http.post("/playbooks", content=GOOD, headers=YAML)
    run = await start(http, PARENT)
    logged = await lines.of_runs(4)
    assert {line["message"] for line in logged} == {
        "run started: parent",
        "run started: good",
        "run succeeded: good",
        "run succeeded: parent",
    }
    [child] = [line for line in logged if line["message"] == "run started: good"]
    assert child["fields"]["parent"] == run["workflow_id"]


async def test_a_repeated_start_is_no_second_line(http: httpx.AsyncClient, lines: Lines) -> None:
    first = await start(http, GOOD, **{"Idempotency-Key": "k"})
    second = await start(http, GOOD, **{"Idempotency-Key": "k"})
    assert first["workflow_id"] == second["workflow_id"]
    assert [line["message"] for line in await lines.of_runs(2)].count("run started: good") == 1


async def test_a_resume_is_a_line_and_its_repetition_is_none(http: httpx.AsyncClient, lines: Lines) -> None:
    run = await start(http, BAD)
    path = f"/workflows/{run['workflow_id']}/resume"
    for _ in range(2):
        response = await http.post(path, headers={"Idempotency-Key": "again"})
        assert response.status_code == 202
        logged = await lines.of_runs(4)
    assert [line["message"] for line in logged].count("run resumed: bad") == 1
    restarted = await http.post(path, json={"from": "check"})
    assert restarted.status_code == 202, restarted.text
    assert [line["message"] for line in await lines.of_runs(6)].count("run started: bad") == 2


async def test_a_request_is_a_line_with_its_caller(
    http: httpx.AsyncClient, settings: dict[str, str], lines: Lines
) -> None:
    text, key = create_api_key("ci", ["run"], "shop", 1.0)
    store = open_store(settings["NOETL_STORE"])
    store.keys.add(key)
    store.close()
    headers = {"Authorization": f"Bearer {text}"}
    response = await http.get("/workflows", params={"limit": "7"}, headers=headers)
    # The task of a pipelined request begins within that of the request before.
    before = LOG_CONTEXT.set({"request_id": "r", "caller": f"key {key.id}", "tenant": "shop"})
    await http.get("/workflows", headers={"Authorization": "Bearer wrong"})
    LOG_CONTEXT.reset(before)
    listed, refused = lines.of_logger(ACCESS_LOGGER)
    assert listed["message"] == "GET /workflows 200"
    assert (listed["caller"], listed["tenant"]) == (f"key {key.id}", "shop")
    assert listed["fields"]["bytes"] == len(response.content)
    assert listed["fields"]["address"] == "127.0.0.1"
    assert refused["fields"]["status"] == 401
    assert refused["request_id"] == "r"
    assert "caller" not in refused and "tenant" not in refused


async def test_tokens_and_queries_are_not_logged(http: httpx.AsyncClient, lines: Lines) -> None:
    await http.post("/workflows/callbacks/secret-token?x=hidden", json={})
    [line] = lines.of_logger(ACCESS_LOGGER)
    assert line["fields"]["path"] == "/workflows/callbacks/***"
    assert "secret-token" not in json.dumps(line)
    assert "hidden" not in json.dumps(line)


async def test_probes_that_succeed_are_left_out(http: httpx.AsyncClient, lines: Lines) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await http.get(path)).status_code == 200
    await http.post("/healthz")
    assert [line["message"] for line in lines.of_logger(ACCESS_LOGGER)] == ["POST /healthz 405"]


async def test_probes_below_a_prefix_are_left_out(settings: dict[str, str], lines: Lines) -> None:
    transport = httpx.ASGITransport(create_app(settings), root_path="/noetl")
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/healthz", "/noetl/healthz"):
            assert (await client.get(path)).status_code == 200
        await client.head("/noetl/docs")
    assert [line["message"] for line in lines.of_logger(ACCESS_LOGGER)] == ["HEAD /noetl/docs 200"]


async def test_names_cannot_forge_a_line(http: httpx.AsyncClient, lines: Lines) -> None:
    await http.get("/workflows/a%0A%7B%22level%22%3A%20%22error%22%7D%1B[2J")
    [line] = lines.of_logger(ACCESS_LOGGER)
    assert line["level"] == "info"
    assert "\x1b" not in json.dumps(line)


@pytest.mark.parametrize(("text", "expected"), [("", True), ("on", True), ("off", False)])
def test_the_log_of_requests_can_be_off(text: str, *, expected: bool) -> None:
    assert read_access_log({"NOETL_ACCESS_LOG": text}) is expected


def test_another_value_of_the_setting_is_refused() -> None:
    with pytest.raises(SettingError, match="NOETL_ACCESS_LOG is 'maybe'; it must be `on` or `off`"):
        read_access_log({"NOETL_ACCESS_LOG": "maybe"})
