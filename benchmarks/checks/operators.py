"""Mutations: ways in which a valid playbook goes wrong in the hands of those who change it.

An operator takes the data of a playbook and yields every way it can break it, each with the places it broke. `is_outside`
says that what comes out is no playbook by the language's own rules, whatever an execution of it might show.
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
    """A playbook that was changed, and where what is wrong with it stands."""

    data: Data
    where: Where
    is_outside: bool = False


Operator = Callable[[Data, Plan], Iterator[Change]]


def _values(*paths: Path) -> Where:
    return lambda places: (places.value(path) for path in paths)


def _keys(*paths: Path) -> Where:
    return lambda places: (places.key(path) for path in paths)


def _case(path: Path) -> Where:
    """A case: its guard or the key of it."""
    return lambda places: iter((places.key((*path, "case")), places.value((*path, "case"))))


def _names(data: Data, *names: str) -> Where:
    """Where steps have their names."""
    return _values(*(("steps", at, "name") for at, step in enumerate(data["steps"]) if step["name"] in names))


def _is_name(entry: object) -> bool:
    return isinstance(entry, str)


def _word(path: Path, word: str) -> Where:
    return lambda places: places.words(path, word)


def _all(*wheres: Where) -> Where:
    return lambda places: (place for where in wheres for place in where(places))


def _cases(data: Data) -> Iterator[tuple[Path, Data]]:
    for at, step in enumerate(data["steps"]):
        for index, case in enumerate(step.get("rule") or []):
            yield ("steps", at, "rule", index), case


def _targets(data: Data) -> Iterator[tuple[Path, str]]:
    """The names of steps in cases, with their places."""
    steps = {step["name"] for step in data["steps"]}
    for path, case in _cases(data):
        for index, entry in enumerate(case.get("run") or []):
            if isinstance(entry, str) and entry in steps:
                yield (*path, "run", index), entry


def _runs(data: Data) -> Iterator[tuple[Path, list[Any]]]:
    tasks = data.get("tasks") or []
    for at, task in enumerate(tasks) if isinstance(tasks, list) else ():
        yield ("tasks", at, "run"), task["run"]
    for at, step in enumerate(data["steps"]):
        if step.get("run"):
            yield ("steps", at, "run"), step["run"]
        for index, case in enumerate(step.get("rule") or []):
            if case.get("run"):
                yield ("steps", at, "rule", index, "run"), case["run"]


def _actions(data: Data) -> Iterator[tuple[Path, Data]]:
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "action" in entry:
                yield (*path, index), entry


def _saves(data: Data) -> Iterator[tuple[Path, str, bool]]:
    """Where names are saved: the value of an `as`, or with `is_key` a key of `set`."""
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "as" in entry:
                yield (*path, index, "as"), entry["as"], False
            if isinstance(entry, dict) and isinstance(entry.get("set"), dict):
                for name in entry["set"]:
                    yield (*path, index, "set", name), name, True


def _templates(data: Data) -> Iterator[tuple[Path, str]]:
    """Every text with an expression in it."""
    stack: list[tuple[Path, Any]] = [((), data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            stack += [((*path, index), item) for index, item in enumerate(value)]
        elif isinstance(value, str) and "{{" in value:
            yield path, value


def _at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


def _changed(data: Data, path: Path, value: Any) -> Data:
    """The data with another value at a path."""
    copy = deepcopy(data)
    _at(copy, path[:-1])[path[-1]] = value
    return copy


def _without(data: Data, path: Path) -> Data:
    copy = deepcopy(data)
    del _at(copy, path[:-1])[path[-1]]
    return copy


def _renamed(data: Data, path: Path, name: str) -> Data:
    """The data in which the key at a path has another name, in its old place."""
    copy = deepcopy(data)
    owner = _at(copy, path[:-1])
    items = [(name if key == path[-1] else key, value) for key, value in owner.items()]
    owner.clear()
    owner.update(items)
    return copy


def _spelt(word: str) -> str:
    """A slip of the pen: two letters changed over, or one too many."""
    for at in range(len(word) - 1, 1, -1):
        if word[at] != word[at - 1] and not word[at].isdigit() and not word[at - 1].isdigit():
            return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
    return word + "x"


def _reads(text: str) -> Iterator[tuple[int, str]]:
    """The names that the expressions of a text read, with their offsets."""
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
    """The attributes that are read right from a name."""
    for expression in _EXPRESSION.finditer(text):
        for found in re.finditer(rf"(?<![\w.]){re.escape(root)}\.([A-Za-z_]\w*)", expression[1]):
            yield expression.start(1) + found.start(1), found[1]


def _replaced(text: str, at: int, old: str, new: str) -> str:
    return text[:at] + new + text[at + len(old) :]


def _reading(data: Data) -> Iterator[tuple[Path, str]]:
    """Templates of work, rules and results, which have all names."""
    return ((path, text) for path, text in _templates(data) if path[0] in ("steps", "tasks", "output"))


# The graph.


def rename_target(data: Data, plan: Plan) -> Iterator[Change]:
    """A case names a step that is not there."""
    for path, name in _targets(data):
        yield Change(_changed(data, path, _spelt(name)), _values(path), is_outside=True)


def drop_target(data: Data, plan: Plan) -> Iterator[Change]:
    """A case does not lead to one of its steps any more."""
    for path, name in _targets(data):
        yield Change(_without(data, path), _all(_case(path[:-2]), _names(data, name)))


def drop_case(data: Data, plan: Plan) -> Iterator[Change]:
    """A case is gone."""
    for path, case in _cases(data):
        yield Change(_without(data, path), _names(data, *filter(_is_name, case.get("run") or [])))


def swap_cases(data: Data, plan: Plan) -> Iterator[Change]:
    """Two cases stand in the wrong order."""
    for path, _ in _cases(data):
        rule, at = _at(data, path[:-1]), int(path[-1])
        if at + 1 < len(rule):
            rest = [*rule[:at], rule[at + 1], rule[at], *rule[at + 2 :]]
            after = (*path[:-1], at + 1)
            yield Change(_changed(data, path[:-1], rest), _all(_case(path), _case(after)))


def redirect(data: Data, plan: Plan) -> Iterator[Change]:
    """A case leads to another step."""
    names = [step["name"] for step in data["steps"]]
    for path, name in _targets(data):
        other = names[(names.index(name) + 1) % len(names)]
        if other not in _at(data, path[:-1]):
            yield Change(_changed(data, path, other), _all(_values(path), _names(data, name)))


def remove_bound(data: Data, plan: Plan) -> Iterator[Change]:
    """A cycle has no `max_visits` any more."""
    for at, step in enumerate(data["steps"]):
        if (
            "max_visits" in step
            and plan.steps.get(step["name"]) is not None
            and plan.steps[step["name"]].cyclic
        ):
            circle = _circle(plan, step["name"])
            targets = [
                path
                for path, target in _targets(data)
                if target in circle and data["steps"][path[1]]["name"] in circle
            ]
            where = _all(_values(("steps", at, "name"), *targets))
            yield Change(_without(data, ("steps", at, "max_visits")), where, is_outside=True)


def _circle(plan: Plan, step: str) -> set[str]:
    """The steps on a cycle with a step."""
    return {other for other in _behind(plan, step) if step in _behind(plan, other)} | {step}


def _behind(plan: Plan, start: str) -> set[str]:
    """The steps that a branch can go to from a step."""
    found: set[str] = set()
    stack = [start]
    while stack:
        for case in plan.steps[stack.pop()].cases:
            new = set(case.targets) - found
            found |= new
            stack += new
    return found


def leave_region(data: Data, plan: Plan) -> Iterator[Change]:
    """A branch goes back before its fork instead of to the join."""
    names = [step["name"] for step in data["steps"]]
    for path, case in _cases(data):
        fork = data["steps"][path[1]]["name"]
        targets = [entry for entry in case.get("run") or [] if entry in names]
        for target in targets[:1] if len(targets) > 1 else ():
            at = names.index(target)
            joins = plan.steps[target].regions if target in plan.steps else ()
            if not joins or plan.steps[fork].regions == joins:
                continue
            copy = deepcopy(data)
            back = {"case": "{{ step.visit < 2 }}", "run": [fork]}
            copy["steps"][at]["rule"] = [back, *(copy["steps"][at].get("rule") or [])]
            copy["steps"][path[1]].setdefault("max_visits", 3)
            new: Path = ("steps", at, "rule", 0)
            # Where the others come by the fork as well, they wait for each other there.
            is_outside = not any(fork in _behind(plan, other) for other in targets[1:])
            yield Change(copy, _all(_case(new), _values((*new, "run", 0))), is_outside=is_outside)


def duplicate_step(data: Data, plan: Plan) -> Iterator[Change]:
    """Two steps have one name."""
    for at in range(1, len(data["steps"])):
        yield Change(
            _changed(data, ("steps", at, "name"), data["steps"][at - 1]["name"]),
            _values(("steps", at, "name")),
            is_outside=True,
        )


def remove_step(data: Data, plan: Plan) -> Iterator[Change]:
    """A step that a case names is gone."""
    for at, step in enumerate(data["steps"]):
        if len(data["steps"]) < 2 or not any(name == step["name"] for _, name in _targets(data)):
            continue
        copy = _without(data, ("steps", at))
        left = [
            (path[0], int(path[1]) - (int(path[1]) > at), *path[2:])
            for path, name in _targets(data)
            if name == step["name"] and path[1] != at
        ]
        if left:
            yield Change(copy, _values(*left), is_outside=True)


def mix_work(data: Data, plan: Plan) -> Iterator[Change]:
    """A case that leads to steps has work as well."""
    for path, _ in _targets(data):
        copy = deepcopy(data)
        _at(copy, path[:-1]).append({"action": "log", "message": "on the way"})
        yield Change(copy, _case(path[:-2]), is_outside=True)


# Guards.


def second_default(data: Data, plan: Plan) -> Iterator[Change]:
    """`default` stands twice."""
    for path, case in _cases(data):
        if case["case"] == "default":
            copy = deepcopy(data)
            rule = _at(copy, path[:-1])
            rule.append({"case": "default", "run": []})
            yield Change(copy, _case((*path[:-1], len(rule) - 1)), is_outside=True)


def contradict_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """A guard can never be true."""
    for path, case in _cases(data):
        inside = re.fullmatch(r"\s*\{\{(.*)\}\}\s*", str(case["case"]), re.DOTALL)
        if inside:
            guard = inside[1].strip()
            text = f"{{{{ ({guard}) and not ({guard}) }}}}"
            yield Change(_changed(data, (*path, "case"), text), _case(path))


def contradict_numbers(data: Data, plan: Plan) -> Iterator[Change]:
    """A guard asks for more than a number and for less than it."""
    for path, case in _cases(data):
        found = re.fullmatch(r"\s*\{\{\s*([\w.]+) (<|>|<=|>=) (\d+)\s*\}\}\s*", str(case["case"]))
        if found:
            opposite = "<" if ">" in found[2] else ">"
            text = f"{{{{ {found[1]} {found[2]} {found[3]} and {found[1]} {opposite} {found[3]} }}}}"
            yield Change(_changed(data, (*path, "case"), text), _case(path))


def duplicate_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """A guard stands twice; the second case is never taken."""
    for path, case in _cases(data):
        if "{{" in str(case["case"]) or case["case"] == "error":
            copy = deepcopy(data)
            at = int(path[-1]) + 1
            _at(copy, path[:-1]).insert(
                at, {"case": case["case"], "run": [{"action": "log", "message": "again"}]}
            )
            yield Change(copy, _case((*path[:-1], at)))


def behind_default(data: Data, plan: Plan) -> Iterator[Change]:
    """A case stands behind `default`."""
    for path, case in _cases(data):
        if case["case"] == "default":
            copy = deepcopy(data)
            rule = _at(copy, path[:-1])
            rule.append({"case": "{{ step.visit == 1 }}", "run": []})
            yield Change(copy, _case((*path[:-1], len(rule) - 1)))


def plain_guard(data: Data, plan: Plan) -> Iterator[Change]:
    """A guard has lost its braces."""
    for path, case in _cases(data):
        inside = re.fullmatch(r"\s*\{\{(.*)\}\}\s*", str(case["case"]), re.DOTALL)
        if inside and inside[1].strip() not in ("error", "default"):
            yield Change(
                _changed(data, (*path, "case"), inside[1].strip()), _values((*path, "case")), is_outside=True
            )


# Names.


def remove_as(data: Data, plan: Plan) -> Iterator[Change]:
    """A result is not kept any more."""
    for path, _, is_key in _saves(data):
        if not is_key:
            yield Change(_without(data, path), _keys(path[:-1]))


def rename_saved(data: Data, plan: Plan) -> Iterator[Change]:
    """A result is kept under a misspelt name."""
    for path, name, is_key in _saves(data):
        other = _spelt(name)
        if is_key:
            yield Change(_renamed(data, path, other), _keys((*path[:-1], other)))
        else:
            yield Change(_changed(data, path, other), _values(path))


def rename_read(data: Data, plan: Plan) -> Iterator[Change]:
    """A name is misspelt where it is read."""
    for path, text in _reading(data):
        for at, name in _reads(text):
            other = _spelt(name)
            yield Change(_changed(data, path, _replaced(text, at, name, other)), _word(path, other))


def misspell_known(data: Data, plan: Plan) -> Iterator[Change]:
    """An attribute of what everybody knows the shape of is misspelt: an input, an error, a step, a run."""
    for path, text in _templates(data):
        for root in ("input", "environment", "error", "steps", "run", "step", "loop", "args"):
            if root == "input" and "input" not in data:
                continue
            for at, name in _attribute_reads(text, root):
                other = _spelt(name)
                yield Change(
                    _changed(data, path, _replaced(text, at, name, other)),
                    _all(_word(path, other), _word(path, root)),
                )


def misspell_attribute(data: Data, plan: Plan) -> Iterator[Change]:
    """An attribute of a result whose shape its action declares is misspelt."""
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
            for at, attribute in _attribute_reads(text, name):
                other = _spelt(attribute)
                where = _all(_word(path, other), _word(path, name))
                yield Change(_changed(data, path, _replaced(text, at, attribute, other)), where)


def remove_default(data: Data, plan: Plan) -> Iterator[Change]:
    """A name that may have no value is read without `default`."""
    for path, text in _reading(data):
        for found in re.finditer(r"(\w+)\s*\|\s*default\([^()]*\)", text):
            yield Change(
                _changed(data, path, _replaced(text, found.start(), found[0], found[1])),
                _word(path, found[1]),
            )


def read_elsewhere(data: Data, plan: Plan) -> Iterator[Change]:
    """A step reads a name that another one saves, which may come later, on another branch or not at all."""
    saved = list(dict.fromkeys((name, path[1]) for path, name, _ in _saves(data) if path[0] == "steps"))
    for name, owner in saved:
        if data["steps"][owner].get("loop"):
            continue
        for at, step in enumerate(data["steps"]):
            if at != owner and not step.get("loop"):
                copy = deepcopy(data)
                copy["steps"][at]["run"] = [
                    {"action": "log", "message": f"see {{{{ {name} }}}}"},
                    *(step.get("run") or []),
                ]
                yield Change(copy, _word(("steps", at, "run", 0, "message"), name))


def read_after_error(data: Data, plan: Plan) -> Iterator[Change]:
    """A step that follows a failure reads what the failed step would have saved."""
    names = [step["name"] for step in data["steps"]]
    for path, case in _cases(data):
        aware = case["case"] == "error" or re.search(r"\berror\b", str(case["case"]))
        saved = [name for place, name, _ in _saves(data) if place[:3] == (*path[:2], "run")]
        for target in [entry for entry in case.get("run") or [] if entry in names] if aware and saved else ():
            at = names.index(target)
            copy = deepcopy(data)
            text = f"see {{{{ {saved[-1]} }}}}"
            copy["steps"][at]["run"] = [
                {"action": "log", "message": text},
                *(copy["steps"][at].get("run") or []),
            ]
            yield Change(copy, _word(("steps", at, "run", 0, "message"), saved[-1]))


def add_race(data: Data, plan: Plan) -> Iterator[Change]:
    """Two branches of a fork save one name."""
    names = [step["name"] for step in data["steps"]]
    for _, case in _cases(data):
        targets = [names.index(entry) for entry in case.get("run") or [] if entry in names]
        if len(targets) < 2 or data.get("mode") == "sequential":
            continue
        copy = deepcopy(data)
        for at in targets[:2]:
            step = copy["steps"][at]
            step["run"] = [
                *(step.get("run") or []),
                {"action": "set", "set": {"raced": f"by {step['name']}"}},
            ]
        if any(copy["steps"][at].get("loop") for at in targets[:2]):
            continue
        places = [
            ("steps", at, "run", len(copy["steps"][at]["run"]) - 1, "set", "raced") for at in targets[:2]
        ]
        yield Change(copy, _keys(*places))


def shadow_input(data: Data, plan: Plan) -> Iterator[Change]:
    """A result is kept under the name of an input."""
    inputs = list(data.get("input") or {})
    for path, _, is_key in _saves(data):
        for name in inputs[:1]:
            if is_key:
                if name not in _at(data, path[:-1]):
                    yield Change(_renamed(data, path, name), _keys((*path[:-1], name)), is_outside=True)
            else:
                yield Change(_changed(data, path, name), _values(path), is_outside=True)


# Actions and expressions.


def unknown_parameter(data: Data, plan: Plan) -> Iterator[Change]:
    """A parameter is misspelt."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]].parameters
        for name in entry:
            if name in declared:
                other = _spelt(name)
                if other not in declared and other not in entry:
                    yield Change(_renamed(data, (*path, name), other), _keys((*path, other)), is_outside=True)


def missing_parameter(data: Data, plan: Plan) -> Iterator[Change]:
    """A parameter that an action needs is gone."""
    for path, entry in _actions(data):
        declared = catalogue()[entry["action"]]
        for name in entry:
            if (
                name in declared.parameters and declared.parameters[name].required
            ) or name in declared.one_of:
                yield Change(_without(data, (*path, name)), _values((*path, "action")), is_outside=True)


def wrong_type(data: Data, plan: Plan) -> Iterator[Change]:
    """A parameter is of a type that it cannot have."""
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
    """The type of an action is misspelt."""
    for path, entry in _actions(data):
        yield Change(
            _changed(data, (*path, "action"), _spelt(entry["action"])),
            _values((*path, "action")),
            is_outside=True,
        )


def quote_template(data: Data, plan: Plan) -> Iterator[Change]:
    """A template of a statement or a command stands in quotes."""
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
    """A secret is written to the log."""
    for path, _ in _runs(data):
        if path[-2] != "rule" and not _leads_on(path, data):
            copy = deepcopy(data)
            _at(copy, path).insert(0, {"action": "log", "message": "it is {{ secrets.TOKEN }}"})
            yield Change(copy, _word((*path, 0, "message"), "secrets"), is_outside=True)


def _leads_on(path: Path, data: Data) -> bool:
    return any(place[: len(path)] == path for place, _ in _targets(data))


def task_circle(data: Data, plan: Plan) -> Iterator[Change]:
    """A task calls itself."""
    tasks = data.get("tasks")
    for at, task in enumerate(tasks) if isinstance(tasks, list) else ():
        copy = deepcopy(data)
        copy["tasks"][at]["run"].append({"task": task["name"]})
        yield Change(copy, _values(("tasks", at, "name")), is_outside=True)


def unknown_task(data: Data, plan: Plan) -> Iterator[Change]:
    """A call names a task that is not there."""
    for path, run in _runs(data):
        for index, entry in enumerate(run):
            if isinstance(entry, dict) and "task" in entry:
                place = (*path, index, "task")
                yield Change(_changed(data, place, _spelt(entry["task"])), _values(place), is_outside=True)


def unknown_filter(data: Data, plan: Plan) -> Iterator[Change]:
    """A filter is misspelt."""
    for path, text in _templates(data):
        for found in re.finditer(r"\|\s*([a-z_]+)", text):
            other = _spelt(found[1])
            changed = _replaced(text, found.start(1), found[1], other)
            yield Change(_changed(data, path, changed), _word(path, other), is_outside=True)


def broken_expression(data: Data, plan: Plan) -> Iterator[Change]:
    """A bracket too many in an expression."""
    for path, text in _templates(data):
        at = text.find("}}")
        line = _changed(data, path, f"{text[:at]}) {text[at:]}")
        yield Change(line, _within(path), is_outside=True)


def _within(path: Path) -> Where:
    """Anywhere in a text."""

    def where(places: Places) -> Iterator[Place]:
        line, column = places.value(path)
        yield from ((line, at) for at in range(column, len(places.lines[line - 1]) + 2))

    return where


def misspell_key(data: Data, plan: Plan) -> Iterator[Change]:
    """A key of a step is misspelt."""
    for at, step in enumerate(data["steps"]):
        for key in step:
            if key != "name":
                other = _spelt(key)
                yield Change(
                    _renamed(data, ("steps", at, key), other), _keys(("steps", at, other)), is_outside=True
                )


def loop_over_number(data: Data, plan: Plan) -> Iterator[Change]:
    """A loop goes over what is no list."""
    shaped = [
        entry["as"]
        for _, entry in _actions(data)
        if entry["action"] == "http" and "as" in entry and "loop" not in entry
    ]
    for path, text in _reading(data):
        if path[-2:] == ("loop", "items"):
            whole = re.fullmatch(r"\{\{ (\w+)\.body[\w.]* \}\}", text)
            if whole and whole[1] in shaped:
                yield Change(
                    _changed(data, path, f"{{{{ {whole[1]}.status }}}}"), _all(_values(path), _within(path))
                )
            if text.startswith("{{ input.") and (
                numbers := [
                    n
                    for n, t in (data.get("input") or {}).items()
                    if "integer" in (t, isinstance(t, dict) and t.get("type"))
                ]
            ):
                yield Change(
                    _changed(data, path, f"{{{{ input.{numbers[0]} }}}}"), _all(_values(path), _within(path))
                )


def compare_kinds(data: Data, plan: Plan) -> Iterator[Change]:
    """A number is compared with a text for order."""
    for path, case in _cases(data):
        found = re.fullmatch(
            r"(\s*\{\{\s*)([\w.]+\.(?:status|exit_code)|input\.\w+) (<|>|<=|>=) (\d+)(\s*\}\}\s*)",
            str(case["case"]),
        )
        if found:
            text = f"{found[1]}{found[2]} {found[3]} '{found[4]}'{found[5]}"
            yield Change(_changed(data, (*path, "case"), text), _within((*path, "case")))


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
