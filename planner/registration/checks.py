"""The checks of a registration: the playbooks that a new version uses, and those that use it.

Problem: a playbook is compiled alone, but it calls others, waits for their runs, and is called itself.

Algorithm: each use of another playbook is compared with the version that it or its alias names, or with
the live one (NP817, NP818). The new version may take an alias from another version. If their inputs and
results differ, each use of the alias by a live version is compared with both. It breaks if it fits the old
one only (NP822). Channels that `notify` names must exist (NP851), and limits that `use` names, too (NP834,
NP835). A source that the operator does not allow is a warning (NP820).

Cost: one read for each used playbook. If the interface has changed, one for each registered playbook, and for
those that use the new one their plans.

Limits: MAX_USED playbooks are compared, and plans of callers with MAX_CALLER_STEPS steps together. What
cannot be read is not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import cache, partial

from noetl.planner.catalogue import LIVE, PlaybookCall
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import replace
from noetl.planner.plan import Header, Plan
from noetl.planner.registration.call_sites import Catalogued, may_call
from noetl.planner.registration.channels import check_channels
from noetl.planner.registration.circles import PlaybookSearch, check_circles, check_own_recursion
from noetl.planner.registration.findings import PlanPlace, RegistrationFindings, key_of
from noetl.planner.registration.fit import Misfit, UsedVersion, list_versions
from noetl.planner.registration.registry import (
    AliasedVersion,
    KnownRegistry,
    LinkedPlaybooks,
    RegisteredPlan,
    RegisteredPlaybooks,
    UnreadablePlanError,
    UsedPlaybooks,
)
from noetl.planner.registration.result_reads import find_result_names
from noetl.planner.registration.run_waits import check_run_waits
from noetl.planner.registration.sources import check_sources_allowed
from noetl.planner.registration.used_limits import check_used_limits
from noetl.planner.registration.uses import PlaybookUse, UsesOfPlan
from noetl.planner.trigger_sources import RunEnd

MAX_USED = 200
"""How many playbooks that a new version uses are read."""

MAX_CALLER_STEPS = 50_000
"""How many steps the plans have together that are searched for uses of the new version."""


def check_registration(
    plan: Plan,
    registered: RegisteredPlaybooks,
    action_types: Catalogued,
    *,
    is_forced: bool = False,
    aliases: Collection[str] = (LIVE,),
) -> tuple[Diagnostic, ...]:
    """Return the findings about a new version of a playbook among the registered ones.

    `aliases` name it then, and may name another version before. If it is forced, only what never ends is an
    error.
    """
    findings = RegistrationFindings(plan)
    check_sources_allowed(findings, registered)
    if not is_forced:
        check_channels(findings, registered)
        check_used_limits(findings, registered)
        _check_used_playbooks(findings, registered, find_uses(plan, action_types), aliases)
        for alias in aliases:
            with suppress(UnreadablePlanError):
                _check_callers(findings, registered, action_types, alias)
    search = PlaybookSearch(plan, registered, action_types, aliases)
    check_circles(findings, search)
    if not is_forced:
        check_run_waits(findings, search, registered, registered.limits)
    return findings.to_diagnostics()


def preview_registration(
    plan: Plan, registry: KnownRegistry, action_types: Catalogued, aliases: Collection[str] = (LIVE,)
) -> tuple[Diagnostic, ...]:
    """Return the findings of a registration about what a plan itself names.

    It names sources, channels, limits and playbooks, and may call itself without end. An editor shows these
    findings before. `aliases` would name the new version.
    """
    findings = RegistrationFindings(plan)
    check_sources_allowed(findings, registry)
    check_channels(findings, registry)
    check_used_limits(findings, registry)
    _check_used_playbooks(findings, registry, find_uses(plan, action_types), aliases)
    check_own_recursion(findings, action_types, aliases)
    return findings.to_diagnostics()


def check_uses(plan: Plan, playbooks: LinkedPlaybooks, action_types: Catalogued) -> tuple[Diagnostic, ...]:
    """Return the findings about a plan among other playbooks, such as those of files.

    They are about what it uses of them, circles without end, and runs that wait for each other. Circles are
    findings of all members that use others. One whose limits all have keys is a warning: a registration can
    be forced, and the check of files cannot.
    """
    findings = RegistrationFindings(plan)
    _check_used_playbooks(findings, playbooks, find_uses(plan, action_types), aliases=(LIVE,))
    search = PlaybookSearch(plan, playbooks, action_types, aliases=(LIVE,))
    check_circles(findings, search)
    check_run_waits(findings, search, playbooks, keyed_severity=Severity.WARNING)
    return findings.to_diagnostics()


def has_uses(plan: Plan, action_types: Catalogued) -> bool:
    """Return whether a plan uses other playbooks."""
    header = plan.header
    awaits = any(isinstance(trigger.source, RunEnd) for trigger in header.triggers)
    return awaits or may_call(header.statistics, action_types)


def find_uses(plan: Plan, action_types: Catalogued) -> Iterator[PlaybookUse]:
    """Yield the uses of other playbooks, in the order of the text."""
    if has_uses(plan, action_types):
        yield from UsesOfPlan(plan, action_types).find()


def _check_used_playbooks(
    findings: RegistrationFindings,
    playbooks: UsedPlaybooks,
    uses: Iterable[PlaybookUse],
    aliases: Collection[str],
) -> None:
    """Report uses of unknown playbooks, and uses that do not fit. `aliases` name the new version."""
    plan = findings.plan
    own_version = RegisteredPlan(plan.hash, plan.header, plan.header.version)
    new = AliasedVersion(own_version, aliases)

    @cache
    def find(call: PlaybookCall) -> UsedVersion | None:
        if new.is_called(call):
            return UsedVersion(plan.header, partial(find_result_names, plan.header, plan.steps.values()))
        found = playbooks.find(call)
        return None if found is None else UsedVersion(found.header, partial(playbooks.result_names, found))

    for use in uses:
        if find.cache_info().currsize >= MAX_USED or findings.is_full():
            return
        with suppress(UnreadablePlanError):
            version = find(use.call)
            if version is None:
                _report_unknown(findings, playbooks, use)
                continue
            for misfit in use.find_misfits(version):
                if findings.is_full():
                    return
                meant = misfit.unknown and findings.did_you_mean(*misfit.unknown)
                findings.report("NP818", misfit.message, misfit.place, meant or misfit.hint)


def _report_unknown(findings: RegistrationFindings, playbooks: UsedPlaybooks, use: PlaybookUse) -> None:
    name, version, alias = use.call
    shown = abbreviate(name)
    versions = playbooks.versions(name) if use.call.label is not None else ()
    if version is not None and versions:
        hint = findings.did_you_mean(version, versions) or list_versions(versions)
        message = f"unknown version `{abbreviate(version)}` of the playbook `{shown}`"
        findings.report("NP817", message, PlanPlace((*use.path, "version")), hint)
        return
    if alias is not None and versions:
        hint = findings.did_you_mean(alias, playbooks.aliases(name)) or "promote a version to it first"
        message = f"unknown alias `{abbreviate(alias)}` of the playbook `{shown}`"
        findings.report("NP817", message, PlanPlace((*use.path, "alias")), hint)
        return
    names = {*playbooks.names(), findings.plan.header.name}
    hint = findings.did_you_mean(name, names) or "register it first"
    findings.report("NP817", f"unknown playbook `{shown}`", use.place, hint)


def _check_callers(
    findings: RegistrationFindings, registered: RegisteredPlaybooks, action_types: Catalogued, alias: str
) -> None:
    """Report uses of an alias by other playbooks that fit the version before, and not the new one.

    Raises:
        UnreadablePlanError: the plan of the version before cannot be read.
    """
    plan = findings.plan
    before = registered.find(PlaybookCall(plan.header.name, alias=alias))
    if before is None or before.plan_hash == plan.hash:
        return
    old = UsedVersion(before.header, partial(registered.result_names, before))
    new = UsedVersion(plan.header, partial(find_result_names, plan.header, plan.steps.values()))
    if _inputs_of(before.header) == _inputs_of(plan.header) and set(old.result_names) <= set(
        new.result_names
    ):
        return
    for caller, use in _find_callers(plan.header.name, registered, action_types):
        if use.call.followed_alias != alias:
            continue
        if findings.is_full():
            return
        old_messages = {misfit.message for misfit in use.find_misfits(old)}
        for misfit in use.find_misfits(new):
            if misfit.message not in old_messages:
                _report_broken_caller(findings, caller, use, misfit)


def find_alias_callers(
    name: str, alias: str, registered: RegisteredPlaybooks, action_types: Catalogued
) -> Iterator[str]:
    """Yield the places of live versions that call a playbook by an alias, such as `line 4 of `nightly@2``.

    The live version of the playbook itself counts, too.
    """
    for caller, use in _find_callers(name, registered, action_types, includes_own=True):
        if use.call.alias == alias:
            yield f"line {use.line} of `{caller.label}`"


def _inputs_of(header: Header) -> tuple[object, ...]:
    """Return what callers must know of the inputs of a playbook."""
    inputs = {
        name: replace(declared, line=0, description=None, inferred=False, default=None)
        for name, declared in header.inputs.items()
    }
    return inputs, header.accepts_other_inputs


def _find_callers(
    name: str, registered: RegisteredPlaybooks, action_types: Catalogued, *, includes_own: bool = False
) -> Iterator[tuple[RegisteredPlan, PlaybookUse]]:
    """Yield the live versions of other playbooks that use a playbook, with the uses."""
    steps_left = MAX_CALLER_STEPS
    for caller in registered.live_versions():
        header = caller.header
        if header.name == name and not includes_own:
            continue
        awaits = any(
            isinstance(trigger.source, RunEnd) and trigger.source.playbook == name
            for trigger in header.triggers
        )
        if not awaits and not may_call(header.statistics, action_types):
            continue
        steps_left -= header.statistics.get("steps", 0)
        if steps_left < 0:
            return
        registered.pause()
        with suppress(UnreadablePlanError):
            uses: Iterable[PlaybookUse] = UsesOfPlan(registered.plan(caller), action_types).find(name)
            yield from ((caller, use) for use in uses)


def _report_broken_caller(
    findings: RegistrationFindings, caller: RegisteredPlan, use: PlaybookUse, misfit: Misfit
) -> None:
    section = findings.plan.header.inputs if misfit.cause[0] == "input" else findings.plan.header.output
    is_written = section is not None and (len(misfit.cause) == 1 or misfit.cause[1] in section)
    place = key_of(*misfit.cause) if is_written else key_of("name")
    message = f"line {use.line} of `{caller.label}` would break: {misfit.message}"
    hint = "keep what callers use, or change them first, or force the registration"
    findings.report("NP822", message, place, hint)
