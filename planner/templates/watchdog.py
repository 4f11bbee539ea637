"""The watchdog: a thread that interrupts evaluations which run on past their end.

Problem: `budget.charge` stops an evaluation at its limits. Work that never charges would run for ever, and a
thread of Python cannot be killed. A mistake in one charge must not cost a worker its thread.

Algorithm: an asynchronous exception (`PyThreadState_SetAsyncExc`), which the interpreter raises in the other
thread before one of its next instructions. The watchdog and the evaluation share a list with one entry, the
right to interrupt. `list.pop` is atomic, so exactly one of them takes it. The evaluation takes it when it
ends; then no exception can arrive later. If the watchdog was faster, the evaluation waits for the exception,
so that no other code receives it. At its next visit the watchdog withdraws an exception that has not arrived,
and gives the right back. It interrupts again if the evaluation still runs: Python drops an exception that
arrives in a callback of the garbage collector or in `__del__`. No lock is held: an exception between two
instructions could leave it locked.

Cost: about a microsecond for each evaluation, nothing while it runs. The thread sleeps unless there are
evaluations.

Limits: an evaluation that ignores its end is interrupted about 0.1 s later. A single operation of Python's
own library is not interrupted; the budget limits its work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from noetl.planner.templates import budget
from noetl.planner.templates.budget import EvaluationStopped, FindStop, LimitExceeded

POLL_SECONDS = 0.05
"""How often the watchdog visits the running evaluations."""

GRACE_SECONDS = 0.25
"""How much more time of the processor than its limit an evaluation may use, if it never charges."""

_WALL_FACTOR = 10
_DELIVERY_SECONDS = 5.0

T = TypeVar("T")


class Interrupted(BaseException):
    """The exception that the watchdog raises in the thread of an evaluation."""


@dataclass(slots=True, eq=False)
class _Evaluation:
    """A running evaluation: its thread, its limits, and the right to interrupt it.

    `deadline` is in seconds of the clock `clock_id`, which counts the time of the thread on a processor.
    `is_interrupted` is true from an interruption to the next visit: then the watchdog has the right.
    """

    thread_id: int
    clock_id: int | None
    deadline: float
    find_stop: FindStop
    started_at: float
    right: list[None] = field(default_factory=lambda: [None])
    was_overdue: bool = False
    is_interrupted: bool = False

    def finish(self) -> None:
        """Take the right to interrupt. While the watchdog has it, wait for its exception."""
        patience_ends_at = time.monotonic() + _DELIVERY_SECONDS
        while time.monotonic() < patience_ends_at:
            try:
                self.right.pop()
            except IndexError:
                time.sleep(0.001)
            else:
                return

    def finish_interrupted(self) -> None:
        """Take the right to interrupt, after an exception of the watchdog has arrived."""
        while True:
            try:
                self.finish()
            except Interrupted:
                continue
            return

    def must_be_interrupted(self) -> bool:
        """Return whether the evaluation has ignored its end since the last visit, or its time is used up."""
        if self.find_stop() is not None:
            was_overdue, self.was_overdue = self.was_overdue, True
            return was_overdue
        if self.clock_id is None:
            return time.monotonic() > self.started_at + _WALL_FACTOR * budget.CPU_SECONDS
        try:
            return time.clock_gettime(self.clock_id) > self.deadline + GRACE_SECONDS
        except OSError:  # the thread has ended
            return False

    def visit(self) -> None:
        """Interrupt the evaluation if it must be, or withdraw the exception of the last visit."""
        if self.is_interrupted:
            self._raise_in_thread(None)
            self.is_interrupted = False
            self.right.append(None)
        elif self.must_be_interrupted():
            self.interrupt()

    def interrupt(self) -> None:
        try:
            self.right.pop()
        except IndexError:
            return
        self.is_interrupted = True
        self._raise_in_thread(Interrupted)

    def _raise_in_thread(self, exception: type[BaseException] | None) -> None:
        """Raise `exception` in the thread, instead of one that has not arrived yet. None raises nothing."""
        import ctypes

        argument = None if exception is None else ctypes.py_object(exception)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread_id), argument)


class _Watchdog:
    """The thread of the watchdog, which starts with the first evaluation, and the running evaluations."""

    def __init__(self) -> None:
        self.running: dict[int, _Evaluation] = {}
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, evaluation: _Evaluation) -> None:
        self.running[evaluation.thread_id] = evaluation
        if not self._is_needed.is_set():
            self._is_needed.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._visit, name="noetl-watchdog", daemon=True)
                self._thread.start()

    def _visit(self) -> None:
        while True:
            self._is_needed.wait()
            time.sleep(POLL_SECONDS)
            for evaluation in list(self.running.values()):
                evaluation.visit()
            if not self.running:
                self._is_needed.clear()
                if self.running:  # an evaluation began in between
                    self._is_needed.set()


_watchdog = _Watchdog()


def _reset() -> None:
    """Replace the watchdog of the parent process, whose thread a fork does not copy."""
    global _watchdog  # noqa: PLW0603 - one watchdog for each process
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


class _ThreadClock(threading.local):
    """The identity of this thread and its clock."""

    def __init__(self) -> None:
        self.id = threading.get_ident()
        has_clock = hasattr(time, "pthread_getcpuclockid")
        self.clock_id = time.pthread_getcpuclockid(self.id) if has_clock else None


_thread = _ThreadClock()


def run_watched(evaluate: Callable[[], T]) -> T:
    """Return `evaluate()`, within the time of the current budget.

    Raises:
        EvaluationStopped: the evaluation must stop, and did not notice it.
        LimitExceeded: its time is used up, and it did not notice it.
    """
    deadline, find_stop = budget.current_limits()
    evaluation = _Evaluation(_thread.id, _thread.clock_id, deadline, find_stop, time.monotonic())
    watchdog = _watchdog
    try:
        watchdog.watch(evaluation)
        try:
            result = evaluate()
        except Interrupted:
            raise
        except BaseException:
            evaluation.finish()
            raise
        evaluation.finish()
    except Interrupted:
        evaluation.finish_interrupted()
        reason = find_stop()
        if reason is not None:
            raise EvaluationStopped(reason) from None
        raise LimitExceeded(f"the expression takes more than {budget.CPU_SECONDS:g} s") from None
    finally:
        watchdog.running.pop(evaluation.thread_id, None)
    return result
