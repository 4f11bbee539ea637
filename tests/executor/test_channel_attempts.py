"""The bounds of attempts to deliver notifications, and the order of channels."""

from __future__ import annotations

import pytest

from noetl.executor.runtime import channel_attempts
from noetl.executor.runtime.channel_attempts import (
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_OF_TENANT,
    MAX_PAUSE_SECONDS,
    MAX_SENDERS,
    MAX_SENDERS_OF_TENANT,
    PATIENCE_SECONDS,
    ChannelAttempts,
    Place,
)
from tests.post_office import replace_time


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    replace_time(monkeypatch, now)
    return now


def channels(tenant: str, number: int) -> list[Place]:
    return [(tenant, f"c{index}") for index in range(number)]


def test_new_attempts_and_all_attempts_have_bounds(seconds: list[float]) -> None:
    attempts = ChannelAttempts(2.0)
    a, b, c = (channels(tenant, 50) for tenant in "abc")
    begun = attempts.begin([*a, *b, *c])
    assert (len(begun), attempts.find_closed()) == (MAX_SENDERS, (set(), set(begun)))
    assert attempts.begin([*a, *b, *c]) == []
    total = len(begun)
    while len(begun) > 0:
        seconds[0] += PATIENCE_SECONDS
        begun = attempts.begin([*a, *b, *c])
        total += len(begun)
    assert total == MAX_ATTEMPTS
    assert attempts.are_open()


def test_a_tenant_has_half_of_each_bound(seconds: list[float]) -> None:
    attempts, places = ChannelAttempts(2.0), channels("a", 50)
    assert attempts.begin(places) == places[:MAX_SENDERS_OF_TENANT]
    tenants, _ = attempts.find_closed()
    assert tenants == {"a"}
    assert attempts.begin([*places, ("b", "c")]) == [("b", "c")]
    seconds[0] += PATIENCE_SECONDS
    assert attempts.find_closed()[0] == set()
    total = MAX_SENDERS_OF_TENANT
    while begun := attempts.begin(places):
        total += len(begun)
        seconds[0] += PATIENCE_SECONDS
    assert total == MAX_ATTEMPTS_OF_TENANT
    assert attempts.find_closed()[0] == {"a"}


def test_slow_channels_leave_half_of_the_places_to_others(seconds: list[float]) -> None:
    attempts, slow = ChannelAttempts(2.0), channels("a", MAX_SENDERS_OF_TENANT)
    attempts.begin(slow)
    seconds[0] += 2 * PATIENCE_SECONDS
    for place in slow:
        attempts.end(place)
    half = MAX_SENDERS_OF_TENANT // 2
    quick = [("a", f"quick{index}") for index in range(9)]
    begun = attempts.begin([*slow, *quick])
    assert begun == [*quick[: len(begun)]]
    for place in begun:
        attempts.end(place)
    assert attempts.begin(slow) == slow[:half]
    begun = attempts.begin(quick)
    assert len(begun) == MAX_SENDERS_OF_TENANT - half
    # One that was quick this time has a place like any other.
    attempts.end(slow[0])
    assert attempts.begin([slow[2]]) == [slow[2]]
    attempts.end(begun[0])
    assert attempts.begin([slow[3], slow[0]]) == [slow[0]]


def test_tenants_and_their_channels_alternate(seconds: list[float]) -> None:
    attempts, places = ChannelAttempts(2.0), [*channels("a", 3), *channels("b", 1), *channels("c", 2)]
    begun = list[Place]()
    for _ in range(12):
        for place in attempts.begin(places):
            attempts.end(place)
            begun.append(place)
    first = [("a", "c0"), ("b", "c0"), ("c", "c0"), ("a", "c1"), ("c", "c1"), ("a", "c2")]
    assert begun[:6] == first
    assert {begun.count(place) for place in places} == {12}
    one_place = ChannelAttempts(2.0)
    order = list[Place]()
    for _ in range(12):
        # Only one place is free: other attempts have the rest.
        taken = one_place.begin([(f"other{number}", "x") for number in range(MAX_SENDERS - 1)])
        order += (begun_now := one_place.begin(places))
        for place in (*taken, *begun_now):
            one_place.end(place)
    assert [tenant for tenant, _ in order] == ["a", "b", "c"] * 4
    assert [channel for tenant, channel in order if tenant == "a"] == ["c0", "c1", "c2", "c0"]


def test_pauses_double_until_the_store_answers(seconds: list[float]) -> None:
    attempts, place = ChannelAttempts(2.0), ("a", "c")
    waits = list[float]()
    for _ in range(7):
        assert attempts.begin([place]) == [place]
        attempts.end(place, has_failed=True)
        began = seconds[0]
        while place in attempts.find_closed()[1]:
            assert attempts.begin([place]) == []
            seconds[0] += 1.0
        waits.append(seconds[0] - began)
    assert waits == [2, 4, 8, 16, 32, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS]
    assert attempts.begin([place]) == [place]
    attempts.end(place)
    assert attempts.begin([place]) == [place]
    attempts.end(place, has_failed=True)
    seconds[0] += 2.0
    assert attempts.begin([place]) == [place]


def test_what_is_known_of_channels_is_bounded(seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_attempts, "MAX_REMEMBERED", 10)
    attempts = ChannelAttempts(2.0)
    for place in channels("a", 1000):
        assert attempts.begin([place]) == [place]
        seconds[0] += 2 * PATIENCE_SECONDS
        attempts.end(place, has_failed=True)
        assert len(attempts.find_closed()[1]) <= 10
    assert max(map(len, (attempts._slow, attempts._pauses, attempts._last_begun))) <= 22
