"""Names in scope at a line: what a template may read there, who saved it, and whether it may be undefined.

Problem: an editor offers names while a person types. It must not offer a name that is saved later, and it
should say where a name may be undefined. Most of the time the text has errors.

Algorithm: the definite-assignment analysis (`noetl.planner.dataflow.solver`) over all saved names, also those
that no template reads. A name of the may set is in scope, and may lack a value unless the must set has it.
Where the analysis is not possible, a name is in scope if a path of the control-flow graph leads from a step
that saves it. In a step to which no path leads yet, the names of all steps but those after it are in scope.
Entries of the same step are compared by their order.

Cost: linear in the saved names. The checks have done the analysis.

Limits: in a task, every saved name is in scope, because each caller differs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx

from noetl.planner.checks.references import KNOWN_BEFORE_START
from noetl.planner.dataflow.solver import AssignmentSolution, analyse_assignment
from noetl.planner.dataflow.transfer import EMPTY, FactSet
from noetl.planner.program.program import Program
from noetl.planner.syntax.entries import find_called_tasks, find_saved_names
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, Loop, Step, Task, TaskEntry

_SECTIONS_WITH_NAMES = (*KNOWN_BEFORE_START, "output", "steps", "tasks")


@dataclass(frozen=True, slots=True)
class ScopeName:
    """A name in scope. `kind` says what it is: `input`, `environment`, `variable`, `saved`, `item` or `args`.

    A saved name has the step and the line that save it. If several do, it is the first in the text.
    """

    name: str
    kind: str
    step: str | None = None
    line: int | None = None
    may_lack: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the name as an object."""
        return {
            "name": self.name,
            "kind": self.kind,
            "step": self.step,
            "line": self.line,
            "may_lack": self.may_lack,
        }


@dataclass(frozen=True, slots=True)
class NameScope:
    """The place of a line: its step or task, if any, and the names in scope there."""

    step: str | None = None
    task: str | None = None
    names: tuple[ScopeName, ...] = ()


def find_scope(program: Program, line: int) -> NameScope:
    """Return the names in scope at a line of the text, which counts from 1.

    The program must be one that `analyses_all_names`.
    """
    section = _last_at(line, ((program.document.key_span((key,)).line, key) for key in program.document.data))
    if section not in _SECTIONS_WITH_NAMES:
        return NameScope()
    if section in ("steps", "tasks"):
        items: Iterable[Step | Task] = (
            program.playbook.steps if section == "steps" else program.playbook.tasks
        )
        item = _last_at(line, ((program.document.line(item.path), item) for item in items))
        if item is None:
            return NameScope()
        if isinstance(item, Task):
            saved = (*_arguments(program, item), *_saved_anywhere(program))
            return NameScope(
                task=item.name,
                names=_unique((*_loop_names(program, item.run, line), *saved, *_given(program))),
            )
        return NameScope(step=item.name, names=_unique(_names_in_step(program, item, line)))
    if section == "output":
        return NameScope(names=_unique((*_names_at_end(program), *_given(program))))
    sections = KNOWN_BEFORE_START.get(section, ())
    return NameScope(names=tuple(name for name in _given(program) if name.kind in sections))


def _last_at(line: int, places: Iterable[tuple[int, Any]]) -> Any | None:
    """Return the last item that begins at a line or before it. The items are in the order of the text."""
    ordered = sorted(places, key=lambda place: place[0])
    index = bisect_right([start for start, _ in ordered], line)
    return ordered[index - 1][1] if index else None


def _unique(names: Iterable[ScopeName]) -> tuple[ScopeName, ...]:
    """Return the names without repetition. The first of several has precedence."""
    unique: dict[str, ScopeName] = {}
    for name in names:
        unique.setdefault(name.name, name)
    return tuple(unique.values())


def _given(program: Program) -> Iterator[ScopeName]:
    """Yield the names that have a value when a run starts."""
    playbook, document = program.playbook, program.document
    for kind, section, values in (
        ("input", "input", playbook.input or {}),
        ("environment", "environment", playbook.environment),
        ("variable", "variables", playbook.variables),
    ):
        for name in values:
            yield ScopeName(name, kind, line=document.key_span((section, name)).line)


def _arguments(program: Program, task: Task) -> Iterator[ScopeName]:
    names = {name: None for entry in program.call_sites.get(task.name, ()) for name in entry.with_}
    for name in names:
        yield ScopeName(f"args.{name}", "args")


def _loop_names(program: Program, run: Iterable[Entry], line: int) -> Iterator[ScopeName]:
    """Yield the names of the loop around the entry at a line."""
    entry = _entry_at(program, run, line)
    if isinstance(entry, ActionEntry | TaskEntry) and entry.loop is not None:
        yield from _names_of_loop(entry.loop)


def _names_of_loop(loop: Loop) -> Iterator[ScopeName]:
    yield ScopeName(loop.as_, "item")
    yield ScopeName("loop", "item")


def _entry_at(program: Program, run: Iterable[Entry], line: int) -> Entry | None:
    entries = [entry for entry in run if isinstance(entry, ActionEntry | TaskEntry)]
    entry: Entry | None = _last_at(line, ((program.document.line(entry.path), entry) for entry in entries))
    return entry


def _names_in_step(program: Program, step: Step, line: int) -> Iterator[ScopeName]:
    """Yield the names in scope in a step: of loops, earlier entries, earlier steps, and given ones."""
    rule_line = program.document.key_span((*step.path, "rule")).line if step.rule else None
    is_in_rule = rule_line is not None and line >= rule_line
    if is_in_rule:
        case = _last_at(line, ((program.document.line(case.path), case) for case in step.rule or ()))
        yield from _saved_before(program, case.run if case else (), step, line)
        yield from () if step.loop else _saved_by(program, step.run or (), step.name)
    else:
        yield from _loop_names(program, step.run or (), line)
        yield from () if step.loop is None else _names_of_loop(step.loop)
        yield from () if step.parallel else _saved_before(program, step.run or (), step, line)
    yield from _saved_on_paths(program, step.name)
    yield from _given(program)


def _saved_before(program: Program, run: Iterable[Entry], step: Step, line: int) -> Iterator[ScopeName]:
    """Yield the names that the entries before that at a line save."""
    current = _entry_at(program, run, line)
    for entry in run:
        if entry is current:
            return
        yield from _saved_by(program, [entry], step.name)


def _saved_by(program: Program, run: Iterable[Entry], step: str | None) -> Iterator[ScopeName]:
    """Yield the names that entries save, themselves or through the tasks that they call."""
    for entry in run:
        conditional = isinstance(entry, ActionEntry | TaskEntry) and (
            entry.if_ is not None or entry.on_error is not None
        )
        for name, path in find_saved_names([entry]):
            yield ScopeName(name, "saved", step, _line_of(program, path), conditional)
        for name, path in _saved_by_tasks(program, find_called_tasks([entry])):
            yield ScopeName(name, "saved", step, _line_of(program, path), may_lack=True)


def _saved_by_tasks(program: Program, tasks: Iterable[str]) -> Iterator[tuple[str, DocumentPath]]:
    called = {task for task in tasks if task in program.call_graph}
    for task in sorted(called.union(*(nx.descendants(program.call_graph, task) for task in called))):
        yield from find_saved_names(program.symbols.tasks[task].run)


def _line_of(program: Program, path: DocumentPath) -> int:
    return program.document.line(path)


def _saved_by_step(program: Program, step: Step) -> Iterator[ScopeName]:
    """Yield what a step saves for later steps. In-place work of a case ends its branch."""
    if step.loop is None:
        yield from _saved_by(program, step.run or (), step.name)


def _saved_anywhere(program: Program) -> Iterator[ScopeName]:
    for step in program.playbook.steps:
        for name in _saved_by_step(program, step):
            yield ScopeName(name.name, name.kind, name.step, name.line, may_lack=True)


def _saved_on_paths(program: Program, target: str) -> Iterator[ScopeName]:
    """Yield the names that steps on the paths to a step save."""
    graph = program.cfg.graph
    is_linked = target == program.cfg.start or bool(graph.pred[target])
    sources = nx.ancestors(graph, target) if is_linked else graph.nodes - nx.descendants(graph, target)
    if target in program.cfg.cyclic_steps:
        sources |= {target}
    elif not is_linked:
        sources -= {target}
    solution = _solve(program)
    must = EMPTY if solution is None else solution.must.get(target, EMPTY)
    for step in program.symbols.steps.values():
        if step.name in sources:
            for name in _saved_by_step(program, step):
                may_lack = _may_lack(program, solution, name.name, must)
                yield ScopeName(name.name, name.kind, name.step, name.line, may_lack)


def _names_at_end(program: Program) -> Iterator[ScopeName]:
    solution = _solve(program)
    must = EMPTY if solution is None else solution.end_must
    for name in _saved_anywhere(program):
        yield ScopeName(
            name.name, name.kind, name.step, name.line, _may_lack(program, solution, name.name, must)
        )


def _may_lack(program: Program, solution: AssignmentSolution | None, name: str, must: FactSet) -> bool:
    """Return whether a saved name may be undefined where these facts hold. A given name never is."""
    playbook = program.playbook
    if name in playbook.environment or name in playbook.variables or name in (playbook.input or {}):
        return False
    return solution is None or not solution.table.bits.get(name, EMPTY) & must


def _solve(program: Program) -> AssignmentSolution | None:
    """Return the analysis of all saved names, or None if the program does not allow it."""
    if not program.is_well_formed:
        return None
    return program.result_of(analyse_assignment).solution
