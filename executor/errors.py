"""Failures of actions, and errors of the executor itself. Standard library only."""

from __future__ import annotations

from typing import Any


class ActionError(Exception):
    """A failure of an action, which a playbook can handle.

    `type` is an error type of the language, or one that the handler defines. `retryable` is false if another
    attempt cannot succeed. `status` is the HTTP status, if there is one.
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
    """An invalid or missing setting. The message is a sentence that names the setting."""


class StoreError(Exception):
    """A store that cannot be opened or used. The message says which store, and why."""


class StoreAwayError(StoreError):
    """A store that cannot be reached now. A later operation may succeed."""


class PayloadLostError(StoreError):
    """A stored value that was deleted, or that is damaged. The message names it. It stays lost."""


class SchemaError(StoreError):
    """A store with the schema of another version. The message says what to do."""


class MessageError(Exception):
    """A queue message that this version of the executor cannot decode."""


class RejectedError(Exception):
    """A request that the current state does not allow; nothing was changed.

    `reason` is a short identifier for programs.
    """

    def __init__(self, reason: str, message: str, **details: Any) -> None:
        super().__init__(reason, message)  # the arguments with which a pickle is created again
        self.reason = reason
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return self.message


class CancelledError(Exception):
    """Work that was abandoned because its run was cancelled."""


class FencedError(Exception):
    """A write with an outdated fence: another worker has the claim. Nothing was written."""


class NotJsonError(Exception):
    """Saved data that JSON cannot represent. Nothing was written."""


class PayloadTooLargeError(Exception):
    """Saved data that exceeds the limit of the store. Nothing was written."""
