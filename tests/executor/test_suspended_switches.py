"""Switches of runs whose first step is in the middle of its work, performed by the real executor.

Problem: the explorer takes a visit as one event. What is done in its middle, and which idempotency keys are
used, only an execution shows.

Algorithm: property-based testing with a differential oracle. A pair is random work and one or two random
changes of it. The old run is executed up to a random suspension or failure, and is then switched without a
verdict. It is right if it has done, at each position, what a new run of the new version does there, and
nothing else. A verdict must be yes for right runs only.

Limits: callbacks and sub-runs are in `known_switches.yaml`.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.switching import Judge, PlanSwitcher, SwitchRequest
from noetl.executor.model.run import NEVER
from noetl.executor.model.run_history import read_switch_state
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.compile import compile_playbook
from noetl.planner.continuation.judge import ALL_CONDITIONS, SwitchJudge
from noetl.planner.continuation.switch_state import Begun, Switch, SwitchState
from noetl.planner.continuation.verdict import SwitchVerdict
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness

SEEDS = 400
CHUNKS = 2
MOST_SUSPENSIONS = 4
TEXTS = "pqrs"
WorkSketch = dict[str, Any]
"""The first step of a playbook to be: its entries, those of a task, and how they are performed."""


def random_entry(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(("log", "log", "log", "wait", "wait", "task", "fail"))
    match kind:
        case "log":
            return {"action": "log", "message": rng.choice(TEXTS)}
        case "wait":
            return {"action": "wait", "seconds": rng.choice((60, 90))}
        case "task":
            return {"task": "t"}
    return {"action": "fail", "message": "no"}


def random_work(rng: random.Random) -> WorkSketch:
    """Return random work, which is suspended or fails at least once."""
    run = [random_entry(rng) for _ in range(rng.randint(1, 3))]
    run.insert(rng.randint(0, len(run)), {"action": "wait", "seconds": 60})
    task = [random_entry(rng) for _ in range(2)]
    sketch: WorkSketch = {
        "run": run,
        "task": [entry for entry in task if "task" not in entry],
        "cases": [],
        "step": {},
    }
    if not sketch["task"]:
        sketch["task"] = [{"action": "log", "message": "t"}]
    match rng.choice(("plain", "plain", "parallel", "loop", "repeat", "case", "retry")):
        case "parallel":
            sketch["step"] = {"parallel": True}
        case "loop":
            sketch["step"] = {"loop": {"items": [1, 2, 3], "batch": rng.choice((1, 2))}}
        case "repeat":
            sketch["step"] = {"repeat": {"until": "{{ step.attempt > 9 }}", "every": 60, "max": 3}}
        case "retry":
            sketch["step"] = {"retry": {"attempts": 2, "delay": 60}}
        case "case":
            sketch["cases"], sketch["run"] = [sketch["run"]], [{"action": "log", "message": "first"}]
    return sketch


def change_work(rng: random.Random, sketch: WorkSketch) -> WorkSketch:
    """Return the work after one or two random changes."""
    changed = copy.deepcopy(sketch)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(CHANGES)(rng, changed)
    return changed


def entries_of(rng: random.Random, sketch: WorkSketch) -> list[dict[str, Any]]:
    return rng.choice([sketch["run"], sketch["run"], sketch["task"], *sketch["cases"] * 2])


def _insert(rng: random.Random, sketch: WorkSketch) -> None:
    entries = entries_of(rng, sketch)
    entry = {"action": "log", "message": rng.choice(TEXTS)}
    entries.insert(rng.randint(0, len(entries)), entry)


def _append(rng: random.Random, sketch: WorkSketch) -> None:
    entries_of(rng, sketch).append({"action": "log", "message": rng.choice(TEXTS)})


def _drop(rng: random.Random, sketch: WorkSketch) -> None:
    entries = entries_of(rng, sketch)
    if len(entries) > 1:
        entries.pop(rng.randrange(len(entries)))


def _replace(rng: random.Random, sketch: WorkSketch) -> None:
    entries = entries_of(rng, sketch)
    entries[rng.randrange(len(entries))] = {"action": "log", "message": rng.choice(TEXTS)}


def _swap(rng: random.Random, sketch: WorkSketch) -> None:
    rng.shuffle(entries_of(rng, sketch))


def _correct(rng: random.Random, sketch: WorkSketch) -> None:
    """Replace what fails."""
    for entries in (sketch["run"], sketch["task"], *sketch["cases"]):
        for index, entry in enumerate(entries):
            if entry.get("action") == "fail":
                entries[index] = {"action": "log", "message": rng.choice(TEXTS)}


def _change_step(rng: random.Random, sketch: WorkSketch) -> None:
    step = sketch["step"]
    if "loop" in step:
        key = rng.choice(("items", "batch"))
        step["loop"][key] = rng.choice(([9, 1, 2, 3], [1, 2]) if key == "items" else (1, 2, 3))
    elif "repeat" in step:
        step["repeat"]["max"] = rng.choice((2, 4))
    elif "retry" in step:
        step["retry"]["attempts"] = 3
    else:
        step["parallel"] = not step.get("parallel", False)


def _insert_case(rng: random.Random, sketch: WorkSketch) -> None:
    sketch["cases"].insert(0, [{"action": "log", "message": "case"}])


CHANGES: tuple[Callable[[random.Random, WorkSketch], None], ...] = (
    _insert,
    _append,
    _append,
    _drop,
    _replace,
    _swap,
    _correct,
    _correct,
    _change_step,
    _insert_case,
)


def compile_work(sketch: WorkSketch) -> Plan | None:
    """Return the plan of the work and of a step behind it, or None if it has errors.

    The first case is taken only if it is the only one.
    """
    last = {"name": "b", "run": [{"action": "log", "message": "b"}]}
    guards = ["default"] if len(sketch["cases"]) == 1 else ["{{ run.id == 'x' }}", "default"]
    rule = [{"case": guard, "run": work} for guard, work in zip(guards, sketch["cases"], strict=False)]
    step = {
        "name": "a",
        "run": sketch["run"],
        **sketch["step"],
        "rule": rule or [{"case": "default", "run": ["b"]}],
    }
    steps = [step, last] if not rule else [step]
    data = {"name": "play", "input": {}, "tasks": [{"name": "t", "run": sketch["task"]}], "steps": steps}
    return compile_playbook(json.dumps(data), catalogue()).plan


def judge_with(conditions: frozenset[str]) -> Judge:
    def judge(old: Plan, new: Plan, state: SwitchState, switch: Switch) -> SwitchVerdict:
        return SwitchJudge(old, new, state, switch, conditions).judge(catalogue())

    return judge


Place = tuple[str, int, str]
"""A step, an attempt and the position of an action."""


def work_at(harness: RunHarness, type: str) -> list[tuple[Place, str]]:
    """Return what was begun or completed at the places of a run, in this order."""
    works: dict[Place, str] = {}
    found = []
    for event in harness.events:
        place = (str(event.step), event.attempt or 0, event.payload.get("position", ""))
        if event.type == "action.started":
            works[place] = json.dumps(event.payload, sort_keys=True)
        if event.type == type:
            found.append((place, works[place]))
    return found


def open_waits(harness: RunHarness) -> set[tuple[str, str]]:
    completed = {place for place, _ in work_at(harness, "action.completed")}
    begun = {work for work in work_at(harness, "action.started") if work[0] not in completed}
    return {(place[2], work) for place, work in begun if '"wait"' in work}


def is_over(step: str, position: str, begun: Begun | None) -> bool:
    """Return whether the visit has gone past a position, so that new work there is not made up for."""
    if begun is None or step != "a":
        return False
    head = position.split("/")[0].split(".")[0]
    if begun.case is not None:
        return head.startswith("run")
    return head.startswith("run") and int(head.partition("~")[2] or 0) < begun.rounds


def find_fault(
    harness: RunHarness, new: Plan, begun: Begun | None, waits: set[tuple[str, str]]
) -> str | None:
    """Return what is wrong with a run after its switch, or None."""
    try:
        harness.finish()
    except (AssertionError, KeyError, IndexError) as error:
        return f"it does not end: {error!r}"
    complete = RunHarness(MemoryStore(), new).finish()
    if (harness.status, harness.error_types) != (complete.status, complete.error_types):
        return f"it ends with {harness.status} {harness.error_types} instead of {complete.status}"
    found = work_at(harness, "action.completed")
    keys = {(place[0], place[2], work) for place, work in found}
    expected = {(place[0], place[2], work) for place, work in work_at(complete, "action.completed")}
    if missing := {key for key in expected - keys if not is_over(*key[:2], begun)}:
        return f"it leaves out {missing}"
    if given_up := waits - {(position, work) for _, position, work in keys}:
        return f"it gives up {given_up}"
    # A later failure would do again what is not over.
    later = {key for key in expected if not is_over(*key[:2], begun)}
    if reused := [key for key, number in Counter(key[:2] for key in keys | later).items() if number > 1]:
        return f"keys of {reused} are used for other work"
    if repeated := [place for place, number in Counter(place for place, _ in found).items() if number > 1]:
        return f"it does {repeated} again"
    return None


@dataclass(frozen=True)
class SuspendedSwitch:
    """A switch in the middle of a step: the plans, the state, and what goes wrong without a verdict."""

    old: Plan
    new: Plan
    state: SwitchState
    fault: str | None

    def judge(self, conditions: frozenset[str] = ALL_CONDITIONS) -> SwitchVerdict:
        return judge_with(conditions)(self.old, self.new, self.state, Switch())


def suspend_randomly(rng: random.Random, harness: RunHarness) -> None:
    """Execute a run up to a random suspension of its first step."""
    for number in range(rng.randint(1, MOST_SUSPENSIONS)):
        if number and (due := harness.store.queue.next_due(harness.queue)) is not None and due < NEVER:
            harness.clock.now = max(harness.clock.now, due)
        while harness.execute_next() and harness.visit("a").progress is None:
            pass


@cache
def random_switch(seed: int) -> SuspendedSwitch | None:
    """Return a switch in the middle of the first step of a random run, or None if it is not in its middle."""
    rng = random.Random(seed)
    sketch = random_work(rng)
    old, new = compile_work(sketch), compile_work(change_work(rng, sketch))
    if old is None or new is None or old.hash == new.hash:
        return None
    store = MemoryStore()
    harness = RunHarness(store, old)
    suspend_randomly(rng, harness)
    records = store.switches.read(harness.id, harness.clock())
    live = [visit for visit in records.visits if records.is_live(visit)]
    if [visit.step for visit in live] != ["a"] or harness.run.ending is not None:
        return None
    state, waits = read_switch_state(records, old), open_waits(harness)
    if not work_at(harness, "action.started"):
        return None
    store.plans.save(new)
    always = PlanSwitcher(store, harness.clock, lambda *_: SwitchVerdict())
    try:
        always.switch(harness.id, SwitchRequest(new, Switch()))
    except (KeyError, IndexError) as error:
        return SuspendedSwitch(old, new, state, repr(error))
    return SuspendedSwitch(old, new, state, find_fault(harness, new, state.branches[0].begun, waits))


def random_switches(chunk: int) -> Iterator[SuspendedSwitch]:
    for seed in range(chunk, SEEDS, CHUNKS):
        if (switch := random_switch(seed)) is not None:
            yield switch


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_yes_is_sound_and_no_is_rarely_needless(chunk: int) -> None:
    """A yes is followed by the work of the new version, and 95 % of what would go well is allowed."""
    needless: Counter[str] = Counter()
    faults = allowed = 0
    for switch in random_switches(chunk):
        verdict = switch.judge()
        assert not (verdict.is_yes and switch.fault), (switch.fault, switch.old.source, switch.new.source)
        allowed += verdict.is_yes
        faults += switch.fault is not None
        if switch.fault is None:
            needless.update({reason.code for reason in verdict.reasons})
    assert faults > 10
    assert allowed >= 0.95 * (allowed + needless.total()), needless


def test_control_without_the_condition_on_begun_work() -> None:
    conditions = ALL_CONDITIONS - {"work"}
    assert any(switch.fault and switch.judge(conditions).is_yes for switch in random_switches(0))
