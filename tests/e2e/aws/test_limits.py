"""Runs and steps that wait at limits of the deployed stack, and get their places from its functions."""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import closing
from functools import partial
from typing import Any

from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.stores import open_store
from tests.docs.console import PageFile, parse_page
from tests.e2e.aws.conftest import SECRETS_PREFIX
from tests.e2e.aws.service import DeployedService, wait_for
from tests.e2e.aws.stack import DeployedStack
from tests.tool_environments import ROOT

TUTORIAL = ROOT / "docs" / "tutorial" / "triggers-and-limits.md"
SECRET = "a-secret-of-the-sender-of-orders"
CALLING = """\
name: calling
steps: [{name: call, concurrency: {use: crm}, run: [{action: set, set: {called: true}}]}]
"""


def read_limit_of_build(service: DeployedService, id: str) -> dict[str, Any] | None:
    """Wait until the step `build` of a run waits, and return the limit for which it does."""
    limit = service.wait_for_step(id, "build", "waiting")["waiting_for"].get("limit")
    return None if limit is None else dict(limit)


def test_the_playbook_of_the_tutorial_runs_one_order_after_another(
    service: DeployedService, stack: DeployedStack
) -> None:
    """Three orders by webhook. The end of a run gives the next one its place."""
    [text] = [
        part.text
        for part in parse_page(TUTORIAL.read_text("utf-8"))
        if isinstance(part, PageFile) and part.name == "report.yaml"
    ]
    stack.client("secretsmanager").create_secret(Name=f"{SECRETS_PREFIX}ORDERS", SecretString=SECRET)
    service.register(text)
    with stack.http(None) as sender:

        def order(number: int) -> str:
            body = json.dumps({"order": number}).encode()
            signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            headers = {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json"}
            answer = sender.post("/hooks/default/report/ordered", content=body, headers=headers)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["workflow_id"])

        ids = [order(17)]
        assert read_limit_of_build(service, ids[0]) is None
        for count in range(2):
            ids.append(order(18 + count))
            waited = {"limit": "report", "key": None, "queued_before": count}
            assert read_limit_of_build(service, ids[-1]) == waited

    def answer_build(id: str) -> bool:
        return bool(service.http.post(f"/workflows/{id}/answer", json={"step": "build"}).is_success)

    for number, id in enumerate(ids):
        assert not any(answer_build(later) for later in ids[number + 1 :])
        wait_for(partial(answer_build, id))
        assert service.output(id) == {"built": f"order {17 + number}"}


def test_the_sweep_grants_what_a_lost_process_has_left(
    service: DeployedService, stack: DeployedStack
) -> None:
    """A limit that is raised by a process that ends before it grants the new unit."""
    limit = {"units": 0, "kind": "steps"}
    assert service.http.put("/limits/crm", json=limit).status_code == 201
    ids = [service.start(CALLING) for _ in range(3)]
    for id in ids:
        service.wait_for_step(id, "call", "waiting")
    with closing(open_store(stack.outputs["StoreUrl"])) as store:
        store.gates.set_limit(named_gate("default", "crm"), LimitKind.STEPS, 1)
    stack.sweep()
    assert [service.output(id) for id in ids] == [{"called": True}] * 3
    found = service.http.get("/limits/crm").json()
    assert (found["units"], found["held"], found["waiting"]) == (1, 0, 0)
