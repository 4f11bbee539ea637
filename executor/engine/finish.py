"""The end of a run: the scope of the finally step, the deadline, and the final result and status."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from noetl.executor.engine.end_entries import find_entries
from noetl.executor.engine.final_state import FinalState, final_names, final_steps, find_lost_state
from noetl.executor.engine.rendering import render
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError, PayloadTooLargeError
from noetl.executor.model.gates import GateKey
from noetl.executor.model.outcome import error_record, place_error
from noetl.executor.model.read_memory import BYTES_OF_RESULT, reserve_result, strict_reads
from noetl.executor.model.run import Claim, Commit, ErrorRecord, Run, RunEnding, RunStatus, Visit, VisitStatus
from noetl.executor.model.transition import final_status
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Header, Step
from noetl.planner.templates.template import shared_budget


def load_finally_scope(store: Store, claim: Claim, step: Step) -> Scope:
    """Return the scope of the finally step: final names and steps, and the status that the run will have."""
    run = _reload_run(store, claim)
    visits = [visit for visit in store.runs.visits_with_outputs(run.id) if visit.id != claim.visit.id]
    status = final_status(run.ending, run.failed_branches)
    error = run.error
    if status is RunStatus.TIMED_OUT:
        error = _timeout_error(claim.visit, store.plans.header(run.plan_hash))
    ending = {"status": status.value, "error": error}
    saved = dict(claim.visit.saved)
    steps = final_steps(visits, is_cancelled=status is RunStatus.CANCELLED)
    lost = find_lost_state(run, visits, step.reads)
    return Scope(run, claim.visit, final_names(visits), steps, saved, ending=ending, lost=lost)


def stop_at_deadline(store: Store, claim: Claim, now: float) -> None:
    """Stop a run at its deadline."""
    done = replace(claim.visit, status=VisitStatus.SUCCEEDED, finished_at=now)
    store.queue.commit(Commit(done, stop=RunStatus.TIMED_OUT), now)


@frozen
class EndedRun:
    """A run as it was before its end, its ending, and the gates at which others wait for its slots."""

    run: Run
    ending: RunEnding
    freed: tuple[GateKey, ...]


def finish_run(store: Store, claim: Claim, clock: Callable[[], float]) -> EndedRun:
    """Evaluate the output of a run and store its final status.

    A result that is too large for the store or the memory fails the run.
    """
    run = _reload_run(store, claim)
    try:
        with strict_reads(BYTES_OF_RESULT):
            ending = _evaluate_ending(store, claim.visit, run)
        result, errors = redact_for_storage(ending.result), redact_for_storage(ending.errors)
        reserve_result(result)
        return _write_ending(store, claim, run, replace(ending, result=result, errors=errors), clock())
    except (ActionError, PayloadTooLargeError) as problem:
        too_large = error_record(claim.visit, "PayloadTooLarge", str(problem)) | {"step": None}
        return _write_ending(store, claim, run, RunEnding(RunStatus.FAILED, None, [too_large]), clock())


def _write_ending(store: Store, claim: Claim, run: Run, ending: RunEnding, now: float) -> EndedRun:
    """Write the end of a run with the entries of the outbox that follow from it.

    Raises:
        FencedError, PayloadTooLargeError: as `finish` of the store does.
    """
    written = replace(ending, outbox=find_entries(store, run, ending, now))
    return EndedRun(run, written, store.queue.finish(claim, written, now))


def _evaluate_ending(store: Store, visit: Visit, run: Run) -> RunEnding:
    header = store.plans.header(run.plan_hash)
    state = FinalState(store, run.id, header.statistics.get("most_visits", math.inf))
    status = final_status(run.ending, run.failed_branches)
    errors = _unhandled_errors(state, status, header.finally_step)
    if status is RunStatus.SUCCEEDED and errors:
        status = RunStatus.FAILED
    if status is RunStatus.TIMED_OUT:
        errors = [_timeout_error(visit, header), *errors]
    if status is RunStatus.SKIPPED and run.error is not None:
        errors = [run.error]
    if status not in (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS):
        return RunEnding(status, None, errors)
    result, output_errors = _evaluate_output(header, run, visit, state)
    if output_errors:
        status = RunStatus.COMPLETED_WITH_ERRORS
    return RunEnding(status, result, errors + output_errors)


def _unhandled_errors(state: FinalState, status: RunStatus, finally_step: str | None) -> list[ErrorRecord]:
    """Return the errors of unhandled failures that the run reports. That of the finally step always counts.

    The visits are read only if a failure can be reported.
    """
    reports_all = status in (RunStatus.FAILED, RunStatus.COMPLETED_WITH_ERRORS)
    failures = state.unhandled_failures() if reports_all or finally_step is not None else []
    return [v.error for v in failures if v.error is not None and (reports_all or v.step == finally_step)]


def _reload_run(store: Store, claim: Claim) -> Run:
    run = store.runs.get(claim.run.tenant, claim.run.id)
    assert run is not None
    return run


def _evaluate_output(
    header: Header, run: Run, visit: Visit, state: FinalState
) -> tuple[dict[str, Any], list[ErrorRecord]]:
    """Return the result of a run, and an error for each entry of `output` that cannot be evaluated.

    Without `output`, the result has all names, and an error for each whose value was deleted from the store.
    """
    names, steps, visits = state.read(header.reads)
    lost = find_lost_state(run, visits, header.reads)
    if header.output is None:
        problems = {name: message for name, message in lost.items() if name in names}
        lost_names = (ActionError("PayloadLost", f"`{name}`: {text}") for name, text in problems.items())
        return names, [_output_error(visit, problem) for problem in lost_names]
    scope = Scope(run, visit, names, steps, lost=lost)
    result: dict[str, Any] = {}
    errors = []
    with shared_budget():
        for name, value in header.output.items():
            try:
                result[name] = render(value, None, scope.lookup(f"output.{name}"))
            except ActionError as problem:
                result[name] = None
                error = problem.at_key(name).at_key("output").with_key_in_message()
                errors.append(_output_error(visit, error))
    return result, errors


def _output_error(visit: Visit, problem: ActionError) -> ErrorRecord:
    record = error_record(visit, problem.type, problem.message) | {"step": None}
    return place_error(record, problem.place)


def _timeout_error(visit: Visit, header: Header) -> ErrorRecord:
    seconds = header.timeout_seconds
    limit = "" if seconds is None else f", {seconds:g} s"
    message = f"the run exceeded the `timeout` of its playbook{limit}"
    return error_record(visit, "Timeout", message) | {"step": None}
