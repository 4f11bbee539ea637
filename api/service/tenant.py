"""The context that the services of one tenant share."""

from __future__ import annotations

from collections.abc import Callable

from noetl.api.service.compiler import PlaybookCompiler
from noetl.api.service.errors import NotFoundError
from noetl.api.service.list_cursors import CursorScope
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.security.allowed_sources import AllowedSources
from noetl.executor.stores.interface import Store
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen


@frozen
class TenantContext:
    """A tenant, the store of its runs and playbooks, and caches that do not depend on the tenant.

    `step_names` returns the names of the steps of a saved plan, and `loop_steps` those that have a loop.
    `sources` are those that triggers may read; None if that is not known. `controls_local_runs` is whether
    runs of a local file may be cancelled and resumed: the workers of a service do not execute them.
    """

    tenant: str
    store: Store
    compiler: PlaybookCompiler
    step_names: Callable[[str], tuple[str, ...]]
    loop_steps: Callable[[str], frozenset[str]]
    controls_local_runs: bool
    clock: Callable[[], float]
    sources: AllowedSources | None = None

    def cursor_scope(self, *conditions: object) -> CursorScope:
        """Return what tells the cursors of a list of the tenant from those of others."""
        return CursorScope.for_list(self.tenant, *conditions)

    def get_trigger(self, playbook: str, name: str) -> LiveTrigger:
        """Return a trigger.

        Raises:
            NotFoundError: the live version of the playbook has no such trigger.
        """
        trigger = self.store.triggers.get(self.tenant, playbook, name)
        if trigger is None:
            raise NotFoundError(f"unknown trigger `{abbreviate(name)}` of playbook `{abbreviate(playbook)}`")
        return trigger
