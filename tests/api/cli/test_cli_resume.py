"""The command `noetl runs resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

CHAIN = """\
name: chain
input: {number: {type: integer, default: 1}}
steps:
  - name: first
    run:
      - {action: shell, command: "echo first >> trace"}
      - {action: set, set: {known: "{{ input.number * 10 }}"}}
    rule: [{case: default, run: [second]}]
  - name: second
    run:
      - {action: shell, command: "echo second >> trace"}
      - {action: set, set: {sum: "{{ known + input.number }}"}}
    rule: [{case: default, run: [left, right]}]
  - {name: left, rule: [{case: default, run: [meet]}]}
  - {name: right, rule: [{case: default, run: [meet]}]}
  - name: meet
    run: [{action: workflow, playbook: last, as: last}]
output: {sum: "{{ sum }}", last: "{{ last.done }}"}
"""


@pytest.fixture
def ended(noetl: Command, folder: Path) -> str:
    """Id of a run that has succeeded."""
    Path("chain.yaml").write_text(CHAIN)
    Path("last.yaml").write_text(
        "name: last\nsteps: [{name: only, run: [{action: set, set: {done: true}}]}]\n"
    )
    outcome = noetl("run", "chain.yaml", "-q", "--json")
    assert outcome.json["result"] == {"sum": 11, "last": True}
    id: str = outcome.json["workflow_id"]
    return id


def test_a_new_run_starts_at_a_step(noetl: Command, ended: str) -> None:
    outcome = noetl("runs", "resume", ended, "--from", "second", "-i", "number=5")
    assert (outcome.exit_code, outcome.json) == (0, {"sum": 15, "last": True})
    new = outcome.err.split()[1]
    assert outcome.err.startswith(f"run {new} of chain, from run {ended}\n")
    assert new != ended
    assert Path("trace").read_text() == "first\nsecond\nsecond\n"
    assert f"\nfrom     {ended}\n" in noetl("runs", "show", new).out
    assert noetl("runs", "show", new, "--json").json["resumed_from"] == ended


@pytest.mark.parametrize(
    ("step", "given", "sentence"),
    [
        ("secnd", "number=1", "unknown step `secnd`; did you mean `second`?"),
        ("second", "number=x", "input `number` must be of type integer"),
    ],
)
def test_an_invalid_request_is_a_sentence(
    noetl: Command, ended: str, step: str, given: str, sentence: str
) -> None:
    outcome = noetl("runs", "resume", ended, "--from", step, "-i", given)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert sentence in outcome.err and len(outcome.err.splitlines()) == 1
    assert noetl("runs", "list", "--playbook", "chain").out.count("\n") == 1


def test_a_new_run_starts_on_one_of_several_branches(noetl: Command, ended: str) -> None:
    outcome = noetl("runs", "resume", ended, "--from", "left")
    assert (outcome.exit_code, outcome.json) == (0, {"sum": 11, "last": True})
    assert Path("trace").read_text() == "first\nsecond\n"
    alone = noetl("runs", "resume", ended, "--from", "left", "--drop-siblings")
    assert (alone.exit_code, alone.json) == (0, {"sum": 11, "last": True})
    refused = noetl("runs", "resume", ended, "--drop-siblings")
    assert (refused.exit_code, refused.err) == (2, "noetl: --drop-siblings needs --from\n")


def find_event(noetl: Command, run_id: str, type: str, step: str) -> str:
    """Return the number of the first event of a type and a step."""
    items = noetl("runs", "events", run_id, "--json").json["items"]
    return str(next(n for n, e in enumerate(items, 1) if (e["type"], e["step"]) == (type, step)))


def test_a_new_run_starts_at_an_event(noetl: Command, ended: str) -> None:
    started = find_event(noetl, ended, "step.started", "second")
    shown = noetl("runs", "restart", ended, "--at", started, "--dry-run")
    assert [line.split("  ")[0] for line in shown.out.splitlines() if not line.startswith(" ")] == [
        "second",
        "left",
        "right",
        "meet",
    ]
    assert shown.err == "nothing was done; 2 outside effects may be repeated\n"
    outcome = noetl("runs", "restart", ended, "--at", started, "-i", "number=5")
    assert (outcome.exit_code, outcome.json) == (0, {"sum": 15, "last": True})
    new = outcome.err.split()[1]
    assert outcome.err.startswith(f"run {new} of chain, from run {ended}\n")
    assert Path("trace").read_text() == "first\nsecond\nsecond\n"
    place = find_event(noetl, ended, "step.completed", "left")
    outcome = noetl("runs", "restart", ended, "--at", place, "--json")
    assert (outcome.exit_code, outcome.json["result"]) == (0, {"sum": 11, "last": True})
    begun = noetl("runs", "show", outcome.json["workflow_id"], "--at", "1")
    assert "  meet: has arrived" in begun.out
    assert Path("trace").read_text() == "first\nsecond\nsecond\n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--at", "999"], "the run has no event 999; its events are 1 to "),
        (["--at", "LAST"], "had no branch left at this event, so nothing would be done"),
        (["--at", "1", "-i", "number=x"], "input `number` must be of type integer"),
        ([], "missing option `--at`"),
    ],
)
def test_a_start_at_an_event_may_be_refused(
    noetl: Command, ended: str, options: list[str], sentence: str
) -> None:
    last = str(len(noetl("runs", "events", ended, "--json").json["items"]))
    for dry in ([], ["--dry-run"]):
        options = [last if option == "LAST" else option for option in options]
        outcome = noetl("runs", "restart", ended, *options, *dry)
        assert (outcome.exit_code, outcome.out) == (2, "")
        assert sentence in outcome.err
    assert noetl("runs", "list", "--playbook", "chain").out.count("\n") == 1


def test_a_failed_step_is_skipped(noetl: Command, folder: Path) -> None:
    Path("load.yaml").write_text(
        "name: load\noutput: {rows: '{{ rows }}'}\nsteps:\n"
        "  - name: read\n    run: [{action: file, read: missing.json, format: json, as: rows}]\n"
        "    rule: [{case: default, run: [use]}]\n"
        "  - {name: use, run: [{action: log, message: '{{ rows | length }}'}]}\n"
    )
    failed = noetl("run", "load.yaml", "-q", "--json")
    run_id = failed.json["workflow_id"]
    for options, sentence in (
        (["--skip", "read"], "must be STEP=JSON"),
        (["--skip", "read=[1", "--skip", "use=2"], "the result is not JSON"),
        (["--skip", "read=1", "--skip", "read=2"], "once for each step"),
        (["--skip", "use=1"], "has neither failed nor stopped"),
        (["--skip", "reed=1"], "did you mean `read`?"),
        (["--skip", "read=1", "--from", "read"], "--skip continues one run"),
    ):
        refused = noetl("runs", "resume", run_id, *options)
        assert (refused.exit_code, refused.out) == (2, ""), options
        assert sentence in refused.err
    shown = noetl("runs", "resume", run_id, "--dry-run")
    assert (
        shown.out
        == "read  visit 1  has failed\n  run.0  file  (line 5)  was perhaps done, and may be repeated\n"
    )
    assert shown.err == "nothing was done; 1 outside effect may be repeated\n"
    assert noetl("runs", "resume", run_id, "--dry-run", "--json").json["starts_new_run"] is False
    assert noetl("runs", "show", run_id, "--json").json["status"] == "failed"
    outcome = noetl("runs", "resume", run_id, "--skip", "read=[1, 2]")
    assert (outcome.exit_code, outcome.json) == (0, {"rows": [1, 2]})
    events = noetl("runs", "events", run_id, "--json").json["items"]
    assert [event["step"] for event in events if event["type"] == "step.skipped"] == ["read"]


def test_a_failed_loop_does_its_open_items_or_all(noetl: Command, folder: Path) -> None:
    Path("parcels.yaml").write_text(
        "name: parcels\ninput: {wrong: array}\nsteps:\n"
        "  - name: send\n    loop: {items: [1, 2, 3, 4], as: n}\n    run:\n"
        "      - {action: fail, if: '{{ n in input.wrong }}', message: odd}\n"
        "      - {action: shell, command: 'echo {{ n }} >> sent'}\n"
    )
    run_id = noetl("run", "parcels.yaml", "-q", "--json", "-i", "wrong=[3]").json["workflow_id"]
    shown = noetl("runs", "resume", run_id, "--dry-run").out.splitlines()
    assert shown[1] == "  run  loop: 2 of 4 items were done and stay; items 3, 4 are done again"
    shown = noetl("runs", "resume", run_id, "--dry-run", "--all-items").out.splitlines()
    assert shown[1] == "  run  loop: all 4 items are done again"
    refused = noetl("runs", "resume", run_id, "--all-items", "--from", "send")
    assert (refused.exit_code, "--all-items continues one run" in refused.err) == (2, True)
    assert noetl("runs", "resume", run_id, "-i", "wrong=[4]").exit_code == 1
    assert Path("sent").read_text() == "1\n2\n3\n"
    assert noetl("runs", "resume", run_id, "-i", "wrong=[]", "--all-items").exit_code == 0
    assert Path("sent").read_text() == "1\n2\n3\n1\n2\n3\n4\n"


def test_the_steps_of_a_resumed_run_are_shown(noetl: Command, folder: Path) -> None:
    Path("flaky.yaml").write_text(
        "name: flaky\ninput: {ready: {type: boolean, default: false}}\nsteps:\n"
        "  - name: check\n    run: [{action: fail, if: '{{ not input.ready }}', message: not yet}]\n"
        "    rule: [{case: default, run: [go]}]\n"
        "  - {name: go, run: [{action: set, set: {went: true}}]}\n"
    )
    noetl("run", "flaky.yaml", "-q")
    (run,) = noetl("runs", "list", "--json").json["items"]
    outcome = noetl("runs", "resume", run["workflow_id"], "-i", "ready=true")
    assert [line.split()[:2] for line in outcome.err.splitlines()[1:3]] == [["✓", "check"], ["✓", "go"]]


CHANGED = "flaky.yaml has changed; the run continues with the playbook it was started with. "


@pytest.mark.parametrize(
    ("edit", "warns"),
    [
        (lambda text: text.replace("not yet", "still not"), True),
        (lambda text: text.replace("steps:", "stops:"), True),
        (lambda text: text + "# a comment\n", False),
        (lambda text: text, False),
    ],
    ids=["changed", "broken", "commented", "same"],
)
def test_a_resume_says_that_the_file_has_changed(
    noetl: Command, folder: Path, edit: Callable[[str], str], warns: bool
) -> None:
    text = "name: flaky\nsteps:\n  - name: check\n    run: [{action: fail, message: not yet}]\n"
    Path("flaky.yaml").write_text(text)
    id = noetl("run", "flaky.yaml", "--json").json["workflow_id"]
    Path("flaky.yaml").write_text(edit(text))
    for options in ([], ["--from", "check"]):
        outcome = noetl("runs", "resume", id, *options)
        assert (outcome.exit_code, CHANGED in outcome.err) == (1, warns)
        assert "Failed: not yet" in outcome.err
    assert CHANGED not in noetl("runs", "resume", id, "-q").err


def test_a_resume_does_not_need_the_file(noetl: Command, folder: Path) -> None:
    Path("gone.yaml").write_text("name: gone\nsteps: [{name: only, run: [{action: fail, message: no}]}]\n")
    id = noetl("run", "gone.yaml", "--json").json["workflow_id"]
    Path("gone.yaml").unlink()
    outcome = noetl("runs", "resume", id)
    assert (outcome.exit_code, "has changed" in outcome.err) == (1, False)
