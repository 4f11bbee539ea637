"""Step effects: what a visit of each step requires, and the facts after each of its exits.

Problem: A visit runs the `run` of a step, which may succeed or fail, and then evaluates the cases of its rule
in order. Each guard may be true or false, and each says something about the facts where its case is taken.

Algorithm: Abstract interpretation (Cousot and Cousot 1977) of one visit.
`noetl.planner.dataflow.work_effects` gives the state after the `run`. A `Situation` holds the facts where a
case is evaluated after success, another one those after failure. Each guard splits them: taken, where it is
true, and passed, where it is false. Which cases can be taken at all comes from
`noetl.planner.guards.coverage`.

Cost: Linear in the number of entries and cases of the step; tasks are summarised once.

Limits: Facts at the entry of the step are unknown here. What depends on them becomes a requirement or a
precondition of an exit (see `noetl.planner.dataflow.transfer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from noetl.planner.dataflow.fact_encoding import EncodedFacts, EncodedTemplate, FactTable
from noetl.planner.dataflow.infallible import is_infallible_text
from noetl.planner.dataflow.narrowing import FAILED, NO_RESULT, NOT_FAILED, SUCCEEDED, RunResults
from noetl.planner.dataflow.transfer import (
    ALL_FACTS,
    EMPTY,
    CaseFacts,
    FactSet,
    Implications,
    StepEffects,
    StepExit,
)
from noetl.planner.dataflow.work_effects import (
    WorkInterpreter,
    WorkState,
    may_fail,
    may_tolerate_failure,
    task_effects,
)
from noetl.planner.guards.coverage import RuleCoverage
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.syntax.models import Case, Step

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
    work = WorkInterpreter(table, task_effects(program, table), implications)
    steps = program.symbols.steps
    return {
        name: _StepInterpreter(work, program, steps[name], may_fail=assumes_worker_loss).effects()
        for name in (steps if names is None else names)
    }


def output_effects(
    program: Program, table: FactTable, implications: Implications, known: FactSet
) -> StepEffects:
    """Return what the output requires besides known facts."""
    work = WorkInterpreter(table, task_effects(program, table), implications)
    for use, template in (item for items in table.templates.values() for item in items):
        if use.scope is TemplateScope.OUTPUT:
            work.read(use, template, WorkState(assigned=known))
    return StepEffects(work.reads, work.required, work.required_from_entry)


class Situation(NamedTuple):
    """The facts where the cases of a rule are evaluated: after success, or after failure.

    `results` are the results for which no case has been taken yet. `may` are the facts that the step may have
    added, `on_success` those that hold if success is the only possible result.
    """

    failed: bool
    results: RunResults
    facts: CaseFacts = CaseFacts(EMPTY)
    may: FactSet = EMPTY
    on_success: FactSet = EMPTY

    def case_facts(self) -> CaseFacts:
        """Return the facts, with those of a success if success is the only possible result."""
        facts = self.facts
        if self.results != SUCCEEDED or not self.on_success & ~facts.assigned:
            return facts
        return facts._replace(assigned=facts.assigned | self.on_success)


class _StepInterpreter(WorkInterpreter):
    """The abstract interpretation of one visit of a step.

    After MaxVisitsExceeded the cases that lead back to the step are skipped. Given `shadowing` facts, which
    the step itself requires or adds, some earlier case is always taken after success. Given `refuting` facts,
    the guard of the present case is false.
    """

    def __init__(self, work: WorkInterpreter, program: Program, step: Step, *, may_fail: bool) -> None:
        super().__init__(work.table, work.tasks, work.implications)
        self.step = step
        self.targets: Sequence[tuple[str, ...]] = program.cfg.targets[step.name]
        self.coverage = program.rule_coverage.get(step.path, RuleCoverage())
        self.visited = self.table.closures.get(f"steps.{step.name}", EMPTY)
        self.may_fail = may_fail or self._may_fail()
        self.may_be_refused = program.may_exceed_max_visits(step)
        self.ends_run = (step.on_error or program.playbook.on_error) != "continue"
        self.exits: list[StepExit] = []
        self.taken: dict[int, list[CaseFacts]] = {}
        self.ruled_out: dict[int, tuple[FactSet, str]] = {}
        self.shadowing = self.refuting = EMPTY

    def effects(self) -> StepEffects:
        """Interpret the visit and return its effects."""
        success, failure = self._situations_after_run()
        may_without_case = success.may | self.visited
        for index, case in enumerate(self.step.rule or ()):
            success, failure = self._evaluate_case(index, case, success, failure)
        if success.results and self.coverage.uncovered_values is not None:
            self._add_exit(None, success, success.case_facts().assigned, may_without_case)
        is_unhandled = failure.results and self.coverage.may_be_unhandled
        if is_unhandled and (self.may_fail or self.may_be_refused):
            self._add_exit(None, Situation(True, FAILED), EMPTY, self.visited)
        return StepEffects(
            self.reads, self.required, self.required_from_entry, self.exits, self.taken, self.ruled_out
        )

    def _add_exit(self, case: int | None, situation: Situation, gen: FactSet, may_gen: FactSet) -> None:
        failed, facts = situation.failed, situation.case_facts()
        exit_ = StepExit(
            step=self.step.name,
            case=case,
            failed=failed,
            targets=() if case is None else self.targets[case],
            gen=gen | self.visited,
            may_gen=may_gen,
            unassigned_on_entry=facts.unassigned_on_entry,
            assigned_on_entry=facts.assigned_on_entry,
            on_reentry=failed and case in self.coverage.after_refusal,
            ends_run=failed and case is None and self.ends_run,
        )
        self.exits.append(exit_)

    def _situations_after_run(self) -> tuple[Situation, Situation]:
        """Return the situations after success and after failure, where the rule is evaluated."""
        after_run = self._state_after_run()
        if self.may_fail or self.step.retry is not None:
            for use, template in self._templates("retry", "if"):
                self.read(use, template, WorkState(results=FAILED))
        succeeded = NO_RESULT
        if after_run.assigned != ALL_FACTS:
            succeeded = NOT_FAILED if self._may_tolerate_failure() else SUCCEEDED
        facts = CaseFacts(after_run.assigned)
        # A case that handles a failure is assumed to be reachable, however infallible the work looks.
        has_failure = self.may_fail or bool(self.step.run) or self.may_be_refused
        return (
            Situation(False, succeeded, facts, after_run.may, after_run.on_success),
            Situation(True, FAILED if has_failure else NO_RESULT),
        )

    def _state_after_run(self) -> WorkState:
        """Return the state after all rounds of the `run` have succeeded."""
        step, state = self.step, WorkState()
        for use, template in self._templates("loop", "items"):
            self.read(use, template, state)
            state = self.assume(state, template.always.assigned)
        run = step.run or ()
        may = self.may_assign(run) if step.repeat is not None else EMPTY
        after = self.run(run, state._replace(may=may), parallel=step.parallel)
        if step.loop is None:
            state = after
        for use, template in self._templates("repeat", "until"):
            self.read(use, template, state._replace(results=SUCCEEDED))
            state = state._replace(assigned=state.assigned | template.true.assigned)
        return state._replace(on_success=state.on_success | state.assigned)

    def _may_fail(self) -> bool:
        """Return whether a visit may fail although all that it reads is assigned."""
        step = self.step
        guards = (case.case for case in step.rule or () if isinstance(case.case, str))
        return (
            step.loop is not None
            or step.repeat is not None
            or may_fail(step.run or (), self.tasks)
            or not all(map(is_infallible_text, guards))
        )

    def _may_tolerate_failure(self) -> bool:
        """Return whether the `run` may end in a failure that `on_error: continue` tolerates."""
        step = self.step
        if step.loop is not None:
            return step.loop.on_error == "continue"
        return may_tolerate_failure(step.run or (), self.tasks, parallel=step.parallel)

    def _templates(self, *part: str) -> Sequence[tuple[TemplateUse, EncodedTemplate]]:
        """Return the templates of a part of the step, such as `("repeat", "until")`."""
        is_inherited = part[0] == "retry" and self.step.retry is None
        return self.table.templates.get(part if is_inherited else (*self.step.path, *part), ())

    def _evaluate_case(
        self, index: int, case: Case, success: Situation, failure: Situation
    ) -> tuple[Situation, Situation]:
        """Add the exits of a case. Return the situations in which the next case is evaluated."""
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

    def _evaluate_after_success(self, case: Case, situation: Situation) -> tuple[Situation | None, Situation]:
        """Return the situation where a case is taken, if it can be, and the one where it is passed."""
        if case.case == "error":
            return None, situation
        if case.case == "default":
            taken = situation if situation.results else None
            return taken, situation._replace(results=NO_RESULT)
        for use, template in self.table.templates.get((*case.path, "case"), ()):
            return self._split(use, template, situation, situation)
        return situation, situation

    def _evaluate_after_failure(
        self, case: Case, situation: Situation, success: Situation, *, may_pass: bool
    ) -> tuple[Situation | None, Situation]:
        """Return the same for an error-aware case. With `may_pass` it may be skipped."""
        taken: Situation | None = situation if situation.results else None
        passed = situation._replace(results=NO_RESULT)
        for use, template in self.table.templates.get((*case.path, "case"), ()):
            taken, passed = self._split(use, template, situation, success if success.results else situation)
        if may_pass and situation.results:
            passed = situation
        return taken, passed

    def _split(
        self, use: TemplateUse, template: EncodedTemplate, situation: Situation, reading: Situation
    ) -> tuple[Situation | None, Situation]:
        """Return the situation where a guard is true, if it can be, and the one where it is false.

        `reading` says which facts the step may have added where the guard is read.
        """
        failed, results, before = situation.failed, situation.results, situation.case_facts()
        if not results:
            return None, situation
        may = reading.may | reading.case_facts().assigned
        self.read(use, template, WorkState(before.assigned, may, results=results))
        passed = self._pass(template, situation)
        true = template.true
        if not true.results & results:
            return None, passed
        if refuting := true.unassigned & before.assigned:
            self.refuting = EMPTY if failed else refuting
            return None, passed
        return self._narrow(situation, template, true), passed

    def _pass(self, template: EncodedTemplate, situation: Situation) -> Situation:
        """Return the situation where a guard is false and the next case is evaluated."""
        failed, results, before = situation.failed, situation.results, situation.case_facts()
        false = template.false
        # A guard that reads a part of an error counts as false where there is no error.
        is_exact = failed or not template.reads_error_part
        if false.may_hold(before.assigned, results):
            if is_exact:
                return self._narrow(situation, template, false)
            return situation._replace(facts=before)
        if not is_exact:
            return situation
        shadowing = EMPTY if failed else false.unassigned & before.assigned
        self.shadowing = self.shadowing or shadowing
        return situation._replace(results=NO_RESULT)

    def _narrow(
        self, situation: Situation, template: EncodedTemplate, guard_facts: EncodedFacts
    ) -> Situation:
        """Return the situation after a guard.

        Facts that the step may have added may come from the step itself, not from its entry.
        """
        before, may = situation.case_facts(), situation.may
        assigned_on_entry = guard_facts.assigned & self.table.name_facts & ~template.read & ~may
        facts = CaseFacts(
            before.assigned | self._with_implied(guard_facts.assigned, may),
            before.unassigned_on_entry | guard_facts.unassigned,
            before.assigned_on_entry | assigned_on_entry,
        )
        return situation._replace(facts=facts, results=situation.results & guard_facts.results)

    def _take(self, index: int, case: Case, situation: Situation, may_gen: FactSet) -> None:
        """Add the exit of a case in a situation in which its guard is true."""
        possible = self.coverage.after_failure if situation.failed else self.coverage.after_success
        if possible is not None and index not in possible:
            return
        facts = situation.case_facts()
        self.taken.setdefault(index, []).append(facts)
        work = () if self.targets[index] else case.run
        state = WorkState(facts.assigned, situation.may | facts.assigned, results=situation.results)
        state = self.run(work, state, parallel=False)
        if state.assigned != ALL_FACTS:
            self._add_exit(index, situation, state.assigned, self.visited | may_gen | self.may_assign(work))
