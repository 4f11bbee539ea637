"""The objects that all requests to an app share: settings, store, services and authenticator."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from noetl.api.auth.authentication import Authenticator
from noetl.api.auth.jwt import TokenVerifier, read_issuer
from noetl.api.auth.rate_limits import (
    NO_RATE_LIMITS,
    RequestLimits,
    create_request_limits,
    read_rate_settings,
)
from noetl.api.compute.pool import ComputePool
from noetl.api.http.event_stream import encode_event
from noetl.api.http.list_stream import LIST_ENCODER
from noetl.api.http.open_bodies import OpenBodies
from noetl.api.http.open_limit import OPEN_KINDS, STREAMS, WAITING_REQUESTS, OpenLimit, read_open_limit
from noetl.api.http.shared_limit import SharedLimit
from noetl.api.service.compiler import allowed_catalogue
from noetl.api.service.list_watcher import ListWatchers
from noetl.api.service.request_store import Circuit, guard_store
from noetl.api.service.run_watcher import RunWatchers
from noetl.api.service.services import TenantServices, create_services
from noetl.api.service.store_latency import StoreLatency
from noetl.executor.security.allowed_sources import read_allowed_sources
from noetl.executor.security.secret_sources import register_local_secrets
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store


@dataclass(frozen=True, slots=True)
class AppServices:
    """An open store with all that uses it: the services, the authenticator, and the watchers of runs.

    `store` is for workers, which wait while it is away. All others fail soon.
    """

    store: Store
    services: TenantServices
    authenticator: Authenticator
    watchers: RunWatchers
    list_watchers: ListWatchers
    open_streams: OpenLimit
    waiting_requests: OpenLimit
    compute: ComputePool
    limits: RequestLimits
    latency: StoreLatency
    shared_waits: SharedLimit | None
    """The limit of waiting requests of all functions together, or None outside of a function."""

    def stop_streams(self) -> None:
        """Let all streams and waiting requests end soon. Any thread may call it, also a signal handler."""
        self.watchers.stop()
        self.list_watchers.stop()


class AppContext:
    """Settings of an app, and the services that they configure. Safe to share between threads.

    The settings are `environ`, or the environment of the process. The store is opened at first use.
    With `always_authenticated`, clients on this machine need credentials too.
    """

    def __init__(
        self, environ: Mapping[str, str] | None = None, *, always_authenticated: bool = False
    ) -> None:
        self._environ = environ
        self._always_authenticated = always_authenticated
        self.compute_processes = 0
        """How many compute processes may start. Only a lifespan can stop them, so it sets the number."""
        self.worker_threads: int | None = None
        """How many threads execute visits. Only a lifespan has workers, so it sets the number."""
        self.bodies = OpenBodies(lambda: self.settings)
        self._services: AppServices | None = None
        self._lock = threading.Lock()
        self._opening = Circuit()

    @property
    def settings(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ

    @property
    def opened_services(self) -> AppServices | None:
        """Services if the store is open. Reading them never blocks."""
        return self._services

    def services(self) -> AppServices:
        """Return the services. Open the store at the first call.

        Raises:
            SettingError: a setting is missing or not valid.
            StoreError: the store cannot be opened.
        """
        with self._lock:
            if self._services is None:
                register_local_secrets(self.settings)
                issuer = read_issuer(self.settings)
                actions = allowed_catalogue(self.settings)
                has_gateway = self._always_authenticated
                open_limits = {
                    kind: OpenLimit(read_open_limit(self.settings, kind, has_gateway=has_gateway), kind)
                    for kind in OPEN_KINDS
                }
                # The gateway limits the requests to a function, and names itself as the peer of all of them.
                rates = NO_RATE_LIMITS if self._always_authenticated else read_rate_settings(self.settings)
                url, threads = self.settings.get("NOETL_STORE"), self.worker_threads
                store = self._opening.call(lambda: open_store(url, threads=threads))
                latency = StoreLatency()
                request_store = guard_store(store, latency=latency)
                tokens = None if issuer is None else TokenVerifier(issuer)
                authenticator = Authenticator(request_store, tokens, always=self._always_authenticated)
                watchers = RunWatchers(request_store, encode_event)
                list_watchers = ListWatchers(request_store.changes, LIST_ENCODER)
                services = create_services(
                    request_store, actions, sources=read_allowed_sources(self.settings)
                )
                limits = create_request_limits(rates, request_store.keys.count_requests, request_store.clock)
                compute = ComputePool(self.compute_processes, services.compiler, self.settings)
                self._services = AppServices(
                    store,
                    services,
                    authenticator,
                    watchers,
                    list_watchers,
                    open_limits[STREAMS],
                    open_limits[WAITING_REQUESTS],
                    compute,
                    limits,
                    latency,
                    SharedLimit(
                        "waits",
                        open_limits[WAITING_REQUESTS].limit,
                        request_store.keys.count_requests,
                        request_store.clock,
                    )
                    if has_gateway
                    else None,
                )
            return self._services

    def stop_clients(self) -> None:
        """Let streams, waiting requests and unfinished bodies end soon. A signal handler may call it."""
        self.bodies.stop()
        if self._services is not None:
            self._services.stop_streams()

    def close(self) -> None:
        """Close the store, if it is open."""
        with self._lock:
            if self._services is not None:
                self._services.store.close()
                self._services = None
