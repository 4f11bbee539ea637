"""The playbooks that a service compiles: texts of clients, and texts of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from noetl.api.service.errors import PlaybookError
from noetl.executor.actions import catalogue
from noetl.executor.errors import SettingError
from noetl.executor.security.capabilities import ACTIONS_SETTING, allowed_actions
from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan
from noetl.planner.weighted_cache import WeightedCache

if TYPE_CHECKING:
    # The compiler takes long to import, and most requests after a cold start do not need it.
    from noetl.planner.compile import Compilation

CACHE_BYTES = 32 * 1024 * 1024
"""How many bytes the compilations that a compiler keeps may use together, by the estimate below."""
BYTES_PER_CHARACTER = 100
ENTRY_BYTES = 16 * 1024


@frozen
class InlinePlaybook:
    """A playbook that a request contains as text."""

    text: str | bytes


@frozen
class PlaybookReference:
    """A registered playbook: a version, or one that an alias names. With None as `version`, the live one."""

    name: str
    version: str | None = None


PlanSource = InlinePlaybook | PlaybookReference
"""The playbook of a request: its text, or the place of a plan in the registry."""


class PlaybookCompiler:
    """A compiler of playbooks that keeps its latest results, up to `cache_bytes`.

    Safe to share between threads.
    """

    def __init__(self, catalogue: Catalogue, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.catalogue = catalogue
        self._compilations: WeightedCache[str | bytes, Compilation] = WeightedCache(cache_bytes)

    def compile(self, text: str | bytes) -> Compilation:
        """Compile a playbook. The result has a plan or errors; no text raises an exception."""
        return self._compilations.get(text, self._compile)

    def plan(self, text: str | bytes) -> Plan:
        """Compile a playbook that must be correct, and return its plan.

        Raises:
            PlaybookError: the playbook does not compile.
        """
        return plan_of(self.compile(text))

    def _compile(self, text: str | bytes) -> tuple[Compilation, int]:
        from noetl.planner.compile import compile_playbook

        return compile_playbook(text, self.catalogue), ENTRY_BYTES + BYTES_PER_CHARACTER * len(text)


def plan_of(compilation: Compilation) -> Plan:
    """Return the plan of a compilation.

    Raises:
        PlaybookError: the playbook does not compile.
    """
    if compilation.plan is None:
        raise PlaybookError(compilation.diagnostics)
    return compilation.plan


def allowed_catalogue(settings: Mapping[str, str]) -> Catalogue:
    """Return the action types that the settings allow."""
    all_types, allowed = catalogue(), allowed_actions(settings)
    if allowed is None:
        return all_types
    for name in allowed:
        if name not in all_types:
            hint = did_you_mean(name, all_types) or f"the types are {', '.join(all_types)}"
            raise SettingError(f"{ACTIONS_SETTING} names the unknown action type {name!r}; {hint}")
    return all_types.restricted_to(allowed, ACTIONS_SETTING)
