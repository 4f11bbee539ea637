"""How the steps of a run stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from noetl.executor.model.events import timestamp
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import NEVER, Run, RunStatus, Visit, VisitStatus


def step_statuses(run: Run, names: Iterable[str], visits: Iterable[Visit]) -> dict[str, Any]:
    """The member `steps` of `/workflows/status/{id}`: for each step how its latest visit stands. `visits` are all of the run,
    in order.
    """
    latest: dict[str, Visit] = {}
    entered: Counter[str] = Counter()
    for visit in visits:
        entered[visit.step] += _was_entered(visit)
        latest[visit.step] = visit
    return {name: _step_status(run, latest.get(name), entered[name]) for name in names}


def _step_status(run: Run, visit: Visit | None, visits: int) -> dict[str, Any]:
    if visit is None:
        return {"status": "pending", "visits": 0, "attempt": 0, "case": None, "error": None}
    status = {
        "status": _word(run, visit),
        "visits": visits,
        "attempt": visit.attempt if _was_entered(visit) else 0,
        "case": visit.case,
        "error": visit.error,
    }
    if visit.status is VisitStatus.WAITING:
        status["waiting_for"] = _waiting_for(visit)
    if loops := _loops(visit):
        status["loops"] = loops
    return status


def _was_entered(visit: Visit) -> bool:
    return visit.started_at is not None or visit.attempt > 1 or visit.progress is not None


def _word(run: Run, visit: Visit) -> str:
    match visit.status:
        case VisitStatus.READY:
            return "pending"
        case VisitStatus.PARKED:
            return "cancelled" if run.status is RunStatus.CANCELLED else "pending"
        case status:
            return status.value


def _waiting_for(visit: Visit) -> dict[str, Any]:
    """What makes a visit that waits go on: a time, what the actions that wait are and which runs they have started, and the
    actions that are to be tried again.
    """
    entries = [entry for entry in _journal(visit).values() if "action" in entry]
    waiting = [entry for entry in entries if "memory" in entry]
    retried = sorted({entry["action"] for entry in entries if "memory" not in entry})
    return {
        "until": timestamp(visit.due_at) if visit.due_at < NEVER else None,
        "actions": sorted({entry["action"] for entry in waiting}),
        "workflows": [entry["memory"]["run"] for entry in waiting if entry["action"] == "workflow"],
        **({"retried": retried} if retried else {}),
    }


def _loops(visit: Visit) -> list[dict[str, Any]]:
    """How far the loops of an unfinished visit have come that have paused. Loops inside of an item are left aside."""
    if visit.finished_at is not None:
        return []
    journal = _journal(visit)
    found = []
    for position, entry in journal.items():
        if "next" in entry and "[" not in position:
            kept = (kept for place, kept in journal.items() if place.startswith(f"{position}#"))
            done = [Outcome.of_part(item["done"]) for item in kept if "done" in item]
            found.append(
                {
                    "position": position,
                    "done": entry["next"] + len(done),
                    "failed": entry["failed"] + sum(outcome.failed for outcome in done),
                    "total": entry["total"],
                }
            )
    return found


def _journal(visit: Visit) -> Mapping[str, Any]:
    return {} if visit.progress is None else visit.progress.journal
