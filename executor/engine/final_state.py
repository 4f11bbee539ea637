"""The final state of a run: the values of its names, the state of its steps, and its unhandled failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from noetl.executor.engine.scope import find_lost_names, view_step
from noetl.executor.model.run import Run, Visit, VisitStatus
from noetl.executor.model.special_visits import SWITCH_STEP, is_pseudo_step
from noetl.executor.model.transition import merge_names
from noetl.executor.stores.interface import Store

NEWEST_VISITS = 32
"""How many of the newest visits are searched for names before all outputs of a run are read.

A run with at most this many visits is read at once.
"""

StepViews: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What `steps.NAME` shows, by the name of the step."""


class FinalState:
    """The final state of a run that has at most `most_visits` visits.

    Outputs are read from the store on demand.
    """

    def __init__(self, store: Store, run_id: str, most_visits: float) -> None:
        self._store = store
        self._run_id = run_id
        self._is_long = most_visits > NEWEST_VISITS

    def unhandled_failures(self) -> list[Visit]:
        """Return the visits with an unhandled failure."""
        return [visit for visit in self._visits if visit.has_ended_branch and visit.error is not None]

    def read(self, reads: Sequence[str] | None = None) -> tuple[dict[str, Any], StepViews, Sequence[Visit]]:
        """Return the values of names, the views of steps, and the visits that have them.

        These are the names and steps in `reads` (as in a plan), or all.
        """
        if reads is not None and not reads:
            return {}, {}, ()
        state = self._read_newest(reads) if reads is not None and self._is_long else None
        if state is None:
            visits = self._visits_with_outputs
            return final_names(visits), final_steps(visits), visits
        return state

    def _read_newest(self, reads: Sequence[str]) -> tuple[dict[str, Any], StepViews, Sequence[Visit]] | None:
        """Return what is read from a few visits. Return None if older visits may have saved a name."""
        names = {name for name in reads if not name.startswith("steps.")}
        steps = {name.removeprefix("steps.") for name in reads} - names
        newest = (
            [visit.id for visit in self._visits if not visit.has_ended_branch][-NEWEST_VISITS:]
            if names
            else []
        )
        latest = {visit.step: visit.id for visit in self._visits if visit.step in steps}
        wanted = sorted({*newest, *latest.values()})
        visits = self._store.runs.visits_with_outputs(self._run_id, wanted) if wanted else []
        by_id = {visit.id: visit for visit in visits}
        if not names <= {name for id in newest for name in by_id[id].saved}:
            return None
        viewed = [by_id.get(visit.id, visit) for visit in self._visits if visit.step in steps]
        return final_names(visits), final_steps(viewed), visits

    @cached_property
    def _visits(self) -> list[Visit]:
        """All visits, in causal order. Those of a long run have no outputs."""
        return (
            _in_causal_order(self._store.runs.visits(self._run_id))
            if self._is_long
            else self._visits_with_outputs
        )

    @cached_property
    def _visits_with_outputs(self) -> list[Visit]:
        return _in_causal_order(self._store.runs.visits_with_outputs(self._run_id))


class _StepViews(dict[str, Mapping[str, Any]]):
    """Views of steps by name. A step without a visit is pending."""

    def __missing__(self, name: str) -> Mapping[str, Any]:
        return view_step(None)


def final_names(visits: Sequence[Visit]) -> dict[str, Any]:
    """Return the values of the names over all branches, without those of failed branches."""
    return merge_names([(v.clock, v.id, v.saved) for v in visits if not v.has_ended_branch])


def find_lost_state(run: Run, visits: Sequence[Visit], reads: Sequence[str] | None) -> dict[str, str]:
    """Return what is lost of each name in the final state, as `find_lost_names` does.

    Of the steps, only those in `reads` count.
    """
    holders: dict[str, Visit] = {}
    if any(visit.lost_payload is not None for visit in visits):
        for visit in _in_causal_order(visits):
            names = () if visit.has_ended_branch else visit.saved
            holders |= dict.fromkeys([*names, *{f"steps.{visit.step}"}.intersection(reads or ())], visit)
    return find_lost_names(run, holders)


def final_steps(visits: Iterable[Visit], *, is_cancelled: bool = False) -> StepViews:
    """Return what `steps.NAME` shows of each step, from all visits."""
    views = _StepViews()
    for visit in _in_causal_order(visits):
        # The order of concurrent visits depends on timing, their number does not.
        number = max(visit.number, views[visit.step]["visits"])
        was_cancelled = is_cancelled and visit.status is VisitStatus.PARKED
        view = {**view_step(visit), "visits": number}
        views[visit.step] = {**view, "status": "cancelled"} if was_cancelled else view
    return views


def _in_causal_order(visits: Iterable[Visit]) -> list[Visit]:
    """Return the visits of steps and those with given values, in an order in which causes come first."""
    kept = (v for v in visits if not is_pseudo_step(v.step) or v.step == SWITCH_STEP)
    return sorted(kept, key=lambda v: (v.clock, v.id))
