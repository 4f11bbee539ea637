"""Local runs: walked to their end in this process, with the runs that they start, and their outcome said."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from noetl.api.cli.display.console import INTERRUPTED, say
from noetl.api.cli.display.event_follower import Follower
from noetl.api.cli.display.outcome import ending, leave, tell
from noetl.api.cli.display.progress import Progress
from noetl.api.cli.local.interruption import Interruption, leave_at_once

if TYPE_CHECKING:
    from noetl.api.service.runs import Service
    from noetl.executor.model.run import Run
    from noetl.executor.stores.interface import Store
    from noetl.executor.worker import Worker
    from noetl.planner.plan import Plan

_LOOK_EVERY_SECONDS = 0.1
_ENDING_SECONDS = 5.0
_GIVING_UP_SECONDS = 3.0
_AT_WORK = ("noetl-walk", "noetl-keep", "noetl-loop", "noetl-item")
"""What the names of threads begin with that walk runs, and that do work beside other work."""

_MOST_NAMED = 5
_RUNS_AT_ONCE = 1000


def walk_to_the_end(
    store: Store,
    service: Service,
    run: Run,
    plan: Plan,
    *,
    as_json: bool,
    quiet: bool,
    follower: Follower | None = None,
) -> None:
    """Walk the run, say how it goes on stderr and write its result to stdout; then see out the runs that it has started
    and not waited for. A `follower` knows what has happened before.

    Raises:
        typer.Exit: it did not succeed, or was interrupted.
    """
    worker = _worker(store, run)
    current, began_at = run, time.time()
    follower = follower or Follower(store, run)
    if not quiet:
        say(f"run {run.id} of {run.playbook}{f', from run {run.resumed_from}' if run.resumed_from else ''}")
    with Interruption() as interruption:
        try:
            with Progress(follower.roots, quiet=quiet) as progress:
                # Not before: what its steps log is shown from here on.
                worker.start()
                current = _ended(worker, run, follower, progress, interruption)
                progress.stand_still()
                tell(service, current, plan, as_json=as_json, quiet=quiet)
                if store.next_due(run.queue) is not None:
                    progress.go_on()
                    _see_out(store, run, follower, progress, interruption, quiet=quiet)
                worker.stop()
        except KeyboardInterrupt:
            worker.stop(drain=False)
            for open_run in _open_runs(store, run) if current.status.is_final else [run]:
                say(f"interrupted; `noetl runs resume {open_run.id}` goes on with the run")
            _leave_what_hangs()
            raise typer.Exit(INTERRUPTED) from None
    for other in reversed(_runs_with(store, run)):
        is_new = other.finished_at is not None and other.finished_at >= began_at
        if is_new and other.parent is None and other.status.value != "succeeded":
            say(f"run {other.id} of {other.playbook} {ending(other)}")
    leave(current)


def _ended(
    worker: Worker, run: Run, follower: Follower, progress: Progress, interruption: Interruption
) -> Run:
    """The run once the worker has taken it to its end."""
    while True:
        interruption.check()
        current = worker.wait_until_finished(run.tenant, run.id, timeout_seconds=_LOOK_EVERY_SECONDS)
        progress.show(follower.news())
        if current.status.is_final:
            return current


def _see_out(
    store: Store, run: Run, follower: Follower, progress: Progress, interruption: Interruption, *, quiet: bool
) -> None:
    """Return when the worker has nothing left to do for the runs that were started with this one."""
    known: set[str] = set()
    while store.next_due(run.queue) is not None:
        interruption.check()
        seen = store.changes.count
        new = [other for other in _open_runs(store, run) if other.stop is None and other.id not in known]
        if new and not quiet:
            say(
                f"{_named(new)} {'goes' if len(new) == 1 else 'go'} on; Ctrl-C leaves that to `noetl runs resume`"
            )
        for other in new:
            known.add(other.id)
            follower.add(other, depth=1)
        progress.show(follower.news())
        store.changes.wait(seen, _LOOK_EVERY_SECONDS)
    progress.show(follower.news())


def _named(runs: list[Run]) -> str:
    named = ", ".join(f"{run.id} of {run.playbook}" for run in runs[:_MOST_NAMED])
    more = f" and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    return f"run{'s' if len(runs) > 1 else ''} {named}{more}"


def _runs_with(store: Store, run: Run) -> list[Run]:
    """The other runs that began with the same one, or with this one, the newest first."""
    found: list[Run] = []
    first = store.run(run.tenant, run.queue) or run
    cursor = None
    while True:
        page, cursor = store.runs(
            run.tenant, queue=run.queue, since=first.created_at, limit=_RUNS_AT_ONCE, cursor=cursor
        )
        found += [other for other in page if other.id != run.id]
        if cursor is None:
            return found


def _open_runs(store: Store, run: Run) -> list[Run]:
    """Those of the others that have not ended, without those that one of them waits for."""
    left = [other for other in _runs_with(store, run) if not other.status.is_final]
    ids = {other.id for other in left}
    return [other for other in left if other.parent is None or other.parent.run_id not in ids]


def let_it_end(store: Store, run: Run) -> Run:
    """The run that was told to stop, once it has ended with those it has started, or as it is after a while. Where the
    process that walked it is gone, and no other run waits for it, this process does what is left to do.
    """
    worker = _worker(store, run) if run.parent is None and is_abandoned(store, run) else None
    if worker is not None:
        worker.start()
    until = time.monotonic() + _ENDING_SECONDS
    with Interruption() as interruption:
        while True:
            seen = store.changes.count
            current = store.run(run.tenant, run.id) or run
            ends = [
                other
                for other in _runs_with(store, run)
                if other.stop is not None and not other.status.is_final
            ]
            has_ended = current.status.is_final and not ends
            if has_ended or interruption.is_asked or time.monotonic() >= until:
                break
            store.changes.wait(seen, _LOOK_EVERY_SECONDS)
        if worker is not None:
            worker.stop(drain=has_ended, timeout_seconds=_ENDING_SECONDS)
    interruption.check()
    return current


def is_abandoned(store: Store, run: Run) -> bool:
    """Whether the processes are gone that have worked for a local run, as far as can be known here: one that has only
    waited so far leaves no trace.
    """
    from noetl.executor.model.worker_identity import is_dead

    workers = {visit.worker for visit in store.visits(run.id) if visit.worker is not None}
    return all(map(is_dead, workers))


def _worker(store: Store, run: Run) -> Worker:
    from noetl.api.cli.local.playbook_finder import Beside
    from noetl.executor.security.capabilities import for_local_run
    from noetl.executor.worker import Worker, public_url

    folder = Path(run.folder) if run.folder else Path.cwd()
    return Worker(
        store,
        queue=run.queue,
        capabilities=for_local_run(folder),
        find_playbook=Beside(store),
        public_url=public_url(),
    )


def _leave_what_hangs() -> None:
    """Return when the work that was given up has ended. Where it does not within a few seconds, the process ends here: the
    interpreter would wait for the threads of a pool as long as a server does not answer them, and is not safe from others
    that come back from SQLite while it takes itself apart.
    """
    until = time.monotonic() + _GIVING_UP_SECONDS
    at_work = [thread for thread in threading.enumerate() if thread.name.startswith(_AT_WORK)]
    for thread in at_work:
        thread.join(max(until - time.monotonic(), 0.0))
    if any(thread.is_alive() for thread in at_work):
        leave_at_once()
