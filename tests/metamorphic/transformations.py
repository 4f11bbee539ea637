"""Changes of a playbook that keep its meaning: other names of steps, another order of them, a variable."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from random import Random
from typing import Any

Data = dict[str, Any]

_STEP_READ = re.compile(
    r"""\bsteps(?:\.(?P<plain>[A-Za-z_]\w*)|\[\s*(?P<quote>["'])(?P<text>.+?)(?P=quote)\s*\])"""
)


def rename_steps(playbook: Data, names: Mapping[str, str]) -> Data:
    """Return the playbook with other names of steps, also where templates read `steps.NAME`."""
    renamed: Data = _map_text(playbook, lambda text: _rename_reads(text, names))
    for key in ("start", "finally"):
        if key in renamed:
            renamed[key] = names[renamed[key]]
    for step in renamed["steps"]:
        step["name"] = names[step["name"]]
        for case in step.get("rule", []):
            case["run"] = [_rename_target(entry, names) for entry in case.get("run", [])]
    return renamed


def permute_names(playbook: Data, random: Random) -> dict[str, str]:
    """Return for each step the name of another step, so that sorting by name gives another order."""
    names = [step["name"] for step in playbook["steps"]]
    return dict(zip(names, random.sample(names, len(names)), strict=True))


def replace_names(playbook: Data, random: Random) -> dict[str, str]:
    """Return for each step a new name."""
    names = [step["name"] for step in playbook["steps"]]
    numbers = random.sample(range(100, 1000), len(names))
    return {name: f"{random.choice('azAZ')}{number}" for name, number in zip(names, numbers, strict=True)}


def move_steps(playbook: Data, random: Random) -> Data:
    """Return the playbook with its steps in another order, and `start` written."""
    steps = playbook["steps"]
    start = playbook.get("start", steps[0]["name"])
    moved = deepcopy(playbook) | {"start": start}
    moved["steps"] = random.sample(steps, len(steps))
    return moved


def move_constant(playbook: Data, random: Random) -> Data:
    """Return the playbook with one constant that `set` saves replaced by a read of a variable.

    The playbook is returned unchanged if it has no such constant.
    """
    changed = deepcopy(playbook)
    places = [
        (values, name)
        for step in changed["steps"]
        for entry in step.get("run", [])
        if isinstance(entry, dict) and isinstance(values := entry.get("set"), dict)
        for name, value in values.items()
        if "{" not in str(value)
    ]
    if places:
        values, name = random.choice(places)
        changed["variables"] = {**changed.get("variables", {}), "constant": values[name]}
        values[name] = "{{ constant }}"
    return changed


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of data with every text in it changed, except for keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_text(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _map_text(item, change) for key, item in value.items()}
    return value


def _rename_reads(text: str, names: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match["plain"] or match["text"]
        return f'steps["{names[name]}"]' if match["text"] else f"steps.{names.get(name, name)}"

    return _STEP_READ.sub(replace, text)


def _rename_target(entry: Any, names: Mapping[str, str]) -> Any:
    if isinstance(entry, str):
        return names.get(entry, entry)
    return entry | {"step": names[entry["step"]]} if "step" in entry else entry
