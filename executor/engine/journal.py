"""The journal of suspended work: what is needed to continue it in another invocation segment.

Problem: work may wait for days, inside tasks, loops and parallel items, and must hold no thread meanwhile.
When it continues, finished parts must not run again.

Algorithm: checkpoint and replay. When an action suspends, `WorkSuspended` passes up through the frames of the
work, and each frame adds an entry under its position. The next segment performs the same work again: a frame
that finds its entry skips what is finished and restores its state. The journal is rebuilt at each suspension.
It holds the path to the waiting actions, and the outcomes of finished items of the same parallel work.
Source: checkpointing of coroutines; compare the replay of Temporal workflows. The format is in
docs/decisions/0005-invocation-segments.md.

Cost: proportional to the positions on these paths, with the names that each has saved, and to the outcomes
of the finished parallel items.

Limits: the journal is stored with the visit, so the payload limit of the store bounds it. A loop with many
waiting items needs `batch`.

For the work below, the action `wait` in the second item suspends:

    run: [{action: log, message: a}, {action: wait, seconds: 60}]

Its journal is `{"run.1": {"action": "wait", ...}, "run": {"at": 1}, "time": {...}}`: the next segment starts
at item 1, and `time` is what the attempt has used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import NEVER, BatchResult, Claim

IN_PLACE = "rule"
"""The journal key of a case whose in-place work is suspended, with the outcome after which it was chosen."""
TIME = "time"
"""The journal key of the time that the attempt has used, and of the time since which a suspension counts."""


class WorkSuspended(Exception):
    """Signal through the frames of work that continues at `due_at`, or when a wait in `awaits` is answered.

    `journal` holds the entries of the frames so far. `batch_results` are the results of completed batches,
    `actions` the types of the actions that wait, and `retried` of those that are retried. `reserved` is the
    part of the memory budget that suspended parallel work still holds.
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
    def combine(
        cls, journal: dict[str, Any], suspensions: Iterable[WorkSuspended], reserved: int
    ) -> WorkSuspended:
        """Return one suspension for parallel work: what all of `suspensions` wait for and hold.

        `journal` and `reserved` are those of the frame around them.
        """
        items = list(suspensions)
        for item in items:
            journal |= item.journal
        return cls(
            journal,
            min((item.due_at for item in items), default=NEVER),
            (wait for item in items for wait in item.awaits),
            (result for item in items for result in item.batch_results),
            dict.fromkeys(action for item in items for action in item.actions),
            dict.fromkeys(action for item in items for action in item.retried),
            reserved + sum(item.reserved for item in items),
        )


def item_entry(outcome: Outcome | WorkSuspended, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the journal entry of a parallel item: its saved names and, if it has finished, its outcome."""
    return {"saved": dict(saved)} | ({"done": outcome.to_list()} if isinstance(outcome, Outcome) else {})


def changed_names(before: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names in `saved` that are new or have another value object than in `before`.

    >>> changed_names({"n": 1}, {"n": 1, "m": 2})
    {'m': 2}
    """
    return {name: value for name, value in saved.items() if name not in before or before[name] is not value}


def inverse_changes(before: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the inverse of the saves since `before`: name -> [old value], or [] if the name was new.

    >>> inverse_changes({"n": 1}, {"n": 5, "m": 2})
    {'n': [1], 'm': []}
    """
    return {name: [before[name]] if name in before else [] for name in changed_names(before, saved)}


def apply_inverse(saved: Mapping[str, Any], inverse: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the names before the saves that `inverse_changes` recorded.

    >>> apply_inverse({"n": 5, "m": 2}, {"n": [1], "m": []})
    {'n': 1}
    """
    before = dict(saved)
    for name, value in inverse.items():
        before.pop(name, None)
        before.update({name: value[0]} if value else {})
    return before


def with_used_time(
    journal: Mapping[str, Any], claim: Claim, used_seconds: float, counts_since: float | None
) -> Mapping[str, Any]:
    """Return the journal with the time that the attempt has used.

    If `counts_since` is set, the suspension counts as well, from that time on.
    """
    tries = [claim.run.resumes, claim.visit.attempt]
    return {**journal, TIME: {"tries": tries, "seconds": used_seconds, "since": counts_since}}


def read_used_time(claim: Claim, now: float) -> float:
    """Return how many seconds of its time the attempt has used, with the suspensions that count."""
    journal = {} if claim.visit.progress is None else claim.visit.progress.journal
    entry = journal.get(TIME)
    if entry is None or entry["tries"] != [claim.run.resumes, claim.visit.attempt]:
        return 0.0
    since = entry["since"]
    return float(entry["seconds"]) + (0.0 if since is None else max(now - since, 0.0))
