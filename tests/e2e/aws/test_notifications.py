"""Notifications that the deployed stack sends to a webhook and to a bus of EventBridge."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from tests.e2e.aws.conftest import SECRETS_PREFIX
from tests.e2e.aws.service import DeployedService, wait_for
from tests.e2e.aws.stack import DeployedStack
from tests.http_server import ReceivedRequest, serve

REFUSED = """\
name: refused
notify: {failed: [ops, bus]}
steps: [{name: a, run: [{action: fail, type: Refused, message: no}]}]
"""
HANDLING = """
name: handling
triggers:
- {name: failed, type: event, source: noetl, detail_type: run.failed,
   input: {id: "{{ trigger.detail.data.workflow_id }}"}}
input: {id: string}
steps: [{name: a, run: [{action: set, set: {seen: "{{ id }}"}}]}]
"""


def read_signed(request: ReceivedRequest, secret: str) -> tuple[str, str]:
    """Return the type and the run of a message, after a check of its signature."""
    id, time = (request.headers[f"webhook-{name}"] for name in ("id", "timestamp"))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{id}.{time}.".encode() + request.body, hashlib.sha256)
    assert request.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    message = json.loads(request.body)
    return message["type"], message["data"]["workflow_id"]


def test_a_failed_run_is_reported_to_a_webhook_and_a_bus(
    service: DeployedService, stack: DeployedStack
) -> None:
    """A webhook whose address becomes a secret, and a bus whose event starts another run."""
    service.register(HANDLING)
    with serve(lambda exchange: exchange.reply(204, connection="close")) as server:
        stored = service.http.put("/channels/ops", json={"url": server.url()})
        assert stored.status_code == 201, stored.text
        secrets = stack.client("secretsmanager")
        secrets.create_secret(Name=f"{SECRETS_PREFIX}HOOK", SecretString=server.url("/ops"))
        moved = service.http.put("/channels/ops", json={"url": "{{ secrets.HOOK }}"})
        assert moved.status_code == 200, moved.text
        bus = service.http.put("/channels/bus", json={"url": "default", "type": "eventbridge"})
        assert bus.status_code == 201, bus.text
        tested = service.http.post("/channels/ops/test")
        assert tested.json() == {"delivered": True, "problem": None}
        id = service.start(REFUSED)
        assert service.result(id)["status"] == "failed"
        wait_for(lambda: len(server.requests) == 2)
        messages = [read_signed(request, stored.json()["secret"]) for request in server.requests]
    assert messages[0][0] == "test"
    assert messages[1] == ("run.failed", id)
    [firing] = wait_for(lambda: service.firings("handling/failed"))
    assert service.output(firing["workflow_id"]) == {"seen": id}
    wait_for(lambda: not service.http.get("/notifications").json()["items"])
