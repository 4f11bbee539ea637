"""The switches by which the conditions of decision 28 were found, performed on stores.

Each is a pair of playbooks and a state, in `known_switches.yaml`. A step in short form, such as
`a +x <y max=2 join=any fails > b if GUARD | c d`, logs its name and the value of `y`, saves its name as `x`,
fails, and has two cases, of which the last is a fork.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.continuation.verdict import SwitchVerdict
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text, register_playbook
from noetl.testing.store_contract.operations import failed_checks, run_contents
from noetl.testing.store_contract.switches import execute_until_it_waits, judge

SWITCHES: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("known_switches.yaml").read_text(encoding="utf-8")
)
CHILD = "name: child\nsteps: [{name: w, run: [{action: wait, seconds: 60}]}]"
KEYS = {"max": "max_visits", "join": "join"}


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Return a store. SQLite is in memory, so that no test waits for the disk."""
    opened: Store = MemoryStore() if request.param == "memory" else SqliteStore(":memory:")
    yield opened
    opened.close()


def compile_steps(steps: list[Any], head: Mapping[str, Any]) -> Plan:
    written = [read_step(step) if isinstance(step, str) else step for step in steps]
    return compile_text(json.dumps({"name": "play", "input": {"m": "string"}, **head, "steps": written}))


def read_step(line: str) -> dict[str, Any]:
    """Return a step in short form as one of a playbook."""
    left, _, right = line.partition(" > ")
    name, *words = left.split()
    reads = [word[1:] for word in words if word.startswith("<")]
    message = " ".join([name, *(f"{read}={{{{ {read} }}}}" for read in reads)])
    run: list[Any] = [{"action": "log", "message": message}]
    run += [{"action": "set", "set": {word[1:]: name}} for word in words if word.startswith("+")]
    run += [{"action": "fail", "message": "no"} for word in words if word == "fails"]
    step: dict[str, Any] = {"name": name, "run": run}
    for key, _, value in (word.partition("=") for word in words if "=" in word):
        step[KEYS[key]] = int(value) if value.isdigit() else value
    if right:
        cases = (case.partition(" if ") for case in right.split(" | "))
        step["rule"] = [
            {"case": f"{{{{ {guard} }}}}" if guard else "default", "run": targets.split()}
            for targets, _, guard in cases
        ]
    return step


def start_run(store: Store, switch: Mapping[str, Any]) -> RunHarness:
    """Return the run of the old plan in the state in which it is to be switched."""
    register_playbook(store, CHILD)
    head = switch.get("old_head", {})
    harness = RunHarness(store, compile_steps(switch["old"], head), {"m": "a"}, queue="local")
    match switch.get("after", 1):
        case int(number):
            for _ in range(number):
                assert harness.execute_next()
        case "claimed":
            assert harness.claim() is not None
        case "failed":
            harness.finish()
        case "waiting":
            execute_until_it_waits(harness)
        case "rounds":
            execute_until_it_waits(harness)
            harness.clock.advance(60)
            execute_until_it_waits(harness)
    return harness


def logs_of(harness: RunHarness) -> list[str]:
    return [event.payload["text"] for event in harness.events if event.type == "action.log"]


@pytest.mark.parametrize("name", SWITCHES)
def test_known_switch(store: Store, name: str) -> None:
    """A yes is followed by what the new plan says. A no leaves the run as it was."""
    known = SWITCHES[name]
    harness = start_run(store, known)
    new = compile_steps(known["new"], known.get("new_head", {}))
    store.plans.save(new)
    switcher = PlanSwitcher(store, harness.clock, judge)
    before = run_contents(store, harness.run)
    outcome = switcher.switch(harness.id, SwitchRequest(new, Switch()))
    assert answer(outcome.verdict) == (known.get("codes", []), known.get("required", []))
    if outcome.run is None:
        assert run_contents(store, harness.run) == before
    if "given" in known:
        outcome = switcher.switch(harness.id, SwitchRequest(new, Switch(given=known["given"])))
        assert outcome.verdict.is_yes
    if outcome.run is not None:
        assert harness.run.plan_hash == new.hash
        assert [notice.code for notice in outcome.verdict.notices] == known.get("notices", [])
    if "logs" in known:
        harness.finish()
        assert (logs_of(harness), harness.status) == (known["logs"], known.get("status", "succeeded"))
    assert failed_checks(store) == []


def answer(verdict: SwitchVerdict) -> tuple[list[str], list[str]]:
    """Return the codes of the reasons of a verdict, and the names that it requires."""
    return sorted({reason.code for reason in verdict.reasons}), [item.name for item in verdict.required]
