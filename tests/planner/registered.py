"""Registered playbooks in memory, and the findings about a new version among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import dedent

from noetl.executor.actions import catalogue
from noetl.executor.security.allowed_sources import read_allowed_sources
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.plan import Plan, TriggerSource
from noetl.planner.registration.checks import check_registration
from noetl.planner.registration.registry import AwaitingTrigger, RegisteredPlan
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

    def find(self, name: str, version: str | None = None) -> RegisteredPlan | None:
        self.searches += 1
        versions = self._versions.get(name, ())
        return next((found for found in versions if version in (None, found.version)), None)

    def plan(self, registered: RegisteredPlan) -> Plan:
        self.reads.append(registered.header.name)
        return self._plans[registered.plan_hash]

    def missing_rule(self, source: TriggerSource) -> str | None:
        if self.rules is None:
            return None
        environ = {"NOETL_TRIGGER_SOURCES": self.rules, "NOETL_EVENT_QUEUE": "https://queue"}
        return read_allowed_sources(environ).missing_rule("default", source)

    def names(self) -> Sequence[str]:
        return [*self._versions]

    def versions(self, name: str) -> Sequence[str]:
        return [str(found.version) for found in self._versions.get(name, ())]

    def awaiting(self, name: str) -> Iterable[AwaitingTrigger]:
        for registered in self.newest_versions():
            for trigger in registered.header.triggers:
                if isinstance(trigger.source, RunEnd) and trigger.source.playbook == name:
                    yield AwaitingTrigger(registered.header.name, trigger)

    def channels(self) -> Sequence[str]:
        return ["ops", "audit"]

    def pause(self) -> None:
        self.pauses += 1

    def newest_versions(self) -> Iterable[RegisteredPlan]:
        return [versions[0] for versions in self._versions.values()]


def diagnose_among(
    registered: KnownPlaybooks, text: str, *, is_forced: bool = False
) -> tuple[Diagnostic, ...]:
    """Return the findings about a new version among registered playbooks."""
    return check_registration(compiled(text), registered, catalogue(), is_forced=is_forced)


def findings_among(registered: KnownPlaybooks, text: str) -> list[tuple[str, str]]:
    """Return code and source text of the findings about a new version."""
    lines = dedent(text).splitlines()
    return [(found.code, source_at(lines, found)) for found in diagnose_among(registered, text)]
