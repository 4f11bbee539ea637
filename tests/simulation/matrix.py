"""The crash matrix: every fault at every call of every scene, on every store; then pairs of faults by seed.

`python -m tests.simulation` prints it. What a ground is too slow for is sampled, and the size of the sample printed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.simulation.corpus import SCENES, Scene
from tests.simulation.faults import APPLICABLE, Fault
from tests.simulation.invariants import Watch, check, holds
from tests.simulation.world import Played, Violation, World


@dataclass(frozen=True)
class Cell:
    """One run of the matrix: a scene, and which faults at which numbers of its calls."""

    scene: Scene
    faults: Mapping[int, Fault]

    def __str__(self) -> str:
        faults = ", ".join(f"{number}: {fault.name}" for number, fault in self.faults.items())
        return f"{self.scene.name} with {{{faults}}}"


@dataclass
class Tally:
    """How many cells of one ground were played, and those that did not hold."""

    points: int = 0
    possible: int = 0
    played: Counter[Fault] = field(default_factory=Counter)
    pairs: int = 0
    violations: list[tuple[Cell, Violation]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.points += other.points
        self.possible += other.possible
        self.played += other.played
        self.pairs += other.pairs
        self.violations += other.violations

    def count(self, *invariants: str) -> int:
        """How many cells did not hold one of these."""
        return sum(violation.invariant in invariants for _, violation in self.violations)


def undisturbed(world: World, scene: Scene) -> Played:
    """The run without faults, which must end as the scene says."""
    played = world.play(scene, check=Watch())
    check(world, scene, played, None)
    run, errors = played.run, tuple(sorted(error["type"] for error in played.run.errors))
    found, wanted = (run.status, run.result, errors), (scene.status, scene.result, scene.errors)
    holds(found == wanted, "I8", f"`{scene.name}` ends with {found} instead of {wanted}")
    return played


def cells(scene: Scene, expected: Played) -> Iterator[Cell]:
    """Every fault at every call."""
    for number, (port, _) in enumerate(expected.points, 1):
        for fault in Fault:
            if fault in APPLICABLE[port]:
                yield Cell(scene, {number: fault})


def pairs(scene: Scene, expected: Played, count: int, seed: int) -> Iterator[Cell]:
    """Two faults at calls that chance chooses."""
    chance = random.Random(f"{scene.name} {seed}")
    for _ in range(count):
        first, second = sorted(chance.sample(range(1, len(expected.points) + 1), 2))
        faults = {}
        for number in (first, second):
            port = expected.points[number - 1][0]
            faults[number] = chance.choice(sorted(APPLICABLE[port], key=lambda fault: fault.value))
        yield Cell(scene, faults)


def sampled(all_cells: Iterable[Cell], size: int, seed: str) -> list[Cell]:
    """As many of the cells as that, chosen by a seed."""
    found = list(all_cells)
    return found if size >= len(found) else random.Random(seed).sample(found, size)


def play(world: World, cell: Cell, expected: Played) -> None:
    """One cell.

    Raises:
        Violation: something does not hold.
    """
    played = world.play(cell.scene, cell.faults, Watch())
    check(world, cell.scene, played, expected)


def tally(
    world: World, scene: Scene, *, sample: int | None = None, pairs_of: int = 0, seed: int = 1
) -> Tally:
    """A scene on a ground: every cell, or a sample of them, and so many pairs of faults."""
    expected = undisturbed(world, scene)
    every = list(cells(scene, expected))
    chosen = every if sample is None else sampled(every, sample, f"{scene.name} {seed}")
    found = Tally(len(expected.points), len(every))
    for cell in (*chosen, *pairs(scene, expected, pairs_of, seed)):
        if len(cell.faults) > 1:
            found.pairs += 1
        else:
            found.played.update(cell.faults.values())
        try:
            play(world, cell, expected)
        except Violation as violation:
            found.violations.append((cell, violation))
    return found


def scene_of(name: str) -> Scene:
    (found,) = (scene for scene in SCENES if scene.name == name)
    return found
