"""Report of the import structure: levels, circles and upward imports of every package.

    python -m infra.imports [--faults] [FOLDER ...]

A folder is a package such as planner/dataflow. Without one, all packages are reported. With `--faults`, only
circles and upward imports are printed. The exit status is 1 if there is one.

Problem: show in which order the modules and packages of a package build on each other, and which imports
break the order.

Algorithm: the modules and packages directly inside a package are nodes, and the imports between their files
are edges. Circles are the strongly connected components (Tarjan 1972). The level of a node is the length of
the longest path from it to a node that imports no other. Inside a circle, the heuristic of Eades, Lin and
Smyth (1993) finds an order that few imports contradict: these are upward. LAYERS orders the packages.

Cost: linear in the text. Each file is parsed once, and none is imported.

Limits: imports by `importlib` and entry points are not seen. Those in functions and under TYPE_CHECKING are.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import networkx as nx

BASE = Path(__file__).resolve().parents[1]
"""Folder of the packages."""

LAYERS = ("planner", "executor", "api")
"""Packages, from the lowest."""

NAMESPACE = "noetl"
OWN_MODULE = "__init__"

ImportNode = ast.Import | ast.ImportFrom


class ModuleImport(NamedTuple):
    """An import of one module by another. Names are without the namespace."""

    importer: str
    imported: str
    place: str
    is_in_function: bool

    def __str__(self) -> str:
        mark = ", in a function" if self.is_in_function else ""
        return f"{self.importer} imports {self.imported} ({self.place}{mark})"


class PackageStructure(NamedTuple):
    """Order of the modules and packages directly inside a package. `levels` starts with the lowest."""

    package: str
    levels: list[list[str]]
    circles: list[list[str]]
    upward: list[ModuleImport]

    def __str__(self) -> str:
        count = sum(map(len, self.levels))
        sizes = f"{count} modules and packages, {len(self.levels)} levels"
        faults = f"{len(self.circles)} circles, {len(self.upward)} upward imports"
        lines = [f"{self.package}: {sizes}, {faults}"]
        lines += [f"  {level:3}  {', '.join(names)}" for level, names in enumerate(self.levels)]
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])

    @property
    def faults(self) -> list[str]:
        """The circles and upward imports, a line each."""
        circles = [f"circle in {self.package}: {', '.join(names)}" for names in self.circles]
        return circles + [f"upward in {self.package}: {item}" for item in self.upward]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m infra.imports", description="Report the import structure.")
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="a package, such as planner/dataflow")
    parser.add_argument("--faults", action="store_true", help="print only circles and upward imports")
    options = parser.parse_args(arguments)
    names = [folder.strip("/").replace("/", ".") for folder in options.folders]
    wanted = [name.removeprefix(f"{NAMESPACE}.") for name in names]
    modules = find_modules(BASE)
    imports = list(read_imports(BASE, modules))
    crossing = imports_against_layers(imports)
    packages = [package for package in find_packages(modules) if _is_wanted(package, wanted)]
    structures = [structure_of(package, modules, imports) for package in packages]
    for upward in crossing:
        print(f"upward between packages: {upward}")
    faults = [fault for structure in structures for fault in structure.faults]
    for line in faults if options.faults else structures:
        print(line)
    return int(bool(crossing or faults))


def find_modules(base: Path) -> dict[str, Path]:
    """Return the file of each module in `base`, by its name without the namespace."""
    paths = [path for layer in LAYERS for path in (base / layer).rglob("*.py")]
    return {_module_of(path.relative_to(base)): path for path in sorted(paths)}


def find_packages(modules: Mapping[str, Path]) -> list[str]:
    """Return the names of the packages that hold more than one module, outer ones first."""
    parents = Counter(module.rpartition(".")[0] for module in modules)
    return sorted(parent for parent, count in parents.items() if parent and count > 1)


def read_imports(base: Path, modules: Mapping[str, Path]) -> Iterator[ModuleImport]:
    """Yield the imports between `modules`."""
    for importer, path in modules.items():
        package = importer if path.stem == OWN_MODULE else importer.rpartition(".")[0]
        tree = ast.parse(path.read_text("utf-8"))
        for node, is_in_function in _import_statements(tree, is_in_function=False):
            for imported in sorted(set(_imported_modules(node, package, modules))):
                place = f"{path.relative_to(base).as_posix()}:{node.lineno}"
                yield ModuleImport(importer, imported, place, is_in_function)


def imports_against_layers(imports: Iterable[ModuleImport]) -> list[ModuleImport]:
    """Return the imports of a package by one below it."""
    layer = {name: index for index, name in enumerate(LAYERS)}
    return [item for item in imports if layer[_top(item.importer)] < layer[_top(item.imported)]]


def structure_of(package: str, modules: Iterable[str], imports: Iterable[ModuleImport]) -> PackageStructure:
    """Return the order of the modules and packages directly inside `package`."""
    graph = _graph_of(package, imports)
    graph.add_nodes_from(name for name in (_member(package, module) for module in modules) if name)
    if OWN_MODULE in graph and not graph.degree(OWN_MODULE):
        graph.remove_node(OWN_MODULE)
    condensed = nx.condensation(graph)
    levels = [
        sorted(name for component in generation for name in condensed.nodes[component]["members"])
        for generation in nx.topological_generations(condensed.reverse())
    ]
    circles = [sorted(names) for names in nx.strongly_connected_components(graph) if len(names) > 1]
    upward = [item for names in circles for item in _upward_imports(graph.subgraph(names))]
    return PackageStructure(package, levels, sorted(circles), upward)


def _graph_of(package: str, imports: Iterable[ModuleImport]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for item in imports:
        importer, imported = _member(package, item.importer), _member(package, item.imported)
        if importer and imported and importer != imported:
            if not graph.has_edge(importer, imported):
                graph.add_edge(importer, imported, imports=[])
            graph.edges[importer, imported]["imports"].append(item)
    return graph


def _upward_imports(circle: nx.DiGraph[str]) -> list[ModuleImport]:
    """Return the imports against an order of `circle` that few imports contradict."""
    rest, first, last = circle.copy(), list[str](), list[str]()
    while rest:
        weights = {name: (_import_count(rest.out_edges(name, data="imports")), name) for name in sorted(rest)}
        entering = {name: _import_count(rest.in_edges(name, data="imports")) for name in rest}
        lowest = [name for name, (leaving, _) in weights.items() if not leaving]
        if lowest:
            last[:0] = lowest
            rest.remove_nodes_from(lowest)
        else:
            highest = max(weights, key=lambda name: weights[name][0] - entering[name])
            first.append(highest)
            rest.remove_node(highest)
    position = {name: index for index, name in enumerate([*first, *last])}
    edges: Iterable[tuple[str, str, list[ModuleImport]]] = circle.edges(data="imports")
    groups = [items for source, target, items in edges if position[source] > position[target]]
    return sorted(item for items in groups for item in items)


def _import_count(edges: Iterable[tuple[str, str, list[ModuleImport]]]) -> int:
    return sum(len(imports) for _, _, imports in edges)


def _import_statements(node: ast.AST, *, is_in_function: bool) -> Iterator[tuple[ImportNode, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_in_function
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _import_statements(child, is_in_function=is_in_function or is_function)


def _imported_modules(node: ImportNode, package: str, known: Container[str]) -> Iterator[str]:
    """Yield the known modules that `node` imports in a module of `package`."""
    if isinstance(node, ast.Import):
        candidates = [[alias.name] for alias in node.names]
    else:
        parents = [package, *(package.rsplit(".", count)[0] for count in range(1, package.count(".") + 1))]
        parent = parents[node.level - 1] if node.level else ""
        source = ".".join(part for part in (parent, node.module) if part)
        candidates = [[f"{source}.{alias.name}", source] for alias in node.names]
    for names in candidates:
        shortened = (name.removeprefix(f"{NAMESPACE}.") for name in names)
        yield from [name for name in shortened if name in known][:1]


def _member(package: str, module: str) -> str | None:
    """Return the name directly inside `package` that `module` belongs to, or None.

    >>> _member("planner", "planner.draw.svg"), _member("planner", "planner"), _member("planner", "api")
    ('draw', '__init__', None)
    """
    if module == package:
        return OWN_MODULE
    return module.removeprefix(f"{package}.").split(".")[0] if module.startswith(f"{package}.") else None


def _module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == OWN_MODULE else parts)


def _top(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def _is_wanted(package: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(package == name or package.startswith(f"{name}.") for name in wanted)


if __name__ == "__main__":
    sys.exit(main())
