"""A backfill that the deployed sweep, queue and functions perform."""

from __future__ import annotations

from typing import Any

from tests.e2e.aws.service import DeployedService, wait_for
from tests.e2e.aws.stack import DeployedStack

FILLING = """
name: filling
triggers:
- {name: daily, type: schedule, every: 1d, input: {day: "{{ trigger.partition or trigger.local[:10] }}"}}
input: {day: {type: string}}
steps: [{name: a, run: [{action: set, set: {seen: "{{ day }}"}}]}]
"""
DAYS = [f"day {number}" for number in range(5)]


def test_a_backfill_starts_each_partition_once(service: DeployedService, stack: DeployedStack) -> None:
    """Five partitions, two at once, whose first message is sent twice."""
    service.register(FILLING)
    request = {"playbook": "filling", "trigger": "daily", "partitions": DAYS, "limit": 2}
    started = service.http.post("/backfills", json=request)
    assert started.status_code == 201, started.text
    id = started.json()["id"]
    for _ in range(2):
        stack.sweep()

    def find_ended() -> dict[str, Any] | None:
        found: dict[str, Any] = service.http.get(f"/backfills/{id}").json()
        assert len(found["open"]) <= 2
        return None if found["finished_at"] is None else found

    found = wait_for(find_ended)
    assert (found["state"], found["reason"], found["failures"]) == ("succeeded", None, [])
    assert (found["counts"]["started"], found["counts"]["succeeded"]) == (5, 5)
    runs = service.http.get("/workflows", params={"tag": f"backfill={id}"}).json()["items"]
    assert sorted(service.output(run["workflow_id"])["seen"] for run in runs) == DAYS
