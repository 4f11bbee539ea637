"""The registered playbooks of a tenant, as the checks of a registration read them from the store."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from noetl.api.service.tenant import TenantContext
from noetl.executor.errors import StoreAwayError, StoreError
from noetl.executor.model.gates import SHARED_TENANT
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.precedence import wait_for_slice
from noetl.executor.security.allowed_sources import AllowedSources
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import LIVE, PlaybookCall
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan, Trigger, TriggerSource
from noetl.planner.registration.checks import check_registration, find_alias_callers
from noetl.planner.registration.registry import (
    AwaitingTrigger,
    KnownLimit,
    RegisteredPlan,
    UnreadablePlanError,
)
from noetl.planner.registration.result_reads import find_result_names
from noetl.planner.registration.used_limits import find_limit_users

MAX_NAMES = 1000
"""How many names and versions are compared with a word that is unknown."""

MAX_CALLERS = 1000
"""How many playbooks are searched for uses of a new version whose interface has changed."""

_PAGE_SIZE = 200

logger = logging.getLogger("noetl.api")


@frozen
class StoredPlaybooks:
    """The registered playbooks of one tenant (implements `RegisteredPlaybooks`)."""

    store: Store
    tenant: str
    sources: AllowedSources | None = None

    def find(self, call: PlaybookCall) -> RegisteredPlan | None:
        registry = self.store.registry
        found = registry.get(self.tenant, call.name, call.version, alias=call.followed_alias)
        return None if found is None else self._read(found)

    def plan(self, registered: RegisteredPlan) -> Plan:
        with _readable(registered.header.name):
            return self.store.plans.get(registered.plan_hash)

    def result_names(self, registered: RegisteredPlan) -> Collection[str]:
        header = registered.header
        steps = self.plan(registered).steps.values() if header.output is None else ()
        return find_result_names(header, steps)

    def names(self) -> Sequence[str]:
        return [playbook.name for playbook in self._find(None, MAX_NAMES)]

    def versions(self, name: str) -> Sequence[str]:
        return [playbook.version or "" for playbook in self._find(name, MAX_NAMES)]

    def aliases(self, name: str) -> Sequence[str]:
        return [alias.name for alias in self.store.registry.aliases(self.tenant, [name])]

    def awaiting(self, name: str) -> Iterator[AwaitingTrigger]:
        for trigger in self.store.triggers.awaiting(self.tenant, name):
            with suppress(UnreadablePlanError):
                declared = self._read_trigger(trigger)
                if declared is not None:
                    yield AwaitingTrigger(trigger.playbook, declared)

    def channels(self) -> Sequence[str]:
        return [channel.name for channel in self.store.channels.find(self.tenant)]

    def missing_rule(self, source: TriggerSource) -> str | None:
        return None if self.sources is None else self.sources.missing_rule(self.tenant, source)

    def limits(self) -> Mapping[str, KnownLimit]:
        # A shared limit hides one of the tenant with its name.
        return self._limits_of(self.tenant) | self._limits_of(SHARED_TENANT)

    def live_versions(self) -> Iterator[RegisteredPlan]:
        registry = self.store.registry
        newest = list(self._find(None, MAX_CALLERS))
        aliases = registry.aliases(self.tenant, [playbook.name for playbook in newest])
        pinned = {alias.playbook for alias in aliases if alias.name == LIVE}
        for playbook in newest:
            self.pause()
            is_pinned = playbook.name in pinned
            live = registry.get(self.tenant, playbook.name, alias=LIVE) if is_pinned else playbook
            with suppress(UnreadablePlanError):
                if live is not None:
                    yield self._read(live)

    def pause(self) -> None:
        wait_for_slice()

    def _limits_of(self, tenant: str) -> dict[str, KnownLimit]:
        """Return what each limit of operators of a tenant bounds, by its name."""
        found: dict[str, KnownLimit] = {}
        cursor = None
        while True:
            page, cursor = self.store.gates.find(tenant, named=True, cursor=cursor)
            found |= {
                gate.limit: KnownLimit(gate.kind, gate.rate is not None, tenant == SHARED_TENANT)
                for gate in page
                if gate.kind is not None
            }
            if cursor is None or len(found) >= MAX_NAMES:
                return found

    def _find(self, name: str | None, limit: int) -> Iterator[RegisteredPlaybook]:
        """Yield the newest versions of all playbooks, or all versions of one, at most `limit`."""
        cursor = None
        for _ in range(limit // _PAGE_SIZE):
            page, cursor = self.store.registry.find(self.tenant, name, limit=_PAGE_SIZE, cursor=cursor)
            yield from page
            if cursor is None:
                return

    def _read(self, playbook: RegisteredPlaybook) -> RegisteredPlan:
        with _readable(playbook.name):
            header = self.store.plans.header(playbook.plan_hash)
        return RegisteredPlan(playbook.plan_hash, header, playbook.version)

    def _read_trigger(self, trigger: LiveTrigger) -> Trigger | None:
        """Return the declaration of a trigger, or None if its plan does not have it."""
        with _readable(trigger.playbook):
            return self.store.plans.header(trigger.plan_hash).find_trigger(trigger.name)


@contextmanager
def _readable(playbook: str) -> Iterator[None]:
    """Let a plan that is lost or damaged be one that cannot be read. The log says which."""
    try:
        yield
    except StoreAwayError:
        raise
    except StoreError as problem:
        logger.warning("playbook %s is left out of the checks of a registration: %s", playbook, problem)
        raise UnreadablePlanError(playbook) from problem


def check_among_registered(
    context: TenantContext, plan: Plan, *, is_forced: bool, aliases: Collection[str]
) -> tuple[Diagnostic, ...]:
    """Return the findings about a version of a playbook among the registered ones. `aliases` name it then."""
    registered = StoredPlaybooks(context.store, context.tenant, context.sources)
    action_types = context.compiler.catalogue
    return check_registration(plan, registered, action_types, is_forced=is_forced, aliases=aliases)


def list_alias_callers(context: TenantContext, playbook: str, alias: str) -> list[str]:
    """Return the places in the live versions of playbooks that call a playbook by an alias."""
    registered = StoredPlaybooks(context.store, context.tenant, context.sources)
    return list(find_alias_callers(playbook, alias, registered, context.compiler.catalogue))


def list_limit_users(context: TenantContext, name: str) -> list[str]:
    """Return the live versions of playbooks, and their steps, that name a limit of an operator."""
    return list(find_limit_users(name, StoredPlaybooks(context.store, context.tenant)))
