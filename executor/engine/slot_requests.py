"""The requests of a run or a visit for slots at limits: their gates, keys, units and places in queues.

Problem: a visit should hold its slots as soon as it is claimed, since a transaction for them alone costs more
than a small step. The keys of limits are templates, which stores do not evaluate.

Algorithm: the requests of a claimed visit are made from its scope. Those of a following visit are made before
the commit that claims it, and the store takes the slots in the same transaction. This is done if the
templates read only what the run was started with, and what the committed visit has saved.

Cost: an evaluation of each template. After a claim, a limit of an operator costs a read, of whether all
tenants share it. Before it, the process uses what it has read last, and the store checks it.

Limits: visits with several rates, with a rate and a limit, or with a rate and a loop request after their
claim. So do those whose keys read more, and those behind a join whose keys read anything. Of the first visit
of a run, and the further ones that a fork enters, those with templates do (`model.claim_requests`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import count

from noetl.executor.engine.rate_units import count_rate_units
from noetl.executor.engine.rendering import render_at_key
from noetl.executor.engine.run_events import read_events
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import FINALLY_STEP_SECONDS
from noetl.executor.errors import ActionError
from noetl.executor.model.claim_requests import LimitPlace, fixed_requests, name_flow
from noetl.executor.model.flows import FIRST_RANK, rank_of
from noetl.executor.model.gates import SlotRequest, own_gate, own_rate_gate
from noetl.executor.model.json_values import round_trip_json, write_json
from noetl.executor.model.large_json import is_large
from noetl.executor.model.run import Branch, Commit, Run, Visit
from noetl.executor.model.special_visits import START_CLOCK
from noetl.executor.model.transition import find_holders
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.interface import Store
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.frozen import frozen, replace
from noetl.planner.kinds import describe_kind_of
from noetl.planner.limits import MAX_PRIORITY, Limit
from noetl.planner.plan import Header, Step
from noetl.planner.templates.template import has_template, parse_template

MAX_KEY_BYTES = 1024
"""How long the key of a limit may be, as UTF-8."""

_MAX_SHOWN = 1e9

_MAX_COPIED = 1024 * 1024
"""The size of values that are copied for templates before the claim."""

_NAMES_OF_VISIT = frozenset({"error", "now", "result", "step", "steps", "uuid"})
"""Names whose values a visit has only after its claim, or that need other visits."""


@frozen
class WantedSlot:
    """A request for a slot, and for how many seconds its owner waits; None means any time.

    With `cancels_oldest`, it cancels older owners rather than wait for all of them.
    """

    request: SlotRequest
    max_wait: float | None
    cancels_oldest: bool = False


@frozen
class _Terms:
    """The values that all requests of a visit or a run have in common. `step` is None for a run.

    `width` and `of_rate` are the numbers of units that it requests: of places and of rates. With 0 it
    requests nothing. `rank` is its place in queues.
    """

    step: str | None = None
    width: int = 1
    of_rate: int = 1
    rank: float = 0.0


def request_for_run(
    store: Store, run: Run, visit: Visit, limits: Sequence[Limit], now: float
) -> list[WantedSlot]:
    """Return what a run requests. `visit` is the claimed one.

    Raises:
        ActionError: as `_request_all` does, and for a priority that is no number from -10 to 10.
    """
    # Names that steps have saved do not count: the keys of a run stay the same until its end.
    scope = Scope(run, visit)
    if all(limit.is_rate for limit in limits):
        return _request_all(store, limits, scope, _Terms())
    priority = _read_priority(store.plans.header(run.plan_hash).priority, scope)
    wanted = _request_all(store, limits, scope, _Terms(rank=rank_of(now, priority)))
    requested_at = _first_request_at(run, visit)
    return wanted if requested_at is None else _keep_place(store, run, wanted, requested_at, priority)


def request_for_step(store: Store, header: Header, step: Step, scope: Scope, now: float) -> list[WantedSlot]:
    """Return what a visit requests for its step. `header` is that of its plan.

    Raises:
        ActionError: as `request_for_run` does.
    """
    width = 1 if step.loop is None else step.loop.concurrency
    of_rate = count_rate_units(scope.visit, step, scope) if step.rate else 0
    rank = FIRST_RANK if step.is_finally_step else _rank_of_step(header, step, scope, now)
    terms = _Terms(step.name, width, of_rate, rank)
    wanted = _request_all(store, (*step.concurrency, *step.rate), scope, terms)
    return [_hurry(slot, step.timeout_seconds) for slot in wanted] if step.is_finally_step else wanted


def request_for_following(store: Store, run: Run, commit: Commit, now: float) -> tuple[SlotRequest, ...]:
    """Return what the visit requests that the first branch of a commit enters. The requests do not queue.

    Return none if this cannot be known before the claim of the visit. A wrong key is reported after that.
    """
    header = store.plans.header(run.plan_hash)
    if not header.has_limits or not store.queue.takes_slots:
        return ()
    if not commit.branches:
        return ()
    branch = commit.branches[0]
    step = store.plans.step(run.plan_hash, branch.step)
    limits = step.concurrency
    if step.rate:
        # Several rates agree on one time, and they are asked after the limits.
        if limits or len(step.rate) > 1 or step.loop is not None:
            return ()
        limits, priority = step.rate, None
    else:
        priority = header.priority if step.priority is None else step.priority
    if priority is None and not any(limit.key or limit.fair for limit in limits):
        return _fixed_requests(store, run, step, now)
    names = _names_in_templates((priority, *_keys_of(limits)))
    scope = _scope_of_following(run, commit.visit, branch, names, now)
    if scope is None:
        return ()
    try:
        wanted = request_for_step(store, header, step, scope, now)
    except ActionError:
        return ()
    return tuple(replace(slot.request, queues=False) for slot in wanted)


def _fixed_requests(store: Store, run: Run, step: Step, now: float) -> tuple[SlotRequest, ...]:
    """Return what `request_for_following` does for a step whose limits and priority read nothing."""
    rank = now if step.rate else rank_of(now, _default_priority(run))
    width = 1 if step.loop is None else step.loop.concurrency
    place = LimitPlace(run.tenant, run.playbook, step.name, width, rank)
    return fixed_requests(place, step.concurrency or step.rate, partial(store.gates.find_named, is_hint=True))


@lru_cache(maxsize=1024)
def _names_in_templates(texts: tuple[float | str | None, ...]) -> frozenset[str]:
    """Return the names that templates read. Other values read none."""
    names = frozenset[str]()
    for text in texts:
        if isinstance(text, str) and has_template(text):
            names |= parse_template(text).names
    return names


def _keys_of(limits: Sequence[Limit]) -> Iterator[str | None]:
    for limit in limits:
        yield limit.key
        yield limit.fair


def _scope_of_following(
    run: Run, done: Visit, branch: Branch, names: frozenset[str], now: float
) -> Scope | None:
    """Return the scope of the visit that a branch enters, with the values of names that `done` has saved.

    Return None if another visit holds one of them, or may do so after a join, or if they are large.
    """
    following = enter_step(branch, run.id, now)
    if not names:
        return Scope(run, following)
    if branch.is_arrival:
        return None
    holders = find_holders(branch.names, sorted(names))
    is_known = set(holders.values()) <= {done.id} and names.isdisjoint(_NAMES_OF_VISIT)
    if not is_known or run.lost_payload is not None:
        return None
    saved = {name: done.saved[name] for name in holders if name in done.saved}
    if not saved:
        return Scope(run, following)
    if is_large(saved, _MAX_COPIED):
        return None
    return Scope(run, following, round_trip_json(saved))


def has_begun(run: Run, visit: Visit) -> bool:
    """Return whether a run has begun a step, or was resumed. Such a run waits for its limits."""
    return run.resumes > 0 or visit.clock > START_CLOCK or _has_begun_work(visit)


def _has_begun_work(visit: Visit) -> bool:
    return visit.progress is not None or visit.attempt > 1


def _first_request_at(run: Run, visit: Visit) -> float | None:
    """Return when a visit that has waited for a slot of its run was first claimed, or None for any other."""
    # A run whose work has begun holds its slots. One that was resumed has given them back at its end.
    if _has_begun_work(visit) and not run.resumes:
        return None
    requested_at = visit.started_at or 0.0
    return requested_at if requested_at < (visit.segment_started_at or 0.0) else None


def _keep_place(
    store: Store, run: Run, wanted: Sequence[WantedSlot], requested_at: float, priority: float
) -> list[WantedSlot]:
    """Return the requests of a run that asks again. At the limit where it waited, it goes back to its place.

    A grant may have passed it over there while it was paused. This is the first limit without a unit. It has
    asked at the first of all with its first claim. At a later one, its history says whether it has waited.
    """
    limits = [slot for slot in wanted if not slot.request.is_rate]
    missing = limits[:1]
    if len(limits) > 1:
        held = {slot.gate for slot in store.gates.slots_of(run.id, "")}
        missing = [slot for slot in limits if slot.request.gate not in held][:1]
    if not missing:
        return [*wanted]
    (first,) = missing
    since = requested_at if first is limits[0] else _has_waited_since(store, run, first.request)
    if since is None:
        return [*wanted]
    request = replace(first.request, rank=rank_of(since, priority), since=since, max_queued=None)
    return [replace(slot, request=request) if slot is first else slot for slot in wanted]


def _has_waited_since(store: Store, run: Run, request: SlotRequest) -> float | None:
    """Return when a run has begun to wait at a limit, by its history, or None if it has not."""
    wanted = (request.limit, request.value)
    for event in read_events(store, run.id):
        payload = event.payload
        is_place = event.type == "step.waiting" and payload.get("queued_before") is not None
        if is_place and (payload.get("limit"), payload.get("key")) == wanted:
            return event.at
    return None


def _request_all(store: Store, limits: Sequence[Limit], scope: Scope, terms: _Terms) -> list[WantedSlot]:
    """Return the requests of the entries of `concurrency` and `rate`, in the order of their gates.

    Raises:
        ActionError: a `key` or `fair` has no value, or is no text, number or Boolean of at most
            MAX_KEY_BYTES.
    """
    wanted = []
    # The gates of `concurrency` and of `rate` are numbered apart.
    numbers = {False: count(), True: count()}
    for limit in limits:
        position = next(numbers[limit.is_rate])
        if terms.of_rate if limit.is_rate else terms.width:
            request = _request_slot(store, limit, scope, position, terms)
            wanted.append(WantedSlot(request, limit.max_wait_seconds, limit.when_full == "cancel_oldest"))
    return sorted(wanted, key=lambda slot: slot.request.gate)


def _request_slot(store: Store, limit: Limit, scope: Scope, position: int, terms: _Terms) -> SlotRequest:
    """Return the request at the limit at a position of `concurrency` or `rate`.

    Raises:
        ActionError: its key is wrong.
    """
    run, visit, step = scope.run, scope.visit, terms.step
    # Work that has begun is not left out: it waits to be continued or tried again.
    is_begun = has_begun(run, visit) if step is None else _has_begun_work(visit)
    entry = f"{'rate' if limit.is_rate else 'concurrency'}[{position}]"
    fair = run.playbook
    if limit.fair is not None:
        fair = redact_for_storage(_read_key(f"{entry}.fair", limit.fair, scope))
    value = None
    if limit.use is not None:
        name, gate = limit.use, store.gates.find_named(run.tenant, limit.use)
    else:
        name = run.playbook if step is None else f"{run.playbook}.{step}"
        value = None if limit.key is None else _read_key(f"{entry}.key", limit.key, scope)
        make_key = own_rate_gate if limit.is_rate else own_gate
        gate = make_key(run.tenant, run.playbook, step, position, value)
    return SlotRequest(
        gate,
        name,
        limit.units,
        terms.of_rate if limit.is_rate else terms.width,
        # Not every store keeps a NUL or half of a surrogate pair.
        None if value is None else to_printable(redact_for_storage(value)),
        queues=limit.when_full != "skip" or is_begun,
        rank=terms.rank,
        max_queued=None if is_begun else limit.max_queued,
        is_rate=limit.is_rate,
        per=limit.per_seconds,
        max_wait=limit.max_wait_seconds,
        flow=name_flow(run.tenant, gate, fair),
    )


def _hurry(wanted: WantedSlot, timeout_seconds: float | None) -> WantedSlot:
    """Return what the finally step asks for. It waits no longer than it may take."""
    longest = timeout_seconds or FINALLY_STEP_SECONDS
    max_wait = longest if wanted.max_wait is None else min(wanted.max_wait, longest)
    return WantedSlot(replace(wanted.request, max_wait=max_wait), max_wait)


def _rank_of_step(header: Header, step: Step, scope: Scope, now: float) -> float:
    """Return the rank of the slots of a step, which has the priority of its playbook unless it has its own.

    Raises:
        ActionError: `ParameterError`.
    """
    if not step.concurrency:
        return now
    if step.priority is None:
        return rank_of(now, _read_priority(header.priority, Scope(scope.run, scope.visit)))
    return rank_of(now, _read_priority(step.priority, scope))


def _read_priority(written: float | str | None, scope: Scope) -> float:
    """Return the value of a priority, or the default one.

    Raises:
        ActionError: `ParameterError`.
    """
    if written is None:
        return _default_priority(scope.run)
    value = render_at_key("priority", written, scope.lookup("priority"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        described = describe_kind_of(value)
    elif -MAX_PRIORITY <= value <= MAX_PRIORITY:
        return float(value)
    else:
        described = f"{value:g}" if abs(value) < _MAX_SHOWN else "another number"
    message = f"`priority` must be a number from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {described}"
    raise ActionError("ParameterError", message, retryable=False)


def _default_priority(run: Run) -> float:
    """Return the priority of a run whose playbook has none: runs of backfills have the least."""
    return float(-MAX_PRIORITY if "backfill" in (run.trigger or {}) else 0)


@lru_cache(maxsize=1024)
def _find_input_name(key: str) -> str | None:
    """Return the name of the input that a key consists of, as in `{{ input.customer }}`, or None."""
    path = parse_template(key).access_path if has_template(key) else None
    return path[1] if path is not None and len(path) == 2 and path[0] == "input" else None


def _read_key(place: str, key: str, scope: Scope) -> str:
    """Return the value of the template at a place of a limit as text.

    Raises:
        ActionError: it has no value, or none that is allowed.
    """
    name = _find_input_name(key)
    value = None if name is None else scope.run.input.get(name)
    if type(value) is not str:  # Most keys are an input, and are part of the commits of steps.
        value = render_at_key(place, key, scope.lookup(place))
    if not isinstance(value, str | int | float):
        message = f"`{place}` must be a text, a number or a Boolean, not {describe_kind_of(value)}"
        raise ActionError("ParameterError", message, retryable=False)
    text = value if isinstance(value, str) else write_json(value)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_KEY_BYTES:
        message = f"`{place}` has {size:,} bytes; it may have {MAX_KEY_BYTES:,}"
        raise ActionError("ParameterError", message, retryable=False)
    return text
