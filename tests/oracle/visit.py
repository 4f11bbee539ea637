"""One visit of a step: its `run`, then its rule, then the taken case (sections 2, 5, 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.oracle.expressions import EvaluationFailure, condition_holds, guard_is_true, is_error_aware
from tests.oracle.flow_graph import step_targets
from tests.oracle.program import NotCoveredError, RunProgram
from tests.oracle.work import Item, WorkFailure, WorkPerformer, WorkScope, item


class ChoiceSequence:
    """The choices of one performance where the text leaves several results open."""

    def __init__(self, made: list[int]) -> None:
        self.made = made
        self.sizes: list[int] = []

    def pick(self, size: int) -> int:
        """Return a number below `size`."""
        self.sizes.append(size)
        if len(self.sizes) > len(self.made):
            self.made.append(0)
        return self.made[len(self.sizes) - 1]


def all_results(perform: Callable[[ChoiceSequence], Any]) -> list[Any]:
    """Return the results of a function under all sequences of choices."""
    results: list[Any] = []
    made: list[int] = []
    while True:
        choices = ChoiceSequence(made)
        results.append(perform(choices))
        made = choices.made
        while made and made[-1] + 1 == choices.sizes[len(made) - 1]:
            made.pop()
        if not made:
            return results
        made[-1] += 1


@dataclass(frozen=True)
class PerformedVisit:
    """The effect of a visit: what is committed, and where its branch goes."""

    saved: Mapping[str, Any]
    record: Mapping[str, Any]  # `steps.NAME`
    targets: tuple[str, ...] = ()
    failure: Mapping[str, Any] | None = None  # one that no case has handled
    was_suspended: bool = False


StartRun = Callable[[str, Mapping[str, Any], ChoiceSequence], Any]


class VisitPerformer:
    """The performer of visits of a program's steps."""

    def __init__(self, program: RunProgram, start_run: StartRun) -> None:
        self.program = program
        self.start_run = start_run

    def perform(
        self, name: str, number: int, names: Mapping[str, Any], choices: ChoiceSequence
    ) -> PerformedVisit:
        """Perform one visit, given the names that its branch sees."""
        return _Visit(self, name, number, names, choices).perform()


class _Visit:
    def __init__(
        self,
        performer: VisitPerformer,
        name: str,
        number: int,
        names: Mapping[str, Any],
        choices: ChoiceSequence,
    ) -> None:
        self.program = performer.program
        self.name = name
        self.number = number
        self.names = names
        self.choices = choices
        self.step = self.program.graph.steps[name]
        self.work = WorkPerformer(
            name,
            1,
            self.program.graph.tasks,
            lambda playbook, inputs: performer.start_run(playbook, inputs, choices),
        )
        self.scope = self._scope({})
        self.failure: dict[str, Any] | None = None
        self.result: Item = item()

    def _scope(self, saved: Mapping[str, Any]) -> WorkScope:
        step = {"name": self.name, "visit": self.number, "attempt": self.work.attempt}
        return WorkScope({**self.names, "step": step}, dict(saved))

    def perform(self) -> PerformedVisit:
        is_refused = self.number > self.step.get("max_visits", self.number)
        try:
            if is_refused:
                self.work.fail("MaxVisitsExceeded", f"visit {self.number}")
            self.result = self._run_rounds()
        except WorkFailure as failure:
            self._fail(failure.error)
        case = self._take_case(is_refused)
        if case is None:
            return self._end(is_handled=self.failure is None)
        graph = self.program.graph
        if targets := step_targets(case, graph.steps, graph.tasks):
            return self._end(targets=tuple(targets))
        # In-place work: it reads `result` and `error` as its guard does, and the branch ends with it.
        self.scope.local = {"result": self.result, "error": self.failure}
        try:
            self.work.perform(case.get("run") or (), parallel=False, scope=self.scope)
        except WorkFailure as failure:
            self._fail(failure.error)
            return self._end(is_handled=False)
        return self._end()

    def _fail(self, error: dict[str, Any]) -> None:
        """Fail the step. What it saved is dropped, also before a pause and in earlier rounds (section 7)."""
        self.scope = self._scope({})
        self.failure = error
        self.result = item(error["action"], success=False, error=error)

    def _run_rounds(self) -> Item:
        """Perform `run` in the rounds of the step's `repeat` (section 6)."""
        repeat = self.step.get("repeat")
        for _ in range(repeat["max"] if repeat else 1):
            result = self._run_round()
            if repeat is None:
                return result
            try:
                if condition_holds(repeat["until"], {**self.scope.view(), "result": result}):
                    return result
            except EvaluationFailure as failure:
                self.work.fail(failure.type, str(failure))
            self.work.pause()
        return self.work.fail("RepeatExhausted", "no round is left")

    def _run_round(self) -> Item:
        """Perform `run` with the step's `retry`: an attempt that fails leaves nothing."""
        retry, saved = self.program.retry(self.name), dict(self.scope.saved)
        for attempt in range(1, retry.get("attempts", 1) + 1):
            self.work.attempt, pauses = attempt, self.work.pauses
            self.scope = self._scope(saved)
            try:
                return self._run_once()
            except WorkFailure as failure:
                is_last = attempt == retry.get("attempts", 1)
                if is_last or not self.work.is_retried(retry, failure, self.scope):
                    raise
                if self.work.pauses > pauses:
                    raise NotCoveredError("retry of a step from a suspension on") from failure
                self.work.pause()
        raise AssertionError

    def _run_once(self) -> Item:
        """Perform `run` once, with `loop` and `parallel`."""
        entries, is_parallel = self.step.get("run") or (), self.step.get("parallel", False)
        if "loop" not in self.step:
            return self.work.perform(entries, is_parallel, self.scope)
        if "batch" in self.step["loop"]:
            self.work.pause()  # the run may stop between two batches (section 6)
        return self.work.loop(
            self.step["loop"], self.scope, lambda inner: self.work.perform(entries, is_parallel, inner)
        )

    def _take_case(self, is_refused: bool) -> Mapping[str, Any] | None:
        """Return the first case with a true guard; after a failure only error-aware cases are candidates.

        A guard without a value is `GuardError`: the error-aware cases are evaluated once more, from the top.
        """
        for _ in range(2):
            names = {**self.scope.view(), "result": self.result, "error": self.failure}
            try:
                for case in self.step.get("rule") or ():
                    if self._is_candidate(case, is_refused) and guard_is_true(case["case"], names):
                        return case  # type: ignore[no-any-return]
                return None
            except EvaluationFailure as failure:
                self._fail(self.work.error("GuardError", str(failure)))
        return None

    def _is_candidate(self, case: Mapping[str, Any], is_refused: bool) -> bool:
        if self.failure is None:
            return True
        graph = self.program.graph
        targets = step_targets(case, graph.steps, graph.tasks)
        leads_back = any(target == self.name or graph.can_reach(target, self.name) for target in targets)
        return is_error_aware(case["case"]) and not (is_refused and leads_back)

    def _end(self, targets: tuple[str, ...] = (), is_handled: bool = True) -> PerformedVisit:
        has_failed = self.failure is not None
        record = {
            "status": "failed" if has_failed else "succeeded",
            "visits": self.number,
            "result": None if has_failed else self.result["data"],
            "error": self.failure,
            "failures": [] if has_failed else self.result["failures"],
        }
        unhandled = None if is_handled else self.failure
        return PerformedVisit(self.scope.saved, record, targets, unhandled, self.work.pauses > 0)
