"""What every action type is made of: a declaration for the planner and a function that performs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from executor.errors import ActionError
from planner.catalogue import ActionDeclaration


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the playbook of a run may do on this machine.

    `files_root` is the folder that `file` may touch, `shell` whether commands run, `python_modules` the modules whose
    functions may be called (`*`: any). `inherit_environment` gives commands the whole environment instead of the few
    names of LANGUAGE §3. `networks` are address ranges (CIDR) that `http` may reach although they are denied by default.
    """

    files_root: Path | None = None
    folder: Path | None = None
    shell: bool = False
    python_modules: tuple[str, ...] = ()
    inherit_environment: bool = False
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of one action: its rendered parameters and what surrounds it.

    `deadline` is on the clock of `time.monotonic`. A handler gives up by then, with `Timeout`.
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

    def remaining_seconds(self) -> float:
        """The time left.

        Raises:
            ActionError: `Timeout`, when there is none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise ActionError("Timeout", "the action ran out of time")
        return left


class ActionModule(Protocol):
    """A module of `executor.actions`, or what an entry point of the group `noetl.actions` loads."""

    DECLARATION: ActionDeclaration

    def perform(self, call: Call) -> Any:
        """Do it, and return the result's data as plain JSON values.

        Raises:
            ActionError: it failed; nothing else may escape but bugs.
        """
        ...


def not_supported(action_type: str) -> NoReturn:
    """What the handlers of declared but unexecuted types do; the planner lets none of them through."""
    raise ActionError("ActionDisabled", f"`{action_type}` is not supported yet", retryable=False)
