"""The route `POST /workflows/run`."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.http.responses import AcceptedRun
from noetl.api.service.views import RunResult
from noetl.executor.errors import SettingError
from tests.api.responses import read_view

pytestmark = pytest.mark.anyio

YAML = {"Content-Type": "application/yaml"}
PATIENT = {"Prefer": "wait=25"}

GREET = """\
name: greet
input:
  who: {type: string, default: you}
variables: {mark: "!"}
steps:
  - name: greet
    run:
      - {action: set, set: {greeting: "Hello {{ input.who }}{{ mark }}"}}
output: {greeting: "{{ greeting }}"}
"""

BROKEN = """\
name: broken
steps:
  - name: a
    rule:
      - case: default
        run: [b]
  - name: c
    run:
      - {action: htpp, url: "http://x.test"}
"""


async def test_a_submitted_playbook_is_accepted_and_runs(http: httpx.AsyncClient) -> None:
    response = await http.post("/workflows/run", content=GREET, headers=YAML)
    assert response.status_code == 202
    accepted = read_view(AcceptedRun, response.json())
    assert accepted.playbook == "greet"
    assert len(accepted.plan_hash) == 64
    assert (
        response.headers["location"] == accepted.links.status == f"/workflows/status/{accepted.workflow_id}"
    )
    assert response.headers["retry-after"] == "1"
    for link in (accepted.links.status, accepted.links.result, accepted.links.events):
        assert (await http.get(link)).status_code in (200, 202)


async def test_the_response_has_the_result_of_a_run_that_finishes_in_time(http: httpx.AsyncClient) -> None:
    response = await http.post(
        "/workflows/run", content=GREET, headers=YAML | PATIENT, params={"input": '{"who": "Ada"}'}
    )
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=25"
    body = read_view(RunResult, response.json())
    assert (body.status, body.result, body.errors) == ("succeeded", {"greeting": "Hello Ada!"}, [])
    assert (await http.get(f"/workflows/result/{body.workflow_id}")).json() == response.json()


async def test_a_run_that_does_not_finish_in_time_is_accepted(
    http: httpx.AsyncClient, settings: dict[str, str]
) -> None:
    response = await http.post("/workflows/run", content=GREET, headers=YAML | {"Prefer": "wait=0"})
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=0"


@pytest.mark.parametrize("as_object", [True, False])
async def test_json_has_input_variables_and_tags(http: httpx.AsyncClient, as_object: bool) -> None:
    playbook = {
        "name": "greet",
        "input": {"who": "string"},
        "variables": {"mark": "!"},
        "steps": [
            {
                "name": "greet",
                "run": [{"action": "set", "set": {"greeting": "Hello {{ input.who }}{{ mark }}"}}],
            }
        ],
    }
    body = {
        "playbook": playbook if as_object else GREET,
        "input": {"who": "Zoë \U0001f600\u2028"},
        "variables": {"mark": "?"},
        "tags": ["a", "b"],
    }
    response = await http.post("/workflows/run", json=body, headers=PATIENT)
    assert response.status_code == 200, response.text
    assert response.json()["result"] == {"greeting": "Hello Zoë \U0001f600\u2028?"}
    tagged = await http.get("/workflows", params={"tag": "b"})
    assert [item["tags"] for item in tagged.json()["items"]] == [["a", "b"]]


async def test_a_playbook_with_errors_is_rejected_with_all_of_them(http: httpx.AsyncClient) -> None:
    response = await http.post("/workflows/run", content=BROKEN, headers=YAML)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:noetl:problem:invalid-playbook"
    found = {(d["code"], d["line"], d["severity"]) for d in problem["diagnostics"]}
    assert {("NP101", 6, "error"), ("NP501", 9, "error")} <= found
    assert set(problem["diagnostics"][0]) == {
        *("code", "severity", "message", "line", "column", "end_line", "end_column", "hint")
    }
    assert (await http.get("/workflows")).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    "body", [b"", b"name: \xff", b"a: [1", b"just words", b"[" * 100_000], ids=lambda b: repr(b[:9])
)
async def test_a_body_that_is_not_a_playbook_is_rejected_with_diagnostics(
    http: httpx.AsyncClient, body: bytes
) -> None:
    response = await http.post("/workflows/run", content=body, headers=YAML)
    assert response.status_code == 422
    assert response.json()["diagnostics"]


@pytest.mark.parametrize("given", [{}, {"who": 7}, {"who": "a", "zzz": 1}])
async def test_invalid_input_is_rejected(http: httpx.AsyncClient, given: dict[str, object]) -> None:
    playbook = GREET.replace("{type: string, default: you}", "string")
    response = await http.post("/workflows/run", json={"playbook": playbook, "input": given})
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "urn:noetl:problem:invalid-input"
    assert {entry["name"] for entry in problem["inputs"]} <= {"who", "zzz"}
    assert problem["inputs"]


async def test_an_idempotency_key_starts_one_run(http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "order-17"}
    answers = await asyncio.gather(
        *(http.post("/workflows/run", content=GREET, headers=YAML | key) for _ in range(8))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["workflow_id"] for answer in answers}) == 1
    for changed in ({"input": {"who": "Eve"}}, {"tags": ["x"]}, {"variables": {"mark": ""}}):
        other = await http.post("/workflows/run", json={"playbook": GREET} | changed, headers=key)
        assert other.status_code == 422
        assert other.json()["type"] == "urn:noetl:problem:idempotency-key-reused"
    assert len((await http.get("/workflows")).json()["items"]) == 1


class TestAllowedActions:
    """A service that allows only some action types."""

    FETCH = "name: x\nsteps:\n- {name: a, run: [{action: http, url: https://x.test}]}\n"

    @pytest.fixture
    def settings(self, settings: dict[str, str]) -> dict[str, str]:
        return settings | {"NOETL_ALLOW_ACTIONS": "set, log, wait"}

    async def test_a_playbook_with_another_action_type_is_refused(self, http: httpx.AsyncClient) -> None:
        for call in ("/workflows/run", "/playbooks", "/plan"):
            answer = await http.post(call, content=self.FETCH, headers=YAML)
            assert answer.status_code == 422
            [found] = answer.json()["diagnostics"]
            assert (found["code"], found["line"], found["column"]) == ("NP511", 3, 28)
            assert found["message"] == "action type `http` is not allowed here"
            assert found["hint"] == "use a type that NOETL_ALLOW_ACTIONS allows: `log`, `set`, `wait`"
        assert (await http.get("/workflows")).json()["items"] == []

    async def test_a_playbook_with_allowed_action_types_runs(self, http: httpx.AsyncClient) -> None:
        answer = await http.post("/workflows/run", content=GREET, headers=YAML | PATIENT)
        assert answer.json()["status"] == "succeeded"


class TestActionsOfRegisteredPlans:
    """A plan that was registered when more action types were allowed."""

    async def test_a_disabled_action_fails(self, settings: dict[str, str]) -> None:
        text = "name: old\nsteps: [{name: a, run: [{action: shell, command: echo hello}]}]\n"
        for more, status in (({}, "succeeded"), ({"NOETL_ALLOW_ACTIONS": "set"}, "failed")):
            app = create_app(settings | more)
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://localhost", timeout=60
                ) as client:
                    await client.post("/playbooks", content=text, headers=YAML)
                    body = {"playbook": {"name": "old"}}
                    answer = (await client.post("/workflows/run", json=body, headers=PATIENT)).json()
                    assert answer["status"] == status
        assert answer["errors"][0]["type"] == "ActionDisabled"
        assert (
            answer["errors"][0]["message"]
            == "action type `shell` is not allowed here: NOETL_ALLOW_ACTIONS does not name it"
        )


async def test_an_unknown_action_type_in_a_setting_is_an_error(settings: dict[str, str]) -> None:
    app = create_app(settings | {"NOETL_ALLOW_ACTIONS": "set,htpp"})
    with pytest.raises(
        SettingError, match=r"NOETL_ALLOW_ACTIONS names the unknown action type 'htpp'; did you mean `http`\?"
    ):
        async with app.router.lifespan_context(app):
            pass
