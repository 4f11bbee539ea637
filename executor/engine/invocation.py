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
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from enum import Enum, auto
from functools import partial
from typing import Any

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.external import FindPlaybook, VisitWaits, registry_finder
from noetl.executor.engine.finish import finish_run, load_finally_scope, stop_at_deadline
from noetl.executor.engine.item_records import ItemRecords
from noetl.executor.engine.journal import read_used_time
from noetl.executor.engine.kept_data import KeptData, keeps_inputs
from noetl.executor.engine.quotas import read_limit
from noetl.executor.engine.result_cache import ResultCache, read_longest_ttl
from noetl.executor.engine.scope import Scope, load_scope
from noetl.executor.engine.slot_requests import request_for_following
from noetl.executor.engine.slots import Admission, ask_for_slots, grant_next, slots_of_refused
from noetl.executor.engine.step_work import StepResult, StepWork, make_rule_tests
from noetl.executor.engine.visit_counts import continue_actions, with_counts
from noetl.executor.engine.work_context import InvocationTime, WorkContext, until_stopped
from noetl.executor.errors import (
    ActionError,
    FencedError,
    NotJsonError,
    PayloadLostError,
    PayloadTooLargeError,
)
from noetl.executor.model.count_budget import DEFAULT_WAITS, WAITS_SETTING, wait_budget
from noetl.executor.model.debounce import debounced_event
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import find_saved_result, round_trip_json, take_saved_result
from noetl.executor.model.outcome import (
    CANCELLED,
    Cancelled,
    Choice,
    FinishedItems,
    Outcome,
    Suspension,
    error_record,
)
from noetl.executor.model.read_memory import carry_reads, keep_reads, strict_reads
from noetl.executor.model.run import (
    DEADLINE,
    END,
    Claim,
    Commit,
    CommitResult,
    ErrorRecord,
    Lease,
    Run,
    RunEnding,
    RunStatus,
    Visit,
)
from noetl.executor.model.run_transition import SUPERSEDED_ORDER
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.transition import (
    abandon,
    apply_deadline,
    build_commit,
    choose_case,
    commit_of_finally_step,
    find_holders,
    find_refusal,
    stop_run_at,
    suspend,
)
from noetl.executor.model.visit_transition import read_skip, seconds_until_start
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.security.redaction import redact_for_storage, redacting_for
from noetl.executor.stores.interface import Store
from noetl.planner.continuation.work_form import hash_item_work
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Step
from noetl.planner.templates.template import shared_budget

logger = logging.getLogger("noetl.executor")


@frozen
class VisitExecutor:
    """The executor of claimed visits, one at a time; `lease` names its worker.

    If `continues()` is true, a commit also claims a following visit. `invocation` is its time.
    `find_playbook` finds the playbooks of child runs, by default in the registry. `public_url` is the base
    URL of callbacks. `on_run_end` is called with each run that this worker ends, and its ending. With
    `keeps_inputs`, the history has the inputs of actions. Cached results are used for `longest_ttl` seconds
    at most.
    """

    store: Store
    lease: Lease
    capabilities: Capabilities
    clock: Callable[[], float] = time.time
    invocation: InvocationTime = InvocationTime()
    continues: Callable[[], bool] = lambda: True
    find_playbook: FindPlaybook | None = None
    public_url: str | None = None
    on_run_end: Callable[[Run, RunEnding], object] = lambda _run, _ending: None
    keeps_inputs: bool = field(default_factory=keeps_inputs)
    longest_ttl: float = field(default_factory=read_longest_ttl)

    def execute(
        self, claim: Claim, cancelled: threading.Event | None = None, events: EventBuffer | None = None
    ) -> Claim | None:
        """Execute a claimed visit up to its commit. Return the claim of a following visit, if there is one.

        A visit that was claimed ahead is executed when it is due. If another worker has taken the claim
        meanwhile, nothing is written. Set `cancelled` to abandon the work. The caller may write events from
        `events` meanwhile.
        """
        cancelled = cancelled or threading.Event()
        if (seconds := seconds_until_start(claim.visit, self.clock())) > 0.0:
            cancelled.wait(seconds)
        try:
            with redacting_for(self.capabilities.redacted_tenant(claim.run.tenant)):
                return self._execute_due(claim, cancelled, events or EventBuffer())
        except FencedError:
            logger.debug("run %s: another worker has claimed `%s`", claim.run.id, claim.visit.step)
            return None

    def _execute_due(self, claim: Claim, cancelled: threading.Event, events: EventBuffer) -> Claim | None:
        if claim.visit.step == END:
            self._finish_run(claim, cancelled)
        elif claim.visit.step == DEADLINE:
            stop_at_deadline(self.store, claim, self.clock())
        else:
            return self._execute_step(claim, cancelled, events)
        return None

    def _finish_run(self, claim: Claim, cancelled: threading.Event) -> None:
        """End a run. If it is cancelled while its output is evaluated, it is claimed and ended again."""
        ended = until_stopped(lambda: finish_run(self.store, claim, self.clock), cancelled)
        if isinstance(ended, Cancelled):
            self.store.queue.release(claim.visit, self.clock(), counts=False)
        else:
            grant_next(self.store, ended.freed, self.clock())
            self.on_run_end(ended.run, ended.ending)

    def _execute_step(self, claim: Claim, cancelled: threading.Event, events: EventBuffer) -> Claim | None:
        run, visit = claim.run, claim.visit
        step = self.store.plans.step(run.plan_hash, visit.step)
        if step.format == 1 and self._is_superseded(run, step):
            error = error_record(visit, "StepInterrupted", SUPERSEDED_ORDER)
            commit = replace(abandon(visit), stop=RunStatus.FAILED, error=error)
            self.store.queue.commit(commit, self.clock())
            return None
        if not self.invocation.suffices_for(step):
            self.store.queue.release(visit, self.clock(), counts=False)
            return None
        try:
            with strict_reads():
                scope, refusal = self._load_scope(claim, step), find_refusal(step, visit)
            keep_reads()
        except ActionError as problem:
            scope = Scope(run, visit, saved=dict(visit.saved))
            refusal = error_record(visit, problem.type, problem.message, retryable=problem.retryable)
        admission = self._ask_for_slots(claim, step, scope, refusal)
        if (wait := admission.commit) is not None:
            self.store.queue.commit(
                commit_of_finally_step(wait) if step.is_finally_step else wait, self.clock()
            )
            return None
        if (event := debounced_event(run, visit, self.clock())) is not None:
            events.append(event)
        refusal = refusal or admission.refusal
        find_playbook = self.find_playbook or registry_finder(self.store)
        waits = VisitWaits(self.store, claim, find_playbook, self.public_url, self.clock)
        now = self.clock()
        context = WorkContext(
            lambda name: self.store.plans.task(run.plan_hash, name),
            self.capabilities,
            self.invocation.deadlines(step, run, now, read_used_time(claim, now)),
            self.clock,
            events,
            # Suspended work that is refused does not continue; the rule is evaluated for the refusal.
            {} if visit.progress is None or refusal is not None else visit.progress.journal,
            self._make_batch_reader(claim),
            waits,
            cancelled,
            actions=continue_actions(visit),
            waits=wait_budget(read_limit(WAITS_SETTING, DEFAULT_WAITS)),
            add_bytes=self.store.runs.add_bytes,
            kept_data=KeptData(events, visit, self.clock, with_inputs=self.keeps_inputs),
            results=ResultCache(self.store, claim, self.clock, self.longest_ttl),
        )
        records = ItemRecords(self.store, visit, partial(hash_item_work, context.find_task, step))
        context = replace(context, items_of=records.items_of)
        work = StepWork(
            admission.narrow(step), claim, scope, context, self.invocation, refusal, admission.unmet
        )
        try:
            segment = _Segment(self, work, waits, records, admission)
            following = segment.execute()
            carry_reads(*(_outputs_of(visit) for visit in following.prefetched) if following else ())
        finally:
            context.memory_budget.close()
        return following

    def _ask_for_slots(
        self, claim: Claim, step: Step, scope: Scope, refusal: ErrorRecord | None
    ) -> Admission:
        """Return what the visit has at the limits of its run and of its step.

        A visit whose work is refused or left out asks for nothing more.
        """
        if refusal is not None or read_skip(claim.visit, claim.run.resumes) is not None:
            return slots_of_refused(self.store, claim, step)
        return ask_for_slots(self.store, claim, step, scope, self.clock())

    def _is_superseded(self, run: Run, step: Step) -> bool:
        """Return whether a step must not be performed, because its plan is superseded.

        The finally step is performed in any case.
        """
        return self.store.plans.header(run.plan_hash).is_superseded and not step.is_finally_step

    def _load_scope(self, claim: Claim, step: Step) -> Scope:
        if step.is_finally_step:
            return load_finally_scope(self.store, claim, step)
        return load_scope(self.store, claim, step)

    def _make_batch_reader(self, claim: Claim) -> Callable[[str], list[Outcome]]:
        def read_outcomes(loop: str) -> list[Outcome]:
            batches = self.store.runs.batch_results(claim.run.id, claim.visit.id, loop)
            return [Outcome.from_list(item) for batch in batches for item in batch]

        return read_outcomes


class _Fallback(Enum):
    """The reaction to a store that cannot keep the data of an ending."""

    RULE = auto()
    """The step has failed, and its rule is evaluated for this failure."""
    UNHANDLED = auto()
    """The step has failed, and the failure is unhandled."""
    ERROR = auto()
    """The error is raised."""


@frozen
class _Ending:
    """The end of a segment: its result, and the choice of the rule unless the work of the step continues.

    `result` is that of in-place work if the choice has any, else that of the step's work. `has_large_items`
    is true if the finished items of its loops are too large to be recorded.
    """

    result: StepResult
    choice: Choice | None
    fallback: _Fallback
    has_large_items: bool = False

    def finished_items(self) -> tuple[FinishedItems, ...]:
        """Return the items that the failed loops of the step's work and of in-place work have finished."""
        outcomes = [] if self.choice is None else [self.choice.outcome]
        if isinstance(self.result, Outcome) and not any(self.result is outcome for outcome in outcomes):
            outcomes.append(self.result)
        return tuple(items for outcome in outcomes for items in outcome.finished)


@frozen
class _Segment:
    """One segment of a visit: its work is performed, its end is decided, and the commit is written."""

    executor: VisitExecutor
    work: StepWork
    waits: VisitWaits
    records: ItemRecords
    admission: Admission

    def execute(self) -> Claim | None:
        """Perform, decide and commit. Return the claim of a following visit, if there is one.

        If the store cannot keep the data of the step's work, its inputs and lines are left out. Next are the
        finished items of failed loops. If it still cannot, the step fails and its rule is evaluated again. If
        it cannot keep that of in-place work or of this second try, the failure is unhandled. If the store has
        lost what the commit continues with, such as the other branches, the run fails.
        """
        ending = self._decide(self._perform(self.work.perform), _Fallback.RULE)
        while True:
            try:
                return self._commit(ending)
            except (NotJsonError, PayloadTooLargeError) as problem:
                if isinstance(problem, PayloadTooLargeError) and self.work.context.events.drop_kept_data():
                    continue
                if ending.finished_items() and not ending.has_large_items:
                    ending = replace(ending, has_large_items=True)
                    continue
                if ending.fallback is _Fallback.ERROR:
                    raise
                failure = self._failure(problem)
            except PayloadLostError as problem:
                self._stop_run(error_record(self.work.claim.visit, "PayloadLost", str(problem)))
                return None
            if ending.fallback is _Fallback.RULE:
                ending = self._decide(failure, _Fallback.UNHANDLED)
            else:
                ending = _unhandled(failure)

    def _perform(self, work: Callable[[], StepResult]) -> StepResult:
        """Perform work of the step. It fails if a payload that it continues with is lost."""
        try:
            return work()
        except PayloadLostError as problem:
            return Outcome(False, None, error_record(self.work.claim.visit, "PayloadLost", str(problem)))

    def _decide(self, result: StepResult, fallback: _Fallback) -> _Ending:
        """Return the ending of a result of the step's work. After an outcome, the rule is evaluated."""
        if isinstance(result, Outcome):
            ending = self._follow_rule(_redact_outcome(result), fallback)
        else:
            ending = _Ending(result, None, fallback)
        if isinstance(ending.result, Cancelled):
            ending = self._abandon()
        return ending

    def _follow_rule(self, outcome: Outcome, fallback: _Fallback) -> _Ending:
        """Choose the case that follows from an outcome, and perform its in-place work."""
        work, step, visit = self.work, self.work.step, self.work.claim.visit
        choice = work.suspended_choice(outcome)
        if choice is None:
            tests = make_rule_tests(step, work.scope)
            with shared_budget():
                # The time of the step does not count: its rule handles a `Timeout`.
                chosen = until_stopped(
                    lambda: choose_case(step, visit, outcome, tests, self.executor.clock()),
                    work.context.cancelled,
                )
            if isinstance(chosen, Cancelled):
                return _Ending(chosen, None, fallback)
            choice = chosen
        in_place = step.cases[choice.case].work if choice.case is not None else ()
        if not in_place:
            return _Ending(choice.outcome, choice, fallback)
        result = self._perform(lambda: work.perform_in_place(choice, in_place))
        return _Ending(result, choice, _Fallback.UNHANDLED)

    def _abandon(self) -> _Ending:
        """Return the ending of cancelled work. A step with `at_most_once` fails."""
        if not self.work.step.at_most_once:
            return _Ending(CANCELLED, None, _Fallback.ERROR)
        message = "the run was cancelled, and `delivery: at_most_once` forbids another start of the step"
        error = error_record(self.work.claim.visit, "StepInterrupted", message)
        return _unhandled(Outcome(False, None, error))

    def _failure(self, problem: NotJsonError | PayloadTooLargeError) -> Outcome:
        """Return the outcome of work whose data the store cannot keep."""
        type = "PayloadTooLarge" if isinstance(problem, PayloadTooLargeError) else "FunctionFailed"
        return Outcome(False, None, error_record(self.work.claim.visit, type, str(problem)))

    def _commit(self, ending: _Ending) -> Claim | None:
        """Write the commit of an ending with all buffered events.

        Raises:
            NotJsonError: the data is not JSON.
            PayloadTooLargeError: the data is too large for the store.
        """
        executor, run, now = self.executor, self.work.claim.run, self.executor.clock()
        budget = self.work.context.memory_budget
        if budget.is_shared and isinstance(ending.result, Outcome):
            budget.reserve_commit(ending.result.size)
        commit = self._build_commit(ending, now)
        may_continue = not isinstance(ending.result, Cancelled) and executor.continues()
        lease = executor.lease if may_continue else None
        if lease is not None and self.admission.is_run_admitted:
            requests = request_for_following(executor.store, run, commit, now)
            commit = replace(commit, requests=requests) if requests else commit
        result = self._write(commit, now, lease)
        if result.following is None:
            return None
        following = _prefetch(executor.store, run, result.following, commit.visit)
        has_all = len(result.slots) >= len(commit.requests)
        return replace(
            following, slots=result.slots if has_all else (), is_admitted=self.admission.is_run_admitted
        )

    def _write(self, commit: Commit, now: float, lease: Lease | None = None) -> CommitResult:
        """Write a commit with all buffered events, and grant what it gives back to those that wait."""
        store = self.executor.store
        result = self.work.context.events.flush_all(
            lambda events: store.queue.commit(_with_events(commit, events), now, lease)
        )
        grant_next(store, result.freed, now)
        return result

    def _stop_run(self, error: ErrorRecord) -> None:
        """Let the step and its run fail. The branches of the run stay as they are."""
        visit, now = self.work.claim.visit, self.executor.clock()
        commit = stop_run_at(self.work.step, visit, Outcome(False, None, error), now)
        self._write(replace(commit, gives_back=self.work.step.has_limits), now)

    def _build_commit(self, ending: _Ending, now: float) -> Commit:
        """Return the commit of an ending, without the events that happened before it."""
        visit, run, result = self.work.claim.visit, self.work.claim.run, ending.result
        if isinstance(result, Cancelled):
            commit = abandon(visit)
        elif isinstance(result, Suspension):
            commit = suspend(visit, result, now)
        else:
            assert ending.choice is not None
            commit = build_commit(self._step_of, visit, ending.choice, result, now)
            items, is_too_large = ending.finished_items(), ending.has_large_items
            commit = self.records.add_to(commit, items, is_too_large=is_too_large)
        if not isinstance(result, Cancelled):
            commit = with_counts(commit, self.work.context.actions)
        if self._may_have_children():
            commit = replace(commit, may_have_children=True)
        if self.work.step.has_limits:
            commit = replace(commit, gives_back=True, held_slots=self.admission.held_slots)
        if self.work.step.is_finally_step:
            return commit_of_finally_step(commit)
        return commit if isinstance(result, Cancelled) else apply_deadline(commit, run.deadline_at, now)

    def _may_have_children(self) -> bool:
        """Return whether this segment or an earlier one of the visit may have started child runs."""
        run, visit = self.work.claim.run, self.work.claim.visit
        is_first = visit.progress is None and (visit.claims, visit.attempt, run.resumes) == (1, 1, 0)
        return not is_first or self.waits.has_started_run

    def _step_of(self, name: str) -> Step:
        return self.executor.store.plans.step(self.work.claim.run.plan_hash, name)


def _prefetch(store: Store, run: Run, following: Visit, done: Visit) -> Claim:
    """Return the claim of the visit that follows `done`. It contains `done` if the next step reads it."""
    reads = () if is_pseudo_step(following.step) else store.plans.step(run.plan_hash, following.step).reads
    is_read = done.finished_at is not None and done.id in find_holders(following.names, reads).values()
    return Claim(run, following, (_as_stored(done),) if is_read else ())


def _outputs_of(visit: Visit) -> list[Any]:
    """Return the different outputs of a visit: its result may be a saved value."""
    is_saved = find_saved_result(visit.result, visit.saved) is not None
    return [visit.saved, None if is_saved else visit.result, list(visit.failures)]


def _as_stored(visit: Visit) -> Visit:
    """Return the visit as a store would return it: its outputs have passed through JSON."""
    saved, name = round_trip_json(dict(visit.saved)), find_saved_result(visit.result, visit.saved)
    return replace(
        visit,
        saved=saved,
        result=round_trip_json(visit.result) if name is None else take_saved_result(name, saved),
        failures=tuple(round_trip_json(list(visit.failures))) if visit.failures else (),
        error=round_trip_json(visit.error),
    )


def _unhandled(failure: Outcome) -> _Ending:
    """Return the ending of a failure for which no case may be chosen."""
    return _Ending(failure, Choice(failure, failed=True), _Fallback.ERROR)


def _redact_outcome(outcome: Outcome) -> Outcome:
    if outcome.failures:
        outcome = replace(outcome, failures=tuple(redact_for_storage(outcome.failures)))
    values = (outcome.data, outcome.saved, outcome.error)
    data, saved, error = redacted = tuple(map(redact_for_storage, values))
    is_unchanged = all(new is old for new, old in zip(redacted, values, strict=True))
    return outcome if is_unchanged else replace(outcome, data=data, saved=saved, error=error)


def _with_events(commit: Commit, events: Sequence[Event]) -> Commit:
    """Return the commit with events that happened before it."""
    return replace(commit, events=(*events, *commit.events))
