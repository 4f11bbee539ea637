"""`noetl runs` and `noetl inbox` against a service: the same output as against its store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.cli.conftest import Command, CommandResult
from tests.e2e.test_serve import run_service
from tests.http_server import StubExchange, serve

pytestmark = pytest.mark.xdist_group("service of url")  # The fixture of the module is made once.

PLAYBOOK = """\
name: mixed
version: "3"
input: {n: {type: integer, default: 2}}
steps:
  - name: begin
    run:
      - {action: log, message: "n is {{ input.n }}"}
      - {action: set, set: {half: "{{ 10 / input.n }}"}}
    rule:
      - {case: "{{ half > 100 }}", run: [other]}
      - {case: default, run: [end]}
  - {name: other, run: [{action: log, message: large}]}
  - {name: end, run: [{action: shell, command: [echo, "done"]}]}
output: {half: "{{ half }}"}
"""

ASK = """\
name: ask
steps:
  - name: ask
    run:
      - {action: callback, title: "Go?", answer: {yes: boolean}, as: go}
output: {go: "{{ go }}"}
"""


PARENT = """\
name: parent
steps:
  - name: call
    run: [{action: workflow, playbook: mixed, input: {n: 4}, as: child}]
output: {half: "{{ child.half }}"}
"""


class ServedStore:
    """A running service, its address, and the URL of its store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.store = f"sqlite:///{folder / 'noetl.db'}"

    def start(self, playbook: str, status: str, **input: Any) -> str:
        """Start a run, and return its id once it has a status."""
        response = httpx.post(
            f"{self.url}/workflows/run", json={"playbook": playbook, "input": input}, timeout=60
        )
        assert response.status_code == 202, response.text
        run_id: str = response.json()["workflow_id"]
        self.wait(run_id, status)
        return run_id

    def wait(self, run_id: str, status: str) -> None:
        while httpx.get(f"{self.url}/workflows/status/{run_id}", timeout=60).json()["status"] != status:
            time.sleep(0.02)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        yield ServedStore(url, folder)


@pytest.fixture(scope="module")
def succeeded(service: ServedStore) -> str:
    return service.start(PLAYBOOK, "succeeded")


@pytest.fixture(scope="module")
def failed(service: ServedStore) -> str:
    return service.start(PLAYBOOK, "failed", n=0)


@pytest.fixture(scope="module")
def waiting(service: ServedStore) -> str:
    return service.start(ASK, "waiting")


@pytest.fixture
def compared(noetl: Command, service: ServedStore) -> Callable[..., CommandResult]:
    """Function `compared(*arguments)`: the result of a command, the same with --store and with --url."""

    def run_twice(*arguments: str) -> CommandResult:
        local = noetl(*arguments, "--store", service.store)
        remote = noetl(*arguments, "--url", service.url)
        assert remote.out == local.out
        assert remote.exit_code == local.exit_code
        assert remote.err.replace("this service", "this store") == local.err
        return remote

    return run_twice


SHOWN = [
    ["list"],
    ["list", "--json"],
    ["list", "--playbook", "mixed", "--limit", "1"],
    ["list", "--playbook", "no such"],
    ["list", "--status", "failed", "--status", "succeeded", "--since", "1d", "--oldest-first"],
    ["list", "--search", "mixed", "--tag", "no-tag"],
    ["list", "--counts"],
    ["list", "--counts", "--json"],
    ["histogram", "--step", "1d", "--since", "2026-01-01"],
    ["show", "ID"],
    ["show", "ID", "--json"],
    ["show", "ID", "--step", "begin"],
    ["show", "ID", "--step", "begin", "--visit", "1", "--json"],
    ["show", "ID", "--at", "9"],
    ["show", "ID", "--at", "9", "--json"],
    ["show", "ID", "--at", "7", "--step", "begin"],
    ["graph", "ID", "--at", "9", "-f", "svg"],
    ["logs", "ID"],
    ["logs", "ID", "--step", "begin", "--json"],
    ["logs", "ID", "-f"],
    ["events", "ID"],
    ["events", "ID", "--json"],
    ["graph", "ID"],
    ["graph", "ID", "-f", "mermaid"],
    ["graph", "ID", "-f", "json"],
    ["graph", "ID", "-f", "svg"],
    ["watch", "ID", "-q"],
    ["watch", "ID", "--json"],
]


@pytest.mark.parametrize("arguments", SHOWN, ids=" ".join)
@pytest.mark.parametrize("run", ["succeeded", "failed"])
def test_a_run_of_a_service_is_shown_as_one_of_its_store(
    compared: Callable[..., CommandResult], request: pytest.FixtureRequest, run: str, arguments: list[str]
) -> None:
    run_id = request.getfixturevalue(run)
    result = compared("runs", *[run_id if argument == "ID" else argument for argument in arguments])
    assert result.exit_code in (0, 1)
    assert result.out or {"no such", "no-tag", "-q"} & set(arguments)


def test_last_and_first_characters_name_a_run(compared: Callable[..., CommandResult], failed: str) -> None:
    assert compared("runs", "show", "last", "--json").json["workflow_id"]
    assert compared("runs", "show", failed[:10], "--json").json["workflow_id"] == failed
    assert "is too short" in compared("runs", "show", failed[:2]).err
    assert "unknown run `ffffffff`" in compared("runs", "show", "ffffffff").err
    assert "unknown run `no run`" in compared("runs", "show", "no run").err
    assert "unknown step `begim`" in compared("runs", "show", failed, "--step", "begim").err
    assert "has no visit 9" in compared("runs", "show", failed, "--step", "begin", "--visit", "9").err


def test_a_question_is_listed_and_answered(
    noetl: Command, compared: Callable[..., CommandResult], service: ServedStore, waiting: str
) -> None:
    assert "Go?" in compared("inbox").out
    assert compared("inbox", "--json").json["items"][0]["workflow_id"] == waiting
    assert "Go?" in compared("runs", "show", waiting).out
    wrong = noetl("runs", "answer", waiting[:12], "--step", "ask", "-d", "{}", "--url", service.url)
    assert (wrong.exit_code, "missing field `yes`" in wrong.err) == (1, True)
    token = noetl("runs", "answer", "no-token", "--url", service.url)
    assert (token.exit_code, "no step has ever waited for this answer" in token.err) == (1, True)
    given = noetl("runs", "answer", waiting, "--step", "ask", "-d", '{"yes": true}', "--url", service.url)
    assert (given.exit_code, given.err) == (0, f"answered run {waiting}\n")
    watched = noetl("runs", "watch", waiting, "--url", service.url)
    assert (watched.exit_code, json.loads(watched.out)) == (0, {"go": {"yes": True}})
    assert "✓ ask" in watched.err


def test_a_run_is_cancelled_and_resumed(noetl: Command, service: ServedStore) -> None:
    run_id = service.start(ASK, "waiting")
    cancelled = noetl("runs", "cancel", run_id, "--url", service.url)
    assert cancelled.exit_code == 0
    assert cancelled.err.startswith(f"run {run_id} is ")
    service.wait(run_id, "cancelled")
    resumed = noetl("runs", "resume", run_id, "--json", "--url", service.url)
    assert (resumed.exit_code, resumed.json["workflow_id"]) == (0, run_id)
    service.wait(run_id, "waiting")
    assert noetl("runs", "cancel", run_id, "--url", service.url).exit_code == 0
    service.wait(run_id, "cancelled")
    again = noetl("runs", "resume", run_id, "--from", "ask", "--url", service.url)
    assert again.exit_code == 0
    assert again.err.endswith("the workers of its service execute it\n")
    assert run_id not in again.err


def test_a_corrected_input_has_its_declared_type(noetl: Command, service: ServedStore) -> None:
    run_id = service.start(PLAYBOOK, "failed", n=0)
    assert noetl("runs", "resume", run_id, "-i", "n=5", "--url", service.url).exit_code == 0
    service.wait(run_id, "succeeded")
    watched = noetl("runs", "watch", run_id, "--url", service.url)
    assert json.loads(watched.out) == {"half": 2.0}


def test_runs_that_a_run_starts_are_watched(
    compared: Callable[..., CommandResult], service: ServedStore
) -> None:
    response = httpx.post(f"{service.url}/playbooks", json={"playbook": PLAYBOOK}, timeout=60)
    assert response.status_code == 201, response.text
    run_id = service.start(PARENT, "succeeded")
    watched = compared("runs", "watch", run_id)
    assert "mixed: begin" in watched.err
    assert json.loads(watched.out) == {"half": 2.5}
    (child,) = compared("runs", "list", "--parent", run_id[:10], "--json").json["items"]
    assert (child["playbook"], child["parent"]) == ("mixed", run_id)


def test_a_store_contradicts_a_service(noetl: Command, service: ServedStore) -> None:
    result = noetl("runs", "list", "--url", service.url, "--store", service.store)
    assert result.exit_code == 2
    assert result.err == "noetl: --store contradicts --url; name a store or a service\n"


@pytest.mark.parametrize("command", [["runs", "list"], ["runs", "show", "last"], ["inbox"]], ids=" ".join)
def test_a_service_that_cannot_be_reached_is_one_sentence(noetl: Command, command: list[str]) -> None:
    with serve(lambda exchange: exchange.reply()) as server:
        url = server.url("")
    result = noetl(*command, "--url", url)
    assert (result.exit_code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"noetl: request to {url.removeprefix('http://')} failed: ")


REFUSALS = {
    401: (
        "unauthenticated",
        "Missing credentials.",
        "refused the request: Missing credentials. Set NOETL_API_KEY.",
    ),
    403: (
        "insufficient-scope",
        "The credentials lack `run`.",
        "refused the request: The credentials lack `run`.",
    ),
    408: ("slow-body", "The body is late.", "refused the request: The body is late."),
    429: ("too-many-requests", "Try again in 3 s.", "refused the request: Try again in 3 s."),
    500: ("internal-error", "Internal error.", "could not perform the request: Internal error."),
    503: ("store-unavailable", "Gone \x1b[31m\u202e.", "refused the request: Gone ␛[31m\ufffd."),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_what_a_service_refuses_is_one_sentence(noetl: Command, status: int) -> None:
    slug, detail, sentence = REFUSALS[status]
    problem = {"type": f"urn:noetl:problem:{slug}", "title": "No", "status": status, "detail": detail}
    with serve(lambda exchange: exchange.reply_json(problem, status)) as server:
        result = noetl("runs", "list", "--url", server.url(""))
    assert (result.exit_code, result.out) == (1, "")
    assert result.err.endswith(f"{sentence}\n")
    assert result.err.count("\n") == 1


RUN: dict[str, Any] = {
    "workflow_id": "1" * 24,
    "status": "failed",
    "playbook": "<b>\x1b[31m\u202e",
    "version": None,
    "created_at": "2026-01-31T09:30:00Z",
    "started_at": None,
    "finished_at": None,
    "tags": [],
}
FOREIGN: dict[str, Any] = {
    "no object": [1],
    "no page": {"ok": True},
    "other items": {"items": [1], "next_cursor": None},
    "no status": {"items": [{**RUN, "status": "fine"}], "next_cursor": None},
    "no time": {"items": [{**RUN, "created_at": "yesterday"}], "next_cursor": None},
    "number as id": {"items": [{**RUN, "workflow_id": 7}], "next_cursor": None},
    "no tags": {"items": [{**RUN, "tags": None}], "next_cursor": None},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_server_that_is_no_service_is_one_sentence(noetl: Command, name: str) -> None:
    with serve(lambda exchange: exchange.reply_json(FOREIGN[name])) as server:
        result = noetl("runs", "list", "--url", server.url(""))
    assert (result.exit_code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "unlike a NoETL service; check --url" in result.err


def test_hostile_text_of_a_service_is_safe_for_a_terminal(noetl: Command) -> None:
    page = {
        "items": [{**RUN, "status": "cancelled", "unknown": {"of": "a later version"}}],
        "next_cursor": "\x1b]0;x",
    }
    with serve(lambda exchange: exchange.reply_json(page)) as server:
        result = noetl("runs", "list", "--url", server.url(""))
    assert result.exit_code == 0
    assert "\x1b" not in result.out + result.err
    assert "\u202e" not in result.out
    assert "<b>␛[31m" in result.out


def test_the_inbox_is_read_on_after_a_page_without_questions(noetl: Command) -> None:
    def answer(exchange: StubExchange) -> None:
        exchange.reply_json({"items": [], "next_cursor": None if "cursor=next" in exchange.path else "next"})

    with serve(answer) as server:
        result = noetl("inbox", "--url", server.url(""))
    assert (result.exit_code, result.err) == (0, "nothing waits for a person\n")
    assert ["cursor=next" in request.target for request in server.requests] == [False, True]


def test_the_key_is_sent_and_not_over_http_to_others(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_API_KEY", "the-key")

    def answer(exchange: StubExchange) -> None:
        exchange.reply_json({"items": [], "next_cursor": None})

    with serve(answer) as server:
        assert noetl("runs", "list", "--url", server.url("")).err == "no runs\n"
        assert noetl("inbox", "--url", server.url("")).exit_code == 0
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer the-key"] * 2
    result = noetl("runs", "list", "--url", "http://noetl.example.com")
    assert result.err == "noetl: NOETL_API_KEY is not sent over http, where others can read it; use https\n"
    assert "--url must be an http or https URL" in noetl("runs", "list", "--url", "noetl.example.com").err


def test_the_items_of_a_loop_of_a_service_are_listed(
    compared: Callable[..., CommandResult], service: ServedStore
) -> None:
    text = """
        name: loop
        steps:
          - name: each
            loop: {items: [2, 0, 1], on_error: continue}
            run: [{action: set, set: {x: "{{ 1 / item }}"}}]
    """
    run_id = service.start(text, "succeeded")
    failed = compared("runs", "items", run_id, "--step", "each", "--state", "failed", "--json").json
    assert [(item["number"], item["value"]) for item in failed["items"]] == [(2, "0")]
    assert "2 succeeded, 1 failed" in compared("runs", "items", run_id, "--step", "each", "--limit", "1").out
    assert "each: 3 of 3 items, 1 failed" in compared("runs", "show", run_id).out
    assert ">1 failed, 3 of 3<" in compared("runs", "graph", run_id, "-f", "svg").out


@pytest.mark.parametrize(("mode", "words"), [("parallel", "waits, 1 of 2 here"), ("sequential", "may run")])
def test_a_picture_shows_branches_that_wait_for_others(
    compared: Callable[..., CommandResult], service: ServedStore, mode: str, words: str
) -> None:
    playbook = f"""\
name: forked
mode: {mode}
steps:
  - {{name: begin, run: [{{action: log, message: go}}], rule: [{{case: default, run: [ask, other]}}]}}
  - {{name: ask, run: [{{action: callback, as: go}}], rule: [{{case: default, run: [end]}}]}}
  - {{name: other, run: [{{action: set, set: {{x: 1}}}}], rule: [{{case: default, run: [end]}}]}}
  - {{name: end, run: [{{action: log, message: done}}]}}
"""
    picture = compared("runs", "graph", service.start(playbook, "waiting"), "-f", "svg")
    assert f">{words}<" in picture.out
    assert ">will not run<" not in picture.out


def test_runs_of_a_service_are_deleted(noetl: Command, service: ServedStore) -> None:
    run, held = service.start(PLAYBOOK, "failed", n=0), service.start(ASK, "waiting")
    result = noetl("runs", "delete", held, run[:12], "--yes", "--url", service.url)
    assert result.exit_code == 1
    refused, deleted, count = result.err.splitlines()
    host = service.url.removeprefix("http://")
    sentence = f"run {held} has not ended; cancel it first, or wait for its end"
    assert refused == f"noetl: {host} refused the request: {sentence}"
    assert (deleted, count) == (f"run {run} is deleted", "noetl: 1 of 2 runs were refused")
    again = noetl("runs", "delete", run, "--yes", "--url", service.url)
    assert (again.exit_code, f"unknown run `{run}`" in again.err) == (2, True)


def count_resumes(service: ServedStore, run_id: str) -> int:
    """Return how often a run was resumed."""
    events = httpx.get(f"{service.url}/workflows/{run_id}/events", timeout=60).json()["items"]
    return [event["type"] for event in events].count("workflow.resumed")


@pytest.mark.parametrize("place", ["store", "url"])
def test_several_runs_of_a_service_are_resumed(noetl: Command, service: ServedStore, place: str) -> None:
    where = (f"--{place}", getattr(service, place))
    runs = [service.start(PLAYBOOK, "failed", n=0) for _ in range(2)]
    waiting = service.start(ASK, "waiting")
    result = noetl("runs", "resume", *runs, waiting, *where)
    assert result.exit_code == 1
    lines = [f"run {run} is resumed" for run in runs]
    lines += [f"noetl: run {waiting} has not ended", "noetl: 1 of 3 runs were refused"]
    assert result.err.splitlines() == lines
    for run in runs:
        service.wait(run, "failed")
        assert count_resumes(service, run) == 1


@pytest.mark.parametrize("place", ["store", "url"])
def test_the_runs_of_a_filter_are_resumed(noetl: Command, service: ServedStore, place: str) -> None:
    where = (f"--{place}", getattr(service, place))
    name = f"broken_{place}"
    text = PLAYBOOK.replace("name: mixed", f"name: {name}")
    failed, fine = service.start(text, "failed", n=0), service.start(text, "succeeded")
    held = service.start(ASK.replace("name: ask\nsteps", f"name: {name}\nsteps"), "waiting")
    assert noetl("runs", "cancel", held, "--url", service.url).exit_code == 0
    service.wait(held, "cancelled")
    refused = noetl("runs", "resume", "--playbook", name, *where)
    assert refused.err == "noetl: the filter selects 1 run; repeat the command with --yes\n"
    result = noetl("runs", "resume", "--playbook", name, "--yes", "--json", *where)
    assert (result.exit_code, json.loads(result.out)["workflow_id"]) == (0, failed)
    service.wait(failed, "failed")
    assert [count_resumes(service, run) for run in (failed, fine, held)] == [1, 0, 0]
    result = noetl("runs", "resume", "--playbook", name, "--status", "cancelled", "--yes", *where)
    assert result.err == f"run {held} is resumed\n"
    for arguments in (("--status", "running"), ("--status", "succeeded")):
        wrong = noetl("runs", "resume", *arguments, "--yes", *where)
        assert (wrong.exit_code, "--status must be failed, timed_out" in wrong.err) == (2, True)


def test_inputs_are_those_of_one_run(noetl: Command) -> None:
    for arguments in (("a", "b", "-i", "n=1"), ("--playbook", "x", "--from", "end")):
        result = noetl("runs", "resume", *arguments)
        assert (result.exit_code, result.err) == (2, "noetl: inputs and --from need the id of one run\n")


def test_tags_of_a_run_of_a_service_are_changed(
    compared: Callable[..., CommandResult], succeeded: str
) -> None:
    result = compared("runs", "tag", succeeded, "env=prod", "x", "--remove", "none")
    assert (result.exit_code, result.out) == (0, "env=prod\nx\n")
    assert compared("runs", "tag", succeeded, "--remove", "env", "--remove", "x", "--json").exit_code == 0
