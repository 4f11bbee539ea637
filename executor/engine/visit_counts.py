"""The counts of a visit that continue in its next segment: actions, and bytes of the log and of files.

Problem: a visit that pauses may continue in another process, and in a function it always does. Counts that
start again with each segment limit nothing: a step that repeats every second has no end.

Algorithm: a suspension and a retry store the counts with the progress of the visit, which they write anyway.
The next segment continues them. The bytes are those that the process has counted for the run. A process that
has counted fewer adopts the stored number. So what a visit logs and writes is bounded exactly, over all of
its segments and attempts.

Cost: a few bytes in a suspension. A step that neither pauses nor is retried stores nothing.

Limits: a segment whose worker dies is not counted. Several processes count the bytes of a run apart from each
other, so its visits may write the limit in each of them.
"""

from __future__ import annotations

from noetl.executor.engine.quotas import read_limit
from noetl.executor.model.bounded_counter import LOGGED_BYTES, WRITTEN_BYTES
from noetl.executor.model.count_budget import (
    ACTIONS_SETTING,
    DEFAULT_ACTIONS,
    CountBudget,
    action_budget,
)
from noetl.executor.model.run import Commit, Progress, Visit
from noetl.planner.frozen import replace

_BYTES = {"logged": LOGGED_BYTES, "written": WRITTEN_BYTES}
"""The counters of bytes, by their names in `Progress.counts`."""


def continue_actions(visit: Visit) -> CountBudget:
    """Return the count of the actions of a visit, with those of its earlier segments.

    Continue also the bytes of its run.

    Raises:
        SettingError: the setting is invalid.
    """
    counts = {} if visit.progress is None else visit.progress.counts
    for name in counts.keys() & _BYTES.keys():
        _BYTES[name].raise_to(visit.run_id, counts[name])
    return action_budget(read_limit(ACTIONS_SETTING, DEFAULT_ACTIONS), counts.get("actions", 0))


def with_counts(commit: Commit, actions: CountBudget) -> Commit:
    """Return the commit of a segment. If the visit continues, its progress has the counts."""
    visit = commit.visit
    if visit.finished_at is not None:
        return commit
    counts = {"actions": actions.count}
    counts |= {name: counter.count(visit.run_id) for name, counter in _BYTES.items()}
    stored = {name: count for name, count in counts.items() if count}
    progress = replace(visit.progress or Progress(), counts=stored)
    return replace(commit, visit=replace(visit, progress=progress))
