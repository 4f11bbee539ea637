"""Previews of resumes: steps that are done again, and actions whose outside effects are repeated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from noetl.api.service.preview_views import (
    RepeatedAction,
    RepeatedLoop,
    RepeatedStep,
    RepetitionState,
    ResumePreview,
)
from noetl.api.service.restarts import judge_restart
from noetl.api.service.runs import ResumeRequest, RunService
from noetl.executor.errors import RejectedError
from noetl.executor.model.finished_items import read_records
from noetl.executor.model.run import Run, Visit, VisitStatus
from noetl.executor.model.run_transition import is_resumable
from noetl.executor.model.special_visits import is_branch_visit
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import reopen
from noetl.planner.continuation.work_form import hash_item_work
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Action, Plan, Step, Work

if TYPE_CHECKING:
    from noetl.api.service.tenant import TenantContext
    from noetl.executor.engine.switching import SwitchRequest

MAX_NUMBERS = 10
"""How many items of a loop a preview names."""

_COMPLETED = "action.completed"
_BEGUN = ("action.started", "action.failed")
_Reason = Literal["failed", "parked", "skipped", "from", "after"]
_Positions = tuple[AbstractSet[str], AbstractSet[str]]


@frozen
class PlanPair:
    """The plan of a run, and the plan in which its steps are done again.

    `renamed` maps steps of the old plan to their names in the new one.
    """

    old: Plan
    new: Plan
    renamed: Mapping[str, str] = field(default_factory=dict)

    def rename(self, visit: Visit) -> Visit:
        """Return a visit with the name of its step in the new plan."""
        return replace(visit, step=self.renamed.get(visit.step, visit.step))

    def keep_common(self, visit: Visit, positions: _Positions) -> _Positions:
        """Return the positions at which both plans have the same type of action in the step of a visit."""
        before, after = _find_types(self.old, visit.step), _find_types(self.new, self.rename(visit).step)
        kept = {place for place, _ in before.items() & after.items()}
        return positions[0] & kept, positions[1] & kept


@frozen
class ResumePreviewService:
    """The previews of resumes of one tenant's runs. Nothing is changed."""

    context: TenantContext
    runs: RunService

    def preview(self, run_id: str, request: ResumeRequest) -> ResumePreview:
        """Return what a request to resume a run would do again.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: as `RunService.resume` does.
        """
        run, plan = self.runs.get(run_id), self.runs.plan(run_id)
        visits = self.context.store.runs.visits_with_outputs(run.id)
        if request.step is not None:
            steps = self._steps_after(run, plan, visits, request)
        else:
            steps = self._reopened_steps(run, plan, visits, request)
        return ResumePreview(workflow_id=run.id, starts_new_run=request.step is not None, steps=list(steps))

    def _reopened_steps(
        self, run: Run, plan: Plan, visits: Sequence[Visit], request: ResumeRequest
    ) -> Iterator[RepeatedStep]:
        """Yield the steps that continue in the run itself."""
        from noetl.executor.engine.skips import check_skipped_result, find_skips
        from noetl.executor.engine.start import correct_input

        if not is_resumable(run, plan.header):
            raise RejectedError("not_ended", f"run {run.id} has not ended, so there is nothing to resume")
        skips = find_skips(run.id, visits, tuple(plan.steps), request.skips, request.caller)
        for step, result in request.skips.items():
            steps, is_sequential = plan.steps, plan.header.sequential
            check_skipped_result(steps[step], result, steps.__getitem__, is_sequential=is_sequential)
        correct_input(plan.header, run, request.input)
        for visit in visits:
            again = reopen(visit, 0.0) if is_branch_visit(visit, plan.header.finally_step) else None
            if again is not None:
                is_failed = visit.status is VisitStatus.FAILED
                reason: _Reason = "failed" if is_failed else "parked"
                loops = _describe_loops(plan, visit, all_items=request.all_items)
                yield self._describe(plan, visit, "skipped" if visit.id in skips else reason, loops=loops)

    def find_reopened(self, run_id: str, request: SwitchRequest) -> Iterator[RepeatedStep]:
        """Yield the steps that a run would do again in another plan, by their names there.

        The verdict on the switch must be yes. A run that has not ended repeats what is to be retried.
        """
        from noetl.executor.engine.skips import find_skips

        run, old, new = self.runs.get(run_id), self.runs.plan(run_id), request.plan
        visits = self.context.store.runs.visits(run.id)
        skips = find_skips(run.id, visits, tuple(old.steps), request.skips, request.caller)
        last, plans = old.header.finally_step, PlanPair(old, new, request.switch.renamed)
        repeated = [visit for visit in visits if is_branch_visit(visit, last) and _is_repeated(visit, run)]
        if run.status.is_final and not repeated and last == new.header.finally_step:
            repeated = [visit for visit in visits if visit.step == last]  # The end of the run is done again.
        for visit in repeated:
            reason: _Reason = "failed" if visit.error is not None else "parked"
            renamed = plans.rename(visit)
            positions = plans.keep_common(visit, self._read_positions(visit))
            loops = _describe_loops(new, renamed, all_items=request.all_items)
            reason = "skipped" if visit.id in skips else reason
            yield self._describe(new, renamed, reason, positions, loops)

    def _read_positions(self, visit: Visit) -> _Positions:
        """Return the positions of the actions of a visit that were completed, and of those that began."""
        types = {_COMPLETED, *_BEGUN}
        events = self.context.store.visits.events(visit.run_id, visit.step, visit.number, types)
        places = [(event.type, str(event.payload["position"])) for event in events]
        completed = {place for type, place in places if type == _COMPLETED}
        return completed, {place for type, place in places if type != _COMPLETED}

    def _steps_after(
        self, run: Run, plan: Plan, visits: Sequence[Visit], request: ResumeRequest
    ) -> Iterator[RepeatedStep]:
        """Yield a step at which a new run starts, and the visits that the new run does not have."""
        from noetl.executor.engine.restart import RestartPoint
        from noetl.executor.engine.start import check_can_restart, correct_input, prefix_before

        step = self.runs.find_step(run, request.step or "")
        check_can_restart(run, step)
        if step.regions:
            point = RestartPoint(run, plan, visits, step.name, request.drops_siblings)
            records = judge_restart(self.context, point)
            kept = frozenset(v.id for v in records.visits if v.status in FINISHED)
        else:
            prefix = prefix_before(step, run, visits, plan.header.finally_step)
            kept = frozenset(v.id for v in prefix.visits)
        correct_input(plan.header, run, request.input)
        plans = PlanPair(plan, plan)
        again = list(self.describe_again(plans, visits, kept, lambda visit: visit.step == step.name))
        if all(repeated.step != step.name for repeated in again):
            yield RepeatedStep(step=step.name, visit=1, reason="from", actions=())
        yield from again

    def describe_again(
        self,
        plans: PlanPair,
        visits: Sequence[Visit],
        kept: frozenset[str],
        is_first: Callable[[Visit], bool],
    ) -> Iterator[RepeatedStep]:
        """Yield the visits that a new run does again: those that it does not keep, by their ids.

        A step that the new plan does not have is not done again.
        """
        old, new = plans.old, plans.new
        for visit in visits:
            if visit.id in kept or not is_branch_visit(visit, old.header.finally_step):
                continue
            renamed = plans.rename(visit)
            if visit.step not in old.steps or renamed.step not in new.steps:
                continue
            positions = plans.keep_common(visit, self._read_positions(visit))
            yield self._describe(new, renamed, "from" if is_first(visit) else "after", positions)

    def _describe(
        self,
        plan: Plan,
        visit: Visit,
        reason: _Reason,
        positions: _Positions | None = None,
        loops: Sequence[RepeatedLoop] = (),
    ) -> RepeatedStep:
        actions: list[RepeatedAction] = []
        if reason != "skipped":
            known = self._read_positions(visit) if positions is None else positions
            actions = list(_find_outside(self.context, plan, visit, known))
        if reason == "parked" and visit.progress is not None:
            # What a suspended step has completed is not done again.
            actions = [action for action in actions if action.done is not RepetitionState.YES]
        shown = None if reason == "skipped" or not loops else loops
        return RepeatedStep(step=visit.step, visit=visit.number, reason=reason, actions=actions, loops=shown)


def _describe_loops(plan: Plan, visit: Visit, *, all_items: bool) -> list[RepeatedLoop]:
    """Return the failed loops of a visit. Those whose work is another one in the plan do all items again."""
    step, loops = plan.steps[visit.step], list[RepeatedLoop]()
    for position, record in read_records(visit).items():
        stays = not all_items and hash_item_work(plan.tasks.get, step, position) == record.work
        shown = record if stays else replace(record, done=())
        loops.append(
            RepeatedLoop(
                position=position,
                total=record.total,
                done=shown.done_count,
                again=record.total - shown.done_count,
                numbers=list(itertools.islice(shown.open_numbers(), MAX_NUMBERS)),
                lost=record.lost,
            )
        )
    return loops


def _find_outside(
    context: TenantContext, plan: Plan, visit: Visit, positions: _Positions
) -> Iterator[RepeatedAction]:
    """Yield the actions of a step that act outside, and whether the visit has done each of them.

    `positions` are those of the actions that were completed, and of those that have begun. An action that has
    failed may have acted before. A lost worker has reported nothing.
    """
    step, (completed, begun) = plan.steps[visit.step], positions
    is_lost = visit.error is not None and visit.error["type"] == "WorkerLost"
    has_started = visit.started_at is not None or visit.finished_at is not None or bool(completed)
    for position, action, is_repeated_inside in _flatten(plan, step):
        declaration = context.compiler.catalogue[action.type]
        if declaration.cannot_fail or declaration.never_succeeds:
            continue
        if position in completed:
            done = RepetitionState.YES
        elif position in begun or is_lost or (has_started and is_repeated_inside):
            done = RepetitionState.PERHAPS
        else:
            done = RepetitionState.NO
        yield RepeatedAction(
            position=position,
            action=action.type,
            line=action.line or None,
            done=done,
            idempotent=declaration.is_idempotent(action.parameters),
        )


def _is_repeated(visit: Visit, run: Run) -> bool:
    """Return whether a visit is performed again, in a run that has ended or in one that goes on."""
    if run.status.is_final:
        return reopen(visit, 0.0) is not None
    return visit.error is not None and visit.status not in FINISHED


def _find_types(plan: Plan, step: str) -> dict[str, str]:
    """Return the types of the actions of a step by their positions."""
    return {position: action.type for position, action, _ in _flatten(plan, plan.steps[step])}


def _flatten(plan: Plan, step: Step) -> Iterator[tuple[str, Action, bool]]:
    """Yield position and action of all work of a step, and whether it is in a loop, which has no events."""
    yield from _flatten_work(plan, step.run, "run", is_looped=step.loop is not None)
    for index, case in enumerate(step.cases):
        yield from _flatten_work(plan, case.work, f"rule.{index}", is_looped=False)


def _flatten_work(
    plan: Plan, work: Sequence[Work], position: str, *, is_looped: bool
) -> Iterator[tuple[str, Action, bool]]:
    for index, item in enumerate(work):
        place, inside = f"{position}.{index}", is_looped or item.loop is not None
        if isinstance(item, Action):
            yield place, item, inside
        else:
            task = plan.tasks[item.task]
            yield from _flatten_work(plan, task.run, f"{place}/{item.task}", is_looped=inside)
