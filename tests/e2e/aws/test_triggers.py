"""Schedules through the deployed sweep, queue, table and functions."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.e2e.aws.service import SECONDS, DeployedService
from tests.e2e.aws.stack import CONTENT, DeployedStack

TICKING = """
name: ticking
triggers:
- name: often
  type: schedule
  every: 3s
  catch_up: all
  timezone: Europe/Berlin
  input: {scheduled: "{{ trigger.scheduled_at }}", local: "{{ trigger.local }}"}
input: {scheduled: {type: string}, local: {type: string}}
steps: [{name: a, run: [{action: set, set: {seen: "{{ scheduled }} {{ local }}"}}]}]
"""


def find_firings(service: DeployedService) -> list[dict[str, Any]]:
    """Return the firings, the oldest first."""
    return list(service.http.get("/triggers/ticking/often/firings").json()["items"][::-1])


def test_the_sweep_and_messages_fire_a_schedule(service: DeployedService, stack: DeployedStack) -> None:
    answer = service.http.post("/playbooks", content=TICKING, headers=CONTENT)
    assert answer.status_code == 201, answer.text
    # The messages after the first follow from each other.
    swept = stack.client("lambda").invoke(FunctionName=stack.outputs["SweepFunctionName"], Payload=b"{}")
    assert json.loads(swept["Payload"].read())["triggers"] == 1
    deadline = time.monotonic() + SECONDS
    while len(firings := find_firings(service)) < 4:
        assert time.monotonic() < deadline, firings
        time.sleep(0.5)
    paused = service.http.post("/triggers/ticking/often/pause")
    assert paused.status_code == 200, paused.text
    assert [firing["outcome"] for firing in firings] == ["started"] * len(firings)
    assert len({firing["scheduled_at"] for firing in firings}) == len(firings)
    for firing in firings:
        assert service.result(firing["workflow_id"])["status"] == "succeeded"
