"""Access of commands to the limits of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue
    from noetl.api.service.services import TenantServices
    from noetl.executor.model.gates import LimitKind


class StoreLimits:
    """The limits of a store (implements `LimitAccess`)."""

    def __init__(self, services: TenantServices) -> None:
        self._limits = services.limits

    def find(self, in_use: bool, limit: int, cursor: str | None) -> LimitPage:
        return self._limits.find(in_use=in_use, limit=limit, cursor=cursor)

    def get(self, name: str) -> LimitEntry:
        return self._limits.get(name)

    def put(
        self, name: str, units: int, kind: LimitKind, *, per: float | None, is_shared: bool
    ) -> LimitEntry:
        return self._limits.put(name, units, kind, per=per, is_shared=is_shared)[0]

    def remove(self, name: str, *, is_shared: bool, is_forced: bool) -> None:
        self._limits.remove(name, is_shared=is_shared, is_forced=is_forced)

    def queue(self, name: str, limit: int, cursor: str | None) -> LimitQueue:
        return self._limits.queue(name, limit=limit, cursor=cursor)
