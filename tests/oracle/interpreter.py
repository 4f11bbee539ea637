"""An interpreter of the language reference, which explores the orders that its text allows.

It is written from the text alone and shares no code with the planner or the executor. `README.md` says how to
read it next to the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.oracle.outcome import AllowedOutcome, AllowedOutcomes
from tests.oracle.parallel import ParallelExplorer
from tests.oracle.program import NotCoveredError, RunProgram
from tests.oracle.sequential import SequentialRun
from tests.oracle.visit import ChoiceSequence, VisitPerformer, all_results

MAX_DEPTH = 10  # of runs that start each other


def explore(
    playbooks: Mapping[str, Mapping[str, Any]],
    name: str,
    inputs: Mapping[str, Any],
    most_orders: int = 500,
    depth: int = 1,
) -> AllowedOutcomes:
    """Return the outcomes that the language reference allows for a run of a playbook.

    `playbooks` are parsed playbooks by name. `NotCoveredError` is raised for a part of the language that the
    interpreter leaves out, and `InputError` for inputs that do not fit.
    """
    if depth > MAX_DEPTH:
        raise NotCoveredError("runs that start each other")
    program = RunProgram(playbooks, name, inputs)
    incomplete: list[str] = []

    def start_run(playbook: str, given: Mapping[str, Any], choices: ChoiceSequence) -> AllowedOutcome:
        if playbook not in playbooks:
            raise NotCoveredError(f"unknown playbook {playbook}")
        found = explore(playbooks, playbook, given, most_orders, depth + 1)
        if not found.is_complete:
            incomplete.append(playbook)
        different = {(outcome.status, outcome.result_json): outcome for outcome in found.outcomes}
        ordered = [different[key] for key in sorted(different)]
        return ordered[choices.pick(len(ordered))]

    performer = VisitPerformer(program, start_run)
    if program.is_sequential:
        runs = all_results(lambda choices: SequentialRun(performer, choices).perform())
        return AllowedOutcomes(frozenset(runs), not incomplete)
    explored = ParallelExplorer(performer, most_orders).explore()
    return AllowedOutcomes(explored.outcomes, explored.is_complete and not incomplete, explored.races)
