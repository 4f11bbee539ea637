"""The requests of a run or a visit for slots at limits, whose keys and priority are evaluated here.

Problem: a visit should hold its slots as soon as it is claimed, since a transaction for them alone costs more
than a small step. The keys of limits are templates, which stores do not evaluate.

Algorithm: the templates of a claimed visit are evaluated in its scope, and `model.limit_requests` makes the
requests. Those of a following visit are made before the commit that claims it, and the store takes the slots
in the same transaction. This is done if the templates read only what the run was started with, and what the
committed visit has saved.

Cost: an evaluation of each template. After a claim, a limit of an operator costs a read, of whether all
tenants share it. Before it, the process uses what it has read last, and the store checks it.

Limits: visits with several rates, with a rate and a limit, or with a rate and a loop request after their
claim. So do those whose keys read more, and those behind a join whose keys read anything. Of the first visit
of a run, and the further ones that a fork enters, those with templates do (`model.claim_requests`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from noetl.executor.engine.rate_units import count_rate_units
from noetl.executor.engine.rendering import render_at_key
from noetl.executor.engine.run_events import read_events
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import FINALLY_STEP_SECONDS
from noetl.executor.errors import ActionError
from noetl.executor.model.flows import FIRST_RANK, rank_of
from noetl.executor.model.gates import SlotRequest
from noetl.executor.model.json_values import round_trip_json, write_json
from noetl.executor.model.large_json import is_large
from noetl.executor.model.limit_requests import (
    KeyText,
    Requester,
    find_early_limits,
    find_templates,
    make_requests,
)
from noetl.executor.model.run import Branch, Commit, Run, Visit
from noetl.executor.model.special_visits import START_CLOCK
from noetl.executor.model.transition import find_holders
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace
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


def request_for_run(
    store: Store, run: Run, visit: Visit, limits: Sequence[Limit], now: float
) -> Sequence[SlotRequest]:
    """Return what a run requests. `visit` is the claimed one.

    Raises:
        ActionError: a `key` or `fair` has no value, or is no text, number or Boolean of at most
            MAX_KEY_BYTES; the priority is no number from -10 to 10.
    """
    # Names that steps have saved do not count: the keys of a run stay the same until its end.
    scope = Scope(run, visit)
    priority = 0.0  # Rates have no queue.
    if not all(limit.is_rate for limit in limits):
        priority = _read_priority(store.plans.header(run.plan_hash).priority, scope)
    rank, is_begun = rank_of(now, priority), has_begun(run, visit)
    requester = Requester(run.tenant, run.playbook, rank=rank, waits=True, has_begun=is_begun)
    requests = make_requests(requester, limits, store.gates.find_named, partial(_read_key, scope))
    requested_at = _first_request_at(run, visit)
    return requests if requested_at is None else _keep_place(store, run, requests, requested_at, priority)


def request_for_step(
    store: Store, header: Header, step: Step, scope: Scope, now: float
) -> Sequence[SlotRequest]:
    """Return what a visit requests for its step. `header` is that of its plan.

    Raises:
        ActionError: as `request_for_run` does.
    """
    requester, limits = _requester_of(header, step, scope, now, waits=True), (*step.concurrency, *step.rate)
    requests = make_requests(requester, limits, store.gates.find_named, partial(_read_key, scope))
    if not step.is_finally_step:
        return requests
    return [_hurry(request, step.timeout_seconds) for request in requests]


def request_for_following(store: Store, run: Run, commit: Commit, now: float) -> tuple[SlotRequest, ...]:
    """Return what the visit requests that the first branch of a commit enters. The requests do not queue.

    Return none if this cannot be known before the claim of the visit. A wrong key is reported after that.
    """
    header = store.plans.header(run.plan_hash)
    if not (header.has_limits and store.queue.takes_slots and commit.branches):
        return ()
    branch = commit.branches[0]
    step = store.plans.step(run.plan_hash, branch.step)
    limits = find_early_limits(step.concurrency, step.rate, step.loop)
    if not limits:
        return ()
    priority = None  # Rates have no queue.
    if not step.rate:
        priority = header.priority if step.priority is None else step.priority
    templates = find_templates(limits, priority)
    if not templates:
        assert not isinstance(priority, str)
        rank = rank_of(now, _default_priority(run) if priority is None else priority)
        width = 1 if step.loop is None else step.loop.concurrency
        requester = Requester(run.tenant, run.playbook, step.name, width, rank=rank)
        return make_requests(requester, limits, store.gates.assume_named)
    scope = _scope_of_following(run, commit.visit, branch, _names_in_templates(templates), now)
    if scope is None:
        return ()
    try:
        requester = _requester_of(header, step, scope, now, waits=False)
        return make_requests(requester, limits, store.gates.assume_named, partial(_read_key, scope))
    except ActionError:
        return ()


def _requester_of(header: Header, step: Step, scope: Scope, now: float, *, waits: bool) -> Requester:
    """Return the visit of a scope, which requests slots for its step.

    Raises:
        ActionError: as `request_for_run` does.
    """
    visit = scope.visit
    return Requester(
        scope.run.tenant,
        scope.run.playbook,
        step.name,
        1 if step.loop is None else step.loop.concurrency,
        count_rate_units(visit, step, scope) if step.rate else 0,
        FIRST_RANK if step.is_finally_step else _rank_of_step(header, step, scope, now),
        waits,
        _has_begun_work(visit),
    )


@lru_cache(maxsize=1024)
def _names_in_templates(texts: tuple[str, ...]) -> frozenset[str]:
    """Return the names that templates read. Other texts read none."""
    names = frozenset[str]()
    for text in texts:
        if has_template(text):
            names |= parse_template(text).names
    return names


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
    store: Store, run: Run, requests: Sequence[SlotRequest], requested_at: float, priority: float
) -> Sequence[SlotRequest]:
    """Return the requests of a run that asks again. At the limit where it waited, it goes back to its place.

    A grant may have passed it over there while it was paused. This is the first limit without a unit. It has
    asked at the first of all with its first claim. At a later one, its history says whether it has waited.
    """
    limits = [request for request in requests if not request.is_rate]
    missing = limits[:1]
    if len(limits) > 1:
        held = {slot.gate for slot in store.gates.slots_of(run.id, "")}
        missing = [request for request in limits if request.gate not in held][:1]
    if not missing:
        return requests
    (first,) = missing
    since = requested_at if first is limits[0] else _find_wait_start(store, run, first)
    if since is None:
        return requests
    placed = replace(first, rank=rank_of(since, priority), since=since, max_queued=None)
    return [placed if request is first else request for request in requests]


def _find_wait_start(store: Store, run: Run, request: SlotRequest) -> float | None:
    """Return when a run has begun to wait at a limit, by its history, or None if it has not."""
    wanted = (request.limit, request.value)
    for event in read_events(store, run.id):
        payload = event.payload
        is_place = event.type == "step.waiting" and payload.get("queued_before") is not None
        if is_place and (payload.get("limit"), payload.get("key")) == wanted:
            return event.at
    return None


def _hurry(request: SlotRequest, timeout_seconds: float | None) -> SlotRequest:
    """Return a request of the finally step, which waits no longer than it may take."""
    longest = timeout_seconds or FINALLY_STEP_SECONDS
    return replace(request, max_wait=longest if request.max_wait is None else min(request.max_wait, longest))


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


def _read_key(scope: Scope, place: str, key: str) -> KeyText:
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
    return KeyText(text, redact_for_storage(text))
