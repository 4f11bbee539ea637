"""What is said of a run that has ended: its errors with their places, how it went, and its result."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import typer
from noetl.api.cli.display.console import FAILED, say, write_json
from noetl.api.cli.display.run_board import duration, failure

if TYPE_CHECKING:
    from noetl.api.service.runs import Service
    from noetl.executor.model.run import Run
    from noetl.planner.plan import Plan


def tell(service: Service, run: Run, plan: Plan, *, as_json: bool, quiet: bool) -> None:
    """Say how the run went on stderr, and write its result to stdout."""
    for error in _errors(run):
        say(_error_line(error, plan, _file(run)))
    if run.status.value != "succeeded":
        say(f"run {run.id} {ending(run)}")
    elif not quiet:
        took = (run.finished_at or run.created_at) - (run.started_at or run.created_at)
        say(f"run {run.id} succeeded in {duration(took)}")
    if as_json:
        write_json({**service.result(run.id), "steps": service.status(run.id)["steps"]})
    elif run.status.value in ("succeeded", "completed_with_errors"):
        write_json(run.result)


def leave(run: Run) -> None:
    """End the command as the run has ended.

    Raises:
        typer.Exit: it did not succeed.
    """
    if run.status.value != "succeeded":
        raise typer.Exit(FAILED)


def ending(run: Run) -> str:
    """How a run ended that did not succeed, and the way on."""
    return f"{run.status.value}; `noetl runs resume {run.id}` goes on from there"


def _file(run: Run) -> str | None:
    """The file of a local run, as it is called from here."""
    if run.source is None:
        return None
    path = os.path.relpath(run.source)
    return run.source if path.startswith("..") else path


def _errors(run: Run) -> list[Any]:
    errors = list(run.errors)
    if run.error is not None and run.error not in errors:
        errors.insert(0, run.error)
    return errors


def _error_line(error: Any, plan: Plan, file: str | None) -> str:
    step = plan.steps.get(error["step"] or "")
    place = f"{file or 'line'}:{step.line}: " if step and file else f"line {step.line}: " if step else ""
    where = f"step `{error['step']}`" if error["step"] else "the run"
    action = f", action {error['action']}" if error["action"] else ""
    attempt = f", attempt {error['attempt']}" if error["attempt"] > 1 else ""
    return f"{place}{where}{action}{attempt}: {failure(error)}"
