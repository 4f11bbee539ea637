"""The filter of a list of runs."""

from __future__ import annotations

from noetl.executor.model.run import DEFAULT_TENANT, RunStatus
from noetl.executor.model.run_summary import RunSummary
from noetl.planner.frozen import frozen

MAX_RUNS_PER_PAGE = 1000
"""The greatest `limit` of a list of runs that a client may request."""


@frozen
class RunFilter:
    """The conditions of a list of runs of one tenant, and the page of the list that is wanted.

    A condition that is None excludes no run. `since` excludes runs that were created before it, in seconds
    since the epoch. `parent` is the id of the run that has started them and waits for them. A page has at
    most `limit` runs, the newest first. `cursor` is where the page before it ended.
    """

    tenant: str = DEFAULT_TENANT
    status: RunStatus | None = None
    playbook: str | None = None
    tag: str | None = None
    since: float | None = None
    queue: str | None = None
    parent: str | None = None
    limit: int = 100
    cursor: str | None = None

    def matches(self, run: RunSummary) -> bool:
        """Return whether a run fulfils all conditions. Its place in the list is not compared."""
        return (
            self.tenant == run.tenant
            and self.status in (None, run.status)
            and self.playbook in (None, run.playbook)
            and (self.tag is None or self.tag in run.tags)
            and (self.since is None or run.created_at >= self.since)
            and self.queue in (None, run.queue)
            and (self.parent is None or (run.parent is not None and run.parent.run_id == self.parent))
        )
