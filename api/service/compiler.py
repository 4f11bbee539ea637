"""The playbooks that a service compiles: texts of clients, and texts of the registry."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from noetl.api.service.errors import PlaybookError
from noetl.planner.catalogue import Catalogue
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    # The compiler takes long to import, and most requests after a cold start do not need it.
    from noetl.planner.compile import Compilation

_MAX_CACHED_LENGTH = 64 * 1024
"""Longest text whose compilation is cached: a compilation needs many times the memory of its text."""


@frozen
class InlinePlaybook:
    """A playbook that a request contains as text."""

    text: str | bytes


@frozen
class PlaybookReference:
    """A registered playbook: a version, or the newest one if `version` is None."""

    name: str
    version: str | None = None


PlanSource = InlinePlaybook | PlaybookReference
"""The playbook of a request: its text, or the place of a plan in the registry."""


class PlaybookCompiler:
    """A compiler of playbooks that caches its latest results. Safe to share between threads."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._compile_cached = lru_cache(maxsize=64)(self._compile)

    def compile(self, text: str | bytes) -> Compilation:
        """Compile a playbook. The result has a plan or errors; no text raises an exception."""
        return (self._compile if len(text) > _MAX_CACHED_LENGTH else self._compile_cached)(text)

    def plan(self, text: str | bytes) -> Plan:
        """Compile a playbook that must be correct, and return its plan.

        Raises:
            PlaybookError: the playbook does not compile.
        """
        compilation = self.compile(text)
        if compilation.plan is None:
            raise PlaybookError(compilation.diagnostics)
        return compilation.plan

    def _compile(self, text: str | bytes) -> Compilation:
        from noetl.planner.compile import compile_playbook

        return compile_playbook(text, self._catalogue)
