"""The generator of the Python code of a template, with the charges of loops and outputs in that code.

Problem: an inner loop of a few rounds, and an output of a short value, take less time than the call of a
function. A call that charges would cost more than what it guards.

Algorithm: inline caching of the usual case, as in the compilers of dynamic languages (Deutsch and Schiffman
1984). The generated code compares the exact type of the value. A subtraction charges for a list whose rounds
the granted units pay for. A number or a short text is converted in place. Every other value goes through the
function of `budget`. Source: Jinja2 documentation, "The High Level API",
`code_generator_class`.

Cost: two comparisons and a subtraction for each loop, one or two comparisons for each output.

Limits: those of `budget`.
"""

# ruff: noqa: N802 - the names of Jinja2's visitors

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Undefined

from noetl.planner.templates.budget import COMPARABLE, SHORT
from noetl.planner.templates.filters import (
    CONCATENATION_FILTER,
    MEMBERSHIP_FILTER,
    SLICE_FILTER,
)
from noetl.planner.templates.prices import round_units

SHORT_NUMBER = 2**30
"""The first whole number that takes more than one digit of CPython."""


class ChargingGenerator(CodeGenerator):
    """A generator of code that charges the budget. Its names cannot be those of a template."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        names = "charge_rounds, current_usage, to_charged_text"
        self.writeline(f"from noetl.planner.templates.budget import {names}")
        self._has_loops = node.find(nodes.For) is not None
        super().visit_Template(node, frame)

    def write_commons(self) -> None:
        super().write_commons()
        if self._has_loops:
            self.writeline("usage = current_usage()")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        """Write a loop that charges for all rounds before the first.

        At most UNITS_PER_CHECK units are granted at a time. So a loop that needs no check of the clock, nor
        of the number of its items, is one that these units pay for.
        """
        units = round_units(node)
        items, left = self.temporary_identifier(), self.temporary_identifier()
        self.writeline(f"{items} = ", node)
        self.visit(node.iter, frame)
        is_paid = f"type({items}) is list and ({left} := usage.left - {units} * len({items})) >= 0"
        self.writeline(f"if {is_paid}: usage.left = {left}")
        self.writeline(f"else: {items} = charge_rounds({items}, {units})")
        node.iter = _local_name(items, node.lineno)
        super().visit_For(node, frame)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        """Write a block. No function reads the names of a loop, so they are neither collected nor passed."""
        frame.loop_frame = False
        super().blockvisit(nodes, frame)

    def writeline(self, x: str, node: nodes.Node | None = None, extra: int = 0) -> None:
        if x != "_loop_vars = {}":  # see `blockvisit`
            super().writeline(x, node, extra)

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        """Return the text of literal text and of a constant. Other nodes must not be evaluated here.

        This would be outside of the budget.
        """
        if not isinstance(node, nodes.TemplateData | nodes.Const):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("(text if type(output := ")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(
            f") is int and len(text := str(output)) <= {SHORT}"
            f" else output if type(output) is str and len(output) <= {SHORT} else to_charged_text(output))"
        )

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:
        """Write the usual case of an internal filter in place, and the call of the filter for all others."""
        write = _WRITERS.get(node.name)
        if write is None or not write(self, node, frame):
            super().visit_Filter(node, frame)

    def write_membership(self, node: nodes.Filter, frame: Frame) -> bool:
        """Write the search for a short value in a short list or an object."""
        wanted, container = self.temporary_identifier(), self.temporary_identifier()
        if _is_short_list(node.args[0]):
            self.write(f"({wanted} in ")
            self.visit(node.args[0], frame)
            self.write(f" if type({wanted} := ")
            self.visit(cast("nodes.Expr", node.node), frame)
            self.write(f") is str and len({wanted}) <= {COMPARABLE} or type({wanted}) is int")
            self.write(f" else {self.filters[node.name]}({wanted}, ")
            self.visit(node.args[0], frame)
            self.write("))")
            return True
        self.write(f"({wanted} in {container} if (type({wanted} := ")
        self.visit(cast("nodes.Expr", node.node), frame)
        self.write(f") is str and len({wanted}) <= {SHORT} or type({wanted}) is int) & (type({container} := ")
        self.visit(node.args[0], frame)
        self.write(f") is dict or type({container}) is list and len({container}) <= {SHORT})")
        self.write(f" else {self.filters[node.name]}({wanted}, {container}))")
        return True

    def write_concatenation(self, node: nodes.Filter, frame: Frame) -> bool:
        """Write the concatenation of short texts and numbers."""
        parts = cast("nodes.List", node.node).items
        texts = [part.value for part in parts if isinstance(part, nodes.Const)]
        if len(texts) == len(parts) or not all(isinstance(t, str) and len(t) <= SHORT for t in texts):
            return False
        names = [
            repr(part.value) if isinstance(part, nodes.Const) else self.temporary_identifier()
            for part in parts
        ]
        pattern = "".join(
            part.value.replace("%", "%%") if isinstance(part, nodes.Const) else "%s" for part in parts
        )
        values = [name for name, part in zip(names, parts, strict=True) if not isinstance(part, nodes.Const)]
        self.write(f"({pattern!r} % ({', '.join(values)},) if ")
        separator = ""
        for name, part in zip(names, parts, strict=True):
            if not isinstance(part, nodes.Const):
                self.write(f"{separator}(type({name} := ")
                self.visit(part, frame)
                is_number = f"type({name}) is int and -{SHORT_NUMBER} < {name} < {SHORT_NUMBER}"
                self.write(f") is str and len({name}) <= {SHORT} or {is_number})")
                separator = " & "
        self.write(f" else {self.filters[node.name]}([{', '.join(names)}]))")
        return True

    def write_slice(self, node: nodes.Filter, frame: Frame) -> bool:
        """Write the slice of a short text or list."""
        bounds = [_constant(arg) for arg in node.args]
        if not all(bound is None or isinstance(bound, int) for bound in bounds):
            return False
        value = self.temporary_identifier()
        shown = ":".join("" if bound is None else str(bound) for bound in bounds)
        self.write(f"({value}[{shown}] if (type({value} := ")
        self.visit(cast("nodes.Expr", node.node), frame)
        self.write(f") is str or type({value}) is list) and len({value}) <= {SHORT}")
        self.write(f" else {self.filters[node.name]}({value}, {', '.join(map(repr, bounds))}))")
        return True


_WRITERS: Mapping[str, Callable[[ChargingGenerator, nodes.Filter, Frame], bool]] = {
    CONCATENATION_FILTER: ChargingGenerator.write_concatenation,
    MEMBERSHIP_FILTER: ChargingGenerator.write_membership,
    SLICE_FILTER: ChargingGenerator.write_slice,
}
"""The methods that write an internal filter. They return false for a node whose usual case is a call."""


def _is_short_list(node: nodes.Expr) -> bool:
    """Return whether a node is a list of a few constants."""
    return isinstance(node, nodes.List | nodes.Tuple) and (
        len(node.items) <= SHORT and all(isinstance(item, nodes.Const) for item in node.items)
    )


def _constant(node: nodes.Expr) -> Any:
    """Return the value of a constant, or an undefined value for any other node."""
    if isinstance(node, nodes.Neg):
        value = _constant(node.node)
        return -value if type(value) is int else Undefined()
    return node.value if isinstance(node, nodes.Const) else Undefined()


def _local_name(name: str, lineno: int) -> nodes.InternalName:
    """Return the node of a name that the generator assigned. Its class has no public constructor."""
    node = object.__new__(nodes.InternalName)
    nodes.Node.__init__(node, name, lineno=lineno)
    return node
