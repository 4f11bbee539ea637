"""Errors of the service that its callers report to clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noetl.planner.diagnostics.diagnostic import Diagnostic


class PlaybookError(Exception):
    """The playbook does not compile; `diagnostics` give the reasons."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("the playbook has errors")
        self.diagnostics = tuple(diagnostics)


class UnfitPlaybookError(PlaybookError):
    """The playbook compiles, but it does not fit the registered ones."""


class NotFoundError(Exception):
    """The tenant has no run or playbook of that id or name. The message is a sentence."""


class ServiceBusyError(Exception):
    """Too much work waits already. The message is a sentence."""


class TenantBusyError(Exception):
    """Too much work of the tenant waits or is open already. The message is a sentence."""


class WorkLimitError(Exception):
    """The work of a request takes too much time or memory.

    `is_late` is true if it may have waited for the machine.
    """

    def __init__(self, subject: str, problem: str, *, is_late: bool = False) -> None:
        super().__init__(f"{subject} {problem}.")
        self.is_late = is_late
