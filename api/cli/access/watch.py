"""Observation of a run that another process executes, to its end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from noetl.api.cli.display.console import EXIT_INTERRUPTED, print_message
from noetl.api.cli.display.event_follower import EventFollower
from noetl.api.cli.display.failure import shown_file
from noetl.api.cli.display.outcome import exit_unless_succeeded, print_outcome
from noetl.api.cli.display.progress import ProgressDisplay
from noetl.api.cli.local.interruption import Interruption

if TYPE_CHECKING:
    from noetl.api.cli.access.run_access import RunAccess
    from noetl.executor.model.run import Run

_CHECK_SECONDS = 2.0
"""How often the command checks whether the process that executes the run is alive."""


@dataclass(frozen=True, slots=True)
class WatchContext:
    """The runs of `noetl runs watch`, and its options `--json` and `--quiet`."""

    reports: RunAccess
    as_json: bool
    quiet: bool
    can_resume: bool = True


def watch_until_finished(context: WatchContext, run: Run) -> None:
    """Show past and new events on stderr until the run ends, and write its result to stdout.

    Raises:
        typer.Exit: the run did not succeed, or watching was interrupted.
    """
    try:
        if not context.quiet:
            print_message(f"run {run.id} of {run.playbook}")
        finished_run, progress = _follow_until_finished(context, run)
    except KeyboardInterrupt:
        print_message(f"stopped watching; watch the run again with `noetl runs watch {run.id}`")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    print_outcome(context, finished_run, context.reports.plan(run.id), progress.has_shown)
    exit_unless_succeeded(finished_run)


def _follow_until_finished(context: WatchContext, run: Run) -> tuple[Run, ProgressDisplay]:
    """Return the record of the run once it has ended, and the display of its progress."""
    runs = context.reports
    follower = EventFollower(runs.reader, run)
    display = ProgressDisplay(follower.roots, quiet=context.quiet, file=shown_file(run))
    with Interruption() as interruption, display as progress:
        runs.outlast_outages(interruption.raise_if_requested)
        is_reported, checked_at = context.quiet, -math.inf
        while True:
            interruption.raise_if_requested()
            current = runs.get(run.id)
            if not is_reported and time.monotonic() - checked_at >= _CHECK_SECONDS:
                is_reported, checked_at = _report_dead_worker(runs, current), time.monotonic()
            progress.show(follower.new_events())
            if current.status.is_final:
                return current, progress
            runs.wait_for_change()


def _report_dead_worker(runs: RunAccess, run: Run) -> bool:
    """Return whether no live process holds a local run. Then print how to resume it."""
    if not runs.is_abandoned(run):
        return False
    print_message(f"no live worker holds this run; resume it with `noetl runs resume {run.id}`")
    return True
