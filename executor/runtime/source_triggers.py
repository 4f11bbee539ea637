"""Triggers whose sources a process reads: those of the tenants to which its operator allows sources."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator

from noetl.executor.engine.bus_firing import EventTriggers
from noetl.executor.engine.firing import Firer, read_firer
from noetl.executor.errors import StoreAwayError, StoreError
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.security.allowed_sources import EVENT_KINDS, AllowedSources, name_queue
from noetl.executor.stores.interface import Store
from noetl.planner.polled_sources import Queue

TRIGGERS_PER_READ = 500
"""How many triggers of a tenant are read at once."""

logger = logging.getLogger("noetl.executor")


def find_source_triggers(store: Store, tenants: Iterable[str], type_name: str) -> Iterator[LiveTrigger]:
    """Yield the triggers of a type that are not paused, tenant by tenant.

    Raises:
        StoreError: the store cannot be reached.
    """
    for tenant in tenants:
        for trigger in _find_triggers(store, tenant, (type_name,)):
            if not trigger.is_paused:
                yield trigger


def read_event_triggers(store: Store, allowed: AllowedSources) -> EventTriggers:
    """Return the triggers that events fire, also those that are paused.

    Those of a tenant whose plans cannot be read are left out, and the others still fire.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    firers: list[Firer] = []
    is_complete = True
    for tenant in allowed.tenants(EVENT_KINDS):
        try:
            firers += _find_event_firers(store, allowed, tenant)
        except StoreAwayError:
            raise
        except StoreError as problem:
            is_complete = False
            logger.warning("events of tenant %s are received again: %s", tenant, problem)
    return EventTriggers(tuple(firers), is_complete)


def _find_event_firers(store: Store, allowed: AllowedSources, tenant: str) -> list[Firer]:
    """Return what fires the triggers of a tenant whose events it may read.

    Raises:
        StoreError: the store cannot be reached, or a plan cannot be read.
    """
    firers = []
    for trigger in _find_triggers(store, tenant, EVENT_KINDS):
        firer = read_firer(store, trigger, store.clock())
        if firer is not None and allowed.missing_rule(tenant, firer.declared.source) is None:
            firers.append(firer)
    return firers


def read_queue_firers(store: Store, allowed: AllowedSources, queue: str) -> list[Firer]:
    """Return what fires the triggers that read a queue of SQS, without those that are paused.

    `queue` is what `name_queue` returns for its address.

    Raises:
        StoreError: the store cannot be reached, or a plan cannot be read.
    """
    firers = []
    for trigger in find_source_triggers(store, allowed.tenants(("sqs",)), "queue"):
        firer = read_firer(store, trigger, store.clock())
        source = None if firer is None else firer.declared.source
        if firer is None or not isinstance(source, Queue) or name_queue(source.url or "") != queue:
            continue
        if allowed.missing_rule(trigger.tenant, source) is None:
            firers.append(firer)
    return firers


def _find_triggers(store: Store, tenant: str, types: Collection[str]) -> Iterator[LiveTrigger]:
    cursor: str | None = None
    while True:
        found, cursor = store.triggers.find(tenant, limit=TRIGGERS_PER_READ, cursor=cursor)
        yield from (trigger for trigger in found if trigger.type in types)
        if cursor is None:
            break
