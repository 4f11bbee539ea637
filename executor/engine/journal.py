"""What work that suspends leaves behind, so that it is gone on with from there.

`docs/decisions/0005-invocation-segments.md` says what stands in a journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import NEVER, BatchResult, Claim

IN_PLACE = "rule"
"""Where a journal keeps what the rule was read after, when the work of the case it took has paused."""
TIME = "time"
"""Where a journal keeps how much of its time an attempt had taken when it paused, and since when the pause counts."""


class WorkSuspended(Exception):
    """The work goes on later: at `due_at`, or when one of the waits `awaits` has its answer. `journal` says from where,
    `parts` are the results of batches that are done, `actions` the types of those that wait, and `retried` of those that
    are to be tried again. `held` is how much work beside other work still holds for it.
    """

    def __init__(
        self,
        journal: dict[str, Any],
        due_at: float = NEVER,
        awaits: Iterable[str] = (),
        batch_results: Iterable[BatchResult] = (),
        actions: Iterable[str] = (),
        retried: Iterable[str] = (),
        reserved: int = 0,
    ) -> None:
        super().__init__()
        self.journal = journal
        self.due_at = due_at
        self.awaits = tuple(awaits)
        self.batch_results = tuple(batch_results)
        self.actions = tuple(actions)
        self.retried = tuple(retried)
        self.reserved = reserved

    @classmethod
    def combine(cls, journal: dict[str, Any], suspended: Iterable[WorkSuspended], held: int) -> WorkSuspended:
        """What all of them wait for and hold, on top of what a journal says, which takes so much room."""
        each = list(suspended)
        for one in each:
            journal |= one.journal
        return cls(
            journal,
            min((one.due_at for one in each), default=NEVER),
            (wait for one in each for wait in one.awaits),
            (part for one in each for part in one.batch_results),
            dict.fromkeys(action for one in each for action in one.actions),
            dict.fromkeys(action for one in each for action in one.retried),
            held + sum(one.reserved for one in each),
        )


def item_entry(outcome: Outcome | WorkSuspended, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of work beside other work."""
    return {"saved": dict(saved)} | ({"done": outcome.to_list()} if isinstance(outcome, Outcome) else {})


def changed_names(before: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """What has been saved since."""
    return {name: value for name, value in saved.items() if name not in before or before[name] is not value}


def inverse_changes(before: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What makes of the names saved since those that were saved before: for each its value then, if it had one."""
    return {name: [before[name]] if name in before else [] for name in changed_names(before, saved)}


def apply_inverse(saved: Mapping[str, Any], told: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The names that were saved before, as `undo` told."""
    before = dict(saved)
    for name, value in told.items():
        before.pop(name, None)
        before.update({name: value[0]} if value else {})
    return before


def with_used_time(
    journal: Mapping[str, Any], claim: Claim, taken_seconds: float, counts_since: float | None
) -> Mapping[str, Any]:
    """The journal of a pause of an attempt that has taken so much of its time, and of more since then, if the pause counts."""
    tries = [claim.run.resumes, claim.visit.attempt]
    return {**journal, TIME: {"tries": tries, "seconds": taken_seconds, "since": counts_since}}


def read_used_time(claim: Claim, now: float) -> float:
    """How much of its time the attempt took before it paused, and while it waited to try an action again."""
    journal = {} if claim.visit.progress is None else claim.visit.progress.journal
    entry = journal.get(TIME)
    if entry is None or entry["tries"] != [claim.run.resumes, claim.visit.attempt]:
        return 0.0
    since = entry["since"]
    return float(entry["seconds"]) + (0.0 if since is None else max(now - since, 0.0))
