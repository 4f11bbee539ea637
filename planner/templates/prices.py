"""The prices of the nodes in the body of a loop, which the loop pays for all rounds before the first.

Problem: a charge for each operation would cost more than the operation.

Algorithm: prices for basic blocks (Ball and Larus, "Optimally Profiling and Tracing Programs", 1994). The
price of a round is the sum of its nodes; where only one of several branches is taken, the dearest counts. It
is computed when the template is compiled. What depends on the size of a value is charged when it runs.

Cost: linear in the nodes of a template.

Limits: those of `budget`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import nodes

from noetl.planner.templates.access_paths import child_nodes
from noetl.planner.templates.filter_costs import SIMPLE_FILTERS

ROUND_UNITS = 128
"""The price of a round of a loop, without its body."""
NODE_UNITS = 64
"""The price of a node of the syntax tree in a loop, if it calls nothing."""
OUTPUT_UNITS = 128
"""The price of the conversion of a short value to text, in addition to its nodes."""
CALL_UNITS = 768
"""The price of a node that calls a function of the sandbox, on short values."""
SIMPLE_FILTER_UNITS = 1024
"""The price of a filter that is in SIMPLE_FILTERS, on short values."""
METHOD_UNITS = 1152
"""The price of a node that calls a method or a function of the language, on short values."""
FILTER_UNITS = 3072
"""The price of a filter that is not in SIMPLE_FILTERS, on short values."""


def round_units(loop: nodes.For) -> int:
    """Return the price of a round of a loop, without the rounds of loops in its body."""
    return ROUND_UNITS + _block_units(loop.body) + (_units(loop.test) if loop.test is not None else 0)


def _block_units(block: Sequence[nodes.Node]) -> int:
    return sum(map(_units, block))


def _units(node: nodes.Node) -> int:
    """Return the price of a node with its descendants, for short values, without the rounds of loops."""
    if isinstance(node, nodes.For):
        return CALL_UNITS + _units(node.iter) + _block_units(node.else_)
    if isinstance(node, nodes.If):
        tests = _units(node.test) + sum(_units(branch.test) for branch in node.elif_)
        blocks = (node.body, *(branch.body for branch in node.elif_), node.else_)
        return tests + max(map(_block_units, blocks))
    return _own_units(node) + _block_units(child_nodes(node))


def _own_units(node: nodes.Node) -> int:
    if isinstance(node, nodes.Filter):
        if " " in node.name:
            return CALL_UNITS
        return SIMPLE_FILTER_UNITS if node.name in SIMPLE_FILTERS else FILTER_UNITS
    if isinstance(node, nodes.Output):
        return OUTPUT_UNITS * len(node.nodes)
    if isinstance(node, nodes.TemplateData):
        return len(node.data)
    return _UNITS.get(type(node), NODE_UNITS)


_UNITS: Mapping[type[nodes.Node], int] = {
    nodes.Call: METHOD_UNITS,
    nodes.Getattr: CALL_UNITS,
    nodes.Getitem: CALL_UNITS,
    nodes.Test: CALL_UNITS,
}
"""The prices of the nodes that call a function of Python."""
