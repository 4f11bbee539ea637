"""Random playbooks in which names are one of a few literals, and guards, conditions and texts test them.

They have the steps of `benchmarks.checks.chance`. So any case may lead anywhere.
"""

from __future__ import annotations

from random import Random
from typing import Any

import yaml

from benchmarks.checks.chance import NAMES, Data, random_playbook

_TEXTS = ("one", "two", "three")
_LITERALS: tuple[Any, ...] = (*_TEXTS * 3, 1, 2, True, False, None, [], ["x", "y"], {}, {"k": 1})


def choice_playbook(seed: int) -> str:
    """Return the playbook of a seed."""
    data = yaml.safe_load(random_playbook(seed))
    random = Random(-1 - seed)
    data["name"] = f"by_choice_{seed}"
    inputs: Data = data["input"]
    tested: tuple[str, ...] = NAMES
    if random.random() < 0.2:
        data["environment"] = {"mode": random.choice(_TEXTS)}
        tested = (*tested, "environment.mode")
    if random.random() < 0.3:
        inputs["kind"] = {"type": "string", "enum": list(_TEXTS[: random.choice([2, 3])])}
        tested = (*tested, "input.kind")
    if random.random() < 0.8:
        # Without values most runs fail at the first test.
        names = random.sample(NAMES, random.choice([1, 2, 2, 3]))
        first = {"action": "set", "set": {name: _literal(random, inputs) for name in names}}
        data["steps"][0]["run"] = [first, *data["steps"][0].get("run", [])]
    for step in data["steps"]:
        for entry in step.get("run", ()):
            _choose_literals(random, entry, inputs, tested)
        for case in step.get("rule", ()):
            if case["case"].startswith("{{ input.") and random.random() < 0.8:
                case["case"] = f"{{{{ {_test(random, tested)} }}}}"
    if "output" in data and random.random() < 0.5:
        data["output"] = {"told": _conditional_read(random, tested)}
    text = str(data)
    data["input"] = {name: declared for name, declared in inputs.items() if f"input.{name}" in text}
    return yaml.safe_dump(data, sort_keys=False, width=10_000)


def _choose_literals(random: Random, entry: Data, inputs: Data, tested: tuple[str, ...]) -> None:
    """Let an entry save literals, and let its condition and its text test them."""
    if "set" in entry and random.random() < 0.8:
        entry["set"] = {name: _literal(random, inputs) for name in entry["set"]}
    if "if" in entry and random.random() < 0.5:
        entry["if"] = f"{{{{ {_test(random, tested)} }}}}"
    if "message" in entry and random.random() < 0.6:
        entry["message"] = _conditional_read(random, tested)


def _literal(random: Random, inputs: Data) -> Any:
    """Return a literal, or a choice between two or three of them by a new input."""
    if random.random() < 0.5:
        return random.choice(_LITERALS)
    flag, other_flag = f"pick{len(inputs)}", f"pick{len(inputs) + 1}"
    inputs[flag] = "boolean"
    kind = random.randrange(6)
    if kind == 0:
        return f"{{{{ not input.{flag} }}}}"
    first, second, third = (repr(random.choice(_TEXTS)) for _ in range(3))
    if kind == 1:
        inputs[other_flag] = "boolean"
        return f"{{{{ {first} if input.{flag} else {second} if input.{other_flag} else {third} }}}}"
    return f"{{{{ {first} if input.{flag} else {second} }}}}"


def _test(random: Random, tested: tuple[str, ...]) -> str:
    """Return a test of a name: of its truth, its length, or whether it equals a literal."""
    name = random.choice(tested)
    kind = random.randrange(10)
    value = repr(random.choice(_TEXTS))
    return [
        *[f"{name} == {value}"] * 4,
        f"{name} != {value}",
        f"{name} in [{value}, {random.choice(_TEXTS)!r}]",
        f"not {name}",
        name,
        f"{name} is none",
        f"{name} == {value} or {random.choice(tested)} == {value}",
    ][kind]


def _conditional_read(random: Random, tested: tuple[str, ...]) -> str:
    first, second = random.sample(NAMES, 2)
    return f"{{{{ {first} if {_test(random, tested)} else {second} }}}}"
