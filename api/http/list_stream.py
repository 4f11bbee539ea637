"""A list of runs as a stream of server-sent events (WHATWG HTML, section 9.2).

A stream begins with a frame `run` for each run of the list, and `ready`. Then it has `run` for each run that
is new or has changed, and `gone` for each that has left the list or was deleted. No frame has an id. A client
that connects again gets all runs again, and drops those that do not arrive before `ready`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from noetl.api.http.client_check import ClientCheck
from noetl.api.http.event_stream import KEEP_ALIVE_SECONDS, STREAM_HEADERS, encode_frame, encode_retry
from noetl.api.http.open_limit import OpenLimit
from noetl.api.http.request_shares import place_of
from noetl.api.service.list_watcher import FeedEncoder, ListFeed, ListWatcher
from noetl.api.service.run_lists import RunListService
from noetl.api.service.views import ListReady, RemovedRun, RunEntry
from noetl.executor.model.run_filter import RunFilter
from noetl.planner.frozen import frozen

MAX_STREAM_SECONDS = 3600.0
"""Longest duration of a stream. Its client connects again."""


def encode_run(entry: RunEntry) -> bytes:
    """Return the frame of a run of a list."""
    return encode_frame("run", entry)


def encode_removal(run_id: str) -> bytes:
    """Return the frame of a run that is not in the list any more."""
    return encode_frame("gone", RemovedRun(workflow_id=run_id))


LIST_ENCODER = FeedEncoder(encode_run, encode_removal)
"""Frames of the runs of a list."""


@frozen
class ListStreamRequest:
    """A request for the stream of a list. It ends after `seconds`, and the client may connect again."""

    run_filter: RunFilter
    seconds: float


class ListStreamResponse(EventSourceResponse):
    """A stream of a list of runs, which counts as open while it is sent.

    The first state of the list is read before the stream begins, so that its client can read a problem.
    """

    def __init__(
        self, request: ListStreamRequest, lists: RunListService, watcher: ListWatcher, limit: OpenLimit
    ) -> None:
        super().__init__((), headers=STREAM_HEADERS)
        self._request = request
        self._lists = lists
        self._watcher = watcher
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with (
            self._limit.open(self._lists.context.tenant),
            self._watcher.follow(self._lists, self._request.run_filter) as feed,
        ):
            await self._watcher.open(feed)
            self.body_iterator = self._frames(feed, ClientCheck(scope))
            place_of(Request(scope)).give_up()
            await super().__call__(scope, receive, send)

    async def _frames(self, feed: ListFeed, client: ClientCheck) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        ends_at, is_ready = clock() + self._request.seconds, False
        yield encode_retry()
        updates = self._watcher.read(feed, lambda: min(KEEP_ALIVE_SECONDS, max(ends_at - clock(), 0.0)))
        async for update in updates:
            if not await client.passes():
                return
            if update is not None and update.frames:
                yield update.frames
            if update is not None and not is_ready:
                is_ready = True
                runs, has_more = len(update.state.runs), update.state.has_more
                yield encode_frame("ready", ListReady(runs=runs, more=has_more))
            if clock() >= ends_at:
                return
            if update is None:
                yield KEEPALIVE_COMMENT
