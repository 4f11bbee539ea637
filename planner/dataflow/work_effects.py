"""Work effects: what the entries of a `run` require and add, in sequence, in parallel, and through tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import networkx as nx

from noetl.planner.dataflow.definitions import called_task
from noetl.planner.dataflow.fact_encoding import EncodedFacts, EncodedTemplate, FactEncoder
from noetl.planner.dataflow.infallible import is_infallible_action
from noetl.planner.dataflow.narrowing import ANY_RESULT, FAILED, RunResults
from noetl.planner.dataflow.transfer import (
    ALL_FACTS,
    AssignmentState,
    FactSet,
    Implications,
    Requirements,
    TaskEffects,
)
from noetl.planner.graph.bitset import bit_indexes
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, Task, TaskEntry


class WorkAnalysis:
    """The analysis of all work of a playbook.

    `uses_by_owner` holds the templates of each entry, and of each other part of a step, by its path.
    `task_effects` holds the effects of each task. `implications`, once set, extend what guards say.
    """

    def __init__(self, program: Program, encoder: FactEncoder) -> None:
        self.symbols = program.symbols
        self.encoder = encoder
        self.implications: Implications | None = None
        self.uses_by_owner: dict[DocumentPath, list[TemplateUse]] = {}
        for use in program.uses:
            self.uses_by_owner.setdefault(use.entry_path or use.path, []).append(use)
        self.task_effects: dict[str, TaskEffects] = {}
        # Callees come before callers. The facts at a call are unknown here, so implications do not apply.
        for task in reversed(list(nx.topological_sort(program.call_graph))):
            self.task_effects[task] = self._analyse_task(self.symbols.tasks[task])

    def with_implied(self, facts: FactSet, may: FactSet) -> FactSet:
        """Return facts and what they imply, except for facts that the work itself may have added (`may`)."""
        certain = facts & ~may & self.encoder.name_facts
        if self.implications is None or not certain:
            return facts
        return facts | self.implications.implied_by(certain)

    def _analyse_task(self, task: Task) -> TaskEffects:
        requirements, state = Requirements(), AssignmentState()
        self.apply_run(task.run, state, requirements, parallel=task.parallel)
        return TaskEffects(
            requirements.required,
            requirements.required_from_entry,
            state.assigned,
            state.may,
            self.may_tolerate_failure(task.run, parallel=task.parallel),
            self.may_fail(task.run),
        )

    def apply_template(
        self,
        use: TemplateUse,
        assigned: FactSet,
        may: FactSet,
        requirements: Requirements,
        results: RunResults = ANY_RESULT,
    ) -> EncodedTemplate:
        """Add what a template requires, and return the template as fact sets."""
        template = self.encoder.encode(use)
        if missing := template.required & ~assigned:
            requirements.add(use, self.encoder.weaken(missing, assigned), may, results)
        for facts, given in template.conditional:
            known = assigned | self.with_implied(given.assigned, may)
            missing = self.encoder.weaken(facts & ~known, known)
            if missing and given.results & results and not given.unassigned & assigned:
                requirements.add(use, missing, may, results)
        return template

    def apply_run(
        self,
        run: Sequence[Entry],
        state: AssignmentState,
        requirements: Requirements,
        *,
        parallel: bool,
        results: RunResults = ANY_RESULT,
    ) -> None:
        """Apply the entries of a `run` to a state.

        The result is that of the last entry, or of all in parallel.
        """
        if not parallel:
            for entry in run:
                self.apply_entry(entry, state, requirements, results)
            return
        assigned, may = state.assigned, state.may
        for entry in run:
            item = AssignmentState(assigned, may)
            self.apply_entry(entry, item, requirements, results)
            state.assigned |= item.assigned
            state.may |= item.may
            state.assigned_on_success |= item.assigned_on_success
        state.assigned = self.encoder.resolve(state.assigned)

    def apply_entry(
        self, entry: Entry, state: AssignmentState, requirements: Requirements, results: RunResults
    ) -> None:
        """Apply one entry to a state: its `if`, its loop and its work, which may be skipped or fail."""
        state.assigned_on_success = 0
        if isinstance(entry, str):
            self.apply_call(entry, state, requirements, results)
            return
        if not isinstance(entry, ActionEntry | TaskEntry) or (entry.if_ is False and entry.loop is None):
            return
        before = assigned = state.assigned
        if_skipped: FactSet | None = None
        retry_uses: list[TemplateUse] = []
        uses = self.uses_by_owner.get(entry.path, ())
        depth = len(entry.path)
        for use in uses:
            part = use.path[depth]
            if part == "retry":
                retry_uses.append(use)
                continue
            template = self.apply_template(use, assigned, state.may, requirements, results)
            if part == "if" and entry.loop is None:
                after_false = assigned | self.with_implied(template.false.assigned, state.may)
                if not _is_reachable(template.true, assigned, results):
                    state.assigned = after_false
                    return
                if_skipped = after_false if _is_reachable(template.false, assigned, results) else None
                assigned |= self.with_implied(template.true.assigned, state.may)
            elif part == "loop":
                assigned |= self.with_implied(template.always.assigned, state.may)
                state.assigned = assigned
        assigned = self._apply_work(entry, assigned, state, requirements, results)
        for use in retry_uses:
            self.apply_template(use, assigned, state.may, requirements, FAILED)
        if if_skipped is not None:
            assigned &= if_skipped
        assigned = self.encoder.resolve(assigned)
        state.assigned_on_success = assigned
        state.assigned = assigned if entry.on_error is None else assigned & before

    def _apply_work(
        self,
        entry: ActionEntry | TaskEntry,
        assigned: FactSet,
        state: AssignmentState,
        requirements: Requirements,
        results: RunResults,
    ) -> FactSet:
        """Return the facts after the work of an entry has succeeded, where it was not skipped."""
        if entry.loop is None:
            depth = len(entry.path)
            for use in self.uses_by_owner.get(entry.path, ()):
                is_evaluated = use.path[depth] not in ("retry", "if")
                if is_evaluated and use.template.names.isdisjoint(use.local_names):
                    assigned |= self.with_implied(self.encoder.encode(use).always.assigned, state.may)
        if isinstance(entry, TaskEntry):
            inner = AssignmentState(assigned, state.may)
            self.apply_call(entry.task, inner, requirements, results)
            if entry.loop is None:
                assigned, state.may = inner.assigned, inner.may
        elif entry.never_succeeds and entry.loop is None:
            return ALL_FACTS
        saved = self.encoder.saved_by(entry)
        state.may |= saved
        return (state.assigned if entry.loop is not None else assigned) | saved

    def apply_call(
        self, name: str, state: AssignmentState, requirements: Requirements, results: RunResults
    ) -> None:
        """Apply a call of a task to a state. A name that is no task has no effect."""
        effects = self.task_effects.get(name)
        if effects is None:
            return
        missing = self.encoder.weaken(effects.required & ~state.assigned, state.assigned)
        if traced := missing & requirements.traced:
            self._trace_task_reads(self.symbols.tasks[name], traced, state.may, requirements, results)
        requirements.required |= missing
        requirements.required_from_entry |= effects.required_from_entry & ~state.assigned & ~state.may
        state.assigned |= effects.gen
        state.may |= effects.may_gen

    def _trace_task_reads(
        self, task: Task, traced: FactSet, may: FactSet, requirements: Requirements, results: RunResults
    ) -> None:
        """Find the first templates in a task that require the traced facts."""
        bases = {1 << index: self.encoder.base(1 << index) for index in bit_indexes(traced)}
        inner = Requirements(traced=traced)
        for base in bases.values():
            inner.traced |= base
        with self._without_implications():
            self.apply_run(task.run, AssignmentState(0, may), inner, parallel=task.parallel, results=results)
        for bit, base in bases.items():
            if (read := inner.first_reads.get(bit, inner.first_reads.get(base))) is not None:
                requirements.first_reads[bit] = read
                requirements.traced &= ~bit

    @contextmanager
    def _without_implications(self) -> Iterator[None]:
        """Analyse without implications in this block, as `_analyse_task` has done."""
        implications, self.implications = self.implications, None
        try:
            yield
        finally:
            self.implications = implications

    def may_fail(self, run: Iterable[Entry]) -> bool:
        """Return whether a `run` may fail although all that it reads is assigned."""
        for entry in run:
            if isinstance(entry, ActionEntry):
                if not is_infallible_action(entry):
                    return True
            elif (
                not isinstance(entry, str)
                or entry not in self.task_effects
                or self.task_effects[entry].may_fail
            ):
                return True
        return False

    def may_tolerate_failure(self, run: Sequence[Entry], *, parallel: bool) -> bool:
        """Return whether the result of a `run` may be a failure that `on_error: continue` tolerates."""
        return any(map(self._may_tolerate_failure, run if parallel else run[-1:]))

    def _may_tolerate_failure(self, entry: Entry) -> bool:
        if isinstance(entry, ActionEntry | TaskEntry):
            is_tolerant_loop = entry.loop is not None and entry.loop.on_error == "continue"
            if entry.on_error is not None or is_tolerant_loop:
                return True
        task = entry.task if isinstance(entry, TaskEntry) else entry
        return (
            isinstance(task, str)
            and task in self.task_effects
            and self.task_effects[task].may_tolerate_failure
        )

    def may_assign(self, run: Iterable[Entry]) -> FactSet:
        """Return the facts that a `run` may add."""
        facts = 0
        for entry in run:
            facts |= self.encoder.saved_by(entry)
            if (task := called_task(entry)) is not None and task in self.task_effects:
                facts |= self.task_effects[task].may_gen
        return facts


def _is_reachable(facts: EncodedFacts, assigned: FactSet, results: RunResults) -> bool:
    """Return whether facts can hold after a guard, given the possible results and the facts before it."""
    return bool(facts.results & results) and not facts.unassigned & assigned
