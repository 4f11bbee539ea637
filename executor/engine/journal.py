"""The journal of suspended work: what is needed to continue it in another invocation segment.

Problem: work may wait for days, inside tasks, loops and parallel items, and must hold no thread meanwhile.
When it continues, finished parts must not run again.

Algorithm: checkpoint and replay. An action that suspends returns a suspension, and each function around it
adds an entry under its own position (`WorkSuspension` of `noetl.executor.model.outcome`). The next segment
performs the same work again: a function that finds its entry skips what is finished and restores its state.
The journal is rebuilt at each suspension. It holds the path to the waiting actions, and the outcomes of
finished items of the same parallel work. Source: checkpointing of coroutines; compare the replay of Temporal
workflows. The format is in docs/decisions/0005-invocation-segments.md.

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

from collections.abc import Mapping
from typing import Any

from noetl.executor.model.outcome import Outcome, WorkResult
from noetl.executor.model.run import Claim

IN_PLACE = "rule"
"""The journal key of a case whose in-place work is suspended, with the outcome after which it was chosen."""
TIME = "time"
"""The journal key of the time that the attempt has used, and of the time since which a suspension counts."""


def item_entry(result: WorkResult, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the journal entry of a parallel item: its saved names and, if it has finished, its outcome."""
    return {"saved": dict(saved)} | ({"done": result.to_list()} if isinstance(result, Outcome) else {})


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
