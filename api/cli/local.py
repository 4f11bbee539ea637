"""A run walked to its end in this process, watched, and its outcome said."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from api.cli.console import FAILED, INTERRUPTED, say, write_json
from api.cli.progress import Progress, duration, failure

if TYPE_CHECKING:
    from api.service import Service
    from executor.records import Run
    from executor.stores.store import Store
    from executor.worker import Worker
    from planner.plan import Plan

_LOOK_EVERY_SECONDS = 0.1
_ENDING_SECONDS = 5.0


def walk_to_the_end(
    store: Store, service: Service, run: Run, plan: Plan, *, file: str | None, as_json: bool, quiet: bool
) -> None:
    """Walk the run, say how it goes on stderr and write its result to stdout.

    Raises:
        typer.Exit: it did not succeed, or was interrupted.
    """
    ended = _walk(store, service, run, quiet=quiet)
    for error in _errors(ended):
        say(_error_line(error, plan, file))
    if ended.status.value != "succeeded":
        say(f"run {ended.id} {ended.status.value}{_resumable(ended)}")
    elif not quiet:
        took = (ended.finished_at or ended.created_at) - (ended.started_at or ended.created_at)
        say(f"run {ended.id} succeeded in {duration(took)}")
    if as_json:
        write_json({**service.result(run.id), "steps": service.status(run.id)["steps"]})
    elif ended.status.value in ("succeeded", "completed_with_errors"):
        write_json(ended.result)
    if ended.status.value != "succeeded":
        raise typer.Exit(FAILED)


def let_it_end(store: Store, run: Run) -> Run:
    """The run that was told to stop, once it has ended, or as it is after a while: another process may be at work."""
    worker = _worker(store, run)
    worker.start()
    ended = worker.wait_until_finished(run.tenant, run.id, timeout_seconds=_ENDING_SECONDS)
    worker.stop(drain=ended.status.is_final)
    return ended


def _worker(store: Store, run: Run) -> Worker:
    from executor.capabilities import for_local_run
    from executor.worker import Worker

    folder = Path(run.folder) if run.folder else Path.cwd()
    return Worker(store, run_id=run.id, capabilities=for_local_run(folder))


def _walk(store: Store, service: Service, run: Run, *, quiet: bool) -> Run:
    worker = _worker(store, run)
    if not quiet:
        say(f"run {run.id} of {run.playbook}")
    terminated = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Progress(quiet=quiet) as progress:
            worker.start()
            cursor = None
            while True:
                current = worker.wait_until_finished(run.tenant, run.id, timeout_seconds=_LOOK_EVERY_SECONDS)
                cursor = _show_news(service, run.id, cursor, progress)
                if current.status.is_final:
                    worker.stop()
                    return current
    except KeyboardInterrupt:
        worker.stop(drain=False)
        say(f"interrupted; `noetl runs resume {run.id}` goes on with the run")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, terminated)


def _interrupt(_number: int, _frame: object) -> None:
    """Being asked to end is being interrupted."""
    raise KeyboardInterrupt


def _show_news(service: Service, run_id: str, cursor: str | None, progress: Progress) -> str | None:
    while True:
        page = service.events(run_id, cursor)
        if page["items"]:
            cursor = page["items"][-1]["id"]
        progress.show(page["items"])
        if page["next_cursor"] is None:
            return cursor


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


def _resumable(run: Run) -> str:
    return f"; `noetl runs resume {run.id}` goes on from there" if run.status.is_final else ""
