"""The end of an attempt, as pure functions: from an outcome to the commit that follows from it.

Problem: decide what follows from an attempt: a retry, a case of the rule, new branches, and the counters of
joins. Workers, tests and simulations must decide alike, also after a crash.

Algorithm: a finite state machine, whose table is in `visit_states`. All inputs are arguments, so there is no
clock, randomness or I/O here; ids and jitter are hashes of their causes. A repeated decision therefore writes
the same records. Names are last-writer-wins registers with Lamport clocks. Source: Lamport 1978; Shapiro et
al. 2011 (registers).

| outcome of a running visit | it becomes | function |
| --- | --- | --- |
| work done, no failure | succeeded | `build_commit` |
| failure, retry left | retrying, at `retry_at` | `choose_case`, `build_commit` |
| failure, a case handles it | failed (handled) | `build_commit` |
| failure unhandled, `on_error: continue` | failed (ended) | `build_commit` |
| failure unhandled, `on_error: abort` | failed (open), and the run stops | `build_commit` |
| work suspended until later | waiting | `suspend` |
| work suspended, due at once | ready | `suspend` |
| work must wait for a limit | waiting | `wait_for_slot` |
| run cancelled, work abandoned | ready | `abandon` |
| a full limit refuses the run | ready, and the run stops | `skip_run` |

`visit_transition` has the other transitions of a visit: entry, claim, park, resume. `run_transition` has
those of a run.

Cost: linear in the cases of the step and in the names that the branch carries.

Limits: a visit that was claimed `MAX_CLAIMS` times without an outcome fails with `WorkerLost`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.gates import Slot
from noetl.executor.model.ids import derived_id, ordered_id
from noetl.executor.model.outcome import Choice, Outcome, Suspension, error_record, place_error
from noetl.executor.model.run import (
    NEVER,
    Branch,
    Commit,
    ErrorRecord,
    FailureState,
    Pointers,
    Progress,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.visit_states import VisitTrigger, next_status
from noetl.executor.model.visit_transition import MAX_CLAIMS, MAX_CLAIMS_OF_RULE, mark_left_out
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Case, Retry, Step

StepOf = Callable[[str], Step]
"""A function that returns the step with a name."""


class GuardError(Exception):
    """A guard that has no value. `place` is as in `ActionError`."""

    def __init__(self, message: str, place: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place or {}


GuardTest = Callable[[Case, Outcome], bool]
"""A function that returns whether the guard of a case is true after an outcome. It raises GuardError."""


@frozen
class RuleTests:
    """The conditions of a step: `guard` tests its cases, `retry` decides whether a failure is retried."""

    guard: GuardTest
    retry: Callable[[Outcome], bool]


def find_refusal(step: Step, visit: Visit) -> ErrorRecord | None:
    """Return why the visit must not be performed, or None.

    A suspended visit was counted when it first started, so `max_visits` does not refuse it.
    """
    if step.max_visits is not None and visit.number > step.max_visits and visit.progress is None:
        message = f"step `{step.name}` must not be entered more than {step.max_visits} times"
        return error_record(visit, "MaxVisitsExceeded", message)
    if step.at_most_once and visit.claims > 1:
        message = "the step was interrupted, and `delivery: at_most_once` forbids another start"
        return error_record(visit, "StepInterrupted", message, retryable=True)
    if visit.claims > MAX_CLAIMS:
        message = f"the step was started {MAX_CLAIMS} times, and no worker finished it"
        return error_record(visit, "WorkerLost", message)
    if visit.lost_payload is not None:
        return error_record(visit, "PayloadLost", visit.lost_payload)
    return None


def retry_delay_seconds(retry: Retry, attempt: int, *seed: object) -> float:
    """Return the delay after attempt number `attempt`: exponential backoff, with a jitter derived from
    `seed`.
    """
    exponent = min(attempt - 1, 64)
    delay = min(retry.delay_seconds * retry.backoff**exponent, retry.max_delay_seconds)
    if retry.jitter:
        delay *= 1 - int(derived_id("jitter", *seed, attempt)[:8], 16) / 2**33
    return delay


def delay_after_failure(retry: Retry, attempt: int, error: ErrorRecord, *seed: object) -> float:
    """Return the delay after attempt number `attempt`, which has failed with `error`.

    It is longer than `retry_delay_seconds` if the detail `retry_after_seconds` asks for more. The maximum of
    the retry bounds both.
    """
    details = error["details"]
    requested = details.get("retry_after_seconds") if isinstance(details, dict) else None
    if not isinstance(requested, int | float):
        requested = 0.0
    return max(retry_delay_seconds(retry, attempt, *seed), min(requested, retry.max_delay_seconds))


def choose_case(step: Step, visit: Visit, outcome: Outcome, tests: RuleTests, now: float) -> Choice:
    """Return the retry or the case that follows from an outcome.

    After a failure only error-aware cases are evaluated; past `max_visits`, only those that do not lead back.
    After MAX_CLAIMS_OF_RULE further claims there is no case: the work of one has ended its worker each time.
    A guard without a value fails the step with `GuardError`, and the error-aware cases are evaluated once
    more.
    """
    if visit.claims > MAX_CLAIMS + MAX_CLAIMS_OF_RULE:
        return Choice(outcome, failed=True)
    is_past_bound = step.max_visits is not None and visit.number > step.max_visits
    error = outcome.error
    if outcome.failed and error is not None and error["retryable"] and visit.attempt < step.retry.attempts:
        if tests.retry(outcome):
            delay = delay_after_failure(step.retry, visit.attempt, error, visit.run_id, visit.id)
            return Choice(outcome, failed=True, retry_at=now + delay)
    failed = outcome.failed
    guards: list[tuple[int, bool | None]] = []
    while True:
        try:
            candidates = _find_candidates(step, failed=failed, is_past_bound=is_past_bound)
            case = _find_first_true(candidates, outcome, tests.guard, guards)
            return Choice(outcome, failed, case, guards=tuple(guards))
        except GuardError as problem:
            was_guard_error = outcome.error is not None and outcome.error["type"] == "GuardError"
            earlier = None if outcome.error is None else {"error": outcome.error}
            record = error_record(visit, "GuardError", problem.message, details=earlier)
            guard_error = place_error(record, {**problem.place, "line": step.line})
            outcome = replace(outcome, success=False, forgiven=False, error=guard_error, saved={})
            if failed and was_guard_error:
                return Choice(outcome, failed=True, guards=tuple(guards))
            failed = True


def _find_candidates(step: Step, *, failed: bool, is_past_bound: bool) -> list[tuple[int, Case]]:
    """Return the cases that may be chosen, with their indexes."""
    return [
        (index, case)
        for index, case in enumerate(step.cases)
        if not ((failed and not case.error_aware) or (is_past_bound and case.leads_back))
    ]


def _find_first_true(
    cases: Sequence[tuple[int, Case]],
    outcome: Outcome,
    test: GuardTest,
    guards: list[tuple[int, bool | None]],
) -> int | None:
    """Return the index of the first case whose guard is true, or None. Add the values to `guards`."""
    for index, case in cases:
        if case.guard is None:
            return index
        guards.append((index, None))
        is_chosen = test(case, outcome)
        guards[-1] = (index, is_chosen)
        if is_chosen:
            return index
    return None


def build_commit(step_of: StepOf, visit: Visit, choice: Choice, outcome: Outcome, now: float) -> Commit:
    """Return the commit that ends an attempt.

    `outcome` is that of the choice, or that of the in-place work of the chosen case. A failure is unhandled
    if no case was chosen after it, or if in-place work failed. Then `on_error` of the step decides.
    """
    visit = _without_lost_payload(visit)
    if choice.retry_at is not None:
        return _commit_retry(visit, choice, choice.retry_at, now)
    step = step_of(visit.step)
    case = None if choice.case is None else step.cases[choice.case]
    has_in_place_work = case is not None and bool(case.work)
    if (choice.failed and case is None) or (has_in_place_work and outcome.failed):
        return _commit_unhandled(step, visit, choice, outcome, now)
    targets = case.targets if case is not None else ()
    counter_changes = case.counter_changes if case is not None else dict.fromkeys(step.regions, -1)
    done = replace(
        visit,
        status=next_status(visit.status, VisitTrigger.FAIL if choice.failed else VisitTrigger.SUCCEED),
        finished_at=now,
        saved=outcome.saved,
        result=_result_of_step(step, choice.outcome, choice.failed),
        failures=() if choice.failed else choice.outcome.failures,
        case=choice.case,
        error=choice.outcome.error if choice.failed else None,
        failure=FailureState.HANDLED if choice.failed else None,
    )
    if choice.outcome.left_out is not None and not choice.failed:
        done = replace(done, progress=mark_left_out(done.progress, choice.outcome.left_out))
    payload = {"case": choice.case, "targets": list(targets), **_guards_payload(choice)}
    transition = _visit_event(visit, "step.transition", now, payload)
    finished = _finished_event(done, now)
    events = (transition, finished) if step.cases else (finished,)
    branches = branches_after(done, step, step_of)
    change = len(targets) - 1
    return Commit(done, branches, counter_changes, _left_clock(visit, step), change, events=events)


def _without_lost_payload(visit: Visit) -> Visit:
    """Return the visit without what was lost. If its run is resumed, its work starts again."""
    if visit.lost_payload is None:
        return visit
    return replace(visit, saved={}, progress=Progress(), lost_payload=None)


def _left_clock(visit: Visit, step: Step) -> int:
    """Return the clock that a join must exceed if the branch of a visit leaves its region.

    What follows the join is later than what the branch has saved, even if the branch does not arrive. Steps
    of format 1 do not order the two.
    """
    return visit.clock if step.format > 1 else 0


def _result_of_step(step: Step, outcome: Outcome, failed: bool) -> Any:
    """Return what `steps.NAME.result` shows: none after a failure. Steps of format 1 show the data."""
    return outcome.data if step.format == 1 or not failed else None


def names_after(visit: Visit) -> Pointers:
    """Return the names that a branch carries after a finished visit: those before it, and those it saved.

    Names that a failed branch saved are left out: no step sees them.
    """
    saved = () if visit.has_ended_branch else visit.saved
    return {**visit.names, **dict.fromkeys([*saved, f"steps.{visit.step}"], (visit.clock, visit.id))}


def branches_after(visit: Visit, step: Step, step_of: StepOf) -> tuple[Branch, ...]:
    """Return the branches that leave a finished visit, by the case that it took."""
    if visit.case is None or visit.has_ended_branch:
        return ()
    names = names_after(visit)
    targets = step.cases[visit.case].targets
    return tuple(_branch_to(step_of(target), visit, visit.clock + 1, names) for target in targets)


def _branch_to(target: Step, visit: Visit, clock: int, names: Pointers) -> Branch:
    """Return the branch from a visit to a step.

    At a `join: any`, all branches of a wave make the same visit. A wave starts at one visit of the join's
    dominator.
    """
    carried = {name: pointer for name, pointer in names.items() if name in target.live_names}
    if target.join is None or target.join.mode == "all":
        id = id_of_entry(visit.id, visit.case, target, clock)
        return Branch(id, target.name, clock, carried, target.join is not None, target.cyclic)
    wave = carried.get(f"steps.{target.join.dominator}", (0, ""))[1]
    return Branch(
        derived_id("any", target.name, wave), target.name, clock, carried, False, target.cyclic, True
    )


def id_of_entry(cause: str, case: int | None, target: Step, clock: int) -> str:
    """Return the id of the visit that a branch makes of a step, after the case of the visit `cause`."""
    id = derived_id(cause, case, target.name)
    return ordered_id(target.name, clock, id) if target.has_ordered_visits else id


def suspend(visit: Visit, suspension: Suspension, now: float) -> Commit:
    """Return the commit of suspended work. Another batch or another round starts with attempt 1."""
    journal = suspension.progress.journal
    attempt = 1 if suspension.batch_results or not journal else visit.attempt
    progress = replace(suspension.progress, journal=_with_attempt(journal, attempt))
    trigger = VisitTrigger.SUSPEND if suspension.due_at > now else VisitTrigger.YIELD
    later = replace(
        visit,
        status=next_status(visit.status, trigger),
        attempt=attempt,
        claims=0,
        worker=None,
        due_at=suspension.due_at,
        segment_started_at=None,
        saved=suspension.saved,
        error=None,
        progress=progress,
    )
    events: tuple[Event, ...] = ()
    if later.status is VisitStatus.WAITING:
        until = timestamp(suspension.due_at) if suspension.due_at < NEVER else None
        retried = {"retried": list(suspension.retried)} if suspension.retried else {}
        titles = {"titles": list(suspension.titles)} if suspension.titles else {}
        payload = {"until": until, "actions": list(suspension.actions), **retried, **titles}
        events = (_visit_event(visit, "step.waiting", now, payload),)
    return Commit(later, events=events, batch_results=suspension.batch_results, awaits=suspension.awaits)


def wait_for_slot(visit: Visit, slot: Slot, until: float, now: float) -> Commit:
    """Return the commit of a visit whose work must wait until it gets a slot, or until a time.

    Its attempt and its progress stay as they are. The event is written once for each place in a queue. What
    waits for a unit of a rate is due at the time of its slot, and has no place.
    """
    later = replace(
        visit,
        status=next_status(visit.status, VisitTrigger.SUSPEND),
        claims=0,
        worker=None,
        due_at=until,
        segment_started_at=None,
    )
    events: tuple[Event, ...] = ()
    is_back = not slot.owner.visit_id and slot.queued_at == visit.started_at
    if slot.queued_at >= now or is_back:
        key = {} if slot.value is None else {"key": slot.value}
        place = None if slot.is_held else slot.queued_before
        waits_for = {"limit": slot.limit, **key, "queued_before": place}
        end = timestamp(until) if until < NEVER else None
        events = (_visit_event(visit, "step.waiting", now, {"until": end, "actions": [], **waits_for}),)
    return Commit(later, events=events, is_queued=not slot.is_held)


def skip_run(visit: Visit, reason: str) -> Commit:
    """Return the commit that ends a run as `skipped` before the work of its first visit.

    A resume performs the visit.
    """
    error = error_record(visit, "RunSkipped", reason) | {"step": None}
    return replace(abandon(visit), stop=RunStatus.SKIPPED, error=error)


def _with_attempt(journal: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """Return the journal with the number of the attempt in the entries of its waiting actions."""
    return {
        position: entry | {"tries": [entry["tries"][0], attempt]} if "tries" in entry else entry
        for position, entry in journal.items()
    }


def abandon(visit: Visit) -> Commit:
    """Return the commit of work that was abandoned because its run was cancelled.

    A resume repeats the attempt.
    """
    later = replace(
        visit,
        status=next_status(visit.status, VisitTrigger.ABANDON),
        claims=0,
        worker=None,
        due_at=0.0,
        started_at=None,
        segment_started_at=None,
    )
    return Commit(later)


def _commit_retry(visit: Visit, choice: Choice, retry_at: float, now: float) -> Commit:
    retrying = replace(
        visit,
        status=next_status(visit.status, VisitTrigger.RETRY),
        attempt=visit.attempt + 1,
        claims=0,
        worker=None,
        due_at=retry_at,
        started_at=None,
        segment_started_at=None,
        error=choice.outcome.error,
    )
    payload = {"error": choice.outcome.error, "next_attempt_at": timestamp(retry_at)}
    return Commit(retrying, events=(_visit_event(visit, "step.retrying", now, payload),))


def _commit_unhandled(step: Step, visit: Visit, choice: Choice, outcome: Outcome, now: float) -> Commit:
    """Return the commit of an unhandled failure, by `on_error` of the step."""
    stops_run = step.on_error == "abort"
    # The record keeps what was saved before a suspension, because a resume continues from there.
    failed = replace(
        visit,
        status=next_status(visit.status, VisitTrigger.FAIL),
        finished_at=now,
        result=_result_of_step(step, choice.outcome, failed=True),
        case=choice.case,
        error=outcome.error,
        failure=FailureState.OPEN if stops_run else FailureState.ENDED,
    )
    events = (_finished_event(failed, now, _guards_payload(choice)),)
    if stops_run:
        return Commit(failed, stop=RunStatus.FAILED, error=outcome.error, events=events)
    counter_changes = dict.fromkeys(step.regions, -1)
    return Commit(failed, (), counter_changes, _left_clock(visit, step), -1, 1, events=events)


def stop_run_at(step: Step, visit: Visit, outcome: Outcome, now: float) -> Commit:
    """Return the commit of an unhandled failure that stops the run, whatever `on_error` of the step says."""
    return _commit_unhandled(
        replace(step, on_error="abort"), visit, Choice(outcome, failed=True), outcome, now
    )


def commit_of_finally_step(commit: Commit) -> Commit:
    """Return the commit of the finally step: it is on no branch, and its failure does not stop the run."""
    return replace(
        commit,
        counter_changes={},
        branches_change=0,
        failed_branches=0,
        stop=None,
        error=None,
        is_finally=True,
    )


def apply_deadline(commit: Commit, deadline_at: float | None, now: float) -> Commit:
    """Return the commit. Past the deadline of the run, it stops the run as timed out."""
    if deadline_at is None or now < deadline_at:
        return commit
    return replace(commit, stop=RunStatus.TIMED_OUT, error=None)


def merge_arrivals(
    join: Step, wave: int, arrivals: Sequence[Branch], earlier: Branch | None = None
) -> tuple[Branch, Mapping[str, int], int]:
    """Return the branch that leaves a join when it fires, and the changes of the live counters.

    The changes are those of the joins around it, and that of the run. Of two pointers to one name, the one
    with the greater clock is the later write. Two concurrent writes are a race, which the planner rejects.

    `earlier` has the greatest clock of the branches that the join waited for and that did not arrive. If the
    join has fired before, it is the branch that left it then. On a cycle, the other branches have its names
    anyway; after a resume, they do not arrive again.
    """
    clock = max(arrival.clock for arrival in arrivals)
    names: dict[str, tuple[int, str]] = {}
    if earlier is not None:
        clock = max(clock, earlier.clock + 1)
        names.update({name: (pointer[0], pointer[1]) for name, pointer in earlier.names.items()})
    for arrival in arrivals:
        for name, pointer in arrival.names.items():
            candidate = (pointer[0], pointer[1])
            if name not in names or names[name] < candidate:
                names[name] = candidate
    merged = len(arrivals) - 1
    id = derived_id("join", join.name, wave)
    branch = Branch(id, join.name, clock, names, False, join.cyclic)
    return branch, dict.fromkeys(join.regions, -merged) if merged else {}, -merged


def final_status(stop: RunStatus | None, failed_branches: int) -> RunStatus:
    """Return the final status of a run that was stopped, or whose branches have all ended.

    >>> final_status(None, failed_branches=1).value
    'completed_with_errors'
    """
    if stop is not None:
        return stop
    return RunStatus.COMPLETED_WITH_ERRORS if failed_branches else RunStatus.SUCCEEDED


def merge_names(writes: Sequence[tuple[int, str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the value of each name at the end of a run: that of the latest write.

    `writes` are the clock, the id and the saved names of visits.

    >>> merge_names([(2, "v2", {"n": 2}), (1, "v1", {"n": 1, "m": 1})])
    {'n': 2, 'm': 1}
    """
    merged: dict[str, Any] = {}
    for _, _, names in sorted(writes, key=lambda write: write[:2]):
        merged.update(names)
    return merged


def find_holders(pointers: Pointers, names: Sequence[str]) -> dict[str, str]:
    """Return the id of the visit that holds each of the names. Names without a pointer are left out."""
    return {name: pointers[name][1] for name in names if name in pointers}


def _visit_event(
    visit: Visit, type: str, happened_at: float, payload: Mapping[str, Any], started_at: float | None = None
) -> Event:
    duration = None if started_at is None else max(happened_at - started_at, 0.0)
    return Event(type, happened_at, visit.step, visit.number, visit.attempt, duration, payload)


def _guards_payload(choice: Choice) -> dict[str, Any]:
    """Return what an event says of the guards of a rule: nothing if none was evaluated."""
    return (
        {"guards": [{"case": case, "value": value} for case, value in choice.guards]} if choice.guards else {}
    )


def _finished_event(visit: Visit, now: float, details: Mapping[str, Any] | None = None) -> Event:
    failed = visit.status is VisitStatus.FAILED
    payload: dict[str, Any] = {}
    if failed:
        handled = visit.failure is FailureState.HANDLED
        payload = {"error": visit.error, "handled": handled, **(details or {})}
    return _visit_event(visit, "step.failed" if failed else "step.completed", now, payload, visit.started_at)
