"""The failures of work, and the errors of the executor itself. Standard library only."""

from __future__ import annotations

from typing import Any


class ActionError(Exception):
    """Work failed, for a reason that a playbook can react to.

    `type` is one of the error types of the language or one that a handler names. `retryable` is false for errors that
    cannot get better by trying again. `status` is the HTTP status, when there was one.
    """

    def __init__(
        self,
        type: str,
        message: str,
        *,
        retryable: bool = True,
        status: int | None = None,
        details: Any = None,
    ) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.retryable = retryable
        self.status = status
        self.details = details


class SettingError(Exception):
    """The environment is not as it must be. The message is a sentence that names the setting."""


class StoreError(Exception):
    """The store cannot be opened or used. The message says which and why."""


class SchemaError(StoreError):
    """The store is one of another version. The message says what to do."""


class MessageError(Exception):
    """A message of a queue is not one that this version of the executor has written."""


class RejectedError(Exception):
    """A request cannot be done as things stand; nothing was changed. `reason` is a short slug for programs."""

    def __init__(self, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.details = details


class CancelledError(Exception):
    """The run was cancelled while its work was being done, which is therefore abandoned."""


class FencedError(Exception):
    """A commit came from a claimant that had lost its claim; nothing was written."""


class NotJsonError(Exception):
    """What a step saved is not data that JSON can say; nothing was written."""


class PayloadTooLargeError(Exception):
    """What a step saved is larger than the store takes; nothing was written."""
