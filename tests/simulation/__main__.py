"""`python -m tests.simulation`: the whole crash matrix as a table. It takes minutes; the suite plays a sample of it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from tests.postgres import empty_database, running_server
from tests.simulation.controls import CONTROLS
from tests.simulation.corpus import SCENES, Scene
from tests.simulation.dynamodb import in_dynamodb
from tests.simulation.faults import Fault
from tests.simulation.grounds import NAMES, Ground, in_file, in_memory, in_postgres
from tests.simulation.matrix import Tally, scene_of, tally, undisturbed
from tests.simulation.world import Played, World

LOST = ("I1", "I7", "I8")
DUPLICATED = ("I2", "I4", "I9", "I10")
STUCK = ("I3", "I6", "I13")
OTHER = ("I5", "I15")
SAMPLED = {"Postgres": 60, "DynamoDB": 30}
"""How many cells of each playbook are played where a store is too slow for all of them."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of samples and pairs")
    parser.add_argument("--sample", type=int, default=None, help="cells of each playbook, on every store")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of faults for each playbook")
    parser.add_argument("--stores", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print(f"Crash matrix: {len(SCENES)} playbooks, seed {options.seed}\n")
    print(" | ".join(["store   ", "points", "possible", *(fault.value for fault in Fault), "pairs", "lost", "duplicated", "stuck", "other"]))  # fmt: skip
    wrong = 0
    with ExitStack() as stack:
        server = stack.enter_context(running_server()).dsn if "Postgres" in options.stores else None
        for ground in options.stores:
            sample = options.sample or SAMPLED.get(ground)
            play = partial(_played, ground, server, sample=sample, pairs=options.pairs, seed=options.seed)
            whole = Tally()
            with ProcessPoolExecutor(options.jobs) as pool:
                for found in pool.map(play, [scene.name for scene in SCENES]):
                    whole.add(found)
            print(_row(ground, whole), flush=True)
            for cell, violation in whole.violations[:20]:
                print(f"    {cell}: {violation}")
            wrong += len(whole.violations)
    with ProcessPoolExecutor(options.jobs) as pool:
        caught = list(pool.map(_caught, range(len(CONTROLS))))
    print(f"\nDeliberate bugs caught: {sum(ok for ok, _ in caught)} of {len(CONTROLS)}")
    for _, line in caught:
        print(f"    {line}")
    return 1 if wrong or not all(ok for ok, _ in caught) else 0


def _played(
    ground: str, server: str | None, scene: str, *, sample: int | None, pairs: int, seed: int
) -> Tally:
    with ExitStack() as stack:
        if ground == "Postgres":
            assert server is not None
            opened: Ground = in_postgres(stack.enter_context(empty_database(server)))
        elif ground == "SQLite":
            opened = in_file(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        elif ground == "DynamoDB":
            opened = stack.enter_context(in_dynamodb())
        else:
            opened = in_memory()
        world = World(stack.enter_context(closing(opened)))
        return tally(world, scene_of(scene), sample=sample, pairs_of=pairs, seed=seed)


def _caught(index: int) -> tuple[bool, str]:
    control = CONTROLS[index]
    with closing(in_memory()) as ground:

        def expected(scene: Scene) -> Played:
            return undisturbed(World(ground), scene)

        found = control.caught(expected)
    if found is None:
        return False, f"{control.name}: NOT CAUGHT"
    violation, cell = found
    return violation.invariant in control.caught_by, f"{control.name}: {violation} ({cell})"


def _row(ground: str, whole: Tally) -> str:
    counts = (*(whole.played[fault] for fault in Fault), whole.pairs)
    wrong = (whole.count(*invariants) for invariants in (LOST, DUPLICATED, STUCK, OTHER))
    return " | ".join(
        [f"{ground:8}", *(f"{number:,}" for number in (whole.points, whole.possible, *counts, *wrong))]
    )


if __name__ == "__main__":
    sys.exit(main())
