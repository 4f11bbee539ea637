"""Triggers whose sources a process reads: those of the tenants to which its operator allows sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.stores.interface import Store

TRIGGERS_PER_READ = 500
"""How many triggers of a tenant are read at once."""


def find_source_triggers(store: Store, tenants: Iterable[str], type_name: str) -> Iterator[LiveTrigger]:
    """Yield the triggers of a type that are not paused, tenant by tenant.

    Raises:
        StoreError: the store cannot be reached.
    """
    for tenant in tenants:
        cursor: str | None = None
        while True:
            found, cursor = store.triggers.find(tenant, limit=TRIGGERS_PER_READ, cursor=cursor)
            yield from (trigger for trigger in found if trigger.type == type_name and not trigger.is_paused)
            if cursor is None:
                break
