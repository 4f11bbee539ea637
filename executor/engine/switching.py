"""Switches of runs to other plans: read, judge, carry and write.

Problem: a verdict is about one state of a run, and the run goes on meanwhile.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). The store writes only if the records of
the run are still those that were judged. Otherwise they are read and judged again.

Cost: one verdict, two reads of the records of the run, and one write.

Limits: a run that has changed MAX_TRIES times is refused as busy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from noetl.executor.engine.evaluation import evaluate
from noetl.executor.engine.initial_data import InitialData
from noetl.executor.engine.run_events import read_events
from noetl.executor.engine.skips import check_skipped_result, find_item_marks, find_skips
from noetl.executor.errors import RejectedError
from noetl.executor.model.plan_switch import carry
from noetl.executor.model.run import Run
from noetl.executor.model.run_history import RunRecords, read_switch_state
from noetl.executor.model.run_switch import SwitchTarget, check_switchable, switch_run
from noetl.executor.model.run_transition import check_open
from noetl.executor.model.switch_undo import describe_replaced, find_last_switch, restore
from noetl.executor.model.visit_transition import mark_skipped
from noetl.executor.stores.interface import Store
from noetl.planner.continuation.switch_state import Switch, SwitchState
from noetl.planner.continuation.verdict import SwitchVerdict
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan

MAX_TRIES = 5


@frozen
class SwitchRequest:
    """The request to continue a run in a plan, which has been saved.

    `version` is that of the playbook, `source` the path of its file, and `caller` who requests it, if known.
    `skips` holds results of failed or parked steps by their names in the run. These are not performed. With
    `all_items`, failed loops do all of their items again.
    """

    plan: Plan
    switch: Switch
    version: str | None = None
    source: str | None = None
    caller: str | None = None
    skips: Mapping[str, Any] = field(default_factory=dict)
    all_items: bool = False


@frozen
class SwitchOutcome:
    """The verdict on a switch, and the run as it continues; None if the verdict is no."""

    verdict: SwitchVerdict
    run: Run | None = None


Judge = Callable[[Plan, Plan, SwitchState, Switch], SwitchVerdict]
"""The verdict on a switch from a plan to another one (`noetl.planner.continuation.judge.may_continue`).

The caller passes it, because it needs the compiler, which workers do not import. It may be computed in
another process.
"""


@frozen
class PlanSwitcher:
    """Switches of the runs of a store. Plans are read by `read_plan`, or else from the store."""

    store: Store
    clock: Callable[[], float]
    judge: Judge
    read_plan: Callable[[str], Plan] | None = None

    def judge_run(self, run_id: str, request: SwitchRequest) -> SwitchVerdict:
        """Return whether a run may continue in another plan. Nothing is changed.

        Raises:
            UnknownRunError: the run does not exist.
            RejectedError: `not_resumable`, `payload_lost`, `ending`, `other_playbook`, `same_plan`;
                `not_ended`, `unknown_step`, `not_skippable` or `incomplete_result`, if steps are skipped.
        """
        return self._judge(self.store.switches.read(run_id, self.clock()), request)[2]

    def switch(
        self, run_id: str, request: SwitchRequest, idempotency: tuple[str, str] | None = None
    ) -> SwitchOutcome:
        """Let a run continue in another plan, if the verdict is yes. A run that has ended is resumed.

        Raises:
            UnknownRunError: the run does not exist.
            RejectedError: as `judge_run`; `invalid_input`; `busy`, if the run changes all the time;
                `idempotency_key_reused`.
        """
        for _ in range(MAX_TRIES):
            now = self.clock()
            records = self.store.switches.read(run_id, now)
            if idempotency is not None and self._was_switched(records.run, request, idempotency):
                return SwitchOutcome(SwitchVerdict(), records.run)
            old, marked, verdict = self._judge(records, request)
            if not verdict.is_yes:
                return SwitchOutcome(verdict)
            carried = carry(old, request.plan, marked, request.switch, now)
            target = _find_target(request, records, carried.input, verdict)
            run = self.store.switches.write(records, switch_run(marked, carried, target, now), idempotency)
            if run is not None:
                return SwitchOutcome(verdict, run)
        raise _busy(run_id)

    def _was_switched(self, run: Run, request: SwitchRequest, idempotency: tuple[str, str]) -> bool:
        """Return whether the same request has switched a run already."""
        key, content_hash = idempotency
        has_plan = run.plan_hash == request.plan.hash
        return has_plan and self.store.runs.find_request(run.tenant, key) == (content_hash, run.id)

    def undo(self, run_id: str, caller: str | None = None, *, is_dry_run: bool = False) -> None:
        """Let an open run be as it was before its last switch, if nothing was done or answered since.

        With `is_dry_run`, only check that this is possible.

        Raises:
            UnknownRunError: the run does not exist.
            RejectedError: `finished`; `not_switched`; `gone_on`; `ending`; `busy`.
        """
        for _ in range(MAX_TRIES):
            now = self.clock()
            records = self.store.switches.read(run_id, now)
            run = records.run
            check_open(run, "resume it in another version")
            check_switchable(run, self.store.plans.header(run.plan_hash))
            event = find_last_switch(run_id, read_events(self.store, run_id))
            plan = (self.read_plan or self.store.plans.get)(event.payload["from"])
            replaced = restore(plan, records, event, now)
            if is_dry_run:
                return
            earlier = replaced.records.run
            environment, variables = _evaluate(plan, earlier, earlier.input)
            note = {"undoes": event.id} | ({} if caller is None else {"by": caller})
            target = SwitchTarget(
                plan.hash,
                event.payload["from_version"],
                event.payload["undo"]["source"],
                environment,
                variables,
                note,
            )
            switched = switch_run(replaced.records, replaced.carried, target, now)
            if self.store.switches.write(records, switched) is not None:
                return
        raise _busy(run_id)

    def _judge(self, records: RunRecords, request: SwitchRequest) -> tuple[Plan, RunRecords, SwitchVerdict]:
        """Return the plan of a run, its records with marked skips, and whether it may continue in another."""
        run, new = records.run, request.plan
        old = (self.read_plan or self.store.plans.get)(run.plan_hash)
        check_switchable(run, old.header)
        check_other_plan(run, new)
        marked = _mark_skips(records, old, request)
        return old, marked, self.judge(old, new, read_switch_state(marked, old, new), request.switch)


def check_other_plan(run: Run, plan: Plan) -> None:
    """Check that a plan is that of another version of the playbook of a run.

    Raises:
        RejectedError: `other_playbook`, `same_plan`.
    """
    if plan.header.name != run.playbook:
        message = f"run {run.id} is one of playbook `{run.playbook}`, not of `{plan.header.name}`"
        raise RejectedError("other_playbook", f"{message}; give both the same `name`")
    if plan.hash == run.plan_hash:
        message = f"run {run.id} has this version of playbook `{run.playbook}` already"
        raise RejectedError("same_plan", f"{message}; resume it without `playbook`")


def _mark_skips(records: RunRecords, old: Plan, request: SwitchRequest) -> RunRecords:
    """Return the records with marks on the visits whose work the switch leaves out.

    Raises:
        RejectedError: `not_ended`, `unknown_step`, `not_skippable`, `incomplete_result`.
    """
    run, new = records.run, request.plan
    if not request.skips and not request.all_items:
        return records
    if not run.status.is_final:
        act = "skipped" if request.skips else "done with all items"
        message = f"run {run.id} has not ended, so no step of it can be {act}; cancel it first"
        raise RejectedError("not_ended", message)
    skips = find_item_marks(records.visits) if request.all_items else {}
    skips |= find_skips(run.id, records.visits, tuple(old.steps), request.skips, request.caller)
    for step, result in request.skips.items():
        name = request.switch.renamed.get(step, step)
        if name in new.steps:
            is_sequential = new.header.sequential
            check_skipped_result(new.steps[name], result, new.steps.__getitem__, is_sequential=is_sequential)
    visits = [
        mark_skipped(visit, skips[visit.id], run.resumes + 1) if visit.id in skips else visit
        for visit in records.visits
    ]
    return replace(records, visits=visits)


def _busy(run_id: str) -> RejectedError:
    message = f"run {run_id} goes on too fast to be switched; pause it, and try again"
    return RejectedError("busy", message)


def _evaluate(plan: Plan, run: Run, inputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return environment and first values of variables of a run that continues in a plan.

    Raises:
        RejectedError: `invalid_input`, if an expression has no value for the input.
    """
    data = InitialData(plan.header, run.id, dict(inputs), {}, run.created_at, run.trigger)
    environment, variables, _ = evaluate(data, run.tenant)
    return environment, variables


def _find_target(
    request: SwitchRequest, records: RunRecords, inputs: Mapping[str, Any], verdict: SwitchVerdict
) -> SwitchTarget:
    """Return what a run continues with: its environment is evaluated again, its variables keep their values.

    Raises:
        RejectedError: `invalid_input`, if an expression has no value for the input of the run.
    """
    environment, variables = _evaluate(request.plan, records.run, inputs)
    note: dict[str, Any] = {
        "by": request.caller,
        "renamed": dict(request.switch.renamed),
        "given": sorted(request.switch.given),
        "notices": [notice.to_json() for notice in verdict.notices],
        "undo": describe_replaced(records, request.switch.given),
    }
    return SwitchTarget(
        request.plan.hash,
        request.version,
        request.source,
        environment,
        variables,
        {name: value for name, value in note.items() if value},
    )
