"""The order of events that the first reader fixes: causes first, and no event twice."""

from __future__ import annotations

import random
import zlib

import pytest

from noetl.executor.model.events import Event
from noetl.executor.stores.dynamo.history import RUN_STREAM, EventStream, merge_streams


def stream(
    name: str, *times: float, causes: tuple[str, ...] = (), is_done: bool = True, clock: int = 1
) -> EventStream:
    return EventStream(name, tuple(Event("step.x", time) for time in times), causes, is_done, (0, clock))


def head(*events: tuple[str, float]) -> EventStream:
    return EventStream(RUN_STREAM, tuple(Event(f"workflow.{type}", time) for type, time in events))


def order(*streams: EventStream, **read_events: int) -> str:
    return "".join(name or "." for name in merge_streams({item.name: item for item in streams}, read_events))


def test_independent_events_are_ordered_by_time() -> None:
    assert order(stream("a", 1.0, 4.0), stream("b", 2.0, 3.0)) == "abba"


def test_a_cause_comes_before_its_effect_whatever_the_clocks_say() -> None:
    assert order(stream("a", 10.0, 11.0), stream("b", 1.0, 2.0, causes=("a",))) == "aabb"
    assert order(stream("j", 0.0, causes=("a", "b")), stream("a", 5.0), stream("b", 6.0)) == "abj"


def test_effects_of_an_unread_cause_are_withheld() -> None:
    assert order(stream("a", 1.0, is_done=False), stream("b", 2.0, causes=("a",))) == "a"
    # The item of its cause has expired: no more of it will be known.
    assert order(stream("b", 2.0, causes=("gone",))) == "b"


def test_the_start_and_the_end_of_a_run_come_first_and_last() -> None:
    assert order(head(("started", 1.0), ("completed", 1.0)), stream("a", 1.0, 1.0)) == ".aa."
    assert order(head(("started", 1.0), ("completed", 2.0)), stream("a", 1.0, 3.0)) == ".aa."


def test_events_of_a_resumed_run_follow_its_first_end() -> None:
    run = head(("started", 1.0), ("failed", 2.0), ("resumed", 3.0), ("completed", 4.0))
    assert order(run, stream("a", 1.0, 2.0, 3.0, 4.0)) == ".aa..aa."


@pytest.mark.parametrize("seed", range(50))
def test_an_intermediate_read_does_not_change_the_order(seed: int) -> None:
    """Later reads append events, each event once, with causes before their effects."""
    chance = random.Random(seed)
    names = [f"v{number}" for number in range(8)]
    causes = {
        name: tuple(chance.sample(names[:position], min(position, chance.randrange(3))))
        for position, name in enumerate(names)
    }
    length = {name: chance.randrange(1, 4) for name in names}
    grown = dict.fromkeys(names, 0)
    read_events: list[str] = []
    while True:
        streams = {
            name: stream(
                name,
                *(float(zlib.crc32(f"{seed} {name} {n}".encode()) % 97) for n in range(grown[name])),
                causes=causes[name],
                is_done=grown[name] == length[name],
            )
            for name in names
            if grown[name]
        }
        seen = {name: read_events.count(name) for name in streams}
        read_events += list(merge_streams(streams, seen))
        assert all(read_events.count(name) <= grown[name] for name in names)
        able = [n for n in names if grown[n] < length[n] and all(grown[c] == length[c] for c in causes[n])]
        if not able:
            break
        grown[chance.choice(able)] += 1
    assert {name: read_events.count(name) for name in names} == length
    for name in names:
        for cause in causes[name]:
            assert max(
                position for position, item in enumerate(read_events) if item == cause
            ) < read_events.index(name)
