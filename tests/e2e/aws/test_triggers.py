"""Triggers, rates and debounced starts through the deployed sweep, queue, table and functions."""

from __future__ import annotations

import json
import time
from datetime import datetime
from itertools import pairwise
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


AFTER = """
name: after
triggers:
- name: ended
  type: run
  playbook: single
  input: {id: "{{ trigger.workflow_id }}", n: "{{ trigger.result.n }}"}
input: {id: string, n: integer}
steps: [{name: a, run: [{action: set, set: {seen: "{{ id }} {{ n }}"}}]}]
"""

SINGLE = "name: single\nsteps: [{name: a, run: [{action: set, set: {n: 7}}]}]\n"

EXPORT = """name: export
debounce: {key: "{{ input.order }}", wait: 4s, max: 20s}
rate: {limit: 1, per: 3s}
input: {order: integer, change: integer}
steps: [{name: a, run: [{action: set, set: {seen: "{{ input.order }} {{ input.change }}"}}]}]
"""


def find_firings(service: DeployedService, trigger: str = "ticking/often") -> list[dict[str, Any]]:
    """Return the firings of a trigger, the oldest first."""
    return list(service.http.get(f"/triggers/{trigger}/firings").json()["items"][::-1])


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


def test_the_end_of_a_run_starts_the_run_that_awaits_it(service: DeployedService) -> None:
    for text in (SINGLE, AFTER):
        answer = service.http.post("/playbooks", content=text, headers=CONTENT)
        assert answer.status_code == 201, answer.text
    started = service.start(SINGLE)
    assert service.result(started)["status"] == "succeeded"
    deadline = time.monotonic() + SECONDS
    # No sweep runs meanwhile: the invocation that has ended the run sends the message.
    while not (firings := find_firings(service, "after/ended")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    [firing] = firings
    assert firing["outcome"] == "started"
    result = service.result(firing["workflow_id"])
    assert result["result"]["seen"] == f"{started} 7"


def test_debounced_starts_make_one_run_and_a_rate_spaces_runs(service: DeployedService) -> None:
    """Three orders have three runs, each with its last change, and one begins in any three seconds."""
    starts = [(order, change) for change in range(2) for order in range(3)]
    ids = [service.start(EXPORT, {"order": order, "change": change}) for order, change in starts]
    assert ids[:3] == ids[3:]
    assert len(set(ids)) == 3
    assert [service.output(id) for id in ids[:3]] == [{"seen": f"{order} 1"} for order in range(3)]
    begins = sorted(find_reserved_time(service, id) for id in ids[:3])
    assert all(later - earlier > 2.999 for earlier, later in pairwise(begins))


def find_reserved_time(service: DeployedService, id: str) -> float:
    """Return the time that a run got from its rate. Its work was done later."""
    events = service.events(id)
    (done,) = [read_time(event["at"]) for event in events if event["type"] == "step.completed"]
    waits = [read_time(event["payload"]["until"]) for event in events if event["type"] == "step.waiting"]
    [begin] = waits or [read_time(event["at"]) for event in events if event["type"] == "step.started"]
    assert begin <= done
    return begin


def read_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
