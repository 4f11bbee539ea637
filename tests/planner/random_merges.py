"""Small random playbooks in which branches visit one step several times, for the tests of NP307."""

from __future__ import annotations

from random import Random
from typing import Any

import yaml

Data = dict[str, Any]


def random_merges(seed: int) -> str:
    """Return the playbook of a seed: a fork at the start, steps with `join: each`, and reads of visits.

    The only choices of a run are its orders: there is one input for guards, and no action that has several
    results.
    """
    random = Random(seed)
    names = [f"s{index}" for index in range(random.choice([4, 5, 5, 6, 6, 7]))]
    data: Data = {
        "name": f"merges_{seed}",
        "input": {"flag": {"type": "boolean", "default": True}},
        "on_error": "continue",
        "steps": [_step(random, names, index) for index in range(len(names))],
    }
    if random.random() < 0.2:
        data["tasks"] = [{"name": "note", "run": [_log(random, names, len(names))]}]
        random.choice(data["steps"]).setdefault("run", []).append({"task": "note"})
    if random.random() < 0.2:
        data["steps"].append({"name": "tidy", "run": [_log(random, names, 0)]})
        data["finally"] = "tidy"
    if random.random() < 0.4:
        data["output"] = {"shown": _text(random, names)}
    return yaml.safe_dump(data, sort_keys=False, width=10_000)


def _step(random: Random, names: list[str], index: int) -> Data:
    is_merge = index > 2 and random.random() < 0.6
    step: Data = {"name": names[index], "run": [_log(random, names, index)]}
    if is_merge:
        step["join"] = "each"
        if random.random() < 0.4:
            message = f"{_path(names, index)} visit {{{{ step.visit }}}}"
            step["run"].append({"action": "log", "message": message})
    elif index and random.random() < 0.06:
        step["join"] = "any"
    if random.random() < 0.12:
        guard = random.choice(["{{ input.flag }}", _guard(random, names)])
        step["run"].append({"action": "fail", "message": "no", "if": guard})
    if random.random() < 0.5:
        step["run"].append(_result(names, index))
    elif not is_merge or random.random() < 0.1:
        name = random.choice(["alpha", names[index], names[index]])
        step["run"].append({"action": "set", "set": {name: _text(random, names)}})
    rule = _rule(random, names, index)
    if rule:
        step["rule"] = rule
    leads_back = any(target in names[: index + 1] for case in rule for target in case["run"])
    if leads_back or (is_merge and random.random() < 0.25):
        step["max_visits"] = random.choice([1, 2, 2, 3])
    return step


def _rule(random: Random, names: list[str], index: int) -> list[Data]:
    later, rule = names[index + 1 :], []
    if random.random() < 0.15:
        rule.append({"case": "error", "run": _targets(random, later)})
    if random.random() < 0.3:
        guard = random.choice(["{{ input.flag }}", _guard(random, names)])
        pool = names[1:] if random.random() < 0.3 else later
        rule.append({"case": guard, "run": _targets(random, pool)})
    if later and (index == 0 or random.random() < 0.85):
        size = 2 if index == 0 else random.choice([1, 1, 1, 2])
        pool = names[1:3] if index == 0 else later
        rule.append({"case": "default", "run": random.sample(pool, min(size, len(pool)))})
    return rule


def _targets(random: Random, pool: list[str]) -> list[str]:
    return random.sample(pool, min(random.choice([0, 1, 1, 2]), len(pool)))


def _guard(random: Random, names: list[str]) -> str:
    name = random.choice(names)
    return random.choice(
        [
            "{{ step.visit < 2 }}",
            f"{{{{ steps.{name}.visits < 2 }}}}",
            f"{{{{ steps.{name}.status == 'failed' }}}}",
            f"{{{{ steps.{name}.status == 'pending' }}}}",
        ]
    )


def _path(names: list[str], index: int) -> str:
    """Return a template that shows the earlier steps of the branch."""
    return "".join(f"{{{{ steps.{name}.status | first }}}}" for name in names[:index])


def _log(random: Random, names: list[str], index: int) -> Data:
    path = _path(names, index) if random.random() < 0.5 else ""
    return {"action": "log", "message": f"{path} {_text(random, names)}"}


def _result(names: list[str], index: int) -> Data:
    """Return an action whose result shows the branch, and which saves nothing for later steps."""
    return {"action": "set", "set": {"item_path": _path(names, index)}, "loop": {"items": [1]}}


def _text(random: Random, names: list[str]) -> str:
    name = random.choice(names)
    return random.choice(
        [
            f"{{{{ steps.{name}.visits }}}}",
            f"{{{{ steps.{name}.status }}}}",
            f"{{{{ steps.{name}.result | default('none') }}}}",
            f"{{{{ steps.{name}.error | default('none') }}}}",
            f"{{{{ {name} | default('none') }}}}",
            "{{ alpha | default('none') }}",
            "plain",
        ]
    )
