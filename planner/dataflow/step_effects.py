"""What the steps of a playbook need and produce, whatever was there before them: every way in which a visit can end.

Names, and steps that have been visited, are bits of integers (`noetl.planner.dataflow.fact_encoding`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from noetl.planner.dataflow.fact_encoding import Known, Reading, Readings
from noetl.planner.dataflow.infallible import is_harmless_text
from noetl.planner.dataflow.narrowing import FAILED, SUCCEEDED, UNFAILED
from noetl.planner.dataflow.transfer import (
    EVERYTHING,
    Assumed,
    Implications,
    Needs,
    Outcome,
    Read,
    State,
    Visit,
    Worlds,
)
from noetl.planner.dataflow.work_effects import Work
from noetl.planner.guards.coverage import Verdict, is_error_aware
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Use
from noetl.planner.syntax.models import Case, Step


class Production:
    """What the steps of a playbook need and produce. Without keys in its `readings` there is nothing to find out.

    With `loses`, workers may die, so that every step may fail, however harmless its work.
    """

    def __init__(self, subject: Subject, *, loses: bool = False) -> None:
        self.subject = subject
        self.loses = loses
        self.names = subject.names
        self.readings = Readings(subject)

    @cached_property
    def work(self) -> Work:
        """What the entries of its runs need and add."""
        return Work(self.subject, self.readings)

    @cached_property
    def visits(self) -> dict[str, Visit]:
        """What a visit of each step needs, and its outcomes."""
        return self.of_steps()

    def of_steps(self) -> dict[str, Visit]:
        return {name: self.of_step(step) for name, step in self.names.steps.items()}

    def know(self, implications: Implications) -> None:
        """Work all out again for steps, now that it is known what is there wherever something else is."""
        self.work.implications = implications
        self.visits = self.of_steps()

    def know_success(self, last: str, bits: int) -> None:
        """Take note of what is there when a run has succeeded, which the step that runs last may ask for."""
        self.readings.know_success(bits)
        self.visits[last] = self.of_step(self.names.steps[last])

    def of_step(self, step: Step) -> Visit:
        needs = Needs()
        taken: dict[int, list[Assumed]] = {}
        hidden: dict[int, int] = {}
        refuted: dict[int, int] = {}
        outcomes = tuple(self.visit(step, needs, taken, hidden, refuted))
        return Visit(needs.needed, needs.hopeless, outcomes, taken, hidden, refuted)

    def places(self, step: Step, wanted: int) -> dict[int, Read]:
        """The first place in a step, or in a task that it calls, that needs each of some bits."""
        needs = Needs(wanted=wanted)
        for _ in self.visit(step, needs, {}, {}, {}):
            pass
        return needs.places

    def visit(
        self,
        step: Step,
        needs: Needs,
        taken: dict[int, list[Assumed]],
        hidden: dict[int, int],
        refuted: dict[int, int],
    ) -> Iterator[Outcome]:
        """The outcomes of a visit. What it needs, and of its cases, has been noted when they are all told."""
        mark = self.readings.closed.get(f"steps.{step.name}", 0)
        state = self.done_in(step, needs)
        cases = enumerate(zip(step.rule or (), self.subject.flow.targets[step.name], strict=True))
        # Whoever handles a failure is taken at their word that there may be one, however harmless the work looks.
        may_fail, may_be_refused = self.may_fail(step), self.subject.may_be_refused(step)
        for use in self.at(step, "retry", "if") if may_fail or step.retry is not None else ():
            self.work.read(use, 0, 0, needs, FAILED)
        may_be_handled = may_fail or bool(step.run)
        alive = FAILED if may_be_handled or may_be_refused else 0
        if state.known != EVERYTHING:
            alive |= UNFAILED if self.may_forgive(step) else SUCCEEDED
        worlds = Worlds(state, State(), alive)
        verdict = self.subject.verdicts.get(step.path, Verdict())
        for index, (case, targets) in cases:
            # Past the bound a case that leads back is passed over.
            leads_back = may_be_refused and self.subject.flow.may_come_back(step.name, targets)
            for failed in self.taken(
                case, worlds, needs, may_handle=may_be_handled or not leads_back, may_pass=leads_back
            ):
                possible = verdict.after_failure if failed else verdict.after_success
                if possible is not None and index not in possible:
                    continue
                assumed = worlds.assumed(failed=failed)
                taken.setdefault(index, []).append(assumed)
                world = State(assumed.known, worlds.may(failed=failed))
                work = self.names.work(case) if not targets else []
                self.work.run(work, world, needs, parallel=False, outcomes=worlds.outcomes(failed=failed))
                if world.known == EVERYTHING:
                    continue
                made = mark if failed else mark | state.may
                yield Outcome(
                    index,
                    failed,
                    targets,
                    world.known | mark,
                    made | self.work.may_save(work),
                    assumed.gone,
                    assumed.asked,
                    failed and index in verdict.after_refusal,
                )
            if worlds.settled and index not in taken and not is_error_aware(case):
                hidden[index] = worlds.settled
            if worlds.refuted:
                taken.setdefault(index, [])
                refuted[index] = worlds.refuted
            worlds.go_on()
        if worlds.alive & UNFAILED and verdict.left_open is not None:
            assumed = worlds.assumed(failed=False)
            yield Outcome(
                None, False, (), assumed.known | mark, state.may | mark, assumed.gone, assumed.asked
            )
        if worlds.alive & FAILED and verdict.may_be_unhandled and (may_fail or may_be_refused):
            yield Outcome(None, True, (), mark, mark)

    def done_in(self, step: Step, needs: Needs) -> State:
        """What is there when the `run` of a step has succeeded, all rounds of it."""
        state = State()
        for use in self.at(step, "loop", "items"):
            state.known |= self.work.widened(self.work.read(use, 0, 0, needs).always.there, 0)
        inner = State(state.known, self.work.may_save(step.run or ()) if step.repeat is not None else 0)
        self.work.run(step.run or (), inner, needs, parallel=step.parallel)
        if step.loop is None:
            state = inner
        for use in self.at(step, "repeat", "until"):
            state.known |= self.work.read(use, state.known, state.may, needs, SUCCEEDED).true.there
        state.on_success |= state.known
        return state

    def may_fail(self, step: Step) -> bool:
        """Whether a visit may fail for another reason than that something is lacking."""
        guards = (case.case for case in step.rule or () if isinstance(case.case, str))
        return (
            self.loses
            or step.loop is not None
            or step.repeat is not None
            or self.work.fails_by(step.run or ())
            or not all(map(is_harmless_text, guards))
        )

    def may_forgive(self, step: Step) -> bool:
        """Whether the `run` of a step may end in a failure that is forgiven."""
        if step.loop is not None:
            return step.loop.on_error == "continue"
        return self.work.forgives(step.run or (), parallel=step.parallel)

    def at(self, step: Step, *part: str) -> Sequence[Use]:
        is_shared = part[0] == "retry" and step.retry is None
        return self.work.by_owner.get(part if is_shared else (*step.path, *part), ())

    def taken(
        self, case: Case, worlds: Worlds, needs: Needs, *, may_handle: bool, may_pass: bool
    ) -> Iterator[bool]:
        """The worlds in which a case may be taken: after a failure or not.

        `may_handle` says whether it is looked at after a failure, `may_pass` whether it may also be passed over then.
        """
        if case.case == "default":
            if worlds.alive & UNFAILED:
                yield False
                worlds.later[False] = None
            return
        if case.case == "error":
            if worlds.alive & FAILED and may_handle:
                yield True
                if not may_pass:
                    worlds.later[True] = None
            return
        is_aware = is_error_aware(case)
        for use in self.work.by_owner.get((*case.path, "case"), ()):
            for failed in (False, True) if is_aware and may_handle else (False,):
                if self.guarded(use, worlds, needs, failed=failed, may_pass=failed and may_pass):
                    yield failed
            return
        yield False

    def guarded(self, use: Use, worlds: Worlds, needs: Needs, *, failed: bool, may_pass: bool) -> bool:
        """Whether a guard may be true."""
        outcome = worlds.outcomes(failed=failed)
        if not outcome:
            return False
        before, made = worlds.assumed(failed=failed), worlds.most[failed]
        may = worlds.may(failed=failed and not worlds.alive & UNFAILED)
        reading = self.work.read(use, before.known, may, needs, outcome)
        true, false = reading.true, reading.false
        if may_pass:
            worlds.later[failed] = before
        elif false.outcomes & outcome and not false.gone & before.known:
            is_sure = failed or not reading.asks_for_errors
            worlds.later[failed] = self.assuming(before, reading, false, made) if is_sure else before
            worlds.alive &= ~outcome | false.outcomes | (outcome if reading.asks_for_errors else 0)
        elif failed or not reading.asks_for_errors:
            worlds.later[failed] = None
            worlds.settled = worlds.settled or (0 if failed else false.gone & before.known)
        if not true.outcomes & outcome:
            return False
        if true.gone & before.known:
            worlds.refuted = 0 if failed else true.gone & before.known
            return False
        worlds.now[failed] = worlds.narrowed(
            self.assuming(before, reading, true, made), true.outcomes & outcome
        )
        return True

    def assuming(self, before: Assumed, reading: Reading, found: Known, made: int) -> Assumed:
        """What is known behind a guard, which may be made by the work before it."""
        asked = found.there & self.readings.plain & ~reading.wanted & ~made
        return Assumed(
            before.known | self.work.widened(found.there, made),
            before.gone | found.gone,
            before.asked | asked,
        )
