"""Which names a template reads: the accesses among its nodes, but for names that the template itself binds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jinja2 import nodes

AccessPath = tuple[str, ...]
"""A name and the constant attributes or subscripts read from it: `user.body["id"]` is `("user", "body", "id")`."""


def child_nodes(node: nodes.Node) -> list[nodes.Node]:
    """The nodes right below a node, in order."""
    children: list[nodes.Node] = []
    for field in node.fields:
        value = getattr(node, field, None)
        if isinstance(value, nodes.Node):
            children.append(value)
        elif isinstance(value, list):
            children += [item for item in value if isinstance(item, nodes.Node)]
    return children


def find_root_name(node: nodes.Node) -> nodes.Node:
    """The node of the name that an access begins with."""
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        node = node.node
    return node


def find_access_path(node: nodes.Node) -> AccessPath | None:
    """The access that the node is, or None when it is anything else."""
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


def find_accesses(body: Iterable[nodes.Node], inside: frozenset[int]) -> Iterator[tuple[AccessPath, int]]:
    """The accesses to names from outside, each with the offset in the text where it stands. `inside` are the names that
    `bound_inside` tells.
    """
    stack = list(body)
    while stack:
        node = stack.pop()
        access = find_access_path(node)
        if access is None:
            stack += child_nodes(node)
        elif id(name := find_root_name(node)) not in inside:
            yield access, name.lineno


def find_local_names(body: Sequence[nodes.Node]) -> frozenset[int]:
    """The ids of the nodes that read a name which the template itself has bound by then, by `for`, `set` or `with`.

    What only some of the branches of an `if` bind is read from outside where another one is taken.
    """
    if all(isinstance(node, nodes.Output) for node in body):
        return frozenset()
    found: set[int] = set()
    _look_all(body, set(), found)
    return frozenset(found)


def _look_all(body: Iterable[nodes.Node], bound: set[str], found: set[int]) -> set[str]:
    for node in body:
        _look(node, bound, found)
    return bound


def _look(node: nodes.Node, bound: set[str], found: set[int]) -> None:
    """Find the names of a node that are bound, and add to them those that it binds for what comes behind it."""
    match node:
        case nodes.Name():
            if node.ctx == "load" and node.name in bound:
                found.add(id(node))
        case nodes.For():
            _look(node.iter, bound, found)
            inner = bound | _stored(node.target)
            if node.test is not None:
                _look(node.test, inner, found)
            _look_all(node.body, inner | {"loop"}, found)
            _look_all(node.else_, set(bound), found)
        case nodes.If():
            ends = []
            for branch in (node, *node.elif_):
                _look(branch.test, bound, found)
                ends.append(_look_all(branch.body, set(bound), found))
            ends.append(_look_all(node.else_, set(bound), found))
            bound |= set.intersection(*ends)
        case nodes.With():
            _look_all(node.values, bound, found)
            _look_all(node.body, bound.union(*map(_stored, node.targets)), found)
        case nodes.Assign():
            _look(node.node, bound, found)
            bound |= _stored(node.target)
        case _:
            _look_all(child_nodes(node), bound, found)


def _stored(target: nodes.Node) -> set[str]:
    return {node.name for node in (target, *target.find_all(nodes.Name)) if isinstance(node, nodes.Name)}
