"""The option `--playbook` of the command `noetl runs resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

ORDER = """\
name: order
input: {count: {type: integer, default: 1}}
steps:
- name: reserve
  run: [{action: shell, command: "echo reserve >> effects"}]
  rule: [{case: default, run: [pay]}]
- name: pay
  run: [{action: fail, message: wrong}]
  rule: [{case: default, run: [ship]}]
- {name: ship, run: [{action: set, set: {n: "{{ count }}"}}]}
output: {n: "{{ n }}"}
"""
CORRECTED = ORDER.replace("{action: fail, message: wrong}", '{action: shell, command: "echo pay >> effects"}')


@pytest.fixture
def failed(noetl: Command, folder: Path) -> str:
    """Id of a run that has failed."""
    Path("order.yaml").write_text(ORDER)
    outcome = noetl("run", "order.yaml", "-q", "--json")
    assert outcome.json["status"] == "failed"
    id: str = outcome.json["workflow_id"]
    return id


def test_run_continues_in_the_corrected_file(noetl: Command, failed: str) -> None:
    Path("order.yaml").write_text(CORRECTED)
    outcome = noetl("runs", "resume", failed, "--playbook", "order.yaml", "-i", "count=4")
    assert (outcome.exit_code, outcome.json) == (0, {"n": 4})
    assert Path("effects").read_text() == "reserve\npay\n"
    assert "order.yaml has changed" not in outcome.err
    assert noetl("runs", "list").out.count("\n") == 1


def test_resume_offers_the_file_that_has_changed(noetl: Command, failed: str) -> None:
    Path("order.yaml").write_text(CORRECTED)
    outcome = noetl("runs", "resume", failed)
    assert f"`noetl runs resume {failed} --playbook order.yaml` lets it continue in the file" in outcome.err


def test_killed_run_continues_at_once(noetl: Command, start: Any, folder: Path) -> None:
    """The lease of the dead process has not ended, and nothing is waited for."""
    text = ORDER.replace("{action: fail, message: wrong}", '{action: shell, command: "touch on; sleep 60"}')
    Path("order.yaml").write_text(text)
    process = start("run", "order.yaml", "-q")
    while not Path("on").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    Path("order.yaml").write_text(
        text.replace('set: {n: "{{ count }}"}', "set: {n: 9}").replace("sleep 60", "true")
    )
    refused = noetl("runs", "resume", "last", "--playbook", "order.yaml")
    assert refused.exit_code == 2
    assert "NC109" in refused.err
    Path("order.yaml").write_text(text.replace('set: {n: "{{ count }}"}', "set: {n: 9}"))
    Path("order.yaml").write_text(
        Path("order.yaml").read_text().replace("name: pay\n", "name: pay\n  timeout: 1s\n")
    )
    outcome = noetl("runs", "resume", "last", "--playbook", "order.yaml")
    assert outcome.exit_code == 1
    assert "Timeout" in outcome.err


def test_notices_are_printed(noetl: Command, folder: Path) -> None:
    text = ORDER.replace("[{action: fail", '[{action: shell, command: "true"}, {action: fail')
    Path("order.yaml").write_text(text)
    noetl("run", "order.yaml", "-q")
    Path("order.yaml").write_text(text.replace("{action: fail, message: wrong}", "{action: log, message: m}"))
    outcome = noetl("runs", "resume", "last", "--playbook", "order.yaml")
    assert outcome.exit_code == 0
    assert outcome.err.startswith("note: NC151: ")


def test_dry_run_and_skip_in_the_corrected_file(noetl: Command, failed: str) -> None:
    Path("order.yaml").write_text(CORRECTED)
    shown = noetl("runs", "resume", failed, "--playbook", "order.yaml", "--dry-run")
    assert shown.exit_code == 0
    assert shown.out == "pay  visit 1  has failed\n  run.0  shell  (line 8)  was not done\n"
    assert shown.err.startswith("the run may continue in this version; nothing was done; 0 outside effects")
    data = noetl("runs", "resume", failed, "--playbook", "order.yaml", "--dry-run", "--json").json
    assert data["verdict"] == {"may_continue": True, "reasons": [], "required": [], "notices": []}
    outcome = noetl("runs", "resume", failed, "--playbook", "order.yaml", "--skip", "pay=1")
    assert (outcome.exit_code, outcome.json) == (0, {"n": 1})
    assert Path("effects").read_text() == "reserve\n"


def test_new_run_starts_earlier_in_the_corrected_file(noetl: Command, failed: str) -> None:
    Path("order.yaml").write_text(CORRECTED)
    options = ["--playbook", "order.yaml", "--from", "reserve"]
    shown = noetl("runs", "resume", failed, *options, "--dry-run")
    assert shown.out.splitlines() == [
        "reserve  visit 1  a new run starts here",
        "  run.0  shell  (line 5)  was done, and is repeated; not idempotent",
        "pay  visit 1  was done, and follows",
        "  run.0  shell  (line 8)  was not done",
    ]
    assert shown.err.startswith("a new run may start in this version; nothing was done; 1 outside effect")
    outcome = noetl("runs", "resume", failed, *options, "-i", "count=4")
    assert (outcome.exit_code, outcome.json) == (0, {"n": 4})
    assert Path("effects").read_text() == "reserve\nreserve\npay\n"
    runs = noetl("runs", "list", "--json").json["items"]
    assert [run["status"] for run in runs] == ["succeeded", "failed"]
    assert runs[0]["resumed_from"] == failed


def test_new_run_starts_at_an_event_in_the_corrected_file(noetl: Command, failed: str) -> None:
    Path("order.yaml").write_text(CORRECTED.replace("name: pay", "name: paid").replace("[pay]", "[paid]"))
    events = noetl("runs", "events", failed, "--json").json["items"]
    place = str(next(n for n, e in enumerate(events, 1) if (e["type"], e["step"]) == ("step.started", "pay")))
    refused = noetl("runs", "restart", failed, "--at", place, "--playbook", "order.yaml")
    assert (refused.exit_code, "NC102" in refused.err) == (2, True)
    options = ["--at", place, "--playbook", "order.yaml", "--map", "pay=paid"]
    shown = noetl("runs", "restart", failed, *options, "--dry-run")
    assert shown.out == "paid  visit 1  a new run starts here\n  run.0  shell  (line 8)  was not done\n"
    outcome = noetl("runs", "restart", failed, *options)
    assert (outcome.exit_code, outcome.json) == (0, {"n": 1})
    assert Path("effects").read_text() == "reserve\npay\n"
    refused = noetl("runs", "restart", failed, "--at", place, "--map", "pay=paid")
    assert "need --playbook" in refused.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "a=1"], "--set, --map and --wait need --playbook"),
        (["--playbook", "order.yaml", "--from", "pay", "--wait", "1s"], "--wait holds a run that continues"),
        (["--playbook", "order.yaml", "--from", "pay", "--skip", "pay=1"], "--skip continues one run"),
        (["--playbook", "needs.yaml", "--from", "pay"], "only with values for `to` (line 2)"),
        (["--playbook", "order.yaml", "--set", "a"], "--set must be name=value, not 'a'"),
        (["--playbook", "order.yaml", "--map", "a"], "--map must be OLD=NEW, not 'a'"),
        (["--playbook", "order.yaml", "--map", "a=b", "--map", "a=c"], "--map names step `a` twice"),
        (["--playbook", "order.yaml", "--wait", "x"], "--wait is `x`; it must be a duration such as 60s"),
        (["--playbook", "order.yaml"], "has this version of playbook `order` already"),
        (["--playbook", "missing.yaml"], "cannot read missing.yaml"),
        (["--playbook", "order@7"], "unknown version `7` of playbook `order`"),
        (["--playbook", "wrong.yaml"], "1 error"),
        (["--playbook", "needs.yaml"], "only with values for `to` (line 2); give them with `set`"),
    ],
)
def test_wrong_request_is_a_sentence(noetl: Command, failed: str, options: list[str], sentence: str) -> None:
    Path("wrong.yaml").write_text(CORRECTED.replace("run: [ship]", "run: [sip]"))
    Path("needs.yaml").write_text(CORRECTED.replace("input: {", "input: {to: string, "))
    outcome = noetl("runs", "resume", failed, *options)
    assert outcome.exit_code in (1, 2)
    assert sentence in outcome.err
    assert noetl("runs", "show", failed, "--json").json["status"] == "failed"
