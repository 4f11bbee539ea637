"""The service of limits: how many runs or steps of a tenant, or of all, may be in progress or begin.

Problem: an operator changes a limit while runs hold its units and others wait for them.

Algorithm: each call is one transaction of the store. What is held stays held. New units are granted at once
to what waits.

A shared limit belongs to all tenants, and hides a limit of a tenant with its name. So no tenant evades it.
Only a caller with access to the store changes it.

Cost: two reads, or one and a write, for each call. A removal also reads the live versions of playbooks, which
may name the limit. Each entry of the queue of a shared limit takes one more read, of whether its run is one
of the tenant.

Limits: at most MAX_LIMITS limits of operators of a tenant, and as many shared ones, counted before a new one
is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.api.service.errors import NotFoundError
from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue, LimitUse
from noetl.api.service.tenant import TenantContext
from noetl.executor.engine.slots import grant_next
from noetl.executor.errors import RejectedError
from noetl.executor.model.gates import (
    MAX_UNITS,
    OWN_PREFIX,
    SHARED_TENANT,
    Gate,
    GateKey,
    LimitKind,
    Slot,
    check_removable,
    named_gate,
)
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words
from noetl.planner.frozen import frozen
from noetl.planner.limits import (
    MAX_LIMIT_NAME,
    MAX_WINDOW_SECONDS,
    MIN_WINDOW_SECONDS,
    is_limit_name,
)

MAX_LIMITS = 100
"""How many limits of operators a tenant may have. So many may be shared, too."""

LIMITS_PER_PAGE = 100
MAX_LIMITS_OF_PAGE = 1000
MAX_SHARED_OF_PAGE = 100
"""The most entries of a page of the queue of a shared limit."""
MAX_SHARED_ENTRIES = 1000
"""How many entries of the queue of a shared limit its pages have together."""

_MAX_SHOWN_LIMITS = 5
"""How many names a message has: of limits, or of what uses a limit."""


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
        gates, tenant = self.context.store.gates, self.context.tenant
        scope = self.context.cursor_scope("limits", in_use)
        cursor = scope.open(cursor)
        found, following = gates.find(tenant, named=not in_use, limit=limit, cursor=cursor)
        if not in_use:
            shared, more = gates.find(SHARED_TENANT, named=True, limit=limit, cursor=cursor)
            merged = {gate.key.id: gate for gate in (*found, *shared)}
            found = sorted(merged.values(), key=lambda gate: gate.key.id)[:limit]
            if following or more or len(merged) > limit:
                following = write_key_cursor(found[-1].key.id)
        return LimitPage(items=[self._entry(gate) for gate in found], next_cursor=scope.close(following))

    def get(self, name: str) -> LimitEntry:
        """Return a limit.

        Raises:
            NotFoundError: there is no such limit, or an own limit is not in use.
        """
        return self._entry(self._get(name))

    def put(
        self,
        name: str,
        units: int,
        kind: LimitKind,
        *,
        per: float | None = None,
        is_shared: bool = False,
    ) -> tuple[LimitEntry, bool]:
        """Make or change a limit of an operator. Return it, and whether it is new.

        With `per`, it is a rate with a window of so many seconds. The caller of a shared one must have access
        to the store.

        Raises:
            RejectedError: `invalid_limit`, `too_many_limits`, `shared_limit`.
        """
        store = self.context.store
        key = named_gate(SHARED_TENANT if is_shared else self.context.tenant, name)
        if not is_limit_name(name):
            message = f"the name of a limit must be 1 to {MAX_LIMIT_NAME} letters, digits, `_`, `-` or `.`"
            raise RejectedError("invalid_limit", f"{message}, and start with a letter or digit")
        if not 0 <= units <= MAX_UNITS:
            raise RejectedError("invalid_limit", f"a limit must have 0 to {MAX_UNITS:,} units, not {units:,}")
        if per is not None and not MIN_WINDOW_SECONDS <= per <= MAX_WINDOW_SECONDS:
            raise RejectedError("invalid_limit", "the window of a rate must be from 1 second to 31 days")
        if per is not None and units == 0:
            raise RejectedError("invalid_limit", f"a rate must have 1 to {MAX_UNITS:,} units")
        before = store.gates.gate(key)
        # What waited at the limit of a tenant before there was a shared one of its name still waits there.
        if not is_shared and not (before is not None and before.waiting):
            self._check_not_shared(name)
        is_new = before is None
        if is_new and len(store.gates.find(key.tenant, named=True, limit=MAX_LIMITS)[0]) >= MAX_LIMITS:
            raise RejectedError("too_many_limits", f"there are {MAX_LIMITS} limits; remove one")
        gate = store.gates.set_limit(key, kind, units, per)
        if gate.may_grant:
            grant_next(store, [key], store.clock())
        return self._entry(store.gates.gate(key) or gate), is_new

    def remove(self, name: str, *, is_shared: bool = False, is_forced: bool = False) -> None:
        """Remove a limit of an operator. The caller of a shared one must have access to the store.

        With `is_forced`, live versions of playbooks may name it. Their runs or steps fail from then on.

        Raises:
            NotFoundError: there is no such limit.
            RejectedError: `limit_in_use`, if runs or steps hold its units or wait for them, or if a live
                version of a playbook of the tenant names it; `shared_limit`.
        """
        gates, tenant = self.context.store.gates, self.context.tenant
        key = named_gate(SHARED_TENANT if is_shared else tenant, name)
        gate = gates.gate(key)
        if gate is not None and not is_forced:
            check_removable(gate)
            other = named_gate(tenant if is_shared else SHARED_TENANT, name)
            if gates.gate(other) is None:
                self._check_not_named(name)
        if not gates.remove_limit(key):
            self._check_not_shared(name)
            raise self._unknown(name, key.tenant)

    def queue(self, name: str, *, limit: int = LIMITS_PER_PAGE, cursor: str | None = None) -> LimitQueue:
        """Return a page of what holds units of a limit, and what waits for them.

        That of a shared limit names no runs of other tenants, also not in its cursor. So its pages are those
        of the first MAX_SHARED_ENTRIES entries, with MAX_SHARED_OF_PAGE each.

        Raises:
            NotFoundError: there is no such limit, or an own limit is not in use.
            RejectedError: `invalid_cursor`.
        """
        key = self._get(name).key
        is_shared = key.tenant == SHARED_TENANT
        scope = self.context.cursor_scope("queue", key.tenant, key.id)
        cursor = scope.open(cursor)
        if is_shared:
            slots, next_cursor = self._read_shared_slots(key, min(limit, MAX_SHARED_OF_PAGE), cursor)
        else:
            slots, next_cursor = self.context.store.gates.slots_at(key, limit=limit, cursor=cursor)
        now = self.context.store.clock()
        ids = sorted({slot.owner.run_id for slot in slots}) if is_shared else []
        own_runs = self.context.store.visits.summaries(self.context.tenant, ids)
        uses = [
            LimitUse.from_slot(slot, now, is_foreign=is_shared and slot.owner.run_id not in own_runs)
            for slot in slots
        ]
        return LimitQueue(items=uses, next_cursor=scope.close(next_cursor))

    def _read_shared_slots(
        self, key: GateKey, limit: int, cursor: str | None
    ) -> tuple[list[Slot], str | None]:
        """Return a page of the slots of a shared limit. A cursor is the number of those before the page."""
        first = 0 if cursor is None else int(read_key_cursor(cursor, int))
        if not 0 <= first < MAX_SHARED_ENTRIES:
            raise RejectedError("invalid_cursor", "the cursor does not belong to this list")
        last = min(first + limit, MAX_SHARED_ENTRIES)
        slots, following = self.context.store.gates.slots_at(key, limit=last)
        has_more = following is not None and last < MAX_SHARED_ENTRIES
        return slots[first:], write_key_cursor(last) if has_more else None

    def _entry(self, gate: Gate) -> LimitEntry:
        return LimitEntry.from_gate(gate, self.context.store.clock())

    def _get(self, name: str) -> Gate:
        """Return the gate of a limit. A shared one comes first.

        Raises:
            NotFoundError: there is no such limit.
        """
        tenant, gates = self.context.tenant, self.context.store.gates
        if name.startswith(OWN_PREFIX):
            gate = gates.gate(GateKey(name, tenant))
        else:
            gate = gates.gate(named_gate(SHARED_TENANT, name)) or gates.gate(named_gate(tenant, name))
        if gate is None:
            raise self._unknown(name, tenant, SHARED_TENANT)
        return gate

    def _unknown(self, name: str, *tenants: str) -> NotFoundError:
        """Return the error of a limit that does not exist. It names those of some tenants that do."""
        gates = self.context.store.gates
        names = {gate.limit for tenant in tenants for gate in gates.find(tenant, named=True)[0]}
        hint = did_you_mean(name, names) or _list_limits(sorted(names))
        pointer = "`noetl limits list --in-use` lists those of playbooks and steps"
        return NotFoundError(f"unknown limit `{abbreviate(name)}`; {hint}; {pointer}")

    def _check_not_named(self, name: str) -> None:
        """Check that no live version of a playbook names a limit.

        Raises:
            RejectedError: `limit_in_use`.
        """
        from noetl.api.service.registered_plans import list_limit_users

        users = list_limit_users(self.context, name)
        if users:
            more = len(users) - _MAX_SHOWN_LIMITS
            shown = [*users[:_MAX_SHOWN_LIMITS], *([f"{more:,} more"] if more > 0 else [])]
            message = f"limit `{name}` is named by {join_words(shown, 'and')}"
            hint = "change the playbooks first, or force the removal"
            raise RejectedError("limit_in_use", f"{message}; {hint}")

    def _check_not_shared(self, name: str) -> None:
        """Check that all tenants do not share a limit of this name.

        Raises:
            RejectedError: `shared_limit`.
        """
        if self.context.store.gates.gate(named_gate(SHARED_TENANT, name)) is not None:
            message = f"limit `{name}` is shared by all tenants; change it in the store, with --shared"
            raise RejectedError("shared_limit", message)


def _list_limits(names: Sequence[str]) -> str:
    """Return a hint with the names of limits.

    >>> _list_limits(["crm"]), _list_limits([])
    ('limits: `crm`', 'no limit was set')
    """
    if not names:
        return "no limit was set"
    shown = as_code(names[:_MAX_SHOWN_LIMITS])
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"limits: {', '.join(shown)}{more}"
