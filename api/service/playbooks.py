"""The service of playbooks: the registry of a tenant, and descriptions of plans."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from noetl.api.service.compiler import InlinePlaybook, PlanSource, PlaybookReference, plan_of
from noetl.api.service.errors import NotFoundError, UnfitPlaybookError
from noetl.api.service.graph_views import PlanDescription
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import (
    DiagnosticEntry,
    PlaybookEntry,
    PlaybookPage,
    plan_graph,
)
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.registry import RegisteredPlaybook, is_alias_name
from noetl.executor.model.run_filter import fold_case
from noetl.planner.catalogue import LIVE
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.api.service.registry_excerpt import RegistryExcerpt, UsedNames
    from noetl.planner.compile import Compilation
    from noetl.planner.diagnostics.diagnostic import Diagnostic

MAX_NAMED_RUNS = 10
"""Number of live runs that the refusal to remove a playbook names."""

MAX_SEARCH_READS = 50
"""How many pages of the registry a search reads for one page of its answer."""

MAX_CALLER_LENGTH = 200
"""Number of characters of a caller's name that are kept. An issuer of tokens may write any text into it."""

_RESERVED_SEGMENTS = ("", ".", "..", "versions", "check-runs", "aliases")
"""Segments that the name of a playbook must not have between slashes, because its path would be ambiguous."""


@frozen
class PlaybookText:
    """A registered playbook with its text."""

    entry: PlaybookEntry
    text: str


@frozen
class PlaybookService:
    """The registered playbooks of one tenant."""

    context: TenantContext

    def describe(self, playbook: PlanSource) -> PlanDescription:
        """Compile a playbook, and describe its plan. Nothing is stored.

        Raises:
            PlaybookError: the playbook does not compile.
            NotFoundError: the registry has no such playbook.
        """
        return describe(self.context.compiler.compile(self.text(playbook)))

    def excerpt(self, text: str | bytes, used: UsedNames | None) -> RegistryExcerpt:
        """Return what the checks of a text read of the registry, before it is registered.

        `used` are the playbooks that it uses, or None if it uses none.
        """
        from noetl.api.service.registry_excerpt import read_registry_excerpt

        return read_registry_excerpt(self.context, text, used)

    def text(self, playbook: PlanSource) -> str | bytes:
        """Return the text of a playbook.

        Raises:
            NotFoundError: the registry has no such playbook.
        """
        if isinstance(playbook, InlinePlaybook):
            return playbook.text
        return self.context.store.plans.get(registered_playbook(self.context, playbook).plan_hash).source

    def register(
        self,
        playbook: str | bytes | Plan,
        registered_by: str | None = None,
        *,
        newest: str | None = None,
        is_forced: bool = False,
    ) -> tuple[PlaybookEntry, bool]:
        """Register a playbook, its text or its plan. Return its entry, and whether it is new.

        `registered_by` is the name of the caller, if it is known. Without a `version`, a playbook gets the
        next number. Registering the same text again changes nothing. `newest` is the newest version that the
        caller knows. If it is empty, the caller knows of none. With `is_forced`, it need not fit the
        registered playbooks.

        Raises:
            PlaybookError: the playbook does not compile.
            UnfitPlaybookError: it does not fit the registered ones.
            RejectedError: `invalid_name`, if the path of the playbook would be ambiguous; `version_exists`,
                if the version was registered with another text, even if it has been removed since;
                `playbook_changed`, if the newest version is not `newest`; `alias_exists`, if the version has
                the name of an alias.
        """
        from noetl.planner.registration.ended_schedules import find_ended_schedules

        store, tenant = self.context.store, self.context.tenant
        plan = playbook if isinstance(playbook, Plan) else self.context.compiler.plan(playbook)
        name, version = plan.header.name, plan.header.version
        _check_addressable("name", name)
        if version is not None:
            _check_addressable("version", version)
        before = store.registry.get(tenant, name, version)
        warnings: Sequence[Diagnostic] = ()
        if before is None or (version is None and before.plan_hash != plan.hash):
            is_pinned = any(alias.name == LIVE for alias in store.registry.aliases(tenant, [name]))
            aliases = () if is_pinned else (LIVE,)
            warnings = require_fit(self.context, plan, aliases, is_forced=is_forced)
            warnings = (*warnings, *find_ended_schedules(plan, self.context.clock()))
        store.plans.save(plan)
        caller = None if registered_by is None else cut_caller(registered_by)
        registered_at = round(self.context.clock(), 6)
        try:
            registered = store.registry.register(
                RegisteredPlaybook(tenant, name, version, plan.hash, registered_at, caller),
                newest=newest,
                triggers=plan.header.triggers,
            )
        except RejectedError as error:
            # Another release of the compiler may produce another plan of the same text.
            if error.reason != "version_exists" or before is None:
                raise
            if store.plans.get(before.plan_hash).source != plan.source:
                raise
            registered = before
        (entry,) = self._entries([registered])
        return _with_warnings(entry, warnings), registered != before

    def find(self, name: str | None = None, *, limit: int = 100, cursor: str | None = None) -> PlaybookPage:
        """Return one page of the registry, with the cursor of the next page.

        Without `name` it has the newest version of each playbook, by name. With `name` it has all versions of
        that playbook, the newest first.

        Raises:
            NotFoundError: the registry has no playbook of the name.
            RejectedError: `invalid_cursor`.
        """
        registry, scope = self.context.store.registry, self.context.cursor_scope("playbooks", name)
        place = scope.open(cursor)
        playbooks, next_cursor = registry.find(self.context.tenant, name, limit=limit, cursor=place)
        if name is not None and cursor is None and not playbooks:
            raise unknown_playbook(name, None)
        are_newest = name is None
        entries = self._entries(playbooks, are_newest=are_newest)
        return PlaybookPage(items=entries, next_cursor=scope.close(next_cursor))

    def search(self, text: str, *, limit: int = 100, cursor: str | None = None) -> PlaybookPage:
        """Return one page of the playbooks whose name has a text, as `find` does. Case makes no difference.

        At most MAX_SEARCH_READS pages of the registry are read, so a page may have fewer items than `limit`.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        registry, wanted = self.context.store.registry, fold_case(text)
        items: list[RegisteredPlaybook] = []
        scope = self.context.cursor_scope("search", wanted)
        cursor = scope.open(cursor)
        for _ in range(MAX_SEARCH_READS):
            found, cursor = registry.find(self.context.tenant, limit=limit - len(items), cursor=cursor)
            items += [playbook for playbook in found if wanted in fold_case(playbook.name)]
            if cursor is None or len(items) == limit:
                break
        return PlaybookPage(items=self._entries(items, are_newest=True), next_cursor=scope.close(cursor))

    def get(self, name: str, version: str | None = None) -> PlaybookText:
        """Return a registered playbook, of `version` or the newest one, with its text.

        `version` may also be an alias.

        Raises:
            NotFoundError: the registry has no such playbook.
        """
        if version is not None:
            playbook = registered_playbook(self.context, PlaybookReference(name, version))
        else:
            newest = self.context.store.registry.get(self.context.tenant, name)
            if newest is None:
                raise unknown_playbook(name, None)
            playbook = newest
        source = self.context.store.plans.get(playbook.plan_hash).source
        return PlaybookText(self._entries([playbook])[0], source)

    def unregister(self, name: str, version: str | None = None) -> None:
        """Remove a version of a playbook, or all versions, from the registry.

        A run that is started at the same time continues.

        Raises:
            NotFoundError: the registry has no such playbook.
            RejectedError: `playbook_in_use`, with the ids of its oldest live runs as `runs`; `alias_in_use`,
                if an alias names the version.
        """
        registry, now = self.context.store.registry, self.context.clock()
        hashes = sorted(self._plan_hashes(name, version))
        runs = self.context.store.runs
        live = runs.live_runs(self.context.tenant, name, hashes, MAX_NAMED_RUNS) if hashes else []
        if live:
            message = f"{_subject(name, version)} has runs that have not ended: {', '.join(live)}"
            raise RejectedError("playbook_in_use", message, runs=live)
        if not registry.unregister(self.context.tenant, name, version, now=now):
            raise unknown_playbook(name, version)

    def _entries(
        self, playbooks: Sequence[RegisteredPlaybook], *, are_newest: bool = False
    ) -> list[PlaybookEntry]:
        """Return the entries of versions of playbooks. `are_newest` says that each is the newest one."""
        registry, tenant = self.context.store.registry, self.context.tenant
        names = {playbook.name for playbook in playbooks}
        aliases: dict[str, dict[str, str]] = {name: {} for name in names}
        for alias in registry.aliases(tenant, names):
            aliases[alias.playbook][alias.name] = alias.version
        pinned = {name: named.pop(LIVE) for name, named in aliases.items() if LIVE in named}
        newest = {playbook.name: playbook for playbook in playbooks if are_newest}
        for name in names - pinned.keys() - newest.keys():
            if (found := registry.get(tenant, name)) is not None:
                newest[name] = found
        return [
            _entry(
                playbook,
                pinned.get(playbook.name),
                newest.get(playbook.name, playbook),
                aliases[playbook.name],
            )
            for playbook in playbooks
        ]

    def _plan_hashes(self, name: str, version: str | None) -> set[str]:
        """Return the hashes of the plans of a version, or of all versions."""
        registry, tenant = self.context.store.registry, self.context.tenant
        if version is not None:
            registered = registry.get(tenant, name, version)
            return set() if registered is None else {registered.plan_hash}
        hashes: set[str] = set()
        cursor = None
        while True:
            page, cursor = registry.find(tenant, name, limit=1000, cursor=cursor)
            hashes.update(playbook.plan_hash for playbook in page)
            if cursor is None:
                return hashes


def describe(compilation: Compilation, diagnostics: Sequence[Diagnostic] | None = None) -> PlanDescription:
    """Return the description of a plan. `diagnostics` replace those of the compilation.

    Raises:
        PlaybookError: the playbook does not compile.
    """
    plan = plan_of(compilation)
    header = plan.header.to_json()
    shown = compilation.diagnostics if diagnostics is None else diagnostics
    return PlanDescription(
        name=header["name"],
        version=header["version"],
        hash=plan.hash,
        diagnostics=[DiagnosticEntry(**diagnostic.to_json()) for diagnostic in shown],
        graph=plan_graph(plan),
        inputs=header["inputs"],
        statistics=header["statistics"],
    )


def registered_playbook(context: TenantContext, reference: PlaybookReference) -> RegisteredPlaybook:
    """Return the record of a registered playbook. No alias has the name of a version.

    Raises:
        NotFoundError: the registry of the tenant has no such playbook.
    """
    registry, tenant = context.store.registry, context.tenant
    name, version = reference.name, reference.version
    if version is None:
        playbook = registry.get(tenant, name, alias=LIVE)
    else:
        playbook = registry.get(tenant, name, version)
        if playbook is None and is_alias_name(version):
            playbook = registry.get(tenant, name, alias=version)
    if playbook is None:
        raise unknown_playbook(name, version)
    return playbook


def require_fit(
    context: TenantContext, plan: Plan, aliases: Collection[str], *, is_forced: bool
) -> Sequence[Diagnostic]:
    """Check that a version, which `aliases` name then, fits the playbooks that it uses and its callers.

    Return warnings.

    Raises:
        UnfitPlaybookError: it does not.
    """
    from noetl.api.service.registered_plans import check_among_registered

    findings = check_among_registered(context, plan, is_forced=is_forced, aliases=aliases)
    if any(finding.severity == "error" for finding in findings):
        raise UnfitPlaybookError(findings)
    return findings


def _with_warnings(entry: PlaybookEntry, warnings: Sequence[Diagnostic]) -> PlaybookEntry:
    shown = [DiagnosticEntry(**finding.to_json()) for finding in warnings]
    return PlaybookEntry(**{**vars(entry), "diagnostics": shown}) if shown else entry


def _entry(
    playbook: RegisteredPlaybook,
    pinned: str | None,
    newest: RegisteredPlaybook,
    aliases: Mapping[str, str],
) -> PlaybookEntry:
    """Return the entry of a version. `pinned` is the version that was promoted to `live`, if one was."""
    assert playbook.version is not None
    assert newest.version is not None
    return PlaybookEntry(
        name=playbook.name,
        version=playbook.version,
        plan_hash=playbook.plan_hash,
        registered_at=timestamp(playbook.registered_at),
        registered_by=playbook.registered_by,
        live_version=newest.version if pinned is None else pinned,
        pinned=pinned is not None,
        aliases=aliases,
    )


def cut_caller(name: str) -> str:
    r"""Return the name of a caller as every store can keep it: printable, and bounded.

    >>> cut_caller("token of a\0b")
    'token of a␀b'
    """
    shown = to_printable(name)
    return shown if len(shown) <= MAX_CALLER_LENGTH else f"{shown[:MAX_CALLER_LENGTH]}…"


def unknown_playbook(name: str, version: str | None) -> NotFoundError:
    """Return the error of a playbook or a version that is not registered.

    >>> print(unknown_playbook("nothing", LIVE))
    unknown playbook `nothing`
    """
    # A registered playbook always has a live version.
    shown_version = None if version in (None, LIVE) else abbreviate(version)
    return NotFoundError(f"unknown {_subject(abbreviate(name), shown_version)}")


def _subject(name: str, version: str | None) -> str:
    return f"playbook `{name}`" if version is None else f"version `{version}` of playbook `{name}`"


def _check_addressable(kind: str, text: str) -> None:
    """Check that a name or a version (`kind`) is unambiguous in a path.

    Raises:
        RejectedError: `invalid_name`.
    """
    from noetl.planner.syntax.names import MAX_NAME_LENGTH, is_valid_name

    if not is_valid_name(text) or not set(text.split("/")).isdisjoint(_RESERVED_SEGMENTS):
        message = (
            f"the {kind} of a registered playbook must be 1 to {MAX_NAME_LENGTH} printable characters"
            " without blanks around them, and no segment between slashes may be empty, `.`, `..`,"
            " `versions`, `aliases` or `check-runs`"
        )
        raise RejectedError("invalid_name", message)
