"""The command `noetl eval`."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetl.executor.stores import open_store
from noetl.testing.run_harness import RunHarness
from tests.api.cli.conftest import Command

TEXT = """
name: shares
input: {limit: {type: number, default: 10}}
steps:
- {name: load, run: [{action: set, set: {total: 5}}], rule: [{case: default, run: [check]}]}
- name: check
  run: [{action: set, set: {share: "{{ total / 2 }}"}}]
  rule: [{case: "{{ share > limit }}", run: [big]}, {case: default, run: [small]}]
- {name: big, run: [{action: set, set: {total: 6}}]}
- {name: small, run: [{action: set, set: {total: 7}}]}
"""


@pytest.fixture
def run(noetl: Command, folder: Path) -> None:
    """Keep a run that has ended in the store of the folder."""
    (folder / "shares.yaml").write_text(TEXT)
    assert noetl("run", "shares.yaml", "-q").exit_code == 0


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["total"], 7),
        (["total", "--step", "check"], 5),
        (["{{ share > limit }}", "--step", "check"], False),
        (["result.data.share + 1", "--step", "check", "--visit", "1"], 3.5),
        (["run.playbook ~ '/' ~ steps.load.status"], "shares/succeeded"),
        (["total is {{ total }}"], "total is 7"),
        (["total", "--at", "8"], 5),
        (["total", "--at", "8", "--step", "check"], 5),
        (["result.data.share", "--at", "13", "--step", "check"], 2.5),
    ],
)
def test_an_expression_is_evaluated_in_the_state_of_a_run(
    noetl: Command, arguments: list[str], value: object
) -> None:
    result = noetl("eval", "last", *arguments)
    assert (result.exit_code, result.err, result.json) == (0, "", value)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["nope + total"], 1, "the expression has no value: `nope` is undefined"),
        (["total +"], 1, "invalid expression `total +`: missing value after `+`"),
        ([" "], 1, "the expression is empty; write one, such as `total > 100`"),
        (["secrets.key"], 1, "the expression reads `secrets`, which are not shown"),
        (["result.data"], 1, "`result` belongs to a visit of a step; name the step with `--step`"),
        (["[result, step, error]"], 1, "`error`, `result` and `step` belong to a visit of a step"),
        (["result.items", "--step", "load"], 1, "the store does not keep `result.items`"),
        (["result", "--step", "load"], 1, "the store does not keep `result` after"),
        (["total", "--step", "chek"], 2, "unknown step `chek`; did you mean `check`?"),
        (["total", "--step", "big"], 2, "step `big` of run"),
        (["total", "--step", "load", "--visit", "2"], 2, "has no visit 2; it has 1"),
        (["total", "--visit", "2"], 2, "--visit needs --step"),
    ],
)
def test_an_expression_without_a_value_is_refused_with_the_reason(
    noetl: Command, arguments: list[str], exit_code: int, message: str
) -> None:
    result = noetl("eval", "last", *arguments)
    assert (result.exit_code, result.out) == (exit_code, "")
    assert message in result.err


@pytest.mark.usefixtures("run")
def test_an_expression_that_fails_is_shown_with_its_values(noetl: Command) -> None:
    result = noetl("eval", "last", "1 / (total - 5)", "--step", "check")
    assert result.err.splitlines() == [
        "noetl: the expression has no value: division by zero",
        "noetl:   expression  {{ 1 / (total - 5) }}",
        "noetl:   values      total = 5",
    ]


def test_the_outcome_of_a_step_that_waits_is_not_known_yet(noetl: Command, folder: Path) -> None:
    (folder / ".noetl").mkdir()
    store = open_store("sqlite:///.noetl/noetl.db")
    RunHarness(store, "steps: [{name: a, run: [{action: wait, seconds: 60}]}]").execute_next()
    store.close()
    result = noetl("eval", "last", "result.success", "--step", "a")
    assert result.exit_code == 1
    assert "the visit has not ended, so `result` has no value yet" in result.err
