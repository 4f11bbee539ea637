"""New runs in a corrected version of a playbook that start at a step or an event of another run.

Problem: the branches next to the step, and what waits at joins, were made by another version. In the
corrected one, they may meet elsewhere, or read names that the run does not have.

Algorithm: the state of the run is set back to the step or the event (`noetl.executor.engine.restart`). The
verdict on a switch judges this state. If it is yes, the state is carried to the corrected version, as the
start of a new run. If it is no, nothing is created.

Cost: one verdict, one read of the run with its outputs, and one start.

Limits: work that had begun begins again, and the run has ended. So no step is skipped or waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noetl.api.service.past_runs import PastRunService
from noetl.api.service.preview_views import ResumePreview
from noetl.api.service.restarts import has_other_plans
from noetl.api.service.resume_preview import PlanPair, ResumePreviewService
from noetl.api.service.runs import RunService, identify_request
from noetl.api.service.switch_views import VerdictEntry
from noetl.api.service.switches import PlaybookChange, SwitchService, refuse_switch
from noetl.api.service.tenant import TenantContext
from noetl.executor.engine.run_log import log_run_start
from noetl.executor.model.run import Run
from noetl.planner.continuation.verdict import Reason, SwitchVerdict
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.executor.engine.switching import Judge, SwitchRequest
    from noetl.executor.model.run_history import RunRecords
    from noetl.planner.continuation.switch_state import SwitchState


@frozen
class ChangedRestart:
    """The wish to start a new run in another version, at a step of a run or at an event of its history.

    Exactly one of `step` and `place` is set. With `drops_siblings`, the branches next to that of the step do
    not continue.
    """

    change: PlaybookChange
    step: str | None = None
    place: str | None = None
    drops_siblings: bool = False


@frozen
class _JudgedStart:
    """The state at which a new run starts in another version, and the verdict, which is yes."""

    records: RunRecords
    plan: Plan
    request: SwitchRequest
    verdict: SwitchVerdict


@frozen
class ChangedRestartService:
    """The new runs in corrected versions that start from runs of one tenant."""

    context: TenantContext
    runs: RunService
    past_runs: PastRunService
    previews: ResumePreviewService
    switches: SwitchService

    def start(
        self, run_id: str, restart: ChangedRestart, judge: Judge | None = None
    ) -> tuple[Run, Sequence[Reason]]:
        """Start a new run in another version. Return it, and the notices of the verdict.

        Raises:
            NotFoundError: the tenant has no such run, or the registry no such playbook.
            PlaybookError: the playbook does not compile.
            RejectedError: `cannot_continue`, with the verdict; `other_playbook`; `same_plan`; `not_ended`;
                `unknown_step`; `unknown_event`; `inside_region`; `nothing_left`; `no_past`; `payload_lost`;
                `invalid_input`; `local_run`; `quota_exceeded`; `idempotency_key_reused`.
        """
        from noetl.executor.engine.restart import begin_in_plan

        run, change = self.runs.controllable_run(run_id, "resume"), restart.change
        request = self.switches.prepare(change)
        place = [restart.step, restart.place, restart.drops_siblings]
        content = [run.id, "start", *place, request.plan.hash, dict(change.renamed), dict(change.given)]
        idempotency = identify_request(change.idempotency_key, content)
        if (earlier := self.runs.earlier_run(idempotency)) is not None:
            return earlier, ()
        judged = self._judge(run.id, restart, request, judge)
        continued = begin_in_plan(judged.records, judged.plan, request, self.context.clock())
        self.runs.check_quota(continued.run.queue)
        self.context.store.plans.save(request.plan)
        created = self.context.store.runs.create_continued(continued, idempotency)
        log_run_start(created, continued.run)
        return created, judged.verdict.notices

    def preview(self, run_id: str, restart: ChangedRestart, judge: Judge | None = None) -> ResumePreview:
        """Return the verdict on a new run, and what it would do again. Nothing is changed.

        Raises:
            NotFoundError, PlaybookError, RejectedError: as `start`.
        """
        from noetl.executor.engine.restart import begin_in_plan

        run, request = self.runs.controllable_run(run_id, "resume"), self.switches.prepare(restart.change)
        judged = self._judge(run.id, restart, request, judge)
        begin_in_plan(judged.records, judged.plan, request, self.context.clock())
        begun = {visit.id for visit in judged.records.visits if judged.records.is_live(visit)}
        kept = frozenset(visit.id for visit in judged.records.visits) - begun
        plans = PlanPair(judged.plan, request.plan, request.switch.renamed)
        visits = self.context.store.runs.visits_with_outputs(run.id)
        is_first = begun.__contains__ if restart.step is None else {restart.step}.__contains__
        steps = self.previews.describe_again(
            plans, visits, kept, lambda visit: is_first(visit.id if restart.step is None else visit.step)
        )
        return ResumePreview(
            workflow_id=run.id,
            starts_new_run=True,
            steps=list(steps),
            verdict=VerdictEntry.from_verdict(judged.verdict),
        )

    def _judge(
        self, run_id: str, restart: ChangedRestart, request: SwitchRequest, judge: Judge | None
    ) -> _JudgedStart:
        """Return the state of a run from which a new one may start in another version.

        Raises:
            RejectedError: as `start`.
        """
        from noetl.executor.engine.switching import check_other_plan

        run, plan = self.runs.get(run_id), self.runs.plan(run_id)
        check_other_plan(run, request.plan)
        records, state = self._find_state(run, plan, restart)
        verdict = self.switches.switcher(judge).judge(plan, request.plan, state, request.switch)
        if not verdict.is_yes:
            raise refuse_switch(run_id, verdict)
        return _JudgedStart(records, plan, request, verdict)

    def _find_state(self, run: Run, plan: Plan, restart: ChangedRestart) -> tuple[RunRecords, SwitchState]:
        """Return the state of a run before a step, or after an event."""
        from noetl.executor.engine.restart import (
            RestartPoint,
            find_past_state,
            find_restart_state,
            read_restart_state,
        )

        if restart.step is None:
            moment = self.past_runs.find(run.id, restart.place or "")
            records = find_past_state(moment.recorded, moment.state)
            return records, read_restart_state(records, plan)
        step = self.runs.find_step(run, restart.step).name
        visits = self.context.store.runs.visits_with_outputs(run.id)
        has_others = has_other_plans(self.context, run.id, visits)
        return find_restart_state(RestartPoint(run, plan, visits, step, restart.drops_siblings, has_others))
