"""The history of a run as a stream of server-sent events (WHATWG HTML, section 9.2).

`fastapi.sse` writes the frames. Every event has its id, so that a browser that lost its connection continues
after the last one. The last frame is `end`, with the id of the last event. A browser that connects again with
this id is answered with 204, which means that it must stop.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from noetl.api.http.client_check import ClientCheck
from noetl.api.http.open_limit import OpenLimit
from noetl.api.http.request_shares import place_of
from noetl.api.service.run_watcher import EncodedEvent, RunFeed, RunWatcher
from noetl.api.service.runs import RunService
from noetl.api.service.views import CurrentStatus, EventEntry, View, members
from noetl.executor.model.events import Event
from noetl.executor.stores.cursors import EventPlace, write_event_id

KEEP_ALIVE_SECONDS = 15.0
"""Longest time without a write: proxies close idle connections, and only a write detects a lost client."""

MIN_RETRY_MILLISECONDS = 1000
MAX_RETRY_MILLISECONDS = 3000
"""Range of the pause of a browser before it connects again. It is random, to spread the listeners."""

CHUNK_BYTES = 64 * 1024
"""About how many bytes of frames are sent together: each write takes the time of the event loop."""

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers that keep caches and proxies from holding a stream back."""


def encode_retry() -> bytes:
    """Return the first frame of a stream: how long a browser waits before it connects again."""
    return format_sse_event(retry=random.randint(MIN_RETRY_MILLISECONDS, MAX_RETRY_MILLISECONDS))


def encode_event(event: Event) -> bytes:
    """Return the frame of an event of the history."""
    return encode_frame(event.type, EventEntry.from_event(event), event.id)


def encode_frame(event_type: str, body: View, event_id: str | None = None) -> bytes:
    """Return the frame of an event whose data is the JSON of a view."""
    # ASCII, because some clients read U+2028 as the end of a line.
    data = json.dumps(body, separators=(",", ":"), default=members)
    return format_sse_event(data_str=data, event=event_type, id=event_id)


@dataclass(frozen=True)
class StreamRequest:
    """A request for the stream of a run.

    It begins after the event `after`. With `is_reconnect`, the client has seen this event in a stream. The
    stream ends after `seconds` or `bytes`, and the client may continue it.
    """

    run_id: str
    after: str | None
    is_reconnect: bool
    seconds: float
    bytes: float


class EventStreamResponse(EventSourceResponse):
    """A stream of the events of a run, which counts as open while it is sent.

    Problems are raised before the stream begins. Afterwards its client could not read them. The stream ends
    without `end` if its client is not accepted any more.
    """

    def __init__(
        self, request: StreamRequest, runs: RunService, watcher: RunWatcher, limit: OpenLimit
    ) -> None:
        super().__init__((), headers=STREAM_HEADERS)
        self._request = request
        self._runs = runs
        self._watcher = watcher
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._request
        with self._limit.open(self._runs.context.tenant):
            place, is_at_end = await run_in_threadpool(self._find_place)
            if is_at_end:
                await Response(status_code=204)(scope, receive, send)
                return
            with self._watcher.follow(request.run_id, self._runs.context.tenant) as feed:
                self.body_iterator = self._frames(feed, place, ClientCheck(scope))
                place_of(Request(scope)).give_up()
                await super().__call__(scope, receive, send)

    def _find_place(self) -> tuple[EventPlace, bool]:
        """Return the place after which the stream begins, and whether a browser has seen its end already."""
        run_id, after = self._request.run_id, self._request.after
        place = self._runs.find_event(run_id, after)
        is_at_end = self._request.is_reconnect and after is not None and self._runs.is_at_end(run_id, after)
        return place, is_at_end

    async def _frames(self, feed: RunFeed, place: EventPlace, client: ClientCheck) -> AsyncIterator[bytes]:
        request, clock = self._request, asyncio.get_running_loop().time
        ends_at, remaining = clock() + request.seconds, request.bytes
        after = request.after
        yield encode_retry()
        batches = self._watcher.read(
            feed, place, lambda: min(KEEP_ALIVE_SECONDS, max(ends_at - clock(), 0.0))
        )
        async for batch in batches:
            if not await client.passes():
                return
            for chunk in join_frames(batch, remaining):
                yield chunk
                remaining -= len(chunk)
            if remaining <= 0 or clock() >= ends_at:
                return
            if batch:
                after = write_event_id(request.run_id, batch[-1].place)
            else:
                yield KEEPALIVE_COMMENT
        if feed.is_complete and feed.position is not None:
            status = CurrentStatus(workflow_id=request.run_id, status=feed.position.status)
            yield encode_frame("end", status, after)


def join_frames(events: Sequence[EncodedEvent], limit: float) -> Iterator[bytes]:
    """Yield the frames of events, several together. The last one reaches the limit of bytes, or is the end.

    >>> events = [EncodedEvent((1, number), b"frame ") for number in range(4)]
    >>> list(join_frames(events, limit=13))
    [b'frame frame frame ']
    """
    frames, size = list[bytes](), 0
    for event in events:
        frames.append(event.frame)
        size += len(event.frame)
        limit -= len(event.frame)
        if size >= CHUNK_BYTES or limit <= 0:
            yield b"".join(frames)
            frames, size = [], 0
        if limit <= 0:
            return
    if frames:
        yield b"".join(frames)
