"""The questions that the suspended actions of a visit ask persons."""

from __future__ import annotations

from typing import Any

from noetl.executor.actions import catalogue
from noetl.executor.model.run import Visit, VisitStatus
from noetl.planner.catalogue import OpenWait
from noetl.planner.frozen import frozen


@frozen
class OpenQuestion:
    """An open wait of a visit, its position in the work, and what it asks."""

    visit: Visit
    position: str
    wait: OpenWait
    content: dict[str, Any]


def questions_of(visit: Visit, *, is_paused: bool = False) -> list[OpenQuestion]:
    """Return what the suspended actions of a visit ask, in the order of their positions.

    With `is_paused`, its run is paused, and has parked the visit.
    """
    statuses = (VisitStatus.WAITING, VisitStatus.PARKED) if is_paused else (VisitStatus.WAITING,)
    return journal_questions(visit) if visit.status in statuses else []


def journal_questions(visit: Visit) -> list[OpenQuestion]:
    """Return what the journal of a visit asks, whatever its status is."""
    questions: list[OpenQuestion] = []
    if visit.progress is None:
        return questions
    for position, entry in sorted(visit.progress.journal.items()):
        declaration = catalogue().get(entry["action"]) if "memory" in entry else None
        if declaration is not None and declaration.open_wait is not None:
            content = declaration.question(entry["memory"]) if declaration.question is not None else None
            questions.append(
                OpenQuestion(visit, position, declaration.open_wait(entry["memory"]), dict(content or {}))
            )
    return questions
