"""The crash matrix: every fault at every fault point of every scenario on every backend; then pairs of
faults.

`python -m tests.simulation` prints it. A slow backend plays a random sample, whose size is printed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.simulation.faults import FAULTS_OF_PORT, Fault
from tests.simulation.invariants import HistoryWatch, check_invariants, require
from tests.simulation.scenarios import SCENARIOS, Scenario
from tests.simulation.world import FinishedPlay, InvariantViolation, SimulatedWorld


@dataclass(frozen=True)
class MatrixCell:
    """One run of the matrix: a scenario, and faults by the numbers of their calls."""

    scenario: Scenario
    faults: Mapping[int, Fault]

    def __str__(self) -> str:
        faults = ", ".join(f"{number}: {fault.name}" for number, fault in self.faults.items())
        return f"{self.scenario.name} with {{{faults}}}"


@dataclass
class MatrixTally:
    """Counts of the played cells of a backend, and the cells that violated an invariant."""

    points: int = 0
    possible: int = 0
    fault_counts: Counter[Fault] = field(default_factory=Counter)
    pairs: int = 0
    violations: list[tuple[MatrixCell, InvariantViolation]] = field(default_factory=list)

    def add(self, other: MatrixTally) -> None:
        """Add the counts and violations of another tally."""
        self.points += other.points
        self.possible += other.possible
        self.fault_counts += other.fault_counts
        self.pairs += other.pairs
        self.violations += other.violations

    def count(self, *invariants: str) -> int:
        """Return the number of cells that violated one of these invariants."""
        return sum(violation.invariant in invariants for _, violation in self.violations)


def play_without_faults(world: SimulatedWorld, scenario: Scenario) -> FinishedPlay:
    """Play a scenario without faults, and check that it ends as the scenario specifies."""
    play = world.play(scenario, check=HistoryWatch())
    check_invariants(world, scenario, play, None)
    errors = tuple(sorted(error["type"] for error in play.run.errors))
    end = (play.run.status, play.run.result, errors)
    specified_end = (scenario.status, scenario.result, scenario.errors)
    require(end == specified_end, "I8", f"`{scenario.name}` ends with {end} instead of {specified_end}")
    return play


def all_cells(scenario: Scenario, expected: FinishedPlay) -> Iterator[MatrixCell]:
    """Yield a cell for every fault at every call."""
    for number, (port, _) in enumerate(expected.calls, 1):
        for fault in Fault:
            if fault in FAULTS_OF_PORT[port]:
                yield MatrixCell(scenario, {number: fault})


def pair_cells(scenario: Scenario, expected: FinishedPlay, count: int, seed: int) -> Iterator[MatrixCell]:
    """Yield `count` cells with two faults at random calls."""
    chance = random.Random(f"{scenario.name} {seed}")
    for _ in range(count):
        first, second = sorted(chance.sample(range(1, len(expected.calls) + 1), 2))
        faults = {}
        for number in (first, second):
            port = expected.calls[number - 1][0]
            faults[number] = chance.choice(sorted(FAULTS_OF_PORT[port], key=lambda fault: fault.value))
        yield MatrixCell(scenario, faults)


def sample_cells(cells: Iterable[MatrixCell], size: int, seed: str) -> list[MatrixCell]:
    """Return a random sample of `size` cells, or all of them if they are fewer."""
    population = list(cells)
    return population if size >= len(population) else random.Random(seed).sample(population, size)


def play_cell(world: SimulatedWorld, cell: MatrixCell, expected: FinishedPlay) -> None:
    """Play a cell.

    Raises:
        InvariantViolation: an invariant does not hold.
    """
    play = world.play(cell.scenario, cell.faults, HistoryWatch())
    check_invariants(world, cell.scenario, play, expected)


def choose_cells(
    scenario: Scenario, expected: FinishedPlay, *, sample: int | None = None, pairs: int = 0, seed: int = 1
) -> list[MatrixCell]:
    """Return all cells of a scenario, or a sample of them, and some pairs of faults."""
    cells = list(all_cells(scenario, expected))
    chosen = cells if sample is None else sample_cells(cells, sample, f"{scenario.name} {seed}")
    return [*chosen, *pair_cells(scenario, expected, pairs, seed)]


def play_cells(world: SimulatedWorld, cells: Iterable[MatrixCell], expected: FinishedPlay) -> MatrixTally:
    """Play cells of one scenario."""
    possible = sum(len(FAULTS_OF_PORT[port]) for port, _ in expected.calls)
    tally = MatrixTally(len(expected.calls), possible)
    for cell in cells:
        if len(cell.faults) > 1:
            tally.pairs += 1
        else:
            tally.fault_counts.update(cell.faults.values())
        try:
            play_cell(world, cell, expected)
        except InvariantViolation as violation:
            tally.violations.append((cell, violation))
    return tally


def find_scenario(name: str) -> Scenario:
    """Return the scenario of a name."""
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    return scenario
