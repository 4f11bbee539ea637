"""The commands `noetl run` and `noetl runs`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noetl.api.cli.commands.runs import _describe_payload
from noetl.executor.worker import Worker
from noetl.planner.diagnostics.terminal_text import to_printable

Command = Callable[..., Any]

DEMO = """\
name: demo
input:
  count: integer
  region: {type: string, default: eu}
steps:
  - name: begin
    run: [{action: set, set: {next: "{{ count + 1 }}"}}]
    rule:
      - case: "{{ input.region == 'nowhere' }}"
        run: [lose]
      - case: default
        run: [left, right]
  - name: left
    run: [{action: set, set: {a: "{{ next * 2 }}"}}]
    rule: [{case: default, run: [meet]}]
  - name: right
    run: [{action: set, set: {b: "{{ next * 3 }}"}}]
    rule: [{case: default, run: [meet]}]
  - name: meet
    run: [{action: log, message: "met \\e[31mat {{ a + b }}", level: warning}]
  - name: lose
    run: [{action: fail, type: Lost, message: "no \\e[31mway"}]
output: {a: "{{ a }}", b: "{{ b }}", region: "{{ region }}"}
"""

HELD = """\
name: interrupted_process
input: {gate: string}
steps:
  - name: first
    run: [{action: shell, command: "echo first >> trace"}]
    rule: [{case: default, run: [wait]}]
  - name: wait
    run: [{action: shell, command: "cat {{ gate }}"}]
    rule: [{case: default, run: [last]}]
  - name: last
    run: [{action: shell, command: "echo last >> trace"}]
output: {done: true}
"""


@pytest.fixture(autouse=True)
def playbook(folder: Path) -> None:
    Path("demo.yaml").write_text(DEMO)


def test_a_local_run_shows_no_secret_of_any_tenant(
    noetl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands inherit the environment there."""
    monkeypatch.setenv("NOETL_TENANT_SECRET_acme__TOKEN", "of-acme-in-a-command")
    (folder / "show.yaml").write_text(
        "name: show\nsteps: [{name: a, run: [{action: shell, as: shown,"
        " command: [printenv, NOETL_TENANT_SECRET_acme__TOKEN]}]}]\noutput: {text: '{{ shown.stdout }}'}\n"
    )
    result = noetl("run", "show.yaml")
    assert '"text": "***' in result.out and "of-acme" not in result.out + result.err
    assert not [path for path in folder.rglob("*.db*") if b"of-acme" in path.read_bytes()]


def test_the_result_goes_to_stdout_and_progress_to_stderr(noetl: Command, folder: Path) -> None:
    outcome = noetl("run", "demo.yaml", "-i", "count=1")
    assert outcome.exit_code == 0
    assert outcome.json == {"a": 4, "b": 6, "region": "eu"}
    lines = outcome.err.splitlines()
    assert lines[0].startswith("run ") and lines[0].endswith(" of demo")
    assert lines[-1].startswith(lines[0].removesuffix(" of demo") + " succeeded in ")
    steps = [line.split()[1] for line in lines if line.startswith("✓")]
    assert steps[0] == "begin" and set(steps) == {"begin", "left", "right", "meet"}
    assert "→ left, right" in outcome.err
    assert "│ meet: warning: met ␛[31mat 10\n" in outcome.err
    assert (folder / ".noetl" / "noetl.db").exists()


def test_quiet_hides_warnings_and_shows_errors(noetl: Command) -> None:
    warned = "name: warned\nsteps:\n  - name: only\n    run: [{action: set, set: {answer: off}}]\n"
    assert "NP006" in noetl("run", "-", stdin=warned).err
    outcome = noetl("run", "-", "-q", stdin=warned)
    assert (outcome.json, outcome.err) == ({"answer": "off"}, "")
    refused = noetl("run", "-", "--quiet", stdin=warned + "    rule: [{case: default, run: [nowhere]}]\n")
    assert (refused.exit_code, refused.out) == (1, "")
    assert "error[NP101]" in refused.err and "NP006" not in refused.err
    assert refused.err.endswith("noetl: 1 error in -\n")


def test_log_lines_of_the_first_moment_are_shown(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Worker.start

    def start_and_wait(worker: Worker) -> None:
        start(worker)
        worker.wait_until_finished("default", worker._queue, 30)

    monkeypatch.setattr(Worker, "start", start_and_wait)
    outcome = noetl("run", "demo.yaml", "-i", "count=1")
    assert "│ meet: warning: met ␛[31mat 10\n" in outcome.err


def test_json_has_status_result_errors_and_steps(noetl: Command) -> None:
    outcome = noetl("run", "demo.yaml", "-i", "count=1", "--json", "-q")
    assert outcome.err == ""
    envelope = outcome.json
    assert set(envelope) == {"workflow_id", "status", "result", "errors", "steps"}
    assert (envelope["status"], envelope["errors"]) == ("succeeded", [])
    assert envelope["steps"]["meet"]["status"] == "succeeded"
    assert envelope["steps"]["lose"]["status"] == "pending"


def test_a_failure_names_the_step_its_line_and_how_to_resume(noetl: Command) -> None:
    outcome = noetl("run", "demo.yaml", "-i", "count=1", "-i", "region=nowhere", "-q")
    assert (outcome.exit_code, outcome.out) == (1, "")
    first, second = outcome.err.splitlines()
    assert first == "demo.yaml:22: step `lose`, action fail: Lost: no ␛[31mway"
    id = second.split()[1]
    assert second == f"run {id} failed; resume it with `noetl runs resume {id}`"
    with_json = noetl("run", "demo.yaml", "-i", "count=1", "-i", "region=nowhere", "--json")
    assert with_json.exit_code == 1
    assert with_json.json["status"] == "failed"
    assert with_json.json["errors"][0]["type"] == "Lost"


def test_inputs_are_parsed_as_their_type(noetl: Command) -> None:
    types = ("string", "integer", "number", "boolean", "object", "array", "any")
    playbook = json.dumps(
        {
            "name": "typed",
            "input": {f"a_{type_}": type_ for type_ in types} | {"other": "any"},
            "steps": [{"name": "go", "run": [{"action": "log", "message": "hello"}]}],
            "output": {
                name: f"{{{{ input.{name} }}}}" for name in [*(f"a_{type_}" for type_ in types), "other"]
            },
        }
    )
    given = {
        "a_string": "0755",
        "a_integer": "7",
        "a_number": "1.5",
        "a_boolean": "true",
        "a_object": "{a: 1}",
        "a_array": "[1, two]",
        "a_any": "no",
        "other": "'5': x",
    }
    arguments = [word for name, text in given.items() for word in ("-i", f"{name}={text}")]
    outcome = noetl("run", "-", *arguments, "-q", stdin=playbook)
    assert outcome.json == {
        "a_string": "0755",
        "a_integer": 7,
        "a_number": 1.5,
        "a_boolean": True,
        "a_object": {"a": 1},
        "a_array": [1, "two"],
        "a_any": "no",
        "other": {"5": "x"},
    }


def test_input_pairs_override_the_file(noetl: Command) -> None:
    Path("input.json").write_text('{"count": 1, "region": "us"}')
    outcome = noetl("run", "demo.yaml", "--input", "input.json", "-i", "count=2", "-q")
    assert outcome.json == {"a": 6, "b": 9, "region": "us"}


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        ([], ["demo.yaml:3: missing input `count`"]),
        (["-i", "count=many"], ["demo.yaml:3: input `count` must be of type integer, not the text `many`"]),
        (["-i", "count=1", "-i", "regoin=us"], ["unknown input `regoin`"]),
        (["-i", "regoin=us"], ["demo.yaml:3: missing input `count`", "unknown input `regoin`"]),
        (["-i", "count"], ["-i must be name=value, not 'count'"]),
        (["-i", "region=\udcff"], ["-i 'region=\\udcff' is not UTF-8"]),
        (["--input", "large.json"], ["large.json is not JSON: the number 1e999 is too large"]),
        (["--input", "missing.json"], ["cannot read missing.json"]),
        (["--input", "list.json"], ["list.json must hold an object"]),
        (["--input", "demo.yaml"], ["demo.yaml is not JSON"]),
        (["--input", "nan.json"], ["nan.json is not JSON"]),
        (["-i", "count=1", "--store", "nosuch://x"], ["nosuch"]),
        (["-i", "count=1", "--store", "sqlite:///demo.yaml/x.db"], ["demo.yaml/x.db"]),
    ],
)
def test_invalid_input_is_a_sentence_and_creates_no_store(
    noetl: Command, folder: Path, arguments: list[str], sentences: list[str]
) -> None:
    Path("list.json").write_text("[1]")
    Path("nan.json").write_text('{"count": NaN}')
    Path("large.json").write_text('{"count": 1e999}')
    before = sorted(folder.rglob("*"))
    outcome = noetl("run", "demo.yaml", *arguments)
    assert (outcome.exit_code, outcome.out) == (2, "")
    lines = outcome.err.splitlines()
    assert len(lines) == len(sentences)
    for line, sentence in zip(lines, sentences, strict=True):
        assert line.startswith("noetl: ") and sentence in line
    assert sorted(folder.rglob("*")) == before


def test_an_inferred_input_is_named_with_the_line_that_reads_it(noetl: Command) -> None:
    playbook = 'name: x\nsteps:\n  - name: greet\n    run:\n      - {action: log, message: "hi {{ user }}"}\n'
    outcome = noetl("run", "-", stdin=playbook)
    assert outcome.exit_code == 2
    assert "missing input `user`: it is read on line 5" in outcome.err


def test_runs_are_listed_and_shown(noetl: Command) -> None:
    noetl("run", "demo.yaml", "-i", "count=1", "-q")
    noetl("run", "demo.yaml", "-i", "count=1", "-i", "region=nowhere", "-q")
    page = noetl("runs", "list", "--json").json
    assert page["next_cursor"] is None
    assert [run["status"] for run in page["items"]] == ["failed", "succeeded"]
    assert {"workflow_id", "status", "playbook", "created_at"} <= set(page["items"][0])
    failed = noetl("runs", "list", "--status", "failed")
    assert len(failed.out.splitlines()) == 1
    id = failed.out.split()[0]
    error = noetl("runs", "show", id, "--json").json["error"]
    assert failed.out.rstrip().endswith(f"{error['step']}: {to_printable(error['message'])}")
    assert len(noetl("runs", "list", "--since", "1h").out.splitlines()) == 2
    assert noetl("runs", "list", "--since", "2999-01-01").err == "no runs\n"
    assert noetl("runs", "list", "--tag", "none").err == "no runs\n"
    wrong = noetl("runs", "list", "--since", "yesterday")
    assert (wrong.exit_code, "--since is `yesterday`; it must be a time" in wrong.err) == (2, True)

    first = noetl("runs", "list", "--limit", "1", "--json").json
    second = noetl("runs", "list", "--limit", "1", "--cursor", first["next_cursor"], "--json").json
    assert [*first["items"], *second["items"]] == page["items"]

    shown = noetl("runs", "show", id)
    assert shown.out.startswith(f"run {id} failed\n")
    assert "✗" in shown.out and "lose (line 22): Lost: no ␛[31mway" in shown.out
    assert noetl("runs", "show", id, "--json").json["steps"]["lose"]["error"]["type"] == "Lost"

    events = noetl("runs", "events", id, "--json").json
    types = [event["type"] for event in events["items"]]
    assert types[0] == "workflow.started" and types[-1] == "workflow.failed"
    table = noetl("runs", "events", id).out.splitlines()
    assert len(table) == len(types) + 1
    assert table[0].split() == ["#", "time", "event", "step", "duration", "details"]
    assert any("lose" in row and "error Lost: no" in row for row in table)


def test_a_failed_run_is_resumed_with_corrected_input(noetl: Command) -> None:
    playbook = DEMO.partition("output:")[0].replace("type: Lost", "if: '{{ input.count < 2 }}', type: Lost")
    failed = noetl("run", "-", "-i", "count=1", "-i", "region=nowhere", "--json", "-q", stdin=playbook)
    assert failed.exit_code == 1
    id = failed.json["workflow_id"]
    assert noetl("runs", "resume", id, "-i", "count=x").exit_code == 2
    resumed = noetl("runs", "resume", id, "-i", "count=5", "--json")
    assert (resumed.exit_code, resumed.json["workflow_id"], resumed.json["status"]) == (0, id, "succeeded")
    again = noetl("runs", "resume", id)
    assert (again.exit_code, again.out) == (2, "")
    assert id in again.err


@pytest.mark.parametrize("command", ["show", "events", "cancel", "resume"])
def test_an_unknown_run_is_a_sentence(noetl: Command, folder: Path, command: str) -> None:
    nothing_here = noetl("runs", command, "nosuch")
    assert (nothing_here.exit_code, nothing_here.out) == (2, "")
    assert "There is no store" in nothing_here.err
    assert not (folder / ".noetl").exists()
    noetl("run", "demo.yaml", "-i", "count=1", "-q")
    outcome = noetl("runs", command, "nosuch")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err == "noetl: unknown run `nosuch`; `noetl runs list` shows the runs of this store\n"


@pytest.fixture
def interrupted_process(folder: Path) -> subprocess.Popen[str]:
    """Process that was interrupted in its second step, which reads from a pipe."""
    Path("held.yaml").write_text(HELD)
    os.mkfifo("gate")
    command = [
        sys.executable,
        "-c",
        "from noetl.api.cli import main; main()",
        "run",
        "held.yaml",
        "-i",
        "gate=gate",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with open("gate", "w"):
        # Opening a pipe blocks until its reader opens it, so the step has started.
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    return process


def test_a_run_interrupted_by_ctrl_c_can_be_resumed(
    noetl: Command, interrupted_process: subprocess.Popen[str]
) -> None:
    out, err = interrupted_process.communicate()
    assert (interrupted_process.returncode, out) == (130, "")
    assert "Traceback" not in err
    (run,) = noetl("runs", "list", "--json").json["items"]
    id = run["workflow_id"]
    assert err.splitlines()[-1] == f"interrupted; resume the run with `noetl runs resume {id}`"
    Path("gate").unlink()
    Path("gate").write_text("")
    outcome = noetl("runs", "resume", id)
    assert (outcome.exit_code, outcome.json) == (0, {"done": True})
    assert Path("trace").read_text() == "first\nlast\n"


def test_a_run_without_a_worker_can_be_cancelled(
    noetl: Command, interrupted_process: subprocess.Popen[str]
) -> None:
    interrupted_process.communicate()
    Path("gate").unlink()
    Path("gate").write_text("")
    (run,) = noetl("runs", "list", "--json").json["items"]
    outcome = noetl("runs", "cancel", run["workflow_id"], "--json")
    assert outcome.json == {"workflow_id": run["workflow_id"], "status": "cancelled"}
    assert Path("trace").read_text() == "first\n"


def test_warnings_are_lines_and_notes_are_left_to_check(noetl: Command) -> None:
    request = "{action: python, function: 'm:f', if: '{{ false }}', retry: 2}"
    playbook = f"name: w\nsteps: [{{name: a, run: [{{action: log, message: hi, as: x}}, {request}]}}]\n"
    checked = noetl("check", "-", stdin=playbook)
    assert "note[NP510]" in checked.err + checked.out
    outcome = noetl("run", "-", stdin=playbook)
    assert "NP510" not in outcome.err
    assert all(line.startswith("-:2:") for line in outcome.err.splitlines() if "warning" in line)
    assert "warning" not in noetl("run", "-", "-q", stdin=playbook).err


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"error": {"type": "E", "message": "no"}, "handled": False}, "error E: no, handled false"),
        ({"input": {}, "x": None, "targets": ["a", "b"], "n": {"k": 1}}, 'targets a b, n {"k":1}'),
        ({"text": "x" * 500}, "text " + "x" * 154 + "…"),
    ],
)
def test_the_payload_of_an_event_is_shown_in_words(payload: dict[str, Any], text: str) -> None:
    assert _describe_payload(payload) == text
