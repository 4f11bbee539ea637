"""The cursors of lists: a cursor of the store, and a checksum of the list to which it belongs.

Problem: a cursor of the store is a place in an order. One of another list may name a place as well, and then
entries would be left out silently.

Algorithm: the checksum is that of the tenant, the list and its conditions. A cursor with another checksum is
refused.

Limits: a cursor is not signed and not encrypted. A forged one selects another place of the same list. So it
must not name what its reader may not know.
"""

from __future__ import annotations

import json
import zlib

from noetl.executor.errors import RejectedError
from noetl.planner.frozen import frozen

_SEPARATOR = "."


@frozen
class CursorScope:
    """A list whose cursors are not those of other lists."""

    checksum: str

    @classmethod
    def for_list(cls, *conditions: object) -> CursorScope:
        """Return the scope of a list of a tenant with some conditions, which JSON can represent.

        >>> CursorScope.for_list("a", "limits").close("WzFd")
        'WzFd.5aa730d6'
        """
        return cls(f"{zlib.crc32(json.dumps(conditions).encode()):08x}")

    def close(self, cursor: str | None) -> str | None:
        """Return the cursor of the list for a cursor of the store."""
        return None if cursor is None else f"{cursor}{_SEPARATOR}{self.checksum}"

    def open(self, cursor: str | None) -> str | None:
        """Return the cursor of the store in a cursor of the list.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        if cursor is None:
            return None
        place, separator, found = cursor.rpartition(_SEPARATOR)
        if not separator:
            raise RejectedError("invalid_cursor", "the cursor does not belong to a list")
        if found != self.checksum:
            raise RejectedError("invalid_cursor", "the cursor belongs to another list, filter or order")
        return place
