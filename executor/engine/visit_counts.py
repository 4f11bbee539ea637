"""The count of the actions of a visit, which continues in its next segment.

Problem: a visit that pauses may continue in another process, and in a function it always does. A count that
starts again with each segment limits nothing: a step that repeats every second has no end.

Algorithm: a suspension and a retry store the count with the progress of the visit, which they write anyway.
The next segment continues it.

Cost: a few bytes in a suspension. A step that neither pauses nor is retried stores nothing.

Limits: a segment whose worker dies is not counted.
"""

from __future__ import annotations

from noetl.executor.engine.quotas import read_limit
from noetl.executor.model.count_budget import (
    ACTIONS_SETTING,
    DEFAULT_ACTIONS,
    CountBudget,
    action_budget,
)
from noetl.executor.model.run import Commit, Progress, Visit
from noetl.planner.frozen import replace


def continue_actions(visit: Visit) -> CountBudget:
    """Return the count of the actions of a visit, with those of its earlier segments.

    Raises:
        SettingError: the setting is invalid.
    """
    counts = {} if visit.progress is None else visit.progress.counts
    return action_budget(read_limit(ACTIONS_SETTING, DEFAULT_ACTIONS), counts.get("actions", 0))


def with_counts(commit: Commit, actions: CountBudget) -> Commit:
    """Return the commit of a segment. If the visit continues, its progress has the count."""
    visit = commit.visit
    if visit.finished_at is not None:
        return commit
    stored = {"actions": actions.count} if actions.count else {}
    progress = replace(visit.progress or Progress(), counts=stored)
    return replace(commit, visit=replace(visit, progress=progress))
