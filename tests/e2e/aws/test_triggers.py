"""Starts by ended runs, rates and debounced starts through the deployed queue, table and functions."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from tests.e2e.aws.service import DeployedService, wait_for

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


def test_the_end_of_a_run_starts_the_run_that_awaits_it(service: DeployedService) -> None:
    for text in (SINGLE, AFTER):
        service.register(text)
    started = service.start(SINGLE)
    assert service.result(started)["status"] == "succeeded"
    # It needs no sweep: the invocation that has ended the run sends the message.
    [firing] = wait_for(lambda: service.firings("after/ended"))
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
