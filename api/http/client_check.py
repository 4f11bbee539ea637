"""The check that the client of a stream is still accepted.

Problem: a stream is open for as long as its run, which may wait for months. Its client was accepted when the
stream began. Since then its key may have been revoked, its token may have expired, or the service may have
got its first key.

Algorithm: access control leaves a function in the scope of a request, which checks its credentials again. A
stream calls it before it sends anything, at most once in CHECK_SECONDS. If the client is refused, the stream
ends. A client that connects again is answered as any other is.

Cost: one check of credentials for a stream in CHECK_SECONDS, or at each sign of life if these are rarer.
Streams with the same credentials share the checks of a second.

Limits: what is sent in CHECK_SECONDS after a key was revoked. A stream whose credentials cannot be checked,
because the store is away, stays open. A ticket has no key that could be checked, so its stream ends after
TICKET_STREAM_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Scope

CHECK_SECONDS = 5.0
TICKET_STREAM_SECONDS = 3600.0
"""Longest duration of a stream that a ticket has opened."""

_CHECK = "noetl.client_check"

IsAccepted = Callable[[], Awaitable[bool]]
"""A function that returns whether the client of a request is still accepted."""


def leave_check(scope: Scope, is_accepted: IsAccepted) -> None:
    """Leave the function in the scope of a request that checks its client again."""
    scope[_CHECK] = is_accepted


class ClientCheck:
    """The checks of the client of one stream. They begin when it is created."""

    def __init__(self, scope: Scope) -> None:
        self._is_accepted: IsAccepted | None = scope.get(_CHECK)
        self._clock = asyncio.get_running_loop().time
        self._next_at = self._clock() + CHECK_SECONDS

    async def passes(self) -> bool:
        """Return whether the stream may go on, after a check if one is due."""
        if self._is_accepted is None or self._clock() < self._next_at:
            return True
        self._next_at = self._clock() + CHECK_SECONDS
        return await self._is_accepted()
