"""Event buses to which notifications may be sent: those that an operator allows each tenant.

A tenant may write the name of any bus into a channel, and all channels use the credentials of the process. So
a notification goes only to a bus that the operator has listed for the tenant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field

from noetl.executor.errors import SettingError
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.planner.frozen import frozen

BUSES_SETTING = "NOETL_EVENT_BUSES"
"""The setting that lists the buses of each tenant."""

_RULE = re.compile(r"(?:(?P<tenant>[^/:\s]+)/)?(?P<bus>[A-Za-z0-9._/:-]+)")


@frozen
class AllowedBuses:
    """The buses of each tenant, by their names or their ARNs as channels write them."""

    buses: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def missing_rule(self, tenant: str, bus: str) -> str | None:
        """Return the rule that a tenant lacks to send to a bus, or None if it may.

        >>> AllowedBuses({"default": frozenset({"ops"})}).missing_rule("acme", "ops")
        'acme/ops'
        """
        if bus in self.buses.get(tenant, ()):
            return None
        return bus if tenant == DEFAULT_TENANT else f"{tenant}/{bus}"


def read_allowed_buses(environ: Mapping[str, str]) -> AllowedBuses:
    """Return the rules in `NOETL_EVENT_BUSES`, which are separated by `;` or line breaks.

    >>> sorted(read_allowed_buses({BUSES_SETTING: "default; acme/ops"}).buses)
    ['acme', 'default']

    Raises:
        SettingError: a rule is invalid.
    """
    buses: dict[str, frozenset[str]] = {}
    for text in re.split(r"[;\n]", environ.get(BUSES_SETTING, "")):
        if not text.strip():
            continue
        rule = _RULE.fullmatch(text.strip())
        if rule is None:
            form = "a bus or its ARN, after `TENANT/` if it is of another tenant"
            raise SettingError(f"{BUSES_SETTING}: {text.strip()!r} must be {form}.")
        tenant = rule["tenant"] or DEFAULT_TENANT
        buses[tenant] = buses.get(tenant, frozenset()) | {rule["bus"]}
    return AllowedBuses(buses)
