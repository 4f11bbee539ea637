"""The registered playbooks as the checks of a registration read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from noetl.planner.catalogue import LIVE, PlaybookCall
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.plan import Header, Plan, Trigger, TriggerSource


class UnreadablePlanError(Exception):
    """A registered version whose plan is lost or damaged. Nothing can be compared with it."""


class RegisteredPlan(NamedTuple):
    """A registered version of a playbook. `version` is None for one that is about to get a number."""

    plan_hash: str
    header: Header
    version: str | None = None

    @property
    def label(self) -> str:
        """The name and the version, as messages show them."""
        return abbreviate(f"{self.header.name}@{self.version}")


class AwaitingTrigger(NamedTuple):
    """A trigger that fires at the end of runs of a playbook, and the playbook that it belongs to."""

    playbook: str
    trigger: Trigger


class KnownLimit(NamedTuple):
    """The kind of a limit of an operator, which is `runs` or `steps`, and whether it is a rate.

    `is_shared` is true if it counts the runs or steps of all tenants.
    """

    kind: str
    is_rate: bool = False
    is_shared: bool = False


class AliasedVersion(NamedTuple):
    """A version of a playbook that is registered or promoted, and the aliases that name it then."""

    registered: RegisteredPlan
    aliases: Collection[str] = (LIVE,)

    def is_called(self, call: PlaybookCall) -> bool:
        """Return whether a call runs this version."""
        if call.name != self.registered.header.name:
            return False
        if call.version is not None:
            return call.version in (self.registered.version, self.registered.header.version)
        return call.followed_alias in self.aliases


class OperatorRules(Protocol):
    """Settings of the operator of a service that playbooks name."""

    def missing_rule(self, source: TriggerSource) -> str | None:
        """Return the rule of the operator that the source of a trigger lacks, or None."""
        ...

    def limits(self) -> Mapping[str, KnownLimit]:
        """Return what each limit of operators bounds, by its name.

        They are those of the tenant, and those that all tenants share.
        """
        ...

    def channels(self) -> Sequence[str]:
        """Return the names of all channels of the tenant."""
        ...


class UsedPlaybooks(Protocol):
    """The playbooks that a playbook may use: registered ones, or those of files."""

    def find(self, call: PlaybookCall) -> RegisteredPlan | None:
        """Return the version of a playbook that a call names, or the live one, or None if there is none.

        Raises:
            UnreadablePlanError: its plan cannot be read.
        """
        ...

    def result_names(self, registered: RegisteredPlan) -> Collection[str]:
        """Return the names of the entries that the result of a version may have.

        Raises:
            UnreadablePlanError: its plan cannot be read.
        """
        ...

    def names(self) -> Sequence[str]:
        """Return the names of playbooks, as words that may have been meant."""
        ...

    def versions(self, name: str) -> Sequence[str]:
        """Return versions of a playbook, the newest first."""
        ...

    def aliases(self, name: str) -> Sequence[str]:
        """Return the aliases of a playbook besides `live`."""
        ...


class KnownRegistry(UsedPlaybooks, OperatorRules, Protocol):
    """Facts of a service with which a text is compared before its registration."""


class LinkedPlaybooks(UsedPlaybooks, Protocol):
    """The playbooks in which circles are looked for: registered ones, or those of files."""

    def plan(self, registered: RegisteredPlan) -> Plan:
        """Return the complete plan of a version.

        Raises:
            UnreadablePlanError: it cannot be read.
        """
        ...

    def live_versions(self) -> Iterable[RegisteredPlan]:
        """Return the live versions of the playbooks whose plans can be read, up to a bound.

        Files may leave out those without limits.
        """
        ...

    def awaiting(self, name: str) -> Iterable[AwaitingTrigger]:
        """Return the triggers that fire at the end of runs of a playbook."""
        ...

    def pause(self) -> None:
        """Let other threads run first, if this one computes for long."""
        ...


class RegisteredPlaybooks(KnownRegistry, LinkedPlaybooks, Protocol):
    """The registered playbooks of one tenant."""
