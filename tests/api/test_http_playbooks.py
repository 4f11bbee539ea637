"""The routes of the playbook registry, and runs of registered playbooks."""

from __future__ import annotations

import asyncio
import threading
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.http.responses import PlaybookDocument
from noetl.api.service.views import (
    AliasEntry,
    AliasPage,
    PlaybookEntry,
    PlaybookPage,
    RunEntry,
    RunReport,
    members,
)
from noetl.executor.model.registry import MAX_ALIASES
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.planner.plan import Plan
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

YAML = {"Content-Type": "application/yaml"}
PATIENT = {"Prefer": "wait=25"}
STREAM = {"Accept": "text/event-stream"}

GREET = """\
name: greet
steps:
  - name: say
    run: [{action: set, set: {said: "Hello %s"}}]
"""
CHILD = """\
name: etl/child
input: {gate: string}
steps:
  - name: hold
    run: [{action: shell, command: [cat, "{{ input.gate }}"], as: read}]
output: {read: "{{ read.stdout }}"}
"""
PARENT = """\
name: parent
input: {gate: string}
steps:
  - name: call
    run: [{action: workflow, playbook: etl/child, input: {gate: "{{ input.gate }}"}, as: found}]
"""


def versioned(version: str, addressee: str = "Ada") -> str:
    return f"version: '{version}'\n" + GREET % addressee


def named(name: str, version: str | None = None) -> dict[str, Any]:
    steps = [{"name": "say", "run": [{"action": "set", "set": {"said": name}}]}]
    return {"name": name, "steps": steps} | ({} if version is None else {"version": version})


async def register(http: httpx.AsyncClient, text: str) -> httpx.Response:
    return await http.post("/playbooks", content=text, headers=YAML)


async def run(http: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return await http.post("/workflows/run", json=body, headers=headers)


class TestRegistration:
    async def test_a_playbook_is_kept(self, http: httpx.AsyncClient) -> None:
        text = GREET % "Ada"
        response = await register(http, text)
        assert response.status_code == 201
        entry = read_view(PlaybookEntry, response.json())
        assert (entry.name, entry.version, len(entry.plan_hash)) == ("greet", "1", 64)
        assert entry.registered_by == "this machine"
        assert response.headers["location"] == "/playbooks/greet/versions/1"
        for path in (response.headers["location"], "/playbooks/greet"):
            found = read_view(PlaybookDocument, (await http.get(path)).json())
            assert PlaybookEntry(**{name: getattr(found, name) for name in members(entry)}) == entry
            assert found.source == text
            assert found.links.self == response.headers["location"]
            assert found.links.versions == "/playbooks/greet/versions"

    async def test_the_same_text_is_registered_once(self, http: httpx.AsyncClient) -> None:
        for text in (GREET % "Ada", versioned("x")):
            first, second = await register(http, text), await register(http, text)
            assert (first.status_code, second.status_code) == (201, 200)
            assert second.json() == first.json()
            assert second.headers["location"] == first.headers["location"]

    async def test_another_text_is_another_version(self, http: httpx.AsyncClient) -> None:
        await register(http, GREET % "Ada")
        for text, version in ((GREET % "Eve", "2"), (versioned("3 β"), "3%20%CE%B2"), (GREET % "Zoe", "4")):
            response = await register(http, text)
            assert (response.status_code, response.headers["location"]) == (
                201,
                f"/playbooks/greet/versions/{version}",
            )

    async def test_a_draft_does_not_replace_a_version_that_it_does_not_know(
        self, http: httpx.AsyncClient
    ) -> None:
        async def save(text: str, newest: str) -> httpx.Response:
            return await http.post("/playbooks", json={"playbook": text}, params={"newest": newest})

        assert (await save(GREET % "Ada", "")).status_code == 201
        assert (await save(GREET % "Eve", "1")).status_code == 201
        for newest in ("1", "", "3", "\u202e"):
            assert_problem(await save(GREET % "Zoe", newest), 409, "playbook-changed")
        assert (await http.get("/playbooks/greet")).json()["version"] == "2"
        assert (await save(GREET % "Zoe", "2")).status_code == 201
        assert_problem(await save(GREET.replace("greet", "fresh") % "Zoe", "2"), 409, "playbook-changed")

    async def test_one_of_two_drafts_at_the_same_time_is_registered(
        self, http: httpx.AsyncClient, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two processes compare and compile the texts before one of them is written."""
        await register(http, GREET % "Ada")
        barrier = threading.Barrier(2)
        save_plan = SqlPlans.save

        def save_both(plans: SqlPlans, plan: Plan) -> None:
            barrier.wait(30)
            save_plan(plans, plan)

        monkeypatch.setattr(SqlPlans, "save", save_both)
        app = create_app(settings)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as other:
            answers = await asyncio.gather(
                *(
                    client.post("/playbooks", json={"playbook": GREET % addressee}, params={"newest": "1"})
                    for client, addressee in ((http, "Eve"), (other, "Zoe"))
                )
            )
        app.state.context.close()
        won, lost = sorted(answers, key=lambda answer: answer.status_code)
        assert (won.status_code, won.json()["version"]) == (201, "2")
        assert_problem(lost, 409, "playbook-changed")
        assert (await http.get("/playbooks/greet")).json()["plan_hash"] == won.json()["plan_hash"]

    async def test_a_version_never_gets_another_text(self, http: httpx.AsyncClient) -> None:
        await register(http, versioned("1", "Ada"))
        assert_problem(await register(http, versioned("1", "Eve")), 409, "version-exists")
        await http.delete("/playbooks/greet")
        assert_problem(await register(http, versioned("1", "Eve")), 409, "version-exists")
        assert (await http.get("/playbooks/greet")).status_code == 404
        assert (await register(http, versioned("1", "Ada"))).status_code == 201
        assert "Ada" in (await http.get("/playbooks/greet")).json()["source"]

    @pytest.mark.parametrize("playbook", [named("greet"), GREET % "Ada"], ids=["object", "text"])
    async def test_a_playbook_may_be_sent_as_json(self, http: httpx.AsyncClient, playbook: Any) -> None:
        assert (await http.post("/playbooks", json={"playbook": playbook})).status_code == 201
        answer = await run(http, PATIENT, playbook={"name": "greet"})
        assert answer.json()["status"] == "succeeded"

    async def test_a_run_carries_the_version_of_the_registry(self, http: httpx.AsyncClient) -> None:
        await register(http, GREET % "Ada")
        await register(http, GREET % "Eve")
        versions = []
        for playbook in ({"name": "greet"}, {"name": "greet", "version": "1"}, GREET % "Eve"):
            started = (await run(http, PATIENT, playbook=playbook)).json()
            status = read_view(
                RunReport, (await http.get(f"/workflows/status/{started['workflow_id']}")).json()
            )
            versions.append(status.version)
        assert versions == ["2", "1", None]
        items = [read_view(RunEntry, item) for item in (await http.get("/workflows")).json()["items"]]
        assert [item.version for item in items] == [None, "1", "2"]

    async def test_a_playbook_with_errors_is_not_registered(self, http: httpx.AsyncClient) -> None:
        response = await register(http, "name: greet\nsteps: [{name: a, run: [{action: htpp}]}]\n")
        assert_problem(response, 422, "invalid-playbook")
        assert [found["code"] for found in response.json()["diagnostics"]] == ["NP501"]
        assert (await http.post("/playbooks", data={"playbook": "x"})).status_code == 415
        assert (await http.post("/playbooks", json={"playbook": GREET % "A", "input": {}})).status_code == 422
        assert (await http.post("/playbooks?input={}", content=GREET % "A", headers=YAML)).status_code == 400
        assert (await http.get("/playbooks")).json() == {"items": [], "next_cursor": None}


PATHLESS_NAMES = [".", "..", "a/../b", "a//b", "/a", "a/", "versions", "a/versions/1"]


class TestRegisteredNames:
    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("a b", "a%20b"),
            ("etl/daily/load", "etl/daily/load"),
            ("100%", "100%25"),
            ("%2F", "%252F"),
            ("what? #1 & \"ü\" 'é' \U0001f600", None),
            ("a;b=c,d:e@f+g", None),
            ("versionsx/xversions", "versionsx/xversions"),
        ],
    )
    async def test_any_printable_name_has_a_path(
        self, http: httpx.AsyncClient, name: str, path: str | None
    ) -> None:
        response = await http.post("/playbooks", json={"playbook": named(name, name)})
        assert response.status_code == 201, response.text
        location = response.headers["location"]
        assert location.isascii()
        if path is not None:
            assert location == f"/playbooks/{path}/versions/{path}"
        encoded = quote(name, safe="")
        for address in (
            location,
            f"/playbooks/{quote(name)}",
            f"/playbooks/{encoded}",
            f"/playbooks/{encoded}/versions/{encoded}",
        ):
            found = await http.get(address)
            assert found.status_code == 200, address
            assert (found.json()["name"], found.json()["version"]) == (name, name)
        links = (await http.get(location)).json()["links"]
        assert links["self"] == location
        assert [item["name"] for item in (await http.get(links["versions"])).json()["items"]] == [name]
        assert (await http.delete(location)).status_code == 204
        assert (await http.get(f"/playbooks/{encoded}")).status_code == 404

    @pytest.mark.parametrize(
        ("name", "is_version"),
        [
            *product(PATHLESS_NAMES, [False, True]),
            # As names of playbooks, they are errors of the compiler (NP110).
            *product(["", " a", "a\n", "a\0b", "x" * 101], [True]),
        ],
    )
    async def test_a_name_without_a_path_is_refused(
        self, http: httpx.AsyncClient, name: str, is_version: bool
    ) -> None:
        playbook = named("a", name) if is_version else named(name)
        response = await http.post("/playbooks", json={"playbook": playbook})
        assert_problem(response, 422, "invalid-name")
        assert ("the version of a" if is_version else "the name of a") in response.json()["detail"]
        assert (await http.get("/playbooks")).json()["items"] == []

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    @pytest.mark.parametrize(
        "path",
        [
            "",
            "greet/versions/",
            "greet/versions/2",
            "greet/",
            "other",
            "other/versions/1",
            "%00",
            "greet/versions/%00",
        ],
    )
    async def test_an_unknown_playbook_is_not_found(
        self, http: httpx.AsyncClient, method: str, path: str
    ) -> None:
        await register(http, GREET % "Ada")
        assert_problem(await http.request(method, f"/playbooks/{path}"), 404, "not-found")
        assert_problem(await http.get("/playbooks/other/versions"), 404, "not-found")
        assert (await http.get("/playbooks/greet")).status_code == 200

    @pytest.mark.parametrize(
        ("method", "path"), [("PUT", "greet"), ("POST", "greet"), ("DELETE", ""), ("PUT", "")]
    )
    async def test_other_methods_are_not_allowed(
        self, http: httpx.AsyncClient, method: str, path: str
    ) -> None:
        response = await http.request(method, f"/playbooks/{path}".rstrip("/"))
        assert response.status_code == 405
        assert response.headers["allow"]


class TestRegistryPages:
    async def test_a_page_has_the_newest_version_of_each_playbook(self, http: httpx.AsyncClient) -> None:
        for text in (GREET % "Ada", GREET % "Eve"):
            await register(http, text)
        for name in ("a", "b", "z"):
            await http.post("/playbooks", json={"playbook": named(name)})
        first = read_view(PlaybookPage, (await http.get("/playbooks?limit=3")).json())
        assert [(item.name, item.version) for item in first.items] == [("a", "1"), ("b", "1"), ("greet", "2")]
        rest = (await http.get("/playbooks", params={"limit": 3, "cursor": first.next_cursor})).json()
        assert ([item["name"] for item in rest["items"]], rest["next_cursor"]) == (["z"], None)

    async def test_a_page_has_all_versions_of_a_playbook(self, http: httpx.AsyncClient) -> None:
        for addressee in ("Ada", "Eve", "Zoe"):
            await register(http, GREET % addressee)
        first = read_view(PlaybookPage, (await http.get("/playbooks/greet/versions?limit=2")).json())
        assert [item.version for item in first.items] == ["3", "2"]
        rest = await http.get("/playbooks/greet/versions", params={"limit": 2, "cursor": first.next_cursor})
        assert [item["version"] for item in rest.json()["items"]] == ["1"]

    @pytest.mark.parametrize("path", ["/playbooks", "/playbooks/greet/versions"])
    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=1001", "cursor=x", "cursor=MTAwMDAwMDAwMDAwMDAwMDAwMDA=", "curs=x"]
    )
    async def test_a_bad_query_is_refused(self, http: httpx.AsyncClient, path: str, query: str) -> None:
        await register(http, GREET % "Ada")
        assert (await http.get(f"{path}?{query}")).status_code == 400

    async def test_a_removed_playbook_is_not_found(self, http: httpx.AsyncClient) -> None:
        for addressee in ("Ada", "Eve", "Zoe"):
            await register(http, GREET % addressee)
        removed = await http.delete("/playbooks/greet/versions/3")
        assert (removed.status_code, removed.content) == (204, b"")
        assert (await http.get("/playbooks/greet")).json()["version"] == "2"
        assert (await http.get("/playbooks/greet/versions/3")).status_code == 404
        assert (await http.delete("/playbooks/greet")).status_code == 204
        assert (await http.get("/playbooks")).json()["items"] == []
        assert_problem(await http.delete("/playbooks/greet"), 404, "not-found")


class TestRegisteredRuns:
    async def test_a_run_uses_the_newest_or_the_requested_version(self, http: httpx.AsyncClient) -> None:
        await register(http, GREET % "Ada")
        await register(http, GREET % "Eve")
        for playbook, said in (
            ({"name": "greet"}, "Hello Eve"),
            ({"name": "greet", "version": "1"}, "Hello Ada"),
            ({"name": "greet", "version": None}, "Hello Eve"),
        ):
            answer = await run(http, PATIENT, playbook=playbook, tags=["t"])
            assert (answer.status_code, answer.json()["result"]) == (200, {"said": said})
        items = (await http.get("/workflows?tag=t")).json()["items"]
        assert [item["playbook"] for item in items] == ["greet"] * 3

    async def test_input_and_variables_are_used_and_checked(self, http: httpx.AsyncClient) -> None:
        text = (
            "input: {n: integer}\nvariables: {v: 1}\nname: add\n"
            'steps: [{name: a, run: [{action: set, set: {s: "{{ input.n + v }}"}}]}]\n'
        )
        await register(http, text)
        answer = await run(http, PATIENT, playbook={"name": "add"}, input={"n": 2}, variables={"v": 40})
        assert answer.json()["result"]["s"] == 42
        assert_problem(await run(http, playbook={"name": "add"}, input={"n": "x"}), 422, "invalid-input")

    @pytest.mark.parametrize(
        "playbook", [{"name": "other"}, {"name": "greet", "version": "2"}, {"name": "\0"}]
    )
    async def test_an_unknown_playbook_cannot_be_run(
        self, http: httpx.AsyncClient, playbook: dict[str, str]
    ) -> None:
        await register(http, GREET % "Ada")
        assert_problem(await run(http, playbook=playbook), 404, "not-found")
        assert (await http.get("/workflows")).json()["items"] == []

    async def test_an_idempotency_key_returns_its_run_after_changes_of_the_registry(
        self, http: httpx.AsyncClient
    ) -> None:
        key = {"Idempotency-Key": "k"}
        await register(http, GREET % "Ada")
        first = await run(http, key, playbook={"name": "greet"})
        assert first.status_code == 202
        await register(http, "input: {needed: integer}\n" + GREET % "Eve")
        assert_problem(await run(http, playbook={"name": "greet"}), 422, "invalid-input")
        assert (await run(http, key, playbook={"name": "greet"})).json()["workflow_id"] == first.json()[
            "workflow_id"
        ]
        other = await run(http, key, playbook={"name": "greet", "version": "1"})
        assert_problem(other, 422, "idempotency-key-reused")
        assert_problem(await run(http, key, playbook=GREET % "Ada"), 422, "idempotency-key-reused")
        await http.delete("/playbooks/greet")
        assert_problem(await run(http, playbook={"name": "greet"}), 404, "not-found")
        assert (await run(http, key, playbook={"name": "greet"})).json()["workflow_id"] == first.json()[
            "workflow_id"
        ]
        assert len((await http.get("/workflows")).json()["items"]) == 1

    async def test_concurrent_requests_with_one_key_start_one_run(self, http: httpx.AsyncClient) -> None:
        await register(http, GREET % "Ada")
        body = {"playbook": {"name": "greet"}}
        answers = await asyncio.gather(*(run(http, {"Idempotency-Key": "k"}, **body) for _ in range(8)))
        assert len({answer.json()["workflow_id"] for answer in answers}) == 1


class TestChildRunsOverHttp:
    async def start_parent(self, http: httpx.AsyncClient, gate: Path) -> tuple[str, str, Any]:
        """Start a parent. Return its id, that of the child it waits for, and the open gate of the child."""
        assert (await register(http, CHILD)).status_code == 201
        started = await run(http, playbook=PARENT, input={"gate": str(gate)})
        opened_gate = await asyncio.to_thread(gate.open, "w")
        while True:
            parent = (await http.get(started.json()["links"]["status"])).json()
            read_view(RunReport, parent)
            if parent["status"] == "waiting":
                break
            await asyncio.sleep(0.01)
        waiting_for = parent["steps"]["call"]["waiting_for"]
        [child] = waiting_for["workflows"]
        assert waiting_for == {"until": None, "actions": ["workflow"], "workflows": [child]}
        return parent["workflow_id"], child, opened_gate

    async def wait_for_result(self, http: httpx.AsyncClient, workflow_id: str) -> Any:
        await http.get(f"/workflows/{workflow_id}/events", headers=STREAM)
        return (await http.get(f"/workflows/result/{workflow_id}")).json()

    async def test_a_parent_gets_the_result_of_its_child(self, http: httpx.AsyncClient, gate: Path) -> None:
        parent, child, opened_gate = await self.start_parent(http, gate)
        opened_gate.write("through")
        opened_gate.close()
        assert (await self.wait_for_result(http, parent))["result"] == {"found": {"read": "through"}}
        status = read_view(RunReport, (await http.get(f"/workflows/status/{child}")).json())
        assert (status.parent, status.status, status.playbook) == (parent, "succeeded", "etl/child")
        items = [read_view(RunEntry, item) for item in (await http.get("/workflows")).json()["items"]]
        assert {item.workflow_id: item.parent for item in items} == {parent: None, child: parent}

    async def test_a_playbook_is_removed_after_the_end_of_its_runs(
        self, http: httpx.AsyncClient, gate: Path
    ) -> None:
        parent, child, opened_gate = await self.start_parent(http, gate)
        (version,) = (await http.get("/playbooks/etl/child/versions")).json()["items"]
        for address in ("/playbooks/etl/child", f"/playbooks/etl/child/versions/{version['version']}"):
            refusal = await http.delete(address)
            assert_problem(refusal, 409, "playbook-in-use")
            assert refusal.json()["runs"] == [child]
            assert child in refusal.json()["detail"]
        assert (await http.get("/playbooks/etl/child")).status_code == 200
        opened_gate.write("through")
        opened_gate.close()
        result = await self.wait_for_result(http, parent)
        assert (result["status"], result["result"]) == ("succeeded", {"found": {"read": "through"}})
        assert (await http.delete("/playbooks/etl/child")).status_code == 204
        assert (await http.get(f"/workflows/{child}/graph?format=json")).status_code == 200
        again = await run(http, PATIENT, playbook=PARENT, input={"gate": str(gate)})
        assert again.json()["errors"][0]["message"] == "unknown playbook `etl/child`"

    async def test_a_cancel_of_a_parent_cancels_the_child(self, http: httpx.AsyncClient, gate: Path) -> None:
        parent, child, opened_gate = await self.start_parent(http, gate)
        await http.post(f"/workflows/{parent}/cancel")
        opened_gate.close()
        assert [(await self.wait_for_result(http, run_id))["status"] for run_id in (parent, child)] == [
            "cancelled",
            "cancelled",
        ]


async def promote(http: httpx.AsyncClient, version: str, alias: str = "live") -> httpx.Response:
    return await http.put(f"/playbooks/greet/aliases/{alias}", json={"version": version})


class TestAliases:
    async def test_live_follows_the_newest_version_until_one_is_promoted(
        self, http: httpx.AsyncClient
    ) -> None:
        for addressee in ("Ada", "Eve"):
            await register(http, GREET % addressee)
        page = read_view(AliasPage, (await http.get("/playbooks/greet/aliases")).json())
        (live,) = page.items
        assert (live.name, live.version, live.pinned, live.changed_at) == ("live", "2", False, None)
        response = await promote(http, "1")
        assert response.status_code == 201
        live = read_view(AliasEntry, response.json())
        assert (live.version, live.pinned, live.changed_by) == ("1", True, "this machine")
        await register(http, GREET % "Kim")
        again = await promote(http, "1")
        assert (again.status_code, again.json()) == (200, response.json())
        assert (await http.get("/playbooks/greet/aliases/live")).json() == response.json()
        entries = (await http.get("/playbooks")).json()["items"]
        assert [(e["version"], e["live_version"], e["pinned"]) for e in entries] == [("3", "1", True)]
        assert (await http.delete("/playbooks/greet/aliases/live")).status_code == 204
        newest = (await http.get("/playbooks/greet")).json()
        assert (newest["version"], newest["live_version"], newest["pinned"]) == ("3", "3", False)

    async def test_starts_use_the_live_version_or_that_of_an_alias(self, http: httpx.AsyncClient) -> None:
        for addressee in ("Ada", "Eve", "Kim"):
            await register(http, GREET % addressee)
        await promote(http, "1")
        await promote(http, "2", "stable")
        for version, expected in ((None, "1"), ("live", "1"), ("stable", "2"), ("3", "3")):
            reference = {"name": "greet"} | ({} if version is None else {"version": version})
            started = (await run(http, playbook=reference)).json()
            assert (await http.get(f"/workflows/{started['workflow_id']}")).json()["version"] == expected
            described = await http.get(f"/playbooks/greet/versions/{version or 'live'}")
            assert described.json()["version"] == expected
        unknown = await run(http, playbook={"name": "greet", "version": "other"})
        assert_problem(unknown, 404, "not-found")

    async def test_a_child_run_uses_the_version_of_the_alias(self, http: httpx.AsyncClient) -> None:
        for addressee in ("Ada", "Eve"):
            await register(http, GREET % addressee)
        await promote(http, "1", "stable")
        actions = [
            {"action": "workflow", "playbook": "greet", "alias": "stable", "as": "first"},
            {"action": "workflow", "playbook": "greet", "as": "second"},
        ]
        parent = {
            "name": "parent",
            "steps": [{"name": "call", "run": actions}],
            "output": {"said": "{{ first.said }}, {{ second.said }}"},
        }
        started = (await run(http, playbook=parent)).json()
        result = await http.get(f"/workflows/result/{started['workflow_id']}", headers=PATIENT)
        assert result.json()["result"] == {"said": "Hello Ada, Hello Eve"}

    async def test_a_version_and_an_alias_exclude_each_other(self, http: httpx.AsyncClient) -> None:
        action = {"action": "workflow", "playbook": "greet", "alias": "stable", "version": "1"}
        playbook = {"name": "parent", "steps": [{"name": "call", "run": [action]}]}
        response = await http.post("/plan", json={"playbook": playbook})
        (found,) = [d for d in response.json()["diagnostics"] if d["severity"] == "error"]
        assert (found["code"], found["message"]) == ("NP503", "`version` and `alias` exclude each other")

    async def test_wrong_aliases_are_refused(self, http: httpx.AsyncClient) -> None:
        await register(http, versioned("beta"))
        await register(http, versioned("2"))
        assert_problem(await promote(http, "9"), 404, "not-found")
        assert_problem(await promote(http, "2", "beta"), 409, "version-exists")
        for alias in ("3", "a%20b", "x" * 101):
            assert_problem(await promote(http, "2", alias), 422, "invalid-name")
        for body in ({}, {"version": 2}, {"version": "2", "more": 1}):
            refusal = await http.put("/playbooks/greet/aliases/live", json=body)
            assert_problem(refusal, 422)
        for method, path in (
            ("GET", "/playbooks/unknown/aliases"),
            ("GET", "/playbooks/greet/aliases/unknown"),
            ("DELETE", "/playbooks/greet/aliases/unknown"),
            ("DELETE", "/playbooks/greet/aliases/live"),
        ):
            assert_problem(await http.request(method, path), 404, "not-found")

    async def test_versions_and_aliases_have_different_names(self, http: httpx.AsyncClient) -> None:
        await register(http, versioned("1"))
        await promote(http, "1", "stable")
        for version in ("live", "stable"):
            assert_problem(await register(http, versioned(version)), 409, "alias-exists")
        assert_problem(await http.delete("/playbooks/greet/versions/1"), 409, "alias-in-use")
        assert_problem(
            await http.post("/playbooks", json={"playbook": named("a/aliases")}), 422, "invalid-name"
        )
        assert (await http.delete("/playbooks/greet/aliases/stable")).status_code == 204
        assert (await http.delete("/playbooks/greet/versions/1")).status_code == 204

    async def test_the_number_of_aliases_is_bounded(self, http: httpx.AsyncClient) -> None:
        await register(http, versioned("1"))
        for number in range(MAX_ALIASES):
            assert (await promote(http, "1", f"a{number}")).status_code == 201
        assert_problem(await promote(http, "1", "more"), 409, "too-many-aliases")

    async def test_a_name_may_have_slashes(self, http: httpx.AsyncClient) -> None:
        await http.post("/playbooks", json={"playbook": named("a/b", "1")})
        for path in ("/playbooks/a/b/aliases/live", "/playbooks/a%2Fb/aliases/live"):
            response = await http.put(path, json={"version": "1"})
            assert response.json()["version"] == "1"
        assert (await http.get("/playbooks/a/b/versions/live")).json()["name"] == "a/b"
