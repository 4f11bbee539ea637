"""Errors of the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The compiler is loaded for the first playbook: most requests of a function that starts anew need none.
    from noetl.planner.diagnostics.diagnostic import Diagnostic


class PlaybookError(Exception):
    """The playbook does not compile; `diagnostics` say why."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("the playbook has errors")
        self.diagnostics = tuple(diagnostics)


class NotFoundError(Exception):
    """Nothing is known under the id or name that was asked for. The message is a sentence."""
