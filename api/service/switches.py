"""The service of switches: runs that continue in a corrected version of their playbook."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from noetl.api.service.compiler import InlinePlaybook, PlanSource
from noetl.api.service.playbooks import registered_playbook
from noetl.api.service.preview_views import ResumePreview
from noetl.api.service.restarts import describe_reasons, describe_required
from noetl.api.service.resume_preview import ResumePreviewService
from noetl.api.service.runs import RunService, identify_request
from noetl.api.service.switch_views import VerdictEntry
from noetl.api.service.tenant import TenantContext
from noetl.executor.engine.run_log import log_run_resume
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.precedence import end_slice
from noetl.planner.continuation.switch_state import Switch, SwitchState
from noetl.planner.continuation.verdict import Reason, SwitchVerdict
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    # The judgement needs the compiler, which takes long to import.
    from noetl.executor.engine.switching import Judge, PlanSwitcher, SwitchOutcome, SwitchRequest

GIVEN_MEMBER = "set"
"""The member of a request to resume a run that holds the values that its new version needs."""

MAX_WAIT_SECONDS = 60.0
"""The longest time for which a request may hold a run until its running steps have ended."""

_POLL_SECONDS = 0.2
_KEPT_PLANS = 8


@frozen
class PlaybookChange:
    """The wish to continue a run in another version of its playbook.

    `renamed` maps steps to their names in the new version. `given` has values for its inputs, and for names
    that the run does not have. If steps of the run are being performed, it is held up to `wait_seconds` until
    they have ended. `source` is the path of a local file. The same `idempotency_key` switches once. `skips`
    holds results of failed or parked steps, which are not performed then. `is_dry_run` requests a preview.
    With `all_items`, failed loops do all of their items again.
    """

    playbook: PlanSource | Plan
    renamed: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    wait_seconds: float = 0.0
    source: str | None = None
    caller: str | None = None
    idempotency_key: str | None = None
    skips: Mapping[str, Any] = field(default_factory=dict)
    is_dry_run: bool = False
    all_items: bool = False


@frozen
class SwitchService:
    """The switches of the runs of one tenant."""

    context: TenantContext
    runs: RunService

    def switch(
        self, run_id: str, change: PlaybookChange, judge: Judge | None = None
    ) -> tuple[Run, Sequence[Reason]]:
        """Let a run continue in another version of its playbook. Return it, and the notices of the verdict.

        Raises:
            NotFoundError: the tenant has no such run, or the registry no such playbook.
            PlaybookError: the playbook does not compile.
            RejectedError: `cannot_continue`, with the verdict; `other_playbook`; `same_plan`;
                `not_resumable`; `payload_lost`; `ending`; `busy`; `invalid_input`; `local_run`;
                `quota_exceeded`; `idempotency_key_reused`; `not_ended`, `unknown_step`,
                `not_skippable` or `incomplete_result`, if steps are skipped.
        """
        run = self.runs.controllable_run(run_id, "resume")
        verdict = self.switch_prepared(run, change, self.prepare(change), self.switcher(judge))
        return self.runs.get(run.id), verdict.notices

    def preview(self, run_id: str, change: PlaybookChange, judge: Judge | None = None) -> ResumePreview:
        """Return the verdict on a switch, and what the run would do again. Nothing is changed.

        Raises:
            NotFoundError, PlaybookError, RejectedError: as `switch`.
        """
        run = self.runs.controllable_run(run_id, "resume")
        request = self.prepare(change)
        verdict = self._check(run, request, self.switcher(judge))
        steps = ResumePreviewService(self.context, self.runs).find_reopened(run_id, request)
        return ResumePreview(
            workflow_id=run.id,
            starts_new_run=False,
            steps=list(steps),
            verdict=VerdictEntry.from_verdict(verdict),
        )

    def switch_prepared(
        self, run: RunSummary, change: PlaybookChange, request: SwitchRequest, switcher: PlanSwitcher
    ) -> SwitchVerdict:
        """Let a run continue as `switch` does, with the request that `prepare` returns for the change."""
        content = [run.id, "switch", request.plan.hash, dict(change.renamed), dict(change.given)]
        content += [dict(change.skips)] if change.skips else []
        content += ["all_items"] if change.all_items else []
        idempotency = identify_request(change.idempotency_key, content)
        if self.runs.earlier_run(idempotency) is not None:
            return SwitchVerdict()
        self.runs.check_quota(run.queue)
        self.context.store.plans.save(request.plan)
        if run.origin == "local":
            self.context.store.queue.release_dead(run.queue, self.context.clock())
        outcome = switcher.switch(run.id, request, idempotency)
        if _waits_for_work(outcome) and change.wait_seconds > 0:
            with self._held(run.id, change.caller):
                outcome = self._switch_when_idle(switcher, run.id, change, request, idempotency)
        if outcome.run is None:
            raise refuse_switch(run.id, outcome.verdict)
        if run.status.is_final:
            log_run_resume(outcome.run)
        return outcome.verdict

    def check(self, run: RunSummary, request: SwitchRequest, switcher: PlanSwitcher) -> None:
        """Check that a run may continue in another version of its playbook. Nothing is changed.

        Raises:
            NotFoundError, RejectedError: as `switch`.
        """
        self._check(run, request, switcher)

    def _check(self, run: RunSummary, request: SwitchRequest, switcher: PlanSwitcher) -> SwitchVerdict:
        if run.origin == "local":
            self.context.store.queue.release_dead(run.queue, self.context.clock())
        verdict = switcher.judge_run(run.id, request)
        if not verdict.is_yes:
            raise refuse_switch(run.id, verdict)
        return verdict

    def undo(self, run_id: str, caller: str | None = None, *, is_dry_run: bool = False) -> None:
        """Let a run be as it was before its last switch, if nothing was done or answered since.

        With `is_dry_run`, only check that this is possible.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `finished`; `not_switched`; `gone_on`; `ending`; `busy`; `local_run`;
                `not_supported`.
        """
        run = self.runs.controllable_run(run_id, "resume")
        self.switcher().undo(run.id, caller, is_dry_run=is_dry_run)

    def switcher(self, judge: Judge | None = None) -> PlanSwitcher:
        """Return a switcher of single runs, with a judge in another process or this one."""
        from noetl.executor.engine.switching import PlanSwitcher

        return PlanSwitcher(self.context.store, self.context.clock, judge or self._judge_here)

    def bulk_switcher(self, judge: Judge | None = None) -> PlanSwitcher:
        """Return a switcher of many runs: it reads each plan once, and judges each shape of state once."""
        from noetl.executor.engine.switching import PlanSwitcher
        from noetl.planner.continuation.judge import find_shape

        store, judge_one = self.context.store, judge or self._judge_here
        verdicts: dict[tuple[str, str], SwitchVerdict] = {}

        def judge_shape(old: Plan, new: Plan, state: SwitchState, switch: Switch) -> SwitchVerdict:
            shape = (old.hash, find_shape(new, state, switch))
            if shape not in verdicts:
                verdicts[shape] = judge_one(old, new, state, switch)
            return verdicts[shape]

        read_plan = lru_cache(maxsize=_KEPT_PLANS)(store.plans.get)
        return PlanSwitcher(store, self.context.clock, judge_shape, read_plan)

    def _judge_here(self, old: Plan, new: Plan, state: SwitchState, switch: Switch) -> SwitchVerdict:
        """Return the verdict, computed in this thread."""
        from noetl.planner.continuation.judge import may_continue

        return may_continue(old, new, state, switch, self.context.compiler.catalogue)

    def prepare(self, change: PlaybookChange) -> SwitchRequest:
        """Return the request to the store for a change. The new version is compiled, and not saved.

        Raises:
            NotFoundError: the registry has no such playbook.
            PlaybookError: the playbook does not compile.
        """
        from noetl.executor.engine.switching import SwitchRequest

        playbook, version = change.playbook, None
        if isinstance(playbook, InlinePlaybook):
            playbook = self.context.compiler.plan(playbook.text)
        if isinstance(playbook, Plan):
            plan, version = playbook, playbook.header.version
        else:
            found = registered_playbook(self.context, playbook)
            plan, version = self.context.store.plans.get(found.plan_hash), found.version
        switch = Switch(change.renamed, change.given)
        source, caller = change.source, change.caller
        return SwitchRequest(plan, switch, version, source, caller, change.skips, change.all_items)

    def _switch_when_idle(
        self,
        switcher: PlanSwitcher,
        run_id: str,
        change: PlaybookChange,
        request: SwitchRequest,
        idempotency: tuple[str, str] | None,
    ) -> SwitchOutcome:
        """Switch a run that is held once no step of it is performed any more, or return the last refusal."""
        changes = self.context.store.changes
        deadline = time.monotonic() + change.wait_seconds
        while True:
            change_count = changes.count
            outcome = switcher.switch(run_id, request, idempotency)
            if not _waits_for_work(outcome) or time.monotonic() >= deadline:
                return outcome
            end_slice()
            changes.wait(change_count, _POLL_SECONDS)

    @contextmanager
    def _held(self, run_id: str, caller: str | None) -> Iterator[None]:
        """Pause a run meanwhile: running steps finish, and nothing new starts. A paused run stays paused."""
        pauses, clock = self.context.store.pauses, self.context.clock
        if self.runs.get(run_id).is_paused:
            yield
            return
        pauses.pause(run_id, clock(), caller)
        try:
            yield
        finally:
            with suppress(RejectedError):  # It has ended meanwhile.
                pauses.unpause(run_id, clock(), caller)


def _waits_for_work(outcome: SwitchOutcome) -> bool:
    """Return whether a switch is refused while steps are being performed. Other reasons may go with them."""
    return any(reason.code == "NC101" for reason in outcome.verdict.reasons)


def refuse_switch(run_id: str, verdict: SwitchVerdict) -> RejectedError:
    """Return the refusal of a switch, with the verdict."""
    if verdict.reasons:
        message = f"run {run_id} cannot continue in this version: {describe_reasons(verdict.reasons)}"
    else:
        names = describe_required(verdict)
        message = (
            f"run {run_id} can continue in this version only with values for {names}; give them with `set`"
        )
    return RejectedError("cannot_continue", message, verdict=verdict.to_json())
