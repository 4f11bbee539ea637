"""Command `python -m tests.simulation`: the whole crash matrix as a table.

It takes minutes; the test suite plays a sample.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.postgres import empty_database, running_server
from tests.simulation.backends import (
    BACKEND_NAMES,
    StoreBackend,
    memory_backend,
    postgres_backend,
    sqlite_backend,
)
from tests.simulation.dynamo_backend import dynamo_backend
from tests.simulation.faults import Fault
from tests.simulation.matrix import MatrixTally, choose_cells, find_scenario, play_cells, play_without_faults
from tests.simulation.memory_backend import MemoryBackend
from tests.simulation.mutants import MUTANTS
from tests.simulation.scenarios import SCENARIOS, Scenario
from tests.simulation.world import FinishedPlay, SimulatedWorld

LOST = ("I1", "I7", "I8")
DUPLICATED = ("I2", "I4", "I9", "I10")
STUCK = ("I3", "I6", "I13")
OTHER = ("I5", "I15", "I16", "I17", "I18")
SAMPLE_SIZES = {"Postgres": 60, "DynamoDB": 30}
"""Cells of each scenario that are played on a backend that is too slow for all."""


class MatrixOptions(NamedTuple):
    """Options of the command, and the server for Postgres backends."""

    server: str | None
    sample: int | None
    pairs: int
    seed: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of samples and pairs")
    parser.add_argument("--sample", type=int, default=None, help="cells of each playbook, on every store")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of faults for each playbook")
    parser.add_argument("--stores", nargs="+", choices=BACKEND_NAMES, default=BACKEND_NAMES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    print(f"Crash matrix: {len(SCENARIOS)} playbooks, seed {arguments.seed}\n")
    faults = [fault.value for fault in Fault]
    columns = ["points", "possible", *faults, "pairs", "lost", "duplicated", "stuck", "other"]
    print(" | ".join(["store   ", *columns]))
    violation_count = 0
    with ExitStack() as stack:
        server = stack.enter_context(running_server()).dsn if "Postgres" in arguments.stores else None
        for backend in arguments.stores:
            sample = arguments.sample or SAMPLE_SIZES.get(backend)
            options = MatrixOptions(server, sample, arguments.pairs, arguments.seed)
            total = MatrixTally()
            with ProcessPoolExecutor(arguments.jobs) as pool:
                play = partial(_play_scenario, backend, options)
                for tally in pool.map(play, [scenario.name for scenario in SCENARIOS]):
                    total.add(tally)
            print(_format_row(backend, total), flush=True)
            for cell, violation in total.violations[:20]:
                print(f"    {cell}: {violation}")
            violation_count += len(total.violations)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        detections = list(pool.map(_detect_mutant, range(len(MUTANTS))))
    print(f"\nMutants detected: {sum(is_detected for is_detected, _ in detections)} of {len(MUTANTS)}")
    for _, line in detections:
        print(f"    {line}")
    return 1 if violation_count or not all(is_detected for is_detected, _ in detections) else 0


def _play_scenario(backend_name: str, options: MatrixOptions, scenario: str) -> MatrixTally:
    with ExitStack() as stack:
        if backend_name == "Postgres":
            assert options.server is not None
            backend: StoreBackend = postgres_backend(stack.enter_context(empty_database(options.server)))
        elif backend_name == "SQLite":
            backend = sqlite_backend(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        elif backend_name == "DynamoDB":
            backend = stack.enter_context(dynamo_backend())
        elif backend_name == MemoryBackend.name:
            backend = MemoryBackend()
        else:
            backend = memory_backend()
        world = SimulatedWorld(stack.enter_context(closing(backend)))
        found = find_scenario(scenario)
        expected = play_without_faults(world, found)
        cells = choose_cells(found, expected, sample=options.sample, pairs=options.pairs, seed=options.seed)
        return play_cells(world, cells, expected)


def _detect_mutant(index: int) -> tuple[bool, str]:
    """Return whether the matrix detects a mutant, and a line about it."""
    mutant = MUTANTS[index]
    with closing(memory_backend()) as backend:

        def play_correctly(scenario: Scenario) -> FinishedPlay:
            return play_without_faults(SimulatedWorld(backend), scenario)

        detection = mutant.find_violation(play_correctly)
    if detection is None:
        return False, f"{mutant.name}: NOT DETECTED"
    violation, cell = detection
    return violation.invariant in mutant.invariants, f"{mutant.name}: {violation} ({cell})"


def _format_row(backend: str, tally: MatrixTally) -> str:
    fault_counts = (tally.fault_counts[fault] for fault in Fault)
    violation_counts = (tally.count(*invariants) for invariants in (LOST, DUPLICATED, STUCK, OTHER))
    numbers = (tally.points, tally.possible, *fault_counts, tally.pairs, *violation_counts)
    return " | ".join([f"{backend:8}", *(f"{number:,}" for number in numbers)])


if __name__ == "__main__":
    sys.exit(main())
