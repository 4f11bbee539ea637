"""Damaged runs: data of one run is missing or cannot be read, and the run is set aside.

Problem: a run without its plan, or with a row that cannot be decoded, fails each time that it is claimed. It
has been due longest, so each worker would claim it first, and all other runs would wait.

Algorithm: the dead letter channel (Hohpe and Woolf 2003). The first reader that fails sets the run aside: the
store remembers the reason, and no claim finds its visits. Nothing of the run is deleted. After a repair,
`noetl doctor --fix` puts all such runs back. One that is still damaged is set aside again.

A list leaves out an entry that cannot be decoded, and logs its run once, so that all other entries are shown.

Cost: nothing for a sound run.

Limits: damage of the store itself concerns all runs, and is a StoreError without a run.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import TypeVar

from noetl.executor.errors import DamagedRunError
from noetl.executor.model.run import ErrorRecord

RUN_DAMAGED = "RunDamaged"
"""The type of the error that clients see of a run that was set aside."""

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, EOFError, zlib.error)
"""The errors of a decoder whose argument is damaged."""

_UNNAMED = "Data of a run"
"""How the message of a decoder begins that does not know its run. The caller names the run."""

_MAX_LOGGED_RUNS = 1000
"""How many runs are remembered as logged, since lists are read often."""

Entry = TypeVar("Entry")
Value = TypeVar("Value")

logger = logging.getLogger("noetl.executor")


def missing_plan(plan_hash: str) -> DamagedRunError:
    """Return the error of a plan that a run names, and that the store does not have."""
    return DamagedRunError(f"The store has no plan {plan_hash}, or a part of it is missing.")


def missing_run(run_id: str) -> DamagedRunError:
    """Return the error of a visit whose run the store does not have."""
    return DamagedRunError(f"The store has a visit of run {run_id}, and not the run.", run_id)


def unreadable_plan(plan_hash: str, error: Exception) -> DamagedRunError:
    """Return the error of a plan that cannot be decoded."""
    return DamagedRunError(f"Plan {plan_hash} cannot be read: {describe_damage(error)}.")


def unreadable_run(run_id: str, error: Exception) -> DamagedRunError:
    """Return the error of a run whose data cannot be decoded."""
    return DamagedRunError(f"Data of run {run_id} cannot be read: {describe_damage(error)}.", run_id)


def describe_damage(error: Exception) -> str:
    """Return what a decoder has found, without values of the run.

    >>> describe_damage(KeyError("names"))
    'KeyError'
    """
    return type(error).__name__


def damage_record(damage: str | None, *, has_ended: bool = False) -> ErrorRecord | None:
    """Return the error record with which clients see why a run was set aside, or None if it was not."""
    if damage is None:
        return None
    subject = "a part of the run is missing" if has_ended else "the run waits"
    return ErrorRecord(
        type=RUN_DAMAGED,
        message=f"{subject} until its store is repaired: {damage}",
        action=None,
        step=None,
        attempt=1,
        retryable=False,
        status=None,
        details=None,
    )


def reading_run(run_id: str) -> _RunBlock:
    """Raise DamagedRunError if data of a run cannot be decoded within this block, which only reads."""
    return _RunBlock(run_id, UNREADABLE)


def naming_run(run_id: str) -> _RunBlock:
    """Name a run in each DamagedRunError of this block. Any other error may be one of noetl itself."""
    return _RunBlock(run_id, ())


class _RunBlock:
    """A block that handles data of a run, in which errors of the types `unreadable` are damage of the run.

    A status of 4,000 visits has as many blocks, so it is no generator.
    """

    __slots__ = ("_run_id", "_unreadable")

    def __init__(self, run_id: str, unreadable: tuple[type[Exception], ...]) -> None:
        self._run_id = run_id
        self._unreadable = unreadable

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, DamagedRunError):
            message = error.message.replace(_UNNAMED, f"Data of run {self._run_id}", 1)
            raise DamagedRunError(message, error.run_id or self._run_id) from error
        if isinstance(error, self._unreadable):
            raise unreadable_run(self._run_id, error) from error


@contextmanager
def decoding() -> Iterator[None]:
    """Raise DamagedRunError if stored data cannot be decoded within this block, or by this function."""
    try:
        yield
    except UNREADABLE as error:
        raise DamagedRunError(f"{_UNNAMED} cannot be read: {describe_damage(error)}.") from error


def decode_readable(
    entries: Iterable[Entry], decode: Callable[[Entry], Value], run_id_of: Callable[[Entry], str]
) -> list[tuple[Entry, Value]]:
    """Return the entries of a list with what they are decoded to, without those that cannot be decoded.

    >>> decode_readable(["1", "2"], int, str)
    [('1', 1), ('2', 2)]
    """
    found = []
    for entry in entries:
        try:
            found.append((entry, decode(entry)))
        except (DamagedRunError, *UNREADABLE) as error:
            _log_left_out(run_id_of(entry), describe_damage(error))
    return found


@lru_cache(_MAX_LOGGED_RUNS)
def _log_left_out(run_id: str, reason: str) -> None:
    fields = {"workflow_id": run_id, "damage": reason}
    message = "run %s cannot be read, and lists leave it out; run `noetl doctor`: %s"
    logger.error(message, run_id, reason, extra={"fields": fields})


def log_set_aside(run_id: str, reason: str) -> None:
    """Log that a run was set aside."""
    fields = {"workflow_id": run_id, "damage": reason}
    message = "run %s is damaged and was set aside; repair it, then run `noetl doctor --fix`: %s"
    logger.error(message, run_id, reason, extra={"fields": fields})
