"""Mutation operators: typical errors in changes of a playbook.

An operator takes the data of a playbook. It yields every way to break it, each with the broken places.
`is_outside` means that the language forbids the result, whatever its execution does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from noetl.executor.actions import catalogue
from noetl.planner.catalogue import Kind, Sink
from noetl.planner.plan import Plan

from benchmarks.checks.places import Path, Place, Places

Data = dict[str, Any]
Where = Callable[[Places], Iterator[Place]]

_WORDS = frozenset(
    [
        "input",
        "environment",
        "steps",
        "step",
        "run",
        "error",
        "result",
        "item",
        "loop",
        "args",
        "secrets",
        "callback",
        "now",
        "uuid",
        "range",
        "dict",
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "else",
        "true",
        "false",
        "none",
        "True",
        "False",
        "None",
        "default",
        "defined",
    ]
)
_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_STRING = re.compile(r"'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True)
class Change:
    """A changed playbook, and the places of its error."""

    data: Data
    where: Where
    is_outside: bool = False


Operator = Callable[[Data, Plan], Iterator[Change]]


def _values(*paths: Path) -> Where:
    return lambda places: (places.value(path) for path in paths)


def _keys(*paths: Path) -> Where:
    return lambda places: (places.key(path) for path in paths)


def _case(path: Path) -> Where:
    """Return the guard of a case, or its key."""
    return lambda places: iter((places.key((*path, "case")), places.value((*path, "case"))))


def _names(data: Data, *names: str) -> Where:
    """Yield the paths of the names of steps."""
    return _values(
        *(("steps", position, "name") for position, step in enumerate(data["steps"]) if step["name"] in names)
    )


def _is_name(entry: object) -> bool:
    return isinstance(entry, str)


def _word(path: Path, word: str) -> Where:
    return lambda places: places.words(path, word)


def _all(*wheres: Where) -> Where:
    return lambda places: (place for where in wheres for place in where(places))


def _cases(data: Data) -> Iterator[tuple[Path, Data]]:
    for position, step in enumerate(data["steps"]):
        for index, case in enumerate(step.get("rule") or []):
            yield ("steps", position, "rule", index), case


def _targets(data: Data) -> Iterator[tuple[Path, str]]:
    """Yield the names of steps in cases, with their paths."""
    steps = {step["name"] for step in data["steps"]}
    for path, case in _cases(data):
        for index, entry in enumerate(case.get("run") or []):
            if isinstance(entry, str) and entry in steps:
                yield (*path, "run", index), entry


def _runs(data: Data) -> Iterator[tuple[Path, list[Any]]]:
    tasks = data.get("tasks") or []
    for position, task in enumerate(tasks) if isinstance(tasks, list) else ():
        yield ("tasks", position, "run"), task["run"]
    for position, step in enumerate(data["steps"]):
        if step.get("run"):
            yield ("steps", position, "run"), step["run"]
        for index, case in enumerate(step.get("rule") or []):
            if case.get("run"):
                yield ("steps", position, "rule", index, "run"), case["run"]


def _actions(data: Data) -> Iterator[tuple[Path, Data]]:
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "action" in entry:
                yield (*path, index), entry


def _saves(data: Data) -> Iterator[tuple[Path, str, bool]]:
    """Yield the paths of saved names: the value of an `as`, or with `is_key` a key of `set`."""
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "as" in entry:
                yield (*path, index, "as"), entry["as"], False
            if isinstance(entry, dict) and isinstance(entry.get("set"), dict):
                for name in entry["set"]:
                    yield (*path, index, "set", name), name, True


def _templates(data: Data) -> Iterator[tuple[Path, str]]:
    """Yield every text with an expression."""
    stack: list[tuple[Path, Any]] = [((), data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            stack += [((*path, index), item) for index, item in enumerate(value)]
        elif isinstance(value, str) and "{{" in value:
            yield path, value


def _value_at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


def _changed(data: Data, path: Path, value: Any) -> Data:
    """Return the data with another value at a path."""
    copy = deepcopy(data)
    _value_at(copy, path[:-1])[path[-1]] = value
    return copy


def _data_without(data: Data, path: Path) -> Data:
    copy = deepcopy(data)
    del _value_at(copy, path[:-1])[path[-1]]
    return copy


def _renamed(data: Data, path: Path, name: str) -> Data:
    """Return the data with another name for the key at a path, in the same position."""
    copy = deepcopy(data)
    owner = _value_at(copy, path[:-1])
    items = [(name if key == path[-1] else key, value) for key, value in owner.items()]
    owner.clear()
    owner.update(items)
    return copy


def _spelt(word: str) -> str:
    """Return a misspelt word: two letters are swapped, or one is added."""
    for position in range(len(word) - 1, 1, -1):
        if (
            word[position] != word[position - 1]
            and not word[position].isdigit()
            and not word[position - 1].isdigit()
        ):
            return word[: position - 1] + word[position] + word[position - 1] + word[position + 1 :]
    return word + "x"


def _reads(text: str) -> Iterator[tuple[int, str]]:
    """Return the names that the expressions of a text read, with their offsets."""
    for expression in _EXPRESSION.finditer(text):
        source = _STRING.sub(lambda found: " " * len(found[0]), expression[1])
        for found in re.finditer(r"(?<![\w.|])(?<!\| )([A-Za-z_]\w*)(?!\w|\s*\()", source):
            before = source[: found.start()].rstrip()
            if (
                found[1] not in _WORDS
                and not before.endswith(("|", " is", "."))
                and not re.match(r"\s*=[^=]", source[found.end() :])
            ):
                yield expression.start(1) + found.start(), found[1]


def _attribute_reads(text: str, root: str) -> Iterator[tuple[int, str]]:
    """Return the attributes that are read directly from a name."""
    for expression in _EXPRESSION.finditer(text):
        for found in re.finditer(rf"(?<![\w.]){re.escape(root)}\.([A-Za-z_]\w*)", expression[1]):
            yield expression.start(1) + found.start(1), found[1]


def _replaced(text: str, position: int, old: str, new: str) -> str:
    return text[:position] + new + text[position + len(old) :]


def _reading(data: Data) -> Iterator[tuple[Path, str]]:
    """Yield templates of work, rules and results, in which all names are defined."""
    return ((path, text) for path, text in _templates(data) if path[0] in ("steps", "tasks", "output"))


# The graph.


def rename_target(data: Data, plan: Plan) -> Iterator[Change]:
    """Let a case name an unknown step."""
    for path, name in _targets(data):
        yield Change(_changed(data, path, _spelt(name)), _values(path), is_outside=True)


def drop_target(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove one of the steps that a case leads to."""
    for path, name in _targets(data):
        yield Change(_data_without(data, path), _all(_case(path[:-2]), _names(data, name)))


def drop_case(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove a case."""
    for path, case in _cases(data):
        yield Change(_data_without(data, path), _names(data, *filter(_is_name, case.get("run") or [])))


def swap_cases(data: Data, plan: Plan) -> Iterator[Change]:
    """Swap two cases."""
    for path, _ in _cases(data):
        rule, position = _value_at(data, path[:-1]), int(path[-1])
        if position + 1 < len(rule):
            rest = [*rule[:position], rule[position + 1], rule[position], *rule[position + 2 :]]
            after = (*path[:-1], position + 1)
            yield Change(_changed(data, path[:-1], rest), _all(_case(path), _case(after)))


def redirect(data: Data, plan: Plan) -> Iterator[Change]:
    """Let a case lead to another step."""
    names = [step["name"] for step in data["steps"]]
    for path, name in _targets(data):
        other = names[(names.index(name) + 1) % len(names)]
        if other not in _value_at(data, path[:-1]):
            yield Change(_changed(data, path, other), _all(_values(path), _names(data, name)))


def remove_bound(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove `max_visits` from a cycle."""
    for position, step in enumerate(data["steps"]):
        if (
            "max_visits" in step
            and plan.steps.get(step["name"]) is not None
            and plan.steps[step["name"]].cyclic
        ):
            circle = _cycle_steps(plan, step["name"])
            targets = [
                path
                for path, target in _targets(data)
                if target in circle and data["steps"][path[1]]["name"] in circle
            ]
            where = _all(_values(("steps", position, "name"), *targets))
            yield Change(_data_without(data, ("steps", position, "max_visits")), where, is_outside=True)


def _cycle_steps(plan: Plan, step: str) -> set[str]:
    """Return the steps on a cycle with a step."""
    return {other for other in _reachable_steps(plan, step) if step in _reachable_steps(plan, other)} | {step}


def _reachable_steps(plan: Plan, start: str) -> set[str]:
    """Return the steps that a branch can reach from a step."""
    found: set[str] = set()
    stack = [start]
    while stack:
        for case in plan.steps[stack.pop()].cases:
            new = set(case.targets) - found
            found |= new
            stack += new
    return found


def leave_region(data: Data, plan: Plan) -> Iterator[Change]:
    """Let a branch return to a step before its fork instead of going to the join."""
    names = [step["name"] for step in data["steps"]]
    for path, case in _cases(data):
        fork = data["steps"][path[1]]["name"]
        targets = [entry for entry in case.get("run") or [] if entry in names]
        for target in targets[:1] if len(targets) > 1 else ():
            position = names.index(target)
            joins = plan.steps[target].regions if target in plan.steps else ()
            if not joins or plan.steps[fork].regions == joins:
                continue
            copy = deepcopy(data)
            earlier_step = {"case": "{{ step.visit < 2 }}", "run": [fork]}
            copy["steps"][position]["rule"] = [earlier_step, *(copy["steps"][position].get("rule") or [])]
            copy["steps"][path[1]].setdefault("max_visits", 3)
            new: Path = ("steps", position, "rule", 0)
            # Where the others come by the fork as well, they wait for each other there.
            is_outside = not any(fork in _reachable_steps(plan, other) for other in targets[1:])
            yield Change(copy, _all(_case(new), _values((*new, "run", 0))), is_outside=is_outside)


def duplicate_step(data: Data, plan: Plan) -> Iterator[Change]:
    """Give two steps one name."""
    for position in range(1, len(data["steps"])):
        yield Change(
            _changed(data, ("steps", position, "name"), data["steps"][position - 1]["name"]),
            _values(("steps", position, "name")),
            is_outside=True,
        )


def remove_step(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove a step that a case names."""
    for position, step in enumerate(data["steps"]):
        if len(data["steps"]) < 2 or not any(name == step["name"] for _, name in _targets(data)):
            continue
        copy = _data_without(data, ("steps", position))
        left = [
            (path[0], int(path[1]) - (int(path[1]) > position), *path[2:])
            for path, name in _targets(data)
            if name == step["name"] and path[1] != position
        ]
        if left:
            yield Change(copy, _values(*left), is_outside=True)


def mix_work(data: Data, plan: Plan) -> Iterator[Change]:
    """Add work to a case that leads to steps."""
    for path, _ in _targets(data):
        copy = deepcopy(data)
        _value_at(copy, path[:-1]).append({"action": "log", "message": "on the way"})
        yield Change(copy, _case(path[:-2]), is_outside=True)


# Guards.


def second_default(data: Data, plan: Plan) -> Iterator[Change]:
    """Add a second `default`."""
    for path, case in _cases(data):
        if case["case"] == "default":
            copy = deepcopy(data)
            rule = _value_at(copy, path[:-1])
            rule.append({"case": "default", "run": []})
            yield Change(copy, _case((*path[:-1], len(rule) - 1)), is_outside=True)


def contradict_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """Let a guard be always false."""
    for path, case in _cases(data):
        inside = re.fullmatch(r"\s*\{\{(.*)\}\}\s*", str(case["case"]), re.DOTALL)
        if inside:
            guard = inside[1].strip()
            text = f"{{{{ ({guard}) and not ({guard}) }}}}"
            yield Change(_changed(data, (*path, "case"), text), _case(path))


def contradict_numbers(data: Data, plan: Plan) -> Iterator[Change]:
    """Let a guard require more than a number and less than it."""
    for path, case in _cases(data):
        found = re.fullmatch(r"\s*\{\{\s*([\w.]+) (<|>|<=|>=) (\d+)\s*\}\}\s*", str(case["case"]))
        if found:
            opposite = "<" if ">" in found[2] else ">"
            text = f"{{{{ {found[1]} {found[2]} {found[3]} and {found[1]} {opposite} {found[3]} }}}}"
            yield Change(_changed(data, (*path, "case"), text), _case(path))


def duplicate_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """Repeat a guard. The second case is never taken."""
    for path, case in _cases(data):
        if "{{" in str(case["case"]) or case["case"] == "error":
            copy = deepcopy(data)
            position = int(path[-1]) + 1
            _value_at(copy, path[:-1]).insert(
                position, {"case": case["case"], "run": [{"action": "log", "message": "again"}]}
            )
            yield Change(copy, _case((*path[:-1], position)))


def behind_default(data: Data, plan: Plan) -> Iterator[Change]:
    """Add a case after `default`."""
    for path, case in _cases(data):
        if case["case"] == "default":
            copy = deepcopy(data)
            rule = _value_at(copy, path[:-1])
            rule.append({"case": "{{ step.visit == 1 }}", "run": []})
            yield Change(copy, _case((*path[:-1], len(rule) - 1)))


def plain_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove the braces of a guard."""
    for path, case in _cases(data):
        inside = re.fullmatch(r"\s*\{\{(.*)\}\}\s*", str(case["case"]), re.DOTALL)
        if inside and inside[1].strip() not in ("error", "default"):
            yield Change(
                _changed(data, (*path, "case"), inside[1].strip()), _values((*path, "case")), is_outside=True
            )


# Names.


def remove_as(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove the name under which a result is saved."""
    for path, _, is_key in _saves(data):
        if not is_key:
            yield Change(_data_without(data, path), _keys(path[:-1]))


def rename_saved(data: Data, plan: Plan) -> Iterator[Change]:
    """Save a result under a misspelt name."""
    for path, name, is_key in _saves(data):
        other = _spelt(name)
        if is_key:
            yield Change(_renamed(data, path, other), _keys((*path[:-1], other)))
        else:
            yield Change(_changed(data, path, other), _values(path))


def rename_read(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a name where it is read."""
    for path, text in _reading(data):
        for position, name in _reads(text):
            other = _spelt(name)
            yield Change(_changed(data, path, _replaced(text, position, name, other)), _word(path, other))


def misspell_known(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell an attribute of an input, an error, a step or a run, whose attributes are known."""
    for path, text in _templates(data):
        for root in ("input", "environment", "error", "steps", "run", "step", "loop", "args"):
            if root == "input" and "input" not in data:
                continue
            for position, name in _attribute_reads(text, root):
                other = _spelt(name)
                yield Change(
                    _changed(data, path, _replaced(text, position, name, other)),
                    _all(_word(path, other), _word(path, root)),
                )


def misspell_attribute(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell an attribute of a result whose keys the action declares."""
    shaped = {
        entry["as"]: entry["action"]
        for _, entry in _actions(data)
        if "as" in entry
        and "loop" not in entry
        and (declared := catalogue().get(entry["action"]))
        and declared.result
    }
    for path, text in _reading(data):
        for name in shaped:
            for position, attribute in _attribute_reads(text, name):
                other = _spelt(attribute)
                where = _all(_word(path, other), _word(path, name))
                yield Change(_changed(data, path, _replaced(text, position, attribute, other)), where)


def remove_default(data: Data, plan: Plan) -> Iterator[Change]:
    """Read a name that may be undefined without `default`."""
    for path, text in _reading(data):
        for found in re.finditer(r"(\w+)\s*\|\s*default\([^()]*\)", text):
            yield Change(
                _changed(data, path, _replaced(text, found.start(), found[0], found[1])),
                _word(path, found[1]),
            )


def read_elsewhere(data: Data, plan: Plan) -> Iterator[Change]:
    """Read a name that a later or concurrent step saves, or a step that may not run."""
    saved = list(dict.fromkeys((name, path[1]) for path, name, _ in _saves(data) if path[0] == "steps"))
    for name, owner in saved:
        if data["steps"][owner].get("loop"):
            continue
        for position, step in enumerate(data["steps"]):
            if position != owner and not step.get("loop"):
                copy = deepcopy(data)
                copy["steps"][position]["run"] = [
                    {"action": "log", "message": f"see {{{{ {name} }}}}"},
                    *(step.get("run") or []),
                ]
                yield Change(copy, _word(("steps", position, "run", 0, "message"), name))


def read_after_error(data: Data, plan: Plan) -> Iterator[Change]:
    """Read the outputs of a failed step in the step that follows."""
    names = [step["name"] for step in data["steps"]]
    for path, case in _cases(data):
        aware = case["case"] == "error" or re.search(r"\berror\b", str(case["case"]))
        saved = [name for place, name, _ in _saves(data) if place[:3] == (*path[:2], "run")]
        for target in [entry for entry in case.get("run") or [] if entry in names] if aware and saved else ():
            position = names.index(target)
            copy = deepcopy(data)
            text = f"see {{{{ {saved[-1]} }}}}"
            copy["steps"][position]["run"] = [
                {"action": "log", "message": text},
                *(copy["steps"][position].get("run") or []),
            ]
            yield Change(copy, _word(("steps", position, "run", 0, "message"), saved[-1]))


def add_race(data: Data, plan: Plan) -> Iterator[Change]:
    """Save one name in two branches of a fork."""
    names = [step["name"] for step in data["steps"]]
    for _, case in _cases(data):
        targets = [names.index(entry) for entry in case.get("run") or [] if entry in names]
        if len(targets) < 2 or data.get("mode") == "sequential":
            continue
        copy = deepcopy(data)
        for position in targets[:2]:
            step = copy["steps"][position]
            step["run"] = [
                *(step.get("run") or []),
                {"action": "set", "set": {"raced": f"by {step['name']}"}},
            ]
        if any(copy["steps"][position].get("loop") for position in targets[:2]):
            continue
        places = [
            ("steps", position, "run", len(copy["steps"][position]["run"]) - 1, "set", "raced")
            for position in targets[:2]
        ]
        yield Change(copy, _keys(*places))


def shadow_input(data: Data, plan: Plan) -> Iterator[Change]:
    """Save a result under the name of an input."""
    inputs = list(data.get("input") or {})
    for path, _, is_key in _saves(data):
        for name in inputs[:1]:
            if is_key:
                if name not in _value_at(data, path[:-1]):
                    yield Change(_renamed(data, path, name), _keys((*path[:-1], name)), is_outside=True)
            else:
                yield Change(_changed(data, path, name), _values(path), is_outside=True)


# Actions and expressions.


def unknown_parameter(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a parameter."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]].parameters
        for name in entry:
            if name in declared:
                other = _spelt(name)
                if other not in declared and other not in entry:
                    yield Change(_renamed(data, (*path, name), other), _keys((*path, other)), is_outside=True)


def missing_parameter(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove a required parameter."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]]
        for name in entry:
            if (
                name in declared.parameters and declared.parameters[name].required
            ) or name in declared.one_of:
                yield Change(_data_without(data, (*path, name)), _values((*path, "action")), is_outside=True)


def wrong_type(data: Data, plan: Plan) -> Iterator[Change]:
    """Give a parameter a value of a wrong type."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]].parameters
        for name in entry:
            kinds = declared[name].kinds if name in declared else (Kind.ANY,)
            if Kind.ANY in kinds:
                continue
            wrong = {Kind.OBJECT: {"wrong": 1}, Kind.STRING: "wrong", Kind.INTEGER: 4, Kind.BOOLEAN: True}
            value = next(
                (value for kind, value in reversed(wrong.items()) if not _is_taken(kind, kinds)), None
            )
            if value is not None:
                place = (*path, name, "wrong") if isinstance(value, dict) else (*path, name)
                where = _keys(place) if isinstance(value, dict) else _values(place)
                yield Change(_changed(data, (*path, name), value), where, is_outside=True)


def _is_taken(kind: Kind, kinds: tuple[Kind, ...]) -> bool:
    alike = {
        Kind.INTEGER: {Kind.NUMBER, Kind.DURATION, Kind.STRING},
        Kind.STRING: {Kind.DURATION},
        Kind.BOOLEAN: {Kind.STRING},
    }
    return (
        kind in kinds
        or not alike.get(kind, set()).isdisjoint(kinds)
        or (kind is Kind.OBJECT and Kind.ACTION in kinds)
    )


def unknown_action(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell the type of an action."""
    for path, entry in _actions(data):
        yield Change(
            _changed(data, (*path, "action"), _spelt(entry["action"])),
            _values((*path, "action")),
            is_outside=True,
        )


def quote_template(data: Data, plan: Plan) -> Iterator[Change]:
    """Put a template of a statement or a command into quotes."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]].parameters
        for name, value in entry.items():
            if name in declared and declared[name].sink in (Sink.SQL, Sink.SHELL) and isinstance(value, str):
                for found in _EXPRESSION.finditer(value):
                    if (
                        "identifier" in found[0]
                        or value[: found.start()].count("'") % 2
                        or value[: found.start()].count('"') % 2
                    ):
                        continue
                    quoted = _replaced(value, found.start(), found[0], f"'{found[0]}'")
                    where = _braces((*path, name), value[: found.start()].count("{{"))
                    yield Change(_changed(data, (*path, name), quoted), where, is_outside=True)


def _braces(path: Path, number: int) -> Where:
    def where(places: Places) -> Iterator[Place]:
        first, column = places.value(path)
        # A long text goes on in the next lines.
        starts = [
            (line, found.start() + 1)
            for line, text in enumerate(places.lines[first - 1 :], first)
            for found in re.finditer(r"\{\{", text)
            if line > first or found.start() >= column - 1
        ]
        yield starts[number]

    return where


def secret_in_log(data: Data, plan: Plan) -> Iterator[Change]:
    """Write a secret to the log."""
    for path, _ in _runs(data):
        if path[-2] != "rule" and not _leads_on(path, data):
            copy = deepcopy(data)
            _value_at(copy, path).insert(0, {"action": "log", "message": "it is {{ secrets.TOKEN }}"})
            yield Change(copy, _word((*path, 0, "message"), "secrets"), is_outside=True)


def _leads_on(path: Path, data: Data) -> bool:
    return any(place[: len(path)] == path for place, _ in _targets(data))


def task_circle(data: Data, plan: Plan) -> Iterator[Change]:
    """Let a task call itself."""
    tasks = data.get("tasks")
    for position, task in enumerate(tasks) if isinstance(tasks, list) else ():
        copy = deepcopy(data)
        copy["tasks"][position]["run"].append({"task": task["name"]})
        yield Change(copy, _values(("tasks", position, "name")), is_outside=True)


def unknown_task(data: Data, plan: Plan) -> Iterator[Change]:
    """Call an unknown task."""
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "task" in entry:
                place = (*path, index, "task")
                yield Change(_changed(data, place, _spelt(entry["task"])), _values(place), is_outside=True)


def unknown_filter(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a filter."""
    for path, text in _templates(data):
        for found in re.finditer(r"\|\s*([a-z_]+)", text):
            other = _spelt(found[1])
            changed = _replaced(text, found.start(1), found[1], other)
            yield Change(_changed(data, path, changed), _word(path, other), is_outside=True)


def broken_expression(data: Data, plan: Plan) -> Iterator[Change]:
    """Add a bracket to an expression."""
    for path, text in _templates(data):
        position = text.find("}}")
        line = _changed(data, path, f"{text[:position]}) {text[position:]}")
        yield Change(line, _any_position(path), is_outside=True)


def _any_position(path: Path) -> Where:
    """Return any position in a text."""

    def where(places: Places) -> Iterator[Place]:
        line, column = places.value(path)
        yield from ((line, position) for position in range(column, len(places.lines[line - 1]) + 2))

    return where


def misspell_key(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a key of a step."""
    for position, step in enumerate(data["steps"]):
        for key in step:
            if key != "name":
                other = _spelt(key)
                yield Change(
                    _renamed(data, ("steps", position, key), other),
                    _keys(("steps", position, other)),
                    is_outside=True,
                )


def loop_over_number(data: Data, plan: Plan) -> Iterator[Change]:
    """Let a loop iterate over a value that is not a list."""
    shaped = [
        entry["as"]
        for _, entry in _actions(data)
        if entry["action"] == "http" and "as" in entry and "loop" not in entry
    ]
    for path, text in _reading(data):
        if path[-2:] == ("loop", "items"):
            all_text = re.fullmatch(r"\{\{ (\w+)\.body[\w.]* \}\}", text)
            if all_text and all_text[1] in shaped:
                yield Change(
                    _changed(data, path, f"{{{{ {all_text[1]}.status }}}}"),
                    _all(_values(path), _any_position(path)),
                )
            if text.startswith("{{ input.") and (
                numbers := [
                    n
                    for n, t in (data.get("input") or {}).items()
                    if "integer" in (t, isinstance(t, dict) and t.get("type"))
                ]
            ):
                yield Change(
                    _changed(data, path, f"{{{{ input.{numbers[0]} }}}}"),
                    _all(_values(path), _any_position(path)),
                )


def compare_kinds(data: Data, plan: Plan) -> Iterator[Change]:
    """Compare the order of a number and a text."""
    for path, case in _cases(data):
        found = re.fullmatch(
            r"(\s*\{\{\s*)([\w.]+\.(?:status|exit_code)|input\.\w+) (<|>|<=|>=) (\d+)(\s*\}\}\s*)",
            str(case["case"]),
        )
        if found:
            text = f"{found[1]}{found[2]} {found[3]} '{found[4]}'{found[5]}"
            yield Change(_changed(data, (*path, "case"), text), _any_position((*path, "case")))


OPERATORS: Mapping[str, Operator] = {
    operator.__name__: operator
    for operator in (
        rename_target,
        drop_target,
        drop_case,
        swap_cases,
        redirect,
        remove_bound,
        leave_region,
        duplicate_step,
        remove_step,
        mix_work,
        second_default,
        contradict_guard,
        contradict_numbers,
        duplicate_guard,
        behind_default,
        plain_guard,
        remove_as,
        rename_saved,
        rename_read,
        misspell_known,
        misspell_attribute,
        remove_default,
        read_elsewhere,
        read_after_error,
        add_race,
        shadow_input,
        unknown_parameter,
        missing_parameter,
        wrong_type,
        unknown_action,
        quote_template,
        secret_in_log,
        task_circle,
        unknown_task,
        unknown_filter,
        broken_expression,
        misspell_key,
        loop_over_number,
        compare_kinds,
    )
}
