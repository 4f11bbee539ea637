"""Trials: work that is tried again later if it fails, and that must not stop the work that follows it."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from noetl.executor.errors import RejectedError, StoreAwayError, StoreError, TriggerChangedError
from noetl.executor.model.triggers import LiveTrigger

logger = logging.getLogger("noetl.executor")


class Trial:
    """A block of work whose failure is logged and ends the block, not the caller.

    `problem` is the failure, or None. A store that is away fails all work, so this failure is raised.
    A failure that is no refusal and none of the store is a bug, and is logged with its traceback.
    """

    def __init__(self, subject: str) -> None:
        self.problem: Exception | None = None
        self._subject = subject

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, StoreAwayError):
            return False
        self.problem = error
        if isinstance(error, RejectedError | StoreError | TriggerChangedError):
            logger.warning("%s is tried again: %s", self._subject, error)
        else:
            logger.error("%s failed; it is tried again", self._subject, exc_info=error)
        return True


def try_trigger(trigger: LiveTrigger) -> Trial:
    """Return a trial of the firing of a trigger."""
    return Trial(f"trigger {trigger.name} of {trigger.playbook}")
