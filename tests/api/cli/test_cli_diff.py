"""`noetl runs diff A B`: what differs between two runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from noetl.api.cli.display.run_diff import format_diff
from noetl.api.service import run_comparison, run_diff
from noetl.api.service.run_diff import (
    COMPARED_EVENTS,
    ComparedPair,
    ComparedRun,
    ComparedVisit,
    compare_runs,
    read_visits,
)
from noetl.executor.model.events import Event
from tests.api.cli.conftest import Command
from tests.api.cli.test_cli_url import PLAYBOOK, ServedStore
from tests.e2e.test_serve import run_service

pytestmark = pytest.mark.xdist_group("service of diff")  # The fixture of the module is made once.


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        yield ServedStore(url, folder)


def changes_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["name"]: entry["values"] for entry in entries}


def test_a_failure_is_found_at_its_first_step(noetl: Command, service: ServedStore) -> None:
    good, bad = service.start(PLAYBOOK, "succeeded"), service.start(PLAYBOOK, "failed", n=0)
    local = noetl("runs", "diff", good, bad, "--json", "--store", service.store)
    remote = noetl("runs", "diff", good[:12], "last", "--json", "--url", service.url)
    assert local.json == remote.json
    diff = remote.json
    assert [run["workflow_id"] for run in diff["runs"]] == [good, bad]
    assert changes_of(diff["run"])["status"] == ["succeeded", "failed"]
    assert diff["input"] == [{"name": "n", "values": [2, 0]}]
    assert (diff["plan"], diff["cut"], diff["outputs_not_compared"]) == (None, False, 0)
    begin, end = diff["steps"]
    found = changes_of(begin["changes"])
    assert found["state"] == ["succeeded", "failed"]
    assert found["error"] == [None, "TemplateError: `set.half`: division by zero"]
    assert (found["targets"], found["saved.half"]) == ([["end"], []], [5.0, None])
    assert (end["step"], changes_of(end["changes"])) == ("end", {"state": ["succeeded", None]})
    text = noetl("runs", "diff", good, bad, "--url", service.url).out
    assert text == noetl("runs", "diff", good, bad, "--store", service.store).out
    lines = text.splitlines()
    assert "input.n: 2 → 0" in lines
    assert "  error: null → TemplateError: `set.half`: division by zero" in lines
    assert "  state: succeeded → not visited" in lines


def test_equal_runs_have_no_difference(noetl: Command, service: ServedStore) -> None:
    ids = [service.start(PLAYBOOK, "succeeded") for _ in range(2)]
    lines = noetl("runs", "diff", *ids, "--url", service.url).out.splitlines()
    assert lines[2:] == ["no difference but the times"]
    assert noetl("runs", "diff", *ids, "--json", "--url", service.url).json["equal_visits"] == 2


def test_another_text_is_another_plan(noetl: Command, service: ServedStore) -> None:
    other = PLAYBOOK.replace("10 /", "20 /").replace('version: "3"', 'version: "4"')
    ids = [service.start(text, "succeeded") for text in (PLAYBOOK, other)]
    diff = noetl("runs", "diff", *ids, "--json", "--url", service.url).json
    assert diff["plan"] == {"changed_lines": 2}
    assert changes_of(diff["run"]) == {"version": ["3", "4"], "result": [{"half": 5.0}, {"half": 10.0}]}
    assert changes_of(diff["steps"][0]["changes"]) == {
        "result": [{"half": 5.0}, {"half": 10.0}],
        "saved.half": [5.0, 10.0],
    }
    assert "plan: differs in 2 lines" in noetl("runs", "diff", *ids, "--url", service.url).out


@pytest.mark.parametrize("limit", ["MAX_READ_OUTPUTS", "MAX_OUTPUT_CHARACTERS"])
def test_outputs_of_many_or_large_visits_are_not_read(
    noetl: Command, service: ServedStore, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(run_comparison, limit, 1)
    ids = [service.start(PLAYBOOK, "succeeded") for _ in range(2)]
    lines = noetl("runs", "diff", *ids, "--store", service.store).out.splitlines()
    count = {"MAX_READ_OUTPUTS": 1, "MAX_OUTPUT_CHARACTERS": 2}[limit]
    assert f"the outputs of {count} more visits were not compared" in lines


def test_unknown_runs_are_named(noetl: Command, service: ServedStore) -> None:
    run_id = service.start(PLAYBOOK, "succeeded")
    result = noetl("runs", "diff", run_id, "f" * 24, "--url", service.url)
    assert (result.exit_code, result.out) == (2, "")
    assert f"unknown run `{'f' * 24}`" in result.err


def compared_run(visits: dict[tuple[str, int], ComparedVisit], **values: Any) -> ComparedRun:
    run = ComparedRun("1" * 24, "p", None, "h", "failed", None, "a: 1\n", {}, visits)
    for name, value in values.items():
        setattr(run, name, value)
    return run


def test_many_and_large_differences_are_bounded() -> None:
    left = compared_run(
        {(f"s{number}", 1): ComparedVisit() for number in range(500)}, input={"n": "x" * 9000}
    )
    right = compared_run({}, input={"n": "\x1b[31m" * 5000}, source="x\n" * 9000, plan_hash="i")
    diff = compare_runs(ComparedPair(left, right))
    assert diff["plan"] == {"changed_lines": None}
    assert max(len(value) for value in diff["input"][0]["values"]) < 2100
    text = format_diff(diff)
    assert "\x1b" not in text
    assert "and 300 more visits that differ; --json shows all" in text
    assert max(map(len, text.splitlines())) < 500


def test_events_of_any_form_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_diff, "MAX_VISITS", 2)
    types = (*COMPARED_EVENTS, "new.type")
    payloads: list[Any] = [{"targets": 7, "error": "no"}, {"targets": [1], "error": {}, "case": "x"}]
    events = [Event(type, 0.0, "a", payload=payload) for type in types for payload in payloads]
    events += [Event("step.started", 0.0, step) for step in ("@end", "b", "c")]
    assert list(read_visits(events)) == [("a", 1), ("b", 1)]
