"""A sample of the crash matrix on every store, and everything that the matrix must catch. `make matrix` plays all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from tests.aws import Client
from tests.simulation.controls import CONTROLS, Control
from tests.simulation.corpus import SCENES, Scene
from tests.simulation.dynamodb import DynamoGround, hurry
from tests.simulation.faults import APPLICABLE, Fault
from tests.simulation.grounds import Ground, in_file, in_memory, in_postgres
from tests.simulation.invariants import end_of, history_of
from tests.simulation.matrix import Cell, cells, play, scene_of, tally, undisturbed
from tests.simulation.world import Played, World

SAMPLES = {"memory": 24, "SQLite": 6, "Postgres": 6, "DynamoDB": 3}
scenes = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)


@pytest.fixture(params=SAMPLES)
def ground(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ground]:
    opened: Ground
    if request.param == "Postgres":
        opened = in_postgres(request.getfixturevalue("postgres_dsn"))
    elif request.param == "DynamoDB":
        request.getfixturevalue("aws")
        hurry(monkeypatch)
        opened = DynamoGround()
    else:
        opened = in_file(tmp_path) if request.param == "SQLite" else in_memory()
    with closing(opened):
        yield opened


@cache
def _expected(name: str) -> Played:
    with closing(in_memory()) as ground:
        return undisturbed(World(ground), scene_of(name))


def expected(scene: Scene) -> Played:
    """The scene without faults, in memory."""
    return _expected(scene.name)


@scenes
def test_whatever_goes_wrong(ground: Ground, scene: Scene) -> None:
    found = tally(World(ground), scene, sample=SAMPLES[ground.name], pairs_of=SAMPLES[ground.name] // 3)
    assert found.violations == []
    assert found.played.total() == SAMPLES[ground.name]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["failed and gone on with", "cancelled and gone on with"])
def test_whatever_goes_wrong_in_a_resume(ground: Ground, name: str) -> None:
    """All of it: some stores need several writes for a resume, and whoever comes by goes on with one."""
    scene, world = scene_of(name), World(ground)
    found = undisturbed(world, scene)
    begun = found.points.index(("store", "resume")) + 1
    ended = next(
        number for number, (port, _) in enumerate(found.points, 1) if number > begun and port == "clock"
    )
    inside = [cell for cell in cells(scene, found) if begun <= min(cell.faults) < ended]
    assert inside
    for cell in inside:
        play(world, cell, found)


@pytest.mark.timeout(600)
def test_what_was_written_in_time_may_be_told_of_late(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the write of a pause DynamoDB is asked once more; meanwhile others may have taken the visit several pieces further."""
    hurry(monkeypatch)
    with closing(DynamoGround()) as ground:
        scene, world = scene_of("batches"), World(ground)
        found = undisturbed(world, scene)
        late = [
            number
            for number, (before, after) in enumerate(pairwise(found.points), 2)
            if before == ("request", "transact_write_items") and after == ("request", "get_item")
        ]
        assert late
        for number in late:
            play(world, Cell(scene, {number: Fault.DELAY}), found)


@scenes
def test_every_store_says_the_same(ground: Ground, scene: Scene) -> None:
    played = undisturbed(World(ground), scene)
    assert end_of(played) == end_of(expected(scene))
    assert history_of(played) == history_of(expected(scene))


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_deliberate_bug_is_caught(control: Control) -> None:
    found = control.caught(expected)
    assert found is not None
    violation, _ = found
    assert violation.invariant in control.caught_by


def test_every_fault_is_met_at_every_port() -> None:
    met = {
        (scene_port, fault)
        for scene in SCENES
        for cell in cells(scene, expected(scene))
        for number, fault in cell.faults.items()
        for scene_port in [expected(scene).points[number - 1][0]]
    }
    assert met == {
        (port, fault) for port, faults in APPLICABLE.items() if port != "request" for fault in faults
    }
    assert {fault for _, fault in met} == set(Fault)
