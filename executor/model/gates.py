"""Gates: how many runs or visits may be in progress at once, and which of them waits for its turn.

Problem: a limit must never be exceeded, and none of its units may be lost. Workers die, claims end, and runs
are cancelled, paused and resumed meanwhile.

Algorithm: a counting semaphore with a queue (Dijkstra 1965). A gate is one limit with one key: how many units
it has, and how many are held. A slot is what an owner has at a gate. It is either held or waits in the queue.
Owners are runs and visits. A slot has no lease: its owner gives it back with the commit that ends or suspends
the owner, and every owner ends.

| call | what it decides |
| --- | --- |
| `admit` | an owner holds units at once, waits in the queue, or is refused |
| `find_superseded` | the oldest runs are cancelled for a newer one |
| `grant` | the first slot of the queue (`noetl.executor.model.flows`) holds its units |
| `give_back` | a slot is removed |
| `resize` | the gate has another number of units |
| `change_limit` | an operator makes a limit, or changes its units |

All functions are pure. A store locks a gate, or compares its edition, before it writes their result.

Cost: constant for each call.

Limits: lowering the units of a gate ends no owner. So more may be held than the gate has, up to `ceiling`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from noetl.executor.errors import RejectedError
from noetl.executor.model.ids import derived_id
from noetl.executor.model.rates import RateLog
from noetl.planner.frozen import frozen, replace

NAMED_PREFIX = "use:"
"""The begin of the ids of operators' limits."""

OWN_PREFIX = "own:"
"""The begin of the ids of limits of playbooks and steps."""

RATE_SUFFIX = "/rate"
"""The end of the ids of rates of playbooks and steps."""

_SEPARATORS = frozenset(".:~")
"""Characters that separate the parts of ids."""

_MAX_PLAIN_CHARACTERS = 100
_SHOWN_CHARACTERS = 40

MAX_UNITS = 10_000
"""The most units that a limit may have."""

SHARED_TENANT = "@shared"
"""The tenant of limits that all tenants share."""


class LimitKind(StrEnum):
    """The kind of what a limit of an operator bounds."""

    RUNS = "runs"
    STEPS = "steps"


class GateKey(NamedTuple):
    """The tenant and the id of a gate. Gates are always locked in the order of their keys.

    The id of a playbook's or a step's own limit begins with `own:`, that of an operator's limit with `use:`.
    """

    id: str
    tenant: str


@frozen
class Gate:
    """One limit with one key.

    `limit` is the name that readers see: that of the operator's limit, or `PLAYBOOK` or `PLAYBOOK.STEP`.
    `value` is the text of its key, if it has one. `units` is how many may be held, `held` how many are, and
    `waiting` how many slots wait. `ceiling` is how many may be held still after `units` was lowered. `kind`
    is set for limits of operators only. `edition` grows with each write. `clock` is the tag of the flow that
    was served last (`noetl.executor.model.flows`).

    A gate with a `rate` bounds how many units are taken in a window of time (`model.rate_gates`). Its `held`
    are those of the owners that have a slot, which may be more than `units`. No slot waits there.
    """

    key: GateKey
    limit: str
    units: int
    value: str | None = None
    kind: LimitKind | None = None
    held: int = 0
    waiting: int = 0
    ceiling: int = 0
    edition: int = 0
    rate: RateLog | None = None
    clock: int = 0

    @property
    def is_unused(self) -> bool:
        """True if the gate may be deleted: no owner has a slot, and no operator has made it.

        The gate of a rate may be deleted after `idle_at`.
        """
        return self.kind is None and self.held == 0 and self.waiting == 0 and self.rate is None

    @property
    def idle_at(self) -> float | None:
        """The time from which a playbook's or a step's own rate may be deleted, if no owner has a slot."""
        return None if self.rate is None or self.kind is not None else self.rate.idle_at

    def is_idle(self, now: float) -> bool:
        """Return whether the gate of a rate may be deleted."""
        return self.held == 0 and self.idle_at is not None and self.idle_at <= now

    @property
    def may_grant(self) -> bool:
        """True if a slot waits although units are free."""
        return self.waiting > 0 and self.held < self.units


class SlotOwner(NamedTuple):
    """The run or the visit that has a slot. `visit_id` is empty for a run."""

    run_id: str
    visit_id: str = ""


@frozen
class SlotRequest:
    """A request of an owner for units of a gate.

    `size` is how many units the gate has, or None for an operator's limit, whose gate exists already. `units`
    is how many the owner wants; it gets no more than the gate has. If the gate is full, the owner waits if
    `queues` is true and fewer than `max_queued` slots wait. It waits for `max_wait` seconds, or any time if
    that is None. `flow` names the flow of the slot, and `rank` orders the flow: the smallest first. `since`
    is when an owner has asked first whose place was given up meanwhile; None means now.

    With `is_rate`, the gate is that of a rate. `per` is its window in seconds, or None for an operator's
    limit. There, the gate refuses an owner that would wait for longer than `max_wait`. At other gates, the
    executor does. With `cancels_oldest`, it cancels older owners rather than let this one wait for all.
    """

    gate: GateKey
    limit: str
    size: int | None
    units: int = 1
    value: str | None = None
    queues: bool = True
    rank: float = 0.0
    max_queued: int | None = None
    is_rate: bool = False
    per: float | None = None
    max_wait: float | None = None
    flow: str = ""
    since: float | None = None
    cancels_oldest: bool = False


@frozen
class Slot:
    """A place of an owner at a gate: `units` that it holds since `held_at`, or awaits since `queued_at`.

    `held_at` is None while it waits. `limit` and `value` are those of the gate. `flow` and `rank` give its
    place in the queue. `queued_before` is how many slots were before it when it was read. It is not stored.

    A slot of a rate may be held from a later time on. One without units is not stored: its owner does not
    wait until that time.
    """

    gate: GateKey
    owner: SlotOwner
    limit: str
    units: int
    queued_at: float
    value: str | None = None
    rank: float = 0.0
    held_at: float | None = None
    queued_before: int = 0
    flow: str = ""

    @property
    def is_held(self) -> bool:
        """True if its owner holds the units."""
        return self.held_at is not None

    def is_held_by(self, now: float) -> bool:
        """Return whether its owner holds the units at a time. Those of a rate may be reserved for later."""
        return self.held_at is not None and self.held_at <= now


@lru_cache(maxsize=1024)
def own_gate(tenant: str, playbook: str, step: str | None, position: int, value: str | None) -> GateKey:
    """Return the key of a gate of the limit at a position of the list of a playbook or of a step.

    >>> own_gate("acme", "import", "load", 0, None).id
    'own:import.load:0'
    >>> len({own_gate("acme", *place, 0, None) for place in [("a", "b.c"), ("a.b", "c"), ("a.b.c", None)]})
    3
    """
    place = playbook if step is None else f"{playbook}.{step}"
    if not all(map(_is_plain, filter(None, (playbook, step)))):
        shown = "".join(filter(_is_plain, place))[:_SHOWN_CHARACTERS]
        place = f"{shown}~{derived_id('place', playbook, step or '')}"
    suffix = "" if value is None else f":{derived_id('gate', value)}"
    return GateKey(f"{OWN_PREFIX}{place}:{position}{suffix}", tenant)


def _is_plain(name: str) -> bool:
    """Return whether an id may contain a name as it is: it separates nothing, and every store takes it."""
    return name.isprintable() and _SEPARATORS.isdisjoint(name) and len(name) <= _MAX_PLAIN_CHARACTERS


@lru_cache(maxsize=1024)
def own_rate_gate(tenant: str, playbook: str, step: str | None, position: int, value: str | None) -> GateKey:
    """Return the key of a gate of the rate at a position of the list of a playbook or of a step.

    >>> own_rate_gate("acme", "import", "load", 0, None).id
    'own:import.load:0/rate'
    """
    key = own_gate(tenant, playbook, step, position, value)
    return key._replace(id=f"{key.id}{RATE_SUFFIX}")


def is_removable(key: GateKey) -> bool:
    """Return whether a gate is removed with its last slot: that of a playbook's or a step's own limit.

    An operator's limit stays. So does a rate, until its units have left the window.

    >>> is_removable(own_gate("acme", "import", "load", 0, None)), is_removable(named_gate("acme", "api"))
    (True, False)
    >>> is_removable(own_rate_gate("acme", "import", "load", 0, None))
    False
    """
    return key.id.startswith(OWN_PREFIX) and not is_own_rate(key)


def is_own_rate(key: GateKey) -> bool:
    """Return whether a gate is that of a rate of a playbook or a step. No slot waits there.

    >>> is_own_rate(own_rate_gate("acme", "import", "load", 0, None)), is_own_rate(named_gate("acme", "a"))
    (True, False)
    """
    return key.id.startswith(OWN_PREFIX) and key.id.endswith(RATE_SUFFIX)


def named_gate(tenant: str, name: str) -> GateKey:
    """Return the key of the gate of an operator's limit.

    >>> named_gate("acme", "salesforce")
    GateKey(id='use:salesforce', tenant='acme')
    """
    return GateKey(f"{NAMED_PREFIX}{name}", tenant)


def new_gate(request: SlotRequest) -> Gate:
    """Return the gate of a playbook's or a step's own limit, before its first owner."""
    assert request.size is not None
    rate = None if request.per is None else RateLog(request.per)
    return Gate(request.gate, request.limit, request.size, request.value, ceiling=request.size, rate=rate)


def check_request(gate: Gate | None, request: SlotRequest) -> None:
    """Check that the gate of a request exists or is an own one, and that it is of the form of the request.

    Raises:
        RejectedError: `unknown_limit`, `wrong_limit`.
    """
    if gate is None:
        if request.size is None:
            raise unknown_limit(request.limit)
    elif request.is_rate is not (gate.rate is not None):
        form = "a rate, which a step or playbook names in `rate`"
        if request.is_rate:
            form = "a limit, which a step or playbook names in `concurrency`"
        raise RejectedError("wrong_limit", f"`{request.limit}` is {form}")
    elif request.is_rate and request.size is None and request.units > gate.units:
        text = f"a batch of {request.units:,} items exceeds the {gate.units:,} of rate `{request.limit}`"
        raise RejectedError("wrong_limit", text)


def admit(gate: Gate, owner: SlotOwner, request: SlotRequest, now: float) -> tuple[Gate, Slot | None]:
    """Return the gate and the slot of a new owner, or the unchanged gate and None if the owner is refused.

    A full gate refuses an owner that does not queue, and one that finds the queue full.

    >>> gate = Gate(GateKey("use:api", "acme"), "api", units=1)
    >>> request = SlotRequest(gate.key, "api", None)
    >>> gate, first = admit(gate, SlotOwner("r1", "v1"), request, 5.0)
    >>> gate, second = admit(gate, SlotOwner("r2", "v1"), request, 6.0)
    >>> first.is_held, second.is_held, gate.held, gate.waiting
    (True, False, 1, 1)
    """
    if request.size is not None and request.size != gate.units:
        gate = resize(gate, request.size)
    units = min(request.units, gate.units)
    slot = Slot(
        request.gate, owner, gate.limit, request.units, now, gate.value, request.rank, flow=request.flow
    )
    if gate.waiting == 0 and 0 < units <= gate.units - gate.held:
        return _hold(gate, units), replace(slot, units=units, held_at=now)
    if not request.queues or (request.max_queued is not None and gate.waiting >= request.max_queued):
        return gate, None
    slot = slot if request.since is None else replace(slot, queued_at=request.since)
    return replace(gate, waiting=gate.waiting + 1, edition=gate.edition + 1), slot


def held_slot(request: SlotRequest, owner: SlotOwner, now: float) -> Slot:
    """Return the slot that `admit` gives an owner that need not wait.

    A store whose statement finds that it need not writes this slot. At an operator's limit with fewer units
    than the owner requests, it has all of them. A slot of a rate has no place in a queue.

    >>> request, owner = SlotRequest(GateKey("own:a.b:0", "acme"), "a.b", 2, units=9), SlotOwner("r1", "v1")
    >>> held_slot(request, owner, 5.0) == admit(new_gate(request), owner, request, 5.0)[1]
    True
    """
    units = request.units if request.size is None else min(request.units, request.size)
    rank, flow = (0.0, "") if request.is_rate else (request.rank, request.flow)
    return Slot(request.gate, owner, request.limit, units, now, request.value, rank, held_at=now, flow=flow)


def refusal_payload(request: SlotRequest) -> dict[str, Any]:
    """Return which gate has refused a request, for the event of its visit.

    >>> refusal_payload(SlotRequest(named_gate("acme", "api"), "api", None, value="eu", queues=False))
    {'limit': 'api', 'key': 'eu'}
    """
    return {"limit": request.limit} | ({} if request.value is None else {"key": request.value})


def describe_refusal(request: SlotRequest) -> str:
    """Return why a gate has refused a request.

    >>> describe_refusal(SlotRequest(named_gate("acme", "api"), "api", None, queues=False))
    'limit `api` is full'
    """
    queue = f", and its queue of {request.max_queued:,} as well" if request.queues else ""
    return f"{_describe_gate(request)} is full{queue}"


def describe_successor(slot: Slot) -> str:
    """Return why runs are cancelled for the owner of a slot, which is a newer run."""
    return f"the newer run {slot.owner.run_id} takes the place at {_describe_gate(slot)}"


def _describe_gate(found: SlotRequest | Slot) -> str:
    return f"limit `{found.limit}`" + ("" if found.value is None else f" of `{found.value}`")


def find_superseded(
    slots: Iterable[Slot], waiting: Slot, units: int, cancelled: Collection[str]
) -> list[str]:
    """Return the runs that `when_full: cancel_oldest` cancels for a waiting run, the oldest first.

    `slots` are all slots at the gate, which has `units`, and `cancelled` the runs that are being cancelled.
    If more runs are left than there are units, the oldest are too many. Those that hold units are older than
    those that wait. A run cancels none that is newer than itself. A newer run has already cancelled as many
    as it needs. Or it was granted its unit while this run was paused, and keeps it.
    """
    if waiting.owner.run_id in cancelled:
        return []
    left = [slot for slot in slots if slot.owner.run_id not in cancelled]
    left.sort(key=lambda slot: (not slot.is_held, slot.queued_at, slot.owner))
    oldest = left[: max(len(left) - units, 0)]
    until = next((n for n, slot in enumerate(oldest) if slot.owner == waiting.owner), len(oldest))
    return [slot.owner.run_id for slot in oldest[:until] if slot.queued_at <= waiting.queued_at]


def grant(gate: Gate, slot: Slot, now: float) -> tuple[Gate, Slot] | None:
    """Return the gate and the first slot of its queue, whose owner now holds its units, or None if too few
    are free.

    It holds no more units than the gate has. A wide slot is not passed over, so it waits for a bounded time.
    """
    units = min(slot.units, gate.units)
    if not 0 < units <= gate.units - gate.held:
        return None
    gate = _hold(replace(gate, waiting=gate.waiting - 1), units)
    return gate, replace(slot, units=units, held_at=now, queued_before=0)


def give_back(gate: Gate, slot: Slot) -> Gate:
    """Return the gate without a slot, which was held or has waited."""
    if not slot.is_held:
        return replace(gate, waiting=gate.waiting - 1, edition=gate.edition + 1)
    held = gate.held - slot.units
    return replace(gate, held=held, ceiling=max(gate.units, held), edition=gate.edition + 1)


def resize(gate: Gate, units: int) -> Gate:
    """Return the gate with another number of units. What is held stays held.

    >>> gate = resize(Gate(GateKey("use:api", "acme"), "api", units=5, held=4, ceiling=5), 2)
    >>> gate.units, gate.held, gate.ceiling
    (2, 4, 4)
    """
    return replace(gate, units=units, ceiling=max(units, gate.held), edition=gate.edition + 1)


def change_limit(
    gate: Gate | None, key: GateKey, kind: LimitKind, units: int, per: float | None = None
) -> Gate:
    """Return the gate of an operator's limit with a number of units. `gate` is None if the limit is new.

    With `per`, it is a rate with a window of so many seconds. What is reserved stays reserved.

    >>> change_limit(None, named_gate("acme", "api"), LimitKind.STEPS, 5).limit
    'api'

    Raises:
        RejectedError: `invalid_limit`, if a rate becomes a limit without `per`, or the reverse, or if a limit
            of steps becomes one of runs, or the reverse. Playbooks that use it are checked at registration.
    """
    rate = None if per is None else RateLog(per)
    if gate is None:
        return Gate(key, key.id.removeprefix(NAMED_PREFIX), units, kind=kind, ceiling=units, rate=rate)
    if (gate.rate is None) is not (rate is None):
        form = "bounds how much is in progress" if gate.rate is None else "is a rate"
        raise RejectedError("invalid_limit", f"limit `{gate.limit}` {form}; remove it to make it anew")
    if gate.kind is not None and gate.kind is not kind:
        message = f"limit `{gate.limit}` is of {gate.kind}, not of {kind}; remove it to make it anew"
        raise RejectedError("invalid_limit", message)
    if gate.rate is not None and per is not None:
        rate = replace(gate.rate, per=per)
    return replace(resize(gate, units), kind=kind, rate=rate)


def check_removable(gate: Gate) -> None:
    """Check that no owner has a slot at the limit of an operator.

    Raises:
        RejectedError: `limit_in_use`.
    """
    if gate.held or gate.waiting:
        message = f"limit `{gate.limit}` is in use: {gate.held} held, {gate.waiting} waiting"
        raise RejectedError("limit_in_use", message)


def unknown_limit(name: str) -> RejectedError:
    """Return the error of a request for an operator's limit that does not exist."""
    return RejectedError("unknown_limit", f"unknown limit `{name}`")


def is_released_by_switch(slot: Slot, running: Collection[str]) -> bool:
    """Return whether a slot is given back as its run gets another plan, which may have other limits.

    `running` are the ids of the visits that are executed. They keep their slots, and the run what it holds.
    """
    visit_id = slot.owner.visit_id
    return visit_id not in running if visit_id else not slot.is_held


def _hold(gate: Gate, units: int) -> Gate:
    return replace(gate, held=gate.held + units, edition=gate.edition + 1)
