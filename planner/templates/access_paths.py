"""Access paths in the syntax tree of a template, and the local names that the template binds itself.

Problem: the planner must know which names a template reads from its scope. A name that the template binds
with `for`, `set` or `with` is local from there on.

Algorithm: scope resolution by one walk in evaluation order, with the set of bound names as the environment.
`for` and `with` bind in their body only; `set` binds in the rest of its block. After an `if`, a name is bound
if all branches bind it, as in a definite-assignment analysis (Java Language Specification, chapter 16).
Source: Jinja2 documentation, "Template Designer Documentation", scoping behavior.

Cost: O(nodes x bound names).

Limits: a name that only some branches of an `if` bind counts as read from the scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jinja2 import nodes

AccessPath = tuple[str, ...]
"""A name and the constant attributes or subscripts read from it: `user.body["id"]` is `("user", "body",
"id")`.
"""


def child_nodes(node: nodes.Node) -> list[nodes.Node]:
    """Return the direct children of a node, in order."""
    children: list[nodes.Node] = []
    for field in node.fields:
        value = getattr(node, field, None)
        if isinstance(value, nodes.Node):
            children.append(value)
        elif isinstance(value, list):
            children += [item for item in value if isinstance(item, nodes.Node)]
    return children


def find_root_name(node: nodes.Node) -> nodes.Node:
    """Return the node at the root of attributes and subscripts: for an access path, its name."""
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        node = node.node
    return node


def find_access_path(node: nodes.Node) -> AccessPath | None:
    """Return the access path that the node is, or None for any other expression."""
    attributes: list[str] = []
    while True:
        if isinstance(node, nodes.Name) and node.ctx == "load":
            return (node.name, *reversed(attributes))
        if isinstance(node, nodes.Getattr):
            attributes.append(node.attr)
        elif (
            isinstance(node, nodes.Getitem)
            and isinstance(node.arg, nodes.Const)
            and isinstance(node.arg.value, str)
        ):
            attributes.append(node.arg.value)
        else:
            return None
        node = node.node


def find_accesses(
    body: Iterable[nodes.Node], local_names: frozenset[int]
) -> Iterator[tuple[AccessPath, int]]:
    """Yield each access path that reads the scope, with its offset in the text.

    `local_names` is the result of `find_local_names`.
    """
    stack = list(body)
    while stack:
        node = stack.pop()
        path = find_access_path(node)
        if path is None:
            stack += child_nodes(node)
        elif id(name := find_root_name(node)) not in local_names:
            yield path, name.lineno


def find_local_names(body: Sequence[nodes.Node]) -> frozenset[int]:
    """Return the `id` of each node that reads a name which the template has bound before it."""
    if all(isinstance(node, nodes.Output) for node in body):
        return frozenset()
    local_names: set[int] = set()
    _resolve_block(body, set(), local_names)
    return frozenset(local_names)


def _resolve_block(body: Iterable[nodes.Node], bound: set[str], local_names: set[int]) -> set[str]:
    """Resolve the nodes in order; return `bound`, extended by the names that they bind."""
    for node in body:
        _resolve(node, bound, local_names)
    return bound


def _resolve(node: nodes.Node, bound: set[str], local_names: set[int]) -> None:
    """Add the reads of bound names to `local_names`, and the names that the node binds to `bound`."""
    match node:
        case nodes.Name():
            if node.ctx == "load" and node.name in bound:
                local_names.add(id(node))
        case nodes.For():
            _resolve(node.iter, bound, local_names)
            loop_names = bound | _target_names(node.target)
            if node.test is not None:
                _resolve(node.test, loop_names, local_names)
            _resolve_block(node.body, loop_names | {"loop"}, local_names)
            _resolve_block(node.else_, set(bound), local_names)
        case nodes.If():
            bound_at_ends = []
            for branch in (node, *node.elif_):
                _resolve(branch.test, bound, local_names)
                bound_at_ends.append(_resolve_block(branch.body, set(bound), local_names))
            bound_at_ends.append(_resolve_block(node.else_, set(bound), local_names))
            bound |= set.intersection(*bound_at_ends)
        case nodes.With():
            _resolve_block(node.values, bound, local_names)
            _resolve_block(node.body, bound.union(*map(_target_names, node.targets)), local_names)
        case nodes.Assign():
            _resolve(node.node, bound, local_names)
            bound |= _target_names(node.target)
        case _:
            _resolve_block(child_nodes(node), bound, local_names)


def _target_names(target: nodes.Node) -> set[str]:
    return {node.name for node in (target, *target.find_all(nodes.Name)) if isinstance(node, nodes.Name)}
