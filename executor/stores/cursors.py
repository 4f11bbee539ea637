"""Cursors: text that names where a page ends. A reader passes it back to read the next page.

Problem: pages must not skip or repeat an entry while entries are added.

Algorithm: keyset pagination (Winand 2012). A cursor holds the sort key of the last entry, and the next page
starts after it. An event id is itself a cursor: `SEQ-INDEX-RUN`. It has the entry of the history, the place
in that entry, and a checksum of the id of the run.

Cost: one index range for each page.

Limits: a cursor is not signed. A forged cursor selects another place in the same tenant, and no more. The
checksum finds a cursor of another run, except for one pair of runs in four thousand million.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from noetl.executor.errors import RejectedError
from noetl.executor.model.gates import Slot
from noetl.executor.model.run import WaitKey

_EVENT_ID = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-([0-9a-f]{8})")
_VISIT_EVENT_ID = re.compile(r"v(.+)-([0-9]{1,9})-([0-9a-f]{8})")
_SHOWN_CHARACTERS = 60

_MAX_RANK = 1e15
"""Bound of the times of runs and of the ranks of waits. Databases refuse some greater numbers, and NaN."""

WaitPlace = tuple[float, str, str, str]
"""Place of a wait in the list of open waits: its rank, and the ids of its run, its visit and itself."""


class SlotPlace(NamedTuple):
    """Place of a slot at its gate: those that are held come first, and then the queue by flow and rank.

    `waits` is 0 or 1. `since` is when it was held or queued. One that is held has no flow and no rank here.
    """

    waits: int
    flow: str
    rank: float
    since: float
    run_id: str
    visit_id: str


def place_of_slot(slot: Slot) -> SlotPlace:
    """Return the place of a slot in the list of its gate."""
    if slot.held_at is not None:
        return SlotPlace(0, "", 0.0, slot.held_at, *slot.owner)
    return SlotPlace(1, slot.flow, slot.rank, slot.queued_at, *slot.owner)


EventPlace = tuple[int, int]
"""Place of an event in the history of its run: its entry, and its index in that entry."""

BEFORE_ALL_EVENTS: EventPlace = (0, -1)


def write_event_id(run_id: str, place: EventPlace) -> str:
    """Return the id of the event at a place in the history of a run.

    >>> write_event_id("r", (12, 3))
    '12-3-6c09ff9d'
    """
    return f"{place[0]}-{place[1]}-{run_checksum(run_id)}"


def read_event_id(run_id: str, id: str | None) -> EventPlace:
    """Return the place of an event in the history of a run; None is before all events.

    >>> read_event_id("r", write_event_id("r", (12, 3))), read_event_id("r", None)
    ((12, 3), (0, -1))

    Raises:
        RejectedError: `invalid_cursor`, if this is no id of an event, or one of another run.
    """
    if id is None:
        return BEFORE_ALL_EVENTS
    match = _EVENT_ID.fullmatch(id)
    if match is None:
        raise RejectedError("invalid_cursor", f"{id[:_SHOWN_CHARACTERS]!r} is not the id of an event")
    if match[3] != run_checksum(run_id):
        raise RejectedError("invalid_cursor", f"{id!r} is the id of an event of another run")
    return int(match[1]), int(match[2])


def write_visit_event_id(run_id: str, visit_id: str, index: int) -> str:
    """Return the id of an event by its place among those of its visit.

    >>> read_visit_event_id("r", write_visit_event_id("r", "v1", 3))
    ('v1', 3)
    """
    return f"v{visit_id}-{index}-{run_checksum(run_id)}"


def read_visit_event_id(run_id: str, id: str | None) -> tuple[str, int] | None:
    """Return the id of the visit and the place of an event there, or None for an id of another form."""
    match = _VISIT_EVENT_ID.fullmatch(id or "")
    if match is None or match[3] != run_checksum(run_id):
        return None
    return match[1], int(match[2])


def place_before(place: EventPlace) -> EventPlace:
    """Return a place after which an event at `place` is the first, whether it exists or not.

    >>> place_before((12, 3)), place_before((12, 0))
    ((12, 2), (11, 999999999999999999))
    """
    seq, index = place
    return (seq, index - 1) if index else (max(seq - 1, 0), 10**18 - 1)


@lru_cache(maxsize=64)  # the events of a page are mostly those of one run
def run_checksum(run_id: str) -> str:
    """Return the part of event ids that tells the histories of runs apart."""
    return f"{zlib.crc32(run_id.encode(errors='surrogatepass')):08x}"


def write_cursor(created_at: float, run_id: str) -> str:
    """Return the cursor after a run, in the order of creation.

    >>> read_cursor(write_cursor(1.5, "r"))
    (1.5, 'r')
    """
    return base64.urlsafe_b64encode(json.dumps([created_at, run_id]).encode()).decode()


def read_cursor(cursor: str) -> tuple[float, str]:
    """Return the arguments of `write_cursor`.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    with suppress(ValueError, TypeError, OverflowError, RecursionError):
        created_at, id = json.loads(base64.urlsafe_b64decode(cursor))
        str(id).encode()  # SQLite does not accept half a surrogate pair
        if abs(float(created_at)) < _MAX_RANK:
            return float(created_at), str(id)
    raise RejectedError("invalid_cursor", "the cursor does not belong to a list of runs")


def write_wait_cursor(rank: float, key: WaitKey) -> str:
    """Return the cursor after a wait, in the order of the list of open waits.

    >>> read_wait_cursor(write_wait_cursor(1.5, WaitKey("r", "v", "w")))
    (1.5, 'r', 'v', 'w')
    """
    place = [rank, key.run_id, key.visit_id, key.id]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_wait_cursor(cursor: str) -> WaitPlace:
    """Return the place of a wait that `write_wait_cursor` has written.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    with suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        rank, *ids = json.loads(base64.urlsafe_b64decode(cursor))
        run_id, visit_id, wait_id = (id.encode().decode() for id in ids)
        if abs(float(rank)) < _MAX_RANK:
            return float(rank), run_id, visit_id, wait_id
    raise RejectedError("invalid_cursor", "the cursor does not belong to a list of questions")


def write_slot_cursor(place: SlotPlace) -> str:
    """Return the cursor after a slot of a gate.

    >>> read_slot_cursor(write_slot_cursor(SlotPlace(1, "f", 0.0, 1.5, "r", "v"))).flow
    'f'
    """
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_slot_cursor(cursor: str) -> SlotPlace:
    """Return the place of a slot that `write_slot_cursor` has written.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    with suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        waits, named, rank, since, *ids = json.loads(base64.urlsafe_b64decode(cursor))
        flow, run_id, visit_id = (text.encode().decode() for text in (named, *ids))
        if waits in (0, 1) and max(abs(float(rank)), abs(float(since))) < _MAX_RANK:
            return SlotPlace(int(waits), flow, float(rank), float(since), run_id, visit_id)
    raise RejectedError("invalid_cursor", "the cursor does not belong to a list of slots")


def write_name_cursor(playbook: str, name: str) -> str:
    """Return the cursor after an entry that is named in its playbook.

    >>> read_name_cursor(write_name_cursor("p", "n"))
    ('p', 'n')
    """
    return base64.urlsafe_b64encode(json.dumps([playbook, name]).encode()).decode()


def read_name_cursor(cursor: str) -> tuple[str, str]:
    """Return the arguments of `write_name_cursor`.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        playbook, name = json.loads(base64.urlsafe_b64decode(cursor))
        return playbook.encode().decode(), name.encode().decode()
    raise RejectedError("invalid_cursor", "the cursor does not belong to this list")


def write_key_cursor(key: str | int) -> str:
    """Return the cursor after an entry whose sort key is one value.

    >>> read_key_cursor(write_key_cursor(7), int)
    7
    """
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def read_key_cursor(cursor: str, kind: type[str | int]) -> str | int:
    """Return the argument of `write_key_cursor`, which must be of type `kind`.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor))
        str(key).encode()
    except (ValueError, TypeError, RecursionError):
        key = None
    # `type` and not `isinstance`: true is not a number. Databases hold integers of 64 bits.
    if type(key) is kind and (isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**63)):
        return key
    raise RejectedError("invalid_cursor", "the cursor does not belong to this list")
