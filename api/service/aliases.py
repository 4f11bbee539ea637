"""The service of aliases: names of a playbook for its versions.

`live` names the newest version until a version is promoted to it. A version is checked before an alias names
it, as it is before its registration. An alias that a playbook calls is not removed.
"""

from __future__ import annotations

from noetl.api.service.errors import NotFoundError
from noetl.api.service.playbooks import cut_caller, require_fit, unknown_playbook
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import AliasEntry, AliasPage
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.registry import (
    MAX_ALIAS_LENGTH,
    PlaybookAlias,
    RegisteredPlaybook,
    is_alias_name,
)
from noetl.planner.catalogue import LIVE
from noetl.planner.diagnostics.wording import abbreviate, join_words
from noetl.planner.frozen import frozen

MAX_NAMED_CALLERS = 5
"""How many callers a refusal to remove an alias names."""


@frozen
class AliasService:
    """The aliases of the playbooks of one tenant."""

    context: TenantContext

    def find(self, playbook: str) -> AliasPage:
        """Return the aliases of a playbook: `live`, and the others in the order of their names.

        Raises:
            NotFoundError: the registry has no such playbook.
        """
        registry, tenant = self.context.store.registry, self.context.tenant
        newest = registry.get(tenant, playbook)
        if newest is None:
            raise unknown_playbook(playbook, None)
        aliases = {alias.name: _entry(alias) for alias in registry.aliases(tenant, [playbook])}
        live = aliases.pop(LIVE, None) or _live_entry(newest)
        return AliasPage(items=[live, *aliases.values()])

    def get(self, playbook: str, alias: str) -> AliasEntry:
        """Return an alias of a playbook.

        Raises:
            NotFoundError: the registry has no such playbook, or it has no such alias.
        """
        found = next((entry for entry in self.find(playbook).items if entry.name == alias), None)
        if found is None:
            raise NotFoundError(f"unknown alias `{abbreviate(alias)}` of playbook `{abbreviate(playbook)}`")
        return found

    def put(
        self,
        playbook: str,
        alias: str,
        version: str,
        changed_by: str | None = None,
        *,
        is_forced: bool = False,
    ) -> tuple[AliasEntry, bool]:
        """Let an alias name a version. Return the alias, and whether it is new.

        `changed_by` is the name of the caller, if it is known. If the alias names this version already,
        nothing changes. With `is_forced`, the version need not fit the registered playbooks.

        Raises:
            NotFoundError: the version is not registered.
            UnfitPlaybookError: the version does not fit the registered playbooks.
            RejectedError: `invalid_name`, `version_exists`, `too_many_aliases`, `path_taken`.
        """
        if not is_alias_name(alias):
            message = (
                f"an alias must be 1 to {MAX_ALIAS_LENGTH} letters, digits, `_`, `.` and `-`, and begin with"
                f" a letter, not `{abbreviate(alias)}`"
            )
            raise RejectedError("invalid_name", message)
        registry, tenant = self.context.store.registry, self.context.tenant
        registered = registry.get(tenant, playbook, version)
        if registered is None:
            raise _unknown_version(playbook, version)
        known = {known.name: known for known in registry.aliases(tenant, [playbook])}
        if alias not in known or known[alias].version != version:
            self._require_fit(registered, alias, is_forced=is_forced)
        caller = None if changed_by is None else cut_caller(changed_by)
        now = round(self.context.clock(), 6)
        promoted = registry.promote(PlaybookAlias(tenant, playbook, alias, version, now, caller))
        if promoted is None:
            raise _unknown_version(playbook, version)
        return _entry(promoted), alias not in known

    def remove(self, playbook: str, alias: str, *, is_forced: bool = False) -> AliasEntry | None:
        """Remove an alias. Return `live` if it is the alias, which follows the newest version then.

        With `is_forced`, the newest version need not fit the registered playbooks, and they may call the
        alias.

        Raises:
            NotFoundError: the playbook has no such alias, or `live` follows the newest version already.
            UnfitPlaybookError: the newest version does not fit the registered playbooks.
            RejectedError: `alias_in_use`, if a live version of a playbook calls the alias; `path_taken`.
        """
        registry, tenant = self.context.store.registry, self.context.tenant
        entry = self.get(playbook, alias)
        newest = registry.get(tenant, playbook)
        if alias == LIVE and newest is not None and newest.version != entry.version:
            self._require_fit(newest, alias, is_forced=is_forced)
        if alias != LIVE and not is_forced:
            self._require_no_callers(playbook, alias)
        if not registry.remove_alias(tenant, playbook, alias, now=self.context.clock()):
            message = f"`{alias}` of playbook `{abbreviate(playbook)}` follows the newest version already"
            raise NotFoundError(message)
        return self.get(playbook, alias) if alias == LIVE else None

    def _require_no_callers(self, playbook: str, alias: str) -> None:
        """Check that no live version of a playbook calls an alias. Calls of `live` fit another version.

        Raises:
            RejectedError: `alias_in_use`.
        """
        from noetl.api.service.registered_plans import list_alias_callers

        places = list_alias_callers(self.context, playbook, alias)
        if places:
            shown = places[:MAX_NAMED_CALLERS]
            more = len(places) - len(shown)
            words = join_words([*shown, *([f"{more:,} more"] if more else [])], "and")
            message = f"alias `{alias}` of `{abbreviate(playbook)}` is called in {words}"
            raise RejectedError("alias_in_use", f"{message}; change the callers first, or force the removal")

    def _require_fit(self, version: RegisteredPlaybook, alias: str, *, is_forced: bool) -> None:
        plan = self.context.store.plans.get(version.plan_hash)
        require_fit(self.context, plan, (alias,), is_forced=is_forced)


def _unknown_version(playbook: str, version: str) -> NotFoundError:
    """Return the error of a version that does not exist. An alias, such as `live`, is none."""
    return NotFoundError(f"unknown version `{abbreviate(version)}` of playbook `{abbreviate(playbook)}`")


def _entry(alias: PlaybookAlias) -> AliasEntry:
    return AliasEntry(
        name=alias.name,
        version=alias.version,
        pinned=True,
        changed_at=timestamp(alias.changed_at),
        changed_by=alias.changed_by,
    )


def _live_entry(newest: RegisteredPlaybook) -> AliasEntry:
    """Return the entry of `live` if it follows the newest version."""
    assert newest.version is not None
    return AliasEntry(name=LIVE, version=newest.version, pinned=False, changed_at=None, changed_by=None)
