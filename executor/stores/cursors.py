"""Cursors: text that names where a page ends. A reader passes it back to read the next page.

Problem: pages must not skip or repeat an entry while entries are added.

Algorithm: keyset pagination (Winand 2012). A cursor holds the sort key of the last entry, and the next page
starts after it. An event id is itself a cursor: `SEQ-INDEX`, its entry of the history and its place in that
entry.

Cost: one index range for each page.

Limits: a cursor is not signed. A forged cursor selects another place in the same tenant, and no more.
"""

from __future__ import annotations

import base64
import json

from noetl.executor.errors import RejectedError


def read_event_id(id: str | None) -> tuple[int, int]:
    """Return the place (seq, index) of an event in the history; None is before all events.

    >>> read_event_id("12-3"), read_event_id(None)
    ((12, 3), (0, -1))

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
    try:
        created_at, id = json.loads(base64.urlsafe_b64decode(cursor))
        str(id).encode()  # SQLite does not accept half a surrogate pair
        return float(created_at), str(id)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise RejectedError("invalid_cursor", "the cursor does not belong to a list of runs") from None


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
