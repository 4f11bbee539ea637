"""Being asked to end: noted when it happens, acted on where nothing is left half done."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any, Self

from noetl.api.cli.display.console import INTERRUPTED

_IMPATIENT_SECONDS = 1.0
"""Asked again within this time is asked once: a terminal and the parent of a process may both tell it."""


class Interruption:
    """Within it, Ctrl-C and SIGTERM are noted, and raise nothing where they happen: in the middle of a lock or of a query
    an exception would leave either in a state that nobody has thought of. Who is asked again, and not by the same breath,
    ends the process and the commands it has started at once.

    Only the main thread hears of signals: in others, nothing is ever noted.
    """

    def __init__(self) -> None:
        self._asked_at: float | None = None
        # The one queue of the standard library that a signal handler may put into at any moment.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """Return when asked to end."""
        self._news.get()

    @property
    def is_asked(self) -> bool:
        return self._asked_at is not None

    def check(self) -> None:
        """Return if nobody has asked to end.

        Raises:
            KeyboardInterrupt: somebody has.
        """
        if self.is_asked:
            raise KeyboardInterrupt

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._news.put(None)
        elif now - self._asked_at >= _IMPATIENT_SECONDS:
            leave_at_once()


def leave_at_once() -> None:
    """End the process, after the commands that it has started. It waits for no thread, and takes nothing apart."""
    try:
        process = sys.modules.get("noetl.executor.actions._process")
        if process is not None:
            process.end_all_commands()
        for stream in (sys.stdout, sys.stderr):
            # It may have been interrupted in the middle of writing, and whoever reads it may be gone.
            with suppress(OSError, RuntimeError, ValueError):
                stream.flush()
    finally:
        os._exit(INTERRUPTED)
