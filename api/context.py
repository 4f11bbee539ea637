"""What the requests to an app share: the store and what stands on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from noetl.api.auth.authentication import Authentication
from noetl.api.auth.jwt import Tokens, issuer_of
from noetl.api.service.runs import Service
from noetl.executor.actions import catalogue
from noetl.executor.errors import SettingError
from noetl.executor.security.capabilities import ACTIONS_SETTING, allowed_actions
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.diagnostic import suggest


@dataclass(frozen=True, slots=True)
class Opened:
    """A store, the service of it, and who may ask that."""

    store: Store
    service: Service
    authentication: Authentication


class Shared:
    """Opened with the settings of `environ`, or of the process's environment, when it is first needed. Threads may share it.

    With `always_authenticated`, this machine needs credentials like anyone else.
    """

    def __init__(
        self, environ: Mapping[str, str] | None = None, *, always_authenticated: bool = False
    ) -> None:
        self._environ = environ
        self._always_authenticated = always_authenticated
        self._opened: Opened | None = None
        self._opening = threading.Lock()

    @property
    def settings(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ

    def opened(self) -> Opened:
        """What is shared.

        Raises:
            SettingError: a setting is missing or cannot be used.
            StoreError: the store cannot be opened.
        """
        with self._opening:
            if self._opened is None:
                issuer = issuer_of(self.settings)
                actions = _catalogue(self.settings)
                store = open_store(self.settings.get("NOETL_STORE"))
                tokens = None if issuer is None else Tokens(issuer)
                authentication = Authentication(store, tokens, always=self._always_authenticated)
                self._opened = Opened(store, Service(store, actions), authentication)
            return self._opened

    def close(self) -> None:
        """Give the store up."""
        with self._opening:
            if self._opened is not None:
                self._opened.store.close()
                self._opened = None


def _catalogue(settings: Mapping[str, str]) -> Catalogue:
    """The types of actions, of which those may be used that the settings allow."""
    known, allowed = catalogue(), allowed_actions(settings)
    if allowed is None:
        return known
    for name in allowed:
        if name not in known:
            hint = suggest(name, known) or f"there are {', '.join(known)}"
            raise SettingError(f"{ACTIONS_SETTING} names {name!r}, which is no type of action; {hint}.")
    return known.only(allowed, ACTIONS_SETTING)
