"""The program: a parsed playbook with the results of all analyses that checks and lowering read.

Each result is computed on first use and cached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import networkx as nx

from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostics, Label, Span
from noetl.planner.frozen import replace
from noetl.planner.graph.cfg import ControlFlowGraph
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
from noetl.planner.program.possible_values import PossibleValues, SavedName
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.entries import find_called_tasks, find_saved_names, is_saved_by_key
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
from noetl.planner.syntax.symbols import SymbolTable
from noetl.planner.templates.template import has_template

if TYPE_CHECKING:
    CallGraph = nx.DiGraph[str]

T = TypeVar("T")

MAX_GUARD_SEARCH = 200_000
"""How many steps all searches for values of guards take together."""


class EntryPlace(NamedTuple):
    """An entry of a `run`, its path, and the case that contains it, if any."""

    entry: Entry
    path: DocumentPath
    case: Case | None


@dataclass(frozen=True)
class Program:
    """A playbook that is compiled.

    Attributes:
        playbook: the syntax model.
        document: the text, for the positions of values.
        catalogue: the action types.
        diagnostics: the collected findings.
        uses: the templates that runs evaluate.
        broken_steps: names of steps that could not be parsed completely.
        broken_tasks: names of tasks that could not be parsed completely.
        lost_names: names that the parts which could not be parsed would have saved.
        target: the platform on which the playbook is to run, if known: `lambda`.
        trigger_uses: the templates of the triggers, which are evaluated before there is a run.
        analyses_all_names: whether the assignment analysis has the names that no template reads, too.
    """

    playbook: Playbook
    document: Document
    catalogue: Catalogue
    diagnostics: Diagnostics
    uses: tuple[TemplateUse, ...]
    broken_steps: frozenset[str] = frozenset()
    broken_tasks: frozenset[str] = frozenset()
    lost_names: frozenset[str] = frozenset()
    target: str | None = None
    trigger_uses: tuple[TemplateUse, ...] = ()
    analyses_all_names: bool = False

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
        """Add a finding at the value at `path`; with `key`, at the key that leads to it."""
        span = self.document.key_span(path) if key else self.document.span(path)
        self.diagnostics.add(code, message, span, hint, severity=severity, labels=labels)

    def name_span(self, item: Step | Task) -> Span:
        """Return the span of the name of a step or task. If `tasks` is a mapping, this is a key."""
        path = item.path
        return (
            self.document.key_span(path) if isinstance(path[-1], str) else self.document.span((*path, "name"))
        )

    def result_of(self, analyse: Callable[[Program], T]) -> T:
        """Return analyse(program), for an analysis that several others need. It is computed once."""
        if analyse not in self._results:
            self._results[analyse] = analyse(self)
        result: T = self._results[analyse]
        return result

    @cached_property
    def _results(self) -> dict[Callable[[Program], Any], Any]:
        return {}

    @cached_property
    def symbols(self) -> SymbolTable:
        """The steps and tasks by name."""
        return SymbolTable.build(self.playbook)

    @cached_property
    def duplicate_steps(self) -> frozenset[str]:
        """The names that several steps share. Which of them a case leads to is not defined."""
        counts = Counter(step.name for step in self.playbook.steps)
        return frozenset(name for name, count in counts.items() if count > 1)

    @cached_property
    def cfg(self) -> ControlFlowGraph:
        """The control-flow graph."""
        return ControlFlowGraph.build(self.playbook, self.symbols)

    @cached_property
    def joins(self) -> Joins:
        """The joins of the control-flow graph."""
        modes = {step.name: step.join for step in self.symbols.steps.values() if step.join != "all"}
        return find_joins(self.cfg, modes)

    def cfg_without(self, unreachable_cases: AbstractSet[tuple[str, int]]) -> ControlFlowGraph:
        """Return the control-flow graph without dead cases and without the cases in `unreachable_cases`
        (step, index).

        Its joins are those of the whole graph, which the plan contains.
        """
        dead = {*unreachable_cases}
        for step in self.symbols.steps.values():
            dead.update((step.name, dead_case.case) for dead_case in self.dead_cases(step))
        if not any(self.cfg.targets[name][index] for name, index in dead):
            return self.cfg
        targets = {
            name: tuple(() if (name, index) in dead else case for index, case in enumerate(cases))
            for name, cases in self.cfg.targets.items()
        }
        return ControlFlowGraph(self.cfg.start, targets)

    @cached_property
    def rule_coverage(self) -> Mapping[DocumentPath, RuleCoverage]:
        """The coverage of each rule, by the path of its step."""
        budget = SearchBudget(MAX_GUARD_SEARCH)
        playbook = self.playbook
        assignable = self.definitions.keys() | playbook.variables.keys() | playbook.environment.keys()
        inputs = playbook.input or {}
        constant_inputs = frozenset(inputs.keys() - assignable - self.lost_names)
        return {
            step.path: analyse_coverage(
                [self._guarded_case(step, case) for case in step.rule],
                GuardContext(
                    inputs,
                    constant_inputs,
                    may_succeed_despite_failure(step),
                    step.name in self.refusable_steps,
                    self._may_raise_refusal(step),
                    self.possible_values.__getitem__,
                ),
                budget,
            )
            for step in playbook.steps
            if step.rule
        }

    @cached_property
    def possible_values(self) -> PossibleValues:
        """The possible values of names that are always one of a few literals."""
        return PossibleValues(self.playbook, self.saved_names, self.lost_names)

    def dead_cases(self, step: Step) -> Iterable[DeadCase]:
        """Return the cases of a step that its guards never let be taken."""
        return self.rule_coverage[step.path].dead_cases if step.rule else ()

    @cached_property
    def refusable_steps(self) -> AbstractSet[str]:
        """The steps of which a visit may be refused for `max_visits`."""
        bounded = frozenset(step.name for step in self.playbook.steps if step.max_visits is not None)
        if not bounded or not self.is_well_formed:
            return bounded
        return bounded - (self.cfg.reachable - self.cfg.cyclic_steps - self.joins.multi_merges)

    def _may_raise_refusal(self, step: Step) -> bool:
        """Return whether an action may give a failure of the step the error type of a refused visit."""
        return (
            not self.is_well_formed or self._may_any_task_raise_refusal or _may_raise_refusal(step.run or ())
        )

    @cached_property
    def _may_any_task_raise_refusal(self) -> bool:
        return any(_may_raise_refusal(task.run) for task in self.playbook.tasks)

    @cached_property
    def unknown_targets(self) -> Sequence[tuple[str, str]]:
        """The steps that cases name and that do not exist, each after the step that names it."""
        symbols = self.symbols
        return [
            (step.name, target)
            for step in self.playbook.steps
            for case in step.rule or ()
            for entry in case.run
            if (target := symbols.target(entry)) is not None and target not in symbols.steps
        ]

    @cached_property
    def is_well_formed(self) -> bool:
        """True if every named step and task exists once and could be parsed, and the joins could be compiled.

        If not, an error reports the cause, and checks do not report its consequences.
        """
        symbols = self.symbols
        return (
            not (self.broken_steps or self.broken_tasks or self.lost_names or self.duplicate_steps)
            and len(symbols.tasks) == len(self.playbook.tasks)
            and (self.playbook.start is None or self.playbook.start in symbols.steps)
            and not self.unknown_targets
            and all(
                self._is_well_formed_case(case) for step in symbols.steps.values() for case in step.rule or ()
            )
            and nx.is_directed_acyclic_graph(self.call_graph)
            and not (self.joins.is_too_large or self.joins.overlapping_cycles)
        )

    def _is_well_formed_case(self, case: Case) -> bool:
        symbols = self.symbols
        work = symbols.work(case)
        return (
            (not work or len(work) == len(case.run))
            and all(entry.task in symbols.tasks for entry in work if isinstance(entry, TaskEntry))
            and not any(isinstance(entry, str) and entry in symbols.steps for entry in work)
        )

    def _guarded_case(self, step: Step, case: Case) -> GuardedCase:
        guarded = make_guarded_case(case.case)
        if step.max_visits is None or not guarded.is_error_aware:
            return guarded
        targets = self.symbols.targets(case)
        is_known = step.name in self.cfg.component_index and step.name not in self.duplicate_steps
        return replace(
            guarded, leads_back=self.cfg.leads_back(step.name, targets) if is_known else bool(targets)
        )

    @cached_property
    def call_graph(self) -> CallGraph:
        """An edge from each task to every task that it calls."""
        calls: CallGraph = nx.DiGraph()
        calls.add_nodes_from(self.symbols.tasks)
        for name, task in self.symbols.tasks.items():
            called_tasks = find_called_tasks(task.run)
            calls.add_edges_from((name, called) for called in called_tasks if called in self.symbols.tasks)
        return calls

    @cached_property
    def call_sites(self) -> Mapping[str, list[TaskEntry]]:
        """Every call of each task. A call by name alone is included as an entry without arguments."""
        sites: dict[str, list[TaskEntry]] = {}
        for work in self.work_lists():
            for entry in work:
                if isinstance(entry, TaskEntry):
                    sites.setdefault(entry.task, []).append(entry)
                elif isinstance(entry, str) and entry in self.symbols.tasks:
                    sites.setdefault(entry, []).append(TaskEntry(task=entry))
        return sites

    @cached_property
    def definitions(self) -> Mapping[str, DocumentPath]:
        """Every name that an entry saves for later steps, with its first definition."""
        definitions: dict[str, DocumentPath] = {}
        for saved in self.saved_names:
            if not (saved.is_entry_local or saved.is_step_local):
                definitions.setdefault(saved.name, saved.path)
        return definitions

    @cached_property
    def saved_names(self) -> Sequence[SavedName]:
        """Every name that an entry of a task, a step or a case saves."""
        return [*self._find_saved_names()]

    def _find_saved_names(self) -> Iterator[SavedName]:
        for task in self.playbook.tasks:
            yield from _saved_names_of(task.run, None)
        for step in self.playbook.steps:
            yield from _saved_names_of(step.run or (), step, is_step_local=step.loop is not None)
            for case in step.rule or ():
                yield from _saved_names_of(case.run, step)

    @cached_property
    def defined_names(self) -> AbstractSet[str]:
        """Every name to which the playbook assigns a value somewhere."""
        playbook = self.playbook
        given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
        return self.definitions.keys() | given | self.lost_names

    @cached_property
    def entries(self) -> Sequence[EntryPlace]:
        """Every entry of a `run`."""
        return [*self._find_entries()]

    def _find_entries(self) -> Iterator[EntryPlace]:
        for task in self.playbook.tasks:
            yield from (
                EntryPlace(entry, (*task.run_path, index), None) for index, entry in enumerate(task.run)
            )
        for step in self.playbook.steps:
            for index, entry in enumerate(step.run or ()):
                yield EntryPlace(entry, (*step.path, "run", index), None)
            for case in step.rule or ():
                for index, entry in enumerate(case.run):
                    yield EntryPlace(entry, (*case.path, "run", index), case)

    def work_lists(self) -> Iterable[list[Entry]]:
        """Yield the `run` of every task, step and case."""
        for task in self.playbook.tasks:
            yield task.run
        for step in self.playbook.steps:
            yield step.run or []
            for case in step.rule or ():
                yield case.run


def _saved_names_of(
    work: Iterable[Entry], step: Step | None, *, is_step_local: bool = False
) -> Iterator[SavedName]:
    for entry in work:
        if isinstance(entry, ActionEntry | TaskEntry):
            for name, path in find_saved_names([entry], in_loops=True):
                is_key = is_saved_by_key(path)
                is_entry_local = entry.loop is not None and is_key
                yield SavedName(name, path, entry.path, entry, step, is_key, is_entry_local, is_step_local)


def _may_raise_refusal(work: Iterable[Entry]) -> bool:
    for entry in work:
        if isinstance(entry, ActionEntry) and entry.declaration and entry.declaration.error_type:
            type_ = entry.parameters.get(entry.declaration.error_type, "")
            if not isinstance(type_, str) or has_template(type_) or type_ == REFUSAL_TYPE:
                return True
    return False


def may_succeed_despite_failure(step: Step) -> bool:
    """Return whether the work of a step may count as a success although part of it has failed.

    Sequential work counts by its last entry, parallel work by all entries.
    """
    if step.loop is not None:
        return step.loop.on_error == "continue"
    work = step.run or []
    return any(
        not isinstance(entry, ActionEntry)
        or entry.on_error == "continue"
        or (entry.loop is not None and entry.loop.on_error == "continue")
        for entry in (work if step.parallel else work[-1:])
    )
