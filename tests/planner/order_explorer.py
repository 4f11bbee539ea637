"""Exploration of all orders of the branches of a run, with the work that each visit does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.checks.exploration import FAULTLESS, Exploration, PlanExplorer, replaced_actions, shorten_plan
from benchmarks.checks.samples import MAX_INPUTS, Samples
from noetl.executor.model.run import VisitStatus
from noetl.planner.plan import Plan
from tests.state_space import RunState

Observation = tuple[str, str, tuple[tuple[str, int], ...], tuple[str, ...]]
"""What can be seen of a run: status and result; visits with their cases, and actions, both in no order."""


class OrderExplorer(PlanExplorer):
    """An explorer whose states also differ by the work that visits did.

    A visit may do other work in another order although its choices are the same.
    """

    def successor_states(self, state: RunState, *, all_orders: bool) -> Iterator[RunState]:
        ready = state.visits_with_status(VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING)
        for visit in ready if all_orders else ready[:1]:
            for done in self.visit_outcomes(state, visit):
                work = hash((done.script, done.effects))
                self.effects_by_outcome[visit.id, work] = done.effects
                key = (visit.step, visit.number, visit.attempt * 2 + (visit.progress is not None))
                choices = {**state.choices, key: ("visit", work)}
                yield self.commit(replace(state, choices=choices), done.commit)


def observe_orders(plan: Plan) -> list[set[Observation]] | None:
    """Return, for each input of a plan in parallel mode, what can be seen of its runs in all orders.

    Return None if there are too many states. Actions must have one result each.
    """
    plan = shorten_plan(plan)
    samples = Samples(plan)
    inputs, _ = samples.inputs(MAX_INPUTS)
    observations = []
    logging.disable(logging.CRITICAL)
    try:
        for run_input in inputs:
            exploration = Exploration()
            explorer = OrderExplorer(samples, run_input, exploration, FAULTLESS)
            with replaced_actions(explorer):
                if not explorer.explore(all_orders=True) or exploration.is_endless:
                    return None
            observations.append({(e.status, e.result, e.visits, e.effects) for e in exploration.endings})
    finally:
        logging.disable(logging.NOTSET)
    return observations
