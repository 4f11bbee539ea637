"""Ids of runs on the command line. The first characters of an id are enough if no other run has them.

`last` is the run that was started last. It is never a child run: the run that waits for it is meant.
"""

from __future__ import annotations

import string
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from noetl.api.cli.display.console import CommandError
from noetl.planner.frozen import replace

if TYPE_CHECKING:
    from noetl.api.service.views import RunPage
    from noetl.executor.model.run import Run
    from noetl.executor.model.run_filter import RunFilter

LAST = "last"
MIN_PREFIX_LENGTH = 4

_MAX_SHOWN = 5


class FindableRuns(Protocol):
    """Runs that can be found by their ids, and words for where they are."""

    @property
    def place(self) -> str: ...

    def get(self, run_id: str) -> Run: ...

    def find(self, run_filter: RunFilter) -> RunPage: ...


def find_run(runs: FindableRuns, text: str) -> Run:
    """Return the run with an id, or the only run whose id begins with `text`. `last` is the newest run.

    Raises:
        CommandError: no run has the id, or the prefix is ambiguous or too short.
    """
    from noetl.api.service.errors import NotFoundError
    from noetl.executor.model.run_filter import RunFilter

    if text == LAST:
        newest = runs.find(RunFilter(limit=1)).items
        if not newest:
            raise CommandError(f"there is no run in {runs.place}")
        return _find_root(runs, runs.get(newest[0].workflow_id))
    try:
        return runs.get(text)
    except NotFoundError as error:
        hint = f"`noetl runs list` shows the runs of {runs.place}"
        prefix = text.rstrip("….").lower()
        if not prefix or not set(prefix) <= set(string.hexdigits):
            raise CommandError(f"{error}; {hint}") from error
        ids = _find_ids(runs, prefix)
        if not ids:
            raise CommandError(f"{error}; {hint}") from error
        if len(ids) > 1:
            shown = ", ".join(ids[:_MAX_SHOWN]) + (" and more" if len(ids) > _MAX_SHOWN else "")
            raise CommandError(f"ambiguous run id `{text}`; write more of it: {shown}") from error
        if len(prefix) < MIN_PREFIX_LENGTH:
            raise CommandError(f"run id `{text}` is too short; did you mean `{ids[0]}`?") from error
        return runs.get(ids[0])


def find_run_id(runs: FindableRuns, text: str) -> str:
    """Return the id of a run, as `find_run` finds it. A run whose data is damaged is found by its whole id.

    Raises:
        CommandError: no run has the id, or the prefix is ambiguous or too short.
    """
    from noetl.executor.errors import DamagedRunError

    try:
        return find_run(runs, text).id
    except DamagedRunError as error:
        if error.run_id is None:
            raise
        return error.run_id


def _find_root(runs: FindableRuns, run: Run) -> Run:
    """Return the first ancestor of a run that was not deleted, or the run itself if it is no child run."""
    from noetl.api.service.errors import NotFoundError

    with suppress(NotFoundError):
        while run.parent is not None:
            run = runs.get(run.parent.run_id)
    return run


def _find_ids(runs: FindableRuns, prefix: str) -> list[str]:
    """Return the ids of runs that begin with a prefix, at most one more than a message shows.

    A page may have no run although others follow: a store may read a bounded number of runs for it.
    """
    from noetl.executor.model.run_filter import RunFilter

    ids: list[str] = []
    wanted = RunFilter(id_prefix=prefix, limit=_MAX_SHOWN + 1)
    while True:
        page = runs.find(wanted)
        ids += [run.workflow_id for run in page.items]
        if page.next_cursor is None or len(ids) > _MAX_SHOWN:
            return ids[: _MAX_SHOWN + 1]
        wanted = replace(wanted, cursor=page.next_cursor)
