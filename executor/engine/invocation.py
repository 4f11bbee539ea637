"""One invocation segment: load a claimed visit, perform its work, decide what follows, and commit.

Problem: execute a visit so that a crash at any moment loses no committed result and starts no branch twice.
Local workers and functions behind a queue share this code.

Algorithm: claim, load, perform, decide, commit. The claim has a lease and a fence. All effects inside the
store are one atomic commit that carries the fence; decisions are pure functions of the outcome
(`noetl.executor.model.transition`). After a crash, the lease ends, another worker claims the visit, and
performs it again. Work that waits is suspended with a journal and continues in a later segment. Source:
at-least-once execution with fencing tokens (Kleppmann 2016); compare workflow tasks of Temporal.

Cost: one read of the visits whose names the step reads, and one write. The commit also claims a following
visit. The data of the visit just committed stays in memory, so a step that reads only this data needs no
read.

Limits: actions run at least once. A step with `delivery: at_most_once` fails after a crash instead. Data that
the store cannot keep fails the step.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.external import FindPlaybook, VisitWaits, registry_finder
from noetl.executor.engine.final_state import view_step
from noetl.executor.engine.finish import finish_run, load_finally_scope, stop_at_deadline
from noetl.executor.engine.guards import make_rule_tests
from noetl.executor.engine.journal import IN_PLACE, WorkSuspended, read_used_time, with_used_time
from noetl.executor.engine.loop import LoopRun
from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import WorkContext
from noetl.executor.errors import ActionError, CancelledError, FencedError, NotJsonError, PayloadTooLargeError
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import round_trip_json
from noetl.executor.model.outcome import Choice, Outcome, Suspension, error_record
from noetl.executor.model.run import DEADLINE, END, Claim, Commit, Lease, Progress, Run, RunStatus, Visit
from noetl.executor.model.transition import (
    abandon,
    apply_deadline,
    build_commit,
    choose_case,
    commit_of_finally_step,
    find_holders,
    find_refusal,
    suspend,
)
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen
from noetl.planner.plan import Repeat, Step, Work
from noetl.planner.templates.template import EvaluationError, is_true, parse_template

DEFAULT_STEP_SECONDS = 24 * 3600.0
FINALLY_STEP_SECONDS = 300.0
MAX_INVOCATION_FRACTION = 0.9
"""The fraction of an invocation that is enough to start any step, because some time has always passed."""

logger = logging.getLogger("noetl.executor")


@frozen
class VisitExecutor:
    """The executor of claimed visits, one at a time; `lease` names its worker.

    If `continues()` is true, a commit also claims a following visit. An invocation lasts
    `invocation_seconds`; the current one ends at `ends_at` (on `time.monotonic`), if set. `find_playbook`
    finds the playbooks of child runs, by default in the registry. `public_url` is the base URL of callbacks.
    `on_run_end` is called with each run that this worker ends, and its status.
    """

    store: Store
    lease: Lease
    capabilities: Capabilities
    clock: Callable[[], float] = time.time
    invocation_seconds: float = DEFAULT_STEP_SECONDS
    ends_at: float | None = None
    continues: Callable[[], bool] = lambda: True
    find_playbook: FindPlaybook | None = None
    public_url: str | None = None
    on_run_end: Callable[[Run, RunStatus], object] = lambda _run, _status: None

    def execute(
        self, claim: Claim, cancelled: threading.Event | None = None, events: EventBuffer | None = None
    ) -> Claim | None:
        """Execute a claimed visit up to its commit. Return the claim of a following visit, if there is one.

        If another worker has taken the claim meanwhile, nothing is written. Set `cancelled` to abandon the
        work. The caller may write events from `events` meanwhile.
        """
        try:
            if claim.visit.step == END:
                self.on_run_end(*finish_run(self.store, claim, self.clock))
            elif claim.visit.step == DEADLINE:
                stop_at_deadline(self.store, claim, self.clock())
            else:
                return self._execute_step(claim, cancelled or threading.Event(), events or EventBuffer())
        except FencedError:
            logger.debug("run %s: another worker has claimed `%s`", claim.run.id, claim.visit.step)
        return None

    def _execute_step(self, claim: Claim, cancelled: threading.Event, events: EventBuffer) -> Claim | None:
        run, visit = claim.run, claim.visit
        step = self.store.plans.step(run.plan_hash, visit.step)
        if not self._has_time_for(step):
            self.store.queue.release(run.id, visit.id, visit.fence, self.clock(), counts=False)
            return None
        scope = (
            load_finally_scope(self.store, claim) if step.is_finally_step else self._load_scope(claim, step)
        )
        context = self._make_context(claim, step, cancelled, events)
        return _Segment(self, step, claim, scope, context).execute()

    def _make_context(
        self, claim: Claim, step: Step, cancelled: threading.Event, events: EventBuffer
    ) -> WorkContext:
        run, visit = claim.run, claim.visit
        find_playbook = self.find_playbook or registry_finder(self.store)
        context = WorkContext(
            lambda name: self.store.plans.task(run.plan_hash, name),
            self.capabilities,
            time.monotonic(),
            self.clock,
            events=events,
            journal={} if visit.progress is None else visit.progress.journal,
            batch_outcomes_of=self._make_batch_reader(claim),
            external_waits=VisitWaits(self.store, claim, find_playbook, self.public_url, self.clock),
            cancelled=cancelled,
        )
        self.set_deadlines(context, claim, step, read_used_time(claim, self.clock()))
        return context

    def _make_batch_reader(self, claim: Claim) -> Callable[[str], list[Outcome]]:
        def read_outcomes(loop: str) -> list[Outcome]:
            batches = self.store.runs.batch_results(claim.run.id, claim.visit.id, loop)
            return [Outcome.from_list(item) for batch in batches for item in batch]

        return read_outcomes

    def _load_scope(self, claim: Claim, step: Step) -> Scope:
        """Return the scope of a visit. Read the visits that hold its names, except those in the claim."""
        run, visit = claim.run, claim.visit
        holders = find_holders(visit.names, step.reads)
        visits = {v.id: v for v in claim.prefetched}
        missing = sorted(set(holders.values()) - set(visits))
        visits |= {v.id: v for v in self.store.runs.visits_with_outputs(run.id, missing)} if missing else {}
        loaded: dict[str, Any] = {}
        steps: dict[str, Mapping[str, Any]] = {}
        for name in step.reads:
            holder = visits.get(holders.get(name, ""))
            if name.startswith("steps."):
                steps[name.removeprefix("steps.")] = view_step(holder)
            elif holder is not None and name in holder.saved:
                loaded[name] = holder.saved[name]
        return Scope(run, visit, loaded, steps, dict(visit.saved))

    def set_deadlines(self, context: WorkContext, claim: Claim, step: Step, used_seconds: float) -> None:
        """Set the deadlines of an attempt that has used some of its time.

        They are the earliest of the step's timeout, the run's deadline, and the end of the invocation.
        """
        now = time.monotonic()
        default = FINALLY_STEP_SECONDS if step.is_finally_step else DEFAULT_STEP_SECONDS
        context.attempt_started = now - used_seconds
        context.attempt_deadline = context.attempt_started + (step.timeout_seconds or default)
        if not step.is_finally_step and claim.run.deadline_at is not None:
            run_deadline = now + max(claim.run.deadline_at - self.clock(), 0.0)
            context.attempt_deadline = min(context.attempt_deadline, run_deadline)
        context.deadline = min(
            context.attempt_deadline, now + self.invocation_seconds, self.ends_at or math.inf
        )

    def _has_time_for(self, step: Step) -> bool:
        """Return whether this invocation has as much time as the step may need.

        A step without a timeout may need half an invocation. No step needs more than
        `MAX_INVOCATION_FRACTION` of one.
        """
        if self.ends_at is None:
            return True
        limit = self.invocation_seconds * MAX_INVOCATION_FRACTION
        needed = min(step.timeout_seconds or self.invocation_seconds / 2, limit)
        return self.ends_at - time.monotonic() >= needed


class VisitSuspended(Exception):
    """Signal that the work of a visit continues in a later segment."""

    def __init__(self, suspension: Suspension) -> None:
        super().__init__()
        self.suspension = suspension


@dataclass(slots=True, eq=False, repr=False)
class _Segment:
    """One segment of a visit: its work is performed, and ends in a commit."""

    executor: VisitExecutor
    step: Step
    claim: Claim
    scope: Scope
    context: WorkContext

    def execute(self) -> Claim | None:
        """Perform the work and commit its outcome. Return the claim of a following visit, if there is one."""
        refusal = find_refusal(self.step, self.claim.visit)
        try:
            if refusal is not None:
                # Suspended work does not continue; the rule is evaluated for the refusal.
                self.context.journal = {}
                outcome = Outcome(False, None, refusal)
            else:
                outcome = self._perform()
            return self._commit(outcome)
        except VisitSuspended as suspended:
            return self._suspend(suspended.suspension)
        except CancelledError:
            return self._abandon()

    def _perform(self) -> Outcome:
        """Perform the work of the step from where it was suspended, and return its outcome.

        Raises:
            VisitSuspended: the work is suspended again.
        """
        step, scope = self.step, self.scope
        progress = self.claim.visit.progress or Progress()
        if IN_PLACE in progress.journal:
            stored = progress.journal[IN_PLACE]["outcome"]
            return replace(Outcome.from_list(stored), saved=dict(scope.saved))
        position = "run" if progress.round == 0 else f"run~{progress.round}"
        try:
            if step.loop is not None:
                outcome = self._perform_loop(position)
            else:
                outcome = perform(self.context, step.run, scope, position, parallel=step.parallel)
        except WorkSuspended as suspended:
            raise VisitSuspended(_make_suspension(suspended, progress.round, scope)) from None
        if step.repeat is not None and not outcome.failed:
            return self._check_repeat(step.repeat, outcome, progress)
        return outcome

    def _perform_loop(self, position: str) -> Outcome:
        """Perform the work of the step for each item of its loop, or for the items of the next batch."""
        step = self.step
        assert step.loop is not None

        def perform_one(item_context: WorkContext, item_scope: Scope, item_position: str) -> Outcome:
            return perform(item_context, step.run, item_scope, item_position, parallel=step.parallel)

        loop_run = LoopRun(self.context, step.loop, perform_one, self.scope, position)
        try:
            return loop_run.run(self.scope.lookup("loop"))
        except ActionError as problem:
            return Outcome(False, None, error_record(self.claim.visit, problem.type, problem.message))

    def _check_repeat(self, repeat: Repeat, outcome: Outcome, progress: Progress) -> Outcome:
        """Return the outcome if `repeat.until` is true, or a failure if it cannot become true.

        Raises:
            VisitSuspended: another round follows.
        """
        visit = self.claim.visit
        try:
            if is_true(
                parse_template(repeat.until).evaluate(self.scope.with_outcome(outcome).lookup("repeat"))
            ):
                return outcome
        except EvaluationError as problem:
            message = f"`repeat.until`: {problem.message}"
            return Outcome(False, None, error_record(visit, problem.type, message))
        rounds = progress.round + 1
        if rounds >= repeat.max_rounds:
            message = f"`repeat.until` is not true after {rounds} rounds"
            return Outcome(False, None, error_record(visit, "RepeatExhausted", message))
        due_at = self.executor.clock() + repeat.every_seconds
        raise VisitSuspended(Suspension(Progress(rounds), due_at, outcome.saved))

    def _suspend(self, suspension: Suspension) -> Claim | None:
        """Commit a suspension. If the store cannot keep its data, the step fails."""
        now = self.executor.clock()
        if self.step.is_finally_step:
            # The deadline of the run does not stop the finally step, which has a time limit of its own. The
            # visit must be due again when that limit is reached.
            remaining = max(self.context.attempt_deadline - time.monotonic(), 0.0)
            suspension = replace(suspension, due_at=min(suspension.due_at, now + remaining))
        batch_results = tuple(
            replace(result, outcomes=redact_for_storage(result.outcomes))
            for result in suspension.batch_results
        )
        journal = redact_for_storage(self._journal_with_time(suspension))
        suspension = replace(
            suspension,
            saved=redact_for_storage(suspension.saved),
            batch_results=batch_results,
            progress=replace(suspension.progress, journal=journal),
        )
        commit = suspend(self.claim.visit, suspension, now)
        try:
            return self._write(commit, now)
        except (NotJsonError, PayloadTooLargeError) as problem:
            outcome = _outcome_for_unstorable(self.claim.visit, problem)
        if IN_PLACE in journal:
            return self._settle(Choice(outcome, failed=True), outcome)
        try:
            return self._commit(outcome)
        except VisitSuspended as suspended:
            return self._suspend(suspended.suspension)
        except CancelledError:
            return self._abandon()

    def _journal_with_time(self, suspension: Suspension) -> Mapping[str, Any]:
        """Return the journal of a suspension with the time used, unless another attempt follows.

        Suspensions of the finally step count as used time, and so do delays before a retry.
        """
        journal = suspension.progress.journal
        if not journal or suspension.batch_results:
            return journal
        used_seconds = time.monotonic() - self.context.attempt_started
        counts = self.step.is_finally_step or bool(suspension.retried)
        return with_used_time(journal, self.claim, used_seconds, self.context.clock() if counts else None)

    def _abandon(self) -> Claim | None:
        """Commit that the work of a cancelled run was abandoned. A step with `at_most_once` fails."""
        visit, step, executor = self.claim.visit, self.step, self.executor
        if step.at_most_once:
            message = "the run was cancelled, and `delivery: at_most_once` forbids another start of the step"
            interrupted = Outcome(False, None, error_record(visit, "StepInterrupted", message))
            return self._settle(Choice(interrupted, failed=True), interrupted)
        commit = abandon(visit)
        commit = commit_of_finally_step(commit) if step.is_finally_step else commit
        self.context.events.flush_all(
            lambda events: executor.store.queue.commit(_with_events(commit, events), executor.clock())
        )
        return None

    def _commit(self, outcome: Outcome) -> Claim | None:
        """Decide what follows from an outcome, and commit it.

        If the store cannot keep the data of the step's work, the step fails and its rule is evaluated again.
        If it cannot keep that of in-place work, the failure is unhandled.
        """
        visit = self.claim.visit
        outcome = _redact_outcome(outcome)
        for _ in range(2):
            commit = self._decide(outcome)
            try:
                return self._write(commit, self.executor.clock())
            except (NotJsonError, PayloadTooLargeError) as problem:
                outcome = _outcome_for_unstorable(visit, problem)
                if commit.visit.case is not None and self.step.cases[commit.visit.case].work:
                    break
        return self._settle(Choice(outcome, failed=True), outcome)

    def _settle(self, choice: Choice, outcome: Outcome) -> Claim | None:
        """Commit an outcome whose case is already chosen."""
        now = self.executor.clock()
        commit = build_commit(self._step_of, self.claim.visit, choice, outcome, now)
        return self._write(commit, now)

    def _write(self, commit: Commit, now: float) -> Claim | None:
        """Write a commit with all buffered events. Return the claim of a following visit, if there is one.

        If that visit reads what was just committed, the claim contains it.
        """
        run, store = self.claim.run, self.executor.store
        commit = self._complete(commit, now)
        following = self.context.events.flush_all(
            lambda events: store.queue.commit(_with_events(commit, events), now, self._next_lease())
        )
        if following is None:
            return None
        done = commit.visit
        reads = (
            () if following.step.startswith("@") else store.plans.step(run.plan_hash, following.step).reads
        )
        is_read = done.finished_at is not None and done.id in find_holders(following.names, reads).values()
        if not is_read:
            return Claim(run, following)
        stored = replace(
            done,
            saved=round_trip_json(dict(done.saved)),
            result=round_trip_json(done.result),
            error=round_trip_json(done.error),
        )
        return Claim(run, following, (stored,))

    def _next_lease(self) -> Lease | None:
        return self.executor.lease if self.executor.continues() else None

    def _complete(self, commit: Commit, now: float) -> Commit:
        """Return the commit, adapted to the finally step or to the deadline of the run.

        Also set whether the visit may have child runs, from this segment or from an earlier one.
        """
        run, visit = self.claim.run, self.claim.visit
        is_first = visit.progress is None and (visit.claims, visit.attempt, run.resumes) == (1, 1, 0)
        if not is_first or self.context.wait_ids:
            commit = replace(commit, may_have_children=True)
        if self.step.is_finally_step:
            return commit_of_finally_step(commit)
        return apply_deadline(commit, run.deadline_at, now)

    def _step_of(self, name: str) -> Step:
        return self.executor.store.plans.step(self.claim.run.plan_hash, name)

    def _decide(self, outcome: Outcome) -> Commit:
        """Return the commit that follows from an outcome, after the in-place work of the chosen case.

        Raises:
            VisitSuspended: the in-place work is suspended.
        """
        step, visit, scope = self.step, self.claim.visit, self.scope
        begun = self.context.journal.get(IN_PLACE)
        if begun is not None:
            choice = Choice(outcome, begun["failed"], begun["case"])
        else:
            now = self.executor.clock()
            choice = choose_case(step, visit, outcome, make_rule_tests(step, scope), now)
        work = step.cases[choice.case].work if choice.case is not None else ()
        final = choice.outcome
        if work:
            final = self._perform_in_place(choice, work, has_begun=begun is not None)
        return build_commit(self._step_of, visit, choice, final, self.executor.clock())

    def _perform_in_place(self, choice: Choice, work: Sequence[Work], *, has_begun: bool) -> Outcome:
        """Perform the in-place work of the chosen case, and return its outcome.

        Raises:
            VisitSuspended: the work is suspended.
        """
        scope = self.scope.with_outcome(choice.outcome)
        if not has_begun:
            # Its time starts anew, because it may handle a `Timeout`.
            self.executor.set_deadlines(self.context, self.claim, self.step, used_seconds=0.0)
        try:
            outcome = perform(self.context, work, scope, f"rule.{choice.case}")
        except WorkSuspended as suspended:
            suspended.journal[IN_PLACE] = {
                "case": choice.case,
                "failed": choice.failed,
                "outcome": choice.outcome.to_list(),
            }
            raise VisitSuspended(_make_suspension(suspended, 0, scope)) from None
        return replace(
            outcome, saved=redact_for_storage(outcome.saved), error=redact_for_storage(outcome.error)
        )


def _make_suspension(suspended: WorkSuspended, round: int, scope: Scope) -> Suspension:
    """Return the suspension of work that has saved names into a scope."""
    return Suspension(
        Progress(round, suspended.journal),
        suspended.due_at,
        dict(scope.saved),
        suspended.batch_results,
        suspended.awaits,
        suspended.actions,
        suspended.retried,
    )


def _redact_outcome(outcome: Outcome) -> Outcome:
    values = (outcome.data, outcome.saved, outcome.error)
    data, saved, error = redacted = tuple(map(redact_for_storage, values))
    is_unchanged = all(new is old for new, old in zip(redacted, values, strict=True))
    return outcome if is_unchanged else replace(outcome, data=data, saved=saved, error=error)


def _with_events(commit: Commit, events: Sequence[Event]) -> Commit:
    """Return the commit with events that happened before it."""
    return replace(commit, events=(*events, *commit.events))


def _outcome_for_unstorable(visit: Visit, problem: NotJsonError | PayloadTooLargeError) -> Outcome:
    """Return the outcome of work whose data the store cannot keep."""
    type = "PayloadTooLarge" if isinstance(problem, PayloadTooLargeError) else "FunctionFailed"
    return Outcome(False, None, error_record(visit, type, str(problem)))
