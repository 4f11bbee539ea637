"""The command `noetl runs answer`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.cli import callback_answer
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from noetl.executor.stores.sql.store import SqlStore

Command = Callable[..., Any]
Start = Callable[..., subprocess.Popen[str]]

ASK = """\
name: ask
steps:
  - name: ask
    run:
      - action: callback
        notify: {action: shell, command: "echo {{ callback.token }} > token"}
        heartbeat: 1h
        as: decision
output: {decision: "{{ decision }}"}
"""
ASK_BY_LOG = """\
name: ask
steps:
  - name: ask
    run: [{action: callback, notify: {action: log, message: "{{ callback.url }}"}, as: decision}]
output: {decision: "{{ decision }}"}
"""


@pytest.fixture
def waiting_run(folder: Path, start: Start) -> tuple[subprocess.Popen[str], str]:
    """Process of a run that waits for an answer, and the token."""
    Path("ask.yaml").write_text(ASK)
    os.mkfifo("token")
    process, token = start("run", "ask.yaml"), Path("token").read_text().strip()
    store = open_store()
    while not store.runs.find(RunFilter(statuses=(RunStatus.WAITING,)))[0]:
        assert process.poll() is None
    store.close()
    return process, token


@pytest.fixture
def abandoned(waiting_run: tuple[subprocess.Popen[str], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Token of a run whose process was interrupted."""
    process, token = waiting_run
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    monkeypatch.setattr(callback_answer, "_PICKUP_SECONDS", 0.1)
    return token


@pytest.fixture
def waiting_child(folder: Path, start: Start) -> str:
    """Token of a run that another run has started. Their process was interrupted."""
    Path("ask.yaml").write_text(ASK)
    Path("parent.yaml").write_text(
        "name: parent\nsteps: [{name: a, run: [{action: workflow, playbook: ask}]}]\n"
    )
    os.mkfifo("token")
    process, token = start("run", "parent.yaml"), Path("token").read_text().strip()
    with closing(open_store()) as store:
        while len(store.runs.find(RunFilter(statuses=(RunStatus.WAITING,)))[0]) < 2:
            assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    return token


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], None), (["-d", '{"yes": [1]}'], {"yes": [1]}), (["--data", '"text"'], "text")],
)
def test_the_waiting_process_continues(
    noetl: Command, waiting_run: tuple[subprocess.Popen[str], str], options: list[str], expected: Any
) -> None:
    process, token = waiting_run
    outcome = noetl("runs", "answer", token, *options)
    assert (outcome.exit_code, outcome.out) == (0, "")
    assert outcome.err.startswith("answered run ") and len(outcome.err.splitlines()) == 1
    out, _ = process.communicate(timeout=60)
    assert json.loads(out) == {"decision": expected}


def test_an_answer_on_standard_input(noetl: Command, waiting_run: tuple[subprocess.Popen[str], str]) -> None:
    process, token = waiting_run
    assert noetl("runs", "answer", token, "-d", "-", stdin='{"é": 1}').exit_code == 0
    assert json.loads(process.communicate(timeout=60)[0]) == {"decision": {"é": 1}}


def test_a_url_with_a_store_is_answered_in_the_store(noetl: Command, folder: Path, abandoned: str) -> None:
    store = f"sqlite:///{folder}/.noetl/noetl.db"
    url = f"https://example.com/workflows/callbacks/{abandoned}"
    assert noetl("runs", "answer", url, "--store", store).err.startswith("answered run ")


def test_a_run_without_a_worker_has_a_hint(noetl: Command, abandoned: str) -> None:
    outcome = noetl("runs", "answer", abandoned, "-d", "7")
    (run,) = noetl("runs", "list", "--json").json["items"]
    id = run["workflow_id"]
    assert outcome.err.splitlines() == [
        f"answered run {id}",
        f"no live worker holds this run; resume it with `noetl runs resume {id}`",
    ]
    assert "\nask has been due since 20" in noetl("runs", "show", id).out
    noetl("runs", "pause", id)
    assert f"Z; `noetl runs unpause {id}` lets it continue" in noetl("runs", "show", id).out
    noetl("runs", "unpause", id)
    assert noetl("runs", "resume", id, "-q").json == {"decision": 7}


def test_a_damaged_run_that_waits_is_not_resumed(noetl: Command, abandoned: str) -> None:
    """A run that was set aside before, and one whose damage no worker has met."""
    (run,) = noetl("runs", "list", "--json").json["items"]
    id = run["workflow_id"]
    remedy = f"Repair it and run `noetl doctor --fix`, or delete it with `noetl runs delete {id}`."
    store = open_store()
    assert isinstance(store, SqlStore)
    store.maintenance.set_aside(id, "The store has no plan 5f0c.")
    refused = noetl("runs", "resume", id)
    assert (refused.exit_code, refused.err) == (2, f"noetl: The store has no plan 5f0c. {remedy}\n")
    assert noetl("doctor", "--fix").exit_code == 0
    with store.database.transaction() as db:
        db.execute("update visits set progress = '{'")
    refused = noetl("runs", "resume", id)
    assert (refused.exit_code, refused.out) == (2, "")
    assert refused.err.startswith(f"noetl: Data of run {id} cannot be read: ")
    assert refused.err.endswith(f" {remedy}\n")
    store.close()


def test_a_run_that_waits_for_a_damaged_run_is_not_resumed(
    noetl: Command, folder: Path, waiting_child: str
) -> None:
    runs = {run["playbook"]: run["workflow_id"] for run in noetl("runs", "list", "--json").json["items"]}
    with closing(open_store()) as store:
        store.maintenance.set_aside(runs["ask"], "The store has no plan 5f0c.")
    refused = noetl("runs", "resume", runs["parent"])
    assert (refused.exit_code, refused.out) == (2, "")
    assert f"delete it with `noetl runs delete {runs['ask']}`" in refused.err


def test_a_worker_that_has_only_waited_is_found(
    noetl: Command, start: Start, abandoned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = noetl("runs", "list", "--json").json["items"]
    resuming = start("runs", "resume", run["workflow_id"])
    assert resuming.stderr is not None
    assert resuming.stderr.readline().startswith("run ")
    monkeypatch.setattr(callback_answer, "_PICKUP_SECONDS", 60.0)
    assert len(noetl("runs", "answer", abandoned).err.splitlines()) == 1
    assert resuming.wait(60) == 0


def test_a_heartbeat_is_recorded(noetl: Command, abandoned: str) -> None:
    assert noetl("runs", "answer", abandoned, "--heartbeat").err == "heartbeat recorded\n"
    assert noetl("runs", "answer", "x" * 43, "--heartbeat").exit_code == 1


def test_another_answer_and_an_unknown_token_are_refused(noetl: Command, abandoned: str) -> None:
    assert noetl("runs", "answer", abandoned, "-d", "1").exit_code == 0
    assert noetl("runs", "answer", abandoned, "-d", "1").exit_code == 0
    for token, sentence in (
        (abandoned, r"noetl: another answer arrived before, at 20[0-9T:-]{17}Z: 1\n"),
        ("x" * 43, r"noetl: no step has ever waited for this answer\n"),
    ):
        outcome = noetl("runs", "answer", token, "-d", "2")
        assert (outcome.exit_code, outcome.out) == (1, "")
        assert re.fullmatch(sentence, outcome.err)


ASK_WITH_QUESTION = ASK.replace(
    "heartbeat: 1h",
    'title: "Pay\\e[2J?"\n        details: {sum: 5}\n'
    '        answer: {yes: boolean, note: {type: string, default: "", enum: ["", x], description: Why.}}',
)


@pytest.fixture
def question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the callback ask a question."""
    monkeypatch.setattr("tests.api.cli.test_cli_answer.ASK", ASK_WITH_QUESTION)


def test_a_waiting_run_is_shown_with_its_question(noetl: Command, question: None, abandoned: str) -> None:
    (run,) = noetl("runs", "list", "--json").json["items"]
    shown = noetl("runs", "show", run["workflow_id"]).out
    assert shown.endswith(
        "\nask waits for an answer\n"
        "  Pay␛[2J?\n"
        '  details: {"sum":5}\n'
        "  answer.yes: boolean\n"
        '  answer.note: string, one of ["","x"], default "", Why.\n'
    )


def test_an_answer_without_the_declared_fields_is_refused(
    noetl: Command, question: None, abandoned: str
) -> None:
    for data, sentence in (
        ("null", "the answer must be an object with `yes`, `note`, not none"),
        ('{"yes": "no"}', "field `yes` must be of type boolean, not the text `no`"),
    ):
        outcome = noetl("runs", "answer", abandoned, "-d", data)
        assert (outcome.exit_code, outcome.out, outcome.err) == (1, "", f"noetl: {sentence}\n")
    assert noetl("runs", "answer", abandoned, "-d", '{"yes": true}').exit_code == 0


def test_an_answer_to_a_cancelled_run_is_refused(noetl: Command, abandoned: str) -> None:
    (run,) = noetl("runs", "list", "--json").json["items"]
    noetl("runs", "cancel", run["workflow_id"])
    outcome = noetl("runs", "answer", abandoned)
    assert (outcome.exit_code, outcome.err) == (1, "noetl: the step does not wait for an answer any more\n")


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("yes", """; write text as '"yes"'\n"""),
        ('{"a": }', ")\n"),
        ("NaN", "NaN is not JSON;"),
        ("1e999", "the number 1e999 is too large;"),
        ("1" * 5000, "too many digits\n"),
        ("[" * 100_000, "nested more than 100 levels deep\n"),
        ('"\\ud800"', "surrogate pair\n"),
        ("", ")\n"),
    ],
)
def test_an_answer_that_is_not_json_is_refused(noetl: Command, folder: Path, data: str, hint: str) -> None:
    outcome = noetl("runs", "answer", "token", "-d", data)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith("noetl: the answer is not JSON: ") and hint in outcome.err
    assert len(outcome.err.splitlines()) == 1


class TestAnswerOverHttp:
    """Answers to a service whose callback URLs have its own address."""

    @pytest.fixture
    def served(self, start: Start) -> Iterator[subprocess.Popen[str]]:
        process = start("serve", "--port", "0", stdout=subprocess.DEVNULL)
        yield process
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130

    @pytest.fixture
    def callback(self, served: subprocess.Popen[str]) -> tuple[str, str]:
        """URL of the events of a waiting run, and URL of its callback."""
        assert served.stderr is not None
        address = served.stderr.readline().split()[1]
        headers = {"content-type": "application/yaml"}
        accepted = httpx.post(f"{address}/workflows/run", content=ASK_BY_LOG, headers=headers)
        assert accepted.status_code == 202
        url = next(
            message for line in served.stderr if "/callbacks/" in (message := json.loads(line)["message"])
        )
        assert url.startswith(address)
        return f"{address}{accepted.json()['links']['events']}", url

    def test_the_run_continues_after_the_answer(self, noetl: Command, callback: tuple[str, str]) -> None:
        run, url = callback
        assert noetl("runs", "answer", url, "--heartbeat").err == "heartbeat recorded\n"
        outcome = noetl("runs", "answer", url, "-d", '{"approved": true}')
        assert (outcome.exit_code, outcome.err) == (0, "answered\n")
        with httpx.stream("GET", run, headers={"accept": "text/event-stream"}, timeout=60) as events:
            assert "event: end" in "".join(events.iter_text())
        link = run.replace("/events", "").replace("/workflows/", "/workflows/result/")
        assert httpx.get(link).json()["result"] == {"decision": {"approved": True}}

    def test_a_refusal_is_a_sentence(self, noetl: Command, callback: tuple[str, str]) -> None:
        _, url = callback
        assert noetl("runs", "answer", url, "-d", "1").exit_code == 0
        for address in (url, url[:-5] + "xxxxx", url.replace("/workflows", "/nowhere")):
            outcome = noetl("runs", "answer", address, "-d", "2")
            assert (outcome.exit_code, outcome.out) == (1, "")
            assert outcome.err.startswith("noetl: 127.0.0.1:") and " refused the request: " in outcome.err
            assert len(outcome.err.splitlines()) == 1

    def test_a_missing_service_is_a_sentence(self, noetl: Command, folder: Path) -> None:
        outcome = noetl("runs", "answer", "http://127.0.0.1:9/workflows/callbacks/x")
        assert (outcome.exit_code, len(outcome.err.splitlines())) == (2, 1)
        assert outcome.err.startswith("noetl: request to 127.0.0.1:9 failed: ")


def test_the_inbox_lists_questions_that_are_answered_without_a_token(
    noetl: Command, folder: Path, start: Start
) -> None:
    (folder / "pay.yaml").write_text(
        'name: pay\nsteps:\n- name: ask\n  run: [{action: callback, title: "Pay?\\e[31m", answer:'
        " {approved: boolean}, timeout: 2h, as: decision}]\n"
        '  rule: [{case: "{{ decision.approved }}", run: [book]}, {case: default, run: []}]\n'
        "- {name: book, run: [{action: set, set: {booked: 1}}]}\n"
    )
    process = start("run", "pay.yaml", "--json")
    assert process.stderr is not None
    while "waits for" not in process.stderr.readline():
        pass
    shown = noetl("inbox")
    assert "\x1b" not in shown.out
    lines = shown.out.splitlines()
    assert lines[0].startswith("pay  ")
    assert lines[1:] == [
        "  Pay?␛[31m",
        "  answer.approved: boolean",
        "  {{ decision.approved }} → book",
        "  default → end",
    ]
    assert [entry["step"] for entry in noetl("inbox", "--json").json["items"]] == ["ask"]
    refused = noetl("runs", "answer", "last", "--step", "ask", "-d", '{"approved": 1}')
    assert (refused.exit_code, "approved" in refused.err) == (1, True)
    answered = noetl("runs", "answer", "last", "--step", "ask", "-d", '{"approved": true}')
    assert (answered.exit_code, answered.err.startswith("answered run ")) == (0, True)
    assert process.wait(60) == 0
    again = noetl("runs", "answer", "last", "--step", "ask", "-d", '{"approved": true}')
    assert (again.exit_code, again.err) == (1, "noetl: the step does not wait for an answer any more\n")
    empty = noetl("inbox")
    assert (empty.out, empty.err) == ("", "nothing waits for a person\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--position", "run.0"), "--position needs --step"), (("--step", "a", "--heartbeat"), "needs a token")],
)
def test_options_that_do_not_go_together_are_refused(
    noetl: Command, options: tuple[str, ...], message: str
) -> None:
    outcome = noetl("runs", "answer", "x", *options)
    assert (outcome.exit_code, message in outcome.err) == (2, True)
