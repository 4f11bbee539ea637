"""Destinations of secrets: the hosts to which each secret may go, and the check when a value is revealed.

A tenant may write any address into a playbook. So a service sends the value of a secret only to the hosts
that its operator has listed for it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import field

from noetl.executor.errors import ActionError, SettingError
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.planner.frozen import frozen

HOSTS_SETTING = "NOETL_SECRETS_HOSTS"
"""The setting that lists the hosts of each secret."""

_RULE = re.compile(r"(?:(?P<tenant>[^/\s]+)/)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*:(?P<hosts>.*)")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_ACTION = re.compile(r"action:[a-z][a-z0-9_.-]*")


@frozen
class SecretHosts:
    """The hosts of each secret: `rules` maps (tenant, name) to patterns.

    A pattern is a host, `*.` and a domain, or `action:` and an action type that sends nothing to a host. With
    `allows_any`, every secret may go anywhere: a local run belongs to the owner of its secrets.
    """

    rules: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    allows_any: bool = False

    def check(self, tenant: str, name: str, destinations: Iterable[str], shown: str | None = None) -> None:
        """Check that a secret may go to all destinations. `shown` describes them if they are not shown.

        Raises:
            ActionError: `AccessDenied`; it names the secret, the host and the setting.
        """
        if self.allows_any:
            return
        patterns = self.rules.get((tenant, name), ())
        destinations = tuple(destinations) or ("",)
        for destination in destinations:
            if not any(_matches(pattern, destination) for pattern in patterns):
                raise _refusal(tenant, name, destination, shown)

    def check_any(self, tenant: str, name: str, shown: str) -> None:
        """Check that a secret may go anywhere at all, when its destination is not known yet.

        Raises:
            ActionError: `AccessDenied`, as in `check`.
        """
        if not self.allows_any and (tenant, name) not in self.rules:
            raise _refusal(tenant, name, "", shown)


def read_secret_hosts(environ: Mapping[str, str]) -> SecretHosts:
    """Return the rules in `NOETL_SECRETS_HOSTS`, which are separated by `;` or line breaks.

    >>> read_secret_hosts({HOSTS_SETTING: "TOKEN: api.test, *.shop.test; acme/TOKEN: acme.test"}).rules
    {('default', 'TOKEN'): ('api.test', '*.shop.test'), ('acme', 'TOKEN'): ('acme.test',)}

    Raises:
        SettingError: a rule is invalid.
    """
    rules: dict[tuple[str, str], tuple[str, ...]] = {}
    for text in re.split(r"[;\n]", environ.get(HOSTS_SETTING, "")):
        if not text.strip():
            continue
        rule = _RULE.fullmatch(text.strip())
        if rule is None:
            raise SettingError(
                f"{HOSTS_SETTING}: {text.strip()!r} must have the form `NAME: host, *.domain`."
            )
        patterns = tuple(_read_pattern(word) for word in rule["hosts"].split(","))
        owner = (rule["tenant"] or DEFAULT_TENANT, rule["name"])
        rules[owner] = (*rules.get(owner, ()), *patterns)
    return SecretHosts(rules)


def _read_pattern(word: str) -> str:
    pattern = _normalise(word.strip())
    if not (_HOST.fullmatch(pattern) or _ACTION.fullmatch(pattern) or _is_address(pattern)):
        raise SettingError(
            f"{HOSTS_SETTING}: {word.strip()!r} is not a host, `*.` and a domain, or `action:` and a type."
        )
    return pattern


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _normalise(host: str) -> str:
    """Return a host as it is compared: in lower case, without brackets and without a final dot.

    >>> _normalise("API.Test."), _normalise("[::1]")
    ('api.test', '::1')
    """
    return host.lower().removesuffix(".").removeprefix("[").removesuffix("]")


def _matches(pattern: str, destination: str) -> bool:
    host = _normalise(destination)
    is_below = pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:]
    return host == pattern or (is_below and not _is_address(host))


def _refusal(tenant: str, name: str, destination: str, shown: str | None) -> ActionError:
    key = name if tenant == DEFAULT_TENANT else f"{tenant}/{name}"
    place = shown or f"`{destination}`"
    rule = f"{key}: {destination}" if destination and shown is None else f"{key}: HOST"
    message = f"secret `{name}` must not go to {place}: {HOSTS_SETTING} needs the rule `{rule}`"
    return ActionError("AccessDenied", message, retryable=False)
