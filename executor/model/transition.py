"""What happens next: the pure middle of the executor.

No clock, no randomness, no I/O: time and outcomes come in as data, ids and jitter are hashes. Workers, tests and
simulations share these functions. `docs/architecture.md` shows where they stand in an invocation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.ids import derived_id
from noetl.executor.model.outcome import Choice, Outcome, Suspension, error_record
from noetl.executor.model.run import (
    NEVER,
    Branch,
    Commit,
    ErrorRecord,
    FailureState,
    Pointers,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.planner.plan import Case, Retry, Step

MAX_CLAIMS = 5
"""A visit claimed more often than this without an outcome is given up."""

StepOf = Callable[[str], Step]


class GuardError(Exception):
    """A guard has no value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


GuardTest = Callable[[Case, Outcome], bool]
"""Whether the guard of a case is true after an outcome; raises GuardError."""


def find_refusal(step: Step, visit: Visit) -> ErrorRecord | None:
    """Why the visit must not be performed, if so: it is past a bound. One that has paused was entered before."""
    if step.max_visits is not None and visit.number > step.max_visits and visit.progress is None:
        message = f"step `{step.name}` is not entered more than {step.max_visits} times"
        return error_record(visit, "MaxVisitsExceeded", message)
    if step.at_most_once and visit.claims > 1:
        message = "the step was started before and interrupted, and it is not to be started twice"
        return error_record(visit, "StepInterrupted", message, retryable=True)
    if visit.claims > MAX_CLAIMS:
        message = f"the step was started {MAX_CLAIMS} times, and no worker lived to finish it"
        return error_record(visit, "WorkerLost", message)
    return None


def retry_delay_seconds(retry: Retry, attempt: int, *seed: object) -> float:
    """The wait after attempt number `attempt`, jittered by a hash of `seed`."""
    exponent = min(attempt - 1, 64)
    delay = min(retry.delay_seconds * retry.backoff**exponent, retry.max_delay_seconds)
    if retry.jitter:
        delay *= 1 - int(derived_id("jitter", *seed, attempt)[:8], 16) / 2**33
    return delay


def choose_case(
    step: Step,
    visit: Visit,
    outcome: Outcome,
    test: GuardTest,
    retry_test: Callable[[Outcome], bool],
    now: float,
) -> Choice:
    """The retry or the case that follows an outcome.

    After a failure only error-aware cases are looked at, past `max_visits` only those that do not lead back. A guard
    without a value fails the step with `GuardError`, after which the error-aware cases are looked at once.
    """
    refused = step.max_visits is not None and visit.number > step.max_visits
    error = outcome.error
    if outcome.failed and error is not None and error["retryable"] and visit.attempt < step.retry.attempts:
        if retry_test(outcome):
            wait = retry_delay_seconds(step.retry, visit.attempt, visit.run_id, visit.id)
            return Choice(outcome, failed=True, retry_at=now + wait)
    failed = outcome.failed
    for _ in range(2):
        try:
            return Choice(outcome, failed, _first_true(step, outcome, failed, refused, test))
        except GuardError as problem:
            was_guard = outcome.error is not None and outcome.error["type"] == "GuardError"
            earlier = None if outcome.error is None else {"error": outcome.error}
            guard_error = error_record(visit, "GuardError", problem.message, details=earlier)
            outcome = replace(outcome, success=False, forgiven=False, error=guard_error, saved={})
            if failed and was_guard:
                break
            failed = True
    return Choice(outcome, failed=True)


def _first_true(step: Step, outcome: Outcome, failed: bool, refused: bool, test: GuardTest) -> int | None:
    for index, case in enumerate(step.cases):
        if (failed and not case.error_aware) or (refused and case.leads_back):
            continue
        if case.guard is None or test(case, outcome):
            return index
    return None


def build_commit(
    step: Step,
    step_of: StepOf,
    visit: Visit,
    choice: Choice,
    outcome: Outcome,
    now: float,
) -> Commit:
    """The commit for an attempt. `outcome` is the choice's, or that of the in-place work of the case it took.

    An outcome that has failed after the choice handled nothing, or after in-place work, goes to the policy.
    """
    if choice.retry_at is not None:
        return _retry(visit, choice, now)
    case = None if choice.case is None else step.cases[choice.case]
    in_place = case is not None and bool(case.work)
    unhandled = (choice.failed and case is None) or (in_place and outcome.failed)
    if unhandled:
        return _policy(step, visit, choice, outcome, now)
    targets = case.targets if case is not None else ()
    live = case.counter_changes if case is not None else dict.fromkeys(step.regions, -1)
    done = replace(
        visit,
        status=VisitStatus.FAILED if choice.failed else VisitStatus.SUCCEEDED,
        finished_at=now,
        saved=outcome.saved,
        result=choice.outcome.data,
        case=choice.case,
        error=choice.outcome.error if choice.failed else None,
        failure=FailureState.HANDLED if choice.failed else None,
    )
    transition = _event(visit, "step.transition", now, {"case": choice.case, "targets": list(targets)})
    finished = _finished(done, now)
    tail = (transition, finished) if step.cases else (finished,)
    branches = branches_after(done, step, step_of)
    return Commit(done, branches, live, len(targets) - 1, events=tail, next_names=names_after(done))


def names_after(visit: Visit) -> Pointers:
    """What is known behind a visit that is done: what it was handed, and what it adds. What a branch had saved that ended in
    a failure is seen by nobody.
    """
    saved = () if visit.has_ended_branch else visit.saved
    return {**visit.names, **dict.fromkeys([*saved, f"steps.{visit.step}"], (visit.clock, visit.id))}


def branches_after(visit: Visit, step: Step, step_of: StepOf) -> tuple[Branch, ...]:
    """The branches that go on from a visit that is done, by the case that it took."""
    if visit.case is None or visit.has_ended_branch:
        return ()
    names = names_after(visit)
    targets = step.cases[visit.case].targets
    return tuple(_branch(visit, visit.case, step_of(target), visit.clock + 1, names) for target in targets)


def _branch(visit: Visit, case: int | None, there: Step, clock: int, names: Pointers) -> Branch:
    """The branch that goes from a visit to a step. At a `join: any` all branches of a wave, which began at one visit of its
    dominator, make the same visit.
    """
    handed = {name: pointer for name, pointer in names.items() if name in there.live_names}
    if there.join is None or there.join.mode == "all":
        id = derived_id(visit.id, case, there.name)
        return Branch(id, there.name, clock, handed, there.join is not None, there.cyclic)
    wave = handed.get(f"steps.{there.join.dominator}", (0, ""))[1]
    return Branch(derived_id("any", there.name, wave), there.name, clock, handed, False, there.cyclic, True)


def suspend(visit: Visit, pause: Suspension, now: float) -> Commit:
    """The commit for a piece of work that is to go on later. Attempts start anew with another batch or another round."""
    attempt = 1 if pause.batch_results or not pause.progress.journal else visit.attempt
    progress = replace(pause.progress, journal=_at_attempt(pause.progress.journal, attempt))
    later = replace(
        visit,
        status=VisitStatus.WAITING if pause.due_at > now else VisitStatus.READY,
        attempt=attempt,
        claims=0,
        worker=None,
        due_at=pause.due_at,
        segment_started_at=None,
        saved=pause.saved,
        error=None,
        progress=progress,
    )
    events: tuple[Event, ...] = ()
    if later.status is VisitStatus.WAITING:
        until = timestamp(pause.due_at) if pause.due_at < NEVER else None
        again = {"retried": list(pause.retried)} if pause.retried else {}
        payload = {"until": until, "actions": list(pause.actions), **again}
        events = (_event(visit, "step.waiting", now, payload),)
    return Commit(later, events=events, batch_results=pause.batch_results, awaits=pause.awaits)


def _at_attempt(journal: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """The journal, whose actions wait in an attempt of this number."""
    return {
        place: entry | {"tries": [entry["tries"][0], attempt]} if "tries" in entry else entry
        for place, entry in journal.items()
    }


def abandon(visit: Visit) -> Commit:
    """The commit for work that was given up because its run was cancelled: a resume begins the attempt anew."""
    later = replace(
        visit,
        status=VisitStatus.READY,
        claims=0,
        worker=None,
        due_at=0.0,
        started_at=None,
        segment_started_at=None,
    )
    return Commit(later)


def _retry(visit: Visit, choice: Choice, now: float) -> Commit:
    assert choice.retry_at is not None
    waiting = replace(
        visit,
        status=VisitStatus.RETRYING,
        attempt=visit.attempt + 1,
        claims=0,
        worker=None,
        due_at=choice.retry_at,
        started_at=None,
        segment_started_at=None,
        error=choice.outcome.error,
    )
    payload = {"error": choice.outcome.error, "next_attempt_at": timestamp(choice.retry_at)}
    retrying = _event(visit, "step.retrying", now, payload)
    return Commit(waiting, events=(retrying,))


def _policy(step: Step, visit: Visit, choice: Choice, outcome: Outcome, now: float) -> Commit:
    ends_run = step.on_error == "abort"
    # What was saved before a pause stays in the record, for a resume to go on from.
    failed = replace(
        visit,
        status=VisitStatus.FAILED,
        finished_at=now,
        result=choice.outcome.data,
        case=choice.case,
        error=outcome.error,
        failure=FailureState.OPEN if ends_run else FailureState.ENDED,
    )
    events = (_finished(failed, now),)
    if ends_run:
        return Commit(failed, stop=RunStatus.FAILED, error=outcome.error, events=events)
    live = dict.fromkeys(step.regions, -1)
    return Commit(failed, (), live, -1, failed_branches=1, events=events, next_names=names_after(failed))


def start_next_sequential(visit: Visit, clock: int, seen: Pointers) -> Visit:
    """A visit that waited for its turn, with what all those before it have saved, as of the causal clock of the last."""
    names = {**visit.names, **seen}
    return replace(visit, clock=max(visit.clock, clock + 1), names=names)


def commit_of_finally_step(commit: Commit) -> Commit:
    """The commit of the step that runs last: it belongs to no branch, and its failure does not stop the run again."""
    return replace(
        commit, live_changes={}, branches_change=0, failed_branches=0, stop=None, error=None, is_finally=True
    )


def apply_deadline(commit: Commit, deadline_at: float | None, now: float) -> Commit:
    """The commit, which ends a run that is out of time as timed out, whatever became of the step."""
    if deadline_at is None or now < deadline_at:
        return commit
    return replace(commit, stop=RunStatus.TIMED_OUT, error=None)


def merge_arrivals(
    join: Step, wave: int, arrivals: Sequence[Branch], earlier: Branch | None = None
) -> tuple[Branch, Mapping[str, int], int]:
    """The one branch that goes on when a join fires, and what its firing takes from the counters of the joins around it
    and of the run.

    Of two pointers to one name the one with the greater clock is the later write; writes that race are told apart by
    id. Ids are the same in every run of a plan, so even then the result depends on neither timing nor run. `earlier` is the branch that went on when the join
    fired before: on a cycle the others know its names anyway, and after a resume they do not come again.
    """
    clock = max(arrival.clock for arrival in arrivals)
    names: dict[str, tuple[int, str]] = {}
    if earlier is not None:
        clock = max(clock, earlier.clock + 1)
        names.update({name: (pointer[0], pointer[1]) for name, pointer in earlier.names.items()})
    for arrival in arrivals:
        for name, pointer in arrival.names.items():
            found = (pointer[0], pointer[1])
            if name not in names or names[name] < found:
                names[name] = found
    merged = len(arrivals) - 1
    id = derived_id("join", join.name, wave)
    branch = Branch(id, join.name, clock, names, False, join.cyclic)
    return branch, dict.fromkeys(join.regions, -merged) if merged else {}, -merged


def final_status(stop: RunStatus | None, failed_branches: int) -> RunStatus:
    """The final status of a run all of whose branches have ended, or that was stopped."""
    if stop is not None:
        return stop
    return RunStatus.COMPLETED_WITH_ERRORS if failed_branches else RunStatus.SUCCEEDED


def merge_names(saved: Sequence[tuple[int, str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The value each name has at the end of a run, from what the visits saved (clock, id, names): the latest write."""
    found: dict[str, Any] = {}
    for _, _, names in sorted(saved, key=lambda item: item[:2]):
        found.update(names)
    return found


def find_holders(pointers: Pointers, names: Sequence[str]) -> dict[str, str]:
    """The ids of the visits that hold the names, as far as there are any."""
    return {name: pointers[name][1] for name in names if name in pointers}


def _event(
    visit: Visit, type: str, at: float, payload: Mapping[str, Any], started_at: float | None = None
) -> Event:
    duration = None if started_at is None else max(at - started_at, 0.0)
    return Event(type, at, visit.step, visit.number, visit.attempt, duration, payload)


def _finished(visit: Visit, now: float) -> Event:
    failed = visit.status is VisitStatus.FAILED
    payload = {"error": visit.error, "handled": visit.failure is FailureState.HANDLED} if failed else {}
    return _event(visit, "step.failed" if failed else "step.completed", now, payload, visit.started_at)
