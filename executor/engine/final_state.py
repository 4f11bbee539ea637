"""What a run has visited when it comes to its end: what its names and steps have come to, and what has failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.transition import merge_names
from noetl.executor.stores.interface import Store

NEWEST_VISITS = 32
"""Among how many of the newest visits of a run names are looked for before all that it has saved is read. A run of no more
visits is read at once.
"""

StepViews: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What `steps.NAME` shows of each step."""


class FinalState:
    """The visits of a run that comes to its end, of which there are `most_visits` at most."""

    def __init__(self, store: Store, run_id: str, most_visits: float) -> None:
        self._store = store
        self._run_id = run_id
        self._is_long = most_visits > NEWEST_VISITS

    def unhandled_failures(self) -> list[Visit]:
        """The visits whose failure nothing has handled."""
        return [visit for visit in self._heads if visit.has_ended_branch and visit.error is not None]

    def read(self, reads: Sequence[str] | None = None) -> tuple[dict[str, Any], StepViews]:
        """The values of names and what is known of steps: of those that are read, given as plans say it, or of all."""
        if reads is not None and not reads:
            return {}, {}
        some = self._some(reads) if reads is not None and self._is_long else None
        return (final_names(self._all), final_steps(self._all)) if some is None else some

    def _some(self, reads: Sequence[str]) -> tuple[dict[str, Any], StepViews] | None:
        """What is read, from a few visits; None when older ones may have saved some of it."""
        names = {name for name in reads if not name.startswith("steps.")}
        steps = {name.removeprefix("steps.") for name in reads} - names
        newest = (
            [visit.id for visit in self._heads if not visit.has_ended_branch][-NEWEST_VISITS:]
            if names
            else []
        )
        latest = {visit.step: visit.id for visit in self._heads if visit.step in steps}
        wanted = sorted({*newest, *latest.values()})
        found = (
            {visit.id: visit for visit in self._store.visits_with_outputs(self._run_id, wanted)}
            if wanted
            else {}
        )
        if not names <= {name for id in newest for name in found[id].saved}:
            return None
        seen = [found.get(visit.id, visit) for visit in self._heads if visit.step in steps]
        return final_names(list(found.values())), final_steps(seen)

    @cached_property
    def _heads(self) -> list[Visit]:
        """All visits, with what they saved or without it."""
        return _in_order(self._store.visits(self._run_id)) if self._is_long else self._all

    @cached_property
    def _all(self) -> list[Visit]:
        return _in_order(self._store.visits_with_outputs(self._run_id))


class _Steps(dict[str, Mapping[str, Any]]):
    """Steps by name, as they stand at the end: those that were not visited are pending."""

    def __missing__(self, name: str) -> Mapping[str, Any]:
        return view_step(None)


def final_names(visits: Sequence[Visit]) -> dict[str, Any]:
    """The names as they stand over all branches, but for what a branch that ended in a failure may yet go on with."""
    return merge_names([(v.clock, v.id, v.saved) for v in visits if not v.has_ended_branch])


def final_steps(visits: Iterable[Visit], *, is_cancelled: bool = False) -> StepViews:
    """What `steps.NAME` shows of steps, from all their visits."""
    found = _Steps()
    for visit in _in_order(visits):
        # Which of several branches came first is a matter of time, and how often they came is not.
        number = max(visit.number, found[visit.step]["visits"])
        was_given_up = is_cancelled and visit.status is VisitStatus.PARKED
        seen = {**view_step(visit), "visits": number}
        found[visit.step] = {**seen, "status": "cancelled"} if was_given_up else seen
    return found


def view_step(visit: Visit | None) -> Mapping[str, Any]:
    """What `steps.NAME` shows of a step by its last visit on a branch."""
    if visit is None:
        return {"status": "pending", "visits": 0}
    status = "pending" if visit.status in (VisitStatus.READY, VisitStatus.PARKED) else visit.status.value
    return {"status": status, "visits": visit.number, "result": visit.result, "error": visit.error}


def _in_order(visits: Iterable[Visit]) -> list[Visit]:
    """The visits of steps, in the order in which one may have seen another."""
    return sorted((v for v in visits if not v.step.startswith("@")), key=lambda v: (v.clock, v.id))
