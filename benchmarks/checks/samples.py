"""Sample values for what a plan does not determine: inputs, results of actions, failures.

The templates that use a value determine its samples. A number that is compared with 100 is 99, 100 and 101.
A value that a guard tests is true and false. A list of a loop has some items, or none. Every value has the
type that the templates need, unless it is declared otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

from jinja2 import nodes
from noetl.executor.actions import catalogue
from noetl.planner.catalogue import ActionDeclaration, Kind
from noetl.planner.kinds import is_of_kind
from noetl.planner.plan import Action, Input, Loop, Plan, Step, TaskCall, Work, action_from_json
from noetl.planner.templates.access_paths import child_nodes, find_access_path
from noetl.planner.templates.parser import parse_nodes
from noetl.planner.templates.template import TemplateProblem, has_template, parse_template

MOST_VARIANTS = 6
MOST_BEGINNINGS = 64
ELEMENT = "[]"
"""The part of a path that stands for any item of a list."""

Path = tuple[str, ...]

NUMERIC = frozenset({"int", "float", "round", "abs", "filesizeformat"})
TEXTUAL = frozenset(
    {"upper", "lower", "trim", "title", "capitalize", "replace", "regex_search", "regex_replace", "sha256"}
)
LISTS = frozenset(
    [
        "sum",
        "map",
        "select",
        "reject",
        "selectattr",
        "rejectattr",
        "first",
        "last",
        "join",
        "list",
        "sort",
        "unique",
        "groupby",
        "batch",
        "slice",
        "min",
        "max",
        "reverse",
    ]
)
ATTRIBUTE_FIRST = frozenset({"selectattr", "rejectattr", "groupby"})
READY_MADE: Mapping[str, Any] = {
    "to_datetime": "2026-01-02T03:04:05Z",
    "strftime": "2026-01-02T03:04:05Z",
    "fromjson": '{"a": 1}',
    "b64decode": "YQ==",
}
ENGINE_ERRORS = frozenset(
    {"MaxVisitsExceeded", "GuardError", "RepeatExhausted", "StepInterrupted", "WorkerLost", "Timeout"}
)
"""Failures that actions do not choose."""
FAILURES_OF: Mapping[str, frozenset[str]] = {
    "callback": frozenset({"CallbackExpired"}),
    "http": frozenset({"HTTPStatus"}),
}


@dataclass(slots=True)
class Usage:
    """The uses of a value: constants it is compared with, its kinds, its attributes and its items."""

    constants: list[Any] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)
    parts: dict[str, Usage] = field(default_factory=dict)

    def usage_at(self, path: Iterable[str]) -> Usage:
        usage = self
        for part in path:
            usage = usage.parts.setdefault(part, Usage())
        return usage

    def compare(self, *constants: Any) -> None:
        self.constants += [
            c
            for c in constants
            if not any(c is known or (c == known and type(c) is type(known)) for known in self.constants)
        ]

    def take_over(self, other: Usage) -> bool:
        """Add the uses of another value. Return whether any of them is new."""
        before = (len(self.constants), len(self.wanted), len(self.parts))
        self.compare(*other.constants)
        self.wanted |= other.wanted
        changed = False
        for name, part in list(other.parts.items()):
            changed |= self.parts.setdefault(name, Usage()).take_over(part)
        return changed or before != (len(self.constants), len(self.wanted), len(self.parts))

    def variants(
        self, label: str, kind: Kind | None = None, known: Mapping[str, Kind] | None = None
    ) -> list[Any]:
        """Return the values that the templates distinguish, the simplest first; only of one kind if it is
        given.
        """
        found = _distinct(self._variants(label, known))
        if kind is None or kind is Kind.ANY:
            return found[:MOST_VARIANTS]
        fit = [value for value in found if is_of_kind(value, kind)]
        return (fit or [_of_kind(kind, label)])[:MOST_VARIANTS]

    def _variants(self, label: str, known: Mapping[str, Kind] | None) -> Iterator[Any]:
        parts = {
            name: part
            for name, part in self.parts.items()
            if name != ELEMENT and (known is None or name in known)
        }
        if known or parts:
            yield from self._objects(label, parts, known or {})
            if "truth" in self.wanted or None in self.constants:
                yield None
        elif "list" in self.wanted or ELEMENT in self.parts:
            items = self.parts.get(ELEMENT, Usage()).variants(f"{label} item")
            items = (
                items
                if len(items) > 1
                else [*items, *self.parts.get(ELEMENT, Usage()).variants(f"{label} other item")]
            )
            yield from (items, [], items[:1])
        elif self.constants:
            yield from self._around_constants(label)
        elif "ordered" in self.wanted:
            yield from (7, 0, 99)
        elif "number" in self.wanted:
            yield 7
        elif "ready" in self.wanted:
            yield next(iter(self.wanted & set(READY_MADE.values())))
        elif "truth" in self.wanted:
            yield from (True, False)
        else:
            yield f"{label}'s text"

    def _objects(
        self, label: str, parts: Mapping[str, Usage], known: Mapping[str, Kind]
    ) -> Iterator[dict[str, Any]]:
        choices: dict[str, list[Any]] = {}
        for name in dict.fromkeys((*known, *parts)):
            choices[name] = parts.get(name, Usage()).variants(f"{label}.{name}", known.get(name))
        yield from combinations(choices, MOST_VARIANTS)

    def _around_constants(self, label: str) -> Iterator[Any]:
        for constant in self.constants:
            if isinstance(constant, bool) or constant is None:
                yield from (constant, not constant)
            elif isinstance(constant, int | float):
                yield from (constant, constant - 1, constant + 1)
            else:
                yield constant
        if any(isinstance(constant, str) for constant in self.constants):
            yield f"{label}'s text"
        if None in self.constants and len(self.constants) == 1:
            yield f"{label}'s text"


def combinations(choices: Mapping[str, Sequence[Any]], most: int) -> list[dict[str, Any]]:
    """Return objects with a choice for each key: all of them, or those that differ from the first in one
    key, at most `most`.
    """
    if _product(choices) <= most:
        return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    first = {name: values[0] for name, values in choices.items()}
    return [first, *islice(({**first, n: v} for n, values in choices.items() for v in values[1:]), most - 1)]


def _product(choices: Mapping[str, Sequence[Any]]) -> int:
    found = 1
    for values in choices.values():
        found *= len(values)
    return found


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({repr(value): value for value in values}.values())


def _of_kind(kind: Kind, label: str) -> Any:
    match kind:
        case Kind.INTEGER | Kind.NUMBER | Kind.DURATION:
            return 7
        case Kind.BOOLEAN:
            return True
        case Kind.ARRAY:
            return [f"{label}'s item", f"{label}'s other item"]
        case Kind.OBJECT:
            return {}
        case _:
            return f"{label}'s text"


@dataclass(frozen=True, slots=True)
class Failed:
    """A way in which an action fails."""

    type: str
    status: int | None
    details: Any


class Samples:
    """The sample values of a plan's inputs, results and failures."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.root = Usage()
        self._same: list[tuple[Path, Path]] = []
        self._saved: set[str] = set()
        self._calls: dict[str, list[tuple[TaskCall, _Place]]] = {}
        self._results: dict[str, Path] = {}
        self._collect()
        for _ in range(8):
            if not self._propagate():
                break

    def _propagate(self) -> bool:
        """Pass uses of a name to the values that it is given. Return whether anything changed."""
        is_new = False
        for source, use in self._same:
            if source != use[: len(source)]:
                is_new |= self.root.usage_at(source).take_over(self.root.usage_at(use))
        return is_new

    def beginnings(self, most: int) -> tuple[list[dict[str, Any]], bool]:
        """Return inputs for a run, and whether they are all that the templates distinguish."""
        inputs = self.plan.header.inputs
        choices = {name: self._input(name, declared) for name, declared in inputs.items()}
        return combinations(choices, most), _product(choices) <= most

    def _input(self, name: str, declared: Input) -> list[Any]:
        if declared.enum is not None:
            return list(declared.enum)
        found = self.root.usage_at(("input", name)).variants(f"input {name}", Kind(declared.type))
        return (
            found
            if declared.required or declared.inferred
            else _distinct((declared.default, *found))[:MOST_VARIANTS]
        )

    def results(self, action: Action, path: Path | None) -> list[Any]:
        """Return possible results of an action, the simplest first."""
        usage = Usage() if path is None else self.root.usage_at(path)
        declaration = catalogue()[action.type]
        label = f"{action.type} {'.'.join(path or ())}"
        if (shape := declaration.result_keys(action.parameters)) is not None:
            return usage.variants(label, None, dict(shape))
        if action.type == "wait":
            return [None]
        return usage.variants(label, Kind.ARRAY if "list" in action.parameters else None)

    def failures(self, declaration: ActionDeclaration) -> list[Failed]:
        """Return the failures of an action that templates distinguish."""
        if declaration.type in ("set", "log", "wait"):
            return []
        usage = self.root.usage_at(("error",))
        declared = set().union(*FAILURES_OF.values())
        types = [
            c for c in usage.usage_at(("type",)).constants if isinstance(c, str) and c not in ENGINE_ERRORS
        ]
        types = [c for c in types if c not in declared or c in FAILURES_OF.get(declaration.type, ())]
        details = (
            usage.usage_at(("details",)).variants("details") if usage.usage_at(("details",)).parts else [None]
        )
        found = [Failed(type, None, detail) for type in ("CommandFailed", *types) for detail in details]
        if declaration.type == "http" and usage.usage_at(("status",)).constants:
            statuses = usage.usage_at(("status",)).variants("status")
            found += [
                Failed("HTTPStatus", status, details[0]) for status in statuses if isinstance(status, int)
            ]
        return found[: 2 * MOST_VARIANTS]

    def path_of(self, step: str, work: Work) -> Path | None:
        """Return the path of the result of a piece of work: a name, or the result of a step."""
        if isinstance(work, Action | TaskCall) and work.save_as is not None:
            return ("name", work.save_as) if work.loop is None else ("name", work.save_as, ELEMENT)
        found = self.plan.steps.get(step)
        if found is not None and found.run and found.run[-1] is work:
            return (
                ("result", step, ELEMENT)
                if found.loop is not None or work.loop is not None
                else ("result", step)
            )
        return None

    # What follows goes through the templates of the plan, each with where it stands.

    def _collect(self) -> None:
        header = self.plan.header
        for name, task in self.plan.tasks.items():
            self._calls.setdefault(name, [])
            for work in task.run:
                self._note_saves(work)
        for step in self.plan.steps.values():
            for work in (*step.run, *(w for case in step.cases for w in case.work)):
                self._note_saves(work)
            if step.run and step.loop is None and step.run[-1].save_as is not None:
                self._same.append((("name", step.run[-1].save_as), ("result", step.name)))
        for name, value in header.variables.items():
            self._assigned(("name", name), value, _Place())
        for name, value in header.environment.items():
            self._assigned(("environment", name), value, _Place())
        for step in self.plan.steps.values():
            self._step(step)
        for name, task in self.plan.tasks.items():
            for work in task.run:
                self._work(work, _Place(task=name))
        self._values(header.output, _Place())
        for name, calls in self._calls.items():
            for call, place in calls:
                for argument, value in call.args.items():
                    self._assigned(("args", name, argument), value, place)

    def _note_saves(self, work: Work) -> None:
        if work.save_as is not None:
            self._saved.add(work.save_as)
        if isinstance(work, Action) and work.type == "set" and isinstance(work.parameters.get("set"), dict):
            self._saved.update(work.parameters["set"])

    def _step(self, step: Step) -> None:
        place = _Place(step=step.name)
        inside = self._looped(step.loop, place)
        for work in step.run:
            self._work(work, inside)
        if step.loop is not None:
            self.root.usage_at(("result", step.name)).wanted.add("list")
        if step.retry.condition:
            self._guard(step.retry.condition, place)
        if step.repeat is not None:
            self._guard(step.repeat.until, place)
        for case in step.cases:
            if case.guard is not None:
                self._guard(case.guard, place)
            for work in case.work:
                self._work(work, place)

    def _looped(self, loop: Loop | None, place: _Place) -> _Place:
        if loop is None:
            return place
        self._text(loop.items, place, "list") if isinstance(loop.items, str) else self._values(
            loop.items, place
        )
        source = self._single_path(loop.items, place) if isinstance(loop.items, str) else None
        return place.with_loop_variable(loop.name, None if source is None else (*source, ELEMENT))

    def _work(self, work: Work, place: _Place) -> None:
        inside = self._looped(work.loop, place)
        if work.condition is not None:
            self._guard(work.condition, inside)
        if isinstance(work, TaskCall):
            self._calls.setdefault(work.task, []).append((work, inside))
            self._values(work.args, inside)
            return
        if work.retry.condition:
            self._guard(work.retry.condition, inside)
        if work.type == "set" and isinstance(work.parameters.get("set"), dict):
            for name, value in work.parameters["set"].items():
                self._assigned(("name", name), value, inside)
            return
        declaration = catalogue().get(work.type)
        for name, value in work.parameters.items():
            parameter = declaration.parameters.get(name) if declaration else None
            if isinstance(value, dict) and "action" in value and "parameters" in value:
                self._work(action_from_json(value), inside)
            elif isinstance(value, str) and parameter is not None:
                wanted = {
                    Kind.INTEGER: "number",
                    Kind.NUMBER: "number",
                    Kind.DURATION: "number",
                    Kind.ARRAY: "list",
                    Kind.BOOLEAN: "truth",
                }.get(parameter.kinds[0])
                self._text(value, inside, wanted)
            else:
                self._values(value, inside)

    def _assigned(self, path: Path, value: Any, place: _Place) -> None:
        source = self._single_path(value, place)
        if source is not None:
            self._same.append((source, path))
        self._values(value, place)

    def _values(self, value: Any, place: _Place) -> None:
        if isinstance(value, str):
            self._text(value, place, None)
        elif isinstance(value, Mapping):
            for item in value.values():
                self._values(item, place)
        elif isinstance(value, list):
            for item in value:
                self._values(item, place)

    def _guard(self, text: str, place: _Place) -> None:
        self._text(text, place, "truth")

    def _single_path(self, value: Any, place: _Place) -> Path | None:
        """Return the path that a text consists of, or None."""
        if not isinstance(value, str) or not has_template(value):
            return None
        try:
            if not parse_template(value).is_expression:
                return None
            (node,) = (
                n
                for out in parse_nodes(value)
                for n in child_nodes(out)
                if not isinstance(n, nodes.TemplateData)
            )
        except TemplateProblem:
            return None
        return self._path(_kept_by_filters(node), place)

    def _text(self, text: str, place: _Place, wanted: str | None) -> None:
        if not has_template(text):
            return
        try:
            body = parse_nodes(text)
            is_expression = parse_template(text).is_expression
        except TemplateProblem:
            return
        for node in body:
            self._node(node, place, wanted if is_expression else None)

    def _node(self, node: nodes.Node, place: _Place, wanted: str | None) -> None:
        access = find_access_path(node)
        if access is not None:
            path = self._resolved(access, place)
            if path is not None:
                usage = self.root.usage_at(path)
                if wanted is not None:
                    usage.wanted.add(wanted)
            return
        match node:
            case nodes.Output():
                for child in node.nodes:
                    self._node(child, place, wanted)
            case nodes.And() | nodes.Or():
                self._node(node.left, place, "truth")
                self._node(node.right, place, wanted)
            case nodes.Not():
                self._node(node.node, place, "truth")
            case nodes.CondExpr():
                self._node(node.test, place, "truth")
                self._node(node.expr1, place, wanted)
                if node.expr2 is not None:
                    self._node(node.expr2, place, wanted)
            case nodes.Compare():
                self._comparison(node, place)
            case nodes.Add():
                literal = {type(n.value) for n in (node.left, node.right) if isinstance(n, nodes.Const)}
                is_list = any(isinstance(n, nodes.List) for n in (node.left, node.right))
                kind = "list" if is_list else None if str in literal else "number"
                self._node(node.left, place, kind)
                self._node(node.right, place, kind)
            case nodes.Sub() | nodes.Mul() | nodes.Div() | nodes.FloorDiv() | nodes.Mod() | nodes.Pow():
                self._node(node.left, place, "number")
                self._node(node.right, place, "number")
            case nodes.Filter():
                self._filter(node, place, wanted)
            case nodes.Test():
                self._test(node, place)
            case nodes.For():
                self._node(node.iter, place, "list")
                source = find_access_path(node.iter)
                path = None if source is None else self._resolved(source, place)
                name = node.target.name if isinstance(node.target, nodes.Name) else None
                inner = (
                    place.with_loop_variable(name, None if path is None else (*path, ELEMENT))
                    if name
                    else place
                )
                for child in (*node.body, *node.else_):
                    self._node(child, inner, None)
            case nodes.If():
                self._node(node.test, place, "truth")
                for child in (*node.body, *node.elif_, *node.else_):
                    self._node(child, place, None)
            case nodes.Call() if isinstance(node.node, nodes.Getattr):
                self._node(node.node.node, place, None)
                for child in node.args:
                    self._node(child, place, None)
            case nodes.Getitem() if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, int):
                self._node(node.node, place, "list")
            case _:
                for child in child_nodes(node):
                    self._node(child, place, None)

    def _comparison(self, node: nodes.Compare, place: _Place) -> None:
        left, first = node.expr, node.ops[0]
        right = first.expr
        if first.op in ("in", "notin"):
            self._compared(left, _constants(right), place)
            if not isinstance(right, nodes.List | nodes.Tuple):
                self._node(
                    right,
                    place,
                    None if isinstance(left, nodes.Const) and isinstance(left.value, str) else "list",
                )
            return
        kind = None if first.op in ("eq", "ne") else "number"
        self._compared(left, _constants(right), place, kind)
        self._compared(right, _constants(left), place, kind)
        if kind and not (_constants(left) or _constants(right)):
            self._node(left, place, "ordered")
            self._node(right, place, "ordered")

    def _path(self, node: nodes.Node, place: _Place) -> Path | None:
        access = find_access_path(node)
        return None if access is None else self._resolved(access, place)

    def _compared(
        self, node: nodes.Node, constants: list[Any], place: _Place, kind: str | None = None
    ) -> None:
        path = self._path(node, place)
        if path is not None and constants:
            self.root.usage_at(path).compare(*constants)
        else:
            self._node(node, place, kind)

    def _filter(self, node: nodes.Filter, place: _Place, wanted: str | None) -> None:
        inner = node.node
        if inner is None:
            return
        if node.name in READY_MADE:
            self._node(inner, place, "ready")
            self._node(inner, place, READY_MADE[node.name])
        elif node.name in ("default", "d"):
            self._node(inner, place, wanted)
        elif node.name in NUMERIC:
            self._node(inner, place, "number")
        elif node.name in LISTS or node.name in ("length", "count"):
            is_text = find_access_path(inner) is None and not isinstance(inner, nodes.Filter)
            self._node(inner, place, None if is_text else "list")
            self._attributes(node, place)
        else:
            self._node(inner, place, "text" if node.name in TEXTUAL else None)
        for child in (*node.args, *(pair.value for pair in node.kwargs)):
            self._node(child, place, None)

    def _attributes(self, node: nodes.Filter, place: _Place) -> None:
        """Return the attributes that a filter reads from the items of its list, through filters that keep
        them.
        """
        path = None if node.node is None else self._path(_kept_by_filters(node.node), place)
        if path is None:
            return
        names = [
            p.value.value for p in node.kwargs if p.key == "attribute" and isinstance(p.value, nodes.Const)
        ]
        if node.name in ATTRIBUTE_FIRST and node.args and isinstance(node.args[0], nodes.Const):
            names.append(node.args[0].value)
        for name in names:
            usage = self.root.usage_at((*path, ELEMENT, *str(name).split(".")))
            if node.name == "sum":
                usage.wanted.add("number")
            elif node.name in ATTRIBUTE_FIRST and len(node.args) == 3:
                usage.compare(*_constants(node.args[2]))
            elif node.name in ("selectattr", "rejectattr") and len(node.args) == 1:
                usage.wanted.add("truth")
        if not names and node.name == "sum":
            self.root.usage_at((*path, ELEMENT)).wanted.add("number")

    def _test(self, node: nodes.Test, place: _Place) -> None:
        path = self._path(node.node, place)
        if path is None:
            self._node(node.node, place, None)
        elif node.name == "none":
            self.root.usage_at(path).compare(None)
        elif node.name in ("true", "false"):
            self.root.usage_at(path).compare(True)
        elif node.name in ("eq", "equalto", "==", "gt", "ge", "lt", "le"):
            self.root.usage_at(path).compare(*_constants(node.args[0]))
        else:
            self.root.usage_at(path)

    def _resolved(self, access: Path, place: _Place) -> Path | None:
        """Return the path of a value: an input, a name, the result of a step, the error or an argument.

        Otherwise None.
        """
        if not access:
            return None
        name, rest = access[0], access[1:]
        if name in place.bound:
            source = place.bound[name]
            return None if source is None else (*source, *rest)
        if name == "input":
            return ("input", *rest) if rest else None
        if name == "environment":
            return ("environment", *rest) if rest else None
        if name == "error":
            return ("error", *rest)
        if name == "args" and place.task is not None and rest:
            return ("args", place.task, *rest)
        if name == "result" and rest[:1] == ("data",) and place.step is not None:
            return ("result", place.step, *rest[1:])
        if name == "result" and rest[:1] == ("error",):
            return ("error", *rest[1:])
        if name == "steps" and len(rest) > 1:
            step, attribute, *more = rest
            if attribute == "result":
                return ("result", step, *(more[1:] if more[:1] == ["data"] else more))
            return ("error", *more) if attribute == "error" else None
        if name in self._saved or name in self.plan.header.variables:
            return ("name", *access)
        if name in self.plan.header.inputs:
            return ("input", *access)
        if name in self.plan.header.environment:
            return ("environment", *access)
        return None


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a template, and the values of the loop variables around it."""

    step: str | None = None
    task: str | None = None
    bound: Mapping[str, Path | None] = field(default_factory=dict)

    def with_loop_variable(self, name: str, source: Path | None) -> _Place:
        return _Place(self.step, self.task, {**self.bound, name: source, "loop": None})


ITEM_PRESERVING_FILTERS = frozenset(
    {"selectattr", "rejectattr", "select", "reject", "list", "sort", "unique", "reverse", "default"}
)


def _kept_by_filters(node: nodes.Node) -> nodes.Node:
    """Return the operand of a filter that does not change items, through all such filters."""
    while isinstance(node, nodes.Filter) and node.name in ITEM_PRESERVING_FILTERS and node.node is not None:
        node = node.node
    return node


def _constants(node: nodes.Node) -> list[Any]:
    match node:
        case nodes.Const():
            return [node.value]
        case nodes.List() | nodes.Tuple():
            return [item.value for item in node.items if isinstance(item, nodes.Const)]
        case nodes.Neg() if isinstance(node.node, nodes.Const):
            return [-node.node.value]
        case _:
            return []
