"""The reads of cached work: the values from which the default key of its cache is made.

Problem: a result may be used again only if everything that it depends on is the same. The work of a step
consists of actions whose parameters are known only one after another.

Algorithm: the free names of the work (Church 1941), with the tasks that it calls. A name of a loop around the
work is free, that of a loop inside is bound. Of the sections of a run (`input`, `environment`, …), the entry
is read and not the section.

Cost: one pass over the templates of a playbook, and one over those of each cached step.

Limits: a name that the work itself saves before it reads it counts as read. This may cause a miss, and never
a wrong hit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import networkx as nx

from noetl.planner.catalogue import Parameter
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.syntax.entries import find_called_tasks
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Step

ReadPath = tuple[str, ...]
"""A name, or the name of a section of the run and that of an entry."""

SECTIONS = frozenset({"environment", "input", "loop", "run", "step", "steps"})
"""The names whose entries count one by one."""

VARYING = frozenset({("now",), ("run",), ("run", "id"), ("run", "started_at"), ("step",), ("uuid",)})
"""What has another value in each run, apart from most entries of `step`."""

_FIXED_OF_STEP = "name"
"""The entry of `step` that is the same in all runs."""

_OWN_KEYS = frozenset({"cache", "if", "loop", "retry"})
"""The keys of an action that are no parameters and may have templates."""


class CacheReads:
    """The reads of cached work of a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._by_step: defaultdict[str, list[TemplateUse]] = defaultdict(list)
        self._by_task: defaultdict[str, list[TemplateUse]] = defaultdict(list)
        self._by_entry: defaultdict[DocumentPath, list[TemplateUse]] = defaultdict(list)
        for use in program.uses:
            self._by_entry[use.entry_path].append(use)
            if use.scope is TemplateScope.WORK and use.entry_path:
                owner = self._by_task[use.task or ""] if use.step is None else self._by_step[use.step]
                owner.append(use)

    def of_step(self, step: Step) -> tuple[ReadPath, ...]:
        """Return what the work of a step reads, with the tasks that it calls."""
        bound = frozenset[str]() if step.loop is None else frozenset({step.loop.as_, "loop"})
        reads = {path for use in self._by_step[step.name] for path in _free_paths(use, bound)}
        for task in self.called_tasks(step):
            own_paths = (path for use in self._by_task[task] for path in _free_paths(use, frozenset()))
            reads |= {path for path in own_paths if path[0] != "args"}
        return tuple(sorted(reads))

    def of_action(self, entry: ActionEntry) -> tuple[ReadPath, ...]:
        """Return what the parameters of an action read."""
        uses = self._parameter_uses(entry)
        return tuple(sorted({path for use in uses for path in _paths(use)}))

    def of_deferred(self, entry: ActionEntry) -> tuple[ReadPath, ...]:
        """Return what those templates of an action read that only its handler evaluates."""
        parameters = {} if entry.declaration is None else entry.declaration.parameters
        deferred = frozenset(_deferred_names(parameters.values()))
        uses = (use for use in self._parameter_uses(entry) if deferred & use.template.names)
        return tuple(sorted({path for use in uses for path in _paths(use) if path[0] not in deferred}))

    def called_tasks(self, step: Step) -> list[str]:
        """Return the tasks that the work of a step calls, also through other tasks, sorted."""
        calls = self._program.call_graph
        called = {task for task in find_called_tasks(step.run or ()) if task in calls}
        return sorted(called.union(*(nx.descendants(calls, task) for task in called)))

    def _parameter_uses(self, entry: ActionEntry) -> list[TemplateUse]:
        """Return the templates in the parameters of an action."""
        length = len(entry.path)
        return [use for use in self._by_entry[entry.path] if use.path[length] not in _OWN_KEYS]


def is_varying(path: ReadPath) -> bool:
    """Return whether what is read has another value in each run.

    >>> is_varying(("step", "name")), is_varying(("step", "visit")), is_varying(("input", "id"))
    (False, True, False)
    """
    return path in VARYING or (path[0] == "step" and path[1] != _FIXED_OF_STEP)


def _paths(use: TemplateUse) -> Iterator[ReadPath]:
    """Yield what a template reads, apart from secrets."""
    for access in use.template.reads:
        if access[0] != "secrets":
            yield access[:2] if access[0] in SECTIONS else access[:1]


def _free_paths(use: TemplateUse, bound: frozenset[str]) -> Iterator[ReadPath]:
    """Yield what a template of a step reads. The loop of the step binds the names in `bound`."""
    inner = use.local_names - bound
    return (path for path in _paths(use) if path[0] not in inner)


def _deferred_names(parameters: Iterable[Parameter]) -> Iterator[str]:
    for parameter in parameters:
        yield from parameter.deferred_names
        yield from _deferred_names(parameter.fields.values())
