"""A sample of the crash matrix on every backend, and all mutants. `make matrix` plays the whole matrix."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from itertools import pairwise

import pytest

from tests.aws import Client
from tests.simulation.backends import StoreBackend, memory_backend
from tests.simulation.dynamo_backend import DynamoBackend, shorten_retry_pauses
from tests.simulation.faults import FAULTS_OF_PORT, Fault
from tests.simulation.invariants import end_of, history_of
from tests.simulation.matrix import (
    MatrixCell,
    all_cells,
    choose_cells,
    find_scenario,
    play_cell,
    play_cells,
    play_without_faults,
    sample_cells,
)
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.scenarios import SCENARIOS, Scenario
from tests.simulation.world import FinishedPlay, SimulatedWorld

SAMPLE_SIZES = {"memory store": 12, "memory": 12, "SQLite": 6, "Postgres": 4, "DynamoDB": 2}
MAX_RESUMES = dict.fromkeys(SAMPLE_SIZES, 30) | {"DynamoDB": 15}
"""How many faults in a resume are tested on each backend, of up to 61."""

all_scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@cache
def _play_in_memory(name: str) -> FinishedPlay:
    with closing(memory_backend()) as backend:
        return play_without_faults(SimulatedWorld(backend), find_scenario(name))


def play_in_memory(scenario: Scenario) -> FinishedPlay:
    """Play a scenario without faults in memory."""
    return _play_in_memory(scenario.name)


@all_scenarios
def test_invariants_hold_in_a_sample_of_the_matrix(backend: StoreBackend, scenario: Scenario) -> None:
    """Compare the run without faults with that in memory, and check runs with faults."""
    size, world = SAMPLE_SIZES[backend.name], SimulatedWorld(backend)
    expected = play_without_faults(world, scenario)
    assert end_of(expected) == end_of(play_in_memory(scenario))
    assert history_of(expected) == history_of(play_in_memory(scenario))
    tally = play_cells(world, choose_cells(scenario, expected, sample=size, pairs=size // 3), expected)
    assert tally.violations == []
    assert tally.fault_counts.total() == size


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["failed and resumed", "cancelled and resumed", "failed items of a loop"])
def test_invariants_hold_for_faults_in_a_resume(backend: StoreBackend, name: str) -> None:
    """Some stores write a resume in several steps, and any worker completes it. So the sample is large."""
    scenario, world = find_scenario(name), SimulatedWorld(backend)
    expected = play_without_faults(world, scenario)
    first = expected.calls.index(("store", "resume")) + 1
    numbered_calls = enumerate(expected.calls, 1)
    end = next(number for number, (port, _) in numbered_calls if number > first and port == "clock")
    cells = [cell for cell in all_cells(scenario, expected) if first <= min(cell.faults) < end]
    assert cells
    for cell in sample_cells(cells, MAX_RESUMES[backend.name], name):
        play_cell(world, cell, expected)


@pytest.mark.timeout(600)
def test_a_suspension_written_in_time_may_be_observed_late(
    aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DynamoDB sends a request after the write of a suspension.

    Other workers may execute several segments before it.
    """
    shorten_retry_pauses(monkeypatch)
    with closing(DynamoBackend()) as backend:
        scenario, world = find_scenario("batches"), SimulatedWorld(backend)
        expected = play_without_faults(world, scenario)
        requests_after_write = [
            number
            for number, (before, after) in enumerate(pairwise(expected.calls), 2)
            if before == ("request", "transact_write_items") and after == ("request", "get_item")
        ]
        assert requests_after_write
        for number in requests_after_write:
            play_cell(world, MatrixCell(scenario, {number: Fault.DELAY}), expected)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_detected(mutant: Mutant) -> None:
    detection = mutant.find_violation(play_in_memory)
    assert detection is not None
    violation, _ = detection
    assert violation.invariant in mutant.invariants


def test_every_applicable_fault_is_injected_at_every_port() -> None:
    injected = {
        (play_in_memory(scenario).calls[number - 1][0], fault)
        for scenario in SCENARIOS
        for cell in all_cells(scenario, play_in_memory(scenario))
        for number, fault in cell.faults.items()
    }
    applicable = {(port, fault) for port, faults in FAULTS_OF_PORT.items() for fault in faults}
    assert injected == {(port, fault) for port, fault in applicable if port != "request"}
    assert {fault for _, fault in injected} == set(Fault)
