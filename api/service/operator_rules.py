"""The rules and the limits of the operator of a service, as the checks of a draft read them.

A draft is checked in another process, which has no store. So what the checks need is read before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from noetl.api.service.tenant import TenantContext
from noetl.executor.security.allowed_sources import AllowedSources
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan, TriggerSource

if TYPE_CHECKING:
    from noetl.planner.diagnostics.diagnostic import Diagnostic
    from noetl.planner.registration.registry import KnownLimit


@frozen
class DraftRules:
    """The sources that a tenant may read, and the limits that it may use (implements `OperatorRules`).

    They can be pickled. `sources` is None if that is not known.
    """

    tenant: str
    sources: AllowedSources | None = None
    known_limits: Mapping[str, KnownLimit] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A text that is the same for the same rules of one service."""
        return f"{self.tenant}:{sorted(self.known_limits.items())}"

    def missing_rule(self, source: TriggerSource) -> str | None:
        return None if self.sources is None else self.sources.missing_rule(self.tenant, source)

    def limits(self) -> Mapping[str, KnownLimit]:
        return self.known_limits

    def extend(self, plan: Plan, diagnostics: tuple[Diagnostic, ...]) -> tuple[Diagnostic, ...]:
        """Return the diagnostics of a plan with those about the rules, in the order of the text."""
        from noetl.planner.registration.checks import check_operator_rules

        found = check_operator_rules(plan, self)
        return tuple(sorted((*diagnostics, *found), key=lambda finding: finding.span))


def read_draft_rules(context: TenantContext, text: str | bytes) -> DraftRules:
    """Return what the checks of a text need. Limits are read only if the text may use some."""
    from noetl.api.service.registered_plans import StoredPlaybooks

    uses = b"use" in text if isinstance(text, bytes) else "use" in text
    known = StoredPlaybooks(context.store, context.tenant).limits() if uses else {}
    return DraftRules(context.tenant, context.sources, known)
