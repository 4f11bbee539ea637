"""The reduction of a playbook that disagrees to a small one that still disagrees.

Problem: random playbooks are too large to read.

Algorithm: greedy deletion, as in delta debugging (Zeller and Hildebrandt 2002): try each smaller playbook and
continue with the first one that still disagrees, until none does.

Cost: quadratic in the size of the playbook; each try judges a playbook.

Limits: `MAX_TRIES` tries and `MAX_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from tests.oracle.run_case import RunCase

MAX_TRIES = 1000
MAX_SECONDS = 60.0

_NOTHING = {"action": "log", "message": "nothing"}
_PLAYBOOK_KEYS = ("mode", "on_error", "retry", "finally", "start", "output", "variables", "input", "tasks")
_STEP_KEYS = ("parallel", "loop", "repeat", "join", "max_visits", "retry", "on_error", "rule", "run")
_ITEM_KEYS = ("if", "loop", "as", "on_error", "retry")

Data = dict[str, Any]


def shrink(case: RunCase, disagrees: Callable[[RunCase], bool]) -> RunCase:
    """Return a smaller case for which `disagrees` is still true."""
    tries = 0
    ends_at = time.monotonic() + MAX_SECONDS
    smaller: RunCase | None = case
    while smaller is not None:
        case, smaller = smaller, None
        for candidate in _candidates(case):
            tries += 1
            if tries > MAX_TRIES or time.monotonic() > ends_at:
                return case
            if disagrees(candidate):
                smaller = candidate
                break
    return case


def _candidates(case: RunCase) -> Iterator[RunCase]:
    playbook = deepcopy(dict(case.playbook))
    for smaller in _smaller_playbooks(playbook):
        yield RunCase(smaller, case.children, case.inputs)
    for name in case.inputs:
        inputs = {key: value for key, value in case.inputs.items() if key != name}
        declared = {key: value for key, value in playbook.get("input", {}).items() if key != name}
        yield RunCase(playbook | {"input": declared}, case.children, inputs)
        for value in range(case.inputs[name]):
            yield RunCase(playbook, case.children, {**case.inputs, name: value})
    if case.children:
        yield RunCase(playbook, (), case.inputs)


def _smaller_playbooks(playbook: Data) -> Iterator[Data]:
    steps: list[Data] = playbook["steps"]
    for step in steps:
        if len(steps) > 1:
            yield from _without_step(playbook, step["name"])
    for key in _PLAYBOOK_KEYS:
        if key in playbook:
            yield {name: value for name, value in playbook.items() if name != key}
    for key in ("output", "variables", "input"):
        for name in playbook.get(key, {}):
            entries = {other: value for other, value in playbook[key].items() if other != name}
            yield playbook | {key: entries}
    for index, task in enumerate(playbook.get("tasks", [])):
        yield playbook | {"tasks": [other for other in playbook["tasks"] if other is not task]}
        for run in _smaller_work(task["run"]):
            tasks = list(playbook["tasks"])
            tasks[index] = task | {"run": run}
            yield playbook | {"tasks": tasks}
    for index, step in enumerate(steps):
        for smaller in _smaller_steps(step):
            yield playbook | {"steps": [*steps[:index], smaller, *steps[index + 1 :]]}


def _without_step(playbook: Data, name: str) -> Iterator[Data]:
    """Yield the playbook without a step: cases that lead to it lead to what follows it, or nowhere."""
    steps = [step for step in playbook["steps"] if step["name"] != name]
    removed = next(step for step in playbook["steps"] if step["name"] == name)
    rules = removed.get("rule", [])
    following = [entry for entry in (rules[-1].get("run", []) if rules else []) if isinstance(entry, str)]
    kept = {key: value for key, value in playbook.items() if value != name or key == "name"}
    for replacement in ([], following) if following else ([],):
        yield kept | {"steps": [_replace_target(step, name, replacement) for step in steps]}


def _replace_target(step: Data, name: str, replacement: list[str]) -> Data:
    rule = []
    for case in step.get("rule", []):
        run: list[Any] = []
        for entry in case.get("run", []):
            entries = replacement if entry == name else [entry]
            run += [entry for entry in entries if entry not in run]
        rule.append({"case": case["case"], "run": run})
    return step | ({"rule": rule} if rule else {})


def _smaller_steps(step: Data) -> Iterator[Data]:
    for key in _STEP_KEYS:
        if key in step:
            smaller = {name: value for name, value in step.items() if name != key}
            yield smaller if "run" in smaller or "rule" in smaller else smaller | {"run": [_NOTHING]}
    for run in _smaller_work(step.get("run", [])):
        yield step | {"run": run}
    rule: list[Data] = step.get("rule", [])
    for index, case in enumerate(rule):
        if len(rule) > 1:
            yield step | {"rule": [other for other in rule if other is not case]}
        for run in _smaller_work(case.get("run", [])):
            yield step | {"rule": [*rule[:index], case | {"run": run}, *rule[index + 1 :]]}
        if case["case"] != "default":
            for guard in ("default", "{{ true }}"):
                changed = case | {"case": guard}
                if guard != case["case"]:
                    yield step | {"rule": [*rule[:index], changed, *rule[index + 1 :]]}


def _smaller_work(run: list[Any]) -> Iterator[list[Any]]:
    for index, entry in enumerate(run):
        before, after = run[:index], run[index + 1 :]
        if len(run) > 1 or isinstance(entry, str):
            yield [*before, *after]
        if not isinstance(entry, dict):
            continue
        if entry != _NOTHING:
            yield [*before, _NOTHING, *after]
        for key in _ITEM_KEYS:
            if key in entry:
                smaller = {name: value for name, value in entry.items() if name != key}
                yield [*before, smaller, *after]
        for name, value in entry.get("set", {}).items():
            if value != 1:
                yield [*before, entry | {"set": entry["set"] | {name: 1}}, *after]
