"""New runs that start at an event of another run, from the state that the run had there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

from noetl.api.service.past_runs import PastRunService
from noetl.api.service.preview_views import ResumePreview
from noetl.api.service.resume_preview import PlanPair, ResumePreviewService
from noetl.api.service.runs import RunService, identify_request
from noetl.api.service.tenant import TenantContext
from noetl.executor.engine.run_log import log_run_start
from noetl.executor.model.run import Run
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.executor.model.run_history import RunRecords


@frozen
class PastRestart:
    """The wish to start a new run at the event `place` of a run, by its id or its number.

    `input` replaces values of its input. The same `idempotency_key` with the same request starts one run.
    `is_dry_run` requests a preview, which changes nothing.
    """

    place: str
    input: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    is_dry_run: bool = False


@frozen
class PastRestartService:
    """The new runs that start at events of the runs of one tenant."""

    context: TenantContext
    runs: RunService
    past_runs: PastRunService
    previews: ResumePreviewService

    def start(self, run_id: str, restart: PastRestart) -> Run:
        """Start a new run from the state that a run had after an event, and return the new run.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `unknown_event`; `no_past`; `not_ended`; `nothing_left`; `inside_region`;
                `payload_lost`; `invalid_input`; `local_run`; `idempotency_key_reused`; `quota_exceeded`.
        """
        from noetl.executor.engine.restart import begin_from_records

        run = self.runs.controllable_run(run_id, "restart")
        content = [run.id, "at", restart.place, dict(restart.input)]
        idempotency = identify_request(restart.idempotency_key, content)
        if (earlier := self.runs.earlier_run(idempotency)) is not None:
            return earlier
        records = self._find_records(run.id, restart)
        plan = self.runs.plan(run.id)
        continued = begin_from_records(records, plan, restart.input, self.context.clock())
        self.runs.check_quota(continued.run.queue)
        created = self.context.store.runs.create_continued(continued, idempotency)
        log_run_start(created, continued.run)
        return created

    def preview(self, run_id: str, restart: PastRestart) -> ResumePreview:
        """Return what the new run would do again. Nothing is changed.

        Raises:
            NotFoundError, RejectedError: as `start` does.
        """
        from noetl.executor.engine.start import correct_input

        records = self._find_records(run_id, restart)
        plan = self.runs.plan(run_id)
        correct_input(plan.header, records.run, restart.input)
        begun = {visit.id for visit in records.visits if records.is_live(visit)}
        kept = frozenset(visit.id for visit in records.visits) - begun
        visits = self.context.store.runs.visits_with_outputs(run_id)
        plans = PlanPair(plan, plan)
        steps = self.previews.describe_again(plans, visits, kept, lambda visit: visit.id in begun)
        return ResumePreview(workflow_id=run_id, starts_new_run=True, steps=list(steps))

    def _find_records(self, run_id: str, restart: PastRestart) -> RunRecords:
        """Return the records of a run as they were after the event."""
        from noetl.executor.engine.restart import find_past_state

        moment = self.past_runs.find(run_id, restart.place)
        return find_past_state(moment.recorded, moment.state)
