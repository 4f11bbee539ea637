"""Execution of a local run in this process, to its end and to that of the runs that it starts."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from noetl.api.cli.display.console import EXIT_INTERRUPTED, print_message
from noetl.api.cli.display.event_follower import EventFollower
from noetl.api.cli.display.failure import shown_file
from noetl.api.cli.display.outcome import (
    FindResult,
    RunCommandContext,
    describe_end,
    exit_unless_succeeded,
    print_outcome,
    result_of,
)
from noetl.api.cli.display.progress import ProgressDisplay
from noetl.api.cli.local.interruption import Interruption, exit_immediately
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter

if TYPE_CHECKING:
    from noetl.executor.model.run import Run
    from noetl.executor.model.run_summary import RunSummary
    from noetl.executor.stores.interface import Store
    from noetl.executor.worker import Worker
    from noetl.planner.plan import Plan

_POLL_SECONDS = 0.1
_STOP_TIMEOUT_SECONDS = 5.0
_THREAD_TIMEOUT_SECONDS = 3.0
_WORKER_THREADS = ("noetl-walk", "noetl-lease", "noetl-retention", "noetl-item")
"""Prefixes of the names of threads that execute runs, or parallel parts of their work."""

_MAX_NAMED_RUNS = 5
_RUNS_PER_QUERY = 1000


def check_settings() -> None:
    """Check the settings of the worker that will execute a run. Do it before the run is stored.

    Raises:
        SettingError: a setting is invalid.
    """
    from noetl.executor.engine.external import read_public_url
    from noetl.executor.runtime.lease_keeper import read_lease_seconds
    from noetl.executor.worker import read_thread_count

    read_thread_count()
    read_lease_seconds()
    read_public_url()


def run_to_end(
    context: RunCommandContext,
    run: Run,
    plan: Plan,
    follower: EventFollower | None = None,
    find_result: FindResult = result_of,
) -> None:
    """Execute the run, show its progress on stderr and write its result to stdout.

    Then execute the detached runs that it has started. A `follower` has read the events of the past.
    `find_result` returns what is written.

    Raises:
        typer.Exit: the run did not succeed, or was interrupted.
    """
    store = context.store
    worker = _create_worker(store, run)
    current, started_at = run, time.time()
    follower = follower or EventFollower(store.runs, run)
    if not context.quiet:
        origin = f", from run {run.resumed_from}" if run.resumed_from else ""
        print_message(f"run {run.id} of {run.playbook}{origin}")
    with Interruption() as interruption:
        try:
            file = shown_file(run)
            with ProgressDisplay(follower.roots, quiet=context.quiet, file=file) as progress:
                # Only now, because the display shows what steps log from here on.
                worker.start()
                execution = _LocalExecution(context, run, worker, follower, progress, interruption)
                current = execution.wait_until_finished()
                progress.stop_redrawing()
                print_outcome(context, current, plan, progress.has_shown, find_result)
                if store.queue.next_due(run.queue) is not None:
                    progress.start_redrawing()
                    execution.finish_detached_runs()
                worker.stop()
        except KeyboardInterrupt:
            worker.stop(drain=False)
            is_over = current.status.is_final
            for id in [other.id for other in _open_runs(store, run)] if is_over else [run.id]:
                hint = f"resume the run with `noetl runs resume {id}`"
                print_message(f"interrupted; {hint if context.can_resume else 'the run is lost'}")
            _exit_if_threads_hang()
            raise typer.Exit(EXIT_INTERRUPTED) from None
    _report_failed_detached_runs(context, run, started_at)
    exit_unless_succeeded(current)


@dataclass(frozen=True, slots=True)
class _LocalExecution:
    """A run that a worker of this process executes, with what shows its progress."""

    context: RunCommandContext
    run: Run
    worker: Worker
    follower: EventFollower
    progress: ProgressDisplay
    interruption: Interruption

    def wait_until_finished(self) -> Run:
        """Return the record of the run once the worker has finished it."""
        while True:
            self.interruption.raise_if_requested()
            current = self.worker.wait_until_finished(
                self.run.tenant, self.run.id, timeout_seconds=_POLL_SECONDS
            )
            self.progress.show(self.follower.new_events())
            if current.status.is_final:
                return current

    def finish_detached_runs(self) -> None:
        """Wait until the worker has no due work left for the runs of this queue."""
        store, announced_ids = self.context.store, set[str]()
        while store.queue.next_due(self.run.queue) is not None:
            self.interruption.raise_if_requested()
            change_count = store.changes.count
            new_runs = [
                other
                for other in _open_runs(store, self.run)
                if other.stop is None and other.id not in announced_ids
            ]
            if new_runs and not self.context.quiet:
                verb = "continues" if len(new_runs) == 1 else "continue"
                hint = "; Ctrl-C leaves that to `noetl runs resume`" if self.context.can_resume else ""
                print_message(f"{_list_runs(new_runs)} {verb}{hint}")
            for new_run in new_runs:
                announced_ids.add(new_run.id)
                self.follower.add(new_run, depth=1)
            self.progress.show(self.follower.new_events())
            store.changes.wait(change_count, _POLL_SECONDS)
        self.progress.show(self.follower.new_events())


def _report_failed_detached_runs(context: RunCommandContext, run: Run, started_at: float) -> None:
    for other in reversed(_runs_of_queue(context.store, run)):
        has_ended_now = other.finished_at is not None and other.finished_at >= started_at
        if has_ended_now and other.parent is None and other.status is not RunStatus.SUCCEEDED:
            print_message(f"run {other.id} of {other.playbook} {describe_end(context, other)}")


def _list_runs(runs: list[RunSummary]) -> str:
    names = ", ".join(f"{run.id} of {run.playbook}" for run in runs[:_MAX_NAMED_RUNS])
    more = f" and {len(runs) - _MAX_NAMED_RUNS} more" if len(runs) > _MAX_NAMED_RUNS else ""
    return f"run{'s' if len(runs) > 1 else ''} {names}{more}"


def _runs_of_queue(store: Store, run: Run) -> list[RunSummary]:
    """Return the other runs of the run's queue, the newest first.

    These are the run that the first process started, and all runs that began from it.
    """
    runs: list[RunSummary] = []
    first_run = store.runs.get(run.tenant, run.queue) or run
    cursor = None
    while True:
        page, cursor = store.runs.find(
            RunFilter(
                run.tenant, queue=run.queue, since=first_run.created_at, limit=_RUNS_PER_QUERY, cursor=cursor
            )
        )
        runs += [other for other in page if other.id != run.id]
        if cursor is None:
            return runs


def _open_runs(store: Store, run: Run) -> list[RunSummary]:
    """Return the other runs that have not ended, except those that another of them waits for."""
    open_runs = [other for other in _runs_of_queue(store, run) if not other.status.is_final]
    ids = {other.id for other in open_runs}
    return [other for other in open_runs if other.parent is None or other.parent.run_id not in ids]


def wait_until_stopped(store: Store, run: Run) -> Run:
    """Wait for a run that is stopping, and the runs that it has started. Return its record.

    Wait `_STOP_TIMEOUT_SECONDS` at most. If the process that executed the run is gone and no other run waits
    for it, this process does the remaining work.
    """
    worker = _create_worker(store, run) if run.parent is None and is_abandoned(store, run) else None
    if worker is not None:
        worker.start()
    deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
    with Interruption() as interruption:
        while True:
            change_count = store.changes.count
            current = store.runs.get(run.tenant, run.id) or run
            stopping_runs = [
                other
                for other in _runs_of_queue(store, run)
                if other.stop not in (None, RunStatus.PAUSED) and not other.status.is_final
            ]
            has_ended = current.status.is_final and not stopping_runs
            if worker is not None and not has_ended:
                worker.check_damage(run.id)
            if has_ended or interruption.is_requested or time.monotonic() >= deadline:
                break
            store.changes.wait(change_count, _POLL_SECONDS)
        if worker is not None:
            worker.stop(drain=has_ended, timeout_seconds=_STOP_TIMEOUT_SECONDS)
    interruption.raise_if_requested()
    return current


def check_readable(store: Store, run: Run) -> None:
    """Check that a run, and those that it waits for, can be continued here.

    No worker claims a run that was set aside. One that waits is claimed when its answer arrives, so until
    then no worker meets its damage either.

    Raises:
        DamagedRunError: a run was set aside, or its data cannot be read.
    """
    from noetl.executor.errors import DamagedRunError
    from noetl.executor.stores.damage import naming_run

    open_runs = (other for other in _runs_of_queue(store, run) if not other.status.is_final)
    for run_id in (run.id, *(other.id for other in open_runs if other.parent is not None)):
        with naming_run(run_id):
            overview = store.runs.overview(run.tenant, run_id)
            if overview is not None and overview.damage is not None:
                raise DamagedRunError(overview.damage, run_id)
            store.runs.visits(run_id)


def is_abandoned(store: Store, run: Run) -> bool:
    """Return whether every process that is known to have executed a local run is gone.

    A process is known by its claims. So a process that has only waited is not known, and does not count. The
    claims of a damaged run cannot be read, and no process continues it.
    """
    from noetl.executor.errors import DamagedRunError
    from noetl.executor.model.worker_identity import is_dead

    try:
        workers = {visit.worker for visit in store.runs.visits(run.id) if visit.worker is not None}
    except DamagedRunError:
        return True
    return all(map(is_dead, workers))


def _create_worker(store: Store, run: Run) -> Worker:
    from noetl.api.cli.local.playbook_finder import SiblingPlaybookFinder
    from noetl.executor.engine.external import read_public_url
    from noetl.executor.security.capabilities import local_run_capabilities
    from noetl.executor.worker import Worker, WorkerSettings

    folder = Path(run.folder) if run.folder else Path.cwd()
    settings = WorkerSettings(
        local_run_capabilities(folder),
        public_url=read_public_url(),
        queue=run.queue,
        find_playbook=SiblingPlaybookFinder(store),
    )
    return Worker(store, settings)


def _exit_if_threads_hang() -> None:
    """Wait for the threads of abandoned work, and exit immediately if they do not end in a few seconds.

    At its end the interpreter joins the threads of a pool, which may wait long for a server. It is also not
    safe from threads that return from SQLite while it finalizes.
    """
    deadline = time.monotonic() + _THREAD_TIMEOUT_SECONDS
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(_WORKER_THREADS)]
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    if any(thread.is_alive() for thread in threads):
        exit_immediately()
