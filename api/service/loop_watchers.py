"""One watcher for each event loop that runs the app, and the end of all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar


class StoppableWatcher(Protocol):
    """A watcher of one event loop."""

    def stop(self) -> None:
        """Let all followers return. Only the event loop may call it."""
        ...


W = TypeVar("W", bound=StoppableWatcher)


class LoopWatchers(Generic[W]):
    """The watchers of an app, one for each event loop that runs it. `create` returns a new one."""

    def __init__(self, create: Callable[[], W]) -> None:
        self._create = create
        self._lock = threading.Lock()
        self._watchers: dict[asyncio.AbstractEventLoop, W] = {}
        self._is_stopping = False

    def current(self) -> W:
        """Return the watcher of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            watcher = self._watchers.get(loop)
            if watcher is None:
                # Most servers have one loop. Lambda and test clients may create many.
                self._watchers = {loop: old for loop, old in self._watchers.items() if not loop.is_closed()}
                watcher = self._watchers[loop] = self._create()
            if self._is_stopping:
                watcher.stop()
            return watcher

    def stop(self) -> None:
        """Let the followers of all watchers return soon. Any thread may call it, also a signal handler."""
        self._is_stopping = True
        for loop, watcher in list(self._watchers.items()):
            with suppress(RuntimeError):  # The loop may be closed.
                loop.call_soon_threadsafe(watcher.stop)
