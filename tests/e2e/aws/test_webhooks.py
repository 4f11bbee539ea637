"""Webhooks through the routes of the deployed gateway, with a secret in Secrets Manager."""

from __future__ import annotations

import hashlib
import hmac
import json

from tests.e2e.aws.conftest import SECRETS_PREFIX
from tests.e2e.aws.service import DeployedService
from tests.e2e.aws.stack import DeployedStack

SECRET = "a-secret-of-github"
PUSHED = """
name: pushed
input: {number: integer}
triggers:
- {name: hook, type: webhook, path: git/pushed, auth: {scheme: github, secret: "{{ secrets.GITHUB }}"},
   input: {number: "{{ trigger.body.number }}"}}
- {name: replaced, type: webhook, path: git/replaced, method: PUT, answer: result, wait: 20s,
   auth: {scheme: hmac, secret: "{{ secrets.GITHUB }}", header: X-Signature},
   input: {number: "{{ trigger.body.number }}"}}
steps: [{name: a, run: [{action: set, set: {seen: "{{ input.number }}"}}]}]
"""


def test_a_signed_request_through_the_gateway_starts_one_run(
    service: DeployedService, stack: DeployedStack
) -> None:
    stack.client("secretsmanager").create_secret(Name=f"{SECRETS_PREFIX}GITHUB", SecretString=SECRET)
    service.register(PUSHED)
    body = b'{ "number":  5, "text": "\xc3\xa4" }\n'
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json"}
    with stack.http(None) as stranger:
        refused = stranger.post("/hooks/default/git/pushed", content=body + b" ", headers=headers)
        assert refused.status_code == 401, refused.text
        assert refused.json()["type"] == "urn:noetl:problem:unsigned"
        answers = [stranger.post("/hooks/default/git/pushed", content=body, headers=headers) for _ in "ab"]
        assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
        assert answers[0].json() == answers[1].json()
        unknown = stranger.post("/hooks/default/git/nothing", content=body, headers=headers)
        assert unknown.status_code == 404, unknown.text
        replaced = stranger.put(
            "/hooks/default/git/replaced", content=body, headers={**headers, "X-Signature": signature}
        )
        assert replaced.status_code == 200, replaced.text
        assert json.loads(replaced.text) == {"seen": 5}
    assert service.output(answers[0].json()["workflow_id"]) == {"seen": 5}
    firings = service.http.get("/triggers/pushed/hook/firings").json()["items"]
    assert [firing["workflow_id"] for firing in firings] == [answers[0].json()["workflow_id"]]
