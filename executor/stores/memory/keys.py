"""API keys in the store in memory.

The author of a store needs a unique index by id, and one by tenant. Only hashes arrive here, never a key.
"""

from __future__ import annotations

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import SERVICE_TENANT, ApiKey
from noetl.executor.model.request_counts import RequestBatch
from noetl.executor.stores.memory.state import MemoryState
from noetl.planner.frozen import replace


class MemoryKeys:
    """The API keys of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def add(self, key: ApiKey) -> None:
        with self._state.lock:
            if key.id in self._state.keys:
                raise RejectedError("key_exists", f"API key {key.id} already exists")
            self._state.keys[key.id] = key

    def get(self, id: str) -> ApiKey | None:
        with self._state.lock:
            return self._state.keys.get(id)

    def find(self, tenant: str) -> list[ApiKey]:
        with self._state.lock:
            keys = [key for key in self._state.keys.values() if key.tenant == tenant]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    def any_exist(self) -> bool:
        return any(key.tenant != SERVICE_TENANT for key in self._state.keys.values())

    def revoke(self, tenant: str, id: str, now: float) -> bool:
        with self._state.lock:
            key = self._state.keys.get(id)
            if key is None or key.tenant != tenant:
                return False
            if key.revoked_at is None:
                self._state.keys[id] = replace(key, revoked_at=now)
            return True

    def touch(self, id: str, now: float) -> None:
        with self._state.lock:
            key = self._state.keys.get(id)
            if key is not None and (key.last_used_at or 0.0) < now:
                self._state.keys[id] = replace(key, last_used_at=now)

    def count_requests(self, batch: RequestBatch) -> bool:
        with self._state.lock:
            counts = self._state.request_counts.setdefault(batch.subject, {})
            for slot in [slot for slot in counts if not batch.may_keep(slot)]:
                del counts[slot]
            used = sum(count for slot, count in counts.items() if slot <= batch.slot)
            if used + batch.size > batch.limit:
                return False
            counts[batch.slot] = counts.get(batch.slot, 0) + batch.size
            return True
