"""The command `noetl run --step`, which performs one step of a playbook alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.cli.conftest import Command

TEXT = """
name: trade
input: {limit: number}
variables: {factor: 2}
finally: tidy
tasks:
- {name: write, run: [{action: file, write: "{{ args.path }}", content: "{{ total }}"}]}
steps:
- name: load
  run: [{action: file, read: rows.json, format: json, as: total}]
  rule: [{case: default, run: [left, check]}]
- {name: left, run: [{action: log, message: left}], rule: [{case: default, run: [meet]}]}
- name: check
  max_visits: 2
  run:
  - {action: fail, if: "{{ total < 0 }}", message: "negative: {{ steps.load.result }}"}
  - {task: write, with: {path: total.txt}}
  - {action: set, set: {share: "{{ total * factor }}"}}
  - {action: wait, seconds: 0.1}
  rule:
  - {case: "{{ error and total < -10 }}", run: [meet]}
  - {case: "{{ not error and share > limit }}", run: [meet]}
  - {case: default}
- {name: meet, run: [{action: set, set: {met: "{{ share | default(0) }}"}}]}
- {name: tidy, run: [{action: log, message: tidy}]}
"""


@pytest.fixture(autouse=True)
def file(folder: Path) -> None:
    (folder / "trade.yaml").write_text(TEXT)


def give(**names: object) -> str:
    """Write a file with names and their values, and return its name."""
    Path("given.json").write_text(json.dumps(names))
    return "given.json"


def test_a_step_is_performed_alone_with_the_given_names(noetl: Command, folder: Path) -> None:
    result = noetl("run", "trade.yaml", "--step", "check", "--with", give(total=4, limit=3))
    assert result.exit_code == 0, result.err
    assert result.json == {
        "step": "check",
        "result": None,
        "saved": {"share": 8},
        "case": 2,
        "next": ["meet"],
    }
    assert (folder / "total.txt").read_text() == "4"
    assert "left" not in result.err
    assert "tidy" not in result.err
    assert not (folder / ".noetl").exists()


def test_inputs_and_the_views_of_other_steps_may_be_given(noetl: Command) -> None:
    given = give(total=-20, steps={"load": {"result": [-20], "status": "succeeded"}})
    result = noetl("run", "trade.yaml", "--step", "check", "--with", given, "-i", "limit=3")
    assert result.exit_code == 0, result.err
    report = result.json
    assert report["error"]["message"] == "negative: [-20]"
    assert (report["case"], report["next"], report["saved"]) == (1, ["meet"], {})
    with_json = noetl(
        "run", "trade.yaml", "--step", "check", "--with", given, "-i", "limit=3", "--json", "-q"
    )
    assert with_json.json["result"] == report | {"error": with_json.json["result"]["error"]}
    assert with_json.json["steps"]["check"]["status"] == "failed"


def test_a_step_without_a_rule_has_no_next_step(noetl: Command) -> None:
    result = noetl("run", "trade.yaml", "--step", "meet", "--with", give(share=1, limit=1), "-q")
    assert result.json == {"step": "meet", "result": {"met": 1}, "saved": {"met": 1}, "next": []}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--step", "chek"], 2, "unknown step `chek`; did you mean `check`?"),
        (["--step", "zzz"], 2, "unknown step `zzz`; the steps are load, left, check, meet, tidy"),
        (
            ["--step", "check"],
            2,
            "missing input `limit`: it is declared on line 3; give it with `-i limit=VALUE`",
        ),
        (["--step", "check", "-i", "limit=1"], 1, "`total` is undefined"),
        (["--step", "check", "--with", "none.json"], 2, "cannot read none.json"),
        (["--step", "check", "--with", "trade.yaml"], 2, "trade.yaml is not JSON"),
        (["--with", "given.json"], 2, "--with needs --step"),
        (["--step", "check", "--store", "sqlite:///x.db"], 2, "--step keeps no run; leave out --store"),
    ],
)
def test_a_step_that_cannot_be_performed_is_a_sentence(
    noetl: Command, arguments: list[str], exit_code: int, message: str
) -> None:
    result = noetl("run", "trade.yaml", *arguments)
    assert (result.exit_code, result.out) == (exit_code, "")
    assert message in result.err
    assert not Path("x.db").exists()


@pytest.mark.parametrize("steps", [7, {"load": 7}])
def test_views_of_steps_must_be_objects(noetl: Command, steps: object) -> None:
    result = noetl("run", "trade.yaml", "--step", "check", "--with", give(limit=1, steps=steps))
    assert result.exit_code == 2
    assert "`steps` must hold an object for each step" in result.err


def test_failures_of_a_step_must_be_a_list(noetl: Command) -> None:
    given = give(limit=1, total=1, steps={"load": {"failures": 7}})
    result = noetl("run", "trade.yaml", "--step", "check", "--with", given)
    assert result.exit_code == 2
    assert "`steps.load.failures` must be a list" in result.err
