"""The search for the switch that can be undone, in histories that do not fit into memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.switch_undo import SWITCHED, find_last_switch

UNDOABLE = {"undo": {"state": "hash"}}


class Payload(dict[str, Any]):
    """A payload that shows by a weak reference whether it is in memory."""


def history(payloads: list[weakref.ref[Payload]]) -> Iterator[Event]:
    """Yield many events before and after a switch, and keep weak references to their payloads."""
    for number in range(1000):
        payload = Payload(number=number)
        payloads.append(weakref.ref(payload))
        is_switch = number == 500
        type = SWITCHED if is_switch else "workflow.paused"
        yield Event(type, 0.0, payload=UNDOABLE if is_switch else payload)


def test_a_history_is_not_in_memory_as_a_whole() -> None:
    payloads: list[weakref.ref[Payload]] = []
    most = 0

    def watched() -> Iterator[Event]:
        nonlocal most
        for event in history(payloads):
            most = max(most, sum(payload() is not None for payload in payloads))
            yield event

    assert find_last_switch("r1", watched()).payload is UNDOABLE
    assert most <= 3


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ([], "not_switched"),
        (["step.started"], "not_switched"),
        ([SWITCHED, "workflow.paused", "step.started"], "gone_on"),
        ([SWITCHED, "step.started", SWITCHED, "step.started"], "gone_on"),
    ],
)
def test_a_switch_that_cannot_be_undone_is_refused(types: list[str], reason: str) -> None:
    with pytest.raises(RejectedError) as caught:
        find_last_switch("r1", (Event(type, 0.0, payload=UNDOABLE) for type in types))
    assert caught.value.reason == reason


def test_what_was_done_between_two_switches_does_not_count() -> None:
    types = [SWITCHED, "step.started", SWITCHED, "workflow.paused"]
    events = [Event(type, float(second), payload=UNDOABLE) for second, type in enumerate(types)]
    assert find_last_switch("r1", iter(events)).at == 2.0
