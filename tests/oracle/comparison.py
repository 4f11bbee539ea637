"""The comparison of executed runs with the outcomes that the interpreter allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from noetl.executor.stores.interface import Store
from tests.oracle.execution import (
    TIMING_CODES,
    ObservedOutcome,
    StuckRunError,
    accepts_inputs,
    compile_data,
    execute,
    register,
)
from tests.oracle.interpreter import explore
from tests.oracle.outcome import AllowedOutcome
from tests.oracle.program import NotCoveredError
from tests.oracle.run_case import RunCase

MAX_ORDERS = 500
"""The most orders of branches in which the interpreter performs a run."""

RUNS_PER_STORE = 2


class Verdict(StrEnum):
    """The finding about a playbook."""

    REJECTED = "rejected"
    """The playbook has errors, or other inputs."""
    TIMED = "timed"
    """A run had another outcome, and a diagnostic says that the outcome depends on timing."""
    UNDECIDED = "undecided"
    """The interpreter does not know all outcomes: there are too many orders, or it leaves a part out."""
    AGREED = "agreed"
    DISAGREED = "disagreed"


@dataclass(frozen=True)
class Judgement:
    """The verdict on a playbook. After a disagreement: where, why, and the outcomes."""

    verdict: Verdict
    store: str = ""
    reason: str = ""
    executed: str = ""
    allowed: tuple[str, ...] = ()


class OutcomeJudge:
    """The comparison of playbooks on some stores, which it may use for many runs."""

    def __init__(self, stores: Mapping[str, Store], runs: int = RUNS_PER_STORE) -> None:
        self._stores = stores
        self._runs = runs

    def judge(self, case: RunCase, seed: int) -> Judgement:
        """Execute the run of a case on every store in random orders, and compare the outcomes."""
        compilation = compile_data(case.playbook)
        if compilation.plan is None or not accepts_inputs(compilation.plan, case.inputs):
            return Judgement(Verdict.REJECTED)
        try:
            exploration = explore(case.by_name, case.playbook["name"], case.inputs, MAX_ORDERS)
        except NotCoveredError as error:
            return Judgement(Verdict.UNDECIDED, reason=str(error))
        if not exploration.is_complete:
            return Judgement(Verdict.UNDECIDED, reason="too many orders")
        allowed = tuple(sorted({describe(outcome) for outcome in exploration.outcomes}))
        is_timed = bool(compilation.codes & TIMING_CODES)
        if len(allowed) > 1 and not is_timed and not case.may_depend_on_timing:
            return Judgement(Verdict.DISAGREED, "interpreter", "an outcome depends on timing", "", allowed)
        for name, store in self._stores.items():
            for child in case.children:
                register(store, child)
            for number in range(self._runs):
                executed = self._execute(store, case, compilation.plan, seed + number)
                if executed not in allowed:
                    verdict = Verdict.TIMED if is_timed else Verdict.DISAGREED
                    return Judgement(verdict, name, "another outcome", executed, allowed)
        return Judgement(Verdict.AGREED)

    def _execute(self, store: Store, case: RunCase, plan: Any, seed: int) -> str:
        try:
            observed = execute(store, plan, case.inputs, seed)
        except StuckRunError as error:
            return f"{error}"
        return describe(observed, with_order=case.is_sequential)


def describe(outcome: AllowedOutcome | ObservedOutcome, *, with_order: bool = True) -> str:
    """Return an outcome as one line of JSON, by which outcomes are compared."""
    fields = {
        "status": outcome.status,
        "result": outcome.result,
        "errors": sorted([list(error) for error in outcome.errors]),
        "visits": dict(outcome.visits),
        "order": list(outcome.order) if with_order else [],
    }
    return json.dumps(fields, sort_keys=True)
