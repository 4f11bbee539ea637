"""NP301 and NP504: values are used as what they are known to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jinja2 import nodes
from noetl.planner.catalogue import Kind
from noetl.planner.dataflow.narrowing import handles_undefined
from noetl.planner.kinds import WORDS
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Place, Use
from noetl.planner.program.value_types import Missing, Shape, Shapes, find_shapes
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Loop, TaskEntry
from noetl.planner.templates.access_paths import (
    AccessPath,
    find_access_path,
    find_local_names,
    find_root_name,
)
from noetl.planner.templates.template import has_template

ORDER = {"lt": "<", "lteq": "<=", "gt": ">", "gteq": ">="}
NUMBERS = frozenset({Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN})
"""Kinds of which any value can be compared with any other for order."""


def check_shapes(subject: Subject) -> None:
    """Report attributes that values of a known shape do not have, loops over what is no list, and comparisons that fail."""
    broken = subject.lost_names | subject.broken_steps | subject.repeated_steps
    check = _Check(subject, find_shapes(subject.playbook, subject.catalogue, subject.runs(), broken))
    for use in subject.uses:
        check.use(use)
    for step in subject.playbook.steps:
        check.loop(step.loop, step.path)
    for run in subject.runs():
        for entry in run:
            if isinstance(entry, ActionEntry | TaskEntry):
                check.loop(entry.loop, entry.path)


class _Check:
    def __init__(self, subject: Subject, shapes: Shapes) -> None:
        self.subject = subject
        self.shapes = shapes
        self.uses = {use.path: use for use in subject.uses}
        dead = ((step, one.case) for step in subject.playbook.steps for one in subject.dead_cases(step))
        self.dead = {(*step.path, "rule", case) for step, case in dead}

    def of(self, access: AccessPath, use: Use) -> Shape | Missing | None:
        if access[0] in use.local or use.place in (Place.ENVIRONMENT, Place.VARIABLES):
            return None
        return self.shapes.of(access, use.step if use.place in (Place.RULE, Place.AFTER) else None)

    def use(self, use: Use) -> None:
        """Look at a template; at its comparisons for order only where something is known of what they compare."""
        may_compare = False
        for access, offset in use.template.reads.items():
            found = self.of(access, use)
            if isinstance(found, Missing):
                if not handles_undefined(use.template, *access[: found.at + 1]):
                    self.missing(use, access, offset, found)
            elif found is not None:
                may_compare = True
        if may_compare and not use.template.has_only_accesses and use.path[:-1] not in self.dead:
            if any(sign in use.template.source for sign in "<>"):
                use.template.inspect_nodes(lambda body: self.comparisons(use, body))

    def missing(self, use: Use, access: AccessPath, offset: int, found: Missing) -> None:
        word, whole = access[found.at], ".".join(access[: found.at])
        keys = found.shape.keys
        what = "" if keys is not None else f", which is {WORDS[found.shape.kind]},"
        hint = self.subject.diagnostics.suggest(word, keys or ())
        if hint is None and keys:
            hint = f"it has {', '.join(f'`{key}`' for key in keys)}"
        at = offset + len(access[0])
        for part in access[1 : found.at]:
            at = use.template.source.find(part, at) + len(part)
        at = max(use.template.source.find(word, at), 0)
        span = self.subject.document.text_span(use.path, at, at + len(word))
        self.subject.diagnostics.add("NP301", f"`{whole}`{what} has no `{word}`", span, hint)

    def loop(self, loop: Loop | None, path: DocumentPath) -> None:
        """A loop over one access whose kind is known."""
        items = None if loop is None else loop.items
        if not isinstance(items, str):
            return
        at: DocumentPath = (*path, "loop", "items")
        use = self.uses.get(at)
        if not has_template(items) or (use is not None and not use.template.is_expression):
            self.subject.report("NP504", "a loop goes over a list, and this is text", at, _WHOLE)
            return
        if use is not None and use.template.access_path is not None:
            found = self.of(use.template.access_path, use)
            if isinstance(found, Shape) and found.kind not in (Kind.ARRAY, Kind.ANY):
                name = ".".join(use.template.access_path)
                message = f"a loop goes over a list, and `{name}` is {WORDS[found.kind]}"
                self.subject.report("NP504", message, at)

    def comparisons(self, use: Use, body: Sequence[nodes.Node]) -> None:
        """Texts compared with numbers, but in guards of which is said that they are never true."""
        inside = find_local_names(body)
        for node in _always(body):
            if isinstance(node, nodes.Compare) and len(node.ops) == 1 and node.ops[0].op in ORDER:
                sides = (node.expr, node.ops[0].expr)
                left, right = (self.kind(side, use, inside) for side in sides)
                has_names = any(find_access_path(side) is not None for side in sides)
                if left and right and {left, right} & NUMBERS and Kind.STRING in (left, right) and has_names:
                    self.incomparable(use, node, left, right)

    def kind(self, node: nodes.Node, use: Use, inside: frozenset[int]) -> Kind | None:
        if isinstance(node, nodes.Const):
            value = node.value
            kinds = {str: Kind.STRING, int: Kind.INTEGER, float: Kind.NUMBER, bool: Kind.BOOLEAN}
            return kinds.get(type(value))
        access = find_access_path(node)
        if access is None or id(find_root_name(node)) in inside:
            return None
        found = self.of(access, use)
        return found.kind if isinstance(found, Shape) else None

    def incomparable(self, use: Use, node: nodes.Compare, left: Kind, right: Kind) -> None:
        found = ((find_root_name(side), find_access_path(side)) for side in (node.expr, node.ops[0].expr))
        name, access = next((name, access) for name, access in found if access is not None)
        whole = ".".join(access)
        start = name.lineno
        is_dotted = use.template.source.startswith(whole, start)
        end = start + len(whole if is_dotted else access[0])
        message = f"{WORDS[left]} and {WORDS[right]} cannot be compared with `{ORDER[node.ops[0].op]}`"
        self.subject.diagnostics.add(
            "NP504", message, self.subject.document.text_span(use.path, start, end), _CONVERT
        )


_WHOLE = "write the list out, or one whole `{{ }}` that gives it"
_CONVERT = "turn the text into a number: `| int` or `| float`"


def _always(body: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    """The nodes that are evaluated whenever a template is."""
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
