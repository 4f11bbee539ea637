"""Small random playbooks. Any case may lead anywhere, and any step may save and read any name.

Most of them are faulty. Exhaustive execution shows the faults.
"""

from __future__ import annotations

from random import Random
from typing import Any

import yaml

Data = dict[str, Any]

NAMES = ("alpha", "beta", "gamma")


def random_playbook(seed: int) -> str:
    """Return the playbook of a seed: three to six steps, each guard with its own input."""
    random = Random(seed)
    steps = [f"s{index}" for index in range(random.choice([3, 4, 4, 5, 5, 6]))]
    inputs: Data = {}
    is_mostly_acyclic = random.random() < 0.6
    data: Data = {"name": f"by_chance_{seed}", "input": inputs}
    if random.random() < 0.2:
        data["mode"] = "sequential"
    if random.random() < 0.3:
        data["on_error"] = "continue"
    if random.random() < 0.2:
        data["variables"] = {"gamma": 1}
    data["steps"] = [
        _step(random, steps, index, inputs, is_mostly_acyclic=is_mostly_acyclic)
        for index in range(len(steps))
    ]
    if random.random() < 0.15:
        data["steps"].append({"name": "tidy", "run": [_log(_random_text(random))]})
        data["finally"] = "tidy"
    if random.random() < 0.3:
        data["output"] = {"told": _random_text(random)}
    return yaml.safe_dump(data, sort_keys=False, width=10_000)


def _step(random: Random, steps: list[str], index: int, inputs: Data, *, is_mostly_acyclic: bool) -> Data:
    step: Data = {"name": steps[index]}
    run = [_work(random, inputs, index) for _ in range(random.choice([0, 1, 1, 2]))]
    successors = steps[index + 1 :] if is_mostly_acyclic or random.random() < 0.7 else steps
    rule = _rule(random, successors, index, inputs)
    if not run and not rule:
        run = [_log("nothing to do")]
    if run:
        step["run"] = run
    if rule:
        step["rule"] = rule
    if successors is steps and random.random() < 0.85:
        step["max_visits"] = random.choice([1, 2])
    if random.random() < 0.06:
        step["join"] = random.choice(["any", "each"])
    if random.random() < 0.08:
        step["on_error"] = random.choice(["abort", "continue"])
    return step


def _rule(random: Random, successors: list[str], index: int, inputs: Data) -> list[Data]:
    rule: list[Data] = []
    if random.random() < 0.25:
        rule.append(
            {
                "case": random.choice(["error", "{{ error }}", "{{ not result.success }}"]),
                "run": _targets(random, successors),
            }
        )
    if random.random() < 0.5:
        guard = f"go{index}"
        inputs[guard] = "boolean"
        kind = random.randrange(6)
        text = f"{{{{ input.{guard} }}}}" if kind else f"{{{{ {random.choice(NAMES)} is defined }}}}"
        rule.append({"case": text, "run": _targets(random, successors)})
    if successors and random.random() < 0.8:
        rule.append({"case": "default", "run": _targets(random, successors)})
    return rule


def _targets(random: Random, successors: list[str]) -> list[str]:
    size = min(random.choice([0, 1, 1, 1, 2, 2, 3]), len(successors))
    return random.sample(successors, size)


def _work(random: Random, inputs: Data, index: int) -> Data:
    kind = random.randrange(8)
    name = random.choice(NAMES)
    if kind < 3:
        return {"action": "set", "set": {name: f"from s{index}"}}
    if kind == 3:
        return {"action": "set", "set": {name: _random_text(random)}}
    if kind == 4:
        return {"action": "shell", "command": "date", "as": name}
    if kind == 5:
        flag = f"do{index}"
        inputs[flag] = "boolean"
        return {"action": "set", "if": f"{{{{ input.{flag} }}}}", "set": {name: "perhaps"}}
    if kind == 6:
        return {"action": "shell", "command": "date", "as": name, "on_error": "continue"}
    return _log(_random_text(random))


def _random_text(random: Random) -> str:
    name = random.choice(NAMES)
    kind = random.randrange(8)
    if kind == 0:
        return f"{{{{ {name} | default('none') }}}}"
    if kind == 1:
        return f"{{{{ {name} if {name} is defined else 'none' }}}}"
    return f"see {{{{ {name} }}}}"


def _log(message: str) -> Data:
    return {"action": "log", "message": message}
