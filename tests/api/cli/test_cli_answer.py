"""`noetl runs answer`"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from noetl.api.cli import callback_answer
from noetl.executor.model.run import RunStatus
from noetl.executor.stores import open_store

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
def asked(folder: Path, start: Start) -> tuple[subprocess.Popen[str], str]:
    """A process whose run waits for an answer, and the token."""
    Path("ask.yaml").write_text(ASK)
    os.mkfifo("token")
    process, token = start("run", "ask.yaml"), Path("token").read_text().strip()
    store = open_store()
    while not store.runs("default", status=RunStatus.WAITING)[0]:
        assert process.poll() is None
    store.close()
    return process, token


@pytest.fixture
def abandoned(asked: tuple[subprocess.Popen[str], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The token of a run whose process was interrupted."""
    process, token = asked
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    monkeypatch.setattr(callback_answer, "_TAKEN_UP_SECONDS", 0.1)
    return token


@pytest.mark.parametrize(
    ("given", "found"), [([], None), (["-d", '{"yes": [1]}'], {"yes": [1]}), (["--data", '"text"'], "text")]
)
def test_the_process_that_waits_goes_on(
    noetl: Command, asked: tuple[subprocess.Popen[str], str], given: list[str], found: Any
) -> None:
    process, token = asked
    outcome = noetl("runs", "answer", token, *given)
    assert (outcome.exit_code, outcome.out) == (0, "")
    assert outcome.err.startswith("answered run ") and len(outcome.err.splitlines()) == 1
    out, _ = process.communicate(timeout=60)
    assert json.loads(out) == {"decision": found}


def test_an_answer_on_standard_input(noetl: Command, asked: tuple[subprocess.Popen[str], str]) -> None:
    process, token = asked
    assert noetl("runs", "answer", token, "-d", "-", stdin='{"é": 1}').exit_code == 0
    assert json.loads(process.communicate(timeout=60)[0]) == {"decision": {"é": 1}}


def test_the_address_will_do_for_a_store(noetl: Command, folder: Path, abandoned: str) -> None:
    store = f"sqlite:///{folder}/.noetl/noetl.db"
    url = f"https://example.com/workflows/callbacks/{abandoned}"
    assert noetl("runs", "answer", url, "--store", store).err.startswith("answered run ")


def test_nobody_is_at_work(noetl: Command, abandoned: str) -> None:
    outcome = noetl("runs", "answer", abandoned, "-d", "7")
    (run,) = noetl("runs", "list", "--json").json["items"]
    id = run["workflow_id"]
    assert outcome.err.splitlines() == [
        f"answered run {id}",
        f"nobody is at work on it: `noetl runs resume {id}` goes on with the run",
    ]
    assert "\nask is due since 20" in noetl("runs", "show", id).out
    assert noetl("runs", "resume", id, "-q").json == {"decision": 7}


def test_a_process_that_has_only_waited_is_at_work(
    noetl: Command, start: Start, abandoned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = noetl("runs", "list", "--json").json["items"]
    resuming = start("runs", "resume", run["workflow_id"])
    assert resuming.stderr is not None
    assert resuming.stderr.readline().startswith("run ")
    monkeypatch.setattr(callback_answer, "_TAKEN_UP_SECONDS", 60.0)
    assert len(noetl("runs", "answer", abandoned).err.splitlines()) == 1
    assert resuming.wait(60) == 0


def test_a_sign_of_life(noetl: Command, abandoned: str) -> None:
    assert noetl("runs", "answer", abandoned, "--heartbeat").err == "heard\n"
    assert noetl("runs", "answer", "x" * 43, "--heartbeat").exit_code == 1


def test_answers_that_come_to_nothing(noetl: Command, abandoned: str) -> None:
    assert noetl("runs", "answer", abandoned, "-d", "1").exit_code == 0
    assert noetl("runs", "answer", abandoned, "-d", "1").exit_code == 0
    for token, sentence in (
        (abandoned, "noetl: another answer came before\n"),
        ("x" * 43, "noetl: no step waits or has waited for this answer\n"),
    ):
        outcome = noetl("runs", "answer", token, "-d", "2")
        assert (outcome.exit_code, outcome.out, outcome.err) == (1, "", sentence)


def test_an_answer_that_comes_too_late(noetl: Command, abandoned: str) -> None:
    (run,) = noetl("runs", "list", "--json").json["items"]
    noetl("runs", "cancel", run["workflow_id"])
    outcome = noetl("runs", "answer", abandoned)
    assert (outcome.exit_code, outcome.err) == (1, "noetl: the step does not wait for an answer any more\n")


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("yes", """; as text it is written '"yes"'\n"""),
        ('{"a": }', ")\n"),
        ("NaN", "NaN is not JSON;"),
        ("1e999", "1e999 is too large a number;"),
        ("1" * 5000, "too many digits\n"),
        ("[" * 100_000, "nested too deep\n"),
        ('"\\ud800"', "surrogate pair\n"),
        ("", ")\n"),
    ],
)
def test_what_is_not_json(noetl: Command, folder: Path, data: str, hint: str) -> None:
    outcome = noetl("runs", "answer", "token", "-d", data)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith("noetl: the answer is not JSON: ") and hint in outcome.err
    assert len(outcome.err.splitlines()) == 1


class TestHttp:
    """To a service that calls itself by its own address, as nothing says how else it is reached."""

    @pytest.fixture
    def served(self, start: Start) -> Iterator[subprocess.Popen[str]]:
        process = start("serve", "--port", "0", stdout=subprocess.DEVNULL)
        yield process
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130

    @pytest.fixture
    def asked(self, served: subprocess.Popen[str]) -> tuple[str, str]:
        """The address of a run that waits, and the one to which the answer goes."""
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

    def test_the_run_goes_on(self, noetl: Command, asked: tuple[str, str]) -> None:
        run, url = asked
        assert noetl("runs", "answer", url, "--heartbeat").err == "heard\n"
        outcome = noetl("runs", "answer", url, "-d", '{"approved": true}')
        assert (outcome.exit_code, outcome.err) == (0, "answered\n")
        with httpx.stream("GET", run, headers={"accept": "text/event-stream"}, timeout=60) as events:
            assert "event: end" in "".join(events.iter_text())
        link = run.replace("/events", "").replace("/workflows/", "/workflows/result/")
        assert httpx.get(link).json()["result"] == {"decision": {"approved": True}}

    def test_refusals_are_sentences(self, noetl: Command, asked: tuple[str, str]) -> None:
        _, url = asked
        assert noetl("runs", "answer", url, "-d", "1").exit_code == 0
        for address in (url, url[:-5] + "xxxxx", url.replace("/workflows", "/nowhere")):
            outcome = noetl("runs", "answer", address, "-d", "2")
            assert (outcome.exit_code, outcome.out) == (1, "")
            assert outcome.err.startswith("noetl: 127.0.0.1:") and " refuses: " in outcome.err
            assert len(outcome.err.splitlines()) == 1

    def test_nobody_there(self, noetl: Command, folder: Path) -> None:
        outcome = noetl("runs", "answer", "http://127.0.0.1:9/workflows/callbacks/x")
        assert (outcome.exit_code, len(outcome.err.splitlines())) == (2, 1)
        assert outcome.err.startswith("noetl: 127.0.0.1:9 cannot be asked: ")
