"""The part of a registry that the checks of one text read: used playbooks, limits and channels.

Problem: a text is checked in another process, which has no store, and before it is registered.

Algorithm: the text is compiled to find the playbooks that it uses. Their headers are read, and what the
operator allows. All that can be pickled, so it travels with the job that checks the text.

Cost: nothing for a text without uses. Otherwise two reads for each used playbook, and one of its plan if it
declares no `output` and its result is read. One read of the channels for a text that may have `notify`.

Limits: MAX_PLAYBOOKS playbooks are compared. Callers, and circles of several playbooks, are only checked at
the registration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from typing import TYPE_CHECKING, NamedTuple

from noetl.api.service.tenant import TenantContext
from noetl.executor.security.allowed_sources import AllowedSources
from noetl.planner.catalogue import LIVE, Catalogue, PlaybookCall
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan, TriggerSource

if TYPE_CHECKING:
    from noetl.api.service.registered_plans import StoredPlaybooks
    from noetl.planner.diagnostics.diagnostic import Diagnostic
    from noetl.planner.registration.registry import KnownLimit, RegisteredPlan

MAX_PLAYBOOKS = 50
"""How many playbooks that a text uses are read."""


class UsedNames(NamedTuple):
    """The name of a playbook, and the playbooks that it uses.

    `calls` say whether entries of the result are read.
    """

    name: str
    calls: Mapping[PlaybookCall, bool]


class ExcerptVersion(NamedTuple):
    """A registered version, with the names of the entries of its result; None if nothing reads them."""

    registered: RegisteredPlan
    result_names: frozenset[str] | None


@frozen
class RegistryExcerpt:
    """Facts that the checks of one text read (implements `KnownRegistry`).

    Attributes:
        tenant: the tenant that would register it.
        sources: the sources that the tenant may read, or None if that is not known.
        known_limits: the limits that it may use.
        known_channels: the names of its channels.
        playbooks: the versions that its calls name; None if there is none. What cannot be read is missing.
        words: the names of playbooks, versions and aliases that may have been meant by an unknown one.
        own_aliases: the aliases that a new version would have.
    """

    tenant: str
    sources: AllowedSources | None = None
    known_limits: Mapping[str, KnownLimit] = field(default_factory=dict)
    known_channels: Sequence[str] = ()
    playbooks: Mapping[PlaybookCall, ExcerptVersion | None] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own_aliases: tuple[str, ...] = (LIVE,)

    @property
    def key(self) -> str:
        """A text that is the same for the same facts of one service."""
        versions = [
            (tuple(call), version and (version.registered.plan_hash, version.registered.version))
            for call, version in self.playbooks.items()
        ]
        rules = sorted(self.known_limits.items()), tuple(self.known_channels)
        return repr((self.tenant, rules, versions, sorted(self.words.items()), self.own_aliases))

    def missing_rule(self, source: TriggerSource) -> str | None:
        return None if self.sources is None else self.sources.missing_rule(self.tenant, source)

    def limits(self) -> Mapping[str, KnownLimit]:
        return self.known_limits

    def channels(self) -> Sequence[str]:
        return self.known_channels

    def find(self, call: PlaybookCall) -> RegisteredPlan | None:
        from noetl.planner.registration.registry import UnreadablePlanError

        if call not in self.playbooks:
            raise UnreadablePlanError(call.name)
        version = self.playbooks[call]
        return None if version is None else version.registered

    def result_names(self, registered: RegisteredPlan) -> Collection[str]:
        from noetl.planner.registration.registry import UnreadablePlanError

        for version in self.playbooks.values():
            if version is None or version.result_names is None:
                continue
            if version.registered.plan_hash == registered.plan_hash:
                return version.result_names
        raise UnreadablePlanError(registered.header.name)

    def names(self) -> Sequence[str]:
        return self.words.get("", ())

    def versions(self, name: str) -> Sequence[str]:
        return self.words.get(f"versions {name}", ())

    def aliases(self, name: str) -> Sequence[str]:
        return self.words.get(f"aliases {name}", ())

    def extend(
        self, plan: Plan, diagnostics: tuple[Diagnostic, ...], action_types: Catalogue
    ) -> tuple[Diagnostic, ...]:
        """Return the diagnostics of a plan with those about the excerpt, in the order of the text."""
        from noetl.planner.registration.checks import preview_registration

        found = preview_registration(plan, self, action_types, self.own_aliases)
        return tuple(sorted((*diagnostics, *found), key=lambda finding: finding.span))


def may_use_playbooks(text: str | bytes) -> bool:
    """Return whether a text may name other playbooks. Most texts need not be compiled to know."""
    return _has_word(text, "playbook")


def _has_word(text: str | bytes, word: str) -> bool:
    return word.encode() in text if isinstance(text, bytes) else word in text


def find_used_names(plan: Plan, action_types: Catalogue) -> UsedNames:
    """Return the playbooks that a plan uses, at most MAX_PLAYBOOKS."""
    from noetl.planner.registration.checks import find_uses

    calls: dict[PlaybookCall, bool] = {}
    for use in find_uses(plan, action_types):
        if use.call in calls or len(calls) < MAX_PLAYBOOKS:
            calls[use.call] = calls.get(use.call, False) or bool(use.reads)
    return UsedNames(plan.header.name, calls)


def read_registry_excerpt(
    context: TenantContext, text: str | bytes, used: UsedNames | None
) -> RegistryExcerpt:
    """Return what the checks of a text read. `used` are the playbooks that it uses, if it uses any."""
    from noetl.api.service.registered_plans import StoredPlaybooks

    stored = StoredPlaybooks(context.store, context.tenant)
    limits = stored.limits() if _has_word(text, "use") else {}
    channels = stored.channels() if _has_word(text, "notify") else ()
    if used is None or not used.calls:
        return RegistryExcerpt(context.tenant, context.sources, limits, channels)
    playbooks = _read_versions(stored, used.calls)
    unknown = [call for call, version in playbooks.items() if version is None]
    is_pinned = LIVE in stored.aliases(used.name)
    return RegistryExcerpt(
        context.tenant,
        context.sources,
        limits,
        channels,
        playbooks,
        _read_words(stored, unknown),
        () if is_pinned else (LIVE,),
    )


def _read_versions(
    stored: StoredPlaybooks, calls: Mapping[PlaybookCall, bool]
) -> dict[PlaybookCall, ExcerptVersion | None]:
    """Return the versions that calls name, without those that cannot be read."""
    from noetl.planner.registration.registry import UnreadablePlanError

    found: dict[PlaybookCall, ExcerptVersion | None] = {}
    for call, reads_result in calls.items():
        with suppress(UnreadablePlanError):
            registered = stored.find(call)
            if registered is None:
                found[call] = None
                continue
            names = None
            if reads_result:
                with suppress(UnreadablePlanError):
                    names = frozenset(stored.result_names(registered))
            found[call] = ExcerptVersion(registered, names)
    return found


def _read_words(stored: StoredPlaybooks, unknown: Sequence[PlaybookCall]) -> dict[str, Sequence[str]]:
    """Return the words that may have been meant by calls of unknown playbooks, versions and aliases."""
    words: dict[str, Sequence[str]] = {"": stored.names()} if unknown else {}
    for call in unknown:
        if call.label is not None:
            words[f"versions {call.name}"] = stored.versions(call.name)
            words[f"aliases {call.name}"] = stored.aliases(call.name)
    return words
