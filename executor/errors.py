"""Failures of actions, and errors of the executor itself. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

PLACE_MEMBERS = ("key", "expression", "values")
"""The members of an error record that `ActionError.place` may hold."""


class ActionError(Exception):
    """A failure of an action, which a playbook can handle.

    `type` is an error type of the language, or one that the handler defines. `retryable` is false if another
    attempt cannot succeed. `status` is the HTTP status, if there is one. `place` holds the members of the
    error record that say which expression failed (`PLACE_MEMBERS`).
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
        self.place: Mapping[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a pickle creates the error again: another process may raise it."""
        return _restore_action_error, (type(self), vars(self))

    def with_place(self, place: Mapping[str, Any]) -> Self:
        """Return the same error with another `place`."""
        return self._replace(self.message, place)

    def at_key(self, key: str | int) -> Self:
        """Return the same error at an entry of a mapping or a list: `key` comes before the key so far.

        >>> ActionError("E", "m").at_key("x").at_key(0).at_key("set").place
        {'key': 'set[0].x'}
        """
        inner = self.place.get("key", "")
        step = f"[{key}]" if isinstance(key, int) else key
        joined = f"{step}{'.' * (not inner.startswith('['))}{inner}" if inner else step
        return self.with_place({**self.place, "key": joined})

    def with_key_in_message(self) -> Self:
        """Return the same error with a message that begins with its key."""
        return self._replace(f"`{self.place['key']}`: {self.message}", self.place)

    def _replace(self, message: str, place: Mapping[str, Any]) -> Self:
        error = type(self)(
            self.type, message, retryable=self.retryable, status=self.status, details=self.details
        )
        error.place = place
        return error


def _restore_action_error(kind: type[ActionError], members: Mapping[str, Any]) -> ActionError:
    error = kind(members["type"], members["message"])
    vars(error).update(members)
    return error


def timeout_error(limit: str = "") -> ActionError:
    """Return the failure of an action that has exceeded a limit, which it names with its value.

    >>> timeout_error("its limit of 5 s").message, timeout_error().message
    ('the action exceeded its limit of 5 s', 'the action ran out of time')
    """
    message = f"the action exceeded {limit}" if limit else "the action ran out of time"
    return ActionError("Timeout", message)


class SettingError(Exception):
    """An invalid or missing setting. The message is a sentence that names the setting."""


class StoreError(Exception):
    """A store that cannot be opened or used. The message says which store, and why."""


class StoreAwayError(StoreError):
    """A store that cannot be reached now. A later operation may succeed."""


class StoreLockedError(StoreAwayError):
    """A store that another process writes to. It can be read, and written to later."""


class PayloadLostError(StoreError):
    """A stored value that was deleted, or that is damaged. The message names it. It stays lost."""


class DamagedRunError(StoreError):
    """Stored data of a run that is missing or cannot be read. It stays so until it is repaired.

    `run_id` is None if the reader does not know the run; its caller does.
    """

    def __init__(self, message: str, run_id: str | None = None) -> None:
        super().__init__(message, run_id)
        self.message = message
        self.run_id = run_id

    def __str__(self) -> str:
        return self.message


class UnknownRunError(StoreError):
    """A run that the store does not have, or that was deleted. The message names it."""


class SchemaError(StoreError):
    """A store with the schema of another version. The message says what to do."""


class ChangedSchemaError(SchemaError):
    """A store whose schema another process may have changed. The message names both versions and no path."""


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

    @property
    def is_temporary(self) -> bool:
        """True if the same request may be accepted later, as nothing is wrong with it."""
        return self.reason in ("quota_exceeded", "service_busy")

    def __str__(self) -> str:
        return self.message


class CancelledError(Exception):
    """Work that was abandoned because its run was cancelled."""


class FencedError(Exception):
    """A write with an outdated fence: another worker has the claim. Nothing was written."""


class TriggerChangedError(Exception):
    """A firing of a trigger that has been changed since it was read. Nothing was written."""


class NotJsonError(Exception):
    """Saved data that JSON cannot represent. Nothing was written."""


class PayloadTooLargeError(Exception):
    """Saved data that exceeds the limit of the store. Nothing was written."""
