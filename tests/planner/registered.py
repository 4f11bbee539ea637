"""Registered playbooks in memory, and the findings about a new version among them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from textwrap import dedent

from noetl.executor.actions import catalogue
from noetl.executor.security.allowed_sources import read_allowed_sources
from noetl.planner.catalogue import LIVE, PlaybookCall
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.plan import Plan, TriggerSource
from noetl.planner.registration.checks import check_registration
from noetl.planner.registration.registry import AwaitingTrigger, KnownLimit, RegisteredPlan
from noetl.planner.registration.result_reads import find_result_names
from noetl.planner.trigger_sources import RunEnd
from tests.planner.findings import source_at


def compiled(text: str) -> Plan:
    """Return the plan of a correct playbook."""
    compilation = compile_playbook(dedent(text), catalogue())
    assert compilation.plan is not None, compilation.diagnostics
    return compilation.plan


class KnownPlaybooks:
    """Registered playbooks (implements `RegisteredPlaybooks`). `reads` are the names of the read plans.

    `rules` are the sources that triggers may read; None if these are not known.
    """

    def __init__(self, *texts: str, rules: str | None = None) -> None:
        self.rules = rules
        self._versions: dict[str, list[RegisteredPlan]] = {}
        self._plans: dict[str, Plan] = {}
        self._aliases: dict[tuple[str, str], str] = {}
        self.reads: list[str] = []
        self.searches = 0
        self.pauses = 0
        for text in texts:
            self.add(compiled(text))

    def add(self, plan: Plan) -> None:
        """Register a version, whatever the checks find."""
        name, version = plan.header.name, plan.header.version
        versions = self._versions.setdefault(name, [])
        versions.insert(0, RegisteredPlan(plan.hash, plan.header, version or str(len(versions) + 1)))
        self._plans[plan.hash] = plan

    def promote(self, name: str, version: str, alias: str = LIVE) -> None:
        """Let an alias name a version."""
        self._aliases[name, alias] = version

    def find(self, call: PlaybookCall) -> RegisteredPlan | None:
        self.searches += 1
        alias = call.followed_alias
        version = call.version if alias is None else self._aliases.get((call.name, alias))
        if version is None and alias != LIVE:
            return None
        versions = self._versions.get(call.name, ())
        return next((found for found in versions if version in (None, found.version)), None)

    def plan(self, registered: RegisteredPlan) -> Plan:
        self.reads.append(registered.header.name)
        return self._plans[registered.plan_hash]

    def result_names(self, registered: RegisteredPlan) -> Collection[str]:
        header = registered.header
        steps = self.plan(registered).steps.values() if header.output is None else ()
        return find_result_names(header, steps)

    def missing_rule(self, source: TriggerSource) -> str | None:
        if self.rules is None:
            return None
        environ = {"NOETL_TRIGGER_SOURCES": self.rules, "NOETL_EVENT_QUEUE": "https://queue"}
        return read_allowed_sources(environ).missing_rule("default", source)

    def names(self) -> Sequence[str]:
        return [*self._versions]

    def versions(self, name: str) -> Sequence[str]:
        return [str(found.version) for found in self._versions.get(name, ())]

    def aliases(self, name: str) -> Sequence[str]:
        return [alias for playbook, alias in self._aliases if playbook == name]

    def awaiting(self, name: str) -> Iterable[AwaitingTrigger]:
        for registered in self.live_versions():
            for trigger in registered.header.triggers:
                if isinstance(trigger.source, RunEnd) and trigger.source.playbook == name:
                    yield AwaitingTrigger(registered.header.name, trigger)

    def channels(self) -> Sequence[str]:
        return ["ops", "audit"]

    def pause(self) -> None:
        self.pauses += 1

    def limits(self) -> Mapping[str, KnownLimit]:
        return {
            "salesforce": KnownLimit("steps"),
            "imports": KnownLimit("runs"),
            "calls": KnownLimit("steps", is_rate=True),
            "disk": KnownLimit("runs", is_shared=True),
            "link": KnownLimit("runs", is_shared=True),
        }

    def live_versions(self) -> Iterable[RegisteredPlan]:
        found = (self.find(PlaybookCall(name)) for name in self._versions)
        return [version for version in found if version is not None]


def diagnose_among(
    registered: KnownPlaybooks, text: str, *, is_forced: bool = False, aliases: Collection[str] = (LIVE,)
) -> tuple[Diagnostic, ...]:
    """Return the findings about a new version, which has some aliases then, among registered playbooks."""
    plan = compiled(text)
    return check_registration(plan, registered, catalogue(), is_forced=is_forced, aliases=aliases)


def findings_among(
    registered: KnownPlaybooks, text: str, *, aliases: Collection[str] = (LIVE,)
) -> list[tuple[str, str]]:
    """Return code and source text of the findings about a new version."""
    lines = dedent(text).splitlines()
    found = diagnose_among(registered, text, aliases=aliases)
    return [(finding.code, source_at(lines, finding)) for finding in found]
