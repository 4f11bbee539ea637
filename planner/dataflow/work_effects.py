"""Work effects: what the entries of a `run` require and add, in sequence, in parallel, and through tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import networkx as nx

from noetl.planner.dataflow.definitions import called_task
from noetl.planner.dataflow.fact_encoding import EncodedTemplate, FactTable
from noetl.planner.dataflow.infallible import is_infallible_action
from noetl.planner.dataflow.narrowing import ANY_RESULT, FAILED, RunResults
from noetl.planner.dataflow.transfer import (
    ALL_FACTS,
    EMPTY,
    FactSet,
    Implications,
    TaskEffects,
    UnmetCall,
    UnmetRead,
    split_facts,
    with_implied,
)
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.models import ActionEntry, Entry, TaskEntry


def task_effects(program: Program, table: FactTable) -> Mapping[str, TaskEffects]:
    """Return the effects of a call of each task.

    Callees come before callers. The facts at a call are unknown here, so implications do not apply.
    """
    tasks: dict[str, TaskEffects] = {}
    for name in reversed(list(nx.topological_sort(program.call_graph))):
        task = program.symbols.tasks[name]
        work = WorkInterpreter(table, tasks, {})
        state = work.run(task.run, WorkState(), parallel=task.parallel)
        tasks[name] = TaskEffects(
            work.reads,
            work.required,
            work.required_from_entry,
            state.assigned,
            state.may,
            may_fail(task.run, tasks),
            may_tolerate_failure(task.run, tasks, parallel=task.parallel),
        )
    return tasks


def find_first_reads(
    reads: Iterable[UnmetRead | UnmetCall], facts: FactSet, table: FactTable
) -> Iterator[UnmetRead]:
    """Yield the first template that requires each of these facts, in a step or in a task that it calls."""
    for read in reads:
        for fact in split_facts(read.facts & facts):
            facts ^= fact
            if isinstance(read, UnmetRead):
                yield read._replace(facts=fact)
                continue
            called = find_first_reads(read.task.reads, fact | table.base(fact), table)
            # A read of the fact itself, and not of the name that a clause is about, comes first.
            inner = min(called, key=lambda inner: inner.facts != fact, default=None)
            if inner is not None:
                yield UnmetRead(fact, inner.may | read.may, read.results, inner.use)


def may_fail(run: Iterable[Entry], tasks: Mapping[str, TaskEffects]) -> bool:
    """Return whether a `run` may fail although all that it reads is assigned."""
    for entry in run:
        if isinstance(entry, ActionEntry):
            if not is_infallible_action(entry):
                return True
        elif not isinstance(entry, str) or entry not in tasks or tasks[entry].may_fail:
            return True
    return False


def may_tolerate_failure(run: Sequence[Entry], tasks: Mapping[str, TaskEffects], *, parallel: bool) -> bool:
    """Return whether the result of a `run` may be a failure that `on_error: continue` tolerates."""
    for entry in run if parallel else run[-1:]:
        if isinstance(entry, ActionEntry | TaskEntry):
            is_tolerant_loop = entry.loop is not None and entry.loop.on_error == "continue"
            if entry.on_error is not None or is_tolerant_loop:
                return True
        task = entry.task if isinstance(entry, TaskEntry) else entry
        if isinstance(task, str) and task in tasks and tasks[task].may_tolerate_failure:
            return True
    return False


class WorkState(NamedTuple):
    """The facts that the work so far has certainly added (`assigned`) and may have added (`may`).

    `on_success` are the facts that hold if the result of the work is a success without any failure that
    `on_error: continue` tolerates. `results` are the results of the `run` that are possible here.
    """

    assigned: FactSet = EMPTY
    may: FactSet = EMPTY
    on_success: FactSet = EMPTY
    results: RunResults = ANY_RESULT


class WorkInterpreter:
    """The abstract interpretation of the work of one visit of a step, or of one call of a task.

    `reads` are the templates and calls so far that require facts, `required` all of these facts.
    """

    def __init__(
        self, table: FactTable, tasks: Mapping[str, TaskEffects], implications: Implications
    ) -> None:
        self.table = table
        self.tasks = tasks
        self.implications = implications
        self.reads: list[UnmetRead | UnmetCall] = []
        self.required = self.required_from_entry = EMPTY

    def _with_implied(self, facts: FactSet, may: FactSet) -> FactSet:
        """Return facts and what they imply, except for facts that the work itself may have added (`may`)."""
        certain = facts & ~may & (self.table.name_facts | self.table.run_succeeded)
        return facts | with_implied(certain, self.implications) if certain and self.implications else facts

    def assume(self, state: WorkState, facts: FactSet) -> WorkState:
        """Return the state where facts hold too, and what they imply."""
        return state._replace(assigned=state.assigned | self._with_implied(facts, state.may))

    def read(self, use: TemplateUse, template: EncodedTemplate, state: WorkState) -> None:
        """Add what a template requires in a state."""
        assigned = state.assigned
        if missing := template.required & ~assigned:
            self._require(use, missing, assigned, state)
        for facts, given in template.conditional:
            known = assigned | self._with_implied(given.assigned, state.may)
            if given.may_hold(assigned, state.results) and (missing := facts & ~known):
                self._require(use, missing, known, state)

    def _require(self, use: TemplateUse, missing: FactSet, known: FactSet, state: WorkState) -> None:
        if missing := self.table.weaken(missing, known):
            self.reads.append(UnmetRead(missing, state.may, state.results, use))
            self.required |= missing
            self.required_from_entry |= missing & ~state.may

    def run(self, run: Sequence[Entry], state: WorkState, *, parallel: bool) -> WorkState:
        """Return the state after the entries of a `run`.

        The result is that of the last entry, or of all in parallel.
        """
        if not parallel:
            for entry in run:
                state = self._entry(entry, state)
            return state
        assigned, may, on_success, results = state
        for entry in run:
            item = self._entry(entry, state)
            assigned |= item.assigned
            may |= item.may
            on_success |= item.on_success
        return WorkState(self.table.resolve(assigned), may, on_success, results)

    def _entry(self, entry: Entry, state: WorkState) -> WorkState:
        """Return the state after an entry: its `if`, its loop and its work, which may be skipped or fail."""
        state = state._replace(on_success=EMPTY)
        if isinstance(entry, str):
            return self._call(entry, state)
        if not isinstance(entry, ActionEntry | TaskEntry) or (entry.if_ is False and entry.loop is None):
            return state
        before, depth, templates = state.assigned, len(entry.path), self.table.templates.get(entry.path, ())
        evaluated, if_skipped = EMPTY, ALL_FACTS
        for use, template in templates:
            part = use.path[depth]
            if part == "retry":
                continue
            self.read(use, template, state)
            if part == "loop":
                state = self.assume(state, template.always.assigned)
            elif part == "if" and entry.loop is None:
                skipped = self.assume(state, template.false.assigned)
                if not template.true.may_hold(state.assigned, state.results):
                    return skipped
                if template.false.may_hold(state.assigned, state.results):
                    if_skipped = skipped.assigned
                state = self.assume(state, template.true.assigned)
            elif entry.loop is None and use.template.names.isdisjoint(use.local_names):
                evaluated |= template.always.assigned
        state = self._work(entry, self.assume(state, evaluated))
        for use, template in templates:
            if use.path[depth] == "retry":
                self.read(use, template, state._replace(results=FAILED))
        assigned = self.table.resolve(state.assigned & if_skipped)
        kept = assigned if entry.on_error is None else assigned & before
        return state._replace(assigned=kept, on_success=assigned)

    def _work(self, entry: ActionEntry | TaskEntry, state: WorkState) -> WorkState:
        """Return the state after the work of an entry has succeeded, where it was not skipped."""
        if isinstance(entry, TaskEntry):
            called = self._call(entry.task, state)
            state = called if entry.loop is None else state
        elif entry.never_succeeds and entry.loop is None:
            return state._replace(assigned=ALL_FACTS)
        saved = self.table.saved.get(entry.path, EMPTY)
        return state._replace(assigned=state.assigned | saved, may=state.may | saved)

    def _call(self, name: str, state: WorkState) -> WorkState:
        """Return the state after a call of a task. A name that is no task has no effect."""
        task = self.tasks.get(name)
        if task is None:
            return state
        if missing := self.table.weaken(task.required & ~state.assigned, state.assigned):
            self.reads.append(UnmetCall(missing, state.may, state.results, task))
            self.required |= missing
            self.required_from_entry |= task.required_from_entry & ~state.assigned & ~state.may
        return state._replace(assigned=state.assigned | task.gen, may=state.may | task.may_gen)

    def may_assign(self, run: Iterable[Entry]) -> FactSet:
        """Return the facts that a `run` may add."""
        facts = EMPTY
        for entry in run:
            if isinstance(entry, ActionEntry | TaskEntry):
                facts |= self.table.saved.get(entry.path, EMPTY)
            if (task := called_task(entry)) is not None and task in self.tasks:
                facts |= self.tasks[task].may_gen
        return facts
