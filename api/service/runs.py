"""The service of runs: their start, status, result and history, their cancellation and their resumption."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from noetl.api.service.compiler import InlinePlaybook, PlanSource, PlaybookReference
from noetl.api.service.errors import NotFoundError
from noetl.api.service.playbooks import registered_playbook
from noetl.api.service.restarts import begin_restart, has_other_plans
from noetl.api.service.step_reports import (
    QueuedSlots,
    find_queued_slots,
    has_waiting_step,
    step_reports,
    step_states,
)
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import (
    EventEntry,
    EventPage,
    RunEntry,
    RunPage,
    RunProgress,
    RunReport,
    RunResult,
    RunTags,
    StepReport,
    StepState,
    parent_of,
    starts_of,
    trigger_of,
)
from noetl.executor.engine.run_log import log_run_resume, log_run_start
from noetl.executor.engine.slots import find_gates, grant_next
from noetl.executor.errors import DamagedRunError, RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.run import Run, RunStatus, Visit
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import ResultText, RunOverview, RunSummary
from noetl.executor.model.run_tags import TagChange
from noetl.executor.model.run_transition import check_same_request
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.cursors import (
    BEFORE_ALL_EVENTS,
    EventPlace,
    place_before,
    read_event_id,
    write_event_id,
)
from noetl.executor.stores.damage import damage_record, naming_run
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen
from noetl.planner.plan import Header, Plan, Step, canonical_json

if TYPE_CHECKING:
    from noetl.executor.engine.initial_data import InitialData, InitialValues

EVENTS_PER_PAGE = 1000
_ALL_EVENTS = 10**9
_MAX_SHOWN_STEPS = 10
_UNNAMED_STATES = frozenset({StepState.PENDING, StepState.SUCCEEDED, StepState.CANCELLED})
"""States of steps that no headline names."""


@frozen
class ResumeRequest:
    """A request to resume a run. `input` replaces values of its input.

    With `step`, a new run starts at that step of the run, which has ended. With `drops_siblings`, the
    branches next to that step do not continue. `skips` holds results of failed or parked steps, which are
    not performed then; `caller` is who requests it, if known. With `all_items`, failed loops do all of their
    items again. The same `idempotency_key` with the same request resumes once, or starts one run.
    `is_dry_run` requests a preview, which changes nothing.
    """

    input: Mapping[str, Any] = field(default_factory=dict)
    step: str | None = None
    idempotency_key: str | None = None
    drops_siblings: bool = False
    skips: Mapping[str, Any] = field(default_factory=dict)
    caller: str | None = None
    is_dry_run: bool = False
    all_items: bool = False

    def idempotency(self, content: Any) -> tuple[str, str] | None:
        """Return the key of the request with the hash of its content, or None without a key."""
        return identify_request(self.idempotency_key, content)


@frozen
class RunDraft:
    """A run that is not stored yet. `plan` is None if it is registered.

    `data` are its environment and variables before their evaluation, which may take long. `idempotency` is
    the key and the hash of the request.
    """

    data: InitialData
    plan_hash: str
    request: StartRequest
    plan: Plan | None
    idempotency: tuple[str, str] | None


@frozen
class RunService:
    """The runs of one tenant."""

    context: TenantContext

    def start(self, playbook: PlanSource | Plan, request: StartRequest) -> Run:
        """Store a run of the playbook, with its first visit ready for a worker, and return it.

        Raises:
            PlaybookError, NotFoundError, RejectedError: as `draft` does.
        """
        draft = self.draft(playbook, request)
        return draft if isinstance(draft, Run) else self.create(draft, draft.data.evaluate())

    def start_light(self, playbook: PlanSource | Plan, request: StartRequest) -> Run | RunDraft:
        """Start a run as `start` does if its data is evaluated quickly. Return the draft of another run."""
        draft = self.draft(playbook, request)
        if isinstance(draft, Run) or not draft.data.is_light:
            return draft
        return self.create(draft, draft.data.evaluate())

    def draft(self, playbook: PlanSource | Plan, request: StartRequest) -> Run | RunDraft:
        """Return a new run before its environment and variables are evaluated. Nothing is stored.

        Return the run of an earlier request that carried the same idempotency key, even if the registry has
        changed since.

        Raises:
            PlaybookError: the playbook does not compile.
            NotFoundError: the registry has no such playbook.
            RejectedError: `invalid_input`; `idempotency_key_reused`, by another request; `quota_exceeded`.
        """
        from noetl.executor.engine.start import initial_data

        tenant, store = self.context.tenant, self.context.store
        plan = self.context.compiler.plan(playbook.text) if isinstance(playbook, InlinePlaybook) else playbook
        request, idempotency = replace(request, tenant=tenant), None
        if request.idempotency_key is not None:
            idempotency = (request.idempotency_key, _hash_of_start(plan, request))
            # The id follows from the request, so an earlier run is found before its plan is read.
            run_id = _hash([tenant, *idempotency])[:24]
            if (earlier := store.runs.get(tenant, run_id)) is not None:
                return earlier
            request = replace(request, run_id=run_id)
        header, plan_hash, version = self._head_of(plan)
        request = replace(request, version=version)
        data = initial_data(header, request, now=self.context.clock())
        return RunDraft(data, plan_hash, request, plan if isinstance(plan, Plan) else None, idempotency)

    def create(self, draft: RunDraft, values: InitialValues) -> Run:
        """Store a drafted run with its evaluated `values`, and return it, or the run that it joins.

        Raises:
            RejectedError: `idempotency_key_reused`, by another request; `quota_exceeded`.
        """
        from noetl.executor.engine.start import assemble_run

        run, first_visit = assemble_run(draft.data, draft.plan_hash, draft.request, values)
        self.check_quota(run.queue)
        if draft.plan is not None:
            self.context.store.plans.save(draft.plan)
        created = self.context.store.runs.create(run, first_visit, idempotency=draft.idempotency)
        log_run_start(created, run)
        return created

    def _head_of(self, plan: Plan | PlaybookReference) -> tuple[Header, str, str | None]:
        """Return the header, hash and version of a plan that was compiled, or that is registered."""
        if isinstance(plan, Plan):
            return plan.header, plan.hash, plan.header.version
        found = registered_playbook(self.context, plan)
        return self.context.store.plans.header(found.plan_hash), found.plan_hash, found.version

    def has_request(self, key: str | None) -> bool:
        """Return whether an earlier request had an idempotency key. None is no key."""
        return key is not None and self.context.store.runs.find_request(self.context.tenant, key) is not None

    def add(self, plan: Plan, run: Run, first_visit: Visit) -> Run:
        """Store a run of a compiled plan, with its first visit ready for a worker, and return it."""
        self.context.store.plans.save(plan)
        return self.context.store.runs.create(run, first_visit)

    def get(self, run_id: str) -> Run:
        """Return the record of a run.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self.context.store.runs.get(self.context.tenant, run_id)
        if run is None:
            raise _unknown_run(run_id)
        return run

    def exists(self, run_id: str) -> bool:
        """Return whether the tenant has a run, which may be damaged."""
        try:
            return self.context.store.runs.summary(self.context.tenant, run_id) is not None
        except DamagedRunError:
            return True

    def summary(self, run_id: str) -> RunSummary:
        """Return the summary of a run, which has no payloads.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self.context.store.runs.summary(self.context.tenant, run_id)
        if run is None:
            raise _unknown_run(run_id)
        return run

    def overview(self, run_id: str) -> RunOverview:
        """Return what the status of a run shows. If data of the run cannot be read, its damage says so.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        try:
            overview = self.context.store.runs.overview(self.context.tenant, run_id)
            if overview is not None and overview.damage is None:
                self.context.store.plans.header(overview.summary.plan_hash)
        except DamagedRunError as error:
            # No worker has met the damage yet.
            overview = RunOverview(self.summary(run_id), None, {}, error.message)
        if overview is None:
            raise _unknown_run(run_id)
        return overview

    def report(self, run_id: str) -> RunReport:
        """Return the status of a run and of its steps.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return self.describe(self.overview(run_id))

    def describe(self, overview: RunOverview) -> RunReport:
        """Return the status of the run of an overview, and of its steps."""
        steps = self._step_reports(overview, self._step_names(overview))
        return self._describe(overview, steps, Counter(step.status for step in steps.values()))

    def outline(self, overview: RunOverview, queued: QueuedSlots | None = None) -> RunReport:
        """Return the status of the run of an overview, and only of those steps that a headline may name.

        Most steps of a long run have succeeded or not started. Their reports take most of the time. `queued`
        are the slots of the run that wait, or None if they were not read.
        """
        states = step_states(overview.summary.status, self._step_names(overview), overview.steps)
        names = [name for name, state in states.items() if state not in _UNNAMED_STATES]
        return self._describe(overview, self._step_reports(overview, names, queued), Counter(states.values()))

    def _describe(
        self, overview: RunOverview, steps: Mapping[str, StepReport], counts: Counter[StepState]
    ) -> RunReport:
        run = overview.summary
        finished = counts[StepState.SUCCEEDED] + counts[StepState.FAILED]
        return RunReport(
            workflow_id=run.id,
            status=run.status,
            playbook=run.playbook,
            version=run.version,
            parent=parent_of(run),
            resumed_from=run.resumed_from,
            trigger=trigger_of(run),
            created_at=timestamp(run.created_at),
            begins_at=timestamp(self._find_begin(overview)),
            starts=starts_of(run),
            started_at=timestamp(run.started_at),
            finished_at=timestamp(run.finished_at),
            steps=steps,
            progress=RunProgress(steps=counts.total(), finished=finished, running=counts[StepState.RUNNING]),
            error=overview.error or damage_record(overview.damage, has_ended=run.status.is_final),
        )

    def _find_begin(self, overview: RunOverview) -> float | None:
        """Return when a run begins that waits for further starts, or None."""
        run = overview.summary
        is_begun = run.status is not RunStatus.QUEUED or run.resumes > 0 or run.resumed_from is not None
        if is_begun or overview.damage is not None:
            return None
        if self.context.store.plans.header(run.plan_hash).debounce is None:
            return None
        due = [visits.latest.due_at for visits in overview.steps.values()]
        return next((due_at for due_at in due if due_at > run.created_at), None)

    def result(self, run_id: str) -> RunResult:
        """Return the result of a run. It is null until the run has finished.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return RunResult.from_run(self.get(run_id))

    def result_text(self, run_id: str) -> ResultText:
        """Return the result of a run as its store keeps it. It is null until the run has finished.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        found = self.context.store.visits.result_text(self.context.tenant, run_id)
        if found is None:
            raise _unknown_run(run_id)
        return found

    def plan(self, run_id: str) -> Plan:
        """Return the plan of a run, with its source.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        with naming_run(run_id):
            return self.context.store.plans.get(self.summary(run_id).plan_hash)

    def header(self, run_id: str) -> Header:
        """Return the header of the plan of a run.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        with naming_run(run_id):
            return self.context.store.plans.header(self.summary(run_id).plan_hash)

    def last_event(self, run_id: str) -> str | None:
        """Return the id of the latest event of a run, or None if it has none yet.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        runs, id = self.context.store.runs, self.summary(run_id).id
        position = runs.positions([id]).get(id)
        # A store that does not count its entries is read from the start.
        seq = 0 if position is None else position.entry or 0
        after = write_event_id(id, place_before((seq, 0)))
        events = runs.events(id, after, _ALL_EVENTS)
        return events[-1].id if events else None

    def step_states(self, overview: RunOverview) -> dict[str, StepState]:
        """Return the states of the steps of an overview, without the rest of their reports."""
        return step_states(overview.summary.status, self._step_names(overview), overview.steps)

    def _step_reports(
        self, overview: RunOverview, names: Iterable[str], queued: QueuedSlots | None = None
    ) -> dict[str, StepReport]:
        run = overview.summary
        if queued is None and overview.damage is None and has_waiting_step(overview):
            queued = find_queued_slots(self.context.store, {run.id: run.plan_hash})[run.id]
        return step_reports(run.status, names, overview.steps, queued or {})

    def _step_names(self, overview: RunOverview) -> Sequence[str]:
        if overview.damage is not None:
            return tuple(overview.steps)
        return self.context.step_names(overview.summary.plan_hash)

    def find(self, run_filter: RunFilter) -> RunPage:
        """Return one page of the tenant's runs, the newest first, with the cursor of the next page.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        runs, next_cursor = self.context.store.runs.find(replace(run_filter, tenant=self.context.tenant))
        return RunPage(items=[RunEntry.from_summary(run) for run in runs], next_cursor=next_cursor)

    def events(self, run_id: str, after: str | None = None, limit: int = EVENTS_PER_PAGE) -> EventPage:
        """Return one page of the events of a run, those after the event `after`.

        `next_cursor` is null if the store has no further events yet.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `invalid_cursor`.
        """
        events = self.context.store.runs.events(self.summary(run_id).id, after, limit + 1)
        items = [EventEntry.from_event(event) for event in events[:limit]]
        return EventPage(items=items, next_cursor=items[-1].id if len(events) > limit else None)

    def find_event(self, run_id: str, id: str | None) -> EventPlace:
        """Return the place of an event in the history of a run; None is before all events.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `invalid_cursor`, if the run has no such event.
        """
        place = read_event_id(self.summary(run_id).id, id)
        if place != BEFORE_ALL_EVENTS:
            following = self.context.store.runs.events(run_id, write_event_id(run_id, place_before(place)), 1)
            if not following or following[0].id != id:
                raise RejectedError("invalid_cursor", f"the run has no event {id}")
        return place

    def is_at_end(self, run_id: str, last_event: str) -> bool:
        """Return whether a run has ended with an event, so that none follows it.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        is_final = self.summary(run_id).status.is_final
        return is_final and not self.context.store.runs.events(run_id, last_event, 1)

    def cancel(self, run_id: str) -> Run:
        """Cancel a run: abandon its work and start nothing new. A repeated call changes nothing.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `finished`, with another status; `local_run`.
            DamagedRunError: the run cannot end, since its plan or its data cannot be read. Delete it.
        """
        run, store = self.controllable_run(run_id, "cancel"), self.context.store
        with naming_run(run.id):
            gates = find_gates(store, run)
            cancelled = store.runs.stop(run.id, RunStatus.CANCELLED, self.context.clock())
        grant_next(store, gates, self.context.clock())
        return cancelled

    def change_tags(self, run_id: str, change: TagChange) -> RunTags:
        """Change the tags of a run, and return them.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `too_many_tags`.
        """
        tags = self.context.store.runs.change_tags(self.context.tenant, run_id, change)
        if tags is None:
            raise _unknown_run(run_id)
        return RunTags(workflow_id=run_id, tags=tags)

    def delete(self, run_id: str) -> None:
        """Delete a run that has ended, with all that it has left and all runs that it has started.

        A damaged run can be deleted at any time.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `not_ended`; `child_run`, if the run that has started it is kept.
        """
        maintenance, tenant = self.context.store.maintenance, self.context.tenant
        try:
            is_deleted = maintenance.delete_run(tenant, run_id)
        except RejectedError as refusal:
            if refusal.reason != "not_ended" or not self._set_aside_if_damaged(run_id):
                raise
            is_deleted = maintenance.delete_run(tenant, run_id)
        if not is_deleted:
            raise _unknown_run(run_id)

    def _set_aside_if_damaged(self, run_id: str) -> bool:
        """Set a run aside if it is damaged and no worker has met it yet. Return whether it is damaged."""
        store = self.context.store
        try:
            with naming_run(run_id):
                run = store.runs.get(self.context.tenant, run_id)
                if run is not None:
                    store.plans.header(run.plan_hash)
                    store.runs.visits(run.id)
        except DamagedRunError as error:
            store.maintenance.set_aside(run_id, error.message)
            return True
        return False

    def pause(self, run_id: str, caller: str | None = None) -> RunSummary:
        """Pause a run: running steps finish, and nothing new starts. A repeated call changes nothing.

        `caller` is who requests it, if known.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `finished`; `ending`, if it is ending; `local_run`.
        """
        run, store = self.controllable_run(run_id, "pause"), self.context.store
        with naming_run(run.id):
            gates = find_gates(store, run)
        store.pauses.pause(run.id, self.context.clock(), caller)
        grant_next(store, gates, self.context.clock())
        return self.summary(run_id)

    def unpause(self, run_id: str, caller: str | None = None) -> RunSummary:
        """Let a paused run continue. For a run that is not paused, the call changes nothing.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `finished`; `local_run`.
        """
        run = self.controllable_run(run_id, "unpause")
        self.context.store.pauses.unpause(run.id, self.context.clock(), caller)
        return self.summary(run_id)

    def resume(self, run_id: str, request: ResumeRequest) -> Run:
        """Resume a run at its failed and parked visits, or start a new run at a step of it. Return that run.

        The new run starts with the names that had values at the step.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `not_resumable`, if it has succeeded; `paused`; `payload_lost`; `unknown_step`;
                `not_ended`, if a step, input, a result of a step or all items are requested; `not_skippable`;
                `incomplete_result`; `inside_region` or `cannot_continue`, if no run can start at the step;
                `invalid_input`; `local_run`; `idempotency_key_reused`, by another request; `quota_exceeded`.
        """
        run = self.controllable_run(run_id, "resume")
        if request.step is not None:
            return self._restart(self.get(run_id), request.step, request)
        content: list[Any] = [run.id, "resume", dict(request.input)]
        content += [dict(request.skips)] if request.skips else []
        idempotency = request.idempotency([*content, "all_items"] if request.all_items else content)
        if (earlier := self.earlier_run(idempotency)) is not None:
            return earlier
        if request.input and not run.status.is_final:
            message = f"run {run_id} has not ended, so its input cannot be corrected; resume it without input"
            raise RejectedError("not_ended", message)
        if (request.skips or request.all_items) and not run.status.is_final:
            act = "skipped" if request.skips else "done with all items"
            message = f"run {run_id} has not ended, so no step of it can be {act}; cancel it first"
            raise RejectedError("not_ended", message)
        from noetl.executor.engine.start import correct_input

        header, now = self.header(run.id), self.context.clock()
        deadline_at = None if header.timeout_seconds is None else now + header.timeout_seconds
        values = correct_input(header, self.get(run_id), request.input) if request.input else {}
        if request.skips or request.all_items:
            values = {**values, "skips": self._find_marks(run, request)}
        self.check_quota(run.queue)
        resumed = self.context.store.runs.resume(
            run.id, now, deadline_at=deadline_at, values=values, idempotency=idempotency
        )
        if run.status.is_final and not resumed.status.is_final:
            log_run_resume(resumed)
        return resumed

    def _find_marks(self, run: RunSummary, request: ResumeRequest) -> dict[str, Any]:
        """Return the marks of the visits that are skipped, or that do all items of their loops again.

        Raises:
            RejectedError: `unknown_step`, `not_skippable`, `incomplete_result`.
        """
        from noetl.executor.engine.skips import check_skipped_result, find_item_marks, find_skips

        visits = self.context.store.runs.visits(run.id)
        names = self.context.step_names(run.plan_hash)
        skips = find_skips(run.id, visits, names, request.skips, request.caller)
        step_of = partial(self.context.store.plans.step, run.plan_hash)
        is_sequential = self.context.store.plans.header(run.plan_hash).sequential
        for step, result in request.skips.items():
            check_skipped_result(step_of(step), result, step_of, is_sequential=is_sequential)
        marks: dict[str, Any] = dict(find_item_marks(visits)) if request.all_items else {}
        return marks | skips

    def earlier_run(self, idempotency: tuple[str, str] | None) -> Run | None:
        """Return the run of an earlier request with an idempotency key, or None.

        Raises:
            RejectedError: `idempotency_key_reused`.
        """
        if idempotency is None:
            return None
        key, request_hash = idempotency
        found = self.context.store.runs.find_request(self.context.tenant, key)
        if found is None:
            return None
        check_same_request(found[0], request_hash)
        return self.get(found[1])

    def find_step(self, run: Run, step: str) -> Step:
        """Return a step of the plan of a run.

        Raises:
            RejectedError: `unknown_step`.
        """
        names = self.context.step_names(run.plan_hash)
        if step not in names:
            shown = ", ".join(f"`{name}`" for name in names[:_MAX_SHOWN_STEPS])
            more = " and more" if len(names) > _MAX_SHOWN_STEPS else ""
            hint = did_you_mean(step, names) or f"the playbook has {shown}{more}"
            raise RejectedError("unknown_step", f"unknown step `{step}`; {hint}")
        return self.context.store.plans.step(run.plan_hash, step)

    def _restart(self, run: Run, step: str, request: ResumeRequest) -> Run:
        from noetl.executor.engine.restart import RestartPoint, recover_names
        from noetl.executor.engine.start import check_can_restart, prefix_before, restart_from_step

        plans, runs = self.context.store.plans, self.context.store.runs
        declared = self.find_step(run, step)
        content = [run.id, step, dict(request.input)]
        idempotency = request.idempotency([*content, "alone"] if request.drops_siblings else content)
        if (earlier := self.earlier_run(idempotency)) is not None:
            return earlier
        header, visits = plans.header(run.plan_hash), runs.visits_with_outputs(run.id)
        check_can_restart(run, declared)
        if declared.regions:
            point = RestartPoint(run, plans.get(run.plan_hash), visits, step, request.drops_siblings)
            continued = begin_restart(self.context, point, dict(request.input))
            self.check_quota(continued.run.queue)
            created = runs.create_continued(continued, idempotency)
            log_run_start(created, continued.run)
            return created
        prefix = prefix_before(declared, run, visits, header.finally_step)
        if has_other_plans(self.context, run.id, visits):
            prefix = recover_names(prefix, plans.get(run.plan_hash), visits)
        new, first_visit, history = restart_from_step(header, prefix, request.input, now=self.context.clock())
        self.check_quota(new.queue)
        created = runs.create(new, first_visit, idempotency=idempotency, history=history)
        log_run_start(created, new)
        return created

    def check_quota(self, queue: str) -> None:
        """Count the start or the resumption of a run in a queue.

        Raises:
            RejectedError: `quota_exceeded`, if the tenant has too many active branches.
            SettingError: a setting is invalid, or the store does not count what it limits.
        """
        from noetl.executor.engine.quotas import check_branch_quota

        check_branch_quota(self.context.store, self.context.tenant, queue)

    def controllable_run(self, run_id: str, command: str) -> RunSummary:
        """Return the summary of a run that may be cancelled and resumed here.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `local_run`, if it was started from a local file, so that no worker of a service
                executes it.
        """
        run = self.summary(run_id)
        if run.origin != "service" and not self.context.controls_local_runs:
            message = f"The run was started from a local file; use `noetl runs {command} {run_id}`."
            raise RejectedError("local_run", message)
        return run


def _unknown_run(run_id: str) -> NotFoundError:
    return NotFoundError(f"unknown run `{abbreviate(run_id)}`")


def _hash_of_start(plan: Plan | PlaybookReference, request: StartRequest) -> str:
    if isinstance(plan, Plan):
        source: object = plan.source
    else:
        source = {"name": plan.name, "version": plan.version}
    return _hash([source, request.input, request.variables, list(request.tags)])


def identify_request(key: str | None, content: Any) -> tuple[str, str] | None:
    """Return an idempotency key with the hash of the content of its request, or None without a key."""
    return None if key is None else (key, _hash(content))


def _hash(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
