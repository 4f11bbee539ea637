"""Arriving data: a bound on what the actions of a process receive at the same time, in bytes.

Problem: the memory budget counts data that an action has returned. While an answer arrives and is decoded,
it takes several times its size, and many actions receive answers at once.

Algorithm: two nested counters of bytes, one for each run and one for the process (Source: admission control
in operating systems). An action reserves before it reads: the size that it expects from the counter of its
run, and what has arrived from both. It waits if a counter is exhausted. A call that holds bytes waits for
`PATIENCE_SECONDS` only, because another call may wait for these bytes. At the end of the call its bytes are
released. In a Lambda function, an action also reserves memory of the function (`AnswerMemory`), which it
keeps until its answer is saved.

Cost: one reservation for each `STEP_BYTES` that arrive.

Limits: half of the memory of the machine, or of what the code leaves of a Lambda function. At most 1 GiB,
unless NOETL_ANSWER_MEMORY says otherwise. A run gets half of that.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from weakref import WeakValueDictionary

from noetl.executor.errors import ActionError, CancelledError, SettingError
from noetl.executor.model.function_memory import free_bytes, read_function_bytes
from noetl.executor.model.memory_budget import AnswerMemory

STEP_BYTES = 64 * 1024
"""The smallest number of bytes that a call reserves ahead, if it expects as many."""

PATIENCE_SECONDS = 10.0
"""How long a call waits for memory while it holds some."""

VALUE_BYTES = 64
"""The memory of a small Python object, such as an empty list."""

POINTER_BYTES = 8
"""The memory of an item in a list, in addition to that of its object."""

MEMORY_SETTING = "NOETL_ANSWER_MEMORY"

BYTES_OF_ANSWER = 2
"""The bytes that a call holds for each character of its answer: those that have arrived, and the text."""

_MIB = 1024 * 1024
_DEFAULT_LIMIT = 1024 * _MIB
_POLL_SECONDS = 0.1


class ByteBudget:
    """A counter of bytes with a limit."""

    def __init__(self, limit: int, owner: str) -> None:
        self.limit = limit
        self.reserved = 0
        self._owner = owner
        self._changed = threading.Condition()

    def reserve(self, size: int, held: int, remaining_seconds: Callable[[], float]) -> None:
        """Reserve `size` bytes for a caller that holds `held` bytes. Wait until they are free.

        Raises:
            ActionError: `LimitExceeded`, if they are not free in time or exceed the limit; or what
                `remaining_seconds` raises.
        """
        if held + size > self.limit:
            raise self._error("an answer takes", retryable=False)
        patience = time.monotonic() + PATIENCE_SECONDS if held else float("inf")
        with self._changed:
            while self.reserved + size > self.limit:
                seconds = min(remaining_seconds(), patience - time.monotonic(), _POLL_SECONDS)
                if seconds <= 0:
                    raise self._error("the answers take", retryable=True)
                self._changed.wait(seconds)
            self.reserved += size

    def release(self, size: int) -> None:
        """Release reserved bytes."""
        with self._changed:
            self.reserved -= size
            self._changed.notify_all()

    def _error(self, subject: str, *, retryable: bool) -> ActionError:
        message = f"{subject} more than the {self.limit:,} bytes of memory for answers of {self._owner}"
        return ActionError("LimitExceeded", f"{message} ({MEMORY_SETTING})", retryable=retryable)


class ArrivingData:
    """The bytes that one call has reserved, in the budgets of its run and of the process.

    `answer` is what it reserves in the memory of a Lambda function.
    """

    def __init__(
        self,
        run: ByteBudget,
        process: ByteBudget,
        remaining_seconds: Callable[[], float],
        answer: AnswerMemory | None = None,
    ) -> None:
        self._answer = answer
        self._run = run
        self._process = process
        self._remaining_seconds = remaining_seconds
        self._expected = 0
        self._arrived = 0
        self._kept = 0
        self._is_over = False

    def keep(self, size: int) -> None:
        """Reserve `size` bytes up to the end of the call, in addition to those of `expect` and `hold`.

        Raises:
            ActionError: as `hold`.
        """
        self._kept += size
        self.hold(0)

    def expect(self, size: int) -> None:
        """Reserve `size` bytes of the run in all, before the first of them arrives.

        Raises:
            ActionError: as `hold`.
        """
        more = self._kept + size - self._expected
        if more > 0:
            if self._answer is not None:
                self._answer.grow((self._expected + more) // BYTES_OF_ANSWER, self._remaining_seconds)
            self._run.reserve(more, self._expected, self._remaining_seconds)
            self._expected += more

    def hold(self, size: int) -> None:
        """Reserve enough for `size` bytes in all, ahead in steps.

        Raises:
            ActionError: `LimitExceeded`; `Timeout`.
            CancelledError: the run was cancelled.
        """
        if self._is_over:
            # The thread of an abandoned call continues after its end.
            raise CancelledError
        missing = self._kept + size - self._arrived
        if missing <= 0:
            return
        more = max(missing, min(max(STEP_BYTES, self._arrived // 4), self._expected - self._arrived))
        self.expect(self._arrived + more - self._kept)
        self._process.reserve(more, self._arrived, self._remaining_seconds)
        self._arrived += more

    def release(self) -> None:
        """Release all bytes, for good."""
        self._is_over = True
        self._process.release(self._arrived)
        self._run.release(self._expected)
        self._arrived = self._expected = 0


class Arrivals:
    """The budgets of a process, by run."""

    def __init__(self, limit: int) -> None:
        self.process = ByteBudget(limit, "the process")
        self._runs: WeakValueDictionary[str, ByteBudget] = WeakValueDictionary()
        self._lock = threading.Lock()

    @contextmanager
    def receive(
        self, run_id: str, remaining_seconds: Callable[[], float], answer: AnswerMemory | None = None
    ) -> Iterator[ArrivingData]:
        """Provide the reservations of a call of a run. They are released at the end of the block.

        `remaining_seconds()` returns the time of the call, or raises the error that ends it. What is
        reserved for the `answer` is not released.
        """
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                run = self._runs[run_id] = ByteBudget(self.process.limit // 2, "a run")
        data = ArrivingData(run, self.process, remaining_seconds, answer)
        try:
            yield data
        finally:
            data.release()


@cache
def process_arrivals() -> Arrivals:
    """Return the budgets of this process."""
    return Arrivals(read_arrival_limit())


def read_arrival_limit(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many bytes of answers the actions of a process hold at once.

    Raises:
        SettingError: NOETL_ANSWER_MEMORY is not a whole number of MiB from 16 to 1,048,576.
    """
    text = environ.get(MEMORY_SETTING, "").strip()
    if text:
        if not text.isdecimal() or len(text) > 7 or not 16 <= int(text) <= 1_048_576:
            message = f"{MEMORY_SETTING} is {text!r}; it must be a whole number of MiB from 16 to 1048576."
            raise SettingError(message)
        return int(text) * _MIB
    return min(_DEFAULT_LIMIT, _memory_of_process(environ) // 2)


def _memory_of_process(environ: Mapping[str, str]) -> int:
    """Return the free memory of the Lambda function, or that of the machine, in bytes."""
    function_size = read_function_bytes(environ)
    if function_size is not None:
        return free_bytes(function_size)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 2 * _DEFAULT_LIMIT


def row_weight(row: Mapping[str, object]) -> int:
    """Return how much memory a row of scalars takes in a list of rows. Rows share the names of columns.

    >>> row_weight({"a": "x" * 1000}) > 1000 + 2 * VALUE_BYTES
    True
    """
    return POINTER_BYTES + sys.getsizeof(row) + sum(map(sys.getsizeof, row.values()))


def json_weight(text: str) -> int:
    r"""Return about how much memory the values of a JSON text take, in bytes, without decoding it.

    >>> json_weight("[[], [], 1]") == 5 * VALUE_BYTES + 11
    True
    """
    return (text.count(",") + text.count("[") + text.count("{")) * VALUE_BYTES + len(text)
