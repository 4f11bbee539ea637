"""The transitions of a run, as pure functions: start, end, stop, pause and resume, with their events.

Problem: the HTTP service, the workers and the sweep start, stop, resume and end runs in every store. A
request must have the same effect, or be refused with the same sentence, in all of them.

Algorithm: each function takes the run as the store has read it. It returns the run as the store must write
it, or raises the refusal. The store adds the condition under which it writes: that the run is still as it was
read.

| from | trigger | to | function |
| --- | --- | --- | --- |
| queued, running | a visit is claimed | running | `begin_run` |
| queued, running | stopped | the same, with `stop` | `stop_run` |
| queued, running | paused | the same, with `stop` = `paused` | `pause_run` |
| paused | unpaused | the same, without `stop` | `unpause_run` |
| running | the visit of `@end` is committed | a final status | `finish_run` |
| a final status except succeeded | resumed | queued | `resume_run` |

A run whose limits are full may end as `skipped`. It enters no step, not even its finally step.

A running run shows the status `waiting` while all of its active visits wait, and `paused` if `stop` says so.
These statuses are not stored.

A pause parks the visits that wait or have not started. Running visits finish, and what follows is parked. So
no branch enters a step, and the run does not end by itself. A stop ends a pause: a cancelled run, a run that
is out of time, and a run that a running visit has failed. A finally step that has begun is not paused.

Cost: constant.

Limits: whether the branches of a run have ended is the decision of the store, which counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.errors import RejectedError, UnknownRunError
from noetl.executor.model.events import Event
from noetl.executor.model.run import ErrorRecord, Run, RunEnding, RunStatus
from noetl.planner.frozen import replace
from noetl.planner.plan import Header

SUPERSEDED_ORDER = (
    "the run was started by an earlier version of NoETL, which performs the branches of `mode: sequential` in"
    " another order, so it cannot continue: start it again, or resume it with the earlier version"
)
"""Why a run with a superseded plan is not continued."""


def run_started(run: Run) -> Event:
    """Return the event of the start of a run. It names what else the run follows from: a trigger, a run."""
    payload: dict[str, Any] = {"playbook": run.playbook}
    if run.resumed_from:
        payload["resumed_from"] = run.resumed_from
    if run.trigger is not None:
        payload["trigger"] = {name: value for name, value in run.trigger.items() if value is not None}
    return Event("workflow.started", run.created_at, payload=payload)


def check_same_request(earlier_hash: str, request_hash: str) -> None:
    """Check that an idempotency key is used again with the same request.

    Raises:
        RejectedError: `idempotency_key_reused`.
    """
    if earlier_hash != request_hash:
        message = "the idempotency key was used with another request before"
        raise RejectedError("idempotency_key_reused", message)


def begin_run(run: Run, now: float) -> Run:
    """Return a run one of whose visits is claimed."""
    return replace(
        run, status=RunStatus.RUNNING, started_at=now if run.started_at is None else run.started_at
    )


def shown_status(status: RunStatus, stop: RunStatus | None, active: int, waiting: int) -> RunStatus:
    """Return the status that readers see of a run with a stored status, by the numbers of its visits.

    An open run is `waiting` while all of its active visits wait. Visits of pseudo-steps do not count.

    >>> shown_status(RunStatus.RUNNING, None, active=2, waiting=2).value
    'waiting'
    >>> shown_status(RunStatus.RUNNING, RunStatus.PAUSED, active=2, waiting=2).value
    'paused'
    """
    if stop is RunStatus.PAUSED and not status.is_final:
        return RunStatus.PAUSED
    return RunStatus.WAITING if not status.is_final and 0 < active == waiting else status


def finish_run(run: Run, ending: RunEnding, now: float) -> Run:
    """Return a run that has ended. Its error is the one that stopped it, or else the first of the ending."""
    return replace(
        run,
        status=ending.status,
        stop=run.ending,
        result=ending.result,
        errors=tuple(ending.errors),
        error=next(iter(ending.errors), None) if run.error is None else run.error,
        finished_at=now,
    )


def run_finished(run: Run) -> Event:
    """Return the event of the end of a run: `workflow.completed`, or one that has the name of the status."""
    finished_at = run.finished_at or 0.0
    is_complete = run.status in (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS)
    name = "completed" if is_complete else run.status.value
    duration = max(finished_at - (run.started_at or finished_at), 0.0)
    payload = {"status": run.status.value}
    if run.status is RunStatus.SKIPPED and run.error is not None:
        payload["reason"] = run.error["message"]
    return Event(f"workflow.{name}", finished_at, duration_seconds=duration, payload=payload)


def entered_finally_step(stop: RunStatus | None, finally_step: str | None) -> str | None:
    """Return the finally step that a run enters before its end, or None. A skipped run enters none.

    >>> entered_finally_step(RunStatus.FAILED, "clean"), entered_finally_step(RunStatus.SKIPPED, "clean")
    ('clean', None)
    """
    return None if stop is RunStatus.SKIPPED else finally_step


def stop_run(run: Run, status: RunStatus, reason: ErrorRecord | None = None) -> Run:
    """Return a run that ends with `status`, or as an earlier stop has determined.

    The stop that decides may have a reason, which is the error of the run unless it has one. A run that has
    ended with this status is returned unchanged.

    Raises:
        RejectedError: `finished`, if the run has ended with another status.
    """
    if run.status.is_final:
        if run.status is not status:
            raise RejectedError("finished", f"run {run.id} has already ended: {run.status}")
        return run
    error = reason if run.error is None and run.ending is None else run.error
    return replace(run, stop=decide_stop(run.stop, status), error=error)


def decide_stop(stop: RunStatus | None, requested: RunStatus | None) -> RunStatus | None:
    """Return the `stop` of a run after a request, or after a commit that requests none.

    The first stop decides. It replaces a pause.

    >>> decide_stop(RunStatus.PAUSED, RunStatus.CANCELLED).value
    'cancelled'
    """
    return requested or stop if stop in (None, RunStatus.PAUSED) else stop


def pause_run(run: Run, *, is_ending: bool) -> Run:
    """Return a run that is paused. A paused run is returned unchanged.

    `is_ending` is true if its finally step has begun, or if it waits only for its end.

    Raises:
        RejectedError: `finished`, if the run has ended; `ending`, if it is ending.
    """
    check_open(run, "start it again")
    if run.is_paused:
        return run
    if is_ending or run.stop is not None:
        message = f"run {run.id} is already ending, so it cannot be paused; wait for its end"
        raise RejectedError("ending", message)
    return replace(run, stop=RunStatus.PAUSED)


def show_paused(run: Run) -> Run:
    """Return a paused run with the status that readers see."""
    return replace(run, status=RunStatus.PAUSED)


def unpause_run(run: Run) -> Run:
    """Return a run that is not paused. Any other open run is returned unchanged.

    Raises:
        RejectedError: `finished`, if the run has ended.
    """
    check_open(run, "resume it")
    return replace(run, stop=None) if run.is_paused else run


def check_open(run: Run, fix: str) -> None:
    """Check that a run has not ended. `fix` is what a client may do with one that has.

    Raises:
        RejectedError: `finished`.
    """
    if run.status.is_final:
        fix = "start it again" if run.status is RunStatus.SUCCEEDED else fix
        message = f"run {run.id} has already ended: {run.status}; {fix} to let it continue"
        raise RejectedError("finished", message)


def run_paused(now: float, caller: str | None) -> Event:
    """Return the event of a pause. `caller` is who has requested it, if known."""
    return Event("workflow.paused", now, payload={} if caller is None else {"by": caller})


def run_unpaused(now: float, caller: str | None) -> Event:
    """Return the event of the end of a pause. `caller` is who has requested it, if known."""
    return Event("workflow.unpaused", now, payload={} if caller is None else {"by": caller})


def check_deletable(run_id: str, parent: str | None, open_ids: Sequence[str]) -> None:
    """Check that a run may be deleted, with the runs that it has started.

    `parent` is the run that has started it, if the store still has it. `open_ids` are those of these runs
    that have not ended.

    Raises:
        RejectedError: `child_run`, `not_ended`.
    """
    if parent is not None:
        message = f"run {run_id} was started by run {parent}, which is kept; delete run {parent} with it"
        raise RejectedError("child_run", message)
    if open_ids:
        is_own = run_id in open_ids
        which = f"run {run_id}" if is_own else f"run {open_ids[0]}, which run {run_id} has started,"
        raise RejectedError("not_ended", f"{which} has not ended; cancel it first, or wait for its end")


def unknown_run(run_id: str) -> UnknownRunError:
    """Return the error of a request for a run that does not exist, or not any more."""
    return UnknownRunError(f"unknown run `{run_id}`")


def lose_branch(run: Run) -> Run:
    """Return a run that fails because one of its branches was lost, at an unknown position.

    The run may be resumed from its failed visits.
    """
    error = ErrorRecord(
        type="WorkerLost",
        message="a branch of the run was lost",
        action=None,
        step=None,
        attempt=1,
        retryable=False,
        status=None,
        details=None,
    )
    return replace(stop_run(run, RunStatus.FAILED), error=error if run.error is None else run.error)


def is_resumable(run: Run, header: Header) -> bool:
    """Return whether a resume has anything to do: a run that has not ended goes on anyway.

    Raises:
        RejectedError: `not_resumable`, if the run has succeeded, or if its plan is superseded;
            `paused`, if it is paused; `payload_lost`, if its input was deleted.
    """
    if run.is_paused:
        raise RejectedError("paused", f"run {run.id} is paused; unpause it, and it continues")
    if run.status is RunStatus.SUCCEEDED:
        raise RejectedError("not_resumable", f"run {run.id} has succeeded; there is nothing to resume")
    if run.status.is_final and header.is_superseded:
        raise RejectedError("not_resumable", SUPERSEDED_ORDER)
    if run.status.is_final:
        check_input_kept(run)
    return run.status.is_final


def check_input_kept(run: Run) -> None:
    """Check that a run can continue, or that another run can continue its history.

    Raises:
        RejectedError: `payload_lost`, if its input was deleted from the store.
    """
    if run.lost_payload is not None:
        raise payload_lost(run.id, run.lost_payload)


def payload_lost(run_id: str, reason: str) -> RejectedError:
    """Return the refusal to continue a run some of whose data was deleted from the store."""
    return RejectedError("payload_lost", f"run {run_id} cannot continue: {reason}")


def resume_run(
    run: Run,
    deadline_at: float | None,
    values: Mapping[str, Mapping[str, Any]],
    reopened_branches: int = 0,
) -> Run:
    """Return an ended run that continues. `values` may replace its `input` and `environment`.

    `reopened_branches` is the number of branches that had ended in an unhandled failure.
    """
    return replace(
        run,
        status=RunStatus.QUEUED,
        stop=None,
        resumes=run.resumes + 1,
        finished_at=None,
        deadline_at=deadline_at,
        live=run.live + reopened_branches,
        failed_branches=0,
        result=None,
        error=None,
        errors=(),
        input=values.get("input", run.input),
        environment=values.get("environment", run.environment),
    )


def run_resumed(run: Run, now: float) -> Event:
    """Return the event of a run that was resumed."""
    return Event("workflow.resumed", now, payload={"resumes": run.resumes})
