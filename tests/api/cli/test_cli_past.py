"""Runs as they were after an event: `noetl runs show`, `graph` and `eval` with `--at`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from noetl.executor.stores import open_store
from noetl.testing.run_harness import RunHarness
from tests.api.cli.conftest import Command

PLAYBOOK = """
name: rounds
variables: {n: 0}
steps:
- {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
- name: b
  run: [{action: set, set: {y: "{{ x + 1 }}"}}, {action: wait, seconds: 5}]
  rule: [{case: default, run: [d]}]
- {name: c, run: [{action: set, set: {text: "{{ 'long ' * 999 }}"}}], rule: [{case: default, run: [d]}]}
- name: d
  max_visits: 3
  run: [{action: set, set: {n: "{{ n + y }}"}}]
  rule: [{case: "{{ n < 5 }}", run: [d]}, {case: error, run: []}]
"""


@pytest.fixture
def events(noetl: Command, folder: Path) -> list[str]:
    """The events of a run that has ended in the store of the folder: type, step and visit."""
    with closing(open_store(f"sqlite:///{folder / '.noetl' / 'noetl.db'}")) as store:
        RunHarness(store, PLAYBOOK).finish()
    items = noetl("runs", "events", "last", "--json").json["items"]
    return [f"{event['type']} {event['step']} {event['visit']}" for event in items]


def test_a_run_is_shown_as_it_was(noetl: Command, events: list[str]) -> None:
    number = str(events.index("step.completed c 1") + 1)
    shown = noetl("runs", "show", "last", "--at", number).out
    assert shown.startswith("run ")
    assert " waiting\n" in shown.split("created")[0]
    assert f"\nat       event {number} of {len(events)}, step.completed c, 1970-01-12T" in shown
    assert "\nb waits until 1970-01-12T" in shown
    assert "\nbranches\n  b: waiting\n  d: has arrived, and waits for the others\n" in shown
    assert "\njoins\n  d: 1 here, 1 may still arrive\n" in shown
    names = shown.partition("\nnames\n")[2].splitlines()
    assert names[0] == "  n = 0  (first value)"
    assert names[1].startswith('  text = "long long ')
    assert names[1].endswith("…  (from c; in d)")
    assert names[2:] == ["  x = 1  (from a)"]


def test_a_visit_is_shown_as_it_was(noetl: Command, events: list[str]) -> None:
    first = str(events.index("step.completed d 1") + 1)
    shown = noetl("runs", "show", "last", "--at", first, "--step", "d").out
    assert shown.startswith("d  visit 1 of 1  succeeded")
    assert "\nsaved\n  n: 2\n    before: 0\n" in shown
    started = str(events.index("step.started d 2") + 1)
    later = noetl("runs", "show", "last", "--at", started, "--step", "d", "--json").json
    assert (later["visit"], later["visits"], later["status"], later["saved"]) == (2, 2, "running", [])
    earlier = noetl("runs", "show", "last", "--at", started, "--step", "d", "--visit", "1", "--json").json
    assert (earlier["visit"], earlier["saved"]) == (1, [{"name": "n", "value": 2, "before": 0}])


def test_the_values_of_names_change_from_event_to_event(noetl: Command, events: list[str]) -> None:
    values = [noetl("eval", "last", "n", "--at", str(number)).json for number in range(1, len(events) + 1)]
    assert sorted(set(values)) == [0, 2, 4, 6]
    assert values == sorted(values)
    assert values[events.index("step.completed d 2")] == 4


def test_a_graph_is_drawn_as_it_was(noetl: Command, events: list[str]) -> None:
    number = str(events.index("step.started c 1") + 1)
    drawn = noetl("runs", "graph", "last", "--at", number, "-f", "json").json
    states = {name: step["status"] for name, step in drawn["steps"].items()}
    assert states == {"a": "succeeded", "b": "waiting", "c": "running", "d": "pending"}


@pytest.mark.parametrize("place", ["0", "999", "x", "9999999999", "1-0-00000000"])
def test_an_unknown_event_is_refused_with_the_range(noetl: Command, events: list[str], place: str) -> None:
    refused = noetl("runs", "show", "last", "--at", place)
    assert (refused.exit_code, refused.out) == (2, "")
    assert f"; its events are 1 to {len(events)} (1-0-" in refused.err


def test_a_step_that_had_not_started_is_refused(noetl: Command, events: list[str]) -> None:
    number = events.index("step.completed a 1") + 1
    refused = noetl("runs", "show", "last", "--at", str(number), "--step", "d")
    assert f"had not started at event {number}" in refused.err
    refused = noetl("runs", "show", "last", "--at", str(len(events)), "--step", "d", "--visit", "9")
    assert f"had no visit 9 at event {len(events)}" in refused.err
