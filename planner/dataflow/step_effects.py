"""Step effects: what a visit of each step requires, and the facts after each of its exits.

Problem: A visit runs the `run` of a step, which may succeed or fail, and then evaluates the cases of its rule
in order. Each guard may be true or false, and each says something about the facts where its case is taken.

Algorithm: Abstract interpretation (Cousot and Cousot 1977) of one visit. `CaseStates` holds the facts after
success and after failure. Each case splits both: taken, where the guard is true, and passed, where it is
false. Which cases can be taken at all comes from `noetl.planner.guards.coverage`.

Cost: Linear in the number of entries and cases of the step; tasks are summarised once.

Limits: Facts at the entry of the step are unknown here. What depends on them becomes a requirement or a
precondition of an exit (see `noetl.planner.dataflow.transfer`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from noetl.planner.dataflow.fact_encoding import EncodedFacts, EncodedTemplate, FactEncoder
from noetl.planner.dataflow.infallible import is_infallible_text
from noetl.planner.dataflow.narrowing import FAILED, NOT_FAILED, SUCCEEDED
from noetl.planner.dataflow.transfer import (
    ALL_FACTS,
    AssignmentState,
    CaseFacts,
    CaseStates,
    FactSet,
    Implications,
    Requirements,
    StepEffects,
    StepExit,
    UnmetRead,
)
from noetl.planner.dataflow.work_effects import WorkAnalysis
from noetl.planner.guards.coverage import RuleCoverage, is_error_aware
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.models import Case, Step


class EffectsAnalysis:
    """The effects of all steps of a playbook. If `encoder.keys` is empty, there is nothing to analyse.

    With `assumes_worker_loss` every step may fail, however infallible its work, because a worker may be lost.
    """

    def __init__(self, program: Program, *, assumes_worker_loss: bool = False) -> None:
        self.program = program
        self.assumes_worker_loss = assumes_worker_loss
        self.symbols = program.symbols
        self.encoder = FactEncoder(program)

    @cached_property
    def work(self) -> WorkAnalysis:
        """The analysis of the entries of all runs."""
        return WorkAnalysis(self.program, self.encoder)

    @cached_property
    def effects(self) -> dict[str, StepEffects]:
        """The effects of each step."""
        return self._analyse_steps()

    def _analyse_steps(self) -> dict[str, StepEffects]:
        return {name: _StepAnalysis(self, step).run() for name, step in self.symbols.steps.items()}

    def use_implications(self, implications: Implications) -> None:
        """Recompute all step effects with the implications between facts."""
        self.work.implications = implications
        self.effects = self._analyse_steps()

    def set_success_facts(self, finally_step: str, facts: FactSet) -> None:
        """Set the facts of a run that has succeeded, and recompute the `finally` step, which may use them."""
        self.encoder.set_success_facts(facts)
        self.effects[finally_step] = _StepAnalysis(self, self.symbols.steps[finally_step]).run()

    def find_first_reads(self, step: Step, facts: FactSet) -> dict[FactSet, UnmetRead]:
        """Return the first template in a step, or in a task it calls, that requires each fact, by bit."""
        analysis = _StepAnalysis(self, step, traced=facts)
        analysis.run()
        return analysis.requirements.first_reads

    def may_fail(self, step: Step) -> bool:
        """Return whether a visit may fail although all that it reads is assigned."""
        guards = (case.case for case in step.rule or () if isinstance(case.case, str))
        return (
            self.assumes_worker_loss
            or step.loop is not None
            or step.repeat is not None
            or self.work.may_fail(step.run or ())
            or not all(map(is_infallible_text, guards))
        )

    def may_tolerate_failure(self, step: Step) -> bool:
        """Return whether the `run` of a step may end in a failure that `on_error: continue` tolerates."""
        if step.loop is not None:
            return step.loop.on_error == "continue"
        return self.work.may_tolerate_failure(step.run or (), parallel=step.parallel)

    def uses_at(self, step: Step, *part: str) -> Sequence[TemplateUse]:
        """Return the templates of a part of a step, such as `("repeat", "until")`."""
        is_inherited = part[0] == "retry" and step.retry is None
        return self.work.uses_by_owner.get(part if is_inherited else (*step.path, *part), ())


class _StepAnalysis:
    """The abstract interpretation of a visit of one step. `run` may be called once."""

    def __init__(self, analysis: EffectsAnalysis, step: Step, traced: FactSet = 0) -> None:
        self.analysis = analysis
        self.step = step
        self.work = analysis.work
        self.encoder = analysis.encoder
        self.requirements = Requirements(traced=traced)
        self.exits: list[StepExit] = []
        self.taken: dict[int, list[CaseFacts]] = {}
        self.shadowed: dict[int, FactSet] = {}
        self.refuted: dict[int, FactSet] = {}
        self.visit_fact = self.encoder.closures.get(f"steps.{step.name}", 0)
        self.coverage = analysis.program.rule_coverage.get(step.path, RuleCoverage())
        self.states = CaseStates(AssignmentState(), AssignmentState(), 0)

    def run(self) -> StepEffects:
        """Interpret the visit and return its effects."""
        analysis, step, program = self.analysis, self.step, self.analysis.program
        after_run = self._state_after_run()
        # A case that handles a failure is assumed to be reachable, however infallible the work looks.
        may_fail, may_exceed_max_visits = analysis.may_fail(step), program.may_exceed_max_visits(step)
        for use in analysis.uses_at(step, "retry", "if") if may_fail or step.retry is not None else ():
            self.work.apply_template(use, 0, 0, self.requirements, FAILED)
        may_handle_failure = may_fail or bool(step.run)
        results = FAILED if may_handle_failure or may_exceed_max_visits else 0
        if after_run.assigned != ALL_FACTS:
            results |= NOT_FAILED if analysis.may_tolerate_failure(step) else SUCCEEDED
        states = self.states = CaseStates(after_run, AssignmentState(), results)
        for index, case in enumerate(step.rule or ()):
            targets = program.cfg.targets[step.name][index]
            # After MaxVisitsExceeded a case that leads back to the step is skipped.
            leads_back = may_exceed_max_visits and program.cfg.leads_back_if_reachable(step.name, targets)
            may_handle = may_handle_failure or not leads_back
            self._add_case(index, case, targets, may_handle=may_handle, may_pass=leads_back)
        if states.possible_results & NOT_FAILED and self.coverage.uncovered_values is not None:
            facts = states.current_facts(failed=False)
            self.exits.append(
                StepExit(
                    case=None,
                    failed=False,
                    targets=(),
                    gen=facts.assigned | self.visit_fact,
                    may_gen=after_run.may | self.visit_fact,
                    unassigned_on_entry=facts.unassigned_on_entry,
                    assigned_on_entry=facts.assigned_on_entry,
                )
            )
        may_end_failed = states.possible_results & FAILED and self.coverage.may_be_unhandled
        if may_end_failed and (may_fail or may_exceed_max_visits):
            exit_ = StepExit(None, failed=True, targets=(), gen=self.visit_fact, may_gen=self.visit_fact)
            self.exits.append(exit_)
        required = self.requirements
        return StepEffects(
            required.required,
            required.required_from_entry,
            tuple(self.exits),
            self.taken,
            self.shadowed,
            self.refuted,
        )

    def _state_after_run(self) -> AssignmentState:
        """Return the state after all rounds of the `run` have succeeded."""
        analysis, step, requirements = self.analysis, self.step, self.requirements
        state = AssignmentState()
        for use in analysis.uses_at(step, "loop", "items"):
            template = self.work.apply_template(use, 0, 0, requirements)
            state.assigned |= self.work.with_implied(template.always.assigned, 0)
        may = self.work.may_assign(step.run or ()) if step.repeat is not None else 0
        inner = AssignmentState(state.assigned, may)
        self.work.apply_run(step.run or (), inner, requirements, parallel=step.parallel)
        if step.loop is None:
            state = inner
        for use in analysis.uses_at(step, "repeat", "until"):
            template = self.work.apply_template(use, state.assigned, state.may, requirements, SUCCEEDED)
            state.assigned |= template.true.assigned
        state.assigned_on_success |= state.assigned
        return state

    def _add_case(
        self, index: int, case: Case, targets: tuple[str, ...], *, may_handle: bool, may_pass: bool
    ) -> None:
        """Add the exits of a case, and continue with the next one.

        `may_handle` says whether the case is evaluated after a failure, `may_pass` whether it may also be
        skipped then.
        """
        states, coverage = self.states, self.coverage
        for failed in self._evaluate_case(case, may_handle=may_handle, may_pass=may_pass):
            possible_cases = coverage.after_failure if failed else coverage.after_success
            if possible_cases is not None and index not in possible_cases:
                continue
            facts = states.current_facts(failed=failed)
            self.taken.setdefault(index, []).append(facts)
            state = AssignmentState(facts.assigned, states.may(failed=failed))
            work = self.analysis.symbols.work(case) if not targets else []
            self.work.apply_run(
                work, state, self.requirements, parallel=False, results=states.results(failed=failed)
            )
            if state.assigned == ALL_FACTS:
                continue
            may_gen = self.visit_fact if failed else self.visit_fact | states.may_gen[False]
            self.exits.append(
                StepExit(
                    case=index,
                    failed=failed,
                    targets=targets,
                    gen=state.assigned | self.visit_fact,
                    may_gen=may_gen | self.work.may_assign(work),
                    unassigned_on_entry=facts.unassigned_on_entry,
                    assigned_on_entry=facts.assigned_on_entry,
                    on_reentry=failed and index in coverage.after_refusal,
                )
            )
        if states.shadowing_facts and index not in self.taken and not is_error_aware(case):
            self.shadowed[index] = states.shadowing_facts
        if states.refuting_facts:
            self.taken.setdefault(index, [])
            self.refuted[index] = states.refuting_facts
        states.advance()

    def _evaluate_case(self, case: Case, *, may_handle: bool, may_pass: bool) -> Iterator[bool]:
        """Yield whether the `run` has failed, for each situation in which a case may be taken."""
        states = self.states
        if case.case == "default":
            if states.possible_results & NOT_FAILED:
                yield False
                states.when_passed[False] = None
            return
        if case.case == "error":
            if states.possible_results & FAILED and may_handle:
                yield True
                if not may_pass:
                    states.when_passed[True] = None
            return
        handles_failure = is_error_aware(case) and may_handle
        for use in self.work.uses_by_owner.get((*case.path, "case"), ()):
            for failed in (False, True) if handles_failure else (False,):
                if self._evaluate_guard(use, failed=failed, may_pass=failed and may_pass):
                    yield failed
            return
        yield False

    def _evaluate_guard(self, use: TemplateUse, *, failed: bool, may_pass: bool) -> bool:
        """Return whether a guard may be true, and set the facts where it is true and where it is false."""
        states = self.states
        results = states.results(failed=failed)
        if not results:
            return False
        before = states.current_facts(failed=failed)
        may = states.may(failed=failed and not states.possible_results & NOT_FAILED)
        template = self.work.apply_template(use, before.assigned, may, self.requirements, results)
        self._set_passed(template, before, failed=failed, may_pass=may_pass)
        true = template.true
        if not true.results & results:
            return False
        if refuting := true.unassigned & before.assigned:
            states.refuting_facts = 0 if failed else refuting
            return False
        facts = self._narrow(before, template, true, states.may_gen[failed])
        states.when_taken[failed] = states.with_success_facts(facts, true.results & results)
        return True

    def _set_passed(
        self, template: EncodedTemplate, before: CaseFacts, *, failed: bool, may_pass: bool
    ) -> None:
        """Set the facts where a guard is false and the next case is evaluated."""
        states = self.states
        results, false = states.results(failed=failed), template.false
        # A guard that reads a part of an error counts as false where there is no error.
        is_exact = failed or not template.reads_error_part
        if may_pass:
            states.when_passed[failed] = before
        elif false.results & results and not false.unassigned & before.assigned:
            may_gen = states.may_gen[failed]
            narrowed = self._narrow(before, template, false, may_gen) if is_exact else before
            states.when_passed[failed] = narrowed
            remaining = false.results | (results if template.reads_error_part else 0)
            states.possible_results &= ~results | remaining
        elif is_exact:
            states.when_passed[failed] = None
            shadowing = 0 if failed else false.unassigned & before.assigned
            states.shadowing_facts = states.shadowing_facts or shadowing

    def _narrow(
        self, before: CaseFacts, template: EncodedTemplate, guard_facts: EncodedFacts, may_gen: FactSet
    ) -> CaseFacts:
        """Return the facts after a guard.

        Facts of `may_gen` may come from the step itself, not from its entry.
        """
        assigned_on_entry = guard_facts.assigned & self.encoder.name_facts & ~template.read & ~may_gen
        return CaseFacts(
            before.assigned | self.work.with_implied(guard_facts.assigned, may_gen),
            before.unassigned_on_entry | guard_facts.unassigned,
            before.assigned_on_entry | assigned_on_entry,
        )
