"""The partial-order reduction of the interpreter loses no outcome of the random playbooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.oracle.generator import generate
from tests.oracle.interpreter import explore
from tests.oracle.outcome import AllowedOutcome, AllowedOutcomes
from tests.oracle.parallel import LiveBranch, ParallelExplorer, RunPosition
from tests.oracle.program import NotCoveredError, RunProgram
from tests.oracle.run_case import RunCase
from tests.oracle.visit import ChoiceSequence, VisitPerformer

N_SAMPLES, SAMPLE = 4, 60


class UnreducedExplorer(ParallelExplorer):
    """An explorer for which no two events commute."""

    def _commutes(self, position: RunPosition, branch: LiveBranch) -> bool:
        return False

    def _competes_for_number(self, position: RunPosition, branch: LiveBranch) -> bool:
        return True


def explore_with(explorer: type[ParallelExplorer], case: RunCase) -> AllowedOutcomes:
    def start_run(name: str, inputs: Mapping[str, Any], choices: ChoiceSequence) -> AllowedOutcome:
        outcomes = sorted(explore(case.by_name, name, inputs).outcomes, key=repr)
        return outcomes[choices.pick(len(outcomes))]

    program = RunProgram(case.by_name, case.playbook["name"], case.inputs)
    return explorer(VisitPerformer(program, start_run), 3_000).explore()


@pytest.mark.parametrize("sample", range(N_SAMPLES))
def test_the_reduction_loses_no_outcome(sample: int) -> None:
    n_compared = 0
    for seed in range(sample * SAMPLE, (sample + 1) * SAMPLE):
        case = generate(seed, max_steps=8)
        if case.is_sequential:
            continue
        try:
            reduced = explore_with(ParallelExplorer, case)
            full = explore_with(UnreducedExplorer, case)
        except NotCoveredError:
            continue
        if full.is_complete and not full.races:  # of two writes that race, either may stay
            assert reduced == full, seed
            n_compared += 1
    assert n_compared > SAMPLE / 3
