"""Sample values of inputs, results of actions and failures, derived from the templates of a plan.

Problem: choose few values that make every guard true and false.

Algorithm: boundary value analysis (Myers 1979). A name that is compared with 100 is 99, 100 and 101. The
operand of a truth test is true and false. A list that a loop iterates over has items or is empty. Usages are
propagated backwards over assignments, because a value is used like the names it is assigned to.

Cost: one pass over the templates, and up to eight passes over the assignments.

Limits: at most `MAX_VARIANTS` values for a name and `MAX_INPUTS` inputs for a run. A value has the shape
that templates read, unless its declaration has another shape.
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

MAX_VARIANTS = 6
MAX_INPUTS = 64
ELEMENT = "[]"
"""The part of a path that is any item of a list."""

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
VALID_TEXTS: Mapping[str, Any] = {
    "to_datetime": "2026-01-02T03:04:05Z",
    "strftime": "2026-01-02T03:04:05Z",
    "fromjson": '{"a": 1}',
    "b64decode": "YQ==",
}
ENGINE_ERRORS = frozenset(
    {"MaxVisitsExceeded", "GuardError", "RepeatExhausted", "StepInterrupted", "WorkerLost", "Timeout"}
)
"""Types of failures that the engine causes, not an action."""
FAILURE_TYPES_OF_ACTIONS: Mapping[str, frozenset[str]] = {
    "callback": frozenset({"CallbackExpired"}),
    "http": frozenset({"HTTPStatus"}),
}


@dataclass(slots=True)
class ValueUsage:
    """The usage of a value: the constants it is compared with, the kinds it must have, and its parts."""

    constants: list[Any] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    parts: dict[str, ValueUsage] = field(default_factory=dict)

    def descend(self, path: Iterable[str]) -> ValueUsage:
        usage = self
        for part in path:
            usage = usage.parts.setdefault(part, ValueUsage())
        return usage

    def compare(self, *constants: Any) -> None:
        self.constants += [
            c
            for c in constants
            if not any(c is known or (c == known and type(c) is type(known)) for known in self.constants)
        ]

    def merge(self, other: ValueUsage) -> bool:
        """Add another usage. Return whether this usage has changed."""
        before = (len(self.constants), len(self.kinds), len(self.parts))
        self.compare(*other.constants)
        self.kinds |= other.kinds
        changed = False
        for name, part in list(other.parts.items()):
            changed |= self.parts.setdefault(name, ValueUsage()).merge(part)
        return changed or before != (len(self.constants), len(self.kinds), len(self.parts))

    def variants(
        self, label: str, kind: Kind | None = None, known: Mapping[str, Kind] | None = None
    ) -> list[Any]:
        """Return values that the templates distinguish, the simplest first. A given `kind` restricts them."""
        variants = _distinct(self._variants(label, known))
        if kind is None or kind is Kind.ANY:
            return variants[:MAX_VARIANTS]
        fit = [value for value in variants if is_of_kind(value, kind)]
        return (fit or [_of_kind(kind, label)])[:MAX_VARIANTS]

    def _variants(self, label: str, known: Mapping[str, Kind] | None) -> Iterator[Any]:
        parts = {
            name: part
            for name, part in self.parts.items()
            if name != ELEMENT and (known is None or name in known)
        }
        if known or parts:
            yield from self._objects(label, parts, known or {})
            if "truth" in self.kinds or None in self.constants:
                yield None
        elif "list" in self.kinds or ELEMENT in self.parts:
            items = self.parts.get(ELEMENT, ValueUsage()).variants(f"{label} item")
            items = (
                items
                if len(items) > 1
                else [*items, *self.parts.get(ELEMENT, ValueUsage()).variants(f"{label} other item")]
            )
            yield from (items, [], items[:1])
        elif self.constants:
            yield from self._around_constants(label)
        elif "ordered" in self.kinds:
            yield from (7, 0, 99)
        elif "number" in self.kinds:
            yield 7
        elif "ready" in self.kinds:
            yield next(iter(self.kinds & set(VALID_TEXTS.values())))
        elif "truth" in self.kinds:
            yield from (True, False)
        else:
            yield f"{label}'s text"

    def _objects(
        self, label: str, parts: Mapping[str, ValueUsage], known: Mapping[str, Kind]
    ) -> Iterator[dict[str, Any]]:
        choices: dict[str, list[Any]] = {}
        for name in dict.fromkeys((*known, *parts)):
            choices[name] = parts.get(name, ValueUsage()).variants(f"{label}.{name}", known.get(name))
        yield from combinations(choices, MAX_VARIANTS)

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


def combinations(choices: Mapping[str, Sequence[Any]], limit: int) -> list[dict[str, Any]]:
    """Return objects with one of the choices for each key.

    If there are more than `limit` of them, return only those that differ from the first in one key.

    >>> combinations({"a": [1, 2], "b": [3, 4]}, 3)
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}, {'a': 1, 'b': 4}]
    """
    if _product(choices) <= limit:
        return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    first = {name: values[0] for name, values in choices.items()}
    return [first, *islice(({**first, n: v} for n, values in choices.items() for v in values[1:]), limit - 1)]


def _product(choices: Mapping[str, Sequence[Any]]) -> int:
    product = 1
    for values in choices.values():
        product *= len(values)
    return product


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
class FailureSample:
    """A failure of an action."""

    type: str
    status: int | None
    details: Any


class Samples:
    """The values that a plan's inputs, actions and failures can have."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.root = ValueUsage()
        self._assignments: list[tuple[Path, Path]] = []
        self._saved: set[str] = set()
        self._calls: dict[str, list[tuple[TaskCall, _UsageScope]]] = {}
        self._results: dict[str, Path] = {}
        self._collect()
        for _ in range(8):
            if not self._propagate():
                break

    def _propagate(self) -> bool:
        """Propagate usages of names to the values assigned to them. Return whether a usage has changed."""
        has_changed = False
        for source, target in self._assignments:
            if source != target[: len(source)]:
                has_changed |= self.root.descend(source).merge(self.root.descend(target))
        return has_changed

    def inputs(self, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return inputs of runs, and whether these are all that the templates distinguish."""
        inputs = self.plan.header.inputs
        choices = {name: self._input(name, declared) for name, declared in inputs.items()}
        return combinations(choices, limit), _product(choices) <= limit

    def _input(self, name: str, declared: Input) -> list[Any]:
        if declared.enum is not None:
            return list(declared.enum)
        variants = self.root.descend(("input", name)).variants(f"input {name}", Kind(declared.type))
        return (
            variants
            if declared.required or declared.inferred
            else _distinct((declared.default, *variants))[:MAX_VARIANTS]
        )

    def results(self, action: Action, path: Path | None) -> list[Any]:
        """Return the possible results of an action, the simplest first."""
        usage = ValueUsage() if path is None else self.root.descend(path)
        declaration = catalogue()[action.type]
        label = f"{action.type} {'.'.join(path or ())}"
        if (shape := declaration.result_keys(action.parameters)) is not None:
            return usage.variants(label, None, dict(shape))
        if action.type == "wait":
            return [None]
        return usage.variants(label, Kind.ARRAY if "list" in action.parameters else None)

    def failures(self, declaration: ActionDeclaration) -> list[FailureSample]:
        """Return the failures of an action that the templates distinguish."""
        if declaration.type in ("set", "log", "wait"):
            return []
        usage = self.root.descend(("error",))
        reserved = set().union(*FAILURE_TYPES_OF_ACTIONS.values())
        types = [
            c for c in usage.descend(("type",)).constants if isinstance(c, str) and c not in ENGINE_ERRORS
        ]
        types = [
            c for c in types if c not in reserved or c in FAILURE_TYPES_OF_ACTIONS.get(declaration.type, ())
        ]
        details = (
            usage.descend(("details",)).variants("details") if usage.descend(("details",)).parts else [None]
        )
        values = [
            FailureSample(type, None, detail) for type in ("CommandFailed", *types) for detail in details
        ]
        if declaration.type == "http" and usage.descend(("status",)).constants:
            statuses = usage.descend(("status",)).variants("status")
            values += [
                FailureSample("HTTPStatus", status, details[0])
                for status in statuses
                if isinstance(status, int)
            ]
        return values[: 2 * MAX_VARIANTS]

    def result_path(self, step: str, work: Work) -> Path | None:
        """Return the path of the result of work: a saved name or the result of the step."""
        if isinstance(work, Action | TaskCall) and work.save_as is not None:
            return ("name", work.save_as) if work.loop is None else ("name", work.save_as, ELEMENT)
        plan_step = self.plan.steps.get(step)
        if plan_step is not None and plan_step.run and plan_step.run[-1] is work:
            return (
                ("result", step, ELEMENT)
                if plan_step.loop is not None or work.loop is not None
                else ("result", step)
            )
        return None

    # Collection of usages from the templates of the plan.

    def _collect(self) -> None:
        self._collect_all_saved_names()
        header = self.plan.header
        for name, value in header.variables.items():
            self._collect_assignment(("name", name), value, _UsageScope())
        for name, value in header.environment.items():
            self._collect_assignment(("environment", name), value, _UsageScope())
        for step in self.plan.steps.values():
            self._collect_step(step)
        for name, task in self.plan.tasks.items():
            for work in task.run:
                self._collect_work(work, _UsageScope(task=name))
        self._collect_values(header.output, _UsageScope())
        for name, calls in self._calls.items():
            for call, scope in calls:
                for argument, value in call.args.items():
                    self._collect_assignment(("args", name, argument), value, scope)

    def _collect_all_saved_names(self) -> None:
        for name, task in self.plan.tasks.items():
            self._calls.setdefault(name, [])
            for work in task.run:
                self._collect_saved_names(work)
        for step in self.plan.steps.values():
            for work in (*step.run, *(w for case in step.cases for w in case.work)):
                self._collect_saved_names(work)
            if step.run and step.loop is None and step.run[-1].save_as is not None:
                self._assignments.append((("name", step.run[-1].save_as), ("result", step.name)))

    def _collect_saved_names(self, work: Work) -> None:
        if work.save_as is not None:
            self._saved.add(work.save_as)
        if isinstance(work, Action) and work.type == "set" and isinstance(work.parameters.get("set"), dict):
            self._saved.update(work.parameters["set"])

    def _collect_step(self, step: Step) -> None:
        scope = _UsageScope(step=step.name)
        inside = self._enter_loop(step.loop, scope)
        for work in step.run:
            self._collect_work(work, inside)
        if step.loop is not None:
            self.root.descend(("result", step.name)).kinds.add("list")
        if step.retry.condition:
            self._collect_guard(step.retry.condition, scope)
        if step.repeat is not None:
            self._collect_guard(step.repeat.until, scope)
        for case in step.cases:
            if case.guard is not None:
                self._collect_guard(case.guard, scope)
            for work in case.work:
                self._collect_work(work, scope)

    def _enter_loop(self, loop: Loop | None, scope: _UsageScope) -> _UsageScope:
        if loop is None:
            return scope
        self._collect_text(loop.items, scope, "list") if isinstance(
            loop.items, str
        ) else self._collect_values(loop.items, scope)
        source = self._plain_path(loop.items, scope) if isinstance(loop.items, str) else None
        return scope.with_local(loop.name, None if source is None else (*source, ELEMENT))

    def _collect_work(self, work: Work, scope: _UsageScope) -> None:
        inside = self._enter_loop(work.loop, scope)
        if work.condition is not None:
            self._collect_guard(work.condition, inside)
        if isinstance(work, TaskCall):
            self._calls.setdefault(work.task, []).append((work, inside))
            self._collect_values(work.args, inside)
            return
        if work.retry.condition:
            self._collect_guard(work.retry.condition, inside)
        if work.type == "set" and isinstance(work.parameters.get("set"), dict):
            for name, value in work.parameters["set"].items():
                self._collect_assignment(("name", name), value, inside)
            return
        declaration = catalogue().get(work.type)
        for name, value in work.parameters.items():
            parameter = declaration.parameters.get(name) if declaration else None
            if isinstance(value, dict) and "action" in value and "parameters" in value:
                self._collect_work(action_from_json(value), inside)
            elif isinstance(value, str) and parameter is not None:
                kind = {
                    Kind.INTEGER: "number",
                    Kind.NUMBER: "number",
                    Kind.DURATION: "number",
                    Kind.ARRAY: "list",
                    Kind.BOOLEAN: "truth",
                }.get(parameter.kinds[0])
                self._collect_text(value, inside, kind)
            else:
                self._collect_values(value, inside)

    def _collect_assignment(self, path: Path, value: Any, scope: _UsageScope) -> None:
        source = self._plain_path(value, scope)
        if source is not None:
            self._assignments.append((source, path))
        self._collect_values(value, scope)

    def _collect_values(self, value: Any, scope: _UsageScope) -> None:
        if isinstance(value, str):
            self._collect_text(value, scope, None)
        elif isinstance(value, Mapping):
            for item in value.values():
                self._collect_values(item, scope)
        elif isinstance(value, list):
            for item in value:
                self._collect_values(item, scope)

    def _collect_guard(self, text: str, scope: _UsageScope) -> None:
        self._collect_text(text, scope, "truth")

    def _plain_path(self, value: Any, scope: _UsageScope) -> Path | None:
        """Return the path of a text that consists of one name or attribute, or None."""
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
        return self._path(_strip_filters(node), scope)

    def _collect_text(self, text: str, scope: _UsageScope, kind: str | None) -> None:
        if not has_template(text):
            return
        try:
            body = parse_nodes(text)
            is_expression = parse_template(text).is_expression
        except TemplateProblem:
            return
        for node in body:
            self._collect_node(node, scope, kind if is_expression else None)

    def _collect_node(self, node: nodes.Node, scope: _UsageScope, kind: str | None) -> None:
        """Record the uses of values in a syntax tree whose own value must have a kind."""
        access = find_access_path(node)
        if access is not None:
            path = self._resolve(access, scope)
            if path is not None:
                usage = self.root.descend(path)
                if kind is not None:
                    usage.kinds.add(kind)
            return
        match node:
            case nodes.Compare():
                self._collect_comparison(node, scope)
            case nodes.Filter():
                self._collect_filter(node, scope, kind)
            case nodes.Test():
                self._collect_test(node, scope)
            case nodes.For():
                self._collect_for(node, scope)
            case nodes.If():
                self._collect_node(node.test, scope, "truth")
                self._collect_nodes((*node.body, *node.elif_, *node.else_), scope)
            case nodes.And() | nodes.Or() | nodes.Not() | nodes.CondExpr():
                self._collect_logic(node, scope, kind)
            case nodes.BinExpr():
                self._collect_arithmetic(node, scope)
            case _:
                self._collect_others(node, scope, kind)

    def _collect_nodes(
        self, children: Iterable[nodes.Node], scope: _UsageScope, kind: str | None = None
    ) -> None:
        for child in children:
            self._collect_node(child, scope, kind)

    def _collect_for(self, node: nodes.For, scope: _UsageScope) -> None:
        self._collect_node(node.iter, scope, "list")
        path = self._path(node.iter, scope)
        inner = scope
        if isinstance(node.target, nodes.Name):
            inner = scope.with_local(node.target.name, None if path is None else (*path, ELEMENT))
        self._collect_nodes((*node.body, *node.else_), inner)

    def _collect_logic(
        self, node: nodes.And | nodes.Or | nodes.Not | nodes.CondExpr, scope: _UsageScope, kind: str | None
    ) -> None:
        match node:
            case nodes.Not():
                self._collect_node(node.node, scope, "truth")
            case nodes.CondExpr():
                self._collect_node(node.test, scope, "truth")
                self._collect_node(node.expr1, scope, kind)
                if node.expr2 is not None:
                    self._collect_node(node.expr2, scope, kind)
            case _:
                self._collect_node(node.left, scope, "truth")
                self._collect_node(node.right, scope, kind)

    def _collect_arithmetic(self, node: nodes.BinExpr, scope: _UsageScope) -> None:
        operands = (node.left, node.right)
        kind: str | None = "number"
        if isinstance(node, nodes.Add):
            constants = {type(operand.value) for operand in operands if isinstance(operand, nodes.Const)}
            is_list = any(isinstance(operand, nodes.List) for operand in operands)
            kind = "list" if is_list else None if str in constants else "number"
        self._collect_nodes(operands, scope, kind)

    def _collect_others(self, node: nodes.Node, scope: _UsageScope, kind: str | None) -> None:
        match node:
            case nodes.Output():
                self._collect_nodes(node.nodes, scope, kind)
            case nodes.Call() if isinstance(node.node, nodes.Getattr):
                self._collect_node(node.node.node, scope, None)
                self._collect_nodes(node.args, scope)
            case nodes.Getitem() if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, int):
                self._collect_node(node.node, scope, "list")
            case _:
                self._collect_nodes(child_nodes(node), scope)

    def _collect_comparison(self, node: nodes.Compare, scope: _UsageScope) -> None:
        left, first = node.expr, node.ops[0]
        right = first.expr
        if first.op in ("in", "notin"):
            self._collect_compared(left, _constants(right), scope)
            if not isinstance(right, nodes.List | nodes.Tuple):
                self._collect_node(
                    right,
                    scope,
                    None if isinstance(left, nodes.Const) and isinstance(left.value, str) else "list",
                )
            return
        kind = None if first.op in ("eq", "ne") else "number"
        self._collect_compared(left, _constants(right), scope, kind)
        self._collect_compared(right, _constants(left), scope, kind)
        if kind and not (_constants(left) or _constants(right)):
            self._collect_node(left, scope, "ordered")
            self._collect_node(right, scope, "ordered")

    def _path(self, node: nodes.Node, scope: _UsageScope) -> Path | None:
        access = find_access_path(node)
        return None if access is None else self._resolve(access, scope)

    def _collect_compared(
        self, node: nodes.Node, constants: list[Any], scope: _UsageScope, kind: str | None = None
    ) -> None:
        path = self._path(node, scope)
        if path is not None and constants:
            self.root.descend(path).compare(*constants)
        else:
            self._collect_node(node, scope, kind)

    def _collect_filter(self, node: nodes.Filter, scope: _UsageScope, kind: str | None) -> None:
        inner = node.node
        if inner is None:
            return
        if node.name in VALID_TEXTS:
            self._collect_node(inner, scope, "ready")
            self._collect_node(inner, scope, VALID_TEXTS[node.name])
        elif node.name in ("default", "d"):
            self._collect_node(inner, scope, kind)
        elif node.name in NUMERIC:
            self._collect_node(inner, scope, "number")
        elif node.name in LISTS or node.name in ("length", "count"):
            is_text = find_access_path(inner) is None and not isinstance(inner, nodes.Filter)
            self._collect_node(inner, scope, None if is_text else "list")
            self._collect_attributes(node, scope)
        else:
            self._collect_node(inner, scope, "text" if node.name in TEXTUAL else None)
        for child in (*node.args, *(pair.value for pair in node.kwargs)):
            self._collect_node(child, scope, None)

    def _collect_attributes(self, node: nodes.Filter, scope: _UsageScope) -> None:
        """Record the attributes of the items of the list that a filter reads."""
        path = None if node.node is None else self._path(_strip_filters(node.node), scope)
        if path is None:
            return
        names = [
            p.value.value for p in node.kwargs if p.key == "attribute" and isinstance(p.value, nodes.Const)
        ]
        if node.name in ATTRIBUTE_FIRST and node.args and isinstance(node.args[0], nodes.Const):
            names.append(node.args[0].value)
        for name in names:
            usage = self.root.descend((*path, ELEMENT, *str(name).split(".")))
            if node.name == "sum":
                usage.kinds.add("number")
            elif node.name in ATTRIBUTE_FIRST and len(node.args) == 3:
                usage.compare(*_constants(node.args[2]))
            elif node.name in ("selectattr", "rejectattr") and len(node.args) == 1:
                usage.kinds.add("truth")
        if not names and node.name == "sum":
            self.root.descend((*path, ELEMENT)).kinds.add("number")

    def _collect_test(self, node: nodes.Test, scope: _UsageScope) -> None:
        path = self._path(node.node, scope)
        if path is None:
            self._collect_node(node.node, scope, None)
        elif node.name == "none":
            self.root.descend(path).compare(None)
        elif node.name in ("true", "false"):
            self.root.descend(path).compare(True)
        elif node.name in ("eq", "equalto", "==", "gt", "ge", "lt", "le"):
            self.root.descend(path).compare(*_constants(node.args[0]))
        else:
            self.root.descend(path)

    def _resolve(self, access: Path, scope: _UsageScope) -> Path | None:
        """Return the path of a value in the tree of usages, or None if samples do not define the value."""
        if not access:
            return None
        name, rest = access[0], access[1:]
        if name in scope.bound:
            source = scope.bound[name]
            return None if source is None else (*source, *rest)
        match name:
            case "input" | "environment":
                return access if rest else None
            case "error":
                return access
            case "args" if scope.task is not None and rest:
                return ("args", scope.task, *rest)
            case "result" if rest[:1] == ("data",) and scope.step is not None:
                return ("result", scope.step, *rest[1:])
            case "result" if rest[:1] == ("error",):
                return ("error", *rest[1:])
            case "steps" if len(rest) > 1:
                return _resolve_step_attribute(*rest)
        return self._resolve_name(access)

    def _resolve_name(self, access: Path) -> Path | None:
        name, header = access[0], self.plan.header
        if name in self._saved or name in header.variables:
            return ("name", *access)
        if name in header.inputs:
            return ("input", *access)
        if name in header.environment:
            return ("environment", *access)
        return None


def _resolve_step_attribute(step: str, attribute: str, *rest: str) -> Path | None:
    if attribute == "result":
        return ("result", step, *(rest[1:] if rest[:1] == ("data",) else rest))
    return ("error", *rest) if attribute == "error" else None


@dataclass(frozen=True, slots=True)
class _UsageScope:
    """The scope of a template: its step or task, and the paths of loop variables."""

    step: str | None = None
    task: str | None = None
    bound: Mapping[str, Path | None] = field(default_factory=dict)

    def with_local(self, name: str, source: Path | None) -> _UsageScope:
        return _UsageScope(self.step, self.task, {**self.bound, name: source, "loop": None})


ITEM_PRESERVING = frozenset(
    {"selectattr", "rejectattr", "select", "reject", "list", "sort", "unique", "reverse", "default"}
)


def _strip_filters(node: nodes.Node) -> nodes.Node:
    """Return the operand of a chain of filters that keep the items of a list unchanged."""
    while isinstance(node, nodes.Filter) and node.name in ITEM_PRESERVING and node.node is not None:
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
