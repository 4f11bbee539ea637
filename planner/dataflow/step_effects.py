"""Step effects: what a visit of each step requires, and the facts after each of its exits.

Problem: A visit runs the `run` of a step, which may succeed or fail, and then evaluates the cases of its rule
in order. Each guard may be true or false, and each says something about the facts where its case is taken.

Algorithm: Abstract interpretation (Cousot and Cousot 1977) of one visit. Each entry of the `run` turns one
`AbstractState` into the next. The rule is evaluated in two states, after success and after failure. Each
guard splits a state: taken, where it is true, and passed, where it is false. Which cases can be taken at all
comes from `noetl.planner.guards.coverage`.

Cost: Linear in the number of entries and cases of the step; tasks are summarised once.

Limits: Facts at the entry of the step are unknown here. What depends on them becomes a requirement or a
precondition of an exit (see `noetl.planner.dataflow.transfer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import networkx as nx

from noetl.planner.dataflow.definitions import called_task
from noetl.planner.dataflow.fact_encoding import EncodedFacts, EncodedTemplate, FactTable
from noetl.planner.dataflow.infallible import may_visit_fail, may_work_fail
from noetl.planner.dataflow.narrowing import FAILED, NO_RESULT, NOT_FAILED, SUCCEEDED
from noetl.planner.dataflow.transfer import (
    ALL_FACTS,
    EMPTY,
    AbstractState,
    FactSet,
    Implications,
    StepEffects,
    StepExit,
    TaskEffects,
    UnmetCall,
    UnmetRead,
    with_implied,
)
from noetl.planner.guards.coverage import RuleCoverage
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.syntax.models import ActionEntry, Case, Entry, Step, TaskEntry

NO_IMPLICATIONS: Implications = {}


def step_effects(
    program: Program,
    table: FactTable,
    implications: Implications = NO_IMPLICATIONS,
    *,
    names: Iterable[str] | None = None,
    assumes_worker_loss: bool = False,
) -> Mapping[str, StepEffects]:
    """Return the effects of each step, or of these, where the given implications hold.

    With `assumes_worker_loss` every step may fail, however infallible its work, because a worker may be lost.
    """
    work = _WorkInterpreter(table, _task_effects(program, table), implications)
    steps = program.symbols.steps
    return {
        name: _StepInterpreter(work, program, steps[name], may_fail=assumes_worker_loss).effects()
        for name in (steps if names is None else names)
    }


def output_effects(
    program: Program, table: FactTable, implications: Implications, known: FactSet
) -> StepEffects:
    """Return what the output requires besides known facts."""
    work = _WorkInterpreter(table, _task_effects(program, table), implications)
    for use, template in (item for items in table.templates.values() for item in items):
        if use.scope is TemplateScope.OUTPUT:
            work.read(use, template, AbstractState(known))
    return StepEffects(work.reads, work.required, work.required_from_entry)


def _task_effects(program: Program, table: FactTable) -> Mapping[str, TaskEffects]:
    """Return the effects of a call of each task.

    Callees come before callers. The facts at a call are unknown here, so implications do not apply.
    """
    tasks: dict[str, TaskEffects] = {}
    for name in reversed(list(nx.topological_sort(program.call_graph))):
        task = program.symbols.tasks[name]
        work = _WorkInterpreter(table, tasks, {})
        state = work.run(task.run, AbstractState(), parallel=task.parallel)
        tasks[name] = TaskEffects(
            work.reads,
            work.required,
            work.required_from_entry,
            state.assigned,
            state.may,
            may_work_fail(task.run, tasks),
            _may_tolerate_failure(task.run, tasks, parallel=task.parallel),
        )
    return tasks


def _may_tolerate_failure(run: Sequence[Entry], tasks: Mapping[str, TaskEffects], *, parallel: bool) -> bool:
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


class _WorkInterpreter:
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

    def _assume(self, state: AbstractState, facts: FactSet) -> AbstractState:
        """Return the state where facts hold too, and what they imply."""
        if not facts:
            return state
        return state._replace(assigned=state.assigned | self._with_implied(facts, state.may))

    def read(self, use: TemplateUse, template: EncodedTemplate, state: AbstractState) -> None:
        """Add what a template requires in a state."""
        assigned = state.assigned
        if missing := template.required & ~assigned:
            self._require(use, missing, assigned, state)
        for facts, given in template.conditional:
            known = assigned | self._with_implied(given.assigned, state.may)
            if _may_hold(given, state) and (missing := facts & ~known):
                self._require(use, missing, known, state)

    def _require(self, use: TemplateUse, missing: FactSet, known: FactSet, state: AbstractState) -> None:
        if missing := self.table.weaken(missing, known):
            self.reads.append(UnmetRead(missing, state.may, state.results, use))
            self.required |= missing
            self.required_from_entry |= missing & ~state.may

    def run(self, run: Sequence[Entry], state: AbstractState, *, parallel: bool) -> AbstractState:
        """Return the state after the entries of a `run`.

        The result is that of the last entry, or of all in parallel.
        """
        if not parallel:
            for entry in run:
                state = self._entry(entry, state)
            return state
        assigned, may, on_success = state.assigned, state.may, state.on_success
        for entry in run:
            item = self._entry(entry, state)
            assigned |= item.assigned
            may |= item.may
            on_success |= item.on_success
        assigned = self.table.resolve(assigned)
        return state._replace(assigned=assigned, may=may, on_success=on_success)

    def _entry(self, entry: Entry, state: AbstractState) -> AbstractState:
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
                state = self._assume(state, template.always.assigned)
            elif part == "if" and entry.loop is None:
                skipped = self._assume(state, template.false.assigned)
                if not _may_hold(template.true, state):
                    return skipped
                if _may_hold(template.false, state):
                    if_skipped = skipped.assigned
                state = self._assume(state, template.true.assigned)
            elif entry.loop is None and use.template.names.isdisjoint(use.local_names):
                evaluated |= template.always.assigned
        state = self._work(entry, self._assume(state, evaluated))
        for use, template in templates:
            if use.path[depth] == "retry":
                self.read(use, template, state._replace(results=FAILED))
        assigned = self.table.resolve(state.assigned & if_skipped)
        kept = assigned if entry.on_error is None else assigned & before
        return state._replace(assigned=kept, on_success=assigned)

    def _work(self, entry: ActionEntry | TaskEntry, state: AbstractState) -> AbstractState:
        """Return the state after the work of an entry has succeeded, where it was not skipped."""
        if isinstance(entry, TaskEntry):
            called = self._call(entry.task, state)
            state = called if entry.loop is None else state
        elif entry.never_succeeds and entry.loop is None:
            return state._replace(assigned=ALL_FACTS)
        saved = self.table.saved.get(entry.path, EMPTY)
        return state._replace(assigned=state.assigned | saved, may=state.may | saved)

    def _call(self, name: str, state: AbstractState) -> AbstractState:
        """Return the state after a call of a task. A name that is no task has no effect."""
        task = self.tasks.get(name)
        if task is None:
            return state
        if missing := self.table.weaken(task.required & ~state.assigned, state.assigned):
            self.reads.append(UnmetCall(missing, state.may, state.results, task))
            self.required |= missing
            self.required_from_entry |= task.required_from_entry & ~state.assigned & ~state.may
        return state._replace(assigned=state.assigned | task.gen, may=state.may | task.may_gen)

    def _may_assign(self, run: Iterable[Entry]) -> FactSet:
        """Return the facts that a `run` may add."""
        facts = EMPTY
        for entry in run:
            if isinstance(entry, ActionEntry | TaskEntry):
                facts |= self.table.saved.get(entry.path, EMPTY)
            if self.tasks and (task := self.tasks.get(called_task(entry) or "")) is not None:
                facts |= task.may_gen
        return facts


class _StepInterpreter(_WorkInterpreter):
    """The abstract interpretation of one visit of a step.

    After MaxVisitsExceeded the cases that lead back to the step are skipped. Given `shadowing` facts, which
    the step itself requires or adds, some earlier case is always taken after success. Given `refuting` facts,
    the guard of the present case is false.
    """

    def __init__(self, work: _WorkInterpreter, program: Program, step: Step, *, may_fail: bool) -> None:
        super().__init__(work.table, work.tasks, work.implications)
        self.step = step
        self.targets: Sequence[tuple[str, ...]] = program.cfg.targets[step.name]
        self.coverage = program.rule_coverage.get(step.path, RuleCoverage())
        self.visited = self.table.closures.get(f"steps.{step.name}", EMPTY)
        self.may_fail = may_fail or may_visit_fail(step, self.tasks)
        self.may_be_refused = step.name in program.refusable_steps
        self.ends_run = (step.on_error or program.playbook.on_error) != "continue"
        self.exits: list[StepExit] = []
        self.taken: dict[int, list[AbstractState]] = {}
        self.ruled_out: dict[int, tuple[FactSet, str]] = {}
        self.shadowing = self.refuting = EMPTY

    def effects(self) -> StepEffects:
        """Interpret the visit and return its effects."""
        success, failure = self._states_after_run()
        may_without_case = success.may | self.visited
        for index, case in enumerate(self.step.rule or ()):
            success, failure = self._evaluate_case(index, case, success, failure)
        if success.results and self.coverage.uncovered_values is not None:
            self._add_exit(None, success, may_without_case)
        is_unhandled = failure.results and self.coverage.may_be_unhandled
        if is_unhandled and (self.may_fail or self.may_be_refused):
            self._add_exit(None, AbstractState(results=FAILED), self.visited)
        return StepEffects(
            self.reads, self.required, self.required_from_entry, self.exits, self.taken, self.ruled_out
        )

    def _add_exit(self, case: int | None, state: AbstractState, may_gen: FactSet) -> None:
        failed = state.failed
        exit_ = StepExit(
            step=self.step.name,
            case=case,
            failed=failed,
            targets=() if case is None else self.targets[case],
            gen=state.assigned | self.visited,
            may_gen=may_gen,
            unassigned_on_entry=state.unassigned_on_entry,
            assigned_on_entry=state.assigned_on_entry,
            on_reentry=failed and case in self.coverage.after_refusal,
            ends_run=failed and case is None and self.ends_run,
        )
        self.exits.append(exit_)

    def _states_after_run(self) -> tuple[AbstractState, AbstractState]:
        """Return the states after success and after failure, in which the rule is evaluated."""
        after_run = self._state_after_run()
        if self.may_fail or self.step.retry is not None:
            for use, template in self._templates("retry", "if"):
                self.read(use, template, AbstractState(results=FAILED))
        succeeded = NO_RESULT
        if after_run.assigned != ALL_FACTS:
            succeeded = NOT_FAILED if self._may_tolerate_failure() else SUCCEEDED
        # A case that handles a failure is assumed to be reachable, however infallible the work looks.
        has_failure = self.may_fail or bool(self.step.run) or self.may_be_refused
        failure = AbstractState(results=FAILED if has_failure else NO_RESULT)
        return _add_success_facts(after_run._replace(results=succeeded)), failure

    def _state_after_run(self) -> AbstractState:
        """Return the state after all rounds of the `run` have succeeded."""
        step, state = self.step, AbstractState()
        for limit in step.limits_and_rates:
            for use, template in self.table.templates.get((*limit.path, "key"), ()):
                self.read(use, template, state)
                state = self._assume(state, template.always.assigned)
        before = state.assigned if _may_be_left_out(step) else ALL_FACTS
        for use, template in self._templates("loop", "items"):
            self.read(use, template, state)
            state = self._assume(state, template.always.assigned)
        run = step.run or ()
        may = self._may_assign(run) if step.repeat is not None else EMPTY
        after = self.run(run, state._replace(may=may), parallel=step.parallel)
        if step.loop is None:
            state = after
        for use, template in self._templates("repeat", "until"):
            self.read(use, template, state._replace(results=SUCCEEDED))
            state = state._replace(assigned=state.assigned | template.true.assigned)
        after = state._replace(on_success=state.on_success | state.assigned)
        return after._replace(assigned=after.assigned & before, on_success=after.on_success & before)

    def _may_tolerate_failure(self) -> bool:
        """Return whether the `run` may end in a failure that `on_error: continue` tolerates."""
        step = self.step
        if step.loop is not None:
            return step.loop.on_error == "continue"
        return _may_tolerate_failure(step.run or (), self.tasks, parallel=step.parallel)

    def _templates(self, *part: str) -> Sequence[tuple[TemplateUse, EncodedTemplate]]:
        """Return the templates of a part of the step, such as `("repeat", "until")`."""
        is_inherited = part[0] == "retry" and self.step.retry is None
        return self.table.templates.get(part if is_inherited else (*self.step.path, *part), ())

    def _evaluate_case(
        self, index: int, case: Case, success: AbstractState, failure: AbstractState
    ) -> tuple[AbstractState, AbstractState]:
        """Add the exits of a case. Return the states in which the next case is evaluated."""
        self.refuting = EMPTY
        taken, passed = self._evaluate_after_success(case, success)
        if taken is not None:
            self._take(index, case, taken, success.may)
        is_error_case = index in self.coverage.error_aware
        is_returning = self.may_be_refused and index in self.coverage.returning
        if is_error_case and (self.may_fail or self.step.run or not is_returning):
            taken, failure = self._evaluate_after_failure(case, failure, success, may_pass=is_returning)
            if taken is not None:
                self._take(index, case, taken, EMPTY)
        if self.shadowing and index not in self.taken and not is_error_case:
            self.ruled_out[index] = (self.shadowing, "an earlier case is always taken")
        if index not in self.taken and self.refuting:
            self.ruled_out.setdefault(index, (self.refuting, "its guard is never true"))
        return passed, failure

    def _evaluate_after_success(
        self, case: Case, state: AbstractState
    ) -> tuple[AbstractState | None, AbstractState]:
        """Return the state where a case is taken, if it can be, and the one where it is passed."""
        if case.case == "error":
            return None, state
        if case.case == "default":
            return state if state.results else None, state._replace(results=NO_RESULT)
        for use, template in self.table.templates.get((*case.path, "case"), ()):
            return self._split(use, template, state, state)
        return state, state

    def _evaluate_after_failure(
        self, case: Case, state: AbstractState, success: AbstractState, *, may_pass: bool
    ) -> tuple[AbstractState | None, AbstractState]:
        """Return the same for an error-aware case. With `may_pass` it may be skipped."""
        taken: AbstractState | None = state if state.results else None
        passed = state._replace(results=NO_RESULT)
        for use, template in self.table.templates.get((*case.path, "case"), ()):
            taken, passed = self._split(use, template, state, success if success.results else state)
        return taken, state if may_pass else passed

    def _split(
        self, use: TemplateUse, template: EncodedTemplate, state: AbstractState, reading: AbstractState
    ) -> tuple[AbstractState | None, AbstractState]:
        """Return the state where a guard is true, if it can be, and the one where it is false.

        `reading` says which facts the step may have added where the guard is read.
        """
        if not state.results:
            return None, state
        may = reading.may | reading.assigned
        self.read(use, template, AbstractState(state.assigned, may, results=state.results))
        passed, true = self._pass(template, state), template.true
        if not true.results & state.results:
            return None, passed
        if refuting := true.unassigned & state.assigned:
            self.refuting = EMPTY if state.failed else refuting
            return None, passed
        return self._narrow(state, template, true), passed

    def _pass(self, template: EncodedTemplate, state: AbstractState) -> AbstractState:
        """Return the state where a guard is false and the next case is evaluated."""
        false = template.false
        # A guard that reads a part of an error counts as false where there is no error.
        is_exact = state.failed or not template.reads_error_part
        if not is_exact:
            return state
        if _may_hold(false, state):
            return self._narrow(state, template, false)
        shadowing = EMPTY if state.failed else false.unassigned & state.assigned
        self.shadowing = self.shadowing or shadowing
        return state._replace(results=NO_RESULT)

    def _narrow(
        self, state: AbstractState, template: EncodedTemplate, guard_facts: EncodedFacts
    ) -> AbstractState:
        """Return the state after a guard.

        Facts that the step may have added may come from the step itself, not from its entry.
        """
        on_entry = guard_facts.assigned & self.table.name_facts & ~template.read & ~state.may
        narrowed = AbstractState(
            state.assigned | self._with_implied(guard_facts.assigned, state.may),
            state.may,
            state.on_success,
            state.results & guard_facts.results,
            state.unassigned_on_entry | guard_facts.unassigned,
            state.assigned_on_entry | on_entry,
        )
        return _add_success_facts(narrowed)

    def _take(self, index: int, case: Case, state: AbstractState, may_gen: FactSet) -> None:
        """Add the exit of a case in a state in which its guard is true."""
        possible = self.coverage.after_failure if state.failed else self.coverage.after_success
        if possible is not None and index not in possible:
            return
        self.taken.setdefault(index, []).append(state)
        work = () if self.targets[index] else case.run
        after = self.run(work, state._replace(may=state.may | state.assigned), parallel=False)
        if after.assigned != ALL_FACTS:
            self._add_exit(index, after, self.visited | may_gen | self._may_assign(work))


def _may_hold(facts: EncodedFacts, state: AbstractState) -> bool:
    """Return whether facts that follow from a template can hold in a state."""
    return not facts.unassigned & state.assigned and bool(facts.results & state.results)


def _add_success_facts(state: AbstractState) -> AbstractState:
    """Return the state with the facts of a success, if success is the only possible result."""
    if state.results != SUCCEEDED or not state.on_success & ~state.assigned:
        return state
    return state._replace(assigned=state.assigned | state.on_success)


def _may_be_left_out(step: Step) -> bool:
    """Return whether a visit of a step may succeed without its work, because a limit was full."""
    return any(limit.when_full == "skip" for limit in step.limits_and_rates)
