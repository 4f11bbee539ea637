"""Where a page ends, as text that a reader hands back for the next one."""

from __future__ import annotations

import base64
import json

from noetl.executor.errors import RejectedError


def read_event_id(id: str | None) -> tuple[int, int]:
    """The place of an event in the history; that before all of them for none.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    if id is None:
        return (0, -1)
    seq, _, index = id.partition("-")
    if not (seq.isascii() and seq.isdigit() and index.isascii() and index.isdigit()) or len(seq) > 18:
        raise RejectedError("invalid_cursor", f"{id!r} is not the id of an event")
    return int(seq), int(index)


def write_cursor(created_at: float, run_id: str) -> str:
    """The cursor behind a run, in the order of their creation."""
    return base64.urlsafe_b64encode(json.dumps([created_at, run_id]).encode()).decode()


def read_cursor(cursor: str) -> tuple[float, str]:
    """What `write_cursor` was given.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    try:
        created_at, id = json.loads(base64.urlsafe_b64decode(cursor))
        str(id).encode()  # half a surrogate pair is no text to SQLite
        return float(created_at), str(id)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise RejectedError("invalid_cursor", "the cursor is not one that a page of runs came with") from None


def write_place(place: str | int) -> str:
    """The cursor behind a place in an order of one kind of value."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_place(cursor: str, kind: type[str | int]) -> str | int:
    """What `write_place` was given.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor))
        str(place).encode()
    except (ValueError, TypeError, RecursionError):
        place = None
    # true is no number, and databases know no larger ones
    if type(place) is kind and (isinstance(place, str) or (isinstance(place, int) and abs(place) < 2**63)):
        return place
    raise RejectedError("invalid_cursor", "the cursor is not one that a page came with")
