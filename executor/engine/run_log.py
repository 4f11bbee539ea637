"""The log lines of a service about its runs: one for each start, one for each resume, one for each end.

Local runs have none: their command shows them.
"""

from __future__ import annotations

import logging

from noetl.executor.model.run import SERVICE_QUEUE, Run, RunEnding, RunStatus
from noetl.executor.model.tracing import trace_labels

RUN_LOGGER = "noetl.runs"

MAX_ERROR_LENGTH = 500
"""How many characters of the message of an error a line has."""

_LEVELS = {
    RunStatus.SUCCEEDED: logging.INFO,
    RunStatus.CANCELLED: logging.INFO,
    RunStatus.SKIPPED: logging.INFO,
    RunStatus.COMPLETED_WITH_ERRORS: logging.WARNING,
}

logger = logging.getLogger(RUN_LOGGER)


def log_run_start(created: Run, run: Run) -> None:
    """Log that a run was created, unless the store had created it at an earlier request for `run`."""
    if created.created_at == run.created_at:
        fields = _fields(run) | ({} if run.parent is None else {"parent": run.parent.run_id})
        _log(logging.INFO, run, f"run started: {run.playbook}", fields)


def log_run_resume(run: Run) -> None:
    """Log that a run was resumed."""
    _log(logging.INFO, run, f"run resumed: {run.playbook}", _fields(run))


def log_run_end(run: Run, ending: RunEnding, now: float) -> None:
    """Log the end of a run, with its first error. `now` is in seconds since the epoch."""
    fields = _fields(run) | {"status": ending.status.value, "seconds": round(now - run.created_at, 3)}
    text = f"run {ending.status.value.replace('_', ' ')}: {run.playbook}"
    if ending.errors:
        first = ending.errors[0]
        message = first["message"][:MAX_ERROR_LENGTH]
        fields["error"] = {name: first[name] for name in ("step", "action", "type")} | {"message": message}
        fields["errors"] = len(ending.errors)
    _log(_LEVELS.get(ending.status, logging.ERROR), run, text, fields)


def _fields(run: Run) -> dict[str, object]:
    return {
        "playbook": run.playbook,
        "tenant": run.tenant,
        **({} if run.version is None else {"version": run.version}),
        **({"tags": list(run.tags)} if run.tags else {}),
    }


def _log(level: int, run: Run, message: str, fields: dict[str, object]) -> None:
    if run.queue != SERVICE_QUEUE:
        return
    labels = {"run": run.id, **trace_labels(run)}
    logger.log(level, "%s", message, extra={"fields": fields, "labels": labels})
