"""Handling of Ctrl-C and SIGTERM: a signal sets a flag, and the command ends where it checks the flag."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from noetl.api.cli.display.console import EXIT_INTERRUPTED

_REPEAT_SECONDS = 1.0
"""Time within which a second signal is ignored: a terminal and a parent process may both send one."""


class Interruption:
    """A context in which Ctrl-C and SIGTERM set a flag and raise nothing.

    An exception in the middle of a lock or a query could leave it in an inconsistent state. A second signal,
    if it comes later than `_REPEAT_SECONDS`, ends the process and its commands immediately.

    Python delivers signals to the main thread only. In other threads the flag is never set.
    """

    def __init__(self) -> None:
        self._requested_at: float | None = None
        self._arrivals: socket.socket | None = None
        self._arrivals_sender: socket.socket | None = None
        self._previous_wakeup = -1
        self._previous_handlers: dict[
            signal.Signals, Callable[[int, FrameType | None], Any] | int | None
        ] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._arrivals, self._arrivals_sender = socket.socketpair()
            self._arrivals_sender.setblocking(False)
            self._previous_wakeup = signal.set_wakeup_fd(
                self._arrivals_sender.fileno(), warn_on_full_buffer=False
            )
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if self._arrivals is not None and self._arrivals_sender is not None:
            signal.set_wakeup_fd(self._previous_wakeup)
            self._arrivals_sender.close()
            self._arrivals.close()

    def wait(self) -> None:
        """Block until a signal arrives.

        Python runs a handler when the main thread executes its next instruction. A lock or a queue would miss
        a signal that arrives just before the thread blocks, or that the kernel gives to another thread. The
        byte that Python writes for every signal (`signal.set_wakeup_fd`) is still there in both cases.
        """
        assert self._arrivals is not None, "wait for a signal in the main thread, in the context"
        while not self.is_requested:
            self._arrivals.recv(1)

    @property
    def is_requested(self) -> bool:
        return self._requested_at is not None

    def raise_if_requested(self) -> None:
        """Raise if a signal has arrived.

        Raises:
            KeyboardInterrupt: a signal has arrived.
        """
        if self.is_requested:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._requested_at is None:
            self._requested_at = now
        elif now - self._requested_at >= _REPEAT_SECONDS:
            exit_immediately()


def exit_immediately() -> None:
    """End the process and the commands that it has started, without waiting for threads or clean-up."""
    try:
        process = sys.modules.get("noetl.executor.actions._process")
        if process is not None:
            process.end_all_commands()
        for stream in (sys.stdout, sys.stderr):
            # The signal may have arrived during a write, and the reader of a pipe may have closed it.
            with suppress(OSError, RuntimeError, ValueError):
                stream.flush()
    finally:
        os._exit(EXIT_INTERRUPTED)
