"""Interface between action types and the engine: the call of a handler, and what a handler may use.

An action type is a module with a declaration (`DECLARATION`) for the planner and a handler (`perform`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import field
from typing import Any, Protocol

from noetl.executor.errors import CancelledError, timeout_error
from noetl.executor.model.arriving_data import ArrivingData, process_arrivals
from noetl.executor.model.memory_budget import AnswerMemory
from noetl.executor.model.run import DEFAULT_TENANT, NEVER, Run, Wait
from noetl.executor.model.wait_transition import AnswerDeclaration
from noetl.executor.security.capabilities import Capabilities
from noetl.planner.catalogue import ActionDeclaration, PlaybookCall
from noetl.planner.frozen import frozen, replace

DEFAULT_TIMEOUT_SECONDS = 3600.0
"""Time limit of a request or statement without `timeout`."""


class Suspend(Exception):
    """Request of a handler to suspend the visit, so that it waits without a thread or an invocation.

    The engine calls the handler again at `due_at` (seconds since the epoch), or when the external wait
    `wait_id` has its answer. That call has the same `state`, which must be JSON data.
    """

    def __init__(self, state: Any, due_at: float = NEVER, wait_id: str | None = None) -> None:
        super().__init__()
        self.state = state
        self.due_at = due_at
        self.wait_id = wait_id


class ExternalWaits(Protocol):
    """Waits of one visit for something outside of its step: callbacks and child runs.

    Every method may raise StoreError.
    """

    def open_wait(
        self, wait_id: str, declared: AnswerDeclaration | None = None, expires_at: float = NEVER
    ) -> dict[str, str]:
        """Create a token that answers the wait. An answer must have the fields in `declared`, if it is given.

        The list of open waits is in the order of `expires_at`.

        Return the token as `token`, and the address that takes the answer as `url` if it is known. Only the
        hash of the token is stored.
        """
        ...

    def read_wait(self, wait_id: str) -> Wait:
        """Return the state of the wait."""
        ...

    def close_wait(self, wait_id: str) -> Wait:
        """Refuse later answers to the wait and return it. An answer that arrived before stays."""
        ...

    def start_run(
        self, wait_id: str, called: PlaybookCall, input: Mapping[str, Any], *, detached: bool
    ) -> Run:
        """Start a run of a playbook. Its end answers the wait unless it is detached. Idempotent.

        Raises:
            ActionError: the playbook is unknown, it rejects the input, or runs are nested too deeply.
        """
        ...

    def read_run(self, run_id: str) -> Run:
        """Return a run that this visit started."""
        ...

    def cancel_run(self, run_id: str) -> None:
        """Cancel a run that this visit started, unless it has ended."""
        ...

    def resume_run(self, run_id: str) -> None:
        """Resume a run that this visit started and that did not succeed. Its end answers the wait again."""
        ...


@frozen
class Call:
    """One call of a handler: the rendered parameters of an action and its context.

    `deadline` is a time of `time.monotonic`; the handler must raise `Timeout` by then. `limit` says in words
    which time limit ends there. `tenant` is that of the run. `traceparent` and
    `tracestate` are the W3C trace context for requests to other services. The second may be empty.
    `check_host` raises `AccessDenied` if a secret in the parameters must not go to a host. Call it before you
    send something to another host than the destination. `count_written` raises `LimitExceeded` if the run
    would write too many bytes to files. Call it before you write a number of bytes. `answer_memory` is what
    the call reserves for its answer in the memory of a Lambda function. `keep_output` adds the output
    of a command to the lines of the run: (`stdout` or `stderr`, text).

    The other fields are for handlers that suspend:

    - `now`: seconds since the epoch.
    - `state`: the state of the last `Suspend`, or None in the first call.
    - `is_resumed`: whether the run was resumed after this step failed or the run ended.
    - `wait_id`: the id for a wait that begins in this call.
    - `timeout_seconds`: the `timeout` of the action, or None.
    - `perform_action`: performs an action that is a parameter, with additional names in its templates.
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
    state: Any = None
    wait_id: str = ""
    is_resumed: bool = False
    timeout_seconds: float | None = None
    external_waits: ExternalWaits | None = None
    perform_action: Callable[[Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    traceparent: str = ""
    check_host: Callable[[str], object] = str
    tracestate: str = ""
    count_written: Callable[[int], object] = int
    answer_memory: AnswerMemory | None = None
    keep_output: Callable[[str, str], object] = lambda _stream, _text: None
    limit: str = ""
    tenant: str = DEFAULT_TENANT

    def with_default_timeout(self, seconds: float) -> Call:
        """Return a copy that ends after `seconds`, or this call if the action has a `timeout`."""
        end = time.monotonic() + seconds
        if self.timeout_seconds is not None or end >= self.deadline:
            return self
        return replace(self, deadline=end, limit=f"the limit of {seconds:g} s that holds without `timeout`")

    def remaining_seconds(self) -> float:
        """Return the seconds until the deadline.

        Raises:
            ActionError: `Timeout`, if the deadline has passed.
            CancelledError: the run was cancelled.
        """
        if self.cancelled.is_set():
            raise CancelledError
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise timeout_error(self.limit)
        return left

    def receive(self) -> AbstractContextManager[ArrivingData]:
        """Return a block that counts the bytes that arrive for this call, and releases them at its end.

        A handler reserves before it reads or decodes: `with call.receive() as arriving: arriving.hold(n)`.
        """
        run_id = str(self.labels.get("run", ""))
        return process_arrivals().receive(run_id, self.remaining_seconds, self.answer_memory)


class ActionModule(Protocol):
    """A module of `noetl.executor.actions`, or what an entry point of the group `noetl.actions` loads."""

    DECLARATION: ActionDeclaration

    def perform(self, call: Call) -> Any:
        """Perform the action and return the data of its result as JSON values.

        Raises:
            ActionError: the action failed. Any other exception is a bug of the handler.
            Suspend: the action waits; only if `DECLARATION.suspends`.
        """
        ...
