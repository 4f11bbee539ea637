"""The service of limits: how many runs or steps of a tenant may be in progress at once.

Problem: an operator changes a limit while runs hold its units and others wait for them.

Algorithm: each call is one transaction of the store. What is held stays held. New units are granted at once
to what waits.

Cost: one read or one write for each call.

Limits: at most MAX_LIMITS limits of operators, counted before a new one is written.
"""

from __future__ import annotations

from noetl.api.service.errors import NotFoundError
from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue, LimitUse
from noetl.api.service.tenant import TenantContext
from noetl.executor.engine.slots import grant_next
from noetl.executor.errors import RejectedError
from noetl.executor.model.gates import MAX_UNITS, Gate, GateKey, LimitKind, named_gate
from noetl.planner.frozen import frozen
from noetl.planner.limits import MAX_LIMIT_NAME, is_limit_name

MAX_LIMITS = 100
"""How many limits of operators a tenant may have."""

LIMITS_PER_PAGE = 100
MAX_LIMITS_OF_PAGE = 1000
_OWN = "own:"


@frozen
class LimitService:
    """The limits of one tenant. The name of a limit in use may be its id."""

    context: TenantContext

    def find(
        self, *, in_use: bool = False, limit: int = LIMITS_PER_PAGE, cursor: str | None = None
    ) -> LimitPage:
        """Return a page of the limits of operators, or of those of playbooks and steps that are in use.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        gates = self.context.store.gates
        found, next_cursor = gates.find(self.context.tenant, named=not in_use, limit=limit, cursor=cursor)
        return LimitPage(items=[LimitEntry.from_gate(gate) for gate in found], next_cursor=next_cursor)

    def get(self, name: str) -> LimitEntry:
        """Return a limit.

        Raises:
            NotFoundError: there is no such limit, or an own limit is not in use.
        """
        return LimitEntry.from_gate(self._get(name))

    def put(self, name: str, units: int, kind: LimitKind) -> tuple[LimitEntry, bool]:
        """Make or change a limit of an operator. Return it, and whether it is new.

        Raises:
            RejectedError: `invalid_limit`, `too_many_limits`.
        """
        store, key = self.context.store, self._key(name)
        if not is_limit_name(name):
            message = f"the name of a limit must be 1 to {MAX_LIMIT_NAME} letters, digits, `_`, `-` or `.`"
            raise RejectedError("invalid_limit", f"{message}, and start with a letter or digit")
        if not 0 <= units <= MAX_UNITS:
            raise RejectedError("invalid_limit", f"a limit must have 0 to {MAX_UNITS:,} units, not {units:,}")
        is_new = store.gates.gate(key) is None
        if (
            is_new
            and len(store.gates.find(self.context.tenant, named=True, limit=MAX_LIMITS)[0]) >= MAX_LIMITS
        ):
            raise RejectedError("too_many_limits", f"there are {MAX_LIMITS} limits; remove one")
        gate = store.gates.set_limit(key, kind, units)
        if gate.may_grant:
            grant_next(store, [key], store.clock())
        return self.get(name), is_new

    def remove(self, name: str) -> None:
        """Remove a limit of an operator.

        Raises:
            NotFoundError: there is no such limit.
            RejectedError: `limit_in_use`, if runs or steps hold its units or wait for them.
        """
        key = self._key(name)
        if name.startswith(_OWN) or not self.context.store.gates.remove_limit(key):
            raise _unknown(name)

    def queue(self, name: str, *, limit: int = LIMITS_PER_PAGE, cursor: str | None = None) -> LimitQueue:
        """Return a page of what holds units of a limit, and what waits for them.

        Raises:
            NotFoundError: there is no such limit, or an own limit is not in use.
            RejectedError: `invalid_cursor`.
        """
        key = self._get(name).key
        slots, next_cursor = self.context.store.gates.slots_at(key, limit=limit, cursor=cursor)
        return LimitQueue(items=[LimitUse.from_slot(slot) for slot in slots], next_cursor=next_cursor)

    def _get(self, name: str) -> Gate:
        gate = self.context.store.gates.gate(self._key(name))
        if gate is None:
            raise _unknown(name)
        return gate

    def _key(self, name: str) -> GateKey:
        tenant = self.context.tenant
        return GateKey(name, tenant) if name.startswith(_OWN) else named_gate(tenant, name)


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"unknown limit `{name}`")
