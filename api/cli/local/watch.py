"""A run that another process works for, watched to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from noetl.api.cli.display.console import INTERRUPTED, say
from noetl.api.cli.display.event_follower import Follower
from noetl.api.cli.display.outcome import leave, tell
from noetl.api.cli.display.progress import Progress
from noetl.api.cli.local.interruption import Interruption
from noetl.api.cli.local.run_to_end import is_abandoned

if TYPE_CHECKING:
    from noetl.api.service.runs import Service
    from noetl.executor.model.run import Run
    from noetl.executor.stores.interface import Store

_LOOK_EVERY_SECONDS = 0.2


def watch_to_the_end(store: Store, service: Service, run: Run, *, as_json: bool, quiet: bool) -> None:
    """Show on stderr what has happened and what happens until the run ends, and write its result to stdout.

    Raises:
        typer.Exit: it did not succeed, or watching was interrupted.
    """
    try:
        if not quiet:
            say(f"run {run.id} of {run.playbook}")
        if run.origin == "local" and not run.status.is_final and is_abandoned(store, run):
            say(f"nobody seems to be at work on it: `noetl runs resume {run.id}` goes on with the run")
        ended = _watched(store, service, run, quiet=quiet)
    except KeyboardInterrupt:
        say(f"not watched any more; `noetl runs watch {run.id}` goes on with that")
        raise typer.Exit(INTERRUPTED) from None
    tell(service, ended, store.plan(ended.plan_hash), as_json=as_json, quiet=quiet)
    leave(ended)


def _watched(store: Store, service: Service, run: Run, *, quiet: bool) -> Run:
    """The run once it has ended."""
    follower = Follower(store, run)
    with Interruption() as interruption, Progress(follower.roots, quiet=quiet) as progress:
        while True:
            interruption.check()
            seen = store.changes.count
            current = service.run(run.id)
            progress.show(follower.news())
            if current.status.is_final:
                return current
            store.changes.wait(seen, _LOOK_EVERY_SECONDS)
