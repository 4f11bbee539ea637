"""Mutation operators: the mistakes that authors make when they change a valid playbook.

An operator takes the data of a playbook and yields every mutant, each with the places of its fault.
`is_outside` is true if the language does not allow the mutant, whatever an execution shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from benchmarks.checks.places import Path, Place, Places
from noetl.executor.actions import catalogue
from noetl.planner.catalogue import Kind, Sink
from noetl.planner.plan import Plan

Data = dict[str, Any]
Locator = Callable[[Places], Iterator[Place]]

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
    """A changed playbook, and a function that locates its fault."""

    data: Data
    locate: Locator
    is_outside: bool = False


Operator = Callable[[Data, Plan], Iterator[Change]]


def _values(*paths: Path) -> Locator:
    return lambda places: (places.value(path) for path in paths)


def _keys(*paths: Path) -> Locator:
    return lambda places: (places.key(path) for path in paths)


def _case_places(path: Path) -> Locator:
    """Return a locator of the guard of a case, or of its key."""
    return lambda places: iter((places.key((*path, "case")), places.value((*path, "case"))))


def _step_names(data: Data, *names: str) -> Locator:
    """Return a locator of the names of steps."""
    return _values(
        *(("steps", index, "name") for index, step in enumerate(data["steps"]) if step["name"] in names)
    )


def _is_name(entry: object) -> bool:
    return isinstance(entry, str)


def _words(path: Path, word: str) -> Locator:
    return lambda places: places.words(path, word)


def _any_of(*locators: Locator) -> Locator:
    return lambda places: (place for locate in locators for place in locate(places))


def _cases(data: Data) -> Iterator[tuple[Path, Data]]:
    for index, step in enumerate(data["steps"]):
        for case_index, case in enumerate(step.get("rule") or []):
            yield ("steps", index, "rule", case_index), case


def _targets(data: Data) -> Iterator[tuple[Path, str]]:
    """Yield the targets of cases, with their paths."""
    steps = {step["name"] for step in data["steps"]}
    for path, case in _cases(data):
        for index, entry in enumerate(case.get("run") or []):
            if isinstance(entry, str) and entry in steps:
                yield (*path, "run", index), entry


def _runs(data: Data) -> Iterator[tuple[Path, list[Any]]]:
    tasks = data.get("tasks") or []
    for index, task in enumerate(tasks) if isinstance(tasks, list) else ():
        yield ("tasks", index, "run"), task["run"]
    for index, step in enumerate(data["steps"]):
        if step.get("run"):
            yield ("steps", index, "run"), step["run"]
        for case_index, case in enumerate(step.get("rule") or []):
            if case.get("run"):
                yield ("steps", index, "rule", case_index, "run"), case["run"]


def _actions(data: Data) -> Iterator[tuple[Path, Data]]:
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "action" in entry:
                yield (*path, index), entry


def _definitions(data: Data) -> Iterator[tuple[Path, str, bool]]:
    """Yield the saved names: the value of an `as`, or a key of `set`.

    The result is the path, the name, and whether it is a key.
    """
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "as" in entry:
                yield (*path, index, "as"), entry["as"], False
            if isinstance(entry, dict) and isinstance(entry.get("set"), dict):
                for name in entry["set"]:
                    yield (*path, index, "set", name), name, True


def _templates(data: Data) -> Iterator[tuple[Path, str]]:
    """Yield every text with an expression, with its path."""
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


def _with_value(data: Data, path: Path, value: Any) -> Data:
    """Return the data with another value at a path."""
    copy = deepcopy(data)
    _value_at(copy, path[:-1])[path[-1]] = value
    return copy


def _with_removed(data: Data, path: Path) -> Data:
    copy = deepcopy(data)
    del _value_at(copy, path[:-1])[path[-1]]
    return copy


def _with_key_renamed(data: Data, path: Path, name: str) -> Data:
    """Return the data in which the key at a path has another name. The order of keys is the same."""
    copy = deepcopy(data)
    owner = _value_at(copy, path[:-1])
    items = [(name if key == path[-1] else key, value) for key, value in owner.items()]
    owner.clear()
    owner.update(items)
    return copy


def _misspell(word: str) -> str:
    """Swap two letters of a word, or add one."""
    for index in range(len(word) - 1, 1, -1):
        if word[index] != word[index - 1] and not word[index].isdigit() and not word[index - 1].isdigit():
            return word[: index - 1] + word[index] + word[index - 1] + word[index + 1 :]
    return word + "x"


def _reads(text: str) -> Iterator[tuple[int, str]]:
    """Yield the names that the expressions of a text read, with their offsets."""
    for expression in _EXPRESSION.finditer(text):
        source = _STRING.sub(lambda match: " " * len(match[0]), expression[1])
        for match in re.finditer(r"(?<![\w.|])(?<!\| )([A-Za-z_]\w*)(?!\w|\s*\()", source):
            before = source[: match.start()].rstrip()
            if (
                match[1] not in _WORDS
                and not before.endswith(("|", " is", "."))
                and not re.match(r"\s*=[^=]", source[match.end() :])
            ):
                yield expression.start(1) + match.start(), match[1]


def _attribute_reads(text: str, root: str) -> Iterator[tuple[int, str]]:
    """Yield the attributes of `root` that a text reads, with their offsets."""
    for expression in _EXPRESSION.finditer(text):
        for match in re.finditer(rf"(?<![\w.]){re.escape(root)}\.([A-Za-z_]\w*)", expression[1]):
            yield expression.start(1) + match.start(1), match[1]


def _replace_at(text: str, offset: int, old: str, new: str) -> str:
    return text[:offset] + new + text[offset + len(old) :]


def _templates_with_names(data: Data) -> Iterator[tuple[Path, str]]:
    """Yield the templates of work, rules and results. They may read saved names."""
    return ((path, text) for path, text in _templates(data) if path[0] in ("steps", "tasks", "output"))


# The graph.


def rename_target(data: Data, plan: Plan) -> Iterator[Change]:
    """Name a missing step in a case."""
    for path, name in _targets(data):
        yield Change(_with_value(data, path, _misspell(name)), _values(path), is_outside=True)


def drop_target(data: Data, plan: Plan) -> Iterator[Change]:
    """Drop a target of a case."""
    for path, name in _targets(data):
        yield Change(_with_removed(data, path), _any_of(_case_places(path[:-2]), _step_names(data, name)))


def drop_case(data: Data, plan: Plan) -> Iterator[Change]:
    """Drop a case."""
    for path, case in _cases(data):
        yield Change(_with_removed(data, path), _step_names(data, *filter(_is_name, case.get("run") or [])))


def swap_cases(data: Data, plan: Plan) -> Iterator[Change]:
    """Swap two consecutive cases."""
    for path, _ in _cases(data):
        rule, index = _value_at(data, path[:-1]), int(path[-1])
        if index + 1 < len(rule):
            rest = [*rule[:index], rule[index + 1], rule[index], *rule[index + 2 :]]
            after = (*path[:-1], index + 1)
            yield Change(_with_value(data, path[:-1], rest), _any_of(_case_places(path), _case_places(after)))


def redirect(data: Data, plan: Plan) -> Iterator[Change]:
    """Replace a target of a case by another step."""
    names = [step["name"] for step in data["steps"]]
    for path, name in _targets(data):
        other = names[(names.index(name) + 1) % len(names)]
        if other not in _value_at(data, path[:-1]):
            yield Change(_with_value(data, path, other), _any_of(_values(path), _step_names(data, name)))


def remove_bound(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove `max_visits` of a step on a cycle."""
    for index, step in enumerate(data["steps"]):
        if (
            "max_visits" in step
            and plan.steps.get(step["name"]) is not None
            and plan.steps[step["name"]].cyclic
        ):
            circle = _steps_on_cycle(plan, step["name"])
            targets = [
                path
                for path, target in _targets(data)
                if target in circle and data["steps"][path[1]]["name"] in circle
            ]
            locate = _any_of(_values(("steps", index, "name"), *targets))
            yield Change(_with_removed(data, ("steps", index, "max_visits")), locate, is_outside=True)


def _steps_on_cycle(plan: Plan, step: str) -> set[str]:
    """Return the steps that are on a cycle with a step."""
    return {other for other in _reachable_steps(plan, step) if step in _reachable_steps(plan, other)} | {step}


def _reachable_steps(plan: Plan, start: str) -> set[str]:
    """Return the steps that a branch can reach from a step."""
    reachable: set[str] = set()
    stack = [start]
    while stack:
        for case in plan.steps[stack.pop()].cases:
            new = set(case.targets) - reachable
            reachable |= new
            stack += new
    return reachable


def leave_region(data: Data, plan: Plan) -> Iterator[Change]:
    """Add an edge from a branch back to its fork."""
    names = [step["name"] for step in data["steps"]]
    for path, case in _cases(data):
        fork = data["steps"][path[1]]["name"]
        targets = [entry for entry in case.get("run") or [] if entry in names]
        for target in targets[:1] if len(targets) > 1 else ():
            index = names.index(target)
            joins = plan.steps[target].regions if target in plan.steps else ()
            if not joins or plan.steps[fork].regions == joins:
                continue
            copy = deepcopy(data)
            back_edge = {"case": "{{ step.visit < 2 }}", "run": [fork]}
            copy["steps"][index]["rule"] = [back_edge, *(copy["steps"][index].get("rule") or [])]
            copy["steps"][path[1]].setdefault("max_visits", 3)
            new: Path = ("steps", index, "rule", 0)
            # If the other branches also reach the fork, it joins them.
            is_outside = not any(fork in _reachable_steps(plan, other) for other in targets[1:])
            yield Change(copy, _any_of(_case_places(new), _values((*new, "run", 0))), is_outside=is_outside)


def duplicate_step(data: Data, plan: Plan) -> Iterator[Change]:
    """Give two steps one name."""
    for index in range(1, len(data["steps"])):
        yield Change(
            _with_value(data, ("steps", index, "name"), data["steps"][index - 1]["name"]),
            _values(("steps", index, "name")),
            is_outside=True,
        )


def remove_step(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove a step that a case names."""
    for index, step in enumerate(data["steps"]):
        if len(data["steps"]) < 2 or not any(name == step["name"] for _, name in _targets(data)):
            continue
        copy = _with_removed(data, ("steps", index))
        left = [
            (path[0], int(path[1]) - (int(path[1]) > index), *path[2:])
            for path, name in _targets(data)
            if name == step["name"] and path[1] != index
        ]
        if left:
            yield Change(copy, _values(*left), is_outside=True)


def mix_work(data: Data, plan: Plan) -> Iterator[Change]:
    """Add work to a case that leads to steps."""
    for path, _ in _targets(data):
        copy = deepcopy(data)
        _value_at(copy, path[:-1]).append({"action": "log", "message": "on the way"})
        yield Change(copy, _case_places(path[:-2]), is_outside=True)


# Guards.


def second_default(data: Data, plan: Plan) -> Iterator[Change]:
    """Add a second `default` case."""
    for path, case in _cases(data):
        if case["case"] == "default":
            copy = deepcopy(data)
            rule = _value_at(copy, path[:-1])
            rule.append({"case": "default", "run": []})
            yield Change(copy, _case_places((*path[:-1], len(rule) - 1)), is_outside=True)


def contradict_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """Make a guard contradict itself."""
    for path, case in _cases(data):
        inside = re.fullmatch(r"\s*\{\{(.*)\}\}\s*", str(case["case"]), re.DOTALL)
        if inside:
            guard = inside[1].strip()
            text = f"{{{{ ({guard}) and not ({guard}) }}}}"
            yield Change(_with_value(data, (*path, "case"), text), _case_places(path))


def contradict_numbers(data: Data, plan: Plan) -> Iterator[Change]:
    """Make a guard compare with a number in both directions."""
    for path, case in _cases(data):
        match = re.fullmatch(r"\s*\{\{\s*([\w.]+) (<|>|<=|>=) (\d+)\s*\}\}\s*", str(case["case"]))
        if match:
            opposite = "<" if ">" in match[2] else ">"
            text = f"{{{{ {match[1]} {match[2]} {match[3]} and {match[1]} {opposite} {match[3]} }}}}"
            yield Change(_with_value(data, (*path, "case"), text), _case_places(path))


def duplicate_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """Duplicate a guard, so that its second case is dead."""
    for path, case in _cases(data):
        if "{{" in str(case["case"]) or case["case"] == "error":
            copy = deepcopy(data)
            index = int(path[-1]) + 1
            _value_at(copy, path[:-1]).insert(
                index, {"case": case["case"], "run": [{"action": "log", "message": "again"}]}
            )
            yield Change(copy, _case_places((*path[:-1], index)))


def add_case_after_default(data: Data, plan: Plan) -> Iterator[Change]:
    """Add a case after `default`."""
    for path, case in _cases(data):
        if case["case"] == "default":
            copy = deepcopy(data)
            rule = _value_at(copy, path[:-1])
            rule.append({"case": "{{ step.visit == 1 }}", "run": []})
            yield Change(copy, _case_places((*path[:-1], len(rule) - 1)))


def plain_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove the braces of a guard."""
    for path, case in _cases(data):
        inside = re.fullmatch(r"\s*\{\{(.*)\}\}\s*", str(case["case"]), re.DOTALL)
        if inside and inside[1].strip() not in ("error", "default"):
            yield Change(
                _with_value(data, (*path, "case"), inside[1].strip()),
                _values((*path, "case")),
                is_outside=True,
            )


# Names.


def remove_as(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove the `as` of an action."""
    for path, _, is_key in _definitions(data):
        if not is_key:
            yield Change(_with_removed(data, path), _keys(path[:-1]))


def rename_saved(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a saved name."""
    for path, name, is_key in _definitions(data):
        other = _misspell(name)
        if is_key:
            yield Change(_with_key_renamed(data, path, other), _keys((*path[:-1], other)))
        else:
            yield Change(_with_value(data, path, other), _values(path))


def rename_read(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a name that a template reads."""
    for path, text in _templates_with_names(data):
        for offset, name in _reads(text):
            other = _misspell(name)
            yield Change(_with_value(data, path, _replace_at(text, offset, name, other)), _words(path, other))


def misspell_known(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell an attribute of a built-in name such as `input`, `error`, `steps` or `run`."""
    for path, text in _templates(data):
        for root in ("input", "environment", "error", "steps", "run", "step", "loop", "args"):
            if root == "input" and "input" not in data:
                continue
            for offset, name in _attribute_reads(text, root):
                other = _misspell(name)
                yield Change(
                    _with_value(data, path, _replace_at(text, offset, name, other)),
                    _any_of(_words(path, other), _words(path, root)),
                )


def misspell_attribute(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell an attribute of a result whose shape the action declares."""
    shaped = {
        entry["as"]: entry["action"]
        for _, entry in _actions(data)
        if "as" in entry
        and "loop" not in entry
        and (declared := catalogue().get(entry["action"]))
        and declared.result
    }
    for path, text in _templates_with_names(data):
        for name in shaped:
            for offset, attribute in _attribute_reads(text, name):
                other = _misspell(attribute)
                locate = _any_of(_words(path, other), _words(path, name))
                yield Change(_with_value(data, path, _replace_at(text, offset, attribute, other)), locate)


def remove_default(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove the `default` filter of a name that may be unassigned."""
    for path, text in _templates_with_names(data):
        for match in re.finditer(r"(\w+)\s*\|\s*default\([^()]*\)", text):
            yield Change(
                _with_value(data, path, _replace_at(text, match.start(), match[0], match[1])),
                _words(path, match[1]),
            )


def read_elsewhere(data: Data, plan: Plan) -> Iterator[Change]:
    """Read a name that another step saves, whether it is visited before or not."""
    saved = list(dict.fromkeys((name, path[1]) for path, name, _ in _definitions(data) if path[0] == "steps"))
    for name, owner in saved:
        if data["steps"][owner].get("loop"):
            continue
        for index, step in enumerate(data["steps"]):
            if index != owner and not step.get("loop"):
                copy = deepcopy(data)
                copy["steps"][index]["run"] = [
                    {"action": "log", "message": f"see {{{{ {name} }}}}"},
                    *(step.get("run") or []),
                ]
                yield Change(copy, _words(("steps", index, "run", 0, "message"), name))


def read_after_error(data: Data, plan: Plan) -> Iterator[Change]:
    """Read a name of a failed step in the step that handles the failure."""
    names = [step["name"] for step in data["steps"]]
    for path, case in _cases(data):
        aware = case["case"] == "error" or re.search(r"\berror\b", str(case["case"]))
        saved = [name for place, name, _ in _definitions(data) if place[:3] == (*path[:2], "run")]
        for target in [entry for entry in case.get("run") or [] if entry in names] if aware and saved else ():
            index = names.index(target)
            copy = deepcopy(data)
            text = f"see {{{{ {saved[-1]} }}}}"
            copy["steps"][index]["run"] = [
                {"action": "log", "message": text},
                *(copy["steps"][index].get("run") or []),
            ]
            yield Change(copy, _words(("steps", index, "run", 0, "message"), saved[-1]))


def add_race(data: Data, plan: Plan) -> Iterator[Change]:
    """Save one name in two branches of a fork."""
    names = [step["name"] for step in data["steps"]]
    for _, case in _cases(data):
        targets = [names.index(entry) for entry in case.get("run") or [] if entry in names]
        if len(targets) < 2 or data.get("mode") == "sequential":
            continue
        copy = deepcopy(data)
        for index in targets[:2]:
            step = copy["steps"][index]
            step["run"] = [
                *(step.get("run") or []),
                {"action": "set", "set": {"raced": f"by {step['name']}"}},
            ]
        if any(copy["steps"][index].get("loop") for index in targets[:2]):
            continue
        places = [
            ("steps", index, "run", len(copy["steps"][index]["run"]) - 1, "set", "raced")
            for index in targets[:2]
        ]
        yield Change(copy, _keys(*places))


def shadow_input(data: Data, plan: Plan) -> Iterator[Change]:
    """Save a result under the name of an input."""
    inputs = list(data.get("input") or {})
    for path, _, is_key in _definitions(data):
        for name in inputs[:1]:
            if is_key:
                if name not in _value_at(data, path[:-1]):
                    yield Change(
                        _with_key_renamed(data, path, name), _keys((*path[:-1], name)), is_outside=True
                    )
            else:
                yield Change(_with_value(data, path, name), _values(path), is_outside=True)


# Actions and expressions.


def unknown_parameter(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a parameter."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]].parameters
        for name in entry:
            if name in declared:
                other = _misspell(name)
                if other not in declared and other not in entry:
                    yield Change(
                        _with_key_renamed(data, (*path, name), other), _keys((*path, other)), is_outside=True
                    )


def missing_parameter(data: Data, plan: Plan) -> Iterator[Change]:
    """Remove a required parameter."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]]
        for name in entry:
            if (
                name in declared.parameters and declared.parameters[name].required
            ) or name in declared.one_of:
                yield Change(_with_removed(data, (*path, name)), _values((*path, "action")), is_outside=True)


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
                (value for kind, value in reversed(wrong.items()) if not _accepts_kind(kind, kinds)), None
            )
            if value is not None:
                place = (*path, name, "wrong") if isinstance(value, dict) else (*path, name)
                locate = _keys(place) if isinstance(value, dict) else _values(place)
                yield Change(_with_value(data, (*path, name), value), locate, is_outside=True)


def _accepts_kind(kind: Kind, kinds: tuple[Kind, ...]) -> bool:
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
            _with_value(data, (*path, "action"), _misspell(entry["action"])),
            _values((*path, "action")),
            is_outside=True,
        )


def quote_template(data: Data, plan: Plan) -> Iterator[Change]:
    """Put quotes around a template of a statement or a command."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]].parameters
        for name, value in entry.items():
            if name in declared and declared[name].sink in (Sink.SQL, Sink.SHELL) and isinstance(value, str):
                for match in _EXPRESSION.finditer(value):
                    if (
                        "identifier" in match[0]
                        or value[: match.start()].count("'") % 2
                        or value[: match.start()].count('"') % 2
                    ):
                        continue
                    quoted = _replace_at(value, match.start(), match[0], f"'{match[0]}'")
                    locate = _braces((*path, name), value[: match.start()].count("{{"))
                    yield Change(_with_value(data, (*path, name), quoted), locate, is_outside=True)


def _braces(path: Path, number: int) -> Locator:
    def locate(places: Places) -> Iterator[Place]:
        first, column = places.value(path)
        # A long text continues on the next lines.
        starts = [
            (line, match.start() + 1)
            for line, text in enumerate(places.lines[first - 1 :], first)
            for match in re.finditer(r"\{\{", text)
            if line > first or match.start() >= column - 1
        ]
        yield starts[number]

    return locate


def secret_in_log(data: Data, plan: Plan) -> Iterator[Change]:
    """Write a secret to the log."""
    for path, _ in _runs(data):
        if path[-2] != "rule" and not _has_target(path, data):
            copy = deepcopy(data)
            _value_at(copy, path).insert(0, {"action": "log", "message": "it is {{ secrets.TOKEN }}"})
            yield Change(copy, _words((*path, 0, "message"), "secrets"), is_outside=True)


def _has_target(path: Path, data: Data) -> bool:
    return any(place[: len(path)] == path for place, _ in _targets(data))


def task_circle(data: Data, plan: Plan) -> Iterator[Change]:
    """Make a task call itself."""
    tasks = data.get("tasks")
    for index, task in enumerate(tasks) if isinstance(tasks, list) else ():
        copy = deepcopy(data)
        copy["tasks"][index]["run"].append({"task": task["name"]})
        yield Change(copy, _values(("tasks", index, "name")), is_outside=True)


def unknown_task(data: Data, plan: Plan) -> Iterator[Change]:
    """Name a missing task in a call."""
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "task" in entry:
                place = (*path, index, "task")
                yield Change(
                    _with_value(data, place, _misspell(entry["task"])), _values(place), is_outside=True
                )


def unknown_filter(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a filter."""
    for path, text in _templates(data):
        for match in re.finditer(r"\|\s*([a-z_]+)", text):
            other = _misspell(match[1])
            changed = _replace_at(text, match.start(1), match[1], other)
            yield Change(_with_value(data, path, changed), _words(path, other), is_outside=True)


def broken_expression(data: Data, plan: Plan) -> Iterator[Change]:
    """Add a bracket to an expression."""
    for path, text in _templates(data):
        offset = text.find("}}")
        changed = _with_value(data, path, f"{text[:offset]}) {text[offset:]}")
        yield Change(changed, _anywhere_in(path), is_outside=True)


def _anywhere_in(path: Path) -> Locator:
    """Return a locator of all columns of a text."""

    def locate(places: Places) -> Iterator[Place]:
        line, column = places.value(path)
        yield from ((line, number) for number in range(column, len(places.lines[line - 1]) + 2))

    return locate


def misspell_key(data: Data, plan: Plan) -> Iterator[Change]:
    """Misspell a key of a step."""
    for index, step in enumerate(data["steps"]):
        for key in step:
            if key != "name":
                other = _misspell(key)
                yield Change(
                    _with_key_renamed(data, ("steps", index, key), other),
                    _keys(("steps", index, other)),
                    is_outside=True,
                )


def loop_over_number(data: Data, plan: Plan) -> Iterator[Change]:
    """Make a loop iterate over a number."""
    shaped = [
        entry["as"]
        for _, entry in _actions(data)
        if entry["action"] == "http" and "as" in entry and "loop" not in entry
    ]
    for path, text in _templates_with_names(data):
        if path[-2:] == ("loop", "items"):
            match = re.fullmatch(r"\{\{ (\w+)\.body[\w.]* \}\}", text)
            if match and match[1] in shaped:
                yield Change(
                    _with_value(data, path, f"{{{{ {match[1]}.status }}}}"),
                    _any_of(_values(path), _anywhere_in(path)),
                )
            if text.startswith("{{ input.") and (
                numbers := [
                    n
                    for n, t in (data.get("input") or {}).items()
                    if "integer" in (t, isinstance(t, dict) and t.get("type"))
                ]
            ):
                yield Change(
                    _with_value(data, path, f"{{{{ input.{numbers[0]} }}}}"),
                    _any_of(_values(path), _anywhere_in(path)),
                )


def compare_kinds(data: Data, plan: Plan) -> Iterator[Change]:
    """Compare a number with a text by order."""
    for path, case in _cases(data):
        match = re.fullmatch(
            r"(\s*\{\{\s*)([\w.]+\.(?:status|exit_code)|input\.\w+) (<|>|<=|>=) (\d+)(\s*\}\}\s*)",
            str(case["case"]),
        )
        if match:
            text = f"{match[1]}{match[2]} {match[3]} '{match[4]}'{match[5]}"
            yield Change(_with_value(data, (*path, "case"), text), _anywhere_in((*path, "case")))


OPERATORS: Mapping[str, Operator] = {
    "rename_target": rename_target,
    "drop_target": drop_target,
    "drop_case": drop_case,
    "swap_cases": swap_cases,
    "redirect": redirect,
    "remove_bound": remove_bound,
    "leave_region": leave_region,
    "duplicate_step": duplicate_step,
    "remove_step": remove_step,
    "mix_work": mix_work,
    "second_default": second_default,
    "contradict_guard": contradict_guard,
    "contradict_numbers": contradict_numbers,
    "duplicate_guard": duplicate_guard,
    "behind_default": add_case_after_default,
    "plain_guard": plain_guard,
    "remove_as": remove_as,
    "rename_saved": rename_saved,
    "rename_read": rename_read,
    "misspell_known": misspell_known,
    "misspell_attribute": misspell_attribute,
    "remove_default": remove_default,
    "read_elsewhere": read_elsewhere,
    "read_after_error": read_after_error,
    "add_race": add_race,
    "shadow_input": shadow_input,
    "unknown_parameter": unknown_parameter,
    "missing_parameter": missing_parameter,
    "wrong_type": wrong_type,
    "unknown_action": unknown_action,
    "quote_template": quote_template,
    "secret_in_log": secret_in_log,
    "task_circle": task_circle,
    "unknown_task": unknown_task,
    "unknown_filter": unknown_filter,
    "broken_expression": broken_expression,
    "misspell_key": misspell_key,
    "loop_over_number": loop_over_number,
    "compare_kinds": compare_kinds,
}
"""The operators by the names that the results contain. Mutants are drawn with these names as seeds."""
