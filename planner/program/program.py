"""What a check is given: the playbook from every side that an earlier pass has worked out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx
from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostics, Label, Span
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.graph.joins import Joins
from noetl.planner.guards.coverage import (
    REFUSAL_TYPE,
    DeadCase,
    GuardContext,
    GuardedCase,
    RuleCoverage,
    analyse_coverage,
    make_guarded_case,
)
from noetl.planner.guards.solver import SearchBudget
from noetl.planner.program.template_uses import Use
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.entries import find_called_tasks, find_saved_names
from noetl.planner.syntax.models import (
    ActionEntry,
    Case,
    DocumentPath,
    Entry,
    Playbook,
    Step,
    Task,
    TaskEntry,
)
from noetl.planner.syntax.symbols import Names
from noetl.planner.templates.template import has_template

if TYPE_CHECKING:
    TaskGraph = nx.DiGraph[str]

MAX_REASONING = 200_000
"""How many steps all searches for values of guards may take together."""


@dataclass(frozen=True)
class Subject:
    """A playbook under check.

    `broken_steps` and `broken_tasks` are names whose definitions could not be read as a whole, `lost_names` those that
    the parts left out would have saved. `target` is where the playbook is to run, if that is known: `lambda`.
    """

    playbook: Playbook
    document: Document
    catalogue: Catalogue
    diagnostics: Diagnostics
    uses: tuple[Use, ...]
    broken_steps: frozenset[str] = frozenset()
    broken_tasks: frozenset[str] = frozenset()
    lost_names: frozenset[str] = frozenset()
    target: str | None = None

    def report(
        self,
        code: str,
        message: str,
        path: DocumentPath,
        hint: str | None = None,
        labels: Iterable[Label] = (),
        *,
        key: bool = False,
        severity: Severity | None = None,
    ) -> None:
        """Add a finding at the value at `path`, or with `key` at the key that leads to it."""
        span = self.document.key_span(path) if key else self.document.span(path)
        self.diagnostics.add(code, message, span, hint, severity=severity, labels=labels)

    def name_span(self, item: Step | Task) -> Span:
        """Where the name of a step or task stands; where `tasks` is a mapping, that is a key."""
        path = item.path
        return (
            self.document.key_span(path) if isinstance(path[-1], str) else self.document.span((*path, "name"))
        )

    @cached_property
    def names(self) -> Names:
        return Names.of(self.playbook)

    @cached_property
    def repeated_steps(self) -> frozenset[str]:
        """The names that several steps have: what leads to which of them, and where they lead, nobody can know."""
        counted = Counter(step.name for step in self.playbook.steps)
        return frozenset(name for name, number in counted.items() if number > 1)

    @cached_property
    def flow(self) -> Flow:
        return Flow.of(self.playbook, self.names)

    @cached_property
    def joins(self) -> Joins:
        modes = {step.name: step.join for step in self.names.steps.values() if step.join != "all"}
        return find_joins(self.flow, modes)

    def taken(self, untaken: AbstractSet[tuple[str, int]]) -> Flow:
        """The flow without the cases of steps that are never taken: these and those that their guards tell. Its joins are
        those of the whole flow, which a plan has.
        """
        dead = {*untaken}
        for step in self.names.steps.values():
            dead.update((step.name, one.case) for one in self.dead_cases(step))
        if not any(self.flow.targets[name][at] for name, at in dead):
            return self.flow
        targets = {
            name: tuple(() if (name, at) in dead else case for at, case in enumerate(cases))
            for name, cases in self.flow.targets.items()
        }
        return Flow(self.flow.start, targets)

    @cached_property
    def verdicts(self) -> Mapping[DocumentPath, RuleCoverage]:
        """What can become of the rule of each step that has one, by the step's path."""
        budget = SearchBudget(MAX_REASONING)
        own = (
            self.produced.keys()
            | self.playbook.variables.keys()
            | self.playbook.environment.keys()
            | self.lost_names
        )
        inputs = self.playbook.input or {}
        plain = frozenset(inputs.keys() - own)
        return {
            step.path: analyse_coverage(
                [self._candidate(step, case) for case in step.rule],
                GuardContext(
                    inputs,
                    plain,
                    may_be_forgiven(step),
                    self.may_be_refused(step),
                    self._may_say_refused(step),
                ),
                budget,
            )
            for step in self.playbook.steps
            if step.rule
        }

    def dead_cases(self, step: Step) -> Iterable[DeadCase]:
        """The cases of a step that its guards never let be taken."""
        return self.verdicts[step.path].dead_cases if step.rule else ()

    def may_be_refused(self, step: Step) -> bool:
        """Whether a step may be visited more often than it allows."""
        if step.max_visits is None or not self.is_whole or step.name not in self.flow.reachable:
            return step.max_visits is not None
        return self.flow.is_cyclic(step.name) or step.name in self.joins.multi

    def _may_say_refused(self, step: Step) -> bool:
        """Whether a `fail` may give a failure of the step the type of a refusal."""
        return not self.is_whole or self._a_task_may_say_refused or _may_say_refused(step.run or ())

    @cached_property
    def _a_task_may_say_refused(self) -> bool:
        return any(_may_say_refused(task.run) for task in self.playbook.tasks)

    @cached_property
    def unknown_targets(self) -> Sequence[tuple[str, str]]:
        """The steps that cases name and that do not exist, each with the step that names it."""
        names = self.names
        return [
            (step.name, target)
            for step in self.playbook.steps
            for case in step.rule or ()
            for entry in case.run
            if (target := names.target(entry)) is not None and target not in names.steps
        ]

    @cached_property
    def is_whole(self) -> bool:
        """Whether every step and task that is named is there, once, and could be read; and all branches can move.

        Where this is not so, the error that says so is the root: what follows from it is not looked at.
        """
        names = self.names
        return (
            not (self.broken_steps or self.broken_tasks or self.lost_names or self.repeated_steps)
            and len(names.tasks) == len(self.playbook.tasks)
            and (self.playbook.start is None or self.playbook.start in names.steps)
            and not self.unknown_targets
            and all(self._is_known(case) for step in names.steps.values() for case in step.rule or ())
            and nx.is_directed_acyclic_graph(self.task_calls)
            and not (self.joins.is_too_large or self.joins.runaways)
        )

    def _is_known(self, case: Case) -> bool:
        names = self.names
        work = names.work(case)
        return (
            (not work or len(work) == len(case.run))
            and all(entry.task in names.tasks for entry in work if isinstance(entry, TaskEntry))
            and not any(isinstance(entry, str) and entry in names.steps for entry in work)
        )

    def _candidate(self, step: Step, case: Case) -> GuardedCase:
        candidate = make_guarded_case(case.case)
        if step.max_visits is None or not candidate.is_error_aware:
            return candidate
        targets = self.names.targets(case)
        known = step.name in self.flow.component and step.name not in self.repeated_steps
        return replace(
            candidate, leads_back=self.flow.leads_back(step.name, targets) if known else bool(targets)
        )

    @cached_property
    def task_calls(self) -> TaskGraph:
        """An edge from each task to every task it calls."""
        calls: TaskGraph = nx.DiGraph()
        calls.add_nodes_from(self.names.tasks)
        for name, task in self.names.tasks.items():
            calls.add_edges_from(
                (name, called) for called in find_called_tasks(task.run) if called in self.names.tasks
            )
        return calls

    @cached_property
    def calls(self) -> Mapping[str, list[TaskEntry]]:
        """Every call of each task, plain names included."""
        calls: dict[str, list[TaskEntry]] = {}
        for run in self.runs():
            for entry in run:
                if isinstance(entry, TaskEntry):
                    calls.setdefault(entry.task, []).append(entry)
                elif isinstance(entry, str) and entry in self.names.tasks:
                    calls.setdefault(entry, []).append(TaskEntry(task=entry))
        return calls

    @cached_property
    def produced(self) -> Mapping[str, DocumentPath]:
        """Every name that `as` or `set` saves somewhere, with the first place where one does."""
        found: dict[str, DocumentPath] = {}
        for run in self._saving():
            for name, path in find_saved_names(run):
                found.setdefault(name, path)
        return found

    @cached_property
    def known_names(self) -> AbstractSet[str]:
        """Every name that has a value somewhere without being a word of the language."""
        playbook = self.playbook
        given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
        return self.produced.keys() | given | self.lost_names

    @cached_property
    def entries(self) -> Sequence[tuple[Entry, DocumentPath, Case | None]]:
        """Every entry of a `run`, its place, and the case it belongs to if it is in one."""
        return [*self._entries()]

    def _entries(self) -> Iterator[tuple[Entry, DocumentPath, Case | None]]:
        for task in self.playbook.tasks:
            yield from ((entry, (*task.run_path, index), None) for index, entry in enumerate(task.run))
        for step in self.playbook.steps:
            for index, entry in enumerate(step.run or ()):
                yield entry, (*step.path, "run", index), None
            for case in step.rule or ():
                for index, entry in enumerate(case.run):
                    yield entry, (*case.path, "run", index), case

    def runs(self) -> Iterable[list[Entry]]:
        """All lists of entries: of tasks, of steps and of cases."""
        for task in self.playbook.tasks:
            yield task.run
        for step in self.playbook.steps:
            yield step.run or []
            for case in step.rule or ():
                yield case.run

    def _saving(self) -> Iterable[list[Entry]]:
        """The runs whose names can be read behind them: what is saved inside a loop of a step is local to the item."""
        for task in self.playbook.tasks:
            yield task.run
        for step in self.playbook.steps:
            yield [] if step.loop is not None else step.run or []
            for case in step.rule or ():
                yield case.run


def _may_say_refused(run: Iterable[Entry]) -> bool:
    fails = (entry for entry in run if isinstance(entry, ActionEntry) and entry.action == "fail")
    types = (entry.parameters.get("type", "") for entry in fails)
    return any(not isinstance(type_, str) or has_template(type_) or type_ == REFUSAL_TYPE for type_ in types)


def may_be_forgiven(step: Step) -> bool:
    """Whether the work of the step may count as a success although something in it has failed: the last of it, or anything where
    all goes together.
    """
    if step.loop is not None:
        return step.loop.on_error == "continue"
    run = step.run or []
    return any(
        not isinstance(entry, ActionEntry)
        or entry.on_error == "continue"
        or (entry.loop is not None and entry.loop.on_error == "continue")
        for entry in (run if step.parallel else run[-1:])
    )
