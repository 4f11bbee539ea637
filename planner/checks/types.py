"""Checks of value types: of attributes, loops and comparisons (NP301 and NP504)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jinja2 import nodes

from noetl.planner.catalogue import Kind
from noetl.planner.checks.references import KNOWN_BEFORE_START
from noetl.planner.dataflow.narrowing import handles_undefined
from noetl.planner.diagnostics.wording import as_code
from noetl.planner.kinds import KIND_NAMES
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.program.value_types import MissingAttribute, ValueType, ValueTypes, infer_types
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Loop, TaskEntry
from noetl.planner.templates.access_paths import (
    AccessPath,
    find_access_path,
    find_local_names,
    find_root_name,
)
from noetl.planner.templates.template import has_template

ORDER_OPERATORS = {"lt": "<", "lteq": "<=", "gt": ">", "gteq": ">="}
NUMBERS = frozenset({Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN})
"""The kinds whose values can be compared with each other for order."""

_PYTHON_KINDS = {str: Kind.STRING, int: Kind.INTEGER, float: Kind.NUMBER, bool: Kind.BOOLEAN}


_NO_SCALARS = frozenset({Kind.OBJECT, Kind.ARRAY})
_SCALAR = (_NO_SCALARS, "text, a number or a Boolean")
_FLOW_CONTROL_KINDS = {"key": _SCALAR, "fair": _SCALAR, "priority": (_NO_SCALARS | {Kind.STRING}, "a number")}
"""The kinds that a value of flow control cannot have, and words for the others, by its key."""


def check_types(program: Program) -> None:
    """Report unknown attributes, loops over values that are not lists, and comparisons that fail."""
    broken = program.lost_names | program.broken_steps | program.duplicate_steps
    types = infer_types(program.playbook, program.work_lists(), broken)
    checker = _TypeChecker(program, types)
    for use in program.uses:
        checker.check_use(use)
        checker.check_flow_control(use)
    for step in program.playbook.steps:
        checker.check_loop(step.loop, step.path)
    for work in program.work_lists():
        for entry in work:
            if isinstance(entry, ActionEntry | TaskEntry):
                checker.check_loop(entry.loop, entry.path)


class _TypeChecker:
    def __init__(self, program: Program, types: ValueTypes) -> None:
        self.program = program
        self.types = types
        self.uses = {use.path: use for use in program.uses}
        dead_cases = (
            (step, dead.case) for step in program.playbook.steps for dead in program.dead_cases(step)
        )
        self.dead_cases = {(*step.path, "rule", case) for step, case in dead_cases}

    def type_of(self, path: AccessPath, use: TemplateUse) -> ValueType | MissingAttribute | None:
        if path[0] in use.local_names or use.scope in KNOWN_BEFORE_START:
            return None
        has_result = use.scope in (TemplateScope.RULE, TemplateScope.AFTER_WORK)
        return self.types.type_of(path, use.step if has_result else None)

    def check_use(self, use: TemplateUse) -> None:
        """Check the attributes that a template reads, and its comparisons if the type of a value is known."""
        may_compare = False
        for path, offset in use.template.reads.items():
            value_type = self.type_of(path, use)
            if isinstance(value_type, MissingAttribute):
                if not handles_undefined(use.template, *path[: value_type.index + 1]):
                    self.report_missing_attribute(use, path, offset, value_type)
            elif value_type is not None:
                may_compare = True
        if may_compare and not use.template.has_only_accesses and use.path[:-1] not in self.dead_cases:
            if any(sign in use.template.source for sign in "<>"):
                use.template.inspect_nodes(lambda body: self.check_comparisons(use, body))

    def report_missing_attribute(
        self, use: TemplateUse, path: AccessPath, offset: int, missing: MissingAttribute
    ) -> None:
        """Report an attribute that does not exist. `offset` is the position of the path in the template."""
        attribute, value = path[missing.index], ".".join(path[: missing.index])
        keys = missing.value_type.keys
        kind = "" if keys is not None else f" ({KIND_NAMES[missing.value_type.kind]})"
        hint = self.program.diagnostics.did_you_mean(attribute, keys or ())
        if hint is None and keys:
            hint = f"attributes: {', '.join(as_code(keys))}"
        source = use.template.source
        position = offset + len(path[0])
        for part in path[1 : missing.index]:
            position = source.find(part, position) + len(part)
        position = max(source.find(attribute, position), 0)
        span = self.program.document.text_span(use.path, position, position + len(attribute))
        self.program.diagnostics.add("NP301", f"`{value}`{kind} has no attribute `{attribute}`", span, hint)

    def check_flow_control(self, use: TemplateUse) -> None:
        """Check the type of a key or a priority that is one value: at a limit, a rate or `debounce`."""
        key, access = _flow_control_key(use), use.template.access_path
        if key is None or access is None or not use.template.is_expression:
            return
        known = (*KNOWN_BEFORE_START.get(use.scope, ()), *(self.program.playbook.input or ()))
        is_known = use.scope not in KNOWN_BEFORE_START or access[0] in known
        value_type = (
            self.types.type_of(access, None) if is_known and access[0] not in use.local_names else None
        )
        wrong_kinds, expected = _FLOW_CONTROL_KINDS[key]
        if isinstance(value_type, ValueType) and value_type.kind in wrong_kinds:
            name = ".".join(access)
            message = f"`{key}` must be {expected}, but `{name}` is {KIND_NAMES[value_type.kind]}"
            self.program.report("NP504", message, use.path)

    def check_loop(self, loop: Loop | None, path: DocumentPath) -> None:
        """Check a loop over text, or over one value whose type is known."""
        items = None if loop is None else loop.items
        if not isinstance(items, str):
            return
        items_path: DocumentPath = (*path, "loop", "items")
        use = self.uses.get(items_path)
        if not has_template(items) or (use is not None and not use.template.is_expression):
            hint = "write a list, or a single `{{ expression }}` that returns one"
            self.program.report("NP504", "`items` of a loop must be a list, not text", items_path, hint)
            return
        if use is not None and use.template.access_path is not None:
            value_type = self.type_of(use.template.access_path, use)
            if isinstance(value_type, ValueType) and value_type.kind not in (Kind.ARRAY, Kind.ANY):
                name = ".".join(use.template.access_path)
                message = f"`items` of a loop must be a list, but `{name}` is {KIND_NAMES[value_type.kind]}"
                self.program.report("NP504", message, items_path)

    def check_comparisons(self, use: TemplateUse, body: Sequence[nodes.Node]) -> None:
        """Report comparisons of text with a number for order, except in guards of dead cases."""
        local_names = find_local_names(body)
        for node in _always_evaluated(body):
            if not (
                isinstance(node, nodes.Compare) and len(node.ops) == 1 and node.ops[0].op in ORDER_OPERATORS
            ):
                continue
            sides = (node.expr, node.ops[0].expr)
            left, right = (self.kind_of(side, use, local_names) for side in sides)
            has_names = any(find_access_path(side) is not None for side in sides)
            if left and right and {left, right} & NUMBERS and Kind.STRING in (left, right) and has_names:
                self.report_comparison(use, node, left, right)

    def kind_of(self, node: nodes.Node, use: TemplateUse, local_names: frozenset[int]) -> Kind | None:
        """Return the kind of a literal or of a value that is read; None if it is unknown."""
        if isinstance(node, nodes.Const):
            return _PYTHON_KINDS.get(type(node.value))
        path = find_access_path(node)
        if path is None or id(find_root_name(node)) in local_names:
            return None
        value_type = self.type_of(path, use)
        return value_type.kind if isinstance(value_type, ValueType) else None

    def report_comparison(self, use: TemplateUse, node: nodes.Compare, left: Kind, right: Kind) -> None:
        sides = ((find_root_name(side), find_access_path(side)) for side in (node.expr, node.ops[0].expr))
        root, path = next((root, path) for root, path in sides if path is not None)
        dotted = ".".join(path)
        start = root.lineno
        is_dotted = use.template.source.startswith(dotted, start)
        end = start + len(dotted if is_dotted else path[0])
        operator = ORDER_OPERATORS[node.ops[0].op]
        message = f"{KIND_NAMES[left]} and {KIND_NAMES[right]} cannot be compared with `{operator}`"
        hint = "convert the text to a number: `| int` or `| float`"
        span = self.program.document.text_span(use.path, start, end)
        self.program.diagnostics.add("NP504", message, span, hint)


def _always_evaluated(body: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    """Yield the nodes that are evaluated whenever a template is."""
    stack = list(body)
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, nodes.And | nodes.Or):
            stack.append(node.left)
        elif isinstance(node, nodes.CondExpr | nodes.If):
            stack.append(node.test)
        elif isinstance(node, nodes.For):
            stack.append(node.iter)
        else:
            stack += node.iter_child_nodes()


def _flow_control_key(use: TemplateUse) -> str | None:
    """Return the key of flow control of which a template is the value, or None."""
    path = use.path[2:] if use.path[0] == "steps" else use.path
    if path == ("priority",) or (
        path[0] in ("concurrency", "rate", "debounce") and path[-1] in ("key", "fair")
    ):
        return str(path[-1])
    return None
