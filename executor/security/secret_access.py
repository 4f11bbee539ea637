"""The access of one action call to the secrets of its tenant.

Every value that reaches an action is revealed here. The destination of the action belongs to the access, so
no action type can leave out the check.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from noetl.executor.errors import ActionError
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.security.redaction import MIN_REDACTED_LENGTH
from noetl.executor.security.secret_hosts import SecretHosts
from noetl.executor.security.secret_sources import resolve_secret


class SecretAccess:
    """The access of one call: the secrets of `tenant`, which may go to `hosts`.

    The destination may itself contain a secret, as a connection string does. So a value may be revealed
    before the destination is known; then `set_destination` checks it.
    """

    def __init__(self, tenant: str, hosts: SecretHosts, environ: Mapping[str, str] = os.environ) -> None:
        self._tenant = tenant
        self._hosts = hosts
        self._environ = environ
        self._revealed: set[str] = set()
        self.has_revealed_short = False
        """Whether a revealed secret is too short to be found in texts."""
        self._find_hosts: Callable[[], Iterable[str]] | None = None
        self._shown: str | None = None

    def reveal(self, name: str) -> str:
        """Return the value of a secret, which is redacted from now on.

        Raises:
            ActionError: as `resolve_secret`; `AccessDenied`, if it must not go to the destination.
        """
        value = resolve_secret(name, self._environ, self._tenant)
        self._check(name)
        if len(value) < MIN_REDACTED_LENGTH and not self._hosts.allows_any:
            message = (
                f"secret `{name}` has fewer than {MIN_REDACTED_LENGTH} characters, so it cannot be redacted:"
                " use a longer one"
            )
            raise ActionError("AccessDenied", message, retryable=False)
        self._revealed.add(name)
        self.has_revealed_short |= len(value) < MIN_REDACTED_LENGTH
        return value

    def set_destination(self, find_hosts: Callable[[], Iterable[str]], shown: str | None = None) -> None:
        """Set the function that finds the hosts to which the action sends its parameters.

        Check what was revealed before. `shown` describes the hosts in messages if they may contain a part of
        a secret.

        Raises:
            ActionError: `AccessDenied`.
        """
        self._find_hosts, self._shown = find_hosts, shown
        for name in sorted(self._revealed):
            self._check(name)

    def check_host(self, host: str) -> None:
        """Check that everything that was revealed may also go to another host.

        Raises:
            ActionError: `AccessDenied`.
        """
        for name in sorted(self._revealed):
            self._hosts.check(self._tenant, name, (host,))

    def _check(self, name: str) -> None:
        if self._hosts.allows_any:
            return
        if self._find_hosts is None:
            self._hosts.check_any(self._tenant, name, "any host")
        else:
            self._hosts.check(self._tenant, name, self._find_hosts(), self._shown)


class SecretNames(SecretAccess):
    """The access of a key of the cache: it reveals the name of each secret in place of its value."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_TENANT, SecretHosts(allows_any=True), {})

    def reveal(self, name: str) -> str:
        """Return a text that no secret is, with the name."""
        return f"\0secrets.{name}\0"


def unrestricted_access(environ: Mapping[str, str] = os.environ) -> SecretAccess:
    """Return the access of a local run: to the secrets of the default tenant, for every host."""
    return SecretAccess(DEFAULT_TENANT, SecretHosts(allows_any=True), environ)
