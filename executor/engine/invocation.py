"""One invocation: a claimed visit is loaded, performed, decided and committed.

The same code runs in local workers and behind a queue. A crash anywhere in it is repaired when the visit is claimed again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.external import FindPlaybook, VisitWaits, registry_finder
from noetl.executor.engine.final_state import view_step
from noetl.executor.engine.finish import finish_run, load_finally_scope, stop_at_deadline
from noetl.executor.engine.guards import make_guard_test, make_retry_test
from noetl.executor.engine.journal import IN_PLACE, WorkSuspended, read_used_time, with_used_time
from noetl.executor.engine.loop import go_through
from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import WorkContext
from noetl.executor.errors import (
    ActionError,
    CancelledError,
    FencedError,
    NotJsonError,
    PayloadTooLargeError,
)
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
from noetl.planner.plan import Loop, Repeat, Step
from noetl.planner.templates.template import EvaluationError, is_true, parse_template

DEFAULT_STEP_SECONDS = 24 * 3600.0
FINALLY_STEP_SECONDS = 300.0
MAX_INVOCATION_FRACTION = 0.9
"""The part of an invocation that is enough for any step: something has always passed before it is begun."""

logger = logging.getLogger("noetl.executor")


@frozen
class VisitExecutor:
    """Walks one visit at a time; `lease` names the worker.

    While `goes_on` says so, a commit claims one of the visits that follow. An invocation is `invocation_seconds` long; this one
    is over at `ends_at` of the monotonic clock, if it is given. `find_playbook` finds those that runs start, in
    the registry unless given; `public_url` is how callbacks are reached. `ended` is told of each run that this worker has ended,
    and how.
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
        self, claim: Claim, cancelled: threading.Event | None = None, telling: EventBuffer | None = None
    ) -> Claim | None:
        """Take a claimed visit to its commit, and return the claim of a visit that follows, if this worker got one.

        A visit whose claim was lost meanwhile is left to whoever has it. When `cancelled` is set, its work is given up. With
        `telling` somebody else may tell meanwhile what has happened in it.
        """
        try:
            if claim.visit.step == END:
                self.on_run_end(*finish_run(self.store, claim, self.clock))
            elif claim.visit.step == DEADLINE:
                stop_at_deadline(self.store, claim, self.clock())
            else:
                return self._step(claim, cancelled or threading.Event(), telling or EventBuffer())
        except FencedError:
            logger.debug("run %s: the claim of `%s` was taken over", claim.run.id, claim.visit.step)
        return None

    def _step(self, claim: Claim, cancelled: threading.Event, telling: EventBuffer) -> Claim | None:
        run, visit = claim.run, claim.visit
        step = self.store.plan_step(run.plan_hash, visit.step)
        if not self._has_time_for(step):
            self.store.release(run.id, visit.id, visit.fence, self.clock(), counts=False)
            return None
        scope = load_finally_scope(self.store, claim) if step.is_finally_step else self._load(claim, step)
        find_playbook = self.find_playbook or registry_finder(self.store)
        piece = WorkContext(
            lambda name: self.store.plan_task(run.plan_hash, name),
            self.capabilities,
            time.monotonic(),
            self.clock,
            events=telling,
            journal={} if visit.progress is None else visit.progress.journal,
            batch_outcomes_of=self._parts_of(claim),
            outside=VisitWaits(self.store, claim, find_playbook, self.public_url, self.clock),
            cancelled=cancelled,
        )
        self._give_time(piece, claim, step, read_used_time(claim, self.clock()))
        refused = find_refusal(step, visit)
        try:
            if refused is not None:
                # What it was at is not gone on with: the rule is read for the refusal.
                piece.journal = {}
                outcome = Outcome(False, None, refused)
            else:
                outcome = self._perform(step, claim, scope, piece)
            following = self._commit(step, claim, scope, outcome, piece)
        except VisitSuspended as paused:
            following = self._pause(step, claim, scope, paused.pause, piece)
        except CancelledError:
            following = self._abandon(step, claim, scope, piece)
        return following

    def _parts_of(self, claim: Claim) -> Callable[[str], list[Outcome]]:
        def parts_of(loop: str) -> list[Outcome]:
            parts = self.store.loop_parts(claim.run.id, claim.visit.id, loop)
            return [Outcome.from_list(item) for part in parts for item in part]

        return parts_of

    def _perform(self, step: Step, claim: Claim, scope: Scope, piece: WorkContext) -> Outcome:
        """The outcome of a step's work, from where it paused last.

        Raises:
            Paused: it pauses again.
        """
        progress = claim.visit.progress or Progress()
        if IN_PLACE in progress.journal:
            return replace(Outcome.from_list(progress.journal[IN_PLACE]["outcome"]), saved=dict(scope.saved))
        position = "run" if progress.round == 0 else f"run~{progress.round}"
        try:
            if step.loop is not None:
                outcome = self._loop(step, step.loop, claim, scope, piece, position)
            else:
                outcome = perform(piece, step.run, scope, position, parallel=step.parallel)
        except WorkSuspended as suspended:
            raise VisitSuspended(_paused(suspended, progress.round, scope)) from None
        if step.repeat is not None and not outcome.failed:
            return self._repeat(step.repeat, claim, scope, outcome, progress)
        return outcome

    def _loop(
        self, step: Step, loop: Loop, claim: Claim, scope: Scope, piece: WorkContext, position: str
    ) -> Outcome:
        """The step's work done for each item: all of them, or the batch that is next."""

        def one(quiet: WorkContext, own: Scope, at: str) -> Outcome:
            return perform(quiet, step.run, own, at, parallel=step.parallel)

        try:
            return go_through(piece, loop, scope.lookup("loop"), one, scope, position)
        except ActionError as problem:
            return Outcome(False, None, error_record(claim.visit, problem.type, problem.message))

    def _repeat(
        self, repeat: Repeat, claim: Claim, scope: Scope, outcome: Outcome, progress: Progress
    ) -> Outcome:
        """The outcome when the condition is true or will not become so; else the work pauses until the next round."""
        try:
            if is_true(parse_template(repeat.until).evaluate(scope.with_outcome(outcome).lookup("repeat"))):
                return outcome
        except EvaluationError as problem:
            message = f"`repeat.until`: {problem.message}"
            return Outcome(False, None, error_record(claim.visit, problem.type, message))
        rounds = progress.round + 1
        if rounds >= repeat.max_rounds:
            message = f"`repeat.until` was not true after {rounds} rounds"
            return Outcome(False, None, error_record(claim.visit, "RepeatExhausted", message))
        raise VisitSuspended(Suspension(Progress(rounds), self.clock() + repeat.every_seconds, outcome.saved))

    def _pause(
        self, step: Step, claim: Claim, scope: Scope, later: Suspension, piece: WorkContext
    ) -> Claim | None:
        """Commit how far the work has come. What the store cannot keep fails the step."""
        now = self.clock()
        if step.is_finally_step:
            # Nobody can stop it, so it has to be gone on with when its time is over, whatever it waits for.
            left = max(piece.attempt_deadline - time.monotonic(), 0.0)
            later = replace(later, due_at=min(later.due_at, now + left))
        parts = tuple(
            replace(part, outcomes=redact_for_storage(part.outcomes)) for part in later.batch_results
        )
        progress = replace(later.progress, journal=redact_for_storage(_timed(step, later, claim, piece)))
        later = replace(later, saved=redact_for_storage(later.saved), batch_results=parts, progress=progress)
        commit = suspend(claim.visit, later, now)
        try:
            return self._write(step, claim, commit, piece, now)
        except (NotJsonError, PayloadTooLargeError) as problem:
            outcome = _not_kept(claim.visit, problem)
        if IN_PLACE in progress.journal:
            return self._settle(step, claim, Choice(outcome, failed=True), outcome, piece)
        try:
            return self._commit(step, claim, scope, outcome, piece)
        except VisitSuspended as paused:
            return self._pause(step, claim, scope, paused.pause, piece)
        except CancelledError:
            return self._abandon(step, claim, scope, piece)

    def _abandon(self, step: Step, claim: Claim, scope: Scope, piece: WorkContext) -> Claim | None:
        """Give up the work of a run that was cancelled. What may be done once only has failed then."""
        if step.at_most_once:
            message = "the run was cancelled while the step was at work, and it is not to be started twice"
            interrupted = Outcome(False, None, error_record(claim.visit, "StepInterrupted", message))
            return self._settle(step, claim, Choice(interrupted, failed=True), interrupted, piece)
        commit = abandon(claim.visit)
        commit = commit_of_finally_step(commit) if step.is_finally_step else commit
        piece.events.flush_all(lambda events: self.store.commit(_told(commit, events), self.clock()))
        return None

    def _commit(
        self, step: Step, claim: Claim, scope: Scope, outcome: Outcome, piece: WorkContext
    ) -> Claim | None:
        """Decide and commit. What the store cannot keep fails the step: of its `run`, and once more its rule is read; of
        in-place work, and it goes to the policy.
        """
        visit = claim.visit
        outcome = _without_secrets(outcome)
        for _ in range(2):
            commit = self._decide(step, claim, scope, outcome, piece)
            try:
                return self._write(step, claim, commit, piece, self.clock())
            except (NotJsonError, PayloadTooLargeError) as problem:
                outcome = _not_kept(visit, problem)
                if commit.visit.case is not None and step.cases[commit.visit.case].work:
                    break
        return self._settle(step, claim, Choice(outcome, failed=True), outcome, piece)

    def _settle(
        self, step: Step, claim: Claim, choice: Choice, outcome: Outcome, piece: WorkContext
    ) -> Claim | None:
        now = self.clock()
        commit = build_commit(step, self._step_of(claim.run), claim.visit, choice, outcome, now)
        return self._write(step, claim, commit, piece, now)

    def _write(
        self, step: Step, claim: Claim, commit: Commit, piece: WorkContext, now: float
    ) -> Claim | None:
        """Commit, with what is left to tell, and return the claim of a visit that follows, with what it reads of the one that was
        committed.
        """
        commit = _bounded(step, commit, claim, piece, now)
        following = piece.events.flush_all(
            lambda events: self.store.commit(_told(commit, events), now, self._next_lease())
        )
        if following is None:
            return None
        run, done = claim.run, commit.visit
        reads = (
            ()
            if following.step.startswith("@")
            else self.store.plan_step(run.plan_hash, following.step).reads
        )
        is_read = done.finished_at is not None and done.id in find_holders(following.names, reads).values()
        if not is_read:
            return Claim(run, following)
        read = replace(
            done,
            saved=round_trip_json(dict(done.saved)),
            result=round_trip_json(done.result),
            error=round_trip_json(done.error),
        )
        return Claim(run, following, (read,))

    def _next_lease(self) -> Lease | None:
        return self.lease if self.continues() else None

    def _step_of(self, run: Run) -> Callable[[str], Step]:
        return lambda name: self.store.plan_step(run.plan_hash, name)

    def _decide(self, step: Step, claim: Claim, scope: Scope, outcome: Outcome, piece: WorkContext) -> Commit:
        """The commit that an outcome leads to, with the in-place work of the case that it takes.

        Raises:
            Paused: that work pauses.
        """
        run, visit = claim.run, claim.visit
        begun = piece.journal.get(IN_PLACE)
        if begun is not None:
            choice = Choice(outcome, begun["failed"], begun["case"])
        else:
            choice = choose_case(
                step, visit, outcome, make_guard_test(scope), make_retry_test(step, scope), self.clock()
            )
        final = choice.outcome
        work = step.cases[choice.case].work if choice.case is not None else ()
        if work:
            after = scope.with_outcome(choice.outcome)
            if begun is None:
                # Its time begins anew: a `Timeout` may be what it answers to.
                self._give_time(piece, claim, step)
            try:
                in_place = perform(piece, work, after, f"rule.{choice.case}")
            except WorkSuspended as suspended:
                kept = {"case": choice.case, "failed": choice.failed, "outcome": choice.outcome.to_list()}
                suspended.journal[IN_PLACE] = kept
                raise VisitSuspended(_paused(suspended, 0, after)) from None
            final = replace(
                in_place, saved=redact_for_storage(in_place.saved), error=redact_for_storage(in_place.error)
            )
        return build_commit(step, self._step_of(run), visit, choice, final, self.clock())

    def _load(self, claim: Claim, step: Step) -> Scope:
        """The scope of a visit: one read of the visits that hold what the step's templates read, unless they came with it."""
        run, visit = claim.run, claim.visit
        holders = find_holders(visit.names, step.reads)
        read = {v.id: v for v in claim.prefetched}
        missing = sorted(set(holders.values()) - set(read))
        read |= {v.id: v for v in self.store.visits_with_outputs(run.id, missing)} if missing else {}
        loaded: dict[str, Any] = {}
        steps: dict[str, Mapping[str, Any]] = {}
        for name in step.reads:
            holder = read.get(holders.get(name, ""))
            if name.startswith("steps."):
                steps[name.removeprefix("steps.")] = view_step(holder)
            elif holder is not None and name in holder.saved:
                loaded[name] = holder.saved[name]
        return Scope(run, visit, loaded, steps, dict(visit.saved))

    def _give_time(self, piece: WorkContext, claim: Claim, step: Step, taken_seconds: float = 0.0) -> None:
        """Say when an attempt that has taken so long is out of time: by the step's timeout, the run's, or the invocation's."""
        now = time.monotonic()
        usual = FINALLY_STEP_SECONDS if step.is_finally_step else DEFAULT_STEP_SECONDS
        piece.attempt_started = now - taken_seconds
        piece.attempt_deadline = piece.attempt_started + (step.timeout_seconds or usual)
        if not step.is_finally_step and claim.run.deadline_at is not None:
            piece.attempt_deadline = min(
                piece.attempt_deadline, now + max(claim.run.deadline_at - self.clock(), 0.0)
            )
        piece.deadline = min(piece.attempt_deadline, now + self.invocation_seconds, self.ends_at or math.inf)

    def _has_time_for(self, step: Step) -> bool:
        """Whether the step can take in this invocation what it may take, or about as long as an invocation lasts at most. A
        step that does not say may take half of one.
        """
        if self.ends_at is None:
            return True
        wanted = min(
            step.timeout_seconds or self.invocation_seconds / 2,
            self.invocation_seconds * MAX_INVOCATION_FRACTION,
        )
        return self.ends_at - time.monotonic() >= wanted


class VisitSuspended(Exception):
    """The work of a visit goes on in a later invocation."""

    def __init__(self, pause: Suspension) -> None:
        super().__init__()
        self.pause = pause


def _paused(suspended: WorkSuspended, round: int, scope: Scope) -> Suspension:
    """The pause of work that has saved into a scope so far."""
    progress = Progress(round, suspended.journal)
    saved = dict(scope.saved)
    actions, retried = suspended.actions, suspended.retried
    return Suspension(
        progress, suspended.due_at, saved, suspended.batch_results, suspended.awaits, actions, retried
    )


def _timed(step: Step, later: Suspension, claim: Claim, piece: WorkContext) -> Mapping[str, Any]:
    """The journal of a pause, with the time that the attempt has taken so far, unless another one begins behind it. All pauses
    of the step that runs last count.
    """
    journal = later.progress.journal
    if not journal or later.batch_results:
        return journal
    counts = step.is_finally_step or bool(later.retried)
    return with_used_time(
        journal, claim, time.monotonic() - piece.attempt_started, piece.clock() if counts else None
    )


def _bounded(step: Step, commit: Commit, claim: Claim, piece: WorkContext, now: float) -> Commit:
    """The commit, with what the end of the run makes of it, and what may be left of earlier attempts at it."""
    visit = claim.visit
    is_first = visit.progress is None and (visit.claims, visit.attempt, claim.run.resumes) == (1, 1, 0)
    if not is_first or piece.wait_ids:
        commit = replace(commit, may_have_children=True)
    return (
        commit_of_finally_step(commit)
        if step.is_finally_step
        else apply_deadline(commit, claim.run.deadline_at, now)
    )


def _without_secrets(outcome: Outcome) -> Outcome:
    found = (outcome.data, outcome.saved, outcome.error)
    data, saved, error = clean = tuple(map(redact_for_storage, found))
    is_clean = all(new is old for new, old in zip(clean, found, strict=True))
    return outcome if is_clean else replace(outcome, data=data, saved=saved, error=error)


def _told(commit: Commit, events: Sequence[Event]) -> Commit:
    """The commit, which also tells what has happened before it."""
    return replace(commit, events=(*events, *commit.events))


def _not_kept(visit: Visit, problem: NotJsonError | PayloadTooLargeError) -> Outcome:
    """The outcome of work that gave what the store cannot keep."""
    type = "PayloadTooLarge" if isinstance(problem, PayloadTooLargeError) else "FunctionFailed"
    return Outcome(False, None, error_record(visit, type, str(problem)))
