"""The memory budget of an attempt: a bound on the data that its work holds at once.

Problem: a store refuses data that is too large, but only when the work is done. By then, a loop may have
built more than the machine has memory for.

Algorithm: admission control with one shared counter (Source: admission control in operating systems). Work
reserves the size of the names it saves, of the items of its loops, and of their results so far. It releases
the size when it drops the data. Sizes are the lengths of compact JSON, estimated from below, so that nothing
is refused which a store would accept.

Cost: one traversal of each value that is reserved.

Limits: `MAX_RESERVED` for one attempt; past it, the action fails with `PayloadTooLarge`. The real size of a
Python object is a small multiple of the size of its JSON. In a Lambda function, the attempts of a batch also
share `FunctionMemory`. There an action reserves memory for its answer before it arrives. What is saved next
in the thread of the action takes this reservation over, so that no other attempt gets it in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from noetl.executor.errors import ActionError, CancelledError, PayloadTooLargeError
from noetl.executor.model.function_memory import SMALL_SIZE, FunctionMemory, function_memory

MAX_RESERVED = 256 * 1024 * 1024
"""The most that the work of an attempt may hold, in characters of JSON."""

MAX_LOOP_RESULT = 64 * 1024 * 1024
"""The largest result of a loop with batches, in characters of JSON. The last batch reads all of it at once.
"""


class MemoryBudget:
    """A counter of the data that work holds, shared by all threads of the work.

    In a Lambda function, `shared` is what all work of the process holds.
    """

    def __init__(self, limit: int = MAX_RESERVED, shared: FunctionMemory | None = None) -> None:
        self._limit = limit
        self._shared = shared or function_memory()
        self._reserved = 0
        self._answers: dict[int, AnswerMemory] = {}
        """The answers that were not saved yet, by the thread of their action."""
        self._lock = threading.Lock()

    @property
    def is_shared(self) -> bool:
        """True in a Lambda function."""
        return self._shared is not None

    def reserve(self, size: int) -> None:
        """Reserve `size` characters. The last answer of this thread counts for them.

        Raises:
            ActionError: `PayloadTooLarge`, if the budget would be exceeded.
        """
        with self._lock:
            if size > 0 and self._reserved + size > self._limit:
                message = f"the work of the step holds more than {self._limit:,} characters of JSON"
                raise ActionError("PayloadTooLarge", message, retryable=False)
            self._reserved += size
            held = self._reserved - size
        if self._shared is not None:
            self._reserve_shared(self._shared, size, held)

    def reserve_commit(self, size: int) -> None:
        """Reserve what a commit writes, in `size` characters, unless as many are reserved already.

        Only a Lambda function needs this: elsewhere, the limits of the store suffice. A small commit, such as
        that of a refusal, is counted in any case. So a step always ends.

        Raises:
            PayloadTooLargeError: the budget would be exceeded.
        """
        if self._shared is None or size <= self._reserved:
            return
        if size <= SMALL_SIZE:
            self.count(size - self._reserved)
        else:
            try:
                self.reserve(size - self._reserved)
            except ActionError as problem:
                raise PayloadTooLargeError(problem.message) from None

    def receiving(self) -> AbstractContextManager[AnswerMemory | None]:
        """Return a block for a call in this thread, with the memory of its answer, or None if none counts.

        After the block, the reservation stays until this thread saves data or begins another call.
        """
        return nullcontext() if self._shared is None else self._receiving(self._shared)

    @contextmanager
    def _receiving(self, shared: FunctionMemory) -> Iterator[AnswerMemory]:
        # The last answer of this thread was dropped, unless it was saved.
        self._keep_answer(None)
        answer = AnswerMemory(shared, lambda: self._reserved)
        try:
            yield answer
        except BaseException:
            answer.release()
            raise
        self._keep_answer(answer)

    def _keep_answer(self, answer: AnswerMemory | None) -> None:
        """Remember the last answer of this thread, and release the one before."""
        last = self._take_answer()
        if last is not None:
            last.release()
        if answer is not None:
            with self._lock:
                self._answers[threading.get_ident()] = answer

    def close(self) -> None:
        """Release all that is reserved, at the end of the work."""
        with self._lock:
            answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.release()
        self.count(-self._reserved)

    def _take_answer(self) -> AnswerMemory | None:
        with self._lock:
            return self._answers.pop(threading.get_ident(), None)

    def _reserve_shared(self, shared: FunctionMemory, size: int, held: int) -> None:
        if size <= 0:
            shared.count(size)
            return
        answer = self._take_answer()
        arrived = 0 if answer is None else answer.give_up()
        if arrived >= size:
            shared.count(size - arrived)
            return
        try:
            shared.reserve(size - arrived, held + arrived)
        except ActionError:
            shared.count(-arrived)
            with self._lock:
                self._reserved -= size
            raise

    def count(self, size: int) -> None:
        """Count `size` characters that the work holds in any case, also past the limit."""
        with self._lock:
            self._reserved += size
        if self._shared is not None:
            self._shared.count(size)

    def release(self, size: int) -> None:
        """Release `size` reserved characters."""
        self.count(-size)

    @contextmanager
    def reserved(self, value: Any) -> Iterator[None]:
        """Reserve the size of a value during this block.

        Raises:
            ActionError: `PayloadTooLarge`, if the budget would be exceeded.
        """
        size = json_size(value)
        self.reserve(size)
        try:
            yield
        finally:
            self.release(size)


class AnswerMemory:
    """The characters that a call has reserved for its answer, in the memory of a Lambda function.

    `held()` are the characters that its visit holds.
    """

    def __init__(self, shared: FunctionMemory, held: Callable[[], int]) -> None:
        self._shared = shared
        self._held = held
        self._reserved = 0
        self._is_over = False
        self._lock = threading.Lock()

    def grow(self, size: int, remaining_seconds: Callable[[], float]) -> None:
        """Reserve up to `size` characters in all. `remaining_seconds()` returns the time of the action.

        Raises:
            ActionError: `PayloadTooLarge`, if others hold too much; or what `remaining_seconds` raises.
            CancelledError: the call is over, and its thread was abandoned.
        """
        if size <= self._reserved:
            return
        more = self._shared.reserve_answer(size - self._reserved, self._held, remaining_seconds)
        with self._lock:
            if not self._is_over:
                self._reserved += more
                return
        self._shared.count(-more)
        raise CancelledError

    def give_up(self) -> int:
        """Return how many characters are reserved, which belong to the caller from now on."""
        with self._lock:
            self._is_over = True
            reserved, self._reserved = self._reserved, 0
        return reserved

    def release(self) -> None:
        """Release all characters, for good."""
        self._shared.count(-self.give_up())


def json_size(value: Any) -> int:
    """Return the length of a value as compact JSON, or slightly less.

    >>> json_size({"name": ["a", "b"]})
    18
    """
    size = 0
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text:
                size += len(text) + 2
            case dict() as entries:
                size += 1
                for key, item in entries.items():
                    size += len(key) + 4 if isinstance(key, str) else 4
                    pending.append(item)
            case list() | tuple() as items:
                size += len(items) + 1
                pending.extend(items)
            case bool() | None:
                size += 4
            case int() as number:
                size += max(number.bit_length() - 1, 0) * 3 // 10 + 1
            case _:
                size += 3
    return size
