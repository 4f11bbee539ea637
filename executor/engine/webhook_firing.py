"""The firing of webhooks: the check of the sender of a request, and the run that the request starts.

Problem: a sender repeats a request until it has an answer, so the same request arrives several times, also
at several processes at once. For the time `remember` it must start one run. After that, it starts another.
While a signed time is accepted, a recorded request must start no second run.

Algorithm: the id of the run follows from the key of the request and the number of a window of time. A window
is as long as `remember`. A request gets the run of its window, or that of the window before, if that run is
younger than `remember`. The windows of each key begin at another time. Near the border of two windows, two
processes may be in different ones. There a firing also has the name of the border, and one firing with it
starts a run. Firings of other keys do not wait for that. A playbook with `debounce` has no such names. Its
firings near a border require that the trigger is as it was read (optimistic concurrency).

A version with another `remember` has other windows. The trigger then names those of the versions before,
until their requests are forgotten. A request also gets the run that it has there.

Cost: two reads of a run and one transaction; for a repeated request one read. Each earlier `remember` costs
two reads more. A trigger names MAX_EARLIER_WINDOWS of them at most.

Limits: a process that stands still for more than BORDER_SECONDS in the middle of a firing may start a second
run. So may one of two equal requests that are performed while `remember` changes. A run that was deleted is
not known any more, so its request starts a new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from noetl.executor.engine.firing import MAX_CONFLICTS, MAX_KEY_BYTES, Firer, pause_after_conflict, read_firer
from noetl.executor.errors import ActionError, RejectedError, TriggerChangedError
from noetl.executor.model.ids import derived_id
from noetl.executor.model.triggers import (
    Advance,
    Firing,
    FiringOutcome,
    LiveTrigger,
    firing_id,
    new_firing,
    record_firing,
)
from noetl.executor.security.secret_sources import resolve_secret
from noetl.executor.security.webhook_signatures import (
    STANDARD_HEADERS,
    SigningSecretError,
    check_secret,
    check_signature,
    signature_headers,
)
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen, replace
from noetl.planner.trigger_sources import WebhookAuth, is_credential_header

BORDER_SECONDS = 600.0
"""How near the border of two windows two processes may be in different ones."""

_KEY_HEADER = "idempotency-key"

logger = logging.getLogger("noetl.executor")


class MissingSecretError(Exception):
    """A webhook none of whose secrets can be read. The log names them, and the sender must not see them."""


@frozen
class WebhookRequest:
    """A request to a webhook, whose sender was recognised.

    `headers` have names in lower case. `body` are its bytes, and `value` is what they mean.
    """

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    value: Any


@frozen
class Delivery:
    """The result of a request: its outcome, the run that it has started, or why there is none.

    `is_repeat` is true if an earlier request has started the run.
    """

    outcome: FiringOutcome
    run_id: str | None = None
    reason: str | None = None
    is_repeat: bool = False


def find_webhook(store: Store, tenant: str, path: str, now: float) -> Firer | None:
    """Return what fires the webhook at a path, or None if the tenant has none."""
    trigger = store.triggers.at_path(tenant, path)
    return None if trigger is None else read_firer(store, trigger, now)


def check_sender(
    firer: Firer, headers: Mapping[str, str], body: bytes, environ: Mapping[str, str] = os.environ
) -> None:
    """Check that the expected sender has signed a request. A scheme without signatures is not checked here.

    Raises:
        SignatureError: another sender has sent it, or it is too old.
        MissingSecretError: no secret of the webhook can be read.
    """
    auth = firer.declared.webhook.auth
    if auth.scheme in ("api_key", "none"):
        return
    secrets = []
    for name in auth.secrets:
        try:
            secret = resolve_secret(name, environ, firer.trigger.tenant)
            check_secret(auth, secret)
        except ActionError as problem:
            _warn(firer, problem.message)
        except SigningSecretError as problem:
            # The other secrets of the list are still valid.
            _warn(firer, f"secret `{name}`: {problem}")
        else:
            secrets.append(secret)
    if not secrets:
        raise MissingSecretError("no secret of the webhook can be read")
    check_signature(auth, secrets, headers, body, firer.now)


def _warn(firer: Firer, problem: str) -> None:
    logger.warning("webhook %s of %s: %s", firer.trigger.name, firer.trigger.playbook, problem)


def perform_request(firer: Firer, request: WebhookRequest, clock: Callable[[], float]) -> Delivery:
    """Start the run of a request, or return that of an earlier one with the same key.

    `clock` is read when the request is tried again.

    Raises:
        RejectedError: `quota_exceeded`; `trigger_changed`.
    """
    store, webhook = firer.store, firer.declared.webhook
    key = source_key(webhook.auth, request)
    view = view_request(webhook.auth, request, key)
    current: Firer | None = firer
    for number in range(MAX_CONFLICTS):
        if current is None:
            break
        try:
            firing = current.with_key(new_firing(current.trigger, key, current.now), view)
        except ActionError as problem:
            firing = new_firing(current.trigger, key, current.now)
            return _reject(current, firing, problem)
        try:
            delivery = _perform(current, firing, view, webhook.repeat_seconds)
        except TriggerChangedError:
            delivery = None
        if delivery is not None:
            return delivery
        pause_after_conflict(number)
        trigger = firer.trigger
        read = store.triggers.get(trigger.tenant, trigger.playbook, trigger.name)
        current = None if read is None else read_firer(store, read, clock())
    message = f"trigger `{firer.trigger.name}` of `{firer.trigger.playbook}` was changed meanwhile: try again"
    raise RejectedError("trigger_changed", message)


def _perform(firer: Firer, firing: Firing, view: Mapping[str, Any], remember: float) -> Delivery | None:
    """Perform a firing, or return None if another process has changed the trigger."""
    trigger, now = firer.trigger, firer.now
    window = RememberWindow(firing.id, remember)
    earlier = _find_earlier(firer, firing, window)
    if earlier is not None:
        return Delivery(FiringOutcome.STARTED, earlier, is_repeat=True)
    advance = Advance(trigger, trigger)
    if window.is_near_border(now):
        if firer.header.debounce is None:
            advance = replace(advance, start_key=window.border_name(now))
        else:
            # The runs were read after the trigger, which must not change until the firing is written.
            advance = replace(advance, written=replace(trigger, edition=trigger.edition + 1))
    named = _with_window(trigger, firing, window.number_at(now))
    performed = firer.fire(named, view, advance)
    if performed is None:
        return None
    if performed.earlier_run is not None:
        return Delivery(FiringOutcome.STARTED, performed.earlier_run, is_repeat=True)
    record = performed.firings[-1]
    return Delivery(record.outcome, record.run_id, record.reason)


def _find_earlier(firer: Firer, firing: Firing, window: RememberWindow) -> str | None:
    """Return the id of the run that a request with the same key has started and that is remembered."""
    now = firer.now
    for known in (window, *_earlier_windows(firer, firing, window)):
        number, remember = known.number_at(now), min(known.seconds, window.seconds)
        for near in (number, number - 1, *((number + 1,) if known.is_near_border(now) else ())):
            earlier = firer.find_run(_with_window(firer.trigger, firing, near).id)
            if earlier is not None and now - earlier.created_at < remember:
                return earlier.id
    return None


def _earlier_windows(firer: Firer, firing: Firing, window: RememberWindow) -> list[RememberWindow]:
    """Return the windows of earlier versions in which a request may have started a run."""
    return [
        RememberWindow(firing.id, seconds)
        for seconds, ended_at in firer.trigger.earlier_windows
        if firer.now - ended_at < min(seconds, window.seconds)
    ]


def _reject(firer: Firer, firing: Firing, problem: ActionError) -> Delivery:
    advance = Advance(firer.trigger, firer.trigger)
    firer.write(record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
    return Delivery(FiringOutcome.REJECTED, reason=problem.message)


@frozen
class RememberWindow:
    """The windows of time of a key: they are as long as it is remembered, and begin at a time of its own."""

    key: str
    seconds: float

    @property
    def _offset(self) -> float:
        return int(hashlib.sha256(self.key.encode()).hexdigest()[:12], 16) / 16**12 * self.seconds

    def number_at(self, now: float) -> int:
        """Return the number of the window of a time."""
        return math.floor((now + self._offset) / self.seconds)

    def border_name(self, now: float) -> str:
        """Return a name of the border that is next to a time, for the key and its time.

        Near it, no two runs of the key may start: the next border is as far as the key is remembered.
        """
        return derived_id("border", self.key, str(self.seconds), str(self.number_at(now + self.seconds / 2)))

    def is_near_border(self, now: float) -> bool:
        """Return whether another process may be in another window at this time."""
        passed = (now + self._offset) % self.seconds
        return min(passed, self.seconds - passed) <= min(BORDER_SECONDS, self.seconds / 2)


def _with_window(trigger: LiveTrigger, firing: Firing, number: int) -> Firing:
    key = f"{firing.key} {number}"
    return replace(firing, key=key, id=firing_id(trigger.tenant, trigger.playbook, trigger.name, key))


def source_key(auth: WebhookAuth, request: WebhookRequest) -> str:
    """Return what tells a request from others. What a sender signs takes precedence over the body.

    A name that is too long counts by its hash. Else two requests with equal bodies would be one. The query
    tells unsigned requests apart. A signed request may be recorded, and sent with another query.
    """
    name, is_signed = None, auth.scheme not in ("api_key", "none")
    if auth.scheme == "standard":
        name = request.headers.get(STANDARD_HEADERS[0])
    elif auth.scheme == "stripe" and isinstance(request.value, Mapping):
        name = request.value.get("id")
    elif not is_signed:
        name = request.headers.get(_KEY_HEADER)
    if not isinstance(name, str) or not name:
        digest = hashlib.sha256(request.body).hexdigest()
        if request.query and not is_signed:
            query = json.dumps(sorted(request.query.items()))
            digest = hashlib.sha256(f"{digest} {query}".encode()).hexdigest()
        return f"body {digest}"
    encoded = name.encode("utf-8", "replace")
    return f"id {name}" if len(encoded) <= MAX_KEY_BYTES else f"id {hashlib.sha256(encoded).hexdigest()}"


def view_request(auth: WebhookAuth, request: WebhookRequest, key: str) -> dict[str, Any]:
    """Return what templates read under `trigger`: the request without credentials and signatures."""
    hidden = signature_headers(auth)
    return {
        "method": request.method,
        "headers": {
            name: value
            for name, value in request.headers.items()
            if name not in hidden and not is_credential_header(name)
        },
        "query": dict(request.query),
        "body": request.value,
        "id": key.partition(" ")[2],
    }
