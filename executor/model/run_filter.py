"""The filter of a list of runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from noetl.executor.model.run import DEFAULT_TENANT, RunStatus
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.run_tags import has_tag
from noetl.planner.frozen import frozen

MAX_RUNS_PER_PAGE = 1000
"""The greatest `limit` of a list of runs that a client may request."""

OPEN_STATUSES = frozenset(status for status in RunStatus if not status.is_final)
WITHOUT_HEADLINE = frozenset({RunStatus.SUCCEEDED})
"""Statuses of runs that have no headline, so that no text is found in it."""

_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


@frozen
class RunFilter:
    """The conditions of a list of runs of one tenant, and the page of the list that is wanted.

    A condition that is None or empty excludes no run. A run has one of the `statuses`, and all of the `tags`
    (`has_tag`). `since` excludes runs that were created before it, `until` those created then or later, in
    seconds since the epoch. `parent` is the id of the run that has started them and waits for them.
    `text` excludes runs without a headline, unless their id or playbook has it (`may_have_text`). The ids of
    all runs begin with `id_prefix`.

    A page has at most `limit` runs, the newest first, or the oldest. `cursor` is where the page before it
    ended.
    """

    tenant: str = DEFAULT_TENANT
    statuses: Collection[RunStatus] = ()
    playbook: str | None = None
    tags: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    queue: str | None = None
    parent: str | None = None
    text: str | None = None
    id_prefix: str | None = None
    is_oldest_first: bool = False
    limit: int = 100
    cursor: str | None = None

    def matches(self, run: RunSummary) -> bool:
        """Return whether a run fulfils all conditions. Its place in the list is not compared."""
        return (
            self.tenant == run.tenant
            and (not self.statuses or run.status in self.statuses)
            and self.playbook in (None, run.playbook)
            and all(has_tag(run.tags, tag) for tag in self.tags)
            and (self.since is None or run.created_at >= self.since)
            and (self.until is None or run.created_at < self.until)
            and self.queue in (None, run.queue)
            and (self.parent is None or (run.parent is not None and run.parent.run_id == self.parent))
            and run.id.startswith(self.id_prefix or "")
            and (self.text is None or may_have_text(run.id, run.playbook, run.status, self.text))
        )


@frozen
class RunCounts:
    """Numbers of the runs of a filter, by interval of their creation and by status.

    An interval is the number of steps since the epoch. `is_complete` is False if more runs match.
    """

    numbers: Mapping[tuple[int, RunStatus], int]
    is_complete: bool

    @property
    def total(self) -> int:
        """The number of all runs that were counted."""
        return sum(self.numbers.values())


def fold_case(text: str) -> str:
    """Return a text with small letters instead of the 26 capital letters of ASCII.

    >>> fold_case("Order É")
    'order É'
    """
    return text.translate(_LOWER)


def has_text(run_id: str, playbook: str, text: str) -> bool:
    """Return whether the id of a run begins with a text, or the name of its playbook has it.

    >>> has_text("3fa9", "Nightly", "night"), has_text("3fa9", "Nightly", "3FA"), has_text("3fa9", "x", "9")
    (True, True, False)
    """
    folded = fold_case(text)
    return fold_case(run_id).startswith(folded) or folded in fold_case(playbook)


def may_have_text(run_id: str, playbook: str, status: RunStatus, text: str) -> bool:
    """Return whether the id, the playbook or the headline of a run may have a text.

    A store does not know headlines.
    """
    return status not in WITHOUT_HEADLINE or has_text(run_id, playbook, text)
