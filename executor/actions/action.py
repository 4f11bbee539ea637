"""What every action type is made of: a declaration for the planner and a function that performs it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any, Protocol

from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.run import NEVER, Run, Wait
from noetl.executor.security.capabilities import Capabilities
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.frozen import record

UNTOLD_SECONDS = 3600.0
"""How long a request or a statement may take whose author does not say."""


class Suspend(Exception):
    """Raised by a handler that waits for something with nothing held.

    The handler is called again at `due_at` (seconds since the epoch), or when the wait `awaits` has its answer. It finds
    `memory`, which must be plain data, in its call then.
    """

    def __init__(self, memory: Any, due_at: float = NEVER, awaits: str | None = None) -> None:
        super().__init__()
        self.memory = memory
        self.due_at = due_at
        self.awaits = awaits


class Outside(Protocol):
    """What an action that waits may ask about the world outside its step. Every method may raise StoreError."""

    def open(self, wait: str) -> dict[str, str]:
        """A new token with which the wait can be answered, under `token`, and the address to send the answer to, under
        `url`. Only the hash of the token is kept.
        """
        ...

    def wait(self, wait: str) -> Wait:
        """What is known of the wait."""
        ...

    def close(self, wait: str) -> Wait:
        """The wait, which from now on is answered no more; one that had an answer before keeps it."""
        ...

    def start(
        self, wait: str, playbook: str, version: str | None, given: Mapping[str, Any], *, detached: bool
    ) -> Run:
        """A run of a playbook, whose end answers the wait unless it is detached. Starting it again changes nothing.

        Raises:
            ActionError: there is no such playbook, it does not take this input, or runs start each other too deeply.
        """
        ...

    def run(self, run_id: str) -> Run:
        """A run that was started here."""
        ...

    def cancel(self, run_id: str) -> None:
        """Cancel a run that was started here, unless it has ended."""
        ...

    def resume(self, run_id: str) -> None:
        """Go on with a run that was started here and has ended without success; its end answers the wait again."""
        ...


@record
class Call:
    """One attempt of one action: its rendered parameters and what surrounds it.

    `deadline` is on the clock of `time.monotonic`. A handler gives up by then, with `Timeout`. `traceparent` tells
    others which trace the work belongs to. The rest is for actions that
    wait: `now` is in seconds since the epoch, `memory` what the handler said when it suspended, `again` whether the step has
    failed or its run has ended since and is gone on with, `wait` the id for a wait that begins now, `timeout_seconds` how
    long it may last (None: for ever), and `act` performs an action that is a parameter, with names known in it besides.
    """

    parameters: Mapping[str, Any]
    idempotency_key: str
    deadline: float
    capabilities: Capabilities = field(default_factory=Capabilities)
    labels: Mapping[str, Any] = field(default_factory=dict)
    log: Callable[[str, str, Mapping[str, Any]], None] = field(
        default=lambda level, message, fields: logging.getLogger("noetl.playbook").log(
            logging.getLevelNamesMapping()[level.upper()], message, extra={"fields": fields}
        )
    )
    cancelled: threading.Event = field(default_factory=threading.Event)
    now: float = 0.0
    memory: Any = None
    wait: str = ""
    again: bool = False
    timeout_seconds: float | None = None
    outside: Outside | None = None
    act: Callable[[Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    traceparent: str = ""

    def within(self, seconds: float) -> Call:
        """The call, which ends after `seconds` where its author does not say how long it may take."""
        if self.timeout_seconds is not None:
            return self
        return replace(self, deadline=min(self.deadline, time.monotonic() + seconds))

    def remaining_seconds(self) -> float:
        """The time left.

        Raises:
            ActionError: `Timeout`, when there is none.
            CancelledError: the run was cancelled.
        """
        if self.cancelled.is_set():
            raise CancelledError
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise ActionError("Timeout", "the action ran out of time")
        return left


class ActionModule(Protocol):
    """A module of `noetl.executor.actions`, or what an entry point of the group `noetl.actions` loads."""

    DECLARATION: ActionDeclaration

    def perform(self, call: Call) -> Any:
        """Do it, and return the result's data as plain JSON values.

        Raises:
            ActionError: it failed; nothing else may escape but bugs.
            Suspend: it waits, as the declaration says it may.
        """
        ...
