"""Views of limits, and of the runs and steps that hold their units or wait for them."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.api.service.views import Timestamp, View
from noetl.executor.model.events import timestamp
from noetl.executor.model.flows import priority_of
from noetl.executor.model.gates import SHARED_TENANT, Gate, Slot


class LimitEntry(View, schema_name="Limit"):
    """Limit of an operator, or of a playbook or a step while it is used.

    `name` is that of the operator's limit, or `PLAYBOOK` or `PLAYBOOK.STEP`. `id` is `name` for limits of
    operators. `kind` is `runs` or `steps` for them, and else null. `key` is the value of its key, or null.
    `units` is how many may be held at once, `held` how many are, and `waiting` how many runs and steps wait.
    `shared` is true if the limit counts the runs or steps of all tenants.
    Of a rate, `per` is its window in seconds, and `units` how many may be taken in it. `held` is how many
    were taken in the last window, and `waiting` how many are reserved for later, at most those of one window.
    Of others, `per` is null.
    """

    id: str
    name: str
    kind: str | None
    key: str | None
    units: int
    held: int
    waiting: int
    shared: bool
    per: float | None

    @classmethod
    def from_gate(cls, gate: Gate, now: float) -> LimitEntry:
        rate = gate.rate
        return cls(
            id=gate.limit if gate.kind is not None else gate.key.id,
            name=gate.limit,
            kind=None if gate.kind is None else gate.kind.value,
            key=gate.value,
            units=gate.units,
            held=gate.held if rate is None else rate.count_taken(gate.units, now),
            waiting=gate.waiting if rate is None else rate.count_reserved(now),
            shared=gate.key.tenant == SHARED_TENANT,
            per=None if rate is None else rate.per,
        )


class LimitPage(View, schema_name="LimitPage"):
    items: Sequence[LimitEntry]
    next_cursor: str | None


class LimitUse(View, schema_name="LimitUse"):
    """Run or step that holds units of a limit since `held_at`, or waits for them since `queued_at`.

    `held_at` is null while it waits, also for a unit of a rate that is reserved for later. Then `begins_at`
    is that time, and else null. `visit` is the id of the visit of a step, or null for a run. `flow` is the
    name of its flow: flows alternate. `priority` is null for a finally step, which goes first, and for a unit
    of a rate. `workflow_id`, `visit` and `flow` are null if the run is one of another tenant.
    """

    workflow_id: str | None
    visit: str | None
    units: int
    flow: str | None
    priority: float | None
    queued_at: Timestamp
    held_at: Timestamp | None
    begins_at: Timestamp | None

    @classmethod
    def from_slot(cls, slot: Slot, now: float, *, is_foreign: bool = False) -> LimitUse:
        is_held = slot.is_held_by(now)
        return cls(
            workflow_id=None if is_foreign else slot.owner.run_id,
            visit=None if is_foreign else slot.owner.visit_id or None,
            units=slot.units,
            flow=None if is_foreign else slot.flow,
            priority=priority_of(slot.queued_at, slot.rank),
            queued_at=timestamp(slot.queued_at),
            held_at=timestamp(slot.held_at) if is_held else None,
            begins_at=None if is_held else timestamp(slot.held_at),
        )


class LimitQueue(View, schema_name="LimitQueue"):
    """Page of the runs and steps at a limit: those that hold its units, then those that wait, in order."""

    items: Sequence[LimitUse]
    next_cursor: str | None
